//! Having an image made: by which builder, and whether it has to be.
//!
//! The cheapest builder that can make all of an image makes it: an environment needs nothing but
//! `uv`, the OCI builder a registry, Docker an engine. "It is there" is only said by whoever holds
//! it: a folder here, the engine, or the registry.

use std::path::PathBuf;
use std::sync::Arc;

use bollard::auth::DockerCredentials;

use super::build::find_poetry;
use super::env::{self, Progress, Toolchain};
use super::error::Error;
use super::hash::{Held, ImageHash};
use super::registry::{self, Credential};
use super::{docker, hash, lock, oci, plan, system};
use crate::engine::Engine;
use crate::error::did_you_mean;
use crate::spec::image::Base;
use crate::spec::{Image, Layer};

/// Raised whenever a container of the same image would be made differently.
const RECIPE: u32 = 1;
/// The words of `image.builder`.
const WORDS: [&str; 6] = ["auto", "environment", "oci", "docker", "local", "uv"];

/// A way of making an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builder {
    /// A Python environment on this machine, by `uv`.
    Environment,
    /// Layers written and sent without running anything.
    Oci,
    /// A container engine.
    Docker,
}

impl Builder {
    /// The word for it in the configuration and in what is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Oci => "oci",
            Self::Docker => "docker",
        }
    }
}

/// What the configuration asks for (`image.builder`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// The cheapest builder that can.
    #[default]
    Auto,
    Only(Builder),
}

impl Wish {
    /// Reads the words of the configuration. `local` and `remote` are words of the PyPI SDK, which
    /// say where to build; here that is always this machine.
    pub fn parse(word: &str) -> Result<Self, Error> {
        Ok(match word {
            "" | "auto" | "local" | "remote" => Self::Auto,
            "environment" | "uv" => Self::Only(Builder::Environment),
            "oci" => Self::Only(Builder::Oci),
            "docker" => Self::Only(Builder::Docker),
            other => {
                let close = did_you_mean(other, WORDS);
                let close = close.map(|close| format!("; did you mean `{close}`?"));
                return Err(Error::Invalid {
                    method: "image.builder",
                    problem: format!(
                        "there is no builder `{other}`; it takes `auto`, `environment`, `oci` or `docker`{}",
                        close.unwrap_or_default()
                    ),
                });
            }
        })
    }
}

/// Where an image is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// On this machine, for the local platform.
    Here,
    /// Where a cluster can pull it from; the registry is the one of images that name none.
    Registry(Option<String>),
}

/// What images are made with, and for whom.
#[derive(Clone, Debug)]
pub struct Workshop {
    pub toolchain: Toolchain,
    pub destination: Destination,
    pub wish: Wish,
    /// What images are built on instead of the usual one; `{python}` stands for the version.
    pub base: Option<String>,
    /// A folder to write images to in the layout of the OCI, which only that builder does.
    pub layout: Option<PathBuf>,
    /// How the OCI builder compresses layers.
    pub packing: oci::Packing,
    /// Network of the steps that an engine runs.
    pub network: Option<String>,
}

/// What became of an image.
#[derive(Clone, Debug)]
pub struct Made {
    pub uri: String,
    /// `None` where nobody had to look after it.
    pub builder: Option<Builder>,
    /// Whether it was there already.
    pub reused: bool,
    /// Why this builder, where it is not the first choice.
    pub why: Option<String>,
    /// Sent to a registry, in bytes, where that is known.
    pub sent: Option<u64>,
    /// What the user should know about it.
    pub notes: Vec<String>,
}

impl Made {
    /// An image that is taken as it is.
    pub fn given(uri: String) -> Self {
        Self {
            uri,
            builder: None,
            reused: true,
            why: None,
            sent: None,
            notes: Vec::new(),
        }
    }

    fn by(choice: Choice, uri: String, reused: bool) -> Self {
        Self {
            builder: Some(choice.builder),
            why: choice.why,
            reused,
            ..Self::given(uri)
        }
    }
}

/// An image in a container, by its name.
struct Named {
    uri: String,
    content: Held,
}

/// A builder that can make an image.
struct Choice {
    builder: Builder,
    why: Option<String>,
    /// The engine that answered, for [`Builder::Docker`].
    engine: Option<Engine>,
}

impl Workshop {
    /// The image's URI, and whether it is there; nothing is built.
    pub async fn peek(&self, image: &Image) -> Result<Made, Error> {
        let choice = self.choose(image, None).await?;
        if choice.builder == Builder::Environment {
            let (uri, reused) = env::peek(&self.toolchain, image).await?;
            return Ok(Made::by(choice, uri, reused));
        }
        let image = self.for_container(image);
        let Named { uri, .. } = self.named(&image).await?;
        let reused = self.is_there(&uri, &image, choice.engine.as_ref()).await?;
        Ok(Made::by(choice, uri, reused))
    }

    /// Makes the image unless it is there; `force` makes it anyway.
    ///
    /// Where a builder finds out on the way that it cannot, the next one is asked. Dropping the
    /// future ends what runs.
    pub async fn make(
        &self,
        image: &Image,
        force: bool,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<Made, Error> {
        let choice = self.choose(image, None).await?;
        let builder = choice.builder;
        match self.make_by(choice, image, force, progress).await {
            Err(error) if self.wish == Wish::Auto && is_beyond_the_builder(&error) => {
                match self.choose(image, Some((builder, &error))).await {
                    Ok(next) => self.make_by(next, image, force, progress).await,
                    // What went wrong says more than what else is missing.
                    Err(_) => Err(error),
                }
            }
            done => done,
        }
    }

    async fn make_by(
        &self,
        choice: Choice,
        image: &Image,
        force: bool,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<Made, Error> {
        if choice.builder == Builder::Environment {
            let made = env::ensure(&self.toolchain, image, force, progress).await?;
            return Ok(Made {
                notes: made.notes,
                ..Made::by(choice, made.uri, made.reused)
            });
        }
        if let Some(why) = &choice.why {
            progress(Progress::Line(why));
        }
        let image = self.for_container(image);
        let named = self.named(&image).await?;
        let engine = choice.engine.clone();
        if self.layout.is_some() && choice.builder != Builder::Oci {
            return Err(Error::Invalid {
                method: "--layout",
                problem: format!(
                    "`{}` writes no layout, only `oci` does",
                    choice.builder.name()
                ),
            });
        }
        let force = force || self.layout.is_some();
        if !force && self.is_there(&named.uri, &image, engine.as_ref()).await? {
            return Ok(Made::by(choice, named.uri, true));
        }
        match engine {
            Some(engine) => {
                self.by_engine(&engine, &image, choice, named, force, progress)
                    .await
            }
            None => self.by_oci(&image, choice, named, force, progress).await,
        }
    }

    /// The builders that may be used, the cheapest first.
    fn candidates(&self) -> Vec<Builder> {
        match (self.wish, &self.destination) {
            (Wish::Auto, _) if self.layout.is_some() => vec![Builder::Oci],
            (Wish::Only(builder), _) => vec![builder],
            (Wish::Auto, Destination::Here) => vec![Builder::Environment, Builder::Docker],
            (Wish::Auto, Destination::Registry(_)) => vec![Builder::Oci, Builder::Docker],
        }
    }

    /// The first builder that can make all of the image; only those behind one that `failed`.
    async fn choose(
        &self,
        image: &Image,
        failed: Option<(Builder, &Error)>,
    ) -> Result<Choice, Error> {
        let mut refused: Vec<(&'static str, Error)> = Vec::new();
        let candidates = self.candidates().into_iter();
        let behind =
            candidates.skip_while(|builder| failed.is_some_and(|(one, _)| one != *builder));
        for builder in behind.skip(usize::from(failed.is_some())) {
            let outcome = match builder {
                Builder::Environment => self.check_environment(image).await.map(|()| None),
                Builder::Oci => self.check_oci(image).map(|()| None),
                Builder::Docker => check_docker(image).await.map(Some),
            };
            match outcome {
                Ok(engine) => {
                    let last = refused.last().map(|(_, error)| error);
                    let last = last.or(failed.map(|(_, error)| error));
                    let why = last.map(ToString::to_string);
                    return Ok(Choice {
                        builder,
                        why,
                        engine,
                    });
                }
                Err(error @ (Error::NeedsContainer { .. } | Error::Engine(_))) => {
                    refused.push((builder.name(), error));
                }
                // Nobody can help where the declaration itself is wrong.
                Err(error) => return Err(error),
            }
        }
        Err(match <[_; 1]>::try_from(refused) {
            Ok([(_, only)]) => only,
            Err(refused) => Error::NoBuilder { refused },
        })
    }

    async fn check_environment(&self, image: &Image) -> Result<(), Error> {
        if self.destination != Destination::Here {
            return Err(Error::Invalid {
                method: "image.builder",
                problem: "`environment` makes environments of this machine, and a cluster needs an image in a registry"
                    .to_owned(),
            });
        }
        plan::refuse(image)?;
        let needs_a_look = |layer: &Layer| {
            matches!(
                layer,
                Layer::AptPackages { .. } | Layer::PoetryProject { .. }
            )
        };
        // What this machine has mattered when the environment was made, and costs a process to see.
        if !image.layers.iter().any(needs_a_look) || env::peek(&self.toolchain, image).await?.1 {
            return Ok(());
        }
        for layer in &image.layers {
            if let Layer::AptPackages { packages, .. } = layer {
                system::require(packages).await?;
            }
        }
        require_poetry(image)
    }

    fn check_oci(&self, image: &Image) -> Result<(), Error> {
        if self.destination == Destination::Here && self.layout.is_none() {
            return Err(Error::Invalid {
                method: "image.builder",
                problem: "`oci` sends images to a registry, and the local platform needs them on this machine"
                    .to_owned(),
            });
        }
        oci::refuse(image)?;
        require_poetry(image)
    }

    /// The image as containers have it: for this machine's platform unless others were asked for.
    fn for_container(&self, image: &Image) -> Image {
        let mut image = for_this_machine(image.clone());
        if let (None, Destination::Registry(registry)) = (&image.registry, &self.destination) {
            image.registry.clone_from(registry);
        }
        image
    }

    /// What the image is called, and what it holds at this moment.
    async fn named(&self, image: &Image) -> Result<Named, Error> {
        if image.registry.is_none() && self.destination != Destination::Here {
            return Err(Error::NoRegistry {
                image: image
                    .name
                    .clone()
                    .unwrap_or_else(|| hash::DEFAULT_NAME.to_owned()),
            });
        }
        let content = env::held(&self.toolchain, image).await?;
        Ok(Named {
            uri: hash::named(image, &self.container_hash(image, &content.content)),
            content,
        })
    }

    /// The content, and what a builder adds to it: this SDK, the usual base, and its own ways.
    fn container_hash(&self, image: &Image, content: &ImageHash) -> ImageHash {
        let base = match &image.base {
            Base::Dockerfile(_) => return content.clone(),
            Base::Debian { .. } => self.base.as_deref(),
            Base::Uri(_) | Base::Ref(_) => None,
        };
        let sdk = plan::holds_sdk(image).then_some(&self.toolchain.sdk.identity);
        // Debug of a tuple of strings quotes and escapes: parts cannot run into each other.
        let parts = (content.as_str(), RECIPE, sdk, base);
        ImageHash::of(format!("{parts:?}").as_bytes())
    }

    async fn is_there(
        &self,
        uri: &str,
        image: &Image,
        engine: Option<&Engine>,
    ) -> Result<bool, Error> {
        match (&self.destination, engine) {
            (Destination::Here, Some(engine)) => Ok(docker::find(engine, uri).await?.is_some()),
            (Destination::Here, None) => Ok(false),
            (Destination::Registry(_), _) => {
                registry::exists(&registry::reference(uri)?, &image.platforms).await
            }
        }
    }

    async fn by_engine(
        &self,
        engine: &Engine,
        image: &Image,
        choice: Choice,
        Named { uri, content }: Named,
        force: bool,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<Made, Error> {
        let order = docker::Order {
            uri: uri.clone(),
            content: Some(content),
            platform: one_platform(image)?,
            force,
            base: self.base.clone(),
            network: self.network.clone(),
            login: login(),
        };
        let tell = |news: docker::Progress<'_>| tell(news, progress);
        let built = docker::build(engine, &self.toolchain, image, &order, &tell).await?;
        if self.destination != Destination::Here {
            docker::push(engine, &uri, &order.login, &tell).await?;
        }
        Ok(Made::by(choice, uri, built.reused))
    }

    async fn by_oci(
        &self,
        image: &Image,
        choice: Choice,
        Named { uri, content }: Named,
        force: bool,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<Made, Error> {
        let name = ImageHash::of(uri.as_bytes());
        let path = self.toolchain.home.join("images").join(name.tag());
        let wait = || {
            progress(Progress::Note(
                "waiting for another build of the same image",
            ));
        };
        let _lock = lock::exclusive(&path.with_extension("lock"), &wait).await?;
        // Whoever held the lock may have made it.
        if !force && self.is_there(&uri, image, None).await? {
            return Ok(Made::by(choice, uri, true));
        }
        let order = oci::Order {
            reference: uri.clone(),
            content: Some(content),
            platforms: image.platforms.clone(),
            base: self.base.clone(),
            layout: self.layout.clone(),
            push: self.destination != Destination::Here,
            force,
            packing: self.packing,
        };
        let built = oci::build(&self.toolchain, image, &order, progress).await?;
        Ok(Made {
            sent: Some(built.bytes_sent),
            notes: built.notes,
            ..Made::by(choice, uri, built.reused)
        })
    }
}

/// Poetry projects are exported by Poetry itself, where no container does it.
fn require_poetry(image: &Image) -> Result<(), Error> {
    let is_poetry = |layer: &Layer| matches!(layer, Layer::PoetryProject { .. });
    if image.layers.iter().any(is_poetry) {
        find_poetry()?;
    }
    Ok(())
}

/// Whether another builder may succeed, because the image is fine and only this one cannot.
fn is_beyond_the_builder(error: &Error) -> bool {
    const NO_WHEEL: &str = "because building from source is disabled";
    match error {
        Error::NeedsContainer { .. } | Error::NoPython { .. } => true,
        Error::Install { tail, .. } => tail.iter().any(|line| line.contains(NO_WHEEL)),
        Error::Invalid { .. }
        | Error::Unreadable { .. }
        | Error::Changed
        | Error::Start { .. }
        | Error::SecretMissing { .. }
        | Error::Pull { .. }
        | Error::Push { .. }
        | Error::Engine(_)
        | Error::Credentials { .. }
        | Error::Registry { .. }
        | Error::NoBuilder { .. }
        | Error::UnknownRef { .. }
        | Error::NoRegistry { .. }
        | Error::Store { .. } => false,
    }
}

/// The image for the platform of this machine, unless it asks for others.
pub fn for_this_machine(mut image: Image) -> Image {
    if image.platforms.is_empty() {
        image.platforms = vec![plan::host_platform()];
    }
    image
}

async fn check_docker(image: &Image) -> Result<Engine, Error> {
    docker::refuse(image)?;
    Ok(Engine::connect().await?)
}

/// The platform to ask an engine for; `None` for its own.
fn one_platform(image: &Image) -> Result<Option<String>, Error> {
    match image.platforms.as_slice() {
        [] => Ok(None),
        [only] => Ok((*only != plan::host_platform()).then(|| only.clone())),
        several => Err(Error::Invalid {
            method: "platform",
            problem: format!(
                "Docker makes an image for one platform, and `{}` are asked for; name one, or leave out the layers that only Docker can make",
                several.join("`, `")
            ),
        }),
    }
}

/// Credentials for the registry of an image, as an engine wants them.
pub async fn login_of(image: &str) -> Result<Option<DockerCredentials>, Error> {
    let host = docker::registry_of(image).to_owned();
    let found = registry::credentials(&host).await?;
    Ok(found.map(|credential| for_engine(credential, host)))
}

/// Credentials as an engine wants them.
fn login() -> docker::Lookup {
    Arc::new(|host: String| {
        Box::pin(async move {
            let found = registry::credentials(&host).await?;
            Ok(found.map(|credential| for_engine(credential, host)))
        })
    })
}

fn for_engine(credential: Credential, host: String) -> DockerCredentials {
    let mut credentials = DockerCredentials {
        serveraddress: Some(host),
        ..DockerCredentials::default()
    };
    match credential {
        Credential::Password { username, password } => {
            credentials.username = Some(username);
            credentials.password = Some(password.to_string());
        }
        Credential::Identity(token) => credentials.identitytoken = Some(token.to_string()),
        Credential::Bearer(token) => credentials.registrytoken = Some(token.to_string()),
    }
    credentials
}

/// What an engine tells of a build, as any other builder would.
fn tell(news: docker::Progress<'_>, progress: &(dyn Fn(Progress<'_>) + Send + Sync)) {
    match news {
        docker::Progress::Line(line) => progress(Progress::Line(line)),
        docker::Progress::Note(note) => progress(Progress::Note(note)),
        docker::Progress::Sent { done, total } => progress(Progress::Sent { done, total }),
        docker::Progress::Stage(stage) => {
            let docker::Stage {
                number,
                total,
                text,
                cached,
                seconds,
            } = stage;
            let how = match (cached, seconds) {
                (true, _) => " (cached)".to_owned(),
                (false, Some(seconds)) => format!(" ({seconds:.1} s)"),
                (false, None) => String::new(),
            };
            progress(Progress::Line(&format!("[{number}/{total}] {text}{how}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};

    #[test]
    fn the_words_of_the_configuration_are_read() {
        for word in ["", "auto", "local", "remote"] {
            assert_eq!(Wish::parse(word).unwrap(), Wish::Auto);
        }
        for (word, builder) in [
            ("environment", Builder::Environment),
            ("uv", Builder::Environment),
            ("oci", Builder::Oci),
            ("docker", Builder::Docker),
        ] {
            assert_eq!(Wish::parse(word).unwrap(), Wish::Only(builder));
        }
        let error = Wish::parse("kaniko").unwrap_err();
        assert_eq!(error.code(), Code::ImageInvalid);
        assert!(error.to_string().contains("`kaniko`"), "{error}");
    }

    #[test]
    fn a_slip_of_the_hand_is_told() {
        let error = Wish::parse("dokcer").unwrap_err().to_string();
        assert!(error.ends_with("did you mean `docker`?"), "{error}");
    }

    fn workshop(identity: &str, base: Option<&str>) -> Workshop {
        Workshop {
            toolchain: Toolchain {
                home: "/nowhere".into(),
                uv: "/nowhere/uv".into(),
                python: "/nowhere/python".into(),
                python_version: crate::spec::PythonVersion {
                    major: 3,
                    minor: 11,
                },
                sdk: env::SdkPayload {
                    entries: vec![],
                    identity: identity.into(),
                },
            },
            destination: Destination::Here,
            wish: Wish::Auto,
            base: base.map(str::to_owned),
            layout: None,
            packing: oci::Packing::default(),
            network: None,
        }
    }

    #[tokio::test]
    async fn another_sdk_or_base_is_another_image() {
        let image = hash::tests::image(vec![]);
        let plain = Image {
            base: Base::Debian {
                install_flyte: false,
            },
            ..image.clone()
        };
        let foreign = Image {
            base: Base::Uri("x:1".into()),
            ..image.clone()
        };
        let uri = async |image: &Image, identity, base| {
            workshop(identity, base).named(image).await.unwrap().uri
        };
        let before = uri(&image, "1", None).await;
        assert_eq!(uri(&image, "1", None).await, before);
        assert_ne!(uri(&image, "2", None).await, before);
        assert_ne!(uri(&image, "1", Some("b:1")).await, before);
        // What does not hold it is not made again for it.
        assert_eq!(uri(&plain, "1", None).await, uri(&plain, "2", None).await);
        assert_eq!(
            uri(&foreign, "1", None).await,
            uri(&foreign, "2", Some("b:1")).await
        );
    }

    #[test]
    fn only_what_another_builder_may_do_is_passed_on() {
        let install = |line: &str| Error::Install {
            step: "s".into(),
            installer: "uv",
            status: "1".into(),
            tail: vec![line.to_owned()],
            held_by: None,
        };
        let no_wheel = "x==1 has no usable wheels, because building from source is disabled";
        assert!(is_beyond_the_builder(&install(no_wheel)));
        assert!(!is_beyond_the_builder(&install("No solution found")));
        assert!(is_beyond_the_builder(&Error::NoPython {
            asked: "3.14".into(),
            running: "/p".into()
        }));
        assert!(!is_beyond_the_builder(&Error::Changed));
    }

    #[test]
    fn an_engine_is_asked_for_one_platform() {
        let image = |platforms: &[&str]| Image {
            platforms: platforms.iter().map(|text| (*text).to_owned()).collect(),
            ..hash::tests::image(vec![])
        };
        let host = plan::host_platform();
        assert_eq!(one_platform(&image(&[&host])).unwrap(), None);
        let other = one_platform(&image(&["linux/s390x"])).unwrap();
        assert_eq!(other.as_deref(), Some("linux/s390x"));
        assert!(one_platform(&image(&["linux/amd64", "linux/arm64"])).is_err());
    }
}
