//! `with_servecontext(watch=True).serve(env)`: the loop of the core, begun by a Python program.
//!
//! To read the declaration again, the program is run a second time. There the same call hands over
//! what it was given and ends the process.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use super::app::App;
use super::error::IntoPy;
use super::runtime;
use crate::cli::args::Output;
use crate::cli::printer::Printer;
use crate::cli::watching;
use crate::serve::watch::{Asked, Declaration, Latest, Loader, Watch};
use crate::serve::{Request, Server};

/// Calls that watch so far, which tells them apart when the program runs again.
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// What a call of `serve` does.
pub enum Turn {
    Serve,
    Watch(Watching),
    /// Look up the app: who serves it is another process.
    Existing,
}

/// A watch about to begin.
pub struct Watching {
    loader: Loader,
    latest: Latest,
}

/// The turn of a call that watches; does not come back in a process that was started to read it.
pub fn turn(py: Python<'_>, server: &Server, request: &Request) -> PyResult<Turn> {
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let Some(asked) = Asked::here() else {
        return Ok(Turn::Watch(Watching {
            loader: loader(py, call)?,
            latest: Latest::default(),
        }));
    };
    if asked.call == call {
        asked.answer(&Declaration {
            request: request.clone(),
            scope: server.settings.describe(),
        })?;
        // What stands behind the call in the program is for when the watch is over.
        py.import("os")?.call_method1("_exit", (0,))?;
    }
    Ok(Turn::Existing)
}

/// How this very program is run a second time.
pub fn loader(py: Python<'_>, call: usize) -> PyResult<Loader> {
    let sys = py.import("sys")?;
    let program: PathBuf = sys.getattr("executable")?.extract()?;
    let words: Vec<OsString> = sys.getattr("orig_argv")?.extract()?;
    Ok(Loader {
        program,
        args: words.into_iter().skip(1).collect(),
        call,
    })
}

impl Watching {
    /// Watches until the future is dropped; fails where nothing can be watched.
    pub fn run(
        &self,
        server: Server,
        request: Request,
    ) -> impl Future<Output = PyResult<App>> + Send + use<> {
        let watch = Watch {
            request,
            loader: self.loader.clone(),
            teller: watching::for_library(),
            latest: self.latest.clone(),
        };
        async move {
            let never: Infallible = Box::pin(server.watch(watch)).await.into_py()?;
            match never {}
        }
    }

    /// Watches until Ctrl-C, which is how a watch is meant to end.
    pub fn block(&self, py: Python<'_>, server: Server, request: Request) -> PyResult<App> {
        let settings = server.settings.clone();
        let outcome = runtime::block(py, self.run(server, request));
        match (outcome, self.latest.get()) {
            (Err(error), Some(app)) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {
                watching::farewell(&Printer::new(Output::Table), &app, &settings);
                Ok(App::from(app))
            }
            (outcome, _) => outcome,
        }
    }
}
