//! `flyte get app`, `flyte get secret` and `flyte get logs`.

use super::{Connected, connect, describe, readable};
use crate::cli::args::{Get, GetWhat};
use crate::cli::printer::{Printer, locked};
use crate::cli::{Failure, Host};
use crate::client::{LOG_PATIENCE, Listing, LogLine};
use crate::config::Given;
use crate::secrets::Known;
use crate::serve::{App, details};
use crate::wire::app::status::DeploymentStatus;
use crate::wire::status;

pub fn run(host: &impl Host, printer: &Printer, given: Given, get: Get) -> Result<(), Failure> {
    match get.what {
        GetWhat::App {
            name: Some(name),
            revisions: wanted,
            scope,
            ..
        } => {
            let connected = connect(host, given, &scope)?;
            if wanted {
                revisions(host, printer, &connected, &name)
            } else {
                one(host, printer, &connected, &name)
            }
        }
        GetWhat::App {
            name: None,
            revisions: _,
            status,
            only_mine,
            limit,
            scope,
        } => {
            let connected = connect(host, given, &scope)?;
            let states = status.into_iter().collect();
            all(host, printer, &connected, states, only_mine, limit)
        }
        GetWhat::Config { scope } => super::config::show(host, printer, given, &scope),
        GetWhat::Secret { name, scope } => {
            let connected = connect(host, given, &scope)?;
            secrets(host, printer, &connected, name.as_deref())
        }
        GetWhat::Logs {
            name,
            follow,
            tail,
            show_ts,
            pretty,
            filter_system,
            scope,
        } => {
            let connected = connect(host, given, &scope)?;
            let tail = tail.or(pretty.then_some(BOX_LINES));
            let window = match (pretty, tail) {
                (true, Some(lines)) => printer.window(&name, lines),
                (true, None) | (false, _) => None,
            };
            let window = window.map(std::sync::Mutex::new);
            let show = |line: &LogLine| match &window {
                Some(window) => locked(window).push(&told(line, show_ts)),
                None => show_line(printer, line, show_ts),
            };
            let wanted = Wanted {
                follow: follow || window.is_some(),
                tail,
                filter_system,
            };
            host.block(logs(&connected, &name, wanted, show))
        }
    }
}

fn one(
    host: &impl Host,
    printer: &Printer,
    connected: &Connected,
    name: &str,
) -> Result<(), Failure> {
    let (app, traffic) = host.block(async {
        let client = connected.client.clone();
        let console = connected.place.console.clone();
        let id = connected.id(name);
        let app = App::get(client, console, &id).await?;
        let traffic = details::traffic(&connected.place, &connected.client, &id).await?;
        Ok((app, traffic))
    })?;
    let mut document = describe(&app);
    document["traffic"] = traffic.into();
    if printer.is_json() {
        printer.json(&document);
        return Ok(());
    }
    for field in [
        "name", "status", "substate", "message", "revision", "replicas", "endpoint", "url",
        "project", "domain",
    ] {
        if !document[field].is_null() {
            printer.line(&format!("{field:<9} {}", readable(&document[field])));
        }
    }
    Ok(())
}

fn revisions(
    host: &impl Host,
    printer: &Printer,
    connected: &Connected,
    name: &str,
) -> Result<(), Failure> {
    let revisions = host.block(async {
        let id = connected.id(name);
        Ok(details::revisions(&connected.place, &connected.client, &id).await?)
    })?;
    if printer.is_json() {
        printer.json(&revisions.into());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = revisions
        .iter()
        .map(|one| {
            ["revision", "state", "created_at", "image"]
                .map(|field| readable(&one[field]))
                .to_vec()
        })
        .collect();
    printer.table(&["REVISION", "STATE", "CREATED", "IMAGE"], &rows);
    Ok(())
}

fn all(
    host: &impl Host,
    printer: &Printer,
    connected: &Connected,
    states: Vec<DeploymentStatus>,
    only_mine: bool,
    limit: usize,
) -> Result<(), Failure> {
    let Connected {
        client,
        place,
        settings,
    } = connected;
    let apps = host.block(async {
        let created_by = if only_mine {
            Some(client.user_info().await?.subject)
        } else {
            None
        };
        let listing = Listing {
            org: &settings.org,
            project: &settings.project,
            domain: &settings.domain,
            states,
            created_by,
            sort_by: None,
            limit,
        };
        Ok(client.list(&listing).await?)
    })?;
    let apps: Vec<App> = apps
        .into_iter()
        .map(|app| App::listed(client.clone(), place.console.clone(), app))
        .collect();
    if printer.is_json() {
        let documents: Vec<serde_json::Value> = apps.iter().map(describe).collect();
        printer.json(&documents.into());
        return Ok(());
    }
    if apps.is_empty() {
        printer.note("no apps; `flyte serve app.py` starts one");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = apps
        .iter()
        .map(|app| {
            vec![
                app.name(),
                status::short_name(app.deployment_status()).to_owned(),
                app.revision().to_string(),
                app.endpoint(),
            ]
        })
        .collect();
    printer.table(&["NAME", "STATUS", "REVISION", "ENDPOINT"], &rows);
    Ok(())
}

fn secrets(
    host: &impl Host,
    printer: &Printer,
    connected: &Connected,
    name: Option<&str>,
) -> Result<(), Failure> {
    let Connected {
        client, settings, ..
    } = connected;
    let found = host.block(async {
        Ok(match name {
            Some(name) => vec![
                client
                    .get_secret(&settings.org, &connected.secret(name))
                    .await?,
            ],
            None => {
                let (project, domain) = (&settings.project, &settings.domain);
                client.list_secrets(&settings.org, project, domain).await?
            }
        })
    })?;
    let created = |one: &Known| {
        jiff::Timestamp::from_millisecond(one.created_ms)
            .map(|time| format!("{time:.0}"))
            .unwrap_or_default()
    };
    if printer.is_json() {
        let mut documents = found.iter().map(|one| {
            serde_json::json!({
                "name": one.id.name,
                "project": one.id.project,
                "domain": one.id.domain,
                "created_at": created(one),
            })
        });
        let document = match name {
            Some(_) => documents.next().unwrap_or_default(),
            None => documents.collect(),
        };
        printer.json(&document);
        return Ok(());
    }
    if found.is_empty() {
        printer.note("no secrets; `flyte create secret NAME` makes one");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|one| {
            let id = &one.id;
            vec![
                id.name.clone(),
                id.project.clone(),
                id.domain.clone(),
                created(one),
            ]
        })
        .collect();
    printer.table(&["NAME", "PROJECT", "DOMAIN", "CREATED"], &rows);
    Ok(())
}

/// Lines that `--pretty` shows unless told otherwise.
const BOX_LINES: usize = 30;

/// Which lines of a log are shown.
struct Wanted {
    follow: bool,
    tail: Option<usize>,
    filter_system: bool,
}

async fn logs(
    connected: &Connected,
    name: &str,
    wanted: Wanted,
    show: impl Fn(&LogLine),
) -> Result<(), Failure> {
    let id = connected.id(name);
    let is_wanted = |line: &&LogLine| !(wanted.filter_system && line.is_system);
    let past = connected.client.past_logs(&id, LOG_PATIENCE).await?;
    let lines: Vec<&LogLine> = past.iter().filter(is_wanted).collect();
    let skip = wanted
        .tail
        .map_or(0, |tail| lines.len().saturating_sub(tail));
    lines.into_iter().skip(skip).for_each(&show);
    if !wanted.follow {
        return Ok(());
    }
    let mut live = connected.client.tail_logs(&id, true).await?;
    live.skip(&past);
    while let Some(batch) = live.next().await? {
        batch.iter().filter(is_wanted).for_each(&show);
    }
    Ok(())
}

fn told(line: &LogLine, show_ts: bool) -> String {
    if show_ts {
        format!("{} {}", time(line), line.text)
    } else {
        line.text.clone()
    }
}

fn show_line(printer: &Printer, line: &LogLine, show_ts: bool) {
    if printer.is_json() {
        let document = serde_json::json!({
            "time": time(line),
            "replica": line.replica,
            "text": line.text,
        });
        printer.json_line(&document);
    } else {
        printer.line(&told(line, show_ts));
    }
}

fn time(line: &LogLine) -> String {
    jiff::Timestamp::from_nanosecond(line.timestamp_ns)
        .map(|time| format!("{time:.3}"))
        .unwrap_or_default()
}
