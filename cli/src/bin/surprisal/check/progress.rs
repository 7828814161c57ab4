//! How far a check is: one bar for all cases on all adapters where people watch, otherwise a line a minute.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::output;

/// How often a line is printed where there is no bar.
const INTERVAL: Duration = Duration::from_secs(60);

pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    /// When the last line was printed.
    said: Cell<Instant>,
}

impl Progress {
    /// Progress over this many cases, each counted once an adapter.
    pub fn new(cases: usize) -> Self {
        // indicatif shows no bar where stderr is no terminal.
        let bar =
            if output::is_quiet() { ProgressBar::hidden() } else { ProgressBar::new(cases as u64) };
        bar.set_length(cases as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{wide_bar} {pos}/{len} cases · {eta} left · {msg}")
        {
            bar.set_style(style);
        }
        Self { bar, start: Instant::now(), said: Cell::new(Instant::now()) }
    }

    /// The cases from now on run on this adapter.
    pub fn on(&self, adapter: &str) {
        self.bar.set_message(adapter.to_owned());
    }

    /// Counts cases that are done.
    pub fn done(&self, cases: usize) {
        self.bar.inc(cases as u64);
        if !output::is_watched() && self.said.get().elapsed() >= INTERVAL {
            self.said.set(Instant::now());
            let length = self.bar.length().unwrap_or(0);
            output::note(&line(self.bar.position(), length, self.start.elapsed()));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(done: u64, all: u64, elapsed: Duration) -> String {
    let left = elapsed.mul_f64(all.saturating_sub(done) as f64 / done.max(1) as f64);
    format!(
        "checked {done} of {all} cases in {}, about {} left",
        HumanDuration(elapsed),
        HumanDuration(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_cases_left() {
        let said = line(100, 400, Duration::from_secs(60));
        assert_eq!(said, "checked 100 of 400 cases in 60 seconds, about 3 minutes left");
        assert!(line(0, 5, Duration::from_secs(60)).starts_with("checked 0 of 5 cases"));
    }
}
