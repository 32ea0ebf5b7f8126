//! Having an image made: by which builder, and whether it has to be.
//!
//! The cheapest builder that can make all of an image makes it: an environment needs nothing but
//! `uv`, the OCI builder a registry, Docker an engine. "It is there" is only said by whoever holds
//! it: a folder here, the engine, or the registry.

use std::sync::Arc;

use bollard::auth::DockerCredentials;

use super::env::{self, Progress, Toolchain};
use super::error::Error;
use super::registry::{self, Credential};
use super::{docker, hash, oci, plan, system};
use crate::engine::Engine;
use crate::spec::{Image, Layer};

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
                return Err(Error::Invalid {
                    method: "image.builder",
                    problem: format!(
                        "there is no builder `{other}`; it takes `auto`, `environment`, `oci` or `docker`"
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
        let choice = self.choose(image).await?;
        if choice.builder == Builder::Environment {
            let (uri, reused) = env::peek(&self.toolchain, image)?;
            return Ok(Made::by(choice, uri, reused));
        }
        let image = self.for_container(image);
        let uri = self.uri(&image)?;
        let reused = self.is_there(&uri, &image, choice.engine.as_ref()).await?;
        Ok(Made::by(choice, uri, reused))
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
        let choice = self.choose(image).await?;
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
        let uri = self.uri(&image)?;
        if !force && self.is_there(&uri, &image, choice.engine.as_ref()).await? {
            return Ok(Made::by(choice, uri, true));
        }
        match choice.engine.clone() {
            Some(engine) => {
                self.by_engine(&engine, &image, choice, uri, force, progress)
                    .await
            }
            None => self.by_oci(&image, choice, uri, force, progress).await,
        }
    }

    /// The builders that may be used, the cheapest first.
    fn candidates(&self) -> Vec<Builder> {
        match (self.wish, &self.destination) {
            (Wish::Only(builder), _) => vec![builder],
            (Wish::Auto, Destination::Here) => vec![Builder::Environment, Builder::Docker],
            (Wish::Auto, Destination::Registry(_)) => vec![Builder::Oci, Builder::Docker],
        }
    }

    /// The first builder that can make all of the image.
    async fn choose(&self, image: &Image) -> Result<Choice, Error> {
        let mut refused: Vec<(&'static str, Error)> = Vec::new();
        for builder in self.candidates() {
            let outcome = match builder {
                Builder::Environment => self.check_environment(image).await.map(|()| None),
                Builder::Oci => self.check_oci(image).map(|()| None),
                Builder::Docker => check_docker(image).await.map(Some),
            };
            match outcome {
                Ok(engine) => {
                    let why = refused.last().map(|(_, error)| error.to_string());
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
        for layer in &image.layers {
            if let Layer::AptPackages { packages, .. } = layer {
                system::require(packages).await?;
            }
        }
        Ok(())
    }

    fn check_oci(&self, image: &Image) -> Result<(), Error> {
        if self.destination == Destination::Here {
            return Err(Error::Invalid {
                method: "image.builder",
                problem: "`oci` sends images to a registry, and the local platform needs them on this machine"
                    .to_owned(),
            });
        }
        oci::refuse(image)
    }

    /// The image as containers have it: for this machine's platform unless others were asked for.
    fn for_container(&self, image: &Image) -> Image {
        let mut image = for_this_machine(image.clone());
        if let (None, Destination::Registry(registry)) = (&image.registry, &self.destination) {
            image.registry.clone_from(registry);
        }
        image
    }

    fn uri(&self, image: &Image) -> Result<String, Error> {
        if image.registry.is_none() && self.destination != Destination::Here {
            return Err(Error::NoRegistry {
                image: image
                    .name
                    .clone()
                    .unwrap_or_else(|| hash::DEFAULT_NAME.to_owned()),
            });
        }
        hash::remembered_uri(image, &self.toolchain.home)
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
        uri: String,
        force: bool,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<Made, Error> {
        let order = docker::Order {
            uri: uri.clone(),
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
        uri: String,
        force: bool,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<Made, Error> {
        let order = oci::Order {
            reference: uri.clone(),
            platforms: image.platforms.clone(),
            base: self.base.clone(),
            layout: None,
            push: true,
            force,
            packing: oci::Packing::default(),
        };
        let built = oci::build(&self.toolchain, image, &order, progress).await?;
        Ok(Made {
            sent: Some(built.bytes_sent),
            notes: built.notes,
            ..Made::by(choice, uri, built.reused)
        })
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
