//! Whether the wall clock went on as the other one did, which nobody sets.
//!
//! What was used an hour ago by a clock that jumped was used just now. A round of tidying that sees a
//! jump is put off until all that is in use was touched by the new time. A machine that slept has
//! jumped: whoever builds something goes on where it was.

use std::time::{Duration, Instant, SystemTime};

/// How far the clocks may be apart.
const TOLERATED: Duration = Duration::from_secs(60);

/// Both clocks, as they were at the last look.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: SystemTime,
    steady: Instant,
}

impl Clock {
    pub fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// Whether the wall clock was set since the last look; this is the next one's last.
    pub fn jumped(&mut self) -> bool {
        self.jumped_until(Self::now())
    }

    fn jumped_until(&mut self, now: Self) -> bool {
        let before = std::mem::replace(self, now);
        let steady = now.steady.duration_since(before.steady);
        // A clock that went back is off by what passed, at least.
        let apart = match now.wall.duration_since(before.wall) {
            Ok(wall) => wall.abs_diff(steady),
            Err(back) => back.duration() + steady,
        };
        apart > TOLERATED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed_once() {
        let start = Clock::now();
        let hour = Duration::from_secs(3600);
        let on = |wall: SystemTime, passed| Clock {
            wall,
            steady: start.steady + passed,
        };
        let mut clock = start;
        assert!(!clock.jumped_until(on(start.wall + hour, hour)));
        assert!(clock.jumped_until(on(start.wall + 3 * hour, hour)));
        assert!(!clock.jumped_until(on(start.wall + 3 * hour, hour)));
        assert!(clock.jumped_until(on(start.wall, hour)));
    }
}
