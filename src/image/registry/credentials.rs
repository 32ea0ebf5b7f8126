//! Who we are to a registry, as Docker and Podman were told by `docker login`.
//!
//! Files and helper programs are read when they are needed and nothing is remembered. No secret is
//! logged, shown or left in memory. This file knows no registry: it is asked about a host.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Deserializer};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::image::Error;

/// A helper may ask the user's keychain, which may ask the user.
const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// The user name by which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers print, and end with 1, when they know nothing of a host.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The name under which Docker keeps what belongs to Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// How to prove who we are.
#[derive(Clone)]
pub enum Credential {
    Password {
        username: String,
        password: Zeroizing<String>,
    },
    /// A refresh token that the registry's token service exchanges.
    Identity(Zeroizing<String>),
    /// A bearer token, used as it is.
    Bearer(Zeroizing<String>),
}

impl Credential {
    /// What the Docker Engine wants in `X-Registry-Auth` when it pushes to or pulls from `host`.
    pub fn engine_header(&self, host: &str) -> Zeroizing<String> {
        let fields = match self {
            Self::Password { username, password } => serde_json::json!({
                "username": username, "password": password.as_str(), "serveraddress": host,
            }),
            Self::Identity(token) => serde_json::json!({
                "identitytoken": token.as_str(), "serveraddress": host,
            }),
            Self::Bearer(token) => serde_json::json!({
                "registrytoken": token.as_str(), "serveraddress": host,
            }),
        };
        let text = Zeroizing::new(fields.to_string());
        Zeroizing::new(URL_SAFE.encode(text.as_bytes()))
    }

    /// Whose credential it is, where that is known.
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Password { username, .. } => Some(username),
            Self::Identity(_) | Self::Bearer(_) => None,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username}, ..)"),
            Self::Identity(_) => f.write_str("Identity(..)"),
            Self::Bearer(_) => f.write_str("Bearer(..)"),
        }
    }
}

/// The credential for `host`, such as `ghcr.io` or `localhost:5000`; `None` when none is kept.
///
/// A file that cannot be read and a helper that fails are errors: going on without would end in
/// a refusal that blames somebody else.
pub async fn credentials(host: &str) -> Result<Option<Credential>, Error> {
    Places::from_environment().find(host).await
}

/// Names under which logins are kept, in all places that [`credentials`] looks at; not the logins.
pub async fn hosts() -> Result<Vec<String>, Error> {
    Places::from_environment().hosts().await
}

/// Where to look, in order.
struct Places {
    files: Vec<PathBuf>,
    /// Where helpers are.
    path: OsString,
    limit: Duration,
}

impl Places {
    fn from_environment() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let docker = var("DOCKER_CONFIG").map(PathBuf::from);
        let docker = docker.or_else(|| var("HOME").map(|home| Path::new(&home).join(".docker")));
        let podman = var("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
        let files = [
            var("REGISTRY_AUTH_FILE").map(PathBuf::from),
            docker.map(|folder| folder.join("config.json")),
            podman,
        ];
        Self {
            files: files.into_iter().flatten().collect(),
            path: var("PATH").unwrap_or_default(),
            limit: HELPER_LIMIT,
        }
    }

    async fn find(&self, host: &str) -> Result<Option<Credential>, Error> {
        for file in &self.files {
            let Some(config) = Config::read(file)? else {
                continue;
            };
            if let Some(found) = config.find(host, file, self).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn hosts(&self) -> Result<Vec<String>, Error> {
        let mut known = Vec::new();
        for file in &self.files {
            let Some(config) = Config::read(file)? else {
                continue;
            };
            known.extend(config.auths.into_keys());
            known.extend(config.cred_helpers.into_keys());
            if let Some(helper) = &config.creds_store {
                known.extend(self.listed(helper).await);
            }
        }
        known.sort();
        known.dedup();
        Ok(known)
    }

    /// What a helper keeps, as `docker-credential-<helper> list` tells it; nothing where it does not.
    async fn listed(&self, helper: &str) -> Vec<String> {
        let program = format!("docker-credential-{helper}");
        let asked = tokio::time::timeout(self.limit, run(&program, "list", "", &self.path)).await;
        let Ok(Ok(output)) = asked else {
            return Vec::new();
        };
        let listed: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(&output.stdout).unwrap_or_default();
        listed.into_keys().collect()
    }

    /// Runs `docker-credential-<helper> get`.
    async fn ask(&self, helper: &str, name: &str) -> Result<Option<Credential>, Error> {
        let program = format!("docker-credential-{helper}");
        let failed = |problem: String| Error::Credentials {
            source_name: program.clone(),
            problem,
            hint: format!(
                "try `echo {name} | {program} get`, or take `{helper}` out of Docker's `config.json` and log in anew"
            ),
        };
        if helper.contains('/') {
            return Err(failed(
                "its name is not that of a program on `PATH`".to_owned(),
            ));
        }
        let output = tokio::time::timeout(self.limit, run(&program, "get", name, &self.path)).await;
        let output = match output {
            Ok(output) => output.map_err(|error| failed(error.to_string()))?,
            Err(_) => {
                return Err(failed(format!(
                    "no answer within {} s",
                    self.limit.as_secs()
                )));
            }
        };
        let stdout = Zeroizing::new(output.stdout);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&stdout);
            let said = format!(
                "{} {}",
                said.trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
            if said.contains(NOT_FOUND) {
                return Ok(None);
            }
            return Err(failed(format!("{}: {}", output.status, said.trim())));
        }
        // What it printed holds a secret, and a parser's message might quote it.
        let answer: Answer = serde_json::from_slice(&stdout)
            .map_err(|_| failed("its answer is not the JSON of a credential".to_owned()))?;
        Ok(answer.secret.map(|secret| match answer.username.as_str() {
            TOKEN_USER => Credential::Identity(secret),
            _ => Credential::Password {
                username: answer.username,
                password: secret,
            },
        }))
    }
}

/// The part of `config.json` that is about credentials.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: std::collections::BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: std::collections::BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "secret")]
    auth: Secret,
    username: Option<String>,
    #[serde(deserialize_with = "secret")]
    password: Secret,
    #[serde(deserialize_with = "secret")]
    identitytoken: Secret,
    #[serde(deserialize_with = "secret")]
    registrytoken: Secret,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    #[serde(deserialize_with = "secret")]
    secret: Secret,
}

/// A text that leaves no trace in memory; an empty one is none.
type Secret = Option<Zeroizing<String>>;

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.map(Zeroizing::new);
    Ok(text.filter(|text| !text.is_empty()))
}

impl Config {
    fn read(file: &Path) -> Result<Option<Self>, Error> {
        let text = match std::fs::read(file) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(file, &error.to_string())),
        };
        // The parser's own message may quote what it stumbled over.
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            unusable(
                file,
                &format!("it is not valid JSON in line {}", error.line()),
            )
        })
    }

    async fn find(
        &self,
        host: &str,
        file: &Path,
        places: &Places,
    ) -> Result<Option<Credential>, Error> {
        let names = names(host);
        let own = names.iter().find_map(|name| self.cred_helpers.get(name));
        for helper in own.into_iter().chain(&self.creds_store) {
            // Docker asks for Docker Hub by its long name, for others by the host alone.
            if let Some(found) = places.ask(helper, &names[0]).await? {
                return Ok(Some(found));
            }
        }
        let entry = names.iter().find_map(|name| self.auths.get(name));
        match entry {
            Some(entry) => entry.credential(host, file),
            None => Ok(None),
        }
    }
}

impl Entry {
    fn credential(&self, host: &str, file: &Path) -> Result<Option<Credential>, Error> {
        if let Some(token) = self.identitytoken.clone() {
            return Ok(Some(Credential::Identity(token)));
        }
        if let Some(token) = self.registrytoken.clone() {
            return Ok(Some(Credential::Bearer(token)));
        }
        if let (Some(username), Some(password)) = (&self.username, self.password.clone()) {
            let username = username.clone();
            return Ok(Some(Credential::Password { username, password }));
        }
        let Some(encoded) = self.auth.clone() else {
            return Ok(None); // left there by a helper that keeps the secret itself
        };
        let broken = || {
            unusable(
                file,
                &format!("`auth` of `{host}` is not `user:password` in base64"),
            )
        };
        let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).map_err(|_| broken())?);
        let text = std::str::from_utf8(&decoded).map_err(|_| broken())?;
        let (username, password) = text.split_once(':').ok_or_else(broken)?;
        Ok(Some(Credential::Password {
            username: username.to_owned(),
            password: Zeroizing::new(password.trim_end_matches('\0').to_owned()),
        }))
    }
}

/// The names under which a host may be kept, the one that helpers are asked for first.
fn names(host: &str) -> Vec<String> {
    let mut names = Vec::new();
    if matches!(
        host,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    ) {
        names.extend(
            [
                DOCKER_HUB,
                "docker.io",
                "index.docker.io",
                "registry-1.docker.io",
            ]
            .map(str::to_owned),
        );
    }
    names.push(host.to_owned());
    for scheme in ["https", "http"] {
        for rest in ["", "/", "/v1/", "/v2/", "/v1", "/v2"] {
            names.push(format!("{scheme}://{host}{rest}"));
        }
    }
    names
}

fn unusable(file: &Path, problem: &str) -> Error {
    Error::Credentials {
        source_name: file.display().to_string(),
        problem: problem.to_owned(),
        hint: "correct the file, or write it anew by `docker login`".to_owned(),
    }
}

async fn run(
    program: &str,
    verb: &str,
    name: &str,
    path: &OsStr,
) -> io::Result<std::process::Output> {
    let mut child = Command::new(program)
        .arg(verb)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that answers without reading has closed its end, which is its right.
        if let Err(error) = stdin.write_all(name.as_bytes()).await
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(error);
        }
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path, config: &str) -> Places {
        let file = dir.join("config.json");
        std::fs::write(&file, config).unwrap();
        Places {
            files: vec![dir.join("absent.json"), file],
            path: std::env::var_os("PATH").unwrap(),
            limit: Duration::from_secs(10),
        }
    }

    async fn found(config: &str, host: &str) -> Result<Option<Credential>, Error> {
        let dir = tempfile::tempdir().unwrap();
        places(dir.path(), config).find(host).await
    }

    fn password(credential: Option<Credential>) -> (String, String) {
        match credential {
            Some(Credential::Password { username, password }) => (username, password.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_login_is_found_under_each_of_its_names() {
        let config = |name: &str| {
            format!(
                r#"{{"auths": {{"{name}": {{"auth": "dTpwOnc="}}, "other": {{"auth": "eA=="}}}}}}"#
            )
        };
        for name in ["r.io:5000", "https://r.io:5000", "https://r.io:5000/v2/"] {
            let found = found(&config(name), "r.io:5000").await.unwrap();
            assert_eq!(password(found), ("u".into(), "p:w".into()), "{name}");
        }
        let hub = found(&config(DOCKER_HUB), "docker.io").await.unwrap();
        assert_eq!(password(hub).0, "u");
        assert!(found(&config("r.io"), "r.io.evil").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn tokens_and_empty_entries_are_told_apart() {
        let config =
            r#"{"auths": {"a": {"identitytoken": "t"}, "b": {}, "c": {"registrytoken": "r"}}}"#;
        assert!(matches!(
            found(config, "a").await.unwrap(),
            Some(Credential::Identity(_))
        ));
        assert!(found(config, "b").await.unwrap().is_none());
        assert!(matches!(
            found(config, "c").await.unwrap(),
            Some(Credential::Bearer(_))
        ));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_error_that_quotes_no_secret() {
        for config in [
            r#"{"auths": {"h": {"auth": "hunter2"}}}"#,
            r#"{"auths": {"h": hunter2}}"#,
        ] {
            let error = found(config, "h").await.unwrap_err();
            assert!(matches!(error, Error::Credentials { .. }));
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{error:?}"
            );
        }
    }

    /// A config that names one helper, which is the shell script given.
    async fn helper(script: &str, limit: Duration) -> Result<Option<Credential>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::write(&source, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Written by another process: one that this process wrote may be "busy" for a moment.
        let program = dir.path().join("docker-credential-test");
        let mut install = std::process::Command::new("install");
        install.args(["-m", "755"]).arg(source).arg(program);
        assert!(install.status().unwrap().success());
        let config = r#"{"credsStore": "test", "auths": {"kept.io": {"auth": "dTpw"}}}"#;
        let mut places = places(dir.path(), config);
        places.limit = limit;
        let mut path = dir.path().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        places.path = path;
        let host = if script.contains(NOT_FOUND) {
            "kept.io"
        } else {
            "r.io"
        };
        places.find(host).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn helpers_are_asked_about_the_host() {
        let script = r#"read host; echo "{\"ServerURL\": \"x\", \"Username\": \"$1 $host\", \"Secret\": \"s\"}""#;
        let found = helper(script, LONG).await.unwrap();
        assert_eq!(password(found), ("get r.io".into(), "s".into()));
        let token = r#"echo '{"ServerURL": "x", "Username": "<token>", "Secret": "s"}'"#;
        let found = helper(token, LONG).await.unwrap();
        assert!(matches!(found, Some(Credential::Identity(_))));
    }

    #[tokio::test]
    async fn a_helper_that_knows_nothing_leaves_the_word_to_the_file() {
        let found = helper(&format!("echo {NOT_FOUND}; exit 1"), LONG)
            .await
            .unwrap();
        assert_eq!(password(found), ("u".into(), "p".into()));
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_not_the_absence_of_credentials() {
        for (script, part) in [
            (
                "echo the keychain is locked >&2; exit 3",
                "the keychain is locked",
            ),
            ("echo hunter2", "not the JSON of a credential"),
        ] {
            let error = helper(script, LONG).await.unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(
                error.to_string().contains("docker-credential-test"),
                "{error}"
            );
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let error = helper("exec sleep 600", Duration::from_millis(200))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no answer within"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path(), r#"{"credHelpers": {"r.io": "no-such-helper"}}"#);
        let error = places.find("r.io").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("docker-credential-no-such-helper"),
            "{error}"
        );
        assert!(places.find("other.io").await.unwrap().is_none());
    }

    #[test]
    fn the_engine_gets_what_it_understands_and_nobody_else_sees_it() {
        let credential = Credential::Password {
            username: "u".into(),
            password: Zeroizing::new("hunter2".into()),
        };
        let header = credential.engine_header("r.io");
        let text = String::from_utf8(URL_SAFE.decode(header.as_bytes()).unwrap()).unwrap();
        let fields: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(fields["username"], "u");
        assert_eq!(fields["password"], "hunter2");
        assert_eq!(fields["serveraddress"], "r.io");
        assert!(!format!("{credential:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn all_places_are_listed_and_nothing_but_names() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let helper = dir.path().join("docker-credential-kept");
        std::fs::write(
            &helper,
            "#!/bin/sh\necho '{\"https://store.io\": \"me\"}'\n",
        )
        .unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut places = places(
            dir.path(),
            r#"{"auths": {"a.io": {"auth": "dTpw"}}, "credHelpers": {"b.io": "x"}, "credsStore": "kept"}"#,
        );
        places.path = dir.path().into();
        let podman = dir.path().join("auth.json");
        std::fs::write(&podman, r#"{"auths": {"podman.io": {"auth": "dTpw"}}}"#).unwrap();
        places.files.push(podman);
        let hosts = places.hosts().await.unwrap();
        assert_eq!(hosts, ["a.io", "b.io", "https://store.io", "podman.io"]);
    }
}
