//! Reading what lies elsewhere: object stores, web servers.
//!
//! One call brings a file or a folder to an empty place of this machine, whole or not at all.
//! Where it belongs, and under which parameter's name it is asked for, is decided by the caller.
//! Many files and the parts of large ones are fetched at once; what this machine has already is
//! linked from a [`shelf`].

mod checksum;
mod credentials;
mod error;
mod fetch;
mod location;
mod open;
mod progress;
mod remote;
mod shelf;
mod wire;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

pub use credentials::Variables;
pub use error::Error;
pub use location::{Location, without_secrets};
pub use progress::{Report, size};

use fetch::{Fetcher, Source, joined};
use progress::{Progress, summary};
use remote::Object;
use shelf::Shelf;

/// Files that are written at a time.
const FILES: usize = 32;

/// Tells by its path below the folder whether a file is wanted.
pub type Wanted<'a> = dyn Fn(&str) -> bool + Sync + 'a;

/// Everything that is needed to fetch; costs nothing until it is made.
pub struct Storage {
    runtime: Runtime,
    client: reqwest::Client,
    variables: Variables,
    shelf: Option<Shelf>,
    fetcher: Fetcher,
    _ticker: AbortOnDropHandle<()>,
}

impl Storage {
    /// Connects nowhere yet. `shelf` is the folder of what this machine has fetched before.
    ///
    /// # Errors
    /// The folder cannot be made, or the system has no threads to spare.
    pub fn new(
        variables: Variables,
        shelf: Option<PathBuf>,
        report: Report,
    ) -> Result<Self, Error> {
        let setup = |error: std::io::Error| Error::Setup {
            reason: error.to_string(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("fetch")
            .enable_all()
            .build()
            .map_err(setup)?;
        let shelf = shelf.map(Shelf::at);
        if let Some(shelf) = &shelf {
            shelf.prepare().map_err(setup)?;
        }
        let progress = Arc::new(Progress::new(report));
        let ticker = runtime.spawn(Arc::clone(&progress).tell());
        Ok(Self {
            runtime,
            client: wire::client()?,
            variables,
            shelf,
            fetcher: Fetcher::new(progress),
            _ticker: AbortOnDropHandle::new(ticker),
        })
    }

    /// Brings the file at `url` to `target`, which must not exist. Must be called outside of
    /// asynchronous code.
    ///
    /// # Errors
    /// Why it did not arrive; `target` does not exist then.
    pub fn file(&self, label: &str, url: &str, target: &Path) -> Result<(), Error> {
        self.runtime
            .block_on(self.bring(label, url, async |source| {
                let location = &source.location;
                let object = match source.remote.look(location).await {
                    Ok(object) => object,
                    Err(failure) => return Err(source.explain(failure, location.shown()).await),
                };
                Ok(vec![(object, target.to_owned())])
            }))
    }

    /// Brings all files below `url` that are wanted into the folder `target`, which exists and is
    /// empty. Must be called outside of asynchronous code.
    ///
    /// # Errors
    /// Why one of them did not arrive.
    pub fn folder(
        &self,
        label: &str,
        url: &str,
        target: &Path,
        wanted: &Wanted<'_>,
    ) -> Result<(), Error> {
        self.runtime
            .block_on(self.bring(label, url, async |source| {
                let location = &source.location;
                let objects = match source.remote.list(location).await {
                    Ok(objects) if objects.is_empty() => Err(remote::Failure::NotFound),
                    other => other,
                };
                let objects = match objects {
                    Ok(objects) => objects,
                    Err(failure) => return Err(source.explain(failure, location.shown()).await),
                };
                objects
                    .into_iter()
                    .filter(|object| wanted(&object.relative))
                    .map(|object| Ok((object.clone(), inside(location, target, &object.relative)?)))
                    .collect()
            }))
    }

    async fn bring(
        &self,
        label: &str,
        url: &str,
        choose: impl AsyncFnOnce(&Source) -> Result<Vec<(Object, PathBuf)>, Error>,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let location = Arc::new(Location::parse(url)?);
        let remote = open::open(&location, &self.variables, &self.client).await?;
        let source = Source {
            remote: Arc::new(remote),
            location,
        };
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
            Ok(Err(error)) => Err(Error::Setup {
                reason: error.to_string(),
            }),
            Err(error) => Err(Error::Setup {
                reason: error.to_string(),
            }),
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
