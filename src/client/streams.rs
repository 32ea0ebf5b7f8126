//! Streams that outlive the connections they come over: an app's events, and its log.
//!
//! A stream that breaks is opened anew, with a new token where that was the reason. One that says
//! nothing is not believed: the app is looked at now and then, and a stream that missed something
//! is given up.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use connectrpc::{ConnectError, ErrorCode};

use super::call::{Caller, RequestId, backoff, is_transient, options, wants_login};
use super::error::is_broken_off;
use super::{Client, Error};
use crate::auth::Proof;
use crate::net::Body;
use crate::wire::logs::dataplane;
use crate::wire::{app, status};

/// How often in a row a stream may break before anything came over it.
const FAILURES: u32 = 7;
/// The same where an app of the local platform is watched. Without that platform nothing happens to
/// the app, and whoever waits for it can start another one.
const LOCAL_FAILURES: u32 = 4;
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
const LOG_SILENCE: Duration = Duration::from_secs(3);
/// How long such a log is waited for altogether: what an app goes on to write is not its past.
pub const LOG_PATIENCE: Duration = Duration::from_secs(5);
/// How often an app is asked for its log that has no replica at the moment, and how long after each
/// time; an app that is followed is asked until it has one.
const LOG_ATTEMPTS: u32 = 3;
const LOG_PAUSE: Duration = Duration::from_secs(1);

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
    /// How many of them are borne.
    bears: u32,
    /// Streams in a row that were short.
    pauses: u32,
    renewed: bool,
}

impl<S> Line<S> {
    fn new(call: &'static str, bears: u32) -> Self {
        Self {
            call,
            id: RequestId::new(),
            stream: None,
            proof: Proof::default(),
            opened: Instant::now(),
            failures: 0,
            bears,
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
        if wants_login(&error, &self.proof) {
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
        if !may || self.failures > self.bears {
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
        let bears = if client.transport.is_local() {
            LOCAL_FAILURES
        } else {
            FAILURES
        };
        Self {
            client,
            id,
            line: Line::new("Watch", bears),
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

    /// Whether an answer says more than the last event did. The open-source control plane gives
    /// answers again for half a minute, and events at once: an older answer is no news.
    fn is_news(&self, app: &app::App) -> bool {
        self.last.as_ref().is_none_or(|last| {
            last.status.conditions != app.status.conditions && !status::is_older(app, last)
        })
    }

    /// Nothing came for a while: what does the control plane say when it is asked?
    async fn look(&mut self) -> Result<Option<Event>, Error> {
        self.silence = (self.silence * 2).min(LONGEST_SILENCE);
        match Box::pin(self.client.get(&self.id)).await {
            Ok(app) if !self.is_news(&app) => Ok(None),
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
            // The stream is well, and looking was for nothing.
            Err(Error::Rejected { code, message, .. }) if may_pass(code) => {
                tracing::debug!(app = self.id.name, ?code, message, "a watched app not seen");
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
}

/// Whether a refusal is about the moment: the control plane could not ask its cluster, say.
fn may_pass(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Internal
            | ErrorCode::Unknown
            | ErrorCode::Canceled
            | ErrorCode::DeadlineExceeded
            | ErrorCode::ResourceExhausted
    )
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
    /// Nanoseconds since 1970, UTC; 0 where the control plane does not say.
    pub timestamp_ns: i128,
    pub text: String,
    pub replica: String,
    /// Whether the platform wrote it, and not the app.
    pub is_system: bool,
}

/// How much of a replica's log was handed over. Each stream begins with what earlier ones told.
#[derive(Debug, Default)]
struct Shown {
    /// The time of the newest line.
    newest_ns: i128,
    /// The same when the stream began: what is older comes again.
    until_ns: i128,
    /// Lines without a time, which can only be counted: all, and those of this stream.
    untimed: usize,
    repeated: usize,
}

impl Shown {
    /// Whether a line was not handed over yet; it is, after this.
    fn is_fresh(&mut self, line: &LogLine) -> bool {
        if line.timestamp_ns == 0 {
            self.repeated += 1;
            let fresh = self.repeated > self.untimed;
            self.untimed = self.untimed.max(self.repeated);
            return fresh;
        }
        self.newest_ns = self.newest_ns.max(line.timestamp_ns);
        line.timestamp_ns > self.until_ns
    }

    /// A new stream begins.
    fn again(&mut self) {
        self.until_ns = self.newest_ns;
        self.repeated = 0;
    }
}

/// Batches of log lines.
pub struct LogStream {
    /// Where the log is.
    client: Client,
    /// Where the app is.
    home: Client,
    id: app::Identifier,
    follow: bool,
    line: Line<LineStream>,
    source: dataplane::LogsSource,
    shown: HashMap<String, Shown>,
    /// How much longer a log is waited for that is not followed.
    patience: Duration,
    /// How often in a row there was no replica to ask.
    absences: u32,
    ended: bool,
}

impl LogStream {
    /// The log at `client` of an app at `home`.
    pub(super) async fn open(
        client: Client,
        home: Client,
        id: app::Identifier,
        follow: bool,
    ) -> Result<Self, Error> {
        let mut stream = Self {
            client,
            home,
            id,
            follow,
            line: Line::new("TailLogs", FAILURES),
            source: if follow {
                dataplane::LogsSource::LIVE_OR_PERSISTED
            } else {
                dataplane::LogsSource::PERSISTED_ONLY
            },
            shown: HashMap::new(),
            patience: LOG_PATIENCE,
            absences: 0,
            ended: false,
        };
        while stream.line.stream.is_none() && !stream.ended {
            stream.begin().await?;
        }
        Ok(stream)
    }

    /// Leaves out lines that were shown before.
    pub fn skip(&mut self, lines: &[LogLine]) {
        for line in lines {
            self.shown(line).is_fresh(line);
        }
        self.shown.values_mut().for_each(Shown::again);
    }

    /// Waits no longer than this, over all lines, where the log is not followed.
    pub fn wait_at_most(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The next lines; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<LogLine>>, Error> {
        // The local platform ends what is not followed by itself.
        let is_endless = self.follow || self.home.transport.is_local();
        while !self.ended {
            let began = Instant::now();
            let lines = if is_endless {
                self.step().await?
            } else {
                let limit = LOG_SILENCE.min(self.patience);
                let Ok(lines) = tokio::time::timeout(limit, self.step()).await else {
                    self.ended = true;
                    break;
                };
                self.patience = self.patience.saturating_sub(began.elapsed());
                lines?
            };
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
        }
        Ok(None)
    }

    /// What comes next, if anything.
    async fn step(&mut self) -> Result<Vec<LogLine>, Error> {
        use app::tail_logs_response::Resp;
        let Some(stream) = &mut self.line.stream else {
            self.begin().await?;
            return Ok(Vec::new());
        };
        match stream.message().await {
            Ok(Some(message)) => {
                self.line.lives();
                let lines = match message.to_owned_message().resp {
                    Some(Resp::Batches(batch)) => batch.logs.iter().flat_map(lines).collect(),
                    Some(Resp::LogLines(logs)) => container_lines(&logs),
                    Some(Resp::Replicas(_)) | None => Vec::new(),
                };
                return Ok(self.fresh(lines));
            }
            Ok(None) => self.over().await?,
            Err(error) if error.code == ErrorCode::NotFound => self.absent().await?,
            Err(error) => self.line.broke(&self.client.caller, error).await?,
        }
        Ok(Vec::new())
    }

    fn shown(&mut self, line: &LogLine) -> &mut Shown {
        self.shown.entry(line.replica.clone()).or_default()
    }

    /// Lines that were not shown yet.
    fn fresh(&mut self, mut lines: Vec<LogLine>) -> Vec<LogLine> {
        lines.retain(|line| self.shown(line).is_fresh(line));
        lines
    }

    /// Tries to have a stream.
    async fn begin(&mut self) -> Result<(), Error> {
        let caller = &self.client.caller;
        self.line.proof = caller.credentials.proof().await?;
        let request = app::TailLogsRequest {
            target: Some(app::tail_logs_request::Target::AppId(Box::new(
                self.id.clone(),
            ))),
            source: self.source.into(),
            ..Default::default()
        };
        let options = options(&self.line.id, &self.line.proof);
        self.line.opened = Instant::now();
        let opening = self.client.logs.tail_logs_with_options(request, options);
        match begun(Box::pin(opening)).await {
            Ok(stream) => {
                self.line.stream = Some(stream);
                self.shown.values_mut().for_each(Shown::again);
            }
            Err(error) if error.code == ErrorCode::NotFound => self.absent().await?,
            Err(error) => self.line.broke(&self.client.caller, error).await?,
        }
        Ok(())
    }

    /// The server ended the stream: all is told, or the replicas that wrote are gone.
    async fn over(&mut self) -> Result<(), Error> {
        self.absences = 0;
        if self.follow {
            if is_at_rest(&self.home, &self.id).await.unwrap_or(true) {
                self.ended = true;
            } else {
                self.line.ended().await;
            }
            return Ok(());
        }
        self.line.stream = None;
        // Where nothing is kept of the past, the log of what runs is all there is.
        let is_all = self.home.transport.is_local()
            || !self.shown.is_empty()
            || self.source == dataplane::LogsSource::LIVE_OR_PERSISTED;
        self.source = dataplane::LogsSource::LIVE_OR_PERSISTED;
        self.ended = is_all;
        Ok(())
    }

    /// There is no replica to ask, which is so for apps at zero, at rest and new ones.
    async fn absent(&mut self) -> Result<(), Error> {
        self.line.stream = None;
        self.absences += 1;
        let is_at_rest = is_at_rest(&self.home, &self.id).await?;
        if is_at_rest || (!self.follow && self.absences >= LOG_ATTEMPTS) {
            self.ended = true;
        } else {
            tokio::time::sleep(LOG_PAUSE * self.absences.min(2)).await;
        }
        Ok(())
    }
}

/// Whether the app was put to rest; an error where it does not exist.
async fn is_at_rest(home: &Client, id: &app::Identifier) -> Result<bool, Error> {
    use app::spec::DesiredState;
    match Box::pin(home.get(id)).await {
        Ok(app) => {
            Ok(app.spec.desired_state.as_known() == Some(DesiredState::DESIRED_STATE_STOPPED))
        }
        Err(error @ Error::NotFound { .. }) => Err(error),
        Err(_) => Ok(false), // it is seen with the next stream
    }
}

fn lines(logs: &app::LogLines) -> Vec<LogLine> {
    either(&logs.structured_lines, &logs.lines, &logs.replica_id.name)
}

fn container_lines(logs: &dataplane::LogLines) -> Vec<LogLine> {
    let replica = &logs.container.kubernetes_pod_name;
    either(&logs.structured_lines, &logs.lines, replica)
}

/// Lines with their times, or, from older servers, without.
fn either(structured: &[dataplane::LogLine], plain: &[String], replica: &str) -> Vec<LogLine> {
    let line = |timestamp_ns, text: &String| LogLine {
        timestamp_ns,
        text: text.clone(),
        replica: replica.to_owned(),
        is_system: false,
    };
    if structured.is_empty() {
        return plain.iter().map(|text| line(0, text)).collect();
    }
    let time = |line: &dataplane::LogLine| {
        i128::from(line.timestamp.seconds) * 1_000_000_000 + i128::from(line.timestamp.nanos)
    };
    structured
        .iter()
        .map(|one| LogLine {
            is_system: one.originator.as_known() == Some(dataplane::LogLineOriginator::SYSTEM),
            ..line(time(one), &one.message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(timestamp_ns: i128, text: &str) -> LogLine {
        LogLine {
            timestamp_ns,
            text: text.into(),
            replica: "one".into(),
            is_system: false,
        }
    }

    fn fresh(shown: &mut Shown, lines: &[LogLine]) -> Vec<String> {
        let lines = lines.iter().filter(|line| shown.is_fresh(line));
        lines.map(|line| line.text.clone()).collect()
    }

    #[test]
    fn lines_that_come_again_are_shown_once() {
        let mut shown = Shown::default();
        let first = [line(1, "a"), line(2, "b"), line(0, "c")];
        assert_eq!(fresh(&mut shown, &first), ["a", "b", "c"]);
        shown.again();
        let second = [
            line(1, "a"),
            line(2, "b"),
            line(3, "d"),
            line(0, "c"),
            line(0, "e"),
        ];
        assert_eq!(fresh(&mut shown, &second), ["d", "e"]);
        // Lines of one moment that come together are all new.
        assert_eq!(fresh(&mut shown, &[line(3, "f")]), ["f"]);
    }

    #[test]
    fn lines_without_times_are_read_where_there_are_no_others() {
        let logs = app::LogLines {
            lines: vec!["old".into()],
            ..Default::default()
        };
        assert_eq!(lines(&logs)[0].text, "old");
        let structured = dataplane::LogLine {
            message: "new".into(),
            ..Default::default()
        };
        let logs = app::LogLines {
            structured_lines: vec![structured],
            ..logs
        };
        let texts: Vec<_> = lines(&logs).into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["new"]);
    }
}
