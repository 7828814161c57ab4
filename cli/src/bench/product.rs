//! Plain matrix products, whose rate is the one that products of losses are compared with.

use std::fmt::Write as _;

use super::{
    fill::{BLOCK, fill},
    timer::Timer,
};
use surprisal::{
    Array, Dtype, Gpu, Result,
    low_level::{grid, guarded},
    testing, wgpu,
};

/// A product of two f32 matrices that lie row by row, `[rows, depth] · [columns, depth]ᵀ`: the fastest over several
/// tiles.
#[derive(Debug)]
pub struct ProductKernel {
    extents: [u64; 3],
    /// The two operands and the product.
    buffers: [wgpu::Buffer; 3],
    tiles: Vec<Tile>,
    fastest: usize,
}

/// A way to make the product: each lane makes a tile of it.
#[derive(Debug)]
struct Tile {
    /// Lanes of a workgroup along either axis.
    lanes: u32,
    /// Rows and columns of a lane.
    sides: [u32; 2],
    pipeline: wgpu::ComputePipeline,
    bindings: Option<wgpu::BindGroup>,
    groups: [u32; 3],
    best_ms: f64,
}

/// Lanes along either axis, and rows and columns of a lane, that are tried. GPUs want tiles that fit their registers;
/// processors want large ones, because their drivers make loads dear.
const TILES: [(u32, [u32; 2]); 4] = [(8, [4, 4]), (8, [8, 8]), (16, [4, 8]), (4, [16, 16])];
/// What every tile of a workgroup divides: the extents are multiples of it.
const STEP: u64 = 128;
/// The least and the most rows and columns.
const SIDES: [u64; 2] = [256, 4096];
/// A product that takes as long as this is large enough for its rate.
const ENOUGH_MS: f64 = 20.0;

impl ProductKernel {
    /// A product of this depth: as large as the rows and columns of a loss, as far as the adapter needs it to reach its
    /// rate. Tries every tile a few times, and keeps the one with the fastest run.
    pub fn new(gpu: &Gpu, timer: &Timer, [rows, columns, depth]: [u64; 3]) -> Result<Self> {
        let side = |side: u64| side.clamp(SIDES[0], SIDES[1]).next_multiple_of(STEP);
        let (rows, columns) = (side(rows), side(columns));
        let depth = depth.next_multiple_of(4).max(4);
        let mut product = Self::of(gpu, [SIDES[0], SIDES[0], depth])?;
        product.tune(timer)?;
        while product.best_ms() < ENOUGH_MS && product.extents != [rows, columns, depth] {
            let [below_rows, below_columns, _] = product.extents;
            let extents = [rows.min(2 * below_rows), columns.min(2 * below_columns), depth];
            product.resize(gpu, extents)?;
            product.tune(timer)?;
        }
        Ok(product)
    }

    fn of(gpu: &Gpu, extents: [u64; 3]) -> Result<Self> {
        let fits = |lanes: u32| lanes * lanes <= gpu.profile().workgroup_size;
        let tiles = TILES.into_iter().filter(|(lanes, _)| fits(*lanes));
        let tiles = tiles.map(|(lanes, sides)| Tile::new(gpu, lanes, sides));
        let buffers = buffers(gpu, extents)?;
        let tiles = tiles.collect::<Result<_>>()?;
        let mut product = Self { extents, buffers, tiles, fastest: 0 };
        product.bind(gpu)?;
        Ok(product)
    }

    /// Takes other matrices, without compiling anything again.
    fn resize(&mut self, gpu: &Gpu, extents: [u64; 3]) -> Result<()> {
        self.extents = extents;
        self.buffers = buffers(gpu, extents)?;
        self.bind(gpu)
    }

    fn bind(&mut self, gpu: &Gpu) -> Result<()> {
        let [rows, columns, depth] = self.extents;
        let words = [rows, columns, depth / 4, 0].map(|word| word as u32);
        let extents = gpu.output_buffer(Dtype::U32, &[4])?;
        gpu.queue().write_buffer(&extents, 0, bytemuck::cast_slice(&words));
        for tile in &mut self.tiles {
            tile.bind(gpu, &self.buffers, &extents, [rows, columns])?;
        }
        Ok(())
    }

    /// Times every tile and keeps the fastest. The tiles are timed in rounds, so that a slow moment affects all of them.
    fn tune(&mut self, timer: &Timer) -> Result<()> {
        for round in 0..3 {
            for tile in &mut self.tiles {
                let sample = timer.time(|pass| tile.record(pass))?;
                if round == 1 {
                    tile.best_ms = sample.best();
                } else {
                    tile.best_ms = tile.best_ms.min(sample.best());
                }
            }
        }
        let times = self.tiles.iter().map(|tile| tile.best_ms).enumerate();
        self.fastest = times.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index);
        Ok(())
    }

    fn best_ms(&self) -> f64 {
        self.tiles.get(self.fastest).map_or(f64::INFINITY, |tile| tile.best_ms)
    }

    /// Records the fastest product.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(tile) = self.tiles.get(self.fastest) {
            tile.record(pass);
        }
    }

    /// The buffers: the two operands, then the product.
    pub fn buffers(&self) -> [&wgpu::Buffer; 3] {
        self.buffers.each_ref()
    }

    /// Rows, columns and depth.
    pub fn extents(&self) -> [u64; 3] {
        self.extents
    }

    /// Floating-point operations, two for each multiply-add.
    pub fn flops(&self) -> f64 {
        2.0 * self.extents.iter().map(|&extent| extent as f64).product::<f64>()
    }

    /// Bytes of the operands and of the product.
    pub fn bytes(&self) -> u64 {
        let [rows, columns, depth] = self.extents;
        4 * (rows * depth + columns * depth + rows * columns)
    }
}

/// The operands, filled with numbers, and the product.
fn buffers(gpu: &Gpu, [rows, columns, depth]: [u64; 3]) -> Result<[wgpu::Buffer; 3]> {
    let operand = |rows: u64| {
        let buffer = gpu.output_buffer(Dtype::F32, &[rows, depth])?;
        let count = rows * depth;
        let block = Array::float(&[], testing::gaussian(rows, BLOCK.min(count) as usize));
        fill(gpu, &buffer, &block.to_bytes(Dtype::F32), 4 * count);
        Ok(buffer)
    };
    Ok([operand(rows)?, operand(columns)?, gpu.output_buffer(Dtype::F32, &[rows, columns])?])
}

impl Tile {
    fn new(gpu: &Gpu, lanes: u32, sides: [u32; 2]) -> Result<Self> {
        let device = gpu.device();
        let label = Some("surprisal.bench.product");
        guarded(device, "the product kernel", 0, || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label,
                source: wgpu::ShaderSource::Wgsl(wgsl(lanes, sides).into()),
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: None,
                module: &module,
                entry_point: Some("multiply"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
            let (bindings, groups) = (None, [1, 1, 1]);
            Self { lanes, sides, pipeline, bindings, groups, best_ms: f64::INFINITY }
        })
    }

    fn bind(
        &mut self,
        gpu: &Gpu,
        buffers: &[wgpu::Buffer; 3],
        extents: &wgpu::Buffer,
        sides: [u64; 2],
    ) -> Result<()> {
        let [a, b, product] = buffers;
        let entries = [a, b, product, extents].into_iter().zip(0u32..);
        let entries: Vec<wgpu::BindGroupEntry<'_>> = entries
            .map(|(buffer, binding)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bindings = guarded(gpu.device(), "the product's bindings", 0, || {
            gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("surprisal.bench.product"),
                layout: &self.pipeline.get_bind_group_layout(0),
                entries: &entries,
            })
        })?;
        let groups = |axis: usize| sides[axis] / u64::from(self.lanes * self.sides[axis]);
        self.groups = grid(gpu.profile(), groups(0) * groups(1)).unwrap_or([1, 1, 1]);
        self.bindings = Some(bindings);
        Ok(())
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.groups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A complete module. The sums of a tile are variables of their own, so that they stay in registers.
fn wgsl(lanes: u32, [tall, wide]: [u32; 2]) -> String {
    let mut sums = String::new();
    let mut step = String::new();
    let mut stores = String::new();
    for row in 0..tall {
        let _ = writeln!(step, "        let a{row} = a[(row + {row}u) * quads + quad];");
    }
    for column in 0..wide {
        let _ = writeln!(step, "        let b{column} = b[(column + {column}u) * quads + quad];");
        for row in 0..tall {
            let sum = format!("sum_{row}_{column}");
            let _ = writeln!(sums, "    var {sum} = 0.0;");
            let _ = writeln!(step, "        {sum} += dot(a{row}, b{column});");
            let _ = writeln!(
                stores,
                "    product[(row + {row}u) * columns + column + {column}u] = {sum};"
            );
        }
    }
    format!(
        "@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> product: array<f32>;
// Rows, columns, and quads along the depth.
@group(0) @binding(3) var<storage, read> extents: vec4<u32>;

@compute @workgroup_size({lanes}, {lanes})
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) lane: vec3<u32>,
) {{
    let number = group.x + group.y * groups.x;
    let columns = extents.y;
    let quads = extents.z;
    let across = columns / {}u;
    let row = (number / across * {lanes}u + lane.y) * {tall}u;
    let column = (number % across * {lanes}u + lane.x) * {wide}u;
    if (row >= extents.x) {{
        return;
    }}
{sums}    for (var quad = 0u; quad < quads; quad += 1u) {{
{step}    }}
{stores}}}
",
        lanes * wide,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use surprisal::{Profile, Tensor, adapter};

    #[test]
    fn every_tile_makes_the_whole_product() -> Result<()> {
        let gpu = match Gpu::open_blocking(None) {
            Ok(gpu) => gpu,
            Err(error) if std::env::var("SURPRISAL_GPU").as_deref() == Ok("require") => {
                return Err(error);
            }
            Err(error) => {
                eprintln!("skipped: {error}");
                return Ok(());
            }
        };
        eprintln!("on {}", adapter::describe(gpu.info()));
        // A grid with more than one row, the last of them with groups to spare.
        let profile = Profile { workgroups: 40, ..gpu.profile().clone() };
        let gpu = gpu.with_profile(profile);
        let product = ProductKernel::of(&gpu, [256, 256, 8])?;
        let read = |buffer: &wgpu::Buffer| {
            let tensor = Tensor::vector(buffer, Dtype::F32, buffer.size() / 4);
            gpu.read_blocking(&tensor).map(|array| array.to_f64())
        };
        let [a, b] = [read(&product.buffers[0])?, read(&product.buffers[1])?];
        let expected = |row: usize, column: usize| -> f64 {
            (0..8).map(|at| a[8 * row + at] * b[8 * column + at]).sum()
        };
        for (number, tile) in product.tiles.iter().enumerate() {
            gpu.queue().write_buffer(&product.buffers[2], 0, &vec![0; 4 * 256 * 256]);
            Timer::new(&gpu)?.time(|pass| tile.record(pass))?;
            let found = read(&product.buffers[2])?;
            for (at, found) in found.iter().enumerate() {
                let expected = expected(at / 256, at % 256);
                assert!(
                    (found - expected).abs() < 1e-4,
                    "tile {number} at {at}: {found} {expected}"
                );
            }
        }
        Ok(())
    }
}
