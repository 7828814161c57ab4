//! Checks every specialisation that the registry's plans use, without a GPU: naga parses, validates and specialises
//! it, and writes it for every target.
#![cfg(feature = "cases")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;
#[expect(dead_code, reason = "the other binary with mutants uses the rest of this")]
#[path = "mutants/list.rs"]
mod list;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, LazyLock},
};

use list::Mutant;
use naga::{
    back,
    valid::{Capabilities, ModuleInfo},
};
use surprisal::{Cooperative, cooperative::Side, plan::kernel::Kernel};
use surprisal_cli::module;

/// Every kernel of every call of the catalogue.
static KERNELS: LazyLock<Vec<Arc<Kernel>>> = LazyLock::new(|| {
    let mut seen = HashSet::new();
    let kernels = common::plans().iter().flat_map(|plan| &plan.kernels);
    kernels.filter(|kernel| seen.insert(*kernel)).cloned().collect()
});

#[test]
fn every_kernel_is_valid_for_every_target() {
    assert!(KERNELS.len() > 100, "only {} kernels", KERNELS.len());
    // `contract` compares each state with the words that its program declares.
    let words = |kernel: &Arc<Kernel>| {
        let line = kernel.wgsl.lines().find(|line| line.starts_with("const STATE_WORDS"));
        line.map(str::to_owned)
    };
    let states: BTreeSet<String> = KERNELS.iter().filter_map(words).collect();
    assert!(states.len() > 2, "{states:?}");
    for kernel in KERNELS.iter() {
        check(kernel);
    }
}

/// A mutant must change at least one kernel, or no test could find it. It must be valid WGSL, or every test would find
/// it.
#[test]
fn mutants_are_in_kernels_and_are_valid() {
    let emulated = common::cooperative_profiles().into_iter().filter(|p| p.cooperative.emulated);
    let profiles = common::tile_profiles().into_iter().chain(emulated);
    let tiles: Vec<Arc<Kernel>> = profiles
        .flat_map(|profile| common::tile_plans(&profile))
        .flat_map(|plan| plan.kernels)
        .filter(|kernel| kernel.entry.starts_with("product"))
        .collect();
    for mutant in list::mutants() {
        let changed: Vec<(&Kernel, String)> = KERNELS
            .iter()
            .chain(&tiles)
            .filter_map(|kernel| Some((&**kernel, mutated(&mutant, &kernel.wgsl)?)))
            .collect();
        assert!(!changed.is_empty(), "mutant {} is in no kernel", mutant.name);
        // A fault of `math.wgsl` is in all kernels, so only some of them are checked.
        for (kernel, wgsl) in changed.iter().step_by(changed.len().div_ceil(5)) {
            parsed(kernel, wgsl, Capabilities::SUBGROUP | Capabilities::SHADER_INT64);
        }
    }
}

/// The WGSL of a kernel with a mutant, if the kernel has the mutant's text.
fn mutated(mutant: &Mutant, wgsl: &str) -> Option<String> {
    let begin = "\n// ---- ";
    let part = if mutant.file == list::GENERATED {
        &wgsl[..wgsl.find(begin)?]
    } else {
        let marker = format!("{begin}{} ----\n", mutant.file);
        let text = &wgsl[wgsl.find(&marker)? + marker.len()..];
        &text[..text.find(begin).unwrap_or(text.len())]
    };
    let other = if mutant.file == list::GENERATED {
        part.replace(&mutant.find, &mutant.put)
    } else {
        mutant.mutated(part).unwrap_or_else(|error| panic!("mutant {}: {error}", mutant.name))
    };
    (other != part).then(|| wgsl.replacen(part, &other, 1))
}

/// The files that a module consists of.
fn files(kernel: &Kernel) -> Vec<&str> {
    let lines = kernel.wgsl.lines().filter_map(|line| line.strip_prefix("// ---- "));
    lines.filter_map(|line| line.strip_suffix(" ----")).collect()
}

/// All ways to load the operands of a tile. Subgroups and 64-bit words are used only on Vulkan, where a software
/// driver has them.
#[test]
fn kernels_of_large_tiles_are_valid() {
    let (mut found, mut octets) = (HashSet::new(), BTreeSet::new());
    for profile in common::tile_profiles() {
        let plans = common::tile_plans(&profile);
        let kernels: Vec<_> = plans.into_iter().flat_map(|plan| plan.kernels).collect();
        for kernel in kernels.iter().filter(|kernel| kernel.entry == "product") {
            let loads = *files(kernel).last().unwrap();
            let is_there = |element: &str| kernel.storage.iter().any(|s| s.element == element);
            let mut needs = Capabilities::empty();
            needs.set(Capabilities::SUBGROUP, loads == "linear/subgroup.wgsl");
            let octets_too = is_there("vec4<u64>");
            needs.set(Capabilities::SHADER_INT64, octets_too || is_there("vec2<u64>"));
            octets.extend(octets_too.then(|| loads.to_owned()));
            if found.insert(kernel.clone()) {
                if needs.is_empty() {
                    check(kernel);
                } else {
                    let (module, info) = specialised(kernel, needs);
                    spirv(kernel, &module, &info);
                }
            }
        }
    }
    assert_eq!(Vec::from_iter(octets), ["linear/lane.wgsl", "linear/subgroup.wgsl"]);
    let shapes: HashSet<_> =
        found.iter().map(|kernel| (*files(kernel).last().unwrap(), &kernel.overrides)).collect();
    let of = |file: &str| shapes.iter().filter(|(path, _)| *path == file).count();
    for file in ["linear/lane.wgsl", "linear/subgroup.wgsl", "linear/workgroup.wgsl"] {
        assert!(of(file) > 7, "{file} {}: {found:?}", of(file));
    }
}

/// Cooperative matrices are for Vulkan and Metal (Metal has only 8 × 8); the WGSL that replaces them in tests is for
/// all.
#[test]
fn kernels_on_cooperative_matrices_are_valid_where_there_are_any() {
    let capabilities = Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
    let mut found = BTreeSet::new();
    for profile in common::cooperative_profiles() {
        let Cooperative { f16, emulated, .. } = profile.cooperative;
        let plans = common::tile_plans(&profile);
        let kernels = plans.into_iter().flat_map(|plan| plan.kernels);
        for kernel in kernels.filter(|kernel| kernel.entry == "product_cooperative") {
            found.extend(files(&kernel).into_iter().map(str::to_owned));
            if emulated {
                check(&kernel);
                continue;
            }
            let (module, info) = specialised(&kernel, capabilities);
            spirv(&kernel, &module, &info);
            let version = back::msl::Options { lang_version: (2, 3), ..Default::default() };
            if f16 == Some(Side::Eight) {
                msl(&module, &info, version).unwrap_or_else(|error| fail(&kernel, "MSL", &error));
            }
        }
    }
    let files = ["f16_8", "f16_16", "f32_8", "f32_16", "hardware", "emulated"];
    for file in files.map(|file| format!("linear/cooperative/{file}.wgsl")) {
        assert!(found.contains(file.as_str()), "{file} is not in {found:?}");
    }
}

/// The plans contain a user's own losses, on stored scores and on those of a linear layer.
#[test]
fn kernels_of_a_users_own_losses_are_checked_too() {
    let plans = common::plans();
    for (loss, skeleton) in [
        ("users_margin", "surprisal.row."),
        ("users_margin", "surprisal.linear."),
        ("users_log_cosh", "surprisal.element."),
    ] {
        let labels: BTreeSet<&str> = plans
            .iter()
            .map(|plan| plan.kernels.iter().map(|kernel| kernel.label.as_str()))
            .filter(|labels| labels.clone().any(|label| label.contains(loss)))
            .flatten()
            .filter(|label| label.starts_with(skeleton))
            .collect();
        assert!(labels.len() > 2, "{loss} on {skeleton}: {labels:?}");
    }
}

fn check(kernel: &Kernel) {
    let (module, info) = specialised(kernel, Capabilities::empty());
    spirv(kernel, &module, &info);
    msl(&module, &info, back::msl::Options::default())
        .unwrap_or_else(|error| fail(kernel, "MSL", &error));
    hlsl(&module, &info, &kernel.entry).unwrap_or_else(|error| fail(kernel, "HLSL", &error));
    glsl(&module, &info, &kernel.entry).unwrap_or_else(|error| fail(kernel, "GLSL", &error));
}

fn fail(kernel: &Kernel, what: &str, error: &dyn std::fmt::Display) -> ! {
    panic!("{}: {what}: {error}\n{}", kernel.label, kernel.wgsl)
}

fn parsed(kernel: &Kernel, wgsl: &str, capabilities: Capabilities) -> (naga::Module, ModuleInfo) {
    module::parsed(wgsl, capabilities).unwrap_or_else(|error| fail(kernel, "WGSL", &error))
}

/// The module of a kernel: parsed, validated, compared with the Rust side, and with its overrides resolved.
fn specialised(kernel: &Kernel, capabilities: Capabilities) -> (naga::Module, ModuleInfo) {
    let (module, info) = parsed(kernel, &kernel.wgsl, capabilities);
    contract(kernel, &module);
    module::specialised(kernel, (&module, &info))
        .unwrap_or_else(|error| fail(kernel, "overrides", &error))
}

fn spirv(kernel: &Kernel, module: &naga::Module, info: &ModuleInfo) {
    module::spirv((module, info)).unwrap_or_else(|error| fail(kernel, "SPIR-V", &error));
}

/// Checks that binding numbers, parameter offsets and override names are those that the Rust side uses.
fn contract(kernel: &Kernel, module: &naga::Module) {
    let label = &kernel.label;
    let mut bindings: BTreeMap<u32, String> = BTreeMap::new();
    for (_, variable) in module.global_variables.iter() {
        if let Some(binding) = &variable.binding {
            bindings.insert(binding.binding, variable.name.clone().unwrap());
        }
    }
    let expected: BTreeMap<u32, String> = std::iter::once((0, "params".to_owned()))
        .chain(kernel.storage.iter().enumerate().map(|(i, s)| (i as u32 + 1, s.name.to_string())))
        .collect();
    assert_eq!(bindings, expected, "{label}");
    assert!(bindings.len() <= 9, "{label} binds {} storage buffers", bindings.len() - 1);
    let params = module
        .types
        .iter()
        .find_map(|(_, ty)| match &ty.inner {
            naga::TypeInner::Struct { members, .. } if ty.name.as_deref() == Some("Params") => {
                Some(members)
            }
            _ => None,
        })
        .expect("a struct Params");
    assert_eq!(params.len(), kernel.fields.len(), "{label}");
    for (index, (member, (name, _))) in params.iter().zip(&kernel.fields).enumerate() {
        assert_eq!(member.name.as_deref(), Some(&**name), "{label}");
        assert_eq!(member.offset as usize, 4 * index, "{label}: {name}");
    }
    for (record, words) in [("State", "STATE_WORDS"), ("Tally", "TALLY_WORDS")] {
        if let (Some(span), Some(words)) = (struct_bytes(module, record), constant(module, words)) {
            // A functor without rounds has no state.
            assert!(words == 0 || span == 4 * words, "{label}: {record} has {span} bytes");
        }
    }
    let names: Vec<&str> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
    for (name, _) in &kernel.overrides {
        assert!(names.contains(&&**name), "{label} has no override {name}: {names:?}");
    }
}

/// The size of a struct.
fn struct_bytes(module: &naga::Module, name: &str) -> Option<u32> {
    module.types.iter().find_map(|(_, ty)| match ty.inner {
        naga::TypeInner::Struct { span, .. } if ty.name.as_deref() == Some(name) => Some(span),
        _ => None,
    })
}

/// The value of a `u32` constant.
fn constant(module: &naga::Module, name: &str) -> Option<u32> {
    let named = |constant: &&naga::Constant| constant.name.as_deref() == Some(name);
    let (_, constant) = module.constants.iter().find(|(_, constant)| named(constant))?;
    match module.global_expressions[constant.init] {
        naga::Expression::Literal(naga::Literal::U32(value)) => Some(value),
        _ => panic!("{name} is no u32"),
    }
}

fn msl(
    module: &naga::Module,
    info: &ModuleInfo,
    options: back::msl::Options,
) -> Result<String, back::msl::Error> {
    let options = back::msl::Options { fake_missing_bindings: true, ..options };
    back::msl::write_string(module, info, &options, &back::msl::PipelineOptions::default())
        .map(|(text, _)| text)
}

fn hlsl(
    module: &naga::Module,
    info: &ModuleInfo,
    entry: &str,
) -> Result<String, back::hlsl::Error> {
    let options = back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
    let pipeline = back::hlsl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, entry.to_owned())),
    };
    let mut text = String::new();
    back::hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None)?;
    Ok(text)
}

fn glsl(
    module: &naga::Module,
    info: &ModuleInfo,
    entry: &str,
) -> Result<String, back::glsl::Error> {
    let options =
        back::glsl::Options { version: back::glsl::Version::new_gles(310), ..Default::default() };
    let pipeline = back::glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: entry.to_owned(),
        multiview: None,
    };
    let policies = naga::proc::BoundsCheckPolicies::default();
    let mut text = String::new();
    back::glsl::Writer::new(&mut text, module, info, &options, &pipeline, policies)?.write()?;
    Ok(text)
}
