//! What is sent: from where its bytes come, and the name that they have by their content.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use oci_client::Reference;
use reqwest::Body;
use sha2::{Digest, Sha256};

use super::client::Registry;

/// Where a blob's bytes come from.
pub enum Content<'a> {
    File(&'a Path),
    Memory(Bytes),
    /// Another registry.
    Remote(&'a Registry, &'a Reference),
}

/// The digest of bytes, as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) async fn file_body(path: &Path, sent: &Arc<AtomicU64>) -> std::io::Result<Body> {
    let file = tokio::fs::File::open(path).await?;
    let stream = tokio_util::io::ReaderStream::with_capacity(file, 1 << 18);
    Ok(counted(stream, sent))
}

pub(super) fn counted(
    stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    sent: &Arc<AtomicU64>,
) -> Body {
    let sent = Arc::clone(sent);
    Body::wrap_stream(stream.inspect_ok(move |chunk| {
        sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }))
}
