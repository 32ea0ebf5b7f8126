//! Bodies on their way through, frame by frame and never held.
//!
//! [`Upload`] remembers whether any of it is gone, because only an untouched body can be sent a
//! second time; [`Download`] keeps the app's connection until its last frame and then gives it back.
//! Dropping a `Download` before that (the client left) closes the connection to the app.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::backend::Lease;

/// A request body that is being sent to the app.
pub(super) struct Upload {
    state: Arc<Mutex<UploadState>>,
}

/// The other end of an [`Upload`], for whoever has to judge how far it came.
pub(super) struct UploadWatch {
    state: Arc<Mutex<UploadState>>,
}

struct UploadState {
    body: Option<Incoming>,
    touched: bool,
    finished: bool,
}

impl Upload {
    pub(super) fn new(body: Incoming) -> (Self, UploadWatch) {
        let finished = body.is_end_stream();
        let state = Arc::new(Mutex::new(UploadState {
            body: Some(body),
            touched: false,
            finished,
        }));
        let watch = UploadWatch {
            state: Arc::clone(&state),
        };
        (Self { state }, watch)
    }
}

impl UploadWatch {
    /// Whether the whole body has been sent.
    pub(super) fn finished(&self) -> bool {
        lock(&self.state).finished
    }

    /// The body, provided that nothing of it was sent.
    pub(super) fn reclaim(self) -> Option<Incoming> {
        let mut state = lock(&self.state);
        if state.touched {
            return None;
        }
        state.body.take()
    }
}

fn lock(state: &Mutex<UploadState>) -> MutexGuard<'_, UploadState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut state = lock(&self.state);
        // Reclaimed bodies are pending for ever: an end here would read as a complete upload.
        let Some(body) = state.body.as_mut() else {
            return Poll::Pending;
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || body.is_end_stream(),
            Some(Err(_)) => false,
        };
        state.touched = true;
        state.finished = last;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.state)
            .body
            .as_ref()
            .is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        state.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// A response body on its way to the client.
pub(super) struct Download {
    body: Incoming,
    lease: Option<Lease>,
}

impl Download {
    pub(super) fn new(body: Incoming, lease: Lease) -> Self {
        let mut download = Self {
            body,
            lease: Some(lease),
        };
        if download.body.is_end_stream() {
            download.give_back();
        }
        download
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            // hyper does not ask again after the last data or the trailers.
            Some(Ok(last)) if last.is_trailers() || self.body.is_end_stream() => self.give_back(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.lease = None,
            None => self.give_back(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
