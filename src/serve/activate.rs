//! Whether an app came up, read from its conditions as they arrive.
//!
//! A control plane that numbers revisions says of which one it speaks. The open-source one does not,
//! and for a moment after a change it tells what came of the one before: an old failure, or the old
//! version serving. What it says is therefore held against what was known before the change.

use std::time::{Duration, Instant};

use crate::client::Changed;
use crate::error::{Code, Diagnostic, Retry};
use crate::wire::app::spec::DesiredState;
use crate::wire::app::status::{DeploymentStatus, Substate};
use crate::wire::{app, status};

/// An app that did not become, or stay, what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("app `{app}` did not come up: {message}")]
    Failed {
        app: String,
        code: Code,
        message: String,
        log: Vec<String>,
        hints: Vec<String>,
    },
    #[error("app `{app}` was deactivated while it was waited for")]
    Deactivated { app: String },
    #[error("app `{app}` was deleted while it was waited for")]
    Deleted { app: String },
    #[error("revision {revision} of app `{app}` was replaced by a newer one before it served")]
    Overtaken { app: String, revision: u64 },
    #[error("app `{app}` is {state} after {seconds} s: {message}")]
    Timeout {
        app: String,
        seconds: u64,
        state: &'static str,
        message: String,
        log: Vec<String>,
    },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Failed { code, .. } => *code,
            Self::Deactivated { .. } => Code::AppDeactivated,
            Self::Deleted { .. } => Code::AppNotFound,
            Self::Overtaken { .. } => Code::ClientConflict,
            Self::Timeout { .. } => Code::AppTimeout,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Failed { hints, .. } => hints.clone(),
            Self::Timeout { app, .. } => vec![
                format!("`flyte get logs {app} --follow` shows what it does"),
                "a longer wait: `--activate-timeout SECONDS`, with_servecontext(activate_timeout=...)".into(),
            ],
            Self::Overtaken { .. } => {
                vec!["somebody served the same app meanwhile; serve again to win".into()]
            }
            Self::Deactivated { app } => vec![format!(
                "`flyte update app {app} --activate --wait` brings it back"
            )],
            Self::Deleted { .. } => vec!["serve it again to have it back".into()],
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Timeout { .. } => Retry::Maybe,
            Self::Failed { .. }
            | Self::Deactivated { .. }
            | Self::Deleted { .. }
            | Self::Overtaken { .. } => Retry::Never,
        }
    }

    fn log_tail(&self) -> Vec<String> {
        match self {
            Self::Failed { log, .. } | Self::Timeout { log, .. } => log.clone(),
            Self::Deactivated { .. } | Self::Deleted { .. } | Self::Overtaken { .. } => Vec::new(),
        }
    }
}

impl Error {
    /// Adds advice that only the caller's side can give.
    pub fn advised(mut self, advise: impl FnOnce(Code, &str) -> Vec<String>) -> Self {
        if let Self::Failed {
            code,
            message,
            hints,
            ..
        } = &mut self
        {
            hints.extend(advise(*code, message));
        }
        self
    }
}

/// What an app's conditions say about one deployment of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Not decided; what is going on.
    Pending {
        state: DeploymentStatus,
        message: String,
    },
    Active,
    Failed {
        code: Code,
        message: String,
    },
    Deactivated,
    /// A newer revision took its place while it was starting.
    Overtaken,
}

/// How long a control plane may tell of the time before a change. Knative needs less than a second
/// to take a change up, and a busy one some more.
const SETTLING: Duration = Duration::from_secs(10);
/// Clocks of one cluster differ, and Knative's times are whole seconds.
const CLOCK_SECONDS: i64 = 1;
/// What a service without a ready revision says; a stopped app is one until it is started again.
const NO_REVISION: &str = "RevisionMissing";

/// A change to an app whose outcome is waited for.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub revision: u64,
    /// What the app's conditions said before.
    before: Vec<app::Condition>,
    /// The app was like this already, so what holds of it may go on to hold.
    is_same: bool,
    /// When the control plane took the change, by its clock.
    pub taken_at: Option<i64>,
    pub settled_at: Instant,
}

impl Attempt {
    /// Looking on, with nothing changed: what is said now is meant.
    pub fn watching(revision: u64) -> Self {
        Self {
            revision,
            before: Vec::new(),
            is_same: true,
            taken_at: None,
            settled_at: Instant::now(),
        }
    }

    /// A change that was just made to `before`, where it is known.
    pub fn of(before: Option<&app::App>, change: &Changed) -> Self {
        let app = &change.app;
        Self {
            revision: app.metadata.revision,
            before: before.map_or_else(Vec::new, |app| app.status.conditions.clone()),
            is_same: before.is_some_and(|before| is_like(before, app)),
            taken_at: change.taken_at,
            settled_at: Instant::now() + SETTLING,
        }
    }

    /// Whether the app was there before, declared otherwise.
    pub fn is_replacement(&self) -> bool {
        !self.is_same && !self.before.is_empty()
    }

    /// Whether a condition without a revision may be one of before the change.
    fn is_old(&self, condition: &app::Condition, conditions: &[app::Condition]) -> bool {
        if self.is_same || Instant::now() >= self.settled_at {
            return false;
        }
        let time = &condition.last_transition_time;
        let earlier = |taken: i64| time.is_set() && time.seconds < taken - CLOCK_SECONDS;
        (!self.before.is_empty() && self.before == conditions)
            || self.taken_at.is_some_and(earlier)
            || condition.message.starts_with(NO_REVISION)
    }
}

/// Whether the app is declared the same; who made it is not part of that.
fn is_like(before: &app::App, after: &app::App) -> bool {
    let mut spec = before.spec.clone();
    spec.modify(|spec| spec.creator = after.spec.creator.clone());
    spec == after.spec
}

/// Judges what came of an attempt.
///
/// Where conditions carry revisions, only those that follow the revision's acceptance count: an
/// older failure of the same revision, or of another one, says nothing about this attempt.
/// Where they do not (the open-source control plane), the newest condition decides, unless it may
/// be of before.
pub fn judge(app: &app::App, attempt: &Attempt) -> Verdict {
    let conditions = &app.status.conditions;
    if conditions.iter().all(|condition| condition.revision == 0) {
        return newest(app, attempt);
    }
    let revision = attempt.revision;
    let is_own = |condition: &app::Condition| condition.revision == revision;
    if revision > 0 && !conditions.iter().any(is_own) {
        let is_newer = |one: &app::Condition| one.revision > revision && is_acceptance(one);
        return if conditions.iter().any(is_newer) {
            Verdict::Overtaken
        } else {
            nothing_yet()
        };
    }
    if revision == 0 {
        return newest(app, attempt);
    }
    of_revision(app, revision)
}

/// What the newest condition says, whichever deployment it speaks of.
fn newest(app: &app::App, attempt: &Attempt) -> Verdict {
    let Some(condition) = status::latest(app) else {
        return nothing_yet();
    };
    match of_condition(condition) {
        // The control plane looks for a cluster, or for another one.
        Verdict::Deactivated if status::is_unassigned(condition) && is_wanted(app) => nothing_yet(),
        Verdict::Active | Verdict::Failed { .. } | Verdict::Deactivated
            if attempt.is_old(condition, &app.status.conditions) =>
        {
            nothing_yet()
        }
        verdict => verdict,
    }
}

fn is_wanted(app: &app::App) -> bool {
    app.spec.desired_state.as_known() != Some(DesiredState::DESIRED_STATE_STOPPED)
}

/// What the conditions say that follow the acceptance of a revision.
fn of_revision(app: &app::App, revision: u64) -> Verdict {
    let conditions = &app.status.conditions;
    let accepted = conditions
        .iter()
        .rposition(|condition| condition.revision == revision && is_acceptance(condition));
    let attempt = &conditions[accepted.unwrap_or(0)..];
    let mut verdict = nothing_yet();
    for condition in attempt {
        if condition.revision == revision {
            verdict = of_condition(condition);
            if verdict == Verdict::Deactivated && status::is_unassigned(condition) && is_wanted(app)
            {
                verdict = nothing_yet();
            }
            // A failed attempt is over, whatever the platform does to serve something else.
            if matches!(verdict, Verdict::Failed { .. }) {
                break;
            }
        } else if matches!(verdict, Verdict::Pending { .. }) {
            // What happens to the app as a whole ends an attempt that was still under way.
            let is_resting = status::is_deactivated(status::condition_status(condition));
            if is_resting && !status::is_unassigned(condition) {
                return Verdict::Deactivated;
            }
            if condition.revision > revision && is_acceptance(condition) {
                return Verdict::Overtaken;
            }
        }
    }
    verdict
}

fn nothing_yet() -> Verdict {
    Verdict::Pending {
        state: DeploymentStatus::DEPLOYMENT_STATUS_UNSPECIFIED,
        message: String::new(),
    }
}

fn is_acceptance(condition: &app::Condition) -> bool {
    status::condition_status(condition) == DeploymentStatus::DEPLOYMENT_STATUS_PENDING
        && condition.substate.as_known() == Some(Substate::SUBSTATE_UNSPECIFIED)
}

fn of_condition(condition: &app::Condition) -> Verdict {
    let state = status::condition_status(condition);
    if status::is_active(state) {
        return Verdict::Active;
    }
    if status::is_deactivated(state) {
        return Verdict::Deactivated;
    }
    if state == DeploymentStatus::DEPLOYMENT_STATUS_FAILED {
        let (code, message) = status::read_failure(&condition.message);
        return Verdict::Failed {
            code,
            message: message.to_owned(),
        };
    }
    Verdict::Pending {
        state,
        message: condition.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(
        revision: u64,
        state: DeploymentStatus,
        substate: Substate,
        message: &str,
    ) -> app::Condition {
        app::Condition {
            revision,
            deployment_status: state.into(),
            substate: substate.into(),
            message: message.into(),
            ..Default::default()
        }
    }

    fn app(conditions: Vec<app::Condition>) -> app::App {
        app::App {
            status: app::Status {
                conditions,
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }

    use DeploymentStatus::{
        DEPLOYMENT_STATUS_ACTIVE as ACTIVE, DEPLOYMENT_STATUS_DEPLOYING as DEPLOYING,
        DEPLOYMENT_STATUS_FAILED as FAILED, DEPLOYMENT_STATUS_PENDING as PENDING,
        DEPLOYMENT_STATUS_STOPPED as STOPPED,
    };
    use Substate::{INITIALIZING, RUNNING, SUBSTATE_UNSPECIFIED as NONE};

    #[test]
    fn only_this_attempt_counts() {
        let mut conditions = vec![
            condition(2, PENDING, NONE, ""),
            condition(2, FAILED, NONE, "Exited: old"),
            condition(2, PENDING, NONE, ""),
            condition(2, DEPLOYING, INITIALIZING, "starting"),
        ];
        assert!(matches!(
            judge(&app(conditions.clone()), &Attempt::watching(2)),
            Verdict::Pending { .. }
        ));
        conditions.push(condition(2, ACTIVE, RUNNING, ""));
        assert_eq!(
            judge(&app(conditions), &Attempt::watching(2)),
            Verdict::Active
        );
    }

    #[test]
    fn a_failure_is_seen_although_the_old_revision_serves_on() {
        let conditions = vec![
            condition(1, ACTIVE, RUNNING, ""),
            condition(2, PENDING, NONE, ""),
            condition(2, FAILED, NONE, "WrongPort: listens on 1"),
            condition(1, ACTIVE, RUNNING, "keeps serving"),
        ];
        assert_eq!(
            judge(&app(conditions), &Attempt::watching(2)),
            Verdict::Failed {
                code: Code::AppWrongPort,
                message: "listens on 1".into()
            }
        );
    }

    #[test]
    fn an_attempt_that_was_overtaken_is_over() {
        let mut conditions = vec![
            condition(2, PENDING, NONE, ""),
            condition(2, DEPLOYING, INITIALIZING, "starting"),
            condition(3, PENDING, NONE, ""),
        ];
        assert_eq!(
            judge(&app(conditions.clone()), &Attempt::watching(2)),
            Verdict::Overtaken
        );
        conditions.insert(2, condition(2, ACTIVE, RUNNING, ""));
        assert_eq!(
            judge(&app(conditions), &Attempt::watching(2)),
            Verdict::Active
        );
    }

    #[test]
    fn deactivation_ends_an_attempt() {
        let conditions = vec![
            condition(1, ACTIVE, RUNNING, ""),
            condition(2, PENDING, NONE, ""),
            condition(1, STOPPED, NONE, "deactivated"),
        ];
        assert_eq!(
            judge(&app(conditions), &Attempt::watching(2)),
            Verdict::Deactivated
        );
    }

    #[test]
    fn without_revisions_the_newest_condition_decides() {
        let conditions = vec![
            condition(0, FAILED, NONE, "RevisionMissing"),
            condition(0, ACTIVE, NONE, ""),
        ];
        assert_eq!(
            judge(&app(conditions), &Attempt::watching(0)),
            Verdict::Active
        );
    }

    fn at(second: i64, mut condition: app::Condition) -> app::Condition {
        condition.last_transition_time = buffa_types::google::protobuf::Timestamp {
            seconds: second,
            ..Default::default()
        }
        .into();
        condition
    }

    fn declared(image: &str, conditions: Vec<app::Condition>) -> app::App {
        let mut app = app(conditions);
        app.spec = app::Spec {
            cluster_pool: image.into(),
            ..Default::default()
        }
        .into();
        app
    }

    /// An attempt to replace `before` by an app that is declared as `image`.
    fn attempt(before: &app::App, image: &str, taken_at: Option<i64>) -> Attempt {
        let change = Changed {
            app: declared(image, Vec::new()),
            taken_at,
        };
        Attempt::of(Some(before), &change)
    }

    #[test]
    fn what_was_said_before_a_change_does_not_decide_until_it_lasts() {
        for old in [FAILED, ACTIVE, STOPPED] {
            let before = declared("old", vec![condition(0, old, NONE, "old")]);
            let mut attempt = attempt(&before, "new", None);
            let said = judge(&before, &attempt);
            assert!(matches!(said, Verdict::Pending { .. }), "{old:?}: {said:?}");
            attempt.settled_at = Instant::now();
            let said = judge(&before, &attempt);
            assert!(!matches!(said, Verdict::Pending { .. }), "{old:?}");
        }
        let before = declared("same", vec![condition(0, ACTIVE, NONE, "")]);
        assert_eq!(
            judge(&before, &attempt(&before, "same", None)),
            Verdict::Active
        );
    }

    #[test]
    fn what_the_server_dates_before_a_change_does_not_decide() {
        // What was known before came from a cache.
        let before = declared("old", vec![at(50, condition(0, PENDING, NONE, ""))]);
        let attempt = attempt(&before, "new", Some(100));
        let failed = |second| app(vec![at(second, condition(0, FAILED, NONE, "no"))]);
        assert!(matches!(
            judge(&failed(60), &attempt),
            Verdict::Pending { .. }
        ));
        assert!(matches!(
            judge(&failed(101), &attempt),
            Verdict::Failed { .. }
        ));
    }

    #[test]
    fn a_stopped_app_has_no_revision_for_a_moment() {
        let before = declared("a", vec![condition(0, STOPPED, NONE, "")]);
        let missing = condition(0, FAILED, NONE, "RevisionMissing: gone");
        assert!(matches!(
            judge(&app(vec![missing]), &attempt(&before, "b", None)),
            Verdict::Pending { .. }
        ));
    }

    #[test]
    fn conditions_that_stand_side_by_side_are_read_by_their_times() {
        // Knative's three: the new version failed, and the routes of the old one are as they were.
        let conditions = vec![
            at(20, condition(0, FAILED, NONE, "RevisionFailed: no")),
            at(20, condition(0, FAILED, NONE, "RevisionFailed: no")),
            at(10, condition(0, DEPLOYING, NONE, "Routes are ready")),
        ];
        assert!(matches!(
            judge(&app(conditions), &Attempt::watching(0)),
            Verdict::Failed { .. }
        ));
    }

    #[test]
    fn an_app_without_a_cluster_is_waited_for() {
        let unassigned = DeploymentStatus::DEPLOYMENT_STATUS_UNASSIGNED;
        let mut looking = declared("a", vec![condition(0, unassigned, NONE, "")]);
        let verdict = judge(&looking, &Attempt::watching(0));
        assert!(matches!(verdict, Verdict::Pending { .. }));
        let stopped = DesiredState::DESIRED_STATE_STOPPED;
        looking
            .spec
            .modify(|spec| spec.desired_state = stopped.into());
        let verdict = judge(&looking, &Attempt::watching(0));
        assert_eq!(verdict, Verdict::Deactivated);
    }

    #[test]
    fn what_is_said_of_another_revision_does_not_decide() {
        let conditions = vec![condition(1, FAILED, NONE, "old")];
        let verdict = judge(&app(conditions), &Attempt::watching(2));
        assert!(matches!(verdict, Verdict::Pending { .. }));
        let conditions = vec![condition(3, PENDING, NONE, "")];
        let verdict = judge(&app(conditions), &Attempt::watching(2));
        assert_eq!(verdict, Verdict::Overtaken);
    }
}
