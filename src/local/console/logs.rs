//! What an app writes, as markup and as data for the script.

use super::ansi;
use super::html::{Html, html};
use super::{Console, own_path, page_path, words};
use crate::local::store::AppKey;
use crate::local::supervisor::logs::{Record, shorten};

/// Lines on an app's page before the script asks for more, and their length together.
const FIRST_LINES: usize = 100;
const FIRST_BYTES: usize = 12 * 1024;
const FEW_LINES: usize = 10;
/// A longer line is cut; the command line has it whole.
const LINE_BYTES: usize = 4 * 1024;
/// Lines on the plain page.
const PLAIN_LINES: usize = 1000;
const MOST_LINES: usize = 10_000;

/// One line.
pub fn line(record: &Record) -> Html {
    let pieces = ansi::pieces(shorten(&record.text, LINE_BYTES)).into_iter();
    let text: Html = pieces
        .map(|piece| {
            if piece.class.is_empty() {
                html!("{}", piece.text)
            } else {
                html!("<span class=\"{}\">{}</span>", piece.class, piece.text)
            }
        })
        .collect();
    html!(
        "<div data-r=\"{}\"><time datetime=\"{}\">{}</time><span>{}</span></div>",
        record.replica,
        record.at.to_string(),
        words::clock(record.at),
        text
    )
}

/// The same for the script, which makes the same markup of it.
pub fn data(record: &Record) -> serde_json::Value {
    let pieces = ansi::pieces(shorten(&record.text, LINE_BYTES));
    let pieces: Vec<[String; 2]> = pieces
        .into_iter()
        .map(|piece| [piece.text, piece.class])
        .collect();
    serde_json::json!({
        "at": record.at.to_string(),
        "time": words::clock(record.at),
        "replica": record.replica,
        "text": pieces,
    })
}

/// The log on an app's page: its newest lines, and what the script needs to go on.
pub fn section(console: &Console, key: &AppKey) -> Html {
    let handle = console.platform().handle(key);
    let mut records = handle
        .map(|handle| handle.logs.tail(FIRST_LINES, |_| true))
        .unwrap_or_default();
    let mut bytes = 0;
    let fits = records.iter().rev().take_while(|record| {
        bytes += record.text.len().min(LINE_BYTES) + 150;
        bytes < FIRST_BYTES
    });
    records.drain(..records.len() - fits.count());
    let after = records.last().map(|record| record.at.to_string());
    // Few lines of an app that has ended need no room for more.
    let size = if records.len() < FEW_LINES {
        "log few"
    } else {
        "log"
    };
    let lines: Html = records.iter().map(line).collect();
    html!(
        include "assets/log.html",
        own_path(key, "logs"),
        size,
        after,
        lines,
    )
}

/// What a plain page of lines is asked for.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub struct Asked {
    pub q: String,
    pub replica: String,
    pub lines: Option<usize>,
}

/// The page that works without script: search is done here.
pub fn page(console: &Console, key: &AppKey, asked: &Asked) -> Html {
    let wanted = asked.q.to_lowercase();
    let count = asked.lines.unwrap_or(PLAIN_LINES).clamp(1, MOST_LINES);
    let handle = console.platform().handle(key);
    let records = handle.map(|handle| {
        handle.logs.tail(count, |record| {
            (asked.replica.is_empty() || record.replica == asked.replica)
                && (wanted.is_empty() || ansi::plain(&record.text).to_lowercase().contains(&wanted))
        })
    });
    let lines: Html = records.iter().flatten().map(line).collect();
    let empty = lines
        .is_empty()
        .then(|| html!("<p class=\"empty\">No line.</p>"));
    html!(
        "<nav class=\"crumbs\" aria-label=\"Breadcrumb\"><a href=\"/\">Apps</a><a href=\"{}\">{}</a>\
         <span>Log</span></nav><h1>Log of {}</h1><form class=\"bar\" method=\"get\" role=\"search\"><label>Search <input type=\"search\" \
         name=\"q\" value=\"{}\"></label><label>Replica <input name=\"replica\" value=\"{}\"></label>\
         <label>Lines <input type=\"number\" name=\"lines\" min=\"1\" max=\"{}\" value=\"{}\"></label>\
         <button class=\"small\">Show</button></form><div class=\"log whole wrap\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Log lines\">{}{}</div>",
        page_path(key),
        key.name(),
        key.name(),
        asked.q,
        asked.replica,
        MOST_LINES,
        count,
        lines,
        empty
    )
}
