//! What a control plane puts on the command line of `fserve`: the blob of `--parameters` and the
//! line itself. Whatever stands there is read or refused, and what is read can be written again.

use std::collections::BTreeMap;
use std::io::Write;

use arbitrary::{Arbitrary, Unstructured};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flyte_native::runtime::{Args, payload};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A blob as it stands on the line.
    Blob(&'a str),
    /// What the blob unpacks to, so that the layers around it are passed.
    Json(&'a [u8]),
    Line(Vec<Word<'a>>),
}

/// A word of the line; the names of options are not left to chance.
#[derive(Arbitrary, Debug)]
enum Word<'a> {
    Any(&'a str),
    Option(u8),
    Assigned(u8, &'a str),
}

const OPTIONS: &[&str] = &[
    "--version",
    "--project",
    "--tgz",
    "--dest",
    "--parameters",
    "-p",
    "-r",
    "--resolver-args",
    "--image-cache",
    "--unknown",
    "--",
];

fn option(index: u8) -> &'static str {
    OPTIONS[usize::from(index) % OPTIONS.len()]
}

fn blob(json: &[u8]) -> String {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = gzip.write_all(json).and_then(|()| gzip.finish());
    STANDARD.encode(written.expect("memory can be written"))
}

fn read_and_write(text: &str) {
    if let Ok(parameters) = payload::decode(text) {
        let again = payload::encode(&parameters).expect("what was read can be written");
        let again = payload::decode(&again).expect("what was written can be read");
        assert_eq!(again, parameters);
    }
}

pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    match input {
        Input::Blob(text) => read_and_write(text),
        Input::Json(json) => read_and_write(&blob(json)),
        Input::Line(words) => {
            let words: Vec<String> = words
                .iter()
                .map(|word| match word {
                    Word::Any(text) => (*text).to_owned(),
                    Word::Option(index) => option(*index).to_owned(),
                    Word::Assigned(index, value) => format!("{}={value}", option(*index)),
                })
                .collect();
            if let Ok(args) = Args::parse(&words, &BTreeMap::new()) {
                assert!(!args.dest.is_empty());
                let whole = words.ends_with(&args.command);
                assert!(whole, "{words:?} became the command {:?}", args.command);
            }
        }
    }
}
