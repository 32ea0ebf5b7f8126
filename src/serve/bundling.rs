//! Step one: the code bundle, made only when the control plane does not have it.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Error, Plan, Progress, Server, Step};
use crate::bundle::{self, FileList, Format, Include, Selection};
use crate::client::{self, Client, Upload};
use crate::error::{Code, Diagnostic};
use crate::spec::CopyStyle;

/// A bundle larger than this is worth a word.
const LARGE_BYTES: u64 = 50 * 1024 * 1024;

/// Where the code of a deployment lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundled {
    pub uri: String,
    /// A pickled environment rather than files.
    pub pickled: bool,
    pub digest: String,
}

/// What is known of an archive without making it again.
#[derive(Debug, Serialize, Deserialize)]
struct Archive {
    md5: [u8; 16],
    bytes: u64,
}

/// The files that go into the bundle; `None` where there is none to make.
pub fn choose(plan: &Plan) -> Result<Option<FileList>, Error> {
    if plan.source.pickled.is_some() {
        return Ok(None);
    }
    let include: Vec<Include> = plan
        .apps()
        .flat_map(|app| {
            let base = app
                .declared_in
                .as_deref()
                .and_then(std::path::Path::parent)
                .map_or_else(|| plan.source.root.clone(), PathBuf::from);
            app.include.iter().map(move |pattern| Include {
                pattern: pattern.clone(),
                base: base.clone(),
            })
        })
        .collect();
    if plan.options.copy_style == CopyStyle::None && include.is_empty() {
        return Ok(None);
    }
    // Made in a REPL, an app of arguments alone needs no file; where there are some, they come along.
    let may_be_empty = plan.apps().all(|app| app.declared_in.is_none());
    let chosen = bundle::choose(&Selection {
        root: plan.source.root.clone(),
        style: plan.options.copy_style,
        modules: plan.source.modules.clone(),
        installed: plan.source.installed.clone(),
        source_roots: plan.source.source_roots.clone(),
        include,
    });
    match chosen {
        Ok(files) => Ok((!files.is_empty()).then_some(files)),
        Err(error) if may_be_empty && error.code() == Code::BundleEmpty => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Server {
    pub(super) async fn bundle(
        &self,
        client: &Client,
        plan: &Plan,
    ) -> Result<Option<Bundled>, Error> {
        let started = Instant::now();
        self.report(Progress::Started(Step::Bundle));
        if let Some(pickled) = &plan.source.pickled {
            let bundled = self.send_pickle(client, plan, pickled).await?;
            let detail = format!("environment pickled, {}", size(pickled.len() as u64));
            self.finished(Step::Bundle, detail, started);
            return Ok(Some(bundled));
        }
        let chosen = plan.clone();
        let chosen = blocking(move || {
            let files = choose(&chosen)?;
            let digest = match &files {
                Some(files) => Some(files.digest()?.to_string()),
                None => None,
            };
            Ok(files.zip(digest))
        })
        .await?;
        let Some((files, digest)) = chosen else {
            self.finished(Step::Bundle, "no files".into(), started);
            return Ok(None);
        };
        for warning in files.warnings() {
            self.report(Progress::Note(warning.clone()));
        }
        self.warn_of_size(&files);
        let count = counted(files.files().len());
        let total = size(files.total_bytes());
        let (bundled, sent) = self.send(client, plan, files, digest).await?;
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
        files: FileList,
        digest: String,
    ) -> Result<(Bundled, u64), Error> {
        let filename = format!("{digest}.{}", Format::TarZst.extension());
        let known = if plan.options.copy_bundle_to.is_some() {
            None
        } else {
            self.recall(&digest)
        };
        if let Some(archive) = &known {
            let upload = upload(plan, &filename, archive);
            let location = client.upload_location(&upload).await?;
            if location.exists {
                return Ok((bundled(location.native_url, digest), 0));
            }
        }
        let (file, archive) = blocking(move || pack(&files)).await?;
        if let Some(target) = &plan.options.copy_bundle_to {
            copy_out(file.path(), target, &filename)?;
        }
        let upload = upload(plan, &filename, &archive);
        let location = client.upload_location(&upload).await?;
        let sent = if location.exists {
            0
        } else {
            client
                .put(&location, file.path(), &upload)
                .await?
                .bytes_sent
        };
        self.remember(&digest, &archive);
        Ok((bundled(location.native_url, digest), sent))
    }

    async fn send_pickle(
        &self,
        client: &Client,
        plan: &Plan,
        pickled: &[u8],
    ) -> Result<Bundled, Error> {
        use md5::{Digest, Md5};
        let file = tempfile::NamedTempFile::new().map_err(temporary)?;
        std::fs::write(file.path(), pickled).map_err(temporary)?;
        let archive = Archive {
            md5: Md5::digest(pickled).into(),
            bytes: pickled.len() as u64,
        };
        let upload = upload(plan, "code_bundle.pkl.gz", &archive);
        let location = client.upload_location(&upload).await?;
        if !location.exists {
            client.put(&location, file.path(), &upload).await?;
        }
        Ok(Bundled {
            uri: location.native_url,
            pickled: true,
            digest: blake3::hash(pickled).to_hex().to_string(),
        })
    }

    fn warn_of_size(&self, files: &FileList) {
        if files.total_bytes() <= LARGE_BYTES {
            return;
        }
        let mut largest: Vec<_> = files.files().iter().collect();
        largest.sort_by_key(|file| std::cmp::Reverse(file.size));
        let listed: Vec<String> = largest
            .iter()
            .take(5)
            .map(|file| format!("{} ({})", file.name, size(file.size)))
            .collect();
        self.report(Progress::Note(format!(
            "the bundle is large ({}); its largest files are {}; a line for each in `.flyteignore` leaves them out",
            size(files.total_bytes()),
            listed.join(", ")
        )));
    }

    fn note_path(&self, digest: &str) -> PathBuf {
        self.settings
            .home
            .cache()
            .join("bundles")
            .join(format!("{digest}.json"))
    }

    fn recall(&self, digest: &str) -> Option<Archive> {
        serde_json::from_slice(&std::fs::read(self.note_path(digest)).ok()?).ok()
    }

    /// Only saves work; a note that cannot be written is not missed.
    fn remember(&self, digest: &str, archive: &Archive) {
        let path = self.note_path(digest);
        if let (Some(folder), Ok(text)) = (path.parent(), serde_json::to_vec(archive)) {
            let _ = std::fs::create_dir_all(folder);
            let _ = crate::files::write_atomic(&path, &text, 0o600);
        }
    }
}

fn upload<'a>(plan: &'a Plan, filename: &'a str, archive: &Archive) -> Upload<'a> {
    Upload {
        org: &plan.org,
        project: &plan.project,
        domain: &plan.domain,
        filename,
        md5: archive.md5,
        bytes: archive.bytes,
    }
}

fn bundled(uri: String, digest: String) -> Bundled {
    Bundled {
        uri,
        pickled: false,
        digest,
    }
}

fn pack(files: &FileList) -> Result<(tempfile::NamedTempFile, Archive), Error> {
    let file = tempfile::NamedTempFile::new().map_err(temporary)?;
    let out = std::io::BufWriter::new(file.reopen().map_err(temporary)?);
    let written = bundle::write_archive(files, Format::TarZst, out)?;
    let archive = Archive {
        md5: written.md5,
        bytes: written.bytes,
    };
    Ok((file, archive))
}

fn copy_out(file: &std::path::Path, target: &std::path::Path, name: &str) -> Result<(), Error> {
    let target = if target.is_dir() {
        target.join(name)
    } else {
        target.to_path_buf()
    };
    std::fs::copy(file, &target).map_err(|source| client::Error::BundleIo {
        path: target,
        source,
    })?;
    Ok(())
}

fn temporary(source: std::io::Error) -> Error {
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
    use super::size;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1500), "1.5 kB");
        assert_eq!(size(52_428_800), "52.4 MB");
    }
}
