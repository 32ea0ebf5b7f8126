//! The engine's account of a build: which step runs, what it writes, and which one failed.

use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buffa::Message as _;

use super::{Progress, Sink, Stage};
use crate::image::secret::Secrets;
use crate::wire::buildkit::control::{StatusResponse, Vertex};

/// Lines of a step that are kept for its error.
const TAIL_LINES: usize = 40;

/// What is known of a build.
pub(super) struct Trace<'a> {
    steps: HashMap<String, Step>,
    failed: Option<Failed>,
    secrets: Secrets,
    progress: &'a Sink<'a>,
}

#[derive(Default)]
struct Step {
    name: String,
    is_told: bool,
    is_done: bool,
    tail: VecDeque<String>,
    /// The beginning of a line that is not whole yet.
    pending: String,
}

/// The step that ended a build.
#[derive(Debug, PartialEq)]
pub(super) struct Failed {
    /// In the engine's words.
    pub name: String,
    /// Its place among the numbered instructions, from 1.
    pub number: Option<u32>,
    pub error: String,
    pub tail: Vec<String>,
}

/// One line of the engine's answer to a build.
#[derive(serde::Deserialize)]
pub(super) struct Message {
    id: Option<String>,
    aux: Option<serde_json::Value>,
    error: Option<String>,
}

impl Message {
    /// Why the build failed, if that is what this says.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The digest of the image that was made.
    pub(super) fn image_id(&self) -> Option<&str> {
        let is_image = self.id.as_deref() == Some("moby.image.id");
        let id = self.aux.as_ref().filter(|_| is_image)?.get("ID")?;
        id.as_str()
    }

    fn status(&self) -> Option<StatusResponse> {
        let is_trace = self.id.as_deref() == Some("moby.buildkit.trace");
        let text = self.aux.as_ref().filter(|_| is_trace)?.as_str()?;
        let bytes = STANDARD.decode(text).ok()?;
        StatusResponse::decode_from_slice(&bytes).ok()
    }
}

impl<'a> Trace<'a> {
    pub(super) fn new(secrets: Secrets, progress: &'a Sink<'a>) -> Self {
        Self {
            steps: HashMap::new(),
            failed: None,
            secrets,
            progress,
        }
    }

    /// Takes note of a message, and tells what is news to people.
    pub(super) fn take(&mut self, message: &Message) {
        let Some(status) = message.status() else {
            return;
        };
        for vertex in status.vertexes {
            self.vertex(vertex);
        }
        for log in status.logs {
            let text = String::from_utf8_lossy(&log.msg).into_owned();
            self.output(&log.vertex, &text);
        }
    }

    fn vertex(&mut self, vertex: Vertex) {
        let step = self.steps.entry(vertex.digest).or_default();
        step.name.clone_from(&vertex.name);
        let (started, completed) = (vertex.started.as_option(), vertex.completed.as_option());
        let (number, total, text) = numbered(&vertex.name);
        // What the engine does for itself is no step of the user's.
        let Some(place) = number.zip(total) else {
            self.fail(&vertex.name, None, vertex.error);
            return;
        };
        let stage = |cached, seconds| Stage {
            number: place.0,
            total: place.1,
            text,
            cached,
            seconds,
        };
        if started.is_some() && !std::mem::replace(&mut step.is_told, true) && !vertex.cached {
            (self.progress)(Progress::Stage(stage(false, None)));
        }
        if let (Some(started), Some(completed)) = (started, completed)
            && vertex.error.is_empty()
            && !std::mem::replace(&mut step.is_done, true)
        {
            let (seconds, nanos) = (
                completed.seconds - started.seconds,
                completed.nanos - started.nanos,
            );
            #[expect(clippy::cast_precision_loss, reason = "seconds of one build")]
            let seconds = seconds as f64 + f64::from(nanos) / 1e9;
            (self.progress)(Progress::Stage(stage(vertex.cached, Some(seconds))));
        }
        self.fail(&vertex.name, number, vertex.error);
    }

    fn fail(&mut self, name: &str, number: Option<u32>, error: String) {
        // A step that was ended because another one failed says so.
        if error.is_empty() || error.contains("context canceled") || self.failed.is_some() {
            return;
        }
        self.failed = Some(Failed {
            name: name.to_owned(),
            number,
            error: self.secrets.hide(&error),
            tail: Vec::new(),
        });
    }

    fn output(&mut self, digest: &str, text: &str) {
        let step = self.steps.entry(digest.to_owned()).or_default();
        step.pending.push_str(text);
        while let Some(end) = step.pending.find('\n') {
            let line: String = step.pending.drain(..=end).collect();
            // A bar that redraws itself counts by its last state.
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
            let line = self.secrets.hide(line);
            (self.progress)(Progress::Line(&line));
            if step.tail.len() == TAIL_LINES {
                step.tail.pop_front();
            }
            step.tail.push_back(line);
        }
    }

    /// The step that failed, with what it wrote, if one was told of.
    pub(super) fn into_failed(self) -> Option<Failed> {
        let mut failed = self.failed?;
        let step = self
            .steps
            .into_values()
            .find(|step| step.name == failed.name)?;
        failed.tail = step.tail.into();
        if !step.pending.is_empty() {
            failed.tail.push(self.secrets.hide(&step.pending));
        }
        Some(failed)
    }
}

/// `[2/5] RUN make`, also `[stage-0 2/5] RUN make`: place, number of steps, text.
fn numbered(name: &str) -> (Option<u32>, Option<u32>, &str) {
    let parsed = name.strip_prefix('[').and_then(|rest| {
        let (place, text) = rest.split_once("] ")?;
        let (number, total) = place.rsplit(' ').next()?.split_once('/')?;
        Some((number.parse().ok()?, total.parse().ok()?, text))
    });
    match parsed {
        Some((number, total, text)) => (Some(number), Some(total), text),
        None => (None, None, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::buildkit::control::VertexLog;
    use std::sync::Mutex;

    fn message(status: &StatusResponse) -> Message {
        Message {
            id: Some("moby.buildkit.trace".into()),
            aux: Some(STANDARD.encode(status.encode_to_vec()).into()),
            error: None,
        }
    }

    fn vertex(name: &str, seconds: Option<i64>, error: &str) -> Vertex {
        let at = |seconds| buffa_types::google::protobuf::Timestamp {
            seconds,
            ..Default::default()
        };
        Vertex {
            digest: name.into(),
            name: name.into(),
            started: at(10).into(),
            completed: seconds.map(|seconds| at(10 + seconds)).into(),
            error: error.into(),
            ..Default::default()
        }
    }

    fn log(name: &str, text: &str) -> VertexLog {
        VertexLog {
            vertex: name.into(),
            msg: text.as_bytes().to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn steps_are_told_once_and_the_failing_one_keeps_its_output() {
        let told = Mutex::new(Vec::new());
        let sink = |progress: Progress<'_>| {
            told.lock().unwrap().push(match progress {
                Progress::Stage(stage) => format!(
                    "{}/{} {} {:?}",
                    stage.number, stage.total, stage.text, stage.seconds
                ),
                Progress::Line(line) | Progress::Note(line) => line.to_owned(),
                Progress::Sent { .. } => String::new(),
            });
        };
        let mut trace = Trace::new(Secrets::default(), &sink);
        let run = "[2/3] RUN make";
        for status in [
            StatusResponse {
                vertexes: vec![vertex("[internal] load", Some(0), "")],
                ..Default::default()
            },
            StatusResponse {
                vertexes: vec![vertex("[1/3] FROM x", Some(2), ""), vertex(run, None, "")],
                logs: vec![log(run, "one\ntw"), log(run, "o\nbar 1\rbar 2\nrest")],
                ..Default::default()
            },
            StatusResponse {
                vertexes: vec![
                    vertex("[3/3] COPY", Some(1), "context canceled"),
                    vertex(run, Some(1), "exit code: 2"),
                ],
                ..Default::default()
            },
        ] {
            trace.take(&message(&status));
        }
        let failed = trace.into_failed().unwrap();
        assert_eq!(
            (failed.number, failed.error.as_str()),
            (Some(2), "exit code: 2")
        );
        assert_eq!(failed.tail, ["one", "two", "bar 2", "rest"]);
        let told = told.into_inner().unwrap();
        assert_eq!(
            told,
            [
                "1/3 FROM x None",
                "1/3 FROM x Some(2.0)",
                "2/3 RUN make None",
                "one",
                "two",
                "bar 2",
                "3/3 COPY None",
            ]
        );
    }

    #[test]
    fn places_are_read_from_names() {
        assert_eq!(numbered("[2/5] RUN x"), (Some(2), Some(5), "RUN x"));
        assert_eq!(numbered("[stage-0 2/5] RUN x"), (Some(2), Some(5), "RUN x"));
        let own = "[internal] load build context";
        assert_eq!(numbered(own), (None, None, own));
    }
}
