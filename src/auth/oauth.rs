//! Requests to a token endpoint, in the words of OAuth 2.

use std::time::Duration;

use futures::future::BoxFuture;
use oauth2::basic::{BasicClient, BasicErrorResponse, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AsyncHttpClient, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, RefreshToken, RequestTokenError, Scope, TokenResponse, TokenUrl,
};
use url::Url;

use super::discovery::Discovered;
use super::tokens::{Tokens, now};
use super::{Error, HEADER};
use crate::config::Secret;
use crate::net::Http;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that knows where tokens come from.
pub(super) type Client =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// Our HTTP client as the library wants it.
pub(super) struct Wire(pub Http);

/// A request that got no answer of the kind that OAuth speaks of.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    Form(#[from] http::Error),
    #[error("the server answered {0}")]
    Status(http::StatusCode),
}

impl<'c> AsyncHttpClient<'c> for Wire {
    type Error = Trouble;
    type Future = BoxFuture<'c, Result<HttpResponse, Trouble>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let mut request = reqwest::Request::try_from(request)?;
            *request.timeout_mut() = Some(PATIENCE);
            let response = self.0.client().execute(request).await;
            let response = response.map_err(reqwest::Error::without_url)?;
            let status = response.status();
            if status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS {
                return Err(Trouble::Status(status));
            }
            let mut answer = http::Response::builder().status(status);
            for (name, value) in response.headers() {
                answer = answer.header(name, value);
            }
            let body = response
                .bytes()
                .await
                .map_err(reqwest::Error::without_url)?;
            Ok(answer.body(body.to_vec())?)
        })
    }
}

/// A client for the application that persons log in with.
pub(super) fn client(discovered: &Discovered) -> Client {
    BasicClient::new(ClientId::new(discovered.client_id.clone()))
        .set_token_uri(TokenUrl::from_url(discovered.token.clone()))
}

pub(super) fn scopes(discovered: &Discovered) -> impl Iterator<Item = Scope> + '_ {
    discovered.scopes.iter().cloned().map(Scope::new)
}

/// A token for a program.
pub(super) async fn client_credentials(
    http: &Http,
    discovered: &Discovered,
    id: &str,
    secret: &Secret,
) -> Result<Tokens, Error> {
    let client = BasicClient::new(ClientId::new(id.to_owned()))
        .set_client_secret(ClientSecret::new(secret.reveal().to_owned()))
        .set_token_uri(TokenUrl::from_url(discovered.token.clone()));
    let mut request = client
        .exchange_client_credentials()
        .add_scopes(scopes(discovered));
    if !discovered.audience.is_empty() {
        request = request.add_extra_param("audience", discovered.audience.clone());
    }
    let answer = request.request_async(&Wire(http.clone())).await;
    answer
        .map(|answer| tokens(&answer, discovered))
        .map_err(|error| failed(error, &discovered.token))
}

/// A newer token for an older one.
pub(super) async fn refresh(
    http: &Http,
    discovered: &Discovered,
    token: &Secret,
) -> Result<Tokens, Error> {
    let client = client(discovered);
    let token = RefreshToken::new(token.reveal().to_owned());
    let answer = client
        .exchange_refresh_token(&token)
        .request_async(&Wire(http.clone()))
        .await;
    answer
        .map(|answer| tokens(&answer, discovered))
        .map_err(|error| match is_over(&error) {
            Some(reason) => Error::Over {
                place: told(&discovered.token),
                reason,
            },
            None => failed(error, &discovered.token),
        })
}

/// What a server says that takes a token to renew with for ended or revoked.
fn is_over(error: &RequestTokenError<Trouble, BasicErrorResponse>) -> Option<String> {
    match error {
        RequestTokenError::ServerResponse(answer)
            if *answer.error() == BasicErrorResponseType::InvalidGrant =>
        {
            Some(answer.to_string())
        }
        RequestTokenError::ServerResponse(_)
        | RequestTokenError::Request(_)
        | RequestTokenError::Parse(_, _)
        | RequestTokenError::Other(_) => None,
    }
}

/// What an answer means.
pub(super) fn tokens(answer: &BasicTokenResponse, discovered: &Discovered) -> Tokens {
    let lifetime = answer.expires_in().map(|lifetime| lifetime.as_secs());
    let header = if discovered.header.is_empty() {
        HEADER.to_owned()
    } else {
        discovered.header.clone()
    };
    Tokens {
        access: Secret::new(answer.access_token().secret().clone()),
        refresh: answer
            .refresh_token()
            .map(|token| Secret::new(token.secret().clone())),
        ends_at: lifetime.map(|lifetime| now().saturating_add(lifetime)),
        lifetime,
        header,
    }
}

/// A token that was not given. What the server says of it is told, what was sent is not.
pub(super) fn failed(error: RequestTokenError<Trouble, BasicErrorResponse>, place: &Url) -> Error {
    match error {
        RequestTokenError::ServerResponse(answer) => Error::Refused {
            place: told(place),
            reason: answer.to_string(),
        },
        RequestTokenError::Request(source) => Error::Unreachable {
            place: told(place),
            source: Box::new(source),
        },
        RequestTokenError::Parse(_, _) => Error::Unreadable { place: told(place) },
        RequestTokenError::Other(reason) => Error::Refused {
            place: told(place),
            reason,
        },
    }
}

/// A URL for a message.
pub(super) fn told(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}
