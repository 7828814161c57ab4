//! A call over all columns, cut into shards: both calls of every shard, and their combined results.

use serde_json::{Value, json};
use surprisal::{Array, Arrays, Dtype, Gpu, Operation, cpu, testing};

use crate::support::{
    Reference, bits, gaussian, indices, matrix, named, outcome, parse, positive, vector, with,
};

/// What computes a call: the GPU or the host.
pub(super) type Run<'a> = &'a dyn Fn(&dyn Operation, &Arrays, &[&str]) -> Arrays;

/// How a loss is cut: the inputs that are cut, and along which axis.
pub(super) type Cut = &'static [(&'static str, usize)];

/// A call over all columns, with what is needed to cut it.
pub(super) struct Whole<'a> {
    pub name: &'a str,
    pub options: Value,
    pub inputs: Arrays,
    pub cut: Cut,
    pub rows: usize,
    pub columns: usize,
    pub outputs: &'a [&'a str],
    pub gradients: &'a [&'a str],
}

/// Columns `from..to` of an array along an axis.
pub(super) fn slice(array: &Array, axis: usize, from: usize, to: usize) -> Array {
    let pick = |len: usize, inner: usize| -> Vec<usize> {
        let outer = array.len() / (len * inner).max(1);
        (0..outer)
            .flat_map(|o| {
                (from..to).flat_map(move |c| (0..inner).map(move |i| (o * len + c) * inner + i))
            })
            .collect()
    };
    let mut shape = array.shape.clone();
    let inner = shape[axis + 1..].iter().product::<u64>() as usize;
    let picked = pick(shape[axis] as usize, inner);
    shape[axis] = (to - from) as u64;
    match &array.data {
        surprisal::Data::Float(v) => Array::float(&shape, picked.iter().map(|&i| v[i]).collect()),
        surprisal::Data::Int(v) => Array::int(&shape, picked.iter().map(|&i| v[i]).collect()),
    }
}

/// Arrays one after another along an axis.
pub(super) fn join(parts: &[Array], axis: usize) -> Array {
    let mut shape = parts[0].shape.clone();
    let outer = shape[..axis].iter().product::<u64>() as usize;
    let mut values = Vec::new();
    for o in 0..outer {
        for part in parts {
            let run = part.len() / outer;
            values.extend_from_slice(&part.to_f64()[o * run..(o + 1) * run]);
        }
    }
    shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
    Array::float(&shape, values)
}

pub(super) fn add(parts: &[Array]) -> Array {
    let mut sum = vec![0.0; parts[0].len()];
    for part in parts {
        sum.iter_mut().zip(part.to_f64()).for_each(|(sum, value)| *sum += value);
    }
    Array::float(&parts[0].shape, sum)
}

impl Whole<'_> {
    fn loss(&self, first: usize) -> Box<dyn Operation> {
        let mut options = self.options.clone();
        options["shard"] = json!({"first": first, "classes": self.columns});
        parse(self.name, &options)
    }

    fn part(&self, from: usize, to: usize) -> Arrays {
        let mut part = self.inputs.clone();
        for &(name, axis) in self.cut {
            if let Some(array) = self.inputs.get(name) {
                part.insert(name.to_owned(), slice(array, axis, from, to));
            }
        }
        part
    }

    /// Makes both calls of every shard. A shard without columns contributes zeros.
    pub fn run(&self, cuts: &[usize], run: Run) -> (Arrays, Arrays) {
        let rows = self.rows;
        let shards: Vec<(usize, usize)> = cuts.windows(2).map(|ends| (ends[0], ends[1])).collect();
        let both = self.options["symmetric"] == true;
        let given: &[&str] = if both { &["statistics", "column_lse"] } else { &["statistics"] };
        let (mut gathered, mut own) = (Vec::new(), Vec::new());
        for &(from, to) in &shards {
            if from == to {
                gathered.extend(vec![0.0; rows * 8]);
                own.push(None);
                continue;
            }
            let mut outputs = run(&*self.loss(from), &self.part(from, to), given);
            gathered.extend(outputs["statistics"].to_f64());
            own.push(outputs.remove("column_lse"));
        }
        let statistics = matrix(shards.len() * rows, 8, gathered);
        let wanted = [self.outputs, self.gradients].concat();
        let mut closed: Vec<Arrays> = Vec::new();
        for (&(from, to), own) in shards.iter().zip(own).filter(|((from, to), _)| from < to) {
            let mut inputs = with(&self.part(from, to), [("statistics", statistics.clone())]);
            inputs.extend(own.map(|lse| ("column_lse".to_owned(), lse)));
            let outputs = run(&*self.loss(from), &inputs, &wanted);
            // Every shard finds the same loss, with and without gradients.
            for &name in self.outputs {
                let first = closed.first().unwrap_or(&outputs);
                assert_eq!(bits(&outputs[name]), bits(&first[name]), "{name}");
            }
            closed.push(outputs);
        }
        let outputs = self.outputs.iter().map(|&name| (name.to_owned(), closed[0][name].clone()));
        let gradient = |&name: &&str| {
            let parts: Vec<Array> = closed.iter().map(|outputs| outputs[name].clone()).collect();
            let cut = self.cut.iter().find(|(input, _)| name.strip_prefix("grad.") == Some(input));
            let all = cut.map_or_else(|| add(&parts), |&(_, axis)| join(&parts, axis));
            (name.to_owned(), all)
        };
        (outputs.collect(), self.gradients.iter().map(gradient).collect())
    }

    /// Checks that all shards together give the results of the whole, on the GPU and on the host.
    pub fn check(&self, gpu: &Gpu, cuts: &[usize]) {
        let whole = parse(self.name, &self.options);
        let everything = self.everything();
        let wanted = [self.outputs, self.gradients].concat();
        let on_gpu = |loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]| {
            outcome(gpu, loss, inputs, Dtype::F32, wanted).0
        };
        let (mut outputs, gradients) = self.run(cuts, &on_gpu);
        outputs.extend(gradients);
        Reference::new(&*whole, &everything, Dtype::F32, &wanted).assert(&outputs);
        let on_host = |loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]| {
            cpu::run(loss, inputs, wanted).unwrap()
        };
        let (mut outputs, gradients) = self.run(cuts, &on_host);
        outputs.extend(gradients);
        let truth = cpu::run(&*whole, &everything, &wanted).unwrap();
        for name in wanted {
            let pairs = outputs[name].to_f64().into_iter().zip(truth[name].to_f64());
            let largest = truth[name].to_f64().iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            for (a, b) in pairs {
                let near = (a - b).abs() <= 1e-11 * largest.max(1e-3);
                assert!(
                    near || a == b || (a.is_nan() && b.is_nan()),
                    "{name}: {a} {b} {}",
                    self.options
                );
            }
        }
    }

    /// The inputs of the one call over all columns.
    fn everything(&self) -> Arrays {
        let mut everything = self.inputs.clone();
        if self.name == "sup_con" {
            everything.remove("keys");
        }
        everything
    }

    /// In any storage type: the outputs and gradients of every shard are those that the host computes from the same
    /// statistics, and the combined gradients are those of one call.
    pub fn check_parts(&self, cuts: &[usize], dtype: Dtype, run: Run) {
        let checked = |loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]| {
            let outputs = run(loss, inputs, wanted);
            if inputs.contains_key("statistics") {
                Reference::new(loss, inputs, dtype, wanted).assert(&outputs);
            }
            outputs
        };
        let (mut outputs, gradients) = self.run(cuts, &checked);
        let everything = self.everything();
        let cut = |name: &str| {
            let input = name.strip_prefix("grad.");
            let cut = |cut: &str| input == Some(cut) && everything.contains_key(cut);
            self.cut.iter().any(|(name, _)| cut(name))
        };
        outputs.extend(gradients.into_iter().filter(|(name, _)| cut(name)));
        let wanted: Vec<&str> = outputs.keys().map(String::as_str).collect();
        let whole = parse(self.name, &self.options);
        Reference::new(&*whole, &everything, dtype, &wanted).assert(&outputs);
    }
}

/// Linear cross-entropies with both layouts of the weight and these options.
pub(super) fn layers<'a>(options: &Value, [rows, classes, depth]: [usize; 3]) -> [Whole<'a>; 2] {
    let cuts: [Cut; 2] = [&[("weight", 0), ("bias", 0)], &[("weight", 1), ("bias", 0)]];
    [0, 1].map(|axis| {
        let shape = [[classes, depth], [depth, classes]][axis];
        let mut options = options.clone();
        options["weight_layout"] = json!(["classes_hidden", "hidden_classes"][axis]);
        Whole {
            name: "linear_cross_entropy",
            options,
            inputs: named([
                ("hidden", gaussian(81, rows, depth)),
                ("weight", gaussian(82, shape[0], shape[1])),
                ("bias", vector(&testing::gaussian(83, classes))),
                ("targets", indices(&testing::targets(84, rows, classes as u64))),
                ("class_weight", vector(&positive(85, classes))),
            ]),
            cut: cuts[axis],
            rows,
            columns: classes,
            outputs: &["loss", "lse", "entropy"],
            gradients: &["grad.hidden", "grad.weight", "grad.bias"],
        }
    })
}

/// Contrasts of this many queries with this many keys.
pub(super) fn contrasts<'a>(options: Value, [queries, keys]: [usize; 2]) -> Whole<'a> {
    Whole {
        name: "info_nce",
        options,
        inputs: pairs(queries, keys, 6),
        cut: &[("keys", 0)],
        rows: queries,
        columns: keys,
        outputs: &["loss", "lse"],
        gradients: &["grad.queries", "grad.keys", "grad.scale"],
    }
}

/// Contrasts of vectors with each other, by label.
pub(super) fn labelled<'a>(options: Value, count: usize) -> Whole<'a> {
    let mut labels = testing::targets(57, count, 4);
    (labels[3], labels[count - 1]) = (77, 78);
    let features = gaussian(58, count, 5);
    Whole {
        name: "sup_con",
        options,
        inputs: named([
            ("features", features.clone()),
            ("labels", indices(&labels)),
            ("keys", features),
            ("scale", vector(&[1.7])),
        ]),
        cut: &[("keys", 0)],
        rows: count,
        columns: count,
        outputs: &["loss", "lse"],
        gradients: &["grad.features", "grad.keys", "grad.scale"],
    }
}

/// Vectors whose scores are about as large as 1; one of them is zero.
pub(super) fn pairs(queries: usize, keys: usize, depth: usize) -> Arrays {
    let mut vectors = gaussian(52, queries, depth).to_f64();
    vectors[2 * depth..3 * depth].fill(0.0);
    named([
        ("queries", matrix(queries, depth, vectors)),
        ("keys", gaussian(53, keys, depth)),
        ("scale", vector(&[0.8])),
    ])
}
