//! What the fuzz targets have met, read again by every test run, with the compiler of the project.
//!
//! `corpus/NAME` goes through `readers/NAME.rs`, whose assertions are those of the target. What a run
//! of `make fuzz` found lies there, too, once it is mended. Compiled into the crate's own tests, for the
//! readers look at parts that nobody else sees.

#![allow(
    clippy::pedantic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the readers are programs of their own, which fail by panicking"
)]

use std::path::Path;

#[path = "readers/arguments.rs"]
mod arguments;
#[path = "readers/channel.rs"]
mod channel;
#[path = "readers/config.rs"]
mod config;
#[path = "readers/connect.rs"]
mod connect;
#[path = "readers/extract.rs"]
mod extract;
#[path = "readers/gateway_answer.rs"]
mod gateway_answer;
#[path = "readers/gateway_h2.rs"]
mod gateway_h2;
#[path = "readers/gateway_request.rs"]
mod gateway_request;
#[path = "readers/git_index.rs"]
mod git_index;
#[path = "readers/ignore_rules.rs"]
mod ignore_rules;
#[path = "readers/imports.rs"]
mod imports;
#[path = "readers/parameters.rs"]
mod parameters;
#[path = "readers/registry.rs"]
mod registry;
#[path = "readers/wire.rs"]
mod wire;

/// A target and its reader.
type Reader = (&'static str, fn(&[u8]));

const READERS: &[Reader] = &[
    ("arguments", arguments::run),
    ("channel", channel::run),
    ("config", config::run),
    ("connect", connect::run),
    ("extract", extract::run),
    ("gateway_answer", gateway_answer::run),
    ("gateway_h2", gateway_h2::run),
    ("gateway_request", gateway_request::run),
    ("git_index", git_index::run),
    ("ignore_rules", ignore_rules::run),
    ("imports", imports::run),
    ("parameters", parameters::run),
    ("registry", registry::run),
    ("wire", wire::run),
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz"))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().expect("a folder can be listed");
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    let mut names: Vec<String> = paths
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// The whole corpus of a target.
fn replay(name: &str) {
    let (_, run) = READERS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a reader");
    let corpus = folder().join("corpus").join(name);
    let entries = corpus.read_dir().expect("a target has a corpus");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        // Shown where it fails.
        println!("{}", path.display());
        run(&std::fs::read(path).expect("a file can be read"));
        count += 1;
    }
    assert!(count > 0, "`{name}` has no corpus");
}

/// Numbers in an order that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }

    /// Another input made of one that is there.
    fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.roll(6) {
            let (at, other) = (self.roll(bytes.len() + 1), self.roll(bytes.len() + 1));
            match self.roll(4) {
                0 => bytes.insert(at, self.roll(256) as u8),
                1 => bytes.truncate(bytes.len() - self.roll(4).min(bytes.len())),
                2 => bytes.extend_from_within(at.min(other)..at.max(other)),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.roll(256) as u8;
                    }
                }
            }
            bytes.truncate(1 << 13);
        }
        bytes
    }
}

/// What can be done without libFuzzer: changes at random, few by default. `FLYTE_FUZZ_ROUNDS` makes them
/// more, and a failure names the input.
#[test]
fn inputs_that_are_changed_at_random_are_read_too() {
    let given = std::env::var("FLYTE_FUZZ_ROUNDS");
    let rounds: usize = given.map_or(50, |text| text.parse().expect("a number"));
    for (name, run) in READERS {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let corpus = folder().join("corpus").join(name);
        let paths = corpus.read_dir().expect("a target has a corpus");
        let mut paths: Vec<_> = paths.map(|path| path.expect("listed").path()).collect();
        paths.sort();
        for _ in 0..rounds {
            let path = &paths[dice.roll(paths.len())];
            let input = dice.changed(&std::fs::read(path).expect("a file can be read"));
            let tried = std::panic::catch_unwind(|| run(&input));
            assert!(tried.is_ok(), "{name}: b\"{}\"", input.escape_ascii());
        }
    }
}

#[test]
fn every_reader_is_a_target_with_a_corpus() {
    let readers: Vec<&str> = READERS.iter().map(|(name, _)| *name).collect();
    for part in ["readers", "targets", "corpus"] {
        assert_eq!(names_in(&folder().join(part)), readers, "{part}");
    }
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).expect("it can be read");
    for name in readers {
        assert!(
            manifest.contains(&format!("path = \"targets/{name}.rs\"")),
            "{name}"
        );
    }
}

#[test]
fn corpus_of_arguments() {
    replay("arguments");
}

#[test]
fn corpus_of_channel() {
    replay("channel");
}

#[test]
fn corpus_of_config() {
    replay("config");
}

#[test]
fn corpus_of_connect() {
    replay("connect");
}

#[test]
fn corpus_of_extract() {
    replay("extract");
}

#[test]
fn corpus_of_gateway_answer() {
    replay("gateway_answer");
}

#[test]
fn corpus_of_gateway_h2() {
    replay("gateway_h2");
}

#[test]
fn corpus_of_gateway_request() {
    replay("gateway_request");
}

#[test]
fn corpus_of_git_index() {
    replay("git_index");
}

#[test]
fn corpus_of_ignore_rules() {
    replay("ignore_rules");
}

#[test]
fn corpus_of_imports() {
    replay("imports");
}

#[test]
fn corpus_of_parameters() {
    replay("parameters");
}

#[test]
fn corpus_of_registry() {
    replay("registry");
}

#[test]
fn corpus_of_wire() {
    replay("wire");
}
