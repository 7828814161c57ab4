//! What the examples share: numbers, buffers, a submission, and a comparison.

use std::error::Error;

use surprisal::{Array, Gpu, wgpu};

/// The result of an example.
pub type Outcome = Result<(), Box<dyn Error>>;

/// Numbers between −1 and 1, the same every time for a seed.
pub fn numbers(seed: u32, count: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Class indices below `classes`, the same every time for a seed.
pub fn classes(seed: u32, count: u64, classes: u64) -> Vec<i32> {
    let place = |number: f32| ((number + 1.0) * classes as f32 / 2.0) as i32;
    numbers(seed, count).into_iter().map(place).collect()
}

/// The same numbers as a host array.
pub fn array(shape: &[u64], values: &[f32]) -> Array {
    Array::float(shape, values.iter().map(|&value| value.into()).collect())
}

/// The same class indices as a host array.
pub fn indices(values: &[i32]) -> Array {
    Array::int(&[values.len() as u64], values.iter().map(|&value| value.into()).collect())
}

/// A buffer of zeros for tensors that are computed with, written by the host, and read back.
pub fn buffer(gpu: &Gpu, bytes: u64) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes.next_multiple_of(4),
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// A buffer with these values.
pub fn upload<T: bytemuck::Pod>(gpu: &Gpu, values: &[T]) -> wgpu::Buffer {
    let bytes = bytemuck::cast_slice(values);
    let buffer = buffer(gpu, bytes.len() as u64);
    gpu.queue().write_buffer(&buffer, 0, bytes);
    buffer
}

/// Records commands and submits them.
pub fn submit(
    gpu: &Gpu,
    record: impl FnOnce(&mut wgpu::CommandEncoder) -> surprisal::Result<()>,
) -> surprisal::Result<()> {
    let descriptor = wgpu::CommandEncoderDescriptor::default();
    let mut encoder = gpu.device().create_command_encoder(&descriptor);
    record(&mut encoder)?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

/// The largest difference between numbers and what they should be, relative to the largest of the latter.
pub fn error(found: &Array, expected: &Array) -> f64 {
    let expected = expected.to_f64();
    let largest = expected.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let differences = found.to_f64().into_iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max) / largest
}

/// Prints how far numbers are from what they should be; fails if that is too far.
pub fn check(what: &str, found: &Array, expected: &Array, most: f64) -> Outcome {
    let error = error(found, expected);
    println!("{what}: off by {error:.1e} of the largest number");
    // NaN is too far as well.
    if error <= most { Ok(()) } else { Err(format!("{what}: off by {error:.1e}").into()) }
}
