//! `flyte delete app`.

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
    let DeleteWhat::App { name, scope } = delete.what;
    let connected = connect(host, given, &scope)?;
    host.block(async { Ok(connected.client.delete(&connected.id(&name)).await?) })?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"deleted": name}));
    } else {
        printer.line(&format!("{name} is deleted"));
    }
    Ok(())
}
