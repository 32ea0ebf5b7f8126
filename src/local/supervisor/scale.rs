//! How many replicas an app should have, from the traffic it had: Knative's autoscaler.
//!
//! Two averages are kept, over a long stable window and over its last tenth. The long one decides,
//! unless the short one asks for twice of what there is: then the app is in panic and only grows
//! until that has not happened for a whole stable window. Pure arithmetic over readings; when to
//! look and how to start a replica is the task's.

use std::collections::VecDeque;
use std::time::Duration;

use crate::local::gateway::Reading;
use crate::wire::app;

/// Over which traffic is averaged where the app does not say how long it stays without any.
const STABLE_WINDOW: Duration = Duration::from_secs(60);
/// The panic window is this part of the stable one.
const PANIC_PART: u32 = 10;
const SHORTEST_PANIC_WINDOW: Duration = Duration::from_secs(1);
/// Wanted replicas over present ones at which panic begins.
const PANIC_THRESHOLD: f64 = 2.0;
/// The share of what a replica can do that is made use of, so that there is room for a burst.
const UTILISATION: f64 = 0.7;
/// Requests at the same time that one replica is given where no metric is declared.
const CONCURRENCY: f64 = 100.0;
const LEAST_TARGET: f64 = 0.01;
/// Most of the present replicas that are taken away in one step: all but one in this many.
const SCALE_DOWN_RATE: u32 = 2;

/// What the number of replicas follows, with what one replica is meant to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Follows {
    Concurrency(f64),
    RequestRate(f64),
}

/// How an app declares to be scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub min: u32,
    pub max: u32,
    /// Requests that a replica may have at the same time.
    pub limit: Option<usize>,
    follows: Follows,
    window: Duration,
}

impl Plan {
    pub fn of(app: &app::App) -> Self {
        use app::scaling_metric::Metric;
        let declared = &app.spec.autoscaling;
        let (follows, limit) = match &declared.scaling_metric.metric {
            Some(Metric::Concurrency(wanted)) => (
                Follows::Concurrency(f64::from(wanted.target_value)),
                usize::try_from(wanted.target_value).ok(),
            ),
            Some(Metric::RequestRate(wanted)) => {
                (Follows::RequestRate(f64::from(wanted.target_value)), None)
            }
            None => (Follows::Concurrency(CONCURRENCY), None),
        };
        let window = declared
            .scaledown_period
            .as_option()
            .and_then(|period| u64::try_from(period.seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map_or(STABLE_WINDOW, Duration::from_secs);
        let (min, max) = bounds(&declared.replicas);
        Self {
            min,
            max,
            limit: limit.filter(|limit| *limit > 0),
            follows,
            window,
        }
    }

    /// Whether there is anything to decide once the least number of replicas is there.
    pub fn is_elastic(&self) -> bool {
        self.min != self.max
    }

    fn panic_window(&self) -> Duration {
        (self.window / PANIC_PART).max(SHORTEST_PANIC_WINDOW)
    }

    fn target(&self) -> f64 {
        let (Follows::Concurrency(whole) | Follows::RequestRate(whole)) = self.follows;
        (whole * UTILISATION).max(LEAST_TARGET)
    }
}

/// A declared maximum of 0 means "no maximum"; on one machine that is its processors.
fn bounds(declared: &app::Replicas) -> (u32, u32) {
    let max = match declared.max {
        0 => std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
        max => max,
    };
    (declared.min, max.max(declared.min))
}

/// The traffic between two readings.
struct Slice {
    end: Duration,
    length: Duration,
    presence: f64,
    arrived: u64,
}

/// Decides for one revision.
pub struct Scaler {
    plan: Plan,
    began: Duration,
    last: Reading,
    slices: VecDeque<Slice>,
    /// When panic was last called for, while it lasts.
    panic: Option<Duration>,
    most_in_panic: u32,
}

impl Scaler {
    /// A scaler whose windows begin to fill now.
    pub fn new(plan: Plan, now: Reading) -> Self {
        Self {
            plan,
            began: now.at,
            last: now,
            slices: VecDeque::new(),
            panic: None,
            most_in_panic: 0,
        }
    }

    /// How many replicas there should be, now that `ready` serve.
    pub fn decide(&mut self, now: Reading, ready: u32) -> u32 {
        self.take(now);
        let ready = ready.max(1);
        let least = ready / SCALE_DOWN_RATE;
        let stable = self.wanted_over(self.plan.window);
        let urgent = self.wanted_over(self.plan.panic_window());
        self.judge_panic(
            f64::from(urgent) / f64::from(ready) >= PANIC_THRESHOLD,
            now.at,
        );
        let wanted = if self.panic.is_some() {
            self.most_in_panic = self.most_in_panic.max(urgent).max(ready);
            self.most_in_panic
        } else {
            stable.max(least)
        };
        let least = if self.may_rest() {
            self.plan.min
        } else {
            self.plan.min.max(1)
        };
        wanted.clamp(least, self.plan.max)
    }

    fn take(&mut self, now: Reading) {
        let before = std::mem::replace(&mut self.last, now);
        self.slices.push_back(Slice {
            end: now.at,
            length: now.at.saturating_sub(before.at),
            presence: now.presence - before.presence,
            arrived: now.arrived.saturating_sub(before.arrived),
        });
        let oldest = now.at.saturating_sub(self.plan.window);
        while self.slices.front().is_some_and(|slice| slice.end <= oldest) {
            self.slices.pop_front();
        }
    }

    fn wanted_over(&self, window: Duration) -> u32 {
        let since = self.last.at.saturating_sub(window);
        let (mut length, mut amount) = (Duration::ZERO, 0.0);
        for slice in self.slices.iter().filter(|slice| slice.end > since) {
            length += slice.length;
            amount += match self.plan.follows {
                Follows::Concurrency(_) => slice.presence,
                Follows::RequestRate(_) => {
                    f64::from(u32::try_from(slice.arrived).unwrap_or(u32::MAX))
                }
            };
        }
        if length.is_zero() {
            return 0;
        }
        round_up(amount / length.as_secs_f64() / self.plan.target())
    }

    fn judge_panic(&mut self, called_for: bool, now: Duration) {
        match self.panic {
            _ if called_for => self.panic = Some(now),
            Some(since) if now > since + self.plan.window => {
                self.panic = None;
                self.most_in_panic = 0;
            }
            Some(_) | None => {}
        }
    }

    /// Whether nobody was here for a whole window.
    fn may_rest(&self) -> bool {
        let quiet = self
            .slices
            .iter()
            .all(|slice| slice.arrived == 0 && slice.presence <= 0.0);
        quiet && self.last.active == 0 && self.last.at >= self.began + self.plan.window
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of replicas; `as` saturates"
)]
fn round_up(count: f64) -> u32 {
    // A hair over a whole number is what floating point made of the whole number.
    (count - 1e-9).ceil().max(0.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day in the life of an app: readings a second apart.
    struct Day {
        scaler: Scaler,
        now: Reading,
        ready: u32,
    }

    fn plan(min: u32, max: u32, follows: Follows) -> Plan {
        Plan {
            min,
            max,
            limit: None,
            follows,
            window: STABLE_WINDOW,
        }
    }

    impl Day {
        fn new(plan: Plan) -> Self {
            let now = Reading::default();
            Self {
                scaler: Scaler::new(plan, now),
                now,
                ready: 1,
            }
        }

        /// Lets time pass under constant traffic; replicas come and go as they are wanted.
        fn pass(&mut self, seconds: u64, concurrency: u32, rate: u64) -> Vec<u32> {
            (0..seconds)
                .map(|_| {
                    self.now.at += Duration::from_secs(1);
                    self.now.presence += f64::from(concurrency);
                    self.now.active = u64::from(concurrency);
                    self.now.arrived += rate;
                    self.ready = self.scaler.decide(self.now, self.ready);
                    self.ready
                })
                .collect()
        }
    }

    #[test]
    fn steady_traffic_gets_the_replicas_that_its_average_needs() {
        let mut day = Day::new(plan(1, 10, Follows::Concurrency(10.0)));
        // 14 at 7 for each replica.
        assert_eq!(day.pass(60, 14, 1).last(), Some(&2));
        let mut day = Day::new(plan(1, 10, Follows::RequestRate(100.0)));
        assert_eq!(day.pass(60, 1, 211).last(), Some(&4));
    }

    #[test]
    fn a_burst_is_answered_within_the_panic_window_and_held() {
        let mut day = Day::new(plan(1, 20, Follows::Concurrency(10.0)));
        day.pass(120, 5, 1);
        let grown = day.pass(8, 70, 1);
        assert_eq!(grown.last(), Some(&10), "{grown:?}");
        // Over, but nothing is taken away before a stable window has passed without a cry.
        let held = day.pass(50, 0, 0);
        assert!(held.iter().all(|count| *count == 10), "{held:?}");
        let calmed = day.pass(80, 0, 0);
        assert_eq!(calmed.last(), Some(&1), "{calmed:?}");
    }

    #[test]
    fn replicas_leave_by_halves_at_most() {
        let mut day = Day::new(plan(0, 20, Follows::Concurrency(10.0)));
        day.ready = 16;
        day.pass(60, 112, 1);
        assert_eq!(day.ready, 16);
        let leaving = day.pass(140, 0, 0);
        for pair in leaving.windows(2) {
            assert!(pair[1] >= pair[0] / 2, "{leaving:?}");
        }
        assert_eq!(leaving.last(), Some(&0));
    }

    #[test]
    fn only_a_whole_quiet_window_lets_an_app_rest() {
        let mut day = Day::new(plan(0, 1, Follows::Concurrency(100.0)));
        assert_eq!(day.pass(59, 0, 0), [1; 59], "it has just begun");
        assert_eq!(day.pass(1, 0, 0), [0]);
        let mut day = Day::new(plan(0, 1, Follows::Concurrency(100.0)));
        day.pass(59, 0, 0);
        // One short request that no sample ever saw under way.
        day.now.presence += 0.000_001;
        assert_eq!(day.pass(1, 0, 1), [1]);
        assert_eq!(day.pass(59, 0, 0), [1; 59]);
        assert_eq!(day.pass(1, 0, 0), [0]);
    }

    #[test]
    fn a_quiet_web_socket_keeps_an_app_awake() {
        let mut day = Day::new(plan(0, 3, Follows::RequestRate(10.0)));
        assert_eq!(day.pass(200, 1, 0).last(), Some(&1));
    }

    #[test]
    fn bounds_hold() {
        let mut day = Day::new(plan(2, 3, Follows::Concurrency(1.0)));
        assert_eq!(day.pass(60, 100, 1).last(), Some(&3));
        assert_eq!(day.pass(200, 0, 0).last(), Some(&2));
    }

    #[test]
    fn the_plan_is_read_from_the_message() {
        let replicas = app::Replicas {
            min: 1,
            max: 4,
            ..Default::default()
        };
        let concurrency = app::Concurrency {
            target_value: 5,
            ..Default::default()
        };
        let mut autoscaling = app::AutoscalingConfig {
            replicas: replicas.into(),
            scaling_metric: app::ScalingMetric {
                metric: Some(concurrency.into()),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        };
        let plan_of = |autoscaling: &app::AutoscalingConfig| {
            Plan::of(&app::App {
                spec: app::Spec {
                    autoscaling: autoscaling.clone().into(),
                    ..Default::default()
                }
                .into(),
                ..Default::default()
            })
        };
        let plan = plan_of(&autoscaling);
        assert_eq!((plan.min, plan.max, plan.limit), (1, 4, Some(5)));
        assert_eq!(plan.window, STABLE_WINDOW);
        assert!((plan.target() - 3.5).abs() < 1e-9);
        autoscaling.scaledown_period = buffa_types::google::protobuf::Duration {
            seconds: 300,
            ..Default::default()
        }
        .into();
        autoscaling.scaling_metric = buffa::MessageField::none();
        let plan = plan_of(&autoscaling);
        assert_eq!(plan.window, Duration::from_secs(300));
        assert_eq!(plan.panic_window(), Duration::from_secs(30));
        assert_eq!(plan.limit, None);
    }
}
