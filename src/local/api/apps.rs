//! `AppService`: create, read, change, delete, list and watch apps.

use std::sync::Arc;

use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
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
        // An update is of something that exists.
        self.platform.view(&AppKey::of(&app.metadata.id))?;
        let stop = app.spec.desired_state.as_known() == Some(DesiredState::DESIRED_STATE_STOPPED);
        let app = if stop {
            self.platform.deactivate(&app.metadata.id).await?
        } else {
            self.platform.apply(app).await?
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
        let changes = self.platform.changes();
        let mut snapshot = Vec::new();
        for app in self.platform.views()? {
            if watched(&app, &target) {
                // The PyPI SDK reads updates only, and pauses for a second over anything else.
                snapshot.extend([updated(app.clone()), created(app)].map(Ok));
            }
        }
        let live = live_events(Arc::clone(&self.platform), changes, target);
        Ok(Response::stream(
            futures::stream::iter(snapshot).chain(live),
        ))
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

fn live_events(
    platform: Arc<Platform>,
    changes: tokio::sync::broadcast::Receiver<Change>,
    target: app::watch_request::Target,
) -> impl futures::Stream<Item = Result<app::WatchResponse, ConnectError>> + Send + 'static {
    let state = (platform, changes, target);
    futures::stream::unfold(state, |(platform, mut changes, target)| async move {
        loop {
            let change = match changes.recv().await {
                Ok(change) => change,
                // What was missed is in the conditions of the next view.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return None,
            };
            let response = match change.deleted {
                Some(app) if watched(&app, &target) => deleted(*app),
                Some(_) => continue,
                None => match platform.view(&change.key) {
                    Ok(app) if watched(&app, &target) => updated(app),
                    // Gone since; its deletion follows.
                    Ok(_) | Err(Refused::NotFound(_)) => continue,
                    Err(error) => return Some((Err(error.into()), (platform, changes, target))),
                },
            };
            return Some((Ok(response), (platform, changes, target)));
        }
    })
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
