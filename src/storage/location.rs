//! What an address means: which kind of store, which bucket, which key.

use super::Error;
use crate::error::did_you_mean;

/// Kinds of places that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    S3,
    Gcs,
    Azure,
    Http,
}

/// Spellings of each kind.
const SCHEMES: &[(&str, Scheme)] = &[
    ("s3", Scheme::S3),
    ("s3a", Scheme::S3),
    ("gs", Scheme::Gcs),
    ("gcs", Scheme::Gcs),
    ("abfs", Scheme::Azure),
    ("abfss", Scheme::Azure),
    ("az", Scheme::Azure),
    ("http", Scheme::Http),
    ("https", Scheme::Http),
];

/// An address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub scheme: Scheme,
    /// As it was given.
    pub url: String,
    /// Bucket or container, with the account before it where one is named (`container@account`).
    pub bucket: String,
    /// Key or prefix, without slashes at its ends.
    pub key: String,
}

impl Location {
    /// Takes apart a URL that names no local file.
    ///
    /// # Errors
    /// `config.invalid` for a scheme that is not known, or an address without a bucket.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let known = SCHEMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(scheme));
        let Some((_, scheme)) = known.copied() else {
            let names = SCHEMES.iter().map(|(name, _)| *name).chain(["file"]);
            return Err(Error::Scheme {
                url: without_secrets(url),
                close: did_you_mean(scheme, names).map(str::to_owned),
                scheme: scheme.to_owned(),
            });
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(Error::Address {
                url: without_secrets(url),
                reason: "it names no bucket or host".to_owned(),
            });
        }
        Ok(Self {
            scheme,
            url: url.to_owned(),
            bucket: bucket.to_owned(),
            key: key.trim_matches('/').to_owned(),
        })
    }

    /// What lies below it under `relative`.
    #[must_use]
    pub fn below(&self, relative: &str) -> Self {
        Self {
            scheme: self.scheme,
            url: format!("{}/{relative}", self.url.trim_end_matches('/')),
            bucket: self.bucket.clone(),
            key: format!("{}/{relative}", self.key)
                .trim_start_matches('/')
                .to_owned(),
        }
    }

    /// The address for messages: without what may be a credential.
    pub fn shown(&self) -> String {
        without_secrets(&self.url)
    }

    /// The last part of the key: the name of a copy.
    pub fn name(&self) -> String {
        let key = match self.scheme {
            Scheme::Http => self.key.split(['?', '#']).next().unwrap_or_default(),
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => &self.key,
        };
        let last = key.trim_end_matches('/').rsplit('/').next();
        match last.filter(|last| !matches!(*last, "" | "." | "..")) {
            Some(last) => last.to_owned(),
            None => "download".to_owned(),
        }
    }
}

/// The text that stands percent-encoded; `None` where it stands otherwise, or is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A URL without its query and without a password.
pub fn without_secrets(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else {
        return bare.to_owned();
    };
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, None), |(host, path)| (host, Some(path)));
    // `container@account` of Azure is an address; `user:password@host` holds a password.
    let host = match host.rsplit_once('@') {
        Some((user, host)) if user.contains(':') || scheme.starts_with("http") => host,
        _ => host,
    };
    match path {
        Some(path) => format!("{scheme}://{host}/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, scheme, bucket, key, name) in [
            ("s3://b/a/m.bin", Scheme::S3, "b", "a/m.bin", "m.bin"),
            ("gs://b/data/", Scheme::Gcs, "b", "data", "data"),
            (
                "abfs://c@a.dfs.core.windows.net/x",
                Scheme::Azure,
                "c@a.dfs.core.windows.net",
                "x",
                "x",
            ),
            (
                "https://h/p/f.bin?sig=1",
                Scheme::Http,
                "h",
                "p/f.bin?sig=1",
                "f.bin",
            ),
            ("s3://b", Scheme::S3, "b", "", "download"),
            ("https://h/..", Scheme::Http, "h", "..", "download"),
        ] {
            let location = Location::parse(url).unwrap();
            assert_eq!(location.scheme, scheme, "{url}");
            assert_eq!(
                (location.bucket.as_str(), location.key.as_str()),
                (bucket, key)
            );
            assert_eq!(location.name(), name, "{url}");
        }
    }

    #[test]
    fn unknown_schemes_and_empty_buckets_are_refused() {
        let error = Location::parse("s33://b/k").unwrap_err();
        assert_eq!(
            crate::error::Diagnostic::hints(&error),
            ["did you mean `s3://`?"]
        );
        assert!(matches!(
            Location::parse("s3:///k"),
            Err(Error::Address { .. })
        ));
        assert!(matches!(
            Location::parse("hdfs://n/k"),
            Err(Error::Scheme { .. })
        ));
    }

    #[test]
    fn what_is_shown_holds_no_credentials() {
        for (url, shown) in [
            ("https://u:pw@h/p?X-Amz-Signature=1", "https://h/p"),
            ("https://token@h/p#x", "https://h/p"),
            ("abfs://c@account/k", "abfs://c@account/k"),
            ("s3://key:secret@b/k", "s3://b/k"),
            ("https://h", "https://h"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
