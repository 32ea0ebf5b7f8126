//! HTTP/2 at the gateway, down to the frame: whatever a client sends, each stream becomes one request
//! of the app at most, which ends where it says it does, and the gateway's own frames are whole.

use arbitrary::{Arbitrary, Unstructured};
use flyte_native::local::gateway::fuzz::http2;

#[derive(Arbitrary, Debug)]
enum Frame<'a> {
    /// A head, written without tables, so that every byte of it is the attacker's.
    Headers {
        stream: u8,
        ends: bool,
        fields: Vec<(u8, Option<&'a str>, &'a [u8])>,
    },
    Data {
        stream: u8,
        ends: bool,
        bytes: &'a [u8],
    },
    Any {
        kind: u8,
        flags: u8,
        stream: u8,
        bytes: &'a [u8],
    },
    /// A frame whose length is a lie.
    Lying {
        kind: u8,
        flags: u8,
        stream: u8,
        length: u16,
        bytes: &'a [u8],
    },
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    frames: Vec<Frame<'a>>,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NAMES: &[&str] = &[
    ":method",
    ":path",
    ":scheme",
    ":authority",
    ":protocol",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "expect",
    "upgrade",
    "cookie",
    "x-forwarded-for",
];
const USUAL: &[(&str, &str)] = &[
    (":method", "POST"),
    (":path", "/"),
    (":scheme", "http"),
    (":authority", "localhost"),
];

fn literal(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    for text in [name.as_bytes(), value] {
        // In one byte, as far as that goes.
        let text = &text[..text.len().min(126)];
        out.push(text.len() as u8);
        out.extend_from_slice(text);
    }
}

fn frame(kind: u8, flags: u8, stream: u8, length: usize, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&u32::from(stream).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// What the client sends, and how many heads are in it.
fn sent(frames: &[Frame]) -> (Vec<u8>, usize) {
    let (mut out, mut heads) = (PREFACE.to_vec(), 0);
    frame(4, 0, 0, 0, b"", &mut out);
    for one in frames {
        match one {
            Frame::Headers {
                stream,
                ends,
                fields,
            } => {
                let mut block = Vec::new();
                let own = |name: &str| fields.iter().any(|(index, _, _)| named(*index) == name);
                for (name, value) in USUAL.iter().filter(|(name, _)| !own(name)) {
                    literal(name, value.as_bytes(), &mut block);
                }
                for (index, name, value) in fields {
                    literal(name.unwrap_or(named(*index)), value, &mut block);
                }
                heads += 1;
                frame(
                    1,
                    4 | u8::from(*ends),
                    stream | 1,
                    block.len(),
                    &block,
                    &mut out,
                );
            }
            Frame::Data {
                stream,
                ends,
                bytes,
            } => {
                frame(0, u8::from(*ends), stream | 1, bytes.len(), bytes, &mut out);
            }
            Frame::Any {
                kind,
                flags,
                stream,
                bytes,
            } => {
                heads += usize::from(*kind == 1 || *kind == 9);
                frame(*kind, *flags, *stream, bytes.len(), bytes, &mut out);
            }
            Frame::Lying {
                kind,
                flags,
                stream,
                length,
                bytes,
            } => {
                heads += usize::from(*kind == 1 || *kind == 9);
                frame(
                    *kind,
                    *flags,
                    *stream,
                    usize::from(*length),
                    bytes,
                    &mut out,
                );
            }
        }
    }
    (out, heads + out_of_bytes(frames))
}

/// Frames may be told from the bytes of another one whose length was a lie.
fn out_of_bytes(frames: &[Frame]) -> usize {
    let lies = frames.iter().any(|one| matches!(one, Frame::Lying { .. }));
    if lies { 1000 } else { 0 }
}

fn named(index: u8) -> &'static str {
    NAMES[usize::from(index) % NAMES.len()]
}

/// One connection of the app carries one request, since the app closes each; the rest of it is nothing.
fn check_request(bytes: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut headers);
    let told = || bytes.escape_ascii().to_string();
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        // Cut off before its head was sent; nobody takes that for a request.
        Ok(httparse::Status::Partial) => return,
        Err(error) => panic!("the app gets no request ({error}): {}", told()),
    };
    let all = |name: &str| -> Vec<&[u8]> {
        let found = parsed.headers.iter();
        let found = found.filter(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    assert!(
        lengths.len() + codings.len() <= 1,
        "a body framed twice: {}",
        told()
    );
    assert_eq!(all("host").len(), 1, "one host: {}", told());
    let body = &bytes[head..];
    if codings.is_empty() {
        let length = lengths.first().map_or(0, |value| {
            let text = std::str::from_utf8(value).expect("a length is digits");
            text.parse::<usize>().expect("a length is a number")
        });
        assert!(body.len() <= length, "more than one request: {}", told());
    } else {
        assert_eq!(codings, [b"chunked"], "{}", told());
    }
}

/// The gateway's frames, one after the other, up to where the connection ended.
fn check_frames(mut bytes: &[u8]) {
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(head[3] <= 9, "a frame of no kind: {head:?}");
        assert!(length <= 1 << 14, "a frame of {length} bytes");
        bytes = rest.get(length..).unwrap_or_default();
    }
}

pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let (bytes, heads) = sent(&input.frames);
    let seen = http2(bytes);
    assert!(
        seen.to_app.len() <= heads,
        "{} heads became {} requests",
        heads,
        seen.to_app.len()
    );
    seen.to_app
        .iter()
        .for_each(|request| check_request(request));
    check_frames(&seen.to_client);
}
