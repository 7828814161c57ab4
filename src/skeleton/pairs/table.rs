//! The table of vectors: the inverse norm and the label of each vector, read before any score is made. Also the
//! backward pass of the normalisation.

use std::ops::Range;

use super::{Columns, Pairs, needs_own_sum, walk::RawGradient};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{View, kernel::shader, limits::MOST_ITERATIONS, stretches::stretches},
    skeleton::{linear::Layer, row::Rows},
};

/// The inverse norms and labels of vectors, and the distances between entries and between the words of an entry.
#[derive(Clone)]
pub(crate) struct Table {
    view: View,
    entry_step: u64,
    pub word_step: u64,
    /// The number of the word of an entry that its vector is multiplied by in products.
    scale_word: u64,
    pub count: u64,
}

impl Table {
    /// The distance from an entry to the scale of its vector, in words.
    fn scale_at(&self) -> u64 {
        self.scale_word * self.word_step
    }

    /// The vectors with the scales that products multiply them by.
    fn scaling(&self, vectors: View) -> View {
        let mut scales = self.view.clone();
        scales.layout.offset += self.scale_at();
        vectors.scaled_by(scales, self.entry_step)
    }
}

pub(crate) struct Tables {
    pub queries: Table,
    pub keys: Table,
}

impl Pairs<'_> {
    /// Reads the norms and labels of all vectors into tables, which the row kernels read. Where vectors are
    /// normalised, products multiply them by the scales in these tables.
    pub fn tables(&mut self, rows: &mut Rows) -> Result<Tables> {
        let Layer { rows: queries, classes: keys, .. } = self.layer;
        let view = rows.planner.scratch(Layout::matrix(Dtype::F32, queries, 4));
        let query_table =
            Table { view, entry_step: 4, word_step: 1, scale_word: 3, count: queries };
        let scale_word = if self.key_labels.is_some() { 3 } else { 1 };
        let planes = scale_word + u64::from(self.pairing.normalize);
        let stride = keys.next_multiple_of(4);
        let view = rows.planner.scratch(Layout::matrix(Dtype::F32, planes, stride));
        let key_table = Table { view, entry_step: 1, word_step: stride, scale_word, count: keys };
        self.vectors(rows, &query_table, &self.layer.hidden, self.labels.as_ref())?;
        self.vectors(rows, &key_table, &self.layer.weight, self.key_labels.as_ref())?;
        if self.pairing.columns == Columns::Queries {
            let counts = self.partners(rows, &query_table)?;
            rows.give("targets", counts);
        }
        rows.give("query_table", query_table.view.clone());
        rows.give("key_table", key_table.view.clone());
        if self.pairing.normalize {
            rows.count_zeros(query_table.view.clone(), query_table.entry_step, queries);
            if self.pairing.columns != Columns::Queries {
                rows.count_zeros(key_table.view.clone(), key_table.entry_step, keys);
            }
        }
        if self.pairing.normalize {
            let Layer { hidden, weight, .. } = &mut self.layer;
            *hidden = query_table.scaling(hidden.clone());
            *weight = key_table.scaling(weight.clone());
        }
        Ok(Tables { queries: query_table, keys: key_table })
    }

    fn vectors(
        &self,
        rows: &mut Rows,
        table: &Table,
        operand: &View,
        labels: Option<&View>,
    ) -> Result<()> {
        for part in self.stretches(operand, table.count)? {
            rows.around("vectors", &[shader!("pairs/vectors.wgsl")])
                .overriding("NORMALIZE", self.pairing.normalize)
                .overriding("HAS_LABELS", labels.is_some())
                .uniform("rows", part.end - part.start)
                .uniform("classes", self.layer.depth)
                .uniform("first", part.start)
                .uniform("entry_step", table.entry_step)
                .uniform("word_step", table.word_step)
                .uniform("scale_at", table.scale_at())
                .read("vector", Some(operand.clone().rows(&part)), 0.0)
                .integers("labels", labels.map(|labels| labels.clone().rows(&part)))
                .table("table", &table.view, "u32")
                .groups(part.end - part.start)?;
        }
        Ok(())
    }

    /// Stretches of vectors that fit a binding and a short dispatch.
    fn stretches(&self, operand: &View, count: u64) -> Result<Vec<Range<u64>>> {
        let row = operand.layout.row_stride.max(operand.layout.columns()).max(1);
        let room = self.profile.binding_bytes.saturating_sub(self.profile.offset_alignment + 64);
        // A 16-bit gradient may be summed in f32.
        let fits = room / (row * operand.layout.dtype.bytes().max(4));
        stretches(count, fits.min(self.profile.dispatch_elements / row).max(1))
    }

    /// The number of other vectors with the same label as each vector. Where labels define the positives, this number
    /// takes the place of a target: a row whose number is 0 is ignored.
    fn partners(&self, rows: &mut Rows, table: &Table) -> Result<View> {
        let count = table.count;
        let counts = rows.planner.scratch(Layout::vector(Dtype::U32, count));
        let lanes = self.profile.tally_lanes();
        let short = self.profile.dispatch_elements / count.max(1);
        for part in stretches(count, short.clamp(1, MOST_ITERATIONS))? {
            rows.around("partners", &[shader!("pairs/partners.wgsl")])
                .uniform("classes", count)
                .uniform("entry_step", table.entry_step)
                .uniform("word_step", table.word_step)
                .uniform("first", part.start)
                .uniform("end", part.end)
                .table("table", &table.view, "u32")
                .table("counts", &counts, "u32")
                .groups(count.div_ceil(u64::from(lanes)))?;
        }
        Ok(counts)
    }

    /// Takes the gradient of `part` of the vectors back through their normalisation.
    pub(super) fn tangent(
        &self,
        rows: &mut Rows,
        table: &Table,
        vectors: &View,
        part: &Range<u64>,
        RawGradient { raw, output, adds }: &RawGradient,
    ) -> Result<()> {
        for piece in self.stretches(vectors, part.end - part.start)? {
            let all = part.start + piece.start..part.start + piece.end;
            let (from, to) = (raw.clone().rows(&piece), output.clone().rows(&piece));
            let step = rows
                .around("tangent", &[shader!("pairs/tangent.wgsl")])
                .overriding("ADDS", *adds)
                .uniform("rows", piece.end - piece.start)
                .uniform("classes", self.layer.depth)
                .uniform("first", all.start)
                .uniform("entry_step", table.entry_step)
                .uniform("scale_at", table.scale_at())
                .read("vector", Some(vectors.clone().rows(&all)), 0.0)
                .table("table", &table.view, "u32");
            let step = if *adds {
                step.read("raw", Some(from), 0.0).read_write("begun", "gradient", to)
            } else if needs_own_sum(output) {
                step.read("raw", Some(from), 0.0)
                    .read("begun", None, 0.0)
                    .write("gradient", Some(to))
            } else {
                step.read("begun", None, 0.0).read_write("raw", "gradient", from)
            };
            step.groups(piece.end - piece.start)?;
        }
        Ok(())
    }
}
