//! The services around apps that clients ask before they deploy.

use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult,
};

use super::Api;
use crate::config::{LOCAL_DOMAIN, LOCAL_PROJECT};
use crate::local::platform::user_name;
use crate::wire::auth::{self, AuthMetadataService, IdentityService};
use crate::wire::cluster::{self, ClusterService};
use crate::wire::imagebuilder::{self, ImageService};
use crate::wire::project::{self, ProjectService};

impl ClusterService for Api {
    /// An empty answer means: stay on this connection.
    async fn select_cluster<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, cluster::SelectClusterRequest>,
    ) -> ServiceResult<impl Encodable<cluster::SelectClusterResponse> + Send + use<'a>> {
        Response::ok(cluster::SelectClusterResponse::default())
    }
}

impl ProjectService for Api {
    async fn create_project<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, project::CreateProjectRequest>,
    ) -> ServiceResult<impl Encodable<project::CreateProjectResponse> + Send + use<'a>> {
        Err::<Response<project::CreateProjectResponse>, _>(fixed())
    }

    async fn update_project<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, project::UpdateProjectRequest>,
    ) -> ServiceResult<impl Encodable<project::UpdateProjectResponse> + Send + use<'a>> {
        Err::<Response<project::UpdateProjectResponse>, _>(fixed())
    }

    async fn get_project<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, project::GetProjectRequest>,
    ) -> ServiceResult<impl Encodable<project::GetProjectResponse> + Send + use<'a>> {
        let id = request.to_owned_message().id;
        Response::ok(project::GetProjectResponse {
            project: described(&id).into(),
            ..Default::default()
        })
    }

    async fn list_projects<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, project::ListProjectsRequest>,
    ) -> ServiceResult<impl Encodable<project::ListProjectsResponse> + Send + use<'a>> {
        let mut names = vec![LOCAL_PROJECT.to_owned()];
        for key in self.platform.keys()? {
            let project = key.as_str().split('/').next().unwrap_or_default();
            if !names.iter().any(|name| name == project) {
                names.push(project.to_owned());
            }
        }
        Response::ok(project::ListProjectsResponse {
            projects: project::Projects {
                projects: names.iter().map(|name| described(name)).collect(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        })
    }
}

impl IdentityService for Api {
    /// Whoever reaches the platform is its user.
    async fn user_info<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, auth::UserInfoRequest>,
    ) -> ServiceResult<impl Encodable<auth::UserInfoResponse> + Send + use<'a>> {
        let name = user_name();
        Response::ok(auth::UserInfoResponse {
            subject: name.clone(),
            name: name.clone(),
            preferred_username: name,
            ..Default::default()
        })
    }
}

impl AuthMetadataService for Api {
    async fn get_o_auth2_metadata<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, auth::GetOAuth2MetadataRequest>,
    ) -> ServiceResult<impl Encodable<auth::GetOAuth2MetadataResponse> + Send + use<'a>> {
        Err::<Response<auth::GetOAuth2MetadataResponse>, _>(ConnectError::unimplemented(
            "the local platform has no login",
        ))
    }

    async fn get_public_client_config<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, auth::GetPublicClientConfigRequest>,
    ) -> ServiceResult<impl Encodable<auth::GetPublicClientConfigResponse> + Send + use<'a>> {
        Response::ok(auth::GetPublicClientConfigResponse {
            // An empty one is more than some clients can take.
            authorization_metadata_key: "authorization".into(),
            ..Default::default()
        })
    }
}

impl ImageService for Api {
    async fn get_image<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, imagebuilder::GetImageRequest>,
    ) -> ServiceResult<impl Encodable<imagebuilder::GetImageResponse> + Send + use<'a>> {
        let name = request.to_owned_message().id.name.clone();
        let uri = self.platform.image(&name).ok_or_else(|| {
            ConnectError::not_found(format!("image `{name}` is not on this machine"))
        })?;
        Response::ok(imagebuilder::GetImageResponse {
            image: imagebuilder::Image {
                id: imagebuilder::ImageIdentifier {
                    name,
                    ..Default::default()
                }
                .into(),
                fqin: uri,
                ..Default::default()
            }
            .into(),
            ..Default::default()
        })
    }
}

fn fixed() -> ConnectError {
    ConnectError::unimplemented(
        "on the local platform any project exists; there is nothing to create or change",
    )
}

fn described(name: &str) -> project::Project {
    let domains = [LOCAL_DOMAIN, "staging", "production"];
    project::Project {
        id: name.to_owned(),
        name: name.to_owned(),
        domains: domains
            .iter()
            .map(|domain| project::Domain {
                id: (*domain).to_owned(),
                name: (*domain).to_owned(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}
