//! The card of a notebook: reports of the core on their way to Python.

use std::sync::Arc;

use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;

use super::app::App;
use crate::serve::{Progress, Reporter, size};

/// A card that is shown for as long as a call of `serve` runs.
pub struct Card {
    /// An object of `flyte._card`; taken out when the end is shown.
    shown: Option<Py<PyAny>>,
}

impl Card {
    /// Opens a card for the app of that name, if a notebook runs this.
    pub fn open(py: Python<'_>, name: &str) -> PyResult<Option<Self>> {
        if !py.import("sys")?.getattr("modules")?.contains("IPython")? {
            return Ok(None);
        }
        let card = py
            .import("flyte._card")?
            .call_method1("open_card", (name,))?;
        Ok((!card.is_none()).then(|| Self {
            shown: Some(card.unbind()),
        }))
    }

    /// What tells the card.
    pub fn reporter(&self) -> PyResult<Reporter> {
        let missing = || PyValueError::new_err("the card was closed");
        let card = Python::attach(|py| self.shown.as_ref().map(|card| card.clone_ref(py)));
        let card = card.ok_or_else(missing)?;
        Ok(Arc::new(move |progress| {
            let told = told(progress);
            Python::attach(|py| {
                // A notebook that shows nothing keeps no app from being served. But Ctrl-C may come
                // while it is asked to: then it is for whoever waits for the app.
                if let Err(error) = card.call_method1(py, "take", told)
                    && error.is_instance_of::<PyKeyboardInterrupt>(py)
                    && let Ok(threads) = py.import("_thread")
                {
                    let _ = threads.call_method0("interrupt_main");
                }
            });
        }))
    }

    /// Shows how it ended.
    pub fn end(mut self, py: Python<'_>, result: &PyResult<App>) {
        let Some(card) = self.shown.take() else {
            return;
        };
        let _ = match result {
            Ok(app) => {
                let app = app.inner();
                card.call_method1(py, "served", (app.endpoint(), app.url(), app.revision()))
            }
            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {
                card.call_method0(py, "cancelled")
            }
            Err(error) => card.call_method1(py, "failed", (error.value(py).to_string(),)),
        };
    }
}

impl Drop for Card {
    /// A call that is cancelled is dropped where it waits.
    fn drop(&mut self) {
        if let Some(card) = self.shown.take() {
            let _ = Python::attach(|py| card.call_method0(py, "cancelled"));
        }
    }
}

/// Kind, step, text and seconds, as `Card.take` has them.
fn told(progress: Progress) -> (&'static str, &'static str, String, f64) {
    match progress {
        Progress::Started(step) => ("started", step.title(), String::new(), 0.0),
        Progress::Finished { step, detail, took } => {
            ("finished", step.title(), detail, took.as_secs_f64())
        }
        Progress::Note(text) => ("note", "", text, 0.0),
        Progress::Line(text) => ("line", "", text, 0.0),
        Progress::Sent { step, done, total } => {
            let text = format!("{} of {} sent", size(done), size(total));
            ("line", step.title(), text, 0.0)
        }
    }
}
