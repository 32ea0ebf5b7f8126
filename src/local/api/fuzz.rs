//! A platform whose services the fuzz targets ask; built for them and for the test that reads their
//! corpus again.
//!
//! Here are no checks: what has to hold stands in `tests/fuzz/readers`.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "where this does not work there is nothing to fuzz"
)]

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::{Api, Door, Signer};
use crate::config::{Home, Upkeep};
use crate::local::authority::Authority;
use crate::local::gateway::Names;
use crate::local::platform::Platform;
use crate::local::store::Store;
use crate::local::supervisor::container::Containers;
use crate::local::supervisor::diagnose::Failure;
use crate::local::supervisor::launch::{Environment, Environments, Setting};

/// How long a stream is listened to: those that wait for something to happen wait for ever here.
const LISTENED: Duration = Duration::from_millis(5);

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub bytes: usize,
}

/// Without apps there is nothing to find.
struct Nowhere;

impl Environments for Nowhere {
    fn locate(&self, _: &str) -> Result<Option<Environment>, String> {
        Ok(None)
    }

    fn prepare<'a>(
        &'a self,
        _: &'a str,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn find(&self, _: &str) -> Option<String> {
        None
    }
}

/// A platform with a home of its own, and nothing in it.
struct World {
    runtime: Runtime,
    router: Router,
    _home: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(folder.path().to_path_buf());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let router = runtime.block_on(async { api(home).open_router() });
        Self {
            runtime,
            router,
            _home: folder,
        }
    }
}

fn api(home: Home) -> Api {
    let setting = Setting {
        home: home.clone(),
        mark: "fuzz".to_owned(),
        environments: Arc::new(Nowhere),
        fserve: Vec::new(),
        listening: Arc::new(ArcSwap::from_pointee(String::new())),
        names_port: Arc::default(),
        containers: Arc::new(Containers::new(&home, "fuzz", 0)),
    };
    let store = Store::open(&home.database()).expect("a store");
    let authority = Arc::new(Authority::at(home.tls()));
    let platform = Platform::new(setting, store, Arc::new(Names::default()), 0, authority);
    let platform = Arc::new(platform.expect("a platform"));
    Api {
        pruner: platform.pruner(Upkeep::default()),
        platform,
        home,
        build: "fuzz".to_owned(),
        console_url: String::new(),
        names_port: 0,
        door: Arc::new(Door::default()),
        signer: Arc::new(Signer::new().expect("random numbers")),
        stop: Arc::new(Notify::new()),
    }
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// Sends a request; `None` where it can be written down as none.
pub fn ask(path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Option<Answer> {
    let mut request = Request::post(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).ok()?;
    WORLD.with(|world| {
        let world = world.get_or_init(World::new);
        let service = TowerToHyperService::new(world.router.clone());
        world.runtime.block_on(async move {
            let Ok(answer) = service.call(request).await;
            let status = answer.status();
            let bytes = length(answer.into_body()).await;
            Some(Answer { status, bytes })
        })
    })
}

/// How much an answer holds, as far as it has come.
async fn length(mut body: Body) -> usize {
    let mut bytes = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(LISTENED, body.frame()).await {
        bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
    }
    bytes
}
