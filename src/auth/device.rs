//! A login with a browser that is somewhere else: a code to type in, and waiting for that.

use oauth2::basic::BasicErrorResponse;
use oauth2::{
    DeviceAuthorizationUrl, DeviceCodeErrorResponse, DeviceCodeErrorResponseType,
    RequestTokenError, StandardDeviceAuthorizationResponse,
};

use super::discovery::Discovered;
use super::oauth::{self, Trouble, Wire};
use super::tokens::Tokens;
use super::{Error, tell};
use crate::net::Http;

pub(super) async fn login(
    http: &Http,
    discovered: &Discovered,
    endpoint: &str,
) -> Result<Tokens, Error> {
    let place = discovered.device.clone().ok_or_else(|| Error::NoWay {
        endpoint: endpoint.to_owned(),
        missing: "device_authorization_endpoint",
    })?;
    let client = oauth::client(discovered)
        .set_device_authorization_url(DeviceAuthorizationUrl::from_url(place.clone()));
    let wire = Wire(http.clone());
    let mut request = client
        .exchange_device_code()
        .add_scopes(oauth::scopes(discovered));
    if !discovered.audience.is_empty() {
        request = request.add_extra_param("audience", discovered.audience.clone());
    }
    let begun: StandardDeviceAuthorizationResponse = request
        .request_async(&wire)
        .await
        .map_err(|error| oauth::failed(error, &place))?;
    tell(&match begun.verification_uri_complete() {
        Some(url) => format!(
            "to log in at {endpoint}, open {} and confirm the code {}",
            url.secret(),
            begun.user_code().secret()
        ),
        None => format!(
            "to log in at {endpoint}, open {} and enter the code {}",
            begun.verification_uri().as_str(),
            begun.user_code().secret()
        ),
    });
    let answer = client
        .exchange_device_access_token(&begun)
        .request_async(&wire, tokio::time::sleep, None)
        .await;
    match answer {
        Ok(answer) => Ok(oauth::tokens(&answer, discovered)),
        Err(error) => Err(failed(error, discovered)),
    }
}

fn failed(
    error: RequestTokenError<Trouble, DeviceCodeErrorResponse>,
    discovered: &Discovered,
) -> Error {
    let answer = match error {
        RequestTokenError::ServerResponse(answer) => answer,
        RequestTokenError::Request(source) => {
            return oauth::failed(RequestTokenError::Request(source), &discovered.token);
        }
        RequestTokenError::Parse(error, text) => {
            let error: RequestTokenError<Trouble, BasicErrorResponse> =
                RequestTokenError::Parse(error, text);
            return oauth::failed(error, &discovered.token);
        }
        RequestTokenError::Other(reason) => {
            return oauth::failed(RequestTokenError::Other(reason), &discovered.token);
        }
    };
    match answer.error() {
        DeviceCodeErrorResponseType::AccessDenied => Error::Denied {
            reason: "it was refused in the browser".into(),
        },
        DeviceCodeErrorResponseType::ExpiredToken => Error::Denied {
            reason: "nobody confirmed the code in time".into(),
        },
        DeviceCodeErrorResponseType::AuthorizationPending
        | DeviceCodeErrorResponseType::SlowDown
        | DeviceCodeErrorResponseType::Basic(_) => Error::Refused {
            place: oauth::told(&discovered.token),
            reason: answer.to_string(),
        },
    }
}
