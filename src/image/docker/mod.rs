//! Images made by a container engine: what a declared image needs as a recipe, and its build.
//!
//! The engine's own `BuildKit` does the work, over the engine's API: no `docker` command and no
//! plugin is needed. An image counts as made when the engine has its tag, which it sets at the very end;
//! one file lock per tag keeps builders of this machine apart. This module knows the engine of this
//! machine and leaves registries to others, whom it asks for credentials.

mod base;
mod build;
mod context;
mod packages;
mod push;
mod recipe;
mod session;
mod steps;
#[cfg(test)]
mod tests;
mod trace;

use std::sync::Arc;

use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use futures::future::BoxFuture;
use http_body_util::BodyExt;

use super::error::Error;
use super::hash::Held;
use crate::engine::{self, Answer, Engine};
use crate::spec::image::Base;
use crate::spec::{Image, Layer};

pub use build::build;
pub use push::{Pushed, push};

/// Finds the credentials for a registry, such as `ghcr.io` or `localhost:5000`.
pub type Lookup = Arc<
    dyn Fn(String) -> BoxFuture<'static, Result<Option<DockerCredentials>, Error>> + Send + Sync,
>;

/// How an image shall be made.
#[derive(Clone)]
pub struct Order {
    /// What it is to be called: [`uri`](super::uri) of the image.
    pub uri: String,
    /// What the image held when its name was made; `None` to look now.
    pub content: Option<Held>,
    /// Such as `linux/arm64`; the engine's own unless given.
    pub platform: Option<String>,
    /// Make every step anew, on a base that was looked for again.
    pub force: bool,
    /// What `from_debian_base` starts on, `{python}` being the version; the usual one unless given.
    pub base: Option<String>,
    /// Network of the steps that run, such as `host`; the engine's own unless given.
    pub network: Option<String>,
    pub login: Lookup,
}

/// An image that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    pub uri: String,
    /// Digest of its configuration, `sha256:…`.
    pub id: String,
    /// Whether it was there already.
    pub reused: bool,
}

/// News of a build.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress<'a> {
    Stage(Stage<'a>),
    /// A line that a step writes.
    Line(&'a str),
    /// Something the user should know.
    Note(&'a str),
    /// How far sending the image is, in bytes.
    Sent {
        done: u64,
        total: u64,
    },
}

/// A step that begins or ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage<'a> {
    /// From 1.
    pub number: u32,
    pub total: u32,
    /// The instruction, as the engine tells it.
    pub text: &'a str,
    /// Taken from an earlier build.
    pub cached: bool,
    /// How long it took; `None` when it begins.
    pub seconds: Option<f64>,
}

pub(super) type Sink<'s> = dyn Fn(Progress<'_>) + Send + Sync + 's;

/// Refuses what a container engine cannot make either, before a file is read.
pub fn refuse(image: &Image) -> Result<(), Error> {
    if let Base::Ref(name) = &image.base {
        return Err(Error::NeedsContainer {
            what: format!("`from_ref_name('{name}')` names no image that is configured"),
            hint:
                "map the name to an image in the configuration (`image.image_refs`) or by `--image`"
                    .to_owned(),
        });
    }
    for layer in &image.layers {
        let is_step = !matches!(layer, Layer::CodeBundle { .. } | Layer::DockerIgnore(_));
        if is_step && matches!(image.base, Base::Dockerfile(_)) {
            return Err(Error::Invalid {
                method: layer.method(),
                problem: "a Dockerfile takes no further layers; write them into the Dockerfile"
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// The image that the engine has under `uri`.
pub async fn find(engine: &Engine, uri: &str) -> Result<Option<Built>, Error> {
    let found = inspect(engine, uri).await?;
    Ok(found.and_then(|found| found.id).map(|id| Built {
        uri: uri.to_owned(),
        id,
        reused: true,
    }))
}

async fn inspect(engine: &Engine, image: &str) -> Result<Option<ImageInspect>, Error> {
    match engine.docker().inspect_image(image).await {
        Ok(found) => Ok(Some(found)),
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(error) => {
            Err(engine::Error::while_it_should(format!("look for image `{image}`"))(error).into())
        }
    }
}

/// The registry of an image's name; Docker Hub where none is named.
pub(super) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        Some(_) | None => DOCKER_HUB,
    }
}

const DOCKER_HUB: &str = "docker.io";

/// The one name by which credentials of a registry are asked for, of the several Docker Hub has.
fn registry_name(host: &str) -> &str {
    match host {
        "registry-1.docker.io" | "index.docker.io" => DOCKER_HUB,
        other => other,
    }
}

/// What the engine says where it does not do as asked.
async fn refusal(action: &str, answer: Answer) -> engine::Error {
    #[derive(serde::Deserialize)]
    struct Said {
        message: String,
    }
    let status = answer.response.status();
    let body = answer.response.into_body().collect().await;
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let reason = serde_json::from_slice::<Said>(&body).map_or_else(
        |_| format!("{status} {}", String::from_utf8_lossy(&body).trim()),
        |said| said.message,
    );
    engine::Error::Refused {
        action: action.to_owned(),
        reason,
    }
}
