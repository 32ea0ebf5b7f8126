//! What a proxy must change in the head of a message (RFC 9110, section 7.6), and nothing else.
//!
//! Headers that speak about one connection end here; `trailer` and `te: trailers` stay, because
//! trailers pass through. `host` stays as the client sent it. Pure functions over header maps.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use base64::Engine;

use http::header::{
    self, CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, SEC_WEBSOCKET_KEY, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use hyper::ext::Protocol;

use super::refusal::Refusal;

static SINGLE_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The two ends of the client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) gateway: SocketAddr,
    /// Whether it is one of TLS.
    pub(super) secure: bool,
}

impl Ends {
    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

/// The head of a request as it is sent on; cheap enough to copy for a second try.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// Whether a WebSocket was asked for as HTTP/2 does it; the app is asked as HTTP/1.1 does.
    pub(super) by_connect: bool,
}

impl Head {
    /// Turns what a client sent into what the app shall see.
    pub(super) fn for_app(parts: http::request::Parts, ends: Ends) -> Result<Self, Refusal> {
        let by_connect = asks_for_web_socket(&parts);
        if parts.method == Method::CONNECT && !by_connect {
            return Err(Refusal::no_tunnels());
        }
        let upgrade = wanted_upgrade(&parts);
        let trailers = lists(&parts.headers, &TE, "trailers");
        let mut headers = parts.headers;
        remove_single_hop(&mut headers);
        if let Some(protocol) = upgrade {
            announce_upgrade(&mut headers, protocol);
        }
        if by_connect {
            announce_upgrade(&mut headers, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_KEY, new_socket_key());
        }
        join_cookies(&mut headers);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        settle_host(&mut headers, parts.uri.authority(), parts.version, ends)?;
        add_forwarded(&mut headers, ends);
        Ok(Self {
            method: if by_connect {
                Method::GET
            } else {
                parts.method
            },
            uri: origin_form(parts.uri),
            headers,
            by_connect,
        })
    }

    pub(super) fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(UPGRADE)
    }

    /// Says how a body of unknown length ends: hyper would drop one that comes with a GET.
    pub(super) fn frame_body(&mut self) {
        if !self.headers.contains_key(CONTENT_LENGTH) {
            let chunked = HeaderValue::from_static("chunked");
            self.headers.insert(TRANSFER_ENCODING, chunked);
        }
    }
}

/// HTTP/2 has the host in the target, and frames bodies itself.
pub(super) fn for_h2<B>(request: &mut Request<B>) {
    request.headers_mut().remove(TRANSFER_ENCODING);
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = authority.or(Some(Authority::from_static("localhost")));
    // The path came from a target that was one, so this is one too.
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
}

/// Removes what the app said about its own connection; `upgrade` stays announced on a 101.
pub(super) fn clean_response(headers: &mut HeaderMap, switching: bool) {
    let protocol = headers.get(UPGRADE).filter(|_| switching).cloned();
    remove_single_hop(headers);
    if let Some(protocol) = protocol {
        announce_upgrade(headers, protocol);
    }
}

fn announce_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// `h2c` is declined: over it a client could speak to the app unseen, and no browser asks for it.
fn wanted_upgrade(parts: &http::request::Parts) -> Option<HeaderValue> {
    let protocol = parts.headers.get(UPGRADE)?;
    let wanted = parts.version == Version::HTTP_11
        && lists(&parts.headers, &CONNECTION, "upgrade")
        && !lists(&parts.headers, &UPGRADE, "h2c");
    wanted.then(|| protocol.clone())
}

/// RFC 8441: HTTP/2 has no upgrades, but a CONNECT that names a protocol.
fn asks_for_web_socket(parts: &http::request::Parts) -> bool {
    let protocol = parts.extensions.get::<Protocol>();
    parts.method == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"))
}

/// What HTTP/2 leaves out, and an app's library wants to see: any 16 bytes.
fn new_socket_key() -> HeaderValue {
    let hasher = RandomState::new();
    let bytes = [hasher.hash_one(1), hasher.hash_one(2)].map(u64::to_ne_bytes);
    let key = base64::engine::general_purpose::STANDARD.encode(bytes.concat());
    HeaderValue::try_from(key).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// HTTP/2 lets cookies come one by one; HTTP/1.1 knows one header of them (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if all.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

fn remove_single_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| token.parse().ok())
        // Nothing may talk us out of the two headers that frame and address the message.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in SINGLE_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// An authority in the request line beats the header (RFC 9112, section 3.2.2). Only HTTP/1.0 may
/// leave both out; the app speaks 1.1 with us and needs one.
fn settle_host(
    headers: &mut HeaderMap,
    authority: Option<&Authority>,
    version: Version,
    ends: Ends,
) -> Result<(), Refusal> {
    // Two may mean two apps, one to us and another one to the app (RFC 9112, section 3.2).
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Refusal::malformed(
            "the request has more than one `host` header",
        ));
    }
    let host = match authority {
        Some(authority) => without_user(authority).to_owned(),
        None if headers.contains_key(HOST) => return Ok(()), // one, as was seen to
        None if version == Version::HTTP_10 => ends.gateway.to_string(),
        None => return Err(Refusal::malformed("the request has no `host` header")),
    };
    let value = HeaderValue::try_from(host)
        .map_err(|_| Refusal::malformed("the request target names no usable host"))?;
    headers.insert(HOST, value);
    Ok(())
}

fn without_user(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

fn origin_form(uri: Uri) -> Uri {
    if uri.authority().is_none() {
        return uri;
    }
    let path = uri.into_parts().path_and_query;
    Uri::from(path.unwrap_or(PathAndQuery::from_static("/")))
}

/// Adds this hop. Host and scheme of an outer proxy are kept: it knows the public address.
fn add_forwarded(headers: &mut HeaderMap, ends: Ends) {
    let client = ends.client.ip();
    let host = headers.get(HOST).cloned();
    append_to_list(headers, &X_FORWARDED_FOR, &client.to_string());
    append_to_list(
        headers,
        &FORWARDED,
        &forwarded(client, host.as_ref(), ends.scheme()),
    );
    if let Some(host) = host {
        headers.entry(&X_FORWARDED_HOST).or_insert(host);
    }
    headers
        .entry(&X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(ends.scheme()));
}

fn forwarded(client: IpAddr, host: Option<&HeaderValue>, scheme: &str) -> String {
    let by_whom = match client {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    let host = host
        .and_then(|host| host.to_str().ok())
        .filter(|host| !host.contains(['"', '\\']));
    match host {
        Some(host) => format!("{by_whom};host=\"{host}\";proto={scheme}"),
        None => format!("{by_whom};proto={scheme}"),
    }
}

fn append_to_list(headers: &mut HeaderMap, name: &HeaderName, item: &str) {
    if let Ok(value) = HeaderValue::from_str(item) {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            client: "[::1]:40000".parse().unwrap(),
            gateway: "[::1]:8080".parse().unwrap(),
            secure: false,
        }
    }

    fn head(request: http::request::Builder) -> Result<Head, Refusal> {
        Head::for_app(request.body(()).unwrap().into_parts().0, ends())
    }

    #[test]
    fn single_hop_headers_end_here_and_the_rest_passes() {
        let request = Request::get("/a?b=c")
            .header("host", "localhost:8080")
            .header("connection", "keep-alive, X-Mine, host")
            .header("keep-alive", "timeout=5")
            .header("te", "gzip, trailers")
            .header("x-mine", "1")
            .header("x-yours", "2");
        let head = head(request).unwrap();
        for gone in ["connection", "keep-alive", "x-mine"] {
            assert!(!head.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(head.headers["te"], "trailers");
        assert_eq!(head.headers["x-yours"], "2");
        assert_eq!(head.headers["host"], "localhost:8080");
        assert_eq!(head.headers["x-forwarded-host"], "localhost:8080");
        assert_eq!(
            head.headers["forwarded"],
            "for=\"[::1]\";host=\"localhost:8080\";proto=http"
        );
    }

    #[test]
    fn cookies_that_came_one_by_one_are_one_header() {
        let request = Request::get("/")
            .header("host", "a")
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3");
        let head = head(request).unwrap();
        let all: Vec<_> = head.headers.get_all("cookie").iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn outer_proxies_are_kept_and_this_hop_is_added() {
        let request = Request::get("/")
            .header("host", "inner")
            .header("x-forwarded-for", "203.0.113.9")
            .header("x-forwarded-host", "public.example")
            .header("x-forwarded-proto", "https");
        let head = head(request).unwrap();
        let hops: Vec<_> = head.headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(hops, ["203.0.113.9", "::1"]);
        assert_eq!(head.headers["x-forwarded-host"], "public.example");
        assert_eq!(head.headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn upgrades_pass_except_h2c() {
        let request = |protocol: &str| {
            Request::get("/")
                .header("host", "a")
                .header("connection", "keep-alive, Upgrade")
                .header("upgrade", protocol)
        };
        let websocket = head(request("websocket")).unwrap();
        assert_eq!(websocket.headers["connection"], "upgrade");
        assert!(websocket.wants_upgrade());
        assert!(!head(request("h2c")).unwrap().wants_upgrade());
    }

    #[test]
    fn absolute_targets_name_the_host_and_become_paths() {
        let request = Request::get("http://user@other:81/x?y").header("host", "ignored");
        let absolute = head(request).unwrap();
        assert_eq!(absolute.uri, "/x?y");
        assert_eq!(absolute.headers["host"], "other:81");
    }

    #[test]
    fn a_second_host_is_refused_whatever_it_says() {
        for (target, second) in [("/", "b"), ("/", "a"), ("http://a/", "b")] {
            let request = Request::get(target).header("host", "a");
            assert!(head(request.header("host", second)).is_err(), "{target}");
        }
    }

    #[test]
    fn only_http_1_0_may_leave_the_host_out() {
        assert!(head(Request::get("/")).is_err());
        let old = head(Request::get("/").version(Version::HTTP_10)).unwrap();
        assert_eq!(old.headers["host"], "[::1]:8080");
    }
}
