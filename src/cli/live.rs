//! The steps under way as lines that move, those that are over as lines that stay.
//!
//! What an installer writes is folded to its last lines below the image's own; when the build fails,
//! the error unfolds it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};

use super::printer::{DIM, GREEN, RED, YELLOW, locked, paint, took_text};
use super::tame::tame;
use super::timings::Timings;
use crate::serve::{Progress, Reporter, Step, size};

/// Lines of an installer that are shown at a time.
const FOLDED: usize = 4;

/// Reports to the terminal that standard error is.
pub fn reporter() -> Reporter {
    let screen = Mutex::new(Screen::default());
    Arc::new(move |progress| locked(&screen).take(progress))
}

#[derive(Default)]
struct Screen {
    lines: MultiProgress,
    under_way: BTreeMap<Step, Running>,
    timings: Timings,
    /// When the upload of a step began.
    uploads: BTreeMap<Step, Instant>,
}

/// A step, begun for one app or for several at the same time.
struct Running {
    line: ProgressBar,
    begun: usize,
    folded: VecDeque<String>,
    tail: Vec<ProgressBar>,
}

impl Screen {
    fn take(&mut self, progress: Progress) {
        let ending = self.timings.take(&progress);
        match progress {
            Progress::Started(step) => self.begin(step),
            Progress::Finished { step, detail, took } => {
                let (mark, took) = (paint("✓", GREEN), paint(&took_text(step, took), DIM));
                self.say(&format!("{mark} {:<9} {detail}{took}", step.title()));
                self.end(step);
            }
            Progress::Note(text) => self.say(&format!("{} {text}", paint("note:", YELLOW))),
            Progress::Line(text) => self.fold(&text),
            Progress::Sent { step, done, total } => self.sent(step, done, total),
        }
        for line in ending.unwrap_or_default() {
            self.say(&paint(&format!("  {line}"), DIM));
        }
    }

    fn begin(&mut self, step: Step) {
        let lines = &self.lines;
        let running = self.under_way.entry(step).or_insert_with(|| Running {
            line: moving(lines.add(bar("{spinner} {prefix:9} {wide_msg} {elapsed}"))),
            begun: 0,
            folded: VecDeque::new(),
            tail: Vec::new(),
        });
        running.begun += 1;
        running.line.set_prefix(step.title());
    }

    fn end(&mut self, step: Step) {
        let Some(running) = self.under_way.get_mut(&step) else {
            return;
        };
        running.begun = running.begun.saturating_sub(1);
        if running.begun == 0 {
            self.under_way.remove(&step);
        }
    }

    /// A line that stays, above those that move.
    fn say(&self, text: &str) {
        // A terminal that went away has nobody to be told.
        let _ = self.lines.println(tame(text));
    }

    /// Only an installer writes many lines; what else is told replaces what was told before.
    fn fold(&mut self, text: &str) {
        let text = tame(text);
        if let Some(image) = self.under_way.get_mut(&Step::Image) {
            image.folded.push_back(text);
            if image.folded.len() > FOLDED {
                image.folded.pop_front();
            } else {
                let above = image.tail.last().unwrap_or(&image.line);
                let line = self
                    .lines
                    .insert_after(above, bar("              {wide_msg:.dim}"));
                image.tail.push(line);
            }
            for (line, text) in image.tail.iter().zip(&image.folded) {
                line.set_message(text.clone());
            }
        } else if let Some((_, running)) = self.under_way.last_key_value() {
            running.line.set_message(text);
        }
    }

    fn sent(&mut self, step: Step, done: u64, total: u64) {
        let began = *self.uploads.entry(step).or_insert_with(Instant::now);
        if let Some(running) = self.under_way.get(&step) {
            running
                .line
                .set_message(upload(done, total, began.elapsed()));
        }
        if done >= total {
            self.uploads.remove(&step);
        }
    }
}

impl Drop for Screen {
    /// What is under way when nobody reports any more is where it failed; why, the error tells.
    fn drop(&mut self) {
        for step in self.under_way.keys() {
            self.say(&format!("{} {}", paint("✗", RED), step.title()));
        }
        for line in self.timings.broken_off() {
            self.say(&paint(&format!("  {line}"), DIM));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for line in self.tail.iter().chain([&self.line]) {
            line.finish_and_clear();
        }
    }
}

fn bar(template: &str) -> ProgressBar {
    // A failure drops the reporter; nothing that moves may stay above the error.
    let bar = ProgressBar::new_spinner().with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn moving(bar: ProgressBar) -> ProgressBar {
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// `━━━━━━╌╌╌╌  61 %  12.3 of 20.1 MB, 8.2 MB/s`
fn upload(done: u64, total: u64, took: Duration) -> String {
    const CELLS: u64 = 20;
    let part = |of: u64| done.saturating_mul(of).checked_div(total).unwrap_or(of);
    let cell = |index| if index < part(CELLS) { '━' } else { '╌' };
    let cells: String = (0..CELLS).map(cell).collect();
    let told = format!(
        "{cells} {:>3} %  {} of {}",
        part(100),
        size(done),
        size(total)
    );
    // In the first moments a rate says nothing.
    if took < Duration::from_millis(300) {
        return told;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate, shown with three digits"
    )]
    let rate = (done as f64 / took.as_secs_f64()) as u64;
    format!("{told}, {}/s", size(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_tells_part_sizes_and_rate() {
        let told = upload(5_000_000, 20_000_000, Duration::from_secs(2));
        assert!(told.starts_with("━━━━━╌"), "{told}");
        assert!(
            told.ends_with("  25 %  5.0 MB of 20.0 MB, 2.5 MB/s"),
            "{told}"
        );
        assert!(upload(0, 0, Duration::ZERO).ends_with("100 %  0 B of 0 B"));
    }
}
