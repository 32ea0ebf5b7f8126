//! One walk over a folder that leaves out what nobody wants to ship.
//!
//! Rules, strongest first: the fixed list of [`is_standard`] and every virtualenv; `.flyteignore`;
//! `.gitignore`. The latter two are nested as in git (the innermost file that has an opinion wins,
//! the last matching line in it decides, nothing below an excluded folder is looked at) and are
//! honoured with and without a repository. A `.flyteignore` may take back what a `.gitignore`
//! excludes. Inside a repository the files between its top and the root count too. The machine's
//! own excludes (`core.excludesFile`, `.git/info/exclude`) do not: two checkouts of one commit must
//! give one bundle.
//!
//! Simplification against git: a *tracked* file that a `.gitignore` line matches is left out here,
//! since telling tracked files apart would need the git index. A `!line` in `.flyteignore` or an
//! `include` of the file brings it back.
//!
//! What a file holds and what the list is for is not known here.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rayon::prelude::*;

use super::Error;

const GIT_RULES: &str = ".gitignore";
const FLYTE_RULES: &str = ".flyteignore";
const GIT_FOLDER: &str = ".git";
const VENV_MARK: &str = "pyvenv.cfg";

/// A regular file, or a link to one.
///
/// It lies at its name below the root. There may be 100,000 of these, so no second path is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the root, with `/` between the parts.
    pub name: Box<str>,
    pub size: u64,
    /// Whether anybody may execute it.
    pub executable: bool,
    /// Tells whether it changed since.
    pub stamp: Stamp,
}

impl FileEntry {
    /// Describes the file of that name; `None` where it is not a regular file.
    pub fn of(name: String, metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then(|| Self {
            name: name.into_boxed_str(),
            size: metadata.len(),
            executable: metadata.permissions().mode() & 0o111 != 0,
            stamp: Stamp::of(metadata),
        })
    }
}

/// What the file system says of the state of a file: each change of its content changes the stamp,
/// but for changes that follow each other within one tick of the file system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub device: u64,
    pub inode: u64,
    /// When the content was written, in nanoseconds since 1970; programs can set it.
    pub modified_ns: i64,
    /// When the content or anything about the file was changed; only the kernel sets it.
    pub changed_ns: i64,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a walk found, in no particular order.
#[derive(Debug, Default)]
pub struct Walked {
    pub files: Vec<FileEntry>,
    /// Things left out that the user may miss, one sentence each.
    pub warnings: Vec<String>,
}

impl Walked {
    fn merge(&mut self, other: Self) {
        self.files.extend(other.files);
        self.warnings.extend(other.warnings);
    }
}

/// What to walk.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// Names are relative to this folder, and its ignore files count. Must be canonical.
    pub root: &'a Path,
    /// The folder to start in, relative to `root`, empty for `root` itself. It is walked even if a
    /// rule excludes it, since the caller named it; the rules hold for what lies in it.
    pub start: &'a str,
    /// Folders that are passed over, such as an interpreter's `site-packages`.
    pub skip: &'a [PathBuf],
    /// How many levels of folders below `start` to list; 1 lists `start` only.
    pub max_depth: usize,
}

impl Walk<'_> {
    /// Lists the files that no rule leaves out.
    pub fn run(&self) -> Result<Walked, Error> {
        let (mut outer, mut warnings) = (None, Vec::new());
        for folder in self.folders_with_rules_above() {
            let names = [GIT_RULES, FLYTE_RULES, GIT_FOLDER]
                .into_iter()
                .filter(|name| folder.join(name).exists())
                .map(OsString::from);
            let (level, bad_lines) = Level::read(&folder, names, outer)?;
            warnings.extend(bad_lines);
            outer = Some(Arc::new(level));
        }
        let mut walked = self.folder(&Folder {
            path: self.root.join(self.start),
            name: self.start.to_owned(),
            depth: 1,
            outer,
        })?;
        walked.warnings.extend(warnings);
        Ok(walked)
    }

    /// From the top of the repository, or from the root without one, down to above the start.
    fn folders_with_rules_above(&self) -> Vec<PathBuf> {
        let start = self.root.join(self.start);
        let top = self
            .root
            .ancestors()
            .find(|folder| folder.join(GIT_FOLDER).exists())
            .unwrap_or(self.root);
        let mut above: Vec<PathBuf> = start
            .ancestors()
            .skip(1)
            .take_while(|folder| folder.starts_with(top))
            .map(Path::to_path_buf)
            .collect();
        above.reverse();
        above
    }

    fn folder(&self, folder: &Folder) -> Result<Walked, Error> {
        let entries = list(&folder.path)?;
        let mut walked = Walked::default();
        let is_venv = entries.iter().any(|entry| entry.file_name() == VENV_MARK);
        if is_venv && folder.name != self.start {
            return Ok(walked);
        }
        let names = entries.iter().map(fs::DirEntry::file_name);
        let (level, bad_lines) = Level::read(&folder.path, names, folder.outer.clone())?;
        walked.warnings.extend(bad_lines);
        let level = Arc::new(level);
        let mut folders = Vec::new();
        for entry in &entries {
            match self.look_at(entry, folder, &level)? {
                Seen::LeftOut => {}
                Seen::Worth(warning) => walked.warnings.push(warning),
                Seen::File(file) => walked.files.push(file),
                Seen::Folder(inner) => folders.push(inner),
            }
        }
        if folder.depth < self.max_depth {
            let inner: Vec<Walked> = folders
                .par_iter()
                .map(|folder| self.folder(folder))
                .collect::<Result<_, _>>()?;
            for found in inner {
                walked.merge(found);
            }
        }
        Ok(walked)
    }

    fn look_at(
        &self,
        entry: &fs::DirEntry,
        folder: &Folder,
        level: &Arc<Level>,
    ) -> Result<Seen, Error> {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else {
            return Ok(left_out(&path, "its name is not UTF-8"));
        };
        if is_standard(text, folder.name.is_empty()) || level.excludes(&path, kind.is_dir()) {
            return Ok(Seen::LeftOut);
        }
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if leads_nowhere(&error) && kind.is_symlink() => {
                return Ok(left_out(&path, "it is a link that leads nowhere"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(left_out(&path, "it vanished meanwhile"));
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let name = join(&folder.name, text);
        if metadata.is_dir() {
            return self.look_into(path, name, &metadata, kind.is_symlink(), folder, level);
        }
        if let Some(why) = special_kind(&metadata) {
            return Ok(left_out(&path, why));
        }
        Ok(FileEntry::of(name, &metadata).map_or(Seen::LeftOut, Seen::File))
    }

    /// Decides on a folder or a link to one.
    fn look_into(
        &self,
        path: PathBuf,
        name: String,
        metadata: &Metadata,
        is_link: bool,
        folder: &Folder,
        level: &Arc<Level>,
    ) -> Result<Seen, Error> {
        if self.skip.contains(&path) || (is_link && level.excludes(&path, true)) {
            return Ok(Seen::LeftOut);
        }
        if is_link {
            let target = fs::canonicalize(&path).map_err(Error::io("resolve", &path))?;
            if target.join(VENV_MARK).exists() || self.skip.contains(&target) {
                return Ok(Seen::LeftOut);
            }
            if !target.starts_with(self.root) {
                return Ok(left_out(&path, "it links to a folder outside the root"));
            }
            if level.is_inside(Identity::of(metadata)) {
                return Ok(left_out(&path, "it links to a folder that holds it"));
            }
        }
        Ok(Seen::Folder(Folder {
            path,
            name,
            depth: folder.depth + 1,
            outer: Some(Arc::clone(level)),
        }))
    }
}

/// A folder about to be listed.
struct Folder {
    path: PathBuf,
    name: String,
    depth: usize,
    outer: Option<Arc<Level>>,
}

enum Seen {
    LeftOut,
    /// Left out, and the user should hear of it.
    Worth(String),
    File(FileEntry),
    Folder(Folder),
}

/// Device and inode: a folder may be reached under many names, but inodes alone repeat between
/// devices.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// The rules that one folder adds to those around it.
struct Level {
    outer: Option<Arc<Level>>,
    identity: Identity,
    git: Option<Gitignore>,
    flyte: Option<Gitignore>,
    /// Git rules from further out do not reach into a repository.
    is_repository: bool,
}

impl Level {
    /// Reads the ignore files among `names`; also returns what is wrong with their lines.
    fn read(
        folder: &Path,
        names: impl Iterator<Item = OsString>,
        outer: Option<Arc<Self>>,
    ) -> Result<(Self, Vec<String>), Error> {
        let metadata = fs::metadata(folder).map_err(Error::io("read", folder))?;
        let mut level = Self {
            outer,
            identity: Identity::of(&metadata),
            git: None,
            flyte: None,
            is_repository: false,
        };
        let mut warnings = Vec::new();
        for name in names {
            if name == GIT_RULES {
                level.git = Some(parse(folder, GIT_RULES, &mut warnings)?);
            } else if name == FLYTE_RULES {
                level.flyte = Some(parse(folder, FLYTE_RULES, &mut warnings)?);
            } else if name == GIT_FOLDER {
                level.is_repository = true;
            }
        }
        Ok((level, warnings))
    }

    fn excludes(&self, path: &Path, is_dir: bool) -> bool {
        let (mut git, mut git_ended) = (None, false);
        let mut next = Some(self);
        while let Some(level) = next {
            if let Some(verdict) = verdict(level.flyte.as_ref(), path, is_dir) {
                return verdict;
            }
            if git.is_none() && !git_ended {
                git = verdict(level.git.as_ref(), path, is_dir);
            }
            git_ended |= level.is_repository;
            next = level.outer.as_deref();
        }
        git.unwrap_or(false)
    }

    fn is_inside(&self, identity: Identity) -> bool {
        let mut next = Some(self);
        while let Some(level) = next {
            if level.identity == identity {
                return true;
            }
            next = level.outer.as_deref();
        }
        false
    }
}

/// Whether a file of rules excludes (`true`) or keeps (`false`) a path, if it says anything.
fn verdict(rules: Option<&Gitignore>, path: &Path, is_dir: bool) -> Option<bool> {
    let matched = rules?.matched(path, is_dir);
    match (matched.is_ignore(), matched.is_whitelist()) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        (false, false) => None,
    }
}

fn parse(folder: &Path, name: &str, warnings: &mut Vec<String>) -> Result<Gitignore, Error> {
    let path = folder.join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        // A folder or a dangling link of that name holds no rules.
        Err(error) if leads_nowhere(&error) || error.kind() == io::ErrorKind::IsADirectory => {
            return Ok(Gitignore::empty());
        }
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let mut builder = GitignoreBuilder::new(folder);
    let text = String::from_utf8_lossy(&bytes);
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if let Err(error) = builder.add_line(None, line) {
            warnings.push(format!(
                "line {} of `{}` is not used: {error}",
                index + 1,
                path.display()
            ));
        }
    }
    builder
        .build()
        .map_err(|error| Error::io("use the rules of", &path)(io::Error::other(error)))
}

fn list(folder: &Path) -> Result<Vec<fs::DirEntry>, Error> {
    fs::read_dir(folder)
        .and_then(Iterator::collect)
        .map_err(Error::io("list", folder))
}

fn left_out(path: &Path, why: &str) -> Seen {
    Seen::Worth(format!("`{}` is left out: {why}", path.display()))
}

fn leads_nowhere(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
        || error.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error())
}

/// Names what can be opened but has no content to ship; opening a pipe would even wait for a writer.
fn special_kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() {
        None
    } else if kind.is_socket() {
        Some("it is a socket")
    } else if kind.is_fifo() {
        Some("it is a named pipe")
    } else {
        Some("it is a device")
    }
}

/// Appends one part to a name relative to the root, which itself has the empty name.
pub fn join(folder: &str, part: &str) -> String {
    if folder.is_empty() {
        part.to_owned()
    } else {
        format!("{folder}/{part}")
    }
}

/// What no project ships on purpose: version control, caches, editors' files, secrets of the
/// developer, and at the top also the output of build tools.
fn is_standard(name: &str, at_top: bool) -> bool {
    const ANYWHERE: &[&str] = &[
        ".git",
        "__pycache__",
        ".cache",
        ".ruff_cache",
        ".mypy_cache",
        ".pytest_cache",
        ".venv",
        ".idea",
        ".vscode",
        "node_modules",
        ".DS_Store",
        ".env",
    ];
    const AT_TOP: &[&str] = &["dist", "build", ".flyte", ".tox", ".nox"];
    let ends = |suffix: &str| name.ends_with(suffix);
    ANYWHERE.contains(&name)
        || ends(".pyc")
        || ends(".egg-info")
        || ends(".egg")
        || (at_top && (AT_TOP.contains(&name) || ends(".log")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    /// A folder that holds the named files, each with its own name as content.
    fn tree(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap().join("root");
        fs::create_dir(&root).unwrap();
        for name in names {
            put(&root, name, name);
        }
        (folder, root)
    }

    fn put(root: &Path, name: &str, content: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn walk_from(root: &Path, start: &str) -> Walked {
        let mut walked = Walk {
            root,
            start,
            skip: &[],
            max_depth: usize::MAX,
        }
        .run()
        .unwrap();
        walked.files.sort_by(|a, b| a.name.cmp(&b.name));
        walked
    }

    fn names(walked: &Walked) -> Vec<&str> {
        walked.files.iter().map(|file| &*file.name).collect()
    }

    fn found(root: &Path) -> Vec<String> {
        names(&walk_from(root, ""))
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_standard_list_holds_at_any_depth_or_at_the_top_only() {
        let (_guard, root) = tree(&[
            ".git/config",
            ".env",
            "a/.env",
            "a/__pycache__/x",
            "a/x.pyc",
            "a/node_modules/x",
            "a/.DS_Store",
            "a/p.egg-info/x",
            "a/.vscode/x",
            "a/.cache/x",
            "a/sub/.git",
            "dist/x",
            "build/x",
            "run.log",
            ".flyte/config.yaml",
            ".tox/x",
            "a/dist/x",
            "a/build/x",
            "a/run.log",
            ".hidden",
            "env/kept",
            "main.py",
        ]);
        assert_eq!(
            found(&root),
            [
                ".hidden",
                "a/build/x",
                "a/dist/x",
                "a/run.log",
                "env/kept",
                "main.py"
            ]
        );
    }

    #[test]
    fn a_virtualenv_is_left_out_by_what_it_holds_but_not_as_the_root() {
        let (_guard, root) = tree(&["tools/my/pyvenv.cfg", "tools/my/bin/python", "x.py"]);
        assert_eq!(found(&root), ["x.py"]);
        put(&root, "pyvenv.cfg", "");
        assert_eq!(found(&root), ["pyvenv.cfg", "x.py"]);
    }

    #[test]
    fn nested_gitignore_anchors_negates_and_prunes_without_a_repository() {
        let (_guard, root) = tree(&[
            "a.csv",
            "keep.csv",
            "sub/a.csv",
            "sub/b.csv",
            "sub/top.txt",
            "sub/in/top.txt",
            "out/deep/keep.csv",
            "größe.tmp",
        ]);
        put(&root, ".gitignore", "*.csv\n!keep.csv\nout/\n*.tmp\n");
        put(&root, "sub/.gitignore", "!b.csv\n/top.txt\n");
        assert_eq!(
            found(&root),
            [
                ".gitignore",
                "keep.csv",
                "sub/.gitignore",
                "sub/b.csv",
                "sub/in/top.txt"
            ]
        );
    }

    #[test]
    fn flyteignore_is_stronger_than_gitignore_and_sees_case() {
        let (_guard, root) = tree(&["data.bin", "made.py", "Data.bin", "sub/x.md"]);
        put(&root, ".gitignore", "made.py\n");
        put(&root, ".flyteignore", "data.bin\n!made.py\n.gitignore\n");
        put(&root, "sub/.flyteignore", "*.md\n.flyteignore\n");
        assert_eq!(found(&root), [".flyteignore", "Data.bin", "made.py"]);
    }

    #[test]
    fn rules_above_the_root_count_inside_its_repository_only() {
        let (_guard, root) = tree(&["a.tmp", "b.py", "nested/.git/HEAD", "nested/c.tmp"]);
        put(root.parent().unwrap(), ".gitignore", "*.tmp\n");
        assert_eq!(found(&root), ["a.tmp", "b.py", "nested/c.tmp"]);
        put(root.parent().unwrap(), ".git/HEAD", "");
        assert_eq!(found(&root), ["b.py", "nested/c.tmp"]);
    }

    #[test]
    fn a_start_is_walked_though_excluded_and_rules_hold_in_it() {
        let (_guard, root) = tree(&["dist/a.js", "dist/a.map", "dist/.env", "dist/in/b.js"]);
        put(&root, ".gitignore", "dist/\n*.map\n");
        assert_eq!(
            names(&walk_from(&root, "dist")),
            ["dist/a.js", "dist/in/b.js"]
        );
        let shallow = Walk {
            root: &root,
            start: "dist",
            skip: &[],
            max_depth: 1,
        };
        assert_eq!(names(&shallow.run().unwrap()), ["dist/a.js"]);
    }

    #[test]
    fn links_are_taken_by_their_own_name() {
        let (_guard, root) = tree(&["data/a.csv", "main.py"]);
        put(root.parent().unwrap(), "outside/secret.txt", "1234567");
        symlink("data", root.join("alias")).unwrap();
        symlink("../outside/secret.txt", root.join("one.txt")).unwrap();
        let walked = walk_from(&root, "");
        assert_eq!(
            names(&walked),
            ["alias/a.csv", "data/a.csv", "main.py", "one.txt"]
        );
        assert_eq!(walked.files[3].size, 7);
        assert!(walked.warnings.is_empty(), "{:?}", walked.warnings);
    }

    #[test]
    fn what_cannot_be_shipped_is_named() {
        let (_guard, root) = tree(&["main.py", "sub/x"]);
        fs::create_dir(root.parent().unwrap().join("elsewhere")).unwrap();
        symlink("../elsewhere", root.join("escape")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        symlink("..", root.join("sub/loop")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), pipe, mode, 0).unwrap();
        let mut walked = walk_from(&root, "");
        assert_eq!(names(&walked), ["main.py", "sub/x"]);
        walked.warnings.sort();
        let expected = [
            ("circle", "leads nowhere"),
            ("dangling", "leads nowhere"),
            ("escape", "outside the root"),
            ("pipe", "a named pipe"),
            ("socket", "a socket"),
            ("sub/loop", "a folder that holds it"),
        ];
        assert_eq!(walked.warnings.len(), expected.len());
        for (warning, (name, why)) in walked.warnings.iter().zip(expected) {
            assert!(warning.contains(&format!("root/{name}`")), "{warning}");
            assert!(warning.contains(why), "{warning}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_and_a_bad_rule_are_warned_of() {
        use std::os::unix::ffi::OsStrExt;
        let (_guard, root) = tree(&["ok"]);
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        put(&root, ".flyteignore", "ok\n[z-a]\n");
        let walked = walk_from(&root, "");
        assert_eq!(names(&walked), [".flyteignore"]);
        let text = walked.warnings.join("\n");
        assert!(text.contains("not UTF-8"), "{text}");
        assert!(text.contains("line 2 of"), "{text}");
    }

    #[test]
    fn skipped_folders_and_missing_starts() {
        let (_guard, root) = tree(&["lib/site-packages/x.py", "app.py"]);
        let skip = [root.join("lib/site-packages")];
        let walk = Walk {
            root: &root,
            start: "",
            skip: &skip,
            max_depth: usize::MAX,
        };
        assert_eq!(names(&walk.run().unwrap()), ["app.py"]);
        let error = Walk {
            start: "gone",
            ..walk
        }
        .run()
        .unwrap_err();
        assert!(error.to_string().contains("root/gone`"), "{error}");
    }
}
