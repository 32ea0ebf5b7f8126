//! What can be done to an app from its page.
//!
//! A form without script is answered by leading back to the page; the script asks for JSON.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, StatusCode, header};

use super::{Console, key, page_path};
use crate::local::platform::{Platform, Refused};
use crate::local::store::AppKey;
use crate::wire::identifier;

/// What is to be done.
#[derive(Clone, Copy)]
enum Action {
    Activate,
    Deactivate,
    RollBack(Option<u64>),
    Delete,
}

/// `POST` of a form with the token.
pub async fn act(
    State(console): State<Console>,
    Path((project, domain, name, word)): Path<(String, String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let is_script = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes() == b"application/json");
    let form = |name: &str| {
        let mut fields = url::form_urlencoded::parse(&body);
        fields
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.into_owned())
    };
    if !form("token").is_some_and(|token| console.token().is(&token)) {
        let reason = "the platform has started anew since this page was loaded, so nothing was changed; try again";
        return failed(is_script, StatusCode::FORBIDDEN, reason);
    }
    let action = match word.as_str() {
        "activate" => Action::Activate,
        "deactivate" => Action::Deactivate,
        "rollback" => Action::RollBack(form("revision").and_then(|number| number.parse().ok())),
        "delete" => Action::Delete,
        _ => {
            return failed(is_script, StatusCode::NOT_FOUND, "there is no such action");
        }
    };
    let key = key((project, domain, name));
    match carry_out(&console, &key, action).await {
        Ok(message) if is_script => json(StatusCode::OK, &message),
        Ok(_) => Redirect::to(&after(&key, action)).into_response(),
        Err(refused) => failed(is_script, super::status(&refused), &refused.describe()),
    }
}

/// Goes on when the browser does not wait for it: what is begun has to be brought to an end.
async fn carry_out(console: &Console, key: &AppKey, action: Action) -> Result<String, Refused> {
    let (platform, key) = (console.platform().clone(), key.clone());
    let work = tokio::spawn(async move { work(&platform, &key, action).await });
    work.await
        .unwrap_or_else(|error| Err(Refused::Invalid(format!("the action broke off: {error}"))))
}

async fn work(platform: &Platform, key: &AppKey, action: Action) -> Result<String, Refused> {
    let (project, domain, name) = key.parts();
    let id = identifier("", project, domain, name);
    match action {
        Action::Activate => {
            platform.activate(key).await?;
            Ok(format!("{name} is being activated"))
        }
        Action::Deactivate => {
            platform.deactivate(&id).await?;
            Ok(format!("{name} is deactivated"))
        }
        Action::RollBack(to) => {
            let revision = platform.roll_back(key, to).await?;
            Ok(format!("rolling back as revision {revision}"))
        }
        Action::Delete => {
            platform.view(key)?;
            platform.delete(&id).await?;
            Ok(format!("{name} is deleted"))
        }
    }
}

fn after(key: &AppKey, action: Action) -> String {
    match action {
        Action::Activate | Action::Deactivate | Action::RollBack(_) => page_path(key),
        Action::Delete => "/".to_owned(),
    }
}

fn failed(is_script: bool, status: StatusCode, reason: &str) -> Response {
    if is_script {
        return json(status, reason);
    }
    super::failure(status, "That did not work", reason)
}

fn json(status: StatusCode, message: &str) -> Response {
    let body = serde_json::json!({"message": message}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
