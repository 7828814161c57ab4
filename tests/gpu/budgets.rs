//! Linear cross-entropy: chunks, windows, tiles and blocks of classes change no bit; scratch.

use serde_json::{Value, json};
use surprisal::{
    Arrays, Dtype, Gpu, Layout, Named, Request, Tile, TileLoads, WeightLayout, testing,
};

use crate::{
    linear::{GRADIENTS, layouts, loss, sample},
    support::{
        BY_PRODUCTS, Context, FLOATS, Placed, Reference, assert_same_bits, bits, check, indices,
        matrix, outcome, placed_inputs, positive, submit, tensors, vector, with,
    },
    tiles::tiled,
};

tests![
    chunks,
    tiles,
    windows_of_products,
    windows_of_bindings,
    windows_of_bindings_in_sixteen_bits,
    blocks_of_classes,
    small_budgets,
    small_budgets_in_place,
    kept_scores,
    kept_scores_in_places_of_their_own,
    too_small_budgets,
    scratch,
];

// --- what changes no bit ---

/// Compares per-row losses and every gradient, bit by bit, with those of one chunk on the device's own profile.
fn assert_same(
    context: &Context,
    gpu: &Gpu,
    inputs: &Arrays,
    options: &Value,
    layout: WeightLayout,
    dtype: Dtype,
) {
    let wanted = [&GRADIENTS[..], &["lse", "entropy"]].concat();
    let whole = loss(&json!({"reduction": "none", "chunk_bytes": 1 << 30}), layout);
    let only = |mut outputs: Arrays| {
        outputs.remove("status");
        outputs
    };
    let expected = only(outcome(&context.gpu, &*whole, inputs, dtype, &wanted).0);
    let actual = only(outcome(gpu, &*loss(options, layout), inputs, dtype, &wanted).0);
    let what = format!("{options} {layout:?} {dtype}");
    assert_same_bits(&actual, &expected, &what);
    Reference::new(&*whole, inputs, dtype, &wanted).assert(&actual);
}

fn chunks(context: &Context) {
    for layout in layouts() {
        let inputs = sample(14, 37, 301, 19, layout);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for chunk in [1216, 1300, 5 * 1216, 8 * 1216, 17 * 1216, 36 * 1216, 1 << 24] {
                let options = json!({"reduction": "none", "chunk_bytes": chunk});
                assert_same(context, &context.gpu, &inputs, &options, layout, dtype);
            }
        }
    }
}

/// The tile changes only the speed: all tiles give the same bits.
fn tiles(context: &Context) {
    let own = |rows, bands| {
        let mut tile = Tile::default();
        (tile.lanes, tile.across, tile.rows, tile.bands) = (8, 8, rows, bands);
        tile
    };
    let loaded = |loads, mut tile: Tile| {
        tile.loads = loads;
        tile
    };
    let brought = |lanes, across, rows, bands| {
        let mut tile = loaded(TileLoads::Workgroup, own(rows, bands));
        (tile.lanes, tile.across) = (lanes, across);
        tile
    };
    let apart = [own(24, 1), own(24, 4), brought(128, 16, 8, 2), brought(16, 4, 24, 1), own(48, 1)];
    let mut shared = Vec::new();
    let features = context.gpu.device().features();
    let mut aligned = Vec::new();
    if features.contains(wgpu::Features::SUBGROUP) {
        shared.push(loaded(TileLoads::Four, own(24, 2)));
        if context.gpu.device().adapter_info().subgroup_min_size >= 8 {
            shared.push(loaded(TileLoads::Eight, own(48, 2)));
        }
        if context.gpu.profile().tile.wide {
            let largest = Tile { wide: true, ..loaded(TileLoads::Eight, own(48, 4)) };
            aligned.extend([own(24, 1), largest]);
        }
    }
    for (number, layout) in layouts().into_iter().enumerate() {
        // Among shapes with the same loads, each weight layout meets every other shape; words of 32 bits meet the
        // first layout.
        let shapes: Vec<&Tile> = apart.iter().skip(number).step_by(2).chain(&shared).collect();
        let aligned: Vec<&Tile> = aligned.iter().skip(number).collect();
        // Elements at any address; words of 32 and of 64 bits, with a gradient of W that adds up.
        let samples = [
            (sample(24, 57, 301, 19, layout), 57 * 1216, shapes),
            (sample(25, 200, 304, 128, layout), 48 * 1216, aligned),
        ];
        for (inputs, chunk, tiles) in samples {
            for tile in tiles {
                let gpu = context.with(|profile| {
                    profile.large_products = 0;
                    profile.tile = tile.clone();
                });
                let options = json!({"reduction": "none", "chunk_bytes": chunk});
                assert_same(context, &gpu, &inputs, &options, layout, Dtype::F32);
            }
        }
    }
}

fn windows_of_products(context: &Context) {
    let gpu = context.with(|profile| profile.dispatch_products = 3000);
    for (first, layout) in layouts().into_iter().enumerate() {
        let inputs = sample(15, 21, 139, 70, layout);
        for (second, chunk) in [5000, 1 << 24].into_iter().enumerate() {
            let options = json!({"reduction": "none", "chunk_bytes": chunk});
            // Many small products: each 16-bit type meets the tiles of one layout and walk.
            let narrow = [Dtype::F16, Dtype::Bf16][first];
            for dtype in [Dtype::F32, narrow].into_iter().take(if second == first { 2 } else { 1 })
            {
                assert_same(context, &gpu, &inputs, &options, layout, dtype);
            }
        }
    }
}

/// W (240 KB) does not fit a binding of 64 KiB.
fn windows_of_bindings(context: &Context) {
    let gpu = context.with(|profile| profile.binding_bytes = 64 << 10);
    for layout in layouts() {
        let inputs = sample(16, 20, 1001, 60, layout);
        let options = json!({"reduction": "none"});
        assert_same(context, &gpu, &inputs, &options, layout, Dtype::F32);
    }
}

fn windows_of_bindings_in_sixteen_bits(context: &Context) {
    let gpu = context.with(|profile| profile.binding_bytes = 32 << 10);
    for layout in layouts() {
        let inputs = sample(17, 20, 1001, 60, layout);
        let options = json!({"reduction": "none"});
        assert_same(context, &gpu, &inputs, &options, layout, Dtype::F16);
    }
}

/// From a saved lse, blocks of classes give the same bits as chunks of rows.
fn blocks_of_classes(context: &Context) {
    let (rows, classes, depth) = (20, 203, 18);
    let block = 4 * rows as u64 * 64;
    for layout in layouts() {
        let inputs = with(
            &sample(41, rows, classes, depth, layout),
            [
                ("class_weight", vector(&positive(42, classes))),
                ("row_weight", vector(&positive(43, rows))),
                ("logit_bias", vector(&testing::gaussian(44, classes))),
            ],
        );
        for (options, dtype) in [
            (json!({}), Dtype::F32),
            (json!({"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 6.0}), Dtype::Bf16),
            (json!({"label_smoothing": 0.2, "smoothing": "ordinal"}), Dtype::F16),
            (json!({"temperature": 0.7, "accumulate": "shared"}), Dtype::F32),
            (json!({"temperature": 0.7, "accumulate": "shared"}), Dtype::Bf16),
        ] {
            let of = |chunk: u64| {
                let mut options = options.clone();
                options["chunk_bytes"] = json!(chunk);
                loss(&options, layout)
            };
            let lse = outcome(&context.gpu, &*of(1 << 24), &inputs, dtype, &["lse"]).0;
            // Row 2 is ignored: its hidden state may hold anything.
            let mut hidden = inputs["hidden"].to_f64();
            hidden[2 * depth + 1] = f64::NAN;
            let hidden = matrix(rows, depth, hidden);
            let inputs = with(&inputs, [("hidden", hidden), ("lse", lse["lse"].clone())]);
            let wanted = &GRADIENTS[1..];
            let what = format!("{options} {layout:?} {dtype}");
            let whole = outcome(&context.gpu, &*of(1 << 24), &inputs, dtype, wanted).0;
            let blocks = outcome(&context.gpu, &*of(block), &inputs, dtype, wanted).0;
            assert_same_bits(&blocks, &whole, &what);
            Reference::new(&*of(block), &inputs, dtype, wanted).assert(&blocks);
        }
    }
}

/// With a budget below a row of scores (several segments long), blocks of classes close the rows with the same bits.
fn small_budgets(context: &Context) {
    let gpu = context.with(|profile| {
        tiled(profile);
        profile.segment = 256;
    });
    for layout in layouts() {
        let inputs = sample(61, 37, 1001, 19, layout);
        for dtype in FLOATS {
            let accumulate = if dtype == Dtype::Bf16 { "shared" } else { "nothing" };
            let options = json!({"reduction": "none", "accumulate": accumulate});
            let whole = loss(&options, layout);
            let wanted = [&GRADIENTS[..], &BY_PRODUCTS].concat();
            let expected = outcome(&gpu, &*whole, &inputs, dtype, &wanted).0;
            Reference::new(&*whole, &inputs, dtype, &wanted).assert(&expected);
            // Rows and classes are cut in the same way for every type.
            let chunks: &[u64] =
                if dtype == Dtype::F32 { &[900, 2000, 3500, 25_000] } else { &[2000] };
            for chunk in chunks {
                let mut options = options.clone();
                options["chunk_bytes"] = json!(chunk);
                let small = loss(&options, layout);
                let actual = outcome(&gpu, &*small, &inputs, dtype, &wanted).0;
                assert_same_bits(&actual, &expected, &format!("{chunk} {layout:?} {dtype}"));
            }
        }
    }
}

/// The hidden states are read by every block: their gradient goes over them with the last one.
fn small_budgets_in_place(context: &Context) {
    let gpu = &context.with(|profile| profile.row_lanes = 8);
    for dtype in FLOATS {
        for chunk in [1000, 9000] {
            let inputs = sample(66, 29, 301, 10, WeightLayout::ClassesHidden);
            let whole = loss(&json!({}), WeightLayout::ClassesHidden);
            let small = loss(&json!({"chunk_bytes": chunk}), WeightLayout::ClassesHidden);
            let expected = outcome(gpu, &*whole, &inputs, dtype, &GRADIENTS).0;
            let placed = placed_inputs(gpu, &*small, &inputs, dtype);
            let weight = Placed::output(gpu, Layout::dense(dtype, &inputs["weight"].shape));
            let outputs = Named::from([("grad.weight".to_owned(), weight.tensor())]);
            submit(gpu, &Request::new(&*small, tensors(&placed), outputs).gradient_in_place());
            let hidden = placed.iter().find(|(name, _)| name == "hidden").unwrap();
            assert_eq!(bits(&hidden.1.array(gpu)), bits(&expected["grad.hidden"]), "{dtype}");
            assert_eq!(bits(&weight.array(gpu)), bits(&expected["grad.weight"]), "{dtype}");
        }
    }
}

/// Scores that are kept in the gradient of the weight, of all rows or of the first ones, give the same bits, also if
/// the other rows then go through blocks or chunks of whole rows.
fn kept_scores(context: &Context) {
    let gpu = &context.with(|profile| {
        tiled(profile);
        profile.segment = 256;
    });
    for layout in layouts() {
        for (rows, chunk, whole_rows, options) in [
            (50, 60_000, false, json!({})),
            (100, 60_000, false, json!({"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 6.0})),
            (300, 4016 * 20, true, json!({"label_smoothing": 0.2, "smoothing": "ordinal"})),
            (200, 20_000, false, json!({"temperature": 0.7, "reduction": "none"})),
        ] {
            let mut inputs = sample(71, rows, 1001, 64, layout);
            // Row 2 is ignored: its hidden state may hold anything.
            let mut hidden = inputs["hidden"].to_f64();
            hidden[2 * 64 + 1] = f64::NAN;
            inputs.insert("hidden".to_owned(), matrix(rows, 64, hidden));
            let mut targets = inputs["targets"].to_i64();
            targets[2] = -100;
            inputs.insert("targets".to_owned(), indices(&targets));
            let whole = loss(&options, layout);
            let mut options = options.clone();
            options["chunk_bytes"] = json!(chunk);
            let small = loss(&options, layout);
            let what = format!("{options} {layout:?}");
            let placed = placed_inputs(gpu, &*small, &inputs, Dtype::F32);
            let gradient = Placed::output(gpu, Layout::dense(Dtype::F32, &inputs["weight"].shape));
            let outputs = Named::from([("grad.weight".to_owned(), gradient.tensor())]);
            let request = Request::new(&*small, tensors(&placed), outputs).gradient_in_place();
            let path = gpu.plan(&request).unwrap().path.unwrap();
            assert!((1..=64).contains(&path.kept_rows), "{what}: {path}");
            assert_eq!(path.whole_rows, whole_rows, "{what}: {path}");
            let wanted = [&GRADIENTS[..], &BY_PRODUCTS].concat();
            let expected = outcome(gpu, &*whole, &inputs, Dtype::F32, &wanted).0;
            let actual = outcome(gpu, &*small, &inputs, Dtype::F32, &wanted).0;
            assert_same_bits(&actual, &expected, &what);
            Reference::new(&*small, &inputs, Dtype::F32, &wanted).assert(&actual);
        }
    }
}

/// The gradient of the weight has an odd offset, or gaps between its rows, which nothing may touch. A gradient that is
/// added to, and a 16-bit one, cannot keep scores.
fn kept_scores_in_places_of_their_own(context: &Context) {
    let gpu = &context.with(|profile| profile.row_lanes = 8);
    let (rows, classes, depth) = (50, 1001, 64);
    for layout in layouts() {
        let transposed = layout == WeightLayout::HiddenClasses;
        let inputs = sample(72, rows, classes, depth, layout);
        let shape = &inputs["weight"].shape;
        let dense = || Layout::dense(Dtype::F32, shape);
        let small = json!({"chunk_bytes": 60_000});
        let adds = json!({"chunk_bytes": 60_000, "accumulate": "shared"});
        for (place, options, keeps) in [
            (dense(), &small, true),
            (dense().offset(3), &small, true),
            // Gaps belong to the caller. Gaps between rows of as many classes as there are do no harm.
            (dense().row_stride(shape[1] + 5), &small, transposed),
            (dense(), &adds, false),
            (Layout::dense(Dtype::Bf16, shape), &small, false),
        ] {
            let dtype = place.dtype;
            let loss = loss(options, layout);
            let what = format!("{options} {layout:?} {place:?}");
            let placed = placed_inputs(gpu, &*loss, &inputs, dtype);
            let gradient = Placed::output(gpu, place);
            let before = gradient.array(gpu);
            let outputs = Named::from([("grad.weight".to_owned(), gradient.tensor())]);
            let request = Request::new(&*loss, tensors(&placed), outputs).gradient_in_place();
            let path = gpu.plan(&request).unwrap().path.unwrap();
            assert_eq!(path.kept_rows > 0, keeps, "{what}: {path}");
            submit(gpu, &request);
            gradient.assert_surroundings(gpu);
            if options == &adds {
                assert_ne!(bits(&gradient.array(gpu)), bits(&before), "{what}");
                continue;
            }
            let whole = self::loss(&json!({}), layout);
            let expected = outcome(gpu, &*whole, &inputs, dtype, &GRADIENTS).0;
            let hidden = placed.iter().find(|(name, _)| name == "hidden").unwrap();
            assert_eq!(bits(&hidden.1.array(gpu)), bits(&expected["grad.hidden"]), "{what}");
            assert_eq!(bits(&gradient.array(gpu)), bits(&expected["grad.weight"]), "{what}");
        }
    }
}

/// A budget that holds neither a row nor a block of one row is refused, with the bytes given and the bytes needed.
fn too_small_budgets(context: &Context) {
    let inputs = sample(67, 5, 301, 3, WeightLayout::ClassesHidden);
    let small = loss(&json!({"chunk_bytes": 100}), WeightLayout::ClassesHidden);
    let error = context.gpu.run_arrays(&*small, &inputs, Dtype::F32, &["loss"]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`chunk_bytes` = 100"), "{text}");
    let needed: u64 = text.split(' ').filter_map(|word| word.parse().ok()).next_back().unwrap();
    let least = loss(&json!({"chunk_bytes": needed}), WeightLayout::ClassesHidden);
    check(&context.gpu, &*least, &inputs, Dtype::F32, &GRADIENTS);
    let less = loss(&json!({"chunk_bytes": needed - 1}), WeightLayout::ClassesHidden);
    assert!(context.gpu.run_arrays(&*less, &inputs, Dtype::F32, &["loss"]).is_err());
}

/// Caller's scratch of exactly the size in the plan is enough, and this size is small.
fn scratch(context: &Context) {
    let gpu = &context.gpu;
    let (rows, classes, depth) = (150, 997, 24);
    for layout in layouts() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let chunk = 16 * 1000 * 4_u64;
            let inputs = sample(24, rows, classes, depth, layout);
            let loss = loss(&json!({"chunk_bytes": chunk, "reduction": "none"}), layout);
            let expected = outcome(gpu, &*loss, &inputs, dtype, &GRADIENTS).0;
            let placed = placed_inputs(gpu, &*loss, &inputs, dtype);
            let outputs = GRADIENTS.map(|name| {
                let shape = &expected[name].shape;
                let dtype = if name == "loss" { Dtype::F32 } else { dtype };
                (name.to_owned(), Placed::output(gpu, Layout::dense(dtype, shape)))
            });
            let outputs_of: Named = tensors(&outputs);
            let request = Request::new(&*loss, tensors(&placed), outputs_of.clone());
            let plan = gpu.plan(&request).unwrap();
            let narrow = if dtype == Dtype::F32 { 0 } else { (depth + 1) * classes * 4 };
            let small = chunk + narrow as u64 + 128 * (rows + classes) as u64 + 8192;
            assert!(plan.scratch_bytes <= small, "{} > {small}", plan.scratch_bytes);
            assert_eq!(plan.unstored_bytes, (rows * classes * 4) as u64);
            // The scratch is dirty, with a guard band behind it that the plan does not know of.
            let buffer = crate::support::storage(gpu, plan.scratch_bytes + 256);
            let dirt = vec![0xff; buffer.size() as usize];
            gpu.queue().write_buffer(&buffer, 0, &dirt);
            let request = Request::new(&*loss, tensors(&placed), outputs_of)
                .scratch(&buffer, 0..buffer.size());
            submit(gpu, &request);
            let after = crate::support::bytes(gpu, &buffer);
            assert!(after[plan.scratch_bytes as usize..].iter().all(|&byte| byte == 0xff));
            for (name, placed) in &outputs {
                assert_eq!(bits(&placed.array(gpu)), bits(&expected[name]), "{name}");
            }
        }
    }
}
