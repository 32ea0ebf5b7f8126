//! Who may read these pages, and who may change something through them.
//!
//! A browser reaches loopback ports on behalf of any page. Three things keep pages of others out:
//! a request must name this machine in `Host`, which a name that was pointed at 127.0.0.1 does
//! not; it must not come from another origin, except as a link that a person follows; and what
//! changes something must carry a token that only a page of ours shows.

use std::io::Read;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

/// What a page may do: run our script, look like our style, speak to this port. No inline code,
/// nothing from elsewhere, not inside a frame, and no way from text to markup within the script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// What goes with every answer, refusals included.
const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=()",
    ),
];

/// A secret of this platform's process; a page that shows it is one of its own.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    pub fn new() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(blake3::Hash::from_bytes(bytes).to_hex().to_string()))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether `given` is the token, in a time that tells nothing about it.
    pub fn is(&self, given: &str) -> bool {
        // Hashes compare in constant time, whatever the lengths.
        blake3::hash(self.0.as_bytes()) == blake3::hash(given.as_bytes())
    }
}

/// Lets through what may be answered, and adds the headers.
pub async fn admit(request: Request, next: Next) -> Response {
    let refused = refusal(request.method(), request.uri(), request.headers());
    let mut response = match refused {
        None => next.run(request).await,
        Some(reason) => {
            tracing::info!(reason, "the console refused a request");
            super::failure(StatusCode::FORBIDDEN, "Refused", reason)
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response.into_response()
}

/// Why a request is not answered.
fn refusal(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let host = host(uri, headers);
    if !host.is_some_and(is_this_machine) {
        return Some("these pages are for this machine, by the name localhost");
    }
    let site = text(headers, "sec-fetch-site");
    let is_ours = matches!(site, None | Some("same-origin" | "none"));
    match *method {
        Method::GET | Method::HEAD => {
            let dest = text(headers, "sec-fetch-dest");
            if matches!(
                dest,
                Some("iframe" | "frame" | "embed" | "object" | "fencedframe")
            ) {
                return Some("these pages are not shown inside of others");
            }
            let is_link = text(headers, "sec-fetch-mode") == Some("navigate");
            (!is_ours && !is_link).then_some("another site asked for this page")
        }
        Method::POST => {
            let own = host.map(|host| format!("http://{host}"));
            let is_own = match text(headers, "origin") {
                // Forms of pages that name no referrer are sent without an origin.
                Some("null") | None => site == Some("same-origin"),
                Some(origin) => own.as_deref() == Some(origin),
            };
            (!is_ours || !is_own).then_some("another site asked for a change")
        }
        _ => Some("there is nothing here for this method"),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    if headers.get_all(header::HOST).iter().count() > 1 {
        return None;
    }
    let named = uri.authority().map(http::uri::Authority::as_str);
    match (text(headers, "host"), named) {
        (Some(host), Some(named)) if host != named => None,
        (host, named) => host.or(named),
    }
}

fn is_this_machine(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        Some(_) | None => (host, "80"),
    };
    let is_known = name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "[::1]");
    is_known && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: Method, headers: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        refusal(&method, &Uri::from_static("/"), &headers)
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in [
            "localhost:32100",
            "127.0.0.1:1",
            "[::1]:80",
            "[::1]",
            "LOCALHOST",
        ] {
            assert_eq!(judge(Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example:32100",
            "localhost.evil.example",
            "localhost:x",
            "localhost:1:2",
            "a.localhost:32100",
            "127.0.0.1.evil.example",
            "localhost.:80",
            "[::2]:80",
            "",
        ] {
            assert!(judge(Method::GET, &[("host", host)]).is_some(), "{host}");
        }
        assert!(judge(Method::GET, &[]).is_some());
    }

    #[test]
    fn others_may_link_here_and_no_more() {
        let from = |site, mode, dest| {
            let headers = [
                ("host", "localhost:1"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            judge(Method::GET, &headers).is_none()
        };
        assert!(from("cross-site", "navigate", "document"));
        assert!(from("same-origin", "cors", "empty"));
        assert!(from("none", "navigate", "document"));
        assert!(!from("cross-site", "no-cors", "image"));
        assert!(!from("same-site", "cors", "empty"));
        assert!(!from("cross-site", "navigate", "iframe"));
        assert!(!from("same-origin", "navigate", "iframe"));
    }

    #[test]
    fn changes_come_from_our_own_pages() {
        let post = |more: &[(&'static str, &'static str)]| {
            let headers = [&[("host", "localhost:1")], more].concat();
            judge(Method::POST, &headers).is_none()
        };
        assert!(post(&[("origin", "http://localhost:1")]));
        assert!(post(&[
            ("origin", "null"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!post(&[]));
        assert!(!post(&[("origin", "null")]));
        assert!(!post(&[("origin", "http://localhost:2")]));
        assert!(!post(&[("origin", "http://127.0.0.1:1")]));
        assert!(!post(&[("origin", "https://localhost:1")]));
        assert!(!post(&[
            ("origin", "null"),
            ("sec-fetch-site", "cross-site")
        ]));
        let both = [
            ("origin", "http://localhost:1"),
            ("sec-fetch-site", "same-site"),
        ];
        assert!(!post(&both));
        assert!(judge(Method::PUT, &[("host", "localhost")]).is_some());
    }

    #[test]
    fn a_token_is_known_and_others_are_not() {
        let token = Token::new().unwrap();
        assert!(token.is(token.text()));
        assert!(!token.is("") && !token.is(&token.text()[1..]));
        assert_ne!(token.text(), Token::new().unwrap().text());
    }
}
