//! Where the time of a serve call went, and what would make the next one faster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::printer::duration;
use crate::serve::{Progress, Step, size};

/// From here on somebody waits.
const SLOW_IMAGE: Duration = Duration::from_secs(5);
const SLOW_START: Duration = Duration::from_secs(10);
/// What goes over a common network in a second.
const LARGE_BYTES: u64 = 20_000_000;
/// Slower than this, the network is what one waits for.
const SLOW_BYTES_PER_SECOND: f64 = 1_000_000.0;

/// Listens to the steps until the last one ends.
#[derive(Debug, Default)]
pub struct Timings {
    began: Option<Instant>,
    steps: BTreeMap<Step, Duration>,
    upload: Option<Upload>,
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
            Progress::Started(_) => {
                self.began.get_or_insert_with(Instant::now);
            }
            Progress::Finished { step, took, .. } => {
                // Of apps that are brought up at the same time the slowest one counts.
                let longest = self.steps.entry(*step).or_default();
                *longest = (*longest).max(*took);
                if *step == Step::Url {
                    let ended = std::mem::take(self);
                    let total = ended.began.map(|began| began.elapsed())?;
                    return Some(ended.told(total));
                }
            }
            Progress::Sent { done, .. } => {
                let upload = self.upload.get_or_insert_with(|| Upload {
                    began: Instant::now(),
                    bytes: 0,
                    took: Duration::ZERO,
                });
                upload.bytes = *done;
                upload.took = upload.began.elapsed();
            }
            Progress::Note(_) | Progress::Line(_) => {}
        }
        None
    }

    fn told(&self, total: Duration) -> Vec<String> {
        let mut parts: Vec<(Step, Duration)> = self
            .steps
            .iter()
            .filter(|(step, took)| **step != Step::Url && took.as_millis() > 0)
            .map(|(step, took)| (*step, *took))
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
        let took = |step| self.steps.get(&step).copied().unwrap_or_default();
        let mut lines = Vec::new();
        if took(Step::Image) > SLOW_IMAGE {
            lines.push(
                "image: it was built; the next serve reuses it, and `flyte build` makes it ahead"
                    .to_owned(),
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(steps: &[(Step, u64)]) -> Vec<String> {
        let mut timings = Timings::default();
        assert!(timings.take(&Progress::Started(Step::Bundle)).is_none());
        for (step, millis) in steps {
            let progress = Progress::Finished {
                step: *step,
                detail: String::new(),
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
