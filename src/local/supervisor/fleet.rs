//! The replicas of one revision: those that serve, and those that are being started.
//!
//! A fleet knows how replicas begin and end; whether they should is decided by the task that owns
//! it. Ending one is always in the same order: no new request, those under way, then the process.
//!
//! What a start has to say goes to the owner as well, and is not written down here: an owner that has
//! given the fleet up does not listen, and what it wrote about its successor stays the last word.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::select_all;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::app::{Process, Workshop};
use super::diagnose::Failure;
use super::hosts;
use super::launch;
use super::logs::LogBook;
use super::parcel;
use super::replica::{Launch, Replica};
use super::scale::{Plan, Scaler};
use crate::error::Code;
use crate::local::gateway::{Backend, Reading, Room, Route, Terms};
use crate::local::store::{AppKey, Revision};
use crate::wire::app::status::Substate;
use crate::wire::build::Health;
use crate::wire::{app, status};

/// How long requests of a replaced replica may take to finish.
const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// How long a process may take to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same for one that never served.
const FAILED_GRACE: Duration = Duration::from_secs(2);
/// How long an app may take to begin an answer where it does not say so, as on the clusters.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// What starting a replica of an app takes.
#[derive(Clone)]
pub struct Yard {
    pub workshop: Workshop,
    pub key: AppKey,
    pub logs: Arc<LogBook>,
    pub route: Route,
}

/// The run folder of a replica. The first of a revision has the revision's own; another one that
/// is there at the same time has a folder that ends with it.
struct Folder {
    path: PathBuf,
    /// Held by whoever has the revision's own.
    own: Option<OwnedSemaphorePermit>,
}

/// Who has which revision's own folder.
#[derive(Default)]
pub struct Folders {
    claims: HashMap<Revision, Arc<Semaphore>>,
}

impl Folders {
    fn claim(&mut self, yard: &Yard, revision: Revision, number: u64) -> Folder {
        // An app that is served for years has many revisions, and replicas of two or three.
        self.claims
            .retain(|_, claim| claim.available_permits() == 0);
        let claim = self
            .claims
            .entry(revision)
            .or_insert_with(|| Arc::new(Semaphore::new(1)));
        let own = Arc::clone(claim).try_acquire_owned().ok();
        let name = match own {
            Some(_) => revision.to_string(),
            None => format!("{revision}-{number}"),
        };
        let path = launch::app_folder(&yard.workshop.setting.home, &yard.key).join(name);
        Folder { path, own }
    }
}

impl Folder {
    /// Removes what nobody will come back to.
    async fn leave(self, replaced: bool) {
        if replaced || self.own.is_none() {
            // The bundle can be unpacked again, should this revision come back.
            let path = self.path;
            let remove = move || {
                if let Err(error) = crate::files::remove_all(&path) {
                    let path = path.display();
                    tracing::warn!(%path, %error, "a run folder is not removed");
                }
            };
            // Only a runtime that ends does not do it.
            let _ = tokio::task::spawn_blocking(remove).await;
        }
    }
}

/// A replica that serves.
pub struct Member {
    pub replica: Replica,
    pub since: Instant,
    backend: Arc<Backend>,
    folder: Folder,
    _lookout: AbortOnDropHandle<()>,
}

/// Replicas that finish what they have begun. Nobody waits for them before the app ends; then they
/// have to be gone, since an app of the same name may use their folders next.
#[derive(Default)]
pub struct Leaving {
    tasks: TaskTracker,
    hurry: CancellationToken,
}

impl Leaving {
    pub fn let_go(&self, member: Member, replaced: bool) {
        let hurry = self.hurry.clone();
        self.tasks.spawn(member.retire(replaced, hurry));
    }

    /// Lets all members finish what they have begun.
    pub fn let_all_go(&self, mut fleet: Fleet, replaced: bool) {
        for member in std::mem::take(&mut fleet.members) {
            self.let_go(member, replaced);
        }
        // What is still starting never had a request.
        self.end_now(fleet);
    }

    /// Ends all members, which never had a request, or are to have none.
    pub fn end_now(&self, fleet: Fleet) {
        self.tasks.spawn(fleet.end());
    }

    /// Ends them, whatever they have begun.
    pub async fn end(&mut self) {
        let Self { tasks, hurry } = std::mem::take(self);
        hurry.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

/// How a start went.
pub type Outcome = Result<Member, Failure>;

/// What a start is about, while it may still end well.
pub struct Told {
    pub doing: Substate,
    pub text: String,
}

/// What happens to a fleet by itself.
pub enum Event {
    /// A start says something that is news as long as nobody serves.
    Told(Told),
    Started(Box<Outcome>),
    /// The member at this place has ended.
    Ended(usize),
}

/// The replicas of one revision.
pub struct Fleet {
    pub revision: Revision,
    pub plan: Plan,
    /// Members it shall have before it takes over from another one.
    pub goal: usize,
    app: Arc<app::App>,
    scaler: Scaler,
    members: Vec<Member>,
    starts: JoinSet<Outcome>,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    cancel: CancellationToken,
}

impl Fleet {
    pub fn new(revision: Revision, app: app::App, now: Reading) -> Self {
        let plan = Plan::of(&app);
        let (tell, told) = unbounded_channel();
        Self {
            revision,
            goal: 1,
            scaler: Scaler::new(plan.clone(), now),
            plan,
            app: Arc::new(app),
            members: Vec::new(),
            starts: JoinSet::new(),
            tell,
            told,
            cancel: CancellationToken::new(),
        }
    }

    /// Starts one more replica after a pause.
    pub fn start(&mut self, yard: &Yard, folders: &mut Folders, number: u64, pause: Duration) {
        let order = self.order(yard, folders, number);
        self.start_after(pause, start(yard.clone(), order, self.cancel.clone()));
    }

    /// Starts one in place of one that ended for this reason, after a pause, and says so when that is
    /// over: until then, what matters is the reason.
    pub fn restart(
        &mut self,
        yard: &Yard,
        folders: &mut Folders,
        number: u64,
        pause: Duration,
        reason: String,
    ) {
        let order = self.order(yard, folders, number);
        let (yard, cancel) = (yard.clone(), self.cancel.clone());
        self.start_after(pause, async move {
            let revision = order.revision;
            let text = format!("starting revision {revision} again: {reason}");
            order.say(Substate::INITIALIZING, text);
            start(yard, order, cancel).await
        });
    }

    fn order(&self, yard: &Yard, folders: &mut Folders, number: u64) -> Order {
        Order {
            app: Arc::clone(&self.app),
            revision: self.revision,
            number,
            folder: folders.claim(yard, self.revision, number),
            tell: self.tell.clone(),
        }
    }

    fn start_after(
        &mut self,
        pause: Duration,
        start: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let cancel = self.cancel.clone();
        self.starts.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => start.await,
                () = cancel.cancelled() => Err(cancelled()),
            }
        });
    }

    /// The next thing that happens.
    pub async fn event(&mut self) -> Event {
        let ended = async {
            if self.members.is_empty() {
                return std::future::pending().await;
            }
            let ends = self
                .members
                .iter()
                .map(|member| Box::pin(member.replica.ended()));
            select_all(ends).await.1
        };
        let started = async {
            match self.starts.join_next().await {
                Some(Ok(outcome)) => outcome,
                Some(Err(error)) => Err(Failure::new(
                    Code::Internal,
                    format!("starting the app failed inside the platform: {error}"),
                )),
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            // The fleet holds a sender, so this never ends.
            Some(told) = self.told.recv() => Event::Told(told),
            outcome = started => Event::Started(Box::new(outcome)),
            index = ended => Event::Ended(index),
        };
        if let Event::Started(_) = event {
            // It was said before, and is not to be heard after how the start ended.
            while self.told.try_recv().is_ok() {}
        }
        event
    }

    /// The names under which it shall answer.
    pub fn hosts(&self) -> Vec<String> {
        hosts::of(&self.app)
    }

    /// How long the app may take to begin an answer.
    pub fn request_timeout(&self) -> Duration {
        request_timeout(&self.app)
    }

    pub fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    /// Takes a member out; what becomes of it is the caller's business.
    pub fn remove(&mut self, index: usize) -> Member {
        let member = self.members.remove(index);
        member.backend.retire();
        member
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What it is doing, in the words of the protocol.
    pub fn substate(&self) -> Substate {
        if self.is_asleep() {
            Substate::SCALED_TO_ZERO
        } else {
            Substate::RUNNING
        }
    }

    /// Replicas on their way.
    pub fn starting(&self) -> usize {
        self.starts.len()
    }

    /// Whether it is at zero and nothing is done about it.
    pub fn is_asleep(&self) -> bool {
        self.members.is_empty() && self.starts.is_empty()
    }

    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.members
            .iter()
            .map(|member| Arc::clone(&member.backend))
            .collect()
    }

    /// Each member, for people.
    pub fn processes(&self) -> Vec<Process> {
        let now = jiff::Timestamp::now();
        self.members
            .iter()
            .map(|member| Process {
                name: member.replica.name.clone(),
                pid: member.replica.pid(),
                since: now - member.since.elapsed(),
            })
            .collect()
    }

    /// How many replicas its traffic asks for.
    pub fn wanted(&mut self, now: Reading) -> usize {
        let ready = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.scaler.decide(now, ready) as usize
    }

    /// Begins the windows of its traffic anew.
    pub fn awake(&mut self, now: Reading) {
        self.scaler = Scaler::new(self.plan.clone(), now);
    }

    /// The same, where its only replica has just come up.
    pub fn awake_if_first(&mut self, now: Reading) {
        if self.members.len() == 1 {
            self.awake(now);
        }
    }

    /// Takes out all but `count` members, those with the least to do first.
    pub fn shrink(&mut self, count: usize) -> Vec<Member> {
        self.members
            .sort_by_key(|member| std::cmp::Reverse(member.backend.in_flight()));
        self.members.split_off(count.min(self.members.len()))
    }

    /// Ends everything, now.
    pub async fn end(mut self) {
        self.cancel.cancel();
        let members = std::mem::take(&mut self.members);
        let stops = members.into_iter().map(|member| async move {
            member.backend.retire();
            member.replica.stop(STOP_GRACE).await;
            member.folder.leave(false).await;
        });
        futures::future::join_all(stops).await;
        while let Some(outcome) = self.starts.join_next().await {
            if let Ok(Ok(late)) = outcome {
                late.replica.stop(FAILED_GRACE).await;
                late.folder.leave(false).await;
            }
        }
    }
}

impl Member {
    /// Lets it finish what it has begun, unless that is to hurry, then ends it.
    async fn retire(self, replaced: bool, hurry: CancellationToken) {
        self.backend.retire();
        let drained = tokio::time::timeout(DRAIN_GRACE, self.backend.drained());
        tokio::select! {
            drained = drained => if drained.is_err() {
                tracing::info!(
                    replica = self.replica.name,
                    "requests did not finish in time"
                );
            },
            () = hurry.cancelled() => {}
        }
        self.replica.stop(STOP_GRACE).await;
        self.folder.leave(replaced).await;
    }

    /// Tidies up after one that ended by itself, and says why it did.
    pub async fn bury(mut self) -> Failure {
        let ending = self.replica.ended().await;
        let failure = self.replica.explain_crash(ending).await;
        self.replica.clean_up().await;
        self.folder.leave(false).await;
        failure
    }
}

/// The next event of a fleet; none will come where there is no fleet.
pub async fn event(fleet: &mut Option<Fleet>) -> Event {
    match fleet {
        Some(fleet) => fleet.event().await,
        None => std::future::pending().await,
    }
}

/// What is to be started.
struct Order {
    app: Arc<app::App>,
    revision: Revision,
    number: u64,
    folder: Folder,
    tell: UnboundedSender<Told>,
}

impl Order {
    /// Tells whoever owns the fleet, if it still has an owner.
    fn say(&self, doing: Substate, text: String) {
        let _ = self.tell.send(Told { doing, text });
    }
}

async fn start(yard: Yard, order: Order, cancel: CancellationToken) -> Outcome {
    let app = &order.app;
    let health = Health::of(launch::container(app)?);
    let mut replica = match spawn(&yard, &order, &cancel).await {
        Ok(replica) => replica,
        Err(failure) => {
            order.folder.leave(false).await;
            return Err(failure);
        }
    };
    let note = |code: Code, text: &str| {
        order.say(Substate::INITIALIZING, status::failure_message(code, text));
    };
    let outcome = tokio::select! {
        outcome = replica.ready(&health, &note) => outcome,
        () = cancel.cancelled() => Err(cancelled()),
    };
    match outcome {
        Ok(address) => {
            let backend = backend(app, &yard.route, address);
            Ok(Member {
                _lookout: retire_when_ended(&replica, &backend),
                backend,
                replica,
                since: Instant::now(),
                folder: order.folder,
            })
        }
        Err(failure) => {
            replica.stop(FAILED_GRACE).await;
            order.folder.leave(false).await;
            Err(parcel::explain(&yard.workshop.setting.home, app, failure).await)
        }
    }
}

/// Starts the process or the container, with all that it needs; whether it serves is seen later.
async fn spawn(yard: &Yard, order: &Order, cancel: &CancellationToken) -> Result<Replica, Failure> {
    prepare_image(yard, order, &launch::container(&order.app)?.image, cancel).await?;
    let launch = prepare(yard, order).await?;
    // Nothing is started yet that would have to be stopped.
    tokio::select! {
        provided = launch.provide(&yard.workshop) => provided?,
        () = cancel.cancelled() => return Err(cancelled()),
    }
    Replica::start(&yard.workshop, launch, &yard.logs).await
}

/// Turns requests away from a replica in the moment of its death, however busy the app's task is.
fn retire_when_ended(replica: &Replica, backend: &Arc<Backend>) -> AbortOnDropHandle<()> {
    let (ended, backend) = (replica.ended(), Arc::clone(backend));
    AbortOnDropHandle::new(tokio::spawn(async move {
        ended.await;
        backend.retire();
    }))
}

/// Makes the environment of an image where it is missing, which may take a while.
async fn prepare_image(
    yard: &Yard,
    order: &Order,
    image: &str,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let Workshop { setting, .. } = &yard.workshop;
    let tell = |text: &str| order.say(Substate::PULLING_IMAGE, text.to_owned());
    tokio::select! {
        prepared = setting.environments.prepare(image, &tell) => prepared,
        () = cancel.cancelled() => Err(cancelled()),
    }
}

/// Tells what to start. The files of its image are copied, and those may be large.
async fn prepare(yard: &Yard, order: &Order) -> Result<Launch, Failure> {
    let (setting, key) = (yard.workshop.setting.clone(), yard.key.clone());
    let (app, folder) = (Arc::clone(&order.app), order.folder.path.clone());
    let (revision, number) = (order.revision, order.number);
    let prepare = move || launch::prepare(&setting, &key, &app, &folder, revision, number);
    let prepared = tokio::task::spawn_blocking(prepare).await;
    prepared.unwrap_or_else(|error| {
        Err(Failure::new(
            Code::Internal,
            format!("preparing the app failed inside the platform: {error}"),
        ))
    })
}

fn request_timeout(app: &app::App) -> Duration {
    app.spec
        .timeouts
        .request_timeout
        .as_option()
        .map(|timeout| Duration::new(timeout.seconds.unsigned_abs(), timeout.nanos.unsigned_abs()))
        .filter(|timeout| !timeout.is_zero())
        .unwrap_or(REQUEST_TIMEOUT)
}

fn backend(app: &app::App, route: &Route, address: SocketAddr) -> Arc<Backend> {
    let room = Plan::of(app).limit.map(|limit| Room {
        limit,
        freed: route.freed(),
    });
    Backend::with(
        address,
        Terms {
            request_timeout: Some(request_timeout(app)),
            room,
            h2: launch::container(app).is_ok_and(launch::speaks_h2),
        },
    )
}

/// Nobody is told: whoever cancelled a start does something else with the app.
fn cancelled() -> Failure {
    Failure::new(Code::ClientConflict, "the start was given up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_start_says_is_heard_before_how_it_ended() {
        let mut fleet = Fleet::new(1, app::App::default(), Reading::default());
        let tell = fleet.tell.clone();
        fleet.start_after(Duration::ZERO, async move {
            let (doing, text) = (Substate::INITIALIZING, "idle".to_owned());
            let _ = tell.send(Told { doing, text });
            Err(cancelled())
        });
        assert!(matches!(fleet.event().await, Event::Told(told) if told.text == "idle"));
        assert!(matches!(fleet.event().await, Event::Started(outcome) if outcome.is_err()));
    }

    #[test]
    fn an_app_may_take_as_long_as_it_says_or_as_on_the_clusters() {
        let app = |seconds: Option<i64>| app::App {
            spec: app::Spec {
                timeouts: app::TimeoutConfig {
                    request_timeout: seconds.map_or_else(buffa::MessageField::none, |seconds| {
                        let timeout = buffa_types::google::protobuf::Duration {
                            seconds,
                            ..Default::default()
                        };
                        timeout.into()
                    }),
                    ..Default::default()
                }
                .into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        };
        for (declared, expected) in [(None, 300), (Some(0), 300), (Some(7), 7)] {
            let timeout = request_timeout(&app(declared));
            assert_eq!(timeout, Duration::from_secs(expected), "{declared:?}");
        }
    }
}
