//! An app's revisions, and what is different between two of them.

use std::cmp::Ordering;
use std::path::PathBuf;

use super::app::{AppPage, REVISIONS};
use super::diff::{self, Change};
use super::html::{Html, html};
use super::{Console, own_path, page_path, words};
use crate::error::with_causes;
use crate::files::archive::Limits;
use crate::files::contents::{self, Content};
use crate::local::platform::Refused;
use crate::local::store::{AppKey, AppRow, Revision, RevisionRow};

/// Files named in a comparison.
const FILES_SHOWN: usize = 200;

/// Bundles that are read for a comparison; the page is not worth more of somebody's machine.
const LIMITS: Limits = Limits {
    max_bytes: 512 << 20,
    max_entries: 20_000,
};

/// The newest revisions, each with what it changed.
pub fn table(page: &AppPage<'_>) -> Html {
    let row = &page.portrait.row;
    let revisions = &page.portrait.revisions;
    let rows: Html = revisions
        .iter()
        .take(REVISIONS as usize)
        .enumerate()
        .map(|(at, one)| {
            let before = revisions.get(at + 1);
            html!(
                "<tr id=\"revision-{}\"><th scope=\"row\" class=\"n\">{}</th><td>{}</td><td class=\"w1\">{}</td>\
                 <td class=\"text\">{}</td><td class=\"end\">{}</td></tr>",
                one.revision,
                one.revision,
                mark(row, one),
                words::moment_of_ms(one.created_at),
                changes(page.key, before, one),
                back(page, one),
            )
        })
        .collect();
    html!(
        "<div class=\"card scroll\" tabindex=\"0\" role=\"group\" aria-labelledby=\"h-revisions\"><table>\
         <caption class=\"vh\">Revisions, newest first</caption><thead><tr>\
         <th scope=\"col\" class=\"n\">No.</th><th scope=\"col\">State</th><th scope=\"col\" class=\"w1\">Created</th>\
         <th scope=\"col\">Changed</th><th scope=\"col\"><span class=\"vh\">Actions</span></th></tr></thead>\
         <tbody>{}</tbody></table></div>",
        rows
    )
}

fn mark(row: &AppRow, one: &RevisionRow) -> Html {
    let (word, class) = if row.serving == Some(one.revision) && row.desired_active {
        ("Serving", "ok")
    } else if one.failed {
        ("Failed", "bad")
    } else if one.revision > row.serving.unwrap_or(0) && row.desired_active {
        ("Starting", "busy")
    } else {
        ("Replaced", "off")
    };
    html!("<span class=\"st {}\">{}</span>", class, word)
}

fn changes(key: &AppKey, before: Option<&RevisionRow>, one: &RevisionRow) -> Html {
    let Some(before) = before else {
        return html!("<span class=\"muted\">first</span>");
    };
    let changes = diff::between(&before.app, &one.app);
    let link = format!(
        "{}?from={}&to={}",
        own_path(key, "compare"),
        before.revision,
        one.revision
    );
    let kinds = if changes.is_empty() {
        html!("<span class=\"muted\">nothing</span>")
    } else {
        let kinds = diff::kinds(&changes).into_iter();
        kinds
            .map(|kind| html!("<span class=\"tag\">{}</span> ", kind))
            .collect()
    };
    html!(
        "{}<a href=\"{}\">compare<span class=\"vh\"> revisions {} and {}</span></a>",
        kinds,
        link,
        before.revision,
        one.revision
    )
}

/// The way to another revision; a newer one is there after a roll back, or when it failed.
fn back(page: &AppPage<'_>, one: &RevisionRow) -> Option<Html> {
    let row = &page.portrait.row;
    let now = row.serving.unwrap_or(row.latest);
    let (label, act) = match one.revision.cmp(&now) {
        Ordering::Less => ("Roll back", "Rolling back"),
        Ordering::Greater => ("Roll forward", "Rolling forward"),
        Ordering::Equal => return None,
    };
    Some(html!(
        "<form id=\"to-{}\" method=\"post\" action=\"{}\" data-act=\"{}\"><input type=\"hidden\" name=\"token\" \
         value=\"{}\"><input type=\"hidden\" name=\"revision\" value=\"{}\"><button class=\"small\">{}\
         <span class=\"vh\"> to revision {}</span></button></form>",
        one.revision,
        own_path(page.key, "rollback"),
        act,
        page.console.token().text(),
        one.revision,
        label,
        one.revision
    ))
}

/// A page on what is different between two revisions.
pub fn compare(
    console: &Console,
    key: &AppKey,
    from: Revision,
    to: Revision,
) -> Result<Html, Refused> {
    let platform = console.platform();
    let (before, after) = (platform.revision(key, from)?, platform.revision(key, to)?);
    let changes = diff::between(&before.app, &after.app);
    let uploads = platform.uploads();
    Ok(html!(
        "<nav class=\"crumbs\" aria-label=\"Breadcrumb\"><a href=\"/\">Apps</a><a href=\"{}\">{}</a>\
         <span>Revisions</span></nav><h1>From revision {} to {}</h1><form class=\"bar\" method=\"get\"><label>From <input name=\"from\" \
         type=\"number\" min=\"1\" value=\"{}\"></label><label>To <input name=\"to\" type=\"number\" min=\"1\" \
         value=\"{}\"></label><button class=\"small\">Compare</button></form>{}{}",
        page_path(key),
        key.name(),
        from,
        to,
        from,
        to,
        settings(&changes),
        files(&uploads, &before, &after),
    ))
}

fn settings(changes: &[Change]) -> Html {
    if changes.is_empty() {
        return html!("<p class=\"empty\">The two say the same.</p>");
    }
    let rows: Html = changes
        .iter()
        .map(|change| {
            let side = |value: &Option<String>, sign: &str| match value {
                Some(value) if sign == "-" => html!("<del><code>{}</code></del>", value),
                Some(value) => html!("<ins><code>{}</code></ins>", value),
                None => html!("<span class=\"muted\">–</span>"),
            };
            html!(
                "<tr><th scope=\"row\">{} {}</th><td class=\"text\">{}</td><td class=\"text\">{}</td></tr>",
                change.field.kind.name(),
                change.field.name,
                side(&change.before, "-"),
                side(&change.after, "+"),
            )
        })
        .collect();
    html!(
        "<section aria-labelledby=\"h-s\"><h2 id=\"h-s\">Settings</h2><div class=\"card scroll\" \
         tabindex=\"0\" role=\"group\" aria-labelledby=\"h-s\"><table>\
         <thead><tr><th scope=\"col\">What</th><th scope=\"col\">Before</th><th scope=\"col\">After</th></tr>\
         </thead><tbody>{}</tbody></table></div></section>",
        rows
    )
}

/// Which files of the two bundles differ.
fn files(uploads: &std::path::Path, before: &RevisionRow, after: &RevisionRow) -> Html {
    let (old, new) = (
        &before.app.metadata.code_bundle_uri,
        &after.app.metadata.code_bundle_uri,
    );
    let told = match (of_bundle(uploads, old), of_bundle(uploads, new)) {
        (Ok(old), Ok(new)) => files_between(&old, &new),
        (Err(reason), _) | (_, Err(reason)) => html!("<p class=\"empty\">{}</p>", reason),
    };
    html!(
        "<section aria-labelledby=\"h-f\"><h2 id=\"h-f\">Files</h2>{}</section>",
        told
    )
}

type Files = std::collections::BTreeMap<String, Content>;

fn of_bundle(uploads: &std::path::Path, uri: &str) -> Result<Files, String> {
    if uri.is_empty() {
        return Ok(Files::new());
    }
    let path = uri.strip_prefix("file://").map(PathBuf::from);
    // An app may name any file; only what was uploaded is ours to open.
    let own = path
        .and_then(|path| path.canonicalize().ok())
        .filter(|path| {
            uploads
                .canonicalize()
                .is_ok_and(|uploads| path.starts_with(uploads))
        });
    let Some(path) = own else {
        return Err(format!(
            "The bundle {} is not on this machine.",
            diff::digest(uri)
        ));
    };
    contents::of(&path, LIMITS)
        .map_err(|error| format!("A bundle was not read: {}.", with_causes(&error)))
}

fn files_between(old: &Files, new: &Files) -> Html {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| old.get(*name) != new.get(*name));
    let count = |files: &Files| words::counted(files.len() as u64, "file", "files");
    if names.is_empty() {
        return html!("<p class=\"empty\">The same {}.</p>", count(new));
    }
    let total = format!(
        "{} before, {} after; {}",
        count(old),
        count(new),
        words::counted(names.len() as u64, "differs", "differ")
    );
    let shown = names.iter().take(FILES_SHOWN);
    let rows: Html = shown
        .map(|name| file(name, old.get(*name), new.get(*name)))
        .collect();
    let more = names.len().saturating_sub(FILES_SHOWN);
    let more = (more > 0).then(|| html!(" <span>{} are not shown.</span>", more));
    html!(
        "<p class=\"muted\">{}.{}</p><div class=\"card scroll\" tabindex=\"0\" role=\"group\" \
         aria-labelledby=\"h-f\"><table><thead><tr><th scope=\"col\">File</th>\
         <th scope=\"col\">What</th><th scope=\"col\" class=\"n\">Before</th><th scope=\"col\" class=\"n\">After\
         </th></tr></thead><tbody>{}</tbody></table></div>",
        total,
        more,
        rows
    )
}

/// One file that is not the same on both sides.
fn file(name: &str, old: Option<&Content>, new: Option<&Content>) -> Html {
    let size = |file: Option<&Content>| {
        file.map_or_else(|| "–".to_owned(), |file| words::bytes(file.bytes))
    };
    let (word, class) = match (old, new) {
        (None, _) => ("added", "ok"),
        (Some(_), None) => ("removed", "bad"),
        (Some(_), Some(_)) => ("changed", "busy"),
    };
    html!(
        "<tr><th scope=\"row\"><code>{}</code></th><td><span class=\"st {}\">{}</span></td>\
         <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        name,
        class,
        word,
        size(old),
        size(new)
    )
}
