//! Manifests and indexes as they travel: only the fields that are acted upon.

use serde::{Deserialize, Serialize};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Everything that can stand behind a tag.
pub(super) const ACCEPTED: [&str; 4] = [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// A reference by content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Of `os/architecture` or `os/architecture/variant`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next()?, parts.next()?);
        let variant = parts.next();
        let is_whole = !os.is_empty() && !architecture.is_empty() && parts.next().is_none();
        is_whole.then(|| Self {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// Whether an image for `self` is one for `asked`; a variant counts where both name one.
    pub fn serves(&self, asked: &Self) -> bool {
        let variants = self.variant.as_ref().zip(asked.variant.as_ref());
        self.os == asked.os
            && self.architecture == asked.architecture
            && variants.is_none_or(|(own, asked)| own == asked)
    }
}

/// One image, for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u8,
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// One image for each of several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u8,
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The entry for a platform.
    pub fn entry(&self, asked: &Platform) -> Option<&Descriptor> {
        let serves = |entry: &&Descriptor| {
            let platform = entry.platform.as_ref();
            platform.is_some_and(|platform| platform.serves(asked))
        };
        self.manifests.iter().find(serves)
    }
}

/// What stands behind a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Old registries leave the media type out, so it is the content that decides.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let has = |field: &str| value.get(field).is_some();
        if has("manifests") {
            serde_json::from_value(value).map(Self::Index)
        } else if has("config") && has("layers") {
            serde_json::from_value(value).map(Self::Manifest)
        } else {
            return Err("it is neither a manifest nor an index of version 2".to_owned());
        }
        .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_compared_as_far_as_both_say() {
        let platform = |text| Platform::parse(text).unwrap();
        assert!(platform("linux/arm64/v8").serves(&platform("linux/arm64")));
        assert!(platform("linux/arm64").serves(&platform("linux/arm64/v8")));
        assert!(!platform("linux/arm/v7").serves(&platform("linux/arm/v6")));
        assert!(!platform("linux/amd64").serves(&platform("linux/arm64")));
        assert_eq!(Platform::parse("linux"), None);
        assert_eq!(Platform::parse("linux/"), None);
    }

    #[test]
    fn the_content_decides_what_a_document_is() {
        let manifest = br#"{"schemaVersion": 2, "config": {"mediaType": "c", "digest": "d", "size": 1}, "layers": []}"#;
        assert!(matches!(
            Document::parse(manifest),
            Ok(Document::Manifest(_))
        ));
        let index = br#"{"schemaVersion": 2, "manifests": []}"#;
        assert!(matches!(Document::parse(index), Ok(Document::Index(_))));
        let old = br#"{"schemaVersion": 1, "fsLayers": []}"#;
        assert!(Document::parse(old).unwrap_err().contains("neither"));
    }
}
