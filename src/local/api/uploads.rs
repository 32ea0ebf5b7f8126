//! `DataProxyService` and the place where code bundles arrive.
//!
//! A bundle lies at a path made of its MD5 and its name, a file of a folder at one of that folder's
//! name and its own. It is written beside its place, checked
//! against the MD5 and renamed, so that what lies there is always whole. What arrived before a
//! connection broke is kept there too, hidden; `HEAD` tells how much it is and `PATCH` goes on.
//!
//! The address of an upload is signed: it is good for one place and for a while, and nobody can
//! make one but this process.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::put;
use buffa_types::google::protobuf::Timestamp;
use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult,
};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use tokio::io::AsyncWriteExt;

use super::Api;
use super::door::Reached;
use crate::crash;
use crate::files::{read_in_pieces, sync_folder_of, touch};
use crate::local::store::now_ms;
use crate::wire::dataproxy::{self, DataProxyService};

/// Names the position in an upload, in bytes.
const OFFSET: &str = "upload-offset";
/// How long an address is good where its caller does not say, and at most.
const GOOD_FOR_S: i64 = 900;
const LONGEST_S: i64 = 3600;
/// What replicas unpack at most, so more than that is of no use to anybody.
const MOST_BYTES: u64 = 20 << 30;

/// Signs addresses of uploads, with a key that lives as long as the process.
pub struct Signer([u8; 32]);

/// What is behind the `?` of such an address.
#[derive(serde::Deserialize)]
struct Signed {
    /// Seconds since 1970.
    expires: i64,
    /// Of what goes there.
    md5: String,
    signature: String,
}

impl Signer {
    /// A signer with a key that nobody can guess.
    pub fn new() -> std::io::Result<Self> {
        let mut key = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
        Ok(Self(key))
    }

    /// A name of this process that tells nothing of the key.
    pub fn instance(&self) -> String {
        blake3::keyed_hash(&self.0, b"instance").to_hex()[..32].to_owned()
    }

    fn sign(&self, place: &str, md5: &str, expires: i64) -> blake3::Hash {
        blake3::keyed_hash(&self.0, format!("{expires}\n{md5}\n{place}").as_bytes())
    }

    fn is_good(&self, place: &str, given: &Signed) -> bool {
        // Compared in constant time.
        blake3::Hash::from_hex(&given.signature)
            .is_ok_and(|hash| hash == self.sign(place, &given.md5, given.expires))
            && given.expires > now_ms() / 1000
    }
}

impl DataProxyService for Api {
    async fn create_upload_location<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, dataproxy::CreateUploadLocationRequest>,
    ) -> ServiceResult<impl Encodable<dataproxy::CreateUploadLocationResponse> + Send + use<'a>>
    {
        let request = request.to_owned_message();
        let digest = hex(&request.content_md5);
        let root = &request.filename_root;
        let folder = if root.is_empty() { &digest } else { root };
        let parts = [&request.project, &request.domain, folder];
        if digest.len() != 32
            || !parts.iter().all(|part| is_plain(part))
            || !is_inside(&request.filename)
        {
            return Err(ConnectError::invalid_argument(
                "an upload needs a project, a domain, a plain file name and an MD5 of 16 bytes",
            ));
        }
        let relative = format!(
            "{}/{}",
            parts.map(String::as_str).join("/"),
            request.filename
        );
        let place = self.uploads().join(&relative);
        let reached = ctx.extensions().get::<Reached>();
        let base = reached.map_or("http://localhost", |Reached(base)| base);
        let asked = request.expires_in.seconds;
        let good_for = if asked > 0 { asked } else { GOOD_FOR_S };
        let expires = now_ms() / 1000 + good_for.min(LONGEST_S);
        let signature = self.signer.sign(&relative, &digest, expires).to_hex();
        let escaped = escaped(&relative);
        Response::ok(dataproxy::CreateUploadLocationResponse {
            signed_url: format!(
                "{base}/upload/{escaped}?md5={digest}&expires={expires}&signature={signature}"
            ),
            native_url: format!("file://{}", place.display()),
            expires_at: Timestamp {
                seconds: expires,
                ..Default::default()
            }
            .into(),
            ..Default::default()
        })
    }
}

pub(super) fn router() -> Router<Api> {
    Router::new().route(
        "/upload/{project}/{domain}/{folder}/{*filename}",
        put(receive).patch(resume).head(exists),
    )
}

type Parts = UrlPath<(String, String, String, String)>;

/// Why an address leads nowhere.
type NoPlace = (StatusCode, &'static str);

/// Where the upload of that address lies, if the address is good.
fn place(api: &Api, parts: &Parts, signature: &Signed) -> Result<PathBuf, NoPlace> {
    let UrlPath((project, domain, folder, filename)) = parts;
    let parts = [project, domain, folder];
    if !parts.iter().all(|part| is_plain(part)) || !is_inside(filename) {
        return Err((StatusCode::NOT_FOUND, "no upload has such a name"));
    }
    let relative = format!("{}/{filename}", parts.map(String::as_str).join("/"));
    if !api.signer.is_good(&relative, signature) {
        let told =
            "the address of this upload is not good: it has expired, or is not of this platform";
        return Err((StatusCode::FORBIDDEN, told));
    }
    Ok(api.uploads().join(relative))
}

async fn exists(
    State(api): State<Api>,
    parts: Parts,
    Query(signature): Query<Signed>,
) -> HttpResponse {
    let path = match place(&api, &parts, &signature) {
        Ok(path) => path,
        Err(refused) => return refused.into_response(),
    };
    // Whoever asks is about to use it, so it must not be tidied away until then.
    if path.is_file() && touch(&path) {
        return StatusCode::OK.into_response();
    }
    match tokio::fs::metadata(begun(&path)).await {
        Ok(there) => (StatusCode::NOT_FOUND, [(OFFSET, there.len().to_string())]).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn receive(
    State(api): State<Api>,
    parts: Parts,
    Query(signature): Query<Signed>,
    body: Body,
) -> HttpResponse {
    match place(&api, &parts, &signature) {
        Ok(path) => answer(&path, write(&path, &signature.md5, body).await),
        Err(refused) => refused.into_response(),
    }
}

async fn resume(
    State(api): State<Api>,
    parts: Parts,
    Query(signature): Query<Signed>,
    headers: HeaderMap,
    body: Body,
) -> HttpResponse {
    let offset = headers
        .get(OFFSET)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    match (place(&api, &parts, &signature), offset) {
        (Err(refused), _) => refused.into_response(),
        (Ok(_), None) => StatusCode::BAD_REQUEST.into_response(),
        (Ok(path), Some(offset)) => answer(&path, go_on(&path, &signature.md5, offset, body).await),
    }
}

fn answer(path: &Path, outcome: Result<(), Refusal>) -> HttpResponse {
    match outcome {
        Ok(()) => StatusCode::OK.into_response(),
        Err(Refusal::Mismatch) => (
            StatusCode::BAD_REQUEST,
            "the content does not have the MD5 that was announced",
        )
            .into_response(),
        Err(Refusal::OtherOffset) => (
            StatusCode::CONFLICT,
            "what is there of this upload does not end at that offset",
        )
            .into_response(),
        Err(Refusal::TooLarge) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "an upload has at most 20 GiB",
        )
            .into_response(),
        Err(Refusal::Broken(error)) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        Err(Refusal::Io(error)) => {
            tracing::error!(path = %path.display(), %error, "cannot store an upload");
            (StatusCode::INSUFFICIENT_STORAGE, error.to_string()).into_response()
        }
    }
}

enum Refusal {
    Mismatch,
    OtherOffset,
    TooLarge,
    /// The connection ended before the content did.
    Broken(axum::Error),
    Io(std::io::Error),
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where the beginning of an upload waits for the rest. No name of an upload begins with a dot.
fn begun(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".begun-{name}"))
}

async fn write(path: &Path, md5: &str, body: Body) -> Result<(), Refusal> {
    let folder = path.parent().unwrap_or(path);
    tokio::fs::create_dir_all(folder).await?;
    // Removed when dropped, whatever happens on the way.
    let begun = Begun {
        file: temporary_in(folder)?,
        hash: Md5::new(),
        bytes: 0,
    };
    append(path, md5, begun, MOST_BYTES, body).await
}

/// A file to write to, of a name that is no upload's: a platform that starts removes such files.
fn temporary_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".flyte-upload-")
        .tempfile_in(folder)
}

/// Takes what has arrived out of its place, so that nobody else goes on with it too.
async fn go_on(path: &Path, md5: &str, offset: u64, body: Body) -> Result<(), Refusal> {
    let folder = path.parent().unwrap_or(path);
    let there = begun(path);
    if !tokio::fs::metadata(&there)
        .await
        .is_ok_and(|there| there.len() == offset)
    {
        return Err(Refusal::OtherOffset);
    }
    let temporary = temporary_in(folder)?;
    if tokio::fs::rename(&there, temporary.path()).await.is_err() {
        return Err(Refusal::OtherOffset);
    }
    crash::point("upload.claimed");
    let claimed = temporary.path().to_path_buf();
    let hashed = tokio::task::spawn_blocking(move || hash_of(&claimed)).await;
    let (hash, bytes) = hashed.map_err(std::io::Error::other)??;
    if bytes != offset {
        return Err(Refusal::OtherOffset);
    }
    let begun = Begun {
        file: temporary,
        hash,
        bytes,
    };
    append(path, md5, begun, MOST_BYTES, body).await
}

/// What has arrived so far.
struct Begun {
    file: tempfile::NamedTempFile,
    hash: Md5,
    bytes: u64,
}

fn hash_of(path: &Path) -> std::io::Result<(Md5, u64)> {
    let (mut hash, mut bytes) = (Md5::new(), 0);
    read_in_pieces(path, |piece| {
        hash.update(piece);
        bytes += piece.len() as u64;
    })?;
    Ok((hash, bytes))
}

/// Adds the body to what has arrived and puts it in its place; `most` bytes in all.
async fn append(
    path: &Path,
    md5: &str,
    begun: Begun,
    most: u64,
    mut body: Body,
) -> Result<(), Refusal> {
    let Begun {
        file: temporary,
        mut hash,
        mut bytes,
    } = begun;
    let mut options = tokio::fs::File::options();
    let mut file = options.append(true).open(temporary.path()).await?;
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                file.flush().await?;
                crash::point("upload.broken");
                let kept = temporary.persist(self::begun(path));
                kept.map_err(|error| Refusal::Io(error.error))?;
                return Err(Refusal::Broken(error));
            }
        };
        if let Ok(data) = frame.into_data() {
            bytes = bytes.saturating_add(data.len() as u64);
            if bytes > most {
                return Err(Refusal::TooLarge);
            }
            hash.update(&data);
            file.write_all(&data).await?;
        }
    }
    // The last write is still under way, and nothing later would tell that it failed.
    file.flush().await?;
    // Containers read it as users of their own; the home above it admits nobody else. Nobody writes
    // into it: apps are given links to it, and its name says what it holds.
    file.set_permissions(std::fs::Permissions::from_mode(0o444))
        .await?;
    file.sync_all().await?;
    crash::point("upload.arrived");
    if hex(&hash.finalize()) != md5 {
        return Err(Refusal::Mismatch);
    }
    temporary
        .persist(path)
        .map_err(|error| Refusal::Io(error.error))?;
    crash::point("upload.stored");
    // The file is on the disk once its name is, and that one's once the folder's is.
    sync_folder_of(path)?;
    if let Some(folder) = path.parent() {
        sync_folder_of(folder)?;
    }
    Ok(())
}

/// A path below a folder, of names that cannot climb and are none of our own.
fn is_inside(path: &str) -> bool {
    path.split('/').all(|name| {
        let own = [".begun-", ".damaged-", ".flyte-upload-"];
        let ours = own.iter().any(|prefix| name.starts_with(prefix));
        !ours && !matches!(name, "" | "." | "..") && !name.contains(['\0', '\n'])
    })
}

/// A path as it stands in a URL.
fn escaped(path: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(byte);
    path.bytes().fold(String::new(), |mut text, byte| {
        if plain(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push_str(&hex(&[byte]).to_ascii_uppercase());
        }
        text
    })
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
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "apps share it");
    }

    #[tokio::test]
    async fn an_upload_ends_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.zst");
        let digest = hex(&Md5::digest(b"content"));
        let limited = async |most| {
            let begun = Begun {
                file: tempfile::NamedTempFile::new_in(folder.path()).unwrap(),
                hash: Md5::new(),
                bytes: 0,
            };
            append(&path, &digest, begun, most, Body::from("content")).await
        };
        assert!(matches!(limited(6).await, Err(Refusal::TooLarge)));
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 0, "a refused upload leaves nothing");
        assert!(limited(7).await.is_ok());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_upload_that_fills_the_disk_is_not_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.zst");
        let file = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        std::fs::remove_file(file.path()).unwrap();
        std::os::unix::fs::symlink("/dev/full", file.path()).unwrap();
        let begun = Begun {
            file,
            hash: Md5::new(),
            bytes: 0,
        };
        let digest = hex(&Md5::digest(b"content"));
        let refused = append(&path, &digest, begun, 7, Body::from("content")).await;
        // Syncing fails here too, with another error; on a disk it does not.
        let full = std::io::ErrorKind::StorageFull;
        assert!(matches!(refused, Err(Refusal::Io(error)) if error.kind() == full));
    }

    /// A body whose connection breaks after these bytes.
    fn broken(begin: &'static str) -> Body {
        let frames = [Ok(begin), Err(std::io::Error::other("reset"))];
        Body::from_stream(futures::stream::iter(frames))
    }

    #[tokio::test]
    async fn a_broken_upload_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p/d/bundle.tar.zst");
        let digest = hex(&Md5::digest(b"content"));
        assert!(write(&path, &digest, broken("con")).await.is_err());
        assert_eq!(std::fs::read(begun(&path)).unwrap(), b"con");
        for offset in [0, 2, 4] {
            let refused = go_on(&path, &digest, offset, Body::from("tent")).await;
            assert!(matches!(refused, Err(Refusal::OtherOffset)), "{offset}");
        }
        assert!(go_on(&path, &digest, 3, broken("te")).await.is_err());
        assert_eq!(std::fs::read(begun(&path)).unwrap(), b"conte");
        let done = go_on(&path, &digest, 5, Body::from("nt")).await;
        assert!(done.is_ok());
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn an_address_is_good_for_one_place_and_a_while() {
        let signer = Signer::new().unwrap();
        let soon = now_ms() / 1000 + 60;
        let signature = |place: &str, expires| Signed {
            expires,
            md5: "0".to_owned(),
            signature: signer.sign(place, "0", expires).to_hex().to_string(),
        };
        assert!(signer.is_good("p/d/0/f", &signature("p/d/0/f", soon)));
        assert!(!signer.is_good("p/d/0/g", &signature("p/d/0/f", soon)));
        let past = now_ms() / 1000 - 1;
        assert!(!signer.is_good("p/d/0/f", &signature("p/d/0/f", past)));
        let longer = Signed {
            expires: soon + 1,
            ..signature("p/d/0/f", soon)
        };
        assert!(!signer.is_good("p/d/0/f", &longer));
        let other_content = Signed {
            md5: "1".to_owned(),
            ..signature("p/d/0/f", soon)
        };
        assert!(!signer.is_good("p/d/0/f", &other_content));
        let other = Signer::new().unwrap();
        assert!(!other.is_good("p/d/0/f", &signature("p/d/0/f", soon)));
    }

    #[test]
    fn names_cannot_climb() {
        for bad in ["..", "", ".hidden", "a/b", "a\\b", "a b"] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert!(is_plain("fast0a.tar.zst"));
        for bad in ["..", "a/../b", "/a", "a//b", "a/.begun-b", "a\nb"] {
            assert!(!is_inside(bad), "{bad}");
        }
        assert!(is_inside("a b/.hidden/ü.bin"));
        assert_eq!(escaped("p/a b/ü?"), "p/a%20b/%C3%BC%3F");
    }
}
