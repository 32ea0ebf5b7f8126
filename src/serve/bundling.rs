//! Step one: the code bundle, made only when the control plane does not have it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::note::Note;
use super::{Error, Plan, Progress, Server, Source, Step};
use crate::bundle::{self, Archive, FileList, Format, Include, Selection, Store};
use crate::client::{self, Client, Piece, Upload};
use crate::error::{Code, Diagnostic};
use crate::files::archive::Limits;
use crate::spec::image::Base;
use crate::spec::{AppSpec, CopyStyle, ImageSpec};
use crate::wire::app;

/// A bundle larger than this is worth a word.
const LARGE_BYTES: u64 = 50_000_000;
/// Looks at the files before it is said that they do not stop changing.
const ATTEMPTS: u32 = 4;
/// What an editor needs to finish saving.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the code of a deployment lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundled {
    pub uri: String,
    pub digest: String,
}

/// The files that go into the bundle; `None` where there is none to make.
pub fn choose(plan: &Plan) -> Result<Option<FileList>, Error> {
    let selection = selection(&plan.source, plan.options.copy_style, plan.apps());
    if selection.style == CopyStyle::None && selection.include.is_empty() {
        return Ok(None);
    }
    // Made in a REPL, an app of arguments alone needs no file; where there are some, they come along.
    let may_be_empty = plan.apps().all(|app| app.declared_in.is_none());
    match bundle::choose(&selection) {
        Ok(files) => Ok((!files.is_empty()).then_some(files)),
        Err(error) if may_be_empty && error.code() == Code::BundleEmpty => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the files of these apps are chosen from.
pub fn selection<'a>(
    source: &Source,
    style: CopyStyle,
    apps: impl IntoIterator<Item = &'a AppSpec>,
) -> Selection {
    let include = |app: &'a AppSpec| {
        let base = source.folder_of(app).to_path_buf();
        app.include.iter().map(move |pattern| Include {
            pattern: pattern.clone(),
            base: base.clone(),
        })
    };
    Selection {
        root: source.root.clone(),
        style,
        modules: source.modules.clone(),
        installed: source.installed.clone(),
        source_roots: source.source_roots.clone(),
        include: apps.into_iter().flat_map(include).collect(),
    }
}

impl Server {
    pub(super) async fn bundle(
        &self,
        client: &Client,
        plan: &Plan,
        known: Option<&app::App>,
    ) -> Result<Option<Bundled>, Error> {
        let started = Instant::now();
        self.report(Progress::Started(Step::Bundle));
        let planned = plan.clone();
        let cache = self.settings.home.cache();
        let packed = blocking(move || pack(&planned, &cache)).await?;
        let Some(packed) = packed else {
            self.finished(Step::Bundle, "no files".into(), started);
            return Ok(None);
        };
        for warning in packed.files.warnings() {
            self.report(Progress::Note(warning.clone()));
        }
        self.warn_of_size(&packed.files);
        let packed = match plan.options.copy_bundle_to.clone() {
            Some(target) => {
                blocking(move || copy(&packed.archive, &target).map(|_| packed)).await?
            }
            None => packed,
        };
        let count = counted(packed.files.files().len());
        let total = size(packed.files.total_bytes());
        let (bundled, sent) = self.send(client, plan, known, packed).await?;
        let sent = if sent == 0 {
            "reused, 0 B sent".to_owned()
        } else {
            format!("{} sent", size(sent))
        };
        self.finished(Step::Bundle, format!("{count}, {total}, {sent}"), started);
        Ok(Some(bundled))
    }

    /// Sends the archive unless it is there; tells how many bytes went over.
    async fn send(
        &self,
        client: &Client,
        plan: &Plan,
        known: Option<&app::App>,
        packed: Packed,
    ) -> Result<(Bundled, u64), Error> {
        match self
            .send_archive(client, plan, known, &packed.archive)
            .await
        {
            Err(Error::Client(error)) if error.code() == Code::ClientUpload => {
                // Kept pieces that were damaged meanwhile are refused as well; those can be helped.
                let planned = plan.clone();
                let again = blocking(move || repack(&planned, packed)).await?;
                match again {
                    Some(packed) => {
                        self.send_archive(client, plan, known, &packed.archive)
                            .await
                    }
                    None => Err(error.into()),
                }
            }
            outcome => outcome,
        }
    }

    async fn send_archive(
        &self,
        client: &Client,
        plan: &Plan,
        known: Option<&app::App>,
        archive: &Archive,
    ) -> Result<(Bundled, u64), Error> {
        let file_name = archive.file_name();
        let upload = upload(plan, &file_name, archive.md5, pieces(archive));
        let location = client.upload_location(&upload).await?;
        let note = Note::of(&self.settings.home, client.endpoint(), &location.native_url);
        let sent = if location.exists || known.is_some_and(|app| note.holds_for(app)) {
            0
        } else {
            client
                .put(&location, &upload, &*self.meter(upload.bytes()))
                .await?;
            if !plan.local {
                note.write();
            }
            upload.bytes()
        };
        let bundled = Bundled {
            uri: location.native_url,
            digest: archive.digest.to_string(),
        };
        Ok((bundled, sent))
    }

    /// Shows how much of an upload is done.
    pub(super) fn meter(&self, total: u64) -> Box<dyn Fn(u64) + Send + Sync> {
        let reporter = Arc::clone(&self.reporter);
        Box::new(move |done| {
            reporter(Progress::Sent {
                step: Step::Bundle,
                done,
                total,
            });
        })
    }

    pub(super) fn warn_of_size(&self, files: &FileList) {
        if files.total_bytes() <= LARGE_BYTES {
            return;
        }
        self.report(Progress::Note(format!(
            "the bundle is large ({}); its largest files, and the lines of `.flyteignore` that leave them out:",
            size(files.total_bytes()),
        )));
        for file in files.largest(5) {
            self.report(Progress::Note(format!(
                "{:>9}  {}",
                size(file.size),
                ignore_line(&file.name)
            )));
        }
    }
}

/// The line of an ignore file at the root that names exactly this file.
fn ignore_line(name: &str) -> String {
    let mut line = String::from("/");
    for (index, letter) in name.char_indices() {
        let is_last_space = letter == ' ' && index + 1 == name.len();
        if "*?[\\".contains(letter) || is_last_space {
            line.push('\\');
        }
        line.push(letter);
    }
    line
}

/// What is ready to be sent.
struct Packed {
    files: FileList,
    archive: Archive,
    store: Store,
}

/// Chooses and packs; again where a file changed in between, as an editor or a build may do.
///
/// `None` where there is nothing to bundle.
fn pack(plan: &Plan, cache: &Path) -> Result<Option<Packed>, Error> {
    let mut attempt = 1;
    loop {
        let Some(files) = choose(plan)? else {
            return Ok(None);
        };
        files.check_limits(Limits::default())?;
        let style = plan.options.copy_style;
        let store = Store::open(cache, files.root(), &format!("{style:?}"))?;
        match bundle::pack(&files, format(plan), &store) {
            Ok(archive) => {
                return Ok(Some(Packed {
                    files,
                    archive,
                    store,
                }));
            }
            Err(bundle::Error::Changed { .. }) if attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the files of a plan are now.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub files: FileList,
    /// Of their names and contents; `None` where there is no file.
    pub digest: Option<String>,
    /// Where a change may lead to another list.
    pub folders: BTreeSet<PathBuf>,
}

/// Looks at the files; what is packed for it is kept, so that sending it costs nothing more.
pub(super) async fn look(plan: Plan, cache: PathBuf) -> Result<Look, Error> {
    blocking(move || {
        let packed = pack(&plan, &cache)?;
        Ok(packed.map_or_else(Look::default, |packed| Look {
            digest: Some(packed.archive.digest.to_string()),
            folders: packed.files.folders(),
            files: packed.files,
        }))
    })
    .await
}

/// Packs from the files alone where what was kept of earlier archives is damaged; `None` where it
/// is not.
fn repack(plan: &Plan, packed: Packed) -> Result<Option<Packed>, Error> {
    if packed.archive.is_intact() {
        return Ok(None);
    }
    let Packed { files, store, .. } = packed;
    store.clear()?;
    let archive = bundle::pack(&files, format(plan), &store)?;
    Ok(Some(Packed {
        files,
        archive,
        store,
    }))
}

/// Our runtime reads both formats. That of the PyPI SDK, which any other image may hold, calls
/// `tar`, and `tar` needs a program for zstd that small images do not have.
fn format(plan: &Plan) -> Format {
    let is_ours = |spec: &AppSpec| match &spec.image {
        ImageSpec::Declared(image) => matches!(image.base, Base::Debian { .. }),
        ImageSpec::Uri(_) => false,
    };
    if plan.apps().all(is_ours) {
        Format::TarZst
    } else {
        Format::TarGz
    }
}

/// Writes the bundle to a place that the user named, without sending it anywhere; tells what is in
/// it and where it lies.
pub fn copy_out(
    plan: &Plan,
    cache: &Path,
    target: &Path,
) -> Result<Option<(FileList, PathBuf)>, Error> {
    let Some(packed) = pack(plan, cache)? else {
        return Ok(None);
    };
    let path = copy(&packed.archive, target)?;
    Ok(Some((packed.files, path)))
}

fn copy(archive: &Archive, target: &Path) -> Result<PathBuf, Error> {
    let target = if target.is_dir() {
        target.join(archive.file_name())
    } else {
        target.to_path_buf()
    };
    let file = std::fs::File::create(&target).map_err(|source| client::Error::BundleIo {
        path: target.clone(),
        source,
    })?;
    archive.write_to(file)?;
    Ok(target)
}

fn pieces(archive: &Archive) -> Vec<Piece> {
    let parts = archive.parts.iter();
    parts
        .map(|part| Piece {
            path: part.path.clone(),
            bytes: part.bytes,
        })
        .collect()
}

pub(super) fn upload<'a>(
    plan: &'a Plan,
    filename: &'a str,
    md5: [u8; 16],
    pieces: Vec<Piece>,
) -> Upload<'a> {
    Upload {
        org: &plan.org,
        project: &plan.project,
        domain: &plan.domain,
        filename,
        folder: "",
        md5,
        pieces,
    }
}

pub(super) fn temporary(source: std::io::Error) -> Error {
    client::Error::BundleIo {
        path: std::env::temp_dir(),
        source,
    }
    .into()
}

/// Work on files, off the threads that speak to the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(temporary(std::io::Error::other(error))),
    }
}

/// `1 file`, `2 files`.
pub fn counted(files: usize) -> String {
    if files == 1 {
        "1 file".to_owned()
    } else {
        format!("{files} files")
    }
}

/// `1.5 MB`.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::walk::rules::{Case, Rules};

    #[test]
    fn the_line_offered_leaves_out_that_file_and_no_other() {
        for name in [
            "a b.bin",
            "models/[1] final*.pt",
            "x ",
            "#1",
            "!odd",
            "w\\x",
        ] {
            let line = ignore_line(name);
            let rules = Arc::new(Rules::parse(".flyteignore".as_ref(), line.into_bytes()));
            let matches = |path: &str| {
                let last = path.rfind('/').map_or(0, |slash| slash + 1);
                let case = Case::Sensitive;
                rules
                    .last_match(path.as_bytes(), last, false, case)
                    .is_some()
            };
            assert!(matches(name), "{name}");
            assert!(!matches(&format!("sub/{name}")), "{name}");
        }
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1500), "1.5 kB");
        assert_eq!(size(52_428_800), "52.4 MB");
    }
}
