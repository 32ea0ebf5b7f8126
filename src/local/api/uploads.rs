//! `DataProxyService` and the place where code bundles arrive.
//!
//! A bundle lies at a path made of its MD5 and its name. It is written beside its place, checked
//! against the MD5 and renamed, so that what lies there is always whole.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::put;
use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult,
};
use http::StatusCode;
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use tokio::io::AsyncWriteExt;

use super::Api;
use crate::wire::dataproxy::{self, DataProxyService};

impl DataProxyService for Api {
    async fn create_upload_location<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, dataproxy::CreateUploadLocationRequest>,
    ) -> ServiceResult<impl Encodable<dataproxy::CreateUploadLocationResponse> + Send + use<'a>>
    {
        let request = request.to_owned_message();
        let digest = hex(&request.content_md5);
        let parts = [
            &request.project,
            &request.domain,
            &digest,
            &request.filename,
        ];
        if digest.len() != 32 || !parts.iter().all(|part| is_plain(part)) {
            return Err(ConnectError::invalid_argument(
                "an upload needs a project, a domain, a plain file name and an MD5 of 16 bytes",
            ));
        }
        let relative = parts.map(String::as_str).join("/");
        let place = self.uploads().join(&relative);
        Response::ok(dataproxy::CreateUploadLocationResponse {
            signed_url: format!("http://localhost/upload/{relative}"),
            native_url: format!("file://{}", place.display()),
            ..Default::default()
        })
    }
}

pub(super) fn router() -> Router<Api> {
    Router::new().route(
        "/upload/{project}/{domain}/{md5}/{filename}",
        put(receive).head(exists),
    )
}

type Parts = UrlPath<(String, String, String, String)>;

fn place(api: &Api, UrlPath((project, domain, md5, filename)): &Parts) -> Option<PathBuf> {
    let parts = [project, domain, md5, filename];
    parts.iter().all(|part| is_plain(part)).then(|| {
        parts
            .iter()
            .fold(api.uploads(), |path, part| path.join(part))
    })
}

async fn exists(State(api): State<Api>, parts: Parts) -> StatusCode {
    match place(&api, &parts) {
        Some(path) if path.is_file() => StatusCode::OK,
        Some(_) | None => StatusCode::NOT_FOUND,
    }
}

async fn receive(State(api): State<Api>, parts: Parts, body: Body) -> HttpResponse {
    let Some(path) = place(&api, &parts) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match write(&path, &parts.0.2, body).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(Refusal::Mismatch) => (
            StatusCode::BAD_REQUEST,
            "the content does not have the MD5 that was announced",
        )
            .into_response(),
        Err(Refusal::Io(error)) => {
            tracing::error!(path = %path.display(), %error, "cannot store an upload");
            (StatusCode::INSUFFICIENT_STORAGE, error.to_string()).into_response()
        }
    }
}

enum Refusal {
    Mismatch,
    Io(std::io::Error),
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

async fn write(path: &Path, md5: &str, mut body: Body) -> Result<(), Refusal> {
    let folder = path.parent().unwrap_or(path);
    tokio::fs::create_dir_all(folder).await?;
    // Removed when dropped, so a broken connection leaves nothing.
    let temporary = tempfile::NamedTempFile::new_in(folder)?;
    let mut file = tokio::fs::File::from_std(temporary.reopen()?);
    let mut hash = Md5::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(std::io::Error::other)?;
        if let Ok(data) = frame.into_data() {
            hash.update(&data);
            file.write_all(&data).await?;
        }
    }
    file.sync_all().await?;
    if hex(&hash.finalize()) != md5 {
        return Err(Refusal::Mismatch);
    }
    temporary
        .persist(path)
        .map_err(|error| Refusal::Io(error.error))?;
    Ok(())
}

/// A single name that can neither climb nor hide.
fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bundle_is_stored_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p/d/bundle.tar.zst");
        let digest = hex(&Md5::digest(b"content"));
        let wrong = write(&path, &digest, Body::from("other")).await;
        assert!(matches!(wrong, Err(Refusal::Mismatch)));
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 0, "a refused upload leaves nothing");
        assert!(write(&path, &digest, Body::from("content")).await.is_ok());
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
    }

    #[test]
    fn names_cannot_climb() {
        for bad in ["..", "", ".hidden", "a/b", "a\\b", "a b"] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert!(is_plain("fast0a.tar.zst"));
    }
}
