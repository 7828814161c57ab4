//! The conventions that hold for every loss, tested on every loss of the registry from its description alone: a new
//! loss is tested without any change here.

#![expect(clippy::panic, reason = "tests")]

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Dtype, Error, Operation,
    loss::{self, About, Dim, Kind},
    operations::Entry,
    testing,
};

use crate::support::{Context, assert_same_bits, check, outcome, vector, with};

tests![no_rows, gradients_from_above, denominators_of_the_caller, run_to_run, losses_of_a_user,];

/// Awkward numbers of rows, classes and depth.
const SHAPE: [u64; 3] = [5, 7, 3];

/// A loss with these options, if it has them.
fn parsed(entry: &Entry, options: &Value) -> Option<Box<dyn Operation>> {
    match (entry.parse)(options) {
        Ok(loss) => Some(loss),
        Err(Error::InvalidOption { .. } | Error::UnknownName { .. }) => None,
        Err(error) => panic!("{}: {error}", entry.about.name),
    }
}

fn has_output(about: &About, name: &str) -> bool {
    about.outputs.iter().any(|output| output.name == name)
}

/// The losses of the registry, without its metrics.
fn losses() -> impl Iterator<Item = &'static Entry> {
    loss::REGISTRY.iter().filter(|entry| has_output(entry.about, "loss"))
}

/// The loss, its sums and counts, and every gradient of an input that is given.
pub fn wanted(about: &About, inputs: &Arrays) -> Vec<&'static str> {
    let names = about.outputs.iter().map(|output| output.name);
    let parts = ["loss", "sum", "denominator", "count"];
    let of_given = |name: &str| name.strip_prefix("grad.").is_some_and(|i| inputs.contains_key(i));
    names.filter(|name| parts.contains(name) || of_given(name)).collect()
}

fn example(entry: &Entry, seed: u64) -> Arrays {
    testing::example_inputs(entry.about, seed, SHAPE)
}

/// Without rows, sum and count are 0, the loss is what `empty` says, and the gradients that exist are exactly 0.
fn no_rows(context: &Context) {
    for entry in losses() {
        // Where the columns are a batch of their own (the fakes of a GAN), this batch is empty too.
        let required = entry.about.inputs.iter().filter(|input| input.required);
        let mut batches = required.filter_map(|input| input.shapes.first());
        let classes = if batches.any(|dims| *dims == [Dim::Fakes]) { 0 } else { SHAPE[1] };
        let inputs = testing::example_inputs(entry.about, 1, [0, classes, SHAPE[2]]);
        let wanted = wanted(entry.about, &inputs);
        for empty in ["nan", "zero"] {
            let name = entry.about.name;
            let loss = parsed(entry, &json!({"empty": empty})).unwrap_or_else(|| panic!("{name}"));
            let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            let value = outputs["loss"].to_f64()[0];
            assert!(if empty == "nan" { value.is_nan() } else { value == 0.0 }, "{name}: {value}");
            assert_eq!((status.bad_rows, status.bad_targets), (0, 0), "{name}");
            for (output, array) in outputs.iter().filter(|(output, _)| *output != "loss") {
                let zeros = output == "status" || array.to_f64().iter().all(|&value| value == 0.0);
                assert!(zeros, "{name} {output}: {array:?}");
            }
        }
    }
}

/// The same inputs with another one, where the loss has it.
fn and(entry: &Entry, inputs: &Arrays, name: &str, array: Array) -> Option<Arrays> {
    let known = entry.about.inputs.iter().any(|input| input.name == name);
    known.then(|| {
        let mut inputs = inputs.clone();
        inputs.insert(name.to_owned(), array);
        inputs
    })
}

/// An upstream gradient scales every gradient and does not change the loss.
fn gradients_from_above(context: &Context) {
    for entry in losses() {
        let inputs = example(entry, 4);
        let above = and(entry, &inputs, "upstream", vector(&[-2.5]));
        let above = above.unwrap_or_else(|| panic!("{} takes no upstream", entry.about.name));
        let wanted = wanted(entry.about, &inputs);
        let loss = (entry.default)();
        let (scaled, _) = check(&context.gpu, &*loss, &above, Dtype::F32, &wanted);
        let (plain, _) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        assert_eq!(scaled["loss"], plain["loss"], "{}", entry.about.name);
        let nothing = with(&inputs, [("upstream", vector(&[0.0]))]);
        let (zero, _) = check(&context.gpu, &*loss, &nothing, Dtype::F32, &wanted);
        for (name, gradient) in zero.iter().filter(|(name, _)| name.starts_with("grad.")) {
            let zeros = gradient.to_f64().iter().all(|&value| value == 0.0);
            assert!(zeros, "{} {name}: {gradient:?}", entry.about.name);
        }
    }
}

/// A denominator in a buffer has the effect of the option with the same number, and 0 is a mean over nothing.
fn denominators_of_the_caller(context: &Context) {
    for entry in losses() {
        let inputs = example(entry, 5);
        let wanted = wanted(entry.about, &inputs);
        let Some(given) = and(entry, &inputs, "denominator", vector(&[2.5])) else { continue };
        let loss = (entry.default)();
        let (here, _) = check(&context.gpu, &*loss, &given, Dtype::F32, &wanted);
        let over = parsed(entry, &json!({"reduction": {"over": 2.5}}));
        let over = over.unwrap_or_else(|| panic!("{}", entry.about.name));
        let (there, _) = outcome(&context.gpu, &*over, &inputs, Dtype::F32, &wanted);
        for name in wanted.iter().filter(|name| **name == "loss" || name.starts_with("grad.")) {
            assert_eq!(here[*name], there[*name], "{} {name}", entry.about.name);
        }
        let none = with(&inputs, [("denominator", vector(&[0.0]))]);
        let (empty, _) = check(&context.gpu, &*loss, &none, Dtype::F32, &wanted);
        assert!(empty["loss"].to_f64()[0].is_nan(), "{}", entry.about.name);
    }
}

fn run_to_run(context: &Context) {
    for entry in loss::REGISTRY {
        let loss = (entry.default)();
        let inputs = example(entry, 6);
        let wanted: Vec<&str> = if has_output(entry.about, "loss") {
            wanted(entry.about, &inputs)
        } else {
            vec![entry.about.outputs[0].name]
        };
        let run = || outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted).0;
        let (mut once, mut twice) = (run(), run());
        once.remove("status");
        twice.remove("status");
        assert_same_bits(&once, &twice, entry.about.name);
    }
}

/// A user's own row loss, on stored scores and on those of a linear layer, follows the same conventions.
fn losses_of_a_user(context: &Context) {
    for loss in crate::common::own::losses() {
        if loss.about().inputs.iter().all(|input| input.kind != Kind::Index) {
            continue; // A loss of elements, which has tests of its own.
        }
        if loss.is_per_row() {
            let inputs = testing::example_inputs(loss.about(), 7, SHAPE);
            let wanted = wanted(loss.about(), &inputs);
            check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            continue;
        }
        for checked in testing::check(&*loss, &context.gpu).unwrap() {
            assert!(checked.comparison.passed, "{loss:?}: {checked}");
        }
    }
}
