//! The requests of the distribution protocol that an image needs.
//!
//! A request that changes nothing, or the same thing twice, is repeated after a passing failure. A
//! blob counts as there only when the registry has confirmed its digest.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use oci_client::Reference;
use reqwest::header::{CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use url::Url;

use super::access::{Access, Pass, Refusal};
use super::content::{Content, counted, digest, file_body};
use super::manifest::{ACCEPTED, Descriptor, Document};
use super::{credentials, said, transport};
use crate::image::{Error, Fault};

/// Pauses before a request is made again.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// Registries themselves take no manifest above 4 MiB.
const SMALL: u64 = 8 << 20;

/// A manifest or index as the registry holds it.
#[derive(Clone, Debug)]
pub struct Found {
    pub document: Document,
    pub digest: String,
    pub bytes: Bytes,
}

/// What became of the attempt to take a blob from another repository.
#[derive(Debug)]
pub enum Mounted {
    Yes,
    /// It has to be sent; the registry opened an upload for it.
    Upload(Url),
}

/// A connection to one registry.
pub struct Registry {
    http: reqwest::Client,
    /// As users write it.
    name: String,
    origin: Url,
    access: Access,
}

impl Registry {
    /// Makes ready to speak to the registry of `reference`, with the credential that is kept for it.
    pub async fn open(reference: &Reference) -> Result<Self, Error> {
        let name = reference.registry().to_owned();
        let host = reference.resolve_registry();
        let failed = |reason: String| Error::Registry {
            registry: name.clone(),
            action: "open a connection".to_owned(),
            reason,
            fault: Fault::Passing,
            hint: unreachable_hint(&name),
        };
        let http = transport::client(host).map_err(failed)?;
        let credential = credentials(&name).await?;
        let scheme = if transport::may_be_plain(host) && is_plain(&http, host).await {
            "http"
        } else {
            "https"
        };
        let origin = Url::parse(&format!("{scheme}://{host}"))
            .map_err(|error| failed(format!("`{host}` is no host: {error}")))?;
        let access = Access::new(http.clone(), scheme == "http", credential);
        Ok(Self {
            http,
            name,
            origin,
            access,
        })
    }

    /// The registry as users write it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is anything behind the tag or digest.
    pub async fn has_manifest(&self, reference: &Reference) -> Result<bool, Error> {
        let response = self.manifest(Method::HEAD, reference).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused("look for", reference, response).await),
        }
    }

    /// What stands behind the tag or digest, checked against its digest; `None` when nothing does.
    pub async fn document(&self, reference: &Reference) -> Result<Option<Found>, Error> {
        let action = "read the manifest of";
        let response = self.manifest(Method::GET, reference).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refused(action, reference, response).await),
        }
        let bytes = self.small(action, reference, response).await?;
        let digest = digest(&bytes);
        if let Some(asked) = reference.digest()
            && asked != digest
        {
            let other = format!("the content sent has the digest `{digest}`");
            return Err(self.nonsense(action, reference, &other));
        }
        let document =
            Document::parse(&bytes).map_err(|error| self.nonsense(action, reference, &error))?;
        Ok(Some(Found {
            document,
            digest,
            bytes,
        }))
    }

    async fn manifest(&self, method: Method, reference: &Reference) -> Result<Response, Error> {
        let tag = reference.digest().or(reference.tag()).unwrap_or("latest");
        let url = self.url(reference, &format!("manifests/{tag}"));
        let accept = ACCEPTED.join(", ");
        let request = || {
            Ok(self
                .http
                .request(method.clone(), url.clone())
                .header("accept", &accept))
        };
        self.send(&pull(reference), "look for", reference, request)
            .await
    }

    /// A configuration or another blob that fits into memory, checked.
    pub async fn small_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
    ) -> Result<Bytes, Error> {
        let action = "read the configuration of";
        let response = self.blob(action, reference, &blob.digest).await?;
        let bytes = self.small(action, reference, response).await?;
        if digest(&bytes) != blob.digest {
            return Err(self.nonsense(action, reference, &"it does not have the digest asked for"));
        }
        Ok(bytes)
    }

    /// The bytes of a blob as they come. Whoever reads them checks the digest.
    pub async fn read_blob(
        &self,
        reference: &Reference,
        digest: &str,
    ) -> Result<impl Stream<Item = reqwest::Result<Bytes>> + Send + use<>, Error> {
        let response = self.blob("read a layer of", reference, digest).await?;
        Ok(response.bytes_stream())
    }

    async fn blob(
        &self,
        action: &str,
        reference: &Reference,
        digest: &str,
    ) -> Result<Response, Error> {
        let url = self.url(reference, &format!("blobs/{digest}"));
        let request = || Ok(self.http.get(url.clone()));
        let response = self
            .send(&pull(reference), action, reference, request)
            .await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(self.refused(action, reference, response).await),
        }
    }

    /// Whether the repository that is pushed to holds a blob.
    pub async fn has_blob(&self, reference: &Reference, digest: &str) -> Result<bool, Error> {
        let action = "look for a layer of";
        let url = self.url(reference, &format!("blobs/{digest}"));
        let request = || Ok(self.http.head(url.clone()));
        let response = self
            .send(&push(reference, None), action, reference, request)
            .await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(action, reference, response).await),
        }
    }

    /// Opens an upload, or takes the blob from the repository `from` of the same registry.
    pub async fn mount(
        &self,
        reference: &Reference,
        digest: &str,
        from: Option<&str>,
    ) -> Result<Mounted, Error> {
        let action = "open an upload to";
        let mut url = self.url(reference, "blobs/uploads/");
        if let Some(from) = from {
            url.query_pairs_mut()
                .append_pair("mount", digest)
                .append_pair("from", from);
        }
        let request = || Ok(self.http.post(url.clone()).header("content-length", "0"));
        let scope = push(reference, from);
        let response = self.send(&scope, action, reference, request).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Mounted::Yes),
            StatusCode::ACCEPTED => {
                let location = response
                    .headers()
                    .get(LOCATION)
                    .and_then(|text| text.to_str().ok());
                let location = location.and_then(|text| self.origin.join(text).ok());
                let location = location.ok_or_else(|| {
                    self.nonsense(action, reference, &"it names no place to upload to")
                })?;
                Ok(Mounted::Upload(location))
            }
            _ => Err(self.refused(action, reference, response).await),
        }
    }

    /// Sends a blob into an upload that [`Self::mount`] opened, or into new ones when that fails.
    ///
    /// `sent` counts the bytes that left, those of failed attempts too.
    pub async fn upload(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        content: &Content<'_>,
        opened: Url,
        sent: &Arc<AtomicU64>,
    ) -> Result<(), Error> {
        let mut location = opened;
        let mut pauses = PAUSES.iter();
        loop {
            let error = match self
                .upload_once(reference, blob, content, location, sent)
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let passes = matches!(
                &error,
                Error::Registry {
                    fault: Fault::Passing,
                    ..
                }
            );
            let Some(pause) = pauses.next().filter(|_| passes) else {
                return Err(error);
            };
            tracing::debug!(%error, "the upload of a layer is begun anew");
            tokio::time::sleep(*pause).await;
            location = match self.mount(reference, &blob.digest, None).await? {
                Mounted::Yes => return Ok(()),
                Mounted::Upload(location) => location,
            };
        }
    }

    async fn upload_once(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        content: &Content<'_>,
        mut location: Url,
        sent: &Arc<AtomicU64>,
    ) -> Result<(), Error> {
        let action = "send a layer of";
        location
            .query_pairs_mut()
            .append_pair("digest", &blob.digest);
        let body = match content {
            Content::File(path) => file_body(path, sent).await.map_err(|source| Error::Store {
                action: "read",
                path: PathBuf::from(path),
                source,
            })?,
            Content::Memory(bytes) => {
                sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Body::from(bytes.clone())
            }
            Content::Remote(registry, source) => {
                let stream = registry.read_blob(source, &blob.digest).await?;
                counted(stream.map_err(std::io::Error::other), sent)
            }
        };
        let request = self
            .http
            .put(location.clone())
            .header("content-length", blob.size)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(body);
        // A body that streams goes out once; the pass was shown when the upload was opened.
        let scope = push(reference, None);
        let pass = self.access.pass(&scope).await;
        let request = if self.is_ours(&location) {
            pass.sign(request)
        } else {
            request
        };
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(action, reference, &error))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED if self.is_ours(&location) => {
                self.renew(&scope, &pass, &response, action, reference)
                    .await?;
                let reason = "the token ran out".to_owned();
                Err(self.error(action, reference, reason, Fault::Passing, self.login_hint()))
            }
            _ => Err(self.refused(action, reference, response).await),
        }
    }

    /// Stores a manifest or index under the tag or digest of `reference`.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let action = "store the manifest of";
        let tag = reference.digest().or(reference.tag()).unwrap_or("latest");
        let url = self.url(reference, &format!("manifests/{tag}"));
        let request = || {
            let request = self.http.put(url.clone()).header(CONTENT_TYPE, media_type);
            Ok(request.body(bytes.clone()))
        };
        let scope = push(reference, None);
        let response = self.send(&scope, action, reference, request).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            _ => Err(self.refused(action, reference, response).await),
        }
    }

    fn url(&self, reference: &Reference, rest: &str) -> Url {
        let mut url = self.origin.clone();
        url.set_path(&format!("/v2/{}/{rest}", reference.repository()));
        url
    }

    /// Credentials are for the registry alone; uploads may be led elsewhere.
    fn is_ours(&self, url: &Url) -> bool {
        url.origin() == self.origin.origin()
    }

    /// Sends a request that may be sent twice, shows a pass when asked for one, and is patient.
    async fn send(
        &self,
        scope: &str,
        action: &str,
        reference: &Reference,
        request: impl Fn() -> Result<RequestBuilder, Error>,
    ) -> Result<Response, Error> {
        let mut pauses = PAUSES.iter();
        let mut renewals = 0;
        loop {
            let pass = self.access.pass(scope).await;
            let answer = pass.sign(request()?).send().await;
            let passes = match &answer {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && renewals < 2 => {
                    self.renew(scope, &pass, response, action, reference)
                        .await?;
                    renewals += 1;
                    continue;
                }
                Ok(response) => is_passing(response.status()),
                Err(error) => !transport::cause(error).contains("certificate"),
            };
            match (answer, pauses.next().filter(|_| passes)) {
                (_, Some(pause)) => tokio::time::sleep(*pause).await,
                (Ok(response), None) => return Ok(response),
                (Err(error), None) => return Err(self.unreachable(action, reference, &error)),
            }
        }
    }

    /// Gets another pass after a request was answered by 401.
    async fn renew(
        &self,
        scope: &str,
        stale: &Arc<Pass>,
        response: &Response,
        action: &str,
        reference: &Reference,
    ) -> Result<(), Error> {
        let challenge = response.headers().get(WWW_AUTHENTICATE);
        let challenge = challenge.and_then(|text| text.to_str().ok());
        let renewed = self
            .access
            .renew(scope, stale, challenge.unwrap_or_default())
            .await;
        renewed
            .map(drop)
            .map_err(|refusal| self.denied(action, reference, refusal))
    }

    async fn small(
        &self,
        action: &str,
        reference: &Reference,
        response: Response,
    ) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.unreachable(action, reference, &error))?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > SMALL {
                return Err(self.nonsense(action, reference, &"it is larger than 8 MiB"));
            }
        }
        Ok(bytes.into())
    }

    async fn refused(&self, action: &str, reference: &Reference, response: Response) -> Error {
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        let said = said(&body);
        let reason = match said.as_str() {
            "" => status.to_string(),
            said => format!("{status}: {said}"),
        };
        let (fault, hint) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (Fault::Denied, self.login_hint()),
            status if is_passing(status) => (
                Fault::Passing,
                format!("`{}` is not well; try again later", self.name),
            ),
            _ => (
                Fault::Answer,
                format!(
                    "check that `{}` names a repository of `{}`",
                    reference.repository(),
                    self.name
                ),
            ),
        };
        self.error(action, reference, reason, fault, hint)
    }

    fn denied(&self, action: &str, reference: &Reference, refusal: Refusal) -> Error {
        let (reason, fault) = match refusal {
            Refusal::Anonymous => (
                "401 Unauthorized: it wants a credential, and Docker's configuration holds none for it".to_owned(),
                Fault::Denied,
            ),
            Refusal::Refused(said) if said.is_empty() => (
                "401 Unauthorized: the credential that is kept for it is refused".to_owned(),
                Fault::Denied,
            ),
            Refusal::Refused(said) => (
                format!("401 Unauthorized: the credential that is kept for it is refused: {said}"),
                Fault::Denied,
            ),
            Refusal::Broken(problem) => (problem, Fault::Passing),
        };
        self.error(action, reference, reason, fault, self.login_hint())
    }

    fn login_hint(&self) -> String {
        let name = &self.name;
        match self
            .access
            .credential()
            .and_then(|credential| credential.username())
        {
            Some(user) => format!(
                "`{user}`, as whom Docker's configuration logs in, may not do this; log in as somebody who may by `docker login {name}`"
            ),
            None => format!("log in by `docker login {name}`"),
        }
    }

    pub(in crate::image) fn unreachable(
        &self,
        action: &str,
        reference: &Reference,
        error: &reqwest::Error,
    ) -> Error {
        let cause = transport::cause(error);
        let hint = if cause.contains("certificate") {
            "name the file with its certificate authority in `SSL_CERT_FILE`".to_owned()
        } else {
            unreachable_hint(&self.name)
        };
        self.error(action, reference, cause, Fault::Passing, hint)
    }

    /// The registry answered, but not what was asked for.
    pub(in crate::image) fn nonsense(
        &self,
        action: &str,
        reference: &Reference,
        problem: &dyn std::fmt::Display,
    ) -> Error {
        let hint = format!(
            "check that `{}` is a registry of container images",
            self.name
        );
        self.error(action, reference, problem.to_string(), Fault::Answer, hint)
    }

    fn error(
        &self,
        action: &str,
        reference: &Reference,
        reason: String,
        fault: Fault,
        hint: String,
    ) -> Error {
        Error::Registry {
            registry: self.name.clone(),
            action: format!("{action} `{reference}`"),
            reason,
            fault,
            hint,
        }
    }
}

/// Whether a host that may be spoken to without TLS wants it so. Nothing secret is sent.
async fn is_plain(http: &reqwest::Client, host: &str) -> bool {
    let request = http.get(format!("http://{host}/v2/"));
    match request.send().await {
        // A server that expects TLS answers 400 in plain text, or not at all.
        Ok(response) => response.status() != StatusCode::BAD_REQUEST,
        Err(error) => error.is_connect(),
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

fn unreachable_hint(name: &str) -> String {
    format!(
        "check that `{name}` is reachable from here; one without TLS has to be named in `FLYTE_INSECURE_REGISTRIES`"
    )
}

fn pull(reference: &Reference) -> String {
    format!("repository:{}:pull", reference.repository())
}

fn push(reference: &Reference, from: Option<&str>) -> String {
    let own = format!("repository:{}:pull,push", reference.repository());
    match from {
        Some(from) => format!("{own} repository:{from}:pull"),
        None => own,
    }
}
