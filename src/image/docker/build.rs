//! One build: context and recipe out, progress in, and a tag at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bollard::query_parameters::TagImageOptionsBuilder;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use super::base::{self, Base};
use super::context::Context;
use super::session::Session;
use super::steps::{self, Start};
use super::trace::{Failed, Message, Trace};
use super::{Built, Order, Progress, Sink};
use crate::engine::{self, Answer, Connection, Engine};
use crate::image::build::off_thread;
use crate::image::env::{Toolchain, held, refuse_changed};
use crate::image::secret::Secrets;
use crate::image::{Error, lock};
use crate::spec::Image;
use crate::spec::image::Base as Declared;

/// Names the content of an image on the image itself.
const HASH_LABEL: &str = "org.flyte.image.hash";
/// Variables that lead steps to the network; engines take them without writing them down.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The image, made by the engine unless it has it; `order.force` always makes it.
///
/// Dropping the future ends the build in the engine too.
pub async fn build(
    engine: &Engine,
    toolchain: &Toolchain,
    image: &Image,
    order: &Order,
    progress: &(dyn Fn(Progress<'_>) + Send + Sync),
) -> Result<Built, Error> {
    with_secrets(engine, toolchain, image, order, None, progress).await
}

/// The same; the values of secrets are looked for unless they are `given`.
pub(super) async fn with_secrets(
    engine: &Engine,
    toolchain: &Toolchain,
    image: &Image,
    order: &Order,
    given: Option<Secrets>,
    progress: &Sink<'_>,
) -> Result<Built, Error> {
    super::refuse(image)?;
    if let (false, Some(built)) = (order.force, super::find(engine, &order.uri).await?) {
        return Ok(built);
    }
    let name = blake3::hash(order.uri.as_bytes()).to_hex();
    let path = toolchain.home.join("images").join(&name[..32]);
    let wait = || {
        progress(Progress::Note(
            "waiting for another build of the same image",
        ));
    };
    let _lock = lock::exclusive(&path.with_extension("lock"), &wait).await?;
    // Whoever held the lock may have made it.
    if let (false, Some(built)) = (order.force, super::find(engine, &order.uri).await?) {
        return Ok(built);
    }
    let start = start(engine, image, order, progress).await?;
    let before = match &order.content {
        Some(before) => before.clone(),
        None => held(toolchain, image).await?,
    };
    let (declared, tools) = (image.clone(), toolchain.clone());
    let work = off_thread(move || steps::write(&declared, &tools, start)).await?;
    for note in &work.notes {
        progress(Progress::Note(note));
    }
    let mut secrets = match given {
        Some(secrets) => secrets,
        None => Secrets::find(&work.secrets)?,
    };
    secrets.add(&work.private);
    let session = Session::open(engine, secrets.clone(), order.login.clone()).await?;
    let query = query(order, &work, &session, before.content.as_str(), image);
    let mut run = Run {
        engine,
        origins: work.origins,
        trace: Trace::new(secrets, progress),
    };
    match run.send(&query, work.context).await {
        Ok(id) => {
            refuse_changed(toolchain, image, &before).await?;
            tag(engine, &id, &order.uri).await?;
            Ok(Built {
                uri: order.uri.clone(),
                id,
                reused: false,
            })
        }
        Err(End::Engine(error)) => Err(error.into()),
        Err(End::Build(reason)) => Err(run.explain(reason)),
    }
}

/// What the recipe starts on, once the engine has it.
async fn start(
    engine: &Engine,
    image: &Image,
    order: &Order,
    progress: &Sink<'_>,
) -> Result<Start, Error> {
    let platform = match (&order.platform, &image.platforms[..]) {
        (Some(asked), _) => asked.clone(),
        (None, [first, ..]) if !image.platforms.iter().any(|one| one == engine.platform()) => {
            first.clone()
        }
        (None, _) => engine.platform().to_owned(),
    };
    let python = steps::python(image)?;
    let (from, base) = match &image.base {
        Declared::Uri(uri) => {
            let found = base::find(engine, uri, order.force, &order.login, progress);
            (uri.clone(), found.await?)
        }
        Declared::Debian { .. } => {
            let base = order.base.as_deref().unwrap_or(steps::DEBIAN);
            let from = base.replace("{python}", &python.to_string());
            let found = base::find(engine, &from, order.force, &order.login, progress);
            (from.clone(), found.await?)
        }
        Declared::Dockerfile(_) | Declared::Ref(_) => (String::new(), Base::default()),
    };
    Ok(Start {
        from,
        base,
        python,
        platform,
    })
}

/// Names an image that is whole, and known to hold what its name says.
async fn tag(engine: &Engine, id: &str, uri: &str) -> Result<(), Error> {
    // A colon before the last slash belongs to the port of a registry.
    let (repository, tag) = match uri.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        Some(_) | None => (uri, "latest"),
    };
    let options = TagImageOptionsBuilder::default().repo(repository).tag(tag);
    let named = engine.docker().tag_image(id, Some(options.build()));
    named.await.map_err(engine::Error::while_it_should(format!(
        "name an image `{uri}`"
    )))?;
    Ok(())
}

fn query(
    order: &Order,
    work: &steps::Work,
    session: &Session,
    hash: &str,
    image: &Image,
) -> String {
    let labels = BTreeMap::from([(HASH_LABEL, hash)]);
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    pairs
        .append_pair("version", "2")
        .append_pair("session", &session.id)
        .append_pair("dockerfile", &work.dockerfile)
        .append_pair("labels", &serde_json::json!(labels).to_string());
    if order.platform.is_some() || !image.platforms.is_empty() {
        pairs.append_pair("platform", &work.platform);
    }
    if order.force {
        pairs.append_pair("nocache", "1");
        if matches!(image.base, Declared::Dockerfile(_)) {
            pairs.append_pair("pull", "1");
        }
    }
    if let Some(network) = &order.network {
        pairs.append_pair("networkmode", network);
    }
    let proxies: BTreeMap<&str, String> = PROXIES
        .iter()
        .filter_map(|name| Some((*name, std::env::var(name).ok()?)))
        .collect();
    if !proxies.is_empty() {
        pairs.append_pair("buildargs", &serde_json::json!(proxies).to_string());
    }
    pairs.finish()
}

/// How a build ends early.
enum End {
    Engine(engine::Error),
    /// A step failed, or the recipe could not be followed; the engine says why.
    Build(String),
}

struct Run<'a> {
    engine: &'a Engine,
    /// What the user wrote, by the number that the engine gives the step.
    origins: Vec<Option<String>>,
    trace: Trace<'a>,
}

impl Run<'_> {
    /// Sends the build and follows it to its end; tells the digest of the image.
    async fn send(&mut self, query: &str, context: Context) -> Result<String, End> {
        const ACTION: &str = "build an image";
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| {
            End::Engine(engine::Error::Broken {
                action: ACTION.into(),
                source,
            })
        };
        let mut pieces = context.stream();
        let archive = futures::stream::poll_fn(move |task| pieces.poll_recv(task))
            .map(|piece| piece.map(Frame::data));
        let request = Request::post(format!("/build?{query}"))
            .header(header::CONTENT_TYPE, "application/x-tar")
            .body(StreamBody::new(archive).boxed_unsync())
            .map_err(|error| broken(error.into()))?;
        let answer = self.engine.send(request).await.map_err(End::Engine)?;
        if answer.response.status() != StatusCode::OK {
            return Err(End::Engine(super::refusal(ACTION, answer).await));
        }
        let mut lines = Lines::new(answer);
        let mut id = None;
        while let Some(line) = lines.next().await.map_err(|error| broken(error.into()))? {
            let Ok(message) = serde_json::from_slice::<Message>(&line) else {
                continue;
            };
            if let Some(reason) = message.error() {
                return Err(End::Build(reason.to_owned()));
            }
            id = message.image_id().map(str::to_owned).or(id);
            self.trace.take(&message);
        }
        id.ok_or_else(|| {
            End::Engine(engine::Error::Refused {
                action: ACTION.into(),
                reason: "it ended without an image".into(),
            })
        })
    }

    /// The failed step in the user's words, with its own output.
    fn explain(self, reason: String) -> Error {
        let Some(failed) = self.trace.into_failed() else {
            return Error::Install {
                step: "docker build".to_owned(),
                installer: "the container engine",
                status: reason,
                tail: Vec::new(),
                held_by: None,
            };
        };
        let Failed {
            name,
            number,
            error,
            tail,
        } = failed;
        let origin = number
            .and_then(|number| usize::try_from(number).ok()?.checked_sub(1))
            .and_then(|index| self.origins.into_iter().nth(index).flatten());
        // The message repeats the command, which is in the step's name already.
        let status = match error.rsplit_once("exit code: ") {
            Some((_, code)) => format!("exit code {code}"),
            None => error,
        };
        Error::Install {
            step: origin.unwrap_or(name),
            installer: "the container engine",
            status,
            tail,
            held_by: None,
        }
    }
}

/// The lines of an answer, as they come.
struct Lines {
    body: Incoming,
    _connection: Connection,
    pending: BytesMut,
}

impl Lines {
    fn new(answer: Answer) -> Self {
        Self {
            body: answer.response.into_body(),
            _connection: answer.connection,
            pending: BytesMut::new(),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.pending.split_to(end + 1).freeze()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
                None if self.pending.is_empty() => return Ok(None),
                None => return Ok(Some(self.pending.split().freeze())),
            }
        }
    }
}

/// The folder of a Dockerfile and its name in it.
pub(super) fn split(dockerfile: &std::path::Path) -> (PathBuf, String) {
    use crate::image::hash::{file_name, folder_of};
    (folder_of(dockerfile), file_name(dockerfile))
}
