//! An image as a folder, in the layout of the OCI: for tests, for tools, and for carrying about.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::Whole;
use super::cache::Cache;
use crate::image::Error;
use crate::image::build::off_thread;
use crate::image::registry::{Descriptor, INDEX, MANIFEST, Reference};

const NAME: &str = "org.opencontainers.image.ref.name";

/// Writes the image below `folder`, which holds nothing else or is such a layout already.
pub(super) async fn write(
    cache: &Cache,
    whole: &Whole,
    reference: &Reference,
    folder: &Path,
) -> Result<(), Error> {
    let marker = folder.join("oci-layout");
    let is_empty = std::fs::read_dir(folder).map_or(true, |mut listing| listing.next().is_none());
    if !is_empty && !marker.is_file() {
        return Err(Error::Store {
            action: "write an image to",
            path: folder.to_path_buf(),
            source: std::io::Error::other("it holds files that are no image"),
        });
    }
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(Error::store("create", &blobs))?;
    replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for made in &whole.made {
        for blob in &made.base.manifest.layers {
            let from = made.base.fetch(cache, blob).await?;
            place(&blobs, blob, &from).await?;
        }
        for (_, packed) in &made.layers {
            place(&blobs, &packed.blob, &cache.blob(&packed.blob.digest)).await?;
        }
        let written = &made.written;
        replace(
            &blobs.join(hex(&written.manifest.config.digest)),
            &written.config,
        )?;
        replace(&blobs.join(hex(&written.digest)), &written.bytes)?;
    }
    let (media_type, bytes) = match &whole.index {
        Some((bytes, digest)) => {
            replace(&blobs.join(hex(digest)), bytes)?;
            (INDEX, bytes)
        }
        None => (MANIFEST, &whole.made[0].written.bytes),
    };
    name(folder, whole, reference, media_type, bytes.len())
}

/// Adds the name to the folder's index, in place of what it stood for.
fn name(
    folder: &Path,
    whole: &Whole,
    reference: &Reference,
    media_type: &str,
    size: usize,
) -> Result<(), Error> {
    let path = folder.join("index.json");
    let tag = reference.tag().unwrap_or("latest");
    let known: Value = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let others = known.get("manifests").and_then(Value::as_array).cloned();
    let mut manifests = others.unwrap_or_default();
    manifests.retain(|entry| entry["annotations"][NAME] != tag);
    let mut entry = json!({
        "mediaType": media_type,
        "digest": whole.digest(),
        "size": size,
        "annotations": {NAME: tag},
    });
    if whole.index.is_none() {
        let platform = &whole.made[0].platform;
        entry["platform"] = json!({"os": platform.os, "architecture": platform.architecture});
    }
    manifests.push(entry);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    replace(&path, index.to_string().as_bytes())
}

/// A copy: what lies in the folder is its owner's, to change as they like.
async fn place(blobs: &Path, blob: &Descriptor, from: &Path) -> Result<(), Error> {
    let to = blobs.join(hex(&blob.digest));
    if std::fs::metadata(&to).is_ok_and(|metadata| metadata.len() == blob.size) {
        return Ok(());
    }
    let from = from.to_path_buf();
    off_thread(move || {
        let folder = to.parent().unwrap_or(&to);
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::copy(&mut std::fs::File::open(&from)?, &mut file)?;
        file.persist(&to).map(drop).map_err(|error| error.error)
    })
    .await
    .map_err(Error::store("write", blobs))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(Error::store("write", path))
}

fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}
