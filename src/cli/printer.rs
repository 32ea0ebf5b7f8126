//! What is shown, and how: the only place that writes to the terminal.
//!
//! Results go to standard output, everything else to standard error, so that
//! `URL=$(flyte serve app.py)` works.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is where printing belongs"
)]

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::args::{LogFormat, Output};
use super::live;
use super::tame::tame;
use super::timings::Timings;
use crate::error::Code;
use crate::serve::checkup::{Finding, State};
use crate::serve::{Progress, Reporter, Step};

/// Prints for one command.
#[derive(Clone)]
pub struct Printer {
    output: Output,
    is_verbose: bool,
    is_still: bool,
    steps: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Printer {
    pub fn new(output: Output) -> Self {
        Self {
            output,
            is_verbose: false,
            is_still: false,
            steps: Arc::default(),
        }
    }

    /// The same with whole tracebacks, or with steps that do not move.
    #[must_use]
    pub fn showing(self, verbose: u8, no_progress: bool) -> Self {
        Self {
            is_verbose: verbose > 0,
            is_still: no_progress || verbose > 0,
            ..self
        }
    }

    /// The same for what is not the result, and so never a document on standard output.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self {
            output: Output::Table,
            ..self.clone()
        }
    }

    /// Whether failures are told with all there is to tell.
    pub fn is_verbose(&self) -> bool {
        self.is_verbose
    }

    /// Whether documents are wanted (JSON or YAML) and not text for people.
    pub fn is_json(&self) -> bool {
        match self.output {
            Output::Json | Output::JsonRaw | Output::Yaml => true,
            Output::Table | Output::TableSimple => false,
        }
    }

    /// Shows the five steps as this output wants them.
    pub fn reporter(&self) -> Reporter {
        match self.output {
            Output::Table if is_live() && !self.is_still => live::reporter(),
            Output::Table | Output::TableSimple => plain(),
            Output::Json | Output::JsonRaw | Output::Yaml => {
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

    /// A box of the last lines of something; none where there is no terminal to draw it on.
    pub fn window(&self, title: &str, lines: usize) -> Option<Window> {
        let columns = width().filter(|_| !self.is_json())?;
        Some(Window {
            title: title.to_owned(),
            columns: columns.max(20),
            most: lines.max(1),
            lines: VecDeque::new(),
            drawn: 0,
        })
    }

    /// A result as a document, JSON or YAML.
    pub fn json(&self, value: &serde_json::Value) {
        let text = match self.output {
            Output::Yaml => serde_norway::to_string(value).ok(),
            Output::JsonRaw => None,
            Output::Json | Output::Table | Output::TableSimple => {
                serde_json::to_string_pretty(value).ok()
            }
        };
        match text {
            Some(text) => out(text.trim_end()),
            None => out(&value.to_string()),
        }
    }

    /// One document of several that follow each other: a line of JSON, or YAML behind `---`.
    pub fn json_line(&self, value: &serde_json::Value) {
        if self.output == Output::Yaml {
            out("---");
            self.json(value);
        } else {
            out(&value.to_string());
        }
    }

    /// Something that happened by itself, well or badly.
    pub fn happened(&self, is_good: bool, text: &str) {
        let mark = if is_good {
            paint("✓", GREEN)
        } else {
            paint("✗", RED)
        };
        err(&format!("{mark} {text}"));
    }

    /// Lines of somebody else's under a note.
    pub fn quoted(&self, lines: &[String]) {
        for line in lines {
            err(&format!("  {line}"));
        }
    }

    /// Rows under a heading; on a terminal no line is wider than it is.
    pub fn table(&self, heading: &[&str], rows: &[Vec<String>]) {
        let width_of = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .chain([heading[column].len()])
                .max()
                .unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..heading.len()).map(width_of).collect();
        let is_simple = self.output == Output::TableSimple;
        if let (Some(columns), false) = (width(), is_simple) {
            fit(&mut widths, columns);
        }
        let line = |cells: Vec<&str>| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{:<width$}", cut(cell, *width)))
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let heading = line(heading.to_vec());
        if is_simple {
            out(&heading);
        } else {
            out(&paint_for(&std::io::stdout(), &heading, BOLD));
        }
        for row in rows {
            out(&line(row.iter().map(String::as_str).collect()));
        }
    }

    /// A page of Markdown; on a terminal headings stand out and fences are left away.
    pub fn page(&self, text: &str) {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return out(text.trim_end());
        }
        let (mut is_code, mut paragraph) = (false, String::new());
        for line in text.trim_end().lines() {
            let begins = line.is_empty() || line.starts_with(['#', '|', '`', '-']);
            if is_code || begins {
                out_paragraph(&mut paragraph);
            }
            if line.starts_with("```") {
                is_code = !is_code;
            } else if is_code {
                out(&format!("    {line}"));
            } else if line.starts_with('#') {
                let heading = line.trim_start_matches('#').trim();
                out(&paint_for(&stdout, heading, BOLD));
            } else if line.is_empty() {
                out("");
            } else {
                // The source is broken where its own lines are full.
                if !paragraph.is_empty() {
                    paragraph.push(' ');
                }
                paragraph.push_str(line.trim());
            }
        }
        out_paragraph(&mut paragraph);
    }

    /// One thing that was looked at, and what mends it.
    pub fn finding(&self, finding: &Finding) {
        let stdout = std::io::stdout();
        let mark = match finding.state {
            State::Good => paint_for(&stdout, "✓", GREEN),
            State::Absent => paint_for(&stdout, "-", DIM),
            State::Doubtful => paint_for(&stdout, "!", YELLOW),
            State::Broken => paint_for(&stdout, "✗", RED),
        };
        let detail = hanging(&finding.detail, 12);
        out(&format!("{mark} {:<9} {detail}", finding.name));
        if let Some(fix) = &finding.fix {
            let arrow = paint_for(&stdout, "fix:", CYAN);
            out(&format!("            {arrow} {}", hanging(fix, 17)));
        }
    }

    /// Something the user should know that is not the result.
    pub fn note(&self, text: &str) {
        err(text);
    }

    /// A failure with all that is known of it.
    pub fn error(&self, code: Code, message: &str, log: &[String], hints: &[String]) {
        if self.is_json() {
            self.json(&serde_json::json!({"error": {
                "code": code.as_str(),
                "message": message,
                "log": log,
                "hints": hints,
            }}));
            return;
        }
        let error = hanging_on_stderr(message, 7);
        err(&format!("{} {error}", paint("error:", RED)));
        if !log.is_empty() {
            // An import that failed has written no log; these are lines of code.
            if code != Code::AppImportFailed {
                err("last log lines:");
            }
            self.quoted(log);
        }
        for hint in hints {
            let hint = hanging_on_stderr(hint, 6);
            err(&format!("{} {hint}", paint("hint:", CYAN)));
        }
        err(&paint(&format!("`flyte explain {code}` tells more"), DIM));
    }
}

/// A box on the terminal in which lines move up as others come.
pub struct Window {
    title: String,
    columns: usize,
    most: usize,
    lines: VecDeque<String>,
    /// Lines that stand on the terminal, borders included.
    drawn: usize,
}

impl Window {
    pub fn push(&mut self, line: &str) {
        self.lines.push_back(tame(line));
        if self.lines.len() > self.most {
            self.lines.pop_front();
        }
        self.draw();
    }

    fn draw(&mut self) {
        let text = self.text();
        let mut stdout = std::io::stdout().lock();
        // Up to where the box begins, and everything below it away.
        let back = match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        };
        // A terminal that went away has nobody to be told.
        let _ = write!(stdout, "{back}{text}").and_then(|()| stdout.flush());
        self.drawn = self.lines.len() + 2;
    }

    fn text(&self) -> String {
        use std::fmt::Write as _;

        let inner = self.columns - 4;
        let title = cut(&self.title, inner.saturating_sub(2));
        let rest = "─".repeat(inner - title.chars().count());
        let mut text = format!("╭ {title} {rest}╮\n");
        for line in &self.lines {
            let line = cut(line, inner);
            // Writing to a string does not fail.
            let _ = writeln!(text, "│ {line:<inner$} │");
        }
        let _ = writeln!(text, "╰{}╯", "─".repeat(inner + 2));
        text
    }
}

pub(super) const RED: &str = "1;31";
pub(super) const GREEN: &str = "1;32";
pub(super) const YELLOW: &str = "1;33";
pub(super) const CYAN: &str = "1;36";
pub(super) const DIM: &str = "2";
const BOLD: &str = "1";

pub(super) fn paint(text: &str, colour: &str) -> String {
    paint_for(&std::io::stderr(), text, colour)
}

/// Colour where `target` is a terminal that can show it and `NO_COLOR` is not set.
fn paint_for(target: &impl IsTerminal, text: &str, colour: &str) -> String {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if is_set("NO_COLOR") || is_dumb || !target.is_terminal() {
        text.to_owned()
    } else {
        format!("\x1b[{colour}m{text}\x1b[0m")
    }
}

/// Whether standard error shows lines that move: a terminal, and nobody's log of a build.
fn is_live() -> bool {
    let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stderr().is_terminal() && !is_ci && !is_dumb
}

/// Columns of the terminal that standard output is.
fn width() -> Option<usize> {
    width_of(&std::io::stdout())
}

fn width_of(target: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<usize> {
    if !target.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(target).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Lines for standard error that keep to the indent of the word before them.
fn hanging_on_stderr(text: &str, indent: usize) -> String {
    let Some(columns) = width_of(&std::io::stderr()) else {
        return text.to_owned();
    };
    let columns = columns.saturating_sub(indent).max(20);
    let lines: Vec<String> = text
        .lines()
        .map(|line| wrapped(line, indent, columns))
        .collect();
    lines.join("\n")
}

/// Text behind an indent of so many columns; on a terminal its later lines keep to the indent.
pub(super) fn hanging(text: &str, indent: usize) -> String {
    let Some(columns) = width() else {
        return text.to_owned();
    };
    let columns = columns.saturating_sub(indent).max(20);
    let lines: Vec<String> = text
        .lines()
        .map(|line| wrapped(line, indent, columns))
        .collect();
    lines.join("\n")
}

/// Writes a paragraph of Markdown no wider than the terminal, and empties it; what follows a bullet
/// keeps to its indent.
fn out_paragraph(paragraph: &mut String) {
    if paragraph.is_empty() {
        return;
    }
    let indent = if paragraph.starts_with("- ") { 2 } else { 0 };
    out(&match width() {
        Some(columns) => wrapped(paragraph, indent, columns.saturating_sub(indent).max(20)),
        None => std::mem::take(paragraph),
    });
    paragraph.clear();
}

/// Lines of at most `columns`, where words allow it.
fn wrapped(text: &str, indent: usize, columns: usize) -> String {
    let (mut told, mut used) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > columns {
            told.push('\n');
            told.push_str(&" ".repeat(indent));
            used = 0;
        } else if used > 0 {
            told.push(' ');
            used += 1;
        }
        told.push_str(word);
        used += length;
    }
    told
}

/// At most `columns` letters; what is cut is marked.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Takes from the widest column until all fit. The last one, mostly an address that is of no use
/// when it is cut, gives way when the others have given what they can.
fn fit(widths: &mut [usize], columns: usize) {
    const LEAST: usize = 8;
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > columns {
        let Some((last, others)) = widths.split_last_mut() else {
            return;
        };
        match others.iter_mut().max().filter(|widest| **widest > LEAST) {
            Some(widest) => *widest -= 1,
            None if *last > LEAST => *last -= 1,
            None => return,
        }
    }
}

/// Writes a line; a reader that went away (`| head`) is not an error of ours.
fn out(text: &str) {
    show(&mut std::io::stdout(), text);
}

fn err(text: &str) {
    show(&mut std::io::stderr(), text);
}

/// A terminal obeys what it is shown; a file or a program gets the text as it is.
fn show(target: &mut (impl Write + IsTerminal), text: &str) {
    let _ = if target.is_terminal() {
        writeln!(target, "{}", tame(text))
    } else {
        writeln!(target, "{text}")
    };
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
    format!("{:<9} {detail}{}", step.title(), took_text(step, took))
}

/// What a step took, to be set behind it; making a URL takes no time.
pub(super) fn took_text(step: Step, took: Duration) -> String {
    match step {
        Step::Url => String::new(),
        Step::Bundle | Step::Image | Step::Deploy | Step::Activate => {
            format!("  ({})", duration(took))
        }
    }
}

/// One line for each step as it ends, and where the time went, even if it ends in a failure.
pub fn plain() -> Reporter {
    let told = Mutex::new(Plain::default());
    Arc::new(move |progress| locked(&told).take(progress))
}

#[derive(Default)]
struct Plain {
    timings: Timings,
}

impl Plain {
    fn take(&mut self, progress: Progress) {
        let ending = self.timings.take(&progress);
        match progress {
            Progress::Finished { step, detail, took } => {
                err(&finished(step, &detail, took));
            }
            Progress::Note(text) => err(&format!("note: {text}")),
            Progress::Line(text) => err(&format!("          {text}")),
            // Without a terminal there is nothing that a moving line could replace.
            Progress::Started(_) | Progress::Sent { .. } => {}
        }
        for line in ending.unwrap_or_default() {
            err(&line);
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        for line in self.timings.broken_off() {
            err(&line);
        }
    }
}

pub(super) fn locked<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
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
    if is_live() {
        return live::reporter();
    }
    Arc::new(|progress| match progress {
        Progress::Note(text) => err(&format!("flyte: {text}")),
        Progress::Started(_)
        | Progress::Finished { .. }
        | Progress::Line(_)
        | Progress::Sent { .. } => {}
    })
}

/// Says something to the person in front of the terminal while a command waits.
pub fn prompt(text: &str) {
    err(&format!("flyte: {text}"));
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

/// Shows what a command does, as far as `-v` was given: its own steps, more of them, and those of
/// the libraries. Libraries that write what they send are kept short, for tokens are among it.
pub fn log_to_terminal(verbose: u8, format: LogFormat) {
    let filter = match verbose {
        0 => return,
        1 => "warn,flyte_native=debug",
        2 => "info,flyte_native=trace",
        _ => "debug,h2=info,hyper=info,hyper_util=info,flyte_native=trace",
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_ansi(false)
        .with_writer(std::io::stderr);
    // A second command of one process finds a subscriber, and keeps it.
    let _ = match format {
        LogFormat::Console => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
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

    #[test]
    fn long_text_is_broken_between_words() {
        assert_eq!(wrapped("one two three", 2, 8), "one two\n  three");
        assert_eq!(wrapped("unbreakable word", 2, 4), "unbreakable\n  word");
        assert_eq!(wrapped("short", 2, 20), "short");
    }

    #[test]
    fn a_box_holds_the_last_lines_and_is_as_wide_as_the_terminal() {
        let window = Window {
            title: "web".to_owned(),
            columns: 20,
            most: 2,
            lines: VecDeque::from(["short".to_owned(), "longer than the box is".to_owned()]),
            drawn: 0,
        };
        let text = window.text();
        assert!(
            text.lines().all(|line| line.chars().count() == 20),
            "{text}"
        );
        assert!(text.contains("│ short            │"), "{text}");
        assert!(text.contains("│ longer than the… │"), "{text}");
    }

    #[test]
    fn tables_fit_and_addresses_are_cut_last() {
        let fitted = |columns| {
            let mut widths = [40, 9, 8, 24];
            fit(&mut widths, columns);
            widths
        };
        assert_eq!(fitted(200), [40, 9, 8, 24]);
        assert_eq!(fitted(80), [33, 9, 8, 24]);
        assert_eq!(fitted(50), [8, 8, 8, 20]);
        assert_eq!(fitted(10), [8, 8, 8, 8]);
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
