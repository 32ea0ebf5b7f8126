//! The short way through the gateway: whole requests of HTTP/1.1 in which nothing is special.
//!
//! Most requests are a head and perhaps a small body that arrive at once. They are passed on as the
//! bytes that they are, without being taken apart into maps and put together again. Whatever is not
//! of that kind (upgrades, chunked, large or slow bodies, `expect`, HTTP/1.0 and 2, mistakes) is handed
//! over, with the connection, to hyper and `forward`, before anything of it was done. Both ways obey
//! the same rules: what is changed in a head is said in `headers`, what is sent twice in `backend`.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::alarm::{Alarm, Limit};
use super::answer::{Answer, Manner, Relay, send};
use super::backend::InFlight;
use super::closing::Watch;
use super::forward::Site;
use super::headers::Ends;
use super::meter::Visit;
use super::refusal::{Form, Refusal, new_request_id};
use super::request::{Asked, Hop, Method, Request};
use super::route::{Route, Trouble};
use super::wire::{Lost, Wire};

/// Time to send the head of a request; also how long a connection may stay open between two.
pub(super) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the rest of a small body is waited for; what takes longer is passed on as it comes.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// Most of a head, with its body, that is held here.
const MOST_HELD: usize = 32 * 1024;

/// A connection that has to go on another way, with what was read from it.
pub(super) struct Rest {
    pub(super) before: Vec<u8>,
    pub(super) stream: TcpStream,
    /// The first request of what was read, where it was counted already.
    pub(super) visit: Option<Visit>,
}

/// Serves a connection for as long as its requests are plain; `None` when it has ended.
pub(super) async fn serve(mut stream: TcpStream, ends: Ends, site: &Site) -> Option<Rest> {
    let mut inbox = Vec::with_capacity(2048);
    let mut carrier = Carrier {
        hop: Hop::new(ends),
        outbox: Vec::with_capacity(2048),
        relay: Relay::default(),
        alarm: Alarm::new(HEADER_READ_TIMEOUT),
        closing: site.closing.watch(),
        idle_since: Instant::now(),
    };
    let visit = loop {
        let (mut reader, mut writer) = stream.split();
        let next = carrier.next(&mut reader, &mut inbox);
        let asked = match next.await {
            Next::Request(asked) => asked,
            Next::Other => break None,
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
            Done::NotPlain(visit) => break Some(visit),
        }
    };
    Some(Rest {
        before: inbox,
        stream,
        visit,
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
    NotPlain(Visit),
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
    hop: Hop,
    /// The request as the app gets it.
    outbox: Vec<u8>,
    relay: Relay,
    alarm: Alarm,
    closing: Watch,
    /// When the last answer had been sent. The clock is read seldom: that is a good part of what a
    /// small request costs here.
    idle_since: Instant,
}

impl Carrier {
    /// Waits for the next request to be there as a whole.
    async fn next(&mut self, reader: &mut ReadHalf<'_>, inbox: &mut Vec<u8>) -> Next {
        let mut deadline = self.idle_since + HEADER_READ_TIMEOUT;
        let (mut begun, mut lacks_body) = (false, false);
        loop {
            if !inbox.is_empty() {
                let has_head = match Request::read(inbox, MOST_HELD, &self.hop, &mut self.outbox) {
                    Request::Whole(asked) => return Next::Request(asked),
                    Request::Partial => false,
                    Request::Begun => true,
                    Request::Special => return Next::Other,
                };
                quick_ack(reader.as_ref());
                if !std::mem::replace(&mut begun, true) {
                    // However long nothing was asked before.
                    deadline = Instant::now() + HEADER_READ_TIMEOUT;
                }
                if has_head && !std::mem::replace(&mut lacks_body, true) {
                    deadline = deadline.min(Instant::now() + BODY_PATIENCE);
                }
            }
            let idle = inbox.is_empty();
            let closing = &mut self.closing;
            let arrival = async {
                tokio::select! {
                    biased;
                    count = read(reader, inbox) => count.unwrap_or(0),
                    () = poll_fn(|cx| closing.poll_begun(cx)), if idle => 0,
                }
            };
            match self.alarm.within(Limit::At(deadline), arrival).await {
                Some(1..) => {}
                None if lacks_body => return Next::Other,
                Some(0) | None => return Next::End,
            }
        }
    }

    /// Passes the request on and its answer back.
    async fn exchange(
        &mut self,
        client: &mut WriteHalf<'_>,
        asked: &Asked,
        route: Result<Cow<'_, Route>, Refusal>,
    ) -> Done {
        let refusal = match route {
            Err(refusal) => refusal,
            Ok(route) => {
                let mut visit = route.meter().enter();
                match self.ask(&route, asked, visit.arrived().into()).await {
                    Ok(Some((slot, wire, answer))) => {
                        visit.answered(answer.status);
                        return self
                            .answer(client, asked, (slot, wire, visit), answer)
                            .await;
                    }
                    Ok(None) => return Done::NotPlain(visit),
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
        self.refuse(client, refusal, &id, asked).await
    }

    async fn refuse(
        &mut self,
        client: &mut WriteHalf<'_>,
        refusal: Refusal,
        id: &HeaderValue,
        asked: &Asked,
    ) -> Done {
        // The request is still there as it would have gone to the app.
        let form = Form::wanted_in(&self.outbox);
        let to_head = asked.method == Method::Head;
        let bytes = refusal.into_bytes(id, form, asked.keep_alive, to_head);
        let sent = send(client, &bytes, &mut self.alarm).await;
        self.idle_since = Instant::now();
        match sent {
            Ok(()) if asked.keep_alive => Done::Next,
            Ok(()) | Err(_) => Done::Close,
        }
    }

    /// The app's answer, as far as its head; `None` when the app must be asked another way.
    async fn ask(
        &mut self,
        route: &Route,
        asked: &Asked,
        arrived: Instant,
    ) -> Result<Option<(InFlight, Wire, Answer)>, Refusal> {
        let mut trouble = Trouble::default();
        let mut now = arrived;
        loop {
            let slot = match route.admit_now(arrived, &trouble)? {
                Some(slot) => slot,
                None => {
                    let slot = route.admit(arrived, &trouble).await?;
                    now = Instant::now();
                    slot
                }
            };
            if slot.backend().speaks_h2() {
                return Ok(None);
            }
            let failure = match self.attempt(&slot, asked, now).await? {
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
            now = Instant::now();
        }
    }

    /// Asks one backend, within its time limit.
    async fn attempt(
        &mut self,
        slot: &InFlight,
        asked: &Asked,
        now: Instant,
    ) -> Result<Result<(Wire, Answer), Lost>, Refusal> {
        let Self {
            outbox,
            relay,
            alarm,
            ..
        } = self;
        let limit = slot.backend().request_timeout();
        // One that the clock cannot count to is none.
        let limit = limit.and_then(|limit| Some((limit, now.checked_add(limit)?)));
        let talk = async {
            if let Some(mut wire) = slot.backend().take_wire(asked.method == Method::Other, now) {
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
            Some((limit, deadline)) => alarm
                .within(Limit::At(deadline), talk)
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
        let chunked = answer.can_be_chunked(asked);
        let keep_alive = asked.keep_alive && (chunked || answer.has_end());
        let manner = Manner {
            keep_alive,
            chunked,
        };
        wire.bodiless = answer.bodiless;
        let Ok(reusable) = self
            .relay
            .carry(&mut wire.stream, client, answer, manner, &mut self.alarm)
            .await
        else {
            return Done::Close;
        };
        let now = Instant::now();
        if reusable {
            slot.backend().put_wire(wire, now);
        }
        drop(slot);
        visit.leave(now.into());
        self.idle_since = now;
        if keep_alive { Done::Next } else { Done::Close }
    }
}
