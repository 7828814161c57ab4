//! What an operation may have beside single tensors: lists, host inputs, and outputs over any input.

use std::collections::BTreeMap;

use surprisal::{
    Arithmetic, Array, Arrays, Dtype, GanDiscriminator, GaussianNll, Gpu, Layout, Named, Operation,
    Plan, Profile, Reduction, Request, Result, Separable, SeparableRow, Signature, cpu,
    loss::{About, Argument, Dim, Domain, Kind},
    plan::Call,
    row::{Broadcast, RowLoss, RowProgram, RowStream},
    testing,
};

use surprisal_cli::repro;

use crate::{
    descent::Descent,
    support::{
        Context, FLOATS, Placed, Reference, assert_same_bits, gaussian, indices, named, outcome,
        placed_inputs, submit, tensors, vector,
    },
};

tests![lists, host_streams, host_inputs_replay, every_gradient_in_place];

/// Eleven tensors, so that number 10 must not be taken for the one after number 1.
fn lists(context: &Context) {
    let gpu = &context.gpu;
    let mut inputs = Arrays::new();
    for nth in 0..11 {
        let (rows, columns) = (3 + nth, if nth % 3 == 0 { 1 } else { nth });
        let pair = [gaussian(2 * nth as u64, rows, columns), gaussian(40, rows, columns)];
        for (name, mut array) in ["parameters", "gradient"].into_iter().zip(pair) {
            if nth % 2 == 0 {
                array.shape = vec![array.len() as u64];
            }
            inputs.insert(format!("{name}.{nth}"), array);
        }
    }
    let rates: Vec<f64> = (0..11).map(|nth| 0.25 * f64::from(nth) - 1.0).collect();
    let all: Vec<String> = (0..11).map(|nth| format!("parameters.{nth}")).collect();
    let wanted: Vec<&str> = all.iter().map(String::as_str).collect();
    let placed = placed_inputs(gpu, &Descent, &inputs, Dtype::F32);
    inputs.insert("rates".to_owned(), vector(&rates));
    let expected = cpu::run(&Descent, &testing::rounded(&Descent, &inputs, Dtype::F32), &wanted);
    let expected = expected.unwrap();
    let assert_close = |name: &str, actual: &Array| {
        let pairs = actual.to_f64().into_iter().zip(expected[name].to_f64());
        let worst = pairs.map(|(actual, expected)| (actual - expected).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5 && actual.shape == expected[name].shape, "{name}: {worst}");
    };
    // Two of the results go to other tensors, and the parameters stay as they are.
    let layout = |name: &str| Layout::dense(Dtype::F32, &inputs[name].shape);
    let beside = ["parameters.2", "parameters.10"]
        .map(|name| (name.to_owned(), Placed::output(gpu, layout(name))));
    let request =
        Request::new(&Descent, tensors(&placed), tensors(&beside)).host("rates", vector(&rates));
    submit(gpu, &request);
    for (name, output) in &beside {
        assert_close(name, &output.array(gpu));
        output.assert_surroundings(gpu);
    }
    for (name, tensor) in &placed {
        assert_eq!(tensor.array(gpu), inputs[name].rounded(Dtype::F32), "{name} is only read");
    }
    // All results go over the parameters.
    let request = Request::new(&Descent, tensors(&placed), Named::new()).in_place("parameters");
    submit(gpu, &request.host("rates", vector(&rates)));
    for (name, tensor) in &placed {
        if name.starts_with("parameters") {
            assert_close(name, &tensor.array(gpu));
        }
        tensor.assert_surroundings(gpu);
    }
}

/// Σ_c cost_c·z_c², where the costs are a host input.
#[derive(Debug, Default)]
struct Costs(Vec<f64>);

impl SeparableRow for Costs {
    const NAME: &'static str = "costs";
    const WGSL: &'static str = "
        fn term(label: u32, column: u32, z: f32) -> vec4<f32> {
            return vec4<f32>(bitcast<f32>(cost_at(0u, column)) * z * z, 0.0, 0.0, 0.0);
        }
        fn row_loss(label: u32, sums: vec4<f32>) -> f32 {
            return sums.x;
        }
        fn slope(label: u32, column: u32, z: f32, sums: vec4<f32>) -> f32 {
            return 2.0 * bitcast<f32>(cost_at(0u, column)) * z;
        }";

    fn row(&self, _label: usize, z: &[f64], gradient: &mut [f64]) -> f64 {
        let terms = gradient.iter_mut().zip(z).zip(&self.0);
        terms
            .map(|((g, z), cost)| {
                *g = 2.0 * cost * z;
                cost * z * z
            })
            .sum()
    }
}

#[derive(Debug)]
struct Costly(Separable<Costs>);

const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];
const ROWS: &[&[Dim]] = &[&[Dim::Rows]];

static COSTLY: About = About {
    name: "costly",
    summary: "Squares that cost.",
    formula: "",
    pytorch: "",
    inputs: &[
        Argument::required("logits", Kind::Float, MATRIX, "scores"),
        Argument::required("targets", Kind::Index, ROWS, "class indices").from_host(),
        Argument::optional("row_weight", Kind::Float, ROWS, "a weight a row").from_host(),
        Argument::optional("upstream", Kind::F32, ROWS, "the gradient from above").from_host(),
        Argument::required("cost", Kind::Float, &[&[Dim::Classes]], "a cost a class").from_host(),
    ],
    outputs: &[
        Argument::optional("loss", Kind::F32, &[&[Dim::One], &[Dim::Rows]], "the loss"),
        Argument::optional("grad.logits", Kind::Float, MATRIX, "of the scores").over("logits"),
        Argument::optional("status", Kind::U32, &[&[Dim::StatusWords]], "the status"),
    ],
    options: &[],
};

impl Signature for Costly {
    fn about(&self) -> &'static About {
        &COSTLY
    }

    fn is_per_row(&self) -> bool {
        self.0.is_per_row()
    }

    fn validate(&self) -> Result<()> {
        self.0.validate()
    }
}

impl Operation for Costly {
    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        surprisal::row::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        let loss = Separable::new(Costs(inputs["cost"].to_f64())).reduction(self.0.reduction);
        loss.reference(inputs, wanted, arithmetic)
    }
}

impl RowLoss for Costly {
    fn program(&self, call: &Call) -> RowProgram {
        let mut program = self.0.program(call);
        program.streams.push(RowStream::read("cost", Broadcast::Columns));
        program
    }

    fn check(&self, call: &Call) -> Result<()> {
        self.0.check(call)
    }
}

/// Any input of a row loss but its scores may come from the host, the functor's own and the skeleton's: it is in the plan,
/// and two calls have two of them.
fn host_streams(context: &Context) {
    let gpu = &context.gpu;
    let (rows, classes) = (9, 37);
    let mut inputs = named([
        ("logits", gaussian(3, rows, classes)),
        ("targets", indices(&testing::targets(4, rows, classes as u64))),
        ("row_weight", vector(&testing::numbers(Domain::Positive, 7, rows))),
        ("upstream", vector(&testing::gaussian(8, rows))),
    ]);
    let loss = Costly(Separable::new(Costs::default()).reduction(Reduction::None));
    for seed in [5, 6] {
        let cost = Array::float(&[classes as u64], gaussian(seed, 1, classes).to_f64());
        inputs.insert("cost".to_owned(), cost);
        for dtype in FLOATS {
            let wanted = ["loss", "grad.logits"];
            let mut outputs = outcome(gpu, &loss, &inputs, dtype, &wanted).0;
            outputs.remove("status");
            Reference::new(&loss, &inputs, dtype, &wanted).assert(&outputs);
        }
    }
}

/// A recording contains the host inputs, and replays without the operation.
fn host_inputs_replay(context: &Context) {
    let gpu = &context.gpu;
    let loss = Costly(Separable::new(Costs::default()));
    let mut inputs = named([("logits", gaussian(3, 9, 37)), ("targets", indices(&[1; 9]))]);
    let cost = Array::float(&[37], gaussian(5, 1, 37).to_f64());
    let wanted = ["loss", "grad.logits"];
    inputs.insert("cost".to_owned(), cost);
    let run = gpu.run_arrays(&loss, &inputs, Dtype::F32, &wanted).unwrap();
    let plan = run.prepared().plan().clone();
    let outputs = run.outputs().map(|(name, layout)| (name.to_owned(), layout.clone())).collect();
    let uploaded = |(name, layout): (&str, &Layout)| {
        let (layout, bytes) = (layout.clone(), inputs[name].to_bytes(layout.dtype));
        (name.to_owned(), repro::Uploaded { layout, bytes })
    };
    let uploaded = run.inputs().map(uploaded).collect();
    let actual = run.read_blocking().unwrap();
    let call = repro::Call {
        title: "costly".to_owned(),
        plan: &plan,
        inputs: uploaded,
        outputs,
        actual: &actual,
        expected: &actual,
        tolerances: BTreeMap::new(),
    };
    let folder = std::env::temp_dir().join(format!("surprisal-{}", std::process::id()));
    repro::write(&folder, gpu, &call).unwrap();
    let replayed = repro::replay(&folder, gpu).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(replayed.len(), 3);
    assert!(replayed.iter().all(|output| output.same_bits), "{replayed:?}");
}

/// A gradient that is not the first input's is written over its own input, with the bits that it has beside it: where rows
/// are whole quads and where they are not, in windows, and where losses and gradients need a dispatch each. The
/// catalogue has the other types and places.
fn every_gradient_in_place(context: &Context) {
    let windows = |profile: &mut Profile| {
        profile.element_block = 64;
        profile.dispatch_elements = 100;
    };
    let gpus = [context.gpu.clone(), context.with(windows)];
    for (gpu, columns, dtype) in [(&gpus[0], 7, Dtype::Bf16), (&gpus[1], 8, Dtype::F32)] {
        in_place(gpu, &GaussianNll::default(), &scored(columns), dtype);
    }
    // Losses and gradients of these bind eight buffers.
    let few_buffers = context.with(|profile| profile.storage_buffers = 7);
    let each = GaussianNll::default().reduction(Reduction::None);
    let mut weighted = scored(8);
    for (seed, name) in [(5, "weight"), (6, "mask"), (7, "upstream")] {
        let values = testing::numbers(Domain::Positive, seed, 20 * 8);
        weighted.insert(name.to_owned(), Array::float(&[20, 8], values));
    }
    in_place(&few_buffers, &each, &weighted, Dtype::F16);
    let mut broadcast = scored(8);
    let variance = testing::numbers(Domain::Positive, 4, 8);
    broadcast.insert("variance".to_owned(), Array::float(&[8], variance));
    in_place(&gpus[0], &GaussianNll::default(), &broadcast, Dtype::F32);
    let scores = named([
        ("real", vector(&testing::gaussian(5, 21))),
        ("fake", vector(&testing::gaussian(6, 13))),
    ]);
    in_place(&gpus[0], &GanDiscriminator::default(), &scores, Dtype::F32);
}

/// Means, targets and variances of 20 rows.
fn scored(columns: usize) -> Arrays {
    let variance = testing::numbers(Domain::Positive, 3, 20 * columns);
    named([
        ("mean", gaussian(1, 20, columns)),
        ("targets", gaussian(2, 20, columns)),
        ("variance", Array::float(&[20, columns as u64], variance)),
    ])
}

/// Writes the last gradient over its input, then all of them.
#[track_caller]
fn in_place(gpu: &Gpu, loss: &dyn Operation, inputs: &Arrays, dtype: Dtype) {
    let of = |name: &String| format!("grad.{name}");
    let is_output = |name: &String| loss.about().output(name).is_some();
    let gradients: Vec<String> = inputs.keys().map(of).filter(is_output).collect();
    let wanted: Vec<&str> = gradients.iter().map(String::as_str).chain(["loss"]).collect();
    let (expected, _) = outcome(gpu, loss, inputs, dtype, &wanted);
    for asked in [&gradients[1..], &gradients[..]] {
        let placed = placed_inputs(gpu, loss, inputs, dtype);
        let loss_of = Placed::output(gpu, Layout::dense(Dtype::F32, &expected["loss"].shape));
        let outputs = Named::from([("loss".to_owned(), loss_of.tensor())]);
        let request = Request::new(loss, tensors(&placed), outputs);
        let request = asked.iter().fold(request, |request, name| request.in_place(name.clone()));
        submit(gpu, &request);
        for (name, tensor) in &placed {
            let what = format!("{loss:?} {dtype} {asked:?}");
            let gradient = of(name);
            if asked.contains(&gradient) {
                let written = Arrays::from([(gradient.clone(), tensor.array(gpu))]);
                let beside = Arrays::from([(gradient.clone(), expected[&gradient].clone())]);
                assert_same_bits(&written, &beside, &what);
            } else {
                let stored = surprisal::stored_dtype(loss, name, dtype);
                assert_eq!(tensor.array(gpu), inputs[name].rounded(stored), "{what}");
            }
            tensor.assert_surroundings(gpu);
        }
    }
}
