//! `flyte explain`: the page of an error's code, which the documentation shows as well.

use serde_json::json;

use crate::cli::args::Explain;
use crate::cli::printer::Printer;
use crate::cli::{Error, Failure};
use crate::error::Code;

pub fn run(printer: &Printer, explain: Explain) -> Result<(), Failure> {
    let Some(given) = explain.code else {
        all(printer);
        return Ok(());
    };
    let code = Code::parse(&given).ok_or(Error::NoCode { given })?;
    if printer.is_json() {
        let mut document = describe(code);
        document["page"] = code.page().into();
        printer.json(&document);
    } else {
        printer.page(code.page());
    }
    Ok(())
}

fn all(printer: &Printer) {
    if printer.is_json() {
        let codes: Vec<_> = Code::ALL.iter().copied().map(describe).collect();
        printer.json(&codes.into());
        return;
    }
    let rows: Vec<Vec<String>> = Code::ALL
        .iter()
        .map(|code| vec![code.as_str().to_owned(), code.meaning().to_owned()])
        .collect();
    printer.table(&["CODE", "MEANING"], &rows);
}

fn describe(code: Code) -> serde_json::Value {
    json!({
        "code": code.as_str(),
        "meaning": code.meaning(),
        "exception": code.exception(),
        "exit_status": code.family().exit_status(),
    })
}
