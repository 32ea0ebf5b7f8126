//! One HTTP client for everything that leaves this machine for a control plane: calls, logins and
//! uploads get the same TLS trust, proxies and patience from here.
//!
//! It knows no call, no token and no retry.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{ClientBody, ClientTransport};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

use crate::error::{Code, Diagnostic};
use crate::tls::{self, Trust};

/// How long a connection may take to come about, TLS included.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How often the other end of a busy HTTP/2 connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long it may take to say so.
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(10);

/// What comes back, from whichever transport.
pub type Body = UnsyncBoxBody<Bytes, ConnectError>;

/// Sends requests over TCP, with TLS where the URL says `https`.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
}

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("`{variable}` is no proxy that can be used")]
    Proxy {
        variable: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("an HTTP client cannot be set up")]
    Setup(#[source] reqwest::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Tls(error) => error.code(),
            Self::Proxy { .. } => Code::ConfigInvalid,
            Self::Setup(_) => Code::Internal,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Tls(error) => error.hints(),
            Self::Proxy { .. } => {
                vec![
                    "a proxy is written as `http://host:port`, with `user:password@` if need be"
                        .into(),
                ]
            }
            Self::Setup(_) => Vec::new(),
        }
    }
}

impl Http {
    /// A client that believes `trust`. Connects when it is used; through `proxy` where one is given,
    /// else through what `HTTPS_PROXY` and its kin say.
    ///
    /// Redirects are answers like others: a call that is redirected would take its token along.
    pub fn new(trust: &Trust, proxy: Option<&str>) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(trust)?)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("flyte-rs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_PATIENCE)
            .tcp_keepalive(KEEP_ALIVE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE_PATIENCE)
            .no_proxy();
        for proxy in proxies(proxy)? {
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(Error::Setup)?;
        Ok(Self { client })
    }

    /// The client itself, for requests that are not calls.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }
}

/// The proxies in force. What runs on this machine is never looked for behind one.
fn proxies(given: Option<&str>) -> Result<Vec<reqwest::Proxy>, Error> {
    let variable = |names: &[&str]| {
        names.iter().find_map(|name| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
            Some(((*name).to_owned(), value))
        })
    };
    let direct = variable(&["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, value)| value);
    let direct = reqwest::NoProxy::from_string(&format!("localhost,127.0.0.0/8,::1,{direct}"));
    let given = match given {
        Some(url) => vec![(reqwest::Proxy::all(url), "admin.httpProxyURL".to_owned())],
        None => [
            // `HTTP_PROXY` in capitals can be set by a request to a CGI program, and is still what
            // most people write.
            (
                &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"][..],
                true,
            ),
            (
                &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"][..],
                false,
            ),
        ]
        .into_iter()
        .filter_map(|(names, is_secure)| {
            let (name, url) = variable(names)?;
            let proxy = if is_secure {
                reqwest::Proxy::https(url)
            } else {
                reqwest::Proxy::http(url)
            };
            Some((proxy, name))
        })
        .collect(),
    };
    given
        .into_iter()
        .map(|(proxy, variable)| match proxy {
            Ok(proxy) => Ok(proxy.no_proxy(direct.clone())),
            Err(source) => Err(Error::Proxy {
                variable,
                source: source.without_url(),
            }),
        })
        .collect()
}

impl ClientTransport for Http {
    type ResponseBody = Body;
    type Error = ConnectError;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Body>, ConnectError>> {
        let client = self.client.clone();
        Box::pin(async move {
            let request = request.map(reqwest::Body::wrap);
            let request = reqwest::Request::try_from(request).map_err(failed)?;
            let response = client.execute(request).await.map_err(failed)?;
            let response: Response<reqwest::Body> = response.into();
            Ok(response.map(|body| body.map_err(broken).boxed_unsync()))
        })
    }
}

/// A request that got no answer. The URL is left out: signed ones hold a secret.
fn failed(error: reqwest::Error) -> ConnectError {
    let error = error.without_url();
    if error.is_builder() {
        return ConnectError::invalid_argument(error.to_string());
    }
    ConnectError::unavailable_from_transport("no answer", error)
}

fn broken(error: reqwest::Error) -> ConnectError {
    ConnectError::unavailable_from_transport("the answer broke off", error.without_url())
}

/// Whether the request that failed like this cannot have been seen by the server.
pub fn never_left(error: &ConnectError) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<reqwest::Error>() {
            return error.is_connect();
        }
        source = cause.source();
    }
    false
}

/// Advice for the ways in which TLS fails, which all look like a dead line.
pub fn advice(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(tls) = find_tls(cause) {
            return match tls {
                rustls::Error::InvalidCertificate(_) => vec![
                    "`admin.caCertFilePath` names the certificates of an authority of your own"
                        .into(),
                ],
                rustls::Error::InvalidMessage(_) => vec![
                    "it does not speak TLS: write the endpoint with `http://`, or set `admin.insecure`"
                        .into(),
                ],
                _ => Vec::new(),
            };
        }
        source = cause.source();
    }
    Vec::new()
}

/// TLS errors travel inside of I/O errors, which do not name them as their source.
fn find_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<rustls::Error>().or_else(|| {
        let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
        inner
            .downcast_ref::<rustls::Error>()
            .or_else(|| find_tls(inner))
    })
}
