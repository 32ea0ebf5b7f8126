//! `flyte create secret` and `flyte create config`. Where a secret's value comes from, and that it is
//! shown nowhere, is decided here.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::{Connected, config, connect, from_input};
use crate::cli::args::{Create, CreateWhat, SecretKind};
use crate::cli::hidden;
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host};
use crate::config::Given;
use crate::secrets::Value;
use crate::wire::secret::SecretType;

pub fn run(
    host: &impl Host,
    printer: &Printer,
    given: Given,
    create: Create,
) -> Result<(), Failure> {
    match create.what {
        CreateWhat::Config {
            file,
            force,
            ca_cert_file,
            registry,
            scope,
        } => {
            let new = config::New {
                file,
                force,
                ca_cert_file,
                registry,
                scope,
            };
            config::create(printer, given, new)
        }
        CreateWhat::Secret {
            name,
            from_file,
            from_env,
            value,
            kind,
            replace,
            scope,
        } => {
            let value = match (from_file, from_env, value) {
                (Some(path), ..) => from(&path)?,
                (None, Some(variable), _) => from_variable(&variable)?,
                (None, None, Some(value)) => {
                    printer.note(SEEN);
                    Zeroizing::new(value.into_bytes())
                }
                (None, None, None) => asked(host, &name)?,
            };
            let connected = connect(host, given, &scope)?;
            keep(host, printer, &connected, &name, &value, kind, replace)
        }
    }
}

const SEEN: &str = "a value on the command line can be seen by others and stays in the shell's \
                    history; without `--value` it is asked for";

fn from(path: &Path) -> Result<Value, Failure> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| usage(format!("cannot read `{}`: {error}", path.display())))
}

fn from_variable(name: &str) -> Result<Value, Failure> {
    std::env::var_os(name)
        .map(|value| Zeroizing::new(value.into_encoded_bytes()))
        .ok_or_else(|| usage(format!("the environment variable `{name}` is not set")))
}

fn keep(
    host: &impl Host,
    printer: &Printer,
    connected: &Connected,
    name: &str,
    value: &Value,
    kind: SecretKind,
    replace: bool,
) -> Result<(), Failure> {
    if value.is_empty() {
        return Err(usage("a secret cannot be empty".to_owned()));
    }
    let kind = match kind {
        SecretKind::Regular => SecretType::SECRET_TYPE_GENERIC,
        SecretKind::ImagePull => SecretType::SECRET_TYPE_IMAGE_PULL_SECRET,
    };
    let id = connected.secret(name);
    host.block(async {
        let org = &connected.settings.org;
        let client = &connected.client;
        Ok(client.create_secret(org, &id, value, kind, replace).await?)
    })?;
    if printer.is_json() {
        printer.json(&serde_json::json!({
            "name": id.name, "project": id.project, "domain": id.domain,
        }));
    } else {
        printer.line(&format!("{name} is kept for {}", id.scope()));
    }
    Ok(())
}

fn usage(text: String) -> Failure {
    Failure::Usage(text)
}

/// From whoever sits there, or from standard input.
fn asked(host: &impl Host, name: &str) -> Result<Value, Failure> {
    if io::stdin().is_terminal() {
        return match hidden::ask(&format!("Value of `{name}` (is not shown): ")) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Failure::Interrupted),
            Err(error) => Err(usage(format!("the terminal cannot be read: {error}"))),
        };
    }
    let read = || -> io::Result<Value> {
        let mut value = Zeroizing::new(Vec::new());
        io::stdin().read_to_end(&mut value)?;
        Ok(value)
    };
    let mut value = from_input(host, read)?
        .map_err(|error| usage(format!("standard input cannot be read: {error}")))?;
    // `echo` and editors end the last line.
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    Ok(value)
}
