//! Named points at which a test ends this very process, as `kill -9` or a power cut would.
//!
//! `_FLYTE_CRASH_AT=NAME` chooses one, `NAME:3` its third passing. What ships is what is tested: the
//! points are always there and cost one look at a value that does not change. A point stands between
//! two things that are durable one after the other; `tests/crash.py` finds the names by reading the
//! sources.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The variable that names the point.
pub const CHOICE: &str = "_FLYTE_CRASH_AT";

struct Chosen {
    name: String,
    /// Passings until the end.
    left: AtomicI64,
}

static CHOSEN: LazyLock<Option<Chosen>> = LazyLock::new(|| {
    let text = std::env::var(CHOICE).ok()?;
    Some(chosen(&text))
});

fn chosen(text: &str) -> Chosen {
    let counted = text
        .rsplit_once(':')
        .and_then(|(name, count)| Some((name, count.parse().ok()?)));
    let (name, count) = counted.unwrap_or((text, 1));
    Chosen {
        name: name.to_owned(),
        left: AtomicI64::new(count),
    }
}

impl Chosen {
    fn is_now(&self, name: &str) -> bool {
        self.name == name && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// Ends the process here if this is where it was told to.
pub fn point(name: &str) {
    if CHOSEN.as_ref().is_some_and(|chosen| chosen.is_now(name)) {
        // Nothing is flushed, dropped or unwound, which is the point.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_passing_is_the_end() {
        let third = chosen("b:3");
        let seen = ["a", "b", "b", "a", "b", "b"].map(|name| third.is_now(name));
        assert_eq!(seen, [false, false, false, false, true, false]);
        assert!(chosen("b").is_now("b"));
    }
}
