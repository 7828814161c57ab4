//! Losses whose columns lie in several shards: statistics, gathered, closed on every shard alike.

use serde_json::{Value, json};
use surprisal::{Array, Arrays, Dtype, Gpu, Loss, cpu, testing};

use crate::support::{
    Context, Reference, bits, gaussian, in_blocks, indices, matrix, named, outcome, parse,
    positive, vector, with,
};

tests![
    cross_entropy,
    linear_cross_entropy,
    info_nce,
    sup_con,
    sigmoid_contrastive,
    sixteen_bits,
    blocks_of_columns,
    top_of_shards,
    live_columns_elsewhere,
    many_queries,
    refusals,
];

/// What computes a call.
type Run<'a> = &'a dyn Fn(&dyn Loss, &Arrays, &[&str]) -> Arrays;

/// How a loss is cut: inputs with a part of each shard, and the axis that is cut.
type Cut = &'static [(&'static str, usize)];

/// A call over all columns, and where it is cut.
struct Whole<'a> {
    name: &'a str,
    options: Value,
    inputs: Arrays,
    cut: Cut,
    rows: usize,
    columns: usize,
    outputs: &'a [&'a str],
    gradients: &'a [&'a str],
}

/// Columns `from..to` of an array along an axis.
fn slice(array: &Array, axis: usize, from: usize, to: usize) -> Array {
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
fn join(parts: &[Array], axis: usize) -> Array {
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

fn add(parts: &[Array]) -> Array {
    let mut sum = vec![0.0; parts[0].len()];
    for part in parts {
        sum.iter_mut().zip(part.to_f64()).for_each(|(sum, value)| *sum += value);
    }
    Array::float(&parts[0].shape, sum)
}

impl Whole<'_> {
    fn loss(&self, first: usize) -> Box<dyn Loss> {
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

    /// Both calls of every shard. An empty one puts zeros in.
    fn run(&self, cuts: &[usize], run: Run) -> (Arrays, Arrays) {
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
            // Every shard finds the same loss, alone or beside gradients.
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

    /// All shards together are the whole, on the GPU and on the host.
    fn check(&self, gpu: &Gpu, cuts: &[usize]) {
        let whole = parse(self.name, &self.options);
        let everything = self.everything();
        let wanted = [self.outputs, self.gradients].concat();
        let on_gpu = |loss: &dyn Loss, inputs: &Arrays, wanted: &[&str]| {
            outcome(gpu, loss, inputs, Dtype::F32, wanted).0
        };
        let (mut outputs, gradients) = self.run(cuts, &on_gpu);
        outputs.extend(gradients);
        Reference::new(&*whole, &everything, Dtype::F32, &wanted).assert(&outputs);
        let on_host = |loss: &dyn Loss, inputs: &Arrays, wanted: &[&str]| {
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
}

impl Whole<'_> {
    /// What one call over all columns is given.
    fn everything(&self) -> Arrays {
        let mut everything = self.inputs.clone();
        if self.name == "sup_con" {
            everything.remove("keys");
        }
        everything
    }

    /// In any storage type: every shard's outputs and gradients are what the host makes of the same
    /// statistics, and the whole gradients are those of one call.
    fn check_parts(&self, cuts: &[usize], dtype: Dtype, run: Run) {
        let checked = |loss: &dyn Loss, inputs: &Arrays, wanted: &[&str]| {
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

/// Linear cross-entropies in both layouts of the weight, with these options.
fn layers<'a>(options: &Value, [rows, classes, depth]: [usize; 3]) -> [Whole<'a>; 2] {
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

/// Contrasts of as many queries with as many keys.
fn contrasts<'a>(options: Value, [queries, keys]: [usize; 2]) -> Whole<'a> {
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
fn labelled<'a>(options: Value, count: usize) -> Whole<'a> {
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
        ]),
        cut: &[("keys", 0)],
        rows: count,
        columns: count,
        outputs: &["loss", "lse"],
        gradients: &["grad.features", "grad.keys"],
    }
}

fn sixteen_bits(context: &Context) {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let run = |loss: &dyn Loss, inputs: &Arrays, wanted: &[&str]| {
            outcome(&context.gpu, loss, inputs, dtype, wanted).0
        };
        // One chunk, and chunks of rows.
        for chunk in [json!(null), json!(7 * 304 * 4)] {
            let options = json!({"chunk_bytes": chunk, "label_smoothing": 0.1});
            for whole in layers(&options, [23, 300, 9]) {
                whole.check_parts(&[0, 111, 112, 300], dtype, &run);
            }
        }
        for (options, queries) in [
            (json!({"normalize": true}), 17),
            (json!({"chunk_bytes": 5 * 160}), 17),
            (json!({"normalize": true, "symmetric": true, "chunk_bytes": 5 * 160}), 40),
        ] {
            contrasts(options, [queries, 40]).check_parts(&[0, 5, 6, 40], dtype, &run);
        }
        for options in [json!({"temperature": 0.4}), json!({"chunk_bytes": 700})] {
            labelled(options, 30).check_parts(&[0, 7, 8, 30], dtype, &run);
        }
    }
}

/// A budget below a row of each shard: blocks of its columns, both before and after the statistics of all
/// are gathered.
fn blocks_of_columns(context: &Context) {
    // With one lane a row, 64 columns make a block.
    let gpu = context.with(|profile| profile.row_lanes = 1);
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let run = |loss: &dyn Loss, inputs: &Arrays, wanted: &[&str]| {
            in_blocks(&gpu, loss, inputs, dtype, wanted)
        };
        let options = json!({"chunk_bytes": 340, "label_smoothing": 0.1});
        for whole in layers(&options, [23, 170, 9]) {
            whole.check_parts(&[0, 85, 170], dtype, &run);
        }
        for (options, queries) in [
            (json!({"normalize": true, "chunk_bytes": 340}), 17),
            (json!({"chunk_bytes": 340, "reduction": "none"}), 17),
            (json!({"normalize": true, "symmetric": true, "chunk_bytes": 340}), 170),
        ] {
            contrasts(options, [queries, 170]).check_parts(&[0, 85, 170], dtype, &run);
        }
        labelled(json!({"chunk_bytes": 340}), 170).check_parts(&[0, 85, 170], dtype, &run);
    }
}

/// The k best of all keys are among the k best of each shard; ties go to the lowest index.
fn top_of_shards(context: &Context) {
    let mut keys = gaussian(86, 40, 6).to_f64();
    keys.copy_within(6 * 3..6 * 4, 6 * 20);
    let inputs = named([("queries", gaussian(87, 9, 6)), ("keys", matrix(40, 6, keys))]);
    let loss = parse("similarity", &json!({"k": 5, "normalize": true}));
    let wanted = ["top_scores", "top_indices"];
    let (whole, _) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
    let mut lists = vec![Vec::new(); 9];
    for (from, to) in [(0, 11), (11, 20), (20, 40)] {
        let part = with(&inputs, [("keys", slice(&inputs["keys"], 0, from, to))]);
        let (top, _) = outcome(&context.gpu, &*loss, &part, Dtype::F32, &wanted);
        let indices = top["top_indices"].to_i64();
        for (at, (score, index)) in top["top_scores"].to_f64().into_iter().zip(indices).enumerate()
        {
            lists[at / 5].push((score, index + from as i64));
        }
    }
    for (row, list) in lists.iter_mut().enumerate() {
        list.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (rank, (score, index)) in list.iter().take(5).enumerate() {
            assert_eq!(whole["top_scores"].to_f64()[5 * row + rank], *score);
            assert_eq!(whole["top_indices"].to_i64()[5 * row + rank], *index, "{list:?}");
        }
    }
}

const BY_PRODUCTS: [&str; 11] = [
    "loss",
    "lse",
    "log_prob",
    "entropy",
    "max_prob",
    "argmax",
    "correct",
    "sum",
    "count",
    "denominator",
    "correct_count",
];

/// Option sets that have more than the target's class in them.
fn options() -> Vec<Value> {
    vec![
        json!({}),
        json!({"reduction": "sum", "z_loss": 0.02, "temperature": 1.3, "softcap": 7.0}),
        json!({"label_smoothing": 0.2, "denominator": "weights"}),
        json!({"label_smoothing": 0.3, "smoothing": "ordinal", "reduction": {"over": 7.0}}),
        json!({"focal_gamma": 1.5}),
        json!({"focal_gamma": 0.5, "label_smoothing": 0.1, "z_loss": 0.1, "reduction": "none"}),
    ]
}

fn cross_entropy(context: &Context) {
    let (rows, classes) = (23, 300);
    let mut targets = testing::targets(43, rows, classes as u64);
    (targets[1], targets[2], targets[3], targets[4]) = (0, 299, -100, 111);
    (targets[5], targets[6], targets[7]) = (110, 112, 113);
    let plain = named([
        ("logits", matrix(rows, classes, testing::outliers(40, rows * classes))),
        ("targets", indices(&targets)),
    ]);
    let weighed = with(
        &plain,
        [
            ("weight", vector(&positive(41, classes))),
            ("logit_bias", vector(&testing::gaussian(42, classes))),
            ("row_weight", vector(&positive(44, rows))),
        ],
    );
    let mut whole = Whole {
        name: "cross_entropy",
        options: json!({}),
        inputs: plain.clone(),
        cut: &[("logits", 1), ("target_probs", 1), ("logit_bias", 0)],
        rows,
        columns: classes,
        outputs: &BY_PRODUCTS,
        gradients: &["grad.logits"],
    };
    for options in options() {
        for inputs in [&plain, &weighed] {
            (whole.options, whole.inputs) = (options.clone(), inputs.clone());
            whole.check(&context.gpu, &[0, 111, 111, 112, 300]);
        }
        whole.check(&context.gpu, &[0, 300]);
        whole.check(&context.gpu, &[0, 0, 64, 128, 192, 256, 299, 300]);
    }
    // Classes at -inf (targets among them), a NaN, a bad target, a common offset.
    let mut logits = testing::masked(45, rows * classes);
    logits[4 * classes + 111] = f64::NEG_INFINITY;
    logits[8 * classes..8 * classes + 120].fill(f64::NEG_INFINITY);
    logits[9 * classes + 200] = f64::NAN;
    logits[10 * classes..11 * classes].fill(f64::NEG_INFINITY);
    logits[11 * classes..12 * classes].iter_mut().for_each(|z| *z += 1e6);
    (targets[12], targets[13]) = (300, -5);
    whole.inputs =
        named([("logits", matrix(rows, classes, logits)), ("targets", indices(&targets))]);
    for options in [json!({"reduction": "none"}), json!({"reduction": "none", "focal_gamma": 2.0})]
    {
        whole.options = options;
        whole.check(&context.gpu, &[0, 111, 112, 300]);
    }
    // Probability targets.
    whole.inputs = crate::support::sample_probs(46, rows, classes);
    whole.outputs = &["loss", "lse", "entropy", "sum", "count", "denominator"];
    whole.gradients = &["grad.logits", "grad.target_probs"];
    for options in [json!({}), json!({"label_smoothing": 0.2, "z_loss": 0.1})] {
        whole.options = options;
        whole.check(&context.gpu, &[0, 111, 112, 300]);
    }
}

fn linear_cross_entropy(context: &Context) {
    let (rows, classes, depth) = (23, 300, 9);
    let mut targets = testing::targets(47, rows, classes as u64);
    (targets[3], targets[8]) = (-100, 111);
    let inputs = |layout: usize| {
        let weight = [[classes, depth], [depth, classes]][layout];
        named([
            ("hidden", gaussian(48, rows, depth)),
            ("weight", gaussian(49, weight[0], weight[1])),
            ("bias", vector(&testing::gaussian(50, classes))),
            ("targets", indices(&targets)),
            ("class_weight", vector(&positive(51, classes))),
        ])
    };
    let cuts: [Cut; 2] =
        [&[("weight", 0), ("bias", 0), ("logit_bias", 0)], &[("weight", 1), ("bias", 0)]];
    for (layout, cut) in cuts.into_iter().enumerate() {
        for mut options in options() {
            options["weight_layout"] = json!(["classes_hidden", "hidden_classes"][layout]);
            options["chunk_bytes"] = json!(7 * 304 * 4);
            let whole = Whole {
                name: "linear_cross_entropy",
                options,
                inputs: inputs(layout),
                cut,
                rows,
                columns: classes,
                outputs: &BY_PRODUCTS,
                gradients: &["grad.hidden", "grad.weight", "grad.bias"],
            };
            whole.check(&context.gpu, &[0, 111, 112, 300]);
        }
    }
}

/// Vectors whose scores are of the size of one, one of them zeros.
fn pairs(queries: usize, keys: usize, depth: usize) -> Arrays {
    let mut vectors = gaussian(52, queries, depth).to_f64();
    vectors[2 * depth..3 * depth].fill(0.0);
    named([
        ("queries", matrix(queries, depth, vectors)),
        ("keys", gaussian(53, keys, depth)),
        ("scale", vector(&[0.8])),
    ])
}

fn info_nce(context: &Context) {
    let mut whole = Whole {
        name: "info_nce",
        options: json!({}),
        inputs: pairs(17, 40, 6),
        cut: &[("keys", 0), ("key_labels", 0)],
        rows: 17,
        columns: 40,
        outputs: &["loss", "lse", "sum", "count", "denominator"],
        gradients: &["grad.queries", "grad.keys", "grad.scale"],
    };
    let cuts: [&[usize]; 3] = [&[0, 40], &[0, 5, 5, 6, 40], &[0, 16, 32, 40]];
    let mut targets = testing::targets(54, 17, 40);
    targets[5] = -100;
    let labelled = with(
        &whole.inputs,
        [
            ("targets", indices(&targets)),
            ("labels", indices(&testing::targets(55, 17, 5))),
            ("key_labels", indices(&testing::targets(56, 40, 5))),
        ],
    );
    for inputs in [whole.inputs.clone(), labelled] {
        whole.inputs = inputs;
        for options in [
            json!({"normalize": true}),
            json!({"reduction": "none", "chunk_bytes": 5 * 160}),
            json!({"reduction": {"over": 3.0}, "normalize": true}),
        ] {
            whole.options = options;
            for cuts in cuts {
                whole.check(&context.gpu, cuts);
            }
        }
    }
    (whole.inputs, whole.rows) = (pairs(40, 40, 6), 40);
    for options in [
        json!({"symmetric": true, "normalize": true}),
        json!({"symmetric": true, "reduction": "none", "chunk_bytes": 5 * 160}),
    ] {
        whole.options = options;
        for cuts in cuts {
            whole.check(&context.gpu, cuts);
        }
    }
    // A NaN in one shard is everybody's.
    let keys = crate::support::set(&whole.inputs["keys"], 20 * 6 + 1, f64::NAN);
    whole.inputs = with(&whole.inputs, [("keys", keys)]);
    whole.outputs = &["loss", "lse"];
    for symmetric in [false, true] {
        whole.options = json!({"symmetric": symmetric, "reduction": "none"});
        whole.gradients = &["grad.queries"];
        whole.check(&context.gpu, cuts[1]);
    }
}

fn sup_con(context: &Context) {
    let mut whole = labelled(json!({"temperature": 0.4}), 30);
    whole.outputs = &["loss", "lse", "sum", "count", "denominator"];
    whole.gradients = &["grad.features"];
    for cuts in [&[0, 30][..], &[0, 7, 7, 8, 30], &[0, 16, 30]] {
        for options in
            [json!({"temperature": 0.4}), json!({"reduction": "none", "chunk_bytes": 700})]
        {
            whole.options = options;
            whole.check(&context.gpu, cuts);
        }
        // The keys' gradients are the features', whole.
        let on_gpu = |loss: &dyn Loss, inputs: &Arrays, wanted: &[&str]| {
            outcome(&context.gpu, loss, inputs, Dtype::F32, wanted).0
        };
        whole.gradients = &["grad.keys"];
        let (_, gradients) = whole.run(cuts, &on_gpu);
        let of = named([("grad.features", gradients["grad.keys"].clone())]);
        whole.gradients = &["grad.features"];
        let mut plain = whole.inputs.clone();
        plain.remove("keys");
        let loss = parse("sup_con", &whole.options);
        Reference::new(&*loss, &plain, Dtype::F32, whole.gradients).assert(&of);
    }
}

/// Sums that are added up as they are.
fn sigmoid_contrastive(context: &Context) {
    let inputs = with(&pairs(17, 40, 6), [("bias", vector(&[-1.0]))]);
    let targets = indices(&testing::targets(59, 17, 40));
    let gradients = ["grad.queries", "grad.scale", "grad.bias"];
    let wanted = ["loss", "sum", "grad.queries", "grad.scale", "grad.bias", "grad.keys"];
    for inputs in [inputs.clone(), with(&inputs, [("targets", targets)])] {
        let options = json!({"normalize": true});
        let mut parts: Vec<Arrays> = Vec::new();
        for (from, to) in [(0, 5), (5, 6), (6, 40)] {
            let mut options = options.clone();
            options["shard"] = json!({"first": from, "classes": 40});
            let part = with(&inputs, [("keys", slice(&inputs["keys"], 0, from, to))]);
            let loss = parse("sigmoid_contrastive", &options);
            parts.push(crate::support::check(&context.gpu, &*loss, &part, Dtype::F32, &wanted).0);
        }
        let of = |name: &str| parts.iter().map(|part| part[name].clone()).collect::<Vec<_>>();
        let mut all: Arrays = gradients
            .iter()
            .chain(&["loss", "sum"])
            .map(|&n| (n.to_owned(), add(&of(n))))
            .collect();
        all.insert("grad.keys".to_owned(), join(&of("grad.keys"), 0));
        let loss = parse("sigmoid_contrastive", &options);
        Reference::new(&*loss, &inputs, Dtype::F32, &wanted).assert(&all);
    }
}

/// A row whose live columns lie in other shards is not a bad one, whatever it is alone.
fn live_columns_elsewhere(context: &Context) {
    let dead = matrix(2, 3, vec![f64::NEG_INFINITY; 6]);
    let inputs = named([("logits", dead), ("targets", indices(&[5, 6]))]);
    let shard = parse("cross_entropy", &json!({"shard": {"first": 4, "classes": 9}}));
    let (_, status) = outcome(&context.gpu, &*shard, &inputs, Dtype::F32, &["statistics"]);
    assert_eq!(status.bad_rows, 0, "cross_entropy");
    let nan = with(&inputs, [("logits", matrix(2, 3, vec![f64::NAN; 6]))]);
    let (_, status) = outcome(&context.gpu, &*shard, &nan, Dtype::F32, &["statistics"]);
    assert_eq!(status.bad_rows, 2, "NaN is bad wherever it is");
    // The only key of the shard is one of the queries itself.
    let features = gaussian(60, 3, 4);
    let keys = slice(&features, 0, 1, 2);
    let labels = indices(&[0, 0, 0]);
    let inputs = named([("features", features), ("keys", keys), ("labels", labels)]);
    let shard = parse("sup_con", &json!({"shard": {"first": 1, "classes": 3}}));
    let (_, status) = outcome(&context.gpu, &*shard, &inputs, Dtype::F32, &["statistics"]);
    assert_eq!(status.bad_rows, 0, "sup_con");
}

/// A chunk of few keys holds many queries: more than the 65,535 iterations that some drivers end every
/// loop at.
fn many_queries(context: &Context) {
    let queries = 70_000;
    let inputs = named([("queries", gaussian(61, queries, 1)), ("keys", gaussian(62, 8, 1))]);
    let options = json!({"symmetric": true, "shard": {"first": 16, "classes": queries}});
    let loss = parse("info_nce", &options);
    crate::support::check(&context.gpu, &*loss, &inputs, Dtype::F32, &["column_lse"]);
}

/// What a shard alone cannot know is refused, by name.
fn refusals(context: &Context) {
    let shard = parse("cross_entropy", &json!({"shard": {"first": 4, "classes": 9}}));
    let logits =
        |classes| named([("logits", gaussian(44, 2, classes)), ("targets", indices(&[0, 8]))]);
    let gathered = ("statistics", matrix(4, 8, vec![0.0; 32]));
    for (inputs, wanted, named) in [
        (logits(5), "loss", "statistics"),
        (logits(5), "grad.logits", "statistics"),
        (logits(6), "statistics", "logits"),
        (with(&logits(5), [("weight", vector(&[1.0; 5]))]), "statistics", "weight"),
        (with(&logits(5), [("lse", vector(&[1.0; 2]))]), "grad.logits", "lse"),
        (with(&logits(5), [gathered.clone()]), "rank", "rank"),
        (with(&logits(5), [("statistics", matrix(3, 8, vec![0.0; 24]))]), "loss", "statistics"),
    ] {
        let device = context.gpu.run_arrays(&*shard, &inputs, Dtype::F32, &[wanted]).unwrap_err();
        let host = cpu::run(&*shard, &inputs, &[wanted]).unwrap_err();
        assert_eq!(device.to_string(), host.to_string());
        assert!(host.to_string().contains(named), "{host}");
    }
    let pairs = with(&pairs(3, 3, 2), [("lse", vector(&[1.0; 3]))]);
    let info_nce = parse("info_nce", &json!({}));
    let device = context.gpu.run_arrays(&*info_nce, &pairs, Dtype::F32, &["loss"]).unwrap_err();
    let host = cpu::run(&*info_nce, &pairs, &["loss"]).unwrap_err();
    assert!(device.to_string().contains("lse") && host.to_string().contains("lse"), "{host}");
    let far = json!({"shard": {"first": 0, "classes": 1_u64 << 32}});
    assert!((surprisal::loss::find("cross_entropy").unwrap().parse)(&far).is_err());
    let whole = parse("cross_entropy", &json!({}));
    let inputs = with(&logits(9), [gathered]);
    assert!(context.gpu.run_arrays(&*whole, &inputs, Dtype::F32, &["loss"]).is_err());
    assert!(
        (surprisal::loss::find("cross_entropy").unwrap().parse)(
            &json!({"shard": {"first": 9, "classes": 9}})
        )
        .is_err()
    );
}
