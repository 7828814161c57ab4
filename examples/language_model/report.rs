//! What the user sees: progress, the table, the curve.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::{IsTerminal as _, stderr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;

/// Bytes in a form that people read easily.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Converts nats per token into bits per byte of text.
pub fn bits_per_byte(loss: f64, bytes_per_token: f64) -> f64 {
    loss / std::f64::consts::LN_2 / bytes_per_token
}

/// A progress bar on a terminal, plain lines elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    steps: u32,
    tokens_per_step: usize,
    bytes_per_token: f64,
    peak: String,
    recent: Vec<f64>,
    started: Instant,
    paused: Duration,
    last_line: Option<Instant>,
}

impl Progress {
    /// How many steps the shown loss is a mean of.
    const RECENT: usize = 10;
    /// The time between two plain lines.
    const PAUSE: Duration = Duration::from_secs(10);

    /// Progress through `steps` steps.
    pub fn new(
        steps: u32,
        tokens_per_step: usize,
        bytes_per_token: f64,
        peak_bytes: u64,
    ) -> Result<Self, Box<dyn Error>> {
        let bar = stderr().is_terminal().then(|| ProgressBar::new(u64::from(steps)));
        if let Some(bar) = &bar {
            let template = "{bar:40.cyan/blue} {pos}/{len} · {eta} left\n{msg}";
            bar.set_style(ProgressStyle::with_template(template)?);
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Ok(Self {
            bar,
            steps,
            tokens_per_step,
            bytes_per_token,
            peak: megabytes(peak_bytes),
            recent: Vec::new(),
            started: Instant::now(),
            paused: Duration::ZERO,
            last_line: None,
        })
    }

    /// Runs something whose time is not counted as training time.
    pub fn aside<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.paused += start.elapsed();
        result
    }

    /// Shows the loss of step `step`.
    pub fn step(&mut self, step: u32, loss: f64) {
        self.recent.push(loss);
        let recent = &self.recent[self.recent.len().saturating_sub(Self::RECENT)..];
        let mean = recent.iter().sum::<f64>() / recent.len() as f64;
        let line = format!(
            "loss {mean:.3} · perplexity {:.0} · {:.2} bits/byte · {:.0} tokens/s · peak {}",
            mean.exp(),
            bits_per_byte(mean, self.bytes_per_token),
            f64::from(step) * self.tokens_per_step as f64 / self.training_time().as_secs_f64(),
            self.peak,
        );
        if let Some(bar) = &self.bar {
            bar.set_position(u64::from(step));
            bar.set_message(line);
        } else if step == self.steps
            || self.last_line.is_none_or(|last| last.elapsed() >= Self::PAUSE)
        {
            eprintln!("step {step}/{}: {line}", self.steps);
            self.last_line = Some(Instant::now());
        }
    }

    /// Seconds in the steps alone.
    pub fn training_time(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.paused)
    }

    /// The losses of all steps so far.
    pub fn losses(&self) -> &[f64] {
        &self.recent
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// Steps done.
    pub step: u32,
    /// Mean training loss since the previous row.
    pub train: Option<f64>,
    /// Held-out loss after the step.
    pub held_out: Option<f64>,
}

/// The table of a run.
pub fn table(rows: &[Row], bytes_per_token: f64) -> Table {
    let number = |value: Option<f64>, digits| {
        value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["step", "train loss", "held-out loss", "perplexity", "bits per byte"]);
    for row in rows {
        table.add_row([
            row.step.to_string(),
            number(row.train, 4),
            number(row.held_out, 4),
            number(row.held_out.map(f64::exp), 1),
            number(row.held_out.map(|loss| bits_per_byte(loss, bytes_per_token)), 3),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The curve's default path, in the build's own folder.
pub fn default_curve() -> PathBuf {
    // target/release/examples/language_model
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(3).unwrap_or(Path::new(".")).join("language_model.svg")
}

/// Draws the losses of every step, the held-out losses and the unigram's as an SVG file.
pub fn draw(path: &Path, losses: &[f64], rows: &[Row], unigram: f64) -> Result<(), Box<dyn Error>> {
    let held_out: Vec<(f64, f64)> =
        rows.iter().filter_map(|row| Some((f64::from(row.step), row.held_out?))).collect();
    let train: Vec<(f64, f64)> = (1..).map(f64::from).zip(losses.iter().copied()).collect();
    let ys = held_out.iter().chain(&train).map(|point| point.1).chain([unigram]);
    let (low, high) = ys.fold((f64::MAX, f64::MIN), |(l, h), y| (l.min(y), h.max(y)));
    let last = losses.len().max(1) as f64;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }

    let area = SVGBackend::new(path, (900, 540)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("loss in nats a token, 100,277 classes", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..last, low - 0.2..high + 0.2)?;
    chart.configure_mesh().x_desc("step").y_desc("nats").light_line_style(WHITE).draw()?;
    let grey = RGBColor(120, 120, 120);
    let curves = [
        ("training", RGBColor(120, 170, 230), 1, train),
        ("held out", RGBColor(200, 40, 40), 3, held_out),
        ("held-out unigram", grey, 2, vec![(0.0, unigram), (last, unigram)]),
    ];
    for (name, colour, width, points) in curves {
        let style = colour.stroke_width(width);
        let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style);
        chart.draw_series(LineSeries::new(points, style))?.label(name).legend(key);
    }
    chart.configure_series_labels().background_style(WHITE).border_style(grey).draw()?;
    area.present()?;
    Ok(())
}

/// The losses of the same steps on two backends, side by side, as far as each backend got; and whether they agree.
pub fn side_by_side(cpu: &[f64], gpu: &[f64]) -> (String, bool) {
    /// Allows for f32 against f64 over a hundred thousand classes; an error in a gradient is far larger.
    const TOLERANCE: f64 = 1e-4;
    let mut text = String::new();
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["step", "CPU reference (f64)", "GPU (f32)", "relative difference"]);
    let difference = |cpu: f64, gpu: f64| (gpu - cpu).abs() / cpu.abs();
    for (step, &cpu) in cpu.iter().enumerate() {
        let there = gpu
            .get(step)
            .map(|&gpu| [format!("{gpu:.6}"), format!("{:.1e}", difference(cpu, gpu))]);
        let [gpu, difference] = there.unwrap_or_else(|| ["–".to_owned(), "–".to_owned()]);
        table.add_row([(step + 1).to_string(), format!("{cpu:.6}"), gpu, difference]);
    }
    let agree = cpu.iter().zip(gpu).all(|(&cpu, &gpu)| difference(cpu, gpu) <= TOLERANCE);
    let verdict = if agree { "agree" } else { "DO NOT agree" };
    // Writing to a string cannot fail.
    let _ = write!(text, "{table}");
    if !gpu.is_empty() {
        let _ = write!(text, "\nthe losses {verdict} (within {TOLERANCE:.0e})");
    }
    (text, agree)
}
