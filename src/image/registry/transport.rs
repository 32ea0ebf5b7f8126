//! Reaching a registry: which scheme, which certificates, how patiently.

use std::time::Duration;

use crate::tls::{self, Trust};

/// Hosts, separated by commas, that may be spoken to without TLS.
const INSECURE: &str = "FLYTE_INSECURE_REGISTRIES";
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long a registry may be silent; uploads of any length are fine as long as they move.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// Whether `host` (with its port) may be spoken to without TLS.
pub(super) fn may_be_plain(host: &str) -> bool {
    let named = std::env::var(INSECURE).unwrap_or_default();
    is_loopback(host) || is_named(&named, host)
}

fn is_named(list: &str, host: &str) -> bool {
    !host.is_empty() && list.split(',').any(|name| name.trim() == host)
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// A client that trusts the system's certificates, or those that `SSL_CERT_FILE` names.
pub(super) fn client(host: &str) -> Result<reqwest::Client, String> {
    let tls = tls::client_config(&Trust::default()).map_err(|error| error.to_string())?;
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("flyte-rs/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_LIMIT)
        .tls_backend_preconfigured(tls);
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| error.to_string())
}

/// The deepest cause of a failed request, which is the one that says what happened.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_what_is_named_may_go_without_tls() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.evil.com",
            "127.0.0.1.evil.com:80",
            "ghcr.io",
            "10.0.0.1:5000",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
        assert!(is_named("a:1, r.lan:5000", "r.lan:5000"));
        assert!(!is_named("r.lan:5000", "r.lan"));
        assert!(!is_named("", ""));
    }
}
