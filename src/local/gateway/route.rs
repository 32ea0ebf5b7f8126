//! Where an app's requests go, and the waiting room for when they can go nowhere yet.
//!
//! A [`Route`] is read by every request and changed rarely, so that reading is one atomic load; the
//! watch channel only wakes those who wait. A change is stored before it is announced, and a
//! waiter listens before it looks, so no change is missed. Nothing here does I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::backend::{Backend, InFlight};
use super::meter::Meter;
use super::refusal::Refusal;

/// Requests that may wait at the same time, per app; a client sees a 503 beyond that.
const MAX_WAITING: usize = 1000;

/// How long a request tries to reach a backend that takes no connection.
const UNREACHABLE_BUDGET: Duration = Duration::from_secs(2);

/// How long a request waits while every replica has as many as it may.
const BUSY_PATIENCE: Duration = Duration::from_secs(60);

/// How long a request waits for the successor of a replica that has ended, which may take its place
/// only after what is left of another one was cleared away.
const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(30);

/// Pause before the first repetition; each later one is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Where the pauses stop growing.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A wait without end, as far as the clock can count.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Target {
    /// It is sent to the one of these that has the least to do.
    Backends(Vec<Arc<Backend>>),
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
    /// Somebody waits; heard by whoever could start a replica.
    knock: Notify,
    /// A replica with as many requests as it may have got rid of one.
    freed: Arc<Notify>,
    /// Requests that wait for that.
    queued: AtomicUsize,
    /// Where the search for the least busy one begins, so that equals take turns.
    turn: AtomicUsize,
    meter: Arc<Meter>,
}

impl Route {
    /// A route whose requests go to `initial` until [`Route::set`] is called.
    pub fn new(initial: Target) -> Self {
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(initial),
                changed: watch::Sender::new(()),
                room: Semaphore::new(MAX_WAITING),
                knock: Notify::new(),
                freed: Arc::default(),
                queued: AtomicUsize::new(0),
                turn: AtomicUsize::new(0),
                meter: Meter::new(),
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

    /// The traffic of this app.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.shared.meter
    }

    /// What a bounded backend of this route tells when there is room again.
    pub fn freed(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.freed)
    }

    /// Requests that wait for a backend.
    pub fn waiting(&self) -> usize {
        MAX_WAITING - self.shared.room.available_permits()
    }

    /// Resolves when a request waits: at once, if one does already.
    pub async fn knocked(&self) {
        while self.waiting() == 0 {
            self.shared.knock.notified().await;
        }
    }

    /// The backend to send to, with this request counted in flight; waits while there is none.
    ///
    /// Those that gave `trouble` are passed over where there is another one.
    pub(super) async fn admit(
        &self,
        arrived: Instant,
        trouble: &Trouble,
    ) -> Result<InFlight, Refusal> {
        if let Some(slot) = self.admit_now(arrived, trouble)? {
            return Ok(slot);
        }
        let _place = self.take_place()?;
        self.shared.knock.notify_one();
        self.wait(arrived, trouble).await
    }

    /// The same where nothing has to be waited for.
    pub(super) fn admit_now(
        &self,
        arrived: Instant,
        trouble: &Trouble,
    ) -> Result<Option<InFlight>, Refusal> {
        let first = self.shared.queued.load(Ordering::Acquire) == 0;
        match self.look(first, arrived, trouble, &mut Since::default()) {
            Look::Enter(slot) => Ok(Some(slot)),
            Look::Refuse(refusal) => Err(refusal),
            Look::Wait { .. } => Ok(None),
        }
    }

    async fn wait(&self, arrived: Instant, trouble: &Trouble) -> Result<InFlight, Refusal> {
        let mut changes = self.shared.changed.subscribe();
        let queue = Queue::join(&self.shared);
        let mut first = queue.ahead == 0;
        let mut since = Since::default();
        loop {
            let mut freed = std::pin::pin!(self.shared.freed.notified());
            freed.as_mut().enable();
            let (until, in_vain) = match self.look(first, arrived, trouble, &mut since) {
                Look::Enter(slot) => {
                    drop(queue);
                    // Whoever is woken in vain goes to the end of the line.
                    if self.has_room() {
                        self.shared.freed.notify_one();
                    }
                    return Ok(slot);
                }
                Look::Refuse(refusal) => return Err(refusal),
                Look::Wait { until, in_vain } => (until, in_vain),
            };
            first = true;
            let told = async {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = freed => {}
                }
            };
            if timeout_at(until, told).await.is_err() {
                return Err(in_vain);
            }
        }
    }

    /// Waits after a backend took no connection: `pause` long, or until there is one to try.
    pub(super) async fn pause(&self, trouble: &Trouble, pause: Duration) -> Result<(), Refusal> {
        let _place = self.take_place()?;
        let mut changes = self.shared.changed.subscribe();
        let until = Instant::now() + pause;
        while self.leads_only_to(trouble) && timeout_at(until, changes.changed()).await.is_ok() {}
        Ok(())
    }

    fn leads_only_to(&self, trouble: &Trouble) -> bool {
        match &**self.shared.current.load() {
            Target::Backends(current) => current.iter().all(|one| trouble.is_with(one)),
            Target::Starting { .. } | Target::Unavailable { .. } => false,
        }
    }

    fn has_room(&self) -> bool {
        match &**self.shared.current.load() {
            Target::Backends(backends) => backends.iter().any(|one| one.has_room()),
            Target::Starting { .. } | Target::Unavailable { .. } => false,
        }
    }

    fn take_place(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.shared
            .room
            .try_acquire()
            .map_err(|_| Refusal::overloaded(MAX_WAITING))
    }

    /// Where there is a line for places, only the `first` in it may take one.
    fn look(&self, first: bool, arrived: Instant, trouble: &Trouble, since: &mut Since) -> Look {
        match &**self.shared.current.load() {
            Target::Backends(backends) => {
                if !first && backends.iter().any(|one| one.is_bounded()) {
                    return Look::busy(backends, since);
                }
                match self.enter_one(backends, trouble) {
                    Some(slot) => Look::Enter(slot),
                    None if backends.iter().any(|one| one.is_full()) => Look::busy(backends, since),
                    // Retired but still the target: its successor is about to be named.
                    None => Look::successor(since),
                }
            }
            Target::Starting { patience } => {
                *since = Since::default();
                Look::Wait {
                    until: arrived.checked_add(*patience).unwrap_or(arrived + FOREVER),
                    in_vain: Refusal::starting(*patience),
                }
            }
            Target::Unavailable {
                status,
                code,
                message,
            } => Look::Refuse(Refusal::new(*status, code, message.clone())),
        }
    }

    /// Enters the backend with the fewest requests that still takes one.
    fn enter_one(&self, backends: &[Arc<Backend>], trouble: &Trouble) -> Option<InFlight> {
        if let [only] = backends {
            return only.enter();
        }
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        // Somebody else may take the last place in between; then the next best is looked for.
        for _ in 0..=backends.len() {
            let best = (0..backends.len())
                .map(|step| &backends[turn.wrapping_add(step) % backends.len()])
                .filter(|one| one.has_room())
                .min_by_key(|one| (trouble.is_with(one), one.in_flight()))?;
            if let Some(slot) = best.enter() {
                return Some(slot);
            }
        }
        None
    }
}

/// A place in the line of those who wait for room.
struct Queue<'a> {
    queued: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Queue<'a> {
    fn join(shared: &'a Shared) -> Self {
        let queued = &shared.queued;
        let ahead = queued.fetch_add(1, Ordering::AcqRel);
        Self { queued, ahead }
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
    }
}

enum Look {
    Enter(InFlight),
    Wait { until: Instant, in_vain: Refusal },
    Refuse(Refusal),
}

impl Look {
    fn busy(backends: &[Arc<Backend>], since: &mut Since) -> Self {
        Self::Wait {
            until: *since.busy.get_or_insert_with(Instant::now) + BUSY_PATIENCE,
            in_vain: Refusal::busy(backends.len(), BUSY_PATIENCE),
        }
    }

    fn successor(since: &mut Since) -> Self {
        Self::Wait {
            until: *since.retired.get_or_insert_with(Instant::now) + SUCCESSOR_PATIENCE,
            in_vain: Refusal::starting(SUCCESSOR_PATIENCE),
        }
    }
}

/// Since when a request waits, for what. A start that it waits for is no part of that.
#[derive(Default)]
struct Since {
    /// Every replica had as many requests as it may.
    busy: Option<Instant>,
    /// Every replica had ended.
    retired: Option<Instant>,
}

/// The time left for a request whose backend takes no connection, and the pauses in it.
///
/// Each backend that is tried gets the whole budget: a new one is no part of the old one's trouble.
#[derive(Default)]
pub(super) struct Trouble {
    with: Vec<(Arc<Backend>, Instant)>,
    pause: Duration,
}

impl Trouble {
    /// How long to pause before the next try; `None` once the budget is spent.
    pub(super) fn next_pause(&mut self, backend: &Arc<Backend>, now: Instant) -> Option<Duration> {
        let same = |(one, _): &&(Arc<Backend>, Instant)| Arc::ptr_eq(one, backend);
        let since = match self.with.iter().find(same) {
            Some((_, since)) => *since,
            None => {
                self.with.push((Arc::clone(backend), now));
                self.pause = FIRST_PAUSE;
                now
            }
        };
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        (now < since + UNREACHABLE_BUDGET).then_some(pause)
    }

    pub(super) fn is_with(&self, backend: &Arc<Backend>) -> bool {
        self.with.iter().any(|(one, _)| Arc::ptr_eq(one, backend))
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::{Room, Terms};
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
            tokio::spawn(async move {
                route
                    .admit(Instant::now(), &Trouble::default())
                    .await
                    .is_ok()
            })
        };
        while route.shared.room.available_permits() == MAX_WAITING {
            tokio::task::yield_now().await;
        }
        route.set(Target::Backends(vec![backend()]));
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
        let refusal = route
            .admit(Instant::now(), &Trouble::default())
            .await
            .unwrap_err();
        assert!(format!("{refusal:?}").contains("app.overloaded"));
    }

    #[tokio::test]
    async fn the_successor_of_a_retired_target_is_waited_for_with_patience() {
        let (retired, successor) = (backend(), backend());
        retired.retire();
        let route = Route::new(Target::Backends(vec![retired]));
        let waiting = wait_late(&route).await;
        route.set(Target::Backends(vec![successor.clone()]));
        let slot = waiting.await.unwrap();
        assert!(Arc::ptr_eq(slot.backend(), &successor));
    }

    /// The admission of a request that came long ago, as after a slow start, once it waits again.
    async fn wait_late(route: &Route) -> tokio::task::JoinHandle<InFlight> {
        let waiting = {
            let route = route.clone();
            let long_ago = Instant::now().checked_sub(BUSY_PATIENCE).unwrap();
            tokio::spawn(async move { route.admit(long_ago, &Trouble::default()).await.unwrap() })
        };
        let knocked = tokio::time::timeout(Duration::from_secs(20), route.knocked());
        knocked.await.expect("it waits");
        waiting
    }

    #[tokio::test]
    async fn a_start_that_took_long_leaves_patience_for_a_full_replica() {
        let route = Route::new(starting());
        let one = bounded(&route, 1);
        route.set(Target::Backends(vec![one]));
        let busy = admitted(&route).await;
        let waiting = wait_late(&route).await;
        drop(busy);
        waiting.await.unwrap();
    }

    #[test]
    fn patience_ends() {
        let retired = backend();
        retired.retire();
        let route = Route::new(starting());
        let full = bounded(&route, 0);
        let long_ago = Instant::now().checked_sub(BUSY_PATIENCE);
        let mut since = Since {
            busy: long_ago,
            retired: long_ago,
        };
        for target in [retired, full] {
            route.set(Target::Backends(vec![target]));
            let look = route.look(true, Instant::now(), &Trouble::default(), &mut since);
            assert!(matches!(look, Look::Wait { until, .. } if until <= Instant::now()));
        }
        route.set(starting());
        route.look(true, Instant::now(), &Trouble::default(), &mut since);
        assert!(since.busy.is_none() && since.retired.is_none());
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

    fn bounded(route: &Route, limit: usize) -> Arc<Backend> {
        let room = Room {
            limit,
            freed: route.freed(),
        };
        Backend::with(
            ([127, 0, 0, 1], 9).into(),
            Terms {
                room: Some(room),
                ..Terms::default()
            },
        )
    }

    async fn admitted(route: &Route) -> InFlight {
        route
            .admit(Instant::now(), &Trouble::default())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_least_busy_backend_is_chosen_and_equals_take_turns() {
        let (first, second) = (backend(), backend());
        let route = Route::new(Target::Backends(vec![first.clone(), second.clone()]));
        let mut slots = Vec::new();
        for _ in 0..10 {
            slots.push(admitted(&route).await);
        }
        assert_eq!((first.in_flight(), second.in_flight()), (5, 5));
        slots.retain(|slot| Arc::ptr_eq(slot.backend(), &first));
        for _ in 0..4 {
            slots.push(admitted(&route).await);
        }
        assert_eq!((first.in_flight(), second.in_flight()), (5, 4));
    }

    #[tokio::test]
    async fn a_backend_that_took_no_connection_is_passed_over() {
        let (dead, alive) = (backend(), backend());
        let route = Route::new(Target::Backends(vec![dead.clone(), alive.clone()]));
        let mut trouble = Trouble::default();
        trouble.next_pause(&dead, Instant::now());
        let mut slots = Vec::new();
        for _ in 0..3 {
            slots.push(route.admit(Instant::now(), &trouble).await.unwrap());
        }
        assert_eq!((dead.in_flight(), alive.in_flight()), (0, 3));
    }

    #[tokio::test]
    async fn full_backends_let_requests_wait_in_order() {
        let route = Route::new(starting());
        let one = bounded(&route, 2);
        route.set(Target::Backends(vec![one.clone()]));
        let mut slots = vec![admitted(&route).await, admitted(&route).await];
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..3 {
            let (route, done) = (route.clone(), done.clone());
            let before = route.waiting();
            tokio::spawn({
                let route = route.clone();
                async move {
                    let slot = admitted(&route).await;
                    done.send((number, slot)).unwrap();
                }
            });
            while route.waiting() == before {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!((one.in_flight(), route.waiting()), (2, 3));
        for expected in 0..3 {
            slots.remove(0);
            let (number, slot) = order.recv().await.unwrap();
            assert_eq!(number, expected);
            slots.push(slot);
            assert_eq!(one.in_flight(), 2);
        }
    }

    #[tokio::test]
    async fn a_second_replica_takes_those_who_wait() {
        let route = Route::new(starting());
        let one = bounded(&route, 1);
        route.set(Target::Backends(vec![one.clone()]));
        let _busy = admitted(&route).await;
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let route = route.clone();
                tokio::spawn(async move { admitted(&route).await })
            })
            .collect();
        while route.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        let two = bounded(&route, 2);
        route.set(Target::Backends(vec![one, two.clone()]));
        let _slots = futures::future::try_join_all(waiting).await.unwrap();
        assert_eq!(two.in_flight(), 2);
    }

    #[tokio::test]
    async fn a_waiting_request_is_heard() {
        let route = Route::new(starting());
        let request = {
            let route = route.clone();
            tokio::spawn(
                async move { drop(route.admit(Instant::now(), &Trouble::default()).await) },
            )
        };
        route.knocked().await;
        assert_eq!(route.waiting(), 1);
        request.abort();
    }
}
