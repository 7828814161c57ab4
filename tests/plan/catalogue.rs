//! The catalogue of calls: what it covers.

use std::collections::BTreeSet;

use crate::common::{
    catalogue,
    covering::{self, Pair},
};

#[test]
fn every_pair_is_met_or_refused() {
    let profile = surprisal::Profile::default().software(8);
    let started = std::time::Instant::now();
    let mut all_kernels = BTreeSet::new();
    for space in catalogue::spaces(if std::env::var("EACH").is_ok() {
        catalogue::Types::Each
    } else {
        catalogue::Types::Alike
    }) {
        let begun = std::time::Instant::now();
        let covering = space.cover(0);
        let seconds = begun.elapsed().as_secs_f64();
        let all: BTreeSet<Pair> = covering::all_pairs(&space.values()).into_iter().collect();
        let met: BTreeSet<Pair> = covering.rows.iter().flat_map(covering::pairs_of).collect();
        let refused: BTreeSet<Pair> = covering.refused.iter().map(|(pair, _)| *pair).collect();
        let mut kernels = BTreeSet::new();
        for row in &covering.rows {
            for kernel in space.planned(row, &profile).unwrap().kernels {
                let code =
                    format!("{:?}{}", kernel.overrides, kernel.wgsl().split_once('\n').unwrap().1);
                kernels.insert((kernel.entry, code));
            }
        }
        let half = covering.half(&space.values()).len();
        println!(
            "{:24} {:3} factors {:6} pairs {:5} refused {:3} rows ({half} half) {:6} asked {:5} kernels {seconds:.2} s",
            space.about.name,
            space.values().len(),
            all.len(),
            refused.len(),
            covering.rows.len(),
            covering.asked,
            kernels.len(),
        );
        all_kernels.extend(kernels);
        for (pair, reason) in covering.refused.iter() {
            if std::env::var("SHOW").is_ok() {
                println!("    {} + {}: {reason}", space.describe(pair[0]), space.describe(pair[1]));
            }
        }
        assert!(met.is_disjoint(&refused));
        assert_eq!(met.len() + refused.len(), all.len());
    }
    println!("{} kernels, {:.1} s", all_kernels.len(), started.elapsed().as_secs_f64());
}
