//! What a registry may answer, by one that answers as told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::*;
use crate::error::{Code, Diagnostic, Retry};

/// How often a registry was asked, and where it is.
#[derive(Default)]
struct Told {
    address: std::sync::OnceLock<String>,
    tokens: AtomicUsize,
    asked: AtomicUsize,
}

type Scope = Query<std::collections::HashMap<String, String>>;

async fn token(State(told): State<Arc<Told>>, Query(query): Scope) -> Response {
    told.tokens.fetch_add(1, Ordering::Relaxed);
    if query["scope"].contains("private") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let token = format!("for {} {}", query["service"], query["scope"]);
    serde_json::json!({"access_token": token})
        .to_string()
        .into_response()
}

/// Answers as the tag says.
async fn manifest(
    State(told): State<Arc<Told>>,
    Path((name, tag)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let signed = format!("Bearer for fake repository:{name}:pull");
    if headers
        .get("authorization")
        .and_then(|own| own.to_str().ok())
        != Some(&signed)
    {
        let realm = format!("http://{}/token", told.address.get().unwrap());
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    let asked = told.asked.fetch_add(1, Ordering::Relaxed);
    let error =
        |code: &str| serde_json::json!({"errors": [{"code": code, "message": ""}]}).to_string();
    match tag.as_str() {
        "unsteady" if asked == 0 => StatusCode::BAD_GATEWAY.into_response(),
        "there" | "unsteady" => StatusCode::OK.into_response(),
        "unknown" => (StatusCode::NOT_FOUND, error("NAME_UNKNOWN")).into_response(),
        "denied" => (StatusCode::FORBIDDEN, error("DENIED")).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "out of disk").into_response(),
    }
}

async fn fake() -> (Arc<Told>, String) {
    let told = Arc::new(Told::default());
    let app = Router::new()
        .route("/v2/", get(|| async { StatusCode::UNAUTHORIZED }))
        .route("/token", get(token))
        .route("/v2/{name}/manifests/{tag}", get(manifest))
        .with_state(Arc::clone(&told));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    told.address.set(address.clone()).unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (told, address)
}

async fn ask(address: &str, rest: &str) -> Result<bool, Error> {
    exists(&reference(&format!("{address}/{rest}")).unwrap(), &[]).await
}

#[tokio::test]
async fn a_token_is_fetched_and_absent_is_only_what_was_said_to_be() {
    let (told, address) = fake().await;
    assert!(ask(&address, "app:there").await.unwrap());
    assert_eq!(told.tokens.load(Ordering::Relaxed), 1);
    assert!(!ask(&address, "app:unknown").await.unwrap());
    // A HEAD has no body, so only the status is known.
    for (tag, code, retry, part) in [
        ("denied", Code::ImageDenied, Retry::Never, "403 Forbidden"),
        (
            "broken",
            Code::ImageRegistry,
            Retry::Maybe,
            "500 Internal Server Error",
        ),
    ] {
        let error = ask(&address, &format!("app:{tag}")).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(error.retry(), retry, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains(&address), "{error}");
        assert_eq!(error.hints().len(), 1);
    }
}

#[tokio::test]
async fn a_passing_failure_is_tried_again_and_a_refused_token_is_not_absence() {
    let (told, address) = fake().await;
    assert!(ask(&address, "app:unsteady").await.unwrap());
    assert_eq!(told.asked.load(Ordering::Relaxed), 2);
    let error = ask(&address, "private:there").await.unwrap_err();
    assert_eq!(error.code(), Code::ImageDenied, "{error}");
    assert!(
        error.hints()[0].contains("docker login"),
        "{:?}",
        error.hints()
    );
}

#[test]
fn a_reference_that_is_none_is_said() {
    let error = reference("a b").unwrap_err();
    assert_eq!(error.code(), Code::ImageInvalid);
    assert!(error.to_string().contains("`a b`"), "{error}");
}

#[test]
fn what_a_registry_says_is_shortened_to_its_messages() {
    let json = br#"{"errors": [{"code": "DENIED", "message": "no"}, {"code": "UNKNOWN"}]}"#;
    assert_eq!(said(json), "no, UNKNOWN");
    assert_eq!(said(br#"{"details": "wrong password"}"#), "wrong password");
    assert_eq!(said(b"plain text\n"), "plain text");
    assert_eq!(said(b"{}"), "");
    assert_eq!(said(&[b'x'; 1000]).len(), 300);
}

#[test]
fn a_reference_that_no_registry_would_take_is_refused_at_once() {
    for text in ["Acme/app", "acme/app:", "a b"] {
        let refused = super::reference(text).unwrap_err().to_string();
        assert!(refused.contains(&format!("`{text}`")), "{refused}");
    }
    let found = super::reference("localhost:5000/acme/app").unwrap();
    assert_eq!(found.whole(), "localhost:5000/acme/app:latest");
}
