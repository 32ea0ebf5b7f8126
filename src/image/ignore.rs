//! `.dockerignore`: which files below a folder do not become part of an image.
//!
//! The rules are those of Docker's own matcher: patterns are relative to the file that holds them,
//! the last one that matches decides, and what matches a folder matches all below it. Hashing and
//! copying ask the same matcher, so an ignored file can neither change a tag nor reach an image.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::error::Error;
use super::hash::folder_of;
use crate::spec::{Image, Layer};

/// The rules of one ignore file.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    /// The folder that patterns are relative to.
    base: PathBuf,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    pattern: GlobMatcher,
    /// `!pattern`: takes back what an earlier rule left out.
    takes_back: bool,
}

impl Ignore {
    /// The rules that hold for what an image copies: the file that was named last, or none.
    pub(super) fn of_image(image: &Image) -> Result<Self, Error> {
        let named = image.layers.iter().rev().find_map(|layer| match layer {
            Layer::DockerIgnore(path) => Some(path),
            _ => None,
        });
        named.map_or_else(|| Ok(Self::default()), |path| Self::read(path))
    }

    /// The rules for the folder of a Dockerfile: `<name>.dockerignore` beside it, else `.dockerignore`.
    pub(super) fn of_dockerfile(dockerfile: &Path) -> Result<Self, Error> {
        let mut own = dockerfile.as_os_str().to_owned();
        own.push(".dockerignore");
        for path in [
            PathBuf::from(own),
            folder_of(dockerfile).join(".dockerignore"),
        ] {
            if path.is_file() {
                return Self::read(&path);
            }
        }
        Ok(Self::default())
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::unreadable(path))?;
        let folder = folder_of(path);
        let base = folder.canonicalize().map_err(Error::unreadable(&folder))?;
        let rules = text
            .lines()
            .filter_map(|line| rule(line).transpose())
            .collect::<Result<_, _>>()
            .map_err(|problem| Error::Invalid {
                method: "with_dockerignore",
                problem: format!("`{}`: {problem}", path.display()),
            })?;
        Ok(Self { base, rules })
    }

    /// Whether nothing can be left out, so that a walk need not ask.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the file or folder at `path`, which must be canonical, is left out.
    pub(super) fn leaves_out(&self, path: &Path) -> bool {
        let Ok(path) = path.strip_prefix(&self.base) else {
            return false;
        };
        let decides = |rule: &&Rule| {
            path.ancestors()
                .take_while(|part| !part.as_os_str().is_empty())
                .any(|part| rule.pattern.is_match(part))
        };
        let last = self.rules.iter().rev().find(decides);
        last.is_some_and(|rule| !rule.takes_back)
    }

    /// Whether a folder that is left out may hold something that is taken back.
    pub(super) fn may_take_back(&self) -> bool {
        self.rules.iter().any(|rule| rule.takes_back)
    }
}

/// The rule that a line holds; `None` for comments and blank lines.
fn rule(line: &str) -> Result<Option<Rule>, String> {
    let line = line.trim_start_matches('\u{feff}');
    if line.starts_with('#') {
        return Ok(None);
    }
    let line = line.trim();
    let (takes_back, pattern) = match line.strip_prefix('!') {
        Some(pattern) => (true, pattern.trim()),
        None => (false, line),
    };
    let pattern = clean(pattern);
    if pattern.is_empty() {
        return Ok(None);
    }
    // Docker's patterns have no alternatives: a brace is a brace.
    let literal = pattern.replace('{', "[{]").replace('}', "[}]");
    let glob = GlobBuilder::new(&literal)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| format!("`{pattern}` is no pattern: {}", error.kind()))?;
    Ok(Some(Rule {
        pattern: glob.compile_matcher(),
        takes_back,
    }))
}

/// The pattern without what does not matter: a leading slash, `.` and empty parts, and `..` that
/// leads back.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(text: &str) -> Ignore {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".dockerignore");
        std::fs::write(&path, text).unwrap();
        Ignore {
            base: "/p".into(),
            ..Ignore::read(&path).unwrap()
        }
    }

    #[test]
    fn rules_match_as_dockers_do() {
        for (text, out, kept) in [
            ("*.log", &["/p/a.log"][..], &["/p/b/a.log", "/p/a.txt"][..]),
            ("**/*.log", &["/p/a.log", "/p/b/c/a.log"], &["/p/a.txt"]),
            ("/build/", &["/p/build", "/p/build/x/y"], &["/p/a/build"]),
            ("./a/../b", &["/p/b/x"], &["/p/a"]),
            ("node?", &["/p/node1"], &["/p/node", "/p/node12"]),
            ("[a-c].py", &["/p/b.py"], &["/p/d.py"]),
            ("docs/**", &["/p/docs/a"], &["/p/docs"]),
            ("{a}", &["/p/{a}"], &["/p/a"]),
            ("# *.py\n\n  *.md  \n", &["/p/x.md"], &["/p/x.py"]),
            ("*\n!keep\n", &["/p/x"], &["/p/keep", "/p/keep/a"]),
            ("!keep\n*\n", &["/p/keep"], &[]),
            ("a\n!a/b\na/b/c", &["/p/a/x", "/p/a/b/c"], &["/p/a/b/d"]),
        ] {
            let ignore = ignore(text);
            for path in out {
                assert!(ignore.leaves_out(Path::new(path)), "{text:?} {path}");
            }
            for path in kept {
                assert!(!ignore.leaves_out(Path::new(path)), "{text:?} {path}");
            }
        }
    }

    #[test]
    fn what_lies_elsewhere_is_not_concerned() {
        assert!(!ignore("*").leaves_out(Path::new("/other/x")));
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        std::fs::write(&path, "[z-a]\n").unwrap();
        let error = Ignore::read(&path).unwrap_err();
        assert!(
            error.to_string().contains("`[z-a]` is no pattern"),
            "{error}"
        );
    }
}
