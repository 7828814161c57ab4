//! Folders that hold a call whole: what `plan --export` and `check --repro` write, and `replay` runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::command::{adapters, folder, refusal, stdout, surprisal};
use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Layout, Plan,
    cases::{self, Case},
    plan::Role,
};
use surprisal_cli::repro::{self, Description};

/// The call and the plan of a folder, as a program that knows their types reads them.
fn load(folder: &Path) -> (Plan, Description) {
    repro::load(folder).unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The names of the files in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

/// What `check` records on an adapter, `replay` reruns there with the same bits, and a result that is off
/// fails it.
#[test]
fn recordings_replay_where_they_were_recorded() {
    for number in 0..adapters() {
        let adapter = number.to_string();
        let folder = folder(&format!("replay-{number}"));
        let all = folder.to_str().unwrap();
        let check = ["check", "--adapter", &adapter, "--repro", all, "--repro-all"];
        for id in ["self/cross_entropy/infinities/f32", "self/info_nce/prime/all/bf16"] {
            stdout(&surprisal(&[&check[..], &["--case", id]].concat()));
        }
        let replay = ["replay", all, "--adapter", &adapter];
        let text = stdout(&surprisal(&replay));
        let count = |what: &str| text.matches(what).count();
        assert_eq!(count("recorded on "), 2, "{text}");
        assert!(count("passed") >= 6 && count("passed") == count("as recorded"), "{text}");
        for output in ["loss", "grad.logits", "grad.queries", "grad.keys"] {
            assert!(text.contains(output), "{output}: {text}");
        }
        // One expected value is moved.
        let of_adapter = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let file = of_adapter.join("self_info_nce_prime_all_bf16.bf16/expected/grad.keys.bin");
        let mut bytes = fs::read(&file).unwrap();
        bytes[..8].copy_from_slice(&7.5_f64.to_le_bytes());
        fs::write(&file, bytes).unwrap();
        let output = surprisal(&replay);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.matches("FAILED").count(), 1, "{text}");
    }
}

/// Every part of an exported plan says the same as the others, and `replay` runs it.
#[test]
fn an_exported_plan_is_whole() {
    let calls: [&[&str]; 3] = [
        &["cross_entropy", "--rows", "9", "--classes", "33", "--in-place"],
        &["linear_cross_entropy", "--rows", "5", "--classes", "40", "--hidden", "7"],
        &["bce_with_logits", "--rows", "3", "--classes", "70", "--dtype", "bf16", "--with", "mask"],
    ];
    for words in calls {
        let folder = folder(&format!("export-{}", words[0]));
        let export = ["--json", "--export", folder.to_str().unwrap()];
        let printed = stdout(&surprisal(&[&["plan"], words, &export].concat()));
        let printed: Value = serde_json::from_str(&printed).unwrap();
        let (plan, call) = load(&folder);
        assert_eq!(json!(plan), read_json(&folder.join("plan.json")));
        for key in ["kernels", "dispatches", "scratch_bytes"] {
            assert_eq!(json!(plan)[key], printed[key], "{key} of {words:?}");
        }
        kernels_agree(&folder, &plan);
        parameters_agree(&folder, &plan);
        tensors_agree(&plan, &call, &printed["call"]);
        bindings_are_inside(&plan, &call);
        if adapters() > 0 {
            let replay = ["replay", folder.to_str().unwrap(), "--adapter", "0"];
            let text = stdout(&surprisal(&replay));
            assert!(text.contains("recorded on no adapter\nit ran"), "{text}");
        }
    }
}

/// WGSL, SPIR-V and the description of each kernel have one entry point and one bind group layout.
fn kernels_agree(folder: &Path, plan: &Plan) {
    let mut files = BTreeSet::new();
    for (number, kernel) in plan.kernels.iter().enumerate() {
        let name = format!("{number:02}.{}", kernel.label);
        let file = |ending: &str| folder.join("kernels").join(format!("{name}.{ending}"));
        let wgsl = fs::read_to_string(file("wgsl")).unwrap();
        assert_eq!(wgsl, &*kernel.wgsl, "{name}");
        // The parameters are a uniform at binding 0; what is stored follows.
        let accesses = kernel.storage.iter().map(|storage| json!(storage.access));
        let described: BTreeMap<u32, Value> =
            (0..).zip([json!("uniform")].into_iter().chain(accesses)).collect();
        assert_eq!(wgsl_bindings(&wgsl), described, "{name}");
        let spirv = SpirV::parse(&fs::read(file("spv")).unwrap());
        assert_eq!(spirv.entries, [kernel.entry.to_string()], "{name}");
        assert_eq!(spirv.bindings, described.keys().copied().collect(), "{name}");
        assert!(!spirv.has_overrides, "{name}");
        files.extend(["wgsl", "spv"].map(|ending| format!("{name}.{ending}")));
    }
    assert_eq!(names(&folder.join("kernels")), files);
}

/// The bindings of a module, with the access of each in the words of a plan.
fn wgsl_bindings(wgsl: &str) -> BTreeMap<u32, Value> {
    let module = naga::front::wgsl::parse_str(wgsl).unwrap();
    let variables = module.global_variables.iter().filter_map(|(_, variable)| {
        let binding = variable.binding?;
        assert_eq!(binding.group, 0);
        let access = match variable.space {
            naga::AddressSpace::Uniform => "uniform",
            naga::AddressSpace::Storage { access }
                if access.contains(naga::StorageAccess::STORE) =>
            {
                "read_write"
            }
            _ => "read",
        };
        Some((binding.binding, json!(access)))
    });
    variables.collect()
}

/// What the instructions of a SPIR-V module say of its interface.
struct SpirV {
    entries: Vec<String>,
    bindings: BTreeSet<u32>,
    has_overrides: bool,
}

impl SpirV {
    /// Reads the instructions one by one: the upper half of an instruction's first word is its length in words, the
    /// lower half its number.
    fn parse(bytes: &[u8]) -> Self {
        const HEADER_WORDS: usize = 5;
        let (words, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty());
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words[0], 0x0723_0203, "SPIR-V's magic number");
        let mut found =
            Self { entries: Vec::new(), bindings: BTreeSet::new(), has_overrides: false };
        let mut at = HEADER_WORDS;
        while at < words.len() {
            let instruction = &words[at..][..words[at] as usize >> 16];
            match (instruction[0] & 0xffff, &instruction[1..]) {
                // OpEntryPoint of a compute shader (GLCompute): its name is the third operand.
                (15, [5, _, name @ ..]) => {
                    let name = name.iter().flat_map(|word| word.to_le_bytes());
                    let name = name.take_while(|byte| *byte != 0).collect();
                    found.entries.push(String::from_utf8(name).unwrap());
                }
                // OpDecorate with Binding or DescriptorSet.
                (71, [_, 33, binding]) => assert!(found.bindings.insert(*binding)),
                (71, [_, 34, set]) => assert_eq!(*set, 0),
                // OpSpecConstantTrue to OpSpecConstantOp.
                (48..=52, _) => found.has_overrides = true,
                _ => {}
            }
            at += instruction.len();
        }
        found
    }
}

/// The bytes of each dispatch's parameters are its words, one for each field of its kernel.
fn parameters_agree(folder: &Path, plan: &Plan) {
    let bytes = fs::read(folder.join("parameters.bin")).unwrap();
    assert_eq!(bytes.len(), 256 * plan.dispatches.len());
    for (dispatch, bytes) in plan.dispatches.iter().zip(bytes.chunks(256)) {
        let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let (params, rest) = dispatch.params.split_at(plan.kernels[dispatch.kernel].fields.len());
        assert!(rest.is_empty());
        let padded = params.iter().copied().chain(std::iter::repeat(0)).take(64);
        assert!(words.eq(padded), "{dispatch:?}");
    }
    assert_eq!(names(&folder.join("constants")).len(), plan.constants.len());
}

/// The tensors are those of the call that was planned.
fn tensors_agree(plan: &Plan, call: &Description, planned: &Value) {
    assert_eq!((&call.title, &call.adapter), (&plan.loss, &None));
    let places = |tensors: Vec<(&String, &Layout)>| -> Value {
        tensors
            .into_iter()
            .map(|(name, layout)| (name.clone(), json!(layout)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let of_plan = |key: &str| -> Value {
        let tensors = planned[key].as_object().unwrap().iter();
        tensors
            .map(|(name, tensor)| (name.clone(), tensor["layout"].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    assert_eq!(
        places(call.inputs.iter().map(|i| (&i.name, &i.layout)).collect()),
        of_plan("inputs")
    );
    assert_eq!(
        places(call.outputs.iter().map(|o| (&o.name, &o.layout)).collect()),
        of_plan("outputs")
    );
    let over = call.outputs.iter().filter_map(|output| output.over.as_ref().map(|_| &output.name));
    assert_eq!(json!(over.collect::<Vec<_>>()), planned["in_place"]);
}

/// Each dispatch binds as much as its kernel has bindings, all of it in the buffers that the folder names.
fn bindings_are_inside(plan: &Plan, call: &Description) {
    let inputs = call.inputs.iter().map(|input| (&input.name, input.bytes));
    let inputs: BTreeMap<&String, u64> = inputs.collect();
    let outputs = call.outputs.iter().filter(|output| output.over.is_none());
    let outputs: BTreeMap<&String, u64> = outputs.map(|o| (&o.name, o.bytes)).collect();
    for dispatch in &plan.dispatches {
        assert_eq!(dispatch.bindings.len(), plan.kernels[dispatch.kernel].storage.len());
        for binding in &dispatch.bindings {
            let bytes = match &binding.role {
                Role::Input(name) => inputs[&name.to_string()],
                Role::Output(name) => outputs[&name.to_string()],
                Role::Scratch => plan.scratch_bytes,
                Role::Constant(number) => {
                    (plan.constants[*number].len() as u64).next_multiple_of(256)
                }
            };
            assert!(binding.offset + binding.size <= bytes, "{binding:?} of {bytes} bytes");
        }
    }
}

/// The buffers of a recorded call can be made from `call.json` and the files alone. An integer mask is stored as bytes.
#[test]
fn recorded_inputs_are_whole() {
    if adapters() == 0 {
        return;
    }
    let folder = folder("recorded-inputs");
    let inputs = Arrays::from([
        ("logits".to_owned(), Array::float(&[2, 3], vec![1.0, -2.0, 3.0, 0.5, 0.0, -1.0])),
        ("targets".to_owned(), Array::float(&[2, 3], vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0])),
        ("mask".to_owned(), Array::int(&[2, 3], vec![1, 0, 1, 1, 1, 0])),
    ]);
    let wanted = ["loss", "grad.logits"];
    let loss = surprisal::BceWithLogits::default();
    let case = Case {
        id: "masked".to_owned(),
        loss: "bce_with_logits".to_owned(),
        options: json!({}),
        expect: surprisal::cpu::run(&loss, &inputs, &wanted).unwrap(),
        inputs: inputs.clone(),
        ..Case::default()
    };
    let vectors = folder.join("cases.safetensors");
    cases::save(&vectors, &[case]).unwrap();
    let recorded = folder.join("recorded");
    let [vectors, all] = [&vectors, &recorded].map(|path| path.to_str().unwrap());
    let check = ["check", "--adapter", "0", "--no-self-checks", "--vectors", vectors];
    stdout(&surprisal(&[&check[..], &["--repro", all, "--repro-all"]].concat()));
    let recording = only_folder(&only_folder(&recorded));
    let call = read_json(&recording.join("call.json"));
    let tensors = call["inputs"].as_array().unwrap();
    assert_eq!(tensors.len(), inputs.len());
    for tensor in tensors {
        let layout = &tensor["layout"];
        let dtype = if tensor["name"] == "mask" { "u8" } else { "f32" };
        let dense = json!({
            "dtype": dtype, "shape": [2, 3], "row_stride": 3, "class_stride": 1, "offset": 0,
        });
        assert_eq!(*layout, dense, "{tensor}");
        let layout: Layout = serde_json::from_value(layout.clone()).unwrap();
        let bytes = fs::read(recording.join(tensor["file"].as_str().unwrap())).unwrap();
        let array = Array::from_bytes(layout.dtype, &layout.shape, &bytes);
        assert_eq!(array.to_f64(), inputs[tensor["name"].as_str().unwrap()].to_f64(), "{tensor}");
    }
    let replay = ["replay", all, "--adapter", "0"];
    let text = stdout(&surprisal(&replay));
    assert_eq!(text.matches("as recorded").count(), wanted.len(), "{text}");
    // A file that lost its last element is no longer the buffer of that layout.
    let file = recording.join("inputs/targets.bin");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..20]).unwrap();
    let error = refusal(&surprisal(&replay));
    assert!(error.contains("it has 20 bytes; the elements of `targets` end at byte 24"), "{error}");
    fs::write(&file, bytes).unwrap();
    // Nor is a layout one that ends behind its buffer.
    let call = call.to_string().replacen("\"offset\":0", "\"offset\":100", 1);
    fs::write(recording.join("call.json"), call).unwrap();
    let error = refusal(&surprisal(&replay));
    assert!(error.contains("is not inside its buffer"), "{error}");
}

/// The one folder in a folder.
fn only_folder(folder: &Path) -> PathBuf {
    let names = names(folder);
    assert_eq!(names.len(), 1, "{names:?}");
    folder.join(names.first().unwrap())
}
