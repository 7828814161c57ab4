//! An adapter in numbers and words: what it has, and what surprisal made of it when it was opened.

use std::{fmt::Write as _, process::Stdio, time::Duration};

use serde_json::{Value, json};
use surprisal::{Cause, Error, Gpu, Result, adapter, wgpu};
use surprisal_cli::survey::{Survey, worker};

use super::{Found, machine::Finding, open_number, this_program};
use crate::output;

/// An adapter in numbers and words. A child process opens the device: a driver that crashes or hangs at that point, or
/// that does not get along with another driver in one process, must not end the listing.
pub fn facts(found: &Found, survey: &Survey, patience: Duration) -> Value {
    let mut facts = json!(found);
    let (opened, problem) = match describe_in_child(found.number, survey, patience) {
        Ok(value) => (value, Value::Null),
        Err(reason) => (Value::Null, Value::from(reason)),
    };
    facts["report"] = opened["report"].clone();
    facts["cooperative_matrices"] = opened["matrices"].clone();
    facts["profile"] = opened["profile"].clone();
    facts["problem"] = problem;
    facts
}

fn describe_in_child(number: usize, survey: &Survey, patience: Duration) -> Result<Value, String> {
    let mut command = this_program();
    command.args(["adapters", "--describe", &number.to_string()]).stderr(Stdio::null());
    survey.without_faults(&mut command);
    let mut text = String::new();
    let end = worker::run(command, patience, |line| text.push_str(line));
    let end = end.map_err(|error| error.chain())?;
    let described: Result<Value, _> = serde_json::from_str(&text);
    match described {
        Ok(value) => match value["problem"].as_str() {
            Some(problem) => Err(problem.to_owned()),
            None => Ok(value),
        },
        Err(_) => Err(end.to_string()),
    }
}

/// In the child: opens an adapter, and describes what surprisal makes of it.
pub fn describe_opened(adapters: &[wgpu::Adapter], number: usize) -> Value {
    match open_number(adapters, number) {
        Ok(gpu) => {
            let found = adapters.get(number).map(|adapter| matrices(adapter, &gpu));
            json!({ "report": gpu.report(), "profile": gpu.profile(), "matrices": found })
        }
        Err(error) => json!({ "problem": format!("could not be opened: {}", error.chain()) }),
    }
}

/// What the probe finds about an adapter's cooperative matrices. If it has any, the probe uses a second device, opened
/// with their features.
fn matrices(adapter: &wgpu::Adapter, plain: &Gpu) -> String {
    let probed = if Gpu::cooperative_features(adapter).is_empty() {
        plain.with_cooperative_matrices(adapter)
    } else {
        pollster::block_on(experimental(adapter))
            .and_then(|gpu| gpu.with_cooperative_matrices(adapter))
    };
    match probed {
        Ok((_, found)) if found.f16 == found.f32 => found.f16.to_string(),
        Ok((_, found)) => format!("f16: {}; f32: {}", found.f16, found.f32),
        Err(error) => format!("no ({})", error.chain()),
    }
}

/// Opens a device with the experimental features that cooperative matrices need.
#[expect(unsafe_code, reason = "wgpu wants its experimental features signed for")]
async fn experimental(adapter: &wgpu::Adapter) -> Result<Gpu> {
    let (features, required_limits) = Gpu::recommended_device(adapter);
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("surprisal"),
        required_features: features | Gpu::cooperative_features(adapter),
        required_limits,
        // SAFETY: this is a child process that describes one adapter and ends; a bug of wgpu in these features damages
        // nothing that matters.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..wgpu::DeviceDescriptor::default()
    };
    let opened = adapter.request_device(&descriptor).await;
    let (device, queue) = opened.map_err(|error| Error::NoDevice {
        adapter: adapter::describe(&adapter.get_info()).into(),
        source: Cause::new(error),
    })?;
    Ok(Gpu::from_wgpu(&device, &queue))
}

pub fn describe(adapters: &[Value], findings: &[Finding]) -> String {
    let mut text = String::new();
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let header = ["", "adapter", "backend", "driver", "kind", "default"];
    let mut table = output::table(&header);
    for adapter in adapters {
        let columns = ["number", "name", "backend", "driver", "kind"];
        let default = if adapter["default"] == true { "*" } else { "" };
        let words = columns.map(|column| word(&adapter[column]));
        table.add_row(words.into_iter().chain([default.to_owned()]));
    }
    if adapters.is_empty() {
        text.push_str("no adapter\n");
    } else {
        let _ = writeln!(text, "{table}");
    }
    for adapter in adapters {
        let _ = writeln!(text, "\n{}: {}", word(&adapter["number"]), word(&adapter["name"]));
        let limits = &adapter["limits"];
        for (name, unit) in [
            ("binding_bytes", "bytes a binding"),
            ("buffer_bytes", "bytes a buffer"),
            ("storage_buffers", "storage buffers a stage"),
            ("workgroup_size", "invocations a workgroup"),
            ("workgroup_bytes", "bytes of workgroup memory"),
            ("offset_alignment", "bytes between binding offsets"),
        ] {
            let _ = writeln!(text, "    {:>12} {unit}", word(&limits[name]));
        }
        let sizes = &limits["subgroup_sizes"];
        let _ =
            writeln!(text, "    {:>12} lanes a subgroup", format!("{}..{}", sizes[0], sizes[1]));
        for feature in adapter["features"].as_array().into_iter().flatten() {
            let has = if feature["has"] == Value::Bool(true) { "yes" } else { "no" };
            let (name, meaning) = (word(&feature["name"]), word(&feature["meaning"]));
            let _ = writeln!(text, "    {name}: {has} ({meaning})");
        }
        for line in adapter["report"].as_array().into_iter().flatten().skip(2) {
            let _ = writeln!(text, "    {}", word(line));
        }
        if let Value::String(found) = &adapter["cooperative_matrices"] {
            let _ = writeln!(text, "    cooperative matrices, if asked for: {found}");
        }
        if let Value::String(problem) = &adapter["problem"] {
            let _ = writeln!(text, "    PROBLEM: {problem}");
        }
    }
    for finding in findings {
        let _ = writeln!(text, "\nMISSING: {}\n    remedy: {}", finding.problem, finding.remedy);
    }
    text
}
