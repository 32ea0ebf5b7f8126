//! The containers of one home: their engine, what was left of them, and their way to this machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::auth::DockerCredentials;
use bollard::errors::Error as Refusal;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListContainersOptionsBuilder};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::relay::Relay;
use super::request::Order;
use super::{Failure, remove};
use crate::config::Home;
use crate::engine::{Engine, Error};
use crate::error::{Code, with_causes};
use crate::local::gateway::names;
use crate::local::store::Store;
use crate::wire::app::status::Substate;

/// Whose a container is.
pub(super) const HOME_LABEL: &str = "org.flyte.home";
/// Which replica it is.
pub(super) const REPLICA_LABEL: &str = "org.flyte.replica";
/// How long a platform that starts waits for an engine to remove what was left.
const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

/// Who knows the credentials of registries: what is private is fetched with them.
pub trait Logins: Send + Sync {
    /// Those for the registry of `image`; what keeps them away is told in words.
    fn login<'a>(
        &'a self,
        image: &'a str,
    ) -> BoxFuture<'a, Result<Option<DockerCredentials>, String>>;
}

/// Nobody: whatever is fetched is public.
#[derive(Debug)]
pub struct NoLogins;

impl Logins for NoLogins {
    fn login<'a>(
        &'a self,
        _image: &'a str,
    ) -> BoxFuture<'a, Result<Option<DockerCredentials>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// How often a fetch says how far it is.
const NEWS_INTERVAL: Duration = Duration::from_secs(3);

/// The containers of one home.
pub struct Containers {
    logins: Arc<dyn Logins>,
    mark: String,
    /// There once there was a container, so that a platform without any asks no engine.
    note: PathBuf,
    names_port: u16,
    engine: OnceCell<Engine>,
    relay: Relay,
}

impl Containers {
    /// Containers that carry `mark`; apps answer by name at `names_port`.
    pub fn new(home: &Home, mark: &str, names_port: u16) -> Self {
        Self {
            logins: Arc::new(NoLogins),
            mark: mark.to_owned(),
            note: home.run().join("containers"),
            names_port,
            engine: OnceCell::new(),
            relay: Relay::default(),
        }
    }

    /// The same, fetching private images with what `logins` knows.
    #[must_use]
    pub fn with_logins(self, logins: Arc<dyn Logins>) -> Self {
        Self { logins, ..self }
    }

    pub fn mark(&self) -> &str {
        &self.mark
    }

    pub fn names_port(&self) -> u16 {
        self.names_port
    }

    /// The engine of this machine. Looked for until there is one; the first look removes what an
    /// earlier platform left.
    pub async fn engine(&self) -> Result<&Engine, Error> {
        self.engine
            .get_or_try_init(|| async {
                let engine = Engine::connect().await?;
                self.remove_left(&engine).await;
                if let Err(error) = std::fs::write(&self.note, "") {
                    tracing::warn!(%error, "containers of a platform that is killed may stay");
                }
                Ok(engine)
            })
            .await
    }

    /// Removes containers that an earlier platform left, where there were any.
    pub async fn sweep(&self) {
        if !self.note.exists() {
            return;
        }
        match tokio::time::timeout(SWEEP_PATIENCE, self.engine()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %with_causes(&error), "containers that were left stay");
            }
            Err(_) => tracing::warn!("the container engine does not answer"),
        }
    }

    async fn remove_left(&self, engine: &Engine) {
        let label = format!("{HOME_LABEL}={}", self.mark);
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let left = engine.docker().list_containers(Some(options)).await;
        let left = left.unwrap_or_else(|error| {
            tracing::warn!(%error, "containers cannot be listed");
            Vec::new()
        });
        let count = left.len();
        let ids = left.into_iter().filter_map(|container| container.id);
        let removals = ids.map(|id| remove(engine.clone(), id));
        futures::future::join_all(removals).await;
        if count > 0 {
            tracing::warn!(count, "removed containers that an earlier platform left");
        }
    }

    /// Lets containers that see this machine at `gateway` reach the apps by name.
    pub(super) async fn open_way(&self, gateway: IpAddr) {
        self.relay.open(gateway, self.names_port).await;
    }
}

/// The names under which a container finds the apps beside its own.
pub(super) fn neighbours(store: &Store, order: &Order) -> Vec<String> {
    let apps = store.apps().unwrap_or_default();
    let below = format!("{}/{}/", order.project, order.domain);
    let names = apps.iter().filter_map(|row| {
        let name = row.key.as_str().strip_prefix(&below)?;
        Some(names::for_containers(name, &order.project, &order.domain))
    });
    names.collect()
}

impl Containers {
    /// Has the engine fetch the image, unless it is there.
    pub(super) async fn provide(&self, engine: &Engine, image: &str) -> Result<(), Failure> {
        match engine.docker().inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(Refusal::DockerResponseServerError {
                status_code: 404, ..
            }) => {}
            Err(error) => return Err(not_fetched(image, error)),
        }
        tracing::info!(image, "fetching an image");
        let credentials = match self.logins.login(image).await {
            Ok(found) => found,
            // It may be public; if it is not, the registry says so.
            Err(reason) => {
                tracing::warn!(image, reason, "fetching without credentials");
                None
            }
        };
        let options = CreateImageOptionsBuilder::default()
            .from_image(image)
            .build();
        let mut pulled = engine
            .docker()
            .create_image(Some(options), None, credentials);
        let mut news = News::new(image);
        while let Some(info) = pulled
            .try_next()
            .await
            .map_err(|error| not_fetched(image, error))?
        {
            news.take(&info);
        }
        Ok(())
    }
}

fn not_fetched(image: &str, error: Refusal) -> Failure {
    let error = Error::while_it_should(format!("fetch `{image}`"))(error);
    let reason = with_causes(&error);
    // Registries hide what they do not show: "not there" may mean "not for you".
    let hint = if [
        "denied",
        "unauthorized",
        "no basic auth",
        "authentication required",
    ]
    .iter()
    .any(|sign| reason.contains(sign))
    {
        "; if it is private, do `docker login` of its registry and start the platform again"
    } else {
        ""
    };
    Failure {
        substate: Substate::IMAGE_PULL_ERROR,
        ..Failure::new(Code::ImagePullFailed, format!("{reason}{hint}"))
    }
}

/// How far a fetch is, told now and then.
struct News<'a> {
    image: &'a str,
    /// Fetched and whole bytes of each layer.
    layers: HashMap<String, (i64, i64)>,
    told: Instant,
}

impl<'a> News<'a> {
    fn new(image: &'a str) -> Self {
        Self {
            image,
            layers: HashMap::new(),
            told: Instant::now(),
        }
    }

    fn take(&mut self, info: &CreateImageInfo) {
        let detail = info.progress_detail.as_ref();
        let amounts = detail.and_then(|detail| Some((detail.current?, detail.total?)));
        if let (Some(layer), Some(amounts), Some("Downloading")) =
            (&info.id, amounts, info.status.as_deref())
        {
            self.layers.insert(layer.clone(), amounts);
        }
        if self.told.elapsed() < NEWS_INTERVAL || self.layers.is_empty() {
            return;
        }
        self.told = Instant::now();
        let (fetched, of) = self
            .layers
            .values()
            .fold((0, 0), |(a, b), (fetched, of)| (a + fetched, b + of));
        tracing::info!(image = self.image, fetched, of, "fetching an image");
    }
}
