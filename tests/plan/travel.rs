//! Plans to JSON and back.

use surprisal::Plan;

use crate::common;

/// What comes back has everything: it is equal, and it has the same JSON, with labels, bindings and parameters.
#[test]
fn every_plan_reads_back() {
    for plan in common::plans() {
        let text = serde_json::to_string(plan).unwrap();
        let read: Plan = serde_json::from_str(&text).unwrap();
        assert!(read == *plan, "{plan}");
        assert!(serde_json::to_string(&read).unwrap() == text, "{plan}");
    }
}

/// A plan that was read back is printed before anybody has checked it.
#[test]
fn a_plan_with_any_numbers_is_printed() {
    let mut plan = common::plans()[0].clone();
    plan.dispatches[0].bindings[0].offset = u64::MAX;
    assert!(plan.to_string().contains(&format!("{0}..{0}", u64::MAX)));
}
