//! Pair losses whose scores are made in chunks and blocks: what changes no bit; places and memory; a saved lse.

use serde_json::{Value, json};
use surprisal::{Array, Arrays, Dtype, Gpu, Layout, Request, plan::Dispatch, testing};

use crate::{
    pairs::{features, info_nce, only, sample, symmetric},
    support::{
        Context, FLOATS, Placed, Reference, assert_same_bits, bits, bytes, check, in_blocks,
        in_turn, indices, outcome, parse, placed_inputs, row, storage, submit, tensors, vector,
        with,
    },
    tiles::tiled,
};

tests![
    chunks,
    small_budgets,
    windows,
    many_tiles,
    views,
    places_in_memory,
    scratch,
    saved,
    saved_in_blocks,
];

// --- what changes no bit ---

/// The options of a contrast that filters its keys, which needs the score of each positive first.
fn margins(symmetric: bool) -> Value {
    json!({"symmetric": symmetric, "target_margin": 0.2, "false_negative_margin": 0.3})
}

/// Every loss with every kind of walk, and inputs for it.
fn kinds() -> Vec<(&'static str, Value, Arrays, Vec<&'static str>)> {
    let pairs = with(&sample(26, 37, 37, 19), [("scale", vector(&[3.0]))]);
    let wanted = vec!["loss", "grad.queries", "grad.keys", "grad.scale"];
    let each = |mut options: Value| {
        options["reduction"] = json!("none");
        options
    };
    vec![
        ("info_nce", each(json!({})), pairs.clone(), wanted.clone()),
        ("info_nce", each(symmetric(true)), pairs.clone(), wanted.clone()),
        ("info_nce", each(json!({"normalize": true})), pairs.clone(), wanted.clone()),
        ("info_nce", each(margins(false)), pairs.clone(), wanted.clone()),
        ("info_nce", each(margins(true)), pairs.clone(), wanted.clone()),
        ("sigmoid_contrastive", each(json!({"normalize": true})), pairs, wanted),
        ("sup_con", each(json!({})), features(27, 45, 11, 7), vec!["loss", "grad.features"]),
    ]
}

fn assert_same(context: &Context, gpu: &Gpu, chunk: Option<u64>, dtype: Dtype) {
    for (name, mut options, inputs, wanted) in kinds() {
        let expected = outcome(&context.gpu, &*parse(name, &options), &inputs, dtype, &wanted).0;
        options["chunk_bytes"] = json!(chunk);
        let actual = outcome(gpu, &*parse(name, &options), &inputs, dtype, &wanted).0;
        assert_same_bits(&only(actual), &only(expected), &format!("{name} {options} {dtype}"));
    }
}

fn chunks(context: &Context) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for chunk in [192, 3 * 160, 24 * 160, 30 * 160] {
            assert_same(context, &context.gpu, Some(chunk), dtype);
        }
    }
}

/// With a budget below a row of scores, blocks of keys give the same bits as whole rows, in one walk and in two.
fn small_budgets(context: &Context) {
    let gpu = context.with(|profile| {
        tiled(profile);
        profile.segment = 256;
    });
    let pairs = with(&sample(71, 700, 700, 5), [("scale", vector(&[2.0]))]);
    let mut targets = testing::targets(72, 700, 700);
    (targets[0], targets[1], targets[2], targets[3]) = (-100, 127, 128, 699);
    let indexed = with(
        &sample(73, 700, 700, 5),
        [
            ("scale", vector(&[2.0])),
            ("targets", indices(&targets)),
            ("labels", indices(&testing::targets(74, 700, 40))),
        ],
    );
    let scaled = ["loss", "lse", "grad.scale", "grad.queries", "grad.keys"];
    let both = [&scaled[..], &["column_lse"]].concat();
    let sigmoid = ["loss", "grad.scale", "grad.queries", "grad.keys"];
    let alone = ["loss", "lse", "count", "grad.features"];
    let calls = [
        ("info_nce", json!({}), &indexed, &scaled[..]),
        ("info_nce", json!({"normalize": true}), &pairs, &scaled),
        ("info_nce", symmetric(true), &pairs, &both),
        ("info_nce", margins(false), &indexed, &scaled[..]),
        ("info_nce", margins(true), &pairs, &both),
        ("sigmoid_contrastive", json!({"normalize": true}), &indexed, &sigmoid),
        ("sup_con", json!({}), &features(75, 700, 5, 90), &alone),
        ("similarity", json!({"normalize": true}), &pairs, &["scores"]),
    ];
    for (name, mut options, inputs, wanted) in calls {
        let mut inputs = inputs.clone();
        if name == "sigmoid_contrastive" {
            inputs.remove("labels");
        }
        for (dtype, chunks) in [(Dtype::F32, &[1000, 20_000][..]), (Dtype::Bf16, &[2000])] {
            options["chunk_bytes"] = json!(null);
            let whole = parse(name, &options);
            let expected = only(outcome(&gpu, &*whole, &inputs, dtype, wanted).0);
            Reference::new(&*whole, &inputs, dtype, wanted).assert(&expected);
            for chunk in chunks {
                options["chunk_bytes"] = json!(chunk);
                let small = parse(name, &options);
                let actual = only(outcome(&gpu, &*small, &inputs, dtype, wanted).0);
                assert_same_bits(&actual, &expected, &format!("{name} {options} {dtype}"));
            }
        }
    }
    // The search for the k best needs whole rows.
    let top = parse("similarity", &json!({"chunk_bytes": 2000, "k": 3}));
    let refused = gpu.run_arrays(&*top, &pairs, Dtype::F32, &["top_scores"]).unwrap_err();
    assert!(refused.to_string().contains("2800 bytes"), "{refused}");
}

fn windows(context: &Context) {
    let products = context.with(|profile| profile.dispatch_products = 3000);
    let bound = |bytes| {
        context.with(|profile| {
            profile.binding_bytes = bytes;
            profile.offset_alignment = 256;
        })
    };
    let bindings = bound(4 << 10);
    let short = context.with(|profile| profile.dispatch_elements = 100);
    for gpu in [products, bindings, short] {
        for dtype in [Dtype::F32, Dtype::F16] {
            assert_same(context, &gpu, None, dtype);
        }
    }
    // A binding holds 27 records: the rows are in several windows, so the terms of a sum are added in another order.
    let narrow = bound(2 << 10);
    for (name, options, inputs, wanted) in kinds() {
        check(&narrow, &*parse(name, &options), &inputs, Dtype::F32, &wanted);
    }
}

/// More keys than 65,535 tiles, the most of one dimension of a grid.
fn many_tiles(context: &Context) {
    // Eight lanes side by side on every adapter: wider tiles would need too many keys for the host.
    let gpu = context.with(|profile| (profile.tile.lanes, profile.tile.across) = (8, 8));
    let keys = 65_536 * 32 + 5;
    // One key among millions hardly counts, except the target, which is in the last tile.
    let inputs = with(&sample(28, 1, keys, 1), [("targets", indices(&[keys as i64 - 1]))]);
    let loss = info_nce(&json!({"reduction": "sum"}));
    let wanted = ["loss", "grad.queries", "grad.keys"];
    let run = gpu.run_arrays(&*loss, &inputs, Dtype::F32, &wanted).unwrap();
    let plan = run.prepared().plan();
    let tiles = |dispatch: &Dispatch| {
        let product = plan.kernels[dispatch.kernel].label.contains(".scores.");
        dispatch.workgroups.map(u64::from).iter().product::<u64>() * u64::from(product)
    };
    let most = plan.dispatches.iter().map(tiles).max();
    assert!(most > Some(65_535), "{most:?} tiles of scores in a dispatch");
    let (outputs, _) = run.outcome_blocking().unwrap();
    Reference::new(&*loss, &inputs, Dtype::F32, &wanted).assert(&outputs);
    assert_eq!(outputs["grad.keys"].len(), keys);
}

/// NT-Xent is supervised contrast in which each vector has one positive.
fn views(context: &Context) {
    let labels: Vec<i64> = surprisal::SupCon::views(11, 2).into_iter().map(i64::from).collect();
    let inputs = with(&features(29, 22, 8, 3), [("labels", indices(&labels))]);
    let loss = surprisal::SupCon::nt_xent();
    let (outputs, _) =
        check(&context.gpu, &loss, &inputs, Dtype::F32, &["loss", "count", "grad.features"]);
    assert_eq!(outputs["count"].to_i64(), [22]);
    // The same as cross-entropy of each vector against the others, written out in f64.
    let unit = |at: usize| {
        let vector = row(&inputs["features"], at);
        let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        vector.into_iter().map(move |v| v / norm).collect::<Vec<f64>>()
    };
    let s = |a: usize, b: usize| unit(a).iter().zip(unit(b)).map(|(a, b)| a * b).sum::<f64>() / 0.5;
    let row_loss = |i: usize| {
        let others = (0..22).filter(|&j| j != i).map(|j| s(i, j).exp());
        others.sum::<f64>().ln() - s(i, (i + 11) % 22)
    };
    let expected = (0..22).map(row_loss).sum::<f64>() / 22.0;
    assert!((outputs["loss"].to_f64()[0] - expected).abs() < 1e-5 * expected);
    assert_eq!(bits(&outputs["count"]), [22]);
}

// --- places and memory ---

/// Any stride and offset give the same bits, and nothing beside the tensors changes.
fn places_in_memory(context: &Context) {
    let gpu = &context.gpu;
    for dtype in FLOATS {
        for (name, options, inputs, wanted) in kinds() {
            let loss = parse(name, &options);
            let expected = outcome(gpu, &*loss, &inputs, dtype, &wanted).0;
            for offset in [1, 2] {
                let place = |(name, array): (&String, &Array)| {
                    let dtype = surprisal::stored_dtype(&*loss, name, dtype);
                    let dense = Layout::dense(dtype, &array.shape);
                    let layout = if array.shape.len() == 2 {
                        let stride = array.shape[1] + 3;
                        dense.row_stride(stride).offset(offset)
                    } else {
                        dense.offset(offset)
                    };
                    (name.clone(), Placed::input(gpu, array, layout))
                };
                let inputs: Vec<_> = inputs.iter().map(place).collect();
                let outputs: Vec<_> = wanted
                    .iter()
                    .map(|&name| {
                        let shape = &expected[name].shape;
                        let dtype = if name == "loss" { Dtype::F32 } else { dtype };
                        let dense = Layout::dense(dtype, shape);
                        let layout = match shape[..] {
                            [_, columns] => dense.row_stride(columns + 5).offset(offset),
                            _ => dense.offset(offset),
                        };
                        (name.to_owned(), Placed::output(gpu, layout))
                    })
                    .collect();
                submit(gpu, &Request::new(&*loss, tensors(&inputs), tensors(&outputs)));
                for (output, placed) in &outputs {
                    placed.assert_surroundings(gpu);
                    let what = format!("{name} {output} {options} {dtype}");
                    assert_eq!(bits(&placed.array(gpu)), bits(&expected[output]), "{what}");
                }
            }
        }
    }
}

/// Scratch of the plan's size is enough: it is dirty, with a guard band behind it.
fn scratch(context: &Context) {
    let gpu = &context.gpu;
    for dtype in [Dtype::F32, Dtype::F16] {
        for (name, mut options, inputs, wanted) in kinds() {
            options["chunk_bytes"] = json!(24 * 160);
            let loss = parse(name, &options);
            let expected = outcome(gpu, &*loss, &inputs, dtype, &wanted).0;
            let placed = placed_inputs(gpu, &*loss, &inputs, dtype);
            let outputs: Vec<_> = wanted
                .iter()
                .map(|&name| {
                    let dtype = if name == "loss" { Dtype::F32 } else { dtype };
                    let layout = Layout::dense(dtype, &expected[name].shape);
                    (name.to_owned(), Placed::output(gpu, layout))
                })
                .collect();
            let request = Request::new(&*loss, tensors(&placed), tensors(&outputs));
            let plan = gpu.plan(&request).unwrap();
            let buffer = storage(gpu, plan.scratch_bytes + 256);
            gpu.queue().write_buffer(&buffer, 0, &vec![0xff; buffer.size() as usize]);
            submit(gpu, &request.scratch(&buffer, 0..plan.scratch_bytes));
            let after = bytes(gpu, &buffer);
            assert!(after[plan.scratch_bytes as usize..].iter().all(|&byte| byte == 0xff));
            for (output, placed) in &outputs {
                let what = format!("{name} {output} {options} {dtype}");
                assert_eq!(bits(&placed.array(gpu)), bits(&expected[output]), "{what}");
            }
        }
    }
}

/// Gradients from a saved lse, in one chunk or several.
fn saved(context: &Context) {
    let gpu = &context.gpu;
    let mut inputs = with(&sample(33, 21, 21, 9), [("scale", vector(&[2.0]))]);
    let targets = ("targets", indices(&testing::targets(34, 21, 21)));
    let gradients = ["grad.queries", "grad.keys", "grad.scale"];
    for chunk in [None, Some(5 * 24 * 4)] {
        for normalize in [false, true] {
            for both in [false, true] {
                let options =
                    json!({"normalize": normalize, "symmetric": both, "chunk_bytes": chunk});
                let loss = info_nce(&options);
                let kept: &[&str] = if both { &["lse", "column_lse"] } else { &["lse"] };
                let (forward, _) = check(gpu, &*loss, &inputs, Dtype::F32, kept);
                let mut saved = inputs.clone();
                saved.extend(kept.iter().map(|&name| (name.to_owned(), forward[name].clone())));
                let (outputs, _) = check(gpu, &*loss, &saved, Dtype::F32, &gradients);
                Reference::new(&*loss, &inputs, Dtype::F32, &gradients).assert(&outputs);
                check(gpu, &*loss, &saved, Dtype::F32, &["grad.scale"]);
                check(gpu, &*loss, &saved, Dtype::F32, &["grad.keys"]);
            }
        }
        inputs = with(&inputs, [targets.clone()]);
        let loss = info_nce(&json!({"chunk_bytes": chunk}));
        let lse = check(gpu, &*loss, &inputs, Dtype::F32, &["lse"]).0["lse"].clone();
        check(gpu, &*loss, &with(&inputs, [("lse", lse)]), Dtype::F32, &gradients);
        inputs.remove("targets");
        let features = features(35, 26, 7, 5);
        let loss = parse("sup_con", &json!({"chunk_bytes": chunk, "temperature": 0.3}));
        let lse = check(gpu, &*loss, &features, Dtype::F32, &["lse"]).0["lse"].clone();
        let saved = with(&features, [("lse", lse), ("scale", vector(&[1.0 / 0.3]))]);
        check(gpu, &*loss, &saved, Dtype::F32, &["grad.features", "grad.scale"]);
    }
    // What is missing or conflicts is named.
    let lse = with(&inputs, [("lse", vector(&[1.0; 21]))]);
    for (options, inputs, wanted, named) in [
        (json!({"symmetric": true}), &lse, "grad.keys", "column_lse"),
        (json!({}), &inputs, "column_lse", "symmetric"),
        (json!({}), &lse, "loss", "lse"),
    ] {
        let loss = info_nce(&options);
        let error = gpu.run_arrays(&*loss, inputs, Dtype::F32, &[wanted]).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// From a saved lse, blocks of keys give the same bits as chunks of whole rows, except for the gradient of the scale.
fn saved_in_blocks(context: &Context) {
    let gpu = &context.gpu;
    let pairs = with(&sample(91, 301, 301, 5), [("scale", vector(&[2.0]))]);
    let mut targets = testing::targets(92, 301, 301);
    (targets[0], targets[1], targets[2], targets[3]) = (-100, 63, 64, 300);
    let labels = [93, 94].map(|seed| indices(&testing::targets(seed, 301, 40)));
    let [labels, key_labels] = labels;
    let indexed = with(
        &pairs,
        [("targets", indices(&targets)), ("labels", labels), ("key_labels", key_labels)],
    );
    let gradients = &["grad.queries", "grad.keys", "grad.scale"][..];
    let both = &["lse", "column_lse"][..];
    for (turn, (name, mut options, inputs, kept, gradients)) in [
        ("info_nce", json!({}), &indexed, &both[..1], gradients),
        ("info_nce", json!({"normalize": true}), &pairs, &both[..1], gradients),
        ("info_nce", symmetric(true), &pairs, both, gradients),
        ("info_nce", symmetric(false), &pairs, both, gradients),
        ("sup_con", json!({}), &features(95, 301, 5, 40), &both[..1], &["grad.features"]),
    ]
    .into_iter()
    .enumerate()
    {
        let whole = parse(name, &options);
        for (chunk, types) in [(700, 2), (9000, 1)] {
            options["chunk_bytes"] = json!(chunk);
            let blocks = parse(name, &options);
            for dtype in in_turn(turn).take(types) {
                let forward = outcome(gpu, &*whole, inputs, dtype, kept).0;
                let mut saved = inputs.clone();
                saved.extend(kept.iter().map(|&name| (name.to_owned(), forward[name].clone())));
                let expected = outcome(gpu, &*whole, &saved, dtype, gradients).0;
                let actual = in_blocks(gpu, &*blocks, &saved, dtype, gradients);
                Reference::new(&*blocks, &saved, dtype, gradients).assert(&actual);
                let [actual, expected] = [actual, expected].map(|outputs| {
                    let mut outputs = only(outputs);
                    outputs.remove("grad.scale");
                    outputs
                });
                assert_same_bits(&actual, &expected, &format!("{name} {options} {dtype}"));
            }
        }
    }
}
