//! How a container's program gets secrets as variables.
//!
//! What the engine is told of a container it keeps in files of its own and shows to everybody who
//! may ask it (`docker inspect`). So a shell of the image reads the variables from a file in memory
//! and becomes the program; only an image that has no shell is given them by way of the engine.

use std::path::PathBuf;

use bollard::query_parameters::ContainerArchiveInfoOptionsBuilder;

use super::request::Order;
use super::{Failure, Refusal};
use crate::config::Secret;
use crate::engine::Engine;

/// What takes the place of a container's first program.
const SHELL: &str = "/bin/sh";
/// Where a container sees the file.
pub(super) const FILE: &str = "/run/flyte/variables";

/// Secrets of one container that are variables.
#[derive(Clone, Debug, PartialEq)]
pub struct Variables {
    /// Defines and exports them, in the language of a shell.
    pub file: PathBuf,
    pub values: Vec<(String, Secret)>,
}

/// The text of the file.
pub fn script(values: &[(String, Secret)]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (name, value) in values {
        let quoted = value.reveal().replace('\'', r"'\''");
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "export {name}='{quoted}'");
    }
    text
}

/// How it is done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Handover {
    /// By the shell, which then becomes this program, with its own arguments if it has any.
    Shell {
        program: Vec<String>,
        command: Vec<String>,
    },
    /// As any other variable, known to the engine; without secrets there is nothing to hide.
    Engine,
}

impl Handover {
    /// What an order allows. Shells drop variables whose names they cannot spell.
    pub(super) async fn of(engine: &Engine, order: &Order) -> Result<Self, Failure> {
        let Some(variables) = &order.variables else {
            return Ok(Self::Engine);
        };
        let declared = order.env.iter().map(|(name, _)| name);
        let secret = variables.values.iter().map(|(name, _)| name);
        if !declared.chain(secret).all(|name| is_identifier(name)) {
            return Ok(Self::Engine);
        }
        if !order.entrypoint.is_empty() {
            return Ok(Self::Shell {
                program: order.entrypoint.clone(),
                command: order.command.clone(),
            });
        }
        let image = engine.docker().inspect_image(&order.image).await;
        let image = image.map_err(|error| order.refused(error))?;
        let own = image.config.unwrap_or_default();
        Ok(Self::Shell {
            program: own.entrypoint.unwrap_or_default(),
            command: if order.command.is_empty() {
                own.cmd.unwrap_or_default()
            } else {
                order.command.clone()
            },
        })
    }

    /// The words that the engine is to run; `None` leaves them to order and image.
    pub(super) fn words(&self) -> Option<(Vec<String>, Vec<String>)> {
        let Self::Shell { program, command } = self else {
            return None;
        };
        let script = format!(". {FILE} && exec \"$@\"");
        let first = [SHELL, "-c", &script, "flyte"].map(str::to_owned);
        let entrypoint = first.into_iter().chain(program.iter().cloned());
        Some((entrypoint.collect(), command.clone()))
    }

    /// Whether a container that was made can do it.
    pub(super) async fn works(&self, engine: &Engine, id: &str) -> Result<bool, Refusal> {
        if *self == Self::Engine {
            return Ok(true);
        }
        let options = ContainerArchiveInfoOptionsBuilder::default()
            .path(SHELL)
            .build();
        let found = engine
            .docker()
            .get_container_archive_info(id, Some(options));
        match found.await {
            Ok(_) => Ok(true),
            Err(Refusal::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_every_value() {
        let values = ["plain", "it's", "a b\n$HOME `x` \\", ""];
        let named: Vec<(String, Secret)> = values
            .iter()
            .enumerate()
            .map(|(number, value)| (format!("V{number}"), Secret::new(*value)))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script(&named)).unwrap();
        let read = std::process::Command::new("sh")
            .arg("-c")
            .arg(". \"$0\" && exec env -0")
            .arg(file.path())
            .env_clear()
            .output()
            .unwrap();
        let text = String::from_utf8(read.stdout).unwrap();
        for (number, value) in values.iter().enumerate() {
            let expected = format!("V{number}={value}");
            assert!(text.split('\0').any(|entry| entry == expected), "{text}");
        }
    }

    #[test]
    fn the_shell_becomes_the_program() {
        let handover = Handover::Shell {
            program: vec!["fserve".into(), "--".into()],
            command: vec!["x".into()],
        };
        let (entrypoint, command) = handover.words().unwrap();
        assert_eq!(entrypoint[..2], ["/bin/sh", "-c"]);
        assert_eq!(entrypoint[3..], ["flyte", "fserve", "--"]);
        assert_eq!(command, ["x"]);
        assert_eq!(Handover::Engine.words(), None);
    }

    #[test]
    fn names_that_shells_drop_are_known() {
        assert!(is_identifier("A_1") && is_identifier("_x"));
        assert!(!is_identifier("a.b") && !is_identifier("1a") && !is_identifier(""));
    }
}
