//! The answer to a plain request: its head read and rewritten, its body carried as it comes.
//!
//! A body is never held: what was read is written before more is read, so memory is constant and a
//! slow client slows the app. How a body ends is known from the head, or found in its chunks.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;

use super::alarm::{Alarm, Limit, STALLED};
use super::chunks::Chunks;
use super::plain::{quick_ack, read};
use super::request::{Asked, Method};
use super::wire::{Lost, Wire};

/// Longest head of an answer.
const LONGEST_HEAD: usize = 256 * 1024;
/// Most headers in it.
const MOST_HEADERS: usize = 128;
/// What of a body is carried at once.
const PIECE: usize = 64 * 1024;
/// What most answers fit into; a connection keeps no more than this between them.
const KEPT: usize = 16 * 1024;

/// The head of an answer that was read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where the body begins in what was read.
    head: usize,
    body: Body,
    /// Whether the app keeps the connection open afterwards.
    keeps: bool,
    /// Whether it has none, whatever else its head says.
    pub(super) bodiless: bool,
    /// Whether it is of HTTP/1.0, which has no chunks, and so ends with its connection.
    is_old: bool,
}

/// Where the body ends.
enum Body {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

impl Answer {
    /// Whether the client can tell where it ends without being hung up on.
    pub(super) fn has_end(&self) -> bool {
        match self.body {
            Body::Length(_) | Body::Chunked => true,
            Body::Close => false,
        }
    }

    /// Whether the client can be given the end that it has not, in chunks.
    ///
    /// A body that the app did not read makes its connection break off rather than end, which a
    /// client may overlook only where the answer ends with the connection there too.
    pub(super) fn can_be_chunked(&self, asked: &Asked) -> bool {
        self.is_old && !self.has_end() && asked.keep_alive && asked.is_bodiless()
    }
}

/// How an answer is carried.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Whether the client's connection stays.
    pub(super) keep_alive: bool,
    /// Whether it gets the body in chunks of ours.
    pub(super) chunked: bool,
}

/// Buffers of one connection.
#[derive(Default)]
pub(super) struct Relay {
    /// What came from the app and was not yet sent on.
    read: Vec<u8>,
    /// The head for the client.
    head: Vec<u8>,
}

impl Relay {
    /// Sends a request and reads the head of its answer.
    pub(super) async fn begin(
        &mut self,
        wire: &mut Wire,
        request: &[u8],
        asked: &Asked,
    ) -> Result<Answer, Lost> {
        self.read.clear();
        self.read.reserve(KEPT);
        if let Err(error) = wire.stream.write_all(request).await {
            return Err(wire.lost(error, false));
        }
        loop {
            match read(&mut wire.stream, &mut self.read).await {
                Ok(0) => {
                    let error = io::ErrorKind::UnexpectedEof.into();
                    return Err(wire.lost(error, !self.read.is_empty()));
                }
                Ok(_) => {}
                Err(error) => return Err(wire.lost(error, !self.read.is_empty())),
            }
            match self.parse(asked.method == Method::Head) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(problem) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, problem);
                    return Err(wire.lost(error, true));
                }
            }
        }
    }

    /// The head, once it is there as a whole. Interim answers are for us alone and left out.
    fn parse(&mut self, to_head: bool) -> Result<Option<Answer>, &'static str> {
        loop {
            let Self { read, head } = self;
            let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
            let mut parsed = httparse::Response::new(&mut []);
            let config = httparse::ParserConfig::default();
            let length =
                match config.parse_response_with_uninit_headers(&mut parsed, read, &mut headers) {
                    Ok(httparse::Status::Complete(length)) => length,
                    Ok(httparse::Status::Partial) if read.len() < LONGEST_HEAD => return Ok(None),
                    Ok(httparse::Status::Partial) => return Err("the answer's head is too long"),
                    Err(_) => return Err("the answer is not HTTP"),
                };
            match parsed.code {
                Some(101) => return Err("the answer switches protocols, which nobody asked for"),
                Some(100..=199) => {
                    read.drain(..length);
                }
                _ => return rewrite(&parsed, length, to_head, head).map(Some),
            }
        }
    }

    /// Carries the answer to the client; tells whether the app's connection can be used again.
    pub(super) async fn carry(
        &mut self,
        app: &mut TcpStream,
        client: &mut WriteHalf<'_>,
        answer: Answer,
        manner: Manner,
        alarm: &mut Alarm,
    ) -> io::Result<bool> {
        if !manner.keep_alive {
            self.head.extend_from_slice(b"connection: close\r\n");
        }
        if manner.chunked {
            self.head
                .extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        self.head.extend_from_slice(b"\r\n");
        let mut body = Ending::of(&answer.body);
        let begun = &self.read[answer.head..];
        let mut exact = body.take(begun)? == begun.len();
        let belongs = begun.len().min(body.taken);
        if manner.chunked {
            add_chunk(&mut self.head, &begun[..belongs]);
        } else {
            self.head.extend_from_slice(&begun[..belongs]);
        }
        send(client, &self.head, alarm).await?;
        if !body.done() {
            quick_ack(app);
        }
        while !body.done() {
            self.read.clear();
            self.read.reserve(PIECE);
            if read(app, &mut self.read).await? == 0 {
                if manner.chunked {
                    send(client, b"0\r\n\r\n", alarm).await?;
                }
                return body.ends_with_connection();
            }
            let count = body.take(&self.read)?;
            exact = count == self.read.len();
            let piece = &self.read[..count];
            if manner.chunked {
                self.head.clear();
                add_chunk(&mut self.head, piece);
                send(client, &self.head, alarm).await?;
            } else {
                send(client, piece, alarm).await?;
            }
        }
        self.read.clear();
        self.read.shrink_to(KEPT);
        Ok(exact && answer.keeps)
    }
}

fn add_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    // An empty one would be the end.
    if !bytes.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes everything, to a client that goes on reading.
pub(super) async fn send(
    client: &mut WriteHalf<'_>,
    mut bytes: &[u8],
    alarm: &mut Alarm,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = alarm.within(Limit::In(STALLED), client.write(bytes)).await;
        match written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

/// What is made of an answer's head.
#[cfg(any(test, fuzzing))]
pub(super) fn head(bytes: &[u8], to_head: bool) -> Option<(Vec<u8>, usize)> {
    let mut relay = Relay {
        read: bytes.to_vec(),
        head: Vec::new(),
    };
    let answer = relay.parse(to_head).ok()??;
    let behind = relay.read.len() - answer.head;
    Some((relay.head, bytes.len() - behind))
}

/// Follows a body to its end.
enum Follow {
    Left(u64),
    Chunks(Chunks),
    Endless,
}

struct Ending {
    follow: Follow,
    /// Bytes of the last piece that belong to the body.
    taken: usize,
}

impl Ending {
    fn of(body: &Body) -> Self {
        let follow = match body {
            Body::Length(length) => Follow::Left(*length),
            Body::Chunked => Follow::Chunks(Chunks::default()),
            Body::Close => Follow::Endless,
        };
        Self { follow, taken: 0 }
    }

    /// Tells how many of `bytes` belong to the body.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.taken = match &mut self.follow {
            Follow::Left(left) => {
                let count = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= count as u64;
                count
            }
            Follow::Chunks(chunks) => chunks
                .follow(bytes)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?,
            Follow::Endless => bytes.len(),
        };
        Ok(self.taken)
    }

    fn done(&self) -> bool {
        match &self.follow {
            Follow::Left(left) => *left == 0,
            Follow::Chunks(chunks) => chunks.done(),
            Follow::Endless => false,
        }
    }

    /// What it means that the app hung up: the end, or that the rest is missing.
    fn ends_with_connection(&self) -> io::Result<bool> {
        match self.follow {
            Follow::Endless => Ok(false),
            Follow::Left(_) | Follow::Chunks(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// How the body is coded for its way; what it says is passed on as it is.
#[derive(Clone, Copy, Default, PartialEq)]
enum Coding {
    #[default]
    None,
    /// In chunks, whatever is in them.
    Chunked,
    /// One that has no end of its own.
    Other,
}

/// What the headers of an answer say about its framing.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    coding: Coding,
    closes: bool,
    dated: bool,
    /// Names of headers that are for one hop, beyond those that always are.
    named: Vec<Vec<u8>>,
}

fn rewrite(
    parsed: &httparse::Response<'_, '_>,
    length: usize,
    to_head: bool,
    head: &mut Vec<u8>,
) -> Result<Answer, &'static str> {
    let code = parsed.code.unwrap_or_default();
    let status = StatusCode::from_u16(code).map_err(|_| "the answer has no status")?;
    let framing = Framing::of(parsed)?;
    head.clear();
    let reason = parsed.reason.unwrap_or_default();
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    for header in parsed.headers.iter() {
        if framing.passes(header.name) {
            for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
    if !framing.dated {
        add_date(head);
    }
    let bodiless = to_head || matches!(code, 204 | 304);
    let body = match (framing.coding, framing.length) {
        _ if bodiless => Body::Length(0),
        (Coding::Chunked, _) => Body::Chunked,
        (Coding::None, Some(length)) => Body::Length(length),
        (Coding::Other, _) | (Coding::None, None) => Body::Close,
    };
    Ok(Answer {
        status,
        head: length,
        body,
        keeps: !framing.closes && parsed.version == Some(1),
        bodiless,
        is_old: parsed.version == Some(0) && framing.coding == Coding::None,
    })
}

impl Framing {
    fn of(parsed: &httparse::Response<'_, '_>) -> Result<Self, &'static str> {
        let mut framing = Self::default();
        for header in parsed.headers.iter() {
            let is = |known: &str| header.name.eq_ignore_ascii_case(known);
            match header.name.len() {
                4 if is("date") => framing.dated = true,
                10 if is("connection") => framing.take_connection(header.value),
                14 if is("content-length") => {
                    let length = std::str::from_utf8(header.value)
                        .ok()
                        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                        .and_then(|text| text.parse().ok())
                        .ok_or("the answer's length is not a number")?;
                    if framing
                        .length
                        .replace(length)
                        .is_some_and(|other| other != length)
                    {
                        return Err("the answer has two lengths");
                    }
                }
                17 if is("transfer-encoding") => framing.take_coding(header.value)?,
                _ => {}
            }
        }
        Ok(framing)
    }

    /// Several lines of it are one list, of which the last one frames the body.
    fn take_coding(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if self.coding == Coding::Chunked {
                return Err("the answer's chunks are coded again");
            }
            self.coding = match token {
                b"" => continue,
                _ if token.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                _ => Coding::Other,
            };
        }
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.closes = true;
            } else if !token.eq_ignore_ascii_case(b"keep-alive") {
                self.named.push(token.to_ascii_lowercase());
            }
        }
    }

    /// Whether a header goes on to the client.
    fn passes(&self, name: &str) -> bool {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let single_hop = match name.len() {
            2 => is("te"),
            7 => is("upgrade"),
            10 => is("connection") || is("keep-alive"),
            14 => self.coding != Coding::None && is("content-length"),
            16 => is("proxy-connection"),
            // An empty list is no coding; beside a length it would be a second framing to some.
            17 => self.coding == Coding::None && is("transfer-encoding"),
            18 => is("proxy-authenticate"),
            19 => is("proxy-authorization"),
            _ => false,
        };
        let named = || {
            let framing = is("content-length") || is("transfer-encoding");
            !framing
                && self
                    .named
                    .iter()
                    .any(|token| name.as_bytes().eq_ignore_ascii_case(token))
        };
        !single_hop && (self.named.is_empty() || !named())
    }
}

/// Who passes an answer on that has no date is to give it one (RFC 9110, section 6.6.1).
fn add_date(head: &mut Vec<u8>) {
    thread_local! {
        /// The second since 1970 for which the line was made, and the line.
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(second, line)| {
        if *second != now {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
            *line = format!("date: {}\r\n", httpdate::fmt_http_date(time));
            *second = now;
        }
        head.extend_from_slice(line.as_bytes());
    });
}
