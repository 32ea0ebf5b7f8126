//! `flyte update app`.

use super::connect;
use crate::cli::args::{Update, UpdateWhat};
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host};
use crate::config::Given;
use crate::serve::App;
use crate::wire::status;

pub fn run(
    host: &impl Host,
    printer: &Printer,
    given: Given,
    update: Update,
) -> Result<(), Failure> {
    let UpdateWhat::App {
        name,
        activate,
        wait,
        scope,
        ..
    } = update.what;
    let connected = connect(host, given, &scope)?;
    let app = host.block(async {
        let id = connected.id(&name);
        let app = App::get(connected.client.clone(), connected.console.clone(), &id).await?;
        if activate {
            app.activate(wait).await?;
        } else {
            app.deactivate(wait).await?;
        }
        Ok(app)
    })?;
    if printer.is_json() {
        printer.json(&super::describe(&app));
    } else {
        printer.line(&format!(
            "{name} is {}",
            status::short_name(app.deployment_status())
        ));
    }
    Ok(())
}
