//! What an app may know at its start: the values of its secrets.
//!
//! A variable exists in the environment of the replica's process and nowhere else. A file lies in
//! memory, in a folder of that one replica, which goes when the replica does; never below the home
//! of the platform, which people copy and search.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::diagnose::Failure;
use super::launch::Setting;
use crate::error::{Diagnostic, with_causes};
use crate::secrets::{Error, Id, Value, Vault, name_of};
use crate::wire::app::status::Substate;
use crate::wire::core::secret::MountType;
use crate::wire::{app, core};

/// Names the folder of the files; on a cluster it is set by what mounts them.
const FOLDER_VARIABLE: &str = "FLYTE_SECRETS_DEFAULT_DIR";
/// Files there are in memory and never reach a disk.
const MEMORY: &str = "/dev/shm";

/// Below the folder that keeps others out.
const INNER: &str = "files";

/// The secrets of one replica.
#[derive(Default)]
pub struct Revealed {
    pub variables: Vec<(String, String)>,
    pub files: Option<tempfile::TempDir>,
}

/// Looks up all secrets that `app` asks for.
pub fn reveal(setting: &Setting, app: &app::App) -> Result<Revealed, Failure> {
    let vault = Vault::at(setting.home.secrets());
    let mut revealed = Revealed::default();
    for secret in &app.spec.security_context.secrets {
        let id = id_of(app, secret);
        let value = vault.reveal(&id).map_err(|error| missing(&id, &error))?;
        if secret.mount_requirement.as_known() == Some(MountType::FILE) {
            add_file(&mut revealed, &setting.mark, secret, &value)
                .map_err(|error| refused(&id, &error.to_string()))?;
        }
        let name = variable_of(secret);
        if !name.is_empty() {
            let text = std::str::from_utf8(&value).ok();
            let text = text.filter(|text| !text.contains('\0')).ok_or_else(|| {
                refused(
                    &id,
                    "it is not text, which a variable has to be; use `mount`",
                )
            })?;
            revealed.variables.push((name, text.to_owned()));
        }
    }
    Ok(revealed)
}

fn id_of(app: &app::App, secret: &core::Secret) -> Id {
    let id = &app.metadata.id;
    Id {
        project: id.project.clone(),
        domain: id.domain.clone(),
        name: name_of(&secret.group, &secret.key),
    }
}

/// The variable that a secret goes to; a file has one only where it is asked for.
fn variable_of(secret: &core::Secret) -> String {
    let is_file = secret.mount_requirement.as_known() == Some(MountType::FILE);
    if is_file || !secret.env_var.is_empty() {
        return secret.env_var.clone();
    }
    name_of(&secret.group, &secret.key)
        .replace('-', "_")
        .to_ascii_uppercase()
}

fn add_file(
    revealed: &mut Revealed,
    mark: &str,
    secret: &core::Secret,
    value: &Value,
) -> io::Result<()> {
    if revealed.files.is_none() {
        let made = tempfile::Builder::new()
            .prefix(&prefix(mark))
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(room())?;
        let folder = made.path().join(INNER);
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let folder = folder.to_string_lossy().into_owned();
        revealed
            .variables
            .push((FOLDER_VARIABLE.to_owned(), folder));
        revealed.files = Some(made);
    }
    let Some(folder) = &revealed.files else {
        return Ok(());
    };
    let mut folder = folder.path().join(INNER);
    if !secret.group.is_empty() {
        folder.push(plain(&secret.group)?);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(plain(&secret.key)?))?
        .write_all(value)
}

/// Lets whoever a container runs as read the files; returns the folder to show to the container.
///
/// On this machine nobody else gets there: the folder around it stays closed.
pub fn open_to_containers(files: &tempfile::TempDir) -> Result<PathBuf, Failure> {
    let folder = files.path().join(INNER);
    let open = || -> io::Result<()> {
        for entry in walkdir::WalkDir::new(&folder) {
            let entry = entry?;
            let mode = if entry.file_type().is_dir() {
                0o755
            } else {
                0o444
            };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    open().map_err(|error| Failure {
        code: crate::error::Code::SecretStore,
        message: format!("secrets cannot be given to a container: {error}"),
        substate: Substate::SECRET_MOUNT_ERROR,
    })?;
    Ok(folder)
}

/// A name that leads nowhere else.
fn plain(name: &str) -> io::Result<&str> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    Ok(name)
}

fn room() -> PathBuf {
    let memory = Path::new(MEMORY);
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

fn prefix(mark: &str) -> String {
    format!("flyte-secrets-{mark}-")
}

/// Removes the files of replicas whose platform was killed.
pub fn sweep(mark: &str) {
    let prefix = prefix(mark);
    for entry in fs::read_dir(room()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn missing(id: &Id, error: &Error) -> Failure {
    let mut message = with_causes(error);
    if matches!(error, Error::NotFound(_)) {
        let Id {
            project,
            domain,
            name,
        } = id;
        message = format!(
            "{message}; create it with `flyte create secret {name} --project {project} --domain {domain}`"
        );
    }
    Failure {
        code: error.code(),
        message,
        substate: Substate::SECRET_MOUNT_ERROR,
    }
}

fn refused(id: &Id, reason: &str) -> Failure {
    Failure {
        code: crate::error::Code::SecretStore,
        message: format!("secret `{}` cannot be given to the app: {reason}", id.name),
        substate: Substate::SECRET_MOUNT_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Home;
    use crate::error::Code;
    use crate::local::supervisor::container::Containers;
    use crate::local::supervisor::launch::{Environment, Environments};
    use crate::wire::identifier;
    use futures::future::BoxFuture;
    use std::sync::Arc;

    struct Nowhere;

    impl Environments for Nowhere {
        fn locate(&self, _: &str) -> Result<Option<Environment>, String> {
            Err("no image is needed here".to_owned())
        }

        fn prepare<'a>(
            &'a self,
            _: &'a str,
            _: &'a (dyn Fn(&str) + Send + Sync),
        ) -> BoxFuture<'a, Result<(), Failure>> {
            Box::pin(async { Ok(()) })
        }

        fn find(&self, _: &str) -> Option<String> {
            None
        }
    }

    fn setting(folder: &Path) -> Setting {
        Setting {
            home: Home::at(folder.to_owned()),
            mark: format!("test{}", std::process::id()),
            environments: Arc::new(Nowhere),
            fserve: Vec::new(),
            listening: Arc::default(),
            names_port: Arc::default(),
            containers: Arc::new(Containers::new(&Home::at(folder.to_owned()), "m", 1)),
        }
    }

    fn wanting(secrets: Vec<core::Secret>) -> app::App {
        app::App {
            metadata: app::Meta {
                id: identifier("", "p", "d", "web").into(),
                ..Default::default()
            }
            .into(),
            spec: app::Spec {
                security_context: app::SecurityContext {
                    secrets,
                    ..Default::default()
                }
                .into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }

    fn secret(group: &str, key: &str, mount: MountType, env_var: &str) -> core::Secret {
        core::Secret {
            group: group.to_owned(),
            key: key.to_owned(),
            mount_requirement: mount.into(),
            env_var: env_var.to_owned(),
            ..Default::default()
        }
    }

    fn keep(setting: &Setting, name: &str, value: &[u8]) {
        let id = Id {
            project: "p".to_owned(),
            domain: "d".to_owned(),
            name: name.to_owned(),
        };
        Vault::at(setting.home.secrets())
            .create(&id, value, 0)
            .unwrap();
    }

    #[test]
    fn variables_and_files_are_given_and_files_go_with_their_holder() {
        let scratch = tempfile::tempdir().unwrap();
        let setting = setting(scratch.path());
        keep(&setting, "api-key", b"one");
        keep(&setting, "db_password", b"\xff\x00");
        let app = wanting(vec![
            secret("", "api-key", MountType::ENV_VAR, ""),
            secret("db", "password", MountType::FILE, ""),
        ]);
        let revealed = reveal(&setting, &app).unwrap();
        assert_eq!(
            revealed.variables[0],
            ("API_KEY".to_owned(), "one".to_owned())
        );
        let folder = PathBuf::from(&revealed.variables[1].1);
        assert_eq!(revealed.variables[1].0, FOLDER_VARIABLE);
        let file = folder.join("db/password");
        assert_eq!(fs::read(&file).unwrap(), b"\xff\x00");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
            0o700
        );
        drop(revealed);
        assert!(!folder.exists());
    }

    #[test]
    fn what_is_missing_or_no_text_is_told_with_what_to_do() {
        let scratch = tempfile::tempdir().unwrap();
        let setting = setting(scratch.path());
        let app = wanting(vec![secret("", "key", MountType::ENV_VAR, "KEY")]);
        let failure = reveal(&setting, &app).err().unwrap();
        assert_eq!(failure.code, Code::SecretNotFound);
        assert!(
            failure
                .message
                .contains("`flyte create secret key --project p --domain d`")
        );
        keep(&setting, "key", b"\xff");
        let failure = reveal(&setting, &app).err().unwrap();
        assert_eq!(failure.code, Code::SecretStore);
        assert!(failure.message.contains("`mount`"), "{}", failure.message);
    }

    #[test]
    fn what_a_killed_platform_left_is_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let mut setting = setting(scratch.path());
        setting.mark = format!("swept{}", std::process::id());
        keep(&setting, "key", b"v");
        let app = wanting(vec![secret("", "key", MountType::FILE, "")]);
        let folder = reveal(&setting, &app).unwrap().files.unwrap().keep();
        sweep(&setting.mark);
        assert!(!folder.exists());
    }
}
