//! The GPU tests, on every adapter of this machine: each adapter in a child process of its own, which
//! runs its tests one after another, beside the other adapters' children. A child that dies is a failure,
//! as is a driver that does not even name its adapters.
//!
//! With `SURPRISAL_GPU=require` no adapter is a failure, as is (on Linux) a missing one of those that
//! `SURPRISAL_ADAPTERS` names, separated by commas: `lavapipe,swiftshader,llvmpipe_gl`, or parts of
//! adapters' descriptions. Arguments are libtest's: `cargo test --test gpu -- section0`;
//! `--test-threads` is how many adapters run at once.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

/// Lists a module's tests by their functions' names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}

mod bindings;
mod budgets;
mod catalogue;
mod children;
#[path = "../common/mod.rs"]
mod common;
mod compilations;
mod composed;
mod conformance;
mod contract;
mod cooperative;
mod elements;
mod faults;
mod linear;
mod memory;
mod numbers;
mod options;
mod own;
mod pairs;
mod pixels;
mod ranks;
mod recording;
mod registry;
mod rows;
mod section0;
mod shapes;
mod shards;
mod status;
mod support;
mod tiles;
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

/// The tests by what they compile: those of one list share a device, so that a kernel is compiled once for them.
/// Lists follow one another, and a device closes before the next one opens: a kernel is megabytes of memory on
/// software drivers, and those of all tests, of all adapters side by side, more than most machines have.
const FAMILIES: &[&[(&str, &[Test])]] = &[
    // Rows of stored scores.
    &[
        ("conformance", conformance::TESTS),
        ("catalogue", catalogue::TESTS),
        ("contract", contract::TESTS),
        ("rows", rows::TESTS),
        ("shapes", shapes::TESTS),
        ("section0", section0::TESTS),
        ("options", options::TESTS),
        ("tiles", tiles::TESTS),
        ("own", own::TESTS),
        ("numbers", numbers::TESTS),
        ("status", status::TESTS),
        ("recording", recording::TESTS),
        ("faults", faults::TESTS),
        ("faults", faults::buffers::TESTS),
        ("faults", faults::devices::TESTS),
        ("faults", faults::options::TESTS),
    ],
    // Elements, and what is put together of losses.
    &[
        ("catalogue", catalogue::elements::TESTS),
        ("registry", registry::TESTS),
        ("conformance", conformance::elements::TESTS),
        ("elements", elements::TESTS),
        ("elements", elements::places::TESTS),
        ("elements", elements::values::TESTS),
        ("composed", composed::TESTS),
        ("ranks", ranks::TESTS),
        ("pixels", pixels::TESTS),
        ("pixels", pixels::dice::TESTS),
        ("pixels", pixels::pytorch::TESTS),
    ],
    // Score tiles, and rows of scores that are never stored.
    &[
        ("conformance", conformance::linear::TESTS),
        ("catalogue", catalogue::layers::TESTS),
        ("linear", linear::TESTS),
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

/// A driver's own bugs: the adapter's short name, the test, and what is wrong (MAINTAINING.md says
/// what else has to be there). A test that passes in spite of its entry fails.
const EXPECTED_FAILURES: &[(&str, &str, &str)] = &[];

/// The child's adapter: its number in the default order, or `LIST` for one that names them all.
const CHILD: &str = "SURPRISAL_TEST_ADAPTER";
const LIST: &str = "list";
/// How long a driver may take to name its adapters.
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

/// Names the adapters, a line each.
fn list() -> ExitCode {
    for adapter in pollster::block_on(adapter::adapters()) {
        let info = adapter.get_info();
        worker::say(format!("{}: {}", short_name(&info), adapter::describe(&info))).unwrap();
    }
    ExitCode::SUCCESS
}

/// What is required and not there.
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

/// Devices of one adapter, one after another; each for the tests of a family.
struct Devices {
    adapter: wgpu::Adapter,
    open: Mutex<Option<(usize, Arc<Context>)>>,
}

impl Devices {
    /// The device of a family's tests.
    fn of(&self, family: usize) -> Arc<Context> {
        let mut open = self.open.lock().unwrap();
        if let Some((of, context)) = &*open
            && *of == family
        {
            return context.clone();
        }
        // The last one closes before this one opens.
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

/// All tests on an adapter.
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
    })
}
