//! Sending a code bundle, unless it is there already.
//!
//! Whether a bundle is there is asked of the server with `HEAD`, never of a clock on this side.
//! An object store that does not permit `HEAD` with an upload URL answers with an error, which
//! counts as "not there".

use std::path::Path;
use std::time::Duration;

use connectrpc::client::{ClientBody, ClientTransport, full_body};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, StreamBody};

use super::{Client, Error};
use crate::wire::dataproxy;

/// Tries before a failing upload is given up.
const ATTEMPTS: u32 = 4;

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Upload<'a> {
    pub org: &'a str,
    pub project: &'a str,
    pub domain: &'a str,
    /// Named by content, so that an equal bundle has an equal name.
    pub filename: &'a str,
    pub md5: [u8; 16],
    pub bytes: u64,
}

/// Where the bundle lies now.
#[derive(Clone, Debug, PartialEq)]
pub struct Uploaded {
    /// For `--tgz`.
    pub native_url: String,
    /// 0 when the server had it.
    pub bytes_sent: u64,
}

/// A place to put a bundle, and whether it is there.
#[derive(Clone, Debug)]
pub struct Location {
    signed_url: String,
    headers: Vec<(String, String)>,
    pub native_url: String,
    pub exists: bool,
}

impl Client {
    /// Asks for a place for the bundle, and whether it is taken by the very same.
    pub async fn upload_location(&self, upload: &Upload<'_>) -> Result<Location, Error> {
        self.select_cluster(upload.org, upload.project, upload.domain)
            .await?;
        let config = connectrpc::client::ClientConfig::new(self.transport().base_uri());
        let service = dataproxy::DataProxyServiceClient::new(self.transport().clone(), config);
        let request = dataproxy::CreateUploadLocationRequest {
            project: upload.project.to_owned(),
            domain: upload.domain.to_owned(),
            org: upload.org.to_owned(),
            filename: upload.filename.to_owned(),
            content_md5: upload.md5.to_vec(),
            content_length: i64::try_from(upload.bytes).unwrap_or(i64::MAX),
            expires_in: buffa_types::google::protobuf::Duration {
                seconds: 900,
                ..Default::default()
            }
            .into(),
            add_content_md5_metadata: true,
            ..Default::default()
        };
        let response = service
            .create_upload_location(request)
            .await
            .map_err(|error| self.failed("CreateUploadLocation", error))?
            .into_owned();
        let mut location = Location {
            signed_url: response.signed_url,
            headers: response.headers.into_iter().collect(),
            native_url: response.native_url,
            exists: false,
        };
        location.exists = self.head(&location).await;
        Ok(location)
    }

    async fn head(&self, location: &Location) -> bool {
        let Ok(request) = Self::request(location, Method::HEAD, full_body(bytes::Bytes::new()))
        else {
            return false;
        };
        matches!(
            self.transport().send(request).await,
            Ok(response) if response.status() == StatusCode::OK
        )
    }

    /// Sends the file at `archive` to `location`, in pieces.
    pub async fn put(
        &self,
        location: &Location,
        archive: &Path,
        upload: &Upload<'_>,
    ) -> Result<Uploaded, Error> {
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
            }
            match self.put_once(location, archive, upload).await? {
                Ok(()) => {
                    return Ok(Uploaded {
                        native_url: location.native_url.clone(),
                        bytes_sent: upload.bytes,
                    });
                }
                Err(Refused { text, retry }) => {
                    reason = text;
                    if !retry {
                        break;
                    }
                }
            }
        }
        Err(Error::Upload { reason })
    }

    async fn put_once(
        &self,
        location: &Location,
        archive: &Path,
        upload: &Upload<'_>,
    ) -> Result<Result<(), Refused>, Error> {
        let file = tokio::fs::File::open(archive)
            .await
            .map_err(|source| Error::BundleIo {
                path: archive.to_path_buf(),
                source,
            })?;
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 * 1024);
        let frames = futures::StreamExt::map(stream, |chunk| {
            chunk
                .map(hyper::body::Frame::data)
                .map_err(|error| connectrpc::ConnectError::internal(error.to_string()))
        });
        let body: ClientBody = StreamBody::new(frames).boxed();
        let mut request = match Self::request(location, Method::PUT, body) {
            Ok(request) => request,
            Err(text) => return Ok(Err(Refused { text, retry: false })),
        };
        let md5 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, upload.md5);
        if let Ok(value) = md5.parse() {
            request.headers_mut().insert("content-md5", value);
        }
        request
            .headers_mut()
            .insert(http::header::CONTENT_LENGTH, upload.bytes.into());
        Ok(match self.transport().send(request).await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(Refused {
                retry: retryable(response.status()),
                text: format!("the server answered {}", response.status()),
            }),
            Err(error) => Err(Refused {
                retry: true,
                text: error.to_string(),
            }),
        })
    }

    fn request(
        location: &Location,
        method: Method,
        body: ClientBody,
    ) -> Result<Request<ClientBody>, String> {
        let uri: Uri = location
            .signed_url
            .parse()
            .map_err(|_| "the server gave an upload address that is not a URL".to_owned())?;
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &location.headers {
            request = request.header(name, value);
        }
        request.body(body).map_err(|error| error.to_string())
    }
}

struct Refused {
    text: String,
    retry: bool,
}

fn retryable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) || status.is_server_error()
}
