//! Which products use cooperative matrices, and that plans with such products keep to the limits.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;
use surprisal::{
    Cooperative, Dtype, Error, LinearCrossEntropy, Plan, Profile, cooperative::Side,
    plan::kernel::Kernel,
};

use crate::{assert_within_limits, common, layouts, linear};

/// The products of a plan on cooperative matrices, by their labels, and those on plain tiles.
fn products(plan: &Plan) -> [BTreeSet<String>; 2] {
    let of = |cooperative: bool| {
        let kernels = plan.kernels.iter().filter(|kernel| {
            kernel.label.contains(".linear.")
                && kernel.entry.starts_with("product")
                && (kernel.entry == "product_cooperative") == cooperative
        });
        let name = |kernel: &Arc<Kernel>| kernel.label.split('.').nth(2).unwrap().to_owned();
        kernels.map(name).collect()
    };
    [of(true), of(false)]
}

/// Only the profile decides which products use cooperative matrices; by default none do.
#[test]
fn cooperative_matrices_are_for_products_of_their_type() {
    let side = Some(Side::Sixteen);
    let of = |f16, f32| Cooperative { f16, f32, lanes: 32, emulated: false };
    let shape = [100, 50_000, 64];
    let (scores, gradients) = (["scores"], ["hidden_gradient", "weight_gradient"]);
    for (cooperative, dtype, chosen) in [
        (Cooperative::default(), Dtype::F16, vec![]),
        (of(side, None), Dtype::F16, scores.to_vec()),
        // Gradients of scores are f32, and bf16 has a larger range than f16.
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
            // A sum over rows has only one operand.
            assert!(plain.contains("bias_gradient"), "{what}: {plain:?}");
            assert!(found.is_disjoint(&plain), "{what}: {found:?} and {plain:?}");
        }
    }
}

/// Small layers use the plain tile, whatever the number of rows is, and however narrow blocks of classes are.
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

/// Every specialisation, also for small products, keeps to the limits, and no walk is so long that a driver ends it.
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
    // Profiles in JSON from before cooperative matrices existed still parse.
    assert_eq!(serde_json::from_str::<Profile>("{}").unwrap(), Profile::default());
    let given = json!({"cooperative": {"f16": "sixteen", "lanes": 32}});
    let profile: Profile = serde_json::from_value(given).unwrap();
    let f16 = Some(Side::Sixteen);
    let expected = Cooperative { f16, lanes: 32, ..Cooperative::default() };
    assert_eq!(profile.cooperative, expected);
}
