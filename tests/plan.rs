//! Plans as data: limits, windows, scratch. No GPU.
#![cfg(feature = "cases")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use surprisal::{
    BceWithLogits, Cooperative, CrossEntropy, Dtype, Error, Layout, LinearCrossEntropy, Loss, Plan,
    Profile, Reduction, WeightLayout,
    cooperative::Side,
    kernel::{Access, Kernel},
    plan::{Call, Dispatch, Operand, Role},
};

const MIB: u64 = 1 << 20;

/// Dense operands, each in a buffer of its own.
fn operands(first: usize, tensors: &[(&str, Dtype, &[u64])]) -> BTreeMap<String, Operand> {
    let operand = |(index, &(name, dtype, shape)): (usize, &(&str, Dtype, &[u64]))| {
        let layout = Layout::dense(dtype, shape);
        let allocation_bytes = (layout.end().unwrap() * dtype.bytes()).next_multiple_of(16);
        let allocation = first + index;
        (name.to_owned(), Operand { name: name.to_owned(), layout, allocation, allocation_bytes })
    };
    tensors.iter().enumerate().map(operand).collect()
}

fn plan(
    loss: &dyn Loss,
    inputs: &[(&str, Dtype, &[u64])],
    outputs: &[(&str, Dtype, &[u64])],
    profile: &Profile,
) -> Result<Plan, Error> {
    let (inputs, outputs) = (operands(0, inputs), operands(100, outputs));
    loss.plan(&Call::checked(loss, inputs, outputs, false, profile)?, profile)
}

fn cross_entropy(rows: u64, classes: u64, dtype: Dtype, profile: &Profile) -> Plan {
    plan(
        &CrossEntropy::default(),
        &[("logits", dtype, &[rows, classes]), ("targets", Dtype::I64, &[rows])],
        &[("loss", Dtype::F32, &[1]), ("grad.logits", dtype, &[rows, classes])],
        profile,
    )
    .unwrap()
}

fn linear(
    [rows, classes, hidden]: [u64; 3],
    dtype: Dtype,
    loss: &LinearCrossEntropy,
    profile: &Profile,
) -> Result<Plan, Error> {
    let weight = match loss.weight_layout {
        WeightLayout::ClassesHidden => [classes, hidden],
        WeightLayout::HiddenClasses => [hidden, classes],
    };
    plan(
        loss,
        &[
            ("hidden", dtype, &[rows, hidden]),
            ("weight", dtype, &weight),
            ("bias", dtype, &[classes]),
            ("targets", Dtype::I64, &[rows]),
        ],
        &[
            ("loss", Dtype::F32, &[1]),
            ("grad.hidden", dtype, &[rows, hidden]),
            ("grad.weight", dtype, &weight),
            ("grad.bias", dtype, &[classes]),
        ],
        profile,
    )
}

fn layouts() -> [WeightLayout; 2] {
    [WeightLayout::ClassesHidden, WeightLayout::HiddenClasses]
}

/// What WebGPU demands of every dispatch.
#[track_caller]
fn assert_within_limits(plan: &Plan, profile: &Profile) {
    assert!(!plan.dispatches.is_empty(), "{plan}");
    for dispatch in &plan.dispatches {
        let kernel = &plan.kernels[dispatch.kernel];
        let label = &kernel.label;
        let count = dispatch.bindings.len();
        assert!(count as u32 <= profile.storage_buffers, "{label}: {count} bindings");
        assert_eq!(kernel.bound().count(), count, "{label}");
        assert!((dispatch.params.len() * 4) as u64 <= Plan::PARAMS_STRIDE, "{label}");
        for binding in &dispatch.bindings {
            assert!(binding.size <= profile.binding_bytes, "{label}: {binding:?}");
            assert!(binding.size > 0 && binding.size.is_multiple_of(4), "{label}: {binding:?}");
            assert!(
                binding.offset.is_multiple_of(profile.offset_alignment),
                "{label}: {binding:?}"
            );
            if binding.role == Role::Scratch {
                let end = binding.offset + binding.size;
                assert!(
                    end <= plan.scratch_bytes,
                    "{label}: {binding:?} of {}",
                    plan.scratch_bytes
                );
                assert_eq!(binding.access, Access::ReadWrite, "{label}: {binding:?}");
            }
        }
        for groups in dispatch.workgroups {
            assert!(
                (1..=profile.workgroups).contains(&groups),
                "{label}: {:?}",
                dispatch.workgroups
            );
        }
        let lanes = kernel.overrides.iter().find(|(name, _)| *name == "WORKGROUP").unwrap().1;
        assert!(lanes <= profile.workgroup_size && lanes.is_power_of_two(), "{label}: {lanes}");
        assert_no_mixed_access(&dispatch.bindings, label);
    }
}

/// wgpu and browsers refuse one buffer bound for reading and for writing in one dispatch.
#[track_caller]
fn assert_no_mixed_access(bindings: &[surprisal::plan::Binding], label: &str) {
    for a in bindings {
        for b in bindings {
            assert!(a.role != b.role || a.access == b.access, "{label}: {a:?} and {b:?}");
        }
    }
}

#[test]
fn every_plan_is_within_the_default_limits() {
    let profiles = common::profiles();
    let plans = common::plans();
    assert!(plans.len() > 100);
    for plan in plans {
        // The profiles differ in shapes, not in limits.
        assert_within_limits(&plan, &profiles[0]);
    }
}

#[test]
fn logits_past_a_binding_are_windowed() {
    for profile in common::profiles() {
        // 20,000 × 128,256 in bf16: 4.8 GiB.
        let plan = cross_entropy(20_000, 128_256, Dtype::Bf16, &profile);
        assert_within_limits(&plan, &profile);
        let least = (20_000 * 128_256 * 2_u64).div_ceil(128 * MIB);
        assert!(
            (least..=2 * least).contains(&plan.windows) || plan.windows > least,
            "{}",
            plan.windows
        );
        assert!(plan.scratch_bytes < 4 * MIB, "{}", plan.scratch_bytes);
        // 2^33 elements in all: offsets are counted in u64.
        let plan = cross_entropy(1 << 20, 1 << 13, Dtype::F32, &profile);
        assert_within_limits(&plan, &profile);
        let last = plan.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
        let last = last.filter(|b| b.role == Role::Output("grad.logits".to_owned()));
        let reach = last.map(|binding| binding.offset + binding.size).max();
        assert_eq!(reach, Some((1 << 33) * 4));
    }
}

/// Every row is in one window, and the windows' bindings cover the tensor.
#[test]
fn windows_cover_every_row_once() {
    let profile = Profile { binding_bytes: MIB, ..Profile::default() };
    for (rows, classes, dtype) in
        [(1000, 1001, Dtype::F32), (5000, 77, Dtype::F16), (3, 200_001, Dtype::F32)]
    {
        let plan = cross_entropy(rows, classes, dtype, &profile);
        assert_within_limits(&plan, &profile);
        let param = |dispatch: &surprisal::plan::Dispatch, name: &str| {
            let fields = &plan.kernels[dispatch.kernel].fields;
            dispatch.params[fields.iter().position(|(field, _)| field == name).unwrap()]
        };
        let prepared: u32 = plan
            .dispatches
            .iter()
            .filter(|dispatch| plan.kernels[dispatch.kernel].entry == "prepare")
            .map(|dispatch| param(dispatch, "rows"))
            .sum();
        assert_eq!(u64::from(prepared), rows);
    }
}

#[test]
fn short_dispatches_and_many_rows() {
    let profile = Profile::default();
    // 65,535 groups a dimension: one workgroup a row needs two dimensions.
    let plan = cross_entropy(
        200_000,
        4096,
        Dtype::Bf16,
        &Profile { binding_bytes: 2 << 30, dispatch_elements: 1 << 40, ..profile.clone() },
    );
    let fused = plan.dispatches.iter().find(|d| plan.kernels[d.kernel].entry == "fused").unwrap();
    let [x, y, _] = fused.workgroups;
    assert!(x <= 65_535 && y > 1 && u64::from(x) * u64::from(y) >= 200_000, "{x} × {y}");
    let short = Profile { dispatch_elements: 1 << 20, ..profile };
    let plan = cross_entropy(10_000, 1000, Dtype::F32, &short);
    assert!(plan.windows >= 9, "{}", plan.windows);
    assert_within_limits(&plan, &short);
}

#[test]
fn weights_past_a_binding_are_windowed() {
    for profile in common::profiles() {
        for weight_layout in layouts() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let loss = LinearCrossEntropy::default().weight_layout(weight_layout);
                // Gemma 2's: W is 2.4 GB in f32.
                let plan = linear([64, 256_000, 2304], dtype, &loss, &profile);
                let plan =
                    plan.unwrap_or_else(|error| panic!("{weight_layout:?} {dtype}: {error}"));
                assert_within_limits(&plan, &profile);
            }
        }
    }
}

/// One chunk, O(rows + classes), and f32 sums beside 16-bit gradients that several chunks make.
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
    // The shape: below 5% of the logits' bytes, parameters and all.
    let profile = Profile::default().software(8);
    for weight_layout in layouts() {
        let loss = LinearCrossEntropy::default().weight_layout(weight_layout);
        let plan = linear([1024, 128_256, 256], Dtype::F32, &loss, &profile).unwrap();
        let beside = plan.scratch_bytes + plan.params_bytes();
        assert_eq!(plan.unstored_bytes, 1024 * 128_256 * 4);
        assert!(beside * 20 < plan.unstored_bytes, "{beside} bytes: {weight_layout:?}");
    }
}

/// From a saved lse all rows of a block of classes go at once, and ∂W is written once.
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
                && kernel.streams.iter().any(|stream| stream.in_place_of == Some("initial"))
        };
        let again = plan.dispatches.iter().filter(|dispatch| reads_sums(dispatch)).count();
        assert_eq!(again == 0, blocks > 0, "∂W is read {again} times");
        let backward = |d: &&Dispatch| plan.kernels[d.kernel].entry == "backward";
        let found = plan.dispatches.iter().filter(backward).count();
        assert!(blocks == 0 || found == blocks, "{found} blocks");
        assert!(plan.scratch_bytes * 20 < plan.unstored_bytes, "{}", plan.scratch_bytes);
    }
}

/// Budgets below a row of scores and around one: the scratch keeps to them.
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
                // An f32 sum beside what 16-bit gradients add up to.
                let narrow = (classes * (hidden + 1) + path.rows * hidden) * 4;
                let narrow = if dtype == Dtype::F32 { 0 } else { narrow };
                let most = budget + narrow + 128 * rows + 16_384;
                assert!(plan.scratch_bytes <= most, "{} > {most}: {path}", plan.scratch_bytes);
                assert!(plan.to_string().contains(&path.to_string()));
            }
        }
    }
}

/// The products of a plan on cooperative matrices, by what they make, and those that are not.
fn products(plan: &Plan) -> [BTreeSet<String>; 2] {
    let of = |cooperative: bool| {
        let kernels = plan.kernels.iter().filter(|kernel| {
            kernel.label.contains(".linear.")
                && kernel.entry.starts_with("product")
                && (kernel.entry == "product_cooperative") == cooperative
        });
        let name = |kernel: &Kernel| kernel.label.split('.').nth(2).unwrap().to_owned();
        kernels.map(name).collect()
    };
    [of(true), of(false)]
}

/// The profile alone says which products go through cooperative matrices, and by default none.
#[test]
fn cooperative_matrices_are_for_products_of_their_type() {
    let side = Some(Side::Sixteen);
    let of = |f16, f32| Cooperative { f16, f32, lanes: 32, emulated: false };
    let shape = [100, 50_000, 64];
    let (scores, gradients) = (["scores"], ["hidden_gradient", "weight_gradient"]);
    for (cooperative, dtype, chosen) in [
        (Cooperative::default(), Dtype::F16, vec![]),
        (of(side, None), Dtype::F16, scores.to_vec()),
        // Gradients of scores are f32, and bf16 reaches past f16.
        (of(side, None), Dtype::F32, vec![]),
        (of(side, None), Dtype::Bf16, vec![]),
        (of(None, side), Dtype::F16, [&scores[..], &gradients].concat()),
        (of(None, side), Dtype::Bf16, [&scores[..], &gradients].concat()),
        (of(side, side), Dtype::F32, [&scores[..], &gradients].concat()),
    ] {
        let profile = Profile { cooperative, ..Profile::default() };
        for weight_layout in layouts() {
            let loss = LinearCrossEntropy::default().weight_layout(weight_layout);
            let plan = linear(shape, dtype, &loss, &profile).unwrap();
            assert_within_limits(&plan, &profile);
            let [found, plain] = products(&plan);
            let what = format!("{cooperative:?} {dtype} {weight_layout:?}");
            assert_eq!(found, chosen.iter().map(|&name| name.to_owned()).collect(), "{what}");
            // A sum over rows has no second operand.
            assert!(plain.contains("bias_gradient"), "{what}: {plain:?}");
            assert!(found.is_disjoint(&plain), "{what}: {found:?} and {plain:?}");
        }
    }
}

/// Small layers stay on the plain tile, whatever the number of rows, and however narrow blocks of classes are.
#[test]
fn cooperative_matrices_are_for_large_layers() {
    let cooperative = Cooperative { f32: Some(Side::Eight), lanes: 32, ..Cooperative::default() };
    let profile = Profile { cooperative, ..Profile::default() };
    for (classes, large) in [(1000, false), (50_000, true)] {
        for (rows, chunk_bytes) in [(1, None), (100, None), (5000, None), (100, Some(64 << 10))] {
            let mut loss = LinearCrossEntropy::default();
            loss.chunk_bytes = chunk_bytes;
            let plan = linear([rows, classes, 64], Dtype::F32, &loss, &profile).unwrap();
            let [found, plain] = products(&plan);
            let what = format!("{rows} × {classes}, {chunk_bytes:?}");
            assert_eq!(found.contains("scores"), large, "{what}");
            assert_eq!(plain.contains("scores"), !large, "{what}");
        }
    }
}

/// Every specialisation, small products too, within the limits; walks that no driver ends early.
#[test]
fn plans_on_cooperative_matrices_are_within_the_default_limits() {
    for profile in common::cooperative_profiles() {
        for plan in common::tile_plans(&profile) {
            assert_within_limits(&plan, &profile);
        }
        let loss = LinearCrossEntropy::default();
        let plan = linear([40, 100_000, 20], Dtype::F32, &loss, &profile).unwrap();
        for dispatch in &plan.dispatches {
            let kernel = &plan.kernels[dispatch.kernel];
            if kernel.entry == "product_cooperative" {
                let depth = kernel.fields.iter().position(|(name, _)| name == "depth").unwrap();
                assert!(dispatch.params[depth] <= 16_384, "{}", dispatch.params[depth]);
            }
        }
    }
}

/// Chunks of whole rows where they are large or nothing is gained, blocks of classes where they are not.
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
    // One chunk holds all rows: nothing is read again.
    assert!(path(None, [32, 128_256, 256]).whole_rows);
    // The gradient of the weight holds the scores of as many rows as the weight is deep, or of some fewer, so
    // that the chunks of the others are full.
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

/// Directions of a contrast need two passes over the scores, unless one chunk holds them all.
#[test]
fn held_scores_are_made_once() {
    let passes = |chunk_bytes: Option<u64>| {
        let options = json!({"symmetric": true, "chunk_bytes": chunk_bytes});
        let loss = (surprisal::loss::find("info_nce").unwrap().parse)(&options).unwrap();
        let shape: &[u64] = &[40, 8];
        let inputs = [("queries", Dtype::F32, shape), ("keys", Dtype::F32, shape)];
        let outputs = [("grad.queries", Dtype::F32, shape), ("grad.keys", Dtype::F32, shape)];
        let plan = plan(&*loss, &inputs, &outputs, &Profile::default()).unwrap();
        let made = |d: &&Dispatch| plan.kernels[d.kernel].label.contains(".scores.");
        let rows = plan.path.as_ref().unwrap().rows;
        let made = plan.dispatches.iter().filter(made).count() as u64 * rows / 40;
        (plan.path.unwrap().passes, made)
    };
    assert_eq!(passes(None), (1, 1));
    assert_eq!(passes(Some(8 * 160)), (2, 2));
}

/// What stretches of rows share is as large as the largest of its uses, and there once.
#[test]
fn shared_scratch_is_there_once() {
    let profile = Profile { dispatch_products: 1 << 14, ..Profile::default() };
    let scratch = |rows: u64| {
        // A stretch's gradient of the weight, and then the larger one of its hidden states.
        let loss = LinearCrossEntropy::default().chunk_bytes(400 * 200 * 4);
        linear([rows, 200, 8], Dtype::F16, &loss, &profile).unwrap().scratch_bytes
    };
    let more = scratch(4000) - scratch(2000);
    assert!(more <= 2000 * (64 + 16) + 4096, "{more} bytes for 2000 rows");
}

#[test]
fn more_lanes_than_a_workgroup_has_are_refused() {
    let mut profile = Profile::default();
    let f32 = Some(Side::Eight);
    profile.cooperative = Cooperative { f32, lanes: 512, ..Cooperative::default() };
    let refused = linear([9, 10, 4], Dtype::F32, &LinearCrossEntropy::default(), &profile);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::Limit { found: 512, limit: 256, .. }), "{refused}");
}

#[test]
fn a_profile_with_cooperative_matrices_survives_json() {
    for profile in common::cooperative_profiles() {
        let text = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), profile, "{text}");
    }
    // Profiles written before there were any.
    assert_eq!(serde_json::from_str::<Profile>("{}").unwrap(), Profile::default());
    let given = json!({"cooperative": {"f16": "sixteen", "lanes": 32}});
    let profile: Profile = serde_json::from_value(given).unwrap();
    let f16 = Some(Side::Sixteen);
    let expected = Cooperative { f16, lanes: 32, ..Cooperative::default() };
    assert_eq!(profile.cooperative, expected);
}

#[test]
fn a_row_that_no_binding_holds_is_refused() {
    let profile = Profile { binding_bytes: 4096, ..Profile::default() };
    let loss = CrossEntropy::default().reduction(Reduction::Sum);
    let refused = plan(
        &loss,
        &[("logits", Dtype::F32, &[1, 2000]), ("targets", Dtype::I32, &[1])],
        &[("loss", Dtype::F32, &[1])],
        &profile,
    );
    let Err(Error::Limit { what, limit: 4096, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(what.contains("logits"), "{what}");
}

/// Fewer rows of an image [N, C, H, W] reach over as many planes.
#[test]
fn an_image_that_no_binding_holds_is_refused() {
    let profile = Profile { binding_bytes: 4096, ..Profile::default() };
    let loss = CrossEntropy::default();
    let planned = |plane: u64| {
        let mut inputs =
            operands(0, &[("logits", Dtype::F32, &[600, 4]), ("targets", Dtype::I32, &[600])]);
        let logits = inputs.get_mut("logits").unwrap();
        logits.layout = logits.layout.clone().class_stride(plane);
        let outputs = operands(100, &[("loss", Dtype::F32, &[1])]);
        loss.plan(&Call::checked(&loss, inputs, outputs, false, &profile)?, &profile)
    };
    assert!(planned(200).is_ok());
    let Err(Error::Limit { what, found: 4800, .. }) = planned(300) else {
        panic!("{:?}", planned(300));
    };
    assert!(what.contains("image of `logits`"), "{what}");
}

/// Fakes are samples, not classes.
#[test]
fn fakes_are_not_counted_as_classes() {
    let fakes = (1 << 24) + 1;
    let loss = surprisal::GanDiscriminator::default();
    let planned = plan(
        &loss,
        &[("real", Dtype::F32, &[3]), ("fake", Dtype::F32, &[fakes])],
        &[("loss", Dtype::F32, &[1])],
        &Profile::default(),
    );
    assert!(planned.is_ok(), "{planned:?}");
}

/// A plan that is a list of dispatches and does not change from one time to the next.
#[test]
fn plans_can_be_printed_and_serialised() {
    for plan in common::plans() {
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(json["dispatches"].as_array().unwrap().len(), plan.dispatches.len());
        assert_eq!(json["scratch_bytes"], plan.scratch_bytes);
        let printed = plan.to_string();
        assert!(printed.starts_with(&plan.loss) && printed.contains("bytes of scratch"));
    }
    let profile = Profile::default();
    let twice = [(); 2].map(|()| cross_entropy(100, 1000, Dtype::F32, &profile));
    assert_eq!(twice[0], twice[1]);
    let json = serde_json::to_string(&profile).unwrap();
    assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
}

/// A call (shapes and places) is data as well.
#[test]
fn calls_round_trip() {
    let inputs = operands(0, &[("logits", Dtype::F16, &[3, 7]), ("targets", Dtype::U32, &[3])]);
    let outputs = operands(9, &[("loss", Dtype::F32, &[1])]);
    let loss = CrossEntropy::default();
    let call = Call::checked(&loss, inputs, outputs, false, &Profile::default()).unwrap();
    let json = serde_json::to_string(&call).unwrap();
    assert_eq!(serde_json::from_str::<Call>(&json).unwrap(), call);
}

/// The headline: beside inputs and gradients less than 32 MiB, where the scores alone are
/// 4 GiB (pairs) and 2 GiB (a vocabulary).
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
        let loss = (surprisal::loss::find(name).unwrap().parse)(&options).unwrap();
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

#[test]
fn submissions_cover_the_dispatches_in_order() {
    let profile = Profile { binding_bytes: MIB, ..Profile::default() };
    let plan = cross_entropy(1000, 5000, Dtype::F32, &profile);
    let all = plan.dispatches.len();
    assert!(all > 20, "{all} dispatches");
    for (most, submissions) in [(u32::MAX, 1), (8, all.div_ceil(8)), (1, all), (0, all)] {
        let profile = Profile { submission_dispatches: most, ..profile.clone() };
        let ranges: Vec<_> = plan.submissions(&profile).collect();
        assert_eq!(ranges.len(), submissions, "at most {most}");
        assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..all).collect::<Vec<_>>());
    }
}

#[test]
fn classes_end_at_two_to_the_twenty_fourth() {
    let profile = Profile { binding_bytes: 1 << 30, ..Profile::default() };
    let call = |classes: u64| {
        plan(
            &CrossEntropy::default(),
            &[("logits", Dtype::F32, &[1, classes]), ("targets", Dtype::I64, &[1])],
            &[("loss", Dtype::F32, &[1])],
            &profile,
        )
    };
    call(1 << 24).unwrap();
    let refused = call((1 << 24) + 1).unwrap_err();
    let what = "classes".to_owned();
    assert_eq!(refused, Error::Limit { what, found: (1 << 24) + 1, limit: 1 << 24 });
    let none = call(0).unwrap_err();
    assert!(matches!(&none, Error::WrongShape { argument, .. } if argument == "classes"), "{none}");
}

/// The plan of a loss of elements with its sum and gradient, the tensors as they are placed.
fn elements(
    inputs: &[(&str, Layout)],
    gradient: &Layout,
    profile: &Profile,
) -> Result<Plan, Error> {
    let place = |first: usize, tensors: &[(&str, Layout)]| {
        let operand = |(index, (name, layout)): (usize, &(&str, Layout))| {
            let (name, layout) = ((*name).to_owned(), layout.clone());
            (
                name.clone(),
                Operand { name, layout, allocation: first + index, allocation_bytes: 1 << 40 },
            )
        };
        tensors.iter().enumerate().map(operand).collect::<BTreeMap<_, _>>()
    };
    let outputs = [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", gradient.clone())];
    let loss = BceWithLogits::default();
    let call = Call::checked(&loss, place(0, inputs), place(100, &outputs), false, profile)?;
    loss.plan(&call, profile)
}

/// A parameter of every dispatch of a kernel.
fn parameters(plan: &Plan, entry: &str, name: &str) -> Vec<u64> {
    let dispatches = plan.dispatches.iter().filter(|d| plan.kernels[d.kernel].entry == entry);
    let parameter = |dispatch: &Dispatch| {
        let fields = &plan.kernels[dispatch.kernel].fields;
        dispatch.params[fields.iter().position(|(field, _)| field == name).unwrap()].into()
    };
    dispatches.map(parameter).collect()
}

/// Every window knows where it begins, in images of 2^32 elements and more too.
#[test]
fn large_images_are_counted_by_planes() {
    let profile = Profile { element_block: 16_384, ..Profile::default() };
    for channels in [32, 33] {
        let plane: u64 = 512 * 512 * 512;
        let images = Layout::matrix(Dtype::F16, 2 * plane, channels).class_stride(plane);
        let plan =
            elements(&[("logits", images.clone()), ("targets", images.clone())], &images, &profile)
                .unwrap();
        assert_within_limits(&plan, &profile);
        let of = |name| parameters(&plan, "forward", name);
        let places = of("first_row").into_iter().zip(of("first_column")).zip(of("phase"));
        let mut start = 0;
        for (((row, column), phase), count) in places.zip(of("classes")) {
            assert!(column < channels && phase < plane && phase + count < 1 << 32);
            assert_eq!((row / plane * channels + column) * plane + phase, start);
            start += count;
        }
        assert_eq!(start, 2 * plane * channels);
    }
}

#[test]
fn odd_images_in_two_orders_are_windowed() {
    let profile = Profile::default();
    let planes = Layout::nchw(Dtype::F32, [40, 21, 513, 513]);
    let last = Layout::matrix(Dtype::F32, 40 * 513 * 513, 21);
    let plan = elements(&[("logits", planes.clone()), ("targets", last)], &planes, &profile);
    assert_within_limits(&plan.unwrap(), &profile);
}

/// Whole images and whole blocks, where a window holds as many.
#[test]
fn windows_of_images_are_whole_blocks() {
    let profile = Profile { element_block: 64, dispatch_elements: 100, ..Profile::default() };
    let planes = Layout::matrix(Dtype::F32, 8 * 16, 2).class_stride(16);
    let last = Layout::matrix(Dtype::F32, 8 * 16, 2);
    let plan = elements(&[("logits", planes.clone()), ("targets", last)], &planes, &profile);
    assert_eq!(parameters(&plan.unwrap(), "forward", "classes"), [64; 4]);
}

#[test]
fn weights_of_pixels_with_gaps_are_windowed() {
    let profile = Profile { binding_bytes: MIB, ..Profile::default() };
    let planes = Layout::nchw(Dtype::F32, [40, 3, 64, 64]);
    let weight = Layout::matrix(Dtype::F32, 40 * 64 * 64, 1).row_stride(16);
    let inputs = [("logits", planes.clone()), ("targets", planes.clone()), ("weight", weight)];
    assert_within_limits(&elements(&inputs, &planes, &profile).unwrap(), &profile);
}

/// Bits lie as the elements do; a weight a pixel may lie as it likes.
#[test]
fn bits_beside_a_weight_of_pixels() {
    let profile = Profile { element_block: 64, dispatch_elements: 100, ..Profile::default() };
    let last = Layout::matrix(Dtype::F32, 200, 3);
    let inputs = [
        ("logits", last.clone()),
        ("targets", last.clone()),
        ("mask", Layout::vector(Dtype::U32, 19)),
        ("weight", Layout::nchw(Dtype::F32, [20, 1, 2, 5])),
    ];
    let windows = parameters(&elements(&inputs, &last, &profile).unwrap(), "forward", "classes");
    // Images of 30 elements, words of 32.
    assert_eq!(windows, [480, 120]);
}

#[test]
fn odd_strides_neither_panic_nor_wrap() {
    let profile = Profile::default();
    let last = Layout::matrix(Dtype::F32, 4, 3);
    let planes = |class_stride, row_stride| Layout { class_stride, row_stride, ..last.clone() };
    let call = |logits: Layout| {
        elements(&[("logits", logits), ("targets", last.clone())], &last, &profile)
    };
    // One image has none after it.
    assert_eq!(call(planes(4, 0)).unwrap().windows, 1);
    assert_eq!(call(planes(5, 0)).unwrap().windows, 1);
    for wide in [1 << 32, u64::MAX] {
        let refused = call(planes(wide, 0)).unwrap_err();
        assert!(matches!(refused, Error::ClassStride { found, .. } if found == wide), "{refused}");
    }
}
