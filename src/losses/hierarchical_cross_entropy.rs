//! Cross-entropy over the leaves of a tree of softmaxes (catalogue R15).

use std::sync::Arc;

use crate::{
    data::error::Result,
    plan::kernel::shader,
    reference::Real,
    skeleton::row::{
        Columns, DROPPED, OPEN, RowLoss, RowProgram, SCORES, StateLayout, missing,
        reference::{Point, Row, RowFormula, Softmax},
        row_loss,
    },
    spec::{
        about::{Argument, Dim, Domain, Kind},
        call::Call,
    },
};

pub use crate::skeleton::row::Tree;

row_loss! {
    /// Cross-entropy over the leaves of a tree: a softmax at each node chooses one of its children.
    ///
    /// - **Loss**: −row_weight·Σ log p_v, v over the nodes on the path from the root to the target, the root left out. p_v
    ///   is the softmax of v's logit over v and its siblings. So the probability of a leaf is the product of the
    ///   softmaxes on its path ([`Tree::leaf_probs`]), and a vocabulary costs only the columns beside one path.
    /// - **Tree**: `parent` is a host input ([`Request::host`](crate::Request::host)) of integers. Entry i is the parent
    ///   of node i + 1, and 0 is the root. Nodes may have any order and any number of children. The plan holds tables
    ///   made from it. [`Tree`] is the same tree on the host, with the children of each node in compressed rows.
    ///   A change of the tree needs a new plan.
    /// - **Shapes**: logits `[rows, nodes − 1]` with any row stride and element offset: column i is node i + 1. parent
    ///   `[nodes − 1]`; targets `[rows]` (`i32`, `u32`, `i64`), each the number of a leaf; row_weight `[rows]`; upstream
    ///   `[1]`, or `[rows]` with [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: nats.
    /// - **Types**: logits, row_weight and the gradient in `f32`, `f16` or `bf16`; everything in between in f32; the
    ///   gradient is rounded to nearest even.
    /// - **Gradient** with f = row_weight·upstream/denominator: f·(p − e) for the nodes of the path and their siblings,
    ///   where e is 1 for a node of the path. Exactly 0 elsewhere.
    /// - **Mean** divides by the number of rows kept, or by Σ row_weight of them.
    /// - **Cost**: the columns of the path and its siblings are read, no others; what these hold, be it NaN, does not
    ///   matter. The gradient is filled with zeros beside that; in place, the fill reads what it keeps.
    /// - **Edges**: a softmax over a single child is 1: a finite logit there adds 0 to the loss and has the gradient 0.
    ///   Ignored rows add nothing and have a gradient of exactly 0, even where their logits are NaN. The same holds for
    ///   rows whose row_weight is 0, but these are counted. A sibling at `-inf` has p = 0 and gradient 0; a node of the
    ///   path at `-inf` gives +inf, and the usual gradient. A NaN or +inf logit beside the path, or siblings that are all
    ///   `-inf`, give NaN for the row's loss and for the gradient of all columns that it reads; [`crate::Status`]
    ///   counts the row. A target that is no leaf, the root and numbers outside the tree among them, is never used as an
    ///   index: the loss of its row is NaN, the gradient 0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`](crate::Error) names the argument and its
    ///   value. So is a `parent` that is not a tree: an entry that is no node, or one whose links go round in a circle.
    ///   A path of several hundred thousand nodes or of ten million siblings is past a limit.
    ///
    /// Source: Morin and Bengio 2005 (hierarchical softmax).
    ///
    /// ```
    /// use surprisal::{Array, Arrays, HierarchicalCrossEntropy, Tree, cpu};
    /// // Nodes 1 and 2 below the root, nodes 3 and 4 below node 2.
    /// let parent = [0, 0, 2, 2];
    /// let logits = [0.5, 1.0, -0.25, 2.0];
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 4], logits.to_vec())),
    ///     ("parent".to_owned(), Array::int(&[4], parent.to_vec())),
    ///     ("targets".to_owned(), Array::int(&[1], vec![4])),
    /// ]);
    /// let outputs = cpu::run(&HierarchicalCrossEntropy::default(), &inputs, &["loss"])?;
    /// // Leaves 1, 3 and 4.
    /// let probs = Tree::new(&parent)?.leaf_probs(&logits)?;
    /// assert!((outputs["loss"].to_f64()[0] + probs[2].ln()).abs() < 1e-12);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    HierarchicalCrossEntropy = "hierarchical_cross_entropy";
    summary: "Cross-entropy over the leaves of a tree, a softmax over the children of each node.",
    formula: "loss = -row_weight·Σ log p_v over the nodes v on the target's path, p a softmax over v's siblings",
    pytorch: "none; log_softmax over each node's children, added up along the path";
    inputs HierarchicalCrossEntropyInputs {
        targets = "targets": LEAVES;
        parent = "parent": PARENT;
    }
    outputs HierarchicalCrossEntropyOutputs;
    options {}
}

const LEAVES: Argument =
    Argument::required("targets", Kind::Index, &[&[Dim::Rows]], "the number of a leaf, a row")
        .within(Domain::Leaf);
const PARENT: Argument = Argument::required(
    "parent",
    Kind::Index,
    &[&[Dim::Classes]],
    "entry i is the parent of node i + 1, 0 the root",
)
.within(Domain::Tree)
.from_host();

impl RowFormula for HierarchicalCrossEntropy {
    const OF_CLASSES: &'static [&'static str] = &["parent"];

    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The column of a leaf.
    fn column<T: Real>(&self, row: &Row<'_, T>, target: i64) -> Option<usize> {
        let column = usize::try_from(target.checked_sub(1)?).ok()?;
        let is_parent = |&parent: &T| parent == T::of(target as f64);
        (column < row.logits.len() && !parents(row).iter().any(is_parent)).then_some(column)
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let (z, parent) = (row.logits, parents(row));
        let Some(leaf) = row.target else { return Point::bad(z.len()) };
        // The nodes of the path, from the leaf up.
        let above = |&node: &usize| parent[node - 1].to_usize().filter(|&node| node > 0);
        let path: Vec<usize> = std::iter::successors(Some(leaf + 1), above).collect();
        let mut is_chosen = vec![false; z.len() + 1];
        for &node in &path {
            is_chosen[node] = true;
        }
        // The children of the root, and of all nodes of the path but the leaf, which has none.
        let mut groups = std::collections::BTreeMap::<usize, Vec<usize>>::new();
        for (column, parent) in parent.iter().enumerate() {
            let parent = parent.to_usize().unwrap_or_default();
            if parent == 0 || is_chosen[parent] {
                groups.entry(parent).or_default().push(column);
            }
        }
        let mut loss = T::zero();
        let mut gradient = vec![T::zero(); z.len()];
        let mut is_bad = false;
        for columns in groups.values() {
            let scores: Vec<T> = columns.iter().map(|&column| z[column]).collect();
            let Some(softmax) = Softmax::of(&scores, T::one()) else {
                is_bad = true;
                continue;
            };
            for (child, &column) in columns.iter().enumerate() {
                gradient[column] = softmax.p[child];
                if is_chosen[column + 1] {
                    loss += -softmax.log_of(child);
                    gradient[column] = -softmax.others[child];
                }
            }
        }
        let point = if is_bad { Point::bad(z.len()) } else { Point::new(loss, gradient) };
        point.of_columns(groups.into_values().flatten().collect())
    }
}

/// The parent of each column's node.
fn parents<'a, T>(row: &'a Row<'_, T>) -> &'a [T] {
    row.get("parent").unwrap_or_default()
}

/// The tree of a call.
fn tree(call: &Call) -> Option<Result<Tree>> {
    call.host.get("parent").map(|parent| Tree::new(&parent.to_i64()))
}

impl RowLoss for HierarchicalCrossEntropy {
    fn program(&self, call: &Call) -> RowProgram {
        // What is no tree is refused by `check`.
        let tree = tree(call).and_then(Result::ok).unwrap_or_default();
        self.ruled(RowProgram {
            sources: vec![OPEN, DROPPED, SCORES, shader!("loss/hierarchical_cross_entropy.wgsl")],
            columns: Columns::Tree(Arc::new(tree)),
            state: StateLayout::words(3),
            ..RowProgram::default()
        })
    }

    fn check(&self, call: &Call) -> Result<()> {
        match tree(call) {
            Some(tree) => tree.map(|_| ()),
            None => Err(missing(self, "parent")),
        }
    }
}
