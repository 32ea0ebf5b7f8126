//! The secrets of this machine, for apps on the local platform.
//!
//! Each lies sealed in a file of its own, in folders that only their owner may enter. What it is
//! called stands in the file in clear, what it holds does not, and the one is bound to the other: a
//! file that is renamed or edited opens no more. Values are handed out for starting an app and for
//! nothing else; memory that held one is wiped.

mod error;
mod key;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::crash;

pub use error::Error;

/// More than any credential needs; variables of a process are bounded as well.
const MAX_BYTES: usize = 64 << 10;
const SUFFIX: &str = "secret";
/// Begins the names of what is not whole yet.
const STAGED: &str = ".staged-";

/// A value; wiped when it is dropped.
pub type Value = Zeroizing<Vec<u8>>;

/// Names a secret. An empty project or domain means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Id {
    pub project: String,
    pub domain: String,
    pub name: String,
}

impl Id {
    /// Where it counts, in words.
    pub fn scope(&self) -> String {
        match (self.project.as_str(), self.domain.as_str()) {
            ("", "") => "all projects".to_owned(),
            ("", domain) => format!("domain `{domain}`"),
            (project, "") => format!("project `{project}`"),
            (project, domain) => format!("project `{project}`, domain `{domain}`"),
        }
    }

    /// This secret and those of the same name that count more widely, the nearest first.
    pub fn and_wider(&self) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for (project, domain) in [
            (self.project.as_str(), self.domain.as_str()),
            (&self.project, ""),
            ("", &self.domain),
            ("", ""),
        ] {
            let id = Self {
                project: project.to_owned(),
                domain: domain.to_owned(),
                name: self.name.clone(),
            };
            if !found.contains(&id) {
                found.push(id);
            }
        }
        found
    }

    fn check(&self) -> Result<(), Error> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=253).contains(&self.name.len()) && self.name.bytes().all(good) {
            return Ok(());
        }
        Err(Error::Name {
            name: self.name.clone(),
        })
    }

    /// One text for each id; what stands in it cannot be mistaken for the marks between.
    fn canonical(&self) -> String {
        [&self.project, &self.domain, &self.name]
            .map(|part| format!("{}:{part}", part.len()))
            .concat()
    }
}

/// The name under which a key of a group is kept.
pub fn name_of(group: &str, key: &str) -> String {
    if group.is_empty() {
        key.to_owned()
    } else {
        format!("{group}_{key}")
    }
}

/// What may be told of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub id: Id,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(flatten)]
    id: Id,
    created_ms: i64,
    nonce: String,
    content: String,
}

/// Whether something may be overwritten.
#[derive(Clone, Copy, Debug)]
enum Place {
    Free,
    Taken,
}

/// A folder of secrets.
#[derive(Clone, Debug)]
pub struct Vault {
    folder: PathBuf,
}

impl Vault {
    /// The secrets in `folder`, which need not exist yet.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Removes what a process that was killed left half written; nobody may write meanwhile.
    pub fn tidy(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(STAGED) {
                // What resists is looked at again by the next platform.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Keeps a new secret.
    ///
    /// # Errors
    /// `secret.exists` for one that is there, `config.invalid` for a name or size that cannot be.
    pub fn create(&self, id: &Id, value: &[u8], now_ms: i64) -> Result<(), Error> {
        id.check()?;
        if self.path(id).exists() {
            return Err(Error::Exists(id.clone()));
        }
        self.write(id, value, now_ms, Place::Free)
    }

    /// Replaces the value of a secret.
    ///
    /// # Errors
    /// `secret.not_found` for one that is not there.
    pub fn update(&self, id: &Id, value: &[u8]) -> Result<(), Error> {
        let known = self.get(id)?;
        self.write(id, value, known.created_ms, Place::Taken)
    }

    /// What may be told of a secret.
    ///
    /// # Errors
    /// `secret.not_found` for one that is not there.
    pub fn get(&self, id: &Id) -> Result<Known, Error> {
        let sealed = self.read(id)?;
        Ok(Known {
            id: sealed.id,
            created_ms: sealed.created_ms,
        })
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// `secret.not_found` for one that is not there.
    pub fn delete(&self, id: &Id) -> Result<(), Error> {
        id.check()?;
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound(id.clone()))
            }
            Err(source) => Err(Error::Io { path, source }),
            Ok(()) => Ok(()),
        }
    }

    /// The secrets of a project and domain, by name; an empty part means any.
    ///
    /// # Errors
    /// `secret.store` when the folder cannot be read.
    pub fn list(&self, project: &str, domain: &str) -> Result<Vec<Known>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
            Ok(entries) => entries,
        };
        let counts = |part: &str, wanted: &str| wanted.is_empty() || part == wanted;
        let mut found: Vec<Known> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX))
            .filter_map(|path| serde_json::from_slice::<Sealed>(&fs::read(path).ok()?).ok())
            .filter(|one| counts(&one.id.project, project) && counts(&one.id.domain, domain))
            .map(|one| Known {
                id: one.id,
                created_ms: one.created_ms,
            })
            .collect();
        found.sort_by(|a, b| (&a.id.name, a.id.canonical()).cmp(&(&b.id.name, b.id.canonical())));
        Ok(found)
    }

    /// The value for an app of this project and domain: the nearest of that name.
    ///
    /// # Errors
    /// `secret.not_found` when there is none, `secret.store` when it cannot be opened.
    pub fn reveal(&self, id: &Id) -> Result<Value, Error> {
        for near in id.and_wider() {
            match self.read(&near) {
                Ok(sealed) => return self.open(&sealed),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NotFound(id.clone()))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.folder.clone(),
            source,
        }
    }

    /// Named by a hash: names may differ in case only, which not every disk can tell.
    fn path(&self, id: &Id) -> PathBuf {
        let name = blake3::hash(id.canonical().as_bytes()).to_hex();
        self.folder.join(format!("{}.{SUFFIX}", &name[..32]))
    }

    fn read(&self, id: &Id) -> Result<Sealed, Error> {
        id.check()?;
        let path = self.path(id);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound(id.clone()))
            }
            Err(source) => Err(Error::Io { path, source }),
            Ok(bytes) => serde_json::from_slice::<Sealed>(&bytes)
                .ok()
                .filter(|sealed| sealed.id == *id)
                .ok_or_else(|| Error::Damaged(id.clone())),
        }
    }

    fn write(&self, id: &Id, value: &[u8], created_ms: i64, place: Place) -> Result<(), Error> {
        if value.len() > MAX_BYTES {
            return Err(Error::TooLarge {
                bytes: value.len(),
                limit: MAX_BYTES,
            });
        }
        private_folder(&self.folder).map_err(|error| self.failed(error))?;
        let cipher = self.cipher(id)?;
        let nonce = XNonce::try_generate().map_err(|error| self.failed(io::Error::other(error)))?;
        let bound = id.canonical();
        let content = cipher.encrypt(&nonce, payload(value, &bound));
        let sealed = Sealed {
            id: id.clone(),
            created_ms,
            nonce: STANDARD.encode(nonce),
            content: STANDARD.encode(content.map_err(|_| Error::Damaged(id.clone()))?),
        };
        match self.store(&self.path(id), &sealed, place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists(id.clone()))
            }
            stored => stored.map_err(|error| self.failed(error)),
        }
    }

    /// Whole or not at all; temporary files have mode 0600 from the beginning.
    fn store(&self, path: &Path, sealed: &Sealed, place: Place) -> io::Result<()> {
        let mut staged = tempfile::Builder::new()
            .prefix(STAGED)
            .tempfile_in(&self.folder)?;
        serde_json::to_writer(&mut staged, sealed)?;
        staged.flush()?;
        staged.as_file().sync_all()?;
        crash::point("secret.staged");
        match place {
            Place::Taken => staged.persist(path)?,
            // Somebody may have created one of that name since it was looked for.
            Place::Free => staged.persist_noclobber(path)?,
        };
        crash::point("secret.stored");
        // A name is only on the disk once its folder is.
        fs::File::open(&self.folder)?.sync_all()
    }

    fn open(&self, sealed: &Sealed) -> Result<Value, Error> {
        let damaged = || Error::Damaged(sealed.id.clone());
        let nonce = STANDARD.decode(&sealed.nonce).map_err(|_| damaged())?;
        let nonce = XNonce::try_from(nonce.as_slice()).map_err(|_| damaged())?;
        let content = STANDARD.decode(&sealed.content).map_err(|_| damaged())?;
        let bound = sealed.id.canonical();
        self.cipher(&sealed.id)?
            .decrypt(&nonce, payload(&content, &bound))
            .map(Zeroizing::new)
            .map_err(|_| damaged())
    }

    fn cipher(&self, id: &Id) -> Result<XChaCha20Poly1305, Error> {
        let key = key::of(&self.folder)?;
        let key = Key::try_from(key.as_slice()).map_err(|_| Error::Damaged(id.clone()))?;
        Ok(XChaCha20Poly1305::new(&key))
    }
}

fn payload<'a>(msg: &'a [u8], bound: &'a str) -> Payload<'a, 'a> {
    Payload {
        msg,
        aad: bound.as_bytes(),
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        Id {
            project: "p".to_owned(),
            domain: "d".to_owned(),
            name: name.to_owned(),
        }
    }

    fn vault() -> (tempfile::TempDir, Vault) {
        let scratch = tempfile::tempdir().unwrap();
        let vault = Vault::at(scratch.path().join("secrets"));
        (scratch, vault)
    }

    #[test]
    fn a_secret_is_kept_changed_listed_and_forgotten() {
        let (_scratch, vault) = vault();
        assert_eq!(vault.list("", "").unwrap(), []);
        vault.create(&id("a"), b"one", 5).unwrap();
        let again = vault.create(&id("a"), b"two", 6);
        assert!(matches!(again, Err(Error::Exists(_))));
        vault.update(&id("a"), b"two").unwrap();
        assert_eq!(vault.reveal(&id("a")).unwrap().as_slice(), b"two");
        let known = Known {
            id: id("a"),
            created_ms: 5,
        };
        assert_eq!(vault.list("q", "").unwrap(), []);
        assert_eq!(vault.get(&id("a")).unwrap(), known);
        assert_eq!(vault.list("p", "").unwrap(), [known]);
        vault.delete(&id("a")).unwrap();
        for gone in [vault.delete(&id("a")), vault.update(&id("a"), b"")] {
            assert!(matches!(gone, Err(Error::NotFound(_))));
        }
    }

    #[test]
    fn the_nearest_of_a_name_counts() {
        let (_scratch, vault) = vault();
        let wide = Id {
            project: String::new(),
            domain: String::new(),
            name: "k".to_owned(),
        };
        vault.create(&wide, b"wide", 0).unwrap();
        assert_eq!(vault.reveal(&id("k")).unwrap().as_slice(), b"wide");
        vault.create(&id("k"), b"near", 0).unwrap();
        assert_eq!(vault.reveal(&id("k")).unwrap().as_slice(), b"near");
        assert!(matches!(vault.get(&id("x")), Err(Error::NotFound(_))));
    }

    #[test]
    fn nothing_on_disk_holds_the_value_and_only_the_owner_reads_it() {
        let (scratch, vault) = vault();
        vault.create(&id("k"), b"planted-value", 0).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&scratch.path().join("secrets")), 0o700);
        for entry in fs::read_dir(scratch.path().join("secrets")).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(7).any(|part| part == b"planted"));
        }
    }

    #[test]
    fn a_file_under_another_name_opens_no_more() {
        let (_scratch, vault) = vault();
        vault.create(&id("a"), b"one", 0).unwrap();
        let text = fs::read_to_string(vault.path(&id("a"))).unwrap();
        fs::write(vault.path(&id("b")), &text).unwrap();
        assert!(matches!(vault.reveal(&id("b")), Err(Error::Damaged(_))));
        let text = text.replace("\"name\":\"a\"", "\"name\":\"b\"");
        fs::write(vault.path(&id("b")), text).unwrap();
        assert!(matches!(vault.reveal(&id("b")), Err(Error::Damaged(_))));
    }

    #[test]
    fn names_and_sizes_have_bounds() {
        let (_scratch, vault) = vault();
        for name in ["", "a/b", "a b", "ä"] {
            assert!(
                matches!(vault.get(&id(name)), Err(Error::Name { .. })),
                "{name}"
            );
        }
        let large = vault.create(&id("k"), &vec![0; MAX_BYTES + 1], 0);
        assert!(matches!(large, Err(Error::TooLarge { .. })));
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_nothing_else() {
        let (_scratch, vault) = vault();
        vault.create(&id("k"), b"v", 0).unwrap();
        let half = vault.folder.join(format!("{STAGED}x"));
        fs::write(&half, "half").unwrap();
        vault.tidy();
        assert!(!half.exists());
        assert_eq!(vault.reveal(&id("k")).unwrap().as_slice(), b"v");
    }

    #[test]
    fn of_many_that_create_one_name_one_succeeds() {
        for _ in 0..20 {
            let (_scratch, vault) = vault();
            vault.create(&id("first"), b"", 0).unwrap(); // the key takes the longest
            let created: Vec<bool> = std::thread::scope(|scope| {
                let create = |number: u8| vault.create(&id("k"), &[number], 0).is_ok();
                let all: Vec<_> = (0..8)
                    .map(|number| scope.spawn(move || create(number)))
                    .collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(created.iter().filter(|done| **done).count(), 1);
            let winner = created.iter().position(|done| *done).unwrap();
            let kept = vault.reveal(&id("k")).unwrap();
            assert_eq!(usize::from(kept[0]), winner);
        }
    }

    #[test]
    fn one_key_is_made_even_by_many_at_once() {
        let (_scratch, vault) = vault();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let vault = &vault;
                scope.spawn(move || vault.create(&id(&format!("k{number}")), b"v", 0).unwrap());
            }
        });
        for known in vault.list("p", "d").unwrap() {
            assert_eq!(vault.reveal(&known.id).unwrap().as_slice(), b"v");
        }
    }
}
