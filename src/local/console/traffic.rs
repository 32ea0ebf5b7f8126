//! An app's traffic over the last minutes, drawn.

use super::charts::{Line, chart, top};
use super::html::{Html, html};
use super::words;
use crate::local::platform::{Platform, SAMPLE_EVERY, SAMPLES_KEPT, Sample};
use crate::local::store::AppKey;

/// The minutes that there is room for.
const MINUTES: u64 = SAMPLE_EVERY.as_secs() * SAMPLES_KEPT as u64 / 60;

/// Requests a second, and how long they took.
pub fn charts(platform: &Platform, key: &AppKey) -> Html {
    let samples = platform.samples(key);
    let note = if samples.iter().all(|one| one.requests == 0) {
        format!("No request in the last {MINUTES} minutes.")
    } else {
        let step = SAMPLE_EVERY.as_secs();
        format!("The last {MINUTES} minutes, in steps of {step} seconds.")
    };
    html!(
        "<div class=\"charts\">{}{}</div><p class=\"muted\">{}</p>",
        rates(&samples),
        times(&samples),
        note,
    )
}

fn rates(samples: &[Sample]) -> Html {
    let line = Line {
        class: "area s0",
        values: samples.iter().map(|one| Some(one.per_second)).collect(),
    };
    let now = words::rate(samples.last().map_or(0.0, |one| one.per_second));
    let sum = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
    let requests = words::counted(sum(|one| one.requests), "request", "requests");
    let failed = sum(|one| one.errors);
    let errors = words::counted(failed, "error", "errors");
    let told = format!("Requests per second over {MINUTES} minutes, now {now}");
    let caption = html!(
        "<b>{}</b> requests/s <span class=\"muted\">{}, <span class=\"{}\">{}</span></span>",
        now,
        requests,
        if failed > 0 { "bad" } else { "" },
        errors
    );
    figure(&caption, &[line], &told, words::rate)
}

fn times(samples: &[Sample]) -> Html {
    let line = |class: &'static str, at: usize| Line {
        class,
        values: samples.iter().map(|one| milliseconds(one, at)).collect(),
    };
    let last = samples.iter().rev().find_map(|one| one.quantiles);
    let time = |at: usize| last.map_or_else(|| "–".to_owned(), |times| words::time(times[at]));
    let [half, most, nearly_all] = [time(0), time(1), time(2)];
    let told =
        format!("Latency over {MINUTES} minutes, last p50 {half}, p95 {most}, p99 {nearly_all}");
    if last.is_none() {
        let caption = html!("<span class=\"muted\">Latency: p50, p95, p99</span>");
        return figure(&caption, &[], &told, words::milliseconds);
    }
    let caption = html!(
        "<span class=\"key k1\">p50</span> <b>{}</b> <span class=\"key k2\">p95</span> <b>{}</b> \
         <span class=\"key k3\">p99</span> <b>{}</b>",
        half,
        most,
        nearly_all
    );
    // What matters most is drawn last.
    let lines = [line("s3", 2), line("s2", 1), line("s1", 0)];
    figure(&caption, &lines, &told, words::milliseconds)
}

fn figure(caption: &Html, lines: &[Line], told: &str, unit: fn(f64) -> String) -> Html {
    let top = top(lines).max(1.0);
    html!(
        "<figure class=\"card\"><figcaption>{}</figcaption><div class=\"plot\">{}\
         <span class=\"top\">{}</span></div></figure>",
        caption,
        chart(lines, SAMPLES_KEPT, top, told),
        unit(top),
    )
}

fn milliseconds(sample: &Sample, at: usize) -> Option<f64> {
    let times = sample.quantiles?;
    Some(times[at].as_secs_f64() * 1000.0)
}
