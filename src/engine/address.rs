//! Where a container engine may be: what `DOCKER_HOST` says, else the places that its makers use.

use std::path::PathBuf;

use super::Error;

/// The way to an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// `host:port`, spoken to without encryption.
    Tcp(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// Sockets below the home folder: Docker Desktop on both systems, Colima, `OrbStack`, Rancher Desktop.
const IN_HOME: [&str; 6] = [
    ".docker/run/docker.sock",
    ".docker/desktop/docker.sock",
    ".colima/default/docker.sock",
    ".colima/docker.sock",
    ".orbstack/run/docker.sock",
    ".rd/docker.sock",
];

/// The places to try, in order; `variable` reads the environment.
pub fn candidates(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Address>, Error> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(host) = set("DOCKER_HOST") {
        let encrypted = set("DOCKER_TLS_VERIFY").is_some() || set("DOCKER_TLS").is_some();
        return Ok(vec![parse(&host, encrypted)?]);
    }
    let mut places = vec![PathBuf::from("/var/run/docker.sock")];
    if let Some(folder) = set("XDG_RUNTIME_DIR") {
        places.push(PathBuf::from(folder).join("docker.sock"));
    }
    if let Some(home) = set("HOME") {
        places.extend(IN_HOME.map(|place| PathBuf::from(&home).join(place)));
    }
    Ok(places.into_iter().map(Address::Unix).collect())
}

fn parse(host: &str, encrypted: bool) -> Result<Address, Error> {
    let refused = |reason: &'static str| Error::Host {
        host: host.to_owned(),
        reason,
    };
    if let Some(path) = host.strip_prefix("unix://") {
        return Ok(Address::Unix(path.into()));
    }
    match host.split_once("://") {
        Some(("ssh", _)) => Err(refused("engines behind SSH are not reached from here")),
        Some(("tcp" | "http", address)) if !encrypted => {
            Ok(Address::Tcp(address.trim_end_matches('/').to_owned()))
        }
        Some(("tcp" | "http" | "https", _)) => {
            Err(refused("engines behind TLS are not reached from here"))
        }
        Some(_) => Err(refused("it begins with no scheme that is known")),
        None if host.starts_with('/') => Ok(Address::Unix(host.into())),
        None => Err(refused("it is not a URL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};

    fn with(pairs: &[(&str, &str)]) -> Result<Vec<Address>, Error> {
        candidates(|name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_host_that_is_set_is_the_only_one() {
        for (host, expected) in [
            ("unix:///run/x.sock", Address::Unix("/run/x.sock".into())),
            ("/run/x.sock", Address::Unix("/run/x.sock".into())),
            (
                "tcp://127.0.0.1:2375/",
                Address::Tcp("127.0.0.1:2375".into()),
            ),
        ] {
            assert_eq!(with(&[("DOCKER_HOST", host)]).unwrap(), [expected]);
        }
    }

    #[test]
    fn a_host_that_cannot_be_reached_says_why() {
        for (host, part) in [
            ("ssh://me@there", "SSH"),
            ("https://there:2376", "TLS"),
            ("ftp://there", "scheme"),
            ("there", "URL"),
        ] {
            let error = with(&[("DOCKER_HOST", host)]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.code(), Code::ConfigInvalid);
        }
        let tls = [
            ("DOCKER_HOST", "tcp://there:2376"),
            ("DOCKER_TLS_VERIFY", "1"),
        ];
        assert!(with(&tls).unwrap_err().to_string().contains("TLS"));
    }

    #[test]
    fn known_places_are_tried_from_the_system_to_the_user() {
        let places = with(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1")]).unwrap();
        assert_eq!(places[0], Address::Unix("/var/run/docker.sock".into()));
        assert_eq!(places[1], Address::Unix("/run/user/1/docker.sock".into()));
        assert!(places.contains(&Address::Unix("/h/.colima/default/docker.sock".into())));
    }
}
