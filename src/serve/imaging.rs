//! Step two: something that can run the apps, built only where it is missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Error, Plan, Progress, Server, Step};
use crate::image;
use crate::image::env::{self, Toolchain};
use crate::spec::{AppSpec, Image, ImageSpec};

impl Server {
    /// Builds the image of every app, equal ones once; tells each app's image URI.
    pub(super) async fn images(&self, plan: &Plan) -> Result<BTreeMap<String, String>, Error> {
        let started = Instant::now();
        self.report(Progress::Started(Step::Image));
        let mut uris = BTreeMap::new();
        let mut details = Vec::new();
        let mut built: Vec<(Image, String)> = Vec::new();
        for spec in plan.apps() {
            let uri = match &spec.image {
                ImageSpec::Uri(uri) => {
                    details.push(format!("{uri} as it is"));
                    uri.clone()
                }
                ImageSpec::Declared(image) if plan.local => {
                    match built.iter().find(|(known, _)| known == image) {
                        Some((_, uri)) => uri.clone(),
                        None => {
                            let environment = self.environment(image).await?;
                            let how = if environment.reused {
                                "reused"
                            } else {
                                "built"
                            };
                            details.push(format!("{} {how}", environment.uri));
                            built.push((image.clone(), environment.uri.clone()));
                            environment.uri
                        }
                    }
                }
                ImageSpec::Declared(image) => image::uri(image)?,
            };
            uris.insert(spec.name.clone(), uri);
        }
        self.finished(Step::Image, details.join(", "), started);
        Ok(uris)
    }

    async fn environment(&self, image: &Image) -> Result<env::Environment, Error> {
        let reporter = Arc::clone(&self.reporter);
        let progress = move |progress: env::Progress<'_>| match progress {
            env::Progress::Line(line) => reporter(Progress::Line(line.to_owned())),
            env::Progress::Note(note) => {
                let note = note.strip_prefix("warning: ").unwrap_or(note);
                reporter(Progress::Note(note.to_owned()));
            }
        };
        Ok(env::ensure(&self.toolchain, image, false, &progress).await?)
    }
}

/// What would be used, without building it.
pub fn describe(toolchain: &Toolchain, spec: &AppSpec) -> Result<String, Error> {
    Ok(match &spec.image {
        ImageSpec::Uri(uri) => format!("image `{uri}`"),
        ImageSpec::Declared(image) => {
            let (uri, exists) = env::peek(toolchain, image)?;
            if exists {
                format!("environment `{uri}`, which is there")
            } else {
                format!("environment `{uri}`, which would be built")
            }
        }
    })
}
