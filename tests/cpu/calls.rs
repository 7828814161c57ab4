//! Calls of an operation with lists, a host input, and outputs over inputs: which calls are refused, and with which
//! error.

use std::collections::{BTreeMap, BTreeSet};

use surprisal::{
    Array, Arrays, CrossEntropy, Dtype, Error, GanDiscriminator, InfoNce, Layout,
    LinearCrossEntropy, Operation, Profile, Result, Signature, cpu,
    loss::{About, Argument, Dim, Kind, Spread},
    plan::{Call, Operand, Role},
};

use crate::{descent::Descent, named, vector};

fn operands(first: usize, tensors: &[(&str, &[u64])]) -> BTreeMap<String, Operand> {
    let operand = |(nth, (name, shape)): (usize, &(&str, &[u64]))| {
        let (name, layout) = ((*name).to_owned(), Layout::dense(Dtype::F32, shape));
        let allocation = first + nth;
        (name.clone(), Operand { name, layout, allocation, allocation_bytes: 1 << 20 })
    };
    tensors.iter().enumerate().map(operand).collect()
}

/// Checks a call with learning rates for three tensors.
fn checked(inputs: &[(&str, &[u64])], outputs: &[(&str, &[u64])]) -> Result<Call> {
    let host = named([("rates", vector(&[1.0; 3]))]);
    Call { host, ..Call::new(operands(0, inputs), operands(100, outputs)) }.checked(&Descent, 256)
}

#[test]
fn lists_have_shapes_tensor_by_tensor() {
    let inputs: [(&str, &[u64]); 4] = [
        ("parameters.0", &[2, 3]),
        ("parameters.1", &[5]),
        ("gradient.0", &[2, 3]),
        ("gradient.1", &[5]),
    ];
    let call = checked(&inputs, &[("parameters.1", &[5])]).unwrap();
    assert_eq!(call.list("parameters"), ["parameters.0", "parameters.1"]);
    let one = checked(&[("parameters", &[4]), ("gradient", &[4])], &[("parameters", &[4])]);
    assert_eq!(one.unwrap().list("parameters"), ["parameters"]);
    let mut wrong = inputs;
    wrong[3].1 = &[6];
    let error = checked(&wrong, &[]).unwrap_err();
    assert!(
        matches!(&error, Error::WrongShape { argument, .. } if &**argument == "gradient.1"),
        "{error}"
    );
    let error = checked(&inputs, &[("parameters.1", &[2, 3])]).unwrap_err();
    assert!(
        matches!(&error, Error::WrongShape { argument, .. } if &**argument == "parameters.1"),
        "{error}"
    );
}

#[test]
fn lists_have_no_gaps_and_the_same_length() {
    for (inputs, missing) in [
        (&["parameters.0", "parameters.2"][..], "parameters.1"),
        (&["parameters.1"], "parameters.0"),
        (&["parameters.0", "parameters.1", "gradient.0"], "gradient.1"),
        (&["parameters.0", "gradient.0", "gradient.1"], "parameters.1"),
        (&["parameters.0", "gradient.1"], "parameters.1"),
        (&["gradient.0"], "parameters"),
    ] {
        let tensors: Vec<(&str, &[u64])> = inputs.iter().map(|&name| (name, &[3][..])).collect();
        let error = checked(&tensors, &[]).unwrap_err();
        let is_missing =
            matches!(&error, Error::MissingInput { argument, .. } if &**argument == missing);
        assert!(is_missing, "{inputs:?}: {error}");
        let arrays = tensors.iter().map(|(name, _)| ((*name).to_owned(), vector(&[0.0; 3])));
        let mut arrays: Arrays = arrays.collect();
        arrays.insert("rates".to_owned(), vector(&[1.0; 3]));
        let on_cpu = cpu::run(&Descent, &arrays, &[]).unwrap_err();
        assert_eq!(on_cpu.to_string(), error.to_string());
    }
    for inputs in [["parameters", "parameters.0"], ["parameters.0", "gradient"]] {
        let error = checked(&inputs.map(|name| (name, &[3][..])), &[]).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{inputs:?}: {error}");
    }
    for name in ["parameters.01", "parameters.+1", "parameters.", "parameters.x", "parameters.-1"] {
        let error = checked(&[("parameters.0", &[3]), (name, &[3])], &[]).unwrap_err();
        assert!(matches!(error, Error::UnknownName { .. }), "{name}: {error}");
    }
    let error = checked(&[("parameters.0", &[3])], &[("parameters.1", &[3])]).unwrap_err();
    assert!(matches!(error, Error::UnknownName { .. }), "{error}");
}

#[test]
fn lists_are_computed_tensor_by_tensor() {
    let inputs = named([
        ("parameters.0", vector(&[1.0, 2.0])),
        ("parameters.1", Array::float(&[1, 1], vec![3.0])),
        ("gradient.0", vector(&[10.0, 20.0])),
        ("gradient.1", Array::float(&[1, 1], vec![30.0])),
        ("rates", vector(&[0.1, 0.2])),
    ]);
    let outputs = cpu::run(&Descent, &inputs, &["parameters.1", "parameters.0"]).unwrap();
    assert_eq!(outputs["parameters.0"], vector(&[0.0, 0.0]));
    assert_eq!(outputs["parameters.1"], Array::float(&[1, 1], vec![-3.0]));
}

#[test]
fn inputs_of_the_host_are_no_tensors() {
    let refused = |call: Call| call.checked(&Descent, 256).unwrap_err();
    let tensors = operands(0, &[("parameters", &[4]), ("rates", &[1])]);
    let error = refused(Call::new(tensors, BTreeMap::new()));
    assert!(
        matches!(&error, Error::HostInput { argument, .. } if &**argument == "rates"),
        "{error}"
    );
    let both = Call::new(operands(0, &[("parameters", &[4]), ("rates", &[1])]), BTreeMap::new());
    let error = refused(Call { host: named([("rates", vector(&[1.0]))]), ..both });
    assert!(
        matches!(&error, Error::HostInput { argument, .. } if &**argument == "rates"),
        "{error}"
    );
    let host = named([("parameters", vector(&[0.0; 4])), ("rates", vector(&[1.0]))]);
    let error = refused(Call { host, ..Call::default() });
    assert!(
        matches!(&error, Error::HostInput { argument, .. } if &**argument == "parameters"),
        "{error}"
    );
    let with_rates = |rates: Array| {
        let call = Call::new(operands(0, &[("parameters", &[4])]), BTreeMap::new());
        refused(Call { host: named([("rates", rates)]), ..call })
    };
    assert!(matches!(with_rates(Array::int(&[1], vec![1])), Error::WrongDtype { .. }));
    assert!(matches!(with_rates(Array::float(&[2, 2], vec![1.0; 4])), Error::WrongShape { .. }));
    assert!(matches!(with_rates(Array::float(&[5], vec![1.0; 4])), Error::WrongShape { .. }));
}

#[test]
fn outputs_are_written_over_the_input_they_are_declared_for() {
    let inputs: [(&str, &[u64]); 2] = [("logits", &[4, 4]), ("targets", &[4])];
    let inputs_of = |outputs: &[(&str, &[u64])]| {
        let mut call_inputs = operands(0, &inputs);
        call_inputs
            .entry("targets".to_owned())
            .and_modify(|o| o.layout = Layout::vector(Dtype::I32, 4));
        let mut outputs = operands(100, outputs);
        let in_place: BTreeSet<String> = outputs.keys().cloned().collect();
        for output in outputs.values_mut() {
            output.allocation = 0;
        }
        Call { in_place, ..Call::new(call_inputs, outputs) }
    };
    let loss = CrossEntropy::default();
    let call = inputs_of(&[("grad.logits", &[4, 4])]);
    assert!(call.clone().checked(&loss, 256).unwrap().is_in_place("grad.logits"));
    let moved = |change: &dyn Fn(&mut Operand)| {
        let mut call = call.clone();
        call.outputs.values_mut().for_each(change);
        call.checked(&loss, 256).unwrap_err()
    };
    for error in [
        moved(&|output| output.allocation = 7),
        moved(&|output| output.layout.offset = 64),
        moved(&|output| output.layout.dtype = Dtype::F16),
        moved(&|output| output.layout.row_stride = 8),
    ] {
        let reason = "does not lie where `logits` lies";
        assert!(
            matches!(error, Error::InPlace { .. }) && error.to_string().contains(reason),
            "{error}"
        );
    }
    let error = inputs_of(&[("lse", &[4])]).checked(&loss, 256).unwrap_err();
    assert!(matches!(&error, Error::InPlace { output, .. } if &**output == "lse"), "{error}");
    assert!(error.to_string().contains("grad.logits"), "{error}");
    let pairs = operands(0, &[("queries", &[4, 8]), ("keys", &[4, 8])]);
    let in_place = BTreeSet::from(["grad.queries".to_owned()]);
    let outputs = operands(0, &[("grad.queries", &[4, 8])]);
    let call = Call { in_place, ..Call::new(pairs, outputs) };
    let error = call.checked(&InfoNce::default(), 256).unwrap_err();
    assert!(error.to_string().ends_with("no output of this operation can"), "{error}");
    // Of a composed loss too, the error names the caller's own output.
    let mut call = Call::new(operands(0, &[("real", &[4]), ("fake", &[3])]), BTreeMap::new());
    call.outputs = operands(9, &[("grad.fake", &[3])]);
    call.in_place.insert("grad.fake".to_owned());
    let error = call.checked(&GanDiscriminator::default(), 256).unwrap_err();
    assert!(matches!(&error, Error::InPlace { output, .. } if &**output == "grad.fake"), "{error}");
}

/// Two outputs that may be written over one input, and one over an input that a call may lack.
#[derive(Debug)]
struct Stateful;

const ANY: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes], &[Dim::Rows]];

const fn tensor(name: &'static str) -> Argument {
    Argument::optional(name, Kind::F32, ANY, "").spread(Spread::Elements)
}

static STATEFUL: About = About {
    name: "stateful",
    summary: "",
    formula: "",
    pytorch: "",
    inputs: &[tensor("value").list(), tensor("state").list()],
    outputs: &[
        tensor("value").list().over("value"),
        tensor("state").list().over("state"),
        tensor("twin").list().over("value"),
    ],
    options: &[],
};

impl Signature for Stateful {
    fn about(&self) -> &'static About {
        &STATEFUL
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn is_per_row(&self) -> bool {
        false
    }
}

#[test]
fn an_output_over_an_absent_input_has_the_first_inputs_shape() {
    let state = |shape: &[u64]| {
        let inputs = operands(0, &[("value.0", &[2, 3]), ("value.1", &[5])]);
        Call::new(inputs, operands(9, &[("state.1", shape)])).checked(&Stateful, 256)
    };
    state(&[5]).unwrap();
    let error = state(&[1]).unwrap_err();
    assert!(
        matches!(&error, Error::WrongShape { argument, .. } if &**argument == "state.1"),
        "{error}"
    );
    let mut call = state(&[5]).unwrap();
    call.in_place.insert("state.1".to_owned());
    let error = call.checked(&Stateful, 256).unwrap_err();
    assert!(matches!(error, Error::InPlace { .. }), "{error}");
}

#[test]
fn two_outputs_are_not_written_over_one_input() {
    let mut call = Call::new(operands(0, &[("value", &[3])]), BTreeMap::new());
    for name in ["value", "twin"] {
        let output = Operand { name: name.to_owned(), ..call.inputs["value"].clone() };
        call.outputs.insert(name.to_owned(), output);
        call.in_place.insert(name.to_owned());
    }
    let error = call.checked(&Stateful, 256).unwrap_err();
    assert!(matches!(error, Error::InPlace { .. }), "{error}");
}

#[test]
fn lists_have_extents_too() {
    let empty = Call::new(operands(0, &[("value.0", &[3, 0])]), BTreeMap::new());
    assert!(matches!(empty.checked(&Stateful, 256), Err(Error::WrongShape { .. })));
    let long = Call::new(operands(0, &[("value.0", &[1 << 32])]), BTreeMap::new());
    assert!(matches!(long.checked(&Stateful, 256), Err(Error::BufferTooSmall { .. })));
    let mut long = operands(0, &[("value.0", &[1 << 32])]);
    for operand in long.values_mut() {
        operand.allocation_bytes = 1 << 40;
    }
    let long = Call::new(long, BTreeMap::new()).checked(&Stateful, 256);
    assert!(matches!(long, Err(Error::Limit { .. })), "{long:?}");
}

#[test]
fn calls_with_lists_and_host_inputs_survive_json() {
    let mut call = checked(&[("parameters.0", &[4]), ("parameters.1", &[2])], &[]).unwrap();
    // A parser that is not exact changes the last bit of this number.
    call.host.insert("rates".to_owned(), vector(&[0.000_970_805_265_241_332_1, 1.0, -2.0]));
    let text = serde_json::to_string(&call).unwrap();
    let back: Call = serde_json::from_str(&text).unwrap();
    assert_eq!(back, call);
    assert!(call.has("parameters") && call.has("rates") && !call.has("gradient"));
    // What is checked once is checked again.
    assert_eq!(back.checked(&Descent, 256).unwrap(), call);
}

#[test]
fn tensors_past_their_buffers_are_refused() {
    let at = |shape: &[u64], offset: u64| {
        let mut inputs = operands(0, &[("value.0", shape)]);
        for operand in inputs.values_mut() {
            operand.layout.offset = offset;
        }
        Call::new(inputs, BTreeMap::new()).checked(&Stateful, 0)
    };
    for shape in [&[0, 3][..], &[2, 3]] {
        at(shape, 0).unwrap();
        for offset in [1 << 40, u64::MAX / 4, u64::MAX / 4 - 7, u64::MAX - 2] {
            let error = at(shape, offset).unwrap_err();
            assert!(matches!(error, Error::BufferTooSmall { .. }), "{shape:?} {offset}: {error}");
        }
    }
}

/// A linear loss whose weights come from the host.
#[derive(Debug)]
struct HostLayer(LinearCrossEntropy);

const CLASSES: &[&[Dim]] = &[&[Dim::Classes]];

static HOST_LAYER: About = About {
    name: "host_layer",
    inputs: &[
        Argument::required("hidden", Kind::Float, &[&[Dim::Rows, Dim::Hidden]], ""),
        Argument::required("weight", Kind::Float, &[&[Dim::Classes, Dim::Hidden]], "").from_host(),
        Argument::required("targets", Kind::Index, &[&[Dim::Rows]], "").from_host(),
        Argument::optional("class_weight", Kind::Float, CLASSES, ""),
    ],
    outputs: &[Argument::optional("loss", Kind::F32, &[&[Dim::One]], "")],
    ..STATEFUL
};

impl Signature for HostLayer {
    fn about(&self) -> &'static About {
        &HOST_LAYER
    }

    fn validate(&self) -> Result<()> {
        self.0.validate()
    }

    fn is_per_row(&self) -> bool {
        false
    }
}

/// The linear skeleton gives `class_weight` the name `weight` and keeps the weights to itself.
#[test]
fn a_linear_loss_reads_its_weights_from_the_host() {
    let mut inputs = operands(0, &[("hidden", &[4, 8]), ("class_weight", &[16])]);
    inputs.entry("class_weight".to_owned()).and_modify(|o| o.layout.dtype = Dtype::F16);
    let host = named([
        ("weight", Array::float(&[16, 8], vec![0.5; 128])),
        ("targets", Array::int(&[4], vec![0, 1, 2, 15])),
    ]);
    let call = Call { host, ..Call::new(inputs, operands(100, &[("loss", &[1])])) };
    let loss = HostLayer(LinearCrossEntropy::default());
    let profile = Profile::default();
    let call = call.checked(&loss, profile.offset_alignment).unwrap();
    let plan = loss.0.plan(&call, &profile).unwrap();
    let mut sizes: Vec<usize> = plan.constants.iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [4 * 8, 128 * 4]);
    for binding in plan.dispatches.iter().flat_map(|dispatch| &dispatch.bindings) {
        if let Role::Constant(index) = binding.role {
            let bytes = plan.constants[index].len().next_multiple_of(256) as u64;
            assert!(binding.offset + binding.size <= bytes);
        }
        let from_host = ["weight", "targets"].map(|name| Role::Input(name.into()));
        assert!(!from_host.contains(&binding.role), "{binding:?}");
    }
}
