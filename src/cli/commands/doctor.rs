//! `flyte doctor`: what serving needs, how it is, and what mends it.

use serde_json::json;

use crate::cli::printer::{self, Printer};
use crate::cli::{Failure, Host};
use crate::config::Given;
use crate::serve::checkup::{self, Finding, State};

/// Ends with status 1 when something that serving needs is broken.
pub fn run(host: &impl Host, printer: &Printer, given: Given) -> Result<(), Failure> {
    let findings = look(host, given)?;
    let broken = findings
        .iter()
        .filter(|one| one.state == State::Broken)
        .count();
    if printer.is_json() {
        let checks: Vec<_> = findings.iter().map(document).collect();
        printer.json(&json!({"ok": broken == 0, "checks": checks}));
    } else {
        for one in &findings {
            printer.finding(one);
        }
        printer.line("");
        printer.line(&verdict(broken));
    }
    match broken {
        0 => Ok(()),
        _ => Err(Failure::Shown { status: 1 }),
    }
}

/// A configuration that cannot be read is one of the things to be told, not the end of it.
fn look(host: &impl Host, given: Given) -> Result<Vec<Finding>, Failure> {
    // Looking starts no login either.
    let given = Given {
        interactive: Some(false),
        ..given
    };
    let settings = match host.settings(&given) {
        Ok(settings) => settings,
        Err(Failure::Told(error)) => {
            let fix = error.hints().join("; ");
            let fix = if fix.is_empty() {
                "mend the file or the variable".to_owned()
            } else {
                fix
            };
            let text = crate::error::with_causes(error.as_ref()).replace('\n', "; ");
            return Ok(vec![Finding::other("config", State::Broken, text, fix)]);
        }
        Err(other) => return Err(other),
    };
    let server = host.server(settings.clone(), printer::silent())?;
    host.block(
        async move { Ok(checkup::look(&settings, &server.toolchain, &server.launcher).await) },
    )
}

fn verdict(broken: usize) -> String {
    match broken {
        0 => "everything that serving needs is there".to_owned(),
        1 => "1 thing that serving needs is broken".to_owned(),
        _ => format!("{broken} things that serving needs are broken"),
    }
}

fn document(finding: &Finding) -> serde_json::Value {
    json!({
        "name": finding.name,
        "state": finding.state.word(),
        "detail": finding.detail,
        "fix": finding.fix,
    })
}
