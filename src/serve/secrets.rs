//! Whether the secrets that apps ask for exist, before anything is started.

use super::Plan;
use crate::client::Client;
use crate::client::secrets::Error as CallError;
use crate::error::{Code, Diagnostic, Retry, did_you_mean};
use crate::secrets::{Id, name_of};
use crate::spec::{AppSpec, SecretRef};

/// A secret that is not there, or cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("app `{app}` needs the secret `{}`, which does not exist in {}", id.name, id.scope())]
    Missing {
        app: String,
        id: Id,
        close: Option<String>,
    },
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::SecretNotFound,
            Self::Call(error) => error.code(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Missing { id, close, .. } => {
                let Id {
                    project,
                    domain,
                    name,
                } = id;
                let create = format!(
                    "create it with `flyte create secret {name} --project {project} --domain {domain}`"
                );
                let close = close.iter().map(|name| format!("did you mean `{name}`?"));
                close.chain([create]).collect()
            }
            Self::Call(error) => error.hints(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Missing { .. } => Retry::Never,
            Self::Call(error) => error.retry(),
        }
    }
}

/// What each app's command line shows to whoever may look at processes.
pub fn shown_by_ps(plan: &Plan) -> Vec<String> {
    plan.apps().flat_map(of_command_line).collect()
}

fn of_command_line(app: &AppSpec) -> Vec<String> {
    let words = || app.command.iter().flatten().chain(&app.args);
    let variables = app.secrets.iter().filter_map(variable);
    variables
        .filter(|variable| words().any(|word| names(word, variable)))
        .map(|variable| {
            format!(
                "app `{}` has the secret `${variable}` in its command line, which `ps` shows to everybody \
                 on the machine; let the program read the variable `{variable}` itself",
                app.name
            )
        })
        .collect()
}

/// The variable that a secret goes to, as the control planes name it.
fn variable(secret: &SecretRef) -> Option<String> {
    secret.env_var.clone().or_else(|| {
        let group = secret.group.as_deref().unwrap_or_default();
        let name = name_of(group, &secret.key);
        secret
            .mount
            .is_none()
            .then(|| name.replace('-', "_").to_ascii_uppercase())
    })
}

/// Whether a word refers to a variable, as `$NAME` or `${NAME}`.
fn names(word: &str, variable: &str) -> bool {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = word.replace("$$", "");
    let plain = word
        .match_indices(&format!("${variable}"))
        .any(|(at, found)| !word[at + found.len()..].starts_with(goes_on));
    plain || word.contains(&format!("${{{variable}}}"))
}

/// Looks for each secret of each app. A control plane that does not let the caller look is left to
/// say by itself what is missing.
pub async fn check(client: &Client, plan: &Plan) -> Result<(), Error> {
    for app in plan.apps() {
        for secret in &app.secrets {
            let id = Id {
                project: plan.project.clone(),
                domain: plan.domain.clone(),
                name: name_of(secret.group.as_deref().unwrap_or_default(), &secret.key),
            };
            match exists(client, &plan.org, &id).await {
                Ok(true) => {}
                Ok(false) => return Err(missing(client, plan, &app.name, id).await),
                Err(error) if error.is_no_answer() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

async fn exists(client: &Client, org: &str, id: &Id) -> Result<bool, CallError> {
    for near in id.and_wider() {
        match client.get_secret(org, &near).await {
            Ok(_) => return Ok(true),
            Err(CallError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

async fn missing(client: &Client, plan: &Plan, app: &str, id: Id) -> Error {
    let known = client
        .list_secrets(&plan.org, &plan.project, &plan.domain)
        .await
        .unwrap_or_default();
    let names = known.iter().map(|known| known.id.name.as_str());
    Error::Missing {
        app: app.to_owned(),
        close: did_you_mean(&id.name, names).map(str::to_owned),
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_command_line_is_seen() {
        for (word, seen) in [
            ("$API_KEY", true),
            ("--token=${API_KEY}", true),
            ("$API_KEY_FILE", false),
            ("$$API_KEY", false),
            ("API_KEY", false),
            ("$API_KEYS $API_KEY", true),
        ] {
            assert_eq!(names(word, "API_KEY"), seen, "{word}");
        }
    }

    #[test]
    fn a_secret_has_the_variable_that_it_names_or_is_named_by() {
        let secret = |mount: Option<&str>, env_var: Option<&str>| SecretRef {
            key: "api-key".to_owned(),
            group: Some("db".to_owned()),
            mount: mount.map(str::to_owned),
            env_var: env_var.map(str::to_owned),
        };
        assert_eq!(variable(&secret(None, None)).unwrap(), "DB_API_KEY");
        assert_eq!(variable(&secret(None, Some("K"))).unwrap(), "K");
        assert_eq!(variable(&secret(Some("/etc/flyte/secrets"), None)), None);
    }
}
