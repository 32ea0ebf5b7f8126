//! Whether an app came up, read from its conditions as they arrive.

use crate::error::{Code, Diagnostic, Retry};
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

/// Judges the deployment of `revision`.
///
/// Where conditions carry revisions, only those that follow the revision's acceptance count: an
/// older failure of the same revision, or of another one, says nothing about this attempt.
/// Where they do not (clusters), the newest condition decides.
pub fn judge(app: &app::App, revision: u64) -> Verdict {
    let conditions = &app.status.conditions;
    let own = || {
        conditions
            .iter()
            .filter(|condition| condition.revision == revision)
    };
    if revision == 0 || own().next().is_none() {
        return conditions.last().map_or_else(nothing_yet, of_condition);
    }
    let accepted = conditions
        .iter()
        .rposition(|condition| condition.revision == revision && is_acceptance(condition));
    let attempt = &conditions[accepted.unwrap_or(0)..];
    let mut verdict = nothing_yet();
    for condition in attempt {
        if condition.revision == revision {
            verdict = of_condition(condition);
            // A failed attempt is over, whatever the platform does to serve something else.
            if matches!(verdict, Verdict::Failed { .. }) {
                break;
            }
        } else if matches!(verdict, Verdict::Pending { .. }) {
            // What happens to the app as a whole ends an attempt that was still under way.
            if status::is_deactivated(status::condition_status(condition)) {
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
            judge(&app(conditions.clone()), 2),
            Verdict::Pending { .. }
        ));
        conditions.push(condition(2, ACTIVE, RUNNING, ""));
        assert_eq!(judge(&app(conditions), 2), Verdict::Active);
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
            judge(&app(conditions), 2),
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
        assert_eq!(judge(&app(conditions.clone()), 2), Verdict::Overtaken);
        conditions.insert(2, condition(2, ACTIVE, RUNNING, ""));
        assert_eq!(judge(&app(conditions), 2), Verdict::Active);
    }

    #[test]
    fn deactivation_ends_an_attempt() {
        let conditions = vec![
            condition(1, ACTIVE, RUNNING, ""),
            condition(2, PENDING, NONE, ""),
            condition(1, STOPPED, NONE, "deactivated"),
        ];
        assert_eq!(judge(&app(conditions), 2), Verdict::Deactivated);
    }

    #[test]
    fn without_revisions_the_newest_condition_decides() {
        let conditions = vec![
            condition(0, FAILED, NONE, "RevisionMissing"),
            condition(0, ACTIVE, NONE, ""),
        ];
        assert_eq!(judge(&app(conditions), 0), Verdict::Active);
    }
}
