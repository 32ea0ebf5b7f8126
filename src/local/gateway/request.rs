//! A plain request in a buffer: whether it is one, and the bytes that the app gets for it.
//!
//! The rules are those of `headers`, for the few cases that need no map to follow them.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ops::Range;

use http::HeaderValue;

use super::headers::Ends;
use super::refusal::reasonable_id;

/// More headers than this are for hyper.
const MOST_HEADERS: usize = 64;

/// What servers read at once at the least (Go 4 KiB, Python and Node more); the head grows a little on
/// its way.
const READ_AT_ONCE: usize = 3 * 1024;

/// What a buffer begins with.
pub(super) enum Request {
    Whole(Asked),
    Partial,
    /// Its head is there as a whole, its body is not.
    Begun,
    /// Nothing for the short way, though it may be a good request.
    Special,
}

/// What a method means for the answer, and for a second try.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Method {
    /// Idempotent too, and its answer has no body.
    Head,
    Idempotent,
    Other,
}

/// A whole plain request.
pub(super) struct Asked {
    /// Bytes of it in the buffer.
    pub(super) length: usize,
    /// Where the host is in the buffer.
    host: Option<Range<usize>>,
    pub(super) keep_alive: bool,
    pub(super) method: Method,
    /// Length of the body, where one is declared.
    body: Option<usize>,
    names_host: bool,
    names_proto: bool,
    pub(super) request_id: Option<HeaderValue>,
}

impl Asked {
    pub(super) fn is_bodiless(&self) -> bool {
        self.body.is_none_or(|length| length == 0)
    }

    /// Whether it may be sent again after a connection was lost without an answer; see
    /// `backend::may_repeat`. With a body it may where it is so small that servers read all of it or
    /// nothing.
    pub(super) fn may_repeat(&self, unread: bool) -> bool {
        let bodiless = self.is_bodiless();
        self.method != Method::Other || (unread && (bodiless || self.length <= READ_AT_ONCE))
    }
}

impl Request {
    /// Looks at the beginning of `buffer` and writes to `out` what the app shall get for it; what
    /// would not fit into `most` bytes is special.
    pub(super) fn read(buffer: &[u8], most: usize, hop: &Hop, out: &mut Vec<u8>) -> Self {
        let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut []);
        let head = match parsed.parse_with_uninit_headers(buffer, &mut headers) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) if buffer.len() < most => return Self::Partial,
            Ok(httparse::Status::Partial) | Err(_) => return Self::Special,
        };
        let (Some(method), Some(path), Some(1)) = (parsed.method, parsed.path, parsed.version)
        else {
            return Self::Special;
        };
        if method == "CONNECT" || !path.starts_with('/') {
            return Self::Special;
        }
        let mut asked = Asked::new(method);
        out.clear();
        for part in [method, " ", path, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        for header in parsed.headers.iter() {
            if !asked.take(header, buffer, out) {
                return Self::Special;
            }
        }
        let Some(host) = asked.host_in(buffer) else {
            return Self::Special;
        };
        asked.add_forwarded(host, hop, out);
        out.extend_from_slice(b"\r\n");
        asked.length = head.saturating_add(asked.body.unwrap_or(0));
        if asked.length > most {
            return Self::Special;
        }
        let Some(body) = buffer.get(head..asked.length) else {
            return Self::Begun;
        };
        out.extend_from_slice(body);
        Self::Whole(asked)
    }
}

impl Asked {
    fn new(method: &str) -> Self {
        Self {
            length: 0,
            host: None,
            keep_alive: true,
            method: match method {
                "HEAD" => Method::Head,
                "GET" | "PUT" | "DELETE" | "OPTIONS" | "TRACE" => Method::Idempotent,
                _ => Method::Other,
            },
            body: None,
            names_host: false,
            names_proto: false,
            request_id: None,
        }
    }

    /// The host that it is meant for, in the buffer that it was read from.
    pub(super) fn host_in<'a>(&self, buffer: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(buffer.get(self.host.clone()?)?).ok()
    }

    /// Passes a header on, or notes what it means; false where the request is a special one.
    fn take(&mut self, header: &httparse::Header<'_>, buffer: &[u8], out: &mut Vec<u8>) -> bool {
        match Known::of(header.name) {
            Known::Special => return false,
            Known::SingleHop => return true,
            Known::Connection => return self.take_connection(header.value),
            Known::ContentLength => {
                let Some(length) = length(header.value) else {
                    return false;
                };
                if self.body.replace(length).is_some() {
                    return false;
                }
            }
            Known::Host => {
                // The value lies in the buffer, so this is its place there.
                let start = header.value.as_ptr() as usize - buffer.as_ptr() as usize;
                let place = start..start + header.value.len();
                if self.host.replace(place).is_some() {
                    return false;
                }
            }
            Known::ForwardedHost => self.names_host = true,
            Known::ForwardedProto => self.names_proto = true,
            Known::RequestId => self.request_id = reasonable_id(header.value),
            Known::Other => {}
        }
        for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
            out.extend_from_slice(part);
        }
        true
    }

    fn take_connection(&mut self, value: &[u8]) -> bool {
        for token in value.split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            if token.eq_ignore_ascii_case(b"close") {
                self.keep_alive = false;
            } else if !token.eq_ignore_ascii_case(b"keep-alive") {
                return false;
            }
        }
        true
    }

    /// See `headers::add_forwarded`.
    fn add_forwarded(&self, host: &str, hop: &Hop, out: &mut Vec<u8>) {
        out.extend_from_slice(&hop.by_whom);
        if !host.contains(['"', '\\']) {
            for part in [";host=\"", host, "\""] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        out.extend_from_slice(b";proto=http\r\n");
        if !self.names_host {
            for part in ["x-forwarded-host: ", host, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if !self.names_proto {
            out.extend_from_slice(b"x-forwarded-proto: http\r\n");
        }
    }
}

/// What is added to all requests of a connection, made once.
pub(super) struct Hop {
    /// The header that ends with the client, and the beginning of the next one.
    by_whom: Vec<u8>,
}

impl Hop {
    pub(super) fn new(ends: Ends) -> Self {
        let client = ends.client.ip();
        let quoted = match client {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let by_whom = format!("x-forwarded-for: {client}\r\nforwarded: for={quoted}");
        Self {
            by_whom: by_whom.into_bytes(),
        }
    }
}

/// What the short way has to know of a header.
enum Known {
    Host,
    ContentLength,
    Connection,
    /// Speaks of one connection and means nothing else to us.
    SingleHop,
    /// Asks for more than the short way can do.
    Special,
    ForwardedHost,
    ForwardedProto,
    RequestId,
    Other,
}

impl Known {
    fn of(name: &str) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Self::Special,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Special,
            7 if is("upgrade") || is("trailer") => Self::Special,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::SingleHop,
            12 if is("x-request-id") => Self::RequestId,
            14 if is("content-length") => Self::ContentLength,
            16 if is("x-forwarded-host") => Self::ForwardedHost,
            16 if is("proxy-connection") => Self::SingleHop,
            17 if is("x-forwarded-proto") => Self::ForwardedProto,
            17 if is("transfer-encoding") => Self::Special,
            18 if is("proxy-authenticate") => Self::SingleHop,
            19 if is("proxy-authorization") => Self::SingleHop,
            _ => Self::Other,
        }
    }
}

fn length(value: &[u8]) -> Option<usize> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop() -> Hop {
        Hop::new(Ends {
            client: "127.0.0.1:40000".parse().unwrap(),
            gateway: "127.0.0.1:8080".parse().unwrap(),
            secure: false,
        })
    }

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        let read = Request::read(text.as_bytes(), 1 << 15, &hop(), &mut out);
        assert!(matches!(read, Request::Whole(_)), "{text}");
        String::from_utf8(out).unwrap()
    }

    fn read(text: &str) -> Request {
        Request::read(text.as_bytes(), 1 << 15, &hop(), &mut Vec::new())
    }

    #[test]
    fn the_app_gets_the_request_without_what_is_for_one_hop() {
        let seen = written(
            "POST /a?b HTTP/1.1\r\nHost: x:1\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\
             X-Mine: 1\r\nContent-Length: 3\r\n\r\nabcGET",
        );
        assert_eq!(
            seen,
            "POST /a?b HTTP/1.1\r\nHost: x:1\r\nX-Mine: 1\r\nContent-Length: 3\r\n\
             x-forwarded-for: 127.0.0.1\r\nforwarded: for=127.0.0.1;host=\"x:1\";proto=http\r\n\
             x-forwarded-host: x:1\r\nx-forwarded-proto: http\r\n\r\nabc"
        );
    }

    #[test]
    fn an_outer_proxy_is_believed() {
        let seen = written(
            "GET / HTTP/1.1\r\nhost: inner\r\nx-forwarded-host: public\r\nx-forwarded-proto: https\r\n\
             x-forwarded-for: 203.0.113.9\r\n\r\n",
        );
        assert!(seen.contains("x-forwarded-for: 203.0.113.9\r\nx-forwarded-for: 127.0.0.1\r\n"));
        assert!(!seen.contains("x-forwarded-host: inner"), "{seen}");
        assert!(!seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
    }

    #[test]
    fn what_is_not_plain_is_left_alone() {
        let with = |header: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n");
        let long = with(&format!("x: {}", "y".repeat(1 << 15)));
        for text in [
            with("upgrade: websocket"),
            with("expect: 100-continue"),
            with("te: trailers"),
            with("transfer-encoding: chunked"),
            with("connection: keep-alive, x-mine"),
            with("host: b"),
            with("content-length: 1\r\ncontent-length: 1"),
            with("content-length: +1"),
            with("content-length: 1000000"),
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "nonsense\r\n\r\n".to_owned(),
            long,
        ] {
            assert!(matches!(read(&text), Request::Special), "{text:.60}");
        }
        assert!(matches!(read("GET / HT"), Request::Partial));
        let begun = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabc";
        assert!(matches!(read(begun), Request::Begun));
    }
}
