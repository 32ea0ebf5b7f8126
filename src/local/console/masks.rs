//! Which values are not shown, because they look like secrets.
//!
//! A value is judged by its name first, then by its form. What is masked leaves the platform in no
//! form, so there is nothing to reveal; its length is not told either.

use std::borrow::Cow;

/// Stands for what is not shown.
pub const MASK: &str = "••••••••";

/// Words of a name that speak of a secret.
const WORDS: &[&str] = &[
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "cred",
    "creds",
    "dsn",
    "jwt",
    "key",
    "keys",
    "pass",
    "pat",
    "pin",
    "pw",
    "pwd",
    "salt",
    "session",
    "signature",
];

/// Parts that do so inside of any word.
const PARTS: &[&str] = &[
    "apikey",
    "connectionstring",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "private",
    "secret",
    "token",
];

/// Beginnings of values that are keys, whatever they are called.
const BEGINNINGS: &[&str] = &[
    "-----BEGIN",
    "AIza",
    "AKIA",
    "ASIA",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hf_",
    "npm_",
    "pypi-",
    "sk-",
    "sk_live_",
    "xoxb-",
    "xoxp-",
    "ya29.",
];

/// Parts of values that hold a secret, such as connection strings.
const INSIDE: &[&str] = &[
    "password=",
    "pwd=",
    "accountkey=",
    "secret=",
    "token=",
    "bearer ",
    // URLs that were signed: of S3 and Google, and of Azure.
    "signature=",
    "?sig=",
    "&sig=",
];

/// A value as it may be shown under its name.
pub fn shown<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    if value.is_empty() {
        return Cow::Borrowed(value);
    }
    if is_secret(name) || looks_secret(value) {
        return Cow::Borrowed(MASK);
    }
    without_password(value)
}

/// The words of a command line as they may be shown.
pub fn words(words: &[String]) -> Vec<Cow<'_, str>> {
    let mut follows_secret = false;
    words
        .iter()
        .map(|word| {
            let after = std::mem::take(&mut follows_secret);
            if after && !word.starts_with('-') {
                return Cow::Borrowed(MASK);
            }
            match word.split_once('=') {
                Some((name, value)) if !value.is_empty() && is_secret(name) => {
                    Cow::Owned(format!("{name}={MASK}"))
                }
                Some(_) => shown("", word),
                None => {
                    follows_secret = word.starts_with('-') && is_secret(word);
                    shown("", word)
                }
            }
        })
        .collect()
}

fn is_secret(name: &str) -> bool {
    let words = split(name);
    let joined = words.concat();
    words.iter().any(|word| WORDS.contains(&word.as_str()))
        || PARTS.iter().any(|part| joined.contains(part))
}

/// `dbPassword`, `DB_PASSWORD` and `--db-password` are `db`, `password`.
fn split(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before_lower) {
            words.push(String::new());
        }
        before_lower = c.is_lowercase();
        if let Some(word) = words.last_mut()
            && c.is_alphanumeric()
        {
            word.extend(c.to_lowercase());
        }
    }
    words
}

fn looks_secret(value: &str) -> bool {
    let value = value.trim_start();
    // Longer than any word that only happens to begin like a key.
    let is_key = |start: &&&str| value.starts_with(**start) && value.len() >= 16;
    BEGINNINGS.iter().any(|start| is_key(&start)) || {
        let lower = value.to_ascii_lowercase();
        INSIDE.iter().any(|part| lower.contains(part))
    }
}

/// `postgres://user:word@host` without the word.
fn without_password(value: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = value.split_once("://") else {
        return Cow::Borrowed(value);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let Some((user, host)) = authority.rsplit_once('@') else {
        return Cow::Borrowed(value);
    };
    let shown = match user.split_once(':') {
        // On the web a token may stand on either side, or alone.
        Some(_) | None if is_web(scheme) => MASK.to_owned(),
        Some((user, _)) => format!("{user}:{MASK}"),
        None => return Cow::Borrowed(value),
    };
    Cow::Owned(format!(
        "{scheme}://{shown}@{host}{}",
        &rest[authority.len()..]
    ))
}

/// `https`, and what is spoken over it, such as `git+https`.
fn is_web(scheme: &str) -> bool {
    let scheme = scheme.to_ascii_lowercase();
    let last = scheme.rsplit('+').next().unwrap_or(&scheme);
    matches!(last, "http" | "https")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_name() {
        for name in [
            "API_KEY",
            "dbPassword",
            "HF_TOKEN",
            "GITHUB_PAT",
            "--secret-value",
            "OPENAI_APIKEY",
            "SENTRY_DSN",
            "AUTH_HEADER",
            "passwd",
        ] {
            assert_eq!(shown(name, "hunter2"), MASK, "{name}");
        }
        for name in [
            "KEYBOARD",
            "AUTHOR",
            "LOG_LEVEL",
            "PATH",
            "COMPASS",
            "MONKEY",
        ] {
            assert_eq!(shown(name, "plain"), "plain", "{name}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_form() {
        for value in [
            "sk-abcdefghijklmnop1234",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "Server=db;Password=hunter2",
            "-----BEGIN PRIVATE KEY-----",
        ] {
            assert_eq!(shown("VALUE", value), MASK, "{value}");
        }
        assert_eq!(
            shown("URL", "postgres://me:hunter2@db:5432/x?y"),
            format!("postgres://me:{MASK}@db:5432/x?y")
        );
        assert_eq!(shown("URL", "http://host/a:b@c"), "http://host/a:b@c");
        for plain in [
            "ssh://git@host/x",
            "postgres://me@db/x",
            "https://host/x?config=1&design=2",
        ] {
            assert_eq!(shown("URL", plain), plain);
        }
        assert_eq!(shown("TOKEN", ""), "");
    }

    #[test]
    fn urls_that_open_something_are_known() {
        for url in [
            "https://b.s3.amazonaws.com/k?X-Amz-Credential=c&X-Amz-Signature=hunter2",
            "https://storage.googleapis.com/b/k?X-Goog-Signature=hunter2",
            "https://a.blob.core.windows.net/c/k?sv=1&sig=hunter2",
            "https://a.blob.core.windows.net/c/k?sig=hunter2",
        ] {
            assert_eq!(shown("URL", url), MASK, "{url}");
        }
        for (url, expected) in [
            ("https://hunter2@host/x", "https://••••••••@host/x"),
            ("git+https://hunter2@host/x", "git+https://••••••••@host/x"),
            (
                "https://hunter2:x-oauth-basic@host",
                "https://••••••••@host",
            ),
        ] {
            assert_eq!(shown("URL", url), expected);
        }
    }

    #[test]
    fn command_lines_keep_their_names_and_lose_their_secrets() {
        let line = [
            "app",
            "--token",
            "hunter2",
            "--api-key=hunter2",
            "--port=80",
            "TOKEN=hunter2",
        ];
        let line = line.map(str::to_owned);
        let shown = words(&line).join(" ");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.starts_with("app --token "), "{shown}");
        assert!(shown.contains("--port=80"), "{shown}");
    }
}
