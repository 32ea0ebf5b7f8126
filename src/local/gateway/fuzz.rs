//! What the fuzz targets may see of this module's own readers; built for them alone.
//!
//! Here are no checks: what has to hold stands in `tests/fuzz/targets`.

use super::answer;
use super::chunks::Chunks;
use super::headers::Ends;
use super::request::{Hop, Request};

/// What became of a buffer.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// (bytes of the buffer, host, what the app gets)
    Whole(usize, String, Vec<u8>),
    Partial,
    Special,
}

/// Reads a request as the short way does.
pub fn request(buffer: &[u8], most: usize) -> Seen {
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let ends = Ends {
        client: here,
        gateway: here,
        secure: false,
    };
    let mut out = Vec::new();
    match Request::read(buffer, most, &Hop::new(ends), &mut out) {
        Request::Whole(asked) => {
            let host = asked.host_in(buffer).unwrap_or_default().to_owned();
            Seen::Whole(asked.length, host, out)
        }
        Request::Partial => Seen::Partial,
        Request::Special => Seen::Special,
    }
}

/// Follows a chunked body that arrives in these pieces: how much of it belongs to the body, and
/// whether it has ended; `None` where it frames none.
pub fn chunks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<(usize, bool)> {
    let mut chunks = Chunks::default();
    let mut used = 0;
    for piece in pieces {
        used += chunks.follow(piece).ok()?;
    }
    Some((used, chunks.done()))
}

/// The head of an answer as the client gets it, and where the body begins; `None` where it is not
/// there as a whole or is none.
pub fn answer(bytes: &[u8], to_head: bool) -> Option<(Vec<u8>, usize)> {
    answer::head(bytes, to_head)
}
