//! What a build may read: files of this machine under names of our own, as one stream.
//!
//! Nothing is copied before it is sent. The stream is the same for the same files: sorted, without
//! times and owners.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::digest::{self, Kind, Sight};
use super::super::error::Error;

/// One time for all files; zip archives, and so wheels built from them, know none before 1980.
const MTIME: u64 = 946_684_800;
/// Bytes that are sent at once.
const PIECE: usize = 256 * 1024;
/// Pieces that wait for a slow engine.
const PIECES_AHEAD: usize = 4;

/// What stands under a name.
enum Content {
    Text(Vec<u8>, Mode),
    File(PathBuf, Mode),
    Link(PathBuf),
    Folder,
}

#[derive(Clone, Copy)]
enum Mode {
    Plain,
    Executable,
}

/// The files of a build, by their names in it.
#[derive(Default)]
pub(super) struct Context {
    entries: BTreeMap<PathBuf, Content>,
}

impl Context {
    pub(super) fn text(&mut self, name: impl Into<PathBuf>, text: impl Into<Vec<u8>>) {
        let content = Content::Text(text.into(), Mode::Plain);
        self.entries.insert(name.into(), content);
    }

    pub(super) fn program(&mut self, name: impl Into<PathBuf>, text: impl Into<Vec<u8>>) {
        let content = Content::Text(text.into(), Mode::Executable);
        self.entries.insert(name.into(), content);
    }

    /// A program of this machine.
    pub(super) fn executable(&mut self, name: impl Into<PathBuf>, from: &Path) {
        let content = Content::File(from.to_path_buf(), Mode::Executable);
        self.entries.insert(name.into(), content);
    }

    /// A file as it is, or all that `sight` sees of a folder.
    pub(super) fn add(&mut self, name: &Path, from: &Path, sight: &Sight) -> Result<(), Error> {
        if !from.is_dir() {
            return self.file(name, from, digest::is_executable(from)?);
        }
        if name != Path::new("") {
            self.entries.insert(name.to_path_buf(), Content::Folder);
        }
        for entry in sight.walk(from)? {
            let (to, path) = (name.join(&entry.path), from.join(&entry.path));
            match entry.kind {
                Kind::Folder => {
                    self.entries.insert(to, Content::Folder);
                }
                Kind::File { executable } => self.file(&to, &path, executable)?,
                Kind::Link { target } => {
                    self.entries.insert(to, Content::Link(target));
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &Path, from: &Path, executable: bool) -> Result<(), Error> {
        digest::refuse_special(from)?;
        // Said now, by name, rather than in the middle of a build.
        std::fs::File::open(from).map_err(Error::unreadable(from))?;
        let mode = if executable {
            Mode::Executable
        } else {
            Mode::Plain
        };
        let content = Content::File(from.to_path_buf(), mode);
        self.entries.insert(name.to_path_buf(), content);
        Ok(())
    }

    /// A text that was put in.
    #[cfg(test)]
    pub(super) fn read(&self, name: &str) -> String {
        match self.entries.get(Path::new(name)) {
            Some(Content::Text(text, _)) => String::from_utf8_lossy(text).into_owned(),
            Some(_) | None => panic!("no text `{name}`"),
        }
    }

    /// The archive, made while it is read; an error of a file ends it.
    pub(super) fn stream(self) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut writer = Pieces {
                sender: sender.clone(),
                piece: Vec::with_capacity(PIECE),
            };
            if let Err(error) = self.write(&mut writer).and_then(|()| writer.flush()) {
                // Nobody reads any more where the build was given up.
                let _ = sender.blocking_send(Err(error));
            }
        });
        receiver
    }

    fn write(&self, writer: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(writer);
        for (name, content) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(MTIME);
            header.set_size(0);
            match content {
                Content::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o755);
                    archive.append_data(&mut header, name, io::empty())?;
                }
                Content::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, name, target)?;
                }
                Content::Text(text, mode) => {
                    header.set_mode(mode.bits());
                    header.set_size(text.len() as u64);
                    archive.append_data(&mut header, name, &text[..])?;
                }
                Content::File(path, mode) => {
                    header.set_mode(mode.bits());
                    append_file(&mut archive, header, name, path)?;
                }
            }
        }
        archive.finish()
    }
}

/// A file that shrinks or grows meanwhile must not shift what stands behind it.
fn append_file(
    archive: &mut tar::Builder<impl Write>,
    mut header: tar::Header,
    name: &Path,
    path: &Path,
) -> io::Result<()> {
    let named = |error: io::Error| {
        let text = format!("cannot read `{}`: {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    let file = std::fs::File::open(path).map_err(named)?;
    let size = file.metadata().map_err(named)?.len();
    header.set_size(size);
    let mut counted = Counted {
        inner: file.take(size),
        read: 0,
    };
    archive
        .append_data(&mut header, name, &mut counted)
        .map_err(named)?;
    if counted.read < size {
        return Err(named(io::Error::other("it became shorter meanwhile")));
    }
    Ok(())
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        Ok(count)
    }
}

impl Mode {
    fn bits(self) -> u32 {
        match self {
            Self::Plain => 0o644,
            Self::Executable => 0o755,
        }
    }
}

/// Collects what is written and sends it in pieces.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender
            .blocking_send(Ok(full.into()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn archive(context: Context) -> io::Result<Vec<u8>> {
        let mut stream = context.stream();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.recv().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    fn project() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b/run.sh", "x"), ("a.txt", "y"), (".git/HEAD", "z")] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let script = dir.path().join("b/run.sh");
        std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("a.txt", dir.path().join("link")).unwrap();
        dir
    }

    fn context(dir: &Path) -> Context {
        let mut context = Context::default();
        context.text("Dockerfile", "FROM x\n");
        context
            .add(Path::new("src"), dir, &Sight::default())
            .unwrap();
        context
    }

    #[tokio::test]
    async fn the_same_files_make_the_same_archive_wherever_they_lie() {
        let (one, two) = (project(), project());
        let first = archive(context(one.path())).await.unwrap();
        assert_eq!(first, archive(context(two.path())).await.unwrap());
        let mut entries = Vec::new();
        for entry in tar::Archive::new(&first[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            entries.push((path, entry.header().mode().unwrap()));
        }
        let expected = [
            ("Dockerfile", 0o644),
            ("src", 0o755),
            ("src/a.txt", 0o644),
            ("src/b", 0o755),
            ("src/b/run.sh", 0o755),
            ("src/link", 0o777),
        ];
        assert_eq!(
            entries,
            expected.map(|(name, mode)| (name.to_owned(), mode))
        );
    }

    #[tokio::test]
    async fn a_file_that_went_away_is_named() {
        let dir = project();
        let context = context(dir.path());
        std::fs::remove_file(dir.path().join("a.txt")).unwrap();
        let error = archive(context).await.unwrap_err();
        assert!(error.to_string().contains("a.txt"), "{error}");
    }
}
