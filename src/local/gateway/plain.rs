//! The short way through the gateway: whole requests of HTTP/1.1 in which nothing is special.
//!
//! Most requests are a head and perhaps a small body that arrive at once. They are passed on as the
//! bytes that they are, without being taken apart into maps and put together again. Whatever is not
//! of that kind (upgrades, chunked or large bodies, `expect`, HTTP/1.0 and 2, mistakes) is handed
//! over, with the connection, to hyper and `forward`, before anything of it was done. Both ways obey
//! the same rules: what is changed in a head is said in `headers`, what is sent twice in `backend`.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFuture;

use super::answer::{Answer, Relay};
use super::backend::InFlight;
use super::forward::Site;
use super::headers::Ends;
use super::meter::Visit;
use super::refusal::{Form, Refusal, new_request_id};
use super::request::{Asked, Method, Request};
use super::route::{Route, Trouble};
use super::wire::{Lost, Wire};

/// Time to send the head of a request; also how long a connection may stay open between two.
pub(super) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Most of a head, with its body, that is held here.
const MOST_HELD: usize = 32 * 1024;

/// A connection that has to go on another way, with what was read from it.
pub(super) struct Rest {
    pub(super) before: Vec<u8>,
    pub(super) stream: TcpStream,
}

/// Serves a connection for as long as its requests are plain; `None` when it has ended.
pub(super) async fn serve(mut stream: TcpStream, ends: Ends, site: &Site) -> Option<Rest> {
    let mut inbox = Vec::with_capacity(2048);
    let mut carrier = Carrier {
        ends,
        outbox: Vec::with_capacity(2048),
        relay: Relay::default(),
        alarm: Alarm::new(),
    };
    // Made once: each would have to be put on a list and taken off again.
    let mut closing = pin!(site.closing.cancelled());
    loop {
        let (mut reader, mut writer) = stream.split();
        let next = carrier.next(&mut reader, &mut inbox, closing.as_mut());
        let asked = match next.await {
            Next::Request(asked) => asked,
            Next::Other => break,
            Next::End => return None,
        };
        let route = site.routing.find(asked.host_in(&inbox));
        let done = {
            let exchange = carrier.exchange(&mut writer, &asked, route);
            tokio::select! {
                biased;
                done = exchange => done,
                // What it asked for is called off.
                () = gone(&mut reader, &mut inbox) => return None,
            }
        };
        match done {
            Done::Next => drop(inbox.drain(..asked.length)),
            Done::Close => return None,
            Done::NotPlain => break,
        }
    }
    Some(Rest {
        before: inbox,
        stream,
    })
}

enum Next {
    Request(Asked),
    /// Not for this way.
    Other,
    End,
}

enum Done {
    Next,
    Close,
    /// The app speaks HTTP/2; nothing was sent.
    NotPlain,
}

/// Resolves when the client has hung up; until then it collects what it sends ahead.
async fn gone(reader: &mut ReadHalf<'_>, inbox: &mut Vec<u8>) {
    while inbox.len() < MOST_HELD {
        match read(reader, inbox).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    std::future::pending::<()>().await;
}

/// Confirms what was received, now.
///
/// Many send a head and a small body one after the other, and the system of those who did not switch
/// that off holds the body back until the head is confirmed, which takes 40 ms when left to itself.
pub(super) fn quick_ack(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    // Without it the rest comes later.
    let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// Adds what there is to `buffer`; 0 at the end of the stream.
pub(super) async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<usize> {
    buffer.reserve(1024);
    reader.read_buf(buffer).await
}

/// What one connection needs again for each of its requests.
struct Carrier {
    ends: Ends,
    /// The request as the app gets it.
    outbox: Vec<u8>,
    relay: Relay,
    alarm: Alarm,
}

impl Carrier {
    /// Waits for the next request to be there as a whole.
    async fn next(
        &mut self,
        reader: &mut ReadHalf<'_>,
        inbox: &mut Vec<u8>,
        mut closing: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Next {
        let deadline = Instant::now() + HEADER_READ_TIMEOUT;
        loop {
            if !inbox.is_empty() {
                match Request::read(inbox, MOST_HELD, self.ends, &mut self.outbox) {
                    Request::Whole(asked) => return Next::Request(asked),
                    Request::Partial => quick_ack(reader.as_ref()),
                    Request::Special => return Next::Other,
                }
            }
            let idle = inbox.is_empty();
            let arrival = async {
                tokio::select! {
                    biased;
                    count = read(reader, inbox) => count.unwrap_or(0),
                    () = closing.as_mut(), if idle => 0,
                }
            };
            match self.alarm.within(deadline, arrival).await {
                Some(1..) => {}
                Some(0) | None => return Next::End,
            }
        }
    }

    /// Passes the request on and its answer back.
    async fn exchange(
        &mut self,
        client: &mut WriteHalf<'_>,
        asked: &Asked,
        route: Result<Route, Refusal>,
    ) -> Done {
        let refusal = match route {
            Err(refusal) => refusal,
            Ok(route) => {
                let visit = route.meter().enter();
                match self.ask(&route, asked).await {
                    Ok(Some((slot, wire, answer))) => {
                        visit.answered(answer.status);
                        return self
                            .answer(client, asked, (slot, wire, visit), answer)
                            .await;
                    }
                    Ok(None) => {
                        visit.forget();
                        return Done::NotPlain;
                    }
                    Err(refusal) => {
                        visit.answered(refusal.status());
                        refusal
                    }
                }
            }
        };
        let id = match &asked.request_id {
            Some(id) => id.clone(),
            None => new_request_id(),
        };
        self.refuse(client, refusal, &id, asked.keep_alive).await
    }

    async fn refuse(
        &mut self,
        client: &mut WriteHalf<'_>,
        refusal: Refusal,
        id: &HeaderValue,
        keep_alive: bool,
    ) -> Done {
        // The request is still there as it would have gone to the app.
        let bytes = refusal.into_bytes(id, Form::wanted_in(&self.outbox), keep_alive);
        match client.write_all(&bytes).await {
            Ok(()) if keep_alive => Done::Next,
            Ok(()) | Err(_) => Done::Close,
        }
    }

    /// The app's answer, as far as its head; `None` when the app must be asked another way.
    async fn ask(
        &mut self,
        route: &Route,
        asked: &Asked,
    ) -> Result<Option<(InFlight, Wire, Answer)>, Refusal> {
        let arrived = Instant::now();
        let mut trouble = Trouble::default();
        loop {
            let slot = route.admit(arrived, &trouble).await?;
            if slot.backend().speaks_h2() {
                return Ok(None);
            }
            let failure = match self.attempt(&slot, asked).await? {
                Ok((wire, answer)) => return Ok(Some((slot, wire, answer))),
                Err(failure) => failure,
            };
            let backend = Arc::clone(slot.backend());
            drop(slot);
            let cause = match failure {
                Lost::NotSent(cause) => cause,
                Lost::Broken {
                    cause,
                    unread: true,
                    ..
                } if asked.may_repeat(true) && !trouble.is_with(&backend) => cause,
                Lost::Broken { cause, .. } => {
                    let id = &asked.request_id;
                    tracing::warn!(?backend, %cause, ?id, "app broke off a request");
                    return Err(Refusal::broken_off());
                }
            };
            let Some(pause) = trouble.next_pause(&backend, Instant::now()) else {
                tracing::warn!(?backend, %cause, id = ?asked.request_id, "app takes no connection");
                return Err(Refusal::unreachable());
            };
            route.pause(&trouble, pause).await?;
        }
    }

    /// Asks one backend, within its time limit.
    async fn attempt(
        &mut self,
        slot: &InFlight,
        asked: &Asked,
    ) -> Result<Result<(Wire, Answer), Lost>, Refusal> {
        let Self {
            outbox,
            relay,
            alarm,
            ..
        } = self;
        let limit = slot.backend().request_timeout();
        let talk = async {
            if let Some(mut wire) = slot.backend().take_wire(asked.method == Method::Other) {
                match relay.begin(&mut wire, outbox, asked).await {
                    Err(Lost::Broken { unread, early, .. })
                        if early && asked.may_repeat(unread) => {}
                    other => return other.map(|answer| (wire, answer)),
                }
            }
            let mut wire = Wire::open(slot.backend().addr()).await?;
            let answer = relay.begin(&mut wire, outbox, asked).await?;
            Ok((wire, answer))
        };
        match limit {
            None => Ok(talk.await),
            Some(limit) => alarm
                .within(Instant::now() + limit, talk)
                .await
                .ok_or_else(|| Refusal::late(limit)),
        }
    }

    /// Carries the answer to the client, to its end.
    async fn answer(
        &mut self,
        client: &mut WriteHalf<'_>,
        asked: &Asked,
        held: (InFlight, Wire, Visit),
        answer: Answer,
    ) -> Done {
        let (slot, mut wire, visit) = held;
        let keep_alive = asked.keep_alive && answer.has_end();
        let Ok(reusable) = self
            .relay
            .carry(&mut wire.stream, client, answer, keep_alive)
            .await
        else {
            return Done::Close;
        };
        if reusable {
            slot.backend().put_wire(wire);
        }
        drop((slot, visit));
        if keep_alive { Done::Next } else { Done::Close }
    }
}

/// One timer for all the deadlines of a connection.
///
/// Most deadlines are far away and never met, so the timer is only moved when it fires or comes too
/// late, and not for each request.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(HEADER_READ_TIMEOUT)),
        }
    }

    /// The outcome of `future`, unless `deadline` comes first.
    async fn within<T>(&mut self, deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            if self.sleep.deadline() > deadline {
                self.sleep.as_mut().reset(deadline);
            }
            while self.sleep.as_mut().poll(cx).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(None);
                }
                self.sleep.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}
