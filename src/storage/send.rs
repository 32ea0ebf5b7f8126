//! Putting one file into a store: in one request, or in parts side by side where it is large.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::buffered::BufWriter;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Error;
use super::fetch::Source;
use super::location::Scheme;
use super::remote::{self, Failure, Remote};

/// What is sent in one request; larger files are cut into parts of this size.
const PART_BYTES: usize = 16 << 20;

/// Sends the file at `path` to where the source points.
///
/// # Errors
/// Why it did not arrive; what was there before is there then.
pub async fn file(source: &Source, path: &Path) -> Result<(), Error> {
    let local = |error| Error::Local {
        path: path.to_owned(),
        source: error,
    };
    let closed = |reason, advice| Error::NotWritable {
        url: source.location.shown(),
        reason,
        advice,
    };
    let store = match source.remote.as_ref() {
        Remote::Web { .. } => {
            let advice = "files can be put at `s3://`, `gs://` and `abfs://`";
            return Err(closed("plain web servers take no files", advice));
        }
        // Anonymous writers are unknown to Google; asking who we are would take a minute to fail.
        Remote::Store {
            scheme: Scheme::Gcs,
            anonymous: Some(advice),
            ..
        } => {
            return Err(closed(
                "that takes credentials, and none were found",
                advice,
            ));
        }
        Remote::Store { store, .. } => store,
    };
    let key = match remote::key(&source.location.key) {
        Ok(key) if !source.location.key.is_empty() => key,
        _ => {
            return Err(Error::Address {
                url: source.location.shown(),
                reason: "it names no file".to_owned(),
            });
        }
    };
    let mut file = File::open(path).await.map_err(local)?;
    let mut writer = BufWriter::with_capacity(Arc::clone(store), key, PART_BYTES);
    let refused = async |error: std::io::Error| {
        let shown = source.location.shown();
        source.explain(said(error), shown).await
    };
    loop {
        let piece = match next(&mut file).await {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => piece,
            Err(error) => {
                let _ = writer.abort().await;
                return Err(local(error));
            }
        };
        if let Err(error) = writer.put(piece).await {
            let _ = writer.abort().await;
            return Err(refused(error.into()).await);
        }
    }
    match writer.shutdown().await {
        Ok(()) => Ok(()),
        Err(error) => Err(refused(error).await),
    }
}

async fn next(file: &mut File) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(PART_BYTES / 4);
    file.read_buf(&mut piece).await?;
    Ok(piece.freeze())
}

/// What the store said, which arrives inside of another kind of error.
fn said(error: std::io::Error) -> Failure {
    match error.downcast::<object_store::Error>() {
        Ok(error) => remote::failure(error),
        Err(error) => Failure::Transient(error.to_string()),
    }
}
