//! Apps by the page: which of them, in which order, how many.
//!
//! What is asked for is sent along, and looked at again when it arrives: the open-source control
//! plane takes filters and ignores them.

use std::cmp::Ordering;

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
        let created_by = self.created_by.as_deref();
        (self.states.is_empty() || self.states.contains(&status::deployment_status(app)))
            && created_by.is_none_or(|subject| subject_of(app) == subject)
    }

    /// Whether apps come in the order that was asked for, as far as that can be told here.
    fn is_in_order(&self, apps: &[app::App]) -> bool {
        self.comparison()
            .is_none_or(|compare| apps.is_sorted_by(|a, b| compare(a, b).is_le()))
    }

    fn comparison(&self) -> Option<impl Fn(&app::App, &app::App) -> Ordering + use<>> {
        let (key, ascending) = self.sort_by.as_ref()?;
        let value = value_of(key)?;
        let ascending = *ascending;
        Some(move |a: &app::App, b: &app::App| {
            let order = value(a).cmp(&value(b));
            if ascending { order } else { order.reverse() }
        })
    }
}

/// A time and a text, of which one is empty.
type Value = (i64, i32, String);

/// What apps are sorted by; `None` where only the server knows.
fn value_of(key: &str) -> Option<fn(&app::App) -> Value> {
    match key {
        "name" => Some(|app| (0, 0, app.metadata.id.name.clone())),
        "created_at" => Some(|app| {
            let time = &app.status.created_at;
            (time.seconds, time.nanos, String::new())
        }),
        "updated_at" => Some(|app| {
            let time = &app.status.last_updated_at;
            (time.seconds, time.nanos, String::new())
        }),
        "created_by" => Some(|app| (0, 0, subject_of(app).to_owned())),
        _ => None,
    }
}

/// Who created an app; empty where that is not said.
fn subject_of(app: &app::App) -> &str {
    use common::enriched_identity::Principal;
    match &app.spec.creator.principal {
        Some(Principal::User(user)) => &user.id.subject,
        Some(Principal::Application(application)) => &application.id.subject,
        None => "",
    }
}

impl Client {
    /// The apps of a project and domain that are asked for.
    pub async fn list(&self, listing: &Listing<'_>) -> Result<Vec<app::App>, Error> {
        let mut apps = Vec::new();
        let mut token = String::new();
        // Whether a server sorts is seen where several apps come, and one that does not has to tell
        // of all before the first ones are known.
        let mut is_sorted = true;
        while apps.len() < listing.limit || !is_sorted {
            let left = listing.limit.saturating_sub(apps.len());
            let page = if listing.sort_by.is_some() {
                PAGE
            } else {
                left
            };
            let request = listing.request(token, page);
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
            is_sorted = is_sorted && listing.is_in_order(&apps);
            token = response.token;
            if token.is_empty() {
                break;
            }
        }
        if !is_sorted && let Some(compare) = listing.comparison() {
            apps.sort_by(compare);
        }
        apps.truncate(listing.limit);
        Ok(apps)
    }
}
