//! Rows whose columns are the nodes of a tree: trees of every shape, and what of a row is read.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Dtype, Error, HierarchicalCrossEntropy, Layout, Named, Request, Tree, cpu,
    testing,
};

use crate::support::{
    Context, FLOATS, INF, Placed, assert_same_bits, check, check_status, indices, matrix, named,
    outcome, parse, positive, row, set, submit, vector, with,
};

tests![
    trees_of_every_shape,
    deep_and_flat_trees,
    only_the_path_is_read,
    the_gradient_may_be_in_place,
    rows_without_a_loss,
    limits_of_logits,
    row_weights_and_upstreams,
    windows_of_a_tree,
    what_is_no_tree,
];

const NAN: f64 = f64::NAN;
const GRADIENT: [&str; 2] = ["loss", "grad.logits"];

fn none() -> Value {
    json!({"reduction": "none"})
}

/// Every node has two children, level by level.
fn binary(nodes: i64) -> Vec<i64> {
    (0..nodes).map(|entry| entry / 2).collect()
}

/// Every inner node has a leaf and the next inner node.
fn caterpillar(nodes: i64) -> Vec<i64> {
    (0..nodes).map(|entry| entry / 2 * 2).collect()
}

/// The same tree with the nodes numbered from the last one to the first, so that children come before their parents.
fn reversed(parent: &[i64]) -> Vec<i64> {
    let nodes = parent.len() as i64;
    let moved = |node: i64| if node == 0 { 0 } else { nodes + 1 - node };
    parent.iter().rev().map(|&node| moved(node)).collect()
}

/// Nodes of one child, of few and of many, some of them below one another.
fn mixed() -> Vec<i64> {
    let mut parent = vec![0, 1, 2, 2, 2];
    parent.extend([3; 40]);
    parent.extend([10; 33]);
    parent.extend([46; 31]);
    parent.extend([50; 70]);
    parent.extend([100, 150, 151]);
    parent
}

fn trees() -> Vec<Vec<i64>> {
    let random = |seed| testing::numbers(surprisal::loss::Domain::Tree, seed, 203);
    let random = |seed| random(seed).into_iter().map(|node| node as i64).collect::<Vec<_>>();
    let plain = vec![vec![0], vec![0, 0, 2, 2], binary(61), caterpillar(150), mixed(), random(3)];
    let turned: Vec<_> = plain.iter().map(|parent| reversed(parent)).collect();
    [plain, vec![vec![0; 33], vec![0; 200]], turned].concat()
}

/// Logits, all of them equal in the first row, and leaves spread over the tree.
fn sample(parent: &[i64], seed: u64, rows: usize) -> Arrays {
    let leaves: Vec<u32> = Tree::new(parent).unwrap().leaves().collect();
    let chosen = testing::targets(seed, rows, leaves.len() as u64);
    let targets: Vec<i64> = chosen.into_iter().map(|leaf| leaves[leaf as usize].into()).collect();
    let mut logits = testing::outliers(seed + 1, rows * parent.len());
    logits[..parent.len()].fill(0.5);
    named([
        ("logits", matrix(rows, parent.len(), logits)),
        ("parent", indices(parent)),
        ("targets", indices(&targets)),
    ])
}

/// The columns that a row depends on.
fn columns_of(inputs: &Arrays, at: usize) -> Vec<usize> {
    let tree = Tree::new(&inputs["parent"].to_i64()).unwrap();
    let path = tree.path(inputs["targets"].to_i64()[at] as u32);
    let siblings = |&node: &u32| tree.children(tree.parent(node).unwrap()).to_vec();
    path.iter().flat_map(siblings).map(|node| node as usize - 1).collect()
}

fn trees_of_every_shape(context: &Context) {
    for (seed, parent) in (0..).zip(trees()) {
        let inputs = sample(&parent, seed, 9);
        for (options, dtype) in [none(), json!({}), json!({"reduction": "sum"})].iter().zip(FLOATS)
        {
            let loss = parse("hierarchical_cross_entropy", options);
            let (_, status) = check(&context.gpu, &*loss, &inputs, dtype, &GRADIENT);
            assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
            check(&context.gpu, &*loss, &inputs, dtype, &["loss"]);
        }
    }
}

/// Many lanes share a path of thousands of nodes, and one node with a hundred thousand siblings.
fn deep_and_flat_trees(context: &Context) {
    for parent in [binary(199_998), caterpillar(9_001), vec![0; 100_003]] {
        let inputs = sample(&parent, 4, 3);
        let deepest = Tree::new(&parent).unwrap().leaves().last().unwrap();
        let mut targets = inputs["targets"].to_i64();
        targets[1] = deepest.into();
        let inputs = with(&inputs, [("targets", indices(&targets))]);
        let loss = parse("hierarchical_cross_entropy", &none());
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
    }
}

/// Whatever the other columns hold, the results have the same bits, and the gradient there is 0.
fn only_the_path_is_read(context: &Context) {
    let loss = parse("hierarchical_cross_entropy", &none());
    for parent in [mixed(), binary(61)] {
        let (inputs, rows) = (sample(&parent, 5, 6), 6);
        let mut logits = vec![NAN; rows * parent.len()];
        for at in 0..rows {
            for column in columns_of(&inputs, at) {
                logits[at * parent.len() + column] =
                    inputs["logits"].to_f64()[at * parent.len() + column];
            }
        }
        let hidden = with(&inputs, [("logits", matrix(rows, parent.len(), logits))]);
        let (outputs, status) = check(&context.gpu, &*loss, &hidden, Dtype::F32, &GRADIENT);
        assert_eq!(status.bad_rows, 0);
        let mut plain = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0;
        plain.insert("status".to_owned(), outputs["status"].clone());
        assert_same_bits(&outputs, &plain, "other columns");
        for at in 0..rows {
            let own = columns_of(&inputs, at);
            let gradient = row(&outputs["grad.logits"], at);
            assert!(
                (0..parent.len()).all(|column| own.contains(&column) || gradient[column] == 0.0)
            );
        }
    }
}

/// Over the logits, wherever the rows begin, the gradient has the bits that it has elsewhere.
fn the_gradient_may_be_in_place(context: &Context) {
    let gpu = &context.gpu;
    let loss = HierarchicalCrossEntropy::default();
    for (turn, parent) in [mixed(), caterpillar(150), vec![0; 200]].into_iter().enumerate() {
        for dtype in FLOATS {
            let mut inputs = sample(&parent, 6, 5);
            inputs.insert(
                "targets".to_owned(),
                indices(&{
                    let mut targets = inputs["targets"].to_i64();
                    (targets[1], targets[3]) = (-100, 0);
                    targets
                }),
            );
            let row_weight = vector(&[1.0, 1.0, 2.5, 1.0, 0.0]);
            let inputs = with(&inputs, [("row_weight", row_weight)]);
            let inputs = testing::rounded(&loss, &inputs, dtype);
            let elsewhere = outcome(gpu, &loss, &inputs, dtype, &["grad.logits"]).0;
            let classes = parent.len() as u64;
            let layout = Layout::matrix(dtype, 5, classes);
            let layout = layout.row_stride(classes + 1 + turn as u64).offset(3);
            let logits = Placed::input(gpu, &inputs["logits"], layout);
            let targets = Placed::input(gpu, &inputs["targets"], Layout::vector(Dtype::I64, 5));
            let row_weight = Placed::input(gpu, &inputs["row_weight"], Layout::vector(dtype, 5));
            let tensors = Named::from([
                ("row_weight".to_owned(), row_weight.tensor()),
                ("logits".to_owned(), logits.tensor()),
                ("targets".to_owned(), targets.tensor()),
            ]);
            let request = Request::new(&loss, tensors, Named::new());
            submit(gpu, &request.host("parent", indices(&parent)).gradient_in_place());
            logits.assert_surroundings(gpu);
            let here = Arrays::from([("grad.logits".to_owned(), logits.array(gpu))]);
            let elsewhere =
                Arrays::from([("grad.logits".to_owned(), elsewhere["grad.logits"].clone())]);
            assert_same_bits(&here, &elsewhere, &format!("in place, {dtype}"));
        }
    }
}

/// The root, inner nodes and numbers outside of the tree are no leaves. Ignored rows and rows of weight 0 are not read.
fn rows_without_a_loss(context: &Context) {
    let parent = mixed();
    let nodes = parent.len() as i64 + 1;
    let targets = [4, 0, 3, nodes, -1, 1 << 32, -100, 5, 60, 46];
    let mut row_weight = positive(1, 10);
    row_weight[7] = 0.0;
    let logits = sample(&parent, 7, 10)["logits"].clone();
    let mut values = logits.to_f64();
    values[6 * parent.len()..8 * parent.len()].fill(NAN);
    let inputs = named([
        ("logits", matrix(10, parent.len(), values)),
        ("parent", indices(&parent)),
        ("targets", indices(&targets)),
        ("row_weight", vector(&row_weight)),
    ]);
    let loss = parse("hierarchical_cross_entropy", &none());
    let wanted = ["loss", "grad.logits", "sum", "denominator", "count"];
    let (_, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
    assert_eq!((status.bad_targets, status.bad_rows), (6, 0));
    assert_eq!(status.first_bad_target, Some((1, 0)));
    for dtype in FLOATS {
        check_status(&context.gpu, &*loss, &inputs, dtype, &["loss"]);
    }
}

/// NaN, +inf and -inf at the leaf, at a node above it, beside the path, and at all siblings of a node.
fn limits_of_logits(context: &Context) {
    let parent = mixed();
    let loss = parse("hierarchical_cross_entropy", &none());
    let leaf = i64::from(*Tree::new(&parent).unwrap().children(50).last().unwrap());
    let mut inputs = sample(&parent, 8, 12);
    inputs.insert("targets".to_owned(), indices(&[leaf; 12]));
    // Nodes of the path, the single child of the root last.
    let own = [leaf as usize - 1, 49, 9, 2, 0];
    let mut logits = inputs["logits"].clone();
    for (at, column) in own.into_iter().enumerate() {
        logits = set(&logits, at * parent.len() + column, -INF);
    }
    for (at, value) in [(5, NAN), (6, INF), (7, NAN), (8, INF), (9, -INF)] {
        let column = if at < 7 { own[at - 5] } else { own[at - 7] - 1 };
        logits = set(&logits, at * parent.len() + column, value);
    }
    for child in Tree::new(&parent).unwrap().children(2) {
        logits = set(&logits, 10 * parent.len() + *child as usize - 1, -INF);
    }
    // Far from the path.
    logits = set(&logits, 11 * parent.len() + parent.len() - 1, NAN);
    let inputs = with(&inputs, [("logits", logits)]);
    for dtype in FLOATS {
        let (outputs, status) = check(&context.gpu, &*loss, &inputs, dtype, &GRADIENT);
        let losses = outputs["loss"].to_f64();
        assert!(losses[..4].iter().all(|&loss| loss == INF), "{losses:?}");
        // Row 4 has -inf at a single child, where no softmax has a value.
        assert!([4, 5, 6, 7, 8, 10].iter().all(|&at| losses[at].is_nan()), "{losses:?}");
        assert!(losses[9].is_finite() && losses[11].is_finite(), "{losses:?}");
        assert_eq!(status.bad_rows, 6);
        // Offsets of siblings do not matter, in f32 at least.
        if dtype == Dtype::F32 {
            let tree = Tree::new(&parent).unwrap();
            let plain = sample(&parent, 9, 4);
            let values = plain["logits"].to_f64().into_iter();
            let rounded: Vec<f64> = values.map(|z| (z * 8.0).round() / 8.0).collect();
            let by = |column: usize| f64::from(tree.parent(column as u32 + 1).unwrap()) * 1024.0;
            let moved = rounded.iter().enumerate().map(|(at, z)| z + by(at % parent.len()));
            let [here, there] = [rounded.clone(), moved.collect()].map(|logits| {
                let inputs = with(&plain, [("logits", matrix(4, parent.len(), logits))]);
                outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0
            });
            assert_same_bits(&here, &there, "offsets of siblings");
        }
    }
}

fn row_weights_and_upstreams(context: &Context) {
    let parent = mixed();
    let mut row_weight = positive(3, 9);
    (row_weight[2], row_weight[3]) = (0.0, -1.5);
    let more = [("row_weight", vector(&row_weight)), ("upstream", vector(&[0.7]))];
    let wanted = ["loss", "grad.logits", "sum", "denominator", "count"];
    let plain = sample(&parent, 10, 9);
    for (reduction, denominator) in
        [("\"mean\"", "targets"), ("\"sum\"", "weights"), ("{\"over\": -2.0}", "weights")]
    {
        let reduction: Value = serde_json::from_str(reduction).unwrap();
        let options = json!({"reduction": reduction, "denominator": denominator});
        let loss = parse("hierarchical_cross_entropy", &options);
        check(&context.gpu, &*loss, &with(&plain, more.clone()), Dtype::F32, &wanted);
    }
    // An upstream that is NaN leaves the gradient elsewhere alone.
    let mut upstream = positive(4, 9);
    (upstream[1], upstream[5]) = (NAN, 0.0);
    let inputs = with(&plain, [("upstream", vector(&upstream))]);
    let loss = parse("hierarchical_cross_entropy", &none());
    check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
}

/// Rows in windows, each with its own bindings, have the bits of rows in one window.
fn windows_of_a_tree(context: &Context) {
    let parent = mixed();
    let inputs = sample(&parent, 11, 40);
    let small = context.with(|profile| profile.binding_bytes = 8 << 10);
    let loss = parse("hierarchical_cross_entropy", &none());
    let whole = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0;
    let run = small.run_arrays(&*loss, &inputs, Dtype::F32, &GRADIENT).unwrap();
    assert!(run.prepared().plan().windows > 3);
    assert_same_bits(&run.outcome_blocking().unwrap().0, &whole, "windows");
}

/// CPU and GPU refuse a parent that is no node and links that go round, by entry and value.
fn what_is_no_tree(context: &Context) {
    let loss = HierarchicalCrossEntropy::default();
    for (parent, entry, value) in [
        (vec![0, 4, 0], 1, "4"),
        (vec![0, 0, -1], 2, "-1"),
        (vec![1, 0], 0, "1"),
        (vec![0, 3, 4, 2, 0], 1, "3"),
        (vec![3, 1, 2], 0, "3"),
    ] {
        let inputs = named([
            ("logits", matrix(1, parent.len(), vec![0.0; parent.len()])),
            ("parent", indices(&parent)),
            ("targets", indices(&[1])),
        ]);
        let here = cpu::run(&loss, &inputs, &["loss"]).unwrap_err();
        let there = context.gpu.run_arrays(&loss, &inputs, Dtype::F32, &["loss"]).unwrap_err();
        assert_eq!(here, there);
        let Error::InputValue { argument, element, found, .. } = &here else { panic!("{here}") };
        assert_eq!((&**argument, *element, &**found), ("parent", entry, value), "{here}");
    }
    let short = named([
        ("logits", matrix(1, 3, vec![0.0; 3])),
        ("parent", Array::int(&[2], vec![0, 0])),
        ("targets", indices(&[1])),
    ]);
    let here = cpu::run(&loss, &short, &["loss"]).unwrap_err();
    let there = context.gpu.run_arrays(&loss, &short, Dtype::F32, &["loss"]).unwrap_err();
    assert!(here == there && matches!(here, Error::WrongShape { .. }), "{here}");
}
