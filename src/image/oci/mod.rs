//! Container images without a container engine.
//!
//! An image whose layers are packages, files and settings can be written down without running any
//! of it: wheels are unpacked for the platform they are meant for, each becomes a layer, and what
//! the registry lacks is sent. The same declaration and the same versions give the same bytes, on
//! every machine and on every day. What has to *run* inside the image is refused by name.

mod assemble;
mod base;
mod cache;
mod config;
mod layer;
mod layout;
mod packages;
mod packing;
mod push;
mod refuse;
mod stage;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use layer::Packing;
pub use refuse::refuse;

use super::build::off_thread;
use super::env::{Sink, Toolchain, held, refuse_changed};
use super::error::Error;
use super::hash::Held;
use super::registry::{self, INDEX, Index, Platform, Reference};
use crate::spec::Image;
use assemble::{Assembly, Made};
use cache::Cache;

/// What `from_debian_base` is built on, unless the order says otherwise.
pub const DEBIAN: &str = "docker.io/library/python:{python}-slim-bookworm";

/// Where an image goes, and how it is made.
#[derive(Clone, Debug)]
pub struct Order {
    /// Such as `ghcr.io/acme/app:v1`.
    pub reference: String,
    /// What the image held when its name was made; `None` to look now.
    pub content: Option<Held>,
    /// This machine's alone, when empty; an index is made for more than one.
    pub platforms: Vec<String>,
    /// In place of [`DEBIAN`]; `{python}` stands for the minor version.
    pub base: Option<String>,
    /// A folder to write the image to, in the layout of the OCI.
    pub layout: Option<PathBuf>,
    /// Whether the image is sent to the registry.
    pub push: bool,
    /// Decide versions anew, and send the manifest even when the registry has it.
    pub force: bool,
    pub packing: Packing,
}

/// An image that is where it was ordered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Of the manifest, or of the index for several platforms.
    pub digest: String,
    /// Of all platforms, those of the base included.
    pub layers: usize,
    pub bytes_sent: u64,
    /// Whether the registry had the very same image under the same name.
    pub reused: bool,
    /// What the user should know about it.
    pub notes: Vec<String>,
}

/// What is behind the reference: one manifest, or an index of several.
struct Whole {
    made: Vec<Made>,
    /// The index with its digest, for several platforms.
    index: Option<(Vec<u8>, String)>,
}

impl Whole {
    fn digest(&self) -> &str {
        match &self.index {
            Some((_, digest)) => digest,
            None => &self.made[0].written.digest,
        }
    }
}

/// Makes the image and brings it to where the order says.
///
/// Dropping the future ends what runs. The name that the image has in the registry or in the
/// layout is given last, so whatever has been there stays valid until then.
pub async fn build(
    toolchain: &Toolchain,
    image: &Image,
    order: &Order,
    progress: &Sink<'_>,
) -> Result<Built, Error> {
    refuse(image)?;
    let reference = registry::reference(&order.reference)?;
    let cache = Cache::open(&toolchain.home)?;
    let content = match &order.content {
        Some(content) => content.clone(),
        None => held(toolchain, image).await?,
    };
    let mut made = Vec::new();
    for platform in platforms(image, order)? {
        let assembly = Assembly {
            toolchain,
            image,
            order,
            content: &content.content,
            cache: &cache,
            progress,
        };
        made.push(assembly.make(platform).await?);
    }
    refuse_changed(toolchain, image, &content).await?;
    let whole = whole(made)?;
    let mut built = Built {
        digest: whole.digest().to_owned(),
        layers: whole
            .made
            .iter()
            .map(|made| made.written.manifest.layers.len())
            .sum(),
        bytes_sent: 0,
        reused: false,
        notes: whole.made[0].notes.clone(),
    };
    if let Some(folder) = &order.layout {
        layout::write(&cache, &whole, &reference, folder).await?;
    }
    if order.push {
        let sent = push::push(&cache, &whole, &reference, order.force, progress).await?;
        built.reused = sent.is_none();
        built.bytes_sent = sent.unwrap_or_default();
    }
    off_thread(move || cache.tidy()).await;
    Ok(built)
}

/// The platforms to build for: the order's, the image's, or this machine's.
fn platforms(image: &Image, order: &Order) -> Result<Vec<Platform>, Error> {
    let asked = if order.platforms.is_empty() {
        &image.platforms
    } else {
        &order.platforms
    };
    if asked.is_empty() {
        return Ok(vec![host_platform()]);
    }
    let mut platforms: Vec<Platform> = Vec::new();
    for text in asked {
        refuse::refuse_platform(image, text)?;
        let platform = Platform::parse(text).unwrap_or_default();
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// The platform of containers on this machine.
fn host_platform() -> Platform {
    Platform::parse(&super::plan::host_platform()).unwrap_or_default()
}

fn whole(made: Vec<Made>) -> Result<Whole, Error> {
    if made.len() == 1 {
        return Ok(Whole { made, index: None });
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(INDEX.to_owned()),
        manifests: made.iter().map(Made::descriptor).collect(),
    };
    let bytes = serde_json::to_vec(&index)
        .map_err(|error| Error::store("write", "the image's index")(error.into()))?;
    let digest = registry::digest(&bytes);
    Ok(Whole {
        made,
        index: Some((bytes, digest)),
    })
}

/// The reference of one of the image's own manifests.
fn by_digest(reference: &Reference, digest: &str) -> Reference {
    Reference::with_digest(
        reference.registry().to_owned(),
        reference.repository().to_owned(),
        digest.to_owned(),
    )
}
