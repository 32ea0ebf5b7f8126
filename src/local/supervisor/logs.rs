//! What replicas write: kept in bounded files, readable from the end, followed as it comes.
//!
//! A record is one line of a file: time, revision, replica, text. When a file is full it is
//! renamed and the oldest is dropped, so an app's logs never outgrow
//! `FILE_BYTES * FILES_KEPT`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::sync::broadcast;

const FILE_BYTES: u64 = 8 * 1024 * 1024;
const FILES_KEPT: u32 = 3;
/// How much is read at once from the end of a file.
const BLOCK_BYTES: u64 = 64 * 1024;
/// Lines that a slow follower may fall behind before it misses some.
const FOLLOWERS_BACKLOG: usize = 4096;
/// A longer line is cut; a replica must not fill memory by never ending a line.
const LINE_BYTES: usize = 64 * 1024;

/// One line that a replica wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub at: jiff::Timestamp,
    pub revision: u64,
    pub replica: String,
    pub text: String,
}

/// The log of one app.
pub struct LogBook {
    path: PathBuf,
    open: Mutex<Option<Open>>,
    /// Whether the last line was lost; that is said of the first one only.
    loses: AtomicBool,
    /// Made for the first who follows: its room is taken at once, and most logs have nobody.
    follow: OnceLock<broadcast::Sender<Record>>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl LogBook {
    /// A log in `folder`, which is made when the first line comes.
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("app.log"),
            open: Mutex::new(None),
            loses: AtomicBool::new(false),
            follow: OnceLock::new(),
        }
    }

    /// Adds a line. A full disk loses lines, never the app.
    pub fn write(&self, record: Record) {
        let line = encode(&record);
        let written = self.append(&line);
        let loses = written.is_err();
        if let (Err(error), false) = (written, self.loses.swap(loses, Ordering::Relaxed)) {
            tracing::warn!(path = %self.path.display(), %error, "an app's log loses lines");
        }
        if let Some(follow) = self.follow.get() {
            // An error means that nobody follows any more.
            let _ = follow.send(record);
        }
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|open| open.bytes >= FILE_BYTES) {
            *open = None;
            self.rotate()?;
        }
        let log = match open.take() {
            Some(log) => open.insert(log),
            None => open.insert(self.create()?),
        };
        if let Err(error) = log.file.write_all(line.as_bytes()) {
            // The next line must not join what was written of this one.
            let _ = log.file.set_len(log.bytes);
            return Err(error);
        }
        log.bytes += line.len() as u64;
        Ok(())
    }

    fn create(&self) -> io::Result<Open> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&self.path)?;
        let mut bytes = file.metadata()?.len();
        let mut last = [b'\n'];
        if bytes > 0 {
            file.read_exact_at(&mut last, bytes - 1)?;
        }
        if last != [b'\n'] {
            // A platform was killed within a line.
            file.write_all(b"\n")?;
            bytes += 1;
        }
        Ok(Open { file, bytes })
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..FILES_KEPT - 1).rev() {
            let from = self.rotated(number);
            if from.exists() {
                std::fs::rename(from, self.rotated(number + 1))?;
            }
        }
        std::fs::rename(&self.path, self.rotated(1))
    }

    fn rotated(&self, number: u32) -> PathBuf {
        self.path.with_extension(format!("log.{number}"))
    }

    /// The last `count` lines, oldest first, that `wanted` accepts. No more is read than that takes.
    pub fn tail(&self, count: usize, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let mut last = Vec::new();
        for file in self.newest_first() {
            // A file that cannot be read on is as good as one that begins there.
            let _ = backwards(&file, |line| {
                let record = decode(&String::from_utf8_lossy(line));
                last.extend(record.filter(&wanted));
                last.len() < count
            });
            if last.len() >= count {
                break;
            }
        }
        last.truncate(count);
        last.reverse();
        last
    }

    /// All files, opened while none is renamed.
    fn newest_first(&self) -> Vec<File> {
        let _writing = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let older = (1..FILES_KEPT).map(|number| self.rotated(number));
        [self.path.clone()]
            .into_iter()
            .chain(older)
            .filter_map(|path| File::open(path).ok())
            .collect()
    }

    /// Lines from now on.
    pub fn follow(&self) -> broadcast::Receiver<Record> {
        let follow = self
            .follow
            .get_or_init(|| broadcast::Sender::new(FOLLOWERS_BACKLOG));
        follow.subscribe()
    }
}

/// Gives the lines of a file, the last one first, until `more` says that it has enough.
fn backwards(file: &File, mut more: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut start = file.metadata()?.len();
    // The beginning of what was read, whose line may begin before it.
    let mut open = Vec::new();
    while start > 0 {
        let size = start.min(BLOCK_BYTES);
        start -= size;
        let mut block = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut block, start)?;
        block.append(&mut open);
        let mut lines = block.as_slice();
        while let Some(end) = lines.iter().rposition(|byte| *byte == b'\n') {
            let line = &lines[end + 1..];
            lines = &lines[..end];
            if !line.is_empty() && !more(line) {
                return Ok(());
            }
        }
        open = lines.to_vec();
    }
    if !open.is_empty() {
        more(&open);
    }
    Ok(())
}

/// Cuts text at a character boundary.
pub fn shorten(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn encode(record: &Record) -> String {
    format!(
        "{} {} {} {}\n",
        record.at,
        record.revision,
        record.replica,
        shorten(&record.text, LINE_BYTES)
    )
}

fn decode(line: &str) -> Option<Record> {
    let mut parts = line.splitn(4, ' ');
    Some(Record {
        at: parts.next()?.parse().ok()?,
        revision: parts.next()?.parse().ok()?,
        replica: parts.next()?.to_owned(),
        text: parts.next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record {
            at: jiff::Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap(),
            revision: 3,
            replica: "r3-1".into(),
            text: text.into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let book = LogBook::new(folder.path());
        let mut follower = book.follow();
        book.write(record("one  two"));
        book.write(record(""));
        assert_eq!(book.tail(10, |_| true), [record("one  two"), record("")]);
        assert_eq!(book.tail(1, |_| true), [record("")]);
        assert_eq!(follower.try_recv().unwrap(), record("one  two"));
    }

    #[test]
    fn a_torn_line_costs_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.log");
        LogBook::new(folder.path()).write(record("before"));
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"2026-01-01T00:00:00Z 3 r").unwrap();
        let book = LogBook::new(folder.path());
        book.write(record("after"));
        assert_eq!(book.tail(10, |_| true), [record("before"), record("after")]);
    }

    #[test]
    fn files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let book = LogBook::new(folder.path());
        let long = "x".repeat(LINE_BYTES);
        for _ in 0..(FILE_BYTES * 5 / LINE_BYTES as u64) {
            book.write(record(&long));
        }
        let total: u64 = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= (FILE_BYTES + 2 * LINE_BYTES as u64) * u64::from(FILES_KEPT));
        assert!(!book.tail(5, |_| true).is_empty());
    }

    #[test]
    fn the_end_is_found_over_blocks_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let book = LogBook::new(folder.path());
        // Lines of many lengths, some longer than a block is from one file to the next.
        let text = |number: usize| format!("{number} {}", "x".repeat(number * 7919 % 60_000));
        let lines = 600;
        for number in 0..lines {
            book.write(record(&text(number)));
        }
        assert!(folder.path().join("app.log.1").exists());
        for count in [1, 7, 400] {
            let last = book.tail(count, |_| true);
            let expected: Vec<Record> = (lines - count..lines)
                .map(|number| record(&text(number)))
                .collect();
            assert!(last == expected, "{count} lines");
        }
        let even = book.tail(3, |record| record.text.starts_with("59"));
        let numbers: Vec<&str> = even.iter().map(|record| &record.text[..3]).collect();
        assert_eq!(numbers, ["597", "598", "599"]);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(shorten("aé", 2), "a");
        assert_eq!(shorten("aé", 3), "aé");
    }
}
