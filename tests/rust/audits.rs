//! What the project may be made of, as `.ci/deny.toml` says it, checked without any tool or network.
//!
//! `make audit` has cargo-deny look closer; this is what every test run can tell.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn toml(name: &str) -> toml::Table {
    let path = root().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn texts(value: &toml::Value) -> Vec<&str> {
    let all = value.as_array().expect("a list");
    all.iter()
        .map(|one| one.as_str().expect("a text"))
        .collect()
}

#[test]
fn no_crate_is_banned_or_comes_from_elsewhere() {
    let (deny, lock) = (toml(".ci/deny.toml"), toml("Cargo.lock"));
    let banned: Vec<&str> = deny["bans"]["deny"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["crate"].as_str().expect("a name"))
        .collect();
    assert!(banned.contains(&"aws-lc-rs"));
    let registries = texts(&deny["sources"]["allow-registry"]);
    for package in lock["package"].as_array().expect("a list") {
        let name = package["name"].as_str().expect("a name");
        assert!(!banned.contains(&name), "`{name}` is banned");
        // Our own has no source.
        if let Some(source) = package.get("source").and_then(toml::Value::as_str) {
            let known = source.strip_prefix("registry+");
            let is_known = known.is_some_and(|known| registries.contains(&known));
            assert!(is_known, "`{name}` comes from {source}");
        }
    }
}

#[test]
fn every_licence_is_one_that_was_agreed_to() {
    let deny = toml(".ci/deny.toml");
    let allowed: BTreeSet<&str> = texts(&deny["licenses"]["allow"]).into_iter().collect();
    let output = cargo(&[
        "metadata",
        "--format-version=1",
        "--all-features",
        "--offline",
        "--locked",
        // What was not fetched to build these tests is not there to be looked at.
        "--filter-platform",
        &host(),
    ]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    assert!(packages.len() > 100);
    for package in packages {
        let (name, licence) = (&package["name"], package["license"].as_str());
        let licence = licence.unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_allowed(licence, &allowed), "{name} is under {licence}");
    }
}

fn cargo(words: &[&str]) -> Output {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    let output = command.args(words).current_dir(root()).output();
    output.expect("cargo runs")
}

/// The platform that is built for.
fn host() -> String {
    let told = String::from_utf8_lossy(&cargo(&["-vV"]).stdout).into_owned();
    let line = told.lines().find_map(|line| line.strip_prefix("host: "));
    line.expect("cargo names its host").to_owned()
}

/// Whether an expression of SPDX can be met with these licences.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ")
        .replace(" WITH ", "\u{0}");
    let words: Vec<String> = spaced
        .split_whitespace()
        .map(|word| word.replace('\u{0}', " WITH "))
        .collect();
    let mut words = words.iter().map(String::as_str).peekable();
    let met = any_of(&mut words, allowed);
    assert_eq!(words.next(), None, "`{expression}` was not understood");
    met
}

fn any_of<'a>(
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    allowed: &BTreeSet<&str>,
) -> bool {
    let mut met = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, allowed);
    }
    met
}

fn all_of<'a>(
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    allowed: &BTreeSet<&str>,
) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one<'a>(
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    allowed: &BTreeSet<&str>,
) -> bool {
    match words.next() {
        Some("(") => {
            let met = any_of(words, allowed);
            assert_eq!(words.next(), Some(")"));
            met
        }
        Some(name) => allowed.contains(name),
        None => false,
    }
}

#[test]
fn expressions_of_licences_are_read_as_they_are_meant() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
