//! The word that a listener closes, as cheap to listen for as a look at a flag.
//!
//! A connection is polled several times for each request. Asking a token each time takes its lock
//! each time, so a connection is put on the list of those to be woken once, and from then on looks
//! at the flag when it is woken, whatever for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Whether a listener closes; clones share it.
#[derive(Clone, Default)]
pub(super) struct Closing {
    begun: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Closing {
    /// Tells everybody.
    pub(super) fn begin(&self) {
        // Before anybody is woken to look at it.
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Resolves when it begins, or at once.
    pub(super) async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// The same for a connection that asks many times.
    pub(super) fn watch(&self) -> Watch {
        Watch {
            begun: Arc::clone(&self.begun),
            told: Box::pin(self.token.clone().cancelled_owned()),
            listed: None,
        }
    }
}

/// Resolves when the listener closes; may be polled again after that.
pub(super) struct Watch {
    begun: Arc<AtomicBool>,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is woken.
    listed: Option<Waker>,
}

impl Watch {
    pub(super) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let listed = self.listed.as_ref();
        if !listed.is_some_and(|waker| waker.will_wake(cx.waker()))
            && !self.begun.load(Ordering::Acquire)
        {
            self.listed = Some(cx.waker().clone());
            return self.told.as_mut().poll(cx);
        }
        if self.begun.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_asked_before_is_woken_once_it_begins() {
        let closing = Closing::default();
        let mut watch = closing.watch();
        let (asked, looked) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut asked = Some(asked);
            std::future::poll_fn(|cx| {
                let mut state = watch.poll_begun(cx);
                if let Some(asked) = asked.take() {
                    // The second look is at the flag alone.
                    state = watch.poll_begun(cx);
                    asked.send(()).unwrap();
                }
                state
            })
            .await;
            std::future::poll_fn(|cx| watch.poll_begun(cx)).await;
        });
        looked.await.unwrap();
        assert!(!task.is_finished());
        closing.begin();
        task.await.unwrap();
        closing.begun().await;
    }
}
