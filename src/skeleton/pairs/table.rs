//! The tables of the vectors of both sides, which the row kernels read.

use super::{Columns, Pairs};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{View, kernel::shader, limits::MOST_ITERATIONS, stretches::stretches},
    skeleton::{linear::Layer, row::Rows, vectors::Table},
};

pub(crate) struct Tables {
    pub queries: Table,
    pub keys: Table,
}

impl Pairs<'_> {
    /// Reads the norms and labels of all vectors into tables, which the row kernels read. Where vectors are
    /// normalised, products multiply them by the scales in these tables.
    pub fn tables(&mut self, rows: &mut Rows) -> Result<Tables> {
        let Layer { rows: queries, classes: keys, depth, .. } = self.layer;
        let normalize = self.pairing.normalize;
        let query_table = Table::entries(rows, queries, depth);
        let key_table = Table::planes(rows, keys, depth, self.key_labels.is_some(), normalize);
        query_table.fill(rows, &self.layer.hidden, self.labels.as_ref(), normalize)?;
        key_table.fill(rows, &self.layer.weight, self.key_labels.as_ref(), normalize)?;
        if self.pairing.columns == Columns::Queries {
            let counts = self.partners(rows, &query_table)?;
            rows.give("targets", counts);
        }
        rows.give("query_table", query_table.view.clone());
        rows.give("key_table", key_table.view.clone());
        if normalize {
            rows.count_zeros(query_table.view.clone(), query_table.entry_step, queries);
            if self.pairing.columns != Columns::Queries {
                rows.count_zeros(key_table.view.clone(), key_table.entry_step, keys);
            }
        }
        if normalize {
            let Layer { hidden, weight, .. } = &mut self.layer;
            *hidden = query_table.scaling(hidden.clone());
            *weight = key_table.scaling(weight.clone());
        }
        Ok(Tables { queries: query_table, keys: key_table })
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
}
