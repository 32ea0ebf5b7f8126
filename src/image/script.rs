//! The header of a script that carries its own requirements (PEP 723).

use std::path::Path;

use pep440_rs::VersionSpecifiers;
use serde::Deserialize;

use super::error::Error;

const METHOD: &str = "from_uv_script";

/// What a script says about its environment.
#[derive(Debug)]
pub(super) struct Script {
    pub requires_python: Option<VersionSpecifiers>,
    pub dependencies: Vec<String>,
    /// Arguments for `uv pip install` that follow from `[tool.uv]`.
    pub flags: Vec<String>,
    /// What of the header has no effect.
    pub notes: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Header {
    requires_python: Option<String>,
    dependencies: Vec<String>,
    tool: Tool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tool {
    uv: UvTable,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct UvTable {
    exclude_newer: Option<toml::Value>,
    index_url: Option<String>,
    extra_index_url: Vec<String>,
    index: Vec<Index>,
    prerelease: Option<String>,
    sources: toml::Table,
}

#[derive(Deserialize)]
struct Index {
    url: String,
    #[serde(default)]
    default: bool,
}

/// The text of the `script` block, without its comment marks.
pub(super) fn block(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::unreadable(path))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut starts = (0..lines.len()).filter(|&at| lines[at].trim_end() == "# /// script");
    let start = starts.next();
    let found = start.and_then(|at| block_after(&lines[at + 1..]));
    let Some((content, length)) = found else {
        return Err(invalid(path, "has no `# /// script` block"));
    };
    let end = start.unwrap_or_default() + length;
    if starts.any(|at| at > end) {
        return Err(invalid(path, "has more than one `# /// script` block"));
    }
    Ok(content)
}

/// The block ends at the *last* `# ///` of the unbroken run of comments; this is what PEP 723 says.
fn block_after(lines: &[&str]) -> Option<(String, usize)> {
    let run = lines
        .iter()
        .take_while(|line| **line == "#" || line.starts_with("# "))
        .count();
    let end = lines[..run]
        .iter()
        .rposition(|line| line.trim_end() == "# ///")?;
    let content = lines[..end]
        .iter()
        .map(|line| line.get(2..).unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    Some((content, end + 1))
}

/// Reads and checks the header of the script at `path`; an explicit `index_url=` replaces its index.
pub(super) fn read(path: &Path, overridden_index: bool) -> Result<Script, Error> {
    let header: Header = toml::from_str(&block(path)?).map_err(|error| {
        invalid(
            path,
            &format!("has a header that is not valid: {}", error.message()),
        )
    })?;
    let requires_python = header
        .requires_python
        .map(|text| {
            text.parse::<VersionSpecifiers>().map_err(|_| {
                invalid(
                    path,
                    &format!("has a `requires-python` that is not valid: `{text}`"),
                )
            })
        })
        .transpose()?;
    let mut notes = Vec::new();
    if !header.tool.uv.sources.is_empty() {
        notes.push(format!(
            "`[tool.uv.sources]` of `{}` is not applied; write the source into the dependency, as `name @ url`",
            path.display()
        ));
    }
    Ok(Script {
        requires_python,
        dependencies: header.dependencies,
        flags: header.tool.uv.flags(overridden_index),
        notes,
    })
}

impl UvTable {
    fn flags(self, overridden_index: bool) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        if let Some(when) = self.exclude_newer {
            let text = when
                .as_str()
                .map_or_else(|| when.to_string(), str::to_owned);
            add("--exclude-newer", text);
        }
        if let Some(mode) = self.prerelease {
            add("--prerelease", mode);
        }
        if let (Some(url), false) = (self.index_url, overridden_index) {
            add("--index-url", url);
        }
        for url in self.extra_index_url {
            add("--extra-index-url", url);
        }
        for index in self.index {
            if !index.default {
                add("--index", index.url);
            } else if !overridden_index {
                add("--default-index", index.url);
            }
        }
        flags
    }
}

fn invalid(path: &Path, problem: &str) -> Error {
    Error::Invalid {
        method: METHOD,
        problem: format!("`{}` {problem}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.py");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn the_header_is_read() {
        let (_dir, path) = script(
            "#!/usr/bin/env python\n# /// script\n# requires-python = \"==3.13\"\n# dependencies = [\n#    \"flyte>=2\",\n#\n#    \"six\",\n# ]\n# main = \"x\"\n# [tool.uv]\n# exclude-newer = \"2025-01-01T00:00:00Z\"\n# [[tool.uv.index]]\n# url = \"https://i/simple\"\n# ///\n\nprint('# ///')\n",
        );
        let read = read(&path, false).unwrap();
        assert_eq!(read.dependencies, ["flyte>=2", "six"]);
        assert_eq!(read.requires_python.unwrap().to_string(), "==3.13");
        assert_eq!(
            read.flags,
            [
                "--exclude-newer",
                "2025-01-01T00:00:00Z",
                "--index",
                "https://i/simple"
            ]
        );
    }

    #[test]
    fn an_explicit_index_replaces_that_of_the_header() {
        let (_dir, path) =
            script("# /// script\n# [tool.uv]\n# index-url = \"https://a\"\n# ///\n");
        assert_eq!(
            read(&path, false).unwrap().flags,
            ["--index-url", "https://a"]
        );
        assert!(read(&path, true).unwrap().flags.is_empty());
    }

    #[test]
    fn the_block_ends_at_the_last_mark_of_the_comment() {
        let (_dir, path) = script("# /// script\n# # ///\n# dependencies = []\n# ///\n# tail\n");
        assert_eq!(block(&path).unwrap(), "# ///\ndependencies = []");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("print(1)\n", "no `# /// script` block"),
            (
                "# /// script\n# dependencies = []\n",
                "no `# /// script` block",
            ),
            (
                "# /// script\n# ///\n\n# /// script\n# ///\n",
                "more than one",
            ),
            ("# /// script\n# dependencies = [\n# ///\n", "not valid"),
            (
                "# /// script\n# requires-python = \"soon\"\n# ///\n",
                "`soon`",
            ),
        ] {
            let (_dir, path) = script(text);
            let message = read(&path, false).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
