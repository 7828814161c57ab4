//! Every loss of the registry at a few shapes: `cargo bench`.
//!
//! `SURPRISAL_ADAPTER` chooses the adapter. A benchmark's name contains loss, type, shape and mode, as in
//! `surprisal.cross_entropy.f32/256x32768/fused`; `cargo bench -- cross_entropy.f32` runs the benchmarks that match.
//! The wall clock times each run: recorded, submitted and waited for.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use surprisal::{
    Dtype, Gpu, Result, adapter,
    loss::{About, Dim, REGISTRY},
    operations::Entry,
};
use surprisal_cli::{
    bench::{Timer, Workload, streamed_bytes},
    draft::{Draft, Mode},
};

/// The runs of a loss: a type, its extents and the modes.
struct Shape {
    dtype: Dtype,
    extents: &'static [(Dim, u64)],
    modes: &'static [Mode],
}

/// Short rows that share a workgroup, rows as in a language model, and 16-bit storage.
const ROWS: &[Shape] = &[
    Shape {
        dtype: Dtype::F32,
        extents: &[(Dim::Rows, 65_536), (Dim::Classes, 16)],
        modes: &[Mode::Fused],
    },
    Shape {
        dtype: Dtype::F32,
        extents: &[(Dim::Rows, 256), (Dim::Classes, 32_768)],
        modes: &Mode::ALL,
    },
    Shape {
        dtype: Dtype::F16,
        extents: &[(Dim::Rows, 64), (Dim::Classes, 32_768)],
        modes: &[Mode::Fused],
    },
    Shape {
        dtype: Dtype::Bf16,
        extents: &[(Dim::Rows, 64), (Dim::Classes, 32_768)],
        modes: &[Mode::Fused],
    },
    Shape {
        dtype: Dtype::F32,
        extents: &[(Dim::Rows, 2), (Dim::Classes, 262_144)],
        modes: &[Mode::Fused],
    },
];

/// The same for losses on a linear layer, whose products cost more than their rows: as many rows as classes, as in
/// batches of pairs, and a language model's vocabulary with few rows.
const LINEAR: &[Shape] = &[
    Shape {
        dtype: Dtype::F32,
        extents: &[(Dim::Rows, 1_024), (Dim::Classes, 1_024), (Dim::Hidden, 32)],
        modes: &[Mode::Fused],
    },
    Shape {
        dtype: Dtype::F32,
        extents: &[(Dim::Rows, 32), (Dim::Classes, 50_257), (Dim::Hidden, 64)],
        modes: &[Mode::Fused],
    },
    Shape {
        dtype: Dtype::F32,
        extents: &[(Dim::Rows, 128), (Dim::Classes, 4_096), (Dim::Hidden, 64)],
        modes: &Mode::ALL,
    },
    Shape {
        dtype: Dtype::Bf16,
        extents: &[(Dim::Rows, 128), (Dim::Classes, 4_096), (Dim::Hidden, 64)],
        modes: &[Mode::Fused],
    },
];

fn main() -> Result<()> {
    let gpu = Gpu::open_blocking(None)?;
    eprintln!("adapter: {} (SURPRISAL_ADAPTER picks one)", adapter::describe(gpu.info()));
    let timer = Timer::new(&gpu)?;
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    for entry in REGISTRY {
        for shape in shapes(entry.about) {
            for &mode in shape.modes.iter().filter(|mode| mode.is_of(entry.about)) {
                bench(&mut criterion, &gpu, &timer, entry, shape, mode);
            }
        }
    }
    criterion.final_summary();
    Ok(())
}

/// The shapes for a loss, by the extents that its required inputs have.
fn shapes(about: &About) -> &'static [Shape] {
    let required = about.inputs.iter().filter(|input| input.required);
    let mut dims = required.flat_map(|input| input.shapes.iter().copied().flatten());
    if dims.any(|dim| *dim == Dim::Hidden) { LINEAR } else { ROWS }
}

fn bench(
    criterion: &mut Criterion,
    gpu: &Gpu,
    timer: &Timer,
    entry: &Entry,
    shape: &Shape,
    mode: Mode,
) {
    let extents: Vec<String> = shape.extents.iter().map(|(_, extent)| extent.to_string()).collect();
    let id = BenchmarkId::new(extents.join("x"), mode);
    let group = format!("surprisal.{}.{}", entry.about.name, shape.dtype);
    let loss = (entry.default)();
    let draft = Draft::new(shape.extents.iter().copied(), shape.dtype, mode);
    let plan = match draft.plan(loss.as_ref(), gpu.profile()) {
        Ok((_, plan)) => plan,
        Err(error) => {
            eprintln!("{group}/{} is left out: {error}", extents.join("x"));
            return;
        }
    };
    let mut group = criterion.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(streamed_bytes(&plan)));
    // Created once, and only if the benchmark's name was selected.
    let mut workload = None;
    group.bench_function(id, |bencher| {
        let workload =
            workload.get_or_insert_with(|| or_exit(Workload::new(gpu, loss.as_ref(), &draft)));
        bencher.iter_custom(|runs| {
            let run = |_| or_exit(timer.time_call(workload.prepared())).wall_ms;
            Duration::from_secs_f64((0..runs).map(run).sum::<f64>() / 1e3)
        });
    });
    group.finish();
}

/// Ends the process on an error, because Criterion's closures cannot fail.
fn or_exit<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(1)
    })
}
