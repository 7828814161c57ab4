//! Losses that consist of others: those of a GAN, and rows of mixed columns.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, BceWithLogits, ColumnSpan, CrossEntropy, Dtype, Error, GanDiscriminator,
    GanGenerator, Layout, MixedColumns, Mse, Named, Operation, Reduction, Request, SpanKind, cpu,
    loss::Domain, targets, testing,
};

use crate::support::{
    Context, FLOATS, INF, Placed, Reference, assert_same_bits, check, gaussian, in_turn, matrix,
    named, outcome, parse, placed_inputs, set, submit, tensors, vector, with,
};

tests![
    discriminators,
    noisy_labels,
    generators,
    vanishing_gradients,
    composed_in_place,
    mixed_columns,
    mixed_columns_as_slices,
    spans_of_a_table,
    spans_that_do_not_fit,
    bad_parts,
    nothing_to_compose,
    one_sided_batches,
];

const SIDES: [&str; 7] =
    ["loss", "grad.real", "grad.fake", "parts", "part_sum", "part_denominator", "slopes"];
const SPANS: [&str; 5] = ["loss", "grad.logits", "parts", "part_sum", "part_denominator"];

/// This many scores of real samples and of fake ones.
fn scores(real: usize, fake: usize) -> Arrays {
    named([
        ("real", vector(&testing::outliers(1, real))),
        ("fake", vector(&testing::outliers(2, fake))),
    ])
}

fn value(arrays: &Arrays, name: &str) -> f64 {
    arrays[name].to_f64()[0]
}

fn discriminators(context: &Context) {
    let gpu = &context.gpu;
    for (turn, (real, fake)) in [(1, 1), (5, 9), (70, 33), (3, 20_011)].into_iter().enumerate() {
        let inputs = scores(real, fake);
        for options in [
            json!({}),
            json!({"real_label": 0.9}),
            json!({"reduction": "sum", "fake_label": 0.1}),
            json!({"reduction": {"over": 12.0}}),
        ] {
            let loss = parse("gan_discriminator", &options);
            check(gpu, loss.as_ref(), &inputs, Dtype::F32, &SIDES);
        }
        let upstream = with(&inputs, [("upstream", vector(&[-2.5]))]);
        for dtype in in_turn(turn) {
            check(gpu, &GanDiscriminator::default(), &upstream, dtype, &SIDES);
        }
    }
    // The two calls that one would write without the composed loss.
    let inputs = scores(12, 7);
    let loss = GanDiscriminator::default().real_label(0.9);
    let (outputs, _) = check(gpu, &loss, &inputs, Dtype::F32, &SIDES);
    let side = |name: &str, label| {
        let inputs = named([("logits", inputs[name].clone())]);
        let loss = BceWithLogits::default().target(Some(label));
        value(&outcome(gpu, &loss, &inputs, Dtype::F32, &["loss"]).0, "loss")
    };
    let sides = [side("real", 0.9), side("fake", 0.0)];
    assert_eq!(outputs["parts"].to_f64(), sides);
    assert!((value(&outputs, "loss") - sides[0] - sides[1]).abs() < 1e-6);
    let none = GanDiscriminator::default().reduction(Reduction::None);
    assert!(matches!(cpu::run(&none, &inputs, &["loss"]), Err(Error::InvalidOption { .. })));
}

fn noisy_labels(context: &Context) {
    let gpu = &context.gpu;
    let labels = targets::flipped(&[0.9; 400], 0.1, 5).unwrap();
    assert_eq!(labels, targets::flipped(&[0.9; 400], 0.1, 5).unwrap());
    assert_ne!(labels, targets::flipped(&[0.9; 400], 0.1, 6).unwrap());
    let flipped = labels.iter().filter(|&&y| y < 0.5).count();
    assert!((20..=60).contains(&flipped), "{flipped}");
    assert!(labels.iter().all(|&y| y == 0.9 || y == 1.0 - 0.9));
    assert!(targets::flipped(&[1.0], 1.5, 0).is_err());
    let inputs = with(
        &scores(400, 6),
        [
            ("real_targets", vector(&labels)),
            ("fake_targets", vector(&targets::flipped(&[0.0; 6], 0.5, 1).unwrap())),
        ],
    );
    for dtype in FLOATS {
        check(gpu, &GanDiscriminator::default(), &inputs, dtype, &SIDES);
    }
}

fn generators(context: &Context) {
    let gpu = &context.gpu;
    let scores = vector(&[-INF, -200.0, -8.0, -1.0, 0.0, 0.5, 30.0, 200.0, INF]);
    let inputs = named([("fake", scores.clone())]);
    let p: Vec<f64> = scores.to_f64().iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
    for saturating in [false, true] {
        let loss = GanGenerator::default().saturating(saturating).reduction(Reduction::None);
        let (outputs, status) = check(gpu, &loss, &inputs, Dtype::F32, &["loss", "grad.fake"]);
        assert_eq!(status.bad_rows, 0);
        let slopes = outputs["grad.fake"].to_f64();
        for (slope, p) in slopes.iter().zip(&p) {
            let expected = if saturating { -p } else { p - 1.0 };
            assert!((slope - expected).abs() < 1e-6, "{slope} for {expected}");
        }
        let wanted = ["loss", "grad.fake", "slope", "sum", "count", "denominator"];
        let batch = named([("fake", gaussian(3, 9, 7))]);
        for dtype in in_turn(usize::from(saturating)) {
            let loss = GanGenerator::default().saturating(saturating);
            check(gpu, &loss, &batch, dtype, &wanted);
        }
        let unknown = named([("fake", set(&scores, 3, f64::NAN))]);
        let (_, status) = check(gpu, &loss, &unknown, Dtype::F32, &["loss", "grad.fake"]);
        assert_eq!(status.bad_rows, 1);
    }
}

/// A discriminator that recognises every fake leaves no gradient for a saturating generator.
fn vanishing_gradients(context: &Context) {
    let gpu = &context.gpu;
    let slope = |saturating: bool, score: f64| {
        let inputs = named([("fake", vector(&[score; 33]))]);
        let loss = GanGenerator::default().saturating(saturating);
        value(&check(gpu, &loss, &inputs, Dtype::F32, &["slope"]).0, "slope")
    };
    assert!(slope(true, -12.0) < 1e-5 && slope(false, -12.0) > 0.9999);
    assert!(slope(true, 12.0) > 0.9999 && slope(false, 12.0) < 1e-5);
    let inputs = named([("real", vector(&[9.0; 5])), ("fake", vector(&[0.0; 3]))]);
    let loss = GanDiscriminator::default();
    let (outputs, _) = check(gpu, &loss, &inputs, Dtype::F32, &["slopes"]);
    let slopes = outputs["slopes"].to_f64();
    assert!(slopes[0] < 2e-4 && slopes[1] == 0.5, "{slopes:?}");
}

fn composed_in_place(context: &Context) {
    let gpu = &context.gpu;
    let discriminator = GanDiscriminator::default();
    let table = spans(&[("bce", 3, 2.0), ("cce", 4, 1.0), ("mse", 5, 0.5)]);
    let calls: [(&dyn Operation, Arrays, &str); 2] =
        [(&discriminator, scores(7, 5), "real"), (&table, sample(9, 12), "logits")];
    for (turn, (loss, inputs, first)) in calls.into_iter().enumerate() {
        for dtype in in_turn(turn) {
            let gradient = format!("grad.{first}");
            let placed = placed_inputs(gpu, loss, &inputs, dtype);
            let value = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
            let outputs = Named::from([("loss".to_owned(), value.tensor())]);
            submit(gpu, &Request::new(loss, tensors(&placed), outputs).gradient_in_place());
            let over = placed.iter().find(|(name, _)| name == first).unwrap();
            let actual =
                named([(gradient.as_str(), over.1.array(gpu)), ("loss", value.array(gpu))]);
            Reference::new(loss, &inputs, dtype, &["loss", &gradient]).assert(&actual);
            over.1.assert_surroundings(gpu);
        }
    }
}

fn spans(spans: &[(&str, u64, f64)]) -> MixedColumns {
    let span = |&(kind, columns, weight): &(&str, u64, f64)| {
        let kind = match kind {
            "bce" => SpanKind::Bce,
            "cce" => SpanKind::Cce,
            _ => SpanKind::Mse,
        };
        ColumnSpan::new(kind, columns).weight(weight)
    };
    MixedColumns::default().spans(spans.iter().map(span).collect())
}

fn sample(rows: usize, columns: usize) -> Arrays {
    let targets = testing::numbers(Domain::Probability, 4, rows * columns);
    named([("logits", gaussian(3, rows, columns)), ("targets", matrix(rows, columns, targets))])
}

fn mixed_columns(context: &Context) {
    let gpu = &context.gpu;
    let kinds: [Value; 4] = [
        json!([{"kind": "mse"}]),
        json!([{"kind": "bce", "columns": 4}, {"kind": "cce", "columns": 8}, {"columns": 4}]),
        json!([{"kind": "cce", "columns": 3, "weight": 0.25}, {"kind": "mse", "columns": 1},
            {"kind": "bce", "columns": 5, "weight": -2.0}, {"kind": "cce"}]),
        json!([{"kind": "bce", "columns": 15}, {"kind": "cce", "columns": 1}]),
    ];
    let inputs = sample(9, 16);
    let weights = crate::support::positive(7, 9);
    let weighed = with(&inputs, [("row_weight", vector(&weights)), ("upstream", vector(&[3.0]))]);
    for (turn, spans) in kinds.into_iter().enumerate() {
        for reduction in [json!("mean"), json!("sum"), json!({"over": 5.0})] {
            let loss = parse("mixed_columns", &json!({"spans": spans, "reduction": reduction}));
            check(gpu, loss.as_ref(), &inputs, Dtype::F32, &SPANS);
            check(gpu, loss.as_ref(), &weighed, Dtype::F32, &SPANS);
        }
        let loss = parse("mixed_columns", &json!({"spans": spans}));
        let narrow = [Dtype::F16, Dtype::Bf16][turn % 2];
        check(gpu, loss.as_ref(), &weighed, narrow, &SPANS);
    }
}

/// The loss and the gradient of each span have the bits of a call on its columns alone.
fn mixed_columns_as_slices(context: &Context) {
    let gpu = &context.gpu;
    let inputs = sample(21, 20);
    let loss = spans(&[("bce", 4, 1.0), ("cce", 7, 1.0), ("mse", 9, 1.0)]);
    let (outputs, _) = check(gpu, &loss, &inputs, Dtype::F32, &SPANS);
    let slice = |name: &str, first: usize, count: usize| {
        let values = inputs[name].to_f64();
        let rows = values.chunks(20).flat_map(|row| row[first..first + count].to_vec());
        matrix(21, count, rows.collect())
    };
    let losses: [(Box<dyn Operation>, &str, usize, usize); 3] = [
        (Box::new(BceWithLogits::default()), "targets", 0, 4),
        (Box::new(CrossEntropy::default()), "target_probs", 4, 7),
        (Box::new(Mse::default()), "targets", 11, 9),
    ];
    let gradient = outputs["grad.logits"].to_f64();
    for (nth, (loss, targets, first, count)) in losses.iter().enumerate() {
        let own = named([
            ("logits", slice("logits", *first, *count)),
            (*targets, slice("targets", *first, *count)),
        ]);
        let (alone, _) = check(gpu, loss.as_ref(), &own, Dtype::F32, &["loss", "grad.logits"]);
        let part = outputs["parts"].to_f64()[nth];
        assert!((part - value(&alone, "loss")).abs() <= 1e-6 * part.abs(), "{nth}");
        let rows = gradient.chunks(20).flat_map(|row| row[*first..first + count].to_vec());
        let ours = named([("grad.logits", matrix(21, *count, rows.collect()))]);
        let alone = named([("grad.logits", alone["grad.logits"].clone())]);
        assert_same_bits(&ours, &alone, "a span's gradient");
    }
}

/// Hundreds of spans, as real tables have.
fn spans_of_a_table(context: &Context) {
    let kinds = ["bce", "cce", "mse"];
    let list: Vec<(&str, u64, f64)> = (0..240)
        .map(|nth| (kinds[nth % 3], 1 + nth as u64 % 5, 1.0 + nth as f64 / 100.0))
        .collect();
    let columns: u64 = list.iter().map(|span| span.1).sum();
    let inputs = sample(6, columns as usize);
    let (outputs, _) = check(&context.gpu, &spans(&list), &inputs, Dtype::F32, &SPANS);
    let parts = outputs["parts"].to_f64();
    assert_eq!(parts.len(), 240);
    let total: f64 = parts.iter().zip(&list).map(|(part, span)| part * span.2).sum();
    assert!((value(&outputs, "loss") - total).abs() < 1e-5 * total);
}

fn spans_that_do_not_fit(context: &Context) {
    let inputs = sample(3, 8);
    for (list, fits) in [
        (json!([{"columns": 8}]), true),
        (json!([{"columns": 7}, {}]), true),
        (json!([{"columns": 7}]), false),
        (json!([{"columns": 9}]), false),
        (json!([{"columns": 8}, {}]), false),
    ] {
        let loss = parse("mixed_columns", &json!({"spans": list}));
        let run = context.gpu.run_arrays(loss.as_ref(), &inputs, Dtype::F32, &["loss"]);
        match run {
            Ok(_) => assert!(fits, "{list}"),
            Err(error) => {
                assert!(!fits && matches!(error, Error::WrongShape { .. }), "{list}: {error}");
                assert_eq!(cpu::run(loss.as_ref(), &inputs, &["loss"]).unwrap_err(), error);
            }
        }
    }
    let refuse = |spans: Value, text: &str| {
        let parse = surprisal::operations::find("mixed_columns").unwrap().parse;
        let error = parse(&json!({"spans": spans})).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    };
    refuse(json!([]), "at least one");
    refuse(json!([{}, {"columns": 2}]), "only the last one");
    refuse(json!([{"columns": 2, "weight": 0.0}]), "weight");
    refuse(json!([{"kind": "huber"}]), "unknown variant");
}

/// What is wrong in a part is wrong in the whole, and the status reports it.
fn bad_parts(context: &Context) {
    let gpu = &context.gpu;
    let loss = spans(&[("bce", 3, 1.0), ("cce", 4, 1.0), ("mse", 1, 1.0)]);
    let inputs = sample(5, 8);
    for (at, part) in [(1, 0), (13, 1), (7, 2)] {
        let poisoned = with(&inputs, [("logits", set(&inputs["logits"], at, f64::NAN))]);
        let (outputs, status) = check(gpu, &loss, &poisoned, Dtype::F32, &SPANS);
        assert!(value(&outputs, "loss").is_nan());
        let nans: Vec<bool> = outputs["parts"].to_f64().iter().map(|l| l.is_nan()).collect();
        assert_eq!(nans, [part == 0, part == 1, part == 2]);
        assert_eq!((status.completed, status.bad_rows), (1, 1));
    }
    // An infinite loss of a part makes the sum infinite, and the gradients stay finite.
    let far = with(&inputs, [("logits", set(&inputs["logits"], 0, INF))]);
    let (outputs, status) = check(gpu, &loss, &far, Dtype::F32, &SPANS);
    assert_eq!(value(&outputs, "loss"), INF);
    assert_eq!(status.bad_rows, 0);
}

fn nothing_to_compose(context: &Context) {
    for empty in ["nan", "zero"] {
        let spans = json!([{"kind": "bce", "columns": 2}, {"kind": "cce", "columns": 3}]);
        let loss = parse("mixed_columns", &json!({"spans": spans, "empty": empty}));
        let (outputs, _) =
            check(&context.gpu, loss.as_ref(), &sample(0, 5), Dtype::F32, &["loss", "parts"]);
        assert_eq!(value(&outputs, "loss").is_nan(), empty == "nan");
        let loss = parse("gan_discriminator", &json!({"empty": empty}));
        let nothing = named([
            ("real", Array::float(&[0], Vec::new())),
            ("fake", Array::float(&[0], Vec::new())),
        ]);
        check(&context.gpu, loss.as_ref(), &nothing, Dtype::F32, &["loss", "parts", "slopes"]);
    }
}

/// A side without samples is a mean over nothing. This concerns its own part, and the whole, which is the sum; not the
/// other side.
fn one_sided_batches(context: &Context) {
    let gpu = &context.gpu;
    for (side, other, label, nth) in [("real", "fake", 1.0, 0), ("fake", "real", 0.0, 1)] {
        let all = scores(3, 3);
        let inputs = with(&all, [(other, Array::float(&[0], Vec::new()))]);
        let alone = named([("logits", all[side].clone())]);
        let bce = BceWithLogits::default().target(Some(label));
        let (alone, _) = check(gpu, &bce, &alone, Dtype::F32, &["loss", "grad.logits"]);
        for empty in ["nan", "zero"] {
            let loss = parse("gan_discriminator", &json!({"empty": empty}));
            let (outputs, status) = check(gpu, loss.as_ref(), &inputs, Dtype::F32, &SIDES);
            let parts = outputs["parts"].to_f64();
            assert_eq!(parts[nth], value(&alone, "loss"));
            assert_eq!(outputs["part_denominator"].to_f64()[1 - nth], 0.0);
            let gradient = outputs[&format!("grad.{side}")].to_f64();
            assert_eq!(gradient, alone["grad.logits"].to_f64());
            if empty == "nan" {
                assert!(value(&outputs, "loss").is_nan() && parts[1 - nth].is_nan());
            } else {
                assert_eq!((value(&outputs, "loss"), parts[1 - nth]), (parts[nth], 0.0));
            }
            assert_eq!((status.completed, status.bad_rows), (1, 0));
        }
    }
}
