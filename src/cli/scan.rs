//! Which app environments a Python file seems to declare, told from its text.
//!
//! Cheap and approximate on purpose: completion and looking for the only app of a folder must not
//! import anything. A class of the user's own that is an environment is found only where its name
//! ends like ours; what serves an app imports the file and knows for sure.

use std::path::{Path, PathBuf};

/// Larger files are not written by hand.
const MOST_BYTES: u64 = 1_000_000;
/// How far behind the opening bracket `name=` is looked for.
const CALL_BYTES: usize = 2000;

/// One `variable = ...AppEnvironment(name="...")`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub variable: String,
    pub name: Option<String>,
}

/// What a file declares at its top level, in its order.
pub fn environments(text: &str) -> Vec<Declared> {
    let mut found = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if let Some((variable, call)) = declaration(line) {
            let behind = text.get(offset + call..).unwrap_or_default();
            found.push(Declared {
                variable: variable.to_owned(),
                name: name_of(call_text(behind)),
            });
        }
        offset += line.len();
    }
    found
}

/// The same for a file; nothing where it cannot be read.
pub fn file(path: &Path) -> Vec<Declared> {
    let is_small = path
        .metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MOST_BYTES);
    if !is_small {
        return Vec::new();
    }
    std::fs::read_to_string(path)
        .map(|text| environments(&text))
        .unwrap_or_default()
}

/// The Python files right in `folder` that declare environments, by name.
pub fn folder(folder: &Path) -> Vec<(PathBuf, Vec<Declared>)> {
    let mut found: Vec<(PathBuf, Vec<Declared>)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "py"))
        .map(|path| {
            let declared = file(&path);
            (path, declared)
        })
        .filter(|(_, declared)| !declared.is_empty())
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Folders of packages, caches and tools, in which nobody looks for apps.
fn is_tools(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.')
        || name == "node_modules"
        || name == "__pycache__"
        || folder.join("pyvenv.cfg").exists()
}

/// The files in `top` and in the folders below it that declare environments, by name. Links to
/// folders are not followed, so there is an end to it.
pub fn tree(top: &Path) -> Vec<PathBuf> {
    let mut waiting = vec![top.to_path_buf()];
    let mut found = Vec::new();
    while let Some(here) = waiting.pop() {
        found.extend(folder(&here).into_iter().map(|(path, _)| path));
        let entries = std::fs::read_dir(&here).into_iter().flatten().flatten();
        let below = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path());
        waiting.extend(below.filter(|path| !is_tools(path)));
    }
    found.sort();
    found
}

/// The variable, and where the arguments of the call begin.
fn declaration(line: &str) -> Option<(&str, usize)> {
    let (left, right) = line.split_once('=')?;
    let variable = left.split(':').next().unwrap_or_default().trim_end();
    if !is_identifier(variable) {
        return None;
    }
    let call = right.find('(')?;
    let class = right[..call].trim();
    let is_ours = class.ends_with("AppEnvironment") || class.ends_with("ConnectorEnvironment");
    let is_path = class.split('.').all(is_identifier);
    (is_ours && is_path).then_some((variable, left.len() + 1 + call + 1))
}

fn is_identifier(text: &str) -> bool {
    let mut letters = text.chars();
    letters
        .next()
        .is_some_and(|first| first == '_' || first.is_alphabetic())
        && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
}

/// The arguments of a call, without the brackets; strings that hold brackets end it early or late,
/// which costs a name and nothing else.
fn call_text(behind: &str) -> &str {
    let mut depth = 1_usize;
    for (position, letter) in behind.char_indices().take(CALL_BYTES) {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &behind[..position];
        }
    }
    behind
}

/// The text of `name="..."`, at the first level only where it is written as such.
fn name_of(arguments: &str) -> Option<String> {
    let mut rest = arguments;
    while let Some(position) = rest.find("name") {
        let is_word =
            !rest[..position].ends_with(|letter: char| letter == '_' || letter.is_alphanumeric());
        rest = &rest[position + "name".len()..];
        let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
        if let (true, Some(value)) = (is_word, value) {
            let quote = value
                .chars()
                .next()
                .filter(|letter| matches!(letter, '"' | '\''))?;
            return value[1..].split(quote).next().map(str::to_owned);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_found_and_other_lines_are_not() {
        let text = r#"
import flyte.app
from flyte.app.extras import FastAPIAppEnvironment
env = flyte.app.AppEnvironment(name="plain", port=1)
api: FastAPIAppEnvironment = FastAPIAppEnvironment(
    app=FastAPI(title="x"),
    image=flyte.Image.from_debian_base(registry_name="no"),
    name = 'fast-api',
)
late = AppEnvironment(name=NAME)
    inner = AppEnvironment(name="inner")
# env = AppEnvironment(name="comment")
x == AppEnvironment(name="compared")
other = flyte.TaskEnvironment(name="task")
print(AppEnvironment(name="printed"))
"#;
        let found: Vec<(String, Option<String>)> = environments(text)
            .into_iter()
            .map(|one| (one.variable, one.name))
            .collect();
        let named =
            |variable: &str, name: Option<&str>| (variable.to_owned(), name.map(str::to_owned));
        assert_eq!(
            found,
            [
                named("env", Some("plain")),
                named("api", Some("fast-api")),
                named("late", None)
            ]
        );
    }

    #[test]
    fn any_text_is_read_without_harm() {
        for text in [
            "",
            "=",
            "a=(",
            "é = AppEnvironment(",
            "a = AppEnvironment(name=",
            "a = AppEnvironment(name=\"",
        ] {
            environments(text);
        }
    }
}
