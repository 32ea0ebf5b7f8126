//! Reading an app's state out of its conditions.

use super::app::{self, status::DeploymentStatus};

/// The newest condition, which alone decides an app's state.
pub fn latest(app: &app::App) -> Option<&app::Condition> {
    app.status.conditions.last()
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

/// `ACTIVE` rather than `DEPLOYMENT_STATUS_ACTIVE`.
pub fn short_name(status: DeploymentStatus) -> &'static str {
    let name = buffa::Enumeration::proto_name(&status);
    name.strip_prefix("DEPLOYMENT_STATUS_").unwrap_or(name)
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
