//! A user's own row loss with an additional gradient, on scores that are never stored.

use surprisal::{
    Arithmetic, Array, Arrays, Layout, Linear, Operation, Plan, Profile, Request, Result,
    Separable, SeparableRow, Signature,
    loss::{About, Argument, Dim, Kind},
    plan::{Call, kernel::Source},
    row::{Broadcast, RowLoss, RowProgram, RowStream},
    testing,
};

use crate::support::{
    Context, FLOATS, Placed, Reference, assert_same_bits, gaussian, indices, named, outcome,
    placed_inputs, tensors,
};

tests![gradients_of_its_own];

/// Σ_c z_c².
#[derive(Debug)]
struct Squares;

impl SeparableRow for Squares {
    const NAME: &'static str = "squares";
    const WGSL: &'static str = "
        fn term(label: u32, column: u32, z: f32) -> vec4<f32> {
            return vec4<f32>(z * z, 0.0, 0.0, 0.0);
        }
        fn row_loss(label: u32, sums: vec4<f32>) -> f32 {
            return sums.x;
        }
        fn slope(label: u32, column: u32, z: f32, sums: vec4<f32>) -> f32 {
            return 2.0 * z;
        }";

    fn row(&self, _label: usize, z: &[f64], gradient: &mut [f64]) -> f64 {
        gradient.iter_mut().zip(z).for_each(|(g, z)| *g = 2.0 * z);
        z.iter().map(|z| z * z).sum()
    }
}

/// The same loss with one more gradient, which is half that of the scores.
#[derive(Debug)]
struct Hinted(Separable<Squares>);

const CLASSES: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];
const HIDDEN: &[&[Dim]] = &[&[Dim::Rows, Dim::Hidden]];
const WEIGHT: &[&[Dim]] = &[&[Dim::Classes, Dim::Hidden]];

static ABOUT: About = About {
    name: "hinted",
    summary: "A sum of squares that hands half its gradient out.",
    formula: "",
    pytorch: "",
    inputs: &[
        Argument::required("hidden", Kind::Float, HIDDEN, "hidden states"),
        Argument::required("weight", Kind::Float, WEIGHT, "the classifier"),
        Argument::required("targets", Kind::Index, &[&[Dim::Rows]], "class indices"),
    ],
    outputs: &[
        Argument::optional("loss", Kind::F32, &[&[Dim::One], &[Dim::Rows]], "the loss"),
        Argument::optional("grad.hidden", Kind::Float, HIDDEN, "of the hidden states"),
        Argument::optional("grad.weight", Kind::Float, WEIGHT, "of the classifier"),
        Argument::optional("grad.hint", Kind::Float, CLASSES, "the loss's own"),
        Argument::optional("status", Kind::U32, &[&[Dim::StatusWords]], "the status"),
    ],
    options: &[],
};

impl Signature for Hinted {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.0.is_per_row()
    }

    fn validate(&self) -> Result<()> {
        self.0.validate()
    }
}

impl Operation for Hinted {
    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        self.0.plan(call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        let of = |name| if name == "grad.hint" { "grad.logits" } else { name };
        let known: Vec<&str> = wanted.iter().map(|&name| of(name)).collect();
        let mut outputs = self.0.reference(inputs, &known, arithmetic)?;
        if let Some(whole) = outputs.get("grad.logits") {
            let half = whole.to_f64().iter().map(|g| g / 2.0).collect();
            outputs.insert("grad.hint".to_owned(), Array::float(&whole.shape, half));
        }
        outputs.retain(|name, _| wanted.contains(&name.as_str()));
        Ok(outputs)
    }
}

impl RowLoss for Hinted {
    fn linear_about(&self) -> Option<&'static About> {
        Some(&ABOUT)
    }

    fn program(&self, call: &Call) -> RowProgram {
        let mut program = self.0.program(call);
        // The functor's own `emit` under another name, and an `emit` that calls it.
        let sums =
            include_str!("../../shaders/loss/sums.wgsl").replace("fn emit(", "fn emit_scores(");
        program.sources.retain(|source| source.path != "loss/sums.wgsl");
        program.sources.push(Source { path: "sums", text: sums.leak() });
        let text = "
            fn emit(row: Row, closed: Closed, it: Item) {
                let half = bitcast<vec4<u32>>(closed.factor * it.z);
                hint_store(row.index, it.column, gradient_bits(closed.flags, half));
                emit_scores(row, closed, it);
            }";
        program.sources.push(Source { path: "hinted", text });
        program.streams.push(RowStream::write("hint", "grad.hint", Broadcast::Elements));
        program
    }

    fn check(&self, call: &Call) -> Result<()> {
        self.0.check(call)
    }
}

/// The additional gradient is written with and without others, with whole rows and with blocks of
/// classes. Writing it counts as a pass over the scores.
fn gradients_of_its_own(context: &Context) {
    let gpu = &context.with(|profile| profile.row_lanes = 8);
    let (rows, classes, depth) = (19, 301, 7);
    let mut targets = testing::targets(3, rows, classes as u64);
    targets[4] = -100;
    let inputs = named([
        ("hidden", gaussian(1, rows, depth)),
        ("weight", gaussian(2, classes, depth)),
        ("targets", indices(&targets)),
    ]);
    for dtype in FLOATS {
        for wanted in [&["grad.hint"][..], &["loss", "grad.hint", "grad.weight"]] {
            let run = |chunk_bytes: u64, passes: u64| {
                let loss = Linear::new(Hinted(Separable::new(Squares))).chunk_bytes(chunk_bytes);
                let placed = placed_inputs(gpu, &loss, &inputs, dtype);
                let shape = [rows as u64, classes as u64];
                let hint = Placed::output(gpu, Layout::dense(dtype, &shape));
                let outputs = [("grad.hint".to_owned(), hint)];
                let plan = gpu.plan(&Request::new(&loss, tensors(&placed), tensors(&outputs)));
                assert_eq!(plan.unwrap().path.unwrap().passes, passes);
                let mut outputs = outcome(gpu, &loss, &inputs, dtype, wanted).0;
                outputs.remove("status");
                Reference::new(&loss, &inputs, dtype, wanted).assert(&outputs);
                outputs
            };
            let whole = run(1 << 20, 1);
            assert_same_bits(&run(5 * 1216, 1), &whole, "chunks of rows");
            assert_same_bits(&run(900, 2), &whole, "blocks of classes");
        }
    }
}
