//! The table of codes in ARCHITECTURE.md says what `src/error.rs` does.
//!
//! Codes are contract: a change has to be made in both places, knowingly.

use std::path::Path;

use flyte_native::error::Code;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Rows of the table below the heading `## Errors`, cells without backticks.
fn table() -> Vec<[String; 4]> {
    let text = read("ARCHITECTURE.md");
    let (_, section) = text
        .split_once("\n## Errors\n")
        .expect("a section `Errors`");
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"))
        .map(|row| {
            let cells: Vec<String> = row
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect();
            let [code, exception, exit, meaning]: [String; 4] = cells
                .try_into()
                .unwrap_or_else(|_| panic!("four cells in `{row}`"));
            [
                code.trim_end_matches('`').into(),
                exception.trim_matches('`').into(),
                exit,
                meaning,
            ]
        })
        .collect()
}

#[test]
fn the_table_of_codes_is_the_enum() {
    let table = table();
    for (row, code) in table.iter().zip(Code::ALL) {
        let family = code.family();
        let expected = [
            code.as_str().to_owned(),
            code.exception().to_owned(),
            family.exit_status().to_string(),
            code.meaning().to_owned(),
        ];
        assert_eq!(*row, expected);
    }
    assert_eq!(table.len(), Code::ALL.len());
}

#[test]
fn every_exception_exists_in_python() {
    let python = read("python/flyte/errors.py");
    for code in Code::ALL {
        let class = format!("\nclass {}(", code.exception());
        assert!(
            python.contains(&class),
            "`{code}` is raised as a class that is not there"
        );
    }
}

#[test]
fn every_page_has_its_four_parts() {
    for code in Code::ALL {
        let page = code.page();
        assert!(page.starts_with(&format!("# `{code}`\n")), "{code}");
        let mut rest = page;
        for heading in ["What it means", "Why it happens", "What to do", "Example"] {
            let mark = format!("\n## {heading}\n\n");
            let Some((_, behind)) = rest.split_once(&mark) else {
                panic!("`{code}` has no part `{heading}` in its place");
            };
            let part = behind.split("\n## ").next().unwrap_or_default();
            assert!(
                part.trim().len() > 20,
                "`{heading}` of `{code}` says nothing"
            );
            rest = behind;
        }
        assert!(rest.contains("```"), "`{code}` shows no example");
    }
}
