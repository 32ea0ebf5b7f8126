//! Sending a code bundle, unless it is there already.
//!
//! Whether a bundle is there is asked of the server with `HEAD`, never of a clock on this side.
//! An object store that does not permit `HEAD` with an upload URL answers with an error, which
//! counts as "not there". A server that keeps what arrived before a connection broke says so with
//! `Upload-Offset`, and gets only the rest with `PATCH`, as in the IETF's resumable uploads; any
//! other gets everything again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use connectrpc::ConnectError;
use connectrpc::client::{ClientBody, ClientTransport, full_body};
use futures::stream::{self, Stream, TryStreamExt};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited, StreamBody};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::call::{Repeat, wait_of};
use super::{Client, Error, Operation, Resource, project_id};
use crate::storage::percent_decoded;
use crate::wire::dataproxy;

/// Tries before a failing upload is given up.
const ATTEMPTS: u32 = 5;
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a server may take to tell whether something is there.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long an upload may stand still before it is begun anew; what a server does with the last byte
/// is part of it.
const STANDSTILL: Duration = Duration::from_secs(120);
const CHUNK_BYTES: usize = 256 * 1024;
/// So much is read of an answer that tells what is wrong.
const LONGEST_ANSWER: usize = 16 * 1024;
/// Names the position in an upload, in bytes.
const OFFSET: &str = "upload-offset";

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Upload<'a> {
    pub org: &'a str,
    pub project: &'a str,
    pub domain: &'a str,
    /// Named by content, so that an equal bundle has an equal name.
    pub filename: &'a str,
    /// The folder that it shares with other files; empty for a file alone.
    pub folder: &'a str,
    pub md5: [u8; 16],
    /// What is sent, one after the other.
    pub pieces: Vec<Piece>,
}

impl Upload<'_> {
    /// The size of all pieces together.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }
}

/// A file that is sent as part of an upload.
#[derive(Clone, Debug)]
pub struct Piece {
    pub path: PathBuf,
    pub bytes: u64,
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
        let project = project_id(upload.org, upload.project, upload.domain);
        let operation = Operation::OPERATION_CREATE_UPLOAD_LOCATION;
        let client = self
            .select_cluster(operation, Resource::ProjectId(Box::new(project)))
            .await?;
        let request = dataproxy::CreateUploadLocationRequest {
            project: upload.project.to_owned(),
            domain: upload.domain.to_owned(),
            org: upload.org.to_owned(),
            filename: upload.filename.to_owned(),
            filename_root: upload.folder.to_owned(),
            content_md5: upload.md5.to_vec(),
            // Not told how much comes: the open-source control plane refuses more than 100 MiB, but
            // only where it is.
            content_length: 0,
            expires_in: buffa_types::google::protobuf::Duration {
                seconds: 900,
                ..Default::default()
            }
            .into(),
            add_content_md5_metadata: true,
            ..Default::default()
        };
        let response = client
            .caller
            .call("CreateUploadLocation", Repeat::Always, |options| {
                let request = request.clone();
                let uploads = &client.uploads;
                uploads.create_upload_location_with_options(request, options)
            })
            .await?
            .into_owned();
        let mut location = Location {
            signed_url: response.signed_url,
            headers: response.headers.into_iter().collect(),
            native_url: plain(response.native_url, upload.filename),
            exists: false,
        };
        location.exists = self.head(&location).await == There::Whole;
        Ok(location)
    }

    async fn head(&self, location: &Location) -> There {
        let nothing = full_body(bytes::Bytes::new());
        let Ok(request) = request(location, Method::HEAD, nothing) else {
            return There::Nothing;
        };
        let answer = self.transport().send(request);
        match tokio::time::timeout(HEAD_PATIENCE, answer).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => There::Whole,
            Ok(Ok(response)) => match number(response.headers(), OFFSET) {
                Some(offset) => There::Begun(offset),
                None => There::Nothing,
            },
            Ok(Err(_)) | Err(_) => There::Nothing,
        }
    }

    /// Sends the pieces to `location`; `sent` is told how many bytes are on their way.
    pub async fn put(
        &self,
        location: &Location,
        upload: &Upload<'_>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let Err(refused) = Box::pin(self.put_at(location, upload, sent)).await else {
            return Ok(());
        };
        let reason = match refused {
            Refused { expired: true, .. } => {
                // The queue before this upload was longer than its address is good for.
                let location = Box::pin(self.upload_location(upload)).await?;
                if location.exists {
                    return Ok(());
                }
                match Box::pin(self.put_at(&location, upload, sent)).await {
                    Ok(()) => return Ok(()),
                    Err(again) => again.text,
                }
            }
            Refused { text, .. } => text,
        };
        Err(Error::Upload { reason })
    }

    async fn put_at(
        &self,
        location: &Location,
        upload: &Upload<'_>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Refused> {
        let mut refused = match self.attempt(location, upload, 0, sent).await {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        for attempt in 1..ATTEMPTS {
            let Some(pause) = refused.pause(attempt) else {
                break;
            };
            tokio::time::sleep(pause).await;
            let offset = match self.head(location).await {
                There::Whole => return Ok(()), // the answer was lost, not the upload
                There::Begun(offset) if offset < upload.bytes() => offset,
                There::Begun(_) | There::Nothing => 0,
            };
            match self.attempt(location, upload, offset, sent).await {
                Ok(()) => return Ok(()),
                Err(again) => refused = again,
            }
        }
        Err(refused)
    }

    /// Sends everything from `offset` on, once.
    async fn attempt(
        &self,
        location: &Location,
        upload: &Upload<'_>,
        offset: u64,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Refused> {
        let on_its_way = Arc::new(AtomicU64::new(offset));
        let request = put_request(location, upload, offset, &on_its_way)?;
        let answer = self.transport().send(request);
        tokio::pin!(answer);
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.tick().await; // the first one is at once, before there is anything to tell
        let mut progress = Progress::new(offset);
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                _ = tick.tick() => {
                    let now = on_its_way.load(Ordering::Relaxed);
                    sent(now);
                    if progress.stands_still(now, STANDSTILL) {
                        let text = format!("`{}` takes nothing any more", location.told());
                        return Err(Refused::for_now(text));
                    }
                }
            }
        };
        match answer {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(Refused::of(location, response).await),
            Err(error) => {
                let text = format!("`{}`: {}", location.told(), causes(&error));
                Err(Refused::for_now(text))
            }
        }
    }
}

impl Location {
    /// Where it is, without the signature that gives the right to write there.
    fn told(&self) -> &str {
        let end = self.signed_url.find(['?', '#']);
        &self.signed_url[..end.unwrap_or(self.signed_url.len())]
    }
}

/// The address of a file, with its name as it is in the key. The open-source control plane
/// writes it percent-encoded, which no store undoes.
fn plain(native_url: String, filename: &str) -> String {
    if native_url.ends_with(filename) || native_url.starts_with("file://") {
        return native_url;
    }
    match percent_decoded(&native_url) {
        Some(decoded) if decoded.ends_with(filename) => decoded,
        Some(_) | None => native_url,
    }
}

/// An error and what led to it, in one line.
fn causes(error: &ConnectError) -> String {
    crate::error::with_causes(error).replace("\nCaused by: ", ": ")
}

/// What a server has of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Nothing,
    /// So many bytes from the beginning.
    Begun(u64),
    Whole,
}

/// An attempt that failed.
struct Refused {
    text: String,
    retry: bool,
    /// What the server asks for.
    pause: Option<Duration>,
    /// The address was good for some time only, which is over.
    expired: bool,
}

/// Whether an upload gets on.
struct Progress {
    bytes: u64,
    since: Instant,
}

impl Progress {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            since: Instant::now(),
        }
    }

    fn stands_still(&mut self, bytes: u64, patience: Duration) -> bool {
        if bytes != self.bytes {
            *self = Self::new(bytes);
        }
        self.since.elapsed() > patience
    }
}

impl Refused {
    /// Something that may pass.
    fn for_now(text: String) -> Self {
        Self {
            text,
            retry: true,
            pause: None,
            expired: false,
        }
    }

    /// What an object store's answer means. Its body says more than its status.
    async fn of(location: &Location, response: http::Response<crate::net::Body>) -> Self {
        let status = response.status();
        let after = response.headers().get(http::header::RETRY_AFTER);
        let pause = after.and_then(|value| wait_of(value.to_str().ok()?));
        let body = Limited::new(response.into_body(), LONGEST_ANSWER)
            .collect()
            .await;
        let body = body.map(http_body_util::Collected::to_bytes);
        let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
        let code = tagged(&body, "Code").unwrap_or_default();
        let is_refusal = matches!(status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
        let reason = if code.is_empty() {
            String::new()
        } else {
            format!(" ({code})")
        };
        Self {
            text: format!("`{}` answered {status}{reason}", location.told()),
            retry: is_transient(status) || (is_refusal && code == "RequestTimeout"),
            expired: is_refusal && body.to_ascii_lowercase().contains("expired"),
            pause,
        }
    }

    /// How long to wait before the next attempt; `None` if there is no use in one.
    fn pause(&self, attempt: u32) -> Option<Duration> {
        let own = Duration::from_millis(250 << attempt);
        self.retry
            .then(|| self.pause.unwrap_or(own).min(LONGEST_PAUSE))
    }
}

fn put_request(
    location: &Location,
    upload: &Upload<'_>,
    offset: u64,
    on_its_way: &Arc<AtomicU64>,
) -> Result<Request<ClientBody>, Refused> {
    let body = StreamBody::new(content(upload.pieces.clone(), offset, on_its_way)).boxed();
    let method = if offset == 0 {
        Method::PUT
    } else {
        Method::PATCH
    };
    let never = |text| Refused {
        text,
        retry: false,
        pause: None,
        expired: false,
    };
    let mut request = request(location, method, body).map_err(never)?;
    let headers = request.headers_mut();
    if location.native_url.starts_with("abfs") {
        // Azure wants to know what it stores.
        headers.insert(
            "x-ms-blob-type",
            http::HeaderValue::from_static("BlockBlob"),
        );
    }
    if offset == 0 {
        let md5 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, upload.md5);
        if let Ok(value) = md5.parse() {
            headers.insert("content-md5", value);
        }
    } else {
        headers.insert(OFFSET, offset.into());
    }
    headers.insert(
        http::header::CONTENT_LENGTH,
        (upload.bytes() - offset).into(),
    );
    Ok(request)
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

/// The pieces as one stream that begins at `offset`; one file is open at a time.
fn content(
    pieces: Vec<Piece>,
    offset: u64,
    on_its_way: &Arc<AtomicU64>,
) -> impl Stream<Item = Result<hyper::body::Frame<bytes::Bytes>, ConnectError>> + Send + Sync + 'static
{
    let on_its_way = Arc::clone(on_its_way);
    let mut skip = offset;
    let mut rest: Vec<std::io::Result<_>> = Vec::new();
    for piece in pieces {
        let begin = skip.min(piece.bytes);
        skip -= begin;
        if begin < piece.bytes {
            rest.push(Ok((piece, begin)));
        }
    }
    stream::iter(rest)
        .and_then(|(piece, begin)| async move {
            let mut file = tokio::fs::File::open(&piece.path).await?;
            file.seek(std::io::SeekFrom::Start(begin)).await?;
            // One that has grown since has more than was announced.
            Ok(tokio_util::io::ReaderStream::with_capacity(
                file.take(piece.bytes - begin),
                CHUNK_BYTES,
            ))
        })
        .try_flatten()
        .map_ok(move |chunk| {
            on_its_way.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            hyper::body::Frame::data(chunk)
        })
        .map_err(|error: std::io::Error| ConnectError::internal(error.to_string()))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// What stands in the first element of that name.
fn tagged<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split('<').next()
}

fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT
    ) || status.is_server_error()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::{Request as Arrived, State};
    use axum::response::{IntoResponse, Response};
    use std::sync::{Mutex, PoisonError};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use crate::client::Transport;

    /// A place for one upload, in memory.
    #[derive(Default)]
    struct Shelf {
        whole_bytes: usize,
        keeps_beginnings: bool,
        /// Answers given instead of taking anything, the last first.
        refusals: Mutex<Vec<StatusCode>>,
        content: Mutex<Vec<u8>>,
        methods: Mutex<Vec<Method>>,
    }

    impl Shelf {
        fn content(&self) -> Vec<u8> {
            let content = self.content.lock();
            content.unwrap_or_else(PoisonError::into_inner).clone()
        }

        fn methods(&self) -> Vec<Method> {
            self.methods.lock().unwrap().clone()
        }

        fn head(&self) -> Response {
            match self.content().len() {
                length if length == self.whole_bytes => StatusCode::OK.into_response(),
                length if length > 0 && self.keeps_beginnings => {
                    (StatusCode::NOT_FOUND, [(OFFSET, length.to_string())]).into_response()
                }
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        }

        async fn take(&self, mut body: Body) -> Response {
            while let Some(Ok(frame)) = body.frame().await {
                let data = frame.into_data().unwrap_or_default();
                self.content.lock().unwrap().extend_from_slice(&data);
            }
            StatusCode::OK.into_response()
        }
    }

    async fn answer(State(shelf): State<Arc<Shelf>>, request: Arrived) -> Response {
        let method = request.method().clone();
        if method == Method::HEAD {
            return shelf.head();
        }
        shelf.methods.lock().unwrap().push(method.clone());
        let refusal = shelf.refusals.lock().unwrap().pop();
        if let Some(status) = refusal {
            // An answer that does not wait for the end may be lost with the connection.
            let _ = request.into_body().collect().await;
            return (status, [("retry-after", "0")]).into_response();
        }
        if method == Method::PUT {
            shelf.content.lock().unwrap().clear();
        } else {
            let offset = number(request.headers(), OFFSET).unwrap();
            assert_eq!(offset, shelf.content().len() as u64);
        }
        shelf.take(request.into_body()).await
    }

    /// Serves the shelf; the first connection breaks after so many bytes.
    async fn serve(shelf: Arc<Shelf>, break_after: Option<usize>) -> Uri {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = inner.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(shelf);
        tokio::spawn(async move { axum::serve(inner, router).await });
        let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = outer.local_addr().unwrap();
        tokio::spawn(async move {
            let mut limit = break_after;
            while let Ok((mut client, _)) = outer.accept().await {
                let mut server = TcpStream::connect(behind).await.unwrap();
                if let Some(bytes) = limit.take() {
                    pass(&mut client, &mut server, bytes).await;
                } else {
                    tokio::spawn(async move {
                        tokio::io::copy_bidirectional(&mut client, &mut server).await
                    });
                }
            }
        });
        format!("http://{front}").parse().unwrap()
    }

    async fn pass(client: &mut TcpStream, server: &mut TcpStream, bytes: usize) {
        let mut begin = vec![0; bytes];
        client.read_exact(&mut begin).await.unwrap();
        server.write_all(&begin).await.unwrap();
        server.flush().await.unwrap();
    }

    #[test]
    fn an_upload_that_stands_still_is_seen() {
        let mut progress = Progress::new(0);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!progress.stands_still(1, Duration::from_millis(10)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(progress.stands_still(1, Duration::from_millis(10)));
    }

    #[tokio::test]
    async fn what_a_file_has_grown_by_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "hashed, and more").unwrap();
        let piece = Piece { path, bytes: 6 };
        for (offset, rest) in [(0, "hashed"), (2, "shed")] {
            let on_its_way = Arc::new(AtomicU64::new(offset));
            let body = StreamBody::new(content(vec![piece.clone()], offset, &on_its_way));
            let sent = body.collect().await.unwrap().to_bytes();
            assert_eq!(&sent[..], rest.as_bytes());
            assert_eq!(on_its_way.load(Ordering::Relaxed), 6);
        }
    }

    #[test]
    fn an_address_has_the_name_of_the_file_in_it() {
        for (given, name, kept) in [
            ("s3://b/k/a.txt", "a.txt", "s3://b/k/a.txt"),
            (
                "s3://b/k/d/%C3%BC%20b+c.txt",
                "d/ü b+c.txt",
                "s3://b/k/d/ü b+c.txt",
            ),
            ("s3://b/k/50%25.txt", "50%25.txt", "s3://b/k/50%25.txt"),
            ("s3://b/k/other%20one", "a b", "s3://b/k/other%20one"),
            ("file:///k/a%20b", "a b", "file:///k/a%20b"),
        ] {
            assert_eq!(plain(given.to_owned(), name), kept);
        }
    }

    const BYTES: usize = 3_000_000;

    /// Sends three pieces to the shelf.
    async fn send(shelf: Shelf, break_after: Option<usize>) -> (Result<(), Error>, Arc<Shelf>) {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
        let mut pieces = Vec::new();
        for (index, part) in content.chunks(BYTES / 3).enumerate() {
            let path = folder.path().join(index.to_string());
            std::fs::write(&path, part).unwrap();
            let bytes = part.len() as u64;
            pieces.push(Piece { path, bytes });
        }
        let shelf = Arc::new(Shelf {
            whole_bytes: BYTES,
            ..shelf
        });
        let base = serve(Arc::clone(&shelf), break_after).await;
        let http = crate::net::Http::new(&crate::tls::Trust::default(), None).unwrap();
        let client = Client::new(Transport::http(base.clone(), http));
        let location = Location {
            signed_url: format!("{base}bundle"),
            headers: Vec::new(),
            native_url: String::new(),
            exists: false,
        };
        let upload = Upload {
            org: "",
            project: "p",
            domain: "d",
            filename: "f",
            folder: "",
            md5: [0; 16],
            pieces,
        };
        let outcome = client.put(&location, &upload, &|_| {}).await;
        if outcome.is_ok() {
            assert!(shelf.content() == content);
        }
        (outcome, shelf)
    }

    #[tokio::test]
    async fn what_arrived_before_the_connection_broke_is_not_sent_again() {
        let shelf = Shelf {
            keeps_beginnings: true,
            ..Shelf::default()
        };
        let (outcome, shelf) = send(shelf, Some(1_800_000)).await;
        outcome.unwrap();
        assert_eq!(shelf.methods(), [Method::PUT, Method::PATCH]);
    }

    #[tokio::test]
    async fn a_server_that_keeps_nothing_gets_everything_again() {
        let (outcome, shelf) = send(Shelf::default(), Some(1_800_000)).await;
        outcome.unwrap();
        assert_eq!(shelf.methods(), [Method::PUT, Method::PUT]);
    }

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again_and_not_forever() {
        let refusing = |refusals: &[StatusCode]| Shelf {
            refusals: Mutex::new(refusals.to_vec()),
            ..Shelf::default()
        };
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        let (outcome, shelf) = send(refusing(&[busy, busy]), None).await;
        outcome.unwrap();
        assert_eq!(shelf.methods().len(), 3);
        let (outcome, shelf) = send(refusing(&[StatusCode::FORBIDDEN]), None).await;
        assert!(outcome.unwrap_err().to_string().contains("403 Forbidden"));
        assert_eq!(shelf.methods().len(), 1);
        let (outcome, shelf) = send(refusing(&[busy; 9]), None).await;
        assert!(outcome.unwrap_err().to_string().contains("503"));
        assert_eq!(shelf.methods().len(), 5);
    }
}
