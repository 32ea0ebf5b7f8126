//! `flyte update app`.

use super::{Connected, connect};
use crate::cli::args::{Update, UpdateWhat};
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host};
use crate::config::Given;
use crate::serve::{App, Options, details};
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
        deactivate: _,
        rollback,
        wait,
        scope,
    } = update.what;
    let connected = connect(host, given, &scope)?;
    let app = host.block(async {
        let id = connected.id(&name);
        let Connected { client, place, .. } = &connected;
        let console = &place.console;
        if let Some(to) = rollback {
            let revision = details::roll_back(place, client, &id, to).await?;
            let app = App::changing(client.clone(), console.clone(), &id, revision).await?;
            // Whoever goes back wants to know whether it worked.
            let patience = Options::default().activate_timeout;
            app.wait_until_active(patience, |_| {}).await?;
            return Ok(app);
        }
        let app = App::get(client.clone(), console.clone(), &id).await?;
        if activate {
            Box::pin(app.activate(wait)).await?;
        } else {
            app.deactivate(wait).await?;
        }
        Ok(app)
    })?;
    if printer.is_json() {
        printer.json(&super::describe(&app));
    } else {
        let state = status::short_name(app.deployment_status());
        match rollback {
            Some(_) => printer.line(&format!("{name} is {state} as revision {}", app.revision())),
            None => printer.line(&format!("{name} is {state}")),
        }
    }
    Ok(())
}
