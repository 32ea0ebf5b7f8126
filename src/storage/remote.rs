//! A place that can be read: what is in it, and its bytes from any position.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use http::{HeaderMap, StatusCode, header};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use super::checksum::Checksum;
use super::location::{Location, Scheme};
use super::wire::Headers;

/// What to do where a web server refuses.
const WEB: &str = "a web server takes credentials from the URL only: `https://user:password@host/...`, \
                   or one that is signed and has not expired";

/// One thing that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    /// Path below what was asked for; the name for a single file.
    pub relative: String,
    /// Not known where a server makes the content while it sends it.
    pub size: Option<u64>,
    /// Without its quotes, which some leave out where they list.
    pub etag: Option<String>,
    pub version: Option<String>,
    /// Seconds since 1970; 0 where the server does not say.
    pub modified: i64,
    /// Whether any part of it can be asked for.
    pub ranges: bool,
}

impl Object {
    /// The condition that it is still the same; a weak tag never fulfils it.
    fn if_match(&self) -> Option<String> {
        let tag = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"))?;
        Some(format!("\"{tag}\""))
    }

    /// An answer without a tag says nothing: some servers name one only when asked for the head.
    fn is_other_than(&self, etag: Option<&str>) -> bool {
        match (self.etag.as_deref(), etag.map(bare)) {
            (Some(known), Some(found)) => known != found,
            (Some(_), None) | (None, _) => false,
        }
    }
}

/// Bytes of an object, from where they were asked for.
pub struct Body {
    pub headers: HeaderMap,
    /// Whether it begins at the beginning and ends at the end.
    pub whole: bool,
    pub stream: BoxStream<'static, Result<Bytes, String>>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Failure {
    NotFound,
    Denied(String),
    /// It is not what it was when it was first looked at.
    Changed,
    /// Asking again changes nothing.
    Refused(String),
    /// Asking again may help.
    Transient(String),
    NoListing,
}

/// An open connection to a place.
pub enum Remote {
    Store {
        store: Arc<dyn ObjectStore>,
        scheme: Scheme,
        /// Tells equal names at different services apart.
        service: String,
        /// What to do about a refusal, if requests are anonymous.
        anonymous: Option<&'static str>,
    },
    Web {
        client: reqwest::Client,
    },
}

impl Remote {
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Store { scheme, .. } => *scheme,
            Self::Web { .. } => Scheme::Http,
        }
    }

    /// The service behind the address, where an address alone does not tell.
    pub fn service(&self) -> &str {
        match self {
            Self::Store { service, .. } => service,
            Self::Web { .. } => "",
        }
    }

    pub fn anonymous(&self) -> Option<&'static str> {
        match self {
            Self::Store { anonymous, .. } => *anonymous,
            Self::Web { .. } => Some(WEB),
        }
    }

    /// The one object at `location`.
    pub async fn look(&self, location: &Location) -> Result<Object, Failure> {
        match self {
            Self::Store { store, .. } => {
                let meta = store.head(&key(&location.key)?).await.map_err(failure)?;
                Ok(object(meta, location.name()))
            }
            Self::Web { client } => look_web(client, location).await,
        }
    }

    /// All objects below `location`.
    pub async fn list(&self, location: &Location) -> Result<Vec<Object>, Failure> {
        let Self::Store { store, .. } = self else {
            return Err(Failure::NoListing);
        };
        let prefix = key(&location.key)?;
        let listed: Vec<_> = store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(failure)?;
        let objects = listed.into_iter().filter_map(|meta| {
            let relative = meta.location.as_ref().strip_prefix(prefix.as_ref())?;
            let relative = relative.trim_start_matches('/').to_owned();
            (!relative.is_empty()).then(|| object(meta, relative))
        });
        Ok(without_folder_marks(objects.collect()))
    }

    /// Names beside `location`: what may have been meant.
    pub async fn siblings(&self, location: &Location) -> Vec<String> {
        let Self::Store { store, .. } = self else {
            return Vec::new();
        };
        let parent = location
            .key
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent);
        let Ok(parent) = key(parent) else {
            return Vec::new();
        };
        let Ok(found) = store.list_with_delimiter(Some(&parent)).await else {
            return Vec::new();
        };
        let objects = found.objects.into_iter().map(|meta| meta.location);
        objects
            .chain(found.common_prefixes)
            .map(|key| key.as_ref().to_owned())
            .collect()
    }

    /// The checksum of an object that will come in parts, where parts will not tell it.
    pub async fn checksum(&self, object: &Object) -> Option<Checksum> {
        let Self::Store {
            store,
            scheme: scheme @ Scheme::S3,
            ..
        } = self
        else {
            return None;
        };
        let options = GetOptions {
            head: true,
            if_match: object.if_match(),
            version: object.version.clone(),
            ..GetOptions::default()
        };
        let found = store
            .get_opts(&key(&object.key).ok()?, options)
            .await
            .ok()?;
        let headers = found.extensions.get::<Headers>()?;
        Checksum::of(*scheme, &headers.0, true)
    }

    /// The bytes of `object` in `range`, or all of them.
    pub async fn read(
        &self,
        location: &Location,
        object: &Object,
        range: Option<Range<u64>>,
    ) -> Result<Body, Failure> {
        match self {
            Self::Store { store, .. } => read_store(store.as_ref(), object, range).await,
            Self::Web { client } => read_web(client, location, object, range).await,
        }
    }
}

/// A strong tag without its quotes.
fn bare(tag: &str) -> &str {
    tag.strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .unwrap_or(tag)
}

pub fn key(text: &str) -> Result<Key, Failure> {
    Key::parse(text).map_err(|error| Failure::Refused(error.to_string()))
}

fn object(meta: object_store::ObjectMeta, relative: String) -> Object {
    Object {
        key: meta.location.as_ref().to_owned(),
        relative,
        size: Some(meta.size),
        etag: meta.e_tag.as_deref().map(|tag| bare(tag).to_owned()),
        version: meta.version,
        modified: meta.last_modified.timestamp(),
        ranges: true,
    }
}

/// Drops the empty objects that consoles make for folders, whose slash is lost on the way here.
fn without_folder_marks(mut objects: Vec<Object>) -> Vec<Object> {
    objects.sort_by(|a, b| a.relative.cmp(&b.relative));
    let folders: std::collections::HashSet<String> = objects
        .iter()
        .flat_map(|object| {
            let name = &object.relative;
            name.match_indices('/').map(|(at, _)| name[..at].to_owned())
        })
        .collect();
    objects.retain(|object| object.size != Some(0) || !folders.contains(&object.relative));
    objects
}

async fn read_store(
    store: &dyn ObjectStore,
    object: &Object,
    range: Option<Range<u64>>,
) -> Result<Body, Failure> {
    let whole = range.is_none();
    let options = GetOptions {
        if_match: object.if_match(),
        range: range.map(GetRange::Bounded),
        version: object.version.clone(),
        ..GetOptions::default()
    };
    let found = store
        .get_opts(&key(&object.key)?, options)
        .await
        .map_err(failure)?;
    if object.is_other_than(found.meta.e_tag.as_deref()) {
        return Err(Failure::Changed);
    }
    let headers = found.extensions.get::<Headers>().cloned();
    Ok(Body {
        headers: headers.map(|kept| kept.0).unwrap_or_default(),
        whole,
        stream: found.into_stream().map_err(|error| reason(&error)).boxed(),
    })
}

/// Asks a web server; one whose URLs are signed permits nothing but `GET`.
async fn look_web(client: &reqwest::Client, location: &Location) -> Result<Object, Failure> {
    if !location.url.contains('?') {
        let answer = client
            .head(&location.url)
            .send()
            .await
            .map_err(web_failure)?;
        match answer.status() {
            StatusCode::FORBIDDEN
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => {}
            _ => {
                let answer = checked(answer).await?;
                let headers = answer.headers();
                let size = number(headers, header::CONTENT_LENGTH);
                let ranges = headers
                    .get(header::ACCEPT_RANGES)
                    .is_some_and(|v| v == "bytes");
                return Ok(web_object(location, headers, size, ranges));
            }
        }
    }
    let request = client.get(&location.url).header(header::RANGE, "bytes=0-0");
    let answer = request.send().await.map_err(web_failure)?;
    // An empty file has no first byte.
    if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(web_object(location, answer.headers(), Some(0), true));
    }
    let answer = checked(answer).await?;
    let headers = answer.headers();
    let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
    let size = if partial {
        content_range(headers).and_then(|(_, size)| size)
    } else {
        number(headers, header::CONTENT_LENGTH)
    };
    Ok(web_object(location, headers, size, partial))
}

fn web_object(location: &Location, headers: &HeaderMap, size: Option<u64>, ranges: bool) -> Object {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let modified = text(header::LAST_MODIFIED)
        .and_then(|text| httpdate::parse_http_date(text).ok())
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Object {
        key: location.key.clone(),
        relative: location.name(),
        size: size.filter(|_| !headers.contains_key(header::CONTENT_ENCODING)),
        etag: text(header::ETAG).map(|tag| bare(tag).to_owned()),
        version: None,
        modified: modified.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(0)),
        ranges,
    }
}

async fn read_web(
    client: &reqwest::Client,
    location: &Location,
    object: &Object,
    range: Option<Range<u64>>,
) -> Result<Body, Failure> {
    let mut request = client.get(&location.url);
    if let Some(tag) = object.if_match() {
        request = request.header(header::IF_MATCH, tag);
    }
    if let Some(range) = &range {
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        request = request.header(header::RANGE, bytes);
    }
    let answer = checked(request.send().await.map_err(web_failure)?).await?;
    let headers = answer.headers().clone();
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    if object.is_other_than(tag) {
        return Err(Failure::Changed);
    }
    let whole = range.is_none();
    if let Some(range) = range {
        let begins = content_range(&headers).map(|(start, _)| start);
        if answer.status() != StatusCode::PARTIAL_CONTENT || begins != Some(range.start) {
            let text = "the server sent another part than it was asked for";
            return Err(Failure::Refused(text.to_owned()));
        }
    }
    let stream = answer.bytes_stream();
    let stream = stream.map_err(|error| reason(&error.without_url())).boxed();
    Ok(Body {
        headers,
        whole,
        stream,
    })
}

/// An answer that holds what was asked for, or why it does not.
async fn checked(answer: reqwest::Response) -> Result<reqwest::Response, Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = format!("the server answered {status}");
    Err(match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Failure::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let said = answer.text().await.unwrap_or_default();
            Failure::Denied(said_by_store(&said).unwrap_or(text))
        }
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => Failure::Changed,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Failure::Transient(text),
        _ if status.is_server_error() => Failure::Transient(text),
        _ => Failure::Refused(text),
    })
}

fn web_failure(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if error.is_builder() || error.is_redirect() {
        Failure::Refused(reason(&error))
    } else {
        Failure::Transient(reason(&error))
    }
}

fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// First byte and size of the whole, from `Content-Range`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, size.parse().ok()))
}

pub fn failure(error: object_store::Error) -> Failure {
    use object_store::Error as Stored;
    let text = error.to_string();
    let told = said_by_store(&text).unwrap_or_else(|| reason(&error));
    match error {
        Stored::NotFound { .. } => Failure::NotFound,
        Stored::PermissionDenied { .. } | Stored::Unauthenticated { .. } => Failure::Denied(told),
        Stored::Precondition { .. } | Stored::NotModified { .. } => Failure::Changed,
        Stored::Generic { .. } | Stored::JoinError { .. } => Failure::Transient(told),
        Stored::InvalidPath { .. }
        | Stored::NotSupported { .. }
        | Stored::AlreadyExists { .. }
        | Stored::NotImplemented { .. }
        | Stored::UnknownConfigurationKey { .. }
        | _ => Failure::Refused(told),
    }
}

/// The innermost cause: what stands around it only repeats where it happened.
fn reason(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Code and message from the XML that stores answer with.
fn said_by_store(text: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inside, _) = rest.split_once(&format!("</{name}>"))?;
        inside.lines().next().map(|line| line.trim().to_owned())
    };
    let code = element("Code")?;
    Some(match element("Message") {
        Some(message) => format!("{code}: {}", message.trim_end_matches('.')),
        None => code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(relative: &str, size: u64) -> Object {
        Object {
            key: relative.to_owned(),
            relative: relative.to_owned(),
            size: Some(size),
            etag: None,
            version: None,
            modified: 0,
            ranges: true,
        }
    }

    #[test]
    fn marks_of_folders_are_no_files() {
        let objects = vec![
            named("a", 0),
            named("a/b", 1),
            named("c", 0),
            named("d", 2),
            named("d/e", 0),
        ];
        let kept: Vec<String> = without_folder_marks(objects)
            .into_iter()
            .map(|object| object.relative)
            .collect();
        assert_eq!(kept, ["a/b", "c", "d", "d/e"]);
    }

    #[test]
    fn what_a_store_says_is_found_in_its_answer() {
        let xml = "x <Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";
        assert_eq!(said_by_store(xml).unwrap(), "AccessDenied: Access Denied");
        assert_eq!(said_by_store("no"), None);
    }
}
