//! Asking for something that the terminal must not show.
//!
//! The terminal hands over each key by itself, Ctrl-C included, and shows none; it is put back
//! whatever happens.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::secrets::Value;

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: [u8; 2] = [8, 127];
const CTRL_U: u8 = 21;

/// A terminal that shows nothing, until this is dropped.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    fn open() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        let _ = self.terminal.write_all(b"\n");
    }
}

/// Asks, and returns what is typed up to Return; `None` for Ctrl-C.
pub fn ask(question: &str) -> io::Result<Option<Value>> {
    let mut silent = Silent::open()?;
    silent.terminal.write_all(question.as_bytes())?;
    let keys = BufReader::new(&silent.terminal).bytes();
    read(keys)
}

fn read(keys: impl Iterator<Item = io::Result<u8>>) -> io::Result<Option<Value>> {
    // Growing would leave copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(4096));
    for key in keys {
        match key? {
            CTRL_C => return Ok(None),
            b'\r' | b'\n' | CTRL_D => break,
            CTRL_U => value.clear(),
            key if BACKSPACE.contains(&key) => erase(&mut value),
            key => value.push(key),
        }
    }
    Ok(Some(value))
}

/// Takes one character away, which may be several bytes.
fn erase(value: &mut Vec<u8>) {
    while let Some(byte) = value.pop() {
        if byte & 0b1100_0000 != 0b1000_0000 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Option<Vec<u8>> {
        let value = read(keys.iter().map(|key| Ok(*key))).unwrap();
        value.map(|value| value.to_vec())
    }

    #[test]
    fn keys_edit_and_end_the_line() {
        assert_eq!(typed(b"ab\x7fc\rd"), Some(b"ac".to_vec()));
        assert_eq!(typed("aü\u{7f}\n".as_bytes()), Some(b"a".to_vec()));
        assert_eq!(typed(b"wrong\x15right\n"), Some(b"right".to_vec()));
        assert_eq!(typed(b"ab\x03"), None);
        assert_eq!(typed(b"ab"), Some(b"ab".to_vec()));
    }
}
