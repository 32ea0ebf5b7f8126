//! What a recipe starts on: the image, its user, and what its environment says of Python.

use std::collections::BTreeMap;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::TryStreamExt;

use super::{Lookup, Progress, Sink, registry_of};
use crate::engine::{self, Engine};
use crate::image::Error;

/// The configuration of an image that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Base {
    /// As its own Dockerfile left it; empty for root.
    pub user: String,
    pub env: BTreeMap<String, String>,
}

/// The configuration of `image`, which is fetched when the engine does not have it.
pub(super) async fn find(
    engine: &Engine,
    image: &str,
    fresh: bool,
    login: &Lookup,
    progress: &Sink<'_>,
) -> Result<Base, Error> {
    let known = inspect(engine, image).await?;
    match (known, fresh) {
        (Some(base), false) => return Ok(base),
        // An image of this machine alone cannot be fetched, and is as new as it gets.
        (Some(base), true) => match pull(engine, image, login, progress).await {
            Ok(()) => {}
            Err(error) => {
                let reason = crate::error::with_causes(&error);
                let note = format!("using `{image}` as it is on this machine: {reason}");
                progress(Progress::Note(&note));
                return Ok(base);
            }
        },
        (None, _) => pull(engine, image, login, progress).await?,
    }
    Ok(inspect(engine, image).await?.unwrap_or_default())
}

/// Fetches an image into the engine's store.
pub(super) async fn pull(
    engine: &Engine,
    image: &str,
    login: &Lookup,
    progress: &Sink<'_>,
) -> Result<(), Error> {
    progress(Progress::Note(&format!("fetching `{image}`")));
    let options = CreateImageOptionsBuilder::default()
        .from_image(image)
        .build();
    let credentials = login(registry_of(image).to_owned()).await?;
    let pulled = engine
        .docker()
        .create_image(Some(options), None, credentials);
    pulled
        .try_for_each(|_| async { Ok(()) })
        .await
        .map_err(|error| Error::Pull {
            image: image.to_owned(),
            source: engine::Error::while_it_should(format!("fetch `{image}`"))(error),
        })
}

async fn inspect(engine: &Engine, image: &str) -> Result<Option<Base>, Error> {
    let Some(found) = super::inspect(engine, image).await? else {
        return Ok(None);
    };
    let config = found.config.unwrap_or_default();
    let pairs = config.env.unwrap_or_default();
    let env = pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(Some(Base {
        user: config.user.unwrap_or_default(),
        env: env.collect(),
    }))
}
