//! Plain matrix products, whose rate is the one that products of losses are compared with.

use std::fmt::Write as _;

use super::{
    fill::{BLOCK, fill},
    timer::Timer,
};
use surprisal::{
    Array, Dtype, Gpu, Profile, Result,
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
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    groups: [u32; 3],
    best_ms: f64,
}

/// Lanes along either axis, and rows and columns of a lane, that are tried.
const TILES: [(u32, [u32; 2]); 6] =
    [(4, [4, 8]), (8, [4, 4]), (8, [4, 8]), (8, [8, 8]), (16, [4, 4]), (16, [4, 8])];
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
        let wanted =
            [rows, columns].map(|side| side.clamp(SIDES[0], SIDES[1]).next_multiple_of(STEP));
        let depth = depth.next_multiple_of(4).max(4);
        let mut sides = [SIDES[0]; 2];
        loop {
            let product = Self::of(gpu, timer, [sides[0], sides[1], depth])?;
            if sides == wanted || product.best_ms() >= ENOUGH_MS {
                return Ok(product);
            }
            for (side, wanted) in sides.iter_mut().zip(wanted) {
                *side = (2 * *side).min(wanted);
            }
        }
    }

    fn of(gpu: &Gpu, timer: &Timer, extents: [u64; 3]) -> Result<Self> {
        let [rows, columns, depth] = extents;
        let matrix = |shape: [u64; 2]| {
            let buffer = gpu.output_buffer(Dtype::F32, &shape)?;
            let count = shape[0] * shape[1];
            let block = Array::float(&[], testing::gaussian(1, BLOCK.min(count) as usize));
            fill(gpu, &buffer, &block.to_bytes(Dtype::F32), 4 * count);
            Ok(buffer)
        };
        let product = gpu.output_buffer(Dtype::F32, &[rows, columns])?;
        let buffers = [matrix([rows, depth])?, matrix([columns, depth])?, product];
        let fits = |lanes: u32| lanes * lanes <= gpu.profile().workgroup_size;
        let tiles = TILES.into_iter().filter(|(lanes, _)| fits(*lanes));
        let tiles = tiles.map(|tile| Tile::new(gpu, tile, extents, &buffers));
        let tiles = tiles.collect::<Result<_>>()?;
        let mut product = Self { extents, buffers, tiles, fastest: 0 };
        product.tune(timer)?;
        Ok(product)
    }

    /// Times every tile and keeps the fastest. The tiles are timed in rounds, so that a slow moment affects all of them.
    fn tune(&mut self, timer: &Timer) -> Result<()> {
        for round in 0..3 {
            for tile in &mut self.tiles {
                let sample = timer.time(|pass| tile.record(pass))?;
                if round > 0 {
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

impl Tile {
    fn new(
        gpu: &Gpu,
        (lanes, sides): (u32, [u32; 2]),
        extents: [u64; 3],
        buffers: &[wgpu::Buffer; 3],
    ) -> Result<Self> {
        let device = gpu.device();
        let label = Some("surprisal.bench.product");
        guarded(device, "the product kernel", 0, || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label,
                source: wgpu::ShaderSource::Wgsl(wgsl(lanes, sides, extents).into()),
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: None,
                module: &module,
                entry_point: Some("multiply"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
            let entries = [0, 1, 2].map(|binding| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: buffers[binding].as_entire_binding(),
            });
            let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            let groups = groups(gpu.profile(), lanes, sides, extents);
            Self { pipeline, bindings, groups, best_ms: f64::INFINITY }
        })
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.groups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

fn groups(
    profile: &Profile,
    lanes: u32,
    sides: [u32; 2],
    [rows, columns, _]: [u64; 3],
) -> [u32; 3] {
    let along = |extent: u64, side: u32| extent / u64::from(lanes * side);
    grid(profile, along(rows, sides[0]) * along(columns, sides[1])).unwrap_or([1, 1, 1])
}

/// A complete module. The sums of a tile are variables of their own, so that they stay in registers.
fn wgsl(lanes: u32, [tall, wide]: [u32; 2], [rows, columns, depth]: [u64; 3]) -> String {
    let mut sums = String::new();
    let mut step = String::new();
    let mut stores = String::new();
    for row in 0..tall {
        let _ = writeln!(step, "        let a{row} = a[(row + {row}u) * DEPTH + quad];");
    }
    for column in 0..wide {
        let _ = writeln!(step, "        let b{column} = b[(column + {column}u) * DEPTH + quad];");
        for row in 0..tall {
            let sum = format!("sum_{row}_{column}");
            let _ = writeln!(sums, "    var {sum} = 0.0;");
            let _ = writeln!(step, "        {sum} += dot(a{row}, b{column});");
            let _ = writeln!(
                stores,
                "    product[(row + {row}u) * {columns}u + column + {column}u] = {sum};"
            );
        }
    }
    format!(
        "const DEPTH = {}u;
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> product: array<f32>;

@compute @workgroup_size({lanes}, {lanes})
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) lane: vec3<u32>,
) {{
    let number = group.x + group.y * groups.x;
    let across = {}u;
    let row = (number / across * {lanes}u + lane.y) * {tall}u;
    let column = (number % across * {lanes}u + lane.x) * {wide}u;
    if (row >= {rows}u) {{
        return;
    }}
{sums}    for (var quad = 0u; quad < DEPTH; quad += 1u) {{
{step}    }}
{stores}}}
",
        depth / 4,
        columns / u64::from(lanes * wide),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use surprisal::{Tensor, adapter, tensor_blocking};

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
        let product = ProductKernel::of(&gpu, &Timer::new(&gpu)?, [256, 256, 8])?;
        let read = |buffer: &wgpu::Buffer| {
            let tensor = Tensor::vector(buffer, Dtype::F32, buffer.size() / 4);
            tensor_blocking(&gpu, "product", &tensor).map(|array| array.to_f64())
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
