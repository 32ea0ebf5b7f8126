//! One timer for all the deadlines of a connection.
//!
//! Most deadlines are far away and never met, so the timer is only moved when it fires or comes too
//! late, and not for each request; and once it will wake whoever waits, it is not asked again.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How long a client may read nothing of what there is for it: its request holds a place at the app.
pub(super) const STALLED: Duration = if cfg!(test) {
    Duration::from_secs(3)
} else {
    Duration::from_secs(60)
};

/// When something has to be over.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    At(Instant),
    /// From the moment when it has to be waited for, which it seldom has.
    In(Duration),
}

impl Limit {
    fn deadline(self) -> Instant {
        match self {
            Self::At(deadline) => deadline,
            Self::In(limit) => Instant::now() + limit,
        }
    }
}

/// The timer.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes, since it was asked last.
    armed: Option<Waker>,
}

impl Alarm {
    pub(super) fn new(first: Duration) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(first)),
            armed: None,
        }
    }

    /// The outcome of `future`, unless the limit comes first.
    pub(super) async fn within<T>(
        &mut self,
        limit: Limit,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut deadline = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            let deadline = *deadline.get_or_insert_with(|| limit.deadline());
            self.poll_past(deadline, cx).map(|()| None)
        })
        .await
    }

    fn poll_past(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.deadline() > deadline {
            self.reset(deadline);
        }
        let armed = self.armed.as_ref();
        if armed.is_some_and(|waker| waker.will_wake(cx.waker())) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                self.armed = None;
                return Poll::Ready(());
            }
            self.reset(deadline);
        }
        self.armed = Some(cx.waker().clone());
        Poll::Pending
    }

    fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.armed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pending a number of times, woken each time.
    async fn turns(count: usize) {
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_takes_too_long_ends_with_its_limit_and_the_next_has_its_own() {
        let mut alarm = Alarm::new(Duration::from_secs(30));
        let began = Instant::now();
        let unit = Duration::from_millis(50);
        assert!(alarm.within(Limit::In(unit), turns(3)).await.is_some());
        for _ in 0..2 {
            let never = std::future::pending::<()>();
            assert!(alarm.within(Limit::In(unit), never).await.is_none());
        }
        assert!(began.elapsed() >= unit * 2);
        // A later deadline than the one that the timer is set to, then an earlier one.
        let late = async {
            turns(2).await;
            tokio::time::sleep(unit * 3).await;
        };
        let limit = Limit::At(Instant::now() + unit * 600);
        assert!(alarm.within(limit, late).await.is_some());
        let before = Instant::now();
        let never = std::future::pending::<()>();
        let limit = Limit::At(before + unit * 2);
        assert!(alarm.within(limit, never).await.is_none());
        assert!((unit * 2..unit * 100).contains(&before.elapsed()));
    }
}
