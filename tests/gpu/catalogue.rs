//! The catalogue of calls on a device: each call once, anywhere in memory, against the reference; and once more a
//! quad further on, with the same bits.
//!
//! An adapter meets every value, and every pair of values or a share of them.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde_json::json;
use surprisal::{
    Array, Arrays, Gpu, Layout, Named, Operation, Request,
    loss::{About, Dim, Spread},
    testing,
};

use crate::{
    common::{
        catalogue::{self, Call, Output, Space, Types},
        covering::Row,
        values,
    },
    support::{Context, Placed, Reference, assert_same_bits, submit},
};

tests![calls_of_rows];

pub mod elements {
    use super::{Context, Family, every_call};

    tests![calls_of_elements];

    fn calls_of_elements(context: &Context) {
        every_call(context, Family::Elements);
    }
}

pub mod layers {
    use super::{Context, Family, every_call};

    tests![calls_of_layers];

    fn calls_of_layers(context: &Context) {
        every_call(context, Family::Layers);
    }
}

fn calls_of_rows(context: &Context) {
    every_call(context, Family::Rows);
}

/// The family of tests with which a call shares kernels: see `FAMILIES`.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Rows,
    Elements,
    Layers,
}

impl Family {
    fn of(about: &About) -> Self {
        let inputs = || about.inputs.iter().filter(|input| input.required);
        if inputs().any(|input| input.shapes.iter().any(|dims| dims.contains(&Dim::Hidden))) {
            Self::Layers
        } else if inputs().any(|input| input.spread == Spread::Elements)
            || about.outputs.iter().any(|output| output.name == "parts")
        {
            Self::Elements
        } else {
            Self::Rows
        }
    }
}

/// The percentage of the pairs that a software adapter meets, and the seed of its rows; other adapters meet all pairs.
/// Tests on software adapters spend most of their time compiling, and the last pairs need most kernels. These pairs are
/// checked only in the tests that need no GPU. Of the first eight seeds, these need the fewest kernels.
const SHARES: [(&str, usize, u64); 3] =
    [("lavapipe", 85, 0), ("llvmpipe_gl", 50, 3), ("swiftshader", 50, 7)];

fn every_call(context: &Context, family: Family) {
    let adapter = crate::short_name(&context.adapter.get_info());
    let share = SHARES.iter().find(|(name, ..)| *name == adapter);
    let (percent, seed) = share.map_or((100, 0), |&(_, percent, seed)| (percent, seed));
    for space in catalogue::spaces(Types::Alike).filter(|space| Family::of(space.about) == family) {
        let covering = space.cover(seed, context.gpu.profile());
        let rows = covering.meeting(percent);
        // All that fail are told: what they have in common says what is wrong.
        let fails = |row: &&Row| {
            catch_unwind(AssertUnwindSafe(|| held(&context.gpu, &space, row))).is_err()
        };
        let (all, failed) = (rows.len(), rows.into_iter().filter(fails).count());
        assert_eq!(failed, 0, "of {all} calls of {}", space.about.name);
    }
}

/// Runs a call and compares everything that it promises.
fn held(gpu: &Gpu, space: &Space, row: &Row) {
    let call = space.call(row).unwrap();
    let operation = &*space.operation(row).unwrap();
    let gpu = &gpu.with_profile(call.profile(gpu.profile()));
    let inputs = values::inputs(&call, operation, 5);
    let lying = values::as_they_lie(&call, &inputs);
    let begun = begun(&call);
    let run = |shift| Anywhere::new(gpu, &call, [&lying, &begun], shift).run(gpu, operation);
    let outputs = run(0);
    // The reference has the statistics of shards alone. Without shards, `shapes::split_rows` compares those of split rows
    // with those of whole rows.
    let known = |name: &&str| *name != "statistics" || call.options.get("shard").is_some();
    let wanted: Vec<&str> = call.outputs.keys().copied().filter(known).collect();
    let storage = |name: &str| call.outputs[name].layout.dtype;
    if !wanted.is_empty() {
        let reference = Reference::of(operation, &inputs, &wanted, &storage, format!("{call:#?}"));
        reference.added_to(&begun).assert(&outputs);
    }
    assert_same_bits(&run(4), &outputs, &format!("four elements further on: {call:#?}"));
}

/// What the outputs hold that a call adds to.
fn begun(call: &Call) -> Arrays {
    let of_rows = |name: &str| ["grad.hidden", "grad.queries", "grad.features"].contains(&name);
    let adds = |name: &str| match call.options["accumulate"].as_str() {
        Some("rows") => of_rows(name),
        Some("shared") => name.starts_with("grad.") && !of_rows(name),
        _ => false,
    };
    let outputs = call.outputs.iter().filter(|(name, _)| adds(name));
    let array = |(seed, (name, Output { layout, .. })): (u64, (&&str, &Output))| {
        let values = testing::gaussian(seed, layout.len() as usize);
        ((*name).to_owned(), Array::float(&layout.shape, values).rounded(layout.dtype))
    };
    (71..).zip(outputs).map(array).collect()
}

fn by_name<'a>(placed: &'a BTreeMap<&'static str, Placed>) -> Named<'a> {
    placed.iter().map(|(name, placed)| ((*name).to_owned(), placed.tensor())).collect()
}

/// The tensors of a call in buffers of their own.
struct Anywhere<'a> {
    call: &'a Call,
    inputs: BTreeMap<&'static str, Placed>,
    outputs: BTreeMap<&'static str, Placed>,
}

impl<'a> Anywhere<'a> {
    fn new(gpu: &Gpu, call: &'a Call, [inputs, begun]: [&Arrays; 2], shift: u64) -> Self {
        let moved = |layout: &Layout| {
            let offset = layout.offset + shift;
            layout.clone().offset(offset)
        };
        let inputs = call
            .inputs
            .iter()
            .map(|(name, layout)| (*name, Placed::input(gpu, &inputs[*name], moved(layout))));
        let apart = call.outputs.iter().filter(|(_, output)| output.over.is_none());
        let outputs = apart.map(|(name, Output { layout, .. })| {
            let output = match begun.get(*name) {
                Some(array) => Placed::input(gpu, array, moved(layout)),
                None => Placed::output(gpu, moved(layout)),
            };
            (*name, output)
        });
        Self { call, inputs: inputs.collect(), outputs: outputs.collect() }
    }

    /// Runs the call; nothing but its outputs changes.
    fn run(mut self, gpu: &Gpu, operation: &dyn Operation) -> Arrays {
        let over =
            self.call.outputs.iter().filter_map(|(name, output)| Some((*name, output.over?)));
        let over: Vec<(&str, &str)> = over.collect();
        let request = Request::new(operation, by_name(&self.inputs), by_name(&self.outputs));
        let host = self.call.host.iter();
        let request =
            host.fold(request, |request, (name, array)| request.host(name, array.clone()));
        let request = over.iter().fold(request, |request, (output, _)| request.in_place(*output));
        submit(gpu, &request);
        for (name, input) in over {
            self.outputs.insert(name, self.inputs.remove(input).unwrap());
        }
        // The columns of a layer's gradients are no classes: what follows them is left alone.
        let is_layer = Family::of(operation.about()) == Family::Layers;
        for (name, placed) in &mut self.outputs {
            let shapes = operation.about().output(name).map_or(&[][..], |output| output.shapes);
            let has_classes = shapes.contains(&&[Dim::Rows, Dim::Classes][..]);
            let is_padded = (name.starts_with("grad.") || has_classes) && !is_layer;
            if is_padded && self.call.options["padding"] == json!("zero") {
                placed.assert_zero_padding(gpu);
            }
        }
        for placed in self.inputs.values().chain(self.outputs.values()) {
            placed.assert_surroundings(gpu);
        }
        self.outputs.iter().map(|(name, placed)| ((*name).to_owned(), placed.array(gpu))).collect()
    }
}
