//! `flyte local`: the platform of this machine.

use std::io::{BufRead, IsTerminal};
use std::net::SocketAddr;

use super::readable;
use crate::cli::args::{Local, LocalWhat};
use crate::cli::printer::{self, Printer};
use crate::cli::{Failure, Host};
use crate::config::{Given, Home};
use crate::serve::platform;

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
            let stopped = host.block(async { Ok(platform::stop(&home).await?) })?;
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
        .block(async { Ok(platform::status(home).await) })?
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

fn reset(host: &impl Host, printer: &Printer, home: &Home, yes: bool) -> Result<(), Failure> {
    if !yes && !confirmed(printer, home) {
        return Err(Failure::Usage(
            "nothing was deleted; `flyte local reset --yes` does not ask".into(),
        ));
    }
    host.block(async { Ok(platform::stop(home).await?) })?;
    platform::reset(home)?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"reset": home.path()}));
    } else {
        printer.line(&format!("`{}` is empty", home.path().display()));
    }
    Ok(())
}

fn confirmed(printer: &Printer, home: &Home) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    printer.note(&format!(
        "this deletes all apps, environments and bundles in `{}`; type `yes` to go on",
        home.path().display()
    ));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}
