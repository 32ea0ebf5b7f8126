//! `SecretService`: values go in and never come out.

use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult,
};

use super::Api;
use crate::error::{Diagnostic, with_causes};
use crate::local::store::now_ms;
use crate::secrets::{Error, Id, Known, Vault};
use crate::wire::secret::{self, SecretService, secret_spec};

impl SecretService for Api {
    async fn create_secret<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, secret::CreateSecretRequest>,
    ) -> ServiceResult<impl Encodable<secret::CreateSecretResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let value = value(request.secret_spec.into_option())?;
        let id = id(&request.id);
        self.vault().create(&id, &value, now_ms()).map_err(told)?;
        Response::ok(secret::CreateSecretResponse::default())
    }

    async fn update_secret<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, secret::UpdateSecretRequest>,
    ) -> ServiceResult<impl Encodable<secret::UpdateSecretResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let value = value(request.secret_spec.into_option())?;
        self.vault()
            .update(&id(&request.id), &value)
            .map_err(told)?;
        Response::ok(secret::UpdateSecretResponse::default())
    }

    async fn get_secret<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, secret::GetSecretRequest>,
    ) -> ServiceResult<impl Encodable<secret::GetSecretResponse> + Send + use<'a>> {
        let known = self
            .vault()
            .get(&id(&request.to_owned_message().id))
            .map_err(told)?;
        Response::ok(secret::GetSecretResponse {
            secret: described(known).into(),
            ..Default::default()
        })
    }

    async fn delete_secret<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, secret::DeleteSecretRequest>,
    ) -> ServiceResult<impl Encodable<secret::DeleteSecretResponse> + Send + use<'a>> {
        self.vault()
            .delete(&id(&request.to_owned_message().id))
            .map_err(told)?;
        Response::ok(secret::DeleteSecretResponse::default())
    }

    /// All in one page: a machine holds few.
    async fn list_secrets<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, secret::ListSecretsRequest>,
    ) -> ServiceResult<impl Encodable<secret::ListSecretsResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let found = self
            .vault()
            .list(&request.project, &request.domain)
            .map_err(told)?;
        Response::ok(secret::ListSecretsResponse {
            secrets: found.into_iter().map(described).collect(),
            ..Default::default()
        })
    }
}

impl Api {
    fn vault(&self) -> Vault {
        Vault::at(self.home.secrets())
    }
}

fn id(id: &secret::SecretIdentifier) -> Id {
    Id {
        project: id.project.clone(),
        domain: id.domain.clone(),
        name: id.name.clone(),
    }
}

fn value(spec: Option<secret::SecretSpec>) -> Result<zeroize::Zeroizing<Vec<u8>>, ConnectError> {
    let value = spec.and_then(|spec| spec.value);
    match value {
        Some(secret_spec::Value::StringValue(text)) => Ok(text.into_bytes().into()),
        Some(secret_spec::Value::BinaryValue(bytes)) => Ok(bytes.into()),
        None => Err(ConnectError::invalid_argument("the secret has no value")),
    }
}

fn described(known: Known) -> secret::Secret {
    let created = buffa_types::google::protobuf::Timestamp {
        seconds: known.created_ms.div_euclid(1000),
        nanos: i32::try_from(known.created_ms.rem_euclid(1000) * 1_000_000).unwrap_or(0),
        ..Default::default()
    };
    secret::Secret {
        id: secret::SecretIdentifier {
            name: known.id.name,
            domain: known.id.domain,
            project: known.id.project,
            ..Default::default()
        }
        .into(),
        secret_metadata: secret::SecretMetadata {
            created_time: created.into(),
            secret_status: secret::SecretStatus {
                overall_status: secret::OverallStatus::FULLY_PRESENT.into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

fn told(error: Error) -> ConnectError {
    let text = [vec![with_causes(&error)], error.hints()]
        .concat()
        .join("; ");
    match error {
        Error::Name { .. } | Error::TooLarge { .. } => ConnectError::invalid_argument(text),
        Error::Exists(_) => ConnectError::already_exists(text),
        Error::NotFound(_) => ConnectError::not_found(text),
        Error::Keyring { .. } => ConnectError::unavailable(text),
        Error::Damaged(_) | Error::Io { .. } => ConnectError::internal(text),
    }
}
