//! Reading a requirement just far enough: its name, and whether it points into this machine.
//!
//! Versions, markers and extras are the installer's business.

use std::path::{Path, PathBuf};

/// The distribution that we put in ourselves.
const SDK: &str = "flyte";

/// The normalised name (PEP 503) of a requirement; `None` for paths, URLs and options.
pub(super) fn name(requirement: &str) -> Option<String> {
    let text = requirement.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends_well = rest
        .trim_start()
        .chars()
        .next()
        .is_none_or(|c| "[<>=!~;@(,#\\".contains(c) || rest.trim_start().starts_with("--"));
    (starts_well && ends_well && !is_archive(name)).then(|| normalise(name))
}

pub(super) fn normalise(name: &str) -> String {
    name.split(['-', '_', '.'])
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-")
        .to_ascii_lowercase()
}

/// Whether the requirement names the SDK itself, which is never taken from an index.
pub(super) fn is_sdk(requirement: &str) -> bool {
    name(requirement).as_deref() == Some(SDK)
}

/// Whether two packages share a name.
pub(super) fn same_name(left: &str, right: &str) -> bool {
    match (name(left), name(right)) {
        (Some(left), Some(right)) => left == right,
        _ => false,
    }
}

fn is_archive(text: &str) -> bool {
    [".whl", ".tar.gz", ".zip"]
        .iter()
        .any(|suffix| text.ends_with(suffix))
}

/// The file or folder of this machine that a requirement stands for.
pub(super) fn local_path(requirement: &str, base: &Path) -> Option<PathBuf> {
    let text = without_decoration(requirement);
    if let Some((_, path)) = text.split_once("file://") {
        return Some(PathBuf::from(path));
    }
    let is_path = text.starts_with('/')
        || text.starts_with("./")
        || text.starts_with("../")
        || matches!(text, "." | "..")
        || (!text.contains("://") && (is_archive(text) || is_there_below(text, base)));
    is_path.then(|| base.join(text))
}

/// Whether the text is a path without `./` in front, which no name of a package holds.
fn is_there_below(text: &str, base: &Path) -> bool {
    text.contains('/') && base.join(text).exists()
}

/// The requirement without `-e`, extras, marker and comment.
fn without_decoration(requirement: &str) -> &str {
    let text = requirement.trim();
    let text = text
        .strip_prefix("--editable")
        .or_else(|| text.strip_prefix("-e "))
        .map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
    let text = text.split(" ;").next().unwrap_or(text);
    let text = text.split(" #").next().unwrap_or(text);
    match text.rsplit_once('[') {
        Some((path, extras)) if extras.trim_end().ends_with(']') => path,
        _ => text,
    }
    .trim()
}

/// The same requirement, independent of the folder that the installer is run in.
pub(super) fn absolute(requirement: &str, base: &Path) -> String {
    let plain = without_decoration(requirement);
    match local_path(requirement, base) {
        Some(path) if !plain.contains("file://") => {
            requirement.replacen(plain, &path.to_string_lossy(), 1)
        }
        _ => requirement.to_owned(),
    }
}

/// The same requirement of a file or folder that was brought to `place`.
pub(super) fn relocated(requirement: &str, place: &str) -> String {
    let plain = without_decoration(requirement);
    let path = plain.split_once("file://").map_or(plain, |(_, path)| path);
    let text = requirement.trim();
    // What is only there during a build cannot be installed in place.
    let text = text
        .strip_prefix("--editable")
        .or_else(|| text.strip_prefix("-e "))
        .map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
    text.replacen(path, place, 1)
}

/// One line of a requirements file.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// `-r` or `-c`: another file, relative to this one.
    Include(&'a str),
    Requirement(&'a str),
}

/// The lines of a requirements file that matter; other options are left to the installer.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let include = ["--requirement", "--constraint", "-r", "-c"]
            .iter()
            .find_map(|option| line.strip_prefix(option));
        match include {
            Some(rest) => {
                let file = rest.trim_start_matches(['=', ' ']);
                Some(Line::Include(
                    file.split(" #").next().unwrap_or(file).trim(),
                ))
            }
            None if line.is_empty() || line.starts_with('#') => None,
            None if line.starts_with('-')
                && !line.starts_with("-e")
                && !line.starts_with("--e") =>
            {
                None
            }
            None => Some(Line::Requirement(line)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_brought_elsewhere_is_named_there() {
        for (text, expected) in [
            ("./lib[x]", "/m/0/lib[x]"),
            ("-e ../lib", "/m/0/lib"),
            ("lib @ file:///p/lib", "lib @ file:///m/0/lib"),
            ("/p/a.whl", "/m/0/lib"),
        ] {
            assert_eq!(relocated(text, "/m/0/lib"), expected, "{text}");
        }
    }

    #[test]
    fn the_sdk_is_recognised_in_every_spelling() {
        for text in [
            "flyte",
            "Flyte",
            "flyte>=2.0.0b52",
            "flyte[tui]==2.1",
            "flyte ; python_version > '3'",
            "flyte @ https://example.com/flyte.whl",
            "flyte==2 --hash=sha256:00",
        ] {
            assert!(is_sdk(text), "{text}");
        }
        for text in [
            "flyteplugins-ray",
            "flyte-x",
            "./flyte",
            "flyte/sub",
            "flytekit",
            "-e flyte",
        ] {
            assert!(!is_sdk(text), "{text}");
        }
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(name("Foo__Bar.baz>1").as_deref(), Some("foo-bar-baz"));
        assert!(same_name("typing_extensions>4", "typing-extensions"));
        assert!(!same_name("./a", "./a"));
    }

    #[test]
    fn paths_of_this_machine_are_found() {
        let base = Path::new("/p");
        let path = |text| local_path(text, base).map(|p| p.to_string_lossy().into_owned());
        assert_eq!(path("./x[extra]").as_deref(), Some("/p/./x"));
        assert_eq!(path("-e ../x").as_deref(), Some("/p/../x"));
        assert_eq!(path("x @ file:///a/b").as_deref(), Some("/a/b"));
        assert_eq!(
            path("dist/x-1-py3-none-any.whl").as_deref(),
            Some("/p/dist/x-1-py3-none-any.whl")
        );
        assert_eq!(path("six[a]"), None);
        assert_eq!(path("libs/mylib"), None);
        assert_eq!(path("https://h/x.whl"), None);
        assert_eq!(absolute("./x[extra]", base), "/p/./x[extra]");
        assert_eq!(absolute("six", base), "six");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("libs/mylib")).unwrap();
        let found = local_path("libs/mylib[extra]", dir.path());
        assert_eq!(found, Some(dir.path().join("libs/mylib")));
    }

    #[test]
    fn requirement_files_are_split() {
        let text = "# no\n-r more.txt\n--index-url https://x\n-c=c.txt # why\nsix==1\n\n-e ./p\n";
        assert_eq!(
            lines(text).collect::<Vec<_>>(),
            [
                Line::Include("more.txt"),
                Line::Include("c.txt"),
                Line::Requirement("six==1"),
                Line::Requirement("-e ./p"),
            ]
        );
    }
}
