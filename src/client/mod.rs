//! Typed calls to a control plane, over the local platform's socket or over HTTP.
//!
//! Callers see messages and [`Error`]; that there are transports, tokens, deadlines and repetitions
//! stays here. A call that only reads is repeated when it fails; one that changes something is
//! repeated when it is known that nothing came of it, for which the control plane is asked.

mod call;
mod error;
mod listing;
pub mod secrets;
mod streams;
mod transport;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use connectrpc::ErrorCode;
use connectrpc::client::ClientConfig;

use crate::auth::Credentials;
use crate::wire::{app, auth, cluster, common, dataproxy, status};
use call::{Caller, Failed, Repeat, RequestId, backoff};

pub use error::Error;
pub use listing::Listing;
pub use streams::{Event, LOG_PATIENCE, LogLine, LogStream, Watch};
pub use transport::Transport;
pub use upload::{Piece, Upload};

use cluster::select_cluster_request::{Operation, Resource};

/// How long a call that only reads or writes a row may take.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How often a change is begun anew because somebody else changed the app meanwhile.
const CONFLICTS: u32 = 3;

/// An app as a change left it.
#[derive(Clone, Debug)]
pub struct Changed {
    pub app: app::App,
    /// When the control plane answered, in seconds since 1970 by its own clock.
    pub taken_at: Option<i64>,
}

/// A connection to one control plane; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    caller: Caller,
    apps: app::AppServiceClient<Transport>,
    logs: app::AppLogsServiceClient<Transport>,
    clusters: cluster::ClusterServiceClient<Transport>,
    uploads: dataproxy::DataProxyServiceClient<Transport>,
    identity: auth::IdentityServiceClient<Transport>,
    /// Where operations are handled, by operation and resource.
    selected: Arc<Mutex<HashMap<String, String>>>,
}

impl Client {
    /// A client of the local platform: whoever reaches its socket may use it, and a call that fails
    /// there fails again. Connects at the first call.
    pub fn new(transport: Transport) -> Self {
        Self::remote(transport, Credentials::none(), 0)
    }

    /// A client of a control plane that may ask who calls, over a network that may fail.
    pub fn remote(transport: Transport, credentials: Credentials, retries: u32) -> Self {
        let mut config =
            ClientConfig::new(transport.base_uri()).with_default_timeout(CALL_DEADLINE);
        let mut streaming = ClientConfig::new(transport.base_uri());
        if !transport.is_local() {
            config = config.compress_requests("gzip");
            streaming = streaming.compress_requests("gzip");
        }
        Self {
            caller: Caller {
                endpoint: transport.endpoint().to_owned(),
                credentials,
                retries,
            },
            apps: app::AppServiceClient::new(transport.clone(), config.clone()),
            logs: app::AppLogsServiceClient::new(transport.clone(), streaming),
            clusters: cluster::ClusterServiceClient::new(transport.clone(), config.clone()),
            uploads: dataproxy::DataProxyServiceClient::new(transport.clone(), config.clone()),
            identity: auth::IdentityServiceClient::new(transport.clone(), config),
            selected: Arc::default(),
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

    /// What this client proves itself with.
    pub fn credentials(&self) -> &Credentials {
        &self.caller.credentials
    }

    /// Who the control plane takes the caller for.
    pub async fn user_info(&self) -> Result<auth::UserInfoResponse, Error> {
        let request = auth::UserInfoRequest::default();
        let answer = self
            .caller
            .call("UserInfo", Repeat::Always, |options| {
                let request = request.clone();
                self.identity.user_info_with_options(request, options)
            })
            .await?;
        Ok(answer.into_owned())
    }

    /// The client for an operation on a resource: this one, or one of the cluster that handles it.
    async fn select_cluster(
        &self,
        operation: Operation,
        resource: Resource,
    ) -> Result<Self, Error> {
        let key = format!("{operation:?} {resource:?}");
        let known = self
            .selected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        let endpoint = match known {
            Some(endpoint) => endpoint,
            None => {
                let request = cluster::SelectClusterRequest {
                    operation: operation.into(),
                    resource: Some(resource),
                    ..Default::default()
                };
                let answer = self
                    .caller
                    .call("SelectCluster", Repeat::Always, |options| {
                        let request = request.clone();
                        self.clusters.select_cluster_with_options(request, options)
                    })
                    .await?;
                let endpoint = answer.into_owned().cluster_endpoint;
                let mut selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
                selected.insert(key, endpoint.clone());
                endpoint
            }
        };
        self.at(&endpoint)
    }

    /// The same client at the endpoint of a cluster; an empty one means this one.
    fn at(&self, cluster: &str) -> Result<Self, Error> {
        let refused = |reason| Error::Cluster {
            endpoint: self.endpoint().to_owned(),
            cluster: cluster.to_owned(),
            reason,
        };
        let is_secure = self.transport.base_uri().scheme_str() == Some("https");
        let plain = cluster.trim_end_matches('/');
        let whole = if plain.starts_with("http://") || plain.starts_with("https://") {
            plain.to_owned()
        } else {
            let scheme = if is_secure { "https" } else { "http" };
            format!("{scheme}://{}", plain.trim_start_matches("dns:///"))
        };
        if plain.is_empty() || whole == self.endpoint() {
            return Ok(self.clone());
        }
        let base: http::Uri = whole.parse().map_err(|_| refused("it is not a URL"))?;
        if is_here(&self.transport.base_uri(), &base) {
            return Ok(self.clone());
        }
        if is_secure && whole.starts_with("http:") {
            return Err(refused("tokens would be sent in the clear"));
        }
        let transport = self
            .transport
            .elsewhere(base)
            .ok_or_else(|| refused("the local platform has no clusters"))?;
        Ok(Self::remote(
            transport,
            self.caller.credentials.clone(),
            self.caller.retries,
        ))
    }

    /// Creates the app, or replaces it where the control plane says that it exists.
    ///
    /// Where it is not known what became of a try, the control plane is asked before another one.
    pub async fn create_or_replace(&self, app: app::App) -> Result<Changed, Error> {
        let id = RequestId::new();
        let request = app::CreateRequest {
            app: app.clone().into(),
            ..Default::default()
        };
        let (mut tries, mut vanished) = (0, 0);
        loop {
            let outcome = self
                .caller
                .call_as(&id, "Create", Repeat::Unseen, |options| {
                    self.apps.create_with_options(request.clone(), options)
                })
                .await;
            match outcome {
                Ok(answer) => {
                    let taken_at = date(answer.headers());
                    let app = self.expect("Create", answer.into_owned().app)?;
                    return Ok(Changed { app, taken_at });
                }
                Err(failed) if exists(&failed) => match Box::pin(self.replace(app.clone())).await {
                    // It was there, and is gone.
                    Err(Error::NotFound { .. }) if vanished < CONFLICTS => vanished += 1,
                    outcome => return outcome,
                },
                Err(failed) => {
                    let stored = self.settle(&app, is_same, failed, &mut tries);
                    if let Some(app) = Box::pin(stored).await? {
                        return Ok(Changed::unseen(app));
                    }
                }
            }
        }
    }

    /// Gives the app that exists another spec; where somebody else changed it meanwhile, theirs.
    async fn replace(&self, app: app::App) -> Result<Changed, Error> {
        let mut conflicts = 0;
        loop {
            match Box::pin(self.replace_once(app.clone())).await {
                Err(error) if is_conflict(&error) && conflicts < CONFLICTS => conflicts += 1,
                outcome => return outcome,
            }
        }
    }

    async fn replace_once(&self, mut app: app::App) -> Result<Changed, Error> {
        let stored = self.get(&app.metadata.id).await?;
        if is_same(&stored, &app) && !status::is_failing(&stored) {
            return Ok(Changed::unseen(stored)); // the first try had come through after all
        }
        app.metadata.modify(|meta| {
            meta.revision = stored.metadata.revision;
            meta.labels.clone_from(&stored.metadata.labels);
        });
        app.spec
            .modify(|spec| spec.creator = stored.spec.creator.clone());
        app.status = stored.status;
        self.update(app, "served again").await
    }

    /// What a failed change came to: the app where `came_through` says so, `None` where it may be
    /// made again, the failure where there is no use in that.
    async fn settle(
        &self,
        wanted: &app::App,
        came_through: fn(&app::App, &app::App) -> bool,
        failed: Failed,
        tries: &mut u32,
    ) -> Result<Option<app::App>, Error> {
        if !failed.is_unknown || *tries >= self.caller.retries {
            return Err(failed.error);
        }
        tokio::time::sleep(backoff(*tries)).await;
        *tries += 1;
        match self.get(&wanted.metadata.id).await {
            Ok(stored) => Ok(came_through(&stored, wanted).then_some(stored)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(_) => Err(failed.error),
        }
    }

    /// The app as the control plane knows it now.
    pub async fn get(&self, id: &app::Identifier) -> Result<app::App, Error> {
        let request = app::GetRequest {
            identifier: Some(app::get_request::Identifier::AppId(Box::new(id.clone()))),
            ..Default::default()
        };
        let outcome = self
            .caller
            .call("Get", Repeat::Always, |options| {
                self.apps.get_with_options(request.clone(), options)
            })
            .await;
        match outcome {
            Ok(answer) => self.expect("Get", answer.into_owned().app),
            Err(failed) if failed.code == Some(ErrorCode::NotFound) => Err(Error::NotFound {
                name: id.name.clone(),
                project: id.project.clone(),
                domain: id.domain.clone(),
            }),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Sends a changed app back.
    pub async fn update(&self, app: app::App, reason: &str) -> Result<Changed, Error> {
        let id = RequestId::new();
        let request = app::UpdateRequest {
            app: app.clone().into(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        let mut tries = 0;
        loop {
            let outcome = self
                .caller
                .call_as(&id, "Update", Repeat::Unseen, |options| {
                    self.apps.update_with_options(request.clone(), options)
                })
                .await;
            match outcome {
                Ok(answer) => {
                    let taken_at = date(answer.headers());
                    let app = self.expect("Update", answer.into_owned().app)?;
                    return Ok(Changed { app, taken_at });
                }
                Err(failed) => {
                    let stored = self.settle(&app, is_same_and_labelled, failed, &mut tries);
                    if let Some(app) = Box::pin(stored).await? {
                        return Ok(Changed::unseen(app));
                    }
                }
            }
        }
    }

    /// Changes only what the app should be doing; every other field goes back as it came. Where
    /// somebody else changed the app meanwhile, it is their app that is changed. Tells how the app
    /// was before, too.
    pub async fn set_desired_state(
        &self,
        id: &app::Identifier,
        state: app::spec::DesiredState,
        reason: &str,
    ) -> Result<(app::App, Changed), Error> {
        let mut conflicts = 0;
        loop {
            let before = Box::pin(self.get(id)).await?;
            let mut app = before.clone();
            app.spec.modify(|spec| spec.desired_state = state.into());
            match Box::pin(self.update(app, reason)).await {
                Err(error) if is_conflict(&error) && conflicts < CONFLICTS => conflicts += 1,
                outcome => return outcome.map(|changed| (before, changed)),
            }
        }
    }

    /// Removes the app; an app that does not exist is an error.
    pub async fn delete(&self, id: &app::Identifier) -> Result<(), Error> {
        Box::pin(self.get(id)).await?;
        let request = app::DeleteRequest {
            app_id: id.clone().into(),
            ..Default::default()
        };
        let outcome = self
            .caller
            .call("Delete", Repeat::Always, |options| {
                self.apps.delete_with_options(request.clone(), options)
            })
            .await;
        match outcome {
            Ok(_) => Ok(()),
            // It was there a moment ago, so it is gone by a try whose answer was lost.
            Err(failed) if failed.code == Some(ErrorCode::NotFound) => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Events of one app, beginning with its present state. Breaks are mended on the way.
    pub fn watch(&self, id: &app::Identifier) -> Watch {
        Watch::new(self.clone(), id.clone())
    }

    /// Log lines of an app; ends by itself unless the server follows.
    pub async fn tail_logs(&self, id: &app::Identifier, follow: bool) -> Result<LogStream, Error> {
        let client = if self.transport.is_local() {
            self.clone()
        } else {
            let resource = Resource::AppId(Box::new(id.clone()));
            let selected = self.select_cluster(Operation::OPERATION_TAIL_LOGS, resource);
            // Where it is not told which cluster has the log, this control plane may have it.
            selected.await.unwrap_or_else(|_| self.clone())
        };
        Box::pin(LogStream::open(client, self.clone(), id.clone(), follow)).await
    }

    /// All lines that are kept of an app, oldest first. Where the control plane does not say that
    /// these are all, they are what it sends within `patience`.
    pub async fn past_logs(
        &self,
        id: &app::Identifier,
        patience: Duration,
    ) -> Result<Vec<LogLine>, Error> {
        let mut stream = self.tail_logs(id, false).await?;
        stream.wait_at_most(patience);
        let mut lines = Vec::new();
        loop {
            match stream.next().await {
                Ok(Some(batch)) => lines.extend(batch),
                Ok(None) => return Ok(lines),
                // What came is worth more than why no more did.
                Err(_) if !lines.is_empty() => return Ok(lines),
                Err(error) => return Err(error),
            }
        }
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
}

/// Whether a `Create` was refused because the app is there.
fn exists(failed: &Failed) -> bool {
    matches!(
        failed.code,
        Some(ErrorCode::AlreadyExists | ErrorCode::Aborted)
    )
}

/// Whether somebody else changed the app meanwhile.
fn is_conflict(error: &Error) -> bool {
    matches!(
        error,
        Error::Rejected {
            code: ErrorCode::Aborted | ErrorCode::FailedPrecondition,
            ..
        }
    )
}

/// What an answer's `Date` says, in seconds since 1970.
fn date(headers: &http::HeaderMap) -> Option<i64> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    let date = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// Whether a cluster's address leads back to where `base` leads.
///
/// The open-source control plane names the host that it was asked at. Behind a proxy that ends TLS
/// it takes itself for `http`, and may not know the proxy's port.
fn is_here(base: &http::Uri, cluster: &http::Uri) -> bool {
    if base.host() != cluster.host() {
        return false;
    }
    let is_secure = |uri: &http::Uri| uri.scheme_str() == Some("https");
    let port = |uri: &http::Uri| uri.port_u16();
    port(base) == port(cluster) || (is_secure(base) && !is_secure(cluster))
}

impl Changed {
    /// A change that came through although no answer to it did.
    fn unseen(app: app::App) -> Self {
        Self {
            app,
            taken_at: None,
        }
    }
}

/// Whether an update came through: labels are all that some updates are about.
fn is_same_and_labelled(stored: &app::App, sent: &app::App) -> bool {
    stored.metadata.labels == sent.metadata.labels && is_same(stored, sent)
}

/// Whether an app that is stored is the one that was sent, but for who made it.
fn is_same(stored: &app::App, sent: &app::App) -> bool {
    let mut spec = stored.spec.clone();
    let creator = sent.spec.creator.clone();
    spec.modify(|spec| spec.creator = creator);
    spec == sent.spec
}

fn project_id(org: &str, project: &str, domain: &str) -> common::ProjectIdentifier {
    common::ProjectIdentifier {
        organization: org.to_owned(),
        domain: domain.to_owned(),
        name: project.to_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_names_itself_is_not_another_one() {
        let is_here = |base: &str, cluster: &str| {
            super::is_here(&base.parse().unwrap(), &cluster.parse().unwrap())
        };
        assert!(is_here("https://h.x", "http://h.x"));
        assert!(is_here("https://h.x:8443", "http://h.x:8443"));
        assert!(is_here("https://h.x:8443", "http://h.x"));
        assert!(is_here("https://h.x/prefix", "https://h.x"));
        assert!(!is_here("http://h.x:80", "http://h.x:81"));
        assert!(!is_here("https://h.x", "https://h.x:8443"));
        assert!(!is_here("https://h.x", "http://c.h.x"));
    }

    #[test]
    fn labels_are_part_of_an_update() {
        let bare = app::App::default();
        let mut labelled = bare.clone();
        labelled.metadata.modify(|meta| {
            meta.labels.insert("team".into(), "a".into());
        });
        assert!(is_same(&bare, &labelled));
        assert!(!is_same_and_labelled(&bare, &labelled));
    }
}
