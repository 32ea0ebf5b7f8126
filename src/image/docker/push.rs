//! Sending an image of the engine to its registry. Blobs that are there are not sent again: that
//! is the engine's doing.

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
    let mut digest = None;
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
        if message.progress_detail.is_none() {
            tell(progress, &status);
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
    fn the_digest_is_read_from_the_last_message() {
        let text = "1: digest: sha256:0a1b size: 528";
        assert_eq!(digest_in(text).as_deref(), Some("sha256:0a1b"));
        assert_eq!(digest_in("Pushed"), None);
    }
}
