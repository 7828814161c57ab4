//! The catalogue of calls: what it covers.

use std::collections::BTreeSet;

use surprisal::Profile;

use crate::common::{
    catalogue::{self, Space, Types},
    covering::{self, Covering, Pair, Row},
};

/// Refused pairs are tried in so many of an operation's calls.
const TRIED: usize = 5;

/// Every two values meet in a call, or are refused with a typed error in whatever call they are put.
#[test]
fn every_pair_is_met_or_refused() {
    let profile = Profile::default().software(8);
    for types in [Types::Alike, Types::Each] {
        for space in catalogue::spaces(types) {
            let covering = space.cover(0, &profile);
            let Covering { rows, refused, .. } = &covering;
            let name = space.about.name;
            println!("{name}: {} calls, {} pairs are refused:", rows.len(), refused.len());
            for (pair, reason) in refused {
                println!("  {}, {}: {reason}", space.describe(pair[0]), space.describe(pair[1]));
                assert_refused(&space, rows, *pair, &profile);
            }
            let all: BTreeSet<Pair> = covering::all_pairs(&space.values()).into_iter().collect();
            let met: BTreeSet<Pair> = rows.iter().flat_map(covering::pairs_of).collect();
            let refused: BTreeSet<Pair> = refused.iter().map(|(pair, _)| *pair).collect();
            assert!(met.is_disjoint(&refused), "{name}");
            assert_eq!(met.len() + refused.len(), all.len(), "{name}");
        }
    }
}

/// A pair is refused in the calls that it is put into.
fn assert_refused(space: &Space, rows: &[Row], pair: Pair, profile: &Profile) {
    for row in rows.iter().take(TRIED) {
        let mut row = row.clone();
        for (factor, value) in pair {
            row[factor] = value;
        }
        let planned = space.planned(&row, profile);
        assert!(
            planned.is_err(),
            "{}: {:?}",
            space.about.name,
            pair.map(|value| space.describe(value))
        );
    }
}

/// Half of an array meets every value that the whole one meets, and half of its pairs, with fewer calls.
#[test]
fn half_of_an_array_has_every_value() {
    let profile = Profile::default().software(8);
    for space in catalogue::spaces(Types::Alike) {
        let covering = space.cover(1, &profile);
        let half = covering.meeting(50);
        let values = |rows: &mut dyn Iterator<Item = &Row>| -> BTreeSet<(usize, u8)> {
            rows.flat_map(|row| row.iter().copied().enumerate()).collect()
        };
        let name = space.about.name;
        assert_eq!(values(&mut half.iter().copied()), values(&mut covering.rows.iter()), "{name}");
        let met = |rows: &mut dyn Iterator<Item = &Row>| {
            rows.flat_map(covering::pairs_of).collect::<BTreeSet<Pair>>().len()
        };
        let (half_met, all) = (met(&mut half.iter().copied()), met(&mut covering.rows.iter()));
        assert!(2 * half_met >= all, "{name}: {half_met} of {all} pairs");
        // A handful of calls saves less.
        assert!(2 * half.len() < covering.rows.len().max(16), "{name}");
    }
}

/// The same seed gives the same calls.
#[test]
fn a_seed_decides_on_the_calls() {
    let space = catalogue::spaces(Types::Alike).next().unwrap();
    let profile = Profile::default().software(8);
    let rows = |seed| space.cover(seed, &profile).rows;
    assert_eq!(rows(3), rows(3));
    assert_ne!(rows(3), rows(4));
}
