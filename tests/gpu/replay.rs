//! Plans that were read back from JSON run like those that were just made. No kernel here is new, except for those that
//! the device refuses.

use std::{collections::BTreeMap, error::Error as _, sync::Arc};

use surprisal::{
    CrossEntropy, CrossEntropyOutputs, Dtype, Error, Gpu, Layout, Plan, PlanBuffers, Prepared,
    Reduction, Request, Tensor,
    plan::{
        Role,
        kernel::{Access, Kernel},
    },
};
use surprisal_cli::repro;

use crate::support::{
    Context, Placed, bits, buffer, outcome, placed_inputs, sample, storage, tensors,
};

tests![read_back, refused_buffers, refused_plans, refused_kernels, refused_access, wgpu_alone];

const ROWS: usize = 9;
const CLASSES: usize = 33;

fn loss() -> CrossEntropy {
    CrossEntropy::default().reduction(Reduction::None)
}

/// The inputs of a call, and its plan as it comes back from JSON.
struct Case {
    logits: Placed,
    targets: Placed,
    plan: Plan,
}

impl Case {
    fn new(gpu: &Gpu) -> Self {
        let mut inputs = placed_inputs(gpu, &loss(), &sample(1, ROWS, CLASSES), Dtype::F32);
        let [gradient, losses] = outputs(gpu);
        let outputs = CrossEntropyOutputs::default()
            .loss(vector(&losses))
            .gradient(Tensor::matrix(&gradient, Dtype::F32, ROWS as u64, CLASSES as u64));
        let loss = loss();
        let request = Request::new(&loss, tensors(&inputs), outputs.into());
        let plan = gpu.plan(&request).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        let mut take = |wanted: &str| {
            let at = inputs.iter().position(|(name, _)| name == wanted).unwrap();
            inputs.swap_remove(at).1
        };
        let (logits, targets) = (take("logits"), take("targets"));
        Self { logits, targets, plan: serde_json::from_str(&text).unwrap() }
    }

    /// The inputs alone.
    fn buffers(&self) -> PlanBuffers<'_> {
        let buffers = PlanBuffers::default().input("logits", &self.logits.buffer);
        buffers.input("targets", &self.targets.buffer)
    }
}

fn outputs(gpu: &Gpu) -> [wgpu::Buffer; 2] {
    [storage(gpu, (ROWS * CLASSES * 4) as u64), storage(gpu, ROWS as u64 * 4)]
}

fn vector(losses: &wgpu::Buffer) -> Tensor<'_> {
    Tensor::vector(losses, Dtype::F32, ROWS as u64)
}

fn read_back(context: &Context) {
    let gpu = &context.gpu;
    replays(gpu, &Case::new(gpu));
}

/// The plan gives the bits of the call that it was made for.
fn replays(gpu: &Gpu, case: &Case) {
    let expected =
        outcome(gpu, &loss(), &sample(1, ROWS, CLASSES), Dtype::F32, &["loss", "grad.logits"]).0;
    let [gradient, losses] = outputs(gpu);
    let own = storage(gpu, case.plan.scratch_bytes + 256);
    let both = || case.buffers().output("grad.logits", &gradient).output("loss", &losses);
    for buffers in [both(), both().scratch(&own, 256..256 + case.plan.scratch_bytes)] {
        gpu.queue().write_buffer(&losses, 0, &[0xff; ROWS * 4]);
        let call = gpu.replay(&case.plan, &buffers).unwrap();
        gpu.submit(&call).unwrap();
        let found = gpu.read_blocking(&vector(&losses)).unwrap();
        assert_eq!(bits(&found), bits(&expected["loss"]));
        let layout = Layout::dense(Dtype::F32, &[ROWS as u64, CLASSES as u64]);
        let found = gpu.read_blocking(&Tensor::new(&gradient, layout)).unwrap();
        assert_eq!(bits(&found), bits(&expected["grad.logits"]));
    }
}

#[track_caller]
fn refusal(result: Result<Prepared, Error>) -> Error {
    result.map(drop).unwrap_err()
}

fn refused_buffers(context: &Context) {
    let gpu = &context.gpu;
    let case = Case::new(gpu);
    let [gradient, losses] = outputs(gpu);
    let refused = |buffers: PlanBuffers<'_>| refusal(gpu.replay(&case.plan, &buffers));
    let one = || case.buffers().output("grad.logits", &gradient);
    let missing = refused(one());
    assert!(matches!(&missing, Error::MissingBuffer { role, .. } if &**role == "output `loss`"));
    let small = storage(gpu, 16);
    let found = refused(one().output("loss", &small));
    assert!(matches!(found, Error::BufferTooSmall { needed: 36, found: 16, .. }), "{found}");
    let copies = buffer(gpu, ROWS as u64 * 4, wgpu::BufferUsages::COPY_DST);
    let found = refused(one().output("loss", &copies));
    assert!(matches!(found, Error::WrongUsage { .. }), "{found}");
    // The plan reads the logits in another buffer than the one that it writes.
    let logits = &case.logits.buffer;
    let found = refused(case.buffers().output("grad.logits", logits).output("loss", &losses));
    assert!(matches!(found, Error::Overlap { .. }), "{found}");
    let both = || one().output("loss", &losses);
    let found = refused(both().scratch(&small, 0..16));
    assert!(matches!(found, Error::BufferTooSmall { found: 16, .. }), "{found}");
    let found = refused(both().scratch(&small, 0..1 << 40));
    assert!(matches!(found, Error::BufferTooSmall { found: 16, .. }), "{found}");
    let found = refused(both().scratch(&small, 4..16));
    assert!(matches!(found, Error::WrongOffset { found: 4, .. }), "{found}");
}

fn refused_plans(context: &Context) {
    let gpu = &context.gpu;
    let case = Case::new(gpu);
    let [gradient, losses] = outputs(gpu);
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = case.plan.clone();
        change(&mut plan);
        let buffers = case.buffers().output("grad.logits", &gradient).output("loss", &losses);
        refusal(gpu.replay(&plan, &buffers))
    };
    let bad: [&dyn Fn(&mut Plan); 7] = [
        &|plan| plan.dispatches[1].kernel = 99,
        &|plan| plan.dispatches[1].params.truncate(1),
        &|plan| plan.dispatches[1].bindings.truncate(1),
        &|plan| plan.dispatches[1].bindings[0].role = Role::Constant(7),
        &|plan| plan.dispatches[1].bindings[0].size = u64::MAX,
        &|plan| plan.dispatches[1].bindings[0].size = 0,
        &|plan| plan.scratch_bytes = 0,
    ];
    for (nth, change) in bad.into_iter().enumerate() {
        let found = refused(change);
        assert!(matches!(found, Error::BadPlan { .. }), "{nth}: {found}");
    }
    let found = refused(&|plan| plan.dispatches[1].workgroups = [1 << 31, 1, 1]);
    assert!(matches!(found, Error::Limit { .. }), "{found}");
    let found = refused(&|plan| plan.dispatches[0].bindings[0].offset += 4);
    assert!(matches!(found, Error::WrongOffset { .. } | Error::BadPlan { .. }), "{found}");
    // The end of these bindings fits a u64, but not with the place of the scratch added.
    let mut plan = case.plan.clone();
    plan.scratch_bytes = u64::MAX;
    let bindings = plan.dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bindings);
    for binding in bindings.filter(|binding| binding.role == Role::Scratch) {
        (binding.offset, binding.size) = (u64::MAX - 511, 256);
    }
    let scratch = storage(gpu, 4096);
    let buffers = case.buffers().output("grad.logits", &gradient).output("loss", &losses);
    let found = refusal(gpu.replay(&plan, &buffers.scratch(&scratch, 1024..4096)));
    assert!(matches!(found, Error::BufferTooSmall { found: 3072, .. }), "{found}");
}

/// What makes a kernel bad.
type Change<'a> = &'a dyn Fn(&mut Kernel);

/// What the device refuses about the WGSL of a plan is a typed error, at once and not in the caller's encoder, and the
/// device works as before.
fn refused_kernels(context: &Context) {
    let gpu = &context.gpu;
    let case = Case::new(gpu);
    let [gradient, losses] = outputs(gpu);
    let edited = |find: &'static str, put: &'static str| {
        move |kernel: &mut Kernel| {
            assert!(kernel.wgsl.contains(find), "{find}");
            kernel.wgsl = kernel.wgsl.replacen(find, put, 1).into();
        }
    };
    let bad: [(&str, Change<'_>); 9] = [
        ("no WGSL", &|kernel| kernel.wgsl = "fn lost(destroyed: u32".into()),
        ("no module", &|kernel| kernel.wgsl = "".into()),
        ("no entry", &|kernel| kernel.entry = "nowhere".into()),
        ("no override", &|kernel| kernel.overrides.push(("NOWHERE".into(), 1))),
        ("another binding", &edited("@binding(1)", "@binding(40)")),
        ("another access", &edited("var<storage, read>", "var<storage, read_write>")),
        ("a large workgroup", &edited("@workgroup_size(WORKGROUP)", "@workgroup_size(65535)")),
        // Only a dispatch shows that these need more bytes than are bound.
        (
            "more parameters",
            &edited("struct Params {", "struct Params { more: array<vec4<u32>, 99>,"),
        ),
        ("a long array", &edited(": array<u32>;", ": array<u32, 1000000>;")),
    ];
    for (what, change) in bad {
        for read_back in [false, true] {
            let mut plan = case.plan.clone();
            change(Arc::make_mut(&mut plan.kernels[0]));
            if read_back {
                plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
            }
            let buffers = case.buffers().output("grad.logits", &gradient).output("loss", &losses);
            let found = refusal(gpu.replay(&plan, &buffers));
            assert!(matches!(found, Error::Refused { .. }), "{what}: {found:?}");
            assert!(found.source().unwrap().is::<wgpu::Error>(), "{what}: {found:?}");
        }
    }
    replays(gpu, &case);
}

/// The module of a kernel declares how it uses a binding. A plan that says something else about a module that is
/// compiled already is refused too.
fn refused_access(context: &Context) {
    let gpu = &context.gpu;
    let case = Case::new(gpu);
    let [gradient, losses] = outputs(gpu);
    replays(gpu, &case);
    let mut plan = case.plan.clone();
    for kernel in &mut plan.kernels {
        let storage = &mut Arc::make_mut(kernel).storage;
        for storage in storage {
            storage.access = Access::Read;
        }
    }
    let bindings = plan.dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bindings);
    bindings.for_each(|binding| binding.access = Access::Read);
    let buffers = case.buffers().output("grad.logits", &gradient).output("loss", &losses);
    let found = refusal(gpu.replay(&plan, &buffers));
    assert!(matches!(found, Error::Refused { .. }), "{found:?}");
    // Written and read at once, which nobody noticed if the access were believed.
    let logits = &case.logits.buffer;
    let buffers = case.buffers().output("grad.logits", logits).output("loss", &losses);
    let found = refusal(gpu.replay(&plan, &buffers));
    assert!(matches!(found, Error::Refused { .. }), "{found:?}");
    replays(gpu, &case);
}

/// A folder of the call, run as its README says, with wgpu and JSON alone.
fn wgpu_alone(context: &Context) {
    let gpu = &context.gpu;
    let case = Case::new(gpu);
    let inputs = sample(1, ROWS, CLASSES);
    let wanted = ["loss", "grad.logits"];
    let expected = outcome(gpu, &loss(), &inputs, Dtype::F32, &wanted).0;
    let uploaded = |placed: &Placed| repro::Uploaded {
        layout: placed.layout.clone(),
        bytes: placed.before.clone(),
    };
    let call = repro::Call {
        title: "a call".to_owned(),
        plan: &case.plan,
        inputs: [("logits", &case.logits), ("targets", &case.targets)]
            .map(|(name, placed)| (name.to_owned(), uploaded(placed)))
            .into(),
        outputs: [
            ("loss".to_owned(), Layout::vector(Dtype::F32, ROWS as u64)),
            ("grad.logits".to_owned(), Layout::dense(Dtype::F32, &[ROWS as u64, CLASSES as u64])),
        ]
        .into(),
        actual: &expected,
        expected: &expected,
        tolerances: BTreeMap::new(),
    };
    let folder = std::env::temp_dir().join(format!("surprisal-alone-{}", std::process::id()));
    repro::write(&folder, gpu, &call).unwrap();
    let found = alone::replay(&folder, gpu.device(), gpu.queue());
    std::fs::remove_dir_all(&folder).unwrap();
    for name in wanted {
        let values: Vec<u32> =
            found[name].as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        let dense = expected[name].to_bytes(Dtype::F32);
        let dense: Vec<u32> = dense.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        assert_eq!(values[..dense.len()], dense, "{name}");
    }
}

/// What an engine that knows nothing of surprisal does with a folder.
mod alone {
    use std::{collections::HashMap, fs, path::Path};

    use serde_json::Value;
    use surprisal::wgpu;

    /// The bytes of the outputs after the call.
    pub fn replay(
        folder: &Path,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
    ) -> HashMap<String, Vec<u8>> {
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let (plan, call) = (read("plan.json"), read("call.json"));
        let filled = |size: u64, usage, file: Option<&str>| {
            let usage = usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
            let descriptor =
                wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
            let buffer = device.create_buffer(&descriptor);
            if let Some(file) = file {
                queue.write_buffer(&buffer, 0, &fs::read(folder.join(file)).unwrap());
            }
            buffer
        };
        let storage = wgpu::BufferUsages::STORAGE;
        let mut buffers: HashMap<String, wgpu::Buffer> = HashMap::new();
        for (kind, list) in [("input", "inputs"), ("output", "outputs")] {
            for tensor in call[list].as_array().unwrap() {
                let role = serde_json::json!({ kind: tensor["name"] }).to_string();
                let size = tensor["bytes"].as_u64().unwrap();
                buffers.insert(role, filled(size, storage, tensor["file"].as_str()));
            }
        }
        let scratch = plan["scratch_bytes"].as_u64().unwrap().max(256);
        buffers.insert("\"scratch\"".to_owned(), filled(scratch, storage, None));
        let dispatches = plan["dispatches"].as_array().unwrap();
        let size = dispatches.len() as u64 * 256;
        let parameters = filled(size, wgpu::BufferUsages::UNIFORM, Some("parameters.bin"));
        let kernels = plan["kernels"].as_array().unwrap();
        let pipelines: Vec<_> = kernels.iter().map(|kernel| compiled(device, kernel)).collect();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (number, dispatch) in (0..).zip(dispatches) {
            let pipeline = &pipelines[dispatch["kernel"].as_u64().unwrap() as usize];
            let bindings = dispatch["bindings"].as_array().unwrap().iter().map(|binding| {
                let [offset, size] = ["offset", "size"].map(|key| binding[key].as_u64().unwrap());
                (&buffers[&binding["role"].to_string()], offset, size)
            });
            let ranges = std::iter::once((&parameters, number * 256, 256)).chain(bindings);
            let entries: Vec<_> = (0..).zip(ranges).map(entry).collect();
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            let of = |axis: usize| dispatch["workgroups"][axis].as_u64().unwrap() as u32;
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(of(0), of(1), of(2));
        }
        drop(pass);
        queue.submit([encoder.finish()]);
        let outputs = call["outputs"].as_array().unwrap().iter().map(|output| {
            let name = output["name"].as_str().unwrap().to_owned();
            let role = serde_json::json!({ "output": name }).to_string();
            (name, downloaded(device, queue, &buffers[&role]))
        });
        outputs.collect()
    }

    fn entry(
        (binding, (buffer, offset, size)): (u32, (&wgpu::Buffer, u64, u64)),
    ) -> wgpu::BindGroupEntry<'_> {
        let size = size.try_into().ok();
        let range = wgpu::BufferBinding { buffer, offset, size };
        wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(range) }
    }

    fn compiled(device: &wgpu::Device, kernel: &Value) -> wgpu::ComputePipeline {
        let accesses = kernel["storage"].as_array().unwrap().iter().map(|storage| {
            let read_only = storage["access"] == "read";
            wgpu::BufferBindingType::Storage { read_only }
        });
        let types = std::iter::once(wgpu::BufferBindingType::Uniform).chain(accesses);
        let entries: Vec<_> = (0..)
            .zip(types)
            .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &entries,
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(kernel["wgsl"].as_str().unwrap().into()),
        });
        let overrides = kernel["overrides"].as_array().unwrap().iter();
        let constants: Vec<(&str, f64)> =
            overrides.map(|pair| (pair[0].as_str().unwrap(), pair[1].as_f64().unwrap())).collect();
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&layout),
            module: &module,
            entry_point: kernel["entry"].as_str(),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                ..Default::default()
            },
            cache: None,
        })
    }

    fn downloaded(device: &wgpu::Device, queue: &wgpu::Queue, buffer: &wgpu::Buffer) -> Vec<u8> {
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |mapped| mapped.unwrap());
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        staging.get_mapped_range(..).unwrap().to_vec()
    }
}
