//! How a caller proves who it is, as configured; nothing here speaks to anybody.

use base64::Engine;

use super::keys;
use super::sources::{Origin, Sources};
use super::{Error, Given, Secret};
use crate::error::did_you_mean;

/// A way to prove who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A browser on this machine.
    Pkce,
    /// A browser anywhere, by a code.
    DeviceFlow,
    ClientSecret {
        id: String,
        secret: Secret,
    },
    /// A program that prints a token.
    Command(Vec<String>),
    /// Headers of the caller's own.
    Passthrough(Vec<(String, Secret)>),
}

/// Names as the PyPI SDK writes them.
const NAMES: [&str; 5] = [
    "Pkce",
    "DeviceFlow",
    "ClientSecret",
    "ExternalCommand",
    "Passthrough",
];

impl Mode {
    /// As in `admin.authType`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pkce => NAMES[0],
            Self::DeviceFlow => NAMES[1],
            Self::ClientSecret { .. } => NAMES[2],
            Self::Command(_) => NAMES[3],
            Self::Passthrough(_) => NAMES[4],
        }
    }

    /// Whether a person has to do something.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Pkce | Self::DeviceFlow => true,
            Self::ClientSecret { .. } | Self::Command(_) | Self::Passthrough(_) => false,
        }
    }
}

/// Everything about logging in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub mode: Mode,
    /// Instead of those that the control plane names.
    pub scopes: Vec<String>,
    /// A program that prints a token for a proxy before the control plane.
    pub proxy_command: Vec<String>,
    /// Whether the system's keyring may be used.
    pub keyring: bool,
    /// Whether somebody is there who can log in.
    pub interactive: bool,
}

/// What an API key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiKey {
    pub endpoint: String,
    pub id: String,
    pub secret: Secret,
    pub org: String,
}

/// Reads `host:client_id:client_secret:org` in base64. The host may have a scheme and a port, which
/// the PyPI SDK cannot read.
pub(super) fn read_api_key(key: &Secret) -> Result<ApiKey, Error> {
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine
        .decode(key.reveal().trim())
        .map_err(|_| Error::ApiKey {
            reason: "it is not base64",
        })?;
    let text = String::from_utf8(bytes).map_err(|_| Error::ApiKey {
        reason: "it is not text",
    })?;
    let text = zeroize::Zeroizing::new(text);
    let (scheme, rest) = ["https://", "http://", "dns:///"]
        .iter()
        .find_map(|scheme| Some((*scheme, text.strip_prefix(scheme)?)))
        .unwrap_or(("https://", &text));
    let few = || Error::ApiKey {
        reason: "it does not hold host, client id, client secret and organization",
    };
    let (host, mut rest) = rest.split_once(':').ok_or_else(few)?;
    let mut authority = host.to_owned();
    if let Some((port, behind)) = rest.split_once(':')
        && behind.matches(':').count() >= 2
        && port.parse::<u16>().is_ok()
    {
        authority = format!("{host}:{port}");
        rest = behind;
    }
    let mut parts = rest.splitn(3, ':');
    let (Some(id), Some(secret), Some(org)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(few());
    };
    if authority.is_empty() || id.is_empty() || secret.is_empty() {
        return Err(few());
    }
    let scheme = if scheme == "dns:///" {
        "https://"
    } else {
        scheme
    };
    Ok(ApiKey {
        endpoint: format!("{scheme}{authority}"),
        id: id.to_owned(),
        secret: Secret::new(secret),
        // The PyPI SDK writes the word for an organization that there is not.
        org: if org == "None" {
            String::new()
        } else {
            org.to_owned()
        },
    })
}

/// Decides how to log in.
pub(super) fn decide(
    sources: &mut Sources<'_>,
    given: &Given,
    api_key: Option<&ApiKey>,
) -> Result<Login, Error> {
    let keyring = !sources
        .switch(keys::DISABLE_KEYRING, given.disable_keyring)?
        .unwrap_or(false);
    Ok(Login {
        mode: mode(sources, given, api_key)?,
        scopes: sources.list(keys::SCOPES, &given.scopes)?,
        proxy_command: sources.list(keys::PROXY_COMMAND, &given.proxy_command)?,
        keyring,
        interactive: given.interactive.unwrap_or(false),
    })
}

fn mode(sources: &mut Sources<'_>, given: &Given, api_key: Option<&ApiKey>) -> Result<Mode, Error> {
    if let Some(key) = api_key {
        sources.note(keys::AUTH_TYPE.name, NAMES[2], Origin::ApiKey);
        sources.note(keys::CLIENT_ID.name, &key.id, Origin::ApiKey);
        return Ok(Mode::ClientSecret {
            id: key.id.clone(),
            secret: key.secret.clone(),
        });
    }
    let named = sources.text(keys::AUTH_TYPE, given.auth_type.as_ref())?;
    let secret = secret(sources, given)?;
    let id = sources.text(keys::CLIENT_ID, given.client_id.as_ref())?;
    let command = sources.list(keys::COMMAND, &given.command)?;
    let name = match (&named, &secret) {
        // A secret is good for one thing only.
        (None, Some(_)) => NAMES[2],
        (None, None) => NAMES[0],
        (Some(text), _) => recognise(text)?,
    };
    Ok(match name {
        "Pkce" => Mode::Pkce,
        "DeviceFlow" => Mode::DeviceFlow,
        "ClientSecret" => Mode::ClientSecret {
            id: id.ok_or(Error::Incomplete {
                mode: NAMES[2],
                missing: "admin.clientId",
            })?,
            secret: secret.ok_or(Error::Incomplete {
                mode: NAMES[2],
                missing: "admin.clientSecretEnvVar` or `admin.clientSecretLocation",
            })?,
        },
        "ExternalCommand" if command.is_empty() => {
            return Err(Error::Incomplete {
                mode: NAMES[3],
                missing: "admin.command",
            });
        }
        "ExternalCommand" => Mode::Command(command),
        _ => Mode::Passthrough(given.headers.clone()),
    })
}

/// The mode that a word means, in the spelling of the file or of the command line.
fn recognise(text: &str) -> Result<&'static str, Error> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let wanted = plain(text);
    let alias = match wanted.as_str() {
        "headless" => Some(NAMES[1]),
        "appcredential" => Some(NAMES[2]),
        "command" | "custom" => Some(NAMES[3]),
        _ => NAMES.into_iter().find(|name| plain(name) == wanted),
    };
    alias.ok_or_else(|| Error::AuthType {
        value: text.to_owned(),
        close: did_you_mean(text, NAMES),
        known: NAMES,
    })
}

/// The client's secret: given, in a variable, or in a file.
fn secret(sources: &mut Sources<'_>, given: &Given) -> Result<Option<Secret>, Error> {
    if let Some(secret) = &given.client_secret {
        return Ok(Some(secret.clone()));
    }
    let variable = sources.text(keys::SECRET_VARIABLE, None)?;
    let path = sources.text(keys::SECRET_FILE, None)?;
    if let Some(name) = &variable
        && let Ok(text) = std::env::var(name)
    {
        return Ok(Some(Secret::new(text)));
    }
    match (path, variable) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(&path).map_err(|source| Error::Unreadable {
                path: path.into(),
                source,
            })?;
            Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
        }
        (None, Some(variable)) => Err(Error::NoSecret { variable }),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<ApiKey, Error> {
        let engine = base64::engine::general_purpose::STANDARD;
        read_api_key(&Secret::new(engine.encode(text)))
    }

    #[test]
    fn api_keys_are_read() {
        for (text, endpoint, org) in [
            ("h.x.y:id:se:acme", "https://h.x.y", "acme"),
            ("h.x.y:8443:id:se:acme", "https://h.x.y:8443", "acme"),
            ("dns:///h.x.y:id:se:", "https://h.x.y", ""),
            (
                "http://localhost:8090:id:se:None",
                "http://localhost:8090",
                "",
            ),
        ] {
            let key = key(text).unwrap();
            assert_eq!((key.endpoint.as_str(), key.org.as_str()), (endpoint, org));
            assert_eq!((key.id.as_str(), key.secret.reveal()), ("id", "se"));
        }
        for text in ["", "h", "h:id", "h:id:secret", ":id:se:org", "h::se:org"] {
            assert!(key(text).is_err(), "{text}");
        }
        let error = read_api_key(&Secret::new("not base64!")).unwrap_err();
        assert!(!error.to_string().contains("not base64!"));
    }

    #[test]
    fn modes_have_many_spellings() {
        for (text, name) in [
            ("Pkce", "Pkce"),
            ("headless", "DeviceFlow"),
            ("device-flow", "DeviceFlow"),
            ("client_secret", "ClientSecret"),
            ("app-credential", "ClientSecret"),
            ("command", "ExternalCommand"),
            ("passthrough", "Passthrough"),
        ] {
            assert_eq!(recognise(text).unwrap(), name);
        }
        assert!(matches!(
            recognise("DeviceFlwo"),
            Err(Error::AuthType {
                close: Some("DeviceFlow"),
                ..
            })
        ));
    }
}
