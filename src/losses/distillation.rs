//! Distillation: a student's softmax is compared with a teacher's (catalogue R7).

use super::linear_distillation;
use crate::{
    data::error::{Error, Result},
    plan::kernel::shader,
    reference::{Real, argmax, times},
    skeleton::row::{
        Broadcast, Field, Head, LabelScore, Reduced, Rounds, RowLoss, RowOutput, RowProgram,
        RowStream, TEMPERATURE_SLOPE,
        reference::{Point, Row, RowFormula, Softmax, total},
        row_loss,
    },
    spec::{about::About, call::Call},
};

/// How the distance of the student from the teacher is measured. q is the teacher's softmax, p the student's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Divergence {
    /// KL(q‖p): the student is pulled to cover everything that the teacher covers.
    #[default]
    Kl,
    /// KL(p‖q): the student is pulled to where the teacher's probability is large.
    ReverseKl,
    /// β·KL(q‖m) + (1 − β)·KL(p‖m) with m = β·q + (1 − β)·p: bounded, and between the other two.
    Js,
}

row_loss! {
    /// Distillation: row_weight·(α·CE(z, y) + (1 − α)·T²·D(q, p)), with the student's logits z and the teacher's
    /// logits t.
    ///
    /// q = softmax(t/T) and p = softmax(z/T). D is KL(q‖p), KL(p‖q) or the Jensen–Shannon divergence; see
    /// [`Divergence`]. T² keeps the size of the gradient as T grows. The hard term is cross-entropy with `targets`, at
    /// temperature 1 and without T². Without `targets` there is no hard term, and α counts as 0.
    ///
    /// - **Shapes**: logits and teacher_logits `[rows, classes]`, each with its own row stride and element offset;
    ///   targets `[rows]` (`i32`, `u32`, `i64`); row_weight `[rows]`; temperature `[1]`; upstream `[1]`, or `[rows]`
    ///   with [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: nats, times T².
    /// - **Types**: logits, teacher_logits, row_weight, temperature and the gradients in `f32`, `f16` or `bf16`;
    ///   everything in between in f32; the gradients are rounded to nearest even.
    /// - **Gradient**, only of the student, with f = row_weight·upstream/denominator: f·(α·(softmax(z) − onehot(y)) +
    ///   (1 − α)·T·g), where g is p − q for KL(q‖p), p∘(log(p/q) − KL(p‖q)) for KL(p‖q), and (1 − β)·p∘(log(p/m) −
    ///   KL(p‖m)) for the Jensen–Shannon divergence.
    /// - **A learned temperature** is the input `temperature`, one float on the GPU, which overrides the option. Its
    ///   gradient `grad.temperature` is Σ f·(1 − α)·d(T²·D)/dT over the rows; both softmaxes depend on T, the hard term
    ///   does not. A number whose square is outside the normal numbers of f32 is no temperature: every row is then a
    ///   bad row.
    /// - **By-products**, without any weight: `teacher_entropy`, −Σ q·log q of each row (to within 1e-7 nats where the
    ///   teacher is nearly sure), and `agreement`, the share of the rows kept in which both have their largest logit at
    ///   the same class (the lowest one on a tie).
    /// - **Mean** divides by the number of rows kept (PyTorch's `batchmean`), or by Σ row_weight of them.
    /// - **Edges**: an ignored target removes both terms of its row, whose gradient is exactly 0 even where its logits
    ///   are NaN. A row_weight of 0 does the same, but the row is counted. A class that is `-inf` for both does not
    ///   take part. Where only the student has `-inf`, KL(q‖p) is +inf, its gradient finite, and that of the
    ///   temperature NaN. Where only the teacher has `-inf`, KL(p‖q) is +inf, its gradient 0, and [`crate::Status`]
    ///   counts the row. The Jensen–Shannon divergence is finite in both cases. A target at `-inf` gives +inf if α > 0.
    ///   A NaN or +inf logit, of the student or the teacher, or a row of either that is all `-inf`, gives NaN for that
    ///   row, which the status counts. A target outside `0..classes` is never used as an index: the loss of its row is
    ///   NaN, the gradient 0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// Sources: Hinton, Vinyals and Dean 2015; the divergences on language models, Agarwal et al. 2024.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, Distillation, cpu};
    /// let row = |z: f64| Array::float(&[1, 2], vec![0.0, z]);
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), row(0.0)),
    ///     ("teacher_logits".to_owned(), row(2.0 * 3.0_f64.ln())),
    /// ]);
    /// let loss = Distillation::default().temperature(2.0);
    /// let outputs = cpu::run(&loss, &inputs, &["loss"])?;
    /// // q = (1/4, 3/4), p = (1/2, 1/2), and T² = 4.
    /// let kl = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
    /// assert!((outputs["loss"].to_f64()[0] - 4.0 * kl).abs() < 1e-12);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    Distillation = "distillation";
    summary: "A student's softmax held to a teacher's, with a hard term if asked for.",
    formula: "q = softmax(t/T), p = softmax(z/T); loss = row_weight·(α·CE(z, y) + (1 − α)·T²·D(q, p)); \
              D = KL(q‖p), KL(p‖q) or β·KL(q‖m) + (1 − β)·KL(p‖m) with m = β·q + (1 − β)·p",
    pytorch: "α * F.cross_entropy(z, y) + (1 - α) * T**2 * \
              F.kl_div(F.log_softmax(z / T, 1), F.softmax(t / T, 1), reduction=\"batchmean\")";
    inputs DistillationInputs {
        teacher_logits = "teacher_logits": arg::TEACHER_LOGITS;
        targets = "targets": arg::TARGETS;
        temperature = "temperature": arg::TEMPERATURE_IN;
    }
    outputs DistillationOutputs {
        temperature_gradient = "grad.temperature": arg::TEMPERATURE_GRADIENT;
        teacher_entropy = "teacher_entropy": arg::TEACHER_ENTROPY;
        agreement = "agreement": arg::AGREEMENT;
    };
    options {
        temperature: f64 = 1.0, "1.0", &["1.7"], "T > 0, of both softmaxes of the divergence";
        divergence: Divergence = Divergence::Kl, "\"kl\"", &["\"reverse_kl\"", "\"js\""],
            "\"kl\" (teacher to student), \"reverse_kl\" or \"js\"";
        beta: f64 = 0.5, "0.5", &["0.3"], "β in (0, 1), the teacher's share of m (\"js\")";
        alpha: f64 = 0.0, "0.0", &["0.4"], "α in [0, 1], the share of the hard term; 0 without `targets`";
    }
}

impl Distillation {
    fn bad<T>(option: &'static str, value: f64, reason: &str) -> Result<T> {
        Err(Error::option("distillation", option, value, reason))
    }

    /// α for a call with or without targets.
    fn hard_share(&self, targets: bool) -> f64 {
        if targets { self.alpha } else { 0.0 }
    }

    /// The divergence of one row; `None` where the gradient has no limit.
    fn divergence_of<T: Real>(&self, q: &Softmax<T>, p: &Softmax<T>) -> Option<Soft<T>> {
        let differences =
            |a: &Softmax<T>, b: &Softmax<T>| a.p.iter().zip(&b.p).map(|(&a, &b)| a - b).collect();
        match self.divergence {
            Divergence::Kl => {
                let value = total(terms(q, &p.log_p));
                let teacher = pulls(q, &p.log_p, value);
                Some(Soft { value, student: differences(p, q), teacher })
            }
            Divergence::ReverseKl => {
                let value = total(terms(p, &q.log_p));
                let student = pulls(p, &q.log_p, value);
                (!value.is_infinite()).then(|| Soft { value, student, teacher: differences(q, p) })
            }
            Divergence::Js => {
                let beta = T::of(self.beta);
                let rest = T::one() - beta;
                let mixed = q.p.iter().zip(&p.p).map(|(&q, &p)| (beta * q + rest * p).ln());
                let log_m: Vec<T> = mixed.collect();
                let (of_teacher, of_student) = (total(terms(q, &log_m)), total(terms(p, &log_m)));
                let scaled = |pulls: Vec<T>, share: T| -> Vec<T> {
                    pulls.into_iter().map(|pull| share * pull).collect()
                };
                Some(Soft {
                    value: beta * of_teacher + rest * of_student,
                    student: scaled(pulls(p, &log_m, of_student), rest),
                    teacher: scaled(pulls(q, &log_m, of_teacher), beta),
                })
            }
        }
    }
}

/// The divergence of one row, and its derivatives with respect to z/T and to t/T.
struct Soft<T> {
    value: T,
    student: Vec<T>,
    teacher: Vec<T>,
}

impl<T: Real> Soft<T> {
    /// The derivative of T²·D with respect to T. An infinite divergence has none.
    fn slope(&self, q: &Softmax<T>, p: &Softmax<T>, temperature: T) -> T {
        if self.value.is_infinite() {
            return T::nan();
        }
        // The logarithm of a softmax differs from its scores, divided by T, by the same number in all columns, and the
        // derivatives add up to 0.
        let along = |pulls: &[T], logs: &[T]| {
            let terms = pulls.iter().zip(logs).filter(|(pull, _)| !pull.is_zero());
            total(terms.map(|(&pull, &log)| pull * log))
        };
        let moved = along(&self.student, &p.log_p) + along(&self.teacher, &q.log_p);
        temperature * (self.value + self.value - moved)
    }
}

/// The terms p·log(p/q) of KL(p‖q).
fn terms<'a, T: Real>(p: &'a Softmax<T>, log_q: &'a [T]) -> impl Iterator<Item = T> + 'a {
    let logs = p.log_p.iter().zip(log_q);
    let term = |(&p, (&log_p, &log_q)): (&T, (&T, &T))| {
        if p.is_zero() { T::zero() } else { p * (log_p - log_q) }
    };
    p.p.iter().zip(logs).map(term)
}

/// p∘(log(p/q) − mean), the derivative of KL(p‖q) with respect to the scores of p.
fn pulls<T: Real>(p: &Softmax<T>, log_q: &[T], mean: T) -> Vec<T> {
    terms(p, log_q).zip(&p.p).map(|(term, &p)| term - p * mean).collect()
}

impl RowFormula for Distillation {
    const BESIDE: &'static [&'static str] = &["teacher_logits"];
    const SCALARS: &'static [&'static str] = &["temperature"];
    const OUTPUTS: &'static [RowOutput] = OUTPUTS;

    fn check(&self) -> Result<()> {
        // The GPU uses the temperature, its square and its inverse in f32.
        let normal = |value: f64| (value as f32).is_normal();
        if !(self.temperature > 0.0 && has_square(self.temperature)) {
            return Self::bad("temperature", self.temperature, "T is above 0, T² within f32");
        }
        if !(self.beta > 0.0 && normal(self.beta) && (self.beta as f32) < 1.0) {
            return Self::bad("beta", self.beta, "β lies in (0, 1), in f32 too");
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            return Self::bad("alpha", self.alpha, "α lies in [0, 1]");
        }
        Ok(())
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let teacher = row.get("teacher_logits").unwrap_or_default();
        let temperature = row.temperature(self.temperature);
        let softmaxes = (
            Softmax::of(teacher, temperature),
            Softmax::of(row.logits, temperature),
            Softmax::of(row.logits, T::one()),
        );
        let (Some(q), Some(p), Some(hard)) = softmaxes else { return Point::bad(classes) };
        if !has_square(temperature.wide()) {
            return Point::bad(classes);
        }
        let alpha = T::of(self.hard_share(row.target.is_some()));
        let soft_share = T::one() - alpha;
        let (mut loss, mut gradient) = (T::zero(), vec![T::zero(); classes]);
        let mut slope = T::zero();
        if !soft_share.is_zero() {
            let Some(soft) = self.divergence_of(&q, &p) else { return Point::infinite(classes) };
            let scale = soft_share * temperature;
            loss = scale * temperature * soft.value;
            slope = soft_share * soft.slope(&q, &p, temperature);
            gradient = soft.student.into_iter().map(|pull| scale * pull).collect();
        }
        if let Some(label) = row.target {
            loss += times(alpha, -hard.log_p[label]);
            for (c, g) in gradient.iter_mut().enumerate() {
                let onehot = if c == label { T::one() } else { T::zero() };
                *g += alpha * (hard.p[c] - onehot);
            }
        }
        let agrees = argmax(row.logits) == argmax(teacher);
        let agrees = if agrees { T::one() } else { T::zero() };
        Point::new(loss, gradient).with(vec![slope, q.entropy(), agrees])
    }
}

/// Whether the square of a temperature is a normal f32.
fn has_square(temperature: f64) -> bool {
    ((temperature * temperature) as f32).is_normal()
}

impl RowLoss for Distillation {
    fn linear_about(&self) -> Option<&'static About> {
        Some(&linear_distillation::ABOUT)
    }

    fn heads(&self) -> &'static [Head] {
        &[linear_distillation::TEACHER]
    }

    fn program(&self, call: &Call) -> RowProgram {
        let alpha = self.hard_share(call.has("targets"));
        let (divergence, wants_slope) = (self.divergence, call.wants("grad.temperature"));
        let agreement = call.wants("agreement");
        let two = wants_slope || call.wants("teacher_entropy") || divergence == Divergence::Js;
        let rounds = if two { Rounds::Two } else { Rounds::One };
        let beta_slope = if divergence == Divergence::Js { 1.0 - self.beta } else { 1.0 };
        self.ruled(RowProgram {
            streams: vec![RowStream::read("teacher_logits", Broadcast::Elements)],
            outputs: OUTPUTS,
            factors: FACTORS,
            settled: SETTLED,
            label_score: if alpha > 0.0 { LabelScore::Closing } else { LabelScore::Unused },
            overrides: vec![
                ("DIVERGENCE", divergence as u32),
                ("HARD", (alpha > 0.0).into()),
                ("WANTS_SLOPE", wants_slope.into()),
                ("KEEPS_PLACES", agreement.into()),
            ],
            uniforms: vec![
                ("alpha", alpha.into()),
                ("beta", self.beta.into()),
                ("soft_share", (1.0 - alpha).into()),
                ("soft_slope", ((1.0 - alpha) * beta_slope).into()),
            ],
            ..RowProgram::divergence(shader!("loss/distillation.wgsl"), rounds)
        })
        .tempered_by(call, self.temperature)
    }
}

static OUTPUTS: &[RowOutput] = &[
    TEMPERATURE_SLOPE,
    RowOutput::number("teacher_entropy"),
    RowOutput::number("agrees").reduced(Reduced::Mean("agreement")),
];

static SETTLED: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("second_top"),
    Field::f32("second_inverse_sum"),
    Field::f32("divergence"),
];

static FACTORS: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("second_top"),
    Field::f32("second_inverse_sum"),
    Field::f32("scale"),
    Field::f32("mean"),
    Field::f32("hard_scale"),
    Field::f32("hard_inverse_sum"),
    Field::u32("label"),
];
