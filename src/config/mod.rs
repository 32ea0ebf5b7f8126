//! Where the control plane is, how one logs in there, and where this machine keeps its files.
//!
//! Settings arrive as they were written (arguments, environment, file) and leave as one resolved
//! [`Settings`]; nothing further down reads a variable or a file again. Whether a call goes to
//! the local platform or to a cluster is decided here, once.

mod error;
mod file;
mod home;
pub mod in_cluster;
mod keys;
mod login;
mod secret;
mod sources;
mod upkeep;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use error::Error;
pub use home::Home;
pub use login::{Login, Mode};
pub use secret::Secret;
pub use sources::{Entry, Origin, Value};
pub use upkeep::Upkeep;
pub use write::write;

use crate::tls::Trust;
use sources::Sources;

/// Project and domain that the local platform uses when none is configured.
pub const LOCAL_PROJECT: &str = "local";
/// See [`LOCAL_PROJECT`].
pub const LOCAL_DOMAIN: &str = "development";

/// How often a call that may be repeated is repeated.
const RETRIES: u32 = 3;

/// Which control plane is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The background process of this machine, started on demand.
    Local,
    /// A control plane at `http://` or `https://` authority, with a path before that of calls if need
    /// be.
    Remote(String),
}

/// Values as given by the caller; `None` and emptiness mean "not said".
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub config_path: Option<PathBuf>,
    pub endpoint: Option<String>,
    pub insecure: Option<bool>,
    pub org: Option<String>,
    pub project: Option<String>,
    pub domain: Option<String>,
    pub home: Option<PathBuf>,
    pub insecure_skip_verify: Option<bool>,
    pub ca_file: Option<String>,
    pub auth_type: Option<String>,
    pub command: Vec<String>,
    pub proxy_command: Vec<String>,
    /// Holds an endpoint too, which wins over every other.
    pub api_key: Option<Secret>,
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    pub scopes: Vec<String>,
    pub http_proxy: Option<String>,
    pub disable_keyring: Option<bool>,
    pub retries: Option<u32>,
    /// What is sent with each call in the mode `Passthrough`.
    pub headers: Vec<(String, Secret)>,
    /// Whether somebody is there who can log in; nobody when left out.
    pub interactive: Option<bool>,
    pub image_builder: Option<String>,
    pub image_registry: Option<String>,
    pub images: BTreeMap<String, String>,
}

/// How images are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSettings {
    pub builder: Option<String>,
    /// Where images are pushed to.
    pub registry: Option<String>,
    /// Images by name; the one called `default` is used where none is declared.
    pub refs: BTreeMap<String, String>,
    /// What images are built on, instead of the usual one.
    pub base: Option<String>,
    /// Of layers that are written without an engine: `gzip` or `zstd`.
    pub compression: Option<String>,
}

/// Everything decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub endpoint: Endpoint,
    pub org: String,
    pub project: String,
    pub domain: String,
    pub home: Home,
    /// The configuration file that was read, if any.
    pub source: Option<PathBuf>,
    pub trust: Trust,
    /// Instead of the proxies that the environment names.
    pub proxy: Option<String>,
    pub login: Login,
    /// How often a call that may be repeated is repeated.
    pub retries: u32,
    pub image: ImageSettings,
    pub upkeep: Upkeep,
    /// Settings of the configuration file that mean nothing here.
    pub unknown: Vec<String>,
    /// Each value in force and where it came from, without secrets.
    pub entries: Vec<Entry>,
}

impl Settings {
    /// Resolves what was given against the environment and the configuration file.
    pub fn resolve(given: &Given) -> Result<Self, Error> {
        let home = match &given.home {
            Some(path) => Home::at(path.clone()),
            None => Home::from_environment()?,
        };
        let source = match &given.config_path {
            Some(path) => Some(path.clone()),
            None => file::search(&home)?,
        };
        let file::Read { file, unknown } = match &source {
            Some(path) if path.is_file() => file::read(path)?,
            Some(path) => return Err(Error::Missing { path: path.clone() }),
            None => file::Read::default(),
        };
        let mut sources = Sources::new(&file, source.clone());
        let api_key = given
            .api_key
            .as_ref()
            .map(login::read_api_key)
            .transpose()?;
        let endpoint = endpoint(&mut sources, given, api_key.as_ref())?;
        let scope = scope(&mut sources, given, api_key.as_ref(), &endpoint)?;
        let trust = Trust {
            ca_file: sources
                .text(keys::CA_FILE, given.ca_file.as_ref())?
                .map(PathBuf::from),
            skip_verify: sources
                .switch(keys::SKIP_VERIFY, given.insecure_skip_verify)?
                .unwrap_or(false),
        };
        let login = login::decide(&mut sources, given, api_key.as_ref())?;
        let proxy = sources.text(keys::HTTP_PROXY, given.http_proxy.as_ref())?;
        let image = ImageSettings {
            builder: sources.text(keys::BUILDER, given.image_builder.as_ref())?,
            registry: sources.text(keys::REGISTRY, given.image_registry.as_ref())?,
            refs: sources.table(keys::IMAGE_REFS, &given.images)?,
            base: sources.text(keys::BASE, None)?,
            compression: sources.text(keys::COMPRESSION, None)?,
        };
        let upkeep = Upkeep::read(
            sources.text(keys::PRUNE_SIZE, None)?.as_deref(),
            sources.text(keys::PRUNE_DAYS, None)?.as_deref(),
        )?;
        Ok(Self {
            org: scope.org,
            project: scope.project,
            domain: scope.domain,
            retries: given.retries.unwrap_or(RETRIES),
            unknown,
            entries: sources.into_entries(),
            endpoint,
            home,
            source,
            trust,
            proxy,
            login,
            image,
            upkeep,
        })
    }

    /// One line that says where apps will go.
    pub fn describe(&self) -> String {
        match &self.endpoint {
            Endpoint::Local => format!(
                "using the local platform ({}), project `{}`, domain `{}`",
                self.home.path().display(),
                self.project,
                self.domain
            ),
            Endpoint::Remote(uri) => format!(
                "using {uri}, project `{}`, domain `{}`",
                self.project, self.domain
            ),
        }
    }

    /// What the user should be told each time before these settings are used.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Endpoint::Remote(uri) = &self.endpoint
            && self.trust.skip_verify
            && uri.starts_with("https:")
        {
            warnings.push(format!(
                "certificates are not checked (`admin.insecureSkipVerify`): whoever stands between \
                 here and {uri} can read and change everything, tokens included"
            ));
        }
        if let Some(path) = &self.source
            && !self.unknown.is_empty()
        {
            warnings.push(format!(
                "`{}` has settings that mean nothing here: `{}`",
                path.display(),
                self.unknown.join("`, `")
            ));
        }
        warnings
    }
}

fn endpoint(
    sources: &mut Sources<'_>,
    given: &Given,
    api_key: Option<&login::ApiKey>,
) -> Result<Endpoint, Error> {
    if let Some(key) = api_key {
        sources.note(keys::ENDPOINT.name, &key.endpoint, Origin::ApiKey);
        return Ok(Endpoint::Remote(normalise(&key.endpoint, false)?));
    }
    let insecure = sources.switch(keys::INSECURE, given.insecure)?;
    let written = sources.text(keys::ENDPOINT, given.endpoint.as_ref())?;
    match written {
        Some(value) => normalise(&value, insecure.unwrap_or(false)).map(Endpoint::Remote),
        None => Ok(Endpoint::Local),
    }
}

struct Scope {
    org: String,
    project: String,
    domain: String,
}

fn scope(
    sources: &mut Sources<'_>,
    given: &Given,
    api_key: Option<&login::ApiKey>,
    endpoint: &Endpoint,
) -> Result<Scope, Error> {
    let (project, domain, derived) = match endpoint {
        Endpoint::Local => (LOCAL_PROJECT, LOCAL_DOMAIN, None),
        Endpoint::Remote(uri) => ("", "", derived_org(uri)),
    };
    let mut or = |key: keys::Key, given: Option<&String>, default: &str| {
        let found = sources.text(key, given)?;
        Ok::<_, Error>(found.unwrap_or_else(|| {
            if !default.is_empty() {
                sources.note(key.name, default, Origin::Default);
            }
            default.to_owned()
        }))
    };
    let project = or(keys::PROJECT, given.project.as_ref(), project)?;
    let domain = or(keys::DOMAIN, given.domain.as_ref(), domain)?;
    let mut org = sources.text(keys::ORG, given.org.as_ref())?;
    if org.is_none()
        && let Some(key) = api_key.filter(|key| !key.org.is_empty())
    {
        sources.note(keys::ORG.name, &key.org, Origin::ApiKey);
        org = Some(key.org.clone());
    }
    if org.is_none()
        && let Some(derived) = derived
    {
        sources.note(keys::ORG.name, &derived, Origin::Endpoint);
        org = Some(derived);
    }
    Ok(Scope {
        org: org.unwrap_or_default(),
        project,
        domain,
    })
}

/// The organization that a host of more than two names stands for, as the PyPI SDK has it: apps of
/// both would otherwise be different ones. An IP address stands for none.
fn derived_org(uri: &str) -> Option<String> {
    let url = url::Url::parse(uri).ok()?;
    match url.host()? {
        url::Host::Domain(host) if host.split('.').count() > 2 => {
            host.split('.').next().map(str::to_owned)
        }
        url::Host::Domain(_) | url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
    }
}

/// Names in one text, separated by commas or blanks.
fn names(text: &str) -> Vec<String> {
    text.split([',', ' ', '\t', '\n'])
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Turns any accepted form into `http://authority` or `https://authority`, with the path if there
/// is one.
///
/// A scheme that was written is kept; only `dns:///` and bare authorities follow `insecure`.
fn normalise(value: &str, insecure: bool) -> Result<String, Error> {
    let invalid = || Error::Endpoint {
        value: value.to_owned(),
    };
    let written = value.trim();
    let whole = if written.starts_with("http://") || written.starts_with("https://") {
        written.to_owned()
    } else {
        let authority = written.strip_prefix("dns:///").unwrap_or(written);
        if authority.is_empty() || authority.contains("://") {
            return Err(invalid());
        }
        let scheme = if insecure { "http" } else { "https" };
        format!("{scheme}://{authority}")
    };
    let whole = whole.trim_end_matches('/').to_owned();
    let url = url::Url::parse(&whole).map_err(|_| invalid())?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !url.has_host() || !is_plain || whole.parse::<http::Uri>().is_err() {
        return Err(invalid());
    }
    Ok(whole)
}

/// The nearest folder at or above `start` that holds `.git`.
fn git_root(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .find(|folder| folder.join(".git").exists())
        .map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_keep_the_scheme_that_was_written() {
        for (value, insecure, expected) in [
            ("localhost:8090", true, "http://localhost:8090"),
            ("localhost:8090", false, "https://localhost:8090"),
            ("http://localhost:8090", false, "http://localhost:8090"),
            ("https://a.b.c/", true, "https://a.b.c"),
            ("https://a.b.c/prefix/", true, "https://a.b.c/prefix"),
            ("dns:///a.b.c", false, "https://a.b.c"),
            ("[::1]:8080", true, "http://[::1]:8080"),
        ] {
            assert_eq!(normalise(value, insecure).unwrap(), expected);
        }
        for value in [
            "ftp://x",
            "dns:///",
            "",
            "https://user:secret@h",
            "https://h?x=1",
            "a b",
        ] {
            assert!(normalise(value, false).is_err(), "{value}");
        }
    }

    #[test]
    fn organizations_follow_from_names_only() {
        assert_eq!(derived_org("https://acme.x.ai:8443"), Some("acme".into()));
        for uri in [
            "http://127.0.0.1:80",
            "http://localhost:1",
            "https://x.ai",
            "http://[::1]",
        ] {
            assert_eq!(derived_org(uri), None, "{uri}");
        }
    }

    fn given(text: &str) -> (tempfile::TempDir, Given) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        let given = Given {
            config_path: Some(path),
            home: Some(folder.path().to_owned()),
            ..Given::default()
        };
        (folder, given)
    }

    #[test]
    fn each_value_tells_where_it_comes_from_and_no_secret_is_among_them() {
        let (folder, mut given) =
            given("admin:\n  endpoint: dns:///acme.x.ai\n  clientId: me\ntask:\n  project: p\n");
        given.domain = Some("d".into());
        given.client_secret = Some(Secret::new("hunter2"));
        let settings = Settings::resolve(&given).unwrap();
        assert_eq!(settings.org, "acme");
        assert!(matches!(&settings.login.mode, Mode::ClientSecret { id, .. } if id == "me"));
        let origin = |key: &str| {
            let entry = settings.entries.iter().find(|entry| entry.key == key);
            entry.map(|entry| entry.origin.clone())
        };
        let file = Origin::File(folder.path().join("config.yaml"));
        assert_eq!(origin("admin.endpoint"), Some(file.clone()));
        assert_eq!(origin("task.project"), Some(file));
        assert_eq!(origin("task.domain"), Some(Origin::Argument));
        assert_eq!(origin("task.org"), Some(Origin::Endpoint));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn a_mode_without_what_it_needs_is_refused() {
        for (text, missing) in [
            ("admin:\n  authType: ClientSecret\n", "admin.clientId"),
            ("admin:\n  authType: ExternalCommand\n", "admin.command"),
            ("admin:\n  authType: Oauth\n", "Oauth"),
            (
                "admin:\n  clientId: x\n  clientSecretLocation: /no/such\n",
                "/no/such",
            ),
            (
                "admin:\n  clientSecretEnvVar: NO_SUCH_VARIABLE\n",
                "NO_SUCH_VARIABLE",
            ),
        ] {
            let (_folder, given) = given(text);
            let error = Settings::resolve(&given).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn a_given_path_that_is_missing_is_an_error() {
        let given = Given {
            config_path: Some("/nonexistent/config.yaml".into()),
            home: Some("/tmp".into()),
            ..Given::default()
        };
        assert!(matches!(
            Settings::resolve(&given),
            Err(Error::Missing { .. })
        ));
    }
}
