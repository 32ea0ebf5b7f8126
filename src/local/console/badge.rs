//! An app's state in one word and one colour.

use super::html::{Html, html};
use crate::wire::app;
use crate::wire::app::status::{DeploymentStatus, Substate};
use crate::wire::status;

/// The word and the class of the style sheet for what a condition says.
pub fn state(condition: Option<&app::Condition>) -> (&'static str, &'static str) {
    use DeploymentStatus as State;
    let Some(condition) = condition else {
        return ("Unknown", "off");
    };
    let substate = condition.substate.as_known();
    match (status::condition_status(condition), substate) {
        (_, Some(Substate::CRASH_LOOP)) => ("Crashing", "bad"),
        (_, Some(Substate::OOM_KILLED)) => ("Out of memory", "bad"),
        (State::DEPLOYMENT_STATUS_FAILED, _) => ("Failed", "bad"),
        (
            State::DEPLOYMENT_STATUS_ACTIVE | State::DEPLOYMENT_STATUS_STARTED,
            Some(Substate::SCALED_TO_ZERO),
        ) => ("At zero", "idle"),
        (State::DEPLOYMENT_STATUS_ACTIVE | State::DEPLOYMENT_STATUS_STARTED, _) => ("Active", "ok"),
        (State::DEPLOYMENT_STATUS_STOPPED | State::DEPLOYMENT_STATUS_UNASSIGNED, _) => {
            ("Deactivated", "off")
        }
        (State::DEPLOYMENT_STATUS_PENDING | State::DEPLOYMENT_STATUS_ASSIGNED, _) => {
            ("Pending", "busy")
        }
        (State::DEPLOYMENT_STATUS_DEPLOYING, _) => ("Deploying", "busy"),
        (State::DEPLOYMENT_STATUS_SCALING_UP, _) => ("Scaling up", "busy"),
        (State::DEPLOYMENT_STATUS_SCALING_DOWN, _) => ("Scaling down", "busy"),
        (State::DEPLOYMENT_STATUS_UNSPECIFIED, _) => ("Unknown", "off"),
    }
}

/// The word with a mark of its colour and shape.
pub fn badge(condition: Option<&app::Condition>) -> Html {
    let (word, class) = state(condition);
    html!("<span class=\"st {}\">{}</span>", class, word)
}

/// When a condition came about.
pub fn moment(condition: &app::Condition) -> jiff::Timestamp {
    let time = &condition.last_transition_time;
    jiff::Timestamp::new(time.seconds, time.nanos).unwrap_or_default()
}

/// The same, to be shown.
pub fn moment_html(condition: &app::Condition) -> Html {
    super::words::moment(moment(condition))
}
