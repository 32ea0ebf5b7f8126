//! What the platform shows of its apps' traffic: for people as JSON, for Prometheus as text.

use std::fmt::Write;
use std::time::Duration;

use super::Platform;
use crate::local::gateway::Totals;
use crate::local::store::AppKey;
use crate::local::supervisor::app::Live;

/// Classes of the answers' status.
const STATUS: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Platform {
    fn figures(&self, key: &AppKey) -> Option<(Totals, Live)> {
        let handle = self.handle(key)?;
        let live = handle.live.borrow().clone();
        Some((handle.meter.totals(), live))
    }

    /// The traffic of one app since the platform was started.
    pub fn traffic(&self, key: &AppKey) -> Option<serde_json::Value> {
        let (totals, live) = self.figures(key)?;
        let quantile = |share| totals.quantile(share).map(milliseconds);
        let by_status: serde_json::Map<String, serde_json::Value> = STATUS
            .iter()
            .zip(totals.by_status)
            .map(|(class, count)| ((*class).to_owned(), count.into()))
            .collect();
        Some(serde_json::json!({
            "requests": totals.requests,
            "in_flight": totals.in_flight,
            "requests_per_second": (totals.rate * 1000.0).round() / 1000.0,
            "status": by_status,
            "latency_ms": {"p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99)},
            "replicas": live.replicas.len(),
            "cold_starts": live.cold_starts,
            "crashes": live.crashes,
        }))
    }

    /// The traffic of all apps, in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        let mut keys: Vec<AppKey> = self.running().collect();
        keys.sort();
        let figures: Vec<(String, Totals, Live)> = keys
            .iter()
            .filter_map(|key| {
                let (totals, live) = self.figures(key)?;
                Some((labels(key), totals, live))
            })
            .collect();
        let mut text = String::new();
        counts(&mut text, &figures);
        latencies(&mut text, &figures);
        text
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// Names of apps are letters, digits, `-` and `_`, so nothing has to be escaped.
fn labels(key: &AppKey) -> String {
    let (project, domain, name) = key.parts();
    format!("app=\"{name}\",project=\"{project}\",domain=\"{domain}\"")
}

type Figures = [(String, Totals, Live)];

fn counts(text: &mut String, figures: &Figures) {
    head(
        text,
        "flyte_app_requests_total",
        "counter",
        "Answers, by class of status.",
    );
    for (labels, totals, _) in figures {
        for (class, count) in STATUS.iter().zip(totals.by_status) {
            line(
                text,
                "flyte_app_requests_total",
                &format!("{labels},status=\"{class}\""),
                count,
            );
        }
    }
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&Totals, &Live) -> u64| {
        head(text, name, kind, help);
        for (labels, totals, live) in figures {
            line(text, name, labels, value(totals, live));
        }
    };
    each(
        "flyte_app_requests_in_flight",
        "gauge",
        "Requests that are under way or wait for a replica.",
        |totals, _| totals.in_flight,
    );
    each(
        "flyte_app_replicas",
        "gauge",
        "Replicas that serve.",
        |_, live| live.replicas.len() as u64,
    );
    each(
        "flyte_app_cold_starts_total",
        "counter",
        "Starts because a request came while there was no replica.",
        |_, live| live.cold_starts,
    );
    each(
        "flyte_app_crashes_total",
        "counter",
        "Replicas that ended by themselves.",
        |_, live| live.crashes,
    );
}

fn latencies(text: &mut String, figures: &Figures) {
    const NAME: &str = "flyte_app_response_seconds";
    head(text, NAME, "histogram", "Time until an answer begins.");
    for (labels, totals, _) in figures {
        let mut all = 0;
        for (end, count) in totals.cumulative() {
            all = count;
            let labels = format!("{labels},le=\"{:.6}\"", end.as_secs_f64());
            line(text, &format!("{NAME}_bucket"), &labels, count);
        }
        line(
            text,
            &format!("{NAME}_bucket"),
            &format!("{labels},le=\"+Inf\""),
            all,
        );
        line(text, &format!("{NAME}_sum"), labels, totals.seconds);
        line(text, &format!("{NAME}_count"), labels, all);
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name}{{{labels}}} {value}");
}
