//! What is shown, and how: the only place that writes to the terminal.
//!
//! Results go to standard output, everything else to standard error, so that
//! `URL=$(flyte serve app.py)` works.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is where printing belongs"
)]

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::args::Output;
use crate::serve::{Progress, Reporter, Step, size};

/// Prints for one command.
#[derive(Clone)]
pub struct Printer {
    output: Output,
    steps: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Printer {
    pub fn new(output: Output) -> Self {
        Self {
            output,
            steps: Arc::default(),
        }
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Shows the five steps as this output wants them.
    pub fn reporter(&self) -> Reporter {
        match self.output {
            Output::Table if std::io::stderr().is_terminal() => live(),
            Output::Table => plain(),
            Output::Json => {
                let steps = Arc::clone(&self.steps);
                Arc::new(move |progress| collect(&steps, progress))
            }
        }
    }

    /// The steps that were reported, for a JSON document.
    pub fn steps(&self) -> Vec<serde_json::Value> {
        self.steps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A result of one line.
    pub fn line(&self, text: &str) {
        out(text);
    }

    /// A result as a document.
    pub fn json(&self, value: &serde_json::Value) {
        out(&serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()));
    }

    /// One document of several that follow each other, on a line of its own.
    pub fn json_line(&self, value: &serde_json::Value) {
        out(&value.to_string());
    }

    /// Something that happened by itself, well or badly.
    pub fn happened(&self, is_good: bool, text: &str) {
        let mark = if is_good {
            paint("✓", GREEN)
        } else {
            paint("✗", RED)
        };
        eprintln!("{mark} {text}");
    }

    /// Lines of somebody else's under a note.
    pub fn quoted(&self, lines: &[String]) {
        for line in lines {
            eprintln!("  {line}");
        }
    }

    /// Rows under a heading.
    pub fn table(&self, heading: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .chain([heading[column].len()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heading.len()).map(width).collect();
        let line = |cells: Vec<&str>| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            out(padded.join("  ").trim_end());
        };
        line(heading.to_vec());
        for row in rows {
            line(row.iter().map(String::as_str).collect());
        }
    }

    /// Something the user should know that is not the result.
    pub fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    /// A failure with all that is known of it.
    pub fn error(&self, code: &str, message: &str, log: &[String], hints: &[String]) {
        if self.is_json() {
            self.json(&serde_json::json!({"error": {
                "code": code,
                "message": message,
                "log": log,
                "hints": hints,
            }}));
            return;
        }
        eprintln!("{} {message}", paint("error:", RED));
        if !log.is_empty() {
            eprintln!("last log lines:");
            self.quoted(log);
        }
        for hint in hints {
            eprintln!("{} {hint}", paint("hint:", CYAN));
        }
    }

    /// An exception as Python renders it.
    pub fn raised(&self, text: &str) {
        if self.is_json() {
            self.json(&serde_json::json!({"error": {"code": "exception", "message": text}}));
        } else {
            eprintln!("{}", text.trim_end());
        }
    }
}

const RED: &str = "1;31";
const GREEN: &str = "1;32";
const YELLOW: &str = "1;33";
const CYAN: &str = "1;36";

fn paint(text: &str, colour: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some() || !std::io::stderr().is_terminal();
    if plain {
        text.to_owned()
    } else {
        format!("\x1b[{colour}m{text}\x1b[0m")
    }
}

/// Writes a line; a reader that went away (`| head`) is not an error of ours.
fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// `312 ms`, `1.5 s`.
pub fn duration(took: Duration) -> String {
    let millis = took.as_millis();
    if millis < 1000 {
        format!("{millis} ms")
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

fn finished(step: Step, detail: &str, took: Duration) -> String {
    let took = match step {
        Step::Url => String::new(),
        Step::Bundle | Step::Image | Step::Deploy | Step::Activate => {
            format!("  ({})", duration(took))
        }
    };
    format!("{:<9} {detail}{took}", step.title())
}

/// One line for each step as it ends.
pub fn plain() -> Reporter {
    Arc::new(|progress| match progress {
        Progress::Finished { step, detail, took } => eprintln!("{}", finished(step, &detail, took)),
        Progress::Note(text) => eprintln!("note: {text}"),
        Progress::Line(text) => eprintln!("          {text}"),
        // Without a terminal there is nothing that a moving line could replace.
        Progress::Started(_) | Progress::Sent { .. } => {}
    })
}

/// `[#####-----] 12.3 of 24.6 MB sent`
fn bar(done: u64, total: u64) -> String {
    const CELLS: u64 = 20;
    let full = done.saturating_mul(CELLS).checked_div(total).unwrap_or(0);
    let cell = |index| if index < full { '━' } else { '╌' };
    let cells: String = (0..CELLS).map(cell).collect();
    format!("{cells} {} of {} sent", size(done), size(total))
}

/// The step under way with a spinner, those before it as lines.
pub fn live() -> Reporter {
    // A failure drops the reporter; nothing of the spinner may stay above the error.
    let spinner = ProgressBar::new_spinner().with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:9} {wide_msg} {elapsed}") {
        spinner.set_style(style);
    }
    Arc::new(move |progress| match progress {
        Progress::Started(step) => {
            spinner.reset_elapsed();
            spinner.set_prefix(step.title());
            spinner.set_message("");
            spinner.enable_steady_tick(Duration::from_millis(100));
        }
        Progress::Finished { step, detail, took } => {
            let mark = paint("✓", GREEN);
            spinner.println(format!("{mark} {}", finished(step, &detail, took)));
            if step == Step::Url {
                spinner.finish_and_clear();
            }
        }
        Progress::Note(text) => spinner.println(format!("{} {text}", paint("note:", YELLOW))),
        Progress::Line(text) => spinner.set_message(text),
        Progress::Sent { done, total } => spinner.set_message(bar(done, total)),
    })
}

fn collect(steps: &Mutex<Vec<serde_json::Value>>, progress: Progress) {
    let entry = match progress {
        Progress::Finished { step, detail, took } => serde_json::json!({
            "step": step.title().to_lowercase(),
            "detail": detail,
            "seconds": took.as_secs_f64(),
        }),
        Progress::Note(text) => serde_json::json!({"note": text}),
        Progress::Started(_) | Progress::Line(_) | Progress::Sent { .. } => return,
    };
    steps
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(entry);
}

/// For calls from Python: live on a terminal, otherwise only what the caller should know.
pub fn for_library() -> Reporter {
    if std::io::stderr().is_terminal() {
        return live();
    }
    Arc::new(|progress| match progress {
        Progress::Note(text) => eprintln!("flyte: {text}"),
        Progress::Started(_)
        | Progress::Finished { .. }
        | Progress::Line(_)
        | Progress::Sent { .. } => {}
    })
}

/// Says something to the person in front of the terminal while a command waits.
pub fn prompt(text: &str) {
    eprintln!("flyte: {text}");
}

/// Shows nothing.
pub fn silent() -> Reporter {
    Arc::new(|_| {})
}

/// Lets the platform's process write its log to standard error, which is a file.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLYTE_PLATFORM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call finds a subscriber, which is what is wanted.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_well() {
        assert_eq!(
            finished(Step::Bundle, "3 files", Duration::from_millis(12)),
            "Bundle    3 files  (12 ms)"
        );
        assert_eq!(
            finished(Step::Url, "http://localhost:1", Duration::from_secs(2)),
            "URL       http://localhost:1"
        );
        assert_eq!(duration(Duration::from_millis(1500)), "1.5 s");
    }
}
