//! Vectors that are divided by their norms: the table of what is known of each vector, which is read before any product
//! is made, and the backward pass of the normalisation.

use std::ops::Range;

use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{
        Step, View,
        kernel::{Source, shader},
        limits::MOST_ITERATIONS,
        stretches::stretches,
    },
    skeleton::row::Rows,
};

/// The inverse norms and labels of vectors, and the distances between entries and between the words of an entry.
#[derive(Clone)]
pub(crate) struct Table {
    pub view: View,
    pub entry_step: u64,
    pub word_step: u64,
    /// The number of the word of an entry that its vector is multiplied by in products.
    scale_word: u64,
    pub count: u64,
    /// The number of elements of a vector.
    depth: u64,
    /// Whether a vector is a column of its matrix.
    in_columns: bool,
}

/// A gradient of normalised vectors before it is taken through the normalisation.
pub(crate) struct RawGradient {
    /// The gradient so far: the output itself, or a tensor of its own where the output has another type or is added to,
    /// or where the vectors are still there.
    pub raw: View,
    pub output: View,
    /// Whether it is added to what the output holds.
    pub adds: bool,
    /// Whether the output takes the place of the vectors.
    pub in_place: bool,
    /// Whether it is the gradient of the unit vectors. Otherwise it is that of the vectors, but for its part along them.
    pub of_units: bool,
}

impl Table {
    /// A table whose entries are four words: for operands whose entries are read by row.
    pub fn entries(rows: &mut Rows, count: u64, depth: u64) -> Self {
        let view = rows.planner.scratch(Layout::matrix(Dtype::F32, count, 4));
        let (entry_step, word_step, scale_word) = (4, 1, 3);
        Self { view, entry_step, word_step, scale_word, count, depth, in_columns: false }
    }

    /// A table whose words are planes: for operands whose entries are read by column.
    pub fn planes(rows: &mut Rows, count: u64, depth: u64, has_labels: bool, scales: bool) -> Self {
        let scale_word = if has_labels { 3 } else { 1 };
        Self::plane(rows, [count, depth], scale_word, scale_word + u64::from(scales))
    }

    /// A table for vectors that are the columns of their matrix.
    pub fn of_columns(rows: &mut Rows, count: u64, depth: u64) -> Self {
        // The third plane holds the part of a gradient along each vector.
        Self { in_columns: true, ..Self::plane(rows, [count, depth], 1, 3) }
    }

    fn plane(rows: &mut Rows, [count, depth]: [u64; 2], scale_word: u64, planes: u64) -> Self {
        let word_step = count.next_multiple_of(4);
        let view = rows.planner.scratch(Layout::matrix(Dtype::F32, planes, word_step));
        Self { view, entry_step: 1, word_step, scale_word, count, depth, in_columns: false }
    }

    /// The distance from an entry to the scale of its vector, in words.
    fn scale_at(&self) -> u64 {
        self.scale_word * self.word_step
    }

    /// The vectors, which products multiply by their powers of two.
    pub fn scaling(&self, vectors: View) -> View {
        let mut scales = self.view.clone();
        scales.layout.offset += self.scale_at();
        vectors.scaled_by(scales, self.entry_step)
    }

    /// The vectors, which products divide by their norms.
    pub fn normalizing(&self, vectors: View) -> View {
        vectors.divided_by(self.view.clone(), self.entry_step, self.scale_at(), self.in_columns)
    }

    /// Reads the vectors into the table: their norms where they are normalised, and their labels.
    pub fn fill(
        &self,
        rows: &mut Rows,
        vectors: &View,
        labels: Option<&View>,
        normalize: bool,
    ) -> Result<()> {
        if self.in_columns {
            return self.fill_from_columns(rows, vectors);
        }
        for part in parts(rows, vectors, self.count, u64::MAX)? {
            let sources = [shader!("pairs/norm.wgsl"), shader!("pairs/vectors.wgsl")];
            self.step(rows, "vectors", &sources, &part)
                .overriding("NORMALIZE", normalize)
                .overriding("HAS_LABELS", labels.is_some())
                .uniform("classes", self.depth)
                .uniform("word_step", self.word_step)
                .read("vector", Some(vectors.clone().rows(&part)), 0.0)
                .integers("labels", labels.map(|labels| labels.clone().rows(&part)))
                .table("table", &self.view, "u32")
                .groups(part.end - part.start)?;
        }
        Ok(())
    }

    fn fill_from_columns(&self, rows: &mut Rows, vectors: &View) -> Result<()> {
        let sources = [shader!("pairs/norm.wgsl"), shader!("pairs/column_vectors.wgsl")];
        let groups = self.column_groups(rows);
        for entry in ["column_tops", "column_norms"] {
            for part in parts(rows, vectors, self.depth, MOST_ITERATIONS)? {
                self.step(rows, entry, &sources, &part)
                    .uniform("classes", self.count)
                    .uniform("depth", self.depth)
                    .read("vector", Some(vectors.clone().rows(&part)), 0.0)
                    .table("table", &self.view, "u32")
                    .groups(groups)?;
            }
        }
        Ok(())
    }

    /// Takes the gradient of `part` of the vectors, or of all of them if they are columns, back through their
    /// normalisation.
    pub fn tangent(
        &self,
        rows: &mut Rows,
        vectors: &View,
        part: &Range<u64>,
        gradient: &RawGradient,
    ) -> Result<()> {
        if self.in_columns {
            return self.tangent_of_columns(rows, vectors, gradient);
        }
        for piece in parts(rows, vectors, part.end - part.start, u64::MAX)? {
            let all = part.start + piece.start..part.start + piece.end;
            let step = self
                .step(rows, "tangent", &[shader!("pairs/tangent.wgsl")], &all)
                .overriding("ADDS", gradient.adds)
                .overriding("OF_UNITS", gradient.of_units)
                .uniform("classes", self.depth)
                .table("table", &self.view, "u32");
            gradient
                .bind(step, vectors.clone().rows(&all), &piece)
                .groups(piece.end - piece.start)?;
        }
        Ok(())
    }

    fn tangent_of_columns(
        &self,
        rows: &mut Rows,
        vectors: &View,
        gradient: &RawGradient,
    ) -> Result<()> {
        let RawGradient { raw, adds, .. } = gradient;
        let groups = self.column_groups(rows);
        for part in parts(rows, vectors, self.depth, MOST_ITERATIONS)? {
            self.step(rows, "column_dots", &[shader!("pairs/column_dots.wgsl")], &part)
                .uniform("classes", self.count)
                .read("vector", Some(vectors.clone().rows(&part)), 0.0)
                .read("raw", Some(raw.clone().rows(&part)), 0.0)
                .table("table", &self.view, "u32")
                .groups(groups)?;
        }
        for part in parts(rows, vectors, self.depth, MOST_ITERATIONS)? {
            let step = self
                .step(rows, "column_tangent", &[shader!("pairs/column_tangent.wgsl")], &part)
                .overriding("ADDS", *adds)
                .uniform("classes", self.count)
                .table("table", &self.view, "u32");
            gradient.bind(step, vectors.clone().rows(&part), &part).groups(groups)?;
        }
        Ok(())
    }

    /// A dispatch over a stretch of rows of the matrix.
    fn step<'p, 'a>(
        &self,
        rows: &'p mut Rows<'a>,
        entry: &'static str,
        sources: &[Source],
        part: &Range<u64>,
    ) -> Step<'p, 'a> {
        rows.around(entry, sources)
            .uniform("rows", part.end - part.start)
            .uniform("first", part.start)
            .uniform("entry_step", self.entry_step)
            .uniform("scale_at", self.scale_at())
    }

    /// The workgroups of a kernel with a lane for four columns.
    fn column_groups(&self, rows: &Rows) -> u64 {
        self.count.div_ceil(4 * u64::from(rows.planner.profile.tally_lanes()))
    }
}

impl RawGradient {
    /// Binds a part of the vectors, of the gradient so far and of the output.
    fn bind<'p, 'a>(&self, step: Step<'p, 'a>, vectors: View, part: &Range<u64>) -> Step<'p, 'a> {
        let (raw, output) = (self.raw.clone().rows(part), self.output.clone().rows(part));
        if self.in_place {
            return step
                .read("raw", Some(raw), 0.0)
                .read("begun", None, 0.0)
                .read_write("vector", "gradient", output);
        }
        let step = step.read("vector", Some(vectors), 0.0);
        if self.adds {
            step.read("raw", Some(raw), 0.0).read_write("begun", "gradient", output)
        } else if needs_own_sum(&self.output) {
            step.read("raw", Some(raw), 0.0)
                .read("begun", None, 0.0)
                .write("gradient", Some(output))
        } else {
            step.read("begun", None, 0.0).read_write("raw", "gradient", raw)
        }
    }
}

/// A 16-bit gradient is summed in f32 first; the backward pass of the normalisation then rounds it.
pub(crate) fn needs_own_sum(output: &View) -> bool {
    output.layout.dtype != Dtype::F32
}

/// Stretches of rows of the matrix that fit a binding and a short dispatch.
fn parts(rows: &Rows, vectors: &View, count: u64, most: u64) -> Result<Vec<Range<u64>>> {
    let profile = rows.planner.profile;
    let row = vectors.layout.row_stride.max(vectors.layout.columns()).max(1);
    let room = profile.binding_bytes.saturating_sub(profile.offset_alignment + 64);
    // A 16-bit gradient may be summed in f32.
    let fits = room / (row * vectors.layout.dtype.bytes().max(4));
    stretches(count, fits.min(profile.dispatch_elements / row).min(most).max(1))
}
