//! What was fetched on this machine, once for all apps and replicas.
//!
//! A thing is known by its address and by the version that its store names (tag, version, time),
//! so asking the store what it has is all that a second start does; an app without the right to
//! read something is not given it from here. Files are read-only and hard-linked into the places
//! where apps see them. The link count and the change time, which the kernel keeps, say what is in
//! use and when it last was.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::location::{Location, Scheme, without_secrets};
use super::remote::{Object, Remote};

/// What no app has used for so long is removed.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// A download that is older was given up by a process that died.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Only to be read: many see the same file.
const MODE: u32 = 0o444;

/// A folder of files that are shared.
#[derive(Clone, Debug)]
pub struct Shelf {
    root: PathBuf,
}

impl Shelf {
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes the folders; nobody else may look into them.
    pub fn prepare(&self) -> io::Result<()> {
        for folder in ["blobs", "parts", "locks"] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(self.root.join(folder))?;
        }
        Ok(())
    }

    /// Where a thing is kept; `None` where its store does not tell versions apart.
    pub fn place_of(
        &self,
        remote: &Remote,
        location: &Location,
        object: &Object,
    ) -> Option<PathBuf> {
        if object.etag.is_none() && object.version.is_none() && object.modified == 0 {
            return None;
        }
        let mut hash = blake3::Hasher::new();
        let size = object.size?.to_string();
        let modified = object.modified.to_string();
        let scheme = format!("{:?}", location.scheme);
        for part in [
            scheme.as_str(),
            remote.service(),
            &location.bucket,
            &identity(location, &object.key),
            &size,
            &modified,
            object.etag.as_deref().unwrap_or_default(),
            object.version.as_deref().unwrap_or_default(),
        ] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        let name = hash.finalize().to_hex();
        Some(self.root.join("blobs").join(&name[..2]).join(&name[2..]))
    }

    /// Whether the file is there and nobody has written into it, which root can.
    pub fn holds(place: &Path, object: &Object) -> bool {
        fs::metadata(place)
            .is_ok_and(|found| Some(found.len()) == object.size && found.mtime() == object.modified)
    }

    /// Waits until nobody else fetches from this address; held until it is dropped.
    pub fn lock(&self, url: &str, waiting: impl FnOnce()) -> io::Result<File> {
        let name = blake3::hash(without_secrets(url).as_bytes()).to_hex();
        let path = self.root.join("locks").join(&name[..32]);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        if file.try_lock().is_err() {
            waiting();
            file.lock()?;
        }
        Ok(file)
    }

    /// A new place for what is under way.
    pub fn part(&self) -> io::Result<tempfile::TempPath> {
        let part = tempfile::Builder::new().tempfile_in(self.root.join("parts"))?;
        Ok(part.into_temp_path())
    }

    /// Takes a whole file over.
    pub fn keep(part: tempfile::TempPath, place: &Path, object: &Object) -> io::Result<()> {
        let seconds = Duration::from_secs(u64::try_from(object.modified).unwrap_or(0));
        let file = File::options().write(true).open(&part)?;
        file.set_modified(SystemTime::UNIX_EPOCH + seconds)?;
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        if let Some(folder) = place.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        part.persist(place).map_err(|error| error.error)
    }

    /// Removes what nobody has used for long; whatever goes wrong can wait for the next time.
    pub fn sweep(&self) {
        let now = SystemTime::now();
        let old = |path: &Path, age: Duration| {
            let changed = |found: fs::Metadata| {
                let seconds = u64::try_from(found.ctime()).ok()?;
                now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
                    .ok()
            };
            let unused = fs::metadata(path).ok().filter(|found| found.nlink() == 1);
            unused.and_then(changed).is_some_and(|since| since > age)
        };
        for (folder, age) in [("blobs", KEPT_FOR), ("parts", ABANDONED_AFTER)] {
            for entry in walkdir::WalkDir::new(self.root.join(folder))
                .into_iter()
                .flatten()
            {
                if entry.file_type().is_file() && old(entry.path(), age) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// Parameters of a query that sign it, and are new each time; the rest may say what is meant.
const SIGNING: &[&str] = &[
    "awsaccesskeyid",
    "expires",
    "googleaccessid",
    "key-pair-id",
    "policy",
    "signature",
];
/// The same where a URL is signed by Azure, whose names are too short to be told from others.
const SIGNING_AZURE: &[&str] = &[
    "se", "sig", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "st", "sv",
];

/// A key without the signature that a URL may carry behind it.
fn identity(location: &Location, key: &str) -> String {
    match location.scheme {
        Scheme::Http => {}
        // Their keys may hold any character, and mean it.
        Scheme::S3 | Scheme::Gcs | Scheme::Azure => return key.to_owned(),
    }
    let key = key.split('#').next().unwrap_or_default();
    let Some((path, query)) = key.split_once('?') else {
        return key.to_owned();
    };
    let names = |pair: &str| {
        pair.split('=')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    let is_azure = query.split('&').any(|pair| names(pair) == "sig");
    let is_signing = |pair: &&str| {
        let name = names(pair);
        name.starts_with("x-amz-")
            || name.starts_with("x-goog-")
            || SIGNING.contains(&name.as_str())
            || is_azure && SIGNING_AZURE.contains(&name.as_str())
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_signing(pair)).collect();
    format!("{path}?{}", kept.join("&"))
}

/// Puts a kept file at `target`, which must not exist: as a link, or as a copy on another device.
pub fn hand_out(kept: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(kept, target) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::CrossesDevices
                    | io::ErrorKind::TooManyLinks
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::Unsupported
            ) =>
        {
            fs::copy(kept, target).map(drop)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object {
            key: "a/m.bin".to_owned(),
            relative: "m.bin".to_owned(),
            size: Some(4),
            etag: Some("1".to_owned()),
            version: None,
            modified: 1_700_000_000,
            ranges: true,
        }
    }

    fn web() -> Remote {
        Remote::Web {
            client: reqwest_client(),
        }
    }

    fn reqwest_client() -> reqwest::Client {
        super::super::wire::client().unwrap()
    }

    #[test]
    fn a_kept_file_is_found_until_it_or_its_source_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let shelf = Shelf::at(scratch.path().join("shelf"));
        shelf.prepare().unwrap();
        let location = Location::parse("https://h/a/m.bin?sig=1").unwrap();
        let object = object();
        let place = shelf.place_of(&web(), &location, &object).unwrap();
        assert!(!Shelf::holds(&place, &object));
        let part = shelf.part().unwrap();
        fs::write(&part, "four").unwrap();
        Shelf::keep(part, &place, &object).unwrap();
        assert!(Shelf::holds(&place, &object));
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, MODE);

        let target = scratch.path().join("seen");
        hand_out(&place, &target).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().nlink(), 2);
        shelf.sweep();
        assert!(place.exists());

        let other = Object {
            etag: Some("2".to_owned()),
            ..object.clone()
        };
        assert_ne!(
            shelf.place_of(&web(), &location, &other),
            Some(place.clone())
        );
        fs::remove_file(&place).unwrap();
        fs::write(&place, "evil").unwrap();
        assert!(!Shelf::holds(&place, &object));
    }

    #[test]
    fn a_query_names_a_thing_and_a_signature_does_not() {
        let shelf = Shelf::at(PathBuf::from("/nowhere"));
        let place = |query: &str| {
            let location = Location::parse(&format!("https://h/get?{query}")).unwrap();
            let object = Object {
                key: location.key.clone(),
                etag: None,
                ..object()
            };
            shelf.place_of(&web(), &location, &object).unwrap()
        };
        assert_ne!(place("id=1"), place("id=2"));
        assert_ne!(place("sp=1"), place("sp=2"));
        for (one, two) in [
            ("id=1&X-Amz-Signature=a", "id=1&X-Amz-Signature=b"),
            ("id=1&sv=1&sp=r&sig=a", "id=1&sv=2&sp=r&sig=b"),
            ("Expires=1&Signature=a&id=1", "Expires=2&Signature=b&id=1"),
        ] {
            assert_eq!(place(one), place(two));
            assert_eq!(place(one), place("id=1"));
        }
        let in_bucket = |key: &str| {
            let location = Location::parse(&format!("s3://b/{key}")).unwrap();
            identity(&location, &location.key)
        };
        assert_ne!(in_bucket("a#1"), in_bucket("a#2"));
    }

    #[test]
    fn what_has_no_version_is_not_kept() {
        let shelf = Shelf::at(PathBuf::from("/nowhere"));
        let location = Location::parse("https://h/x").unwrap();
        let object = Object {
            etag: None,
            modified: 0,
            ..object()
        };
        assert_eq!(shelf.place_of(&web(), &location, &object), None);
    }
}
