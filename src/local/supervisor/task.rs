//! The life of one app: a task that starts revisions, moves traffic and mends what breaks.
//!
//! Order is the point. A new revision is started beside the old one; traffic moves when it
//! serves; only then does the old one drain. A revision that fails never touches the old one.
//! Within a revision, replicas come and go as its traffic asks for.

use std::time::Duration;

use http::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::app::{Command, Live, record};
use super::diagnose::{Ending, Failure};
use super::fleet::{self, Event, Fleet, Folders, Leaving, Outcome, Told, Yard};
use super::logs::Record;
use crate::crash;
use crate::error::{Code, with_causes};
use crate::local::gateway::{AppListener, Target};
use crate::local::store::{self, AppRow, Revision};
use crate::wire::app::status::{DeploymentStatus, Substate};
use crate::wire::status;

/// How long requests wait for an app that is starting, at the least.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// The first pause before a crashed app is started again; doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// An app that served for this long starts its backoff anew when it crashes.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// The same for one that somebody killed: no crash of its own, unless it never got to serve.
const STABLE_UNTIL_KILLED_AFTER: Duration = Duration::from_secs(1);
/// Crashes in a row before the app counts as failed; it is started again all the same.
const CRASHES_TOLERATED: u32 = 5;
/// How often the number of replicas is thought about.
const TICK: Duration = Duration::from_secs(1);

const ACTIVE: DeploymentStatus = DeploymentStatus::DEPLOYMENT_STATUS_ACTIVE;
const DEPLOYING: DeploymentStatus = DeploymentStatus::DEPLOYMENT_STATUS_DEPLOYING;

pub(super) struct Task {
    yard: Yard,
    listener: AppListener,
    live: watch::Sender<Live>,
    /// The revision that has the traffic; it may have no replica.
    serving: Option<Fleet>,
    /// The revision that shall have it.
    rising: Option<Fleet>,
    leaving: Leaving,
    folders: Folders,
    crashes: u32,
    /// Replicas started so far, which numbers them.
    started: u64,
}

impl Task {
    pub(super) fn new(yard: Yard, listener: AppListener, live: watch::Sender<Live>) -> Self {
        Self {
            yard,
            listener,
            live,
            serving: None,
            rising: None,
            leaving: Leaving::default(),
            folders: Folders::default(),
            crashes: 0,
            started: 0,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let route = self.yard.route.clone();
        loop {
            let (asleep, scales) = (self.is_asleep(), self.scales());
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Deploy(revision)) => self.deploy(revision).await,
                    Some(Command::Rest(revision)) => self.rest(revision).await,
                    Some(Command::Stop(done)) => {
                        self.stop().await;
                        let _ = done.send(());
                    }
                    Some(Command::Shutdown(done)) => {
                        self.shutdown().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return self.shutdown().await,
                },
                event = fleet::event(&mut self.rising) => self.on_rising(event).await,
                event = fleet::event(&mut self.serving) => self.on_serving(event).await,
                () = route.knocked(), if asleep => self.wake(),
                _ = tick.tick(), if scales => self.scale(),
            }
        }
    }

    /// Starts a revision beside the one that serves; a start of another one gives way to it.
    async fn deploy(&mut self, revision: Revision) {
        let under_way = self.rising.take_if(|rising| rising.revision != revision);
        if let Some(overtaken) = under_way {
            self.leaving.end_now(overtaken);
        }
        self.note(
            revision,
            DEPLOYING,
            Substate::INITIALIZING,
            &format!("starting revision {revision}"),
        );
        if self.rising.is_some() {
            // It is under way; to begin anew would only take longer.
            return;
        }
        let mut fleet = match self.fleet(revision) {
            Ok(fleet) => fleet,
            Err(failure) => return self.fail(revision, &failure).await,
        };
        // One that is down is tried again: what comes of its earlier starts says nothing of this one.
        let is_down = |fleet: &mut Fleet| fleet.revision == revision && fleet.is_empty();
        if let Some(down) = self.serving.take_if(is_down) {
            self.leaving.end_now(down);
        }
        if self.serving.as_ref().is_none_or(Fleet::is_empty) {
            self.expect(&fleet);
        }
        // The traffic that the old revision has several replicas for goes to the new one at once.
        let present = self.serving.as_ref().map_or(0, Fleet::len);
        let (min, max) = (fleet.plan.min as usize, fleet.plan.max as usize);
        fleet.goal = present.min(max).max(min).max(1);
        for _ in 0..fleet.goal {
            self.start_one(&mut fleet, Duration::ZERO);
        }
        self.rising = Some(fleet);
        crash::point("deploy.starting");
    }

    /// Lets a revision serve that was at zero when the platform ended.
    async fn rest(&mut self, revision: Revision) {
        match self.fleet(revision) {
            Ok(fleet) => {
                self.expect(&fleet);
                self.answer_by_name(revision, &fleet.hosts());
                self.serving = Some(fleet);
            }
            Err(_) => self.deploy(revision).await,
        }
    }

    fn fleet(&self, revision: Revision) -> Result<Fleet, Failure> {
        let Yard { workshop, key, .. } = &self.yard;
        let internal = |error: store::Error| Failure::new(Code::LocalStore, with_causes(&error));
        let row = workshop
            .store
            .revision(key, revision)
            .map_err(internal)?
            .ok_or_else(|| {
                Failure::new(
                    Code::LocalStore,
                    format!("revision {revision} is not stored"),
                )
            })?;
        Ok(Fleet::new(
            revision,
            row.app,
            self.yard.route.meter().read(),
        ))
    }

    fn start_one(&mut self, fleet: &mut Fleet, pause: Duration) {
        self.started += 1;
        fleet.start(&self.yard, &mut self.folders, self.started, pause);
    }

    async fn on_rising(&mut self, event: Event) {
        let Some(mut fleet) = self.rising.take() else {
            return;
        };
        let failure = match event {
            Event::Told(Told { doing, text }) => {
                self.note(fleet.revision, DEPLOYING, doing, &text);
                self.rising = Some(fleet);
                return;
            }
            Event::Started(outcome) => match *outcome {
                Ok(member) => {
                    fleet.add(member);
                    if fleet.len() < fleet.goal {
                        self.rising = Some(fleet);
                    } else {
                        self.promote(fleet);
                    }
                    return;
                }
                Err(failure) => failure,
            },
            Event::Ended(index) => fleet.remove(index).bury().await,
        };
        let revision = fleet.revision;
        self.leaving.end_now(fleet);
        self.fail(revision, &failure).await;
    }

    /// Moves traffic to a revision that serves, and lets the old one finish what it has begun.
    fn promote(&mut self, mut fleet: Fleet) {
        let revision = fleet.revision;
        let hosts = fleet.hosts();
        fleet.awake(self.yard.route.meter().read());
        let old = self.serving.replace(fleet);
        if old.as_ref().is_none_or(|old| old.revision != revision) {
            // What the older one did is not held against it.
            self.crashes = 0;
        }
        self.lead();
        crash::point("promote.led");
        self.answer_by_name(revision, &hosts);
        let store = &self.yard.workshop.store;
        self.record(store.set_serving(&self.yard.key, Some(revision)));
        self.record(store.set_failed(&self.yard.key, revision, false));
        crash::point("promote.recorded");
        self.note(
            revision,
            ACTIVE,
            Substate::RUNNING,
            &format!("revision {revision} is serving"),
        );
        if let Some(old) = old {
            let replaced = old.revision != revision;
            self.leaving.let_all_go(old, replaced);
        }
    }

    /// The names that the serving revision asks for lead here now, and no others.
    fn answer_by_name(&self, revision: Revision, hosts: &[String]) {
        let Yard { workshop, key, .. } = &self.yard;
        workshop.names.serve(key.as_str(), hosts, revision);
    }

    async fn fail(&mut self, revision: Revision, failure: &Failure) {
        let message = status::failure_message(failure.code, &failure.message);
        if self.serving.is_none() && self.is_serving_revision(revision) {
            return self.resume(revision, failure);
        }
        let Yard { workshop, key, .. } = &self.yard;
        workshop.names.release(key.as_str(), revision);
        self.record(
            self.yard
                .workshop
                .store
                .set_failed(&self.yard.key, revision, true),
        );
        self.note(
            revision,
            DeploymentStatus::DEPLOYMENT_STATUS_FAILED,
            failure.substate,
            &message,
        );
        match self.serving.take() {
            Some(fleet) => self.keep(fleet),
            None => match self.fallback(revision) {
                // After a restart of the platform the older revision is not running any more.
                Some(older) => Box::pin(self.deploy(older)).await,
                None => self.refuse_all(failure),
            },
        }
    }

    /// Nothing of the app is left to answer; whoever asks is told why.
    fn refuse_all(&self, failure: &Failure) {
        self.yard.route.set(Target::Unavailable {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: failure.code.as_str(),
            message: failure.message.clone(),
        });
    }

    /// Stays with the revision that serves, after a newer one failed.
    fn keep(&mut self, fleet: Fleet) {
        let revision = fleet.revision;
        let (state, substate, text) = if fleet.is_empty() && !fleet.is_asleep() {
            (DEPLOYING, Substate::INITIALIZING, "is started again")
        } else {
            (ACTIVE, fleet.substate(), "keeps serving")
        };
        self.serving = Some(fleet);
        self.note(
            revision,
            state,
            substate,
            &format!("revision {revision} {text}"),
        );
    }

    /// Goes on trying with a revision that served before the platform was restarted.
    fn resume(&mut self, revision: Revision, cause: &Failure) {
        match self.fleet(revision) {
            Ok(fleet) => {
                self.serving = Some(fleet);
                self.restart_later(cause);
            }
            // It cannot be read, so no further try will bring it up.
            Err(failure) => {
                let message = status::failure_message(failure.code, &failure.message);
                let state = DeploymentStatus::DEPLOYMENT_STATUS_FAILED;
                self.note(revision, state, failure.substate, &message);
                self.refuse_all(&failure);
            }
        }
    }

    /// What is stored of the app; nothing where that cannot be read.
    fn row(&self) -> Option<AppRow> {
        let store = &self.yard.workshop.store;
        store.app(&self.yard.key).ok().flatten()
    }

    /// The revision that served before, where it is not the one that failed.
    fn fallback(&self, failed: Revision) -> Option<Revision> {
        self.row()?.serving.filter(|serving| *serving != failed)
    }

    fn is_serving_revision(&self, revision: Revision) -> bool {
        self.row().is_some_and(|row| row.serving == Some(revision))
    }

    async fn on_serving(&mut self, event: Event) {
        match event {
            Event::Told(told) => self.heard(&told),
            Event::Started(outcome) => self.grown(*outcome),
            Event::Ended(index) => self.crashed(index).await,
        }
    }

    /// A start of the serving revision said something, which matters if nothing else is of the app.
    fn heard(&self, Told { doing, text }: &Told) {
        if let Some(fleet) = &self.serving
            && fleet.is_empty()
            && self.rising.is_none()
        {
            self.note(fleet.revision, DEPLOYING, *doing, text);
        }
    }

    /// A further replica of the serving revision came up, or did not.
    fn grown(&mut self, outcome: Outcome) {
        let Some(fleet) = &mut self.serving else {
            return;
        };
        match outcome {
            Ok(member) => {
                fleet.add(member);
                fleet.awake_if_first(self.yard.route.meter().read());
                let (revision, count) = (fleet.revision, fleet.len());
                self.lead();
                self.record(
                    self.yard
                        .workshop
                        .store
                        .set_failed(&self.yard.key, revision, false),
                );
                self.note_serving(revision, Substate::RUNNING, &serving(revision, count));
            }
            Err(failure) => self.restart_later(&failure),
        }
    }

    /// A serving replica ended by itself.
    async fn crashed(&mut self, index: usize) {
        let Some(fleet) = &mut self.serving else {
            return;
        };
        let member = fleet.remove(index);
        self.live.send_modify(|live| live.crashes += 1);
        // Nobody shall be sent there while it is found out why.
        self.lead();
        let stable = match member.replica.ended().await {
            Ending::Signalled(9) => STABLE_UNTIL_KILLED_AFTER,
            Ending::Signalled(_) | Ending::Exited(_) | Ending::OutOfMemory { .. } => STABLE_AFTER,
        };
        if member.since.elapsed() >= stable {
            self.crashes = 0;
        }
        let failure = member.bury().await;
        self.restart_later(&failure);
    }

    /// Starts one more replica in place of one that ended, after a pause.
    fn restart_later(&mut self, cause: &Failure) {
        let Some(mut fleet) = self.serving.take() else {
            return;
        };
        let pause = FIRST_BACKOFF
            .saturating_mul(1 << self.crashes.min(16))
            .min(LONGEST_BACKOFF);
        self.crashes += 1;
        let revision = fleet.revision;
        let out_of_memory = cause.substate == Substate::OOM_KILLED;
        let failed = out_of_memory || self.crashes > CRASHES_TOLERATED;
        let state = match (fleet.len(), failed) {
            (1.., _) => ACTIVE,
            (0, true) => DeploymentStatus::DEPLOYMENT_STATUS_FAILED,
            (0, false) => DeploymentStatus::DEPLOYMENT_STATUS_PENDING,
        };
        // Once is no loop.
        let substate = match (out_of_memory, self.crashes) {
            (true, _) => Substate::OOM_KILLED,
            (false, 2..) => Substate::CRASH_LOOP,
            (false, _) => Substate::SUBSTATE_UNSPECIFIED,
        };
        let message = status::failure_message(cause.code, &cause.message);
        let when = format!("starting it again in {} ms", pause.as_millis());
        if self.rising.is_none() {
            self.note(revision, state, substate, &format!("{message}; {when}"));
        }
        // The app's own log ends where the process did; whoever reads it wants to know why.
        self.yard.logs.write(Record {
            at: jiff::Timestamp::now(),
            revision,
            replica: format!("{}-{revision}-platform", self.yard.key.name()),
            // A record is one line.
            text: format!("flyte: {}; {when}", cause.message.replace('\n', ": ")),
        });
        self.started += 1;
        let (yard, folders) = (&self.yard, &mut self.folders);
        fleet.restart(yard, folders, self.started, pause, message);
        self.serving = Some(fleet);
    }

    /// Whether somebody has to be woken for a request. What is on its way answers it where anything is.
    fn is_asleep(&self) -> bool {
        self.rising.is_none() && self.serving.as_ref().is_some_and(Fleet::is_asleep)
    }

    /// Whether the number of replicas may have to change: with the traffic, or because some did not
    /// come up with the others.
    fn scales(&self) -> bool {
        self.serving.as_ref().is_some_and(|fleet| {
            let lacks_some = fleet.len() + fleet.starting() < fleet.plan.min as usize;
            !fleet.is_empty() && (fleet.plan.is_elastic() || lacks_some)
        })
    }

    /// Somebody waits at an app that has no replica.
    fn wake(&mut self) {
        let Some(mut fleet) = self.serving.take() else {
            return;
        };
        let revision = fleet.revision;
        self.live.send_modify(|live| live.cold_starts += 1);
        for _ in 0..fleet.plan.min.max(1) {
            self.start_one(&mut fleet, Duration::ZERO);
        }
        self.serving = Some(fleet);
        self.note(
            revision,
            ACTIVE,
            Substate::SCALING_FROM_ZERO,
            &format!("a request came; starting a replica of revision {revision}"),
        );
    }

    /// Brings the number of replicas nearer to what the traffic asks for.
    fn scale(&mut self) {
        let Some(mut fleet) = self.serving.take() else {
            return;
        };
        let present = fleet.len();
        let wanted = fleet.wanted(self.yard.route.meter().read());
        let coming = present + fleet.starting();
        for _ in coming..wanted {
            self.start_one(&mut fleet, Duration::ZERO);
        }
        // What is on its way may be what is too much; that is seen when it has arrived.
        let leaving = if coming == present {
            fleet.shrink(wanted)
        } else {
            Vec::new()
        };
        let (revision, substate) = (fleet.revision, fleet.substate());
        self.serving = Some(fleet);
        if wanted > coming {
            let text = format!("scaling revision {revision} from {present} to {wanted} replicas");
            self.note_serving(revision, Substate::SCALING_UP, &text);
        } else if !leaving.is_empty() {
            self.lead();
            self.note_serving(revision, substate, &serving(revision, wanted));
            for member in leaving {
                self.leaving.let_go(member, false);
            }
        }
    }

    /// Lets traffic go to the replicas that there are.
    fn lead(&self) {
        if let Some(fleet) = &self.serving {
            let backends = fleet.backends();
            if backends.is_empty() {
                self.expect(fleet);
            } else {
                self.yard.route.set(Target::Backends(backends));
            }
        }
        self.show_live();
    }

    /// Lets requests wait for a replica: as long as they would for its answer, if that is long.
    fn expect(&self, fleet: &Fleet) {
        self.yard.route.set(Target::Starting {
            patience: START_PATIENCE.max(fleet.request_timeout()),
        });
    }

    async fn stop(&mut self) {
        self.yard.route.set(Target::Unavailable {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: Code::AppDeactivated.as_str(),
            message: format!("app `{}` is deactivated", self.yard.key.name()),
        });
        self.end_processes().await;
        crash::point("stop.ended");
        self.crashes = 0;
        let revision = self
            .row()
            .map_or(0, |row| row.serving.unwrap_or(row.latest));
        self.note(
            revision,
            DeploymentStatus::DEPLOYMENT_STATUS_STOPPED,
            Substate::SUBSTATE_UNSPECIFIED,
            "deactivated",
        );
    }

    async fn shutdown(&mut self) {
        self.listener.close().await;
        self.end_processes().await;
    }

    /// Ends a start that is under way, and waits until its processes are gone.
    async fn end_rising(&mut self) {
        if let Some(fleet) = self.rising.take() {
            fleet.end().await;
        }
    }

    async fn end_processes(&mut self) {
        self.end_rising().await;
        let serving = self.serving.take();
        let serving = async {
            if let Some(fleet) = serving {
                fleet.end().await;
            }
        };
        tokio::join!(serving, self.leaving.end());
        self.show_live();
    }

    fn show_live(&self) {
        let replicas = self
            .serving
            .as_ref()
            .map(Fleet::processes)
            .unwrap_or_default();
        self.live.send_modify(|live| live.replicas = replicas);
    }

    /// Notes what the revision that serves is doing, unless a newer one is on its way: that is the news
    /// about the app then, and whoever waits for it must not take the older one for it.
    fn note_serving(&self, revision: Revision, substate: Substate, message: &str) {
        if self.rising.is_none() {
            self.note(revision, ACTIVE, substate, message);
        }
    }

    fn note(&self, revision: Revision, state: DeploymentStatus, substate: Substate, message: &str) {
        self.yard
            .workshop
            .note(&self.yard.key, revision, state, substate, message);
    }

    /// The app goes on when the disk does not; what was lost is in the platform's log.
    fn record(&self, result: Result<(), store::Error>) {
        record(&self.yard.key, result);
    }
}

/// What a revision is doing, for people.
fn serving(revision: Revision, count: usize) -> String {
    match count {
        0 => format!("revision {revision} is at zero until a request comes"),
        1 => format!("revision {revision} is serving"),
        more => format!("revision {revision} is serving with {more} replicas"),
    }
}
