//! The values that an option's description names, which tests try beside its default.

use serde_json::{Value, json};
use surprisal::operations;

#[test]
fn samples_are_values_and_differ_from_the_default() {
    for entry in operations::all() {
        let default = format!("{:?}", (entry.default)());
        for option in entry.about.options {
            let what = format!("{} {}", entry.about.name, option.name);
            let with = |value: &str| {
                let value: Value = serde_json::from_str(value)
                    .unwrap_or_else(|error| panic!("{what}: {value}: {error}"));
                let parsed = (entry.parse)(&json!({option.name: value}));
                let operation = parsed.unwrap_or_else(|error| panic!("{what}: {error}"));
                format!("{operation:?}")
            };
            assert_eq!(with(option.default), default, "{what}");
            assert!(!option.samples.is_empty(), "{what} has no sample");
            for sample in option.samples {
                assert_ne!(with(sample), default, "{what}: {sample} is the default");
            }
        }
    }
}
