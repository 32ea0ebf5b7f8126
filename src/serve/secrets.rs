//! Whether the secrets that apps ask for exist, before anything is started.

use super::Plan;
use crate::client::Client;
use crate::client::secrets::Error as CallError;
use crate::error::{Code, Diagnostic, Retry, did_you_mean};
use crate::secrets::{Id, name_of};

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
