//! A login with the browser of this machine: it is sent to the provider, and comes back to a
//! listener here with a code that only this process can use (PKCE).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use oauth2::{
    AuthUrl, AuthorizationCode, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use url::{Host, Url};

use super::discovery::Discovered;
use super::oauth::{self, Wire};
use super::tokens::Tokens;
use super::{Error, tell};
use crate::net::Http;

/// How long somebody may take to log in.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the last page may take to arrive.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) async fn login(
    http: &Http,
    discovered: &Discovered,
    endpoint: &str,
) -> Result<Tokens, Error> {
    let missing = |missing| Error::NoWay {
        endpoint: endpoint.to_owned(),
        missing,
    };
    let place = discovered
        .authorization
        .clone()
        .ok_or_else(|| missing("authorization_endpoint"))?;
    let unfit = || Error::Redirect {
        endpoint: endpoint.to_owned(),
        url: discovered.redirect.clone(),
    };
    let redirect = Url::parse(&discovered.redirect).map_err(|_| unfit())?;
    let listeners = listen(&redirect).await?.ok_or_else(unfit)?;
    let client = oauth::client(discovered)
        .set_auth_uri(AuthUrl::from_url(place))
        .set_redirect_uri(RedirectUrl::from_url(redirect.clone()));
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let mut request = client
        .authorize_url(CsrfToken::new_random)
        .add_scopes(oauth::scopes(discovered))
        .set_pkce_challenge(challenge);
    if !discovered.audience.is_empty() {
        request = request.add_extra_param("audience", discovered.audience.clone());
    }
    let (url, state) = request.url();
    tell(&format!("to log in at {endpoint}, open {url}"));
    open(url.as_str());
    let code = returned(listeners, redirect.path(), state).await?;
    exchange(&client, code, verifier, http, discovered).await
}

type Ready = oauth2::basic::BasicClient<
    oauth2::EndpointSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointSet,
>;

async fn exchange(
    client: &Ready,
    code: AuthorizationCode,
    verifier: PkceCodeVerifier,
    http: &Http,
    discovered: &Discovered,
) -> Result<Tokens, Error> {
    let answer = client
        .exchange_code(code)
        .set_pkce_verifier(verifier)
        .request_async(&Wire(http.clone()))
        .await;
    answer
        .map(|answer| oauth::tokens(&answer, discovered))
        .map_err(|error| oauth::failed(error, &discovered.token))
}

/// Listens where the provider sends the browser back to; `None` if that is not this machine.
async fn listen(redirect: &Url) -> Result<Option<Vec<TcpListener>>, Error> {
    let (Some(port), "http") = (redirect.port(), redirect.scheme()) else {
        return Ok(None);
    };
    let hosts: Vec<IpAddr> = match redirect.host() {
        // A browser may take either for `localhost`.
        Some(Host::Domain("localhost")) => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Some(Host::Ipv4(address)) if address.is_loopback() => vec![address.into()],
        Some(Host::Ipv6(address)) if address.is_loopback() => vec![address.into()],
        Some(Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_)) | None => return Ok(None),
    };
    let mut listeners = Vec::new();
    for host in hosts {
        match TcpListener::bind(SocketAddr::new(host, port)).await {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 has the other one.
            Err(_) if !listeners.is_empty() => {}
            Err(source) => return Err(Error::Port { port, source }),
        }
    }
    Ok(Some(listeners))
}

struct Expected {
    state: CsrfToken,
    found: mpsc::Sender<Result<String, String>>,
}

/// Waits for the browser to come back with a code.
async fn returned(
    listeners: Vec<TcpListener>,
    path: &str,
    state: CsrfToken,
) -> Result<AuthorizationCode, Error> {
    let (found, mut finds) = mpsc::channel(1);
    let expected = Arc::new(Expected { state, found });
    // Anything else that is asked for, such as an icon, is not there.
    let router = Router::new().route(path, get(answer)).with_state(expected);
    let (through, over) = tokio::sync::watch::channel(());
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        let (router, mut over) = (router.clone(), over.clone());
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            // Nothing is ever sent: it ends when the sender is dropped.
            let _ = over.changed().await;
        });
        servers.spawn(server.into_future());
    }
    let found = tokio::time::timeout(PATIENCE, finds.recv()).await;
    // The page that tells the outcome is on its way; a browser that keeps its connection is left.
    drop(through);
    let _ = tokio::time::timeout(FAREWELL, async {
        while servers.join_next().await.is_some() {}
    })
    .await;
    match found {
        Ok(Some(Ok(code))) => Ok(AuthorizationCode::new(code)),
        Ok(Some(Err(reason))) => Err(Error::Denied { reason }),
        Ok(None) | Err(_) => Err(Error::Denied {
            reason: format!("nobody logged in within {} s", PATIENCE.as_secs()),
        }),
    }
}

async fn answer(State(expected): State<Arc<Expected>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let value = |wanted: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.into_owned())
    };
    // Any page may send a browser here; only one that came from our login knows the state.
    if value("state").as_ref() != Some(expected.state.secret()) {
        return page(
            StatusCode::BAD_REQUEST,
            "This is not the login that flyte waits for.",
        );
    }
    let outcome = match (value("code"), value("error")) {
        (Some(code), None) => Ok(code),
        (_, error) => Err(value("error_description")
            .or(error)
            .unwrap_or_else(|| "the provider sent no code".into())),
    };
    let text = match &outcome {
        Ok(_) => "You are logged in. This window can be closed.",
        Err(_) => "The login failed; the terminal says why. This window can be closed.",
    };
    // A second visit finds that the first one was enough.
    let _ = expected.found.try_send(outcome);
    page(StatusCode::OK, text)
}

fn page(status: StatusCode, text: &str) -> Response {
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>flyte</title>\
         <body style=\"font-family:sans-serif;margin:4em\"><p>{text}</p>"
    );
    (status, [("connection", "close")], Html(page)).into_response()
}

/// Opens the user's browser, if there is one; the address was told in any case.
fn open(url: &str) {
    let chosen = std::env::var("BROWSER")
        .ok()
        .and_then(|list| list.split(':').next().map(str::to_owned))
        .filter(|one| !one.is_empty());
    let usual = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let words = chosen
        .and_then(|text| shlex::split(&text))
        .unwrap_or_else(|| vec![usual.to_owned()]);
    let [program, args @ ..] = words.as_slice() else {
        return;
    };
    let mut command = Command::new(program);
    let mut named = false;
    for word in args {
        named |= word.contains("%s");
        command.arg(word.replace("%s", url));
    }
    if !named {
        command.arg(url);
    }
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(mut child) = started {
        // Nobody waits for a browser, and nothing of it may be left when it ends.
        std::thread::spawn(move || child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn visit(url: &str) -> u16 {
        let http = Http::new(&crate::tls::Trust::default(), None).unwrap();
        http.client().get(url).send().await.unwrap().status().into()
    }

    async fn waiting() -> (
        u16,
        tokio::task::JoinHandle<Result<AuthorizationCode, Error>>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = CsrfToken::new("s1".into());
        let wait = tokio::spawn(returned(vec![listener], "/callback", state));
        (port, wait)
    }

    #[tokio::test]
    async fn only_the_login_that_was_begun_counts() {
        let (port, wait) = waiting().await;
        let at = |rest: &str| format!("http://127.0.0.1:{port}{rest}");
        assert_eq!(visit(&at("/favicon.ico")).await, 404);
        assert_eq!(visit(&at("/callback?code=x&state=other")).await, 400);
        assert_eq!(visit(&at("/callback?code=c%2B1&state=s1")).await, 200);
        assert_eq!(wait.await.unwrap().unwrap().secret(), "c+1");
    }

    #[tokio::test]
    async fn a_refusal_in_the_browser_ends_the_wait() {
        let (port, wait) = waiting().await;
        let url = format!(
            "http://127.0.0.1:{port}/callback?state=s1&error=access_denied&error_description=no+way"
        );
        assert_eq!(visit(&url).await, 200);
        let error = wait.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("no way"), "{error}");
    }

    #[tokio::test]
    async fn a_browser_is_sent_back_to_this_machine_only() {
        for url in [
            "https://localhost:1/x",
            "http://h.x:1/x",
            "http://localhost/x",
        ] {
            assert!(
                listen(&Url::parse(url).unwrap()).await.unwrap().is_none(),
                "{url}"
            );
        }
    }
}
