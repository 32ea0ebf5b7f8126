//! `flyte local`: the platform of this machine.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;

use super::{from_input, readable};
use crate::cli::args::{Local, LocalWhat};
use crate::cli::printer::{self, Printer};
use crate::cli::{Failure, Host};
use crate::config::{Given, Home};
use crate::local::prune::{Kind, Order, Report};
use crate::serve::trust::{Outcome, Place, Trust};
use crate::serve::{platform, size};

pub fn run(
    host: &impl Host,
    printer: &Printer,
    mut given: Given,
    local: Local,
) -> Result<(), Failure> {
    given.endpoint = Some(String::new());
    let settings = host.settings(&given)?;
    let home = settings.home.clone();
    match local.what {
        LocalWhat::Start {
            listen,
            allow_remote,
        } => {
            let listen = listen.map(|text| door(&text, allow_remote)).transpose()?;
            let server = host.server(settings, printer::silent())?;
            host.block(async {
                let note = |text: &str| printer.note(text);
                let client = platform::ensure(&home, &server.launcher, &note).await?;
                if let Some(address) = listen {
                    let at = platform::listen(&client, address).await?;
                    if let Some(at) = at {
                        note(&opened(&at));
                    }
                }
                Ok(())
            })?;
            status(host, printer, &home)
        }
        LocalWhat::Stop => {
            let note = |text: &str| printer.note(text);
            let stopped = host.block(async { Ok(platform::stop(&home, &note).await?) })?;
            if printer.is_json() {
                printer.json(&serde_json::json!({"stopped": stopped}));
            } else if stopped {
                printer.line("the local platform has ended; its apps come back when it starts");
            } else {
                printer.line("the local platform does not run");
            }
            Ok(())
        }
        LocalWhat::Status => status(host, printer, &home),
        LocalWhat::Logs { tail } => {
            let text = std::fs::read_to_string(home.platform_log()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(tail)..] {
                printer.line(line);
            }
            Ok(())
        }
        LocalWhat::Trust {
            domain,
            browsers,
            print,
            remove,
        } => {
            let own = Trust::of(&home);
            if remove {
                distrust(printer, &own)
            } else if print {
                certificate(printer, &own, &domain)
            } else {
                trust(printer, &own, &domain, browsers)
            }
        }
        LocalWhat::Prune { dry_run, all } => {
            let order = Order { dry_run, all };
            let server = host.server(settings.clone(), printer::silent())?;
            let report = host
                .block(async { Ok(platform::prune(server.toolchain, &settings, order).await?) })?;
            pruned(printer, &report)
        }
        LocalWhat::Reset { yes } => reset(host, printer, &home, yes),
    }
}

/// What `--listen` says: an address, or nowhere.
fn door(text: &str, allow_remote: bool) -> Result<Option<SocketAddr>, Failure> {
    if text == "off" {
        return Ok(None);
    }
    let numbers = text.strip_prefix("localhost:");
    let numbers = numbers.map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = numbers.parse().map_err(|_| {
        Failure::Usage(format!(
            "`--listen {text}` is not an address with a port, such as 127.0.0.1:8090, nor `off`"
        ))
    })?;
    if !address.ip().is_loopback() && !allow_remote {
        return Err(Failure::Usage(format!(
            "other machines reach `{address}`, and whoever does can run code as you; \
             `--allow-remote` means that"
        )));
    }
    Ok(Some(address))
}

/// What an open port means.
fn opened(at: &str) -> String {
    format!(
        "other clients reach this platform at {at}; there is no login: every program and user \
         that can connect to it can run code as you. `flyte local start --listen off` closes it"
    )
}

fn status(host: &impl Host, printer: &Printer, home: &Home) -> Result<(), Failure> {
    let status = host
        .block(async { Ok(platform::status(home).await?) })?
        .ok_or(platform::Error::NotRunning)?;
    if printer.is_json() {
        printer.json(&status);
        return Ok(());
    }
    for field in ["pid", "home", "version", "console", "by_name", "listen"] {
        if !status[field].is_null() {
            printer.line(&format!("{field:<8} {}", readable(&status[field])));
        }
    }
    for aside in status["set_aside"].as_array().into_iter().flatten() {
        printer.note(&format!(
            "a damaged database was set aside at `{}`; delete it once nothing is missed",
            readable(aside)
        ));
    }
    let rows: Vec<Vec<String>> = status["apps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|app| {
            ["name", "status", "revision", "endpoint"]
                .map(|field| readable(&app[field]))
                .to_vec()
        })
        .collect();
    if !rows.is_empty() {
        printer.line("");
        printer.table(&["NAME", "STATUS", "REVISION", "ENDPOINT"], &rows);
    }
    Ok(())
}

fn trust(
    printer: &Printer,
    trust: &Trust,
    domains: &[String],
    browsers: bool,
) -> Result<(), Failure> {
    let places = trust.install(domains, browsers)?;
    let certificate = trust.certificate(&[])?;
    show_places(printer, "trusted by", &places, Some(&certificate));
    printer.note("apps answer over TLS at the ports they have: write `https` for `http`");
    Ok(())
}

fn certificate(printer: &Printer, trust: &Trust, domains: &[String]) -> Result<(), Failure> {
    let certificate = trust.certificate(domains)?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"certificate": certificate}));
    } else {
        printer.line(&certificate.display().to_string());
    }
    Ok(())
}

fn distrust(printer: &Printer, trust: &Trust) -> Result<(), Failure> {
    let places = trust.remove()?;
    if places.is_none() {
        printer.note("there is no authority to remove");
    }
    let places = places.unwrap_or_default();
    show_places(printer, "no longer trusted by", &places, None);
    Ok(())
}

/// What became of each place; those that were left out are told with what to do about them.
fn show_places(printer: &Printer, done: &str, places: &[Place], certificate: Option<&Path>) {
    if printer.is_json() {
        let places: Vec<serde_json::Value> = places.iter().map(document).collect();
        printer.json(&serde_json::json!({"certificate": certificate, "places": places}));
        return;
    }
    for place in places {
        match &place.outcome {
            Outcome::Done => printer.line(&format!("{done} {}", place.name)),
            Outcome::Failed { reason, step } => {
                printer.note(&format!("{}: {reason}; {step}", place.name));
            }
        }
    }
}

fn document(place: &Place) -> serde_json::Value {
    match &place.outcome {
        Outcome::Done => serde_json::json!({"place": place.name, "done": true}),
        Outcome::Failed { reason, step } => serde_json::json!({
            "place": place.name, "done": false, "reason": reason, "step": step,
        }),
    }
}

/// What went, by kind and size, and what stays.
fn pruned(printer: &Printer, report: &Report) -> Result<(), Failure> {
    if printer.is_json() {
        let report =
            serde_json::to_value(report).map_err(|error| Failure::Usage(error.to_string()))?;
        printer.json(&report);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = report
        .removed
        .iter()
        .map(|one| {
            let days = one.unused_seconds / (24 * 3600);
            vec![
                kind(one.kind).to_owned(),
                size(one.bytes),
                format!("{days} d"),
                one.name.clone(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        printer.table(&["KIND", "SIZE", "UNUSED", "NAME"], &rows);
        printer.line("");
    }
    let verb = if report.dry_run { "would be" } else { "was" };
    printer.line(&format!(
        "{} {verb} removed, {} stay:",
        size(report.freed_bytes),
        size(report.kept_bytes)
    ));
    for (of, sum) in &report.kept {
        printer.line(&format!(
            "  {:<12} {:>6}  {}",
            kind(*of),
            sum.count,
            size(sum.bytes)
        ));
    }
    Ok(())
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Bundle => "bundle",
        Kind::Environment => "environment",
        Kind::Parameter => "parameter",
        Kind::Image => "image",
        Kind::Archive => "archive",
        Kind::Run => "run folder",
        Kind::Revision => "revision",
    }
}

fn reset(host: &impl Host, printer: &Printer, home: &Home, yes: bool) -> Result<(), Failure> {
    if !yes && !confirmed(host, printer, home)? {
        return Err(Failure::Usage(
            "nothing was deleted; `flyte local reset --yes` does not ask".into(),
        ));
    }
    let note = |text: &str| printer.note(text);
    host.block(async { Ok(platform::reset(home, &note).await?) })?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"reset": home.path()}));
    } else {
        printer.line(&format!("`{}` is empty", home.path().display()));
    }
    Ok(())
}

fn confirmed(host: &impl Host, printer: &Printer, home: &Home) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    printer.note(&format!(
        "this deletes all apps, environments and bundles in `{}`; type `yes` to go on",
        home.path().display()
    ));
    let read = || -> io::Result<String> {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = from_input(host, read)?;
    Ok(answer.is_ok_and(|answer| answer.trim() == "yes"))
}
