//! The async runtime of this process, and the only two ways to wait for it.
//!
//! It is ours rather than a library's global one, so that it can be shut down before the
//! interpreter goes away: a worker that finds the interpreter finalizing crashes the process.
//! After `fork` the workers do not exist in the child; that is said instead of hanging.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{self, ContextExt, JoinError};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a blocking wait looks for Ctrl-C.
const SIGNAL_POLL: Duration = Duration::from_millis(50);
/// How long running tasks may take to end when the interpreter exits.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

struct Owned {
    runtime: Runtime,
    pid: u32,
    waits: Waits,
}

/// The threads that wait for the runtime. They have to be gone before it is: one that looks at its clock
/// once more would panic.
#[derive(Clone, Default)]
struct Waits {
    over: CancellationToken,
    tracker: TaskTracker,
}

static RUNTIME: Mutex<Option<Owned>> = Mutex::new(None);

impl Owned {
    fn end(self) {
        let Waits { over, tracker } = self.waits;
        over.cancel();
        tracker.close();
        let gone = async { tokio::time::timeout(SHUTDOWN_PATIENCE, tracker.wait()).await };
        if self.runtime.block_on(gone).is_err() {
            tracing::warn!("a thread still waits for what will not come");
        }
        self.runtime.shutdown_timeout(SHUTDOWN_PATIENCE);
    }
}

fn handle() -> PyResult<Handle> {
    Ok(shared()?.0)
}

fn shared() -> PyResult<(Handle, Waits)> {
    let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    match &*slot {
        Some(owned) if owned.pid == std::process::id() => {
            Ok((owned.runtime.handle().clone(), owned.waits.clone()))
        }
        Some(_) => Err(PyRuntimeError::new_err(
            "flyte was used before this process was forked, and its threads are not in the child; \
             use the `spawn` start method, or call flyte only after the fork",
        )),
        None => {
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("flyte")
                .enable_all()
                .build()
                .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
            let (handle, waits) = (runtime.handle().clone(), Waits::default());
            *slot = Some(Owned {
                runtime,
                pid: std::process::id(),
                waits: waits.clone(),
            });
            Ok((handle, waits))
        }
    }
}

/// Waits for `future` without holding the interpreter, and gives way to Ctrl-C.
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method itself is not general enough over the lifetime"
)]
pub fn block<T: Send>(
    py: Python<'_>,
    future: impl Future<Output = PyResult<T>> + Send,
) -> PyResult<T> {
    let (handle, waits) = shared()?;
    // What ends before the first look would hide a Ctrl-C that came before it.
    py.check_signals()?;
    py.detach(move || {
        let _waiting = waits.tracker.token();
        handle.block_on(async move {
            tokio::pin!(future);
            loop {
                tokio::select! {
                    result = &mut future => return result,
                    () = waits.over.cancelled() => {
                        return Err(PyRuntimeError::new_err("the interpreter is ending"));
                    }
                    () = tokio::time::sleep(SIGNAL_POLL) => Python::attach(|py| py.check_signals())?,
                }
            }
        })
    })
}

/// An `asyncio` future for `future`; cancelling it drops the work. In a notebook, interrupting the cell
/// that awaits it cancels it.
pub fn future<'py, T>(
    py: Python<'py>,
    future: impl Future<Output = PyResult<T>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    T: for<'a> IntoPyObject<'a> + Send + 'static,
{
    // Fails readably here rather than inside a task.
    handle()?;
    let future = generic::future_into_py::<OurRuntime, _, T>(py, future)?;
    let modules = py.import("sys")?.getattr("modules")?;
    if modules.contains("ipykernel")? {
        py.import("flyte._card")?
            .call_method1("keep_awake", (&future,))?;
    }
    Ok(future)
}

/// End the runtime and its threads; called when the interpreter is about to go away.
///
/// Example:
///     >>> atexit.register(shutdown)       # doctest: +SKIP
#[pyfunction]
fn shutdown(py: Python<'_>) {
    let owned = RUNTIME
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(owned) = owned {
        if owned.pid == std::process::id() {
            py.detach(|| owned.end());
        } else {
            // The threads are another process's; joining them would wait for ever.
            std::mem::forget(owned.runtime);
        }
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(shutdown, module)?)
}

struct OurRuntime;

struct TaskFailure(tokio::task::JoinError);

impl JoinError for TaskFailure {
    fn is_panic(&self) -> bool {
        self.0.is_panic()
    }

    fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        self.0.into_panic()
    }
}

tokio::task_local! {
    static LOCALS: TaskLocals;
}

impl generic::Runtime for OurRuntime {
    type JoinError = TaskFailure;
    type JoinHandle = futures::future::BoxFuture<'static, Result<(), TaskFailure>>;

    fn spawn<F: Future<Output = ()> + Send + 'static>(fut: F) -> Self::JoinHandle {
        match handle() {
            Ok(handle) => {
                let task = handle.spawn(fut);
                Box::pin(async move { task.await.map_err(TaskFailure) })
            }
            // Only while the interpreter exits; the future is dropped, which is its cancellation.
            Err(_) => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn spawn_blocking<F: FnOnce() + Send + 'static>(work: F) -> Self::JoinHandle {
        match handle() {
            Ok(handle) => {
                let task = handle.spawn_blocking(work);
                Box::pin(async move { task.await.map_err(TaskFailure) })
            }
            Err(_) => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

impl ContextExt for OurRuntime {
    fn scope<F, R>(locals: TaskLocals, fut: F) -> Pin<Box<dyn Future<Output = R> + Send>>
    where
        F: Future<Output = R> + Send + 'static,
    {
        Box::pin(LOCALS.scope(locals, fut))
    }

    fn get_task_locals() -> Option<TaskLocals> {
        LOCALS.try_with(Clone::clone).ok()
    }
}
