//! The code for whole tiles, which kernels for short rows and small tensors have only if the profile says so.

use serde_json::json;
use surprisal::{Arrays, BceWithLogits, Dtype, Gpu, Operation, Profile, loss, testing};

use crate::{
    elements, registry,
    support::{
        BY_PRODUCTS, Context, FLOATS, check, gaussian, indices, named, parse, positive, sample,
        sample_probs, vector, with,
    },
};

tests![every_loss, options_of_cross_entropy, options_of_contrasts, broadcasts];

/// Up to eight lanes share a row, as they do on a software adapter anyway, and kernels have code for tiles if a lane
/// has a whole tile: from 12 columns a lane plus 4 on.
pub fn tiled(profile: &mut Profile) {
    (profile.row_lanes, profile.row_tiles_from) = (8, 0);
}

/// With eight lanes and 171 columns, each lane has a tile and one or two whole quads behind it, and one lane a part of
/// one.
const COLUMNS: usize = 171;
/// The last block of elements ends inside the last quad of a lane's tile; as keys, so many have tiles too.
const ROWS: u64 = 53;

/// Compares with the reference, on kernels that have code for tiles.
fn held(gpu: &Gpu, loss: &dyn Operation, inputs: &Arrays, dtype: Dtype, wanted: &[&str]) {
    let run = gpu.run_arrays(loss, inputs, dtype, wanted).unwrap();
    let mut kernels = run.prepared().plan().kernels.iter();
    assert!(kernels.any(|kernel| kernel.value_of("HAS_TILES") == Some(1)), "{loss:?}");
    check(gpu, loss, inputs, dtype, wanted);
}

fn every_loss(context: &Context) {
    let gpu = context.with(tiled);
    // The siblings of a tree do not lie side by side, and the samples of a row are few.
    let others = ["hierarchical_cross_entropy", "sampled_softmax", "linear_sampled_softmax"];
    let streams = |entry: &&surprisal::operations::Entry| !others.contains(&entry.about.name);
    let losses = loss::REGISTRY.iter().filter(streams);
    for (entry, dtype) in losses.zip(FLOATS.into_iter().cycle()) {
        let about = entry.about;
        let inputs = testing::example_inputs(about, 8, [ROWS, COLUMNS as u64, 3]);
        let mut wanted = registry::wanted(about, &inputs);
        if !wanted.contains(&"loss") {
            // No loss: what it hands out first.
            wanted = vec![about.outputs[0].name];
        }
        held(&gpu, &*(entry.default)(), &inputs, dtype, &wanted);
    }
}

/// What a tile adds to the state of a row: everything that the loss or a by-product needs.
fn options_of_cross_entropy(context: &Context) {
    let gpu = context.with(tiled);
    let plain = sample(61, 9, COLUMNS);
    let weighted = [("weight", vector(&positive(62, COLUMNS)))];
    let bias = ("logit_bias", vector(&testing::gaussian(64, COLUMNS)));
    let mixed = with(&sample_probs(63, 9, COLUMNS), [bias]);
    let losses = ["loss", "grad.logits"];
    let all = [&losses[..], &BY_PRODUCTS].concat();
    for (options, inputs, dtype, wanted) in [
        (json!({"reduction": "none"}), &plain, Dtype::F32, &all[..]),
        (
            json!({"label_smoothing": 0.1, "z_loss": 0.1}),
            &with(&plain, weighted),
            Dtype::F16,
            &losses,
        ),
        (
            json!({"label_smoothing": 0.2, "smoothing": "ordinal", "focal_gamma": 1.5}),
            &plain,
            Dtype::Bf16,
            &losses,
        ),
        (
            json!({"temperature": 0.7, "softcap": 6.0}),
            &mixed,
            Dtype::F32,
            &["loss", "entropy", "grad.logits", "grad.target_probs"],
        ),
    ] {
        held(&gpu, &*parse("cross_entropy", &options), inputs, dtype, wanted);
    }
}

/// Softmaxes over keys with a learnable scale, in both directions, and with several positives.
fn options_of_contrasts(context: &Context) {
    let gpu = context.with(tiled);
    let pairs = named([
        ("queries", gaussian(65, COLUMNS, 5)),
        ("keys", gaussian(66, COLUMNS, 5)),
        ("scale", vector(&[2.0])),
    ]);
    let labelled = with(&pairs, [("labels", indices(&testing::targets(67, COLUMNS, 20)))]);
    let wanted = ["loss", "lse", "grad.queries", "grad.keys", "grad.scale"];
    for (options, inputs, dtype) in [
        (json!({"normalize": true, "symmetric": true}), &pairs, Dtype::F32),
        (json!({}), &labelled, Dtype::Bf16),
    ] {
        held(&gpu, &*parse("info_nce", &options), inputs, dtype, &wanted);
    }
}

/// Elements that are found by the row of their quad, or each by its own row.
fn broadcasts(context: &Context) {
    let gpu = context.with(tiled);
    for (columns, dtypes) in [(COLUMNS, [Dtype::F32, Dtype::F16]), (172, [Dtype::Bf16, Dtype::F32])]
    {
        for (shape, dtype) in [&[columns as u64][..], &[5, 1]].into_iter().zip(dtypes) {
            let inputs = with(
                &elements::sample(68, 5, columns),
                [
                    ("weight", elements::positive(69, shape)),
                    ("pos_weight", elements::positive(70, shape)),
                    ("logit_bias", elements::positive(71, shape)),
                ],
            );
            held(&gpu, &BceWithLogits::default(), &inputs, dtype, &elements::GRADIENT);
        }
    }
}
