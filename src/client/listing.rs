//! Apps by the page: which of them, in which order, how many.
//!
//! What is asked for is sent along, and looked at again when it arrives: the open-source control
//! plane takes filters and ignores them.

use super::call::Repeat;
use super::{Client, Error, project_id};
use crate::wire::app::list_request::FilterBy;
use crate::wire::app::status::DeploymentStatus;
use crate::wire::common::filter::Function;
use crate::wire::common::sort::Direction;
use crate::wire::{app, common, status};

/// Most apps that are asked for at once.
const PAGE: usize = 100;

/// Which apps to list.
#[derive(Clone, Debug)]
pub struct Listing<'a> {
    pub org: &'a str,
    pub project: &'a str,
    pub domain: &'a str,
    /// Only apps in one of these states; in any where none is named.
    pub states: Vec<DeploymentStatus>,
    /// Only apps that this subject created.
    pub created_by: Option<String>,
    /// Field, and whether small values come first.
    pub sort_by: Option<(String, bool)>,
    pub limit: usize,
}

impl Listing<'_> {
    fn filters(&self) -> Vec<common::Filter> {
        let names = self.states.iter().map(buffa::Enumeration::proto_name);
        let states = (!self.states.is_empty()).then(|| common::Filter {
            function: if self.states.len() > 1 {
                Function::VALUE_IN.into()
            } else {
                Function::EQUAL.into()
            },
            field: "status_phase".into(),
            values: names.map(str::to_owned).collect(),
            ..Default::default()
        });
        let creator = self.created_by.clone().map(|subject| common::Filter {
            function: Function::EQUAL.into(),
            field: "created_by".into(),
            values: vec![subject],
            ..Default::default()
        });
        states.into_iter().chain(creator).collect()
    }

    fn request(&self, token: String, limit: usize) -> app::ListRequest {
        let sort = self.sort_by.as_ref().map(|(key, ascending)| common::Sort {
            key: key.clone(),
            direction: if *ascending {
                Direction::ASCENDING.into()
            } else {
                Direction::DESCENDING.into()
            },
            ..Default::default()
        });
        app::ListRequest {
            request: common::ListRequest {
                limit: u32::try_from(limit.min(PAGE)).unwrap_or(u32::MAX),
                token,
                sort_by: sort.into(),
                filters: self.filters(),
                ..Default::default()
            }
            .into(),
            filter_by: Some(FilterBy::Project(Box::new(project_id(
                self.org,
                self.project,
                self.domain,
            )))),
            ..Default::default()
        }
    }

    fn is_wanted(&self, app: &app::App) -> bool {
        self.states.is_empty() || self.states.contains(&status::deployment_status(app))
    }
}

impl Client {
    /// The apps of a project and domain that are asked for.
    pub async fn list(&self, listing: &Listing<'_>) -> Result<Vec<app::App>, Error> {
        let mut apps = Vec::new();
        let mut token = String::new();
        while apps.len() < listing.limit {
            let request = listing.request(token, listing.limit - apps.len());
            let response = self
                .caller
                .call("List", Repeat::Always, |options| {
                    self.apps.list_with_options(request.clone(), options)
                })
                .await?
                .into_owned();
            apps.extend(
                response
                    .apps
                    .into_iter()
                    .filter(|app| listing.is_wanted(app)),
            );
            token = response.token;
            if token.is_empty() {
                break;
            }
        }
        apps.truncate(listing.limit);
        Ok(apps)
    }
}
