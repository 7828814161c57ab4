//! The products of a linear layer: which index runs along which operand, and how a product is cut into dispatches.

use std::ops::Range;

use super::{Layer, RowBlock};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{View, cooperative, kernel::Label, stretches::stretches, tile::TileKernel},
    skeleton::row::Rows,
};

/// Tiles side by side that are walked along their rows together. Their common part of a row is then about one page,
/// the unit that memory reads fast.
const RUN_TILES: u64 = 4;
/// The number of rows that the choice of a kernel assumes, whatever the real number is.
const USUAL_ROWS: u64 = 256;

/// What the sums of a product start from.
#[derive(Clone)]
pub(super) enum Start {
    Zero,
    /// The present contents of the output.
    There,
    /// Another tensor of the output's shape, or one row that is used for every row.
    From(View),
}

/// Which index of a product runs over the rows of an operand in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    Owned,
    Walked,
}

/// An operand of a product; `None` is an operand of ones.
pub(super) type Factor = Option<(View, Along)>;

/// output[i, j] = (start[i, j] + Σ_k a(i, k)·b(j, k)) + addend[j].
pub(super) struct Product<'v> {
    pub label: &'static str,
    pub a: Factor,
    pub b: Factor,
    pub start: Start,
    /// A row that is added to every row of the output after the sums.
    pub addend: Option<View>,
    pub output: View,
    /// The most rows and columns of the output in any part of the call. The last part, which may be small, then uses the
    /// same tiles as the others: another shape of tile would have to be compiled, and gives the same bits.
    pub most: [u64; 2],
    pub depth: u64,
    /// The index (i or k) that runs over rows of the loss, if one does.
    pub rows_along: Option<Along>,
    /// Rows that count for nothing are skipped.
    pub skips: bool,
    /// Multiply-adds of the product over all rows and classes, for the same reason.
    pub multiply_adds: u64,
    pub at: &'v RowBlock,
}

impl Product<'_> {
    /// The number of rows of the output that are computed.
    fn outputs(&self) -> u64 {
        if self.output.is_by_row() {
            self.at.rows.end - self.at.rows.start
        } else {
            self.output.layout.rows()
        }
    }
}

impl Layer<'_> {
    /// Plans a product, cut so that every operand fits a binding and every dispatch is short.
    pub(super) fn product(&self, rows: &mut Rows, product: &Product) -> Result<()> {
        let (outputs, columns) = (product.outputs(), product.output.layout.columns());
        let [i_step, j_step, k_step] = self.steps(product, [outputs, columns]);
        let [most_rows, most_columns, _] = self.steps(product, product.most);
        let most = [most_rows, most_columns];
        let walks = stretches(product.depth, k_step)?;
        let wide = product.output.layout.dtype == Dtype::F32 || walks.len() < 2;
        let sum =
            (!wide).then(|| rows.shared("product", Layout::matrix(Dtype::F32, outputs, columns)));
        for i in stretches(outputs, i_step)? {
            for j in stretches(columns, j_step)? {
                if walks.is_empty() {
                    let all = (&product.start, &product.output, product.addend.as_ref());
                    self.tile(rows, product, most, all, [&i, &j, &(0..0)])?;
                }
                for (n, k) in walks.iter().enumerate() {
                    let last = n + 1 == walks.len();
                    let start = match (&sum, n) {
                        (Some(_), 0) if matches!(product.start, Start::There) => {
                            Start::From(product.output.clone())
                        }
                        (_, 0) => product.start.clone(),
                        (Some(sum), _) if last => Start::From(sum.clone()),
                        _ => Start::There,
                    };
                    let output = sum.as_ref().filter(|_| !last).unwrap_or(&product.output);
                    let addend = product.addend.as_ref().filter(|_| last);
                    self.tile(rows, product, most, (&start, output, addend), [&i, &j, k])?;
                }
            }
        }
        Ok(())
    }

    /// The lengths of i, j and k in one dispatch.
    fn steps(&self, product: &Product, [outputs, columns]: [u64; 2]) -> [u64; 3] {
        let most = match self.matrices(product) {
            Some(matrices) => matrices.most_steps(),
            None => self.profile.tile().most_steps(),
        };
        let walked = product.depth.clamp(1, most);
        let mut steps = [outputs.max(1), columns.max(1), walked];
        let room = self.room();
        let mut fit = |view: &View, index: usize| {
            // A 16-bit sum may be held in f32 until its last step.
            let row = view.layout.row_stride * view.layout.dtype.bytes().max(4);
            steps[index] = steps[index].min((room / row.max(1)).max(1));
        };
        fit(&product.output, 0);
        for (factor, owned) in [(&product.a, 0), (&product.b, 1)] {
            if let Some((view, along)) = factor {
                fit(view, if *along == Along::Owned { owned } else { 2 });
            }
        }
        let tile = self.profile.tile();
        let tile = [tile.height(), tile.width(), 64];
        while steps.iter().product::<u64>() > self.profile.dispatch_products {
            let largest = (0..3).filter(|&s| steps[s] > tile[s]).max_by_key(|&s| steps[s]);
            let Some(s) = largest else { break };
            steps[s] = steps[s].div_ceil(2).next_multiple_of(tile[s]);
        }
        steps
    }

    /// The kernel of a product whose dispatches have at most so many rows and columns of outputs. `octets` says that the
    /// rows of its sums consist of groups of eight elements.
    fn kernel(&self, product: &Product, [rows, columns]: [u64; 2], octets: bool) -> TileKernel {
        if let Some(matrices) = self.matrices(product) {
            return TileKernel::cooperative(matrices);
        }
        let large = product.multiply_adds >= self.profile.large_products;
        self.profile.tile().fitted(rows, columns, large).kernel(octets)
    }

    /// The cooperative matrices for a product, where they are chosen and the product is large enough. The number of
    /// rows does not enter the choice, so that the bits of a row do not depend on the other rows.
    fn matrices(&self, product: &Product) -> Option<cooperative::Matrices> {
        // The elements of unit vectors are not those that are stored: f16 would round them.
        let dtype = |factor: &Factor| {
            let (view, _) = factor.as_ref()?;
            let divided = view.factors().is_some_and(|factors| factors.second.is_some());
            Some(if divided { Dtype::F32 } else { view.layout.dtype })
        };
        let (a, b) = (dtype(&product.a)?, dtype(&product.b)?);
        let large = self.weight_elements.saturating_mul(USUAL_ROWS) >= self.profile.large_products;
        self.profile.cooperative.matrices(a, b).filter(|_| large)
    }

    /// Plans one dispatch: outputs i, columns j, summed over k. No dispatch of the product has more than `most` outputs
    /// and columns.
    fn tile(
        &self,
        rows: &mut Rows,
        product: &Product,
        most: [u64; 2],
        (start, output, addend): (&Start, &View, Option<&View>),
        [i, j, k]: [&Range<u64>; 3],
    ) -> Result<()> {
        let place = |view: &View| {
            let part = if view.is_by_row() { view.clone() } else { view.clone().rows(i) };
            part.columns(j)
        };
        let written = place(output);
        let begun = match start {
            Start::From(view) if view.layout.rows() > 1 || output.layout.rows() == 1 => {
                Some(place(view))
            }
            Start::From(view) => Some(view.clone().columns(j)),
            Start::Zero | Start::There => None,
        };
        let addend = addend.map(|view| view.clone().columns(j));
        let octets = begun.iter().chain(&addend).chain([&written]).all(View::in_octets);
        let tile = self.kernel(product, most, octets);
        let tile_rows = (i.end - i.start).div_ceil(tile.height);
        let tile_columns = (j.end - j.start).div_ceil(tile.width);
        // A workgroup keeps tiles of the larger operand while those of the other operand change.
        let wide = i.end - i.start <= j.end - j.start;
        let run = if wide { tile_columns.clamp(1, RUN_TILES) } else { tile_columns };
        // Without rows there are no records, and no kernel reads any.
        let (records, first_row) = rows.records(product.at.index, &product.at.rows).unzip();
        let first_row = first_row.unwrap_or(0);
        let record_words = rows.record_words();
        let first_row = first_row
            + match product.rows_along {
                Some(Along::Owned) => i.start,
                Some(Along::Walked) => k.start,
                None => 0,
            };
        let (a, a_walks) = cut(&product.a, i, k);
        let (b, b_walks) = cut(&product.b, j, k);
        let skips = |along: Along| product.skips && product.rows_along == Some(along);
        let skips_walked = skips(Along::Walked);
        let masked = skips_walked || !(k.end - k.start).is_multiple_of(4);
        let scales = [&a, &b].map(|view| view.as_ref().and_then(View::factors));
        let steps = scales.each_ref().map(|scales| scales.as_ref().map_or(0, |s| s.step));
        let seconds = scales.each_ref().map(|scales| scales.as_ref().and_then(|s| s.second));
        let [a_scales, b_scales] = scales;
        let scales_columns = b_scales.as_ref().is_some_and(|scales| scales.of_columns);
        let dtype = Some(self.hidden.layout.dtype);
        let order = rows.order_of(product.at.index).filter(|_| product.rows_along.is_some());
        let resumes = matches!(start, Start::There);
        let initial_by_row =
            begun.as_ref().unwrap_or(&written).is_by_row() && !matches!(start, Start::Zero);
        let label = Label { skeleton: "linear", kernel: product.label, loss: None, dtype };
        // A row that counts for nothing adds nothing to a gradient that was there before; otherwise its gradient is 0.
        let accumulates = self.options.accumulate.rows() && !matches!(start, Start::Zero);
        let keeps_skipped = accumulates && skips(Along::Owned);
        let step = rows
            .planner
            .dispatch(label, tile.entry, tile.sources)
            .overrides(tile.overrides)
            .overriding("A_WALKS", a_walks)
            .overriding("B_WALKS", b_walks)
            .overriding("MASKED", masked)
            .overriding("HAS_ADDEND", addend.is_some())
            .overriding("SCALES_A", a_scales.is_some())
            .overriding("SCALES_B", b_scales.is_some())
            .overriding("NORMALIZES", seconds.iter().any(Option::is_some))
            .overriding("SCALES_COLUMNS", scales_columns)
            .overriding("SKIPS_WALKED", skips_walked)
            .overriding("SKIPS_OWNED", skips(Along::Owned))
            .overriding("KEEPS_SKIPPED", keeps_skipped)
            .overriding("ORDERED", order.is_some())
            .overriding("OUTPUT_BY_ROW", written.is_by_row())
            .overriding("INITIAL_BY_ROW", initial_by_row)
            .overriding("RESUMES", resumes && order.is_some())
            .uniform("outputs", i.end - i.start)
            .uniform("classes", j.end - j.start)
            .uniform("depth", k.end - k.start)
            .uniform("tile_rows", tile_rows)
            .uniform("tile_columns", tile_columns)
            .uniform("run", run)
            .uniform("first_row", first_row)
            .uniform("record_words", record_words)
            .uniform("a_scale_step", steps[0])
            .uniform("b_scale_step", steps[1])
            .uniform("a_second", seconds[0].unwrap_or(0))
            .uniform("b_second", seconds[1].unwrap_or(0))
            .words("records", records)
            .words("order", order)
            .words("a_scales", a_scales.map(|scales| scales.words))
            .words("b_scales", b_scales.map(|scales| scales.words))
            .wide(tile.wide_operands)
            .read_operand("a", if a_walks { "depth" } else { "outputs" }, a, 1.0)
            .read_operand("b", if b_walks { "depth" } else { "classes" }, b, 1.0)
            .wide(tile.wide_sums)
            .read("addend", addend, 0.0);
        let step = if resumes {
            step.read_write("initial", "output", written)
        } else {
            step.read("initial", begun, 0.0).write("output", Some(written))
        };
        step.groups(tile_rows * tile_columns)
    }

    /// Bytes that fit a binding wherever it has to begin.
    pub(super) fn room(&self) -> u64 {
        self.profile.binding_bytes.saturating_sub(self.profile.offset_alignment + 64)
    }
}

/// The part of a factor that a dispatch needs, and whether its columns run along the walked index.
fn cut(factor: &Factor, owned: &Range<u64>, walked: &Range<u64>) -> (Option<View>, bool) {
    match factor {
        None => (None, true),
        Some((view, Along::Owned)) => (Some(view.clone().rows(owned).columns(walked)), true),
        Some((view, Along::Walked)) => (Some(view.clone().rows(walked).columns(owned)), false),
    }
}
