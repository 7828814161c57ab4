//! Lists: arguments of several tensors, named `parameters.0`, `parameters.1` and so on.
//!
//! A list of one tensor may also have just the argument's name. The suffix is what a tensor's name adds to the
//! argument's name. Tensors of several lists with the same suffix belong together: `gradient.1` is the gradient of
//! `parameters.1`.

use std::collections::BTreeSet;

use crate::{
    data::error::{Error, Result},
    spec::about::{About, Argument},
};

/// The number in a suffix: 2 in `.2`.
fn number(suffix: &str) -> Option<usize> {
    let digits = suffix.strip_prefix('.')?;
    let number: usize = digits.parse().ok()?;
    // Every tensor has only one name: `.02` and `.+2` are refused.
    (number.to_string() == digits).then_some(number)
}

/// Whether this is a valid suffix of a list's tensor.
pub(super) fn is_suffix(suffix: &str) -> bool {
    suffix.is_empty() || number(suffix).is_some()
}

/// The names among these that are tensors of the list, in the order of their numbers.
///
/// ```
/// use surprisal::loss::list;
/// let names = ["lr", "p.10", "p.2", "p.0"].map(str::to_owned);
/// assert_eq!(list::names("p", names.iter()), ["p.0", "p.2", "p.10"]);
/// ```
pub fn names<'n>(argument: &str, names: impl IntoIterator<Item = &'n String>) -> Vec<&'n str> {
    let suffix = |name: &'n String| Some((name.strip_prefix(argument)?, name.as_str()));
    let own = names.into_iter().filter_map(suffix).filter(|(suffix, _)| is_suffix(suffix));
    let mut own: Vec<_> = own.map(|(suffix, name)| (number(suffix), name)).collect();
    own.sort_unstable();
    own.into_iter().map(|(_, name)| name).collect()
}

/// Checks that the lists of a call agree: all have equally many tensors, numbered from 0 without a gap, and each
/// output belongs to a tensor that is given.
pub(super) fn check<'n>(
    about: &About,
    inputs: &[&'n String],
    outputs: impl Iterator<Item = &'n String>,
) -> Result<()> {
    let lists = || about.inputs.iter().filter(|argument| argument.list);
    let given = |list: &Argument| names(list.name, inputs.iter().copied());
    let all: BTreeSet<&str> = lists()
        .flat_map(|list| given(list).into_iter().filter_map(|name| list.suffix(name)))
        .collect();
    if all.contains("") && all.len() > 1 {
        return Err(mixed(about, lists().flat_map(given)));
    }
    if let Some(last) = all.iter().filter_map(|suffix| number(suffix)).max() {
        for list in lists().filter(|list| !given(list).is_empty()) {
            check_numbers(about, list, &given(list), last)?;
        }
    }
    for name in outputs {
        let list = about.output(name).filter(|argument| argument.list);
        if let Some(list) = list
            && !list.suffix(name).is_some_and(|suffix| all.contains(suffix))
        {
            let known: Vec<String> =
                all.iter().map(|suffix| format!("{}{suffix}", list.name)).collect();
            return Err(Error::UnknownName {
                operation: about.name.into(),
                kind: "output",
                name: name.clone().into(),
                known: known.join(", ").into(),
            });
        }
    }
    Ok(())
}

/// Whether a list has a tensor of each number from 0 to `last`.
fn check_numbers(about: &About, list: &Argument, names: &[&str], last: usize) -> Result<()> {
    // The names are in the order of their numbers: the first one that is out of place shows a gap.
    let gap = (0..=last)
        .find(|&nth| names.get(nth).and_then(|name| number(list.suffix(name)?)) != Some(nth));
    let Some(gap) = gap else { return Ok(()) };
    Err(Error::MissingInput {
        operation: about.name.into(),
        argument: format!("{}.{gap}", list.name).into(),
        reason: format!("every list of this call has tensors 0 to {last}, or none").into(),
    })
}

/// One tensor has its argument's own name, and another one a number.
fn mixed<'n>(about: &About, mut names: impl Iterator<Item = &'n str> + Clone) -> Error {
    let bare = names.clone().find(|name| about.inputs.iter().any(|input| input.name == *name));
    let numbered = names.find(|name| about.inputs.iter().all(|input| input.name != *name));
    Error::Conflict {
        operation: about.name.into(),
        argument: bare.unwrap_or_default().into(),
        other: numbered.unwrap_or_default().into(),
        reason:
            "every list has one tensor under its own name, or the tensors of all lists are numbered"
                .into(),
    }
}
