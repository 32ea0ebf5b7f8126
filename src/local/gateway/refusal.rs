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
    let value = headers.get(REQUEST_ID)?;
    let reasonable = (1..=128).contains(&value.len()) && value.to_str().is_ok();
    reasonable.then(|| value.clone())
}

/// A request id that no other request on this machine has.
pub(super) fn new_request_id() -> HeaderValue {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{:016x}{id:08x}", KEY.hash_one(id));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown"))
}
