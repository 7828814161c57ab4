//! Runs recordings and measures their times.

use std::time::{Duration, Instant};

use surprisal::{
    Cause, Dtype, Error, Gpu, Prepared, Result, Tensor,
    low_level::{Counted, buffer, guarded},
    wgpu,
};

/// How long one recording took.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Sample {
    /// Milliseconds from before the recording until the device has finished it.
    pub wall_ms: f64,
    /// Milliseconds between the timestamps at the start and the end of its compute pass, if the device has timestamps.
    pub gpu_ms: Option<f64>,
}

impl Sample {
    /// The time by timestamps if there are any, otherwise by the wall clock.
    pub fn best(&self) -> f64 {
        self.gpu_ms.unwrap_or(self.wall_ms)
    }
}

/// Runs recordings, one at a time.
#[derive(Debug)]
pub struct Timer {
    gpu: Gpu,
    timestamps: Option<(wgpu::QuerySet, Counted)>,
}

impl Timer {
    /// A timer on this device. It also uses timestamps if the device has the feature `TIMESTAMP_QUERY`.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let device = gpu.device();
        let timestamps = if device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let buffer = buffer(gpu, "timestamps", 16, usage)?;
            let descriptor = wgpu::QuerySetDescriptor {
                label: Some("surprisal.timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            };
            let set = guarded(device, "timestamps", 16, || device.create_query_set(&descriptor))?;
            Some((set, buffer))
        } else {
            None
        };
        Ok(Self { gpu: gpu.clone(), timestamps })
    }

    /// Whether it has timestamps.
    pub fn has_timestamps(&self) -> bool {
        self.timestamps.is_some()
    }

    /// Records commands in a compute pass, submits only them and waits for them.
    ///
    /// The wall clock runs from before the recording to the end of the wait; timestamps are read back afterwards.
    pub fn time(&self, mut commands: impl FnMut(&mut wgpu::ComputePass<'_>)) -> Result<Sample> {
        self.time_parts(1, |_, pass| {
            commands(pass);
            Ok(())
        })
    }

    /// [`Timer::time`] for a prepared call, in several submissions if the device needs short ones.
    pub fn time_call(&self, call: &Prepared) -> Result<Sample> {
        let parts: Vec<_> = call.plan().submissions(self.gpu.profile()).collect();
        self.time_parts(parts.len(), |part, pass| {
            call.encode_part(pass, parts.get(part).cloned().unwrap_or_default())
        })
    }

    /// Records and submits parts, and waits for all of them.
    fn time_parts(
        &self,
        parts: usize,
        mut commands: impl FnMut(usize, &mut wgpu::ComputePass<'_>) -> Result<()>,
    ) -> Result<Sample> {
        let last = parts.max(1) - 1;
        let start = Instant::now();
        for part in 0..=last {
            let mut encoder = self
                .gpu
                .device()
                .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let descriptor = wgpu::ComputePassDescriptor {
                label: Some("surprisal.bench"),
                timestamp_writes: self.stamps(part == 0, part == last),
            };
            commands(part, &mut encoder.begin_compute_pass(&descriptor))?;
            self.gpu.queue().submit([encoder.finish()]);
        }
        wait(&self.gpu)?;
        let wall_ms = start.elapsed().as_secs_f64() * 1e3;
        let gpu_ms = self.between()?;
        Ok(Sample { wall_ms, gpu_ms })
    }

    /// The first pass writes one timestamp, the last pass the other.
    fn stamps(&self, first: bool, last: bool) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let (query_set, _) = self.timestamps.as_ref().filter(|_| first || last)?;
        Some(wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: first.then_some(0),
            end_of_pass_write_index: last.then_some(1),
        })
    }

    /// Milliseconds between the two timestamps.
    fn between(&self) -> Result<Option<f64>> {
        let Some((set, buffer)) = &self.timestamps else { return Ok(None) };
        let (device, queue) = (self.gpu.device(), self.gpu.queue());
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.resolve_query_set(set, 0..2, buffer, 0);
        queue.submit([encoder.finish()]);
        let tensor = Tensor::vector(buffer, Dtype::I64, 2);
        let ticks = self.gpu.read_blocking(&tensor)?.to_i64();
        let [first, last] = ticks[..] else { return Ok(None) };
        let nanoseconds = last.wrapping_sub(first) as f64 * f64::from(queue.get_timestamp_period());
        Ok(Some(nanoseconds / 1e6))
    }
}

/// Waits until the device has finished everything submitted so far.
pub fn wait(gpu: &Gpu) -> Result<()> {
    let waited = gpu.device().poll(wgpu::PollType::wait_indefinitely());
    waited.map(drop).map_err(|error| Error::DeviceLost { source: Cause::new(error) })
}

/// Median and spread of some times.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// One run in ten was faster.
    pub p10: f64,
    /// One run in ten was slower.
    pub p90: f64,
}

impl Spread {
    /// The median and spread of these numbers; NaN if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * values.len().saturating_sub(1) as f64;
            let value = |index: f64| values.get(index as usize).copied().unwrap_or(f64::NAN);
            let (low, high) = (value(place.floor()), value(place.ceil()));
            low + (high - low) * place.fract()
        };
        Self { median: at(0.5), p10: at(0.1), p90: at(0.9) }
    }
}

/// Times several recordings in turn: each round runs every recording once, and the order rotates by one from round to
/// round. It ends after `runs` rounds, or after at least three rounds once `budget` is used up.
pub fn interleave<K: Copy>(
    keys: &[K],
    runs: usize,
    budget: Duration,
    mut time: impl FnMut(K) -> Result<Sample>,
) -> Result<Vec<Vec<Sample>>> {
    let start = Instant::now();
    let mut samples = vec![Vec::new(); keys.len()];
    for round in 0..runs.max(1) {
        if round >= 3 && start.elapsed() > budget {
            break;
        }
        for turn in 0..keys.len() {
            let index = (round + turn) % keys.len();
            samples[index].push(time(keys[index])?);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_lies_between_its_numbers() {
        let spread = Spread::of((0..=10).rev().map(f64::from));
        assert_eq!((spread.p10, spread.median, spread.p90), (1.0, 5.0, 9.0));
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn rounds_interleave_and_end_early_after_three() -> Result<()> {
        let mut order = Vec::new();
        let samples = interleave(&['a', 'b'], 5, Duration::ZERO, |key| {
            order.push(key);
            Ok(Sample { wall_ms: 1.0, gpu_ms: None })
        })?;
        assert_eq!(order.iter().collect::<String>(), "abbaab");
        assert!(samples.iter().all(|samples| samples.len() == 3));
        Ok(())
    }
}
