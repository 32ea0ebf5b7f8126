//! The image that is built on: its manifest and configuration, and where its Python is.
//!
//! Layers of a base are referred to, not read, unless the configuration leaves open what has to be
//! known of its files. What was found in them is remembered by the digest of the manifest.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cache::Cache;
use super::layer::Hashing;
use crate::image::build::off_thread;
use crate::image::registry::{Descriptor, Document, Manifest, Platform, Reference, Registry};
use crate::image::{Error, Fault};
use crate::spec::PythonVersion;

/// Account files are read whole; nobody's are larger.
const ACCOUNTS_LIMIT: u64 = 1 << 20;

/// An image that is built on, for one platform.
pub(super) struct Base {
    pub reference: Reference,
    pub registry: Registry,
    pub digest: String,
    pub manifest: Manifest,
    pub config: Value,
}

/// What has to be known of a base's files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Interpreters, such as `/usr/bin/python3.11`.
    pub pythons: BTreeSet<PathBuf>,
    pub passwd: Option<String>,
    pub group: Option<String>,
}

impl Base {
    /// Asks the registry for the image that `reference` means on `platform`.
    pub(super) async fn find(reference: Reference, platform: &Platform) -> Result<Self, Error> {
        let registry = Registry::open(&reference).await?;
        let absent = |reason: String, hint: &str| Error::Registry {
            registry: registry.name().to_owned(),
            action: format!("build on `{reference}`"),
            reason,
            fault: Fault::Answer,
            hint: hint.to_owned(),
        };
        let hint = "check the name and the tag of the base image";
        let missing = || absent("it holds no such image".to_owned(), hint);
        let mut found = registry.document(&reference).await?.ok_or_else(missing)?;
        if let Document::Index(index) = &found.document {
            let Some(entry) = index.entry(platform) else {
                let all: Vec<_> = index
                    .manifests
                    .iter()
                    .filter_map(|entry| entry.platform.as_ref())
                    .collect();
                let all: Vec<_> = all
                    .iter()
                    .map(|p| format!("{}/{}", p.os, p.architecture))
                    .collect();
                let asked = format!("{}/{}", platform.os, platform.architecture);
                return Err(absent(
                    format!(
                        "it holds the image for `{}`, not for `{asked}`",
                        all.join("`, `")
                    ),
                    "choose a base that exists for the platform, or another `platform=`",
                ));
            };
            let exact = reference.clone_with_digest(entry.digest.clone());
            found = registry.document(&exact).await?.ok_or_else(missing)?;
        }
        let Document::Manifest(manifest) = found.document else {
            return Err(registry.nonsense(
                "build on",
                &reference,
                &"an index stands inside of an index",
            ));
        };
        let config = registry.small_blob(&reference, &manifest.config).await?;
        let config: Value = serde_json::from_slice(&config)
            .map_err(|error| registry.nonsense("read the configuration of", &reference, &error))?;
        let own: Platform = serde_json::from_value(config.clone()).unwrap_or_default();
        if !own.serves(platform) {
            return Err(absent(
                format!(
                    "it is an image for `{}/{}`, not for `{}/{}`",
                    own.os, own.architecture, platform.os, platform.architecture
                ),
                "choose a base that exists for the platform, or another `platform=`",
            ));
        }
        Ok(Self {
            reference,
            registry,
            digest: found.digest,
            manifest,
            config,
        })
    }

    /// A variable that the base's configuration sets.
    pub(super) fn env(&self, name: &str) -> Option<&str> {
        self.env_pairs()
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(own, value)| (own == name).then_some(value))
    }

    pub(super) fn env_pairs(&self) -> impl Iterator<Item = &str> {
        let pairs = self.setting("Env").and_then(Value::as_array);
        pairs.into_iter().flatten().filter_map(Value::as_str)
    }

    /// A text of the base's run configuration, unless it is empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let text = self.setting(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    }

    fn setting(&self, name: &str) -> Option<&Value> {
        self.config.get("config")?.get(name)
    }

    /// The Python that the configuration speaks of, as the official images do.
    pub(super) fn told_python(&self) -> Option<(PythonVersion, PathBuf)> {
        let mut parts = self.env("PYTHON_VERSION")?.split('.');
        let mut number = || parts.next()?.parse().ok();
        let version = PythonVersion {
            major: number()?,
            minor: number()?,
        };
        // An environment lies over it, whose interpreter is elsewhere.
        let path = PathBuf::from(format!("/usr/local/bin/python{version}"));
        self.env("VIRTUAL_ENV").is_none().then_some((version, path))
    }

    /// What the base's files say, read once for each base.
    pub(super) async fn facts(&self, cache: &Cache) -> Result<Facts, Error> {
        let key = self.digest.replace(':', "-");
        if let Some(facts) = cache.recall("bases", &key) {
            return Ok(facts);
        }
        let mut facts = Facts::default();
        for blob in self.manifest.layers.iter().rev() {
            let path = self.fetch(cache, blob).await?;
            let (blob, name) = (blob.clone(), path.clone());
            let scanned = off_thread(move || scan(&path, &blob.media_type, facts)).await;
            facts = scanned.map_err(Error::store("read the layer", name))?;
        }
        cache.remember("bases", &key, &facts)?;
        Ok(facts)
    }

    /// A layer as a file of the cache.
    pub(super) async fn fetch(&self, cache: &Cache, blob: &Descriptor) -> Result<PathBuf, Error> {
        if let Some(path) = cache.whole_blob(&blob.digest, blob.size) {
            Cache::touch(&path);
            return Ok(path);
        }
        let path = cache.blob(&blob.digest);
        let mut file = cache.temporary()?;
        let mut stream = self
            .registry
            .read_blob(&self.reference, &blob.digest)
            .await?;
        let mut out = Hashing::new(file.as_file_mut());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| {
                self.registry
                    .unreachable("read a layer of", &self.reference, &error)
            })?;
            out.write_all(&chunk)
                .map_err(Error::store("write", &path))?;
        }
        let (digest, size) = out.finish();
        if digest != blob.digest || size != blob.size {
            let other = format!(
                "the layer sent has the digest `{digest}`, not `{}`",
                blob.digest
            );
            return Err(self
                .registry
                .nonsense("read a layer of", &self.reference, &other));
        }
        cache.keep(file, &path)?;
        Ok(path)
    }
}

/// Adds what a layer says to what the layers above it have said.
fn scan(path: &Path, media_type: &str, mut facts: Facts) -> io::Result<Facts> {
    let file = io::BufReader::with_capacity(1 << 17, std::fs::File::open(path)?);
    let reader: Box<dyn Read> = if media_type.ends_with("zstd") {
        Box::new(zstd::Decoder::with_buffer(file)?)
    } else if media_type.ends_with("gzip") {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    for entry in tar::Archive::new(reader).entries()? {
        let mut entry = entry?;
        let path = Path::new("/").join(entry.path()?.strip_prefix("./").unwrap_or(&entry.path()?));
        if is_python(&path) {
            facts.pythons.insert(path);
            continue;
        }
        let slot = match path.to_str() {
            Some("/etc/passwd") => &mut facts.passwd,
            Some("/etc/group") => &mut facts.group,
            _ => continue,
        };
        if slot.is_none() {
            let mut text = String::new();
            entry
                .by_ref()
                .take(ACCOUNTS_LIMIT)
                .read_to_string(&mut text)?;
            *slot = Some(text);
        }
    }
    Ok(facts)
}

/// Whether a path is that of an interpreter with its minor version in the name.
fn is_python(path: &Path) -> bool {
    version_of(path).is_some() && path.parent().is_some_and(|folder| folder.ends_with("bin"))
}

/// The version in the name of an interpreter.
pub(super) fn version_of(path: &Path) -> Option<PythonVersion> {
    let name = path.file_name()?.to_str()?;
    let (major, minor) = name.strip_prefix("python")?.split_once('.')?;
    Some(PythonVersion {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::oci::layer::{Layer, Node, Owner, Packed, Packing};

    #[test]
    fn files_of_a_base_are_found_and_upper_layers_win() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mut facts = Facts::default();
        for (key, text) in [("upper", "above"), ("lower", "below")] {
            let mut layer = Layer::default();
            let mut add = |path: &str, text: &str| {
                let node = Node::Text(text.as_bytes().to_vec());
                layer.add(path, 0o644, Owner::default(), node);
            };
            add("/etc/passwd", text);
            add("/usr/bin/python3.11", "");
            add("/usr/bin/python3.11-config", "");
            add("/usr/share/python3.9", "");
            add(&format!("/opt/{key}/bin/python3.13"), "");
            let packed = Packed::make(&cache, key, Packing::Zstd, &layer).unwrap();
            let path = cache.blob(&packed.blob.digest);
            facts = scan(&path, &packed.blob.media_type, facts).unwrap();
        }
        assert_eq!(facts.passwd.as_deref(), Some("above"));
        assert_eq!(facts.group, None);
        let pythons: Vec<_> = facts
            .pythons
            .iter()
            .map(|path| path.to_str().unwrap())
            .collect();
        assert_eq!(
            pythons,
            [
                "/opt/lower/bin/python3.13",
                "/opt/upper/bin/python3.13",
                "/usr/bin/python3.11"
            ]
        );
    }
}
