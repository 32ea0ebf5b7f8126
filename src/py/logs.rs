//! `app.logs()`: lines as they are asked for, for `for` and for `async for`.

use std::collections::VecDeque;
use std::sync::Arc;

use pyo3::exceptions::{PyStopAsyncIteration, PyStopIteration};
use pyo3::prelude::*;
use tokio::sync::Mutex;

use super::error::IntoPy;
use super::runtime;
use crate::client::{LOG_PATIENCE, LogStream};
use crate::serve;

/// Lines that an app wrote, oldest first; made by `App.logs`, for `for` and for `async for`.
///
/// As the last value of a notebook's cell it is shown line by line.
///
/// Example:
///     >>> async for line in app.logs(follow=True):    # doctest: +SKIP
///     ...     print(line)
#[pyclass(module = "flyte.remote", frozen)]
pub struct LogLines {
    app: Arc<serve::App>,
    follow: bool,
    tail: Option<usize>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    stream: Option<LogStream>,
    ready: VecDeque<String>,
    ended: bool,
}

impl LogLines {
    pub fn new(app: Arc<serve::App>, follow: bool, tail: Option<usize>) -> Self {
        Self {
            app,
            follow,
            tail,
            state: Arc::default(),
        }
    }

    fn next(&self) -> impl Future<Output = PyResult<Option<String>>> + Send + use<> {
        let app = Arc::clone(&self.app);
        let (follow, tail) = (self.follow, self.tail);
        let state = Arc::clone(&self.state);
        async move {
            let mut state = state.lock().await;
            if state.stream.is_none() && !state.ended {
                state.open(&app, follow, tail).await?;
            }
            state.advance().await
        }
    }
}

impl State {
    /// Opens the stream. The last lines are told apart from those that follow by asking for the
    /// past alone first.
    async fn open(&mut self, app: &serve::App, follow: bool, tail: Option<usize>) -> PyResult<()> {
        let past = match tail {
            Some(_) => app.past_logs(LOG_PATIENCE).await.into_py()?,
            None => Vec::new(),
        };
        let stream = if tail.is_none() || follow {
            let mut stream = app.logs(follow).await.into_py()?;
            stream.skip(&past);
            Some(stream)
        } else {
            None
        };
        // Not before: whoever gives up on the way there begins anew.
        let skip = past.len().saturating_sub(tail.unwrap_or(0));
        let last = past.into_iter().skip(skip).map(|line| line.text);
        self.ready.extend(last);
        self.ended = stream.is_none();
        self.stream = stream;
        Ok(())
    }

    async fn advance(&mut self) -> PyResult<Option<String>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let Some(stream) = &mut self.stream else {
                return Ok(None);
            };
            match stream.next().await.into_py()? {
                Some(lines) => self.ready.extend(lines.into_iter().map(|line| line.text)),
                None => {
                    self.stream = None;
                    self.ended = true;
                }
            }
        }
    }
}

#[pymethods]
impl LogLines {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<String> {
        runtime::block(py, self.next())?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    /// The last value of a cell is shown by what it holds.
    fn _ipython_display_(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.py()
            .import("flyte._card")?
            .call_method1("print_lines", (slf,))?;
        Ok(())
    }

    fn __aiter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __anext__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let next = self.next();
        runtime::future(py, async move {
            next.await?.ok_or_else(|| PyStopAsyncIteration::new_err(()))
        })
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<LogLines>()
}
