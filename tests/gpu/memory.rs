//! The device's allocator holds as many bytes for a call as the plan says.

use serde_json::{Value, json};
use surprisal::{Dtype, Plan, loss::Dim};
use surprisal_cli::{
    bench::{Workload, allocated_bytes},
    draft::{Draft, Mode},
};

use crate::support::{Context, parse};

tests![pairs, linear, backward_passes];

/// Makes a call on a device of its own, compares the bytes allocated for it with its plan, and returns the plan.
#[track_caller]
fn held(
    context: &Context,
    (name, options): (&str, &Value),
    extents: &[(Dim, u64)],
    (dtype, mode): (Dtype, Mode),
) -> Plan {
    let gpu = context.another();
    let draft = Draft::new(extents.iter().copied(), dtype, mode);
    let workload = Workload::new(&gpu, &*parse(name, options), &draft).unwrap();
    let plan = workload.prepared().plan().clone();
    if let Some(held) = allocated_bytes(&gpu) {
        let planned = plan.scratch_bytes + plan.params_bytes();
        assert_eq!(held, planned, "held, planned: {name} {options} {extents:?} {dtype}");
    }
    plan
}

fn pairs(context: &Context) {
    for (name, options, [queries, keys, depth]) in [
        ("info_nce", json!({}), [33, 45, 7]),
        ("info_nce", json!({"normalize": true}), [17, 1001, 19]),
        ("info_nce", json!({"normalize": true, "symmetric": true}), [37, 37, 19]),
        ("info_nce", json!({"symmetric": true, "chunk_bytes": 3200}), [1001, 1001, 3]),
        ("sigmoid_contrastive", json!({"normalize": true}), [11, 37, 5]),
        ("sup_con", json!({}), [45, 45, 11]),
    ] {
        let extents = [(Dim::Rows, queries), (Dim::Classes, keys), (Dim::Hidden, depth)];
        // The queries of `sup_con` are its keys.
        let extents = if name == "sup_con" { vec![extents[0], extents[2]] } else { extents.into() };
        let dtype = if options["normalize"] == true { Dtype::Bf16 } else { Dtype::F32 };
        held(context, (name, &options), &extents, (dtype, Mode::Fused));
    }
}

/// In one chunk, in chunks of whole rows, and in blocks of classes.
fn linear(context: &Context) {
    let extents = [(Dim::Rows, 45), (Dim::Classes, 1001), (Dim::Hidden, 11)];
    for (chunk, whole) in [(json!(null), true), (json!(8 * 4016), true), (json!(3200), false)] {
        for dtype in [Dtype::F32, Dtype::F16] {
            let loss = ("linear_cross_entropy", &json!({"chunk_bytes": chunk}));
            let plan = held(context, loss, &extents, (dtype, Mode::Fused));
            assert_eq!(plan.path.unwrap().whole_rows, whole, "{chunk}");
        }
    }
}

/// A backward pass from a saved lse, whatever path the forward pass took.
fn backward_passes(context: &Context) {
    let extents = [(Dim::Rows, 300), (Dim::Classes, 2000), (Dim::Hidden, 8)];
    // The forward pass takes chunks of 64 rows, the backward pass blocks of 64 classes.
    let options = json!({"chunk_bytes": 64 * 8000});
    held(context, ("linear_cross_entropy", &options), &extents, (Dtype::F32, Mode::Backward));
}
