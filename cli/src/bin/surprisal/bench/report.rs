//! What a benchmark found, as text and as JSON.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use surprisal::adapter;
use surprisal_cli::{
    bench::{Sample, Spread},
    draft::Mode,
};

use super::{Bench, What, baseline::Measurement, yardstick::Multiple};
use crate::output;

/// The median time of something that was timed.
fn median(results: &[Measured], what: What) -> Option<f64> {
    Some(results.iter().find(|measured| measured.what == what)?.best().median)
}

/// One row of the table.
pub struct Measured {
    what: What,
    bytes: u64,
    runs: usize,
    wall_ms: Spread,
    gpu_ms: Option<Spread>,
}

impl Measured {
    pub fn new(what: What, bytes: u64, samples: &[Sample]) -> Self {
        let gpu: Option<Vec<f64>> = samples.iter().map(|sample| sample.gpu_ms).collect();
        Self {
            what,
            bytes,
            runs: samples.len(),
            wall_ms: Spread::of(samples.iter().map(|sample| sample.wall_ms)),
            gpu_ms: gpu.map(Spread::of),
        }
    }

    /// The times by timestamps, if there are any.
    fn best(&self) -> Spread {
        self.gpu_ms.unwrap_or(self.wall_ms)
    }

    fn gigabytes_a_second(&self) -> f64 {
        self.bytes as f64 / self.best().median / 1e6
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what.name(),
            "runs": self.runs,
            "wall_ms": self.wall_ms,
            "gpu_ms": self.gpu_ms,
            "bytes_moved": self.bytes,
            "gb_per_s": self.gigabytes_a_second(),
        })
    }
}

impl Bench {
    /// Everything measured.
    pub fn json(&self, results: &[Measured], kernels: &[(String, usize, Spread)]) -> Value {
        let mut report = self.about();
        report["results"] = results.iter().map(Measured::json).collect();
        let kernel = |(label, dispatches, ms): &(String, usize, Spread)| json!({"label": label, "dispatches": dispatches, "ms": ms});
        report["kernels"] = kernels.iter().map(kernel).collect();
        let multiple = self.multiple(results).map(|multiple| multiple.json());
        if let (Some(report), Some(Value::Object(multiple))) = (report.as_object_mut(), multiple) {
            report.extend(multiple);
        }
        report
    }

    /// The loss beside its yardstick.
    fn multiple(&self, results: &[Measured]) -> Option<Multiple> {
        let loss = median(results, What::Loss)?;
        let own = median(results, self.yardstick.what())?;
        Some(self.yardstick.compare([loss, own], self.workload.flops()))
    }

    /// What is kept of a measurement.
    pub fn measurement(&self, results: &[Measured]) -> Measurement {
        let about = self.about();
        let of_call = [
            "loss", "options", "mode", "dtype", "extents", "ignored", "inputs", "outputs",
            "adapter", "driver", "clock",
        ];
        let call = of_call.iter().map(|&key| (key.to_owned(), about[key].clone()));
        let loss = results.iter().find(|measured| measured.what == What::Loss);
        Measurement {
            call: call.collect::<serde_json::Map<_, _>>().into(),
            runs: loss.map_or(0, |loss| loss.runs),
            ms: loss.map(Measured::best).unwrap_or_default(),
        }
    }

    /// A description of what is timed, and on which adapter: everything that needs no clock.
    pub fn about(&self) -> Value {
        let info = self.gpu.info();
        let plan = self.workload.prepared().plan();
        let extents: serde_json::Map<String, Value> = self
            .draft
            .extents
            .iter()
            .map(|(dim, extent)| (dim.name().to_owned(), (*extent).into()))
            .collect();
        let outputs: Vec<&str> = self.workload.outputs().map(|(name, _)| name).collect();
        let inputs: Vec<&str> = self.workload.inputs().map(|(name, _)| name).collect();
        json!({
            "surprisal": env!("CARGO_PKG_VERSION"),
            "loss": plan.loss,
            "options": self.options,
            "mode": self.draft.mode,
            "dtype": self.draft.dtype,
            "extents": extents,
            "ignored": self.ignored.map_or(0.0, |ignored| ignored.share),
            "inputs": inputs,
            "outputs": outputs,
            "adapter": adapter::describe(info),
            "driver": format!("{} {}", info.driver, info.driver_info),
            "timestamps": self.timer.has_timestamps(),
            "clock": if self.timer.has_timestamps() { "timestamps" } else { "wall" },
            "dispatches": plan.dispatches.len(),
            "windows": plan.windows,
            "path": plan.path,
            "distinct_bytes": self.workload.distinct_bytes(),
            "bytes_moved": self.bytes(What::Loss),
            "scratch_bytes": plan.scratch_bytes,
            "parameter_bytes": plan.params_bytes(),
            "allocated_bytes": self.allocated,
            "peak_bytes": self.workload.peak_bytes(),
            "unstored_bytes": plan.unstored_bytes,
            "stored_scratch_bytes": self.stored.as_ref().map(|stored| stored.plan().scratch_bytes),
            "flops": self.workload.flops(),
            self.yardstick.what().name(): self.yardstick.json(),
        })
    }

    /// The report for people.
    pub fn describe(&self, results: &[Measured], kernels: &[(String, usize, Spread)]) -> String {
        let mut text = String::new();
        let info = self.gpu.info();
        let plan = self.workload.prepared().plan();
        let extents: Vec<String> = self
            .draft
            .extents
            .iter()
            .map(|(dim, extent)| format!("{extent} {}", dim.name()))
            .collect();
        let _ = writeln!(
            text,
            "{}: {} {}, {}",
            plan.loss,
            self.draft.mode,
            self.draft.dtype,
            extents.join(" × ")
        );
        let _ = writeln!(text, "on {} {}", adapter::describe(info), info.driver_info);
        let stamped = self.timer.has_timestamps();
        let _ = writeln!(text, "{}", table(results, stamped));
        let clock = if stamped { "timestamps" } else { "the wall clock (no timestamps here)" };
        let _ = writeln!(
            text,
            "Times are medians with 10th to 90th percentile; rates and ratios are by {clock}."
        );
        text += &self.ratios(results);
        text += &self.memory();
        let _ =
            writeln!(text, "dispatches: {} in {} window(s)", plan.dispatches.len(), plan.windows);
        if let Some(path) = &plan.path {
            let _ = writeln!(text, "{path}");
        }
        for (label, dispatches, ms) in kernels {
            let _ = writeln!(text, "  {:>10.3} ms  {label} × {dispatches}", ms.median);
        }
        text
    }

    /// The bytes that the call holds.
    fn memory(&self) -> String {
        let mut text = String::new();
        let plan = self.workload.prepared().plan();
        let scratch = plan.scratch_bytes;
        let peak = self.workload.peak_bytes();
        let _ = writeln!(
            text,
            "scratch: {}; peak on the GPU, inputs and outputs included: {}",
            output::bytes(scratch),
            output::bytes(peak)
        );
        if let Some(allocated) = self.allocated {
            let planned = scratch + plan.params_bytes();
            let _ = writeln!(
                text,
                "beside inputs and outputs: {planned} bytes planned (scratch and parameters), \
                 {allocated} allocated"
            );
        }
        if plan.unstored_bytes > 0 {
            let share = 100.0 * scratch as f64 / plan.unstored_bytes as f64;
            let _ = writeln!(
                text,
                "logits, never stored: {}; the scratch is {share:.1} % of that",
                output::bytes(plan.unstored_bytes)
            );
        }
        text
    }

    /// How the loss compares with its yardstick, and with its variant that stores the logits.
    fn ratios(&self, results: &[Measured]) -> String {
        let mut text = String::new();
        let median = |what| median(results, what);
        let Some(loss) = median(What::Loss) else { return text };
        if let Some(multiple) = self.multiple(results) {
            text += &self.yardstick.describe(&multiple, self.workload.flops());
        }
        let _ = writeln!(
            text,
            "bytes moved: what the dispatches bind, once a dispatch, the logits a second time in the \
             fused row kernel"
        );
        if let (Some(stored), Some(call)) = (median(What::Stored), &self.stored) {
            let _ = writeln!(
                text,
                "storing the logits: {:.3}× its time; it holds {} of scratch (one binding's worth at \
                 most, then the next rows){}",
                loss / stored,
                output::bytes(call.plan().scratch_bytes),
                if self.draft.mode == Mode::Backward {
                    ", the scores kept from forward"
                } else {
                    ""
                },
            );
        }
        text
    }
}

fn table(results: &[Measured], stamped: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec!["", "runs"];
    if stamped {
        header.push("timestamps, ms");
    }
    header.extend(["wall clock, ms", "bytes moved", "GB/s"]);
    let columns = header.len();
    table.set_header(header);
    for measured in results {
        let mut row = vec![measured.what.name().to_owned(), measured.runs.to_string()];
        if let Some(times) = measured.gpu_ms {
            row.push(spread(times));
        }
        let rate = format!("{:.2}", measured.gigabytes_a_second());
        row.extend([spread(measured.wall_ms), output::bytes(measured.bytes), rate]);
        table.add_row(row);
    }
    for index in 1..columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn spread(times: Spread) -> String {
    format!("{:.3} ({:.3} to {:.3})", times.median, times.p10, times.p90)
}
