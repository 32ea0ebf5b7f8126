//! One HTTP client for all stores, and what its answers say beyond their bodies.
//!
//! `object_store` reads few headers; the others, which hold checksums, are kept beside each answer
//! for [`Headers`] to be found. Redirects are followed, proxies of the environment are used.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::HeaderMap;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
};

use super::Error;
use crate::error::with_causes;
use crate::tls::{self, Trust};

/// A server that sends nothing for so long is asked again.
const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);

/// The headers of an answer, among the extensions of what `object_store` makes of it.
#[derive(Clone, Debug)]
pub struct Headers(pub HeaderMap);

/// A client that trusts what this machine trusts.
pub fn client() -> Result<reqwest::Client, Error> {
    let setup = |reason: String| Error::Setup { reason };
    let mut tls =
        tls::client_config(&Trust::default()).map_err(|error| setup(with_causes(&error)))?;
    // Several connections carry more than several streams of one.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .user_agent(concat!("flyte-rs/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .build()
        .map_err(|error| setup(error.to_string()))
}

/// Hands the one client to every store.
#[derive(Debug)]
pub struct Shared(pub reqwest::Client);

impl HttpConnector for Shared {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Kept(self.0.clone())))
    }
}

/// Keeps the headers of each answer beside it.
#[derive(Debug)]
struct Kept(reqwest::Client);

impl HttpService for Kept {
    // Written out as `async_trait` would, which is all that it is needed for.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let mut response = HttpService::call(&self.0, request).await?;
            let headers = Headers(response.headers().clone());
            response.extensions_mut().insert(headers);
            Ok(response)
        })
    }
}
