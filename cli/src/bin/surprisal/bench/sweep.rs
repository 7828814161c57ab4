//! `surprisal bench --sweep`: how the time grows with each extent.

use std::{process::ExitCode, time::Duration};

use serde_json::json;
use surprisal::{Error, Gpu, Operation, Result, adapter, loss::Dim};
use surprisal_cli::{
    bench::{Ignored, Spread, Timer, Workload, interleave},
    draft::Draft,
};

use super::Arguments;
use crate::{adapters, output};

/// The divisors of an extent, one after another.
const DIVISORS: [u64; 3] = [4, 2, 1];

/// Times a call with a quarter, a half and the whole of each extent in turn, and prints the power of the extent that
/// the time follows.
pub fn run(arguments: &Arguments, adapter: Option<&str>) -> Result<ExitCode> {
    let (loss, draft) = arguments.drafted.draft("bench")?;
    let ignored = arguments.ignored()?;
    let gpu = adapters::open(adapter)?;
    let timer = Timer::new(&gpu)?;
    let on = adapter::describe(gpu.info());
    let mut swept = Vec::new();
    for (&dim, &extent) in &draft.extents {
        swept.push((
            dim.name(),
            extent,
            times(arguments, (&gpu, &timer), (loss.as_ref(), &draft, ignored), (dim, extent))?,
        ));
    }
    let text = || {
        let mut table =
            output::table(&["extent", "quarter, ms", "half, ms", "whole, ms", "exponent"]);
        for (name, extent, times) in &swept {
            let shown = times.iter().map(|(_, ms)| format!("{ms:.2}"));
            let last = format!("{:.2}", exponent(times));
            table.add_row([format!("{name} ({extent})")].into_iter().chain(shown).chain([last]));
        }
        let (name, mode, dtype) = (&arguments.drafted.chosen.name, draft.mode, draft.dtype);
        format!("{name}: {mode} {dtype} on {on}\n{table}\n")
    };
    let value = || {
        let extent = |(name, extent, times): &(&str, u64, Vec<(u64, f64)>)| json!({ "extent": name, "whole": extent, "ms": times, "exponent": exponent(times) });
        json!({
            "loss": arguments.drafted.chosen.name, "mode": draft.mode, "dtype": draft.dtype, "adapter": on,
            "sweep": swept.iter().map(extent).collect::<Vec<_>>(),
        })
    };
    arguments.report.give(text, value)?;
    Ok(ExitCode::SUCCESS)
}

/// Pairs of the extent and the median of its times.
fn times(
    arguments: &Arguments,
    (gpu, timer): (&Gpu, &Timer),
    (loss, draft, ignored): (&dyn Operation, &Draft, Option<Ignored>),
    (dim, extent): (Dim, u64),
) -> Result<Vec<(u64, f64)>> {
    let workload = |divisor: u64| {
        let part = extent / divisor;
        if part == 0 {
            return Err(Error::Limit {
                what: format!("{} of a sweep", dim.name()).into(),
                found: extent,
                limit: 4,
            });
        }
        let mut draft = draft.clone();
        draft.extents.insert(dim, part);
        Ok((part, Workload::ignoring(gpu, loss, &draft, ignored)?))
    };
    let workloads = DIVISORS.into_iter().map(workload).collect::<Result<Vec<_>>>()?;
    let keys: Vec<usize> = (0..workloads.len()).collect();
    let time = |key: usize| match workloads.get(key) {
        Some((_, workload)) => timer.time_call(workload.prepared()),
        None => {
            Err(Error::Limit { what: "workload of a sweep".into(), found: key as u64, limit: 2 })
        }
    };
    for &key in &keys {
        time(key)?;
    }
    let budget = Duration::try_from_secs_f64(arguments.seconds).unwrap_or(Duration::MAX);
    let samples = interleave(&keys, arguments.runs, budget, time)?;
    let median = |samples: &Vec<_>| {
        Spread::of(samples.iter().map(surprisal_cli::bench::Sample::best)).median
    };
    Ok(workloads.iter().zip(&samples).map(|((part, _), s)| (*part, median(s))).collect())
}

/// The slope of the line fitted through the logarithms.
fn exponent(times: &[(u64, f64)]) -> f64 {
    let points = || times.iter().map(|&(extent, ms)| ((extent as f64).ln(), ms.ln()));
    let count = times.len() as f64;
    let (x, y) = points().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (x, y) = (x / count, y / count);
    let (xy, xx) = points().fold((0.0, 0.0), |sum, point| {
        (sum.0 + (point.0 - x) * (point.1 - y), sum.1 + (point.0 - x).powi(2))
    });
    xy / xx
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_square_has_exponent_two() {
        let exponent = super::exponent(&[(4, 1.0), (8, 4.0), (16, 16.0)]);
        assert!((exponent - 2.0).abs() < 1e-12, "{exponent}");
    }
}
