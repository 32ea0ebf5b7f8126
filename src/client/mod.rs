//! Typed calls to a control plane, over the local platform's socket or over HTTP.
//!
//! Callers see messages and [`Error`]; that there are transports and deadlines stays here.
//! An upload is tried again and a `Create` of what exists becomes an `Update`; no other call is
//! repeated. An error says whether that could help ([`Diagnostic::retry`]), and its caller decides.

mod transport;
mod upload;

use std::time::Duration;

use connectrpc::client::{CallOptions, ClientConfig};
use connectrpc::{ConnectError, ErrorCode};

use crate::error::{Code, Diagnostic, Retry};
use crate::wire::{app, cluster, common};

pub use transport::Transport;
pub use upload::{Piece, Upload};

/// How long a call that only reads or writes a row may take.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// How the library words a connection that ends amid an answer; its code says "internal".
const BROKEN_OFF: &str = "failed to read response body";

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach {endpoint}")]
    Unavailable {
        endpoint: String,
        #[source]
        source: Box<ConnectError>,
    },
    #[error("{endpoint} refused `{call}`: {message}")]
    Rejected {
        endpoint: String,
        call: &'static str,
        code: ErrorCode,
        message: String,
    },
    #[error("app `{name}` does not exist in project `{project}`, domain `{domain}`")]
    NotFound {
        name: String,
        project: String,
        domain: String,
    },
    #[error("upload of the code bundle failed: {reason}")]
    Upload { reason: String },
    #[error("{endpoint} answered `{call}` with a message that lacks `{field}`")]
    Protocol {
        endpoint: String,
        call: &'static str,
        field: &'static str,
    },
    #[error("cannot read the code bundle `{}`", path.display())]
    BundleIo {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Unavailable { .. } => Code::ClientUnavailable,
            Self::Rejected { code, .. } => rejected_code(*code),
            Self::NotFound { .. } => Code::AppNotFound,
            Self::Upload { .. } => Code::ClientUpload,
            Self::Protocol { .. } => Code::ClientProtocol,
            Self::BundleIo { .. } => Code::BundleIo,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unavailable { .. } | Self::Upload { .. } => Retry::Maybe,
            Self::Rejected { .. }
            | Self::NotFound { .. }
            | Self::Protocol { .. }
            | Self::BundleIo { .. } => Retry::Never,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotFound { .. } => vec!["`flyte get app` lists the apps there are".into()],
            Self::Unavailable { .. }
            | Self::Rejected { .. }
            | Self::Upload { .. }
            | Self::Protocol { .. }
            | Self::BundleIo { .. } => Vec::new(),
        }
    }
}

fn rejected_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::Unauthenticated => Code::ClientUnauthenticated,
        ErrorCode::PermissionDenied => Code::ClientDenied,
        ErrorCode::AlreadyExists | ErrorCode::Aborted | ErrorCode::FailedPrecondition => {
            Code::ClientConflict
        }
        ErrorCode::NotFound => Code::AppNotFound,
        ErrorCode::Unavailable | ErrorCode::ResourceExhausted => Code::ClientUnavailable,
        ErrorCode::DeadlineExceeded => Code::AppTimeout,
        ErrorCode::Internal | ErrorCode::Unknown | ErrorCode::DataLoss => Code::ClientProtocol,
        _ => Code::ClientRejected,
    }
}

/// A connection to one control plane; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    apps: app::AppServiceClient<Transport>,
    logs: app::AppLogsServiceClient<Transport>,
    clusters: cluster::ClusterServiceClient<Transport>,
}

impl Client {
    /// A client over `transport`; connects at the first call.
    pub fn new(transport: Transport) -> Self {
        let config = ClientConfig::new(transport.base_uri()).with_default_timeout(CALL_DEADLINE);
        let streaming = ClientConfig::new(transport.base_uri());
        Self {
            apps: app::AppServiceClient::new(transport.clone(), config.clone()),
            logs: app::AppLogsServiceClient::new(transport.clone(), streaming),
            clusters: cluster::ClusterServiceClient::new(transport.clone(), config),
            transport,
        }
    }

    /// Where this client speaks to, for messages.
    pub fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }

    /// The transport, for requests that are not calls.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Asks which data plane takes uploads of a project; the answer may be "this one".
    pub async fn select_cluster(
        &self,
        org: &str,
        project: &str,
        domain: &str,
    ) -> Result<(), Error> {
        use cluster::select_cluster_request::{Operation, Resource};
        let request = cluster::SelectClusterRequest {
            operation: Operation::OPERATION_CREATE_UPLOAD_LOCATION.into(),
            resource: Some(Resource::ProjectId(Box::new(project_id(
                org, project, domain,
            )))),
            ..Default::default()
        };
        self.clusters
            .select_cluster(request)
            .await
            .map_err(|error| self.failed("SelectCluster", error))?;
        Ok(())
    }

    /// Creates the app, or replaces it where the control plane says that it exists.
    pub async fn create_or_replace(&self, app: app::App) -> Result<app::App, Error> {
        let request = app::CreateRequest {
            app: app.clone().into(),
            ..Default::default()
        };
        match self.apps.create(request).await {
            Ok(response) => self.expect("Create", response.into_owned().app),
            Err(error) if matches!(error.code, ErrorCode::AlreadyExists | ErrorCode::Aborted) => {
                Box::pin(self.replace(app)).await
            }
            Err(error) => Err(self.failed("Create", error)),
        }
    }

    async fn replace(&self, mut app: app::App) -> Result<app::App, Error> {
        let stored = self.get(&app.metadata.id).await?;
        app.metadata.modify(|meta| {
            meta.revision = stored.metadata.revision;
            meta.labels.clone_from(&stored.metadata.labels);
        });
        app.spec
            .modify(|spec| spec.creator = stored.spec.creator.clone());
        app.status = stored.status;
        self.update(app, "served again").await
    }

    /// The app as the control plane knows it now.
    pub async fn get(&self, id: &app::Identifier) -> Result<app::App, Error> {
        let request = app::GetRequest {
            identifier: Some(app::get_request::Identifier::AppId(Box::new(id.clone()))),
            ..Default::default()
        };
        match self.apps.get(request).await {
            Ok(response) => self.expect("Get", response.into_owned().app),
            Err(error) if error.code == ErrorCode::NotFound => Err(Error::NotFound {
                name: id.name.clone(),
                project: id.project.clone(),
                domain: id.domain.clone(),
            }),
            Err(error) => Err(self.failed("Get", error)),
        }
    }

    /// Sends a changed app back.
    pub async fn update(&self, app: app::App, reason: &str) -> Result<app::App, Error> {
        let request = app::UpdateRequest {
            app: app.into(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        let response = self
            .apps
            .update(request)
            .await
            .map_err(|error| self.failed("Update", error))?;
        self.expect("Update", response.into_owned().app)
    }

    /// Changes only what the app should be doing; every other field goes back as it came.
    pub async fn set_desired_state(
        &self,
        id: &app::Identifier,
        state: app::spec::DesiredState,
        reason: &str,
    ) -> Result<app::App, Error> {
        let mut app = self.get(id).await?;
        app.spec.modify(|spec| spec.desired_state = state.into());
        self.update(app, reason).await
    }

    /// Removes the app; an app that does not exist is an error.
    pub async fn delete(&self, id: &app::Identifier) -> Result<(), Error> {
        self.get(id).await?;
        let request = app::DeleteRequest {
            app_id: id.clone().into(),
            ..Default::default()
        };
        self.apps
            .delete(request)
            .await
            .map_err(|error| self.failed("Delete", error))?;
        Ok(())
    }

    /// All apps of a project and domain.
    pub async fn list(
        &self,
        org: &str,
        project: &str,
        domain: &str,
    ) -> Result<Vec<app::App>, Error> {
        let mut apps = Vec::new();
        let mut token = String::new();
        loop {
            let request = app::ListRequest {
                request: common::ListRequest {
                    limit: 100,
                    token,
                    ..Default::default()
                }
                .into(),
                filter_by: Some(app::list_request::FilterBy::Project(Box::new(project_id(
                    org, project, domain,
                )))),
                ..Default::default()
            };
            let response = self
                .apps
                .list(request)
                .await
                .map_err(|error| self.failed("List", error))?
                .into_owned();
            apps.extend(response.apps);
            token = response.token;
            if token.is_empty() {
                return Ok(apps);
            }
        }
    }

    /// Events of one app, beginning with its present state.
    pub async fn watch(&self, id: &app::Identifier) -> Result<Watch, Error> {
        let request = app::WatchRequest {
            target: Some(app::watch_request::Target::AppId(Box::new(id.clone()))),
            ..Default::default()
        };
        // A watch lasts as long as it is wanted; only the caller bounds it.
        let stream = self
            .apps
            .watch_with_options(
                request,
                CallOptions::default().with_timeout(Duration::from_secs(24 * 3600)),
            )
            .await
            .map_err(|error| self.failed("Watch", error))?;
        Ok(Watch {
            stream,
            endpoint: self.endpoint().to_owned(),
        })
    }

    /// Log lines of an app; ends by itself unless the server follows.
    pub async fn tail_logs(&self, id: &app::Identifier, follow: bool) -> Result<LogStream, Error> {
        use crate::wire::logs::dataplane::LogsSource;
        let source = if follow {
            LogsSource::LIVE_OR_PERSISTED
        } else {
            LogsSource::PERSISTED_ONLY
        };
        let request = app::TailLogsRequest {
            target: Some(app::tail_logs_request::Target::AppId(Box::new(id.clone()))),
            source: source.into(),
            ..Default::default()
        };
        let stream = self
            .logs
            .tail_logs(request)
            .await
            .map_err(|error| self.failed("TailLogs", error))?;
        Ok(LogStream {
            stream,
            endpoint: self.endpoint().to_owned(),
            shown_until_ns: i128::MIN,
        })
    }

    /// All lines that are kept of an app, oldest first.
    pub async fn past_logs(&self, id: &app::Identifier) -> Result<Vec<LogLine>, Error> {
        let mut stream = self.tail_logs(id, false).await?;
        let mut lines = Vec::new();
        while let Some(batch) = stream.next().await? {
            lines.extend(batch);
        }
        Ok(lines)
    }

    fn expect(
        &self,
        call: &'static str,
        app: buffa::MessageField<app::App, buffa::Inline<app::App>>,
    ) -> Result<app::App, Error> {
        app.into_option().ok_or_else(|| Error::Protocol {
            endpoint: self.endpoint().to_owned(),
            call,
            field: "app",
        })
    }

    fn failed(&self, call: &'static str, error: ConnectError) -> Error {
        failed(self.endpoint(), call, error)
    }
}

fn failed(endpoint: &str, call: &'static str, error: ConnectError) -> Error {
    let broke_off = error
        .message
        .as_deref()
        .is_some_and(|message| message.starts_with(BROKEN_OFF));
    if error.code == ErrorCode::Unavailable || broke_off {
        return Error::Unavailable {
            endpoint: endpoint.to_owned(),
            source: Box::new(error),
        };
    }
    Error::Rejected {
        endpoint: endpoint.to_owned(),
        call,
        code: error.code,
        message: error.message.unwrap_or_default(),
    }
}

/// A stream that breaks off, unless the server said why: the other side is gone.
fn broken(endpoint: &str, call: &'static str, error: ConnectError) -> Error {
    match error.code {
        ErrorCode::Internal | ErrorCode::Unknown | ErrorCode::Canceled => Error::Unavailable {
            endpoint: endpoint.to_owned(),
            source: Box::new(error),
        },
        _ => failed(endpoint, call, error),
    }
}

fn project_id(org: &str, project: &str, domain: &str) -> common::ProjectIdentifier {
    common::ProjectIdentifier {
        organization: org.to_owned(),
        domain: domain.to_owned(),
        name: project.to_owned(),
        ..Default::default()
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

/// A stream of [`Event`]s.
pub struct Watch {
    stream: connectrpc::client::ServerStream<
        hyper::body::Incoming,
        app::__buffa::view::WatchResponseView<'static>,
    >,
    endpoint: String,
}

impl Watch {
    /// The next event; `None` when the server ends the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        use app::watch_response::Event as Wire;
        loop {
            let message = self
                .stream
                .message()
                .await
                .map_err(|error| broken(&self.endpoint, "Watch", error))?;
            let Some(message) = message else {
                return Ok(None);
            };
            match message.to_owned_message().event {
                Some(Wire::CreateEvent(event)) => {
                    if let Some(app) = event.app.into_option() {
                        return Ok(Some(Event::Changed(Box::new(app))));
                    }
                }
                Some(Wire::UpdateEvent(event)) => {
                    if let Some(app) = event.updated_app.into_option() {
                        return Ok(Some(Event::Changed(Box::new(app))));
                    }
                }
                Some(Wire::DeleteEvent(_)) => return Ok(Some(Event::Deleted)),
                None => {}
            }
        }
    }
}

/// One line that a replica wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// Nanoseconds since 1970, UTC.
    pub timestamp_ns: i128,
    pub text: String,
    pub replica: String,
}

/// Batches of log lines.
pub struct LogStream {
    stream: connectrpc::client::ServerStream<
        hyper::body::Incoming,
        app::__buffa::view::TailLogsResponseView<'static>,
    >,
    endpoint: String,
    shown_until_ns: i128,
}

impl LogStream {
    /// Leaves out lines up to this time, which were shown before.
    pub fn skip_until(&mut self, timestamp_ns: i128) {
        self.shown_until_ns = timestamp_ns;
    }

    /// The next lines; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<LogLine>>, Error> {
        use app::tail_logs_response::Resp;
        loop {
            let message = self
                .stream
                .message()
                .await
                .map_err(|error| broken(&self.endpoint, "TailLogs", error))?;
            let Some(message) = message else {
                return Ok(None);
            };
            if let Some(Resp::Batches(batch)) = message.to_owned_message().resp {
                let fresh = |line: &LogLine| line.timestamp_ns > self.shown_until_ns;
                return Ok(Some(
                    batch.logs.iter().flat_map(lines).filter(fresh).collect(),
                ));
            }
        }
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
        })
        .collect()
}
