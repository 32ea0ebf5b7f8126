//! Where a chunked body ends, found while its bytes pass by unchanged (RFC 9112, section 7.1).

/// Longest line that a chunk's size or a trailer may take.
const LONGEST_LINE: usize = 16 * 1024;

/// Follows the framing of one chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    /// Bytes of the present line, to bound it; for trailers also whether it is empty.
    line: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    /// The size of the next chunk, as far as it was read; `None` before its first digit.
    #[default]
    Begin,
    Size(u64),
    /// Behind the size's digits: an extension, or white space.
    Extension(u64),
    Data(u64),
    /// What ends a chunk's data.
    DataEnd,
    Trailer,
    Done,
}

/// The bytes do not frame a body.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed;

impl Chunks {
    /// Follows `bytes`; tells how many of them belong to the body.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if let State::Data(left) = self.state {
                let here = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                at += here;
                self.state = match left - here as u64 {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                self.line = 0;
                continue;
            }
            self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// Whether the body has ended.
    pub(super) fn done(&self) -> bool {
        self.state == State::Done
    }

    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.line += 1;
        if self.line > LONGEST_LINE {
            return Err(Malformed);
        }
        self.state = match (self.state, byte) {
            (State::Size(size) | State::Extension(size), b'\n') => self.sized(size),
            (State::Begin, digit) => State::Size(value(digit).ok_or(Malformed)?),
            (State::Size(size), byte) => match value(byte) {
                Some(digit) if size >> 60 == 0 => State::Size(size << 4 | digit),
                None if matches!(byte, b'\r' | b';' | b' ' | b'\t') => State::Extension(size),
                Some(_) | None => return Err(Malformed),
            },
            (State::Extension(size), _) => State::Extension(size),
            (State::DataEnd, b'\r') if self.line == 1 => State::DataEnd,
            (State::DataEnd, b'\n') if self.line == 2 => {
                self.line = 0;
                State::Begin
            }
            (State::DataEnd, _) => return Err(Malformed),
            (State::Trailer, b'\r') => {
                // Does not count, so that a line of nothing else is empty.
                self.line -= 1;
                State::Trailer
            }
            (State::Trailer, b'\n') => match std::mem::take(&mut self.line) {
                1 => State::Done,
                _ => State::Trailer,
            },
            (State::Trailer, _) => State::Trailer,
            (State::Data(_) | State::Done, _) => self.state,
        };
        Ok(())
    }

    fn sized(&mut self, size: u64) -> State {
        self.line = 0;
        match size {
            0 => State::Trailer,
            size => State::Data(size),
        }
    }
}

fn value(digit: u8) -> Option<u64> {
    char::from(digit).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_bytes_are_cut() {
        let body =
            b"5\r\nhello\r\n1A;x=\"y\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx-sum: 1\r\n\r\n";
        let whole = [&body[..], b"HTTP/1.1"].concat();
        for size in 1..whole.len() {
            let mut chunks = Chunks::default();
            let mut used = 0;
            for piece in whole.chunks(size) {
                used += chunks.follow(piece).unwrap();
            }
            assert_eq!((used, chunks.done()), (body.len(), true), "cut by {size}");
        }
        let mut chunks = Chunks::default();
        assert_eq!(chunks.follow(b"0\r\n\r\n"), Ok(5));
        assert!(chunks.done());
    }

    #[test]
    fn what_frames_nothing_is_refused() {
        let endless = [b"1;", "x".repeat(LONGEST_LINE).as_bytes()].concat();
        for body in [
            &b"x"[..],
            b"\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n",
            b"1g\r\n",
            b"11111111111111111\r\n",
            &endless,
        ] {
            let text = String::from_utf8_lossy(body);
            assert_eq!(Chunks::default().follow(body), Err(Malformed), "{text}");
        }
    }
}
