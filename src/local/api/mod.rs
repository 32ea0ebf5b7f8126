//! The wire services over the platform, and the few plain paths beside them.

mod apps;
mod details;
mod door;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod list;
mod logs;
mod neighbours;
mod secrets;
mod uploads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{get, post};
use connectrpc::{CompressionPolicy, ConnectRpcService};
use tokio::sync::Notify;

use super::platform::{Platform, Refused, summary};
use super::prune::Pruner;
use super::store::Store;
use crate::config::Home;
use crate::error::with_causes;
use crate::files;
use crate::wire;

pub use door::Door;
pub use uploads::Signer;

/// What the services answer from.
#[derive(Clone)]
pub struct Api {
    pub platform: Arc<Platform>,
    pub home: Home,
    /// Version and build of the platform, so that a client can tell whether it is its own.
    pub build: String,
    /// Where the console page is.
    pub console_url: String,
    /// Where all apps answer by name.
    pub names_port: u16,
    /// The port for other clients.
    pub door: Arc<Door>,
    /// Who may upload what.
    pub signer: Arc<Signer>,
    /// Tidies the home.
    pub pruner: Pruner,
    /// Asked to end.
    pub stop: Arc<Notify>,
}

impl Api {
    /// Everything that is answered on the platform's socket.
    pub fn router(&self) -> Router {
        let own = Router::new()
            .route("/local/stop", post(stop))
            .route("/local/listen", post(listen))
            .route("/local/prune", post(prune));
        self.with_services(own)
    }

    /// What is answered to clients over TCP as well: all but what is about the process itself.
    pub fn open_router(&self) -> Router {
        self.with_services(Router::new())
    }

    fn with_services(&self, own: Router<Self>) -> Router {
        // Nobody who asks is further away than this machine, or a proxy that packs if it is to.
        let services = ConnectRpcService::new(self.services())
            .with_compression_policy(CompressionPolicy::disabled());
        own.route("/healthz", get(async || "ok"))
            .route("/local/about", get(about))
            .route("/local/status", get(status))
            .route("/metrics", get(metrics))
            .merge(details::router())
            .merge(uploads::router())
            .with_state(self.clone())
            .fallback_service(services)
    }

    fn services(&self) -> connectrpc::Router {
        use wire::app::{AppLogsServiceExt, AppServiceExt};
        use wire::auth::{AuthMetadataServiceExt, IdentityServiceExt};
        use wire::cluster::ClusterServiceExt;
        use wire::dataproxy::DataProxyServiceExt;
        use wire::imagebuilder::ImageServiceExt;
        use wire::project::ProjectServiceExt;
        use wire::secret::SecretServiceExt;
        let api = || Arc::new(self.clone());
        let mut services = connectrpc::Router::new();
        services = AppServiceExt::register(api(), services);
        services = AppLogsServiceExt::register(api(), services);
        services = AuthMetadataServiceExt::register(api(), services);
        services = IdentityServiceExt::register(api(), services);
        services = ClusterServiceExt::register(api(), services);
        services = DataProxyServiceExt::register(api(), services);
        services = ImageServiceExt::register(api(), services);
        services = ProjectServiceExt::register(api(), services);
        SecretServiceExt::register(api(), services)
    }

    /// Opens the port that was open when the platform ended, unless it was told to stay closed.
    pub async fn reopen(&self) {
        let Ok(text) = std::fs::read_to_string(self.home.listen_note()) else {
            return;
        };
        let Ok(address) = text.trim().parse() else {
            return;
        };
        if let Err(error) = self.door.open(address, self.open_router()).await {
            tracing::error!(%address, %error, "cannot listen for other clients again");
        }
    }

    fn uploads(&self) -> PathBuf {
        self.home.uploads()
    }
}

/// `GET /local/about`: enough for a client to know whom it speaks to.
async fn about(State(api): State<Api>) -> axum::response::Response {
    json(&serde_json::json!({
        "build": api.build,
        "console": api.console_url,
        "home": api.home.path(),
        "instance": api.signer.instance(),
    }))
}

/// `GET /local/status`: what `flyte local status` shows.
async fn status(State(api): State<Api>) -> axum::response::Response {
    let keys = api.platform.keys().unwrap_or_default();
    let apps: Vec<serde_json::Value> = keys
        .iter()
        .filter_map(|key| summary(&api.platform, key))
        .collect();
    let body = serde_json::json!({
        "pid": std::process::id(),
        "home": api.home.path(),
        "socket": api.home.socket(),
        "version": env!("CARGO_PKG_VERSION"),
        "build": api.build,
        "console": api.console_url,
        "listen": api.door.address().map(|address| format!("http://{address}")),
        "set_aside": Store::all_set_aside(&api.home.database()),
        "by_name": format!("http://<app>-<project>-<domain>.localhost:{}", api.names_port),
        "apps": apps,
    });
    json(&body)
}

/// `GET /metrics`: the apps' traffic for Prometheus.
async fn metrics(State(api): State<Api>) -> axum::response::Response {
    axum::response::IntoResponse::into_response((
        [(
            http::header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        api.platform.metrics(),
    ))
}

/// `POST /local/stop`: end after this answer.
async fn stop(State(api): State<Api>) -> axum::response::Response {
    api.stop.notify_one();
    json(&serde_json::json!({"pid": std::process::id()}))
}

/// Where to listen for other clients; nowhere when it is left out.
#[derive(serde::Deserialize)]
struct Listen {
    address: Option<SocketAddr>,
}

/// `POST /local/listen`: open or close the port for other clients.
async fn listen(State(api): State<Api>, body: Bytes) -> axum::response::Response {
    let refused = |message: String| {
        let told = json(&serde_json::json!({"message": message}));
        axum::response::IntoResponse::into_response((http::StatusCode::BAD_REQUEST, told))
    };
    let wanted: Listen = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return refused(format!("not an address: {error}")),
    };
    let note = api.home.listen_note();
    let Some(address) = wanted.address else {
        api.door.close();
        let _ = std::fs::remove_file(note);
        return json(&serde_json::json!({"listen": null}));
    };
    let opened = api.door.open(address, api.open_router()).await;
    // Another build of the package may take this platform's place; it has to find the setting.
    match opened {
        Ok(opened) => {
            if let Err(error) = files::write_cache(&note, opened.to_string().as_bytes()) {
                tracing::warn!(error = %with_causes(&error), "an open port is not noted down");
            }
            json(&serde_json::json!({"listen": format!("http://{opened}")}))
        }
        Err(error) => refused(format!("cannot listen at `{address}`: {error}")),
    }
}

/// `POST /local/prune`: remove what is not used, or tell what that is.
async fn prune(State(api): State<Api>, body: Bytes) -> axum::response::Response {
    let failed = |status: http::StatusCode, message: String| {
        let told = json(&serde_json::json!({"message": message}));
        axum::response::IntoResponse::into_response((status, told))
    };
    let order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return failed(http::StatusCode::BAD_REQUEST, error.to_string()),
    };
    let done = tokio::task::spawn_blocking(move || api.pruner.run(order)).await;
    let told = match done {
        Ok(Ok(report)) => serde_json::to_value(report).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(with_causes(&error)),
        Err(error) => Err(error.to_string()),
    };
    match told {
        Ok(report) => json(&report),
        Err(message) => failed(http::StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}

fn json(body: &serde_json::Value) -> axum::response::Response {
    axum::response::IntoResponse::into_response((
        [(http::header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    ))
}

impl From<Refused> for connectrpc::ConnectError {
    fn from(refused: Refused) -> Self {
        let text = refused.describe();
        match refused {
            Refused::Invalid(_) => Self::invalid_argument(text),
            Refused::NotFound(_) => Self::not_found(text),
            Refused::Changed { .. } => Self::aborted(text),
            // Until somebody makes room; a client that tried again would not get further.
            Refused::Store(error) if error.is_full() => Self::failed_precondition(text),
            Refused::Store(_) | Refused::Gateway(_) => Self::internal(text),
        }
    }
}
