//! The table of losses in the README has the text that the registry gives.

use surprisal::loss::REGISTRY;

#[test]
fn the_table_of_losses_is_the_registry() {
    let readme = include_str!("../README.md");
    let table = readme.split("## Losses").nth(1).and_then(|rest| rest.split("## ").next());
    let listed: Vec<&str> = table
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let registered: Vec<&str> = REGISTRY.iter().map(|entry| entry.about.name).collect();
    assert_eq!(listed, registered);
}
