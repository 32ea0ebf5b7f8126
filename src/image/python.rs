//! Which interpreter an environment stands on.
//!
//! What is on this machine is preferred to a download, and a download to a compromise; a
//! compromise is always told.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pep440_rs::{Operator, Version, VersionSpecifier, VersionSpecifiers};

use super::env::Toolchain;
use super::error::Error;
use super::uv;
use crate::spec::PythonVersion;

/// An interpreter that takes longer to say its version is not one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A laptop without a network must not wait for ever for an interpreter.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The interpreter that is asked for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Minor(PythonVersion),
    /// `requires-python` of a script.
    Script(VersionSpecifiers),
}

impl Asked {
    fn is_met_by(&self, version: &Version) -> bool {
        match self {
            Self::Minor(asked) => {
                version.release().get(..2) == Some(&[asked.major.into(), asked.minor.into()])
            }
            Self::Script(specifiers) => specifiers.contains(version),
        }
    }

    /// `==3.12` means 3.12.0 to the letter; what its author meant is any 3.12.
    fn relaxed(&self) -> Option<Self> {
        let Self::Script(specifiers) = self else {
            return None;
        };
        let is_exact = |specifier: &VersionSpecifier| {
            matches!(specifier.operator(), Operator::Equal | Operator::ExactEqual)
        };
        if !specifiers.iter().any(is_exact) {
            return None;
        }
        let relaxed = specifiers.iter().map(|specifier| {
            if !is_exact(specifier) {
                return Some(specifier.clone());
            }
            let minor = Version::new(specifier.version().release().iter().copied().take(2));
            VersionSpecifier::from_version(Operator::EqualStar, minor).ok()
        });
        relaxed
            .collect::<Option<VersionSpecifiers>>()
            .map(Self::Script)
    }

    /// In the form that `uv python find` takes.
    fn request(&self) -> String {
        match self {
            Self::Minor(version) => version.to_string(),
            Self::Script(specifiers) => specifiers.to_string().replace(' ', ""),
        }
    }
}

/// The interpreter to use, and what the user should know about it.
#[derive(Debug)]
pub(super) struct Choice {
    pub exe: PathBuf,
    /// Whether it is none of those that were asked for.
    pub is_instead: bool,
    pub notes: Vec<String>,
}

/// Where interpreters are looked for.
#[derive(Debug)]
pub(super) struct Search {
    /// `PYENV_ROOT/versions`.
    pub pyenv: Option<PathBuf>,
    /// The folders of `PATH`, without the shims of pyenv, which fail for versions not selected.
    pub path: Vec<PathBuf>,
}

struct Candidate {
    exe: PathBuf,
    version: Version,
}

impl Search {
    pub(super) fn from_environment() -> Self {
        let root = std::env::var_os("PYENV_ROOT")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let shims = root.as_ref().map(|root| root.join("shims"));
        Self {
            pyenv: root.map(|root| root.join("versions")),
            path: std::env::split_paths(&path)
                .filter(|folder| Some(folder) != shims.as_ref())
                .collect(),
        }
    }

    /// What is on this machine, newest first, the running interpreter before its equals.
    async fn candidates(&self, running: &Path) -> Vec<Candidate> {
        let mut exes = vec![running.to_path_buf()];
        exes.extend(self.on_path());
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for exe in exes {
            let real = exe.canonicalize().unwrap_or_else(|_| exe.clone());
            if seen.insert(real)
                && let Some(version) = probe(&exe).await
            {
                found.push(Candidate { exe, version });
            }
        }
        found.extend(self.in_pyenv());
        found.retain(|candidate| !candidate.version.any_prerelease());
        found.sort_by(|a, b| b.version.cmp(&a.version));
        found
    }

    fn in_pyenv(&self) -> Vec<Candidate> {
        let versions = self.pyenv.as_deref().map(names).unwrap_or_default();
        let candidate = |(name, path): (String, PathBuf)| {
            Some(Candidate {
                exe: path.join("bin/python"),
                version: name.parse().ok()?,
            })
        };
        versions.into_iter().filter_map(candidate).collect()
    }

    fn on_path(&self) -> Vec<PathBuf> {
        let is_python = |name: &str| {
            name.strip_prefix("python3.")
                .is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()))
        };
        let entries = self.path.iter().flat_map(|folder| names(folder));
        entries
            .filter(|(name, _)| is_python(name))
            .map(|(_, path)| path)
            .collect()
    }

    fn path_variable(&self) -> std::ffi::OsString {
        std::env::join_paths(&self.path).unwrap_or_default()
    }
}

fn names(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(listing) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    listing
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.to_owned(), entry.path()))
        })
        .collect()
}

/// The version that an interpreter states; `None` when it does not run.
async fn probe(exe: &Path) -> Option<Version> {
    let mut command = uv::clean(exe);
    command.args([
        "-I",
        "-S",
        "-c",
        "import platform; print(platform.python_version())",
    ]);
    let run = tokio::time::timeout(PROBE_TIMEOUT, uv::run(command, |_| ()));
    let outcome = run.await.ok()?.ok()?;
    outcome
        .success
        .then(|| outcome.stdout.trim().parse().ok())?
}

/// The first of `candidates` that fits and runs.
async fn newest(candidates: &[Candidate], asked: &Asked) -> Option<PathBuf> {
    for candidate in candidates {
        if asked.is_met_by(&candidate.version) && probe(&candidate.exe).await.is_some() {
            return Some(candidate.exe.clone());
        }
    }
    None
}

async fn uv_find(toolchain: &Toolchain, search: &Search, asked: &Asked) -> Option<PathBuf> {
    let request = asked.request();
    let mut command = uv::uv(
        &toolchain.uv,
        ["python", "find", "--no-project", "--quiet", &request],
    );
    command.env("PATH", search.path_variable());
    let outcome = uv::run(command, |_| ()).await.ok()?;
    let exe = PathBuf::from(outcome.stdout.trim());
    (outcome.success && probe(&exe).await.is_some()).then_some(exe)
}

async fn uv_download(toolchain: &Toolchain, search: &Search, asked: &Asked) -> Option<PathBuf> {
    let request = asked.request();
    let mut command = uv::uv(&toolchain.uv, ["python", "install", "--quiet", &request]);
    command.env("UV_PYTHON_DOWNLOADS", "automatic");
    let run = tokio::time::timeout(DOWNLOAD_TIMEOUT, uv::run(command, |_| ()));
    if !run.await.ok()?.ok()?.success {
        return None;
    }
    uv_find(toolchain, search, asked).await
}

/// Chooses the interpreter for `asked`.
pub(super) async fn choose(
    toolchain: &Toolchain,
    search: &Search,
    asked: &Asked,
) -> Result<Choice, Error> {
    let plain = |exe: PathBuf| Choice {
        exe,
        is_instead: false,
        notes: Vec::new(),
    };
    if let Asked::Minor(version) = asked
        && *version == toolchain.python_version
        && toolchain.python.exists()
    {
        return Ok(plain(toolchain.python.clone()));
    }
    let local = search.candidates(&toolchain.python).await;
    if let Some(exe) = newest(&local, asked).await {
        return Ok(plain(exe));
    }
    if let Some(exe) = uv_find(toolchain, search, asked).await {
        return Ok(plain(exe));
    }
    let relaxed = asked.relaxed();
    if let Some(relaxed) = &relaxed
        && let Some(exe) = newest(&local, relaxed).await
    {
        let note = format!(
            "Python {} is not on this machine to the letter; `{}` of the same minor version is used",
            asked.request(),
            exe.display()
        );
        return Ok(Choice {
            exe,
            is_instead: false,
            notes: vec![note],
        });
    }
    match uv_download(toolchain, search, relaxed.as_ref().unwrap_or(asked)).await {
        Some(exe) => Ok(plain(exe)),
        None => running_instead(toolchain, asked),
    }
}

pub(super) fn missing(toolchain: &Toolchain, asked: &Asked) -> Error {
    Error::NoPython {
        asked: asked.request(),
        running: toolchain.python.clone(),
    }
}

fn running_instead(toolchain: &Toolchain, asked: &Asked) -> Result<Choice, Error> {
    if !toolchain.python.exists() {
        return Err(missing(toolchain, asked));
    }
    let note = format!(
        "warning: Python {} is not on this machine and could not be downloaded; the running Python {} is used instead",
        asked.request(),
        toolchain.python_version
    );
    Ok(Choice {
        exe: toolchain.python.clone(),
        is_instead: true,
        notes: vec![note],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that answers the version question as an interpreter would.
    fn fake(path: &Path, command: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Written by a child: a descriptor of ours, open for writing, could be inherited by a
        // process that another test starts at this moment, and the file would be "text busy".
        let script = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1" "#;
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", script, "sh", path.to_str().unwrap(), command])
            .status();
        assert!(status.unwrap().success());
    }

    struct Machine {
        _dir: tempfile::TempDir,
        toolchain: Toolchain,
        search: Search,
    }

    /// A machine that runs 3.11.7, has 3.10, 3.12 and 3.13 in pyenv, and whose `uv` finds nothing.
    fn machine() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for version in ["3.10.13", "3.12.1", "3.13.0", "3.15.0a1", "miniconda3"] {
            fake(
                &at(&format!("versions/{version}/bin/python")),
                &format!("echo {version}"),
            );
        }
        fake(&at("bin/python3.11"), "echo 3.11.7");
        fake(&at("bin/python3.9"), "echo 3.9.18");
        fake(&at("bin/python3.14"), "exit 127");
        fake(&at("uv"), "exit 2");
        Machine {
            toolchain: Toolchain {
                home: at("home"),
                uv: at("uv"),
                python: at("bin/python3.11"),
                python_version: PythonVersion {
                    major: 3,
                    minor: 11,
                },
                sdk: super::super::env::SdkPayload {
                    entries: vec![],
                    identity: "test".into(),
                },
            },
            search: Search {
                pyenv: Some(at("versions")),
                path: vec![at("bin")],
            },
            _dir: dir,
        }
    }

    async fn choice(machine: &Machine, asked: &Asked) -> (String, Vec<String>) {
        let choice = choose(&machine.toolchain, &machine.search, asked)
            .await
            .unwrap();
        let version = probe(&choice.exe).await.unwrap().to_string();
        (version, choice.notes)
    }

    #[tokio::test]
    async fn a_minor_version_is_found_wherever_it_is() {
        let machine = machine();
        for (minor, found) in [
            (11, "3.11.7"),
            (10, "3.10.13"),
            (13, "3.13.0"),
            (9, "3.9.18"),
        ] {
            let asked = Asked::Minor(PythonVersion { major: 3, minor });
            assert_eq!(choice(&machine, &asked).await, (found.to_owned(), vec![]));
        }
    }

    #[tokio::test]
    async fn a_script_gets_the_newest_that_satisfies() {
        let machine = machine();
        for (specifiers, found, notes) in [
            (">=3.12", "3.13.0", 0),
            (">=3.10,<3.12", "3.11.7", 0),
            ("==3.13", "3.13.0", 0),
            ("==3.12", "3.12.1", 1),
            ("==3.12.*", "3.12.1", 0),
            ("~=3.10.2", "3.10.13", 0),
        ] {
            let asked = Asked::Script(specifiers.parse().unwrap());
            let (version, said) = choice(&machine, &asked).await;
            assert_eq!(
                (version.as_str(), said.len()),
                (found, notes),
                "{specifiers}"
            );
        }
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_replaced_with_a_warning() {
        let mut machine = machine();
        let asked = Asked::Minor(PythonVersion {
            major: 3,
            minor: 14,
        });
        let (version, notes) = choice(&machine, &asked).await;
        assert_eq!(version, "3.11.7");
        assert!(notes[0].contains("warning: Python 3.14"), "{notes:?}");
        machine.toolchain.python = "/nowhere/python".into();
        let error = choose(&machine.toolchain, &machine.search, &asked)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoPython { .. }));
    }

    #[tokio::test]
    async fn real_interpreters_of_this_machine_are_found() {
        let search = Search::from_environment();
        let known = search.in_pyenv();
        let mut machine = machine();
        machine.search = search;
        for candidate in known
            .iter()
            .filter(|known| known.version.release() >= &[3, 10])
        {
            let [major, minor, ..] = candidate.version.release() else {
                continue;
            };
            let asked = Asked::Minor(PythonVersion {
                major: u8::try_from(*major).unwrap(),
                minor: u8::try_from(*minor).unwrap(),
            });
            let (version, notes) = choice(&machine, &asked).await;
            assert!(
                version.starts_with(&format!("{major}.{minor}.")),
                "{version}"
            );
            assert!(notes.is_empty(), "{notes:?}");
        }
    }
}
