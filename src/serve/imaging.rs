//! Step two: something that can run the apps, built only where it is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Error, Plan, Progress, Server, Source, Step, bundling};
use crate::bundle;
use crate::config::Endpoint;
use crate::image;
use crate::image::env;
use crate::image::make::{Builder, Destination, Made, Wish, Workshop};
use crate::image::oci::Packing;
use crate::spec::image::Base;
use crate::spec::{AppSpec, CopyStyle, Image, ImageSpec, Layer};

/// Images that are built at the same time: installers use several cores by themselves.
const AT_ONCE: usize = 4;

/// Network of the steps that a container engine runs, such as `host`.
const BUILD_NETWORK: &str = "FLYTE_DOCKER_BUILD_NETWORK";

/// A call of `build`: images by the name of what wants them.
#[derive(Clone, Debug, Default)]
pub struct Order {
    pub images: Vec<(String, ImageSpec)>,
    /// What `with_code_bundle` copies; `None` leaves the code to a bundle.
    pub code: Option<(Source, Vec<AppSpec>)>,
    /// Where the project is, whose `.dockerignore` holds for the folders that images copy.
    pub root: Option<PathBuf>,
    /// A folder to write the images to as well.
    pub layout: Option<PathBuf>,
    /// Build even what is there, and resolve versions again.
    pub force: bool,
}

impl Order {
    /// The images of these apps. With copy style `none` no bundle travels, and images that ask
    /// for the code get it.
    pub fn of(apps: Vec<AppSpec>, source: Source, style: CopyStyle) -> Self {
        let images = apps.iter().map(|app| (app.name.clone(), app.image.clone()));
        Self {
            images: images.collect(),
            root: Some(source.root.clone()),
            layout: None,
            code: (style == CopyStyle::None).then_some((source, apps)),
            force: false,
        }
    }
}

impl Server {
    /// The image URI of every app of a plan.
    pub(super) async fn images(&self, plan: &Plan) -> Result<BTreeMap<String, String>, Error> {
        let started = Instant::now();
        self.report(Progress::Started(Step::Image));
        let apps = plan.apps().cloned().collect();
        let order = Order::of(apps, plan.source.clone(), plan.options.copy_style);
        let made = self.build(order).await?;
        let mut told: Vec<String> = made.values().map(detail).collect();
        told.sort();
        told.dedup();
        self.finished(Step::Image, told.join(", "), started);
        Ok(made
            .into_iter()
            .map(|(app, made)| (app, made.uri))
            .collect())
    }

    /// Makes images where they are missing, several at once and equal ones once.
    pub async fn build(&self, order: Order) -> Result<BTreeMap<String, Made>, Error> {
        let mut wanted: Vec<(Image, Vec<String>)> = Vec::new();
        let mut made = BTreeMap::new();
        for (name, image) in order.images {
            match self.resolved(image, order.code.as_ref(), order.root.as_deref())? {
                ImageSpec::Uri(uri) => {
                    made.insert(name, Made::given(uri));
                }
                ImageSpec::Declared(image) => {
                    match wanted.iter_mut().find(|(known, _)| *known == image) {
                        Some((_, names)) => names.push(name),
                        None => wanted.push((image, vec![name])),
                    }
                }
            }
        }
        let mut workshop = self.builder().await.workshop()?;
        workshop.layout = order.layout;
        let several = wanted.len() > 1;
        let built: Vec<_> = stream::iter(wanted)
            .map(async |(image, names)| {
                let progress = self.progress(several.then(|| names.join(", ")));
                match workshop.make(&image, order.force, &progress).await {
                    Ok(made) => Ok::<_, Error>((names, made)),
                    Err(error) => {
                        // The error speaks of the image, of which there are several.
                        progress(env::Progress::Note("its image could not be made"));
                        Err(error.into())
                    }
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for (names, one) in built {
            made.extend(names.into_iter().map(|name| (name, one.clone())));
        }
        Ok(made)
    }

    /// What [`Server::build`] would find, without building.
    pub async fn peek(&self, order: Order) -> Result<BTreeMap<String, Made>, Error> {
        let workshop = self.builder().await.workshop()?;
        let mut found = BTreeMap::new();
        for (name, image) in order.images {
            let made = match self.resolved(image, order.code.as_ref(), order.root.as_deref())? {
                ImageSpec::Uri(uri) => Made::given(uri),
                ImageSpec::Declared(image) => workshop.peek(&image).await?,
            };
            found.insert(name, made);
        }
        Ok(found)
    }

    fn workshop(&self) -> Result<Workshop, Error> {
        let image = &self.settings.image;
        if image.builder.as_deref() == Some("remote") {
            let note = "images are built on this machine; `image.builder: remote` counts as `auto`";
            self.report(Progress::Note(note.to_owned()));
        }
        Ok(Workshop {
            toolchain: self.toolchain.clone(),
            destination: match self.settings.endpoint {
                Endpoint::Local => Destination::Here,
                Endpoint::Remote(_) => Destination::Registry(image.registry.clone()),
            },
            wish: Wish::parse(image.builder.as_deref().unwrap_or_default())?,
            base: image.base.clone(),
            layout: None,
            packing: Packing::parse(image.compression.as_deref().unwrap_or_default())?,
            network: std::env::var(BUILD_NETWORK).ok(),
        })
    }

    /// The image with everything in it that only the project and the configuration can tell.
    fn resolved(
        &self,
        image: ImageSpec,
        code: Option<&(Source, Vec<AppSpec>)>,
        root: Option<&Path>,
    ) -> Result<ImageSpec, Error> {
        let ImageSpec::Declared(mut image) = image else {
            return Ok(image);
        };
        if let Base::Ref(name) = &image.base {
            let refs = &self.settings.image.refs;
            let uri = refs.get(name).ok_or_else(|| image::Error::UnknownRef {
                name: name.clone(),
                known: refs.keys().cloned().collect(),
            })?;
            if image.layers.is_empty() {
                return Ok(ImageSpec::Uri(uri.clone()));
            }
            image.base = Base::Uri(uri.clone());
        }
        let image = match code {
            Some((source, apps)) => with_code(image, source, apps)?,
            None => image,
        };
        Ok(ImageSpec::Declared(match root {
            Some(root) => with_rules(image, root),
            None => image,
        }))
    }

    fn progress(&self, of: Option<String>) -> impl Fn(env::Progress<'_>) + Send + Sync + use<> {
        let reporter = Arc::clone(&self.reporter);
        move |progress| {
            let named = |text: &str| match &of {
                Some(names) => format!("{names}: {text}"),
                None => text.to_owned(),
            };
            reporter(match progress {
                env::Progress::Line(line) => Progress::Line(named(line)),
                env::Progress::Note(note) => {
                    let note = note.strip_prefix("warning: ").unwrap_or(note);
                    Progress::Note(named(note))
                }
                env::Progress::Sent { done, total } => Progress::Sent {
                    step: Step::Image,
                    done,
                    total,
                },
            });
        }
    }
}

/// `env.flyte.local/app:1f… reused`
fn detail(made: &Made) -> String {
    let how = match (&made.builder, made.reused) {
        (None, _) => "as it is",
        (Some(_), true) => "reused",
        (Some(_), false) => "built",
    };
    let by = made
        .builder
        .filter(|builder| *builder != Builder::Environment);
    let by = by
        .map(|builder| format!(" by {}", builder.name()))
        .unwrap_or_default();
    let sent = made
        .sent
        .map(|bytes| format!(", {} sent", bundling::size(bytes)));
    let why = made.why.as_ref().map(|why| format!(" ({why})"));
    format!(
        "{} {how}{by}{}{}",
        made.uri,
        sent.unwrap_or_default(),
        why.unwrap_or_default()
    )
}

/// Puts the code where `with_code_bundle` wants it: behind all other layers, since it changes most.
fn with_code(mut image: Image, source: &Source, apps: &[AppSpec]) -> Result<Image, Error> {
    let mut code = Vec::new();
    for layer in &image.layers {
        if let Layer::CodeBundle { style, dst } = layer {
            code.extend(code_layers(*style, dst, source, apps)?);
        }
    }
    let is_code = |layer: &Layer| matches!(layer, Layer::CodeBundle { .. });
    image.layers.retain(|layer| !is_code(layer));
    image.layers.extend(code);
    Ok(image)
}

/// The rules of the project's own `.dockerignore` for the folders that an image copies, unless it
/// names others.
fn with_rules(mut image: Image, root: &Path) -> Image {
    let ignores = |layer: &Layer| matches!(layer, Layer::DockerIgnore(_));
    let copies = |layer: &Layer| matches!(layer, Layer::SourceFolder { .. });
    let rules = root.join(".dockerignore");
    if image.layers.iter().any(copies) && !image.layers.iter().any(ignores) && rules.is_file() {
        image.layers.push(Layer::DockerIgnore(rules));
    }
    image
}

fn code_layers(
    style: CopyStyle,
    dst: &str,
    source: &Source,
    apps: &[AppSpec],
) -> Result<Vec<Layer>, Error> {
    match style {
        CopyStyle::None => return Ok(Vec::new()),
        CopyStyle::All => {
            return Ok(vec![Layer::SourceFolder {
                src: source.root.clone(),
                dst: dst.to_owned(),
            }]);
        }
        CopyStyle::LoadedModules => {}
    }
    let files = bundle::choose(&bundling::selection(source, style, apps))?;
    let copy = |file: &bundle::BundleFile| Layer::SourceFile {
        src: files.root().join(&*file.name),
        dst: Path::new(dst)
            .join(&*file.name)
            .to_string_lossy()
            .into_owned(),
    };
    Ok(files.files().iter().map(copy).collect())
}

/// What would be used, without building it.
pub(super) async fn describe(
    server: &Server,
    spec: &AppSpec,
    root: &Path,
) -> Result<String, Error> {
    if let ImageSpec::Uri(uri) = &spec.image {
        return Ok(format!("image `{uri}`"));
    }
    let order = Order {
        images: vec![(spec.name.clone(), spec.image.clone())],
        root: Some(root.to_path_buf()),
        ..Order::default()
    };
    let found = server.peek(order).await?;
    let told = found.values().map(|made| {
        let why = made.why.as_ref().map(|why| format!(" ({why})"));
        let why = why.unwrap_or_default();
        match (made.builder, made.reused) {
            (None, _) => format!("image `{}`", made.uri),
            (Some(builder), true) => {
                format!("{} `{}`, which is there{why}", builder.name(), made.uri)
            }
            (Some(builder), false) => {
                format!(
                    "{} `{}`, which would be built{why}",
                    builder.name(),
                    made.uri
                )
            }
        }
    });
    Ok(told.collect())
}
