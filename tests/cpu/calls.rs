//! Calls of an operation with lists, a host input, and outputs over inputs: which calls are refused, and with which
//! error.

use std::collections::{BTreeMap, BTreeSet};

use surprisal::{
    Array, Arrays, CrossEntropy, Dtype, Error, InfoNce, Layout, Operation, Result, cpu,
    plan::{Call, Operand},
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
        matches!(&error, Error::WrongShape { argument, .. } if argument == "gradient.1"),
        "{error}"
    );
    let error = checked(&inputs, &[("parameters.1", &[2, 3])]).unwrap_err();
    assert!(
        matches!(&error, Error::WrongShape { argument, .. } if argument == "parameters.1"),
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
            matches!(&error, Error::MissingInput { argument, .. } if argument == missing);
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
    assert!(matches!(&error, Error::HostInput { argument, .. } if argument == "rates"), "{error}");
    let host = named([("parameters", vector(&[0.0; 4])), ("rates", vector(&[1.0]))]);
    let error = refused(Call { host, ..Call::default() });
    assert!(
        matches!(&error, Error::HostInput { argument, .. } if argument == "parameters"),
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

/// Checks a call that writes these outputs over the first input.
fn over(
    loss: &dyn Operation,
    inputs: &[(&str, &[u64])],
    outputs: &[(&str, &[u64])],
) -> Result<Call> {
    let inputs = operands(0, inputs);
    let mut outputs = operands(100, outputs);
    let in_place: BTreeSet<String> = outputs.keys().cloned().collect();
    let first = &inputs[loss.about().inputs[0].name];
    for output in outputs.values_mut() {
        output.allocation = first.allocation;
    }
    Call { in_place, ..Call::new(inputs, outputs) }.checked(loss, 256)
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
    assert!(matches!(&error, Error::InPlace { output, .. } if output == "lse"), "{error}");
    assert!(error.to_string().contains("grad.logits"), "{error}");
    let pairs: [(&str, &[u64]); 2] = [("queries", &[4, 8]), ("keys", &[4, 8])];
    let error = over(&InfoNce::default(), &pairs, &[("grad.queries", &[4, 8])]).unwrap_err();
    assert!(matches!(&error, Error::InPlace { output, .. } if output == "grad.queries"), "{error}");
}
