//! `AppService`: create, read, change, delete, list and watch apps.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use tokio::sync::broadcast::error::RecvError;

use super::{Api, list};
use crate::local::platform::{Platform, Refused};
use crate::local::store::AppKey;
use crate::local::supervisor::app::Change;
use crate::wire::app::spec::DesiredState;
use crate::wire::app::{self, AppService};

impl AppService for Api {
    async fn create<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, app::CreateRequest>,
    ) -> ServiceResult<impl Encodable<app::CreateResponse> + Send + use<'a>> {
        let app = request.to_owned_message().app;
        let app = app.into_option().ok_or_else(|| missing("app"))?;
        Response::ok(app::CreateResponse {
            app: self.platform.apply(app).await?.into(),
            ..Default::default()
        })
    }

    async fn get<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, app::GetRequest>,
    ) -> ServiceResult<impl Encodable<app::GetResponse> + Send + use<'a>> {
        match request.to_owned_message().identifier {
            Some(app::get_request::Identifier::AppId(id)) => Response::ok(app::GetResponse {
                app: self.platform.view(&AppKey::of(&id))?.into(),
                ..Default::default()
            }),
            Some(app::get_request::Identifier::Ingress(_)) | None => Err(missing("app_id")),
        }
    }

    async fn update<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, app::UpdateRequest>,
    ) -> ServiceResult<impl Encodable<app::UpdateResponse> + Send + use<'a>> {
        let app = request.to_owned_message().app;
        let app = app.into_option().ok_or_else(|| missing("app"))?;
        let stop = app.spec.desired_state.as_known() == Some(DesiredState::DESIRED_STATE_STOPPED);
        let app = if stop {
            self.platform.deactivate(&app.metadata.id).await?
        } else {
            self.platform.update(app).await?
        };
        Response::ok(app::UpdateResponse {
            app: app.into(),
            ..Default::default()
        })
    }

    async fn update_status<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, app::UpdateStatusRequest>,
    ) -> ServiceResult<impl Encodable<app::UpdateStatusResponse> + Send + use<'a>> {
        Err::<Response<app::UpdateStatusResponse>, _>(ConnectError::unimplemented(
            "the local platform sets the status of its apps itself",
        ))
    }

    async fn delete<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, app::DeleteRequest>,
    ) -> ServiceResult<impl Encodable<app::DeleteResponse> + Send + use<'a>> {
        let id = request.to_owned_message().app_id;
        let id = id.into_option().ok_or_else(|| missing("app_id"))?;
        self.platform.delete(&id).await?;
        Response::ok(app::DeleteResponse::default())
    }

    async fn list<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, app::ListRequest>,
    ) -> ServiceResult<impl Encodable<app::ListResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let (apps, token, total) = list::page(self.platform.views()?, &request)?;
        Response::ok(app::ListResponse {
            apps,
            token,
            total_count: if request.include_total_count {
                total
            } else {
                0
            },
            ..Default::default()
        })
    }

    async fn watch(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, app::WatchRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<app::WatchResponse> + Send + use<>>> {
        let target = request.to_owned_message().target;
        let target = target.ok_or_else(|| missing("target"))?;
        // Subscribed before the snapshot is taken, so that nothing falls between the two.
        let mut watching = Watching {
            changes: self.platform.changes(),
            platform: Arc::clone(&self.platform),
            target,
            told: HashMap::new(),
            ready: VecDeque::new(),
        };
        for app in self.platform.views()? {
            if watched(&app, &watching.target) {
                watching.told(&app);
                // The PyPI SDK reads updates only, and pauses for a second over anything else.
                watching.ready.extend([updated(app.clone()), created(app)]);
            }
        }
        let live = futures::stream::unfold(watching, |mut watching| async move {
            let next = watching.next().await?;
            Some((next, watching))
        });
        Ok(Response::stream(live))
    }

    async fn lease(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, app::LeaseRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<app::LeaseResponse> + Send + use<>>> {
        Err::<Response<ServiceStream<app::LeaseResponse>>, _>(ConnectError::unimplemented(
            "the local platform runs its apps itself",
        ))
    }
}

fn missing(field: &str) -> ConnectError {
    ConnectError::invalid_argument(format!("the request lacks `{field}`"))
}

/// What somebody who watches is still to be told.
struct Watching {
    platform: Arc<Platform>,
    changes: tokio::sync::broadcast::Receiver<Change>,
    target: app::watch_request::Target,
    /// The last condition of each app that was told.
    told: HashMap<AppKey, app::Condition>,
    ready: VecDeque<app::WatchResponse>,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<app::WatchResponse, ConnectError>> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Some(Ok(response));
            }
            let taken = match self.changes.recv().await {
                Ok(change) => self.take(change),
                Err(RecvError::Lagged(_)) => self.catch_up(),
                Err(RecvError::Closed) => return None,
            };
            if let Err(error) = taken {
                return Some(Err(error.into()));
            }
        }
    }

    fn take(&mut self, change: Change) -> Result<(), Refused> {
        if let Some(app) = change.deleted {
            if watched(&app, &self.target) {
                self.told.remove(&change.key);
                self.ready.push_back(deleted(*app));
            }
            return Ok(());
        }
        match self.platform.view(&change.key) {
            Ok(app) if watched(&app, &self.target) => self.tell(app),
            // Gone since; its deletion follows.
            Ok(_) | Err(Refused::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What was missed is in the conditions, but nobody may look at them until something happens.
    fn catch_up(&mut self) -> Result<(), Refused> {
        for app in self.platform.views()? {
            if watched(&app, &self.target) {
                self.tell(app);
            }
        }
        Ok(())
    }

    fn told(&mut self, app: &app::App) {
        if let Some(last) = app.status.conditions.last() {
            self.told.insert(AppKey::of(&app.metadata.id), last.clone());
        }
    }

    /// An event for each condition that is new. Some clients read only the last condition of each:
    /// a failure that is followed by "keeps serving" at once would look like success.
    fn tell(&mut self, app: app::App) {
        let last = self.told.get(&AppKey::of(&app.metadata.id));
        for end in news(last, &app.status.conditions) {
            let mut then = app.clone();
            then.status.modify(|status| status.conditions.truncate(end));
            self.ready.push_back(updated(then));
        }
        self.told(&app);
        self.ready.push_back(updated(app));
    }
}

/// Where the new conditions end, but for the last one.
fn news(last: Option<&app::Condition>, conditions: &[app::Condition]) -> std::ops::Range<usize> {
    let known = last.and_then(|last| conditions.iter().rposition(|one| one == last));
    match known {
        Some(known) if known + 2 <= conditions.len() => known + 2..conditions.len(),
        // Nothing is new, or so much that the last one has to do.
        Some(_) | None => 0..0,
    }
}

fn created(app: app::App) -> app::WatchResponse {
    app::WatchResponse {
        event: Some(
            app::CreateEvent {
                app: app.into(),
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    }
}

fn updated(app: app::App) -> app::WatchResponse {
    app::WatchResponse {
        event: Some(
            app::UpdateEvent {
                updated_app: app.into(),
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    }
}

fn deleted(app: app::App) -> app::WatchResponse {
    app::WatchResponse {
        event: Some(
            app::DeleteEvent {
                app: app.into(),
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    }
}

fn watched(app: &app::App, target: &app::watch_request::Target) -> bool {
    use app::watch_request::Target;
    let id = &app.metadata.id;
    match target {
        Target::AppId(wanted) => AppKey::of(id) == AppKey::of(wanted),
        Target::Project(project) => list::in_project(id, project),
        Target::Org(_) | Target::ClusterId(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_condition_is_told_by_an_event_of_its_own() {
        let condition = |message: &str| app::Condition {
            message: message.into(),
            ..Default::default()
        };
        let all: Vec<_> = ["a", "b", "c", "d"].map(condition).into();
        assert_eq!(news(Some(&all[1]), &all), 3..4);
        assert_eq!(news(Some(&all[0]), &all), 2..4);
        for last in [Some(&all[2]), Some(&all[3]), Some(&condition("x")), None] {
            assert!(news(last, &all).is_empty());
        }
    }
}
