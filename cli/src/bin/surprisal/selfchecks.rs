//! Built-in cases for every registered loss, compared with the f64 reference: awkward shapes, all inputs at once, and
//! the edge cases of the catalogue's section 0.
//!
//! They are made from the losses' descriptions, so a new loss gets them without any code here.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Data, Dtype, Operation, Result,
    cases::Case,
    cpu,
    loss::{self, Argument, Dim, Domain, Kind},
    operations, testing,
};

/// A case that is computed when its turn comes.
#[derive(Clone, Debug)]
pub struct SelfCheck {
    /// The name in reports.
    pub id: String,
    /// Its loss.
    pub loss: &'static str,
    /// The storage type.
    pub dtype: Dtype,
    options: Value,
    shape: Shape,
    given: Given,
    edge: Edge,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: u64,
    classes: u64,
    hidden: u64,
}

/// The inputs of a call beside the required ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// Index targets.
    Targets,
    /// Index targets, and all inputs that go with them.
    All,
    /// Any float matrices that replace index targets.
    Probs,
    /// Index targets and a saved lse: only gradients.
    Saved,
}

/// What is special about the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Edge {
    Plain,
    Outliers,
    Ascending,
    Offset(f64),
    /// Ignored rows hold NaN and infinity.
    IgnoredNan,
    AllIgnored,
    BadTargets,
    /// -inf at a target and elsewhere, +inf, NaN, and a row of -inf.
    Infinities,
    /// Everything but the last columns is -inf.
    FirstTileMasked,
    /// Classes that are -inf have weight or probability 0.
    MaskedWeightless,
}

impl Edge {
    /// Whether this edge exists for targets of this kind.
    fn shows_in(self, targets: Kind) -> bool {
        let of_any_kind = matches!(
            self,
            Self::Plain | Self::Outliers | Self::Ascending | Self::Offset(_) | Self::Infinities
        );
        targets == Kind::Index || of_any_kind
    }
}

/// The shapes, each with its reason.
const SHAPES: &[(u64, u64, u64, &str)] = &[
    (1, 1, 1, "one"),
    (5, 3, 5, "quad-1"),
    (4, 4, 4, "quad"),
    (3, 5, 3, "quad+1"),
    (7, 31, 33, "odd"),
    (65, 257, 65, "past-a-workgroup"),
    (9, 1009, 17, "prime"),
    (2, 50_257, 8, "vocabulary"),
    (70_001, 3, 2, "many-rows"),
    (0, 5, 4, "no-rows"),
];

const EDGES: &[(&str, Edge, u64, u64, Option<&str>)] = &[
    ("outliers", Edge::Outliers, 9, 300, None),
    ("ascending", Edge::Ascending, 5, 2_000, None),
    ("offset-1e4", Edge::Offset(1e4), 6, 129, None),
    ("offset-1e6", Edge::Offset(1e6), 6, 129, None),
    ("ignored-nan", Edge::IgnoredNan, 8, 37, None),
    ("all-ignored-nan", Edge::AllIgnored, 5, 6, Some(r#"{"empty": "nan"}"#)),
    ("all-ignored-zero", Edge::AllIgnored, 5, 6, Some(r#"{"empty": "zero"}"#)),
    ("bad-targets", Edge::BadTargets, 8, 13, Some(r#"{"reduction": "none"}"#)),
    ("infinities", Edge::Infinities, 8, 21, Some(r#"{"reduction": "none"}"#)),
    ("first-tile-masked", Edge::FirstTileMasked, 2, 40_009, None),
    ("masked-weightless", Edge::MaskedWeightless, 6, 18, None),
];

/// All self-checks in these storage types.
pub fn all(dtypes: &[Dtype]) -> Vec<SelfCheck> {
    let mut checks = Vec::new();
    for entry in loss::REGISTRY {
        for &dtype in dtypes {
            add_shapes(entry, dtype, &mut checks);
            add_edges(entry, dtype, &mut checks);
        }
    }
    checks
}

fn add_shapes(entry: &operations::Entry, dtype: Dtype, checks: &mut Vec<SelfCheck>) {
    let about = entry.about;
    // Option sets that differ in what they compute. A loss gets those whose options it has.
    let options: Vec<Value> = [
        json!({}),
        json!({"reduction": "sum", "label_smoothing": 0.1, "z_loss": 0.01}),
        json!({"reduction": "none", "temperature": 2.0, "softcap": 8.0}),
        json!({"reduction": {"over": 3.0}, "focal_gamma": 1.5}),
        json!({"label_smoothing": 0.2, "smoothing": "ordinal", "denominator": "weights"}),
    ]
    .into_iter()
    .filter(|options| (entry.parse)(options).is_ok())
    .collect();
    let mut turn = 0;
    for &(rows, classes, hidden, reason) in SHAPES {
        // Rows against rows take the reference too long.
        if about.columns() == Some(Dim::Rows) && rows > 1000 {
            continue;
        }
        for (given, name) in [
            (Given::Targets, "targets"),
            (Given::All, "all"),
            (Given::Probs, "probs"),
            (Given::Saved, "saved-lse"),
        ] {
            // The large shapes run only with the fewest and with the most inputs.
            let large = rows * classes > 50_000;
            if large && (matches!(given, Given::Probs | Given::Saved) || dtype == Dtype::F16) {
                continue;
            }
            if given == Given::Probs && !has_probs(about) {
                continue;
            }
            let options = options.get(turn % options.len().max(1)).cloned().unwrap_or(json!({}));
            turn += 1;
            let mut check = SelfCheck {
                id: format!("self/{}/{reason}/{name}/{dtype}", about.name),
                loss: about.name,
                dtype,
                options,
                shape: Shape { rows, classes, hidden },
                given,
                edge: Edge::Plain,
            };
            if !check.exists() {
                check.options = json!({});
            }
            if check.exists() {
                checks.push(check);
            }
        }
    }
}

/// An optional matrix beside the scores, such as target distributions.
fn is_matrix(argument: &Argument) -> bool {
    let matrix: &[Dim] = &[Dim::Rows, Dim::Classes];
    !argument.required && argument.kind == Kind::Float && argument.shapes.contains(&matrix)
}

fn has_probs(about: &loss::About) -> bool {
    about.inputs.iter().any(is_matrix)
}

fn add_edges(entry: &operations::Entry, dtype: Dtype, checks: &mut Vec<SelfCheck>) {
    let about = entry.about;
    for &(name, edge, rows, classes, options) in EDGES {
        let options = options
            .and_then(|text| serde_json::from_str(text).ok())
            .filter(|options| (entry.parse)(options).is_ok())
            .unwrap_or(json!({}));
        let given = match edge {
            Edge::MaskedWeightless if has_probs(about) => Given::Probs,
            Edge::MaskedWeightless => Given::All,
            _ => Given::Targets,
        };
        let hidden = 5;
        let check = SelfCheck {
            id: format!("self/{}/{name}/{dtype}", about.name),
            loss: about.name,
            dtype,
            options,
            shape: Shape { rows, classes, hidden },
            given,
            edge,
        };
        // An edge appears in the first input and in the targets; a loss with neither has no edge.
        let targets = about.inputs.iter().find(|input| input.name == "targets");
        if targets.is_some_and(|targets| edge.shows_in(targets.kind)) && check.exists() {
            checks.push(check);
        }
    }
}

impl SelfCheck {
    /// The case, with the results of the f64 reference as its expected outputs.
    pub fn case(&self) -> Result<Case> {
        let loss = self.loss()?;
        let wanted = self.wanted();
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let inputs = self.inputs(loss.as_ref(), self.shape, &self.names())?;
        let stored = testing::rounded(loss.as_ref(), &inputs, self.dtype);
        let expect = cpu::run(loss.as_ref(), &stored, &names)?;
        Ok(Case {
            id: self.id.clone(),
            loss: self.loss.to_owned(),
            options: self.options.clone(),
            inputs: stored,
            expect,
            note: None,
            source: Some("the f64 reference of this crate".to_owned()),
        })
    }

    /// The names of the outputs that it compares.
    pub fn wanted(&self) -> Vec<String> {
        let (Ok(loss), names) = (self.loss(), self.names()) else {
            return Vec::new();
        };
        let tiny = Shape { rows: 2, classes: 3, hidden: 2 };
        let Ok(inputs) = self.inputs(loss.as_ref(), tiny, &names) else {
            return Vec::new();
        };
        let gradients_alone = self.given == Given::Saved;
        let outputs = loss.about().outputs.iter().map(|output| output.name);
        outputs
            .filter(|name| *name != "statistics")
            .filter(|name| !gradients_alone || name.starts_with("grad.") || *name == "status")
            .filter(|name| {
                name.strip_prefix("grad.").is_none_or(|input| inputs.contains_key(input))
            })
            .filter(|name| cpu::run(loss.as_ref(), &inputs, &[name]).is_ok())
            .map(str::to_owned)
            .collect()
    }

    /// Whether the loss accepts such a call.
    fn exists(&self) -> bool {
        !self.wanted().is_empty()
    }

    fn loss(&self) -> Result<Box<dyn Operation>> {
        (crate::losses::find(self.loss)?.parse)(&self.options)
    }

    /// The inputs that are given. They are tried on a tiny call, which finds inputs that exclude each other without
    /// knowing the loss.
    fn names(&self) -> BTreeSet<String> {
        let Ok(loss) = self.loss() else {
            return BTreeSet::new();
        };
        let about = loss.about();
        let mut names: BTreeSet<String> =
            about.inputs.iter().filter(|a| a.required).map(|a| a.name.to_owned()).collect();
        let targets = |a: &&Argument| !a.required && (a.kind == Kind::Index || a.name == "targets");
        if self.given == Given::Probs {
            names.extend(about.inputs.iter().filter(|a| is_matrix(a)).map(|a| a.name.to_owned()));
        } else {
            names.extend(about.inputs.iter().filter(targets).map(|a| a.name.to_owned()));
        }
        match self.given {
            Given::Targets => {}
            Given::Saved => {
                names.insert("lse".to_owned());
            }
            Given::All | Given::Probs => {
                for argument in about.inputs.iter().filter(|a| a.name != "lse") {
                    let mut more = names.clone();
                    more.insert(argument.name.to_owned());
                    if self.accepted(loss.as_ref(), &more) {
                        names = more;
                    }
                }
            }
        }
        names
    }

    fn accepted(&self, loss: &dyn Operation, names: &BTreeSet<String>) -> bool {
        let tiny = Shape { rows: 2, classes: 3, hidden: 2 };
        self.inputs(loss, tiny, names)
            .is_ok_and(|inputs| cpu::run(loss, &inputs, &["loss"]).is_ok())
    }

    fn inputs(
        &self,
        loss: &dyn Operation,
        shape: Shape,
        names: &BTreeSet<String>,
    ) -> Result<Arrays> {
        let about = loss.about();
        let mut inputs = Arrays::new();
        for (seed, argument) in about.inputs.iter().enumerate() {
            if names.contains(argument.name) && argument.name != "lse" {
                let array = self.input(loss, argument, shape, seed as u64 + 1);
                inputs.insert(argument.name.to_owned(), array);
            }
        }
        self.edge(about, shape, &mut inputs);
        if names.contains("lse") {
            let stored = testing::rounded(loss, &inputs, self.dtype);
            let mut saved = cpu::run(loss, &stored, &["lse"])?;
            inputs.append(&mut saved);
        }
        Ok(inputs)
    }

    /// Numbers that suit the input's name and type.
    fn input(&self, loss: &dyn Operation, argument: &Argument, shape: Shape, seed: u64) -> Array {
        let extent = |dim: &Dim| match dim {
            Dim::Rows => shape.rows,
            Dim::Classes | Dim::Fakes => shape.classes,
            Dim::Hidden | Dim::TeacherHidden => shape.hidden,
            _ => 1,
        };
        let rank = loss.about().inputs.first().and_then(|first| first.shapes.first());
        let dims = argument.shape_in(loss, rank.map_or(1, |shape| shape.len()));
        let extents: Vec<u64> = dims.iter().map(extent).collect();
        let count = extents.iter().product::<u64>() as usize;
        if matches!(argument.kind, Kind::Index | Kind::Label | Kind::I64 | Kind::U32) {
            let different = testing::different(argument, count as u64, shape.classes);
            return Array::int(&extents, testing::indices(argument.domain, seed, count, different));
        }
        let gaussian = || testing::gaussian(seed, count);
        let positive = || gaussian().into_iter().map(|value| 0.2 + value.abs());
        let values: Vec<f64> = match argument.name {
            _ if argument.domain != Domain::Any => testing::numbers(argument.domain, seed, count),
            "denominator" => vec![3.0; count],
            name if name.contains("prob") => {
                let columns = extents.last().copied().unwrap_or(1).max(1) as f64;
                positive().map(|value| value / columns).collect()
            }
            name if name.contains("weight") && extents.len() == 1 => positive().collect(),
            // The scores hidden·weight then have magnitude one.
            "weight" => {
                let scale = 1.0 / (shape.hidden as f64).sqrt();
                gaussian().into_iter().map(|value| value * scale).collect()
            }
            "logits" => match self.edge {
                Edge::Outliers => testing::outliers(seed, count),
                Edge::Ascending => testing::ascending(seed, count),
                Edge::Offset(offset) => testing::offset(seed, count, offset),
                _ => gaussian(),
            },
            _ => gaussian(),
        };
        Array::float(&extents, values)
    }

    /// Puts the edge case into the numbers.
    fn edge(&self, about: &loss::About, shape: Shape, inputs: &mut Arrays) {
        let Some(first) = about.inputs.first().map(|first| first.name) else {
            return;
        };
        let rows = Rows { shape, name: first };
        let ignored = -100;
        match self.edge {
            Edge::Plain => {
                // If there are many rows, one row in eight is ignored.
                if shape.rows >= 7 {
                    Rows::targets(
                        inputs,
                        |row, target| if row % 8 == 3 { ignored } else { target },
                    );
                }
            }
            Edge::Outliers | Edge::Ascending | Edge::Offset(_) => {}
            Edge::IgnoredNan => {
                Rows::targets(inputs, |row, target| if row % 3 == 1 { ignored } else { target });
                rows.values(inputs, |row, column, value| match (row % 3, row % 2) {
                    (1, 0) => f64::NAN,
                    (1, _) if column == 0 => f64::INFINITY,
                    _ => value,
                });
            }
            Edge::AllIgnored => Rows::targets(inputs, |_, _| ignored),
            Edge::BadTargets => Rows::targets(inputs, |row, target| match row {
                1 => shape.classes as i64,
                3 => -1,
                4 => 1 << 32,
                6 => i64::MIN,
                _ => target,
            }),
            Edge::Infinities => {
                Rows::targets(inputs, |_, _| 1);
                rows.values(inputs, |row, column, value| match (row, column) {
                    (1, 0 | 2) | (2, 1) | (5, _) => f64::NEG_INFINITY,
                    (3, 2) => f64::INFINITY,
                    (4, 1) => f64::NAN,
                    _ => value,
                });
            }
            Edge::FirstTileMasked => {
                let open = shape.classes.saturating_sub(7);
                Rows::targets(inputs, |_, _| shape.classes as i64 - 2);
                rows.columns(inputs, |column| column < open);
            }
            Edge::MaskedWeightless => {
                rows.columns(inputs, |column| column % 5 == 2);
                if let Some(probs) = inputs.get_mut("target_probs") {
                    let classes = shape.classes as usize;
                    change(probs, |at, value| if (at % classes) % 5 == 2 { 0.0 } else { value });
                }
            }
        }
    }
}

/// The first input of a loss, row by row.
struct Rows {
    shape: Shape,
    name: &'static str,
}

impl Rows {
    /// Changes index targets.
    fn targets(inputs: &mut Arrays, change: impl Fn(u64, i64) -> i64) {
        if let Some(targets) = inputs.get_mut("targets")
            && matches!(targets.data, Data::Int(_))
        {
            let values = targets.to_i64().into_iter().enumerate();
            let values = values.map(|(row, target)| change(row as u64, target)).collect();
            *targets = Array::int(&targets.shape.clone(), values);
        }
    }

    fn values(&self, inputs: &mut Arrays, with: impl Fn(u64, u64, f64) -> f64) {
        if let Some(array) = inputs.get_mut(self.name) {
            let columns = array.shape.get(1).copied().unwrap_or(1).max(1);
            change(array, |at, value| with(at as u64 / columns, at as u64 % columns, value));
        }
    }

    /// Masks classes in the logits, or in a bias that is added to them.
    fn columns(&self, inputs: &mut Arrays, masked: impl Fn(u64) -> bool) {
        let classes = self.shape.classes.max(1);
        let name = if self.name == "logits" { self.name } else { "bias" };
        if name == "bias" && !inputs.contains_key(name) {
            inputs.insert(name.to_owned(), Array::float(&[classes], vec![0.0; classes as usize]));
        }
        if let Some(array) = inputs.get_mut(name) {
            let infinite = f64::NEG_INFINITY;
            change(array, |at, value| if masked(at as u64 % classes) { infinite } else { value });
        }
    }
}

fn change(array: &mut Array, with: impl Fn(usize, f64) -> f64) {
    let values = array.to_f64().into_iter().enumerate();
    let values = values.map(|(at, value)| with(at, value)).collect();
    *array = Array::float(&array.shape.clone(), values);
}
