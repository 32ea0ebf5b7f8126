//! What the image says of itself: its configuration and its manifest.

use serde_json::{Map, Value, json};

use super::base::Base;
use super::layer::Packed;
use crate::image::Error;
use crate::image::registry::{self, CONFIG, Descriptor, MANIFEST, Manifest};

/// The same as that of the Docker builder.
const HASH_LABEL: &str = "org.flyte.image.hash";
/// So that an image that is built twice is the same image.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Of engines that wrote down how they had built.
const LEFTOVERS: [&str; 4] = ["container", "container_config", "docker_version", "id"];

/// What is added to the configuration of the base.
pub(super) struct Additions<'a> {
    pub layers: &'a [(String, Packed)],
    /// In order; those of the base are among them.
    pub env: &'a [(String, String)],
    pub workdir: Option<&'a str>,
    pub user: Option<&'a str>,
    pub content_hash: &'a str,
}

/// An image for one platform, complete but for its blobs.
pub(super) struct Written {
    pub config: Vec<u8>,
    pub manifest: Manifest,
    pub bytes: Vec<u8>,
    pub digest: String,
}

pub(super) fn write(base: &Base, additions: &Additions<'_>) -> Result<Written, Error> {
    let config = configuration(&base.config, additions);
    let config = serde_json::to_vec(&config).map_err(unwritable)?;
    let own = additions
        .layers
        .iter()
        .map(|(_, packed)| packed.blob.clone());
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: Descriptor {
            media_type: CONFIG.to_owned(),
            digest: registry::digest(&config),
            size: config.len() as u64,
            platform: None,
        },
        layers: base
            .manifest
            .layers
            .iter()
            .map(in_oci_words)
            .chain(own)
            .collect(),
    };
    let bytes = serde_json::to_vec(&manifest).map_err(unwritable)?;
    Ok(Written {
        digest: registry::digest(&bytes),
        config,
        manifest,
        bytes,
    })
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::store("write", "the image's configuration")(error.into())
}

/// The same blob under the name that an OCI manifest has for it.
fn in_oci_words(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        other => other,
    };
    Descriptor {
        media_type: media_type.to_owned(),
        digest: layer.digest.clone(),
        size: layer.size,
        platform: None,
    }
}

fn configuration(base: &Value, additions: &Additions<'_>) -> Value {
    let mut config = base.as_object().cloned().unwrap_or_default();
    for name in LEFTOVERS {
        config.remove(name);
    }
    config.insert("created".to_owned(), CREATED.into());
    let mut run = object(&mut config, "config");
    let env = additions
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    run.insert("Env".to_owned(), env.collect::<Vec<_>>().into());
    for (name, value) in [("WorkingDir", additions.workdir), ("User", additions.user)] {
        if let Some(value) = value {
            run.insert(name.to_owned(), value.into());
        }
    }
    let mut labels = object(&mut run, "Labels");
    labels.insert(HASH_LABEL.to_owned(), additions.content_hash.into());
    run.insert("Labels".to_owned(), labels.into());
    config.insert("config".to_owned(), run.into());
    let mut rootfs = object(&mut config, "rootfs");
    rootfs.insert("type".to_owned(), "layers".into());
    let diff_ids = additions
        .layers
        .iter()
        .map(|(_, packed)| packed.diff_id.as_str().into());
    extend(&mut rootfs, "diff_ids", diff_ids);
    config.insert("rootfs".to_owned(), rootfs.into());
    let history = additions
        .layers
        .iter()
        .map(|(title, _)| json!({"created": CREATED, "created_by": title, "comment": "flyte-rs"}));
    extend(&mut config, "history", history);
    config.into()
}

/// Takes the object that stands under a name, or an empty one.
fn object(parent: &mut Map<String, Value>, name: &str) -> Map<String, Value> {
    match parent.remove(name) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

fn extend(parent: &mut Map<String, Value>, name: &str, items: impl Iterator<Item = Value>) {
    let mut all = match parent.remove(name) {
        Some(Value::Array(all)) => all,
        _ => Vec::new(),
    };
    all.extend(items);
    parent.insert(name.to_owned(), all.into());
}
