//! Bringing one object here, whole: in parts at a time where it is large, from where it stood
//! after a cut, and compared with what its store says of it.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::Error;
use super::checksum::{Checksum, Running};
use super::location::Location;
use super::progress::Progress;
use super::remote::{Failure, Object, Remote};

/// Connections at a time, over everything that is fetched.
const CONNECTIONS: usize = 32;
/// Larger things are fetched in parts of this size.
const PART_BYTES: u64 = 16 << 20;
/// Attempts that bring nothing before it is given up.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What all downloads of this process share.
#[derive(Clone)]
pub struct Fetcher {
    connections: Arc<Semaphore>,
    pub progress: Arc<Progress>,
}

/// Why an attempt ended.
enum Stop {
    Remote(Failure),
    Local(io::Error),
}

/// Where an object is, and who is asked for it.
#[derive(Clone)]
pub struct Source {
    pub remote: Arc<Remote>,
    pub location: Arc<Location>,
}

impl Source {
    /// What lies below this folder under `relative`.
    #[must_use]
    pub fn below(&self, relative: &str) -> Self {
        Self {
            remote: Arc::clone(&self.remote),
            location: Arc::new(self.location.below(relative)),
        }
    }

    /// The address of an object in it, for messages.
    fn shown(&self, object: &Object) -> String {
        let shown = self.location.shown();
        if shown.ends_with(&object.relative) {
            shown
        } else {
            format!("{}/{}", shown.trim_end_matches('/'), object.relative)
        }
    }

    /// What a failure means to whoever named the address.
    pub async fn explain(&self, failure: Failure, shown: String) -> Error {
        match failure {
            Failure::NotFound => self.not_found(shown).await,
            Failure::Denied(reason) => Error::Denied {
                url: shown,
                reason,
                advice: self.remote.anonymous(),
            },
            Failure::Changed => Error::Changed { url: shown },
            Failure::Refused(reason) => Error::Refused { url: shown, reason },
            Failure::Transient(reason) => Error::Broken {
                url: shown,
                received: 0,
                attempts: ATTEMPTS,
                reason,
            },
            Failure::NoListing => Error::NoListing { url: shown },
        }
    }

    async fn not_found(&self, shown: String) -> Error {
        let siblings = self.remote.siblings(&self.location).await;
        let key = &self.location.key;
        let close = crate::error::did_you_mean(key, siblings.iter().map(String::as_str));
        Error::NotFound {
            is_folder: siblings.iter().any(|sibling| sibling == key),
            close: close.filter(|close| close != key).map(|close| {
                let scheme = self.location.url.split("://").next().unwrap_or_default();
                format!("{scheme}://{}/{close}", self.location.bucket)
            }),
            url: shown,
        }
    }
}

/// What an object should be and what arrived, as far as either is known.
type Compared = (Option<Checksum>, Option<Checksum>);

/// The file that is written, and how far it is.
struct Sink<'a> {
    file: &'a File,
    at: u64,
    /// `None` where the server does not say how much it has.
    end: Option<u64>,
    /// What the store says of the whole, once an answer came.
    expected: Option<Checksum>,
    /// Computed on the way, where this is everything or its parts can be joined.
    running: Option<Running>,
    begin: u64,
    /// Whether it takes everything rather than a part.
    in_one: bool,
    restarts: u32,
}

impl Fetcher {
    pub fn new(progress: Arc<Progress>) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            progress,
        }
    }

    /// Writes the object to the file at `into`.
    ///
    /// # Errors
    /// Why it did not arrive whole; the file then holds nothing of use.
    pub async fn fetch(&self, source: &Source, object: &Object, into: &Path) -> Result<(), Error> {
        let mut damaged = None;
        // A transfer may be damaged by chance; what is damaged twice lies damaged.
        for _ in 0..2 {
            match self.once(source, object, into).await? {
                None => return Ok(()),
                found => damaged = found,
            }
            self.progress.take_back(object.size.unwrap_or(0));
        }
        match damaged {
            Some((expected, found)) => Err(Error::Checksum {
                url: source.shown(object),
                kind: expected.kind(),
                expected: expected.hex(),
                found: found.hex(),
            }),
            None => Ok(()),
        }
    }

    /// Reads one range, going on where a connection broke.
    pub async fn range(
        &self,
        source: &Source,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Bytes, Error> {
        let mut read = BytesMut::new();
        let mut in_vain = 0;
        loop {
            let before = read.len();
            let missing = range.start + before as u64..range.end;
            let Err(failure) = self.piece(source, object, missing, &mut read).await else {
                return Ok(read.freeze());
            };
            in_vain = if read.len() > before { 0 } else { in_vain + 1 };
            if in_vain == ATTEMPTS || !matches!(failure, Failure::Transient(_)) {
                return Err(source.explain(failure, source.shown(object)).await);
            }
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(in_vain)).await;
        }
    }

    /// Reads into `into` what one request brings.
    async fn piece(
        &self,
        source: &Source,
        object: &Object,
        range: Range<u64>,
        into: &mut BytesMut,
    ) -> Result<(), Failure> {
        let _permit = self.connections.acquire().await;
        let count = range.end - range.start;
        let before = into.len() as u64;
        let range = Some(range).filter(|_| object.ranges);
        let body = source.remote.read(&source.location, object, range).await?;
        let mut stream = body.stream;
        while let Some(bytes) = stream.next().await {
            into.extend_from_slice(&bytes.map_err(Failure::Transient)?);
        }
        if (into.len() as u64) < before + count && object.size.is_some() {
            let text = "the connection ended early".to_owned();
            return Err(Failure::Transient(text));
        }
        Ok(())
    }

    /// Fetches everything once; returns the checksums if they differ.
    async fn once(
        &self,
        source: &Source,
        object: &Object,
        into: &Path,
    ) -> Result<Option<(Checksum, Checksum)>, Error> {
        let local = |source| Error::Local {
            path: into.to_owned(),
            source,
        };
        let file = Arc::new(File::create(into).map_err(local)?);
        let (expected, found) = match object.size {
            Some(size) if size > PART_BYTES && object.ranges => {
                file.set_len(size).map_err(local)?;
                match self.in_parts(source, object, &file, size, into).await? {
                    (Some(expected), None) => {
                        let path = into.to_owned();
                        let compute = move || checksum_of(&path, expected);
                        let found = tokio::task::spawn_blocking(compute).await;
                        let found = found.unwrap_or_else(|error| Err(io::Error::other(error)));
                        (Some(expected), Some(found.map_err(local)?))
                    }
                    known => known,
                }
            }
            size => {
                let mut sink = Sink::new(&file, 0, size);
                self.fill(source, object, &mut sink, into).await?;
                (sink.expected, sink.running.map(Running::finish))
            }
        };
        Ok(expected
            .zip(found)
            .filter(|(expected, found)| expected != found))
    }

    /// Fetches a large object, several parts at a time. What arrived is computed on the way where
    /// checksums of parts can be joined.
    async fn in_parts(
        &self,
        source: &Source,
        object: &Object,
        file: &Arc<File>,
        size: u64,
        into: &Path,
    ) -> Result<Compared, Error> {
        let told = source.remote.checksum(object).await;
        let starts = (0..size).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX));
        let parts = starts.map(|start| {
            let (fetcher, source, object) = (self.clone(), source.clone(), object.clone());
            let (file, into) = (Arc::clone(file), into.to_owned());
            async move {
                let work = async move {
                    let end = (start + PART_BYTES).min(size);
                    let mut sink = Sink::part(&file, start..end, told);
                    fetcher.fill(&source, &object, &mut sink, &into).await?;
                    Ok((sink.expected, sink.running))
                };
                joined(AbortOnDropHandle::new(tokio::spawn(work)).await)
            }
        });
        // In their order, which is what joining needs.
        let arrived: Vec<_> = stream::iter(parts)
            .buffered(CONNECTIONS)
            .try_collect()
            .await?;
        let expected = arrived.iter().find_map(|(expected, _)| *expected);
        let running: Option<Vec<Running>> = arrived.into_iter().map(|part| part.1).collect();
        let whole = running.and_then(|parts| {
            parts.into_iter().reduce(|mut all, next| {
                all.join(&next);
                all
            })
        });
        Ok((expected, whole.map(Running::finish)))
    }

    /// Fetches until the sink is full, going on where a connection broke.
    async fn fill(
        &self,
        source: &Source,
        object: &Object,
        sink: &mut Sink<'_>,
        into: &Path,
    ) -> Result<(), Error> {
        // The rest of something can be asked for only where its end is known.
        let resumes = object.ranges && sink.end.is_some();
        let mut in_vain = 0;
        loop {
            let before = sink.at;
            let stop = match self.attempt(source, object, sink).await {
                Ok(()) => return Ok(()),
                Err(stop) => stop,
            };
            let reason = match stop {
                Stop::Local(source) => {
                    let path = into.to_owned();
                    return Err(Error::Local { path, source });
                }
                Stop::Remote(Failure::Transient(reason)) => reason,
                Stop::Remote(failure) => {
                    return Err(source.explain(failure, source.shown(object)).await);
                }
            };
            in_vain = if sink.at > before { 0 } else { in_vain + 1 };
            if in_vain == ATTEMPTS || (!resumes && sink.restarts == ATTEMPTS) {
                return Err(Error::Broken {
                    url: source.shown(object),
                    received: sink.at - sink.begin,
                    attempts: ATTEMPTS,
                    reason,
                });
            }
            tracing::debug!(at = sink.at, reason, "a download goes on");
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(in_vain)).await;
            if !resumes {
                self.progress.take_back(sink.at - sink.begin);
                sink.restart().map_err(|source| Error::Local {
                    path: into.to_owned(),
                    source,
                })?;
            }
        }
    }

    /// Fetches what is missing in one request.
    async fn attempt(
        &self,
        source: &Source,
        object: &Object,
        sink: &mut Sink<'_>,
    ) -> Result<(), Stop> {
        if sink.end == Some(sink.at) && sink.at > sink.begin {
            return Ok(());
        }
        // Closed never, so this only waits.
        let _permit = self.connections.acquire().await;
        let is_whole = sink.at == 0 && sink.end == object.size;
        let range = sink.end.map(|end| sink.at..end).filter(|_| !is_whole);
        let body = source
            .remote
            .read(&source.location, object, range)
            .await
            .map_err(Stop::Remote)?;
        sink.meet(Checksum::of(
            source.remote.scheme(),
            &body.headers,
            body.whole,
        ));
        let mut stream = body.stream;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|reason| Stop::Remote(Failure::Transient(reason)))?;
            sink.write(&bytes)?;
            self.progress.add(bytes.len() as u64);
        }
        match sink.end {
            Some(end) if sink.at < end => {
                let text = "the connection ended early".to_owned();
                Err(Stop::Remote(Failure::Transient(text)))
            }
            _ => Ok(()),
        }
    }
}

/// The result of a task; one that was ended with the process counts as cut off.
pub fn joined<T>(result: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    result.unwrap_or_else(|error| {
        Err(Error::Setup {
            reason: error.to_string(),
        })
    })
}

fn checksum_of(path: &Path, kind: Checksum) -> io::Result<Checksum> {
    let mut file = File::open(path)?;
    let mut running = kind.begin();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(running.finish()),
            count => running.update(&buffer[..count]),
        }
    }
}

impl<'a> Sink<'a> {
    fn new(file: &'a File, at: u64, end: Option<u64>) -> Self {
        Self {
            file,
            at,
            end,
            expected: None,
            running: None,
            begin: at,
            in_one: true,
            restarts: 0,
        }
    }

    /// A part of something whose checksum may have been told before.
    fn part(file: &'a File, range: Range<u64>, told: Option<Checksum>) -> Self {
        let mut part = Self {
            in_one: false,
            ..Self::new(file, range.start, Some(range.end))
        };
        part.meet(told);
        part
    }

    /// Learns from the first answer what the whole should be.
    fn meet(&mut self, expected: Option<Checksum>) {
        if self.expected.is_none() && self.at == self.begin {
            self.expected = expected;
            let computed = expected.filter(|kind| self.in_one || kind.joins());
            self.running = computed.map(|kind| kind.begin());
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let after = self.at + bytes.len() as u64;
        if self.end.is_some_and(|end| after > end) {
            let text = "the server sent more than it said".to_owned();
            return Err(Stop::Remote(Failure::Refused(text)));
        }
        self.file
            .write_all_at(bytes, self.at)
            .map_err(Stop::Local)?;
        if let Some(running) = &mut self.running {
            running.update(bytes);
        }
        self.at = after;
        Ok(())
    }

    /// Begins anew, where it cannot go on in the middle. What is sent now may be shorter than
    /// what had arrived.
    fn restart(&mut self) -> io::Result<()> {
        self.restarts += 1;
        self.file.set_len(0)?;
        self.at = 0;
        self.expected = None;
        self.running = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_broken_transfer_is_left_behind_a_shorter_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = Sink::new(file.as_file(), 0, None);
        assert!(sink.write(b"a long beginning").is_ok());
        sink.restart().unwrap();
        assert!(sink.write(b"short").is_ok());
        assert_eq!(std::fs::read(file.path()).unwrap(), b"short");
    }
}
