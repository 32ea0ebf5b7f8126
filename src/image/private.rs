//! Addresses that hold credentials: found, hidden, and kept out of what other users can see.
//!
//! A user of a machine sees the command lines of all; an image shows its steps to whoever pulls it.
//! What is private goes by variables and by files that only the builder reads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The part of an address in front of its host, such as `me:token`, and where it stands.
fn credentials(text: &str) -> Option<(usize, &str)> {
    let start = text.find("://")? + "://".len();
    let rest = &text[start..];
    let end = rest.find(['/', '?', '#', ' ']).unwrap_or(rest.len());
    let end = rest[..end].rfind('@')?;
    let found = &rest[..end];
    // The name of a user says nothing where keys are what is believed.
    let is_ssh = text[..start].ends_with("ssh://") && !found.contains(':');
    (!is_ssh && !found.is_empty()).then_some((start, found))
}

/// Whether an address, a requirement or an option holds credentials.
pub(super) fn is_private(text: &str) -> bool {
    text.split_whitespace()
        .any(|word| credentials(word).is_some())
}

/// The text with all credentials in it made unreadable.
pub(super) fn without(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(char::is_whitespace) {
        match credentials(piece) {
            Some((at, found)) => {
                out.push_str(&piece[..at]);
                out.push_str("***");
                out.push_str(&piece[at + found.len()..]);
            }
            None => out.push_str(piece),
        }
    }
    out
}

/// What of the text must not be shown: passwords, and names that stand alone, for those are tokens.
pub(super) fn passwords(text: &str) -> impl Iterator<Item = &str> {
    let found = text.split([' ', ',', '\n']).filter_map(credentials);
    found.map(|(_, both)| match both.split_once(':') {
        Some((name, "")) => name,
        Some((_, password)) => password,
        None => both,
    })
}

/// A requirement of a Git repository, and the header that opens it: `git` shows its words as well.
#[derive(Debug, PartialEq)]
pub(super) struct Repository {
    /// Without credentials.
    pub requirement: String,
    /// Of the setting `http.<address>.extraHeader`.
    pub key: String,
    pub header: String,
}

/// Reads a requirement such as `x @ git+https://${TOKEN}@host/x.git@v1`; `lookup` knows `TOKEN`.
pub(super) fn repository(
    requirement: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Option<Repository> {
    let begin = requirement.find("git+http")? + "git+".len();
    let (at, found) = credentials(&requirement[begin..])?;
    let filled = filled(found, lookup);
    let both = if filled.contains(':') {
        filled
    } else {
        format!("{filled}:")
    };
    let scheme = &requirement[begin..begin + at];
    let rest = &requirement[begin + at + found.len() + "@".len()..];
    let address = rest.split(['#', '?', ' ', ';']).next().unwrap_or_default();
    let slash = address.find('/').unwrap_or(address.len());
    let end = address[slash..]
        .find('@')
        .map_or(address.len(), |end| slash + end);
    Some(Repository {
        requirement: format!("{}{scheme}{rest}", &requirement[..begin]),
        key: format!("http.{scheme}{}.extraHeader", &address[..end]),
        header: format!("Authorization: Basic {}", STANDARD.encode(decoded(&both))),
    })
}

/// `${NAME}` replaced by what is known of it, as `uv` does.
fn filled(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            rest = after;
            break;
        };
        out.push_str(&lookup(name).unwrap_or_default());
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Bytes written as `%40` are themselves again.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    out
}

/// The variables by which `git` gets these settings.
pub(super) fn git_settings(found: &[Repository]) -> Vec<(String, String)> {
    if found.is_empty() {
        return Vec::new();
    }
    let mut variables = vec![("GIT_CONFIG_COUNT".to_owned(), found.len().to_string())];
    for (number, repository) in found.iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{number}"), repository.key.clone()));
        variables.push((
            format!("GIT_CONFIG_VALUE_{number}"),
            repository.header.clone(),
        ));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_credentials_are_told_from_others() {
        for text in [
            "https://me:pw@h/simple",
            "own=https://tok@h/simple",
            "x @ git+https://${T}@h/x.git@v1",
            "six https://a:b@h",
        ] {
            assert!(is_private(text), "{text}");
        }
        for text in [
            "https://h/simple",
            "git+ssh://git@h/x.git",
            "x @ https://h/x@1.whl",
            "six==1",
            "https://@h",
        ] {
            assert!(!is_private(text), "{text}");
        }
        assert_eq!(without("a https://me:pw@h/x b"), "a https://***@h/x b");
        let found: Vec<_> = passwords("https://me:pw@h,https://tok:@h https://one@h").collect();
        assert_eq!(found, ["pw", "tok", "one"]);
    }

    #[test]
    fn a_repository_is_opened_by_a_header() {
        let lookup = |name: &str| (name == "T").then(|| "a%40b".to_owned());
        let found = repository("x @ git+https://${T}@h:8/p/x.git@v1#sub=y", lookup).unwrap();
        let expected = Repository {
            requirement: "x @ git+https://h:8/p/x.git@v1#sub=y".into(),
            key: "http.https://h:8/p/x.git.extraHeader".into(),
            header: format!("Authorization: Basic {}", STANDARD.encode("a@b:")),
        };
        assert_eq!(found, expected);
        let names: Vec<_> = git_settings(&[found])
            .into_iter()
            .map(|one| one.0)
            .collect();
        let expected = ["GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"];
        assert_eq!(names, expected);
        assert_eq!(repository("x @ git+https://h/x.git", lookup), None);
        assert_eq!(repository("x @ https://a:b@h/x.whl", lookup), None);
    }
}
