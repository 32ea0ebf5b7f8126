//! Reading an app's state out of its conditions.

use super::app::{self, status::DeploymentStatus};
use crate::error::Code;

/// The newest condition, which alone decides an app's state.
///
/// Conditions of revisions are a history, the last one the newest. Those without are Knative's,
/// which stand side by side in no order of time: a failed update comes before the routes that are
/// as they were.
pub fn latest(app: &app::App) -> Option<&app::Condition> {
    let conditions = &app.status.conditions;
    if conditions.iter().any(|condition| condition.revision > 0) {
        return conditions.last();
    }
    conditions.iter().max_by_key(|condition| moment(condition))
}

/// When it became so; zero where that is not said.
fn moment(condition: &app::Condition) -> (i64, i32) {
    let time = &condition.last_transition_time;
    (time.seconds, time.nanos)
}

/// Whether what is said of an app was true before something that is known. The open-source control
/// plane gives answers again for half a minute; its events are of the moment.
pub fn is_older(said: &app::App, known: &app::App) -> bool {
    let last = |app: &app::App| app.status.conditions.iter().map(moment).max();
    match (last(said), last(known)) {
        (Some(said), Some(known)) => said != (0, 0) && said < known,
        // Nothing was known of it yet when that was said.
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

/// The state of an app; `UNSPECIFIED` while nothing is known.
pub fn deployment_status(app: &app::App) -> DeploymentStatus {
    latest(app).map_or(
        DeploymentStatus::DEPLOYMENT_STATUS_UNSPECIFIED,
        condition_status,
    )
}

/// The state that one condition speaks of.
pub fn condition_status(condition: &app::Condition) -> DeploymentStatus {
    condition
        .deployment_status
        .as_known()
        .unwrap_or(DeploymentStatus::DEPLOYMENT_STATUS_UNSPECIFIED)
}

/// Whether an app has failed since it last served, so that serving the same again means: try again.
pub fn is_failing(app: &app::App) -> bool {
    let conditions = app.status.conditions.iter().rev();
    conditions
        .map(condition_status)
        .take_while(|state| !is_active(*state))
        .any(|state| state == DeploymentStatus::DEPLOYMENT_STATUS_FAILED)
}

/// What a condition says beyond the state, such as `SCALED_TO_ZERO`.
pub fn substate(condition: &app::Condition) -> Option<&'static str> {
    let substate = condition.substate.as_known()?;
    let said = substate != app::status::Substate::SUBSTATE_UNSPECIFIED;
    said.then(|| buffa::Enumeration::proto_name(&substate))
}

/// `ACTIVE` rather than `DEPLOYMENT_STATUS_ACTIVE`.
pub fn short_name(status: DeploymentStatus) -> &'static str {
    let name = buffa::Enumeration::proto_name(&status);
    name.strip_prefix("DEPLOYMENT_STATUS_").unwrap_or(name)
}

/// Names of all states but the one that says nothing, in small letters: `active`.
pub fn state_names() -> impl Iterator<Item = String> {
    <DeploymentStatus as buffa::Enumeration>::values()
        .iter()
        .filter(|state| **state != DeploymentStatus::DEPLOYMENT_STATUS_UNSPECIFIED)
        .map(|state| short_name(*state).to_ascii_lowercase())
}

/// The state of that name, which may be short or as the protocol writes it, in letters of any size.
pub fn state_named(name: &str) -> Option<DeploymentStatus> {
    let name = name.to_ascii_uppercase();
    let short = name.strip_prefix("DEPLOYMENT_STATUS_").unwrap_or(&name);
    <DeploymentStatus as buffa::Enumeration>::values()
        .iter()
        .copied()
        .find(|state| short_name(*state) == short)
}

/// Whether requests are answered.
pub fn is_active(status: DeploymentStatus) -> bool {
    matches!(
        status,
        DeploymentStatus::DEPLOYMENT_STATUS_ACTIVE | DeploymentStatus::DEPLOYMENT_STATUS_STARTED
    )
}

/// Whether the app was put to rest on purpose.
pub fn is_deactivated(status: DeploymentStatus) -> bool {
    matches!(
        status,
        DeploymentStatus::DEPLOYMENT_STATUS_STOPPED
            | DeploymentStatus::DEPLOYMENT_STATUS_UNASSIGNED
    )
}

/// Whether the control plane has no cluster for the app, which it may be looking for.
pub fn is_unassigned(condition: &app::Condition) -> bool {
    condition_status(condition) == DeploymentStatus::DEPLOYMENT_STATUS_UNASSIGNED
}

/// Failures that a condition's message can begin with, as the clusters write them: `Reason: text`.
const REASONS: &[(&str, Code)] = &[
    ("Exited", Code::AppExited),
    ("NotListening", Code::AppNotListening),
    ("WrongPort", Code::AppWrongPort),
    ("Unhealthy", Code::AppUnhealthy),
    ("MissingModule", Code::AppMissingModule),
    ("MissingFile", Code::AppMissingFile),
    ("MissingCommand", Code::AppMissingCommand),
    ("OOMKilled", Code::AppOutOfMemory),
    ("PortTaken", Code::LocalPort),
    ("Parameter", Code::RuntimeParameter),
    ("Load", Code::RuntimeLoad),
    ("Image", Code::ImageNeedsContainer),
    ("ImageBuild", Code::ImageBuildFailed),
    ("ImagePull", Code::ImagePullFailed),
    // Its own text, `internal`, begins messages of clusters that mean something else.
    ("PlatformDefect", Code::Internal),
    ("Failed", Code::AppFailed),
];

/// The message of a condition that tells of a failure. A code that clusters have no word for stands
/// there itself, so that none is lost on its way through a condition.
pub fn failure_message(code: Code, text: &str) -> String {
    let reason = REASONS
        .iter()
        .find(|(_, known)| *known == code)
        .map_or(code.as_str(), |(reason, _)| reason);
    format!("{reason}: {text}")
}

/// The code and text of a message that begins with one of our reasons.
pub fn read_reason(message: &str) -> Option<(Code, &str)> {
    let (reason, text) = message.split_once(": ")?;
    let known = REASONS.iter().find(|(known, _)| *known == reason);
    let code = match known {
        Some((_, code)) => *code,
        None => Code::parse(reason).filter(|code| *code != Code::Internal)?,
    };
    Some((code, text))
}

/// The code and text of a failed condition's message.
pub fn read_failure(message: &str) -> (Code, &str) {
    read_reason(message).unwrap_or((Code::AppFailed, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_read_back_as_they_were_written() {
        for code in Code::ALL.iter().copied() {
            let message = failure_message(code, "a: b");
            assert_eq!(read_failure(&message), (code, "a: b"));
        }
        assert_eq!(
            read_failure("internal: none").0,
            Code::AppFailed,
            "a cluster's word"
        );
        assert_eq!(
            read_failure("RevisionMissing: none"),
            (Code::AppFailed, "RevisionMissing: none")
        );
    }

    #[test]
    fn states_have_names_of_two_lengths() {
        let active = Some(DeploymentStatus::DEPLOYMENT_STATUS_ACTIVE);
        for name in ["active", "ACTIVE", "Deployment_Status_Active"] {
            assert_eq!(state_named(name), active, "{name}");
        }
        assert_eq!(state_named("asleep"), None);
        assert!(state_names().any(|name| name == "scaling_up"));
        assert!(state_names().all(|name| state_named(&name).is_some()));
    }

    #[test]
    fn names_are_short() {
        assert_eq!(
            short_name(DeploymentStatus::DEPLOYMENT_STATUS_ACTIVE),
            "ACTIVE"
        );
    }
}
