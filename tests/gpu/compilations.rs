//! A budget for compilations. Compiling kernels is nine tenths of a first run of these tests, so the child of each
//! adapter reports how many kernels its tests compiled, and fails if they exceed the budget.
//!
//! With `SURPRISAL_COMPILATIONS=FILE` the child also writes one line for each compilation: test, label, code, seconds.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    sync::Mutex,
};

use libtest_mimic::Arguments;
use surprisal::ledger::{self, Compilation};

/// The most different kernels that the tests of one adapter may need. The number may only fall, except for a new
/// operation, which may raise it by 40. (That any gradient of linear and pair losses may be added to what is there
/// raised lavapipe's by 20; that cross-entropy learns its temperature raised lavapipe's by 20 and SwiftShader's by 10; that
/// dice has a form over the classes of a softmax, which is three losses of rows, raised all by 30; that by-products have
/// upstream gradients and rows several targets raised lavapipe's by 170, SwiftShader's by 80 and that of GL by 70; that
/// four more losses learn a temperature, that losses of rows take quantised logits, that there are margins, filters and unit
/// vectors in linear and contrastive losses, and the two operations `linear_distillation` and `hierarchical_cross_entropy`
/// raised all by 490 to 550; that layers leave out ignored rows, and the five operations `gumbel_softmax`,
/// `hessian_vector_product`, `draw_samples`, `sampled_softmax` and `linear_sampled_softmax` raised all by 240 to 280.)
const BUDGET: &[(&str, usize)] =
    &[("lavapipe", 3840), ("swiftshader", 3610), ("llvmpipe_gl", 3540)];
/// The budget of all other adapters, which meet every pair of the catalogue of calls.
const OTHERS: usize = 4300;
/// The number of expensive kernels that are named.
const NAMED: usize = 10;

/// Each test that has begun, and the number of compilations before it.
static BEGUN: Mutex<Vec<(String, usize)>> = Mutex::new(Vec::new());

/// Records that a test begins.
pub fn begin(test: &str) {
    BEGUN.lock().unwrap().push((test.to_owned(), ledger::entries().len()));
}

/// Reports what was compiled. The budget is checked only if the whole suite has run.
pub fn within_budget(adapter: &str, arguments: &Arguments) -> bool {
    if arguments.list {
        return true;
    }
    let entries = ledger::entries();
    let kernels = entries.iter().map(|entry| entry.code).collect::<HashSet<_>>().len();
    let budget = BUDGET.iter().find(|(name, _)| *name == adapter).map_or(OTHERS, |&(_, most)| most);
    let seconds: f64 = entries.iter().map(|entry| entry.seconds).sum();
    println!(
        "{adapter}: {kernels} specialisations, {} compilations (budget {budget}), {seconds:.0} s",
        entries.len()
    );
    print!("{}", most_expensive(&entries));
    write_all(adapter, &entries);
    let whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.ignored;
    if whole && kernels > budget {
        println!("{adapter}: {kernels} specialisations are past the budget of {budget}");
    }
    !whole || kernels <= budget
}

/// The kernels that took longest, each with the time of all its compilations.
fn most_expensive(entries: &[Compilation]) -> String {
    let mut kernels: BTreeMap<u64, (f64, usize, &str)> = BTreeMap::new();
    for Compilation { label, code, seconds } in entries {
        let (sum, count, _) = kernels.entry(*code).or_insert((0.0, 0, label));
        (*sum, *count) = (*sum + seconds, *count + 1);
    }
    let mut kernels: Vec<_> = kernels.into_values().collect();
    kernels.sort_by(|a, b| b.0.total_cmp(&a.0));
    let line = |(seconds, count, label): &(f64, usize, &str)| {
        format!("{seconds:9.2} s, {count} ×  {label}\n")
    };
    kernels.iter().take(NAMED).map(line).collect()
}

/// Writes the file that `SURPRISAL_COMPILATIONS` names.
fn write_all(adapter: &str, entries: &[Compilation]) {
    let Some(path) = std::env::var_os("SURPRISAL_COMPILATIONS") else { return };
    let begun = BEGUN.lock().unwrap();
    let mut text = String::new();
    for (at, Compilation { label, code, seconds }) in entries.iter().enumerate() {
        let test = begun.iter().rev().find(|(_, first)| *first <= at).map_or("", |(test, _)| test);
        let _ = writeln!(text, "{test}\t{label}\t{code:016x}\t{seconds:.4}");
    }
    let mut path = path;
    path.push(format!(".{adapter}.tsv"));
    std::fs::write(path, text).unwrap();
}
