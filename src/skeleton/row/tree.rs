//! A tree of classes, made on the host from the link of each node to its parent.

use crate::data::error::{Error, Result};

/// A tree whose nodes are choices: every node but the root is a column of the logits, and the children of a node are
/// what its softmax chooses between.
///
/// Node 0 is the root; node i + 1 is column i. Nodes may be numbered in any order.
///
/// ```
/// use surprisal::Tree;
///
/// // Nodes 1 and 2 below the root, nodes 3 and 4 below node 2.
/// let tree = Tree::new(&[0, 0, 2, 2])?;
/// assert_eq!(tree.children(2), [3, 4]);
/// assert_eq!(tree.leaves().collect::<Vec<_>>(), [1, 3, 4]);
/// assert_eq!(tree.path(4), [4, 2]);
/// // Equal logits: ½ for each child of the root, of which node 2 splits its half in two.
/// assert_eq!(tree.leaf_probs(&[0.0; 4])?, [0.5, 0.25, 0.25]);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The parent of each node but the root.
    parent: Vec<u32>,
    /// Where the children of each node begin among all children, and where those of the last node end.
    first_child: Vec<u32>,
    /// The children of node after node, in ascending order.
    children: Vec<u32>,
    /// All nodes, parents before their children.
    order: Vec<u32>,
}

impl Default for Tree {
    /// The root alone.
    fn default() -> Self {
        Self { parent: Vec::new(), first_child: vec![0, 0], children: Vec::new(), order: vec![0] }
    }
}

impl Tree {
    /// The tree in which entry i of `parent` is the parent of node i + 1.
    ///
    /// # Errors
    ///
    /// [`Error::InputValue`] with the entry and its value: a parent that is no node, or links that lead round in a
    /// circle and never to the root.
    pub fn new(parent: &[i64]) -> Result<Self> {
        let nodes = parent.len() + 1;
        let node = |(entry, &found): (usize, &i64)| {
            let known = u32::try_from(found).ok().filter(|&node| (node as usize) < nodes);
            known.ok_or_else(|| refused(entry, found, format!("a node, from 0 to {}", nodes - 1)))
        };
        let parent = parent.iter().enumerate().map(node).collect::<Result<Vec<u32>>>()?;
        let mut tree = Self::with_children(parent);
        tree.order = tree.breadth_first();
        match tree.in_a_circle() {
            None => Ok(tree),
            Some(entry) => {
                let found = tree.parent[entry].into();
                let expected = "a node whose own links lead to the root, not back to this one";
                Err(refused(entry, found, expected.to_owned()))
            }
        }
    }

    /// Sorts the nodes by their parents. The order of all nodes is still missing.
    fn with_children(parent: Vec<u32>) -> Self {
        let mut first_child = vec![0_u32; parent.len() + 2];
        for &above in &parent {
            first_child[above as usize + 1] += 1;
        }
        for node in 1..first_child.len() {
            first_child[node] += first_child[node - 1];
        }
        let mut next = first_child.clone();
        let mut children = vec![0; parent.len()];
        for (node, &above) in (1..).zip(&parent) {
            let place = &mut next[above as usize];
            children[*place as usize] = node;
            *place += 1;
        }
        Self { parent, first_child, children, order: Vec::new() }
    }

    /// The nodes that can be reached from the root, level by level.
    fn breadth_first(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.nodes());
        order.push(0);
        let mut next = 0;
        while let Some(&node) = order.get(next) {
            order.extend(self.children(node));
            next += 1;
        }
        order
    }

    /// The lowest entry of a circle of links, if there is a circle. The root does not reach the nodes of a circle, nor
    /// those below it.
    fn in_a_circle(&self) -> Option<usize> {
        let mut is_reached = vec![false; self.nodes()];
        for &node in &self.order {
            is_reached[node as usize] = true;
        }
        let lost = is_reached.iter().position(|reached| !reached)?;
        // After as many steps as there are nodes, the walk is in the circle.
        let inside = (0..self.nodes()).fold(lost, |node, _| self.parent[node - 1] as usize);
        let circle = std::iter::successors(Some(self.parent[inside - 1] as usize), |&node| {
            (node != inside).then(|| self.parent[node - 1] as usize)
        });
        circle.min().map(|node| node - 1)
    }

    /// The number of nodes, the root among them.
    pub fn nodes(&self) -> usize {
        self.parent.len() + 1
    }

    /// The parent of a node; `None` for the root and for what is no node.
    pub fn parent(&self, node: u32) -> Option<u32> {
        self.parent.get((node as usize).checked_sub(1)?).copied()
    }

    /// The children of a node in ascending order; none for a leaf and for what is no node.
    pub fn children(&self, node: u32) -> &[u32] {
        let end = |node: usize| self.first_child.get(node).map(|&child| child as usize);
        let range = end(node as usize).zip(end(node as usize + 1));
        range.and_then(|(first, end)| self.children.get(first..end)).unwrap_or_default()
    }

    /// The children of all nodes in compressed rows: those of node v are `children[first[v]..first[v + 1]]`.
    pub fn compressed(&self) -> (&[u32], &[u32]) {
        (&self.first_child, &self.children)
    }

    /// All nodes, parents before their children.
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// The leaves in ascending order: what a target can be. A root without children is none.
    pub fn leaves(&self) -> impl Iterator<Item = u32> {
        (1..self.nodes() as u32).filter(|&node| self.children(node).is_empty())
    }

    /// The nodes from this one up to the child of the root above it.
    pub fn path(&self, node: u32) -> Vec<u32> {
        std::iter::successors(Some(node), |&node| self.parent(node))
            .take_while(|&node| self.parent(node).is_some())
            .collect()
    }

    /// The probability of each leaf, in the order of [`Tree::leaves`]: the product of the softmaxes on its path. They
    /// add up to 1.
    ///
    /// The logits are one row, a number for each node but the root. Where a softmax has no value (a NaN or +inf
    /// among its logits, or nothing but -inf), the leaves below it are NaN.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShape`] where there is not one logit for each node but the root.
    pub fn leaf_probs(&self, logits: &[f64]) -> Result<Vec<f64>> {
        if logits.len() != self.parent.len() {
            return Err(Error::WrongShape {
                argument: "logits".into(),
                found: vec![logits.len() as u64].into(),
                expected: format!("[{}], one for each node but the root", self.parent.len()).into(),
            });
        }
        let mut probs = vec![1.0; self.nodes()];
        for &node in &self.order {
            let own = probs[node as usize];
            let logit = |&child: &u32| logits[child as usize - 1];
            let siblings = || self.children(node).iter().map(logit);
            let top = siblings().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = siblings().map(|z| (z - top).exp()).sum();
            for (&child, z) in self.children(node).iter().zip(siblings()) {
                probs[child as usize] = own * (z - top).exp() / sum;
            }
        }
        Ok(self.leaves().map(|leaf| probs[leaf as usize]).collect())
    }
}

fn refused(entry: usize, found: i64, expected: String) -> Error {
    let (element, found) = (entry as u64, found.to_string().into());
    Error::InputValue { argument: "parent".into(), element, found, expected: expected.into() }
}
