//! Pages for people: what runs, at a loopback port, for reading only.
//!
//! Only requests that name this machine in `Host` are answered, so that a web page elsewhere
//! cannot read apps by pointing a name of its own at 127.0.0.1.

use std::fmt::Write;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use http::{StatusCode, header};

use super::Api;
use crate::local::store::AppKey;
use crate::wire::{app, identifier, status};

/// Log lines shown on an app's page.
const LINES: usize = 50;

/// The console's routes.
pub fn router(api: Api) -> Router {
    let page = "/v2/domain/{domain}/project/{project}/apps/{name}";
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(super::metrics))
        .route(page, get(show))
        .route(&format!("{page}/{{*rest}}"), get(forward))
        .layer(middleware::from_fn(local_only))
        .with_state(api)
}

async fn local_only(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return (StatusCode::FORBIDDEN, "this page is for this machine only").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

async fn index(State(api): State<Api>) -> Response {
    let mut body = String::from("<h1>Apps on this machine</h1>");
    let keys = api.platform.keys().unwrap_or_default();
    if keys.is_empty() {
        body.push_str("<p>None yet. <code>flyte serve app.py</code> starts one.</p>");
    }
    body.push_str("<ul>");
    for app in keys.iter().filter_map(|key| api.platform.view(key).ok()) {
        let _ = write!(
            body,
            "<li><a href=\"{}\">{}</a> {}</li>",
            escape(&page_path(&app)),
            escape(&app.metadata.id.name),
            badge(&app)
        );
    }
    body.push_str("</ul>");
    Html(frame("Apps", &body)).into_response()
}

type Named = Path<(String, String, String)>;

async fn show(State(api): State<Api>, Path((domain, project, name)): Named) -> Response {
    let key = AppKey::of(&identifier("", &project, &domain, &name));
    match api.platform.view(&key) {
        Ok(app) => Html(frame(&name, &app_page(&api, &key, &app))).into_response(),
        Err(_) => not_found(&name),
    }
}

/// Paths below an app's page lead to the app itself.
async fn forward(
    State(api): State<Api>,
    Path((domain, project, name, rest)): Path<(String, String, String, String)>,
) -> Response {
    let key = AppKey::of(&identifier("", &project, &domain, &name));
    match api.platform.view(&key) {
        Ok(app) => {
            let endpoint = &app.status.ingress.public_url;
            Redirect::temporary(&format!("{endpoint}/{rest}")).into_response()
        }
        Err(_) => not_found(&name),
    }
}

fn not_found(name: &str) -> Response {
    let body = format!("<h1>There is no app <code>{}</code></h1>", escape(name));
    (StatusCode::NOT_FOUND, Html(frame("Not found", &body))).into_response()
}

fn app_page(api: &Api, key: &AppKey, app: &app::App) -> String {
    let endpoint = escape(&app.status.ingress.public_url);
    let mut body = format!(
        "<p><a href=\"/\">All apps</a></p><h1>{} {}</h1>\
         <p>Endpoint: <a href=\"{endpoint}\">{endpoint}</a></p><p>Revision {}</p>",
        escape(&app.metadata.id.name),
        badge(app),
        app.metadata.revision
    );
    if !app.spec.inputs.items.is_empty() {
        body.push_str("<h2>Parameters</h2><dl>");
        for input in &app.spec.inputs.items {
            if let Some(app::input::Value::StringValue(value)) = &input.value {
                let _ = write!(
                    body,
                    "<dt>{}</dt><dd><code>{}</code></dd>",
                    escape(&input.name),
                    escape(value)
                );
            }
        }
        body.push_str("</dl>");
    }
    body.push_str("<h2>History</h2><ol reversed>");
    for condition in app.status.conditions.iter().rev().take(10) {
        let _ = write!(
            body,
            "<li>{}: {}</li>",
            status::short_name(status::condition_status(condition)),
            escape(&condition.message)
        );
    }
    body.push_str("</ol><h2>Log</h2><pre>");
    if let Some(handle) = api.platform.handle(key) {
        for record in handle.logs.tail(LINES, |_| true) {
            let _ = writeln!(body, "{:.3} {}", record.at, escape(&record.text));
        }
    }
    body.push_str("</pre>");
    body
}

fn badge(app: &app::App) -> String {
    format!(
        "<small>{}</small>",
        status::short_name(status::deployment_status(app))
    )
}

/// Path of an app's page, in the form of the clusters' console.
pub fn page_path(app: &app::App) -> String {
    let id = &app.metadata.id;
    format!(
        "/v2/domain/{}/project/{}/apps/{}",
        id.domain, id.project, id.name
    )
}

fn frame(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{} - flyte</title>\
         <style>:root{{color-scheme:light dark}}\
         body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         pre{{overflow:auto;padding:1rem;border:1px solid}}</style><main>{body}</main></html>",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
