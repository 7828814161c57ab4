//! Plans as data: limits, windows, scratch. No GPU.
#![cfg(feature = "cases")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod batches;
mod catalogue;
#[path = "../common/mod.rs"]
mod common;
mod cooperative;
mod images;
mod layers;
mod travel;

use std::collections::BTreeMap;

use surprisal::{
    CrossEntropy, Dtype, Error, Layout, LinearCrossEntropy, Operation, Plan, Profile, Reduction,
    WeightLayout,
    plan::{Call, Operand, Role, kernel::Access},
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
    loss: &dyn Operation,
    inputs: &[(&str, Dtype, &[u64])],
    outputs: &[(&str, Dtype, &[u64])],
    profile: &Profile,
) -> Result<Plan, Error> {
    let (inputs, outputs) = (operands(0, inputs), operands(100, outputs));
    loss.plan(&Call::new(inputs, outputs).checked(loss, profile.offset_alignment)?, profile)
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
    let turned = loss.weight_layout == WeightLayout::HiddenClasses;
    let weight = if turned { [hidden, classes] } else { [classes, hidden] };
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

/// Asserts what WebGPU requires of every dispatch.
#[track_caller]
fn assert_within_limits(plan: &Plan, profile: &Profile) {
    assert!(!plan.dispatches.is_empty(), "{plan}");
    for dispatch in &plan.dispatches {
        let kernel = &plan.kernels[dispatch.kernel];
        let label = &kernel.label;
        let count = dispatch.bindings.len();
        assert!(count as u32 <= profile.storage_buffers, "{label}: {count} bindings");
        assert_eq!(kernel.storage.len(), count, "{label}");
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
        let lanes = kernel.overrides.iter().find(|(name, _)| name == "WORKGROUP").unwrap().1;
        assert!(lanes <= profile.workgroup_size && lanes.is_power_of_two(), "{label}: {lanes}");
        assert_no_mixed_access(&dispatch.bindings, label);
    }
}

/// wgpu and browsers refuse a buffer that is bound for reading and for writing in one dispatch.
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
        assert_within_limits(plan, &profiles[0]);
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
        let last = last.filter(|b| b.role == Role::Output("grad.logits".into()));
        let reach = last.map(|binding| binding.offset + binding.size).max();
        assert_eq!(reach, Some((1 << 33) * 4));
    }
}

/// Every row is in exactly one window, and the bindings of the windows cover the tensor.
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
    // 65,535 groups a dimension: one workgroup a row needs a second dimension.
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

/// The fakes of a GAN are samples, not classes.
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

/// The plan of the same call is always the same list of dispatches.
#[test]
fn plans_can_be_printed_and_serialised() {
    for plan in common::plans() {
        let json = serde_json::to_value(plan).unwrap();
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

/// A call (shapes and places) is plain data too.
#[test]
fn calls_round_trip() {
    let inputs = operands(0, &[("logits", Dtype::F16, &[3, 7]), ("targets", Dtype::U32, &[3])]);
    let outputs = operands(9, &[("loss", Dtype::F32, &[1])]);
    let loss = CrossEntropy::default();
    let call =
        Call::new(inputs, outputs).checked(&loss, Profile::default().offset_alignment).unwrap();
    let json = serde_json::to_string(&call).unwrap();
    assert_eq!(serde_json::from_str::<Call>(&json).unwrap(), call);
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
    assert_eq!(refused, Error::Limit { what: what.into(), found: (1 << 24) + 1, limit: 1 << 24 });
    let none = call(0).unwrap_err();
    assert!(
        matches!(&none, Error::WrongShape { argument, .. } if &**argument == "classes"),
        "{none}"
    );
}

/// A 16-bit element that is the last one of its buffer is bound with the word it is in.
#[test]
fn the_last_half_of_a_word_is_bound() {
    let mut inputs = operands(
        0,
        &[
            ("logits", Dtype::F32, &[2, 4]),
            ("targets", Dtype::F32, &[2, 4]),
            ("weight", Dtype::F16, &[1]),
        ],
    );
    let weight = inputs.get_mut("weight").unwrap();
    (weight.layout.offset, weight.allocation_bytes) = (1, 4);
    let outputs = operands(100, &[("loss", Dtype::F32, &[1])]);
    let (loss, profile) = (surprisal::Mse::default(), Profile::default());
    let call = Call::new(inputs, outputs).checked(&loss, profile.offset_alignment).unwrap();
    let plan = loss.plan(&call, &profile).unwrap();
    let role = Role::Input("weight".into());
    let bindings = plan.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
    let ends: Vec<u64> = bindings.filter(|b| b.role == role).map(|b| b.offset + b.size).collect();
    assert!(!ends.is_empty() && ends.iter().all(|end| *end == 4), "{ends:?}");
}
