//! A token, when it ends, and what it is renewed with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::HEADER;
use crate::config::Secret;

/// How long before its end a token is renewed.
const MARGIN: Duration = Duration::from_secs(60);

/// What a login leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    pub access: Secret,
    pub refresh: Option<Secret>,
    /// Seconds since 1970; `None` where nobody said.
    pub ends_at: Option<u64>,
    /// Seconds that it lasts in all.
    pub lifetime: Option<u64>,
    /// What it is sent under.
    pub header: String,
}

/// How tokens are kept: the names of the PyPI SDK, and what it does not keep.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    access_token: std::borrow::Cow<'a, str>,
    refresh_token: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    expires_at: Option<u64>,
    #[serde(default)]
    lifetime: Option<u64>,
    #[serde(default)]
    header: Option<String>,
}

impl Tokens {
    /// One that is good until it is refused.
    pub fn lasting(access: Secret) -> Self {
        Self {
            access,
            refresh: None,
            ends_at: None,
            lifetime: None,
            header: HEADER.to_owned(),
        }
    }

    /// Whether it is to be renewed before it is used. One that lasts for minutes is not renewed at
    /// each call.
    pub fn ends_soon(&self) -> bool {
        let margin = self.lifetime.map_or(MARGIN, |lifetime| {
            MARGIN.min(Duration::from_secs(lifetime) / 5)
        });
        self.ends_within(margin)
    }

    pub fn is_over(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    fn ends_within(&self, margin: Duration) -> bool {
        self.ends_at
            .is_some_and(|end| end <= now().saturating_add(margin.as_secs()))
    }

    /// As it is kept.
    pub fn to_json(&self) -> Secret {
        let kept = Kept {
            access_token: self.access.reveal().into(),
            refresh_token: self.refresh.as_ref().map(|token| token.reveal().into()),
            expires_at: self.ends_at,
            lifetime: self.lifetime,
            header: Some(self.header.clone()),
        };
        Secret::new(serde_json::to_string(&kept).unwrap_or_default())
    }

    /// What was kept; `None` where it cannot be read.
    pub fn from_json(text: &str) -> Option<Self> {
        let kept: Kept<'_> = serde_json::from_str(text).ok()?;
        let secret = |text: std::borrow::Cow<'_, str>| Secret::new(text.into_owned());
        Some(Self {
            access: secret(kept.access_token),
            refresh: kept.refresh_token.map(secret),
            ends_at: kept.expires_at,
            lifetime: kept.lifetime,
            header: kept.header.unwrap_or_else(|| HEADER.to_owned()),
        })
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending_in(seconds: u64, lifetime: u64) -> Tokens {
        Tokens {
            ends_at: Some(now() + seconds),
            lifetime: Some(lifetime),
            ..Tokens::lasting(Secret::new("t"))
        }
    }

    #[test]
    fn a_token_is_renewed_in_its_last_minute_or_fifth() {
        assert!(!ending_in(120, 3600).ends_soon());
        assert!(ending_in(30, 3600).ends_soon());
        assert!(!ending_in(5, 10).ends_soon());
        assert!(ending_in(1, 10).ends_soon() && !ending_in(5, 10).is_over());
        assert!(ending_in(0, 10).is_over());
        assert!(!Tokens::lasting(Secret::new("t")).ends_soon());
    }

    #[test]
    fn it_is_kept_whole_and_those_of_the_pypi_sdk_are_read() {
        let tokens = Tokens {
            refresh: Some(Secret::new("r")),
            header: "flyte-authorization".into(),
            ..ending_in(9, 10)
        };
        assert_eq!(Tokens::from_json(tokens.to_json().reveal()), Some(tokens));
        let theirs = Tokens::from_json(r#"{"access_token": "a", "refresh_token": null}"#).unwrap();
        assert_eq!(theirs, Tokens::lasting(Secret::new("a")));
        assert_eq!(Tokens::from_json("{}"), None);
    }
}
