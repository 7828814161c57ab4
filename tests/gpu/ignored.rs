//! Linear losses whose rows are partly ignored: whichever rows are, the others have the same bits as alone.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Dtype, Gpu, Layout, Named, Operation, Request, WeightLayout, testing,
};

use crate::{
    linear::{GRADIENTS, loss, sample},
    support::{
        Context, Placed, assert_same_bits, bits, check, gaussian, in_blocks, indices, matrix,
        outcome, placed_inputs, row, submit, tensors, with,
    },
};

tests![shares, added, blocks_and_windows, sixteen_bits];

const DEPTH: usize = 20;
const CLASSES: usize = 129;
/// What a row has of its own.
const OF_ROWS: [&str; 4] = ["loss", "log_prob", "lse", "grad.hidden"];

/// Which of so many rows are kept.
fn patterns(rows: usize) -> Vec<Vec<bool>> {
    let rule = |keeps: fn(usize, usize) -> bool| (0..rows).map(|row| keeps(row, rows)).collect();
    vec![
        rule(|_, _| false),
        rule(|_, _| true),
        rule(|row, rows| row + 2 == rows),
        rule(|row, _| row % 2 == 1),
        rule(|row, _| row * 7 % 10 < 3),
        rule(|row, rows| row >= rows / 2),
    ]
}

/// Inputs in which only some rows are kept; the others hold NaN.
fn ignoring(inputs: &Arrays, keeps: &[bool]) -> Arrays {
    let classes = inputs["weight"].shape[0];
    let targets = testing::targets(3, keeps.len(), classes);
    let target = |(&target, &keep): (&i64, &bool)| if keep { target } else { -100 };
    let targets: Vec<i64> = targets.iter().zip(keeps).map(target).collect();
    let depth = inputs["hidden"].shape[1] as usize;
    let mut hidden = inputs["hidden"].to_f64();
    for (row, _) in keeps.iter().enumerate().filter(|&(_, &keep)| !keep) {
        hidden[row * depth + row % depth] = f64::NAN;
    }
    with(inputs, [("hidden", matrix(keeps.len(), depth, hidden)), ("targets", indices(&targets))])
}

/// Only these rows of the inputs.
fn only(inputs: &Arrays, rows: &[usize]) -> Arrays {
    let depth = inputs["hidden"].shape[1] as usize;
    let hidden = rows.iter().flat_map(|&at| row(&inputs["hidden"], at)).collect();
    let targets = inputs["targets"].to_i64();
    let targets: Vec<i64> = rows.iter().map(|&row| targets[row]).collect();
    with(inputs, [("hidden", matrix(rows.len(), depth, hidden)), ("targets", indices(&targets))])
}

fn options(chunk: Option<u64>) -> Value {
    json!({"reduction": "none", "chunk_bytes": chunk})
}

/// Compares rows among ignored ones with the same rows alone, and in two parts.
fn assert_as_alone(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &Arrays,
    keeps: &[bool],
    outputs: &Arrays,
) {
    let kept: Vec<usize> = (0..keeps.len()).filter(|&row| keeps[row]).collect();
    let (first, second) = kept.split_at(kept.len() / 2);
    let halves = [&kept[..], first, second];
    for part in halves.into_iter().filter(|part| !part.is_empty()) {
        let alone = outcome(gpu, loss, &only(inputs, part), Dtype::F32, &OF_ROWS).0;
        for name in OF_ROWS {
            let of = |array: &Array, at: usize| -> Vec<u64> {
                let columns = array.shape.get(1).map_or(1, |&columns| columns as usize);
                bits(array)[at * columns..(at + 1) * columns].to_vec()
            };
            for (place, &at) in part.iter().enumerate() {
                assert_eq!(of(&outputs[name], at), of(&alone[name], place), "{name} of row {at}");
            }
        }
    }
    for at in (0..keeps.len()).filter(|&row| !keeps[row]) {
        assert!(row(&outputs["grad.hidden"], at).iter().all(|&g| g == 0.0), "row {at}");
    }
}

/// No row, one row, all rows and others are kept, in one chunk and in several.
fn shares(context: &Context) {
    let gpu = &context.gpu;
    let inputs = sample(81, 33, CLASSES, DEPTH, WeightLayout::ClassesHidden);
    let wanted = [&OF_ROWS[..], &["grad.weight", "grad.bias", "count", "status"]].concat();
    for keeps in patterns(33) {
        let inputs = ignoring(&inputs, &keeps);
        let mut whole = None;
        for chunk in [None, Some(8 * 132 * 4)] {
            let loss = loss(&options(chunk), WeightLayout::ClassesHidden);
            let (outputs, _) = check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
            assert_as_alone(gpu, &*loss, &inputs, &keeps, &outputs);
            let again = outcome(gpu, &*loss, &inputs, Dtype::F32, &wanted).0;
            assert_same_bits(&again, &outputs, "a second run");
            if let Some(whole) = &whole {
                assert_same_bits(&outputs, whole, "several chunks");
            }
            whole = Some(outputs);
        }
    }
}

/// The gradient of the hidden states is added to what its tensor holds. An ignored row keeps that.
fn added(context: &Context) {
    let gpu = &context.gpu;
    let layout = WeightLayout::ClassesHidden;
    let inputs = sample(82, 33, CLASSES, DEPTH, layout);
    let begun = gaussian(84, 33, DEPTH);
    for (turn, keeps) in patterns(33).iter().enumerate().skip(2) {
        let inputs = ignoring(&inputs, keeps);
        let chunk = [None, Some(8 * 132 * 4)][turn % 2];
        let mut options = options(chunk);
        let alone = outcome(gpu, &*loss(&options, layout), &inputs, Dtype::F32, &["grad.hidden"]).0;
        options["accumulate"] = json!("all");
        let adds = loss(&options, layout);
        let inputs = placed_inputs(gpu, &*adds, &inputs, Dtype::F32);
        let place = Layout::dense(Dtype::F32, &[33, DEPTH as u64]);
        let output = Placed::input(gpu, &begun, place);
        let outputs = Named::from([("grad.hidden".to_owned(), output.tensor())]);
        submit(gpu, &Request::new(&*adds, tensors(&inputs), outputs));
        let sum = output.array(gpu);
        for (at, &keep) in keeps.iter().enumerate() {
            let (sum, begun) = (row(&sum, at), row(&begun, at));
            let gradient = row(&alone["grad.hidden"], at);
            for ((sum, begun), gradient) in sum.iter().zip(begun).zip(gradient) {
                let near = (sum - begun - gradient).abs() <= 1e-5 * (begun.abs() + 1.0);
                let begun = f64::from(begun as f32);
                assert!(
                    if keep { near } else { *sum == begun },
                    "row {at}: {sum} {begun} {gradient}"
                );
            }
        }
    }
}

/// Blocks of classes, and bindings too small for all rows.
fn blocks_and_windows(context: &Context) {
    let layout = WeightLayout::ClassesHidden;
    let inputs = sample(83, 150, 1000, DEPTH, layout);
    let wanted = [&OF_ROWS[..], &["grad.weight", "grad.bias"]].concat();
    let narrow = context.with(|profile| profile.binding_bytes = 12 << 10);
    for keeps in &patterns(150)[3..5] {
        let inputs = ignoring(&inputs, keeps);
        let whole = loss(&options(None), layout);
        let expected = check(&context.gpu, &*whole, &inputs, Dtype::F32, &wanted).0;
        let actual = outcome(&narrow, &*whole, &inputs, Dtype::F32, &wanted).0;
        assert_same_bits(&actual, &expected, "windows");
        let small = loss(&options(Some(3500)), layout);
        let actual = in_blocks(&context.gpu, &*small, &inputs, Dtype::F32, &wanted);
        assert_same_bits(&actual, &expected, "blocks");
    }
}

/// 16-bit operands in chunks and in blocks, and the other layout of the weight.
fn sixteen_bits(context: &Context) {
    let layout = WeightLayout::HiddenClasses;
    let inputs = sample(85, 33, CLASSES, DEPTH, layout);
    for (dtype, keeps) in [Dtype::F16, Dtype::Bf16].into_iter().zip(&patterns(33)[4..]) {
        let targets = inputs["targets"].to_i64();
        let targets =
            targets.iter().zip(keeps).map(|(&target, &keep)| if keep { target } else { -100 });
        let inputs = with(&inputs, [("targets", indices(&targets.collect::<Vec<_>>()))]);
        for chunk in [8 * 132 * 4, 3000] {
            let loss = loss(&options(Some(chunk)), layout);
            check(&context.gpu, &*loss, &inputs, dtype, &GRADIENTS);
        }
    }
}
