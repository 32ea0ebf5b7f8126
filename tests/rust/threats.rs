//! The threat model of ARCHITECTURE.md: every line names tests, and they are there.
//!
//! Whether they pass is seen where they run; here it is noticed that one was renamed or taken away.

use std::path::Path;

const ATTACKERS: [&str; 5] = [
    "another user of the machine",
    "a web page in the user's browser",
    "a hostile bundle",
    "a hostile server",
    "a hostile app",
];

/// A line of the table: who, what is tried, what holds it, and the tests of that.
struct Line {
    who: String,
    tests: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn table() -> Vec<Line> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it can be read");
    let (_, section) = text
        .split_once("\n## Threats\n")
        .expect("a section `Threats`");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    rows.skip(1)
        .filter(|row| !row.starts_with('-'))
        .map(|row| {
            let cells: Vec<&str> = row
                .trim_end_matches('|')
                .split(" | ")
                .map(str::trim)
                .collect();
            let [who, _, _, tests] = cells.as_slice() else {
                panic!("four cells in `{row}`");
            };
            Line {
                who: (*who).to_owned(),
                tests: tests
                    .split(", ")
                    .map(|test| test.trim_matches('`').to_owned())
                    .collect(),
            }
        })
        .collect()
}

/// `file::name`, in Python or in Rust.
fn is_there(test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else {
        return false;
    };
    let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
    let signature = match Path::new(file).extension().and_then(|end| end.to_str()) {
        Some("py") => format!("def {name}("),
        _ => format!("fn {name}("),
    };
    text.contains(&signature)
}

#[test]
fn every_line_names_tests_that_are_there() {
    let lines = table();
    assert!(lines.len() >= 20, "{} lines", lines.len());
    for attacker in ATTACKERS {
        assert!(lines.iter().any(|line| line.who == attacker), "{attacker}");
    }
    for line in &lines {
        assert!(ATTACKERS.contains(&line.who.as_str()), "{}", line.who);
        for test in &line.tests {
            assert!(is_there(test), "there is no test `{test}`");
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    assert!(is_there(
        "tests/rust/threats.rs::every_line_names_tests_that_are_there"
    ));
    for missing in [
        "tests/rust/threats.rs::no_such_test",
        "tests/rust/no_such_file.rs::table",
        "table",
    ] {
        assert!(!is_there(missing), "{missing}");
    }
}
