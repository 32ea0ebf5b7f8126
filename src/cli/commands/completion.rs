//! `flyte completion`, and `flyte __complete`, which the printed scripts call.

use std::time::Duration;

use crate::cli::args::{Completion, Shell, Words};
use crate::cli::completing::{self, Candidate, World};
use crate::cli::printer::Printer;
use crate::cli::{Host, help, scan};
use crate::config::Given;
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

impl<H: Host> World for Here<'_, H> {
    fn apps(&self) -> Vec<(String, String)> {
        // Nor does anybody want to log in by pressing Tab.
        let given = Given {
            interactive: Some(false),
            ..self.given.clone()
        };
        let Ok(settings) = self.host.settings(&given) else {
            return Vec::new();
        };
        let asked = self.host.block(async {
            // This starts nothing.
            let asked = tokio::time::timeout(PATIENCE, serve::apps(&settings));
            Ok(asked.await.ok().flatten())
        });
        asked
            .ok()
            .flatten()
            .unwrap_or_default()
            .into_iter()
            .map(|(name, state)| (name, status::short_name(state).to_owned()))
            .collect()
    }

    fn environments(&self, file: &str) -> Vec<(String, String)> {
        scan::file(file.as_ref())
            .into_iter()
            .map(|one| (one.variable, one.name.unwrap_or_default()))
            .collect()
    }
}
