//! Answers that the gateway gives itself, because no app could.
//!
//! The body is JSON for programs, with a request id that also stands in the log next to the cause;
//! the cause itself never leaves the machine. Codes are contract, messages are not.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Seconds after which a client that was turned away may come back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

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

    /// The whole answer for the request known as `id`, as HTTP/1.1 has it.
    pub(super) fn into_bytes(self, id: &HeaderValue, keep_alive: bool) -> Vec<u8> {
        let (head, body) = self.into_response(id).into_parts();
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
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The answer for the request known as `id`.
    pub(super) fn into_response(self, id: &HeaderValue) -> Response<Full<Bytes>> {
        let request_id = id.to_str().unwrap_or_default();
        tracing::debug!(request_id, code = self.code, status = %self.status, "request refused");
        let error = json!({"code": self.code, "message": self.message, "request_id": request_id});
        let body = json!({ "error": error }).to_string();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REQUEST_ID, id.clone());
        if self.come_back {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
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
