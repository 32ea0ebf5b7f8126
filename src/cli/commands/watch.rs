//! `flyte serve --watch`.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::serve::follow;
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host, watching};
use crate::config::Settings;
use crate::serve::watch::{Asked, Declaration, Happening, Latest, Teller, Watch};
use crate::serve::{App, Request};

/// Serves, and again after each change, until Ctrl-C; what was served goes on.
pub fn run(
    host: &impl Host,
    printer: &Printer,
    settings: Settings,
    request: Request,
    follows: bool,
) -> Result<(), Failure> {
    if let Some(asked) = Asked::here() {
        let scope = settings.describe();
        return asked
            .answer(&Declaration { request, scope })
            .map_err(|error| {
                Failure::Usage(format!("the declaration is not handed over: {error}"))
            });
    }
    let latest = Latest::default();
    let (teller, first) = announcing(watching::for_command_line(printer));
    let watch = Watch {
        request,
        loader: host.loader()?,
        teller,
        latest: latest.clone(),
    };
    let server = host.server(settings.clone(), printer.reporter())?;
    let outcome = host.block(async move {
        let logs = async {
            if let (true, Ok(app)) = (follows, first.await)
                && let Err(error) = follow(&app, |line| show_log(printer, line)).await
            {
                printer.note(&format!(
                    "note: the app's log is not followed any more: {error}"
                ));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            never = Box::pin(server.watch(watch)) => match never? {},
            () = logs => Ok(()),
        }
    });
    match (outcome, latest.get()) {
        (Err(Failure::Interrupted), Some(app)) => {
            watching::farewell(printer, &app, &settings);
            Ok(())
        }
        (outcome, _) => outcome,
    }
}

/// Told apart from the documents of a watch that is shown as JSON.
fn show_log(printer: &Printer, line: &str) {
    if printer.is_json() {
        printer.json_line(&serde_json::json!({"log": line}));
    } else {
        printer.line(line);
    }
}

/// Lets somebody else know of the app as well, once it answers.
fn announcing(teller: Teller) -> (Teller, oneshot::Receiver<Arc<App>>) {
    let (announce, first) = oneshot::channel();
    let announce = std::sync::Mutex::new(Some(announce));
    let telling: Teller = Arc::new(move |happening| {
        if let Happening::Serving(app) = &happening
            && let Ok(mut announce) = announce.lock()
            && let Some(announce) = announce.take()
        {
            // Nobody listens where logs are not followed.
            let _ = announce.send(Arc::clone(app));
        }
        teller(happening);
    });
    (telling, first)
}
