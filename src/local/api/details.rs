//! What the protocol of the clusters has no words for: traffic, revisions, going back.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;

use super::{Api, json};
use crate::local::platform::Refused;
use crate::local::store::AppKey;
use crate::wire::identifier;

pub fn router() -> Router<Api> {
    let app = "/local/apps/{project}/{domain}/{name}";
    Router::new()
        .route(&format!("{app}/traffic"), get(traffic))
        .route(&format!("{app}/revisions"), get(revisions))
        .route(&format!("{app}/rollback"), post(roll_back))
}

/// Project, domain and name.
type Named = Path<(String, String, String)>;

fn key((project, domain, name): (String, String, String)) -> AppKey {
    AppKey::of(&identifier("", &project, &domain, &name))
}

async fn traffic(State(api): State<Api>, Path(named): Named) -> Response {
    let key = key(named);
    match api.platform.traffic(&key) {
        Some(traffic) => json(&traffic),
        None => refuse(&Refused::NotFound(key.name().to_owned())),
    }
}

async fn revisions(State(api): State<Api>, Path(named): Named) -> Response {
    match api.platform.revisions(&key(named)) {
        Ok(revisions) => json(&revisions),
        Err(refused) => refuse(&refused),
    }
}

/// Which revision to go back to; the one before when it is left out.
#[derive(serde::Deserialize)]
struct Back {
    revision: Option<u64>,
}

async fn roll_back(
    State(api): State<Api>,
    Path(named): Named,
    Query(back): Query<Back>,
) -> Response {
    match api.platform.roll_back(&key(named), back.revision).await {
        Ok(revision) => json(&serde_json::json!({"revision": revision})),
        Err(refused) => refuse(&refused),
    }
}

fn refuse(refused: &Refused) -> Response {
    let status = match refused {
        Refused::Invalid(_) => StatusCode::BAD_REQUEST,
        Refused::NotFound(_) => StatusCode::NOT_FOUND,
        Refused::Changed { .. } => StatusCode::CONFLICT,
        Refused::Store(_) | Refused::Gateway(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let body = serde_json::json!({"message": refused.describe()});
    (status, json(&body)).into_response()
}
