//! Serving again whenever a file of the bundle changes.
//!
//! One loop with one piece of work under way at most: a roll, or reading the declaration anew. A
//! change that arrives meanwhile drops the work and starts a roll, so the newest save never waits
//! for an older one that does not come up. The platform sees nothing but one serve call after the
//! other. Who began the watch and how it is shown is not known here.

mod change;
mod declaration;

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

pub use change::Change;
pub use declaration::{Asked, Declaration, Loader, VARIABLE};

use super::bundling::{self, Look};
use super::{App, Plan, Progress, Request, Server};
use crate::bundle::FileList;
use crate::error::{Code, Diagnostic, Retry, with_causes};
use crate::files::watch::FolderWatch;
use crate::wire::status;

/// How long it may take to ask which revision serves after one has failed.
const ASKING: Duration = Duration::from_secs(2);

/// Why something cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("app `{app}` cannot be watched: it was typed, or is sent pickled")]
    Typed { app: String },
    #[error("app `{app}` has no files that could be watched: its bundle is empty")]
    NoFiles { app: String },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Typed { .. } | Self::NoFiles { .. } => Code::ConfigInvalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Typed { .. } => vec![
                "put the app into a file; in a notebook, execute its cells again instead"
                    .to_owned(),
            ],
            Self::NoFiles { .. } => {
                vec!["leave `copy_style` out, or name files with `include`".to_owned()]
            }
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Typed { .. } | Self::NoFiles { .. } => Retry::Never,
        }
    }
}

/// What happens while an app is watched.
pub enum Happening {
    /// The app answers for the first time.
    Serving(Arc<App>),
    /// A change took effect.
    Rolled {
        change: Change,
        app: Arc<App>,
        took: Duration,
    },
    /// A change did not; the next one is tried again.
    Failed {
        change: Change,
        error: super::Error,
        took: Duration,
        /// The revision that serves on, where the platform says so.
        keeps: Option<u64>,
    },
    /// The declaration could not be read again; what was declared before holds.
    Unread {
        reason: String,
        output: Vec<String>,
    },
    Note(String),
}

/// Takes what happens, as it happens.
pub type Teller = Arc<dyn Fn(Happening) + Send + Sync>;

/// The app as it was last served, for whoever ends the watch.
#[derive(Clone, Default)]
pub struct Latest(Arc<Mutex<Option<Arc<App>>>>);

impl Latest {
    pub fn get(&self) -> Option<Arc<App>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, app: Arc<App>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(app);
    }
}

/// What is watched, and for whom.
pub struct Watch {
    pub request: Request,
    pub loader: Loader,
    pub teller: Teller,
    pub latest: Latest,
}

impl Server {
    /// Serves, and serves again after each change, until this future is dropped.
    ///
    /// It ends by itself only where nothing can be watched, or the first call fails for a reason
    /// that no change of the files would help with.
    pub async fn watch(self, watch: Watch) -> Result<Infallible, super::Error> {
        if watch.request.source.interactive.is_some() {
            let app = watch.request.target;
            return Err(Error::Typed { app }.into());
        }
        let mut watching = Watching::new(self, watch);
        watching.begin().await?;
        loop {
            let event = tokio::select! {
                since = watching.folders.changed() => Event::Touched(since),
                event = watching.work.next() => event,
            };
            match event {
                Event::Touched(since) => watching.look(since, None).await,
                Event::Served(outcome) => watching.settle(outcome).await?,
                Event::Read(outcome) => watching.adopt(outcome).await,
            }
        }
    }
}

enum Event {
    Touched(Instant),
    Served(Result<Arc<App>, super::Error>),
    Read(Result<Box<Declaration>, declaration::Unread>),
}

/// What is under way.
enum Work {
    Nothing,
    Rolling {
        change: Change,
        since: Instant,
        /// Whether the declaration was read after the change.
        declaration_is_fresh: bool,
        serving: BoxFuture<'static, Result<Arc<App>, super::Error>>,
    },
    Reading {
        since: Instant,
        reading: BoxFuture<'static, Result<Box<Declaration>, declaration::Unread>>,
    },
}

impl Work {
    async fn next(&mut self) -> Event {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Rolling { serving, .. } => Event::Served(serving.await),
            Self::Reading { reading, .. } => Event::Read(reading.await),
        }
    }
}

/// How the last attempt ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Up,
    Down,
}

struct Watching {
    /// Shows the steps of the first call.
    first: Option<Server>,
    /// Shows nothing but notes, each once.
    server: Server,
    scope: String,
    watch: Watch,
    folders: FolderWatch,
    /// The files as they were last seen.
    seen: Look,
    /// The files of the last attempt that ended; what has changed is told against them.
    told: FileList,
    outcome: Outcome,
    work: Work,
    /// Why the files could not be looked at, as it was told.
    complaint: Option<String>,
    /// Why the system does not watch, as it was told.
    trouble: Option<String>,
    /// Whether the first call is over.
    has_begun: bool,
}

impl Watching {
    fn new(server: Server, watch: Watch) -> Self {
        let said = Mutex::new(HashSet::new());
        let teller = Arc::clone(&watch.teller);
        let quiet = move |progress| {
            if let Progress::Note(text) = progress
                && said
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(text.clone())
            {
                teller(Happening::Note(text));
            }
        };
        Self {
            server: Server {
                reporter: Arc::new(quiet),
                ..server.clone()
            },
            scope: server.settings.describe(),
            first: Some(server),
            watch,
            folders: FolderWatch::new(),
            seen: Look::default(),
            told: FileList::default(),
            outcome: Outcome::Open,
            work: Work::Nothing,
            complaint: None,
            trouble: None,
            has_begun: false,
        }
    }

    fn tell(&self, happening: Happening) {
        (self.watch.teller)(happening);
    }

    /// Looks for the first time, and starts to serve.
    async fn begin(&mut self) -> Result<(), super::Error> {
        let mut look = self.look_at_files().await?;
        if look.digest.is_none() {
            let app = self.watch.request.target.clone();
            return Err(Error::NoFiles { app }.into());
        }
        self.follow(look.folders.clone());
        // Once more, for what happened before the watch began.
        look = self.look_at_files().await?;
        self.told = look.files.clone();
        self.seen = look;
        self.roll(Change::default(), Instant::now(), true);
        Ok(())
    }

    fn look_at_files(&self) -> impl Future<Output = Result<Look, super::Error>> + Send + use<> {
        let plan = Plan::make(&self.server.settings, self.watch.request.clone());
        let cache = self.server.settings.home.cache();
        async move { bundling::look(plan?, cache).await }
    }

    /// Watches the folders that now decide; tells whether some came in.
    fn follow(&mut self, folders: BTreeSet<PathBuf>) -> bool {
        let followed = self.folders.follow(folders);
        if let Some(trouble) = followed.trouble
            && self.trouble.as_ref() != Some(&trouble)
        {
            self.trouble = Some(trouble.clone());
            self.tell(Happening::Note(format!(
                "{trouble}; the files are looked at every 500 ms instead"
            )));
        }
        followed.has_grown
    }

    /// Looks at the files, and rolls where they or the declaration have changed; `declared` are the
    /// fields that have, where it was read anew.
    async fn look(&mut self, since: Instant, mut declared: Option<BTreeSet<String>>) {
        loop {
            match self.look_at_files().await {
                Ok(look) => self.compare(look, since, declared.take()),
                Err(error) => self.cannot_look(since, error).await,
            }
            // What happened in a folder before it was watched is seen now. Where the files cannot be
            // looked at, one that was made anew may be where the missing one comes back.
            if !self.follow(self.seen.folders.clone()) {
                return;
            }
        }
    }

    fn compare(&mut self, look: Look, since: Instant, declared: Option<BTreeSet<String>>) {
        let is_fresh = declared.is_some();
        let declared = declared.unwrap_or_default();
        let is_touched = look.files.files() != self.seen.files.files();
        let is_changed = look.digest != self.seen.digest || !declared.is_empty();
        let is_retried = self.complaint.is_some() || (is_touched && self.outcome == Outcome::Down);
        self.seen = look;
        if !is_changed && !is_retried {
            if self.outcome != Outcome::Open {
                self.told = self.seen.files.clone();
            }
            return;
        }
        let change = Change {
            declared,
            ..Change::between(&self.told, &self.seen.files)
        };
        // A fresh interpreter imports less than the one that began the watch: nothing misses it.
        if is_fresh && change.only_removes() && !is_retried {
            self.told = self.seen.files.clone();
            return;
        }
        self.roll(change, since, is_fresh);
    }

    /// The files are in a state that cannot be bundled, such as an included one being gone.
    async fn cannot_look(&mut self, since: Instant, error: super::Error) {
        let text = with_causes(&error);
        if self.complaint.as_ref() == Some(&text) {
            return;
        }
        self.complaint = Some(text);
        self.work = Work::Nothing;
        self.outcome = Outcome::Down;
        self.tell_failure(Change::default(), since, error).await;
    }

    /// Starts to serve what was seen; whatever was under way is dropped.
    fn roll(&mut self, change: Change, since: Instant, declaration_is_fresh: bool) {
        self.complaint = None;
        self.outcome = Outcome::Open;
        let server = self.first.take().unwrap_or_else(|| self.server.clone());
        let request = self.watch.request.clone();
        self.work = Work::Rolling {
            change,
            since,
            declaration_is_fresh,
            serving: Box::pin(async move { server.serve(request).await.map(Arc::new) }),
        };
    }

    async fn settle(
        &mut self,
        outcome: Result<Arc<App>, super::Error>,
    ) -> Result<(), super::Error> {
        let Work::Rolling {
            change,
            since,
            declaration_is_fresh,
            ..
        } = std::mem::replace(&mut self.work, Work::Nothing)
        else {
            return Ok(());
        };
        self.told = self.seen.files.clone();
        match outcome {
            Ok(app) => self.served(change, since, app),
            Err(error) if !self.has_begun && !is_about_the_app(&error) => return Err(error),
            Err(error) => {
                self.outcome = Outcome::Down;
                self.tell_failure(change, since, error).await;
            }
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.tell_what_is_watched();
        }
        if !declaration_is_fresh {
            let loader = self.watch.loader.clone();
            self.work = Work::Reading {
                since,
                reading: Box::pin(async move { loader.load().await.map(Box::new) }),
            };
        }
        Ok(())
    }

    fn served(&mut self, change: Change, since: Instant, app: Arc<App>) {
        self.outcome = Outcome::Up;
        let took = since.elapsed();
        let before = self.watch.latest.get();
        self.watch.latest.set(Arc::clone(&app));
        match before {
            None => self.tell(Happening::Serving(app)),
            Some(before) => {
                if before.name() != app.name() {
                    let old = before.name();
                    self.tell(Happening::Note(format!(
                        "the app is named `{}` now; `{old}` goes on until `flyte delete app {old}`",
                        app.name()
                    )));
                }
                self.tell(Happening::Rolled { change, app, took });
            }
        }
    }

    fn tell_what_is_watched(&self) {
        self.tell(Happening::Note(format!(
            "watching {} in `{}`; Ctrl-C ends that, and the app goes on",
            bundling::counted(self.seen.files.files().len()),
            self.seen.files.root().display()
        )));
    }

    async fn tell_failure(&mut self, change: Change, since: Instant, error: super::Error) {
        let took = since.elapsed();
        let keeps = match self.watch.latest.get() {
            Some(app) => tokio::time::timeout(ASKING, app.refresh())
                .await
                .is_ok_and(|state| state.is_ok_and(status::is_active))
                .then(|| app.revision()),
            None => None,
        };
        self.tell(Happening::Failed {
            change,
            error,
            took,
            keeps,
        });
    }

    /// Takes over what a fresh interpreter has read.
    async fn adopt(&mut self, outcome: Result<Box<Declaration>, declaration::Unread>) {
        let Work::Reading { since, .. } = self.work else {
            return;
        };
        match outcome {
            Ok(declaration) => {
                self.notice_scope(declaration.scope);
                let request = declaration.request;
                let fields = Change::of_declarations(&self.watch.request, &request);
                self.watch.request = request;
                self.look(since, Some(fields)).await;
            }
            // The replica has told the same already, in its own words.
            Err(_) if self.outcome == Outcome::Down => {}
            Err(unread) => self.tell(Happening::Unread {
                reason: unread.to_string(),
                output: unread.output().to_vec(),
            }),
        }
        if matches!(self.work, Work::Reading { .. }) {
            self.work = Work::Nothing;
        }
    }

    fn notice_scope(&mut self, scope: String) {
        if scope != self.scope {
            self.tell(Happening::Note(format!(
                "the program is {scope} now; the watch stays where it is until it is started again"
            )));
            self.scope = scope;
        }
    }
}

/// Whether a change of the user's files may help.
fn is_about_the_app(error: &super::Error) -> bool {
    match error {
        super::Error::Activation(_) | super::Error::Secret(_) => true,
        super::Error::Config(_)
        | super::Error::Plan(_)
        | super::Error::Bundle(_)
        | super::Error::Files(_)
        | super::Error::Image(_)
        | super::Error::Parameter(_)
        | super::Error::Client(_)
        | super::Error::Platform(_)
        | super::Error::Watch(_) => false,
    }
}
