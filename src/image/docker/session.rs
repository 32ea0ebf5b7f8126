//! What the engine asks its client while it builds: secrets, credentials, and whether it lives.
//!
//! The engine speaks gRPC to us over a connection that we opened and turned around. `bollard` has
//! such a session too, but one that offers no secrets together with a build's progress.

use std::sync::Arc;

use bytes::Bytes;
use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult,
};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::service::TowerToHyperService;
use tokio_util::task::AbortOnDropHandle;

use super::{Lookup, registry_name};
use crate::engine::{self, Engine};
use crate::image::Error;
use crate::image::secret::Secrets;
use crate::wire::buildkit::filesync::{Auth, AuthExt, CredentialsRequest, CredentialsResponse};
use crate::wire::buildkit::health::health_check_response::ServingStatus;
use crate::wire::buildkit::health::{Health, HealthCheckRequest, HealthCheckResponse, HealthExt};
use crate::wire::buildkit::secrets::{
    GetSecretRequest, GetSecretResponse, Secrets as SecretsService, SecretsExt,
};

/// The calls that we answer, as the engine wants to know them.
const OFFERED: [&str; 3] = [
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.filesync.v1.Auth/Credentials",
    "/grpc.health.v1.Health/Check",
];

/// An open session; it ends when this is dropped.
pub(super) struct Session {
    pub id: String,
    _serving: AbortOnDropHandle<()>,
}

impl Session {
    /// Opens one. What it answers from stays in this process.
    pub(super) async fn open(
        engine: &Engine,
        secrets: Secrets,
        login: Lookup,
    ) -> Result<Self, Error> {
        let id = id();
        let mut request = Request::post("/session")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "h2c")
            .header("X-Docker-Expose-Session-Uuid", &id)
            .header("X-Docker-Expose-Session-Name", "flyte")
            .header("X-Docker-Expose-Session-Sharedkey", "");
        for call in OFFERED {
            request = request.header("X-Docker-Expose-Session-Grpc-Method", call);
        }
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| engine::Error::Broken {
            action: "open a build session".into(),
            source,
        };
        let body = Full::new(Bytes::new()).map_err(|never| match never {});
        let request = request
            .body(body.boxed_unsync())
            .map_err(|error| broken(error.into()))?;
        let answer = engine.send(request).await?;
        if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(super::refusal("open a build session", answer).await.into());
        }
        let upgraded = hyper::upgrade::on(answer.response)
            .await
            .map_err(|error| broken(error.into()))?;
        let services = TowerToHyperService::new(Answers { secrets, login }.router());
        let serving = tokio::spawn(async move {
            let connection =
                http2::Builder::new(TokioExecutor::new()).serve_connection(upgraded, services);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a build session ended");
            }
        });
        Ok(Self {
            id,
            _serving: AbortOnDropHandle::new(serving),
        })
    }
}

/// Unique among the clients of an engine.
fn id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = jiff::Timestamp::now().as_nanosecond();
    let parts = (
        now,
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed),
    );
    let hash = blake3::hash(format!("{parts:?}").as_bytes()).to_hex();
    hash[..25].to_owned()
}

struct Answers {
    secrets: Secrets,
    login: Lookup,
}

impl Answers {
    fn router(self) -> axum::Router {
        let answers = Arc::new(self);
        let mut services = connectrpc::Router::new();
        services = SecretsExt::register(Arc::clone(&answers), services);
        services = AuthExt::register(Arc::clone(&answers), services);
        services = HealthExt::register(answers, services);
        axum::Router::new().fallback_service(services.into_axum_service())
    }
}

impl SecretsService for Answers {
    async fn get_secret<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretRequest>,
    ) -> ServiceResult<impl Encodable<GetSecretResponse> + Send + use<'a>> {
        let id = request.to_owned_message().id;
        let value = self.secrets.get(&id);
        let value = value.ok_or_else(|| ConnectError::not_found(format!("no secret `{id}`")))?;
        Response::ok(GetSecretResponse {
            data: value.to_vec(),
            ..Default::default()
        })
    }
}

impl Auth for Answers {
    async fn credentials<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CredentialsRequest>,
    ) -> ServiceResult<impl Encodable<CredentialsResponse> + Send + use<'a>> {
        let host = request.to_owned_message().host;
        let found = (self.login)(registry_name(&host).to_owned()).await;
        let found =
            found.map_err(|error| ConnectError::unavailable(crate::error::with_causes(&error)))?;
        let found = found.unwrap_or_default();
        // A token stands where the password would, with no name before it.
        let secret = found.identitytoken.or(found.password);
        Response::ok(CredentialsResponse {
            username: found.username.unwrap_or_default(),
            secret: secret.unwrap_or_default(),
            ..Default::default()
        })
    }
}

impl Health for Answers {
    async fn check<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, HealthCheckRequest>,
    ) -> ServiceResult<impl Encodable<HealthCheckResponse> + Send + use<'a>> {
        Response::ok(HealthCheckResponse {
            status: ServingStatus::SERVING.into(),
            ..Default::default()
        })
    }
}
