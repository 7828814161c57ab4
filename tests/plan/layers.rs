//! Linear layers: budgets for the chunk of scores, the path that is chosen, and the memory beside inputs and
//! gradients.

use serde_json::json;
use surprisal::{CrossEntropy, Dtype, LinearCrossEntropy, Profile, plan::Dispatch};

use crate::{MIB, assert_within_limits, common, layouts, linear, plan};

#[test]
fn weights_past_a_binding_are_windowed() {
    for profile in common::profiles() {
        for weight_layout in layouts() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let loss = LinearCrossEntropy::default().weight_layout(weight_layout);
                // The layer of Gemma 2: W has 2.4 GB in f32.
                let plan = linear([64, 256_000, 2304], dtype, &loss, &profile);
                let plan =
                    plan.unwrap_or_else(|error| panic!("{weight_layout:?} {dtype}: {error}"));
                assert_within_limits(&plan, &profile);
            }
        }
    }
}

/// The scratch is one chunk, O(rows + classes), and f32 sums for 16-bit gradients that several chunks contribute to.
#[test]
fn scratch_of_a_linear_loss_is_what_was_promised() {
    for profile in common::profiles() {
        for weight_layout in layouts() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                for [rows, classes, hidden] in
                    [[1024, 128_256, 256], [5000, 50_257, 64], [256, 1000, 64]]
                {
                    let chunk = 16 * MIB;
                    let loss = LinearCrossEntropy::default()
                        .weight_layout(weight_layout)
                        .chunk_bytes(chunk);
                    let plan = linear([rows, classes, hidden], dtype, &loss, &profile).unwrap();
                    assert_within_limits(&plan, &profile);
                    let narrow = if dtype == Dtype::F32 { 0 } else { classes * (hidden + 1) * 4 };
                    let small = chunk + narrow + 128 * (rows + classes) + 16_384;
                    let found = plan.scratch_bytes;
                    assert!(
                        found <= small,
                        "{found} > {small}: {rows} × {classes} × {hidden} {dtype} {weight_layout:?}"
                    );
                    assert_eq!(plan.unstored_bytes, rows * classes * 4);
                }
            }
        }
    }
    // The shape of the requirement: below 5% of the logits' bytes, including parameters.
    let profile = Profile::default().software(8);
    for weight_layout in layouts() {
        let loss = LinearCrossEntropy::default().weight_layout(weight_layout);
        let plan = linear([1024, 128_256, 256], Dtype::F32, &loss, &profile).unwrap();
        let beside = plan.scratch_bytes + plan.params_bytes();
        assert_eq!(plan.unstored_bytes, 1024 * 128_256 * 4);
        assert!(beside * 20 < plan.unstored_bytes, "{beside} bytes: {weight_layout:?}");
    }
}

/// From a saved lse, each block of classes takes all rows at once, and ∂W is written once.
#[test]
fn a_saved_lse_makes_blocks_of_classes() {
    let profile = Profile::default().software(8);
    let (rows, classes, hidden) = (1024, 128_256, 256);
    for (focal_gamma, blocks) in [(0.0, 63), (1.0, 0)] {
        let loss = LinearCrossEntropy::new(CrossEntropy::default().focal_gamma(focal_gamma));
        let plan = plan(
            &loss,
            &[
                ("hidden", Dtype::F32, &[rows, hidden]),
                ("weight", Dtype::F32, &[classes, hidden]),
                ("targets", Dtype::I32, &[rows]),
                ("lse", Dtype::F32, &[rows]),
            ],
            &[
                ("grad.hidden", Dtype::F32, &[rows, hidden]),
                ("grad.weight", Dtype::F32, &[classes, hidden]),
            ],
            &profile,
        )
        .unwrap();
        let reads_sums = |dispatch: &Dispatch| {
            let kernel = &plan.kernels[dispatch.kernel];
            kernel.label.contains("weight_gradient")
                && kernel.storage.iter().any(|s| s.name == "initial" && s.stored_as.is_some())
        };
        let again = plan.dispatches.iter().filter(|dispatch| reads_sums(dispatch)).count();
        assert_eq!(again == 0, blocks > 0, "∂W is read {again} times");
        let backward = |d: &&Dispatch| plan.kernels[d.kernel].entry == "backward";
        let found = plan.dispatches.iter().filter(backward).count();
        assert!(blocks == 0 || found == blocks, "{found} blocks");
        assert!(plan.scratch_bytes * 20 < plan.unstored_bytes, "{}", plan.scratch_bytes);
    }
}

/// Budgets below a row of scores and around it: the scratch stays within them.
#[test]
fn budgets_are_kept() {
    let (rows, classes, hidden) = (1000, 50_257, 64);
    for profile in common::profiles() {
        for weight_layout in layouts() {
            for (budget, dtype) in [64 << 10, 200 << 10, MIB, 8 * MIB]
                .into_iter()
                .zip([Dtype::F32, Dtype::Bf16].into_iter().cycle())
            {
                let loss =
                    LinearCrossEntropy::default().weight_layout(weight_layout).chunk_bytes(budget);
                let plan = linear([rows, classes, hidden], dtype, &loss, &profile).unwrap();
                assert_within_limits(&plan, &profile);
                let path = plan.path.clone().unwrap();
                assert!(path.rows * path.classes * 4 <= budget, "{path}");
                // The f32 sums of 16-bit gradients.
                let narrow = (classes * (hidden + 1) + path.rows * hidden) * 4;
                let narrow = if dtype == Dtype::F32 { 0 } else { narrow };
                // The hidden states of the rows of a chunk, gathered without the ignored ones.
                let gathered = path.rows * hidden * dtype.bytes() + 256;
                let most = budget + narrow + gathered + 128 * rows + 16_384;
                assert!(plan.scratch_bytes <= most, "{} > {most}: {path}", plan.scratch_bytes);
                assert!(plan.to_string().contains(&path.to_string()));
            }
        }
    }
}

/// Chunks of whole rows where they are large or blocks gain nothing; otherwise blocks of classes.
#[test]
fn the_cheaper_way_is_taken() {
    let profile = Profile::default().software(8);
    let path = |chunk_bytes: Option<u64>, shape: [u64; 3]| {
        let mut loss = LinearCrossEntropy::default();
        loss.chunk_bytes = chunk_bytes;
        linear(shape, Dtype::F32, &loss, &profile).unwrap().path.unwrap()
    };
    let shape = [1024, 128_256, 256];
    let row = 128_256 * 4;
    for (chunk_bytes, whole_rows, passes) in [
        (None, true, 1),
        (Some(1 << 30), true, 1),
        (Some(49 * row), true, 1),
        (Some(8 * row), false, 2),
        (Some(row), false, 2),
        (Some(row - 4), false, 2),
        (Some(64 << 10), false, 2),
    ] {
        let path = path(chunk_bytes, shape);
        assert_eq!((path.whole_rows, path.passes), (whole_rows, passes), "{chunk_bytes:?}: {path}");
    }
    // One chunk holds all rows, so nothing is read again.
    assert!(path(None, [32, 128_256, 256]).whole_rows);
    // The gradient of the weight keeps the scores of as many rows as the weight is deep, or of slightly fewer, so that
    // the chunks of the other rows are full.
    for (rows, depth, kept_rows) in [
        (32, 256, 0),
        (200, 256, 200),
        (256, 256, 256),
        (1024, 256, 256),
        (1000, 256, 232),
        (1024, 16, 0),
        (4096, 4096, 4096),
    ] {
        let path = path(None, [rows, 128_256, depth]);
        assert_eq!(path.kept_rows, kept_rows, "{rows} × {depth}: {path}");
        assert_eq!(path.passes, 1, "{rows} × {depth}: {path}");
    }
    let loss = LinearCrossEntropy::default().chunk_bytes(500);
    let refused = linear(shape, Dtype::F32, &loss, &profile).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("`chunk_bytes` = 500") && text.contains("800 bytes"), "{text}");
}

/// The two directions of a contrast need two passes over the scores, and a third one if keys are filtered, unless one
/// chunk holds all scores.
#[test]
fn held_scores_are_made_once() {
    let passes = |chunk_bytes: Option<u64>, filter: Option<f64>| {
        let options = json!({
            "symmetric": true, "chunk_bytes": chunk_bytes, "false_negative_margin": filter
        });
        let loss = (surprisal::operations::find("info_nce").unwrap().parse)(&options).unwrap();
        let shape: &[u64] = &[40, 8];
        let inputs = [("queries", Dtype::F32, shape), ("keys", Dtype::F32, shape)];
        let outputs = [("grad.queries", Dtype::F32, shape), ("grad.keys", Dtype::F32, shape)];
        let plan = plan(&*loss, &inputs, &outputs, &Profile::default()).unwrap();
        let made = |d: &&Dispatch| plan.kernels[d.kernel].label.contains(".scores.");
        let rows = plan.path.as_ref().unwrap().rows;
        let made = plan.dispatches.iter().filter(made).count() as u64 * rows / 40;
        (plan.path.unwrap().passes, made)
    };
    assert_eq!(passes(None, None), (1, 1));
    assert_eq!(passes(Some(8 * 160), None), (2, 2));
    assert_eq!(passes(None, Some(0.1)), (1, 1));
    assert_eq!(passes(Some(8 * 160), Some(0.1)), (3, 3));
}

/// Scratch that stretches of rows share is allocated once, with the size of its largest use.
#[test]
fn shared_scratch_is_there_once() {
    let profile = Profile { dispatch_products: 1 << 14, ..Profile::default() };
    let scratch = |rows: u64| {
        // First the gradient of the weight of a stretch, then the larger gradient of its hidden states.
        let loss = LinearCrossEntropy::default().chunk_bytes(400 * 200 * 4);
        linear([rows, 200, 8], Dtype::F16, &loss, &profile).unwrap().scratch_bytes
    };
    let more = scratch(4000) - scratch(2000);
    // Four bytes of them for the order of the rows.
    assert!(more <= 2000 * (68 + 16 + 4) + 4096, "{more} bytes for 2000 rows");
}

/// The requirement: less than 32 MiB beside inputs and gradients, where the scores alone would take 4 GiB (pairs) and
/// 2 GiB (a vocabulary).
#[test]
fn large_scores_fit_thirty_two_mebibytes() {
    let profile = Profile::default().software(8);
    let (n, depth) = (32_768, 64);
    for (call, dtype) in [
        ("info_nce", json!({"normalize": true})),
        ("info_nce", json!({"normalize": true, "symmetric": true})),
        ("sigmoid_contrastive", json!({"normalize": true})),
        ("sup_con", json!({})),
    ]
    .into_iter()
    .flat_map(|call| [Dtype::F32, Dtype::Bf16].map(|dtype| (call.clone(), dtype)))
    {
        let (name, options) = call;
        let loss = (surprisal::operations::find(name).unwrap().parse)(&options).unwrap();
        let itself = name == "sup_con";
        let vectors: &[&str] = if itself { &["features"] } else { &["queries", "keys"] };
        let gradients: Vec<String> = vectors.iter().map(|v| format!("grad.{v}")).collect();
        let (shape, labels): (&[u64], &[u64]) = (&[n, depth], &[n]);
        let mut inputs: Vec<_> = vectors.iter().map(|&v| (v, dtype, shape)).collect();
        if itself {
            inputs.push(("labels", Dtype::I32, labels));
        }
        let mut outputs: Vec<_> = gradients.iter().map(|g| (g.as_str(), dtype, shape)).collect();
        outputs.push(("loss", Dtype::F32, &[1]));
        let plan = plan(&*loss, &inputs, &outputs, &profile).unwrap();
        assert_within_limits(&plan, &profile);
        let beside = plan.scratch_bytes + plan.params_bytes();
        assert!(beside < 32 * MIB, "{name} {options} {dtype}: {beside}");
        assert_eq!(plan.unstored_bytes, n * n * 4);
    }
    let loss = LinearCrossEntropy::default();
    let plan = linear([4096, 128_256, 64], Dtype::F32, &loss, &profile).unwrap();
    let beside = plan.scratch_bytes + plan.params_bytes();
    assert!(beside < 32 * MIB, "{beside}");
}
