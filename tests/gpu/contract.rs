//! What a row loss can declare, on losses made for this purpose: two rounds of reduction, its own by-products, and the
//! column in a given place of a row.

use surprisal::{
    Arithmetic, Arrays, Dtype, Gpu, Linear, Operation, Plan, Profile, Request, Result, Separable,
    SeparableRow, Signature,
    loss::{About, Argument, Dim, Kind},
    plan::{Call, kernel::Source},
    row::{
        self, Field, LabelScore, Reduced, Rounds, RowLoss, RowOutput, RowProgram, StateLayout,
        Target,
    },
    testing,
};

use crate::support::{
    Context, FLOATS, Reference, assert_same_bits, gaussian, indices, matrix, named, outcome,
    placed_inputs, tensors, vector,
};

tests![two_rounds, two_rounds_in_blocks, by_products, selected_columns];

/// A loss with the reference of a [`Separable`] loss and its own program.
#[derive(Debug)]
struct Declared<L> {
    reference: Separable<L>,
    program: fn(RowProgram) -> RowProgram,
}

const ROWS: &[&[Dim]] = &[&[Dim::Rows]];
const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];

static ABOUT: About = About {
    name: "declared",
    summary: "A loss that declares what it needs.",
    formula: "",
    pytorch: "",
    inputs: &[
        Argument::required("logits", Kind::Float, MATRIX, "scores"),
        Argument::required("targets", Kind::Index, ROWS, "class indices"),
        Argument::optional("row_weight", Kind::Float, ROWS, "row weights"),
    ],
    outputs: &[
        Argument::optional("loss", Kind::F32, &[&[Dim::One], &[Dim::Rows]], "the loss"),
        Argument::optional("grad.logits", Kind::Float, MATRIX, "gradient of the scores"),
        Argument::optional("purity", Kind::F32, ROWS, "Σ p² of a row"),
        Argument::optional("mean_purity", Kind::F32, &[&[Dim::One]], "its mean"),
        Argument::optional("status", Kind::U32, &[&[Dim::StatusWords]], "the status"),
    ],
    options: &[],
};

impl<L: SeparableRow> Signature for Declared<L> {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.reference.is_per_row()
    }

    fn takes_planes(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        self.reference.validate()
    }
}

impl<L: SeparableRow> Operation for Declared<L> {
    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        row::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        self.reference.reference(inputs, wanted, arithmetic)
    }
}

impl<L: SeparableRow> RowLoss for Declared<L> {
    fn program(&self, _: &Call) -> RowProgram {
        let reduction = self.reference.reduction;
        let target = Target::Index { ignored: self.reference.ignored.clone() };
        (self.program)(RowProgram { reduction, target, ..RowProgram::default() })
    }

    fn check(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}

/// Σ_c p_c², whose second round uses the probabilities.
#[derive(Debug)]
struct Purity;

impl SeparableRow for Purity {
    const NAME: &'static str = "purity";
    const WGSL: &'static str = "
        struct Item { column: u32, u: vec4<f32>, bad: vec4<bool> }
        fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
            let score = score_of(logits_quad(row.index, column), 1.0, inside);
            var it: Item;
            it.column = column;
            it.u = score.u;
            it.bad = score.bad;
            return it;
        }
        fn probabilities(row: Row, it: Item) -> vec4<f32> {
            return exponential(below4(it.u, row.settled.top)) * row.settled.inverse_sum;
        }
        struct State { top: f32, sum: f32, squares: f32, bad: u32 }
        fn state_empty() -> State {
            var state: State;
            state.top = DEAD;
            return state;
        }
        fn rescaled(state: State, top: f32) -> State {
            var out = state;
            let factor = exp(below(state.top, top));
            out.top = top;
            out.sum = state.sum * factor;
            out.squares = state.squares * factor;
            return out;
        }
        fn state_merge(a: State, b: State) -> State {
            var out = rescaled(a, max(a.top, b.top));
            let other = rescaled(b, out.top);
            out.sum += other.sum;
            out.squares += other.squares;
            out.bad |= other.bad;
            return out;
        }
        fn state_take_quad(row: Row, state: State, it: Item) -> State {
            var out = rescaled(state, max(state.top, max4(it.u)));
            let e = exponential(below4(it.u, out.top));
            out.sum += sum4(e);
            if (row.round == 1u) {
                out.squares += sum4(e * probabilities(row, it));
            }
            out.bad |= select(0u, 1u, any(it.bad));
            return out;
        }
        fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
            let half = state_take_quad(row, state_take_quad(row, state, a), b);
            return state_take_quad(row, state_take_quad(row, half, c), d);
        }
        fn settle(row: Row, state: State) -> Settled {
            var out: Settled;
            if (row.flags == 0u && state.bad == 0u) {
                out.top = state.top;
                out.inverse_sum = 1.0 / state.sum;
            }
            return out;
        }
        fn close(row: Row, state: State) -> Closed {
            if (row.flags != 0u) {
                return closed_blank(ROW_ZERO, select(NAN_BITS, 0u, (row.flags & IGNORED) != 0u), 0u);
            }
            let zero = select(0u, ROW_ZERO, row.factor == 0.0);
            if (state.bad != 0u) {
                return closed_blank(ROW_NAN | zero, NAN_BITS, NAN_BITS);
            }
            var out: Closed;
            out.mean = state.squares / state.sum;
            out.purity = bitcast<u32>(out.mean);
            out.loss = bitcast<u32>(row.row_weight * out.mean);
            out.flags = zero;
            return out;
        }
        fn emit(row: Row, closed: Closed, it: Item) {
            let p = probabilities(row, it);
            let g = row.factor * 2.0 * p * (p - closed.mean);
            gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
        }";

    fn row(&self, _: usize, z: &[f64], gradient: &mut [f64]) -> f64 {
        let top = z.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
        let p = |z: f64| (z - top).exp() / sum;
        let purity = z.iter().map(|&z| p(z) * p(z)).sum();
        gradient.iter_mut().zip(z).for_each(|(g, &z)| *g = 2.0 * p(z) * (p(z) - purity));
        purity
    }
}

fn purity() -> Declared<Purity> {
    const OUTPUTS: &[RowOutput] =
        &[RowOutput::number("purity").reduced(Reduced::Mean("mean_purity"))];
    const FACTORS: &[Field] = &[Field::f32("mean")];
    const SETTLED: &[Field] = &[Field::f32("top"), Field::f32("inverse_sum")];
    let program = |declared: RowProgram| {
        let own = Source { path: Purity::NAME, text: Purity::WGSL };
        RowProgram {
            reduction: declared.reduction,
            target: declared.target,
            outputs: OUTPUTS,
            factors: FACTORS,
            settled: SETTLED,
            sources: vec![row::OPEN, row::SCORES, own],
            state: StateLayout::words(4),
            rounds: Rounds::Two,
            ..RowProgram::default()
        }
    };
    Declared { reference: Separable::new(Purity), program }
}

/// max(0, 1 + z₁ − z_y), where z₁ is the largest of the other scores: without any round.
#[derive(Debug)]
struct Rival;

impl SeparableRow for Rival {
    const NAME: &'static str = "rival";
    const WGSL: &'static str = "
        struct Item { column: u32, bits: vec4<u32> }
        fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
            var it: Item;
            it.column = column;
            it.bits = logits_quad(row.index, column);
            return it;
        }
        fn score_bits(row: Row, it: Item) -> vec4<u32> {
            let places = vec4<u32>(0u, 1u, 2u, 3u);
            return select(it.bits, vec4<u32>(NONE), places == vec4<u32>(row.label - it.column));
        }
        fn close(row: Row, state: State) -> Closed {
            if (row.flags != 0u) {
                return closed_blank(ROW_ZERO, select(NAN_BITS, 0u, (row.flags & IGNORED) != 0u), 0u);
            }
            let other = key_bits(selected_read(row.index * 3u));
            let own = label_score(row.index, row.label, row.label);
            let zero = select(0u, ROW_ZERO, row.factor == 0.0);
            if (!finite_one(other) || !finite_one(own)) {
                return closed_blank(ROW_NAN | zero, NAN_BITS, NAN_BITS);
            }
            let distance = 1.0 + (bitcast<f32>(other) - bitcast<f32>(own));
            var out: Closed;
            out.loss = bitcast<u32>(row.row_weight * max(distance, 0.0));
            out.slope = select(0.0, row.factor, distance > 0.0);
            out.flags = zero;
            return out;
        }
        fn emit(row: Row, closed: Closed, it: Item) {
            let places = vec4<u32>(0u, 1u, 2u, 3u);
            let other = selected_read(row.index * 3u + 1u) - it.column;
            var g = select(vec4<f32>(0.0), vec4<f32>(closed.slope), places == vec4<u32>(other));
            g -= select(vec4<f32>(0.0), vec4<f32>(closed.slope), places == vec4<u32>(row.label - it.column));
            gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
        }";

    fn row(&self, label: usize, z: &[f64], gradient: &mut [f64]) -> f64 {
        let mut others: Vec<usize> = (0..z.len()).filter(|&column| column != label).collect();
        others.sort_by(|&a, &b| z[b].total_cmp(&z[a]));
        let distance = 1.0 + z[others[0]] - z[label];
        if distance > 0.0 {
            (gradient[others[0]], gradient[label]) = (1.0, -1.0);
        }
        distance.max(0.0)
    }
}

fn rival() -> Declared<Rival> {
    const FACTORS: &[Field] = &[Field::f32("slope")];
    let program = |declared: RowProgram| {
        let own = Source { path: Rival::NAME, text: Rival::WGSL };
        RowProgram {
            sources: vec![row::OPEN, row::PLACE, own],
            factors: FACTORS,
            rounds: Rounds::None,
            select: 1,
            label_score: LabelScore::Closing,
            ..declared
        }
    };
    Declared { reference: Separable::new(Rival), program }
}

/// Rows with every kind of fault.
fn rows(count: usize, classes: usize) -> Arrays {
    let mut targets = testing::targets(3, count, classes as u64);
    (targets[1], targets[4]) = (-100, classes as i64);
    let mut logits = testing::gaussian(5, count * classes);
    logits[6 * classes + 1] = f64::NAN;
    logits[7 * classes + 2] = f64::INFINITY;
    let mut weights = vec![1.0; count];
    (weights[2], weights[5]) = (0.0, 2.5);
    named([
        ("logits", matrix(count, classes, logits)),
        ("targets", indices(&targets)),
        ("row_weight", vector(&weights)),
    ])
}

/// A device that takes all rows in one dispatch, and one on which several workgroups share each row.
fn one_and_many(context: &Context) -> [Gpu; 2] {
    [0, u32::MAX].map(|busy| {
        context.with(|profile| {
            (profile.row_lanes, profile.segment, profile.busy_workgroups) = (8, 128, busy);
        })
    })
}

fn assert_both(context: &Context, loss: &dyn Operation, inputs: &Arrays, dtype: Dtype) {
    let wanted = ["loss", "grad.logits"];
    let [one, many] =
        one_and_many(context).map(|gpu| outcome(&gpu, loss, inputs, dtype, &wanted).0);
    Reference::new(loss, inputs, dtype, &wanted).assert(&one);
    assert_same_bits(&many, &one, "several workgroups a row");
}

/// One workgroup a row and several workgroups a row give the same bits in both rounds.
fn two_rounds(context: &Context) {
    for (count, classes) in [(9, 5), (9, 601)] {
        for dtype in FLOATS {
            assert_both(context, &purity(), &rows(count, classes), dtype);
        }
    }
}

/// Scores in blocks of classes are made once for each round, and once for the gradient.
fn two_rounds_in_blocks(context: &Context) {
    let gpu = &context.with(|profile| profile.row_lanes = 8);
    let (rows, classes, depth) = (19, 301, 7);
    let mut targets = testing::targets(3, rows, classes as u64);
    targets[4] = -100;
    let inputs = named([
        ("hidden", gaussian(1, rows, depth)),
        ("weight", gaussian(2, classes, depth)),
        ("targets", indices(&targets)),
    ]);
    let wanted = ["loss", "grad.hidden", "grad.weight"];
    for dtype in [Dtype::F32, Dtype::F16] {
        let run = |chunk_bytes: u64, passes: u64| {
            let loss = Linear::new(purity()).chunk_bytes(chunk_bytes);
            let placed = placed_inputs(gpu, &loss, &inputs, dtype);
            let shape = [rows as u64, depth as u64];
            let output =
                crate::support::Placed::output(gpu, surprisal::Layout::dense(dtype, &shape));
            let outputs = [("grad.hidden".to_owned(), output)];
            let plan = gpu.plan(&Request::new(&loss, tensors(&placed), tensors(&outputs)));
            assert_eq!(plan.unwrap().path.unwrap().passes, passes);
            let outputs = outcome(gpu, &loss, &inputs, dtype, &wanted).0;
            Reference::new(&loss, &inputs, dtype, &wanted).assert(&outputs);
            outputs
        };
        let whole = run(1 << 20, 1);
        assert_same_bits(&run(5 * 1216, 1), &whole, "chunks of rows");
        assert_same_bits(&run(1150, 3), &whole, "blocks of classes");
    }
}

/// A by-product of each row, and its mean over the rows that are kept, without ignored rows; NaN if the sum is NaN.
fn by_products(context: &Context) {
    let mut inputs = rows(9, 33);
    let run = |inputs: &Arrays| {
        outcome(&context.gpu, &purity(), inputs, Dtype::F32, &["purity", "mean_purity"]).0
    };
    let bad = run(&inputs);
    let purities = bad["purity"].to_f64();
    assert!(purities[6].is_nan() && purities[7].is_nan(), "{purities:?}");
    assert!(purities[1] == 0.0 && purities[4] == 0.0, "{purities:?}");
    assert!(bad["mean_purity"].to_f64()[0].is_nan());
    inputs.insert("logits".to_owned(), gaussian(5, 9, 33));
    let good = run(&inputs);
    let purities = good["purity"].to_f64();
    let mean = purities.iter().sum::<f64>() / 7.0;
    let found = good["mean_purity"].to_f64()[0];
    assert!((found - mean).abs() < 1e-6 * mean, "{found} is not {mean}");
    let z: Vec<f64> = inputs["logits"].to_f64()[..33].to_vec();
    let first = Purity.row(0, &z, &mut [0.0; 33]);
    assert!((purities[0] - first).abs() < 1e-6 * first, "{} is not {first}", purities[0]);
}

/// A row is closed from the best of the other columns, on stored scores and on those of a linear layer.
fn selected_columns(context: &Context) {
    for (count, classes) in [(9, 5), (9, 601)] {
        for dtype in FLOATS {
            assert_both(context, &rival(), &rows(count, classes), dtype);
        }
    }
    let inputs = named([
        ("hidden", gaussian(1, 19, 7)),
        ("weight", gaussian(2, 301, 7)),
        ("targets", indices(&testing::targets(3, 19, 301))),
    ]);
    let wanted = ["loss", "grad.hidden", "grad.weight"];
    for chunk_bytes in [1 << 20, 5 * 1216] {
        let loss = Linear::new(rival()).chunk_bytes(chunk_bytes);
        let outputs = outcome(&context.gpu, &loss, &inputs, Dtype::F32, &wanted).0;
        Reference::new(&loss, &inputs, Dtype::F32, &wanted).assert(&outputs);
    }
    let loss = Linear::new(rival()).chunk_bytes(900);
    let refused = context.gpu.run_arrays(&loss, &inputs, Dtype::F32, &wanted);
    assert!(refused.unwrap_err().to_string().contains("1216 bytes"));
}
