//! Having an image made: by which builder, and whether it has to be.

use super::env::{self, Progress, Toolchain};
use super::error::Error;
use super::hash;
use crate::spec::Image;

/// A way of making an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builder {
    /// A Python environment on this machine, by `uv`.
    Environment,
}

impl Builder {
    /// The word for it in the configuration and in what is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
        }
    }
}

/// Where an image is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// On this machine, for the local platform.
    Here,
    /// Where a cluster can pull it from.
    Registry,
}

/// What images are made with, and for whom.
#[derive(Clone, Debug)]
pub struct Workshop {
    pub toolchain: Toolchain,
    pub destination: Destination,
}

/// What became of an image.
#[derive(Clone, Debug)]
pub struct Made {
    pub uri: String,
    /// `None` where nobody had to look after it.
    pub builder: Option<Builder>,
    /// Whether it was there already.
    pub reused: bool,
    /// What the user should know about it.
    pub notes: Vec<String>,
}

impl Workshop {
    /// The image's URI, and whether it is there; nothing is built.
    pub fn peek(&self, image: &Image) -> Result<Made, Error> {
        match self.destination {
            Destination::Here => {
                let (uri, reused) = env::peek(&self.toolchain, image)?;
                Ok(Made {
                    uri,
                    builder: Some(Builder::Environment),
                    reused,
                    notes: Vec::new(),
                })
            }
            Destination::Registry => named(image),
        }
    }

    /// Makes the image unless it is there; `force` makes it anyway.
    ///
    /// Dropping the future ends what runs.
    pub async fn make(
        &self,
        image: &Image,
        force: bool,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<Made, Error> {
        match self.destination {
            Destination::Here => {
                let made = env::ensure(&self.toolchain, image, force, progress).await?;
                Ok(Made {
                    uri: made.uri,
                    builder: Some(Builder::Environment),
                    reused: made.reused,
                    notes: made.notes,
                })
            }
            Destination::Registry => named(image),
        }
    }
}

fn named(image: &Image) -> Result<Made, Error> {
    Ok(Made {
        uri: hash::uri(image)?,
        builder: None,
        reused: true,
        notes: Vec::new(),
    })
}
