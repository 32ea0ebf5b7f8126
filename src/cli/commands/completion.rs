//! `flyte completion`, and `flyte __complete`, which the printed scripts call.

use std::time::Duration;

use crate::cli::args::{Completion, Shell, Words};
use crate::cli::completing::{self, Candidate, Typed, World};
use crate::cli::printer::Printer;
use crate::cli::{Host, help, scan};
use crate::config::{Given, Settings};
use crate::serve;
use crate::wire::status;

/// Whoever presses Tab does not wait for a cluster.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints the script of a shell.
pub fn script(printer: &Printer, completion: &Completion) {
    let text = match completion.shell {
        Shell::Bash => include_str!("../shells/flyte.bash"),
        Shell::Zsh => include_str!("../shells/flyte.zsh"),
        Shell::Fish => include_str!("../shells/flyte.fish"),
    };
    printer.line(text.trim_end());
}

/// Prints candidates, each with what it means behind a tab.
pub fn complete(host: &impl Host, printer: &Printer, given: Given, words: &Words) {
    let here = Here { host, given };
    for candidate in completing::candidates(&help::command(), &words.words, &here) {
        printer.line(&match candidate {
            Candidate::Word { text, help } => format!("{text}\t{help}"),
            Candidate::Files => ":files".to_owned(),
            Candidate::Folders => ":folders".to_owned(),
        });
    }
}

/// What this machine, and the control plane in use, know. What fails completes nothing.
struct Here<'a, H> {
    host: &'a H,
    given: Given,
}

impl<H: Host> Here<'_, H> {
    /// The settings that the words typed so far lead to; nobody wants to log in by pressing Tab.
    fn settings(&self, typed: &Typed) -> Option<Settings> {
        let text = |id: &str| typed.get(id).map(str::to_owned);
        let mut given = Given {
            interactive: Some(false),
            project: text("project"),
            domain: text("domain"),
            ..self.given.clone()
        };
        given.config_path = text("config").map(Into::into).or(given.config_path);
        given.endpoint = text("endpoint").or(given.endpoint);
        given.org = text("org").or(given.org);
        if typed.get("insecure").is_some() {
            given.insecure = Some(true);
        }
        self.host.settings(&given).ok()
    }

    /// What is asked of the control plane, within the time that somebody waits for a Tab. This
    /// starts nothing.
    fn ask<T: Send>(&self, asked: impl Future<Output = Option<T>> + Send) -> Option<T> {
        let asked = async {
            let asked = tokio::time::timeout(PATIENCE, asked);
            Ok(asked.await.ok().flatten())
        };
        self.host.block(asked).ok().flatten()
    }
}

impl<H: Host> World for Here<'_, H> {
    fn apps(&self, typed: &Typed) -> Vec<(String, String)> {
        let found = self.settings(typed).and_then(|settings| {
            // Borrowed for as long as it is waited for.
            self.ask(async { serve::apps(&settings).await })
        });
        let state = |(name, state)| (name, status::short_name(state).to_owned());
        found.unwrap_or_default().into_iter().map(state).collect()
    }

    fn secrets(&self, typed: &Typed) -> Vec<(String, String)> {
        let found = self
            .settings(typed)
            .and_then(|settings| self.ask(async { serve::secret_names(&settings).await }));
        let plain = |name| (name, String::new());
        found.unwrap_or_default().into_iter().map(plain).collect()
    }

    fn environments(&self, file: &str) -> Vec<(String, String)> {
        scan::file(file.as_ref())
            .into_iter()
            .map(|one| (one.variable, one.name.unwrap_or_default()))
            .collect()
    }
}
