//! Score tiles on cooperative matrices: on those of the hardware if the adapter has some, and on plain WGSL in their
//! place, so that everything but the matrix units is tested (`is_for` in `main.rs` says where).

use surprisal::{
    Cooperative, Dtype, Gpu, LinearCrossEntropy, Profile,
    cooperative::{Finding, Missing, Side},
};

use crate::{
    conformance, linear,
    support::{Context, FLOATS},
};

tests![
    missing_where_the_device_has_none,
    emulated_reference_cases,
    emulated_shapes,
    emulated_storage_types,
    emulated_edges,
    emulated_windows,
    emulated_probe,
    hardware_reference_cases,
    hardware_shapes,
    hardware_storage_types,
    hardware_edges,
    hardware_windows,
    hardware_probe,
];

const LOSSES: [&str; 4] = ["linear_cross_entropy", "info_nce", "sup_con", "sigmoid_contrastive"];

/// A device whose products all use these matrices, whatever their size.
fn on(gpu: &Gpu, cooperative: Cooperative, context: &Context) -> Context {
    let profile = Profile { large_products: 0, cooperative, ..gpu.profile().clone() };
    Context { gpu: gpu.with_profile(profile), adapter: context.adapter.clone() }
}

/// A device with plain WGSL in place of matrices of this size.
fn emulated(context: &Context, side: Side) -> Context {
    let sides = Some(side);
    let cooperative = Cooperative { f16: sides, f32: sides, lanes: 64, emulated: true };
    on(&context.gpu, cooperative, context)
}

/// A device that is opened for the matrices of its hardware, if it has any.
#[expect(
    unsafe_code,
    reason = "wgpu's word for experimental features: these tests are the experiment"
)]
fn opened(context: &Context) -> Option<Gpu> {
    let more = Gpu::cooperative_features(&context.adapter);
    if more.is_empty() {
        return None;
    }
    let (features, required_limits) = Gpu::recommended_device(&context.adapter);
    let descriptor = wgpu::DeviceDescriptor {
        required_features: features | more,
        required_limits,
        // SAFETY: a bug of wgpu's that this meets is one to find here.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = pollster::block_on(context.adapter.request_device(&descriptor)).unwrap();
    Some(Gpu::from_wgpu(&device, &queue))
}

/// The matrices that the hardware offers, even if they are slower.
fn hardware(context: &Context) -> Option<Context> {
    let gpu = opened(context)?;
    let (_, found) = gpu.with_cooperative_matrices(&context.adapter).unwrap();
    let side = |finding: &Finding| match finding {
        Finding::Chosen { side, .. } | Finding::Slower { side, .. } => Some(*side),
        Finding::Missing(Missing::Shape) => None,
        finding => panic!("{finding}"),
    };
    let (f16, f32) = (side(&found.f16), side(&found.f32));
    let lanes = gpu.info().subgroup_max_size.max(8);
    Some(on(&gpu, Cooperative { f16, f32, lanes, emulated: false }, context))
}

fn missing_where_the_device_has_none(context: &Context) {
    let (gpu, found) = context.gpu.with_cooperative_matrices(&context.adapter).unwrap();
    // The device of the tests was opened without the features.
    for finding in [&found.f16, &found.f32] {
        let Finding::Missing(missing) = finding else { panic!("{finding}") };
        let there = !Gpu::cooperative_features(&context.adapter).is_empty();
        let experimental = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        match missing {
            Missing::NotAskedFor(features) => assert!(there && features.contains(experimental)),
            Missing::Feature(features) => assert!(!there && features.contains(experimental)),
            missing => panic!("{missing}"),
        }
        assert!(finding.to_string().contains("EXPERIMENTAL_COOPERATIVE_MATRIX"), "{finding}");
    }
    assert_eq!(gpu.profile(), context.gpu.profile());
    linear::in_place(&Context { gpu, adapter: context.adapter.clone() });
}

fn reference_cases(context: &Context) {
    for loss in LOSSES {
        for (dtype, step) in [(Dtype::F32, 3), (Dtype::F16, 2), (Dtype::Bf16, 5)] {
            conformance::every(context, loss, dtype, step, 0);
        }
    }
}

fn shapes(context: &Context) {
    assert_uses_them(context);
    linear::awkward_shapes(context);
    linear::many_classes(context);
}

fn storage_types(context: &Context) {
    linear::stored(context, &[(33, 1000, 20)]);
}

/// Ignored rows of NaN, bad rows that are kept, no rows.
fn edges(context: &Context) {
    linear::edges(context);
    linear::no_rows(context);
}

/// Chunks, blocks and windows, places in memory, and gradients that are added to what is there: all within the
/// tolerance, whatever the bits are.
fn windows(context: &Context) {
    let profile = context.gpu.profile().clone();
    let profile = Profile { dispatch_products: 30_000, ..profile };
    let gpu = context.gpu.with_profile(profile);
    let cut = Context { gpu, adapter: context.adapter.clone() };
    linear::options(&cut);
    linear::backward_from_a_saved_lse(&cut);
    linear::places_in_memory(context);
    linear::in_place(context);
    linear::run_to_run(context);
}

/// Asserts that the kernels are used, in every type.
fn assert_uses_them(context: &Context) {
    let Cooperative { f16, f32, .. } = context.gpu.profile().cooperative;
    for dtype in FLOATS {
        let plan = linear::plan(context, &LinearCrossEntropy::default(), dtype);
        let entries: Vec<&str> = plan.kernels.iter().map(|kernel| &*kernel.entry).collect();
        let used = f32.is_some() || dtype == Dtype::F16 && f16.is_some();
        assert_eq!(entries.contains(&"product_cooperative"), used, "{dtype}: {entries:?}");
    }
}

fn emulated_reference_cases(context: &Context) {
    reference_cases(&emulated(context, Side::Sixteen));
}

fn emulated_shapes(context: &Context) {
    shapes(&emulated(context, Side::Eight));
    shapes(&emulated(context, Side::Sixteen));
}

/// The larger matrices meet every type in the reference cases.
fn emulated_storage_types(context: &Context) {
    storage_types(&emulated(context, Side::Eight));
}

fn emulated_edges(context: &Context) {
    edges(&emulated(context, Side::Eight));
    edges(&emulated(context, Side::Sixteen));
}

fn emulated_windows(context: &Context) {
    windows(&emulated(context, Side::Eight));
}

/// The whole probe runs: the plain WGSL in place of the matrices is correct, and not faster. Only in f32: software
/// drivers take a minute to compile large tiles of 16 bits.
fn emulated_probe(context: &Context) {
    let finding = context.gpu.probe(Dtype::F32, Side::Eight, 64, true).unwrap();
    let Finding::Slower { speedup, .. } = finding else { panic!("{finding}") };
    assert!(speedup < 1.0, "{speedup}");
    // Matrices of the hardware, for which this device was not opened.
    let refused = context.gpu.probe(Dtype::F32, Side::Eight, 32, false).unwrap();
    assert!(matches!(refused, Finding::Refused { .. }), "{refused}");
}

fn hardware_reference_cases(context: &Context) {
    hardware(context).iter().for_each(reference_cases);
}

fn hardware_shapes(context: &Context) {
    hardware(context).iter().for_each(shapes);
}

fn hardware_storage_types(context: &Context) {
    hardware(context).iter().for_each(storage_types);
}

fn hardware_edges(context: &Context) {
    hardware(context).iter().for_each(edges);
}

fn hardware_windows(context: &Context) {
    hardware(context).iter().for_each(windows);
}

/// The findings are right, and exactly the matrices that were found are used.
fn hardware_probe(context: &Context) {
    let Some(gpu) = opened(context) else { return };
    let (chosen, found) = gpu.with_cooperative_matrices(&context.adapter).unwrap();
    println!("f16: {}; f32: {}", found.f16, found.f32);
    let Cooperative { f16, f32, .. } = chosen.profile().cooperative;
    assert_eq!([f16, f32], [found.f16.chosen(), found.f32.chosen()]);
}
