//! Events for the script: that something changed, that time has passed, and log lines as they come.
//!
//! What changed is not said: the script asks for the page again and takes over what is different,
//! so there is one place that renders. Nothing grows with a slow reader: lines that it cannot take
//! are dropped by the log's own bounded queue, and it is told how many.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use http::{HeaderMap, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior};

use super::{Console, Named, key, logs};
use crate::local::platform::SAMPLE_EVERY;
use crate::local::store::AppKey;
use crate::local::supervisor::app::Change;
use crate::local::supervisor::logs::Record;

/// Lines that a new reader gets at most before those to come.
const BACKLOG: usize = 500;
/// Lines in one event at most.
const BATCH: usize = 200;

/// The last line that the reader has.
#[derive(serde::Deserialize)]
pub struct After {
    #[serde(default)]
    after: String,
}

struct Watch {
    /// The app that is watched; all of them where there is none.
    key: Option<AppKey>,
    changes: Receiver<Change>,
    lines: Option<Receiver<Record>>,
    newest: Option<jiff::Timestamp>,
    backlog: Vec<Record>,
    tick: Interval,
    /// Gives the place back to others when the reader is gone.
    _place: OwnedSemaphorePermit,
}

/// Changes of any app.
pub async fn all(State(console): State<Console>) -> Response {
    answer(&console, None, None)
}

/// Changes and log lines of one app.
pub async fn one(
    State(console): State<Console>,
    Path(named): Path<Named>,
    Query(after): Query<After>,
    headers: HeaderMap,
) -> Response {
    // A browser that comes back by itself says so, with what it had last.
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let newest = last.unwrap_or(&after.after).parse().ok();
    answer(&console, Some(key(named)), newest)
}

fn answer(console: &Console, key: Option<AppKey>, newest: Option<jiff::Timestamp>) -> Response {
    let Ok(place) = Arc::clone(console.streams()).try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let platform = console.platform();
    // Subscribed before the backlog is read, so that nothing falls between the two.
    let changes = platform.changes();
    let (mut lines, mut backlog) = (None, Vec::new());
    if let Some(key) = &key {
        let Some(handle) = platform.handle(key) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        lines = Some(handle.logs.follow());
        backlog = handle.logs.tail(BACKLOG, |record| {
            newest.is_none_or(|newest| record.at > newest)
        });
    }
    let mut tick =
        tokio::time::interval_at(tokio::time::Instant::now() + SAMPLE_EVERY, SAMPLE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        newest: backlog.last().map(|record| record.at).or(newest),
        key,
        changes,
        lines,
        backlog,
        tick,
        _place: place,
    };
    Sse::new(events(watch))
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn events(watch: Watch) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(watch, |mut watch| async move {
        if !watch.backlog.is_empty() {
            let rest = watch.backlog.split_off(watch.backlog.len().min(BATCH));
            let first = std::mem::replace(&mut watch.backlog, rest);
            return Some((Ok(of_lines(&first)), watch));
        }
        let event = next(&mut watch).await?;
        Some((Ok(event), watch))
    })
}

async fn next(watch: &mut Watch) -> Option<Event> {
    loop {
        let line = async {
            match &mut watch.lines {
                Some(lines) => lines.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = watch.changes.recv() => match change {
                Ok(change) if !concerns(watch.key.as_ref(), &change) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => return Some(named("change", "1")),
                Err(RecvError::Closed) => return None,
            },
            line = line => match line {
                Ok(first) => {
                    let lines = batch(watch, first);
                    if !lines.is_empty() {
                        return Some(of_lines(&lines));
                    }
                }
                Err(RecvError::Lagged(count)) => return Some(named("gap", &count.to_string())),
                // The app is gone; that is a change, which follows.
                Err(RecvError::Closed) => watch.lines = None,
            },
            _ = watch.tick.tick() => return Some(named("tick", "1")),
        }
    }
}

fn concerns(key: Option<&AppKey>, change: &Change) -> bool {
    key.is_none_or(|key| *key == change.key)
}

/// This line and those that wait behind it, but for those that were in the backlog.
fn batch(watch: &mut Watch, first: Record) -> Vec<Record> {
    let mut lines = vec![first];
    if let Some(more) = &mut watch.lines {
        while lines.len() < BATCH
            && let Ok(line) = more.try_recv()
        {
            lines.push(line);
        }
    }
    lines.retain(|line| watch.newest.is_none_or(|newest| line.at > newest));
    lines
}

fn of_lines(lines: &[Record]) -> Event {
    let data: Vec<serde_json::Value> = lines.iter().map(logs::data).collect();
    let newest = lines.iter().map(|line| line.at).max().unwrap_or_default();
    named("log", &serde_json::Value::from(data).to_string()).id(newest.to_string())
}

/// Browsers pass over an event without data.
fn named(name: &str, data: &str) -> Event {
    Event::default().event(name).data(data)
}
