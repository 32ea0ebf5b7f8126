//! How one logs in at a control plane, as it tells anybody who asks.

use std::time::Duration;

use connectrpc::ErrorCode;
use connectrpc::client::ClientConfig;
use url::{Host, Url};

use super::{Error, HEADER};
use crate::net::Http;
use crate::wire::auth::{
    AuthMetadataServiceClient, GetOAuth2MetadataRequest, GetPublicClientConfigRequest,
};

/// How long the control plane may take to tell.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the control plane says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Discovered {
    pub token: Url,
    pub authorization: Option<Url>,
    pub device: Option<Url>,
    pub client_id: String,
    /// Where the browser is sent back to.
    pub redirect: String,
    pub scopes: Vec<String>,
    pub audience: String,
    pub header: String,
}

/// Asks the control plane. `scopes` are used instead of those that it names.
pub(super) async fn ask(
    http: &Http,
    endpoint: &str,
    scopes: &[String],
) -> Result<Discovered, Error> {
    let base: http::Uri = endpoint.parse().map_err(|_| Error::NotAsked)?;
    let config = ClientConfig::new(base).with_default_timeout(PATIENCE);
    let service = AuthMetadataServiceClient::new(http.clone(), config);
    let failed = |source: connectrpc::ConnectError| match source.code {
        ErrorCode::Unimplemented | ErrorCode::NotFound => Error::NoWay {
            endpoint: endpoint.to_owned(),
            missing: "AuthMetadataService",
        },
        _ => Error::Discovery {
            endpoint: endpoint.to_owned(),
            source: Box::new(source),
        },
    };
    let (server, client) = tokio::join!(
        service.get_o_auth2_metadata(GetOAuth2MetadataRequest::default()),
        service.get_public_client_config(GetPublicClientConfigRequest::default())
    );
    let server = server.map_err(failed)?.into_owned();
    let client = client.map_err(failed)?.into_owned();
    let url = |text: &str| place(endpoint, text);
    let token = url(&server.token_endpoint)?.ok_or_else(|| Error::NoWay {
        endpoint: endpoint.to_owned(),
        missing: "token_endpoint",
    })?;
    let or = |text: String, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text
        }
    };
    Ok(Discovered {
        token,
        authorization: url(&server.authorization_endpoint)?,
        device: url(&server.device_authorization_endpoint)?,
        client_id: client.client_id,
        redirect: client.redirect_uri,
        scopes: if scopes.is_empty() {
            client.scopes
        } else {
            scopes.to_vec()
        },
        audience: client.audience,
        header: or(client.authorization_metadata_key, HEADER),
    })
}

/// A place that secrets are sent to: over TLS, unless it is on this machine, or the control plane
/// itself is spoken to in the clear.
fn place(endpoint: &str, text: &str) -> Result<Option<Url>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let unfit = |reason| Error::Place {
        endpoint: endpoint.to_owned(),
        url: without_query(text),
        reason,
    };
    let url = Url::parse(text).map_err(|_| unfit("it is not a URL"))?;
    match url.scheme() {
        "https" => Ok(Some(url)),
        "http" if is_here(&url) || endpoint.starts_with("http:") => Ok(Some(url)),
        _ => Err(unfit("secrets would be sent in the clear")),
    }
}

/// Whether a URL leads to this very machine.
pub(super) fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn without_query(text: &str) -> String {
    text.split(['?', '#']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_sent_in_the_clear() {
        let control = "https://h.x";
        assert!(place(control, "https://id.x/token").unwrap().is_some());
        assert!(
            place(control, "http://localhost:1/token")
                .unwrap()
                .is_some()
        );
        assert_eq!(place(control, "").unwrap(), None);
        let error = place(control, "http://id.x/token?key=1").unwrap_err();
        assert!(error.to_string().contains("`http://id.x/token`"));
        assert!(place("http://h.x", "http://id.x/token").unwrap().is_some());
    }
}
