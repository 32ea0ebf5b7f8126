//! What an app may know at its start: the values of its secrets.
//!
//! A variable exists in the environment of the replica's process and nowhere else. A file lies in
//! memory, in a folder of that one replica, which goes when the replica does; never below the home
//! of the platform, which people copy and search.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::container::{Order, SECRETS, Variables, script};
use super::diagnose::Failure;
use super::launch::Setting;
use crate::config::Secret;
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
/// Beside it.
const VARIABLES: &str = "variables";

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
        let made = memory_folder(mark)?;
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

/// Makes the secrets of a container's order: those that are variables, and the folder of those that
/// are files.
pub fn for_container(
    mut revealed: Revealed,
    mark: &str,
    order: &mut Order,
) -> Result<Option<tempfile::TempDir>, Failure> {
    let is_folder = |(name, _): &mut (String, String)| name == FOLDER_VARIABLE;
    if revealed.variables.extract_if(.., is_folder).count() > 0 {
        let folder = (FOLDER_VARIABLE.to_owned(), SECRETS.to_owned());
        order.env.push(folder);
    }
    let failed = |error: io::Error| Failure {
        code: crate::error::Code::SecretStore,
        message: format!("secrets cannot be given to a container: {error}"),
        substate: Substate::SECRET_MOUNT_ERROR,
    };
    if let Some(files) = &revealed.files {
        order.secrets = Some(open_to_containers(files).map_err(failed)?);
    }
    if !revealed.variables.is_empty() {
        let values = revealed.variables.drain(..);
        let values = values.map(|(name, value)| (name, Secret::new(value)));
        let values: Vec<_> = values.collect();
        let file = add_variables(&mut revealed, mark, &values).map_err(failed)?;
        order.variables = Some(Variables { file, values });
    }
    Ok(revealed.files)
}

/// Writes what a container's shell reads.
fn add_variables(
    revealed: &mut Revealed,
    mark: &str,
    values: &[(String, Secret)],
) -> io::Result<PathBuf> {
    if revealed.files.is_none() {
        revealed.files = Some(memory_folder(mark)?);
    }
    let folder = revealed.files.as_ref().map(tempfile::TempDir::path);
    let path = folder.unwrap_or(Path::new("")).join(VARIABLES);
    fs::write(&path, script(values))?;
    // Whoever the container runs as reads it; the folder around it stays closed to others.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
    Ok(path)
}

fn memory_folder(mark: &str) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(&prefix(mark))
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(room())
}

/// Lets whoever a container runs as read the files; returns the folder to show to the container.
///
/// On this machine nobody else gets there: the folder around it stays closed.
fn open_to_containers(files: &tempfile::TempDir) -> io::Result<PathBuf> {
    let folder = files.path().join(INNER);
    for entry in walkdir::WalkDir::new(&folder) {
        let entry = entry?;
        let mode = if entry.file_type().is_dir() {
            0o755
        } else {
            0o444
        };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
    }
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
    fn a_container_finds_files_where_a_cluster_mounts_them_and_variables_in_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        let setting = setting(scratch.path());
        keep(&setting, "api-key", b"it's one");
        keep(&setting, "cert", b"two");
        let app = wanting(vec![
            secret("", "api-key", MountType::ENV_VAR, ""),
            secret("", "cert", MountType::FILE, ""),
        ]);
        let mut order = Order::default();
        let revealed = reveal(&setting, &app).unwrap();
        let files = for_container(revealed, &setting.mark, &mut order).unwrap();
        let folder = (FOLDER_VARIABLE.to_owned(), "/etc/flyte/secrets".to_owned());
        assert_eq!(order.env, [folder]);
        let shown = order.secrets.unwrap();
        assert_eq!(fs::read(shown.join("cert")).unwrap(), b"two");
        let variables = order.variables.unwrap();
        let text = fs::read_to_string(&variables.file).unwrap();
        assert_eq!(text, "export API_KEY='it'\\''s one'\n");
        // Nobody else on this machine gets to either.
        let around = files.as_ref().unwrap().path();
        assert!(shown.starts_with(around) && variables.file.starts_with(around));
        let mode = fs::metadata(around).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
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
