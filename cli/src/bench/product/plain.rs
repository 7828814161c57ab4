//! Products as a module of a few lines makes them, for f32 matrices that lie row by row.

use std::fmt::Write as _;

use super::Matrices;
use surprisal::{
    Dtype, Gpu, Result,
    low_level::{grid, guarded},
    wgpu,
};

/// A product of which each lane makes a tile.
#[derive(Debug)]
pub(super) struct Tile {
    /// Lanes of a workgroup along either axis.
    lanes: u32,
    /// Rows and columns of a lane.
    sides: [u32; 2],
    pipeline: wgpu::ComputePipeline,
    bindings: Option<wgpu::BindGroup>,
    groups: [u32; 3],
}

/// Lanes along either axis, and rows and columns of a lane, that are tried. GPUs want tiles that fit their registers;
/// processors want large ones, because their drivers make loads dear.
const TILES: [(u32, [u32; 2]); 4] = [(8, [4, 4]), (8, [8, 8]), (16, [4, 8]), (4, [16, 16])];
/// What every tile of a workgroup divides: the extents are multiples of it.
pub(super) const STEP: u64 = 128;
/// The tiles that fit a workgroup of this adapter.
pub(super) fn tiles(gpu: &Gpu) -> impl Iterator<Item = Result<Tile>> {
    let fits = |lanes: u32| lanes * lanes <= gpu.profile().workgroup_size;
    let tiles = TILES.into_iter().filter(move |(lanes, _)| fits(*lanes));
    tiles.map(|(lanes, sides)| Tile::new(gpu, lanes, sides))
}

impl Tile {
    pub fn name(&self) -> String {
        let Self { lanes, sides: [tall, wide], .. } = self;
        format!("a plain product ({lanes} × {lanes} lanes, {tall} × {wide} a lane)")
    }

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
            Self { lanes, sides, pipeline, bindings, groups }
        })
    }

    pub fn bind(&mut self, gpu: &Gpu, matrices: &Matrices) -> Result<()> {
        let [rows, columns, depth] = matrices.extents;
        let words = [rows, columns, depth / 4, 0].map(|word| word as u32);
        let extents = gpu.output_buffer(Dtype::U32, &[4])?;
        gpu.queue().write_buffer(&extents, 0, bytemuck::cast_slice(&words));
        let [a, b] = &matrices.plain;
        let entries = [a, b, &matrices.product, &extents].into_iter().zip(0u32..);
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
        let [tall, wide] = self.sides.map(|side| u64::from(self.lanes * side));
        self.groups = grid(gpu.profile(), rows / tall * (columns / wide)).unwrap_or([1, 1, 1]);
        self.bindings = Some(bindings);
        Ok(())
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
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
