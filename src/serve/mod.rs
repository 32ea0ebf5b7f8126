//! The use cases: serve, deploy, and what can be done with an app afterwards.
//!
//! This is where the parts meet. A request arrives as data, the five steps run, each tells its
//! progress to a [`Reporter`], and an [`App`] comes back. Nothing here knows of Python, of a
//! terminal, or of whether the control plane is a process of ours or a cluster.

mod activate;
mod app;
pub mod bundling;
pub mod checkup;
pub mod details;
mod hints;
pub mod imaging;
mod note;
mod origin;
mod payload;
mod pickles;
pub mod plan;
pub mod platform;
mod secrets;
pub mod trust;
mod values;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub use activate::Verdict;
pub use app::App;
pub use bundling::size;
pub use plan::{Overrides, Plan};

use serde::{Deserialize, Serialize};

use crate::client;
use crate::config::{Endpoint, Settings};
use crate::crash;
use crate::error::{Code, Diagnostic, Retry};
use crate::image::env::Toolchain;
use crate::spec::{AppSpec, CopyStyle};
use crate::wire::app::status::DeploymentStatus;
use crate::wire::build::Health;
use crate::wire::status;
use crate::{bundle, config, image, runtime, wire};

/// What the caller's interpreter knows and this core does not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Names in the bundle are relative to this folder.
    pub root: PathBuf,
    /// Files of the modules that are imported.
    pub modules: Vec<PathBuf>,
    /// Folders of installed packages and of the standard library.
    pub installed: Vec<PathBuf>,
    /// Folders of the project that modules are imported from.
    pub source_roots: Vec<PathBuf>,
    /// What was typed into a notebook or a REPL.
    pub interactive: Option<Interactive>,
}

impl Source {
    /// The folder that relative names in a declaration start from.
    pub fn folder_of<'a>(&'a self, app: &'a AppSpec) -> &'a Path {
        let declared = app.declared_in.as_deref().and_then(Path::parent);
        let notebook = || {
            self.interactive
                .as_ref()
                .map(|typed| typed.folder.as_path())
        };
        declared.or_else(notebook).unwrap_or(&self.root)
    }
}

/// Code that stands in no file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Interactive {
    /// The notebook's folder, or the current one.
    pub folder: PathBuf,
    /// The folder of the bundle that apps without a file run in.
    pub working_folder: PathBuf,
    /// Environments to unpickle, compressed, by the name of the app.
    pub pickles: BTreeMap<String, Vec<u8>>,
    /// What the user should know about them.
    pub notes: Vec<String>,
}

/// One call of `serve` or `deploy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The app that was asked for.
    pub target: String,
    /// That app and all it depends on.
    pub apps: Vec<AppSpec>,
    pub source: Source,
    pub options: Options,
}

/// Options of `with_servecontext`, checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    pub version: Option<String>,
    pub copy_style: CopyStyle,
    pub dry_run: bool,
    /// Whether to say which apps come up after which.
    pub tell_order: bool,
    pub overrides: Overrides,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
    pub user_log_level: Option<String>,
    pub copy_bundle_to: Option<PathBuf>,
    pub activate_timeout: Duration,
    pub deactivate_timeout: Duration,
    pub health: Health,
    pub raw_data_path: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: None,
            copy_style: CopyStyle::LoadedModules,
            dry_run: false,
            tell_order: false,
            overrides: Overrides::default(),
            log_level: None,
            log_format: None,
            user_log_level: None,
            copy_bundle_to: None,
            activate_timeout: Duration::from_secs(600),
            deactivate_timeout: Duration::from_secs(60),
            health: Health::default(),
            raw_data_path: None,
        }
    }
}

/// The five steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Bundle,
    Image,
    Deploy,
    Activate,
    Url,
}

impl Step {
    /// The word shown for it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Bundle => "Bundle",
            Self::Image => "Image",
            Self::Deploy => "Deploy",
            Self::Activate => "Activate",
            Self::Url => "URL",
        }
    }
}

/// What happens while serving.
#[derive(Clone, Debug)]
pub enum Progress {
    Started(Step),
    Finished {
        step: Step,
        detail: String,
        took: Duration,
    },
    /// Something the user should know; not a failure.
    Note(String),
    /// A line of an installer, or what the app is doing while it is waited for.
    Line(String),
    /// How far an upload of a step is, in bytes.
    Sent {
        step: Step,
        done: u64,
        total: u64,
    },
}

/// Takes progress as it happens; called from any thread.
pub type Reporter = Arc<dyn Fn(Progress) + Send + Sync>;

/// Names and states of the apps, if the control plane can be reached; nothing is started for it.
pub async fn apps(settings: &Settings) -> Option<Vec<(String, DeploymentStatus)>> {
    let client = platform::reach(settings).await.ok()?;
    let everything = client::Listing {
        org: &settings.org,
        project: &settings.project,
        domain: &settings.domain,
        states: Vec::new(),
        created_by: None,
        sort_by: None,
        limit: 1000,
    };
    let apps = client.list(&everything).await.ok()?;
    let named = |app: crate::wire::app::App| {
        let state = status::deployment_status(&app);
        (app.metadata.id.name.clone(), state)
    };
    Some(apps.into_iter().map(named).collect())
}

/// Names of the secrets, if the control plane can be reached; nothing is started for it.
pub async fn secret_names(settings: &Settings) -> Option<Vec<String>> {
    let client = platform::reach(settings).await.ok()?;
    let (project, domain) = (&settings.project, &settings.domain);
    let known = client
        .list_secrets(&settings.org, project, domain)
        .await
        .ok()?;
    Some(known.into_iter().map(|one| one.id.name).collect())
}

/// Everything that can end a use case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Plan(#[from] plan::Error),
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    #[error(transparent)]
    Files(#[from] crate::files::Error),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Parameter(#[from] runtime::Error),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error(transparent)]
    Platform(#[from] platform::Error),
    #[error(transparent)]
    Activation(#[from] activate::Error),
    #[error(transparent)]
    Watch(#[from] watch::Error),
    #[error(transparent)]
    Secret(#[from] secrets::Error),
}

impl Error {
    fn inner(&self) -> &dyn Diagnostic {
        match self {
            Self::Config(error) => error,
            Self::Plan(error) => error,
            Self::Bundle(error) => error,
            Self::Files(error) => error,
            Self::Image(error) => error,
            Self::Parameter(error) => error,
            Self::Client(error) => error,
            Self::Platform(error) => error,
            Self::Activation(error) => error,
            Self::Watch(error) => error,
            Self::Secret(error) => error,
        }
    }
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        self.inner().code()
    }

    fn hints(&self) -> Vec<String> {
        self.inner().hints()
    }

    fn retry(&self) -> Retry {
        self.inner().retry()
    }

    fn request_id(&self) -> Option<String> {
        self.inner().request_id()
    }

    fn log_tail(&self) -> Vec<String> {
        self.inner().log_tail()
    }
}

/// The app as it is, if there is one.
///
/// It is asked for before anything is made for it: nobody wants to build for minutes, and then hear
/// that the cluster cannot be reached or wants a login. It is asked for again before it is replaced,
/// so that what is said of it then can be told from what was true before; the local platform says
/// itself of which revision it speaks.
async fn before(
    client: &client::Client,
    plan: &Plan,
    name: &str,
) -> Result<Option<wire::app::App>, Error> {
    if plan.local {
        return Ok(None);
    }
    let id = wire::identifier(&plan.org, &plan.project, &plan.domain, name);
    match client.get(&id).await {
        Ok(app) => Ok(Some(app)),
        Err(client::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What serving works with: where to, and with which tools.
#[derive(Clone)]
pub struct Server {
    pub settings: Settings,
    pub toolchain: Toolchain,
    /// How the local platform is started when it does not run.
    pub launcher: platform::Launcher,
    pub reporter: Reporter,
}

impl Server {
    /// Runs the five steps and returns the app that was asked for, serving.
    pub async fn serve(&self, request: Request) -> Result<App, Error> {
        let plan = self.plan(request)?;
        if plan.options.dry_run {
            return Box::pin(self.rehearse(&plan)).await;
        }
        let target = plan.target.clone();
        let mut served = Box::pin(self.carry_out(plan)).await?;
        let app = served.remove(&target).ok_or(plan::Error::NoTarget)?;
        self.report(Progress::Started(Step::Url));
        self.finished(Step::Url, app.endpoint(), Instant::now());
        Ok(app)
    }

    /// The same for all apps of the requests, none of which is the one that was asked for. Every plan is
    /// made before the first one is carried out, so that one that is wrong changes nothing.
    pub async fn serve_all(&self, requests: Vec<Request>) -> Result<Vec<App>, Error> {
        let plans = requests.into_iter().map(|request| self.plan(request));
        let plans: Vec<Plan> = plans.collect::<Result<_, _>>()?;
        let mut apps = Vec::new();
        for plan in plans {
            if plan.options.dry_run {
                apps.push(Box::pin(self.rehearse(&plan)).await?);
                continue;
            }
            let served = Box::pin(self.carry_out(plan)).await?;
            let endpoints: Vec<String> = served.values().map(App::endpoint).collect();
            self.report(Progress::Started(Step::Url));
            self.finished(Step::Url, endpoints.join(", "), Instant::now());
            apps.extend(served.into_values());
        }
        Ok(apps)
    }

    fn plan(&self, request: Request) -> Result<Plan, Error> {
        let plan = Plan::make(&self.settings, request)?;
        plan.check_pickles(self.toolchain.python_version)?;
        for text in secrets::shown_by_ps(&plan) {
            self.report(Progress::Note(text));
        }
        Ok(plan)
    }

    /// Brings the apps of a plan up; where the local platform ends meanwhile, with another one. What
    /// was done before is not done twice: it is found as it was left.
    async fn carry_out(&self, plan: Plan) -> Result<BTreeMap<String, App>, Error> {
        let outcome = Box::pin(self.attempt(plan.clone())).await;
        let Err(error) = &outcome else { return outcome };
        if !self.lost_platform(error).await {
            return outcome;
        }
        self.report(Progress::Note(
            "the local platform ended meanwhile; this goes on with a new one".into(),
        ));
        Box::pin(self.attempt(plan)).await
    }

    /// Whether something failed because the local platform is not there any more.
    async fn lost_platform(&self, error: &Error) -> bool {
        match error {
            _ if self.settings.endpoint != Endpoint::Local => false,
            Error::Client(client::Error::Unavailable { .. }) => true,
            // It may also have been refused, which it would be again.
            Error::Client(client::Error::Upload { .. }) => {
                matches!(platform::running(&self.settings.home).await, Ok(None))
            }
            _ => false,
        }
    }

    /// Brings the apps of a plan up, those first that others depend on.
    async fn attempt(&self, mut plan: Plan) -> Result<BTreeMap<String, App>, Error> {
        let note = |text: &str| self.report(Progress::Note(text.to_owned()));
        let client = platform::connect(
            &self.settings,
            &self.launcher,
            platform::OtherBuild::Replace,
            &note,
        )
        .await?;
        if plan.options.tell_order
            && let Some(order) = plan.order()
        {
            self.report(Progress::Note(order));
        }
        let place = platform::place(&self.settings, &client, &self.launcher.build).await;
        let builder = self.settle(&mut plan, &place, &client);
        if plan.local {
            self.tell_what_is_not_kept_here(&plan);
        } else {
            values::check_reach(&plan)?;
        }
        let known = Box::pin(before(&client, &plan, &plan.target)).await?;
        let (code, images, ()) = tokio::try_join!(
            Box::pin(self.code(&client, &plan, known.as_ref())),
            Box::pin(builder.images(&plan)),
            async { Ok(Box::pin(secrets::check(&client, &plan)).await?) },
        )?;
        let mut served = BTreeMap::new();
        for wave in &plan.waves {
            let apps = wave.iter().map(|spec| {
                let image = &images[&spec.name];
                self.bring_up((&client, &place.console), &plan, spec, image, &code)
            });
            for app in futures::future::try_join_all(apps).await? {
                served.insert(app.name(), app);
            }
        }
        Ok(served)
    }

    /// What an app declares and this machine does not see to. That `requires_auth` is not asked for
    /// here is not among it: it is on by default, and apps of this machine answer this machine.
    fn tell_what_is_not_kept_here(&self, plan: &Plan) {
        for spec in plan.apps() {
            if let Some(gpu) = &spec.resources.accelerator {
                self.report(Progress::Note(format!(
                    "{}: gpu={gpu} is not reserved here; the app sees the devices that this machine has",
                    spec.name
                )));
            }
        }
    }

    /// Takes a plan to what stands behind the client; the answer builds images for it.
    fn settle(&self, plan: &mut Plan, place: &platform::Place, client: &client::Client) -> Self {
        plan.local |= place.home.is_some();
        if place.other_build {
            self.report(Progress::Note(format!(
                "{} runs another build of flyte-rs than this one",
                client.endpoint()
            )));
        }
        self.at(place)
    }

    /// The same, building for a local platform where that one looks for environments, however it is
    /// reached.
    fn at(&self, place: &platform::Place) -> Self {
        let mut builder = self.clone();
        if let Some(home) = &place.home {
            builder.settings.endpoint = Endpoint::Local;
            builder.toolchain.home = home.path().to_path_buf();
        }
        builder
    }

    /// The same where nothing else is asked of the control plane, which need not answer.
    async fn builder(&self) -> Self {
        if self.settings.endpoint == Endpoint::Local {
            return self.clone();
        }
        match platform::reach(&self.settings).await {
            Ok(client) => {
                self.at(&platform::place(&self.settings, &client, &self.launcher.build).await)
            }
            // Whoever deploys is told why.
            Err(_) => self.clone(),
        }
    }

    async fn bring_up(
        &self,
        (client, console): (&client::Client, &str),
        plan: &Plan,
        spec: &AppSpec,
        image: &str,
        code: &pickles::Code,
    ) -> Result<App, Error> {
        let started = Instant::now();
        self.report(Progress::Started(Step::Deploy));
        let message = payload::message(plan, spec, image, code)?;
        crash::point("serve.deploying");
        let before = Box::pin(before(client, plan, &spec.name)).await?;
        let change = Box::pin(client.create_or_replace(message)).await?;
        crash::point("serve.deployed");
        let app = App::new(
            client.clone(),
            change.app.clone(),
            console.to_owned(),
            plan.options.clone(),
        );
        app.tried(before.as_ref(), change);
        self.finished(
            Step::Deploy,
            format!("{} revision {}", spec.name, app.revision()),
            started,
        );
        let started = Instant::now();
        self.report(Progress::Started(Step::Activate));
        let last = std::sync::Mutex::new(String::new());
        let outcome = app
            .wait_until_active(plan.options.activate_timeout, |line| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if *last != line {
                    line.clone_into(&mut last);
                    // A reason of ours in a state that is not final: it does not get on.
                    self.report(match status::read_reason(line) {
                        Some((_, text)) => Progress::Note(format!("{}: {text}", spec.name)),
                        None => Progress::Line(format!("{}: {line}", spec.name)),
                    });
                }
            })
            .await;
        match outcome {
            Ok(changed) => {
                let detail = if changed {
                    format!("{} is ACTIVE", spec.name)
                } else {
                    format!("{} is ACTIVE, nothing changed", spec.name)
                };
                self.finished(Step::Activate, detail, started);
                Ok(app)
            }
            Err(Error::Activation(error)) => Err(error
                .advised(|code, message| hints::for_failure(code, message, spec, &plan.source))
                .into()),
            Err(error) => Err(error),
        }
    }

    /// Shows what serving would do, and does nothing.
    async fn rehearse(&self, plan: &Plan) -> Result<App, Error> {
        let (files, written) = match &plan.options.copy_bundle_to {
            Some(target) => bundling::copy_out(plan, &self.settings.home.cache(), target)?.unzip(),
            None => (bundling::choose(plan)?, None),
        };
        let bundle = match &files {
            Some(files) => format!(
                "{}, {}",
                bundling::counted(files.files().len()),
                bundling::size(files.total_bytes())
            ),
            None => "no files".to_owned(),
        };
        self.report(Progress::Note(format!(
            "would bundle {bundle} from `{}`",
            plan.source.root.display()
        )));
        if let Some(files) = &files {
            self.warn_of_size(files);
        }
        if let Some(path) = written {
            self.report(Progress::Note(format!(
                "bundle written to `{}`",
                path.display()
            )));
        }
        for (app, pickle) in plan.pickles() {
            self.report(Progress::Note(format!(
                "would pickle `{app}`, {}",
                bundling::size(pickle.len() as u64)
            )));
        }
        for wave in &plan.waves {
            for spec in wave {
                let image = imaging::describe(self, spec, &plan.source.root).await?;
                self.report(Progress::Note(format!(
                    "would serve `{}` on port {} with {image}",
                    spec.name, spec.port.number
                )));
            }
        }
        Ok(App::rehearsed(plan))
    }

    fn report(&self, progress: Progress) {
        (self.reporter)(progress);
    }

    fn finished(&self, step: Step, detail: String, started: Instant) {
        self.report(Progress::Finished {
            step,
            detail,
            took: started.elapsed(),
        });
    }
}
