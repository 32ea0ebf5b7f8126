//! One connection to all stores: what is asked of them, and what is carried to and fro.
//!
//! Asynchronous throughout; which threads do the work, and who waits for it, is not known here.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio_util::task::AbortOnDropHandle;

use super::credentials::Variables;
use super::error::Error;
use super::fetch::{Fetcher, Source, joined};
use super::location::Location;
use super::progress::{Progress, Report, summary};
use super::remote::{Failure, Object};
use super::shelf::{self, Shelf};
use super::{open, send, wire};

/// Files that are written at a time.
const FILES: usize = 32;

/// Files that are sent at a time, each of them in memory while it is small.
const SENT_AT_ONCE: usize = 8;

/// Tells by its path below the folder whether a file is wanted.
pub type Wanted<'a> = dyn Fn(&str) -> bool + Sync + 'a;

/// Everything that is needed to read and write elsewhere.
pub struct Carrier {
    client: reqwest::Client,
    variables: Variables,
    shelf: Option<Shelf>,
    fetcher: Fetcher,
}

/// An object that is read piece by piece.
pub struct Reading {
    source: Source,
    object: Object,
}

impl Reading {
    /// Its size in bytes, where the server tells.
    pub fn size(&self) -> Option<u64> {
        self.object.size.filter(|_| self.object.ranges)
    }

    /// At most `count` bytes from `start` on; fewer at the end.
    ///
    /// # Errors
    /// Why they could not be read; also that the object is not what it was.
    pub async fn read(&self, fetcher: &Carrier, start: u64, count: u64) -> Result<Bytes, Error> {
        let end = self.object.size.unwrap_or(u64::MAX).min(start + count);
        if start >= end {
            return Ok(Bytes::new());
        }
        let fetcher = &fetcher.fetcher;
        fetcher.range(&self.source, &self.object, start..end).await
    }
}

impl Carrier {
    /// Connects nowhere yet. `shelf` is the folder of what this machine has fetched before.
    ///
    /// # Errors
    /// The folder cannot be made, or no certificate can be read.
    pub fn new(
        variables: Variables,
        shelf: Option<PathBuf>,
        report: Report,
    ) -> Result<Self, Error> {
        let shelf = shelf.map(Shelf::at);
        if let Some(shelf) = &shelf {
            shelf.prepare().map_err(setup)?;
        }
        Ok(Self {
            client: wire::client()?,
            variables,
            shelf,
            fetcher: Fetcher::new(Arc::new(Progress::new(report))),
        })
    }

    /// Tells of the progress until it is dropped.
    pub fn tell(&self) -> impl Future<Output = ()> + Send + 'static {
        Arc::clone(&self.fetcher.progress).tell()
    }

    /// Brings the file at `url` to `target`, which must not exist.
    ///
    /// # Errors
    /// Why it did not arrive; `target` does not exist then.
    pub async fn file(&self, label: &str, url: &str, target: &Path) -> Result<(), Error> {
        self.bring(label, url, async |source| {
            Ok(vec![(looked(source).await?, target.to_owned())])
        })
        .await
    }

    /// Brings all files below `url` that are wanted into the folder `target`, which exists and is
    /// empty.
    ///
    /// # Errors
    /// Why one of them did not arrive.
    pub async fn folder(
        &self,
        label: &str,
        url: &str,
        target: &Path,
        wanted: &Wanted<'_>,
    ) -> Result<(), Error> {
        self.bring(label, url, async |source| {
            let location = &source.location;
            listed(source)
                .await?
                .into_iter()
                .filter(|object| wanted(&object.relative))
                .map(|object| Ok((object.clone(), inside(location, target, &object.relative)?)))
                .collect()
        })
        .await
    }

    /// Opens the file at `url` to be read piece by piece.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn open(&self, url: &str) -> Result<Reading, Error> {
        let source = self.source(url).await?;
        let object = looked(&source).await?;
        Ok(Reading { source, object })
    }

    /// All files below `url`; at least one.
    ///
    /// # Errors
    /// There are none, or why they cannot be listed.
    pub async fn list(&self, url: &str) -> Result<Vec<Object>, Error> {
        listed(&self.source(url).await?).await
    }

    /// Sends the file at `path` to `url`, over what is there.
    ///
    /// # Errors
    /// Why it did not arrive; what was there is there then.
    pub async fn send(&self, path: &Path, url: &str) -> Result<(), Error> {
        send::file(&self.source(url).await?, path).await
    }

    /// Sends all files below `folder`, each to its path below `url`.
    ///
    /// # Errors
    /// There are none, or why one of them did not arrive; others may have.
    pub async fn send_folder(&self, folder: &Path, url: &str) -> Result<(), Error> {
        let source = self.source(url).await?;
        let below = folder.to_owned();
        let found = tokio::task::spawn_blocking(move || files_below(&below)).await;
        let found = found.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let found = found.map_err(|error| local(folder, error))?;
        if found.is_empty() {
            let nothing = std::io::Error::other("there are no files in it");
            return Err(local(folder, nothing));
        }
        let jobs = found.into_iter().map(|(path, relative)| {
            let to = source.below(&relative);
            async move {
                let work = async move { send::file(&to, &path).await };
                joined(AbortOnDropHandle::new(tokio::spawn(work)).await)
            }
        });
        stream::iter(jobs)
            .buffer_unordered(SENT_AT_ONCE)
            .try_collect()
            .await
    }

    async fn source(&self, url: &str) -> Result<Source, Error> {
        let location = Arc::new(Location::parse(url)?);
        let remote = open::open(&location, &self.variables, &self.client).await?;
        Ok(Source {
            remote: Arc::new(remote),
            location,
        })
    }

    async fn bring(
        &self,
        label: &str,
        url: &str,
        choose: impl AsyncFnOnce(&Source) -> Result<Vec<(Object, PathBuf)>, Error>,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let source = self.source(url).await?;
        let _lock = self.lock(label, url).await?;
        let progress = &self.fetcher.progress;
        progress.begin(label);
        let result = async {
            let chosen = choose(&source).await?;
            let (files, bytes) = (chosen.len(), total(&chosen));
            let fetched = self.all(&source, chosen).await?;
            Ok(summary(files, bytes.max(fetched), fetched, begun))
        }
        .await;
        progress.end(label);
        progress.say(&format!("`{label}`: {}", result?));
        Ok(())
    }

    /// Waits for another replica that fetches the same.
    async fn lock(&self, label: &str, url: &str) -> Result<Option<std::fs::File>, Error> {
        let Some(shelf) = self.shelf.clone() else {
            return Ok(None);
        };
        let progress = Arc::clone(&self.fetcher.progress);
        let (label, url) = (label.to_owned(), url.to_owned());
        let locked = tokio::task::spawn_blocking(move || {
            shelf.lock(&url, || {
                progress.say(&format!(
                    "`{label}`: another replica fetches it, waiting for that"
                ));
            })
        });
        match locked.await {
            Ok(Ok(file)) => Ok(Some(file)),
            Ok(Err(error)) => Err(setup(error)),
            Err(error) => Err(setup(std::io::Error::other(error))),
        }
    }

    /// Brings all files, and returns how many bytes had to be fetched for it.
    async fn all(&self, source: &Source, chosen: Vec<(Object, PathBuf)>) -> Result<u64, Error> {
        self.fetcher.progress.expect(total(&chosen));
        let mut folders: Vec<&Path> = chosen
            .iter()
            .filter_map(|(_, path)| path.parent())
            .collect();
        folders.dedup();
        for folder in folders {
            std::fs::create_dir_all(folder).map_err(|error| local(folder, error))?;
        }
        let jobs = chosen.into_iter().map(|(object, target)| {
            let (fetcher, shelf, source) =
                (self.fetcher.clone(), self.shelf.clone(), source.clone());
            async move {
                let work = async move { one(&fetcher, shelf, &source, &object, &target).await };
                joined(AbortOnDropHandle::new(tokio::spawn(work)).await)
            }
        });
        let fetched = stream::iter(jobs)
            .buffer_unordered(FILES)
            .try_fold(0, |sum, bytes| async move { Ok(sum + bytes) })
            .await?;
        if let Some(shelf) = self.shelf.clone()
            && fetched > 0
        {
            let _ = tokio::task::spawn_blocking(move || shelf.sweep()).await;
        }
        Ok(fetched)
    }
}

/// All files below a folder, with their paths below it.
fn files_below(folder: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder)
        .follow_links(true)
        .sort_by_file_name()
    {
        let entry = entry?;
        if let Ok(relative) = entry.path().strip_prefix(folder)
            && entry.file_type().is_file()
        {
            let relative = relative.to_string_lossy().into_owned();
            found.push((entry.into_path(), relative));
        }
    }
    Ok(found)
}

/// The one object that a source names.
async fn looked(source: &Source) -> Result<Object, Error> {
    let location = &source.location;
    match source.remote.look(location).await {
        Ok(object) => Ok(object),
        Err(failure) => Err(source.explain(failure, location.shown()).await),
    }
}

/// All objects below what a source names.
async fn listed(source: &Source) -> Result<Vec<Object>, Error> {
    let location = &source.location;
    let objects = match source.remote.list(location).await {
        Ok(objects) if objects.is_empty() => Err(Failure::NotFound),
        other => other,
    };
    match objects {
        Ok(objects) => Ok(objects),
        Err(failure) => Err(source.explain(failure, location.shown()).await),
    }
}

/// What keeps this machine from making connections.
pub fn setup(error: std::io::Error) -> Error {
    Error::Setup {
        reason: error.to_string(),
    }
}

fn total(chosen: &[(Object, PathBuf)]) -> u64 {
    chosen.iter().filter_map(|(object, _)| object.size).sum()
}

fn local(path: &Path, source: std::io::Error) -> Error {
    Error::Local {
        path: path.to_owned(),
        source,
    }
}

/// Brings one file, from the shelf if it is there; returns how many bytes had to be fetched.
async fn one(
    fetcher: &Fetcher,
    shelf: Option<Shelf>,
    source: &Source,
    object: &Object,
    target: &Path,
) -> Result<u64, Error> {
    let place = shelf.as_ref().and_then(|shelf| {
        let place = shelf.place_of(&source.remote, &source.location, object)?;
        Some((shelf, place))
    });
    let Some((shelf, place)) = place else {
        let fetched = fetcher.fetch(source, object, target).await;
        if fetched.is_err() {
            let _ = std::fs::remove_file(target);
        }
        fetched?;
        return Ok(size_of(target));
    };
    let mut fetched = 0;
    if Shelf::holds(&place, object) {
        fetcher.progress.add(object.size.unwrap_or(0));
    } else {
        let part = shelf.part().map_err(|error| local(&place, error))?;
        fetcher.fetch(source, object, &part).await?;
        fetched = size_of(&part);
        Shelf::keep(part, &place, object).map_err(|error| local(&place, error))?;
    }
    shelf::hand_out(&place, target).map_err(|error| local(target, error))?;
    Ok(fetched)
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// A path below `target`: what a store calls a key may be anything.
fn inside(location: &Location, target: &Path, relative: &str) -> Result<PathBuf, Error> {
    let path = Path::new(relative);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if plain && !relative.contains('\0') {
        return Ok(target.join(path));
    }
    Err(Error::Name {
        url: location.shown(),
        name: relative.to_owned(),
    })
}
