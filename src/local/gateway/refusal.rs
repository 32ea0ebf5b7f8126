//! Answers that the gateway gives itself, because no app could.
//!
//! The body is JSON for programs, and a page for browsers, with a request id that also stands in the log next to the cause;
//! the cause itself never leaves the machine. Codes are contract, messages are not.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::error::Code;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
);

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:0}\
    main{max-width:40rem;margin:15vh auto;padding:0 1rem}h1{font-size:1.4rem}";

/// Seconds after which a client that was turned away may come back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// The console's address, once it is known.
static CONSOLE: OnceLock<String> = OnceLock::new();

/// Lets pages name the console from now on.
pub fn name_console(url: &str) {
    // One process has one platform; in tests the first one is as good as any.
    let _ = CONSOLE.set(url.to_owned());
}

/// What the client can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    /// It is a browser in which somebody looks at the answer.
    Page,
}

impl Form {
    /// From the value of the header `accept`: browsers name HTML where they navigate, programs
    /// that take anything do not.
    pub(super) fn wanted(accept: Option<&[u8]>) -> Self {
        const HTML: &[u8] = b"text/html";
        let names_html = accept.is_some_and(|value| {
            value
                .windows(HTML.len())
                .any(|part| part.eq_ignore_ascii_case(HTML))
        });
        if names_html { Self::Page } else { Self::Json }
    }

    /// The same from a request as it stands in a buffer.
    pub(super) fn wanted_in(request: &[u8]) -> Self {
        let mut lines = request.split(|byte| *byte == b'\n').skip(1);
        let accept = lines.find_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            line[..colon]
                .eq_ignore_ascii_case(b"accept")
                .then_some(&line[colon + 1..])
        });
        Self::wanted(accept)
    }
}

/// What whoever sits in front of the page can do.
fn advice(code: &str) -> &'static str {
    match Code::parse(code) {
        Some(Code::AppStarting) => "It is being started: load the page again in a moment.",
        Some(Code::AppOverloaded) => "Load the page again in a moment.",
        Some(Code::AppUnreachable | Code::AppBrokenOff) => {
            "Load the page again; the app's log says what happened: flyte get logs NAME."
        }
        Some(Code::AppDeactivated) => "Start it again: flyte update app NAME --activate.",
        Some(Code::AppNotFound) => "flyte get app lists the apps that there are.",
        Some(_) | None => "The app's log says more: flyte get logs NAME.",
    }
}

/// Text that is text wherever it stands in markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Why a request is answered by the gateway, and how.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    come_back: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self {
            status,
            code,
            message,
            come_back: false,
        }
    }

    pub(super) fn starting(patience: Duration) -> Self {
        let seconds = patience.as_secs_f64();
        let message = format!("the app is still starting after {seconds} s of waiting");
        Self::come_back("app.starting", message)
    }

    pub(super) fn overloaded(waiting: usize) -> Self {
        let message = format!("{waiting} requests already wait for the app");
        Self::come_back("app.overloaded", message)
    }

    pub(super) fn busy(replicas: usize, patience: Duration) -> Self {
        let seconds = patience.as_secs_f64();
        let message = match replicas {
            1 => format!("the app's replica has as many requests as it may, for {seconds} s now"),
            _ => format!(
                "all {replicas} replicas of the app have as many requests as they may, for {seconds} s now"
            ),
        };
        Self::come_back("app.overloaded", message)
    }

    pub(super) fn unreachable() -> Self {
        let message = "the app takes no connection".to_owned();
        Self::new(StatusCode::BAD_GATEWAY, "app.unreachable", message)
    }

    pub(super) fn broken_off() -> Self {
        let message = "the app ended the connection without a usable answer".to_owned();
        Self::new(StatusCode::BAD_GATEWAY, "app.broken_off", message)
    }

    pub(super) fn late(limit: Duration) -> Self {
        let seconds = limit.as_secs_f64();
        let message = format!("the app did not begin to answer within {seconds} s");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "app.response_timeout", message)
    }

    pub(super) fn malformed(message: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "app.bad_request",
            message.to_owned(),
        )
    }

    pub(super) fn unknown_host(host: &str) -> Self {
        let message = format!("no app answers to the host name `{host}`");
        Self::new(StatusCode::NOT_FOUND, "app.not_found", message)
    }

    pub(super) fn no_upgrades() -> Self {
        let message =
            "the app is spoken to in HTTP/2 (`h2c`), over which WebSockets are not passed on";
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "app.bad_request",
            message.to_owned(),
        )
    }

    pub(super) fn no_socket() -> Self {
        let message = "the app answered without opening the WebSocket".to_owned();
        Self::new(StatusCode::BAD_GATEWAY, "app.broken_off", message)
    }

    pub(super) fn no_tunnels() -> Self {
        let message = "the method `CONNECT` is not served here".to_owned();
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "app.bad_request", message)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    fn come_back(code: &'static str, message: String) -> Self {
        Self {
            come_back: true,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }

    /// The whole answer for the request known as `id`, as HTTP/1.1 has it; to a `HEAD` its head alone.
    pub(super) fn into_bytes(
        self,
        id: &HeaderValue,
        form: Form,
        keep_alive: bool,
        to_head: bool,
    ) -> Vec<u8> {
        let (head, body) = self.into_response(id, form).into_parts();
        let body = body.into_inner().unwrap_or_default();
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\ncontent-length: {}\r\n",
            head.status.as_u16(),
            head.status.canonical_reason().unwrap_or_default(),
            body.len()
        )
        .into_bytes();
        for (name, value) in &head.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        if !keep_alive {
            bytes.extend_from_slice(b"connection: close\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        if !to_head {
            bytes.extend_from_slice(&body);
        }
        bytes
    }

    /// The answer for the request known as `id`.
    pub(super) fn into_response(self, id: &HeaderValue, form: Form) -> Response<Full<Bytes>> {
        let request_id = id.to_str().unwrap_or_default();
        tracing::debug!(request_id, code = self.code, status = %self.status, "request refused");
        let (kind, body) = match form {
            Form::Json => ("application/json", self.document(request_id)),
            Form::Page => ("text/html; charset=utf-8", self.page(request_id)),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if form == Form::Page {
            // Nothing in it runs or is fetched.
            headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        }
        headers.insert(REQUEST_ID, id.clone());
        if self.come_back {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }

    fn document(&self, request_id: &str) -> String {
        let error = json!({"code": self.code, "message": self.message, "request_id": request_id});
        json!({ "error": error }).to_string()
    }

    fn page(&self, request_id: &str) -> String {
        let console = CONSOLE.get().map(|url| {
            let url = escaped(url);
            format!("<p><a href=\"{url}\">The apps of this machine</a></p>")
        });
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>{status} {code}</title><style>{STYLE}</style></head><body><main>\
             <h1>{message}</h1><p>{advice}</p>{console}\
             <p><code>{code}</code>: <code>flyte explain {code}</code> tells more.</p>\
             <p>Request <code>{id}</code></p></main></body></html>",
            status = self.status.as_u16(),
            code = escaped(self.code),
            message = escaped(&sentence(&self.message)),
            advice = advice(self.code),
            console = console.unwrap_or_default(),
            id = escaped(request_id),
        )
    }
}

/// A message as the heading of a page.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), letters.as_str())
}

/// The client's own request id where it sent a reasonable one.
pub(super) fn request_id_of(headers: &HeaderMap) -> Option<HeaderValue> {
    reasonable_id(headers.get(REQUEST_ID)?.as_bytes())
}

/// A request id of a client, if it is one that can be repeated in an answer.
pub(super) fn reasonable_id(value: &[u8]) -> Option<HeaderValue> {
    let value = HeaderValue::from_bytes(value).ok()?;
    let reasonable = (1..=128).contains(&value.len()) && value.to_str().is_ok();
    reasonable.then_some(value)
}

/// A request id that no other request on this machine has.
pub(super) fn new_request_id() -> HeaderValue {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{:016x}{id:08x}", KEY.hash_one(id));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Refusal> {
        let second = Duration::from_secs(1);
        vec![
            Refusal::starting(second),
            Refusal::overloaded(3),
            Refusal::busy(2, second),
            Refusal::unreachable(),
            Refusal::broken_off(),
            Refusal::late(second),
            Refusal::malformed("no"),
            Refusal::unknown_host("a"),
            Refusal::no_upgrades(),
            Refusal::no_socket(),
            Refusal::no_tunnels(),
        ]
    }

    #[test]
    fn every_code_can_be_explained() {
        for refusal in all() {
            assert!(Code::parse(refusal.code).is_some(), "{}", refusal.code);
        }
    }

    #[test]
    fn browsers_get_a_page_and_programs_json() {
        let browser = Form::wanted(Some(b"text/html,application/xhtml+xml,*/*;q=0.8"));
        assert_eq!(browser, Form::Page);
        assert_eq!(Form::wanted(Some(b"*/*")), Form::Json);
        assert_eq!(Form::wanted(None), Form::Json);
        let head = b"GET / HTTP/1.1\r\nhost: a\r\nAccept: Text/HTML\r\n\r\n";
        assert_eq!(Form::wanted_in(head), Form::Page);
        assert_eq!(
            Form::wanted_in(b"GET / HTTP/1.1\r\nhost: text/html\r\n\r\n"),
            Form::Json
        );
    }

    #[test]
    fn what_a_client_sent_is_no_markup() {
        let refusal = Refusal::unknown_host("<script>alert(1)</script>");
        let page = refusal.page("r-1");
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("flyte explain app.not_found"), "{page}");
    }
}
