//! What an app's traffic amounts to: how much of it there is now, and how it was answered.
//!
//! Every request passes here twice under one short lock, so nothing is sampled and nothing is
//! missed: the supervisor reads how many requests there were on average between two looks, and
//! people read counts and times. Times are until the answer begins, for a stream has no end.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;

/// Classes of times, each of which ends at the square root of two times the end of the one before.
const CLASSES: usize = 44;
const FIRST_CLASS: Duration = Duration::from_micros(50);
/// The rate is told over the last six of these.
const RATE_SLOT: Duration = Duration::from_secs(10);
const RATE_SLOTS: usize = 6;

/// Counts the requests of one app; clones of the `Arc` are held by those under way.
pub struct Meter {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arrived: u64,
    active: u64,
    changed: Duration,
    /// Requests times the seconds that each was here.
    presence: f64,
    by_status: [u64; 5],
    seconds: f64,
    classes: Vec<u64>,
    recent: [(u64, u64); RATE_SLOTS],
}

/// A look at an app's traffic; two of them tell what was in between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Since the meter began.
    pub at: Duration,
    pub arrived: u64,
    pub active: u64,
    pub presence: f64,
}

/// What became of an app's requests so far.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub requests: u64,
    pub in_flight: u64,
    /// A second, over the last minute.
    pub rate: f64,
    /// Answers with 1xx (switched protocols), 2xx, 3xx, 4xx, 5xx. Clients that left before they had one
    /// count as 4xx.
    pub by_status: [u64; 5],
    /// Sum of the times until an answer began.
    pub seconds: f64,
    classes: Vec<u64>,
}

impl Meter {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request from now until the visit is dropped.
    pub fn enter(self: &Arc<Self>) -> Visit {
        let arrived = Instant::now();
        let now = arrived.duration_since(self.began);
        let mut state = self.state();
        state.settle(now);
        state.active += 1;
        state.arrived += 1;
        let slot = now.as_secs() / RATE_SLOT.as_secs();
        let recent = &mut state.recent[usize::try_from(slot).unwrap_or(0) % RATE_SLOTS];
        if recent.0 != slot {
            *recent = (slot, 0);
        }
        recent.1 += 1;
        drop(state);
        Visit {
            meter: Arc::clone(self),
            arrived,
            left: None,
            answered: false,
        }
    }

    /// How it stands now.
    pub fn read(&self) -> Reading {
        let at = self.began.elapsed();
        let mut state = self.state();
        state.settle(at);
        Reading {
            at,
            arrived: state.arrived,
            active: state.active,
            presence: state.presence,
        }
    }

    /// Everything so far.
    pub fn totals(&self) -> Totals {
        let now = self.began.elapsed();
        let state = self.state();
        let slot = now.as_secs() / RATE_SLOT.as_secs();
        let oldest = (slot + 1).saturating_sub(RATE_SLOTS as u64);
        let recent: u64 = state
            .recent
            .iter()
            .filter(|(of, _)| *of >= oldest)
            .map(|(_, count)| count)
            .sum();
        let since = now.saturating_sub(RATE_SLOT * u32::try_from(oldest).unwrap_or(u32::MAX));
        Totals {
            requests: state.arrived,
            in_flight: state.active,
            rate: to_f64(recent) / since.as_secs_f64().max(1.0),
            by_status: state.by_status,
            seconds: state.seconds,
            classes: state.classes.clone(),
        }
    }
}

impl State {
    fn settle(&mut self, now: Duration) {
        // Threads may come with clocks read in another order than they get the lock.
        let passed = now.saturating_sub(self.changed);
        self.presence += to_f64(self.active) * passed.as_secs_f64();
        self.changed = self.changed.max(now);
    }
}

impl Totals {
    /// What came on top of an earlier look at the same meter.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |class: usize| earlier.classes.get(class).copied().unwrap_or(0);
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            by_status: std::array::from_fn(|class| {
                self.by_status[class].saturating_sub(earlier.by_status[class])
            }),
            seconds: self.seconds - earlier.seconds,
            classes: self
                .classes
                .iter()
                .enumerate()
                .map(|(class, count)| count.saturating_sub(before(class)))
                .collect(),
            in_flight: self.in_flight,
            rate: self.rate,
        }
    }

    /// The time within which this share of the answers began; `None` when there were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all: u64 = self.classes.iter().sum();
        let wanted = to_f64(all) * share;
        let mut seen = 0.0;
        for (class, count) in self.classes.iter().enumerate() {
            if *count > 0 && seen + to_f64(*count) >= wanted {
                let (low, high) = (lower_end(class), upper_end(class));
                let part = (wanted - seen) / to_f64(*count);
                return Some(low + high.saturating_sub(low).mul_f64(part.clamp(0.0, 1.0)));
            }
            seen += to_f64(*count);
        }
        None
    }

    /// (upper end of a class, answers that began within it), each with those before it.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.classes
            .iter()
            .enumerate()
            .scan(0, |sum, (class, count)| {
                *sum += count;
                Some((upper_end(class), *sum))
            })
    }
}

/// One request, for as long as anything of it is under way.
pub struct Visit {
    meter: Arc<Meter>,
    arrived: Instant,
    left: Option<Instant>,
    answered: bool,
}

impl Visit {
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Ends it, at a time that was read already.
    pub fn leave(mut self, now: Instant) {
        self.left = Some(now);
    }

    /// Whether it is one of those that `meter` counts.
    pub fn is_of(&self, meter: &Arc<Meter>) -> bool {
        Arc::ptr_eq(&self.meter, meter)
    }

    /// Records that the answer begins now.
    pub fn answered(&mut self, status: StatusCode) {
        self.answered = true;
        let took = self.arrived.elapsed();
        let mut state = self.meter.state();
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        state.by_status[class] += 1;
        state.seconds += took.as_secs_f64();
        if state.classes.is_empty() {
            // An app without traffic needs no room for it.
            state.classes = vec![0; CLASSES];
        }
        state.classes[class_of(took)] += 1;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let now = self.left.unwrap_or_else(Instant::now);
        let mut state = self.meter.state();
        state.settle(now.saturating_duration_since(self.meter.began));
        state.active -= 1;
        if !self.answered {
            // Its client left before it had an answer, as nginx writes 499 for.
            state.by_status[3] += 1;
        }
    }
}

fn class_of(took: Duration) -> usize {
    let ends = upper_ends();
    ends.partition_point(|end| *end < took).min(CLASSES - 1)
}

fn upper_ends() -> &'static [Duration; CLASSES] {
    static ENDS: LazyLock<[Duration; CLASSES]> = LazyLock::new(|| {
        let mut end = FIRST_CLASS;
        std::array::from_fn(|_| {
            let next = end.mul_f64(2_f64.sqrt());
            std::mem::replace(&mut end, next)
        })
    });
    &ENDS
}

fn upper_end(class: usize) -> Duration {
    upper_ends()[class]
}

fn lower_end(class: usize) -> Duration {
    class.checked_sub(1).map_or(Duration::ZERO, upper_end)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_grows_with_requests_and_time() {
        let meter = Meter::new();
        let before = meter.read();
        let visits = [meter.enter(), meter.enter()];
        std::thread::sleep(Duration::from_millis(50));
        drop(visits);
        std::thread::sleep(Duration::from_millis(20));
        let after = meter.read();
        assert_eq!((after.arrived, after.active), (2, 0));
        let grown = after.presence - before.presence;
        assert!((0.1..0.5).contains(&grown), "{grown}");
        assert!((meter.read().presence - after.presence).abs() < 1e-9);
    }

    #[test]
    fn who_leaves_without_an_answer_is_counted_too() {
        let meter = Meter::new();
        meter.enter().answered(StatusCode::OK);
        drop(meter.enter());
        let totals = meter.totals();
        assert_eq!(totals.by_status, [0, 1, 0, 1, 0]);
        assert_eq!(totals.requests, 2);
    }

    #[test]
    fn quantiles_lie_within_the_class_of_the_time() {
        let meter = Meter::new();
        assert_eq!(meter.totals().quantile(0.5), None);
        for millis in [1, 1, 1, 100] {
            let mut visit = Visit {
                meter: Arc::clone(&meter),
                arrived: Instant::now()
                    .checked_sub(Duration::from_millis(millis))
                    .unwrap(),
                left: None,
                answered: false,
            };
            meter.state().active += 1;
            visit.answered(StatusCode::OK);
        }
        let totals = meter.totals();
        let half = totals.quantile(0.5).unwrap().as_secs_f64();
        assert!((0.0006..0.002).contains(&half), "{half}");
        let most = totals.quantile(0.99).unwrap().as_secs_f64();
        assert!((0.07..0.15).contains(&most), "{most}");
        assert_eq!(totals.by_status, [0, 4, 0, 0, 0]);
        assert_eq!(
            totals.since(&Totals::default()).quantile(0.5),
            totals.quantile(0.5)
        );
        let nothing = totals.since(&totals);
        assert_eq!((nothing.requests, nothing.quantile(0.5)), (0, None));
        assert_eq!(totals.cumulative().last().unwrap().1, 4);
    }

    #[test]
    fn extreme_times_have_a_class() {
        assert_eq!(class_of(Duration::ZERO), 0);
        assert_eq!(class_of(Duration::from_secs(86_400)), CLASSES - 1);
        assert!(upper_end(CLASSES - 2) > Duration::from_secs(60));
    }
}
