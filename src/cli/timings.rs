//! Where the time of a serve call went, and what would make the next one faster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::printer::duration;
use crate::serve::{Progress, Step, size};

/// From here on somebody waits.
const SLOW_IMAGE: Duration = Duration::from_secs(5);
const SLOW_START: Duration = Duration::from_secs(10);
/// Nobody asks where less than this went.
const WAITED: Duration = Duration::from_secs(2);
/// What goes over a common network in a second.
const LARGE_BYTES: u64 = 20_000_000;
/// Slower than this, the network is what one waits for.
const SLOW_BYTES_PER_SECOND: f64 = 1_000_000.0;

/// Listens to the steps until the last one ends.
#[derive(Debug, Default)]
pub struct Timings {
    began: Option<Instant>,
    steps: BTreeMap<Step, Spent>,
    /// Whether an image was built, and not found.
    is_built: bool,
    upload: Option<Upload>,
}

/// Time in which a step went on, for one app or for several side by side.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// Beginnings without an end.
    running: usize,
    since: Option<Instant>,
    /// The longest of those that go on side by side.
    longest: Duration,
    before: Duration,
}

impl Spent {
    fn begin(&mut self) {
        self.running += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self, took: Duration) {
        self.longest = self.longest.max(took);
        self.running = self.running.saturating_sub(1);
        // Apps that depend on others come up after those, so one round is added to the other.
        if self.running == 0
            && let Some(since) = self.since.take()
        {
            self.before += self.longest.max(since.elapsed());
            self.longest = Duration::ZERO;
        }
    }

    /// Until now, for a step that was broken off.
    fn total(&self) -> Duration {
        let under_way = self.since.map(|since| since.elapsed()).unwrap_or_default();
        self.before + self.longest.max(under_way)
    }
}

#[derive(Debug)]
struct Upload {
    began: Instant,
    bytes: u64,
    took: Duration,
}

impl Timings {
    /// The lines to be told when `progress` is the end, the total first.
    pub fn take(&mut self, progress: &Progress) -> Option<Vec<String>> {
        match progress {
            Progress::Started(step) => {
                self.began.get_or_insert_with(Instant::now);
                self.steps.entry(*step).or_default().begin();
            }
            Progress::Finished { step, detail, took } => {
                self.steps.entry(*step).or_default().end(*took);
                self.is_built |= *step == Step::Image && is_built(detail);
                if *step == Step::Url {
                    let ended = std::mem::take(self);
                    let total = ended.began.map(|began| began.elapsed())?;
                    return Some(ended.told(total));
                }
            }
            Progress::Sent {
                step: Step::Bundle,
                done,
                ..
            } => {
                let upload = self.upload.get_or_insert_with(|| Upload {
                    began: Instant::now(),
                    bytes: 0,
                    took: Duration::ZERO,
                });
                upload.bytes = *done;
                upload.took = upload.began.elapsed();
            }
            Progress::Sent { .. } | Progress::Note(_) | Progress::Line(_) => {}
        }
        None
    }

    /// Where the time went until a failure; nothing where there was no end to wait for, or where
    /// nobody has waited.
    pub fn broken_off(&self) -> Vec<String> {
        match self.began.map(|began| began.elapsed()) {
            Some(total) if total > WAITED => self.told(total).into_iter().take(1).collect(),
            Some(_) | None => Vec::new(),
        }
    }

    fn told(&self, total: Duration) -> Vec<String> {
        let mut parts: Vec<(Step, Duration)> = self
            .steps
            .iter()
            .map(|(step, spent)| (*step, spent.total()))
            .filter(|(step, took)| *step != Step::Url && took.as_millis() > 0)
            .collect();
        parts.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let parts: Vec<String> = parts
            .iter()
            .map(|(step, took)| format!("{} {}", step.title().to_lowercase(), duration(*took)))
            .collect();
        let mut lines = vec![format!(
            "{:<9} {}: {}",
            "Took",
            duration(total),
            parts.join(", ")
        )];
        lines.extend(
            self.advice()
                .into_iter()
                .map(|text| format!("          {text}")),
        );
        lines
    }

    /// One line for each thing that was slow.
    fn advice(&self) -> Vec<String> {
        let took = |step| self.steps.get(&step).map(Spent::total).unwrap_or_default();
        let mut lines = Vec::new();
        if took(Step::Image) > SLOW_IMAGE {
            let why = if self.is_built {
                "image: it was built; the next serve reuses it, and `flyte build` makes it ahead"
            } else {
                "image: it was there, but its registry, or another build of it, was waited for"
            };
            lines.push(why.to_owned());
        }
        if let Some(upload) = &self.upload {
            let seconds = upload.took.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
            let rate = upload.bytes as f64 / seconds.max(0.001);
            if seconds > 2.0 && rate < SLOW_BYTES_PER_SECOND {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rate below a million"
                )]
                let rate = size(rate as u64);
                lines.push(format!(
                    "network: {rate}/s; a smaller bundle helps, and unchanged code is never sent again"
                ));
            }
            if upload.bytes > LARGE_BYTES {
                lines.push(format!(
                    "bundle: {} sent; `flyte bundle ls FILE` lists it, `.flyteignore` leaves files out",
                    size(upload.bytes)
                ));
            }
        }
        if took(Step::Activate) > SLOW_START {
            lines.push(
                "activate: the app took long to listen; `flyte get logs NAME` shows what it did first".to_owned(),
            );
        }
        lines
    }
}

/// Whether the words on images, such as `URI reused, URI built`, say that one was made.
fn is_built(detail: &str) -> bool {
    let mut words = detail.split([' ', ',']);
    words.any(|word| word == "built")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(steps: &[(Step, u64)]) -> Vec<String> {
        let mut timings = Timings::default();
        assert!(timings.take(&Progress::Started(Step::Bundle)).is_none());
        for (step, millis) in steps {
            let progress = Progress::Finished {
                step: *step,
                detail: "env.flyte.local/app:1 built".to_owned(),
                took: Duration::from_millis(*millis),
            };
            if let Some(lines) = timings.take(&progress) {
                return lines;
            }
        }
        Vec::new()
    }

    #[test]
    fn the_longest_step_comes_first() {
        let lines = ended(&[
            (Step::Bundle, 12),
            (Step::Image, 0),
            (Step::Activate, 40),
            (Step::Activate, 300),
            (Step::Url, 0),
        ]);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].ends_with(": activate 300 ms, bundle 12 ms"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_was_slow_gets_a_line() {
        let lines = ended(&[
            (Step::Image, 9000),
            (Step::Activate, 20_000),
            (Step::Url, 0),
        ]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].contains("flyte build"));
        assert!(lines[2].contains("flyte get logs"));
    }

    #[test]
    fn an_image_that_was_there_is_not_called_built() {
        let mut timings = Timings::default();
        let found = Progress::Finished {
            step: Step::Image,
            detail: "env.flyte.local/app:1 reused".to_owned(),
            took: Duration::from_secs(9),
        };
        assert!(timings.take(&found).is_none());
        let advice = timings.advice();
        assert!(advice[0].contains("was there"), "{advice:?}");
        assert!(!advice[0].contains("flyte build"), "{advice:?}");
    }

    #[test]
    fn apps_that_come_up_one_after_the_other_are_added_up() {
        let mut spent = Spent::default();
        for took in [2, 3] {
            spent.begin();
            spent.begin();
            spent.end(Duration::from_secs(1));
            spent.end(Duration::from_secs(took));
        }
        assert_eq!(spent.total(), Duration::from_secs(5));
    }

    #[test]
    fn a_slow_network_and_a_large_bundle_are_told_apart() {
        let upload = |bytes, seconds| Timings {
            upload: Some(Upload {
                began: Instant::now(),
                bytes,
                took: Duration::from_secs(seconds),
            }),
            ..Timings::default()
        };
        assert!(upload(5_000_000, 1).advice().is_empty());
        assert_eq!(upload(5_000_000, 10).advice().len(), 1);
        assert!(upload(5_000_000, 10).advice()[0].contains("500.0 kB/s"));
        assert!(upload(50_000_000, 10).advice()[0].starts_with("bundle"));
    }
}
