//! Rows whose columns are the nodes of a tree: only the path from the root to the row's target is read, with the
//! siblings of its nodes.
//!
//! A path may have thousands of nodes, or one with a hundred thousand siblings. So the lanes of a row share both: each
//! takes whole nodes of the path where these have few siblings, and all take one node after another where it has many.
//! For the former, a lane has to find the node at any depth of the path without walking there. The nodes are therefore
//! ranked along chains (a node is followed by the largest of its children), of which a path crosses few: at most the
//! logarithm of the number of nodes.

use std::ops::Range;

use super::{Gradient, Rows, Scores};
use crate::{
    data::error::{Error, Result},
    plan::{
        Step,
        kernel::{Source, shader},
        limits::MOST_ITERATIONS,
    },
    skeleton::row::{Columns, Tree},
};

/// The number of siblings from which all lanes share a node.
const WIDE: u32 = 32;
/// The words of a part of a path, which a lane holds beside its state.
const PATH_WORDS: u32 = 2;
/// A subgroup of most GPUs: fewer lanes would leave others idle, and would need kernels of their own.
const LEAST_LANES: u64 = 32;
/// In place of a rank, where there is no such node.
const NONE: u32 = u32::MAX;

/// What the kernels know of a node, as words: `shaders/row/tree.wgsl` names them.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The first node of the chain.
    head: u32,
    /// The parent of that node.
    above: u32,
    /// The number of nodes between this one and the root, itself included.
    depth: u32,
    /// Where its siblings begin in the list of all siblings, and how many they are, itself included.
    siblings: u32,
    count: u32,
    column: u32,
    /// The nearest node on the way to the root, itself included, that has `WIDE` siblings or more.
    wide: u32,
}

impl Place {
    fn words(self) -> [u32; 7] {
        let Self { head, above, depth, siblings, count, column, wide } = self;
        [head, above, depth, siblings, count, column, wide]
    }
}

/// The longest ways from the root to a leaf.
#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    /// Nodes.
    depth: u32,
    /// Chains.
    chains: u32,
    /// The most siblings of a node below `WIDE`, and of any node.
    narrow: u32,
    widest: u32,
    /// Nodes with `WIDE` siblings or more, and the quads of their siblings.
    wides: u32,
    wide_quads: u32,
}

impl Longest {
    fn max(self, other: Self) -> Self {
        Self {
            depth: self.depth.max(other.depth),
            chains: self.chains.max(other.chains),
            narrow: self.narrow.max(other.narrow),
            widest: self.widest.max(other.widest),
            wides: self.wides.max(other.wides),
            wide_quads: self.wide_quads.max(other.wide_quads),
        }
    }

    /// The way to a child, where the children of its parent are as many as `count`.
    fn followed_by(self, count: u32, begins_chain: bool) -> Self {
        let is_wide = count >= WIDE;
        Self {
            depth: self.depth + 1,
            chains: self.chains + u32::from(begins_chain),
            narrow: if is_wide { self.narrow } else { self.narrow.max(count) },
            widest: self.widest.max(count),
            wides: self.wides + u32::from(is_wide),
            wide_quads: self.wide_quads + if is_wide { count.div_ceil(4) } else { 0 },
        }
    }

    /// So many lanes have enough to do.
    fn lanes(self) -> u64 {
        let busy = u64::from(self.depth).max(u64::from(self.widest).div_ceil(4));
        busy.next_power_of_two().max(LEAST_LANES)
    }

    /// How often one of so many lanes loops at most: over the nodes that it takes alone, and over those that all share.
    /// A row without a loss is walked twice.
    fn iterations(self, lanes: u64) -> u64 {
        let [depth, chains, narrow] = [self.depth, self.chains, self.narrow].map(u64::from);
        let [wides, wide_quads] = [self.wides, self.wide_quads].map(u64::from);
        let alone = depth.div_ceil(lanes) * (2 * (1 + chains) + 3 * narrow.div_ceil(4));
        let shared = 3 * (wide_quads / lanes + wides) + wides * u64::from(lanes.ilog2() + 3);
        alone + shared
    }
}

/// The tables of a tree. Nodes are known by their ranks there.
struct Tables {
    longest: Longest,
    /// The rank of each node that is a leaf.
    leaves: Vec<u32>,
    places: Vec<u32>,
    /// The columns of the children of node after node.
    siblings: Vec<u32>,
    /// For each column, the ranks of all nodes below its parent: the first, and the one after the last.
    reach: Vec<u32>,
}

impl Tables {
    fn of(tree: &Tree) -> Self {
        let nodes = tree.nodes();
        let sizes = subtree_sizes(tree);
        let mut ranks = vec![0_u32; nodes];
        let mut places = vec![Place { wide: NONE, above: NONE, ..Place::default() }; nodes];
        let mut ways = vec![Longest { chains: 1, ..Longest::default() }; nodes];
        let mut longest = Longest::default();
        let (first_child, children) = tree.compressed();
        for &node in tree.order() {
            let (own, way) = (ranks[node as usize], ways[node as usize]);
            longest = longest.max(way);
            let place = places[own as usize];
            let siblings = tree.children(node);
            let count = siblings.len() as u32;
            // The largest child continues the chain; its subtree comes before those of the others.
            let heir = siblings.iter().copied().rev().max_by_key(|&child| sizes[child as usize]);
            let others = siblings.iter().copied().filter(|&child| Some(child) != heir);
            let mut rank = own + 1;
            for child in heir.into_iter().chain(others) {
                let continues = Some(child) == heir;
                ranks[child as usize] = rank;
                ways[child as usize] = way.followed_by(count, !continues);
                places[rank as usize] = Place {
                    head: if continues { place.head } else { rank },
                    above: if continues { place.above } else { own },
                    depth: place.depth + 1,
                    siblings: first_child[node as usize],
                    count,
                    column: child - 1,
                    wide: if count >= WIDE { rank } else { place.wide },
                };
                rank += sizes[child as usize];
            }
        }
        let rank = |node: u32| ranks[node as usize];
        let mut leaves = vec![NONE; nodes];
        for leaf in tree.leaves() {
            leaves[leaf as usize] = rank(leaf);
        }
        let reach = |node: u32| {
            let above = tree.parent(node).unwrap_or(0);
            [rank(above), rank(above) + sizes[above as usize]]
        };
        Self {
            longest,
            leaves,
            places: places.into_iter().flat_map(Place::words).collect(),
            siblings: children.iter().map(|child| child - 1).collect(),
            reach: (1..nodes as u32).flat_map(reach).collect(),
        }
    }
}

/// The number of nodes below each node, itself included.
fn subtree_sizes(tree: &Tree) -> Vec<u32> {
    let mut sizes = vec![1_u32; tree.nodes()];
    for &node in tree.order().iter().rev() {
        if let Some(above) = tree.parent(node) {
            sizes[above as usize] += sizes[node as usize];
        }
    }
    sizes
}

impl<'a> Rows<'a> {
    /// Whether the columns are the nodes of a tree.
    pub(super) fn has_tree(&self) -> bool {
        matches!(self.program.columns, Columns::Tree(_))
    }

    /// Puts the tables of the tree into the plan, and finds the lanes that share a row.
    pub(super) fn tree_tables(&mut self) -> Result<()> {
        let Columns::Tree(tree) = &self.program.columns else { return Ok(()) };
        let Tables { longest, leaves, places, siblings, reach } = Tables::of(tree);
        let (profile, words) = (self.profile(), self.program.state.words + PATH_WORDS);
        let most = u64::from(profile.workgroup_size.min(profile.workgroup_bytes / (4 * words)));
        let mut lanes = longest.lanes().min(profile.lanes(words).into());
        while longest.iterations(lanes) > MOST_ITERATIONS && 2 * lanes <= most {
            lanes *= 2;
        }
        let found = longest.iterations(lanes);
        if found > MOST_ITERATIONS {
            let what = "steps of a lane along the longest path of the tree".into();
            return Err(Error::Limit { what, found, limit: MOST_ITERATIONS });
        }
        self.tree_lanes = lanes as u32;
        let tables =
            [("labels", leaves), ("places", places), ("siblings", siblings), ("reach", reach)];
        for (name, words) in tables {
            let table = self.planner.constant(&words);
            self.give(name, table);
        }
        Ok(())
    }

    /// Closes rows from their paths, and writes their gradient: 0 everywhere, then the columns of the path. In place, the
    /// path comes first and is left as it is.
    pub(super) fn walk_tree(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: &Scores,
    ) -> Result<()> {
        let over = matches!(scores.gradient, Gradient::InPlace);
        if let Gradient::To(_) = scores.gradient {
            self.clear(index, rows, scores)?;
        }
        let (lanes, siblings) = (self.tree_lanes, self.given.get("siblings").cloned());
        let step = self
            .tree_step("tree", shader!("row/tree.wgsl"), index, rows)
            .overriding("LANES", lanes)
            .overriding("IN_PLACE", over)
            .words("siblings", siblings);
        let step = match &scores.gradient {
            Gradient::InPlace => {
                step.read_write_elements("logits", "gradient", scores.scores.clone())
            }
            Gradient::To(view) => step
                .read_elements("logits", Some(scores.scores.clone()), 0.0)
                .write_elements("gradient", Some(view.clone())),
            Gradient::Nowhere => step
                .read_elements("logits", Some(scores.scores.clone()), 0.0)
                .write_elements("gradient", None),
        };
        step.groups(rows.end - rows.start)?;
        if over { self.clear(index, rows, scores) } else { Ok(()) }
    }

    /// Writes 0 into the gradient, in place only outside of the paths.
    fn clear(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        let segment = u64::from(self.profile().segment);
        let segments = self.classes.div_ceil(segment);
        let reach = self.given.get("reach").cloned();
        let over = matches!(scores.gradient, Gradient::InPlace);
        let step = self
            .tree_step("clear", shader!("row/clear.wgsl"), index, rows)
            .overriding("IN_PLACE", over)
            .uniform("segment", segment)
            .uniform("column_segments", segments)
            .words("reach", reach.filter(|_| over));
        let step = match &scores.gradient {
            Gradient::To(view) => {
                step.read("logits", None, 0.0).write("gradient", Some(view.clone()))
            }
            _ => step.read_write("logits", "gradient", scores.scores.clone()),
        };
        step.groups((rows.end - rows.start) * segments)
    }

    /// Begins a dispatch over a stretch of rows.
    fn tree_step(
        &mut self,
        entry: &'static str,
        file: Source,
        index: usize,
        rows: &Range<u64>,
    ) -> Step<'_, 'a> {
        let (lanes, places) = (self.tree_lanes, self.given.get("places").cloned());
        self.functor_step(entry, &[file], index, rows)
            .overriding("WORKGROUP", lanes)
            .uniform("wide", u64::from(WIDE))
            .words("places", places)
    }
}
