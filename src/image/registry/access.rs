//! Getting in: what a registry asks for, and what is shown to it.
//!
//! A registry that refuses says how it wants to be asked. Tokens are kept in memory, by what they
//! allow, for as long as the connection is used.

use std::collections::HashMap;
use std::sync::Arc;

use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::credentials::Credential;
use super::transport;

/// What requests are signed with.
pub(super) enum Pass {
    Nothing,
    Basic(Credential),
    Bearer(Zeroizing<String>),
}

impl Pass {
    pub(super) fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Nothing => request,
            Self::Basic(Credential::Password { username, password }) => {
                request.basic_auth(username, Some(password.as_str()))
            }
            Self::Basic(Credential::Identity(token) | Credential::Bearer(token))
            | Self::Bearer(token) => request.bearer_auth(token.as_str()),
        }
    }
}

/// Why a registry does not let us in.
pub(super) enum Refusal {
    /// There is no credential, and one is wanted.
    Anonymous,
    /// The credential is refused; with what was said about it.
    Refused(String),
    /// Whoever gives out tokens cannot be reached or does not work.
    Broken(String),
}

/// The passes to one registry.
pub(super) struct Access {
    http: Client,
    /// Whether secrets may go over a connection without TLS, which this registry has too.
    is_plain: bool,
    credential: Option<Credential>,
    passes: Mutex<HashMap<String, Arc<Pass>>>,
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

impl Access {
    pub(super) fn new(http: Client, is_plain: bool, credential: Option<Credential>) -> Self {
        Self {
            http,
            is_plain,
            credential,
            passes: Mutex::default(),
        }
    }

    pub(super) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// What is known to open `scope`.
    pub(super) async fn pass(&self, scope: &str) -> Arc<Pass> {
        let mut passes = self.passes.lock().await;
        let first = || Arc::new(Pass::Nothing);
        Arc::clone(passes.entry(scope.to_owned()).or_insert_with(first))
    }

    /// A new pass after `stale` was refused with `challenge`; many ask, one fetches.
    pub(super) async fn renew(
        &self,
        scope: &str,
        stale: &Arc<Pass>,
        challenge: &str,
    ) -> Result<Arc<Pass>, Refusal> {
        let mut passes = self.passes.lock().await;
        if let Some(pass) = passes.get(scope)
            && !Arc::ptr_eq(pass, stale)
        {
            return Ok(Arc::clone(pass));
        }
        let pass = Arc::new(self.ask(scope, stale, challenge).await?);
        passes.insert(scope.to_owned(), Arc::clone(&pass));
        Ok(pass)
    }

    async fn ask(&self, scope: &str, stale: &Pass, challenge: &str) -> Result<Pass, Refusal> {
        if let Some(fields) = bearer(challenge) {
            if let Some(Credential::Bearer(token)) = &self.credential {
                return match stale {
                    Pass::Nothing => Ok(Pass::Bearer(token.clone())),
                    Pass::Basic(_) | Pass::Bearer(_) => Err(Refusal::Refused(String::new())),
                };
            }
            return self.token(scope, &fields).await.map(Pass::Bearer);
        }
        match (&self.credential, stale) {
            (None, _) => Err(Refusal::Anonymous),
            (Some(credential), Pass::Nothing) => Ok(Pass::Basic(credential.clone())),
            (Some(_), Pass::Basic(_) | Pass::Bearer(_)) => Err(Refusal::Refused(String::new())),
        }
    }

    async fn token(
        &self,
        scope: &str,
        fields: &HashMap<String, String>,
    ) -> Result<Zeroizing<String>, Refusal> {
        let realm = fields.get("realm").map(String::as_str).unwrap_or_default();
        let url = url::Url::parse(realm).map_err(|_| {
            Refusal::Broken(format!(
                "it asks for a token from `{realm}`, which is no URL"
            ))
        })?;
        if url.scheme() != "https" && !self.is_plain {
            return Err(Refusal::Broken(format!(
                "it asks for a token from `{realm}`, which would show the credential to the network"
            )));
        }
        let broken = |error: reqwest::Error| {
            Refusal::Broken(format!(
                "`{realm}` gives no token: {}",
                transport::cause(&error)
            ))
        };
        let request = self.token_request(url.clone(), scope, fields.get("service"));
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        let body = Zeroizing::new(response.bytes().await.map_err(broken)?.to_vec());
        if status.is_client_error() {
            return Err(match &self.credential {
                None => Refusal::Anonymous,
                Some(_) => Refusal::Refused(super::said(&body)),
            });
        }
        let granted = serde_json::from_slice::<Granted>(&body).ok();
        granted
            .and_then(|granted| granted.token.or(granted.access_token))
            .map(Zeroizing::new)
            .ok_or_else(|| {
                Refusal::Broken(format!("`{realm}` answers {status} and gives no token"))
            })
    }

    fn token_request(
        &self,
        url: url::Url,
        scope: &str,
        service: Option<&String>,
    ) -> RequestBuilder {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        fields.extend(service.map(|service| ("service", service.as_str())));
        if let Some(Credential::Identity(token)) = &self.credential {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token.as_str()),
                ("client_id", "flyte-rs"),
                ("scope", scope),
            ]);
            let body = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(fields)
                .finish();
            let kind = "application/x-www-form-urlencoded";
            return self.http.post(url).header("content-type", kind).body(body);
        }
        let mut url = url;
        fields.extend(scope.split(' ').map(|part| ("scope", part)));
        url.query_pairs_mut().extend_pairs(fields);
        let request = self.http.get(url);
        match &self.credential {
            Some(Credential::Password { username, password }) => {
                request.basic_auth(username, Some(password.as_str()))
            }
            Some(Credential::Identity(_) | Credential::Bearer(_)) | None => request,
        }
    }
}

/// The fields of a `Bearer` challenge.
pub fn bearer(challenge: &str) -> Option<HashMap<String, String>> {
    let (scheme, mut rest) = challenge.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut fields = HashMap::new();
    while let Some((name, value)) = rest.split_once('=') {
        let (value, left) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_once(',').unwrap_or((value, "")),
        };
        let name = name.trim_matches([',', ' ']).to_ascii_lowercase();
        fields.insert(name, value.trim().to_owned());
        rest = left;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_their_commas() {
        let fields = bearer(
            r#"Bearer realm="https://auth.io/token?a=b",service="r.io", scope="repository:x:pull,push",error=invalid"#,
        )
        .unwrap();
        assert_eq!(fields["realm"], "https://auth.io/token?a=b");
        assert_eq!(fields["service"], "r.io");
        assert_eq!(fields["scope"], "repository:x:pull,push");
        assert_eq!(fields["error"], "invalid");
        assert!(bearer(r#"Basic realm="x""#).is_none());
        assert!(bearer("Bearer").is_none());
    }
}
