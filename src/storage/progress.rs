//! How far everything is that is being fetched: at most one line a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Takes a line of text; called from any thread.
pub type Report = Arc<dyn Fn(&str) + Send + Sync>;

/// What is under way, in bytes.
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    /// What is being fetched, by the names that people gave it.
    labels: Mutex<Vec<String>>,
    report: Report,
}

impl Progress {
    pub fn new(report: Report) -> Self {
        Self {
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            labels: Mutex::default(),
            report,
        }
    }

    pub fn say(&self, line: &str) {
        (self.report)(line);
    }

    pub fn begin(&self, label: &str) {
        self.labels().push(label.to_owned());
    }

    pub fn end(&self, label: &str) {
        self.labels().retain(|known| known != label);
    }

    fn labels(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was fetched in vain.
    pub fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Tells once a second, for as long as something is under way.
    pub async fn tell(self: Arc<Self>) {
        let mut before = 0;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.tick().await; // the first one is at once
        loop {
            tick.tick().await;
            let done = self.done.load(Ordering::Relaxed);
            let labels = self.labels().join("`, `");
            if !labels.is_empty() {
                let total = size(self.total.load(Ordering::Relaxed).max(done));
                let rate = size(done.saturating_sub(before));
                self.say(&format!(
                    "fetching `{labels}`: {} of {total}, {rate}/s",
                    size(done)
                ));
            }
            before = done;
        }
    }
}

/// One line on what was fetched.
pub fn summary(files: usize, bytes: u64, fetched: u64, begun: Instant) -> String {
    let files = if files == 1 {
        size(bytes)
    } else {
        format!("{files} files, {}", size(bytes))
    };
    if fetched == 0 && bytes > 0 {
        return format!("{files}, here already");
    }
    let seconds = begun.elapsed().as_secs_f64().max(0.001);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate to be read by people"
    )]
    let rate = size((fetched as f64 / seconds) as u64);
    format!("{files} in {seconds:.1} s ({rate}/s)")
}

/// Bytes as people read them.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1500, "1.5 kB"),
            (999_700, "1.0 MB"),
            (2_000_000_000, "2.0 GB"),
            (12_345_678, "12 MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(
            summary(500, 2_000_000_000, 0, Instant::now()),
            "500 files, 2.0 GB, here already"
        );
    }
}
