//! The containers of one home: their engine, what was left of them, and their way to this machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bollard::errors::Error as Refusal;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListContainersOptionsBuilder};
use futures::TryStreamExt;
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

/// The containers of one home.
pub struct Containers {
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
            mark: mark.to_owned(),
            note: home.run().join("containers"),
            names_port,
            engine: OnceCell::new(),
            relay: Relay::default(),
        }
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

/// Has the engine fetch the image, unless it is there.
pub(super) async fn provide(engine: &Engine, image: &str) -> Result<(), Failure> {
    let docker = engine.docker();
    let failed = |error: Refusal| {
        let error = Error::while_it_should(format!("fetch `{image}`"))(error);
        Failure {
            substate: Substate::IMAGE_PULL_ERROR,
            ..Failure::new(Code::ImagePullFailed, with_causes(&error))
        }
    };
    match docker.inspect_image(image).await {
        Ok(_) => return Ok(()),
        Err(Refusal::DockerResponseServerError {
            status_code: 404, ..
        }) => {}
        Err(error) => return Err(failed(error)),
    }
    tracing::info!(image, "fetching an image");
    let options = CreateImageOptionsBuilder::default()
        .from_image(image)
        .build();
    let pulled = docker.create_image(Some(options), None, None);
    pulled
        .try_for_each(|_| async { Ok(()) })
        .await
        .map_err(failed)
}
