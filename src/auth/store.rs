//! Where tokens lie between two commands: the system's keyring, else a file of mode 0600.
//!
//! To keep nothing is no failure: one logs in again then. What the tokens mean is not known here.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use super::tokens::Tokens;
use super::{Error, tell};
use crate::config::{Home, Login, Mode};
use crate::files::{self, FileLock};

/// How long a keyring may take; it may be asking somebody for a password.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing is said while another process logs in.
const SILENCE: Duration = Duration::from_secs(2);

/// The place of one login's tokens.
#[derive(Clone)]
pub(super) struct Store {
    /// `None` where what is got is not worth keeping.
    place: Option<Place>,
    folder: PathBuf,
    lock: PathBuf,
}

#[derive(Clone)]
struct Place {
    keyring: bool,
    service: String,
    user: String,
    file: PathBuf,
}

impl Store {
    pub fn new(endpoint: &str, login: &Login, home: &Home) -> Self {
        // Tokens of a person and those of each client are not one another's.
        let user = match &login.mode {
            Mode::Pkce | Mode::DeviceFlow => "tokens".to_owned(),
            Mode::ClientSecret { id, .. } => format!("tokens of {id}"),
            Mode::Command(_) | Mode::Passthrough(_) => String::new(),
        };
        // With the scheme: what was got over TLS is not sent to the same host in the clear.
        let key = format!("{endpoint}\n{user}\n{}", login.scopes.join(" "));
        let name = blake3::hash(key.as_bytes()).to_hex()[..24].to_owned();
        let folder = home.path().join("credentials");
        Self {
            place: (!user.is_empty()).then(|| Place {
                keyring: login.keyring && has_keyring(),
                service: format!("flyte-rs:{endpoint}"),
                user,
                file: folder.join(format!("{name}.json")),
            }),
            lock: folder.join(format!("{name}.lock")),
            folder,
        }
    }

    /// Keeps other processes from renewing the same token; `None` where there is none to keep.
    pub async fn lock(&self) -> Result<Option<FileLock>, Error> {
        if self.place.is_none() {
            return Ok(None);
        }
        let (folder, path) = (self.folder.clone(), self.lock.clone());
        let waiting = tokio::task::spawn_blocking(move || {
            if make_private(&folder).is_err() {
                return Ok(None); // a home that cannot be written has nothing to guard
            }
            files::lock_exclusive(&path).map(Some)
        });
        tokio::pin!(waiting);
        let locked = tokio::select! {
            locked = &mut waiting => locked,
            () = tokio::time::sleep(SILENCE) => {
                tell("waiting for another process that is logging in");
                waiting.await
            }
        };
        match locked {
            Ok(lock) => Ok(lock?),
            Err(_) => Ok(None), // the runtime is ending
        }
    }

    pub async fn load(&self) -> Option<Tokens> {
        let place = self.place.clone()?;
        aside(move || {
            let text = place
                .entry()
                .and_then(|entry| entry.get_password().ok())
                .or_else(|| std::fs::read_to_string(&place.file).ok())?;
            Tokens::from_json(&zeroize::Zeroizing::new(text))
        })
        .await
        .flatten()
    }

    pub async fn save(&self, tokens: &Tokens) {
        let Some(place) = self.place.clone() else {
            return;
        };
        let json = tokens.to_json();
        let written = aside(move || {
            let in_keyring = place
                .entry()
                .is_some_and(|entry| entry.set_password(json.reveal()).is_ok());
            if in_keyring {
                let _ = std::fs::remove_file(&place.file);
                return Ok(());
            }
            files::write_atomic(&place.file, json.reveal().as_bytes(), 0o600)
        });
        if let Some(Err(error)) = written.await {
            tracing::warn!(%error, "the login is not kept");
        }
    }

    pub async fn clear(&self) {
        let Some(place) = self.place.clone() else {
            return;
        };
        aside(move || {
            if let Some(entry) = place.entry() {
                let _ = entry.delete_credential();
            }
            let _ = std::fs::remove_file(&place.file);
        })
        .await;
    }
}

impl Place {
    fn entry(&self) -> Option<keyring::Entry> {
        self.keyring
            .then(|| keyring::Entry::new(&self.service, &self.user).ok())
            .flatten()
    }
}

/// Runs what blocks; `None` when it takes too long.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let work = tokio::task::spawn_blocking(work);
    tokio::time::timeout(PATIENCE, work).await.ok()?.ok()
}

fn make_private(folder: &std::path::Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Whether there is a keyring to ask. Without a session bus the question alone takes long.
fn has_keyring() -> bool {
    if cfg!(target_os = "macos") {
        return true;
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("DBUS_SESSION_BUS_ADDRESS").is_some()
        || set("XDG_RUNTIME_DIR").is_some_and(|folder| PathBuf::from(folder).join("bus").exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use std::os::unix::fs::PermissionsExt;

    fn login(mode: Mode) -> Login {
        Login {
            mode,
            scopes: Vec::new(),
            proxy_command: Vec::new(),
            keyring: false,
            interactive: false,
        }
    }

    #[tokio::test]
    async fn tokens_lie_in_a_file_for_nobody_else_and_clients_do_not_share_them() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().to_owned());
        let person = Store::new("https://h.x", &login(Mode::Pkce), &home);
        let tokens = Tokens::lasting(Secret::new("t"));
        let lock = person.lock().await.unwrap();
        assert!(lock.is_some());
        person.save(&tokens).await;
        assert_eq!(person.load().await, Some(tokens));
        let place = person.place.as_ref().unwrap();
        let mode = |path: &PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.file), 0o600);
        assert_eq!(mode(&person.folder), 0o700);
        let client = Mode::ClientSecret {
            id: "c".into(),
            secret: Secret::new("s"),
        };
        let client = Store::new("https://h.x", &login(client), &home);
        assert_eq!(client.load().await, None);
        let in_the_clear = Store::new("http://h.x", &login(Mode::Pkce), &home);
        assert_eq!(in_the_clear.load().await, None);
        person.clear().await;
        assert_eq!(person.load().await, None);
    }
}
