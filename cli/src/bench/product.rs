//! Matrix products. The fastest of them has the rate that the products of losses are compared with.

mod plain;
mod score;

use super::{
    fill::{BLOCK, fill},
    timer::Timer,
};
use surprisal::{Array, Dtype, Gpu, Result, testing, wgpu};

/// A product of two matrices that lie row by row, `[rows, depth] · [columns, depth]ᵀ`: the fastest over all kernels for
/// products that there are.
#[derive(Debug)]
pub struct BestProduct {
    matrices: Matrices,
    tried: Vec<Candidate>,
    fastest: usize,
}

/// The operands and the product.
#[derive(Debug)]
struct Matrices {
    /// Rows, columns and depth.
    extents: [u64; 3],
    /// The operands in f32.
    plain: [wgpu::Buffer; 2],
    /// The operands in the type in which the loss has them.
    stored: [wgpu::Buffer; 2],
    dtype: Dtype,
    product: wgpu::Buffer,
}

/// A kernel that is tried.
#[derive(Debug)]
struct Candidate {
    kernel: Kernel,
    best_ms: f64,
}

#[derive(Debug)]
enum Kernel {
    Plain(plain::Tile),
    Score(Box<score::Score>),
}

/// The least and the most rows and columns.
const SIDES: [u64; 2] = [256, 4096];
/// A product that takes as long as this is large enough for its rate.
const ENOUGH_MS: f64 = 20.0;

impl BestProduct {
    /// The best product of this depth: as large as the rows and columns of a loss, as far as the adapter needs it to
    /// reach its rate. Score tiles take their operands as `dtype`. Tries every kernel a few times, and keeps the one with
    /// the fastest run.
    pub fn new(
        gpu: &Gpu,
        timer: &Timer,
        [rows, columns, depth]: [u64; 3],
        dtype: Dtype,
    ) -> Result<Self> {
        let side = |side: u64| side.clamp(SIDES[0], SIDES[1]).next_multiple_of(plain::STEP);
        let all = [side(rows), side(columns), depth.next_multiple_of(4).max(4)];
        // Small products have large tiles too if those of the loss have them.
        let large =
            rows.saturating_mul(columns).saturating_mul(depth) >= gpu.profile().large_products;
        let mut best = Self::of(gpu, [SIDES[0], SIDES[0], all[2]], (dtype, large))?;
        best.tune(timer)?;
        while best.best_ms() < ENOUGH_MS && best.extents() != all {
            let [below_rows, below_columns, depth] = best.extents();
            let extents = [all[0].min(2 * below_rows), all[1].min(2 * below_columns), depth];
            best.resize(gpu, extents)?;
            best.tune(timer)?;
        }
        Ok(best)
    }

    fn of(gpu: &Gpu, extents: [u64; 3], (dtype, large): (Dtype, bool)) -> Result<Self> {
        let matrices = Matrices::new(gpu, extents, dtype)?;
        let plain = plain::tiles(gpu).map(|tile| tile.map(Kernel::Plain));
        let scores =
            score::tiles(gpu, large).into_iter().map(|score| Ok(Kernel::Score(Box::new(score))));
        let tried = plain.chain(scores);
        let tried = tried.map(|kernel| Ok(Candidate { kernel: kernel?, best_ms: f64::INFINITY }));
        let mut best = Self { matrices, tried: tried.collect::<Result<_>>()?, fastest: 0 };
        best.bind(gpu)?;
        Ok(best)
    }

    /// Takes other matrices. Kernels that fit them are not compiled again.
    fn resize(&mut self, gpu: &Gpu, extents: [u64; 3]) -> Result<()> {
        self.matrices = Matrices::new(gpu, extents, self.matrices.dtype)?;
        self.bind(gpu)
    }

    fn bind(&mut self, gpu: &Gpu) -> Result<()> {
        for candidate in &mut self.tried {
            match &mut candidate.kernel {
                Kernel::Plain(tile) => tile.bind(gpu, &self.matrices)?,
                Kernel::Score(score) => score.bind(&self.matrices)?,
            }
        }
        Ok(())
    }

    /// Times every kernel and keeps the fastest. The kernels are timed in rounds, so that a slow moment affects all of
    /// them. The first round is not counted.
    fn tune(&mut self, timer: &Timer) -> Result<()> {
        for candidate in &mut self.tried {
            timer.time(|pass| candidate.kernel.record(pass))?;
            candidate.best_ms = f64::INFINITY;
        }
        for _ in 0..2 {
            for candidate in &mut self.tried {
                let sample = timer.time(|pass| candidate.kernel.record(pass))?;
                candidate.best_ms = candidate.best_ms.min(sample.best());
            }
        }
        let times = self.tried.iter().map(|candidate| candidate.best_ms).enumerate();
        self.fastest = times.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index);
        Ok(())
    }

    fn best(&self) -> Option<&Candidate> {
        self.tried.get(self.fastest)
    }

    fn best_ms(&self) -> f64 {
        self.best().map_or(f64::INFINITY, |candidate| candidate.best_ms)
    }

    /// Records the fastest product.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(candidate) = self.best() {
            candidate.kernel.record(pass);
        }
    }

    /// What makes the fastest product, in words.
    pub fn kernel(&self) -> String {
        self.best().map_or_else(String::new, |candidate| candidate.kernel.name())
    }

    /// Each kernel that was tried, in words, and its best milliseconds.
    pub fn tried(&self) -> impl ExactSizeIterator<Item = (String, f64)> {
        self.tried.iter().map(|candidate| (candidate.kernel.name(), candidate.best_ms))
    }

    /// Rows, columns and depth.
    pub fn extents(&self) -> [u64; 3] {
        self.matrices.extents
    }

    /// Floating-point operations, two for each multiply-add.
    pub fn flops(&self) -> f64 {
        2.0 * self.extents().iter().map(|&extent| extent as f64).product::<f64>()
    }

    /// Bytes of the operands and of the product, as the fastest kernel takes them.
    pub fn bytes(&self) -> u64 {
        let [rows, columns, depth] = self.extents();
        let operand = match self.best().map(|candidate| &candidate.kernel) {
            Some(Kernel::Score(_)) => self.matrices.dtype.bytes(),
            _ => Dtype::F32.bytes(),
        };
        operand * (rows + columns) * depth + Dtype::F32.bytes() * rows * columns
    }
}

impl Kernel {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Self::Plain(tile) => tile.record(pass),
            Self::Score(score) => score.record(pass),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Plain(tile) => tile.name(),
            Self::Score(score) => score.name(),
        }
    }
}

impl Matrices {
    /// The operands, filled with numbers, and the product.
    fn new(gpu: &Gpu, extents: [u64; 3], dtype: Dtype) -> Result<Self> {
        let [rows, columns, depth] = extents;
        let operands = |dtype| {
            Ok([operand(gpu, [rows, depth], dtype)?, operand(gpu, [columns, depth], dtype)?])
        };
        let plain: [wgpu::Buffer; 2] = operands(Dtype::F32)?;
        let stored = if dtype == Dtype::F32 { plain.clone() } else { operands(dtype)? };
        let product = gpu.output_buffer(Dtype::F32, &[rows, columns])?;
        Ok(Self { extents, plain, stored, dtype, product })
    }
}

fn operand(gpu: &Gpu, shape: [u64; 2], dtype: Dtype) -> Result<wgpu::Buffer> {
    let [rows, depth] = shape;
    let buffer = gpu.output_buffer(dtype, &shape)?;
    let count = rows * depth;
    let block = Array::float(&[], testing::gaussian(rows, BLOCK.min(count) as usize));
    fill(gpu, &buffer, &block.to_bytes(dtype), dtype.bytes() * count);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::opened;
    use surprisal::{Layout, Profile, Tensor};

    #[test]
    fn every_kernel_makes_the_whole_product() -> Result<()> {
        let Some(gpu) = opened()? else { return Ok(()) };
        // A grid with more than one row, the last of them with groups to spare.
        let profile = Profile { workgroups: 40, ..gpu.profile().clone() };
        let gpu = gpu.with_profile(profile);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            whole_products(&BestProduct::of(&gpu, [256, 256, 8], (dtype, false))?, &gpu)?;
        }
        Ok(())
    }

    fn whole_products(best: &BestProduct, gpu: &Gpu) -> Result<()> {
        let matrices = &best.matrices;
        // Other numbers than those of the calls that ran while the kernels were bound.
        for (buffer, dtype) in
            [(&matrices.plain[0], Dtype::F32), (&matrices.stored[0], matrices.dtype)]
        {
            let other = Array::float(&[256, 8], testing::gaussian(7, 256 * 8)).to_bytes(dtype);
            gpu.queue().write_buffer(buffer, 0, &other);
        }
        let read = |buffer: &wgpu::Buffer, dtype, shape: &[u64]| {
            let tensor = Tensor::new(buffer, Layout::dense(dtype, shape));
            gpu.read_blocking(&tensor).map(|array| array.to_f64())
        };
        for candidate in &best.tried {
            let (operands, dtype) = match candidate.kernel {
                Kernel::Plain(_) => (&matrices.plain, Dtype::F32),
                Kernel::Score(_) => (&matrices.stored, matrices.dtype),
            };
            let [a, b] =
                [read(&operands[0], dtype, &[256, 8])?, read(&operands[1], dtype, &[256, 8])?];
            gpu.queue().write_buffer(&matrices.product, 0, &vec![0; 4 * 256 * 256]);
            Timer::new(gpu)?.time(|pass| candidate.kernel.record(pass))?;
            if let Kernel::Score(score) = &candidate.kernel {
                Timer::new(gpu)?.time(|pass| score.record_rest(pass))?;
            }
            let found = read(&matrices.product, Dtype::F32, &[256, 256])?;
            for (at, found) in found.iter().enumerate() {
                let (row, column) = (at / 256, at % 256);
                let expected: f64 = (0..8).map(|k| a[8 * row + k] * b[8 * column + k]).sum();
                let name = candidate.kernel.name();
                assert!((found - expected).abs() < 1e-4, "{name} at {at}: {found} {expected}");
            }
        }
        Ok(())
    }
}
