//! Who may use whom: the direction of dependencies that ARCHITECTURE.md describes.
//!
//! Paths are read from the source as text. Unit tests at the end of a file may use what they like;
//! paths that a macro puts together are not seen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Modules of the crate; each may use those of the lines above it, and none beside it.
const LAYERS: &[&[&str]] = &[
    &["crash", "error", "sys"],
    &["spec", "tls"],
    &[
        "config", "engine", "files", "net", "secrets", "storage", "wire",
    ],
    &["auth"],
    &["bundle", "client", "image", "local", "runtime"],
    &["serve"],
    &["cli"],
    &["py"],
];

/// The same inside `local`.
const LOCAL: &[&[&str]] = &[
    &["store"],
    &["authority"],
    &["gateway"],
    &["supervisor"],
    &["prune"],
    &["platform"],
    &["api", "console"],
    &["daemon"],
];

/// A source file, with the place of its module in the crate.
struct Source {
    path: PathBuf,
    module: Vec<String>,
    words: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = walkdir::WalkDir::new(&root).sort_by_file_name();
    let files = files
        .into_iter()
        .map(|entry| entry.expect("`src` can be read").into_path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source file can be read");
            let relative = path.strip_prefix(&root).expect("a file of `src`");
            Source {
                module: module_of(relative),
                words: words(without_tests(&text)),
                path: relative.to_owned(),
            }
        })
        .collect()
}

fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        module.pop();
    }
    module
}

/// The text before its unit tests, which stand at the end.
fn without_tests(text: &str) -> &str {
    text.split("\nmod tests {").next().unwrap_or_default()
}

/// Identifiers and the marks that paths are made of; comments and literals are left out.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_alphabetic() || first == '_' {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            // A prefix such as `r` or `b` belongs to the literal behind it.
            let prefix = &rest[..end];
            match literal(&rest[end..], prefix.ends_with('r')) {
                Some(length) if matches!(prefix, "r" | "b" | "br" | "c" | "cr") => end + length,
                _ => {
                    words.push(rest[..end].to_owned());
                    end
                }
            }
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            words.push("::".to_owned());
            2
        } else if let Some(length) = literal(rest, false) {
            length
        } else {
            if matches!(first, '{' | '}' | ',' | '*') {
                words.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    words
}

/// Length of the string or character that `text` begins with; a lifetime is neither.
fn literal(text: &str, raw: bool) -> Option<usize> {
    let hashes = text.len() - text.trim_start_matches('#').len();
    if raw && text[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(hashes + 1 + text[hashes + 1..].find(&end)? + end.len());
    }
    if text.starts_with('"') {
        return closing(text, '"');
    }
    let mut inside = text.strip_prefix('\'')?.chars();
    match (inside.next()?, inside.next()) {
        ('\\', _) | (_, Some('\'')) => closing(text, '\''),
        _ => None,
    }
}

fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + quote.len_utf8()),
            _ => {}
        }
    }
    None
}

/// Every `crate::` and `super::` path among `words`, seen from the root of the crate.
fn paths(words: &[String], module: &[String]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let begins = at == 0 || words[at - 1] != "::";
        // Not the scope of `pub(crate)`.
        let begins = begins && words.get(at + 1).is_some_and(|next| next == "::");
        let path = match word.as_str() {
            "crate" if begins => Vec::new(),
            "super" if begins => module[..module.len().saturating_sub(1)].to_vec(),
            _ => continue,
        };
        follow(words, at + 1, path, &mut found);
    }
    found
}

/// Reads what stands behind `path`, groups included; returns where that ends.
fn follow(
    words: &[String],
    mut at: usize,
    mut path: Vec<String>,
    found: &mut BTreeSet<Vec<String>>,
) -> usize {
    while words.get(at).is_some_and(|word| word == "::") {
        match words.get(at + 1).map(String::as_str) {
            Some("super") => {
                path.pop();
            }
            Some("{") => return follow_group(words, at + 2, &path, found),
            Some(word) => path.push(word.to_owned()),
            None => {}
        }
        at += 2;
    }
    found.insert(path);
    at
}

fn follow_group(
    words: &[String],
    mut at: usize,
    path: &[String],
    found: &mut BTreeSet<Vec<String>>,
) -> usize {
    loop {
        at = match words.get(at).map(String::as_str) {
            Some("}") | None => return at + 1,
            Some(",") => at + 1,
            Some("as") => at + 2,
            Some(word) => {
                let name = Some(word.to_owned()).filter(|word| word != "self");
                let inner = path.iter().cloned().chain(name).collect();
                follow(words, at + 1, inner, found)
            }
        };
    }
}

fn rank(layers: &[&[&str]], name: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&name))
}

/// The uses that `layers` forbids, one line each. `depth` is where in a path its modules stand.
fn violations(source: &Source, layers: &[&[&str]], depth: usize) -> Vec<String> {
    let Some(own) = source.module.get(depth) else {
        return Vec::new(); // a root, which names its parts
    };
    let parent = &source.module[..depth];
    let own_rank = rank(layers, own).unwrap_or_else(|| panic!("`{own}` is on no line"));
    paths(&source.words, &source.module)
        .into_iter()
        .filter(|path| path.starts_with(parent))
        .filter(|path| {
            let used = path.get(depth).filter(|used| *used != own);
            let used_rank = used.and_then(|used| rank(layers, used));
            used_rank.is_some_and(|used_rank| used_rank >= own_rank)
        })
        .map(|path| format!("{} uses {}", source.path.display(), path.join("::")))
        .collect()
}

fn report(violations: &[String]) {
    let mut text = String::new();
    for violation in violations {
        let _ = writeln!(text, "  {violation}");
    }
    assert!(
        violations.is_empty(),
        "against the direction of dependencies:\n{text}"
    );
}

#[test]
fn modules_use_only_what_stands_above_them() {
    let sources = sources();
    let found: Vec<String> = sources
        .iter()
        .flat_map(|source| violations(source, LAYERS, 0))
        .collect();
    report(&found);
    let uses: usize = sources
        .iter()
        .map(|source| paths(&source.words, &source.module).len())
        .sum();
    assert!(uses > 200, "only {uses} paths were recognized");
}

#[test]
fn parts_of_the_local_platform_use_only_those_before_them() {
    let sources = sources();
    let local = sources
        .iter()
        .filter(|source| source.module.first().is_some_and(|m| m == "local"));
    report(
        &local
            .flat_map(|source| violations(source, LOCAL, 1))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_tables_name_every_module() {
    let sources = sources();
    for (layers, parent) in [(LAYERS, &[][..]), (LOCAL, &["local".to_owned()][..])] {
        let depth = parent.len();
        let there: BTreeSet<&str> = sources
            .iter()
            .filter(|source| source.module.starts_with(parent))
            .filter_map(|source| source.module.get(depth).map(String::as_str))
            .collect();
        let listed: BTreeSet<&str> = layers.iter().copied().flatten().copied().collect();
        assert_eq!(listed, there);
    }
}

#[test]
fn python_and_unsafe_stay_where_they_belong() {
    for (word, module) in [("pyo3", "py"), ("unsafe", "sys")] {
        let (inside, outside): (Vec<Source>, Vec<Source>) = sources()
            .into_iter()
            .filter(|source| source.words.iter().any(|found| found == word))
            .partition(|source| source.module.first().is_some_and(|first| first == module));
        assert!(!inside.is_empty(), "`{word}` is nowhere to be found");
        let outside: Vec<&Path> = outside.iter().map(|source| source.path.as_path()).collect();
        assert!(outside.is_empty(), "`{word}` stands in {outside:?}");
    }
}

fn paths_in(text: &str, module: &str) -> Vec<String> {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    paths(&words(text), &module)
        .iter()
        .map(|path| path.join("::"))
        .collect()
}

#[test]
fn paths_are_recognized_however_they_are_written() {
    let text = r#"
        //! [`crate::serve`]
        use crate::{bundle::{self, Digest}, error::Code};
        use super::super::store::{AppKey, Store as Rows};
        pub(crate) fn f<'a>(c: char) { crate::wire::build::app("crate::cli", '"', b'\'', r"\") }
        fn g(x: &'static str) { crate::spec::parse(x) }
    "#;
    assert_eq!(
        paths_in(text, "local::api::apps"),
        [
            "bundle",
            "bundle::Digest",
            "error::Code",
            "local::store::AppKey",
            "local::store::Store",
            "spec::parse",
            "wire::build::app",
        ]
    );
}

#[test]
fn a_use_of_what_stands_below_or_beside_is_found() {
    let source = |module: &str, text: &str| Source {
        path: PathBuf::from("x.rs"),
        module: module.split("::").map(str::to_owned).collect(),
        words: words(text),
    };
    let beside = source("image::build", "use crate::client::Client;");
    assert_eq!(violations(&beside, LAYERS, 0), ["x.rs uses client::Client"]);
    let below = source("config", "fn f() { super::serve::run() }");
    assert_eq!(violations(&below, LAYERS, 0), ["x.rs uses serve::run"]);
    let above = source("serve", "use crate::{client, image}; use super::spec;");
    assert!(violations(&above, LAYERS, 0).is_empty());
    let inner = source("local::store", "use super::gateway::Route;");
    assert_eq!(
        violations(&inner, LOCAL, 1),
        ["x.rs uses local::gateway::Route"]
    );
}
