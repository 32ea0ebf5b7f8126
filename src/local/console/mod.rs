//! Pages for people: what runs on this machine, at a loopback port.
//!
//! Everything is rendered here and can be read without script; the script keeps pages up to date
//! by asking for them again, follows the log and asks before an app is deleted. `guard` decides who
//! is answered, `html` keeps what apps say from becoming markup, `masks` what looks secret from
//! being shown. No file, font or script comes from anywhere else.

mod actions;
mod advice;
mod ansi;
mod app;
mod badge;
mod charts;
mod diff;
mod explained;
mod facts;
mod guard;
mod html;
mod list;
mod logs;
mod masks;
mod revisions;
mod stream;
mod traffic;
mod words;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::middleware;
use axum::response::{Html as Page, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri, header};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::platform::{Platform, Refused, SAMPLE_EVERY};
use super::store::AppKey;
use crate::error::Code;
use crate::wire::identifier;
use guard::Token;
use html::{Html, html};

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Pages that are kept up to date at a time; a browser has a handful.
const STREAMS: usize = 64;
/// What slashes part the path of an app's page into.
const PAGE_PARTS: usize = 8;
/// A form is small.
const FORM_BYTES: usize = 4096;

/// What the pages are answered from.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    platform: Arc<Platform>,
    token: Token,
    streams: Arc<Semaphore>,
    /// Looks at the traffic for as long as there is a page to show it on.
    _sampling: AbortOnDropHandle<()>,
}

impl Console {
    pub fn new(platform: Arc<Platform>) -> std::io::Result<Self> {
        let sampling = tokio::spawn(sample(Arc::clone(&platform)));
        Ok(Self(Arc::new(Inner {
            platform,
            token: Token::new()?,
            streams: Arc::new(Semaphore::new(STREAMS)),
            _sampling: AbortOnDropHandle::new(sampling),
        })))
    }

    /// Everything that is answered on the console's port.
    pub fn router(self) -> Router {
        let page = "/v2/domain/{domain}/project/{project}/apps/{name}";
        let own = "/console/apps/{project}/{domain}/{name}";
        Router::new()
            .route("/", get(index))
            .route("/metrics", get(metrics))
            .route(page, get(show))
            .route(&format!("{page}/{{*rest}}"), get(forward))
            .route("/console/style.css", get(async || asset("text/css", STYLE)))
            .route(
                "/console/script.js",
                get(async || asset("text/javascript", SCRIPT)),
            )
            .route(
                "/console/icon.svg",
                get(async || asset("image/svg+xml", ICON)),
            )
            .route("/console/codes/{code}", get(explain))
            .route("/console/live", get(stream::all))
            .route(&format!("{own}/live"), get(stream::one))
            .route(&format!("{own}/logs"), get(log_page))
            .route(&format!("{own}/compare"), get(compare))
            .route(&format!("{own}/delete"), get(ask).post(delete))
            .route(&format!("{own}/{{action}}"), post(actions::act))
            .fallback(nowhere)
            .layer(DefaultBodyLimit::max(FORM_BYTES))
            .layer(middleware::from_fn(guard::admit))
            .with_state(self)
    }

    fn platform(&self) -> &Arc<Platform> {
        &self.0.platform
    }

    fn token(&self) -> &Token {
        &self.0.token
    }

    fn streams(&self) -> &Arc<Semaphore> {
        &self.0.streams
    }

    /// A form of one button.
    fn button(&self, key: &AppKey, action: &str, text: &str, class: &str) -> Html {
        html!(
            "<form id=\"do-{}\" method=\"post\" action=\"{}\" data-act=\"{}\"><input type=\"hidden\" \
             name=\"token\" value=\"{}\"><button id=\"{}\" class=\"{}\">{}</button></form>",
            action,
            own_path(key, action),
            text,
            self.token().text(),
            action,
            class,
            text
        )
    }
}

/// A page around a body; the script follows the events at `stream`.
fn page(title: &str, stream: &str, body: &Html) -> Response {
    let version = VERSION.as_str();
    let page = html!(
        include "assets/page.html",
        title,
        version,
        version,
        version,
        version,
        stream,
        body,
        env!("CARGO_PKG_VERSION"),
    );
    Page(page.into_string()).into_response()
}

fn failure(status: StatusCode, title: &str, reason: &str) -> Response {
    let body = html!(
        "<h1>{}</h1><p>{}</p><p><a href=\"/\">All apps</a></p>",
        title,
        reason
    );
    (status, page(title, "", &body)).into_response()
}

fn refusal(refused: &Refused) -> Response {
    let title = match refused {
        Refused::NotFound(_) => "Not found",
        Refused::Changed { .. } => "It was changed meanwhile",
        Refused::Invalid(_) | Refused::Store(_) | Refused::Gateway(_) => "That did not work",
    };
    failure(status(refused), title, &refused.describe())
}

/// Changes with every build, so that browsers may keep the files.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = blake3::Hasher::new();
    for asset in [STYLE, SCRIPT, ICON] {
        hash.update(asset.as_bytes());
    }
    hash.finalize().to_hex()[..12].to_owned()
});

/// Path of an app's page, in the form of the clusters' console.
fn page_path(key: &AppKey) -> String {
    let (project, domain, name) = key.parts();
    format!("/v2/domain/{domain}/project/{project}/apps/{name}")
}

/// Path of something about an app that is not its page: what lies below that leads to the app.
fn own_path(key: &AppKey, what: &str) -> String {
    format!("/console/apps/{key}/{what}")
}

fn status(refused: &Refused) -> StatusCode {
    match refused {
        Refused::Invalid(_) => StatusCode::BAD_REQUEST,
        Refused::NotFound(_) => StatusCode::NOT_FOUND,
        Refused::Changed { .. } => StatusCode::CONFLICT,
        Refused::Store(_) | Refused::Gateway(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn sample(platform: Arc<Platform>) {
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        platform.sample();
    }
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "max-age=31536000, immutable"),
    ];
    (headers, text).into_response()
}

/// Project, domain and name.
type Named = (String, String, String);

fn key((project, domain, name): Named) -> AppKey {
    AppKey::of(&identifier("", &project, &domain, &name))
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Filter {
    q: String,
}

async fn index(State(console): State<Console>, Query(filter): Query<Filter>) -> Response {
    match list::Apps::of(console.platform()) {
        Ok(apps) => page("Apps", "/console/live", &apps.page(&filter.q)),
        Err(refused) => refusal(&refused),
    }
}

async fn metrics(State(console): State<Console>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], console.platform().metrics()).into_response()
}

async fn show(
    State(console): State<Console>,
    Path((domain, project, name)): Path<Named>,
) -> Response {
    let key = key((project, domain, name));
    match app::AppPage::of(&console, &key) {
        Ok(app) => page(key.name(), &own_path(&key, "live"), &app.body()),
        Err(refused) => refusal(&refused),
    }
}

/// Paths below an app's page lead to the app itself.
async fn forward(
    State(console): State<Console>,
    Path((domain, project, name, _)): Path<(String, String, String, String)>,
    uri: Uri,
) -> Response {
    match console.platform().view(&key((project, domain, name))) {
        Ok(app) => {
            let endpoint = &app.status.ingress.public_url;
            // As it was asked for: what is escaped stays so, and a query goes along.
            let asked = uri.path_and_query().map_or("", PathAndQuery::as_str);
            let rest = asked.splitn(PAGE_PARTS + 1, '/').nth(PAGE_PARTS);
            let rest = rest.unwrap_or_default();
            Redirect::temporary(&format!("{endpoint}/{rest}")).into_response()
        }
        Err(refused) => refusal(&refused),
    }
}

async fn log_page(
    State(console): State<Console>,
    Path(named): Path<Named>,
    Query(asked): Query<logs::Asked>,
) -> Response {
    let key = key(named);
    if let Err(refused) = console.platform().view(&key) {
        return refusal(&refused);
    }
    // A search may read the whole log.
    let work = console.clone();
    let searched = tokio::task::spawn_blocking(move || {
        let body = logs::page(&work, &key, &asked);
        page(&format!("Log of {}", key.name()), "", &body)
    });
    searched
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[derive(serde::Deserialize)]
struct Between {
    from: u64,
    to: u64,
}

async fn compare(
    State(console): State<Console>,
    Path(named): Path<Named>,
    Query(Between { from, to }): Query<Between>,
) -> Response {
    let key = key(named);
    let work = console.clone();
    // Two bundles are unpacked for it.
    let compared =
        tokio::task::spawn_blocking(move || match revisions::compare(&work, &key, from, to) {
            Ok(body) => page(&format!("{}: {from} to {to}", key.name()), "", &body),
            Err(refused) => refusal(&refused),
        });
    compared
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// The page that asks before an app is deleted, for browsers without script.
async fn ask(State(console): State<Console>, Path(named): Path<Named>) -> Response {
    let key = key(named);
    match console.platform().view(&key) {
        Ok(_) => page(
            "Delete",
            "",
            &html!(
                "<h1>{}</h1><div class=\"alert\">{}</div>",
                key.name(),
                app::deletion(&console, &key)
            ),
        ),
        Err(refused) => refusal(&refused),
    }
}

async fn delete(
    state: State<Console>,
    Path((project, domain, name)): Path<Named>,
    headers: http::HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let path = Path((project, domain, name, "delete".to_owned()));
    actions::act(state, path, headers, body).await
}

/// What a code of an error means.
async fn explain(Path(code): Path<String>) -> Response {
    match Code::parse(&code) {
        Some(code) => page(code.as_str(), "", &explained::page(code)),
        None => nowhere().await,
    }
}

async fn nowhere() -> Response {
    failure(StatusCode::NOT_FOUND, "Not found", "There is no such page.")
}
