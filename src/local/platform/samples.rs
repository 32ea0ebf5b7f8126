//! How the apps' traffic went over the last minutes: a bounded row of short looks at each meter.
//!
//! A meter knows sums since it began; what happened lately is the difference of two looks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Platform;
use crate::local::gateway::Totals;
use crate::local::store::AppKey;

/// Time between two looks.
pub const EVERY: Duration = Duration::from_secs(5);
/// Looks kept of each app: ten minutes of them.
pub const KEPT: usize = 120;

/// One app's traffic between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub requests: u64,
    pub per_second: f64,
    /// Answers with 5xx.
    pub errors: u64,
    /// The time until an answer began, at the median and so on; `None` where none began.
    pub quantiles: Option<[Duration; 3]>,
}

/// The shares that [`Sample::quantiles`] are taken at.
const SHARES: [f64; 3] = [0.5, 0.95, 0.99];

#[derive(Default)]
pub(super) struct Samples(Mutex<HashMap<AppKey, Row>>);

struct Row {
    at: Instant,
    last: Totals,
    kept: VecDeque<Sample>,
}

impl Row {
    fn add(&mut self, at: Instant, totals: Totals) {
        let passed = at.saturating_duration_since(self.at).as_secs_f64();
        let new = totals.since(&self.last);
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Sample {
            requests: new.requests,
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
            per_second: new.requests as f64 / passed.max(0.001),
            errors: new.by_status[4],
            quantiles: new
                .quantile(0.5)
                .map(|_| SHARES.map(|share| new.quantile(share).unwrap_or_default())),
        });
        (self.at, self.last) = (at, totals);
    }
}

impl Platform {
    /// Looks at all meters; to be called once in [`EVERY`].
    pub fn sample(&self) {
        let now = Instant::now();
        let totals: Vec<(AppKey, Totals)> = self
            .running()
            .filter_map(|key| {
                let totals = self.handle(&key)?.meter.totals();
                Some((key, totals))
            })
            .collect();
        let mut rows = self
            .samples
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *rows);
        for (key, totals) in totals {
            // What is left in `before` is of apps that are gone.
            let mut row = before.remove(&key).unwrap_or_else(|| Row {
                at: now.checked_sub(EVERY).unwrap_or(now),
                last: Totals::default(),
                kept: VecDeque::new(),
            });
            row.add(now, totals);
            rows.insert(key, row);
        }
    }

    /// An app's samples, oldest first; at most [`KEPT`].
    pub fn samples(&self, key: &AppKey) -> Vec<Sample> {
        let rows = self
            .samples
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rows.get(key)
            .map(|row| row.kept.iter().copied().collect())
            .unwrap_or_default()
    }

    /// The newest sample of every app.
    pub fn last_samples(&self) -> HashMap<AppKey, Sample> {
        let rows = self
            .samples
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rows.iter()
            .filter_map(|(key, row)| Some((key.clone(), *row.kept.back()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::gateway::Meter;

    #[test]
    fn a_sample_is_what_came_since_the_one_before() {
        let meter = Meter::new();
        let began = Instant::now();
        let mut row = Row {
            at: began,
            last: Totals::default(),
            kept: VecDeque::new(),
        };
        for _ in 0..20 {
            meter.enter().answered(http::StatusCode::OK);
        }
        meter.enter().answered(http::StatusCode::BAD_GATEWAY);
        row.add(began + EVERY, meter.totals());
        row.add(began + 2 * EVERY, meter.totals());
        let [first, second] = [row.kept[0], row.kept[1]];
        assert!((first.per_second - 21.0 / 5.0).abs() < 1e-9, "{first:?}");
        assert_eq!((first.requests, first.errors), (21, 1));
        let [half, _, most] = first.quantiles.unwrap();
        assert!(half <= most);
        assert_eq!(second, Sample::default());
    }

    #[test]
    fn no_more_is_kept_than_is_shown() {
        let mut row = Row {
            at: Instant::now(),
            last: Totals::default(),
            kept: VecDeque::new(),
        };
        for _ in 0..KEPT + 5 {
            row.add(Instant::now(), Totals::default());
        }
        assert_eq!(row.kept.len(), KEPT);
    }
}
