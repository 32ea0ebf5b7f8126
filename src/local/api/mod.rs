//! The wire services over the platform, and the few plain paths beside them.

mod apps;
mod console;
mod details;
mod logs;
mod neighbours;
mod secrets;
mod uploads;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use tokio::sync::Notify;

use super::platform::{Platform, Refused, summary};
use crate::config::Home;
use crate::wire;

pub use console::router as console_router;

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
    /// Asked to end.
    pub stop: Arc<Notify>,
}

impl Api {
    /// Everything that is answered on the platform's socket.
    pub fn router(&self) -> Router {
        use wire::app::{AppLogsServiceExt, AppServiceExt};
        use wire::cluster::ClusterServiceExt;
        use wire::dataproxy::DataProxyServiceExt;
        use wire::project::ProjectServiceExt;
        use wire::secret::SecretServiceExt;
        let api = Arc::new(self.clone());
        let mut services = connectrpc::Router::new();
        services = AppServiceExt::register(Arc::clone(&api), services);
        services = AppLogsServiceExt::register(Arc::clone(&api), services);
        services = ClusterServiceExt::register(Arc::clone(&api), services);
        services = DataProxyServiceExt::register(Arc::clone(&api), services);
        services = ProjectServiceExt::register(Arc::clone(&api), services);
        services = SecretServiceExt::register(api, services);
        Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/local/about", get(about))
            .route("/local/status", get(status))
            .route("/local/stop", post(stop))
            .route("/metrics", get(metrics))
            .merge(details::router())
            .merge(uploads::router())
            .with_state(self.clone())
            .fallback_service(services.into_axum_service())
    }

    fn uploads(&self) -> PathBuf {
        self.home.uploads()
    }
}

/// `GET /local/about`: enough for a client to know whom it speaks to.
async fn about(State(api): State<Api>) -> axum::response::Response {
    json(&serde_json::json!({"build": api.build, "console": api.console_url}))
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
            Refused::Store(_) | Refused::Gateway(_) => Self::internal(text),
        }
    }
}
