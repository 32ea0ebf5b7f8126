//! Where an app's requests go, and the waiting room for when they can go nowhere yet.
//!
//! A [`Route`] is read by every request and changed rarely, so that reading is one atomic load; the
//! watch channel only wakes those who wait. A change is stored before it is announced, and a
//! waiter listens before it looks, so no change is missed. Nothing here does I/O.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::backend::{Backend, InFlight};
use super::refusal::Refusal;

/// Requests that may wait at the same time, per app; a client sees a 503 beyond that.
const MAX_WAITING: usize = 1000;

/// How long a request tries to reach a backend that takes no connection.
const UNREACHABLE_BUDGET: Duration = Duration::from_secs(2);

/// Pause before the first repetition; each later one is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Where the pauses stop growing.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A wait without end, as far as the clock can count.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Target {
    /// It is sent there.
    Backend(Arc<Backend>),
    /// It waits for another target, and gets a 503 with `retry-after` when none comes.
    Starting {
        /// How long a request waits, counted from its arrival.
        patience: Duration,
    },
    /// It is answered at once.
    Unavailable {
        /// Status of the answer.
        status: StatusCode,
        /// Stable text `app.reason`.
        code: &'static str,
        /// One sentence for people.
        message: String,
    },
}

/// The current [`Target`] of an app; clones share it.
#[derive(Clone)]
pub struct Route {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<Target>,
    changed: watch::Sender<()>,
    room: Semaphore,
}

impl Route {
    /// A route whose requests go to `initial` until [`Route::set`] is called.
    pub fn new(initial: Target) -> Self {
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(initial),
                changed: watch::Sender::new(()),
                room: Semaphore::new(MAX_WAITING),
            }),
        }
    }

    /// Sends all requests from now on, and those that wait, to `target`; returns what was before.
    ///
    /// A backend that was replaced keeps what it has in flight. Call [`Backend::retire`] on it to
    /// drop its idle connections and to turn away requests that were on their way to it.
    pub fn set(&self, target: Target) -> Target {
        let previous = self.shared.current.swap(Arc::new(target));
        self.shared.changed.send_replace(());
        Target::clone(&previous)
    }

    /// The backend to send to, with this request counted in flight; waits while there is none.
    pub(super) async fn admit(&self, arrived: Instant) -> Result<InFlight, Refusal> {
        match self.look(arrived, arrived) {
            Look::Enter(slot) => return Ok(slot),
            Look::Refuse(refusal) => return Err(refusal),
            Look::Wait { .. } => {}
        }
        let _place = self.take_place()?;
        let mut changes = self.shared.changed.subscribe();
        let unreachable_at = Instant::now() + UNREACHABLE_BUDGET;
        loop {
            match self.look(arrived, unreachable_at) {
                Look::Enter(slot) => return Ok(slot),
                Look::Refuse(refusal) => return Err(refusal),
                Look::Wait { until, in_vain } => {
                    if timeout_at(until, changes.changed()).await.is_err() {
                        return Err(in_vain);
                    }
                }
            }
        }
    }

    /// Waits after `backend` took no connection: `pause` long, or until it is no longer the target.
    pub(super) async fn pause(
        &self,
        backend: &Arc<Backend>,
        pause: Duration,
    ) -> Result<(), Refusal> {
        let _place = self.take_place()?;
        let mut changes = self.shared.changed.subscribe();
        let until = Instant::now() + pause;
        while self.leads_to(backend) && timeout_at(until, changes.changed()).await.is_ok() {}
        Ok(())
    }

    fn leads_to(&self, backend: &Arc<Backend>) -> bool {
        match &**self.shared.current.load() {
            Target::Backend(current) => Arc::ptr_eq(current, backend),
            Target::Starting { .. } | Target::Unavailable { .. } => false,
        }
    }

    fn take_place(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.shared
            .room
            .try_acquire()
            .map_err(|_| Refusal::overloaded(MAX_WAITING))
    }

    fn look(&self, arrived: Instant, unreachable_at: Instant) -> Look {
        match &**self.shared.current.load() {
            Target::Backend(backend) => match backend.enter() {
                Some(slot) => Look::Enter(slot),
                // Retired but still the target: its successor is about to be named.
                None => Look::Wait {
                    until: unreachable_at,
                    in_vain: Refusal::unreachable(),
                },
            },
            Target::Starting { patience } => Look::Wait {
                until: arrived.checked_add(*patience).unwrap_or(arrived + FOREVER),
                in_vain: Refusal::starting(*patience),
            },
            Target::Unavailable {
                status,
                code,
                message,
            } => Look::Refuse(Refusal::new(*status, code, message.clone())),
        }
    }
}

enum Look {
    Enter(InFlight),
    Wait { until: Instant, in_vain: Refusal },
    Refuse(Refusal),
}

/// The time left for a request whose backend takes no connection, and the pauses in it.
///
/// Each backend that is tried gets the whole budget: a new one is no part of the old one's trouble.
#[derive(Default)]
pub(super) struct Trouble {
    with: Option<(Arc<Backend>, Instant)>,
    pause: Duration,
}

impl Trouble {
    /// How long to pause before the next try; `None` once the budget is spent.
    pub(super) fn next_pause(&mut self, backend: &Arc<Backend>, now: Instant) -> Option<Duration> {
        let since = match &self.with {
            Some((same, since)) if Arc::ptr_eq(same, backend) => *since,
            Some(_) | None => {
                self.with = Some((Arc::clone(backend), now));
                self.pause = FIRST_PAUSE;
                now
            }
        };
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        (now < since + UNREACHABLE_BUDGET).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> Arc<Backend> {
        Backend::new(([127, 0, 0, 1], 9).into(), None)
    }

    fn starting() -> Target {
        Target::Starting {
            patience: Duration::MAX,
        }
    }

    #[tokio::test]
    async fn waiting_requests_get_the_next_backend() {
        let route = Route::new(starting());
        let waiting = {
            let route = route.clone();
            tokio::spawn(async move { route.admit(Instant::now()).await.is_ok() })
        };
        while route.shared.room.available_permits() == MAX_WAITING {
            tokio::task::yield_now().await;
        }
        route.set(Target::Backend(backend()));
        assert!(waiting.await.unwrap());
        assert_eq!(route.shared.room.available_permits(), MAX_WAITING);
    }

    #[tokio::test]
    async fn a_full_waiting_room_turns_away_at_once() {
        let route = Route::new(starting());
        let _all = route
            .shared
            .room
            .acquire_many(u32::try_from(MAX_WAITING).unwrap())
            .await;
        let refusal = route.admit(Instant::now()).await.unwrap_err();
        assert!(format!("{refusal:?}").contains("app.overloaded"));
    }

    #[tokio::test]
    async fn a_retired_target_is_given_up_after_the_budget() {
        let retired = backend();
        retired.retire();
        let route = Route::new(Target::Backend(retired));
        let began = Instant::now();
        assert!(route.admit(began).await.is_err());
        assert!(began.elapsed() >= UNREACHABLE_BUDGET);
    }

    #[test]
    fn each_backend_gets_its_own_budget() {
        let (first, second) = (backend(), backend());
        let mut trouble = Trouble::default();
        let now = Instant::now();
        assert_eq!(trouble.next_pause(&first, now), Some(FIRST_PAUSE));
        assert_eq!(trouble.next_pause(&first, now), Some(FIRST_PAUSE * 2));
        let later = now + UNREACHABLE_BUDGET;
        assert_eq!(trouble.next_pause(&first, later), None);
        assert_eq!(trouble.next_pause(&second, later), Some(FIRST_PAUSE));
    }
}
