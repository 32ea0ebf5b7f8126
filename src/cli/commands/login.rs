//! `flyte whoami`, `flyte login` and `flyte logout`.

use connectrpc::ErrorCode;

use crate::cli::args::Scope;
use crate::cli::commands::connect;
use crate::cli::printer::{Printer, prompt};
use crate::cli::{Failure, Host};
use crate::client::{Client, Error};
use crate::config::{Endpoint, Given};
use crate::serve::platform;
use crate::wire::auth::UserInfoResponse;

pub fn whoami(host: &impl Host, printer: &Printer, given: Given) -> Result<(), Failure> {
    let settings = host.settings(&given)?;
    if settings.endpoint == Endpoint::Local {
        return Err(nobody());
    }
    let connected = connect(host, given, &Scope::default())?;
    let user = host.block(async { Ok(connected.client.user_info().await?) })?;
    show(printer, connected.client.endpoint(), &user);
    Ok(())
}

/// Logs in, because a person said so: there is one, whatever the terminal looks like.
pub fn login(host: &impl Host, printer: &Printer, given: Given) -> Result<(), Failure> {
    let client = remote(host, &given)?;
    let user = host.block(async {
        client.credentials().login().await.map_err(Error::from)?;
        match client.user_info().await {
            // Some control planes take tokens and do not tell whose they are.
            Err(Error::Rejected {
                code: ErrorCode::Unimplemented,
                ..
            }) => Ok(UserInfoResponse::default()),
            other => Ok(other?),
        }
    })?;
    show(printer, client.endpoint(), &user);
    Ok(())
}

pub fn logout(host: &impl Host, printer: &Printer, given: Given) -> Result<(), Failure> {
    let client = remote(host, &given)?;
    let was = host.block(async {
        let forgotten = client.credentials().logout().await;
        Ok(forgotten.map_err(Error::from)?)
    })?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"endpoint": client.endpoint(), "forgotten": was}));
    } else if was {
        printer.note(&format!("the login at {} is forgotten", client.endpoint()));
    } else {
        printer.note(&format!("no login at {} was kept", client.endpoint()));
    }
    Ok(())
}

/// A client of the configured control plane, which must not be the local platform.
fn remote(host: &impl Host, given: &Given) -> Result<Client, Failure> {
    let settings = host.settings(given)?;
    if settings.endpoint == Endpoint::Local {
        return Err(nobody());
    }
    for warning in settings.warnings() {
        prompt(&warning);
    }
    host.block(async { Ok(platform::reach(&settings).await?) })
}

fn nobody() -> Failure {
    Failure::Usage(
        "the local platform knows no users; name a control plane with `--endpoint` or a \
         configuration file"
            .into(),
    )
}

fn show(printer: &Printer, endpoint: &str, user: &UserInfoResponse) {
    let fields = [
        ("subject", &user.subject),
        ("name", &user.name),
        ("username", &user.preferred_username),
        ("email", &user.email),
    ];
    if printer.is_json() {
        let mut document = serde_json::json!({"endpoint": endpoint});
        for (name, value) in fields {
            document[name] = value.as_str().into();
        }
        printer.json(&document);
        return;
    }
    printer.line(&format!("endpoint  {endpoint}"));
    for (name, value) in fields {
        if !value.is_empty() {
            printer.line(&format!("{name:<9} {value}"));
        }
    }
}
