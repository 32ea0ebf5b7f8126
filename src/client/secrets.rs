//! Secrets of a control plane. Values go there and never come back.

use connectrpc::ErrorCode;
use connectrpc::client::ClientConfig;

use super::call::{Failed, Repeat};
use super::{CALL_DEADLINE, Client, Operation, Resource, project_id};
use crate::error::{Code, Diagnostic, Retry};
use crate::secrets::{Id, Known, Value};
use crate::wire::secret::{self, SecretServiceClient, secret_spec};

/// A call about secrets that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("secret `{}` exists already in {}", .0.name, .0.scope())]
    Exists(Id),
    #[error("secret `{}` does not exist in {}", .0.name, .0.scope())]
    NotFound(Id),
    #[error(transparent)]
    Call(super::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Exists(_) => Code::SecretExists,
            Self::NotFound(_) => Code::SecretNotFound,
            Self::Call(error) => error.code(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Exists(_) => vec!["`--replace` gives it the new value".to_owned()],
            Self::NotFound(_) => vec!["`flyte get secret` lists those there are".to_owned()],
            Self::Call(error) => error.hints(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Exists(_) | Self::NotFound(_) => Retry::Never,
            Self::Call(error) => error.retry(),
        }
    }
}

impl Error {
    /// Whether the control plane has no such service, or does not let the caller look.
    pub fn is_no_answer(&self) -> bool {
        match self {
            Self::Call(super::Error::Rejected { code, .. }) => matches!(
                code,
                ErrorCode::Unimplemented | ErrorCode::PermissionDenied | ErrorCode::Unauthenticated
            ),
            Self::Exists(_) | Self::NotFound(_) | Self::Call(_) => false,
        }
    }
}

/// The service that handles the secrets of a project, and the client that it belongs to.
struct Secrets {
    client: Client,
    service: SecretServiceClient<super::Transport>,
}

impl Client {
    async fn secrets(&self, org: &str, id: &Id) -> Result<Secrets, Error> {
        let resource = Resource::ProjectId(Box::new(project_id(org, &id.project, &id.domain)));
        let operation = Operation::OPERATION_USE_SECRETS;
        let client = if id.project.is_empty() || id.domain.is_empty() {
            self.clone()
        } else {
            let selected = Box::pin(self.select_cluster(operation, resource)).await;
            selected.map_err(Error::Call)?
        };
        let transport = client.transport().clone();
        let config = ClientConfig::new(transport.base_uri()).with_default_timeout(CALL_DEADLINE);
        Ok(Secrets {
            service: SecretServiceClient::new(transport, config),
            client,
        })
    }

    /// Keeps a new secret; one that exists is replaced only where that is wanted.
    pub async fn create_secret(
        &self,
        org: &str,
        id: &Id,
        value: &Value,
        kind: secret::SecretType,
        replace: bool,
    ) -> Result<(), Error> {
        let secrets = self.secrets(org, id).await?;
        let created = secrets.create(org, id, value, kind).await;
        match created {
            Err(Error::Exists(_)) if replace => secrets.update(org, id, value, kind).await,
            other => other,
        }
    }

    /// What may be told of a secret.
    pub async fn get_secret(&self, org: &str, id: &Id) -> Result<Known, Error> {
        self.secrets(org, id).await?.get(org, id).await
    }

    /// Forgets a secret.
    pub async fn delete_secret(&self, org: &str, id: &Id) -> Result<(), Error> {
        let secrets = self.secrets(org, id).await?;
        // Some control planes delete what is not there without a word.
        secrets.get(org, id).await?;
        match secrets.delete(org, id).await {
            // It was there just now: the answer to the first try was lost.
            Err(Error::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// The secrets of a project and domain.
    pub async fn list_secrets(
        &self,
        org: &str,
        project: &str,
        domain: &str,
    ) -> Result<Vec<Known>, Error> {
        let scope = Id {
            project: project.to_owned(),
            domain: domain.to_owned(),
            name: String::new(),
        };
        let secrets = self.secrets(org, &scope).await?;
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let page = secrets.list(org, &scope, token).await?;
            found.extend(page.secrets.iter().map(known));
            token = page.token;
            if token.is_empty() {
                return Ok(found);
            }
        }
    }
}

impl Secrets {
    async fn create(
        &self,
        org: &str,
        id: &Id,
        value: &Value,
        kind: secret::SecretType,
    ) -> Result<(), Error> {
        let request = secret::CreateSecretRequest {
            id: wire_id(org, id).into(),
            secret_spec: spec(value, kind).into(),
            ..Default::default()
        };
        let call = self
            .client
            .caller
            .call("CreateSecret", Repeat::Unseen, |options| {
                self.service
                    .create_secret_with_options(request.clone(), options)
            });
        call.await.map(drop).map_err(|failed| told(id, failed))
    }

    async fn update(
        &self,
        org: &str,
        id: &Id,
        value: &Value,
        kind: secret::SecretType,
    ) -> Result<(), Error> {
        let request = secret::UpdateSecretRequest {
            id: wire_id(org, id).into(),
            secret_spec: spec(value, kind).into(),
            ..Default::default()
        };
        let call = self
            .client
            .caller
            .call("UpdateSecret", Repeat::Always, |options| {
                self.service
                    .update_secret_with_options(request.clone(), options)
            });
        call.await.map(drop).map_err(|failed| told(id, failed))
    }

    async fn get(&self, org: &str, id: &Id) -> Result<Known, Error> {
        let request = secret::GetSecretRequest {
            id: wire_id(org, id).into(),
            ..Default::default()
        };
        let call = self
            .client
            .caller
            .call("GetSecret", Repeat::Always, |options| {
                self.service
                    .get_secret_with_options(request.clone(), options)
            });
        let answer = call.await.map_err(|failed| told(id, failed))?;
        Ok(known(&answer.into_owned().secret))
    }

    async fn delete(&self, org: &str, id: &Id) -> Result<(), Error> {
        let request = secret::DeleteSecretRequest {
            id: wire_id(org, id).into(),
            ..Default::default()
        };
        let call = self
            .client
            .caller
            .call("DeleteSecret", Repeat::Always, |options| {
                self.service
                    .delete_secret_with_options(request.clone(), options)
            });
        call.await.map(drop).map_err(|failed| told(id, failed))
    }

    async fn list(
        &self,
        org: &str,
        scope: &Id,
        token: String,
    ) -> Result<secret::ListSecretsResponse, Error> {
        let request = secret::ListSecretsRequest {
            organization: org.to_owned(),
            project: scope.project.clone(),
            domain: scope.domain.clone(),
            limit: 100,
            token,
            ..Default::default()
        };
        let call = self
            .client
            .caller
            .call("ListSecrets", Repeat::Always, |options| {
                self.service
                    .list_secrets_with_options(request.clone(), options)
            });
        let answer = call.await.map_err(|failed| told(scope, failed))?;
        Ok(answer.into_owned())
    }
}

fn told(id: &Id, failed: Failed) -> Error {
    match failed.code {
        Some(ErrorCode::NotFound) => Error::NotFound(id.clone()),
        Some(ErrorCode::AlreadyExists) => Error::Exists(id.clone()),
        _ => Error::Call(failed.error),
    }
}

fn wire_id(org: &str, id: &Id) -> secret::SecretIdentifier {
    secret::SecretIdentifier {
        name: id.name.clone(),
        organization: org.to_owned(),
        domain: id.domain.clone(),
        project: id.project.clone(),
        ..Default::default()
    }
}

fn spec(value: &Value, kind: secret::SecretType) -> secret::SecretSpec {
    let value = match std::str::from_utf8(value) {
        Ok(text) => secret_spec::Value::StringValue(text.to_owned()),
        Err(_) => secret_spec::Value::BinaryValue(value.to_vec()),
    };
    secret::SecretSpec {
        value: Some(value),
        r#type: kind.into(),
        ..Default::default()
    }
}

fn known(secret: &secret::Secret) -> Known {
    let created = &secret.secret_metadata.created_time;
    Known {
        id: Id {
            project: secret.id.project.clone(),
            domain: secret.id.domain.clone(),
            name: secret.id.name.clone(),
        },
        created_ms: created.seconds * 1000 + i64::from(created.nanos) / 1_000_000,
    }
}
