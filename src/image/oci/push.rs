//! Bringing an image into a registry: what it lacks, and no more.
//!
//! Blobs first, several at a time; then the manifests, by digest; the name last. So a name never
//! stands for something that is not all there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{TryStreamExt, stream};

use super::assemble::Made;
use super::cache::Cache;
use super::{Whole, by_digest};
use crate::image::Error;
use crate::image::env::{Progress, Sink};
use crate::image::registry::{Content, Descriptor, INDEX, MANIFEST, Mounted, Reference, Registry};

/// Blobs on their way at a time.
const AT_ONCE: usize = 8;

/// Often enough for a rate.
const TOLD_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// A blob that the registry has to hold.
struct Needed<'a> {
    title: &'a str,
    blob: &'a Descriptor,
    content: Where<'a>,
    /// A repository of the same registry that holds it.
    from: Option<&'a str>,
}

enum Where<'a> {
    File(PathBuf),
    Memory(Bytes),
    Base(&'a Made),
}

/// Sends what is missing and tells how many bytes that took; `None` when the name stood for this
/// very image already.
pub(super) async fn push(
    cache: &Cache,
    whole: &Whole,
    reference: &Reference,
    force: bool,
    progress: &Sink<'_>,
) -> Result<Option<u64>, Error> {
    let registry = Registry::open(reference).await?;
    if !force
        && let Some(found) = registry.document(reference).await?
        && found.digest == whole.digest()
    {
        return Ok(None);
    }
    let (sent, wanted) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let needed = needed(cache, whole, &registry, reference);
    let providing = stream::iter(needed.iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |needed| {
            provide(&registry, reference, needed, (&sent, &wanted), progress)
        });
    tokio::select! {
        provided = providing => provided?,
        () = tell_how_far(&sent, &wanted, progress) => {}
    }
    for made in &whole.made {
        let own = by_digest(reference, &made.written.digest);
        let bytes = Bytes::from(made.written.bytes.clone());
        registry.put_manifest(&own, MANIFEST, bytes).await?;
    }
    let (kind, bytes) = match &whole.index {
        Some((bytes, _)) => (INDEX, bytes),
        None => (MANIFEST, &whole.made[0].written.bytes),
    };
    registry
        .put_manifest(reference, kind, Bytes::from(bytes.clone()))
        .await?;
    Ok(Some(sent.load(Ordering::Relaxed)))
}

/// Tells now and then how much of what was found missing is sent; has no end of its own.
async fn tell_how_far(sent: &AtomicU64, wanted: &AtomicU64, progress: &Sink<'_>) {
    loop {
        tokio::time::sleep(TOLD_EVERY).await;
        let (done, total) = (sent.load(Ordering::Relaxed), wanted.load(Ordering::Relaxed));
        if total > 0 {
            progress(Progress::Sent {
                done: done.min(total),
                total,
            });
        }
    }
}

/// Every blob once; platforms share those that are for any of them.
fn needed<'a>(
    cache: &Cache,
    whole: &'a Whole,
    registry: &Registry,
    reference: &Reference,
) -> Vec<Needed<'a>> {
    let mut seen = BTreeSet::new();
    let mut needed = Vec::new();
    for made in &whole.made {
        let source = &made.base.reference;
        let is_near = made.base.registry.name() == registry.name()
            && source.repository() != reference.repository();
        for blob in &made.base.manifest.layers {
            let content = match cache.whole_blob(&blob.digest, blob.size) {
                Some(path) => Where::File(path),
                None => Where::Base(made),
            };
            needed.push(Needed {
                title: "a layer of the base",
                blob,
                content,
                from: is_near.then(|| source.repository()),
            });
        }
        needed.extend(made.layers.iter().map(|(title, packed)| Needed {
            title,
            blob: &packed.blob,
            content: Where::File(cache.blob(&packed.blob.digest)),
            from: None,
        }));
        needed.push(Needed {
            title: "the configuration",
            blob: &made.written.manifest.config,
            content: Where::Memory(Bytes::from(made.written.config.clone())),
            from: None,
        });
    }
    needed.retain(|needed| seen.insert(needed.blob.digest.clone()));
    needed
}

async fn provide(
    registry: &Registry,
    reference: &Reference,
    needed: &Needed<'_>,
    (sent, wanted): (&Arc<AtomicU64>, &AtomicU64),
    progress: &Sink<'_>,
) -> Result<(), Error> {
    let blob = needed.blob;
    if registry.has_blob(reference, &blob.digest).await? {
        return Ok(());
    }
    let location = match registry.mount(reference, &blob.digest, needed.from).await? {
        Mounted::Yes => return Ok(()),
        Mounted::Upload(location) => location,
    };
    wanted.fetch_add(blob.size, Ordering::Relaxed);
    let size = size(blob.size);
    progress(Progress::Line(&format!(
        "sending {} ({size})",
        needed.title
    )));
    let content = match &needed.content {
        Where::File(path) => Content::File(path),
        Where::Memory(bytes) => Content::Memory(bytes.clone()),
        Where::Base(made) => Content::Remote(&made.base.registry, &made.base.reference),
    };
    registry
        .upload(reference, blob, &content, location, sent)
        .await
}

/// A number of bytes for people.
fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 0.1 {
        return format!("{} KiB", bytes.div_ceil(1 << 10));
    }
    format!("{mib:.1} MiB")
}
