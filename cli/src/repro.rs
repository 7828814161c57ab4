//! Folders that hold one call whole: the plan, its kernels as WGSL and SPIR-V, and what its buffers hold.
//!
//! `plan.json` is a [`Plan`], `call.json` a [`Description`]; all other files are raw little-endian bytes and text. Such
//! a folder runs without surprisal, on any engine that takes WGSL or SPIR-V: the `README.md` in the folder says how.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use naga::valid::Capabilities;
use serde::{Deserialize, Serialize};

use surprisal::{
    Array, Arrays, Data, Dtype, Error, Gpu, Layout, Plan, PlanBuffers, Result, Tensor, adapter,
    low_level::{self, Counted, guarded, round},
    plan::{Role, kernel::Kernel},
    wgpu,
};

use crate::module;

/// The file in a folder that holds its [`Plan`].
pub const PLAN: &str = "plan.json";
/// The file in a folder that holds its [`Description`].
pub const CALL: &str = "call.json";
/// The file in a folder that says what is in it.
const README: &str = include_str!("repro/README.md");

/// The format that is written and read.
const FORMAT: u32 = 2;

/// What a folder holds beside the plan: the tensors of the call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Always 2.
    pub format: u32,
    /// What is computed, for people.
    pub title: String,
    /// The adapter on which the call ran and its driver, if it ran.
    pub adapter: Option<String>,
    /// The inputs, each in a buffer of its own.
    pub inputs: Vec<Input>,
    /// The outputs, each in a buffer of its own unless it is written over an input.
    pub outputs: Vec<Output>,
}

/// An input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// The bytes of its buffer.
    pub bytes: u64,
    /// Its type and shape, and where its elements lie in the buffer.
    pub layout: Layout,
    /// The file with the first bytes of the buffer up to the last element at least, if the call ran.
    pub file: Option<String>,
}

/// An output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// The bytes of its buffer.
    pub bytes: u64,
    /// Its place in the buffer.
    pub layout: Layout,
    /// The input in whose buffer it lies, if it has none of its own.
    pub over: Option<String>,
    /// What it should be, if that is known.
    pub expected: Option<Expected>,
}

/// What an output should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The file with the expected elements, as f64 (floats) or i64 (integers).
    pub expected: String,
    /// The file with the elements that were computed when the folder was written, in the layout's type.
    pub actual: String,
    /// The largest absolute error that passes.
    pub tolerance: f64,
}

/// A call that ran, to be written into a folder.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// What was computed, for people.
    pub title: String,
    /// The plan that was run.
    pub plan: &'a Plan,
    /// The inputs as they were uploaded.
    pub inputs: BTreeMap<String, Uploaded>,
    /// The places of the outputs.
    pub outputs: BTreeMap<String, Layout>,
    /// The computed outputs.
    pub actual: &'a Arrays,
    /// The expected outputs.
    pub expected: &'a Arrays,
    /// The largest absolute error of each output that passes.
    pub tolerances: BTreeMap<String, f64>,
}

/// An input as it was uploaded.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// Its type and shape, and where its elements lie in the buffer.
    pub layout: Layout,
    /// The first bytes of the buffer.
    pub bytes: Vec<u8>,
}

const UNREADABLE: &str = "it cannot be read";
const UNWRITABLE: &str = "it cannot be written";

/// The bytes that a tensor's buffer needs: those of the tensor, and those that the plan binds.
fn buffer_bytes(plan: &Plan, role: &Role, tensor: u64) -> u64 {
    plan.bytes_of(role).max(tensor).next_multiple_of(16).max(16)
}

/// Writes a plan and the description of its tensors into a folder, which is created if it does not exist.
pub fn export(folder: &Path, plan: &Plan, description: &Description) -> Result<()> {
    let writer = Writer { folder };
    writer.folders(&["", "kernels", "constants"])?;
    writer.json(PLAN, plan)?;
    writer.json(CALL, description)?;
    writer.file("README.md", README.as_bytes())?;
    writer.file("parameters.bin", &plan.parameter_bytes())?;
    for (index, bytes) in plan.constants.iter().enumerate() {
        writer.file(&format!("constants/{index}.bin"), bytes)?;
    }
    for (index, kernel) in plan.kernels.iter().enumerate() {
        let name = format!("kernels/{index:02}.{}", kernel.label);
        writer.file(&format!("{name}.wgsl"), kernel.wgsl.as_bytes())?;
        let path = folder.join(format!("{name}.spv"));
        let words = spirv(kernel).map_err(|reason| Error::file(&path, reason))?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        writer.file(&format!("{name}.spv"), &bytes)?;
    }
    Ok(())
}

/// The description of a call that did not run yet.
pub fn describe(plan: &Plan, call: &surprisal::plan::Call) -> Description {
    let over = |output: &surprisal::plan::Operand| {
        let input = call.inputs.values().find(|input| input.allocation == output.allocation)?;
        call.is_in_place(&output.name).then(|| input.name.clone())
    };
    let bytes = |role: Role, layout: &Layout| {
        buffer_bytes(plan, &role, layout.byte_range().map_or(0, |range| range.end))
    };
    let tensors = call.inputs.values().filter(|input| !call.host.contains_key(&input.name));
    Description {
        format: FORMAT,
        title: plan.loss.clone(),
        adapter: None,
        inputs: tensors
            .map(|input| Input {
                name: input.name.clone(),
                bytes: bytes(Role::Input(input.name.as_str().into()), &input.layout),
                layout: input.layout.clone(),
                file: None,
            })
            .collect(),
        outputs: call
            .outputs
            .values()
            .map(|output| Output {
                name: output.name.clone(),
                bytes: bytes(Role::Output(output.name.as_str().into()), &output.layout),
                layout: output.layout.clone(),
                over: over(output),
                expected: None,
            })
            .collect(),
    }
}

/// Writes a call that ran into a folder, with its inputs and its expected outputs.
pub fn write(folder: &Path, gpu: &Gpu, call: &Call<'_>) -> Result<()> {
    let writer = Writer { folder };
    writer.folders(&["", "inputs", "expected", "actual"])?;
    let info = gpu.info();
    let driver = format!("{} {}", info.driver, info.driver_info);
    let description = Description {
        format: FORMAT,
        title: call.title.clone(),
        adapter: Some(format!("{} ({})", adapter::describe(info), driver.trim())),
        inputs: writer.inputs(call)?,
        outputs: writer.outputs(call)?,
    };
    export(folder, call.plan, &description)
}

struct Writer<'a> {
    folder: &'a Path,
}

impl Writer<'_> {
    fn folders(&self, below: &[&str]) -> Result<()> {
        let make = |below: &&str| {
            let path = self.folder.join(below);
            fs::create_dir_all(&path).map_err(|error| Error::file_from(&path, UNWRITABLE, error))
        };
        below.iter().try_for_each(make)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(|error| Error::file_from(&path, UNWRITABLE, error))?;
        Ok(name.to_owned())
    }

    fn json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value);
        let text =
            text.map_err(|error| Error::file_from(&self.folder.join(name), UNWRITABLE, error))?;
        self.file(name, text.as_bytes()).map(drop)
    }

    fn inputs(&self, call: &Call<'_>) -> Result<Vec<Input>> {
        let input = |(name, Uploaded { layout, bytes }): (&String, &Uploaded)| {
            let file = self.file(&format!("inputs/{name}.bin"), bytes)?;
            let role = Role::Input(name.as_str().into());
            let bytes = buffer_bytes(call.plan, &role, bytes.len() as u64);
            Ok(Input { name: name.clone(), bytes, layout: layout.clone(), file: Some(file) })
        };
        call.inputs.iter().map(input).collect()
    }

    fn outputs(&self, call: &Call<'_>) -> Result<Vec<Output>> {
        let mut outputs = Vec::new();
        for (name, layout) in &call.outputs {
            let role = Role::Output(name.as_str().into());
            outputs.push(Output {
                name: name.clone(),
                bytes: buffer_bytes(call.plan, &role, layout.len() * layout.dtype.bytes()),
                layout: layout.clone(),
                over: None,
                expected: self.expected(call, name, layout)?,
            });
        }
        Ok(outputs)
    }

    fn expected(&self, call: &Call<'_>, name: &str, layout: &Layout) -> Result<Option<Expected>> {
        let (Some(expected), Some(actual)) = (call.expected.get(name), call.actual.get(name))
        else {
            return Ok(None);
        };
        let wide = match &expected.data {
            Data::Float(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Data::Int(_) => expected.to_bytes(Dtype::I64),
        };
        Ok(Some(Expected {
            expected: self.file(&format!("expected/{name}.bin"), &wide)?,
            actual: self.file(&format!("actual/{name}.bin"), &actual.to_bytes(layout.dtype))?,
            // JSON has no infinity.
            tolerance: call.tolerances.get(name).copied().unwrap_or(0.0).min(f64::MAX),
        }))
    }
}

/// The SPIR-V of a kernel, its overrides resolved.
fn spirv(kernel: &Kernel) -> std::result::Result<Vec<u32>, String> {
    let (module, info) = module::parsed(&kernel.wgsl, Capabilities::all())?;
    let (module, info) = module::specialised(kernel, (&module, &info))?;
    module::spirv((&module, &info))
}

/// The result of one output of a replay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replayed {
    /// Its name.
    pub name: String,
    /// Largest absolute error; infinite if a NaN or an infinity is not where it is expected.
    pub max_abs_error: f64,
    /// The element with the largest error.
    pub worst: usize,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Whether it passes.
    pub passed: bool,
    /// Whether the bits equal those computed during the recording.
    pub same_bits: bool,
}

/// Reads a folder's plan and the description of its tensors.
pub fn load(folder: &Path) -> Result<(Plan, Description)> {
    fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
        let text = fs::read(path).map_err(|error| Error::file_from(path, UNREADABLE, error))?;
        serde_json::from_slice(&text).map_err(|error| Error::file_from(path, UNREADABLE, error))
    }
    let path = folder.join(CALL);
    let description: Description = read(&path)?;
    let bad = |reason: String| Err(Error::file(&path, reason));
    if description.format != FORMAT {
        return bad(format!("the format is {}, only {FORMAT} is known", description.format));
    }
    let inputs = description.inputs.iter().map(|input| (&input.name, &input.layout, input.bytes));
    let outputs =
        description.outputs.iter().map(|output| (&output.name, &output.layout, output.bytes));
    for (name, layout, bytes) in inputs.chain(outputs) {
        let fits = layout.byte_range().is_some_and(|range| range.end <= bytes);
        if !fits || layout.shape.iter().product::<u64>() > 1 << 40 {
            return bad(format!("`{name}` is not inside its buffer"));
        }
    }
    Ok((read(&folder.join(PLAN))?, description))
}

/// Runs a folder's plan and compares the results with the expected ones. Inputs without a file are zeros.
pub fn replay(folder: &Path, gpu: &Gpu) -> Result<Vec<Replayed>> {
    let (plan, description) = load(folder)?;
    let mut buffers = BTreeMap::new();
    for input in &description.inputs {
        let buffer = empty(gpu, &input.name, input.bytes)?;
        if let Some(file) = &input.file {
            let bytes = contents(folder, input, file)?;
            let write = || gpu.queue().write_buffer(&buffer, 0, &bytes);
            guarded(gpu.device(), &input.name, input.bytes, write)?;
        }
        buffers.insert(input.name.clone(), buffer);
    }
    let mut results = BTreeMap::new();
    for Output { name, bytes, .. } in description.outputs.iter().filter(|o| o.over.is_none()) {
        results.insert(name.clone(), empty(gpu, name, *bytes)?);
    }
    let given = buffers
        .iter()
        .fold(PlanBuffers::default(), |given, (name, buffer)| given.input(name, buffer));
    let given = results.iter().fold(given, |given, (name, buffer)| given.output(name, buffer));
    gpu.submit(&gpu.replay(&plan, &given)?)?;
    let mut replayed = Vec::new();
    for output in &description.outputs {
        let buffer = match &output.over {
            Some(input) => buffers.get(input),
            None => results.get(&output.name),
        };
        if let (Some(buffer), Some(expected)) = (buffer, &output.expected) {
            let tensor = Tensor::new(buffer, output.layout.clone());
            let actual = gpu.read_blocking(&tensor)?;
            replayed.push(compare(folder, output, expected, &actual)?);
        }
    }
    Ok(replayed)
}

/// A buffer of zeros.
fn empty(gpu: &Gpu, name: &str, size: u64) -> Result<Counted> {
    let usage =
        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    low_level::buffer(gpu, name, size.next_multiple_of(4).max(4), usage)
}

/// The first bytes of an input's buffer: all of its elements, and no more than the buffer holds. They are padded to whole
/// words.
fn contents(folder: &Path, input: &Input, file: &str) -> Result<Vec<u8>> {
    let path = inside(folder, file)?;
    let mut bytes = fs::read(&path).map_err(|error| Error::file_from(&path, UNREADABLE, error))?;
    let (found, most) = (bytes.len() as u64, input.bytes);
    let least = input.layout.byte_range().map_or(u64::MAX, |range| range.end);
    if !(least..=most).contains(&found) {
        let reason = format!(
            "it has {found} bytes; the elements of `{}` end at byte {least}, its buffer at byte {most}",
            input.name
        );
        return Err(Error::file(&path, reason));
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

/// The path of a file in the folder; refuses names outside the folder.
fn inside(folder: &Path, file: &str) -> Result<PathBuf> {
    let plain = Path::new(file)
        .components()
        .all(|component| matches!(component, std::path::Component::Normal(_)));
    if plain {
        Ok(folder.join(file))
    } else {
        Err(Error::file(&folder.join(CALL), format!("`{file}` is not inside the folder")))
    }
}

fn compare(folder: &Path, output: &Output, files: &Expected, actual: &Array) -> Result<Replayed> {
    let layout = &output.layout;
    let open = |file: &str| {
        let path = inside(folder, file)?;
        fs::read(&path).map_err(|error| Error::file_from(&path, UNREADABLE, error))
    };
    let expected = open(&files.expected)?;
    let wide: Vec<f64> = if layout.dtype.is_float() {
        expected.as_chunks().0.iter().copied().map(f64::from_le_bytes).collect()
    } else {
        Array::from_bytes(Dtype::I64, &[expected.len() as u64 / 8], &expected).to_f64()
    };
    let values = actual.to_f64();
    if wide.len() != values.len() {
        let path = folder.join(&files.expected);
        let reason = format!("{} elements, {} came out", wide.len(), values.len());
        return Err(Error::file(&path, reason));
    }
    let error = |(&actual, &expected): (&f64, &f64)| {
        let stored = round(expected, layout.dtype);
        let same = actual == stored || (actual.is_nan() && stored.is_nan());
        let distance = (actual - expected).abs();
        match distance {
            _ if same && !distance.is_finite() => 0.0,
            _ if distance.is_finite() => distance,
            _ => f64::INFINITY,
        }
    };
    let (worst, max_abs_error) = values
        .iter()
        .zip(&wide)
        .map(error)
        .enumerate()
        .fold((0, 0.0), |worst, error| if error.1 > worst.1 { error } else { worst });
    Ok(Replayed {
        name: output.name.clone(),
        max_abs_error,
        worst,
        tolerance: files.tolerance,
        passed: max_abs_error <= files.tolerance,
        same_bits: actual.to_bytes(layout.dtype) == open(&files.actual)?,
    })
}
