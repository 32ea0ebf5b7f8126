//! One file a verb.

pub mod build;
pub mod bundle;
pub mod completion;
pub mod config;
pub mod create;
pub mod delete;
pub mod deploy;
pub mod doctor;
pub mod explain;
pub mod get;
pub mod init;
pub mod local;
pub mod login;
pub mod serve;
pub mod update;
pub mod watch;

use std::io;

use tokio::sync::oneshot;

use super::{Failure, Host, args::Scope, printer};
use crate::client::Client;
use crate::config::{Given, Settings};
use crate::secrets::Id;
use crate::serve::platform::{self, OtherBuild, Place};
use crate::wire::{app, identifier, status};

/// A connected control plane, for commands about apps that exist.
pub struct Connected {
    pub client: Client,
    pub place: Place,
    pub settings: Settings,
}

impl Connected {
    pub fn id(&self, name: &str) -> app::Identifier {
        let settings = &self.settings;
        identifier(&settings.org, &settings.project, &settings.domain, name)
    }

    pub fn secret(&self, name: &str) -> Id {
        Id {
            project: self.settings.project.clone(),
            domain: self.settings.domain.clone(),
            name: name.to_owned(),
        }
    }
}

/// Connects, starting the local platform where that is needed.
pub fn connect(host: &impl Host, mut given: Given, scope: &Scope) -> Result<Connected, Failure> {
    given.project.clone_from(&scope.project);
    given.domain.clone_from(&scope.domain);
    let settings = host.settings(&given)?;
    let server = host.server(settings.clone(), printer::silent())?;
    host.block(async move {
        let note = &printer::prompt;
        let client = platform::connect(&settings, &server.launcher, OtherBuild::Use, note).await?;
        let place = platform::place(&settings, &client, &server.launcher.build).await;
        Ok(Connected {
            client,
            place,
            settings,
        })
    })
}

/// What `read` takes from standard input, unless Ctrl-C comes first, after which a read goes on. So it has
/// a thread of its own; one of the runtime's would be waited for when this process ends.
pub fn from_input<T: Send + 'static>(
    host: &impl Host,
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>, Failure> {
    let (sender, taken) = oneshot::channel();
    let reading = std::thread::Builder::new().spawn(move || {
        // Nobody waits any more after Ctrl-C.
        let _ = sender.send(read());
    });
    if let Err(error) = reading {
        return Ok(Err(error));
    }
    host.block(async move {
        let taken = taken.await;
        Ok(taken.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into())))
    })
}

/// `KEY=VALUE`, split.
pub fn pair(text: &str, option: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage(format!(
            "`{option} {text}` is not of the form KEY=VALUE"
        ))),
    }
}

/// A value of a JSON document as people read it: text without quotes.
pub fn readable(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// An app as a JSON document.
pub fn describe(app: &crate::serve::App) -> serde_json::Value {
    let known = app.known();
    let id = app.id();
    let latest = status::latest(&known);
    serde_json::json!({
        "name": id.name,
        "project": id.project,
        "domain": id.domain,
        "status": status::short_name(app.deployment_status()),
        "substate": latest.and_then(status::substate),
        "message": latest.map(|condition| condition.message.clone()),
        "desired_state": buffa::Enumeration::proto_name(&app.desired_state()),
        "revision": app.revision(),
        "replicas": known.status.current_replicas,
        "endpoint": app.endpoint(),
        "by_name": Some(&known.status.ingress.cname_url).filter(|url| !url.is_empty()),
        "url": app.url(),
    })
}
