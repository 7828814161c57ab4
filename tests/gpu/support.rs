//! What the GPU tests share: the device, tensors with guard bands, and the comparison with the reference.

use std::collections::BTreeMap;

use surprisal::{
    Arithmetic, Array, Arrays, Data, Dtype, Gpu, Layout, Named, Operation, Profile, Request,
    Status, Tensor, cpu, operations, testing,
};

pub const INF: f64 = f64::INFINITY;
pub const NO_CLASS: i64 = u32::MAX as i64;
pub const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// The types for a turn: always f32; in one turn of three also f16, in another one also bf16. A type changes only how
/// an element is loaded and stored, so each type must meet each value of an option, but not each pair of values.
pub fn in_turn(turn: usize) -> impl Iterator<Item = Dtype> {
    const TURNS: [&[Dtype]; 3] =
        [&[Dtype::F32, Dtype::F16], &[Dtype::F32, Dtype::Bf16], &[Dtype::F32]];
    TURNS[turn % TURNS.len()].iter().copied()
}

/// Every per-row by-product for index targets.
pub const BY_PRODUCTS: [&str; 7] =
    ["lse", "log_prob", "entropy", "max_prob", "argmax", "rank", "correct"];

/// An adapter, and the device that its tests share.
pub struct Context {
    pub gpu: Gpu,
    pub adapter: wgpu::Adapter,
}

impl Context {
    /// Another device of the same adapter.
    pub fn another(&self) -> Gpu {
        pollster::block_on(Gpu::open_on(&self.adapter)).unwrap()
    }

    /// The device with a profile that differs from its own.
    pub fn with(&self, change: impl FnOnce(&mut Profile)) -> Gpu {
        let mut profile = self.gpu.profile().clone();
        change(&mut profile);
        self.gpu.with_profile(profile)
    }
}

// --- arrays ---

pub fn matrix(rows: usize, columns: usize, values: Vec<f64>) -> Array {
    assert_eq!(values.len(), rows * columns);
    Array::float(&[rows as u64, columns as u64], values)
}

pub fn vector(values: &[f64]) -> Array {
    Array::float(&[values.len() as u64], values.to_vec())
}

pub fn indices(values: &[i64]) -> Array {
    Array::int(&[values.len() as u64], values.to_vec())
}

pub fn named<const N: usize>(arrays: [(&str, Array); N]) -> Arrays {
    arrays.map(|(name, array)| (name.to_owned(), array)).into()
}

pub fn gaussian(seed: u64, rows: usize, columns: usize) -> Array {
    matrix(rows, columns, testing::gaussian(seed, rows * columns))
}

/// Numbers from 0.1 on.
pub fn positive(seed: u64, count: usize) -> Vec<f64> {
    testing::gaussian(seed, count).iter().map(|value| value.abs() + 0.1).collect()
}

/// Logits with outliers, and targets.
pub fn sample(seed: u64, rows: usize, classes: usize) -> Arrays {
    named([
        ("logits", matrix(rows, classes, testing::outliers(seed, rows * classes))),
        ("targets", indices(&testing::targets(seed + 1, rows, classes as u64))),
    ])
}

/// Logits and target distributions.
pub fn sample_probs(seed: u64, rows: usize, classes: usize) -> Arrays {
    let mut probs = positive(seed + 1, rows * classes);
    for row in probs.chunks_mut(classes) {
        let sum: f64 = row.iter().sum();
        for value in row {
            *value /= sum;
        }
    }
    let logits = matrix(rows, classes, testing::outliers(seed, rows * classes));
    named([("logits", logits), ("target_probs", matrix(rows, classes, probs))])
}

pub fn with<const N: usize>(arrays: &Arrays, more: [(&str, Array); N]) -> Arrays {
    let mut arrays = arrays.clone();
    arrays.extend(named(more));
    arrays
}

/// A float array with one element changed.
pub fn set(array: &Array, index: usize, value: f64) -> Array {
    let mut values = array.to_f64();
    values[index] = value;
    Array::float(&array.shape, values)
}

/// The matrix with row `at` set to a value.
pub fn fill(array: &Array, at: usize, value: f64) -> Array {
    let columns = array.shape[1] as usize;
    let mut values = array.to_f64();
    values[at * columns..(at + 1) * columns].fill(value);
    Array::float(&array.shape, values)
}

/// Row `row` of a matrix.
pub fn row(array: &Array, row: usize) -> Vec<f64> {
    let columns = array.shape[1] as usize;
    array.to_f64()[row * columns..(row + 1) * columns].to_vec()
}

/// The bits of the values, so that NaN and signed zeros count.
pub fn bits(array: &Array) -> Vec<u64> {
    match &array.data {
        Data::Float(values) => values.iter().map(|value| value.to_bits()).collect(),
        Data::Int(values) => values.iter().map(|&value| value as u64).collect(),
    }
}

// --- runs ---

/// A loss from its options as JSON.
pub fn parse(loss: &str, options: &serde_json::Value) -> Box<dyn Operation> {
    (operations::find(loss).unwrap().parse)(options).unwrap()
}

/// Runs a call, whatever the status says.
#[track_caller]
pub fn outcome(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &Arrays,
    dtype: Dtype,
    wanted: &[&str],
) -> (Arrays, Status) {
    let run = gpu.run_arrays(loss, inputs, dtype, wanted).unwrap();
    let (outputs, status) = run.outcome_blocking().unwrap();
    assert_eq!(status.completed, 1);
    (outputs, status)
}

/// Runs a call, and asserts that its scores are made in blocks of classes.
#[track_caller]
pub fn in_blocks(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &Arrays,
    dtype: Dtype,
    wanted: &[&str],
) -> Arrays {
    let run = gpu.run_arrays(loss, inputs, dtype, wanted).unwrap();
    let path = run.prepared().plan().path.clone().unwrap();
    assert!(!path.whole_rows, "{path}: {loss:?}");
    let (outputs, status) = run.outcome_blocking().unwrap();
    assert_eq!(status.completed, 1);
    outputs
}

/// Runs a call, and compares every wanted output with the reference.
#[track_caller]
pub fn check(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &Arrays,
    dtype: Dtype,
    wanted: &[&str],
) -> (Arrays, Status) {
    let (outputs, status) = outcome(gpu, loss, inputs, dtype, wanted);
    Reference::new(loss, inputs, dtype, wanted).assert(&outputs);
    (outputs, status)
}

/// Runs a call, and compares the status with that of the reference, word by word.
#[track_caller]
pub fn check_status(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &Arrays,
    dtype: Dtype,
    wanted: &[&str],
) -> Status {
    let (outputs, status) = outcome(gpu, loss, inputs, dtype, wanted);
    let stored = testing::rounded(loss, inputs, dtype);
    let truth = cpu::run(loss, &stored, &["status"]).unwrap();
    assert_eq!(outputs["status"], truth["status"], "{loss:?} {dtype} {wanted:?}");
    status
}

/// The expected results of a call: the f64 reference on the stored inputs, and the f32 computation for the tolerance.
pub struct Reference {
    truth: Arrays,
    naive: Arrays,
    storage: BTreeMap<String, Dtype>,
    classes: u64,
    what: String,
}

impl Reference {
    #[track_caller]
    pub fn new(loss: &dyn Operation, inputs: &Arrays, dtype: Dtype, wanted: &[&str]) -> Self {
        let wanted = &[wanted, &["status"]].concat();
        let rounded = testing::rounded(loss, inputs, dtype);
        let shapes: Vec<_> = inputs.iter().map(|(name, array)| (name, &array.shape)).collect();
        let what = format!("{loss:?} {dtype} {shapes:?}");
        // An output that is like an input has its type.
        let storage = |name: &str| {
            let output = loss.about().output(name);
            if output.is_some_and(|output| output.like().is_some()) { dtype } else { Dtype::F32 }
        };
        Self::of(loss, &rounded, wanted, &storage, what)
    }

    /// The same of inputs as they are stored, and outputs with types of their own.
    #[track_caller]
    pub fn of(
        loss: &dyn Operation,
        stored: &Arrays,
        wanted: &[&str],
        storage: &dyn Fn(&str) -> Dtype,
        what: String,
    ) -> Self {
        let mut plain = stored.clone();
        // A saved lse changes where a gradient comes from, not what it is; beside statistics it is a shard's.
        if plain.remove("lse").is_some() {
            plain.remove("column_lse");
            plain.remove("entropy");
        }
        Self {
            truth: cpu::run(loss, &plain, wanted).unwrap(),
            naive: cpu::compute(loss, &plain, wanted, Arithmetic::F32).unwrap(),
            storage: wanted.iter().map(|&name| (name.to_owned(), storage(name))).collect(),
            classes: testing::classes(loss, stored),
            what,
        }
    }

    /// The results of a call that adds to these outputs.
    pub fn added_to(mut self, begun: &Arrays) -> Self {
        for (name, begun) in begun {
            let add = |to: &mut Array| {
                let sums = to.to_f64().iter().zip(begun.to_f64()).map(|(a, b)| a + b).collect();
                *to = Array::float(&to.shape, sums);
            };
            self.truth.get_mut(name).map(add);
            self.naive.get_mut(name).map(add);
        }
        self
    }

    #[track_caller]
    pub fn assert(&self, outputs: &Arrays) {
        for (name, truth) in &self.truth {
            // The status is compared only if the call asked for it.
            if name == "status" && !outputs.contains_key(name) {
                continue;
            }
            let storage = self.storage[name];
            let actual = &outputs[name];
            let compared =
                testing::compare(name, actual, truth, &self.naive[name], storage, self.classes);
            let worst = compared.worst;
            let at = |array: &Array| array.to_f64().get(worst).copied();
            assert!(
                compared.passed,
                "{name}[{worst}]: {:?}, expected {:?} (f32: {:?}); {compared:?}\n{}",
                at(actual),
                at(truth),
                at(&self.naive[name]),
                self.what
            );
        }
    }
}

#[track_caller]
pub fn assert_same_bits(actual: &Arrays, expected: &Arrays, what: &str) {
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        let (actual, expected) = (bits(&actual[name]), bits(expected));
        let differs = actual.iter().zip(&expected).position(|(a, e)| a != e);
        let values = differs.map(|at| (f64::from_bits(actual[at]), f64::from_bits(expected[at])));
        assert_eq!(differs, None, "{what}: {name} has other bits: {values:?}");
        assert_eq!(actual.len(), expected.len(), "{what}: {name}");
    }
}

// --- tensors in buffers with guard bands ---

/// The elements behind a tensor that nothing may touch.
const GUARD: u64 = 40;

/// A tensor in its own buffer; everything around it is filled with a pattern.
pub struct Placed {
    pub buffer: wgpu::Buffer,
    pub layout: Layout,
    pub before: Vec<u8>,
}

impl Placed {
    /// An input, with NaNs around its elements (every bit is 1).
    pub fn input(gpu: &Gpu, array: &Array, layout: Layout) -> Self {
        assert_eq!(array.shape, layout.shape);
        let mut bytes = vec![0xff; size(&layout)];
        let dense = array.to_bytes(layout.dtype);
        let width = layout.dtype.bytes() as usize;
        for (element, at) in elements(&layout).enumerate() {
            bytes[at..at + width].copy_from_slice(&dense[element * width..(element + 1) * width]);
        }
        Self::filled(gpu, layout, bytes)
    }

    /// An output, filled with a pattern that differs from byte to byte.
    pub fn output(gpu: &Gpu, layout: Layout) -> Self {
        let bytes = (0..size(&layout)).map(|at| (at * 37 + 11) as u8).collect();
        Self::filled(gpu, layout, bytes)
    }

    fn filled(gpu: &Gpu, layout: Layout, before: Vec<u8>) -> Self {
        let buffer = storage(gpu, before.len() as u64);
        gpu.queue().write_buffer(&buffer, 0, &before);
        Self { buffer, layout, before }
    }

    pub fn tensor(&self) -> Tensor<'_> {
        Tensor::new(&self.buffer, self.layout.clone())
    }

    pub fn array(&self, gpu: &Gpu) -> Array {
        gpu.read_blocking(&self.tensor()).unwrap()
    }

    /// Panics if a byte outside the tensor has changed.
    #[track_caller]
    pub fn assert_surroundings(&self, gpu: &Gpu) {
        let mut expected = self.before.clone();
        let after = bytes(gpu, &self.buffer);
        let width = self.layout.dtype.bytes() as usize;
        for at in elements(&self.layout) {
            expected[at..at + width].copy_from_slice(&after[at..at + width]);
        }
        let changed = after.iter().zip(&expected).position(|(a, e)| a != e);
        assert_eq!(changed, None, "a byte outside of {:?} was written", self.layout);
    }

    /// The elements between a row's end and the next row's start, which must all be 0. Those behind the last row are
    /// the tensor's too where the buffer has room for them: they are 0, or as before. Planes have no such columns.
    #[track_caller]
    pub fn assert_zero_padding(&mut self, gpu: &Gpu) {
        let after = bytes(gpu, &self.buffer);
        let Layout { offset, row_stride, .. } = self.layout;
        let rows = if self.layout.has_planes() { 0 } else { self.layout.rows() };
        for row in 0..rows {
            let start = offset + row * row_stride;
            let padding = start + self.layout.columns()..start + row_stride;
            let width = self.layout.dtype.bytes();
            let range = (padding.start * width) as usize..(padding.end * width) as usize;
            let zero = after[range.clone()].iter().all(|&byte| byte == 0);
            assert!(zero || row + 1 == rows, "padding at {row}: {:?}", &after[range]);
            if zero {
                self.before[range].fill(0);
            }
        }
    }
}

fn size(layout: &Layout) -> usize {
    ((layout.end().unwrap() + GUARD) * layout.dtype.bytes()).next_multiple_of(16) as usize
}

/// The first byte of each element.
fn elements(layout: &Layout) -> impl Iterator<Item = usize> {
    let (columns, width) = (layout.columns(), layout.dtype.bytes());
    let rows = if layout.is_empty() { 0 } else { layout.rows() };
    let all = (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)));
    all.map(move |(row, column)| (layout.place(row, column).unwrap() * width) as usize)
}

pub const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

pub fn storage(gpu: &Gpu, size: u64) -> wgpu::Buffer {
    buffer(gpu, size, USAGE)
}

pub fn buffer(gpu: &Gpu, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("test"),
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// A buffer's bytes.
pub fn bytes(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    let words = Tensor::vector(buffer, Dtype::U32, buffer.size() / 4);
    let array = gpu.read_blocking(&words).unwrap();
    array.to_i64().iter().flat_map(|&word| (word as u32).to_le_bytes()).collect()
}

/// The inputs in their own buffers, dense, with the types as which they would be uploaded.
pub fn placed_inputs(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &Arrays,
    dtype: Dtype,
) -> Vec<(String, Placed)> {
    let place = |(name, array): (&String, &Array)| {
        let dtype = surprisal::stored_dtype(loss, name, dtype);
        (name.clone(), Placed::input(gpu, array, Layout::dense(dtype, &array.shape)))
    };
    inputs.iter().map(place).collect()
}

pub fn tensors(placed: &[(String, Placed)]) -> Named<'_> {
    placed.iter().map(|(name, placed)| (name.clone(), placed.tensor())).collect()
}

pub fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
}

/// Prepares, encodes and submits a request.
#[track_caller]
pub fn submit(gpu: &Gpu, request: &Request) {
    let prepared = gpu.prepare(request).unwrap();
    let mut encoder = encoder(gpu);
    prepared.encode(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
}
