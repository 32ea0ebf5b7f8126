//! What `uv` has unpacked, taken apart into packages as they belong into the image.
//!
//! An installer leaves traces of the machine it ran on: its interpreter in scripts, its paths in
//! metadata. Here they are replaced or left out, so that a package is the same bytes wherever it
//! was unpacked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::layer::{Layer, Node, Owner};
use crate::image::{Error, requirement};
use crate::spec::PythonVersion;

/// Written by an installer about itself and its cache.
const TRACES: [&str; 4] = ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"];

/// Where packages are in the image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Venv {
    /// Such as `/opt/venv`.
    pub path: PathBuf,
    pub python: PythonVersion,
}

impl Venv {
    pub(super) fn site_packages(&self) -> PathBuf {
        self.path
            .join(format!("lib/python{}/site-packages", self.python))
    }

    pub(super) fn interpreter(&self) -> PathBuf {
        self.path.join("bin/python")
    }
}

/// What is remembered of a package that was unpacked once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Traits {
    pub bytes: u64,
    /// The names that it puts into `site-packages`.
    pub tops: Vec<String>,
}

/// One package, ready to be packed.
#[derive(Clone, Debug, Default)]
pub(super) struct Unpacked {
    pub layer: Layer,
    pub traits: Traits,
    /// What its `RECORD` says of each file, by where that was unpacked.
    rows: BTreeMap<PathBuf, String>,
}

/// Takes the folder apart that `uv pip install --prefix` has filled, by normalised name.
pub(super) fn take_apart(prefix: &Path, venv: &Venv) -> Result<BTreeMap<String, Unpacked>, Error> {
    let lib = prefix.join("lib");
    let mut found = BTreeMap::new();
    for python in folders(&lib)? {
        let site = python.join("site-packages");
        for info in folders(&site)? {
            let name = info.file_name().unwrap_or_default().to_string_lossy();
            let Some((name, _)) = name
                .strip_suffix(".dist-info")
                .and_then(|name| name.rsplit_once('-'))
            else {
                continue;
            };
            let stage = Stage {
                prefix,
                site: &site,
                venv,
            };
            found.insert(requirement::normalise(name), stage.package(&info)?);
        }
    }
    Ok(found)
}

/// The packages of which a file may be another one's: several have it, and not the same one.
///
/// Which of them is on the disk is as the installer happened to write them.
pub(super) fn contested(found: &BTreeMap<String, Unpacked>) -> BTreeSet<String> {
    let mut owners: BTreeMap<&Path, Vec<(&str, &str)>> = BTreeMap::new();
    for (name, unpacked) in found {
        for (path, row) in &unpacked.rows {
            let owner = (name.as_str(), row.as_str());
            owners.entry(path.as_path()).or_default().push(owner);
        }
    }
    owners.retain(|_, owners| owners.iter().any(|(_, row)| *row != owners[0].1));
    let names = owners.into_values().flatten();
    names.map(|(name, _)| name.to_owned()).collect()
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = match std::fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::store("read", folder)(error)),
    };
    let paths = listing.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.is_dir()).collect())
}

struct Stage<'a> {
    prefix: &'a Path,
    site: &'a Path,
    venv: &'a Venv,
}

impl Stage<'_> {
    fn package(&self, info: &Path) -> Result<Unpacked, Error> {
        let record = info.join("RECORD");
        let text = std::fs::read_to_string(&record).map_err(Error::store("read", &record))?;
        let mut unpacked = Unpacked::default();
        let mut rows = Vec::new();
        for row in text.lines() {
            let (path, rest) = split_row(row);
            let from = normalised(&self.site.join(&path));
            if from == record || is_trace(&from, info) {
                continue;
            }
            let Ok(inner) = from.strip_prefix(self.prefix) else {
                return Err(Error::Store {
                    action: "take apart",
                    path: from,
                    source: std::io::Error::other("a package reaches out of its folder"),
                });
            };
            let to = self.place(inner);
            unpacked.note(&path, &from)?;
            unpacked.rows.insert(from.clone(), rest.to_owned());
            match self.script(inner, &from)? {
                Some(script) => {
                    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&script));
                    rows.push(row_of(&path, &format!("sha256={digest},{}", script.len())));
                    unpacked
                        .layer
                        .add(to, 0o755, Owner::default(), Node::Text(script));
                }
                None => {
                    rows.push(row_of(&path, rest));
                    unpacked.layer.file(&to, &from, Owner::default())?;
                }
            }
        }
        let inner = record.strip_prefix(self.prefix).unwrap_or(&record);
        let own = record.strip_prefix(self.site).unwrap_or(&record);
        rows.push(row_of(&own.to_string_lossy(), ","));
        rows.sort();
        let text = rows.concat().into_bytes();
        unpacked
            .layer
            .add(self.place(inner), 0o644, Owner::default(), Node::Text(text));
        Ok(unpacked)
    }

    /// Where a file of the prefix belongs in the image, whose Python may be another.
    fn place(&self, inner: &Path) -> PathBuf {
        let parts: Vec<_> = inner.components().map(Component::as_os_str).collect();
        let python = format!("python{}", self.venv.python);
        let mut place = self.venv.path.clone();
        for (depth, part) in parts.iter().enumerate() {
            let is_version = match depth {
                1 => parts[0] == "lib",
                2 => parts[0] == "include" && parts[1] == "site",
                _ => false,
            };
            if is_version && part.to_string_lossy().starts_with("python3.") {
                place.push(&python);
            } else {
                place.push(part);
            }
        }
        place
    }

    /// A program whose first lines name the interpreter of this machine, with the image's instead.
    fn script(&self, inner: &Path, from: &Path) -> Result<Option<Vec<u8>>, Error> {
        if !inner.starts_with("bin") {
            return Ok(None);
        }
        let bytes = std::fs::read(from).map_err(Error::store("read", from))?;
        let Some(body) = after_shebang(&bytes) else {
            return Ok(None);
        };
        let mut script = format!("#!{}\n", self.venv.interpreter().display()).into_bytes();
        script.extend_from_slice(body);
        Ok(Some(script))
    }
}

impl Unpacked {
    fn note(&mut self, path: &str, from: &Path) -> Result<(), Error> {
        let metadata = std::fs::metadata(from).map_err(Error::unreadable(from))?;
        self.traits.bytes += metadata.len();
        let top = path.split('/').next().unwrap_or_default();
        if top != ".." && !self.traits.tops.iter().any(|known| known == top) {
            self.traits.tops.push(top.to_owned());
        }
        Ok(())
    }
}

fn is_trace(path: &Path, info: &Path) -> bool {
    let is_own = path.parent() == Some(info);
    let is_named = |name: &str| path.file_name().is_some_and(|own| own == name);
    path.extension().is_some_and(|extension| extension == "pyc")
        || (is_own && TRACES.iter().any(|name| is_named(name)))
}

/// What follows the line, or the shell's three, that name a Python of this machine.
fn after_shebang(bytes: &[u8]) -> Option<&[u8]> {
    let (first, body) = split_line(bytes)?;
    let path = Path::new(first.strip_prefix("#!")?.trim());
    let name = path.file_name()?.to_str()?;
    if path.is_absolute() && name.starts_with("python") {
        return Some(body);
    }
    // Where the path is too long for the kernel or holds a blank.
    let (second, rest) = split_line(body)?;
    let (_, body) = split_line(rest)?;
    let is_shell = path == Path::new("/bin/sh") && second.starts_with("'''exec' ");
    (is_shell && second.contains("python")).then_some(body)
}

fn split_line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    Some((line, &bytes[end + 1..]))
}

/// The path of a row of `RECORD`, and what follows its comma.
fn split_row(row: &str) -> (String, &str) {
    match row.strip_prefix('"').and_then(|row| row.split_once("\",")) {
        Some((path, rest)) => (path.replace("\"\"", "\""), rest),
        None => {
            let (path, rest) = row.split_once(',').unwrap_or((row, ","));
            (path.to_owned(), rest)
        }
    }
}

fn row_of(path: &str, rest: &str) -> String {
    if path.contains([',', '"']) {
        format!("\"{}\",{rest}\n", path.replace('"', "\"\""))
    } else {
        format!("{path},{rest}\n")
    }
}

/// Without `..`, which points out of `site-packages` in the rows of scripts.
fn normalised(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_lose_the_interpreter_of_this_machine() {
        let body = |text: &'static str| {
            after_shebang(text.as_bytes()).map(|body| String::from_utf8_lossy(body).into_owned())
        };
        assert_eq!(body("#!/my home/bin/python3\nx\n").as_deref(), Some("x\n"));
        let shell = "#!/bin/sh\n'''exec' '/my home/bin/python3' \"$0\" \"$@\"\n' '''\nx\n";
        assert_eq!(body(shell).as_deref(), Some("x\n"));
        assert_eq!(body("#!/bin/sh\necho\n/my home/bin/python3\n"), None);
        assert_eq!(body("#!/usr/bin/env python3\nx\n"), None);
    }

    #[test]
    fn rows_are_read_and_written_alike() {
        for row in [
            "a/b.py,sha256=x,3\n",
            "\"a,\"\"b\"\".py\",sha256=x,3\n",
            "a/RECORD,,\n",
        ] {
            let (path, rest) = split_row(row.trim_end());
            assert_eq!(row_of(&path, rest), row);
        }
    }

    fn venv() -> Venv {
        Venv {
            path: "/opt/venv".into(),
            python: PythonVersion {
                major: 3,
                minor: 12,
            },
        }
    }

    #[test]
    fn packages_with_different_files_of_one_name_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("lib/python3.11/site-packages");
        std::fs::create_dir_all(site.join("cv2")).unwrap();
        std::fs::write(site.join("cv2/__init__.py"), "").unwrap();
        std::fs::write(site.join("same.py"), "").unwrap();
        for (name, rows) in [
            ("one", "cv2/__init__.py,sha256=a,1\nsame.py,sha256=s,0\n"),
            ("two", "cv2/__init__.py,sha256=b,1\n"),
            ("three", "same.py,sha256=s,0\n"),
        ] {
            let info = site.join(format!("{name}-1.dist-info"));
            std::fs::create_dir(&info).unwrap();
            std::fs::write(info.join("RECORD"), rows).unwrap();
        }
        let found = take_apart(dir.path(), &venv()).unwrap();
        assert_eq!(found.len(), 3);
        let names: Vec<_> = contested(&found).into_iter().collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[test]
    fn a_package_is_the_same_wherever_it_was_unpacked() {
        let venv = venv();
        let take = |interpreter: &str, extra: &str| {
            let dir = tempfile::tempdir().unwrap();
            let site = dir.path().join("lib/python3.11/site-packages");
            let info = site.join("Demo_X-1.dist-info");
            std::fs::create_dir_all(&info).unwrap();
            std::fs::create_dir_all(dir.path().join("bin")).unwrap();
            std::fs::write(site.join("demo.py"), "x = 1\n").unwrap();
            std::fs::write(info.join("direct_url.json"), extra).unwrap();
            std::fs::write(
                dir.path().join("bin/demo"),
                format!("#!{interpreter}\nrun()\n"),
            )
            .unwrap();
            let record = format!(
                "demo.py,sha256=y,6\n../../../bin/demo,sha256={extra},9\nDemo_X-1.dist-info/direct_url.json,,\nDemo_X-1.dist-info/RECORD,,\n"
            );
            std::fs::write(info.join("RECORD"), record).unwrap();
            let mut found = take_apart(dir.path(), &venv).unwrap();
            let package = found.remove("demo-x").unwrap();
            let paths: Vec<_> = package
                .layer
                .entries
                .keys()
                .map(|path| path.display().to_string())
                .collect();
            (paths, package.layer.digest().unwrap(), package.traits.tops)
        };
        let (paths, digest, tops) = take("/a/python", "here");
        assert_eq!(
            paths,
            [
                "opt/venv/bin/demo",
                "opt/venv/lib/python3.12/site-packages/Demo_X-1.dist-info/RECORD",
                "opt/venv/lib/python3.12/site-packages/demo.py",
            ]
        );
        assert_eq!(tops, ["demo.py"]);
        assert_eq!(take("/b/python3", "there").1, digest);
    }
}
