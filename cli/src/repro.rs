//! Self-contained recordings: a folder with the WGSL, the buffers and the dispatches of one call, and the code that
//! replays it without knowing any losses.
//!
//! `dispatches.json` is a [`Recording`]; all other files are raw little-endian bytes and text. A driver engineer can
//! replay it with any WebGPU that has the features the modules use (for score tiles of software adapters: subgroups and
//! 64-bit integers): create the buffers, write those that have a file, compile the modules, and run the dispatches in
//! order in one compute pass.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use surprisal::{
    Array, Arrays, Data, Dtype, Error, Gpu, Layout, Plan, Result, Tensor, adapter,
    kernel::{Access, Kernel},
    low_level::{self, Counted, Pipeline, guarded, round},
    plan::{self, Role},
    wgpu,
};

/// The file in a folder that holds its [`Recording`].
pub const RECORDING: &str = "dispatches.json";

/// The format that is written and read.
const FORMAT: u32 = 1;

/// A call as stored in a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// Always 1.
    pub format: u32,
    /// What was computed, for people.
    pub title: String,
    /// The adapter on which it was recorded.
    pub adapter: String,
    /// The adapter's driver.
    pub driver: String,
    /// The buffers. Those without a file start as zeros.
    pub buffers: Vec<Buffer>,
    /// The shader modules.
    pub modules: Vec<Module>,
    /// The dispatches, in order.
    pub dispatches: Vec<Dispatch>,
    /// The outputs to compare afterwards.
    pub outputs: Vec<Output>,
}

/// A buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// What it holds.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its first bytes, if they are not zeros.
    pub file: Option<String>,
}

/// A shader module with its one entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// What it is called.
    pub label: String,
    /// Its WGSL.
    pub wgsl: String,
    /// Its SPIR-V, the overrides resolved, if it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spirv: Option<String>,
    /// The entry point.
    pub entry: String,
    /// The values of the overrides.
    pub constants: BTreeMap<String, f64>,
    /// The access of each storage binding, from binding 1. Binding 0 is the uniform block.
    pub bindings: Vec<Access>,
}

/// A dispatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// Its module.
    pub module: usize,
    /// Binding 0 (uniform), and the storage bindings after it.
    pub bindings: Vec<Bound>,
    /// Workgroups in x, y and z.
    pub workgroups: [u32; 3],
}

/// A range of a buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// The buffer's index.
    pub buffer: usize,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// An output: its place, and its expected elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// The buffer's index.
    pub buffer: usize,
    /// Its place in the buffer.
    pub layout: Layout,
    /// The expected elements, as f64 (floats) or i64 (integers).
    pub expected: String,
    /// The elements that were computed during the recording, in the layout's type.
    pub actual: String,
    /// The largest absolute error that passes.
    pub tolerance: f64,
}

/// What a [`Recording`] is made from.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// What was computed, for people.
    pub title: String,
    /// The plan that was run.
    pub plan: &'a Plan,
    /// The inputs as they were uploaded.
    pub inputs: BTreeMap<String, Vec<u8>>,
    /// The places of the outputs.
    pub outputs: BTreeMap<String, Layout>,
    /// The computed outputs.
    pub actual: &'a Arrays,
    /// The expected outputs.
    pub expected: &'a Arrays,
    /// The largest absolute error of each output that passes.
    pub tolerances: BTreeMap<String, f64>,
}

fn bad_file(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::File { path: path.display().to_string(), reason: reason.to_string() }
}

/// Writes a call into a folder, which is created if it does not exist.
pub fn write(folder: &Path, gpu: &Gpu, call: &Call<'_>) -> Result<Recording> {
    let writer = Writer { folder };
    for sub in ["", "inputs", "expected", "actual"] {
        let path = folder.join(sub);
        fs::create_dir_all(&path).map_err(|error| bad_file(&path, error))?;
    }
    let (buffers, indices) = writer.buffers(call)?;
    let info = gpu.info();
    let recording = Recording {
        format: FORMAT,
        title: call.title.clone(),
        adapter: adapter::describe(info),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        buffers,
        modules: writer.modules(call.plan)?,
        dispatches: dispatches(call.plan, &indices),
        outputs: writer.outputs(call, &indices)?,
    };
    writer.save(&recording)?;
    Ok(recording)
}

/// Writes a recording again, after SPIR-V was added to its modules.
pub fn save(folder: &Path, recording: &Recording) -> Result<()> {
    Writer { folder }.save(recording)
}

/// Indices of a call's buffers.
struct Indices {
    roles: Vec<Role>,
    parameters: usize,
}

impl Indices {
    fn of(&self, role: &Role) -> usize {
        self.roles.iter().position(|known| known == role).unwrap_or(0)
    }
}

struct Writer<'a> {
    folder: &'a Path,
}

impl Writer<'_> {
    fn file(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(|error| bad_file(&path, error))?;
        Ok(name.to_owned())
    }

    fn save(&self, recording: &Recording) -> Result<()> {
        let path = self.folder.join(RECORDING);
        let text = serde_json::to_string_pretty(recording).map_err(|e| bad_file(&path, e))?;
        self.file(RECORDING, text.as_bytes()).map(drop)
    }

    fn buffers(&self, call: &Call<'_>) -> Result<(Vec<Buffer>, Indices)> {
        let mut buffers = Vec::new();
        let mut roles = Vec::new();
        for (name, bytes) in &call.inputs {
            let file = self.file(&format!("inputs/{name}.bin"), bytes)?;
            let size = (bytes.len() as u64).next_multiple_of(4).max(16);
            buffers.push(Buffer { name: name.clone(), bytes: size, file: Some(file) });
            roles.push(Role::Input(name.clone()));
        }
        for (name, layout) in &call.outputs {
            let size = (layout.len() * layout.dtype.bytes()).next_multiple_of(16).max(16);
            buffers.push(Buffer { name: format!("out.{name}"), bytes: size, file: None });
            roles.push(Role::Output(name.clone()));
        }
        for (index, bytes) in call.plan.constants.iter().enumerate() {
            let name = format!("constant.{index}");
            let file = self.file(&format!("inputs/{name}.bin"), bytes)?;
            let bytes = (bytes.len() as u64).next_multiple_of(256).max(256);
            buffers.push(Buffer { name, bytes, file: Some(file) });
            roles.push(Role::Constant(index));
        }
        let bytes = call.plan.scratch_bytes.max(256);
        buffers.push(Buffer { name: "scratch".to_owned(), bytes, file: None });
        roles.push(Role::Scratch);
        let parameters = call.plan.parameter_bytes();
        let file = self.file("parameters.bin", &parameters)?;
        buffers.push(Buffer {
            name: "parameters".to_owned(),
            bytes: parameters.len() as u64,
            file: Some(file),
        });
        let indices = Indices { roles, parameters: buffers.len() - 1 };
        Ok((buffers, indices))
    }

    fn modules(&self, plan: &Plan) -> Result<Vec<Module>> {
        let module = |(index, kernel): (usize, &Kernel)| {
            let name = format!("{index:02}.{}.wgsl", kernel.label);
            Ok(Module {
                label: kernel.label.clone(),
                wgsl: self.file(&name, kernel.wgsl().as_bytes())?,
                spirv: None,
                entry: kernel.entry.to_owned(),
                constants: kernel
                    .overrides
                    .iter()
                    .map(|&(name, value)| (name.to_owned(), f64::from(value)))
                    .collect(),
                bindings: kernel.bound().map(|stream| stream.access).collect(),
            })
        };
        plan.kernels.iter().enumerate().map(module).collect()
    }

    fn outputs(&self, call: &Call<'_>, indices: &Indices) -> Result<Vec<Output>> {
        let mut outputs = Vec::new();
        for (name, layout) in &call.outputs {
            let (Some(expected), Some(actual)) = (call.expected.get(name), call.actual.get(name))
            else {
                continue;
            };
            let wide = match &expected.data {
                Data::Float(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Data::Int(_) => expected.to_bytes(Dtype::I64),
            };
            outputs.push(Output {
                name: name.clone(),
                buffer: indices.of(&Role::Output(name.clone())),
                layout: layout.clone(),
                expected: self.file(&format!("expected/{name}.bin"), &wide)?,
                actual: self.file(&format!("actual/{name}.bin"), &actual.to_bytes(layout.dtype))?,
                // JSON has no infinity.
                tolerance: call.tolerances.get(name).copied().unwrap_or(0.0).min(f64::MAX),
            });
        }
        Ok(outputs)
    }
}

fn dispatches(plan: &Plan, indices: &Indices) -> Vec<Dispatch> {
    let dispatch = |(index, dispatch): (usize, &plan::Dispatch)| {
        let stride = Plan::PARAMS_STRIDE;
        let parameters =
            Bound { buffer: indices.parameters, offset: index as u64 * stride, bytes: stride };
        let storage = dispatch.bindings.iter().map(|binding| Bound {
            buffer: indices.of(&binding.role),
            offset: binding.offset,
            bytes: binding.size,
        });
        Dispatch {
            module: dispatch.kernel,
            bindings: std::iter::once(parameters).chain(storage).collect(),
            workgroups: dispatch.workgroups,
        }
    };
    plan.dispatches.iter().enumerate().map(dispatch).collect()
}

/// The result of one output of a replay.
#[derive(Clone, Debug, PartialEq)]
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

/// Reads a folder's recording.
pub fn load(folder: &Path) -> Result<Recording> {
    let path = folder.join(RECORDING);
    let text = fs::read(&path).map_err(|error| bad_file(&path, error))?;
    let recording: Recording =
        serde_json::from_slice(&text).map_err(|error| bad_file(&path, error))?;
    let bad = |reason: String| Err(bad_file(&path, reason));
    if recording.format != FORMAT {
        return bad(format!("the format is {}, only {FORMAT} is known", recording.format));
    }
    for dispatch in &recording.dispatches {
        let Some(module) = recording.modules.get(dispatch.module) else {
            return bad(format!("there is no module {}", dispatch.module));
        };
        if dispatch.bindings.len() != module.bindings.len() + 1 {
            return bad(format!("a dispatch of {} lacks bindings", module.label));
        }
        if let Some(bound) =
            dispatch.bindings.iter().find(|bound| recording.buffers.len() <= bound.buffer)
        {
            return bad(format!("there is no buffer {}", bound.buffer));
        }
    }
    for output in &recording.outputs {
        let fits = recording.buffers.get(output.buffer).is_some_and(|buffer| {
            output.layout.byte_range().is_some_and(|range| range.end <= buffer.bytes)
        });
        if !fits || output.layout.shape.iter().product::<u64>() > 1 << 40 {
            return bad(format!("output {} is not inside its buffer", output.name));
        }
    }
    Ok(recording)
}

/// Runs a folder's recording and compares the results with the expected ones.
pub fn replay(folder: &Path, gpu: &Gpu) -> Result<Vec<Replayed>> {
    let recording = load(folder)?;
    let buffers = upload(folder, gpu, &recording)?;
    run(folder, gpu, &recording, &buffers)?;
    recording
        .outputs
        .iter()
        .map(|output| {
            let tensor = Tensor::new(&buffers[output.buffer], output.layout.clone());
            let actual = gpu.read_blocking(&tensor)?;
            compare(folder, output, &actual)
        })
        .collect()
}

fn upload(folder: &Path, gpu: &Gpu, recording: &Recording) -> Result<Vec<Counted>> {
    let usage = wgpu::BufferUsages::STORAGE
        | wgpu::BufferUsages::UNIFORM
        | wgpu::BufferUsages::COPY_DST
        | wgpu::BufferUsages::COPY_SRC;
    let make = |buffer: &Buffer| {
        let made =
            low_level::buffer(gpu, &buffer.name, buffer.bytes.next_multiple_of(4).max(4), usage)?;
        if let Some(file) = &buffer.file {
            let path = inside(folder, file)?;
            let mut bytes = fs::read(&path).map_err(|error| bad_file(&path, error))?;
            if bytes.len() as u64 > buffer.bytes {
                return Err(bad_file(&path, format!("longer than {} bytes", buffer.bytes)));
            }
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            guarded(gpu.device(), &buffer.name, buffer.bytes, || {
                gpu.queue().write_buffer(&made, 0, &bytes);
            })?;
        }
        Ok(made)
    };
    recording.buffers.iter().map(make).collect()
}

/// The path of a file in the folder; refuses names outside the folder.
fn inside(folder: &Path, file: &str) -> Result<PathBuf> {
    let plain = Path::new(file)
        .components()
        .all(|component| matches!(component, std::path::Component::Normal(_)));
    if plain {
        Ok(folder.join(file))
    } else {
        Err(bad_file(&folder.join(RECORDING), format!("`{file}` is not inside the folder")))
    }
}

fn run(folder: &Path, gpu: &Gpu, recording: &Recording, buffers: &[Counted]) -> Result<()> {
    let pipelines = recording
        .modules
        .iter()
        .map(|module| compile(folder, gpu, module))
        .collect::<Result<Vec<_>>>()?;
    let bind = |dispatch: &Dispatch| {
        let range = |bound: &Bound| (&*buffers[bound.buffer], bound.offset, bound.bytes);
        let ranges: Vec<_> = dispatch.bindings.iter().map(range).collect();
        pipelines[dispatch.module].bind(gpu.device(), &recording.title, &ranges)
    };
    let groups = recording.dispatches.iter().map(bind).collect::<Result<Vec<_>>>()?;
    guarded(gpu.device(), &recording.title, 0, || {
        let descriptor = wgpu::CommandEncoderDescriptor::default();
        let mut encoder = gpu.device().create_command_encoder(&descriptor);
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (dispatch, group) in recording.dispatches.iter().zip(&groups) {
                pipelines[dispatch.module].dispatch(&mut pass, group, dispatch.workgroups);
            }
        }
        gpu.queue().submit([encoder.finish()]);
    })
}

fn compile(folder: &Path, gpu: &Gpu, module: &Module) -> Result<Pipeline> {
    let path = inside(folder, &module.wgsl)?;
    let wgsl = fs::read_to_string(&path).map_err(|error| bad_file(&path, error))?;
    let constants = module.constants.iter().map(|(name, value)| (name.as_str(), *value));
    let module = low_level::Module {
        label: &module.label,
        wgsl,
        entry: &module.entry,
        constants: constants.collect(),
        bindings: module.bindings.clone(),
    };
    Pipeline::compile(gpu.device(), module)
}

fn compare(folder: &Path, output: &Output, actual: &Array) -> Result<Replayed> {
    let layout = &output.layout;
    let open = |file: &str| {
        let path = inside(folder, file)?;
        fs::read(&path).map_err(|error| bad_file(&path, error))
    };
    let expected = open(&output.expected)?;
    let wide: Vec<f64> = if layout.dtype.is_float() {
        expected.as_chunks().0.iter().copied().map(f64::from_le_bytes).collect()
    } else {
        Array::from_bytes(Dtype::I64, &[expected.len() as u64 / 8], &expected).to_f64()
    };
    let values = actual.to_f64();
    if wide.len() != values.len() {
        let path = folder.join(&output.expected);
        let reason = format!("{} elements, {} came out", wide.len(), values.len());
        return Err(bad_file(&path, reason));
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
        tolerance: output.tolerance,
        passed: max_abs_error <= output.tolerance,
        same_bits: actual.to_bytes(layout.dtype) == open(&output.actual)?,
    })
}
