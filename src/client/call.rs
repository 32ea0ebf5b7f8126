//! How one call is made: under a name of its own, with what proves who asks, and again where that
//! does no harm.
//!
//! What the calls mean is known to their callers, who say which of them may be repeated.

use std::future::Future;
use std::time::{Duration, Instant};

use connectrpc::client::CallOptions;
use connectrpc::{ConnectError, ErrorCode};

use super::Error;
use super::error::is_broken_off;
use crate::auth::{Credentials, Proof};
use crate::net;

/// How long a call and its repetitions may take together.
const BUDGET: Duration = Duration::from_secs(60);
/// The pause before the first repetition; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// The name of a call in the control plane's log; the same for all its repetitions.
#[derive(Clone, Debug)]
pub(super) struct RequestId(String);

impl RequestId {
    pub fn new() -> Self {
        // From the generator that hash maps are seeded with; nothing depends on its quality.
        use std::hash::{BuildHasher, RandomState};
        let half = || RandomState::new().hash_one(Instant::now());
        let mut bytes = (u128::from(half()) << 64 | u128::from(half())).to_be_bytes();
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex = format!("{:032x}", u128::from_be_bytes(bytes));
        Self(format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        ))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a call may be made a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing, or the second time changes nothing.
    Always,
    /// Only where the first one cannot have been seen.
    Unseen,
}

/// Makes calls to one control plane.
#[derive(Clone)]
pub(super) struct Caller {
    pub endpoint: String,
    pub credentials: Credentials,
    pub retries: u32,
}

/// A call that failed, and whether the control plane may have carried it out.
pub(super) struct Failed {
    pub error: Error,
    /// Nothing is known of what became of it.
    pub is_unknown: bool,
    /// Where the control plane answered, what it said.
    pub code: Option<ErrorCode>,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Caller {
    /// Makes the call that `send` sends.
    pub async fn call<T, F>(
        &self,
        name: &'static str,
        repeat: Repeat,
        send: impl Fn(CallOptions) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        Box::pin(self.call_as(&RequestId::new(), name, repeat, send)).await
    }

    /// The same under a name that was used before.
    pub async fn call_as<T, F>(
        &self,
        id: &RequestId,
        name: &'static str,
        repeat: Repeat,
        send: impl Fn(CallOptions) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        let deadline = Instant::now() + BUDGET;
        let mut renewed = false;
        let mut attempt = 0;
        loop {
            let proof = self.credentials.proof().await.map_err(Failed::before)?;
            // What the library makes of a call is large, and calls lie in each other.
            let error = match Box::pin(send(options(id, &proof))).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if wants_login(&error, &proof) {
                self.renew(name, id, &proof, &error, renewed)
                    .await
                    .map_err(Failed::before)?;
                renewed = true;
                continue;
            }
            let may = match repeat {
                Repeat::Always => is_transient(&error),
                Repeat::Unseen => net::never_left(&error) || was_turned_away(&error),
            };
            let pause = pause(attempt, &error);
            if !may || attempt >= self.retries || Instant::now() + pause >= deadline {
                return Err(self.failed(name, id, error));
            }
            attempt += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// Gets other credentials; an error where there are none, or where they were just got.
    pub async fn renew(
        &self,
        name: &'static str,
        id: &RequestId,
        proof: &Proof,
        error: &ConnectError,
        renewed: bool,
    ) -> Result<(), Error> {
        if renewed {
            return Err(Error::Unauthenticated {
                endpoint: self.endpoint.clone(),
                call: name,
                request_id: id.as_str().to_owned(),
                message: error.message.clone().unwrap_or_default(),
            });
        }
        self.credentials.renew(proof).await.map_err(|trouble| {
            // To whoever is not permitted, a login is only an attempt.
            let is_denied = error.code == ErrorCode::PermissionDenied;
            if is_denied || matches!(trouble, crate::auth::Error::NotAsked) {
                return Error::of(&self.endpoint, name, id.as_str(), error.clone());
            }
            trouble.into()
        })
    }

    fn failed(&self, name: &'static str, id: &RequestId, error: ConnectError) -> Failed {
        let is_unknown =
            is_transient(&error) && !net::never_left(&error) && !was_turned_away(&error);
        Failed {
            is_unknown,
            code: Some(error.code),
            error: Error::of(&self.endpoint, name, id.as_str(), error),
        }
    }
}

impl Failed {
    fn before(error: impl Into<Error>) -> Self {
        Self {
            error: error.into(),
            is_unknown: false,
            code: None,
        }
    }
}

/// What goes along with a call.
pub(super) fn options(id: &RequestId, proof: &Proof) -> CallOptions {
    let mut options = CallOptions::default().with_header("x-request-id", id.as_str());
    for (name, value) in &proof.headers {
        options = options.with_header(name.clone(), value.clone());
    }
    options
}

/// Whether the server refused because it does not know who calls. Some say to a call without a token
/// that it is not permitted.
pub(super) fn wants_login(error: &ConnectError, proof: &Proof) -> bool {
    match error.code {
        ErrorCode::Unauthenticated => true,
        ErrorCode::PermissionDenied => proof.headers.is_empty(),
        _ => false,
    }
}

/// Whether the same call may succeed later.
pub(super) fn is_transient(error: &ConnectError) -> bool {
    matches!(
        error.code,
        ErrorCode::Unavailable | ErrorCode::DeadlineExceeded | ErrorCode::ResourceExhausted
    ) || is_broken_off(error)
}

/// Whether the server said that it did not take the request: it names a time to come again.
fn was_turned_away(error: &ConnectError) -> bool {
    error.code != ErrorCode::DeadlineExceeded && retry_after(error).is_some()
}

fn retry_after(error: &ConnectError) -> Option<Duration> {
    let value = error.response_headers().get(http::header::RETRY_AFTER)?;
    wait_of(value.to_str().ok()?)
}

/// What `Retry-After` says: seconds, or a date.
pub(super) fn wait_of(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(
        date.duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    )
}

/// How long to wait: as long as the server says, else longer each time, and not all callers alike.
fn pause(attempt: u32, error: &ConnectError) -> Duration {
    if let Some(asked) = retry_after(error) {
        return asked.min(LONGEST_PAUSE);
    }
    backoff(attempt)
}

/// A pause that doubles with each attempt, up to a few seconds.
pub(super) fn backoff(attempt: u32) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let full = FIRST_PAUSE * 2_u32.pow(attempt.min(4));
    let share = u32::try_from(RandomState::new().hash_one(attempt) % 1000).unwrap_or(0);
    full / 2 + full * share / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn caller(retries: u32) -> Caller {
        Caller {
            endpoint: "http://h".into(),
            credentials: Credentials::none(),
            retries,
        }
    }

    /// Fails so often, then succeeds; tells how often it was called.
    async fn attempt(
        repeat: Repeat,
        failures: u32,
        error: impl Fn() -> ConnectError,
    ) -> (Result<(), Failed>, u32) {
        let calls = AtomicU32::new(0);
        let outcome = caller(2)
            .call("Call", repeat, |_| {
                let count = calls.fetch_add(1, Ordering::Relaxed);
                let outcome = if count < failures {
                    Err(error())
                } else {
                    Ok(())
                };
                async move { outcome }
            })
            .await;
        (outcome, calls.into_inner())
    }

    fn busy(after: &'static str) -> ConnectError {
        let mut headers = http::HeaderMap::new();
        headers.insert("retry-after", http::HeaderValue::from_static(after));
        ConnectError::unavailable("busy").with_headers(headers)
    }

    #[tokio::test]
    async fn only_what_may_be_repeated_is() {
        let gone = || ConnectError::unavailable("gone");
        let (outcome, calls) = attempt(Repeat::Always, 2, gone).await;
        assert!(outcome.is_ok() && calls == 3);
        let (outcome, calls) = attempt(Repeat::Always, 9, gone).await;
        assert!(outcome.is_err() && calls == 3);
        let (outcome, calls) = attempt(Repeat::Unseen, 1, gone).await;
        assert!(outcome.is_err_and(|failed| failed.is_unknown) && calls == 1);
        let (outcome, calls) =
            attempt(Repeat::Always, 1, || ConnectError::invalid_argument("no")).await;
        assert!(outcome.is_err_and(|failed| !failed.is_unknown) && calls == 1);
    }

    #[tokio::test]
    async fn a_server_that_says_when_is_asked_again_then() {
        let started = tokio::time::Instant::now();
        let (outcome, calls) = attempt(Repeat::Unseen, 1, || busy("1")).await;
        assert!(outcome.is_ok() && calls == 2);
        assert_eq!(started.elapsed().as_secs(), 1);
    }

    #[tokio::test]
    async fn a_refusal_without_credentials_is_told_as_it_came() {
        let refusal = || ConnectError::unauthenticated("who are you?");
        let (outcome, calls) = attempt(Repeat::Always, 1, refusal).await;
        let error = outcome.err().unwrap().error;
        assert!(error.to_string().contains("who are you?") && calls == 1);
    }

    #[tokio::test]
    async fn what_is_not_permitted_is_told_as_it_came() {
        let refusal = || ConnectError::permission_denied("not yours");
        let (outcome, calls) = attempt(Repeat::Always, 1, refusal).await;
        let error = outcome.err().unwrap().error;
        assert!(error.to_string().contains("not yours") && calls == 1);
        let mut known = Proof::default();
        assert!(wants_login(&refusal(), &known));
        known
            .headers
            .insert("authorization", http::HeaderValue::from_static("x"));
        assert!(!wants_login(&refusal(), &known));
    }

    #[test]
    fn request_ids_are_uuids_that_differ() {
        let (one, two) = (RequestId::new(), RequestId::new());
        assert_ne!(one.as_str(), two.as_str());
        assert_eq!(one.as_str().len(), 36);
        assert_eq!(&one.as_str()[14..15], "4");
    }

    #[test]
    fn waits_are_read_in_both_forms() {
        assert_eq!(wait_of("7"), Some(Duration::from_secs(7)));
        let past = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(wait_of(past), Some(Duration::ZERO));
        assert_eq!(wait_of("soon"), None);
    }
}
