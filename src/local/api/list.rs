//! `List`: which apps, in which order, and where the next page begins.
//!
//! A page token names the last app of the page and what it was sorted by, not a position: apps that
//! come and go between two pages neither hide others nor show them twice.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use buffa_types::google::protobuf::Timestamp;
use connectrpc::ConnectError;
use jiff::Timestamp as Time;

use crate::local::store::AppKey;
use crate::wire::app::list_request::FilterBy;
use crate::wire::common::filter::Function;
use crate::wire::common::sort::Direction;
use crate::wire::{app, common, status};

/// What apps are filtered and sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Status,
    CreatedBy,
    CreatedAt,
    UpdatedAt,
}

const FIELDS: &[(&str, Field)] = &[
    ("name", Field::Name),
    ("status_phase", Field::Status),
    ("created_by", Field::CreatedBy),
    ("created_at", Field::CreatedAt),
    ("updated_at", Field::UpdatedAt),
];

impl Field {
    fn named(name: &str) -> Result<Self, ConnectError> {
        let found = FIELDS.iter().find(|(known, _)| *known == name);
        found.map(|(_, field)| *field).ok_or_else(|| {
            let known: Vec<&str> = FIELDS.iter().map(|(known, _)| *known).collect();
            ConnectError::invalid_argument(format!(
                "apps have no field `{name}`; they are filtered and sorted by {}",
                known.join(", ")
            ))
        })
    }

    /// The field of an app as text that sorts like the field.
    fn of(self, app: &app::App) -> String {
        match self {
            Self::Name => app.metadata.id.name.clone(),
            Self::Status => {
                buffa::Enumeration::proto_name(&status::deployment_status(app)).to_owned()
            }
            Self::CreatedBy => subject(app),
            Self::CreatedAt => sortable(&app.status.created_at),
            Self::UpdatedAt => sortable(&app.status.last_updated_at),
        }
    }

    /// The same for a value that somebody compares it with.
    fn read(self, value: &str) -> Result<String, ConnectError> {
        match self {
            Self::Name | Self::Status | Self::CreatedBy => Ok(value.to_owned()),
            Self::CreatedAt | Self::UpdatedAt => {
                let time: Time = value.parse().map_err(|_| {
                    ConnectError::invalid_argument(format!("`{value}` is not a time in RFC 3339"))
                })?;
                Ok(nanoseconds(time.as_nanosecond()))
            }
        }
    }
}

/// Who created an app.
fn subject(app: &app::App) -> String {
    use common::enriched_identity::Principal;
    match &app.spec.creator.principal {
        Some(Principal::User(user)) => user.id.subject.clone(),
        Some(Principal::Application(application)) => application.id.subject.clone(),
        None => String::new(),
    }
}

fn sortable(time: &Timestamp) -> String {
    nanoseconds(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
}

/// All of one width, so that text sorts as time does.
fn nanoseconds(value: i128) -> String {
    format!("{value:024}")
}

/// One page of the apps that are asked for, the token of the next, and how many there are in all.
pub(super) fn page(
    apps: Vec<app::App>,
    request: &app::ListRequest,
) -> Result<(Vec<app::App>, String, i64), ConnectError> {
    let options = &request.request;
    let (field, direction) = order(options)?;
    let mut found = Vec::new();
    for app in apps {
        if in_scope(&app, request.filter_by.as_ref()) && passes(&app, &options.filters)? {
            let place = (field.of(&app), AppKey::of(&app.metadata.id));
            found.push((place, app));
        }
    }
    found.sort_by(|(a, _), (b, _)| match direction {
        Direction::ASCENDING => a.cmp(b),
        Direction::DESCENDING => b.cmp(a),
    });
    let total = i64::try_from(found.len()).unwrap_or(i64::MAX);
    if !options.token.is_empty() {
        let last = read_token(&options.token)?;
        found.retain(|((value, key), _)| {
            let place = (value.as_str(), key.as_str());
            let last = (last.0.as_str(), last.1.as_str());
            match direction {
                Direction::ASCENDING => place > last,
                Direction::DESCENDING => place < last,
            }
        });
    }
    let limit = match options.limit {
        0 => found.len(),
        limit => limit as usize,
    };
    let more = found.len() > limit;
    found.truncate(limit);
    let token = match found.last() {
        Some(((value, key), _)) if more => write_token(value, key),
        Some(_) | None => String::new(),
    };
    Ok((
        found.into_iter().map(|(_, app)| app).collect(),
        token,
        total,
    ))
}

/// By name where nothing is said.
fn order(options: &common::ListRequest) -> Result<(Field, Direction), ConnectError> {
    let told = options
        .sort_by_fields
        .first()
        .or(options.sort_by.as_option());
    match told {
        Some(sort) if !sort.key.is_empty() => Ok((
            Field::named(&sort.key)?,
            sort.direction.as_known().unwrap_or(Direction::ASCENDING),
        )),
        Some(_) | None => Ok((Field::Name, Direction::ASCENDING)),
    }
}

fn write_token(value: &str, key: &AppKey) -> String {
    URL_SAFE_NO_PAD.encode(format!("{value}\n{key}"))
}

fn read_token(token: &str) -> Result<(String, String), ConnectError> {
    let text = URL_SAFE_NO_PAD.decode(token).ok();
    text.and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| {
            let (value, key) = text.rsplit_once('\n')?;
            Some((value.to_owned(), key.to_owned()))
        })
        .ok_or_else(|| ConnectError::invalid_argument("the page token is not one of ours"))
}

/// Whether an app belongs to a project and, where one is named, a domain.
pub(super) fn in_project(id: &app::Identifier, project: &common::ProjectIdentifier) -> bool {
    id.project == project.name && (project.domain.is_empty() || id.domain == project.domain)
}

fn in_scope(app: &app::App, filter: Option<&FilterBy>) -> bool {
    match filter {
        Some(FilterBy::Project(project)) => in_project(&app.metadata.id, project),
        // Nothing on this machine consumes artifacts.
        Some(FilterBy::Artifact(_)) => false,
        Some(FilterBy::Org(_) | FilterBy::ClusterId(_)) | None => true,
    }
}

fn passes(app: &app::App, filters: &[common::Filter]) -> Result<bool, ConnectError> {
    for filter in filters {
        if !holds(app, filter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(app: &app::App, filter: &common::Filter) -> Result<bool, ConnectError> {
    let field = Field::named(&filter.field)?;
    let own = field.of(app);
    let values = filter.values.iter().map(|value| field.read(value));
    let values: Vec<String> = values.collect::<Result<_, _>>()?;
    let any = |test: &dyn Fn(&String) -> bool| values.iter().any(test);
    let Some(function) = filter.function.as_known() else {
        return Err(ConnectError::invalid_argument(format!(
            "the filter on `{}` has a function that this platform does not know",
            filter.field
        )));
    };
    Ok(match function {
        Function::EQUAL | Function::VALUE_IN => any(&|value| own == *value),
        Function::NOT_EQUAL | Function::VALUE_NOT_IN => !any(&|value| own == *value),
        Function::GREATER_THAN => any(&|value| own > *value),
        Function::GREATER_THAN_OR_EQUAL => any(&|value| own >= *value),
        Function::LESS_THAN => any(&|value| own < *value),
        Function::LESS_THAN_OR_EQUAL => any(&|value| own <= *value),
        Function::CONTAINS => any(&|value| own.contains(value)),
        Function::CONTAINS_CASE_INSENSITIVE => {
            any(&|value| own.to_lowercase().contains(&value.to_lowercase()))
        }
        Function::ENDS_WITH => any(&|value| own.ends_with(value)),
        Function::NOT_ENDS_WITH => !any(&|value| own.ends_with(value)),
        Function::EXISTS => !own.is_empty(),
        Function::NOT_EXISTS => own.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::identifier;

    fn apps() -> Vec<app::App> {
        // Created in the order c, a, b, all within one second.
        let app = |name: &str, nanos: i32| app::App {
            metadata: app::Meta {
                id: identifier("", "p", "d", name).into(),
                ..Default::default()
            }
            .into(),
            status: app::Status {
                created_at: Timestamp {
                    seconds: 1_700_000_000,
                    nanos,
                    ..Default::default()
                }
                .into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        };
        vec![app("a", 20), app("b", 30), app("c", 10)]
    }

    fn request(key: &str, direction: Direction, limit: u32, token: &str) -> app::ListRequest {
        app::ListRequest {
            request: common::ListRequest {
                limit,
                token: token.to_owned(),
                sort_by: common::Sort {
                    key: key.to_owned(),
                    direction: direction.into(),
                    ..Default::default()
                }
                .into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }

    fn filtered(field: &str, function: Function, values: &[&str]) -> app::ListRequest {
        let mut request = request("", Direction::ASCENDING, 0, "");
        request.request.modify(|options| {
            options.filters.push(common::Filter {
                field: field.to_owned(),
                function: function.into(),
                values: values.iter().map(|value| (*value).to_owned()).collect(),
                ..Default::default()
            });
        });
        request
    }

    fn names(apps: &[app::App]) -> String {
        apps.iter()
            .map(|app| app.metadata.id.name.as_str())
            .collect()
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended_whatever_is_gone() {
        let (first, token, total) =
            page(apps(), &request("created_at", Direction::DESCENDING, 1, "")).unwrap();
        assert_eq!((names(&first).as_str(), total), ("b", 3));
        // `b` is deleted meanwhile, which a position would not survive.
        let rest = apps().into_iter().filter(|app| app.metadata.id.name != "b");
        let next = request("created_at", Direction::DESCENDING, 5, &token);
        let (second, token, _) = page(rest.collect(), &next).unwrap();
        assert_eq!((names(&second).as_str(), token.as_str()), ("ac", ""));
        let bad = request("created_at", Direction::ASCENDING, 1, "12");
        assert!(page(apps(), &bad).is_err());
    }

    #[test]
    fn filters_compare_and_unknown_fields_are_named() {
        for (field, function, values, expected) in [
            ("name", Function::EQUAL, &["b"][..], "b"),
            ("name", Function::VALUE_IN, &["a", "c"], "ac"),
            ("name", Function::VALUE_NOT_IN, &["a", "c"], "b"),
            ("name", Function::CONTAINS_CASE_INSENSITIVE, &["A"], "a"),
            (
                "created_at",
                Function::GREATER_THAN,
                &["2023-11-14T22:13:20.000000010Z"],
                "ab",
            ),
            (
                "created_at",
                Function::LESS_THAN,
                &["2023-11-14T22:13:20+00:00"],
                "",
            ),
            ("created_by", Function::EXISTS, &[], ""),
            (
                "status_phase",
                Function::EQUAL,
                &["DEPLOYMENT_STATUS_UNSPECIFIED"],
                "abc",
            ),
        ] {
            let (found, ..) = page(apps(), &filtered(field, function, values)).unwrap();
            assert_eq!(names(&found), expected, "{field} {function:?} {values:?}");
        }
        let error = page(apps(), &filtered("colour", Function::EQUAL, &["x"])).unwrap_err();
        assert!(error.to_string().contains("`colour`"), "{error}");
        assert!(page(apps(), &filtered("created_at", Function::EQUAL, &["x"])).is_err());
    }
}
