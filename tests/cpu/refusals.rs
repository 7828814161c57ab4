//! The CPU path and the GPU path refuse the same calls with the same error. Invalid calls are made for every operation
//! of the registry from its description.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Data, Dtype, Error, Layout, Operation, Profile, Result, cpu,
    loss::{self, About, Dim, Kind},
    plan::{Call, Operand},
    stored_dtype, testing,
};

use crate::{indices, named, none, vector};

/// The result of a call on host arrays on the GPU, up to its plan; and whether the inputs alone are already refused,
/// as happens where outputs are made for them.
fn planned(loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]) -> (Result<()>, bool) {
    let operand = |(at, (name, layout)): (usize, (String, Layout))| {
        let operand =
            Operand { name: name.clone(), layout, allocation: at, allocation_bytes: u64::MAX };
        (name, operand)
    };
    let operands = |first: usize, layouts: Vec<(String, Layout)>| {
        (first..).zip(layouts).map(operand).collect::<BTreeMap<_, _>>()
    };
    let input = |(name, array): (&String, &Array)| {
        let stored = stored_dtype(loss, name, Dtype::F32);
        let dtype = match array.data {
            Data::Int(_) if is_logits(loss, name) => Dtype::I8,
            Data::Int(_) if stored.is_float() => Dtype::I64,
            Data::Float(_) if !stored.is_float() => Dtype::F32,
            _ => stored,
        };
        (name.clone(), Layout::dense(dtype, &array.shape))
    };
    let is_host = |(name, _): &(String, Array)| loss.about().is_host_input(name);
    let (host, inputs): (Arrays, Arrays) = inputs.clone().into_iter().partition(is_host);
    let inputs: Vec<_> = inputs.iter().map(input).collect();
    let given = operands(0, inputs.clone());
    let profile = Profile::default();
    let call = |outputs| Call { host: host.clone(), ..Call::new(given.clone(), outputs) };
    let known = match call(BTreeMap::new()).checked(loss, profile.offset_alignment) {
        Ok(known) => known,
        Err(error) => return (Err(error), true),
    };
    let output = |name: &str| {
        // The given shape is used, because a checked call has its rows in one axis.
        let of_input = name.strip_prefix("grad.").and_then(|name| given.get(name));
        let argument = loss.about().outputs.iter().find(|output| output.name == name);
        let layout = match (of_input, argument) {
            (Some(Operand { layout, .. }), _) if layout.dtype == Dtype::I8 => {
                Layout::dense(Dtype::F32, &layout.shape)
            }
            (Some(input), _) => input.layout.clone(),
            (None, None) => Layout::vector(Dtype::F32, 1),
            (None, Some(argument)) => {
                let first = given.get(loss.about().inputs[0].name);
                let rank = first.map_or(1, |operand| operand.layout.shape.len());
                let extents = |dim: &Dim| match known.axes.get(dim) {
                    Some(axes) => axes.clone(),
                    None => vec![known.dim(*dim)],
                };
                let shape: Vec<u64> =
                    argument.shape_in(loss, rank).iter().flat_map(extents).collect();
                let dtype = match argument.kind {
                    Kind::U32 => Dtype::U32,
                    Kind::I64 => Dtype::I64,
                    _ => Dtype::F32,
                };
                Layout::dense(dtype, &shape)
            }
        };
        (name.to_owned(), layout)
    };
    let outputs = wanted.iter().map(|name| output(name)).collect();
    let outputs = operands(inputs.len(), outputs);
    let checked = call(outputs).checked(loss, profile.offset_alignment);
    (checked.and_then(|call| loss.plan(&call, &profile).map(|_| ())), false)
}

/// Whether the integers of an input are quantised logits.
fn is_logits(loss: &dyn Operation, name: &str) -> bool {
    loss.about().inputs.iter().any(|input| input.name == name && input.kind == Kind::Logits)
}

/// An invalid call: what was changed in a valid call, its inputs, and the outputs it asks for.
type Bad = (String, Arrays, Vec<String>);

fn bad_calls(about: &About, inputs: &Arrays) -> Vec<Bad> {
    let loss = || vec![about.outputs[0].name.to_owned()];
    let mut calls: Vec<Bad> = Vec::new();
    let changed = |name: &str, array: Array| {
        let mut inputs = inputs.clone();
        inputs.insert(name.to_owned(), array);
        inputs
    };
    calls.push(("an unknown input".to_owned(), changed("nonsense", vector(&[1.0])), loss()));
    calls.push(("an unknown output".to_owned(), inputs.clone(), vec!["nonsense".to_owned()]));
    for name in inputs.keys() {
        let mut without = inputs.clone();
        without.remove(name);
        calls.push((format!("no {name}"), without, loss()));
    }
    for input in about.inputs {
        let name = input.name;
        let floats =
            |shape: &[u64]| Array::float(shape, vec![1.0; shape.iter().product::<u64>() as usize]);
        let integers =
            |shape: &[u64]| Array::int(shape, vec![1; shape.iter().product::<u64>() as usize]);
        let integers_kinds = [Kind::Index, Kind::Label, Kind::U32, Kind::I64, Kind::I8];
        let is_integer = integers_kinds.contains(&input.kind);
        for shape in [
            &[1][..],
            &[3],
            &[5],
            &[7],
            &[40],
            &[5, 1],
            &[5, 7],
            &[7, 5],
            &[6, 7],
            &[2, 3, 4],
            &[40, 8],
        ] {
            let array = if is_integer { integers(shape) } else { floats(shape) };
            for outputs in
                [loss(), about.outputs.iter().map(|output| output.name.to_owned()).collect()]
            {
                calls.push((format!("{name} of {shape:?}"), changed(name, array.clone()), outputs));
            }
        }
        let other = if is_integer { floats(&[5]) } else { integers(&[5]) };
        calls.push((format!("{name} of another type"), changed(name, other), loss()));
        let mut short = floats(&[5]);
        short.shape = vec![6];
        calls.push((format!("{name} with too few elements"), changed(name, short), loss()));
        // Each shape is tried with every single output, because some outputs exclude each other.
        let usual = input.shapes[0].iter().map(|dim| match dim {
            Dim::Rows => 5,
            Dim::Classes | Dim::AllClasses => 7,
            Dim::Hidden => 3,
            Dim::State => 8,
            _ => 1,
        });
        let shape: Vec<u64> = usual.collect();
        let array = if is_integer { integers(&shape) } else { floats(&shape) };
        for output in about.outputs {
            let name = format!("{name} beside {}", output.name);
            calls.push((name, changed(input.name, array.clone()), vec![output.name.to_owned()]));
        }
    }
    calls
}

#[test]
fn both_paths_refuse_the_same() {
    let options = |about: &About| {
        let has = |name: &str| about.options.iter().any(|option| option.name == name);
        let mut all = vec![json!({})];
        let mut push = |name: &str, value: Value| {
            if has(name) {
                all.push(json!({ name: value }));
            }
        };
        push("reduction", json!("none"));
        push("reduction", json!("sum"));
        push("reduction", json!({"over": 2.0}));
        push("weight_layout", json!("hidden_classes"));
        push("per", json!("batch"));
        push("per", json!("channel"));
        push("symmetric", json!(true));
        push("focal_gamma", json!(2.0));
        push("smoothing", json!("ordinal"));
        push("shard", json!({"first": 2, "classes": 20}));
        push("shard", json!({"first": 15, "classes": 20}));
        push("k", json!(9));
        push("target", json!(1.0));
        push("unknown_target", json!(-1.0));
        push("activation", json!("sigmoid"));
        all
    };
    let (mut tried, mut refused) = (0, 0);
    for entry in loss::REGISTRY {
        let about = entry.about;
        for options in options(about) {
            let Ok(loss) = (entry.parse)(&options) else { continue };
            let inputs = testing::example_inputs(loss.about(), 1, [5, 7, 3]);
            let good = (
                String::from("nothing"),
                inputs.clone(),
                vec![loss.about().outputs[0].name.to_owned()],
            );
            for (what, inputs, wanted) in bad_calls(loss.about(), &inputs).into_iter().chain([good])
            {
                let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
                let on_cpu = cpu::run(&*loss, &inputs, &wanted).map(|_| ());
                // The state of a row is an output only of the kernels if there are no shards; the reference does not
                // have it.
                let has_no_reference = about.name.ends_with("cross_entropy")
                    && options.get("shard").is_none()
                    && wanted.contains(&"statistics");
                // An array whose length contradicts its shape cannot exist on a GPU; a mask of integers is stored as
                // its shape says.
                if !has_no_reference && !what.contains("too few") && what != "mask of another type"
                {
                    let (on_gpu, early) = planned(&*loss, &inputs, &wanted);
                    let call = format!("{} {options}: {what} {wanted:?}", about.name);
                    if let Err(error) = &on_cpu {
                        assert_names(loss.about(), error, &call);
                    }
                    assert!(
                        if early { on_cpu.is_err() } else { on_cpu == on_gpu },
                        "{call}\n{on_cpu:?}\n{on_gpu:?}"
                    );
                }
                tried += 1;
                refused += usize::from(on_cpu.is_err());
            }
        }
    }
    assert!(refused > 1000 && tried > refused + 300, "{refused} of {tried} calls were refused");
}

/// An error names the operation that was called and its own arguments and options, also where a loss that the operation
/// is made of has found it.
#[track_caller]
fn assert_names(about: &About, error: &Error, call: &str) {
    let known = |name: &str| {
        let arguments = about.inputs.iter().chain(about.outputs);
        let mut names = arguments.map(|argument| argument.name).chain(["nonsense", "the options"]);
        names.any(|own| own == name) || is_option(about, name) || is_extent(about, name)
    };
    let (operation, names): (Option<&str>, Vec<&str>) = match error {
        Error::InvalidOption { operation: loss, option, .. } => (Some(loss), vec![option]),
        Error::UnknownName { operation: loss, name, .. } => (Some(loss), vec![name]),
        Error::MissingInput { operation: loss, argument, .. } => (Some(loss), vec![argument]),
        Error::Conflict { operation: loss, argument, other, .. } => {
            (Some(loss), vec![argument, other])
        }
        Error::NoOutput { operation, .. } | Error::InPlace { operation, .. } => {
            (Some(operation), vec![])
        }
        Error::WrongShape { argument, .. }
        | Error::WrongDtype { argument, .. }
        | Error::WrongStride { argument, .. }
        | Error::InputValue { argument, .. }
        | Error::ClassStride { argument, .. } => (None, vec![argument]),
        _ => (None, vec![]),
    };
    assert!(operation.is_none_or(|name| name == about.name), "{call}\n{error}");
    assert!(names.iter().all(|name| known(name)), "{call}\n{error}");
}

fn is_option(about: &About, name: &str) -> bool {
    name == "options" || about.options.iter().any(|option| option.name == name)
}

fn is_extent(about: &About, name: &str) -> bool {
    let arguments = about.inputs.iter().chain(about.outputs);
    arguments
        .flat_map(|argument| argument.shapes.iter().flat_map(|dims| *dims))
        .any(|dim| dim.name() == name)
}

/// Options out of their domain are refused in the name of the operation that was called.
#[test]
fn options_are_refused_by_name() {
    let mut refused = 0;
    for entry in loss::REGISTRY {
        for option in entry.about.options {
            let wrong =
                [json!(-1.0), json!(0.0), json!(-1), json!({"over": 0.0}), json!([1, 2, 3, 4, 5])];
            for value in wrong {
                if let Err(error) = (entry.parse)(&json!({ option.name: value })) {
                    assert_names(entry.about, &error, &format!("{} = {value}", option.name));
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// A call that asks for nothing is refused, on the CPU and before a device sees it.
#[test]
fn a_call_without_outputs() {
    for entry in loss::REGISTRY {
        let loss = (entry.default)();
        let inputs = testing::example_inputs(entry.about, 1, [5, 7, 3]);
        match cpu::run(&*loss, &inputs, &[]).unwrap_err() {
            Error::NoOutput { operation, known } => {
                assert_eq!(*operation, *entry.about.name);
                assert!(known.starts_with(entry.about.outputs[0].name), "{known}");
            }
            // The defaults of some operations are not enough for a call.
            error => assert_names(entry.about, &error, "no output"),
        }
    }
}

/// A saved lse is only for gradients, on the CPU and on the GPU.
#[test]
fn a_saved_lse_beside_a_loss() {
    let logits = crate::logits(1, &[1.0, 2.0]);
    let inputs = named([("logits", logits), ("targets", indices(&[0])), ("lse", vector(&[1.0]))]);
    let error = cpu::run(&none(), &inputs, &["loss"]).unwrap_err();
    assert!(
        matches!(&error, Error::Conflict { argument, other, .. } if &**argument == "lse" && &**other == "loss"),
        "{error}"
    );
    cpu::run(&none(), &inputs, &["grad.logits", "status"]).unwrap();
}
