//! Registries: who we are to them, what they hold, and moving blobs to and from them.
//!
//! `oci-client` reads references; the protocol is spoken here, because what the project promises
//! hangs on details that its client does not offer: "absent" is told from "cannot tell", a blob
//! that could not be mounted is sent in the upload that the attempt opened, identity tokens are
//! exchanged, and what failed in passing is tried again where that cannot do harm.

mod access;
mod client;
mod content;
mod credentials;
mod manifest;
#[cfg(test)]
mod tests;
mod transport;

pub use access::bearer as challenge;
pub use client::{Found, Mounted, Registry};
pub use content::{Content, digest};
pub use credentials::{Credential, credentials, hosts};
pub use manifest::{CONFIG, Descriptor, Document, INDEX, Index, MANIFEST, Manifest, Platform};
pub use oci_client::Reference;

use super::error::Error;

/// Reads a reference such as `ghcr.io/acme/app:v1`.
pub fn reference(text: &str) -> Result<Reference, Error> {
    let parsed = |form: &str| -> Result<Reference, Error> {
        form.parse()
            .map_err(|error: oci_client::ParseError| Error::Invalid {
                method: "image",
                problem: format!("`{text}` is no image reference: {error}"),
            })
    };
    // `Acme/app` is read with `Acme` as a host, and then meant below docker.io, where no name has capitals.
    parsed(&parsed(text)?.whole())
}

/// Whether the registry holds `reference` for each of `platforms` (all there are, when empty).
///
/// `false` means that the registry said so. Whatever else keeps the answer away is an error.
pub async fn exists(reference: &Reference, platforms: &[String]) -> Result<bool, Error> {
    let registry = Registry::open(reference).await?;
    if !registry.has_manifest(reference).await? {
        return Ok(false);
    }
    if platforms.is_empty() {
        return Ok(true);
    }
    // It may be removed between the two requests.
    let Some(document) = registry.document(reference).await? else {
        return Ok(false);
    };
    let asked = |text: &String| Platform::parse(text).unwrap_or_default();
    match document.document {
        Document::Index(index) => Ok(platforms
            .iter()
            .all(|text| index.entry(&asked(text)).is_some())),
        Document::Manifest(manifest) => {
            let config = registry.small_blob(reference, &manifest.config).await?;
            let own: Platform = serde_json::from_slice(&config)
                .map_err(|error| registry.nonsense("read the platform of", reference, &error))?;
            Ok(platforms.iter().all(|text| own.serves(&asked(text))))
        }
    }
}

/// What a registry's body of an error says: its own messages, or the text as it is.
fn said(body: &[u8]) -> String {
    const LIMIT: usize = 300;
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let errors = value
        .as_ref()
        .and_then(|value| value.get("errors")?.as_array());
    let text = |error: &serde_json::Value, field: &str| {
        error
            .get(field)
            .and_then(|text| text.as_str())
            .map(str::to_owned)
    };
    let mut said: Vec<String> = errors
        .into_iter()
        .flatten()
        .filter_map(|error| {
            let message = text(error, "message").filter(|text| !text.is_empty());
            message.or_else(|| text(error, "code"))
        })
        .collect();
    said.extend(value.as_ref().and_then(|value| text(value, "details")));
    if said.is_empty() && value.is_none() {
        said.push(String::from_utf8_lossy(body).trim().to_owned());
    }
    said.join(", ").chars().take(LIMIT).collect()
}
