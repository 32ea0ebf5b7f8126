//! The line that starts a replica, with the variables around it, and the command in it: read in full
//! or refused with a reason; a command keeps the number of its words, and no value becomes two.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use flyte_native::runtime::{Args, command};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    words: Vec<Word<'a>>,
    variables: Vec<(u8, &'a str)>,
}

/// A word of the line; the names of options and variables are not left to chance.
#[derive(Arbitrary, Debug)]
enum Word<'a> {
    Any(&'a str),
    Option(u8),
    Assigned(u8, &'a str),
    Variable(u8),
    Braced(&'a str, u8, &'a str),
}

const OPTIONS: &[&str] = &[
    "--version",
    "--project",
    "--domain",
    "--org",
    "--image-cache",
    "--tgz",
    "--pkl",
    "--dest",
    "--parameters",
    "-p",
    "--raw-data-path",
    "-r",
    "--resolver",
    "--resolver-args",
    "--of-another-version",
    "--",
];
const NAMES: &[&str] = &[
    "FLYTE_INTERNAL_EXECUTION_PROJECT",
    "FLYTE_INTERNAL_EXECUTION_DOMAIN",
    "_U_ORG_NAME",
    "A",
    "B_1",
];

fn of<'a>(list: &[&'a str], index: u8) -> &'a str {
    list[usize::from(index) % list.len()]
}

fn written(word: &Word) -> String {
    match word {
        Word::Any(text) => (*text).to_owned(),
        Word::Option(index) => of(OPTIONS, *index).to_owned(),
        Word::Assigned(index, value) => format!("{}={value}", of(OPTIONS, *index)),
        Word::Variable(index) => format!("${}", of(NAMES, *index)),
        Word::Braced(before, index, after) => format!("{before}${{{}}}{after}", of(NAMES, *index)),
    }
}

pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let words: Vec<String> = input.words.iter().map(written).collect();
    let variables: BTreeMap<String, String> = input
        .variables
        .iter()
        .map(|(name, value)| (of(NAMES, *name).to_owned(), (*value).to_owned()))
        .collect();
    let args = match Args::parse(&words, &variables) {
        Ok(args) => args,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!args.dest.is_empty());
    assert!(words.ends_with(&args.command), "{words:?} became {args:?}");
    for (option, name) in [
        (&args.project, NAMES[0]),
        (&args.domain, NAMES[1]),
        (&args.org, NAMES[2]),
    ] {
        let set = variables.get(name).filter(|value| !value.is_empty());
        assert!(
            option.is_some() || set.is_none(),
            "`{name}` is not looked at"
        );
    }
    if let Ok(filled) = command::expand(&args.command, &variables) {
        assert_eq!(filled.len(), args.command.len());
        for (word, filled) in args.command.iter().zip(&filled) {
            assert!(
                word.contains('$') || word == filled,
                "{word:?} became {filled:?}"
            );
        }
    }
}
