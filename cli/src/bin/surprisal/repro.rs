//! Self-contained folders: a case's modules, buffers and dispatches, to look at and to replay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use surprisal::{
    Dtype, Error, Gpu, Result,
    cases::{self, Case},
};
use surprisal_cli::{
    conformance::{Evidence, Outcome},
    repro,
};

use crate::{losses, output};

/// Writes the folder of a case below `root`, and returns its path.
pub fn write(
    root: &Path,
    gpu: &Gpu,
    case: &Case,
    dtype: Dtype,
    outcomes: &[Outcome],
    evidence: Option<&Evidence>,
) -> Result<PathBuf> {
    let adapter = plain(&surprisal::adapter::describe(gpu.info()));
    let folder = root.join(adapter).join(format!("{}.{dtype}", plain(&case.id)));
    fs::create_dir_all(&folder).map_err(|error| output::bad_file(&folder, error))?;
    cases::save(&folder.join("case.safetensors"), std::slice::from_ref(case))?;
    let summary = serde_json::json!({
        "case": case.id,
        "loss": case.loss,
        "options": case.options,
        "dtype": dtype,
        "outcomes": outcomes,
    });
    output::json(&summary, Some(&folder.join("outcomes.json")))?;
    if let Some(evidence) = evidence {
        record(&folder, gpu, case, dtype, outcomes, evidence)?;
    }
    Ok(folder)
}

/// The recording and its buffers.
fn record(
    folder: &Path,
    gpu: &Gpu,
    case: &Case,
    dtype: Dtype,
    outcomes: &[Outcome],
    evidence: &Evidence,
) -> Result<()> {
    let loss = (losses::find(&case.loss)?.parse)(&case.options)?;
    let wanted: Vec<&str> = case.expect.keys().map(String::as_str).collect();
    // Run the same call again for its plan; the outputs that are stored are those of the run that was judged.
    let run = gpu.run_arrays(loss.as_ref(), &evidence.inputs, dtype, &wanted)?;
    // The plan holds the host inputs.
    let uploaded = run.inputs().filter_map(|(name, layout)| {
        let bytes = evidence.inputs.get(name)?.to_bytes(layout.dtype);
        Some((name.to_owned(), repro::Uploaded { layout: layout.clone(), bytes }))
    });
    let call = repro::Call {
        title: format!("{} ({}, {dtype})", case.id, case.loss),
        plan: run.prepared().plan(),
        inputs: uploaded.collect(),
        outputs: run.outputs().map(|(name, layout)| (name.to_owned(), layout.clone())).collect(),
        actual: &evidence.actual,
        expected: &evidence.truth,
        tolerances: outcomes.iter().map(|o| (o.tensor.clone(), o.tolerance)).collect(),
    };
    repro::write(folder, gpu, &call)
}

/// A name in the characters that file names may have.
fn plain(name: &str) -> String {
    let keep = |letter: char| {
        if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '_' }
    };
    name.chars().map(keep).collect::<String>().trim_matches(['_', '.']).to_owned()
}

/// The folders of recordings in this folder and below it.
pub fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    if root.join(repro::CALL).is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| output::bad_file(&folder, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| output::bad_file(&folder, error))?;
            // Do not follow links, which could lead in a circle.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if path.join(repro::CALL).is_file() {
                found.push(path);
            } else {
                open.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        let reason = format!("no {} here or below", repro::CALL);
        return Err(Error::file(root, reason));
    }
    Ok(found)
}
