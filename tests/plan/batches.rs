//! Which kernels the calls of a training loop need whose batches have different numbers of rows.

use std::{collections::HashSet, sync::Arc};

use surprisal::{
    CrossEntropy, Dtype, InfoNce, LinearCrossEntropy, Plan, Profile, Tile, TileLoads,
    plan::{kernel::Kernel, row_counts},
};

use crate::{linear, plan};

/// The profiles of devices that differ in their tiles: WebGPU's default limits, lavapipe, SwiftShader.
fn profiles() -> [(&'static str, Profile); 3] {
    let loads = |loads, rows| Tile { loads, lanes: 8, across: 8, rows, bands: 4, wide: false };
    let software = |lanes, tile| Profile { tile, ..Profile::default().software(lanes) };
    [
        ("default", Profile::default()),
        ("subgroups of eight", software(8, loads(TileLoads::Eight, 48))),
        ("subgroups of four", software(32, loads(TileLoads::Four, 24))),
    ]
}

fn cross_entropy(rows: u64, profile: &Profile) -> Plan {
    crate::cross_entropy(rows, 50_257, Dtype::F32, profile)
}

fn linear_cross_entropy(rows: u64, profile: &Profile) -> Plan {
    let loss = LinearCrossEntropy::new(CrossEntropy::default());
    linear([rows, 32_768, 128], Dtype::F32, &loss, profile).unwrap()
}

/// The other vectors of the batch are the negatives.
fn info_nce(rows: u64, profile: &Profile) -> Plan {
    let shape = [rows, 128];
    let vectors = |name| (name, Dtype::F32, &shape[..]);
    plan(
        &InfoNce::default().normalize(true).symmetric(true),
        &[vectors("queries"), vectors("keys")],
        &[("loss", Dtype::F32, &[1]), vectors("grad.queries"), vectors("grad.keys")],
        profile,
    )
    .unwrap()
}

type Planned = fn(u64, &Profile) -> Plan;

const CALLS: [(&str, Planned); 3] = [
    ("cross_entropy", cross_entropy),
    ("linear_cross_entropy", linear_cross_entropy),
    ("info_nce", info_nce),
];

fn kernels(plan: Plan) -> HashSet<Arc<Kernel>> {
    plan.kernels.into_iter().collect()
}

/// The row counts that are found need all kernels that any row count needs.
#[test]
fn all_kernels_are_found() {
    for (device, profile) in profiles() {
        for (name, planned) in CALLS {
            let all: HashSet<Arc<Kernel>> =
                (1..=256).flat_map(|rows| kernels(planned(rows, &profile))).collect();
            let whole = kernels(planned(256, &profile)).len();
            let counts = row_counts(1..=256, |rows| Ok(planned(rows, &profile))).unwrap();
            println!("{device}: {name}: {} kernels, {whole} of 256 rows: {counts:?}", all.len());
            let found = counts.iter().flat_map(|&rows| kernels(planned(rows, &profile)));
            assert_eq!(found.collect::<HashSet<_>>(), all, "{device}: {name}");
        }
    }
}

/// Far apart row counts are searched for the row count at which kernels change.
#[test]
fn a_change_is_found_between_row_counts() {
    let profile = Profile::default();
    // Few rows share their long rows between workgroups; from 256 on each row has one.
    let counts = row_counts(1..=100_000, |rows| Ok(cross_entropy(rows, &profile))).unwrap();
    assert_eq!(counts[..2], [1, 256], "{counts:?}");
    let none =
        row_counts(std::ops::RangeInclusive::new(3, 2), |rows| Ok(cross_entropy(rows, &profile)));
    assert!(none.unwrap().is_empty());
}

/// A last chunk, or a last block of classes, needs no kernel that the others do not need.
#[test]
fn a_last_chunk_needs_no_kernel_of_its_own() {
    for (device, profile) in profiles() {
        for chunk_bytes in [96 * 4096 * 4, 64 * 1024 * 4] {
            let loss = LinearCrossEntropy::new(CrossEntropy::default()).chunk_bytes(chunk_bytes);
            let of = |rows, classes| {
                kernels(linear([rows, classes, 512], Dtype::F32, &loss, &profile).unwrap())
            };
            let even = of(96 * 8, 4096);
            for (rows, classes) in
                [(96 * 8 + 1, 4096), (96 * 8 + 17, 4096), (96 * 8, 4096 - 1024 + 32)]
            {
                let more = of(rows, classes).difference(&even).count();
                assert_eq!(
                    more, 0,
                    "{device}: {rows} rows, {classes} classes, {chunk_bytes} bytes"
                );
            }
        }
    }
}
