//! The life of one request, from its head to the last byte of the answer.
//!
//! It owns the order of things: prepare, find a backend, send, try again where nothing was sent,
//! answer or refuse. What each step means is known to the files it calls.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::SEC_WEBSOCKET_ACCEPT;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::super::authority::Authority;
use super::backend::{Failure, InFlight, Lease, Outgoing};
use super::body::Download;
use super::closing::Closing;
use super::headers::{Ends, Head, clean_response};
use super::meter::Visit;
use super::names::Names;
use super::refusal::{Form, Refusal, new_request_id, request_id_of};
use super::route::{Route, Trouble};
use super::wire::Shared;

/// What the client gets: the app's body, or ours.
pub(super) type Answer = Response<Either<Download, Full<Bytes>>>;

/// What all requests of a listener share, and those of one connection besides.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) routing: Routing,
    /// Vouches for this machine's names where TLS is spoken.
    pub(super) authority: Arc<Authority>,
    /// Upgraded connections outlive their request; the listener waits for them here.
    pub(super) tunnels: TaskTracker,
    /// Begins when the listener closes.
    pub(super) closing: Closing,
    /// The connection's place among all there may be, which a tunnel keeps.
    pub(super) room: Option<Arc<SemaphorePermit<'static>>>,
    /// Tells whether the client is still there.
    pub(super) socket: Option<Shared>,
}

/// Whose requests arrive here.
#[derive(Clone)]
pub(super) enum Routing {
    One(Route),
    /// That of the app which the request's host names.
    ByName(Arc<Names>),
}

impl Routing {
    pub(super) fn find(&self, host: Option<&str>) -> Result<Cow<'_, Route>, Refusal> {
        match self {
            Self::One(route) => Ok(Cow::Borrowed(route)),
            Self::ByName(names) => {
                let host = host.unwrap_or_default();
                let route = names.find(host);
                let route = route.ok_or_else(|| Refusal::unknown_host(host))?;
                Ok(Cow::Owned(route))
            }
        }
    }
}

impl Site {
    /// Answers a request, whatever happens.
    ///
    /// `counted` has what the short way counted of it, before it found that it cannot answer it.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        ends: Ends,
        counted: Option<Visit>,
    ) -> Answer {
        let client_id = request_id_of(request.headers());
        let accept = request.headers().get(http::header::ACCEPT);
        let form = Form::wanted(accept.map(HeaderValue::as_bytes));
        let refusal = match self.routing.find(host_of(&request)) {
            Ok(route) => {
                let meter = route.meter();
                let counted = counted.filter(|visit| visit.is_of(meter));
                let mut visit = Some(counted.unwrap_or_else(|| meter.enter()));
                let id = client_id.as_ref();
                match self.forward(request, ends, &route, id, &mut visit).await {
                    Ok(answer) => return answer,
                    Err(refusal) => {
                        if let Some(mut visit) = visit {
                            visit.answered(refusal.status());
                        }
                        refusal
                    }
                }
            }
            Err(refusal) => refusal,
        };
        refusal
            .into_response(&client_id.unwrap_or_else(new_request_id), form)
            .map(Either::Right)
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        ends: Ends,
        route: &Route,
        client_id: Option<&HeaderValue>,
        visit: &mut Option<Visit>,
    ) -> Result<Answer, Refusal> {
        let arrived = visit
            .as_ref()
            .map_or_else(Instant::now, |visit| visit.arrived().into());
        let client = hyper::upgrade::on(&mut request);
        let mut outgoing = prepare(request, ends)?;
        let by_connect = outgoing.head.by_connect;
        let client = outgoing.head.wants_upgrade().then_some(client);
        let mut trouble = Trouble::default();
        loop {
            let slot = self.unless_gone(route.admit(arrived, &trouble)).await?;
            if client.is_some() && slot.backend().speaks_h2() {
                return Err(Refusal::no_upgrades());
            }
            let backend = Arc::clone(slot.backend());
            let cause = match send(slot, outgoing).await? {
                Ok((response, mut lease)) => {
                    lease.accompany(visit.take(), response.status());
                    return self.pass_on(response, lease, client, by_connect);
                }
                Err(Failure::NotSent {
                    outgoing: same,
                    cause,
                }) => {
                    outgoing = *same;
                    cause
                }
                Err(Failure::Unread {
                    outgoing: same,
                    cause,
                }) if !trouble.is_with(&backend) => {
                    outgoing = *same;
                    cause
                }
                Err(Failure::Unread { cause, .. } | Failure::BrokenOff { cause }) => {
                    tracing::warn!(?backend, %cause, ?client_id, "app broke off a request");
                    return Err(Refusal::broken_off());
                }
            };
            let Some(pause) = trouble.next_pause(&backend, Instant::now()) else {
                tracing::warn!(?backend, %cause, ?client_id, "app takes no connection");
                return Err(Refusal::unreachable());
            };
            self.unless_gone(route.pause(&trouble, pause)).await?;
        }
    }

    /// What is waited for while the client waits too. Until somebody wants the body hyper reads nothing,
    /// so that it does not see the client leave.
    async fn unless_gone<T>(
        &self,
        waited_for: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let Some(socket) = &self.socket else {
            return waited_for.await;
        };
        tokio::select! {
            biased;
            outcome = waited_for => outcome,
            () = socket.hung_up() => Err(Refusal::malformed("the client has hung up")),
        }
    }

    /// Turns the app's response into the client's.
    fn pass_on(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
        client: Option<OnUpgrade>,
        by_connect: bool,
    ) -> Result<Answer, Refusal> {
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if by_connect && !switching && response.status().is_success() {
            // Over HTTP/2 any success would mean that the tunnel is there.
            return Err(Refusal::no_socket());
        }
        clean_response(response.headers_mut(), switching && !by_connect);
        *response.version_mut() = Version::HTTP_11;
        if !switching {
            return Ok(response.map(|body| Either::Left(Download::new(body, lease))));
        }
        let client = client.ok_or_else(Refusal::broken_off)?;
        if by_connect {
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        }
        let app = hyper::upgrade::on(&mut response);
        let (closing, room) = (self.closing.clone(), self.room.clone());
        self.tunnels.spawn(async move {
            tokio::select! {
                () = tunnel(client, app) => {}
                () = closing.begun() => {}
            }
            drop((lease, room));
        });
        let mut answer = response.map(|_| Either::Right(Full::default()));
        if by_connect {
            // Nothing is switched there: the stream itself becomes the tunnel.
            *answer.status_mut() = StatusCode::OK;
        }
        Ok(answer)
    }
}

/// The host that a request is meant for: HTTP/2 has it in the target.
fn host_of(request: &Request<Incoming>) -> Option<&str> {
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    target.or_else(|| request.headers().get(http::header::HOST)?.to_str().ok())
}

fn prepare(request: Request<Incoming>, ends: Ends) -> Result<Outgoing, Refusal> {
    let (parts, body) = request.into_parts();
    let mut head = Head::for_app(parts, ends)?;
    if !body.is_end_stream() {
        head.frame_body();
    }
    Ok(Outgoing { head, body })
}

/// Sends within the backend's time limit; the request is called off when that ends.
async fn send(
    slot: InFlight,
    outgoing: Outgoing,
) -> Result<Result<(Response<Incoming>, Lease), Failure>, Refusal> {
    match slot.backend().request_timeout() {
        None => Ok(slot.send(outgoing).await),
        Some(limit) => timeout(limit, slot.send(outgoing))
            .await
            .map_err(|_| Refusal::late(limit)),
    }
}

/// Carries bytes both ways until both sides have ended.
async fn tunnel(client: OnUpgrade, app: OnUpgrade) {
    let Ok((client, app)) = tokio::try_join!(client, app) else {
        return;
    };
    let (mut client, mut app) = (TokioIo::new(client), TokioIo::new(app));
    // An error is one side hanging up, which ends the tunnel as well as any other way.
    drop(tokio::io::copy_bidirectional(&mut client, &mut app).await);
}
