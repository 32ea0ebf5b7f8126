//! The page of an error's code, which `flyte explain` prints and the documentation shows as well.
//!
//! The pages are written in few forms of Markdown, which is all that is known here: headings,
//! lists, paragraphs, fenced code and literals in backticks. What is not one of them is a paragraph.

use super::html::{Html, html};
use super::words;
use crate::error::Code;

/// The heading in front of what helps.
const ADVICE: &str = "## What to do";

/// A piece of a page.
#[derive(Debug, PartialEq)]
enum Block {
    Title(String),
    Heading(String),
    List(Vec<String>),
    Code(String),
    Paragraph(String),
}

/// The whole page of a code.
pub fn page(code: Code) -> Html {
    let body: Html = blocks(code.page()).iter().map(markup).collect();
    html!(
        "<nav class=\"crumbs\" aria-label=\"Breadcrumb\"><a href=\"/\">Apps</a><span>Error codes</span></nav>\
         <article class=\"prose\">{}</article>",
        body
    )
}

/// Where that page is.
pub fn path(code: Code) -> String {
    format!("/console/codes/{}", code.as_str())
}

/// What the page advises.
pub fn advice(code: Code) -> Html {
    let (_, rest) = code.page().split_once(ADVICE).unwrap_or_default();
    let section = rest.split("\n## ").next().unwrap_or_default();
    blocks(section).iter().map(markup).collect()
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    let mut is_open = false;
    while let Some(line) = lines.next() {
        let goes_on = std::mem::replace(&mut is_open, true);
        if line.starts_with("```") {
            let code = lines.by_ref().take_while(|line| !line.starts_with("```"));
            blocks.push(Block::Code(code.collect::<Vec<_>>().join("\n")));
        } else if let Some(title) = line.strip_prefix("# ") {
            blocks.push(Block::Title(title.to_owned()));
        } else if let Some(heading) = line.strip_prefix("## ") {
            blocks.push(Block::Heading(heading.to_owned()));
        } else if let Some(item) = line.strip_prefix("- ") {
            match blocks.last_mut() {
                Some(Block::List(items)) => items.push(item.to_owned()),
                Some(_) | None => blocks.push(Block::List(vec![item.to_owned()])),
            }
        } else if line.trim().is_empty() || line.starts_with("<!--") {
            is_open = false;
        } else {
            add(&mut blocks, line.trim(), goes_on);
        }
    }
    blocks
}

/// A line that begins nothing belongs to what is there, where no blank line is between them.
fn add(blocks: &mut Vec<Block>, line: &str, goes_on: bool) {
    let open = match blocks.last_mut().filter(|_| goes_on) {
        Some(Block::Paragraph(text)) => Some(text),
        Some(Block::List(items)) => items.last_mut(),
        Some(Block::Title(_) | Block::Heading(_) | Block::Code(_)) | None => None,
    };
    match open {
        Some(open) => {
            open.push(' ');
            open.push_str(line);
        }
        None => blocks.push(Block::Paragraph(line.to_owned())),
    }
}

fn markup(block: &Block) -> Html {
    match block {
        Block::Title(text) => html!("<h1>{}</h1>", words::prose(text)),
        Block::Heading(text) => html!("<h2>{}</h2>", words::prose(text)),
        Block::Paragraph(text) => html!("<p>{}</p>", words::prose(text)),
        Block::Code(text) => html!(
            "<pre class=\"log brief\" tabindex=\"0\" role=\"region\" aria-label=\"Example\">{}</pre>",
            text
        ),
        Block::List(items) => {
            let items: Html = items
                .iter()
                .map(|item| html!("<li>{}</li>", words::prose(item)))
                .collect();
            html!("<ul>{}</ul>", items)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_title_and_advice() {
        for code in Code::ALL.iter().copied() {
            let found = blocks(code.page());
            assert!(matches!(found[0], Block::Title(_)), "{code}: {found:?}");
            let shown = advice(code).into_string();
            assert!(shown.starts_with("<ul><li>"), "{code}: {shown}");
            assert!(!shown.contains("<h2>"), "{code}: {shown}");
        }
    }

    #[test]
    fn lines_go_on_and_markup_stays_text() {
        let page = "# `a`\n\none\ntwo\n\n- x `<b>`\n  y\n- z\n\n```console\n$ a <b>\n\n$ c\n```\n";
        let shown: Html = blocks(page).iter().map(markup).collect();
        assert_eq!(
            shown.into_string(),
            "<h1><code>a</code></h1><p>one two</p><ul><li>x <code>&lt;b&gt;</code> y</li><li>z</li></ul>\
             <pre class=\"log brief\" tabindex=\"0\" role=\"region\" aria-label=\"Example\">$ a &lt;b&gt;\n\n\
             $ c</pre>"
        );
    }
}
