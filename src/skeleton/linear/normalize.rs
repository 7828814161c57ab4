//! A layer of unit vectors: the rows of hidden, and the vectors of W that belong to classes, are divided by their norms
//! while products load them. The products make the gradients of the unit vectors, which are then taken through the
//! normalisation.

use super::{Layer, RowBlock, Schedule};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{View, limits::MOST_ITERATIONS},
    skeleton::{
        row::Rows,
        vectors::{RawGradient, Table, needs_own_sum},
    },
    spec::{
        about::Dim,
        options::{Accumulate, WeightLayout},
    },
};

/// What is known of the vectors of a layer, and where their gradients go in the end.
pub(super) struct Units {
    hidden: Table,
    weight: Table,
    weight_gradient: Option<View>,
    accumulate: Accumulate,
    in_place: bool,
}

impl Layer<'_> {
    /// Reads the norms of all vectors, those of other layers too. From now on, products are those of unit vectors.
    pub(super) fn normalize(&mut self, rows: &mut Rows) -> Result<Units> {
        for (_, other) in &mut self.others {
            other.divide(rows)?;
        }
        let [hidden, weight] = self.divide(rows)?;
        let accumulate = std::mem::take(&mut self.options.accumulate);
        let weight_gradient = self.weight_gradient.clone();
        if let Some(output) = &mut self.weight_gradient
            && (needs_own_sum(output) || accumulate.shared())
        {
            *output = rows.planner.scratch(Layout::dense(Dtype::F32, &output.layout.shape));
        }
        Ok(Units { hidden, weight, weight_gradient, accumulate, in_place: self.in_place })
    }

    /// Has products divide the vectors of both operands by their norms. Returns the tables of the norms.
    fn divide(&mut self, rows: &mut Rows) -> Result<[Table; 2]> {
        let Self { rows: count, classes, depth, .. } = *self;
        self.check_depth()?;
        let hidden = Table::planes(rows, count, depth, false, true);
        let weight = match self.options.weight_layout {
            WeightLayout::ClassesHidden => Table::planes(rows, classes, depth, false, true),
            WeightLayout::HiddenClasses => Table::of_columns(rows, classes, depth),
        };
        for (table, vectors) in [(&hidden, &mut self.hidden), (&weight, &mut self.weight)] {
            table.fill(rows, vectors, None, true)?;
            rows.count_zeros(table.view.clone(), table.entry_step, table.count);
            *vectors = table.normalizing(vectors.clone());
        }
        Ok([hidden, weight])
    }

    /// A workgroup walks a vector in loops that are not too long.
    pub fn check_depth(&self) -> Result<()> {
        let deepest = MOST_ITERATIONS / 2 * 4 * u64::from(self.profile.tally_lanes());
        if self.depth > deepest {
            let what = Dim::Hidden.name().into();
            return Err(Error::Limit { what, found: self.depth, limit: deepest });
        }
        Ok(())
    }

    /// Gives the gradients of unit hidden states a place of their own, a chunk of rows at a time, where they cannot
    /// be in the output.
    pub(super) fn raw_rows(&mut self, rows: &mut Rows, units: &Units, walks: &[Schedule]) {
        let parts = walks.iter().flat_map(|walk| &walk.parts);
        let most = parts.map(|part| part.rows.end - part.rows.start).max().unwrap_or(0);
        let apart =
            |output: &View| needs_own_sum(output) || units.accumulate.rows() || units.in_place;
        if self.hidden_gradient.as_ref().is_some_and(apart) {
            let layout = Layout::matrix(Dtype::F32, most, self.depth);
            self.raw_hidden_gradient = Some(rows.planner.scratch(layout));
            self.in_place = false;
        }
    }

    /// Finishes the gradient of the hidden states of a stretch of rows.
    pub(super) fn end_rows(&self, rows: &mut Rows, units: &Units, part: &RowBlock) -> Result<()> {
        let Some(output) = self.hidden_gradient.clone() else { return Ok(()) };
        let output = output.rows(&part.rows);
        let gradient = RawGradient {
            raw: self.rows_gradient(rows, part).unwrap_or_else(|| output.clone()),
            output,
            adds: units.accumulate.rows(),
            in_place: units.in_place,
            of_units: true,
        };
        units.hidden.tangent(rows, &self.hidden, &part.rows, &gradient)
    }

    /// Finishes the gradient of the weight.
    pub(super) fn end_weight(&self, rows: &mut Rows, units: &Units) -> Result<()> {
        let ends = (self.weight_gradient.clone(), units.weight_gradient.clone());
        let (Some(raw), Some(output)) = ends else { return Ok(()) };
        let gradient = RawGradient {
            raw,
            output,
            adds: units.accumulate.shared(),
            in_place: false,
            of_units: true,
        };
        units.weight.tangent(rows, &self.weight, &(0..self.classes), &gradient)
    }
}
