//! Runs the GPU tests on every adapter of this machine. Each adapter has a child process, which runs its tests one
//! after another; the children run in parallel. A child that dies is a failure, and so is a driver that does not even
//! name its adapters.
//!
//! With `SURPRISAL_GPU=require` it is a failure if there is no adapter, or (on Linux) if an adapter is missing that
//! `SURPRISAL_ADAPTERS` names, separated by commas: `lavapipe,swiftshader,llvmpipe_gl`, or parts of the adapters'
//! descriptions. The arguments are those of libtest: `cargo test --test gpu -- section0`. `--test-threads` is the
//! number of adapters that run at once.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

/// Lists a module's tests by their functions' names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}

mod bindings;
mod budgets;
mod byproducts;
mod catalogue;
mod children;
#[path = "../common/mod.rs"]
mod common;
mod compilations;
mod composed;
mod conformance;
mod contract;
mod cooperative;
#[path = "../common/descent.rs"]
mod descent;
mod draws;
mod elements;
mod faults;
mod ignored;
mod jacobians;
mod linear;
mod margins;
mod memory;
mod numbers;
mod operations;
mod options;
mod own;
mod pairs;
mod pixels;
mod prepared;
mod quantized;
mod ranks;
mod recording;
mod registry;
mod replay;
mod rows;
mod sampled;
mod section0;
mod several;
mod shapes;
mod shards;
mod status;
mod support;
mod temperatures;
mod tiles;
mod tree;
mod two_heads;
mod walks;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
    time::Duration,
};

use libtest_mimic::{Arguments, Trial};
use support::Context;
use surprisal::{Gpu, adapter, ledger};
use surprisal_cli::survey::{Survey, worker};

/// A test's name and body.
type Test = (&'static str, fn(&Context));

/// The tests, grouped by the kernels they compile: the tests of one list share a device, so that each kernel is
/// compiled once for them. The lists run one after another, and a device closes before the next one opens. A kernel
/// takes megabytes of memory on software drivers, and those of all tests, on all adapters in parallel, exceed most
/// machines.
const FAMILIES: &[&[(&str, &[Test])]] = &[
    // Rows of stored scores.
    &[
        ("conformance", conformance::TESTS),
        ("catalogue", catalogue::TESTS),
        ("contract", contract::TESTS),
        ("rows", rows::TESTS),
        ("tree", tree::TESTS),
        ("quantized", quantized::TESTS),
        ("shapes", shapes::TESTS),
        ("section0", section0::TESTS),
        ("options", options::TESTS),
        ("tiles", tiles::TESTS),
        ("own", own::TESTS),
        ("numbers", numbers::TESTS),
        ("status", status::TESTS),
        ("temperatures", temperatures::TESTS),
        ("two_heads", two_heads::TESTS),
        ("prepared", prepared::TESTS),
        ("recording", recording::TESTS),
        ("replay", replay::TESTS),
        ("faults", faults::TESTS),
        ("faults", faults::buffers::TESTS),
        ("faults", faults::devices::TESTS),
        ("faults", faults::options::TESTS),
    ],
    // Element losses and composed losses.
    &[
        ("catalogue", catalogue::elements::TESTS),
        ("registry", registry::TESTS),
        ("conformance", conformance::elements::TESTS),
        ("elements", elements::TESTS),
        ("elements", elements::places::TESTS),
        ("elements", elements::values::TESTS),
        ("composed", composed::TESTS),
        ("operations", operations::TESTS),
        ("ranks", ranks::TESTS),
        ("pixels", pixels::TESTS),
        ("pixels", pixels::classes::TESTS),
        ("pixels", pixels::dice::TESTS),
        ("pixels", pixels::pytorch::TESTS),
    ],
    // Score tiles, and rows of scores that are never stored.
    &[
        ("conformance", conformance::linear::TESTS),
        ("catalogue", catalogue::layers::TESTS),
        ("jacobians", jacobians::TESTS),
        ("draws", draws::TESTS),
        ("sampled", sampled::TESTS),
        ("linear", linear::TESTS),
        ("ignored", ignored::TESTS),
        ("margins", margins::TESTS),
        ("byproducts", byproducts::TESTS),
        ("several", several::TESTS),
        ("budgets", budgets::TESTS),
        ("bindings", bindings::TESTS),
        ("memory", memory::TESTS),
        ("pairs", pairs::TESTS),
        ("walks", walks::TESTS),
        ("cooperative", cooperative::TESTS),
        ("shards", shards::TESTS),
        ("shards", shards::losses::TESTS),
    ],
];

/// Bugs of drivers: the adapter's short name, the test, and what is wrong (MAINTAINING.md says what else is required).
/// A test that passes in spite of its entry fails.
const EXPECTED_FAILURES: &[(&str, &str, &str)] = &[];

/// The variable with the child's adapter: its number in the default order, or `LIST` for a child that names all
/// adapters.
const CHILD: &str = "SURPRISAL_TEST_ADAPTER";
const LIST: &str = "list";
/// The longest time that a driver may take to name its adapters.
const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: u8 = 101;

fn main() -> ExitCode {
    match std::env::var(CHILD) {
        Ok(wanted) if wanted == LIST => list(),
        Ok(number) => child(number.parse().unwrap()),
        Err(_) => parent(),
    }
}

fn parent() -> ExitCode {
    let arguments = Arguments::from_args();
    let survey = Survey::take(PATIENCE, || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(CHILD, LIST);
        command
    })
    .unwrap();
    let names = &survey.lines;
    for fault in &survey.faults {
        eprintln!("{fault}; what leaves it out: {}", survey.remedy());
    }
    let missing = missing(names);
    for what in &missing {
        eprintln!("SURPRISAL_GPU=require: no adapter matches `{what}`; found: {names:?}");
    }
    if names.is_empty() && missing.is_empty() && survey.faults.is_empty() {
        eprintln!(
            "NO GPU ADAPTER: the GPU tests are ignored (SURPRISAL_GPU=require fails instead)"
        );
        let ignored = trials("no_adapter", None).map(|trial| trial.with_ignored_flag(true));
        return libtest_mimic::run(&arguments, ignored.collect()).exit_code();
    }
    let failed = children::failed(names, &survey, &arguments);
    if failed > 0 {
        eprintln!("the GPU tests failed on {failed} of {} adapters", names.len());
    }
    let good = failed == 0 && missing.is_empty() && survey.faults.is_empty();
    if good { ExitCode::SUCCESS } else { FAILED.into() }
}

/// Prints the names of the adapters, one a line.
fn list() -> ExitCode {
    for adapter in pollster::block_on(adapter::adapters()) {
        let info = adapter.get_info();
        worker::say(format!("{}: {}", short_name(&info), adapter::describe(&info))).unwrap();
    }
    ExitCode::SUCCESS
}

/// The adapters that are required but missing.
fn missing(names: &[String]) -> Vec<String> {
    if std::env::var("SURPRISAL_GPU").as_deref() != Ok("require") {
        return Vec::new();
    }
    let listed = std::env::var("SURPRISAL_ADAPTERS").unwrap_or_default();
    let wanted = listed.split(',').filter(|wanted| cfg!(target_os = "linux") && !wanted.is_empty());
    let absent = |wanted: &&str| {
        !names.iter().any(|name| name.to_lowercase().contains(&wanted.to_lowercase()))
    };
    let mut missing: Vec<String> = wanted.filter(absent).map(str::to_owned).collect();
    if names.is_empty() && missing.is_empty() {
        missing.push("any".to_owned());
    }
    missing
}

fn child(number: usize) -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let adapter = pollster::block_on(adapter::adapters()).swap_remove(number);
    let name = short_name(&adapter.get_info());
    let devices = Arc::new(Devices { adapter, open: Mutex::new(None) });
    ledger::open();
    let conclusion = libtest_mimic::run(&arguments, trials(&name, Some(&devices)).collect());
    if !compilations::within_budget(&name, &arguments) {
        return FAILED.into();
    }
    conclusion.exit_code()
}

/// The devices of one adapter, one after another, each for the tests of one family.
struct Devices {
    adapter: wgpu::Adapter,
    open: Mutex<Option<(usize, Arc<Context>)>>,
}

impl Devices {
    /// The device for the tests of a family.
    fn of(&self, family: usize) -> Arc<Context> {
        let mut open = self.open.lock().unwrap();
        if let Some((of, context)) = &*open
            && *of == family
        {
            return context.clone();
        }
        // The last device closes before this one opens.
        *open = None;
        let gpu = pollster::block_on(Gpu::open_on(&self.adapter)).unwrap();
        let context = Arc::new(Context { gpu, adapter: self.adapter.clone() });
        *open = Some((family, context.clone()));
        context
    }
}

fn short_name(info: &wgpu::AdapterInfo) -> String {
    match (info.backend, info.name.as_str()) {
        (wgpu::Backend::Vulkan, name) if name.contains("llvmpipe") => "lavapipe".to_owned(),
        (wgpu::Backend::Vulkan, name) if name.contains("SwiftShader") => "swiftshader".to_owned(),
        (wgpu::Backend::Gl, name) if name.contains("llvmpipe") => "llvmpipe_gl".to_owned(),
        (backend, name) => {
            let word = |c: char| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
            format!("{}_{backend:?}", name.chars().map(word).collect::<String>())
        }
    }
}

/// Whether a test runs on this adapter. The plain WGSL that replaces matrix units uses only workgroup memory and is the
/// same on every driver, but testing it in full takes 170 kernels: the first software driver does that, the other two
/// run only the edges.
fn is_for(adapter: &str, test: &str) -> bool {
    let in_full = test.starts_with("emulated_") && test != "emulated_edges";
    !(in_full && ["swiftshader", "llvmpipe_gl"].contains(&adapter))
}

/// All tests on one adapter.
fn trials<'a>(
    adapter: &'a str,
    devices: Option<&'a Arc<Devices>>,
) -> impl Iterator<Item = Trial> + 'a {
    let all = FAMILIES.iter().enumerate().flat_map(|(family, modules)| {
        let of_module = move |(module, tests): &'static (&str, &[Test])| {
            tests.iter().map(move |test| (family, module, test))
        };
        modules.iter().flat_map(of_module)
    });
    all.map(move |(family, module, &(test, body))| {
        let name = format!("{module}::{test}");
        let reason = EXPECTED_FAILURES
            .iter()
            .find(|(on, known, _)| *on == adapter && *known == name)
            .map(|&(_, _, reason)| reason);
        let devices = devices.cloned();
        let trial = format!("{adapter}::{name}");
        Trial::test(trial, move || {
            let context = devices.as_ref().expect("an adapter").of(family);
            compilations::begin(&name);
            match reason {
                None => body(&context),
                Some(reason) => {
                    let outcome = catch_unwind(AssertUnwindSafe(|| body(&context)));
                    assert!(outcome.is_err(), "passes now; it was expected to fail: {reason}");
                }
            }
            Ok(())
        })
        .with_ignored_flag(!is_for(adapter, test))
    })
}
