//! Sending an image of the engine to its registry. Blobs that are there are not sent again: that
//! is the engine's doing.

use std::collections::BTreeMap;

use bollard::models::ProgressDetail;
use bollard::query_parameters::PushImageOptionsBuilder;
use futures::TryStreamExt;

use super::{Lookup, Progress, Sink, registry_of};
use crate::engine::{self, Engine};
use crate::image::Error;

/// An image that a registry has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    pub uri: String,
    /// Of the manifest, `sha256:…`, as the registry knows it.
    pub digest: String,
}

/// Sends the image called `uri` to the registry in its name.
pub async fn push(
    engine: &Engine,
    uri: &str,
    login: &Lookup,
    progress: &(dyn Fn(Progress<'_>) + Send + Sync),
) -> Result<Pushed, Error> {
    let failed = |source: engine::Error| Error::Push {
        uri: uri.to_owned(),
        source,
    };
    let registry = registry_of(uri);
    let credentials = login(registry.to_owned()).await?;
    // A colon in front of the last slash belongs to a port.
    let (repository, tag) = match uri.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        Some(_) | None => (uri, "latest"),
    };
    let options = PushImageOptionsBuilder::default().tag(tag).build();
    let said = engine
        .docker()
        .push_image(repository, Some(options), credentials);
    let mut said = std::pin::pin!(said);
    let (mut digest, mut layers) = (None, Layers::default());
    loop {
        let message = said.try_next().await;
        let message = message
            .map_err(engine::Error::while_it_should(format!(
                "send `{uri}` to `{registry}`"
            )))
            .map_err(failed)?;
        let Some(message) = message else {
            break;
        };
        let status = message.status.unwrap_or_default();
        digest = digest.or_else(|| digest_in(&status));
        match message.progress_detail {
            None => tell(progress, &status),
            Some(ProgressDetail { current, total }) => {
                if let Some((done, total)) = layers.take(current, total) {
                    progress(Progress::Sent { done, total });
                }
            }
        }
    }
    let digest = digest.ok_or_else(|| {
        failed(engine::Error::Refused {
            action: format!("send `{uri}` to `{registry}`"),
            reason: "it told no digest".to_owned(),
        })
    })?;
    Ok(Pushed {
        uri: uri.to_owned(),
        digest,
    })
}

/// How much of each layer was sent. The engine's messages come without the layer's name here, so
/// layers are told apart by their sizes; two of one size count as one, which is as good for a rate.
#[derive(Default)]
struct Layers(BTreeMap<u64, u64>);

impl Layers {
    /// What was sent of everything that is known by now, and how much that is.
    fn take(&mut self, current: Option<i64>, total: Option<i64>) -> Option<(u64, u64)> {
        let total = u64::try_from(total?).ok().filter(|total| *total > 0)?;
        let current = u64::try_from(current.unwrap_or_default()).ok()?;
        // The engine counts compressed bytes against whole ones, and may go beyond them.
        let done = self.0.entry(total).or_default();
        *done = (*done).max(current.min(total));
        Some((self.0.values().sum(), self.0.keys().sum()))
    }
}

fn tell(progress: &Sink<'_>, status: &str) {
    if !status.is_empty() {
        progress(Progress::Line(status));
    }
}

/// From `tag: digest: sha256:… size: 528`.
fn digest_in(status: &str) -> Option<String> {
    let (_, rest) = status.split_once("digest: ")?;
    let digest = rest.split_whitespace().next()?;
    digest.starts_with("sha256:").then(|| digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_added_up() {
        let mut layers = Layers::default();
        assert_eq!(layers.take(Some(10), Some(100)), Some((10, 100)));
        assert_eq!(layers.take(Some(5), Some(50)), Some((15, 150)));
        assert_eq!(layers.take(Some(120), Some(100)), Some((105, 150)));
        assert_eq!(layers.take(None, None), None);
    }

    #[test]
    fn the_digest_is_read_from_the_last_message() {
        let text = "1: digest: sha256:0a1b size: 528";
        assert_eq!(digest_in(text).as_deref(), Some("sha256:0a1b"));
        assert_eq!(digest_in("Pushed"), None);
    }
}
