//! Streams that outlive the connections they come over: an app's events, and its log.
//!
//! A stream that breaks is opened anew, with a new token where that was the reason. One that says
//! nothing is not believed: the app is looked at now and then, and a stream that missed something
//! is given up.

use std::time::{Duration, Instant};

use connectrpc::{ConnectError, ErrorCode};

use super::call::{Caller, RequestId, backoff, is_transient, options};
use super::error::is_broken_off;
use super::{Client, Error};
use crate::auth::Proof;
use crate::net::Body;
use crate::wire::app;
use crate::wire::logs::dataplane::LogLineOriginator;

/// How often in a row a stream may break before anything came over it.
const FAILURES: u32 = 7;
/// How long a stream may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long the control plane need not look whether anybody reads.
const STREAM_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// A stream that ends sooner is not opened again at once.
const SHORT: Duration = Duration::from_secs(5);
/// How long a watched app may say nothing before it is looked at; doubles while nothing happens.
const SILENCE: Duration = Duration::from_secs(5);
const LONGEST_SILENCE: Duration = Duration::from_secs(40);
/// How long a log that is not followed may say nothing before it counts as over: some servers
/// never end it.
pub(super) const LOG_SILENCE: Duration = Duration::from_secs(3);

type EventStream =
    connectrpc::client::ServerStream<Body, app::__buffa::view::WatchResponseView<'static>>;
type LineStream =
    connectrpc::client::ServerStream<Body, app::__buffa::view::TailLogsResponseView<'static>>;

/// One stream after another, for one purpose.
struct Line<S> {
    call: &'static str,
    id: RequestId,
    stream: Option<S>,
    proof: Proof,
    opened: Instant,
    /// Streams in a row that broke before anything came.
    failures: u32,
    /// Streams in a row that were short.
    pauses: u32,
    renewed: bool,
}

impl<S> Line<S> {
    fn new(call: &'static str) -> Self {
        Self {
            call,
            id: RequestId::new(),
            stream: None,
            proof: Proof::default(),
            opened: Instant::now(),
            failures: 0,
            pauses: 0,
            renewed: false,
        }
    }

    /// Something came.
    fn lives(&mut self) {
        self.failures = 0;
        self.renewed = false;
    }

    /// The stream is over; the next one comes after a pause, unless this one lasted.
    async fn ended(&mut self) {
        self.stream = None;
        if self.opened.elapsed() >= SHORT {
            self.pauses = 0;
        }
        tokio::time::sleep(backoff(self.pauses)).await;
        self.pauses += 1;
    }

    /// The stream broke. An error where there is no use in another one.
    async fn broke(&mut self, caller: &Caller, error: ConnectError) -> Result<(), Error> {
        self.stream = None;
        if error.code == ErrorCode::Unauthenticated {
            let renewed = std::mem::replace(&mut self.renewed, true);
            let id = &self.id;
            return caller
                .renew(self.call, id, &self.proof, &error, renewed)
                .await;
        }
        self.failures += 1;
        let gone = matches!(
            error.code,
            ErrorCode::Internal | ErrorCode::Unknown | ErrorCode::Canceled
        );
        let may = is_transient(&error) || is_broken_off(&error) || gone;
        if !may || self.failures > FAILURES {
            let id = self.id.as_str();
            return Err(Error::of_stream(&caller.endpoint, self.call, id, error));
        }
        self.ended().await;
        Ok(())
    }
}

/// What happened to a watched app.
#[derive(Clone, Debug)]
pub enum Event {
    /// The app as it is now.
    Changed(Box<app::App>),
    /// It is gone.
    Deleted,
}

/// A stream of [`Event`]s, beginning with the present state.
pub struct Watch {
    client: Client,
    id: app::Identifier,
    line: Line<EventStream>,
    silence: Duration,
    last: Option<Box<app::App>>,
}

impl Watch {
    pub(super) fn new(client: Client, id: app::Identifier) -> Self {
        Self {
            client,
            id,
            line: Line::new("Watch"),
            silence: SILENCE,
            last: None,
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if self.line.stream.is_none()
                && let Err(error) = Box::pin(self.open()).await
            {
                let error = error?;
                self.line.broke(&self.client.caller, error).await?;
                continue;
            }
            let Some(stream) = &mut self.line.stream else {
                continue;
            };
            let event = match tokio::time::timeout(self.silence, stream.message()).await {
                Ok(Ok(Some(message))) => {
                    self.line.lives();
                    self.read(message.to_owned_message())
                }
                Ok(Ok(None)) => {
                    self.line.ended().await;
                    None
                }
                Ok(Err(error)) => {
                    self.line.broke(&self.client.caller, error).await?;
                    None
                }
                Err(_) => Box::pin(self.look()).await?,
            };
            if let Some(event) = event {
                self.silence = SILENCE;
                return Ok(event);
            }
        }
    }

    /// Opens a stream; the inner error is the stream's, the outer one final.
    async fn open(&mut self) -> Result<(), Result<ConnectError, Error>> {
        let caller = &self.client.caller;
        self.line.proof = caller
            .credentials
            .proof()
            .await
            .map_err(|error| Err(error.into()))?;
        let request = app::WatchRequest {
            target: Some(app::watch_request::Target::AppId(Box::new(self.id.clone()))),
            ..Default::default()
        };
        let options = options(&self.line.id, &self.line.proof).with_timeout(STREAM_DEADLINE);
        self.line.opened = Instant::now();
        let opening = self.client.apps.watch_with_options(request, options);
        let stream = begun(opening).await.map_err(Ok)?;
        self.line.stream = Some(stream);
        Ok(())
    }

    /// What a message says of this app; some servers tell of its namesakes too.
    fn read(&mut self, message: app::WatchResponse) -> Option<Event> {
        use app::watch_response::Event as Wire;
        let is_ours = |app: &app::App| {
            let id = &app.metadata.id;
            id.name == self.id.name && id.project == self.id.project && id.domain == self.id.domain
        };
        let app = match message.event? {
            Wire::CreateEvent(event) => event.app.into_option()?,
            Wire::UpdateEvent(event) => event.updated_app.into_option()?,
            Wire::DeleteEvent(event) => {
                let told = event.app.into_option();
                let ours = told.is_none_or(|app| !app.metadata.id.is_set() || is_ours(&app));
                return ours.then_some(Event::Deleted);
            }
        };
        if !is_ours(&app) {
            return None;
        }
        self.changed(app)
    }

    fn changed(&mut self, app: app::App) -> Option<Event> {
        let app = Box::new(app);
        if self.last.as_ref() == Some(&app) {
            return None; // told again by a new stream
        }
        self.last = Some(app.clone());
        Some(Event::Changed(app))
    }

    /// Nothing came for a while: what does the control plane say when it is asked?
    async fn look(&mut self) -> Result<Option<Event>, Error> {
        self.silence = (self.silence * 2).min(LONGEST_SILENCE);
        let known = self.last.as_ref().map(|app| app.status.conditions.clone());
        match Box::pin(self.client.get(&self.id)).await {
            Ok(app) if known.as_ref() == Some(&app.status.conditions) => Ok(None),
            Ok(app) => {
                tracing::debug!(app = app.metadata.id.name, "a watch missed a change");
                self.line.stream = None;
                Ok(self.changed(app))
            }
            Err(Error::NotFound { .. }) => Ok(Some(Event::Deleted)),
            Err(Error::Unavailable { source, .. }) => {
                self.line.broke(&self.client.caller, *source).await?;
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
}

/// A stream, once the server has begun to answer.
async fn begun<S>(
    opening: impl Future<Output = Result<S, ConnectError>>,
) -> Result<S, ConnectError> {
    tokio::time::timeout(BEGIN_PATIENCE, opening)
        .await
        .unwrap_or_else(|_| Err(ConnectError::unavailable("the stream did not begin")))
}

/// One line that a replica wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// Nanoseconds since 1970, UTC.
    pub timestamp_ns: i128,
    pub text: String,
    pub replica: String,
    /// Whether the platform wrote it, and not the app.
    pub is_system: bool,
}

/// Batches of log lines.
pub struct LogStream {
    client: Client,
    id: app::Identifier,
    follow: bool,
    line: Line<LineStream>,
    shown_until_ns: i128,
    /// The time of the newest line that was handed over.
    newest_ns: i128,
}

impl LogStream {
    pub(super) async fn open(
        client: Client,
        id: app::Identifier,
        follow: bool,
    ) -> Result<Self, Error> {
        let mut stream = Self {
            client,
            id,
            follow,
            line: Line::new("TailLogs"),
            shown_until_ns: i128::MIN,
            newest_ns: i128::MIN,
        };
        stream.ready().await?;
        Ok(stream)
    }

    /// Leaves out lines up to this time, which were shown before.
    pub fn skip_until(&mut self, timestamp_ns: i128) {
        self.shown_until_ns = timestamp_ns;
    }

    /// The next lines; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<LogLine>>, Error> {
        use app::tail_logs_response::Resp;
        loop {
            self.ready().await?;
            let Some(stream) = &mut self.line.stream else {
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.line.lives();
                    if let Some(Resp::Batches(batch)) = message.to_owned_message().resp {
                        return Ok(Some(self.fresh(&batch)));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.line.broke(&self.client.caller, error).await?;
                    // The next stream begins with what this one told already.
                    self.shown_until_ns = self.shown_until_ns.max(self.newest_ns);
                }
            }
        }
    }

    /// Lines that were not shown yet.
    fn fresh(&mut self, batch: &app::LogLinesBatch) -> Vec<LogLine> {
        let until = self.shown_until_ns;
        let fresh = |line: &LogLine| line.timestamp_ns > until;
        let fresh: Vec<LogLine> = batch.logs.iter().flat_map(lines).filter(fresh).collect();
        let newest = fresh.iter().map(|line| line.timestamp_ns).max();
        self.newest_ns = self.newest_ns.max(newest.unwrap_or(i128::MIN));
        fresh
    }

    /// Sees to it that there is a stream.
    async fn ready(&mut self) -> Result<(), Error> {
        use crate::wire::logs::dataplane::LogsSource;
        while self.line.stream.is_none() {
            let caller = &self.client.caller;
            self.line.proof = caller.credentials.proof().await?;
            let source = if self.follow {
                LogsSource::LIVE_OR_PERSISTED
            } else {
                LogsSource::PERSISTED_ONLY
            };
            let request = app::TailLogsRequest {
                target: Some(app::tail_logs_request::Target::AppId(Box::new(
                    self.id.clone(),
                ))),
                source: source.into(),
                ..Default::default()
            };
            let options = options(&self.line.id, &self.line.proof);
            self.line.opened = Instant::now();
            let opening = self.client.logs.tail_logs_with_options(request, options);
            match begun(opening).await {
                Ok(stream) => self.line.stream = Some(stream),
                Err(error) => self.line.broke(&self.client.caller, error).await?,
            }
        }
        Ok(())
    }
}

fn lines(logs: &app::LogLines) -> Vec<LogLine> {
    let replica = logs.replica_id.name.clone();
    logs.structured_lines
        .iter()
        .map(|line| LogLine {
            timestamp_ns: i128::from(line.timestamp.seconds) * 1_000_000_000
                + i128::from(line.timestamp.nanos),
            text: line.message.clone(),
            replica: replica.clone(),
            is_system: line.originator.as_known() == Some(LogLineOriginator::SYSTEM),
        })
        .collect()
}
