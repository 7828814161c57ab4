//! What a call costs the host before the GPU begins: `cargo bench --bench host`.
//!
//! Each line gives the allocations and the median time of one action on a call whose kernels are compiled.
//! `SURPRISAL_ADAPTER` chooses the adapter; `cargo bench --bench host -- plan` runs the benchmarks that match.

use std::{
    alloc::{GlobalAlloc, Layout as Block, System},
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

use criterion::Criterion;
use surprisal::{
    Dtype, Gpu, Layout, Operation, Result, adapter,
    loss::Dim,
    operations,
    plan::{Call, Operand},
    wgpu,
};
use surprisal_cli::{
    bench::Workload,
    draft::{Draft, Mode},
};

/// The system's allocator, which counts.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "only an allocator can count allocations")]
// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(block) }
    }

    unsafe fn realloc(&self, at: *mut u8, block: Block, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(at, block, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        unsafe { System.dealloc(at, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The calls: an operation, its extents, and what is measured of it.
const CALLS: &[(&str, &[(Dim, u64)])] = &[
    ("cross_entropy", &[(Dim::Rows, 256), (Dim::Classes, 1000)]),
    ("bce_with_logits", &[(Dim::Rows, 256), (Dim::Classes, 1000)]),
    ("linear_cross_entropy", &[(Dim::Rows, 64), (Dim::Classes, 1000), (Dim::Hidden, 64)]),
    ("linear_cross_entropy", &[(Dim::Rows, 2048), (Dim::Classes, 50_257), (Dim::Hidden, 64)]),
    ("info_nce", &[(Dim::Rows, 256), (Dim::Classes, 256), (Dim::Hidden, 64)]),
];

fn main() -> Result<()> {
    let gpu = Gpu::open_blocking(None)?;
    eprintln!("adapter: {} (SURPRISAL_ADAPTER picks one)", adapter::describe(gpu.info()));
    let mut criterion = Criterion::default().configure_from_args();
    let calls = CALLS.iter().filter_map(|(name, extents)| Some((operations::find(name)?, extents)));
    for (entry, extents) in calls {
        call(&mut criterion, &gpu, &*(entry.default)(), extents)?;
    }
    criterion.final_summary();
    Ok(())
}

fn call(
    criterion: &mut Criterion,
    gpu: &Gpu,
    loss: &dyn Operation,
    extents: &[(Dim, u64)],
) -> Result<()> {
    let draft = Draft::new(extents.iter().copied(), Dtype::F32, Mode::Fused);
    let workload = Workload::new(gpu, loss, &draft)?;
    let call = checked(loss, &workload, gpu.profile().offset_alignment)?;
    let dispatches = workload.prepared().plan().dispatches.len();
    let shape: Vec<String> = extents.iter().map(|(_, extent)| extent.to_string()).collect();
    let name = format!("{}/{}/{dispatches}_dispatches", loss.about().name, shape.join("x"));
    measure(criterion, &format!("{name}/plan"), || {
        black_box(loss.plan(&call, gpu.profile())).map(drop)
    })?;
    measure(criterion, &format!("{name}/prepare"), || black_box(workload.variant(loss)).map(drop))?;
    let mut prepared = workload.variant(loss)?;
    measure(criterion, &format!("{name}/update"), || black_box(prepared.update(loss)))?;
    // A rebinding moves every tensor: each goes to the buffers of the other workload.
    let other = Workload::new(gpu, loss, &draft)?;
    let requests = [other.request(loss), workload.request(loss)];
    let mut requests = requests.iter().cycle();
    measure(criterion, &format!("{name}/rebind"), || match requests.next() {
        Some(request) => black_box(prepared.rebind(request)),
        None => Ok(()),
    })?;
    measure(criterion, &format!("{name}/encode"), || {
        let mut encoder =
            gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        prepared.encode(&mut encoder);
        drop(black_box(encoder));
        Ok(())
    })
}

/// The call of a workload, every tensor in a buffer of its own.
fn checked(loss: &dyn Operation, workload: &Workload, alignment: u64) -> Result<Call> {
    fn operands<'a>(
        layouts: impl Iterator<Item = (&'a str, &'a Layout)>,
        first: usize,
    ) -> BTreeMap<String, Operand> {
        let operand = |(index, (name, layout)): (usize, (&str, &Layout))| {
            let allocation_bytes = (layout.len() * layout.dtype.bytes()).next_multiple_of(16);
            let (name, layout, allocation) = (name.to_owned(), layout.clone(), first + index);
            (name.clone(), Operand { name, layout, allocation, allocation_bytes })
        };
        layouts.enumerate().map(operand).collect()
    }
    let inputs = operands(workload.inputs(), 0);
    let outputs = operands(workload.outputs(), inputs.len());
    Call::new(inputs, outputs).checked(loss, alignment)
}

/// Counts the allocations of an action, then times it.
fn measure(
    criterion: &mut Criterion,
    name: &str,
    mut action: impl FnMut() -> Result<()>,
) -> Result<()> {
    const RUNS: u64 = 100;
    // The first run may fill caches.
    action()?;
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..RUNS {
        action()?;
    }
    let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - before) / RUNS;
    eprintln!("{name}: {allocations} allocations");
    criterion.bench_function(name, |bencher| bencher.iter(&mut action));
    Ok(())
}
