//! What a replica says over its channel, one JSON object a line, as the platform hears it.
//!
//! `fserve` is the one that speaks there, but a server function runs in the same process and can say
//! what it likes. So a line has a bound, and one that cannot be read is the end of the channel.

use std::io;

/// The longest line; the reason of a failure with its traceback is far shorter.
pub const MOST_BYTES: usize = 1 << 20;

/// One line.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Comes with the descriptor of the watch when it is true.
    Watched(bool),
    Failed {
        code: String,
        message: String,
    },
}

/// Lines out of pieces.
#[derive(Default)]
pub struct Lines {
    pending: Vec<u8>,
    /// How much of it is known to hold no end of a line.
    searched: usize,
}

impl Lines {
    pub fn push(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    /// The next line that is there as a whole.
    ///
    /// # Errors
    /// It says nothing that is known, or has no end in sight.
    pub fn line(&mut self) -> io::Result<Option<Said>> {
        let unread = &self.pending[self.searched..];
        let end = unread.iter().position(|byte| *byte == b'\n');
        let length = self.searched + end.unwrap_or(unread.len());
        if length > MOST_BYTES {
            return Err(io::Error::other("a line is too long"));
        }
        if end.is_none() {
            self.searched = length;
            return Ok(None);
        }
        let said = serde_json::from_slice(&self.pending[..length])?;
        self.pending.drain(..=length);
        self.searched = 0;
        Ok(Some(said))
    }

    /// How many bytes wait for the rest of their line.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_heard_however_they_arrive() {
        let text =
            b"{\"watched\": true}\n{\"failed\": {\"code\": \"a\", \"message\": \"b\"}}\n{\"wat";
        let mut lines = Lines::default();
        let mut said = Vec::new();
        for piece in text.chunks(7) {
            lines.push(piece);
            while let Some(one) = lines.line().unwrap() {
                said.push(one);
            }
        }
        let failed = Said::Failed {
            code: "a".to_owned(),
            message: "b".to_owned(),
        };
        assert_eq!(said, [Said::Watched(true), failed]);
        assert_eq!(lines.waiting(), 5);
    }

    #[test]
    fn nonsense_ends_the_channel() {
        let mut lines = Lines::default();
        lines.push(b"{\"watched\": false}\nhello\n");
        assert_eq!(lines.line().unwrap(), Some(Said::Watched(false)));
        assert!(lines.line().is_err());
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut lines = Lines::default();
        let piece = [b'x'; 8192];
        for _ in 0..MOST_BYTES / piece.len() {
            lines.push(&piece);
            assert_eq!(lines.line().unwrap(), None);
        }
        lines.push(b"x");
        assert!(lines.line().is_err());
    }
}
