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
