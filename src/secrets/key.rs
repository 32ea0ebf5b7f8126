//! The one key that all secrets of a home are sealed with.
//!
//! It is made with the first secret: in the system's keyring where one answers at once, otherwise
//! in a file that only its owner may read. A file in the folder says which, so a keyring that comes
//! or goes later does not change where the key is looked for.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Generate, Key};
use zeroize::Zeroizing;

use super::Error;

/// The file with the key, or with [`IN_KEYRING`] where the key is elsewhere.
const FILE: &str = "key";
const IN_KEYRING: &[u8] = b"keyring";
const BYTES: usize = 32;
/// Name of the entry in a keyring; the home's path tells several apart.
const SERVICE: &str = "flyte-rs secrets";
/// A keyring that takes longer waits for a person to unlock it.
const PATIENCE: Duration = Duration::from_millis(800);
/// Set by those who want no entry in their keyring.
const NO_KEYRING: &str = "FLYTE_DISABLE_KEYRING";

pub type Bytes = Zeroizing<Vec<u8>>;

/// The key of the secrets in `folder`, which exists; made if there is none.
pub fn of(folder: &Path) -> Result<Bytes, Error> {
    let path = folder.join(FILE);
    let failed = |source| Error::Io {
        path: path.clone(),
        source,
    };
    loop {
        match fs::read(&path).map(Zeroizing::new) {
            Ok(found) if found.as_slice() == IN_KEYRING => return from_keyring(folder),
            Ok(found) if found.len() == BYTES => return Ok(found),
            Ok(_) => return Err(failed(io::Error::other("it holds no key"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        make(folder, &path).map_err(failed)?;
    }
}

/// Makes a key, unless somebody else was quicker.
///
/// The lock is held until the file is there: of two that make a key at once, the second would
/// overwrite the entry of the first in the keyring, and what was sealed with that opens no more.
fn make(folder: &Path, path: &Path) -> io::Result<()> {
    let _lock = lock(folder)?;
    if path.exists() {
        return Ok(());
    }
    let key = Key::<XChaCha20Poly1305>::try_generate().map_err(io::Error::other)?;
    let key = Zeroizing::new(key.to_vec());
    let content = if to_keyring(folder, key.clone()) {
        Zeroizing::new(IN_KEYRING.to_vec())
    } else {
        key
    };
    let mut staged = tempfile::NamedTempFile::new_in(folder)?;
    staged.write_all(&content)?;
    staged.as_file().sync_all()?;
    match staged.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}

/// Keeps the key in the keyring if there is one.
fn to_keyring(folder: &Path, key: Bytes) -> bool {
    let bus = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some();
    let there = (bus || cfg!(target_os = "macos")) && std::env::var_os(NO_KEYRING).is_none();
    if !there {
        return false;
    }
    ask(folder, move |entry| {
        entry.set_secret(&key)?;
        // Some accept everything and keep nothing.
        let kept = Zeroizing::new(entry.get_secret()?);
        Ok(*kept == *key)
    })
    .unwrap_or(false)
}

fn lock(folder: &Path) -> io::Result<fs::File> {
    let path = folder.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.lock()?;
    Ok(file)
}

fn from_keyring(folder: &Path) -> Result<Bytes, Error> {
    ask(folder, |entry| Ok(Zeroizing::new(entry.get_secret()?)))
}

/// Asks the keyring, but waits for no person.
fn ask<T: Send + 'static>(
    folder: &Path,
    question: impl FnOnce(&keyring::Entry) -> keyring::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let refused = |reason: String| Error::Keyring { reason };
    let user = folder.to_string_lossy().into_owned();
    let (sender, answer) = mpsc::channel();
    let asking = move || {
        let answer = keyring::Entry::new(SERVICE, &user).and_then(|entry| question(&entry));
        // Nobody waits any more when it took too long.
        let _ = sender.send(answer);
    };
    std::thread::Builder::new()
        .name("keyring".into())
        .spawn(asking)
        .map_err(|error| refused(error.to_string()))?;
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refused(format!("refuses: {error}"))),
        Err(_) => Err(refused("does not answer".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_second_waits_and_takes_the_key_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let held = lock(folder.path()).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| make(folder.path(), &path));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!second.is_finished());
            fs::write(&path, [7; BYTES]).unwrap();
            drop(held);
            second.join().unwrap().unwrap();
        });
        assert_eq!(of(folder.path()).unwrap().as_slice(), [7; BYTES]);
    }
}
