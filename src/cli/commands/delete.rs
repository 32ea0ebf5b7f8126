//! `flyte delete app` and `flyte delete secret`.

use super::connect;
use crate::cli::args::{Delete, DeleteWhat};
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host};
use crate::config::Given;

pub fn run(
    host: &impl Host,
    printer: &Printer,
    given: Given,
    delete: Delete,
) -> Result<(), Failure> {
    let name = match delete.what {
        DeleteWhat::App { name, scope } => {
            let connected = connect(host, given, &scope)?;
            host.block(async { Ok(connected.client.delete(&connected.id(&name)).await?) })?;
            name
        }
        DeleteWhat::Secret { name, scope } => {
            let connected = connect(host, given, &scope)?;
            let id = connected.secret(&name);
            let org = &connected.settings.org;
            host.block(async { Ok(connected.client.delete_secret(org, &id).await?) })?;
            name
        }
    };
    if printer.is_json() {
        printer.json(&serde_json::json!({"deleted": name}));
    } else {
        printer.line(&format!("{name} is deleted"));
    }
    Ok(())
}
