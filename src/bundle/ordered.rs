//! Work on numbered pieces in parallel, results in their order, a bounded number ahead.
//!
//! A slow consumer stops the workers instead of filling memory with what they made.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How far workers may be ahead of the consumer, for each of them.
const AHEAD: usize = 3;

/// Calls `work` for `0..count` on `threads` threads and `take` with the results in order, on the
/// caller's thread. `state` makes what each worker keeps between pieces.
///
/// The first error, in the order of the pieces that were finished, ends everything.
pub(super) fn for_each<S, T: Send, E: Send>(
    count: usize,
    threads: usize,
    state: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.clamp(1, count.max(1));
    let line = Line {
        count,
        ahead: threads * AHEAD,
        next: AtomicUsize::new(0),
        progress: Mutex::default(),
        moved: Condvar::new(),
    };
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| line.work(sender, &state, &work));
        }
        drop(sender);
        let outcome = line.consume(&results, &mut take);
        line.stop();
        outcome
    })
}

/// What the workers and the consumer share.
struct Line {
    count: usize,
    ahead: usize,
    next: AtomicUsize,
    progress: Mutex<Progress>,
    moved: Condvar,
}

#[derive(Default)]
struct Progress {
    taken: usize,
    stopped: bool,
}

/// Lets nobody wait for a worker that panicked.
struct StopOnPanic<'a>(&'a Line);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl Line {
    fn work<S, T, E>(
        &self,
        results: Sender<(usize, Result<T, E>)>,
        state: &impl Fn() -> Result<S, E>,
        work: &impl Fn(&mut S, usize) -> Result<T, E>,
    ) {
        let _guard = StopOnPanic(self);
        let mut own = match state() {
            Ok(own) => own,
            Err(error) => {
                // The consumer takes this for the piece it waits for; if it is gone, nobody cares.
                let _ = results.send((0, Err(error)));
                return;
            }
        };
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count || !self.wait_for_turn(index) {
                return;
            }
            if results.send((index, work(&mut own, index))).is_err() {
                return;
            }
        }
    }

    /// Waits until the consumer is near enough; false if there is no need to go on.
    fn wait_for_turn(&self, index: usize) -> bool {
        let progress = self
            .moved
            .wait_while(self.lock(), |progress| {
                !progress.stopped && index >= progress.taken + self.ahead
            })
            .unwrap_or_else(PoisonError::into_inner);
        !progress.stopped
    }

    fn consume<T, E>(
        &self,
        results: &Receiver<(usize, Result<T, E>)>,
        take: &mut impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut early = BTreeMap::new();
        let mut wanted = 0;
        while wanted < self.count {
            // All workers are gone before the end only after a panic, which the scope passes on.
            let Ok((index, result)) = results.recv() else {
                return Ok(());
            };
            early.insert(index, result?);
            while let Some(result) = early.remove(&wanted) {
                take(result)?;
                wanted += 1;
                self.lock().taken = wanted;
                self.moved.notify_all();
            }
        }
        Ok(())
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicIsize;

    fn squares(count: usize, threads: usize) -> Result<Vec<usize>, String> {
        let mut seen = Vec::new();
        let work = |calls: &mut usize, index: usize| {
            *calls += 1;
            if index == 700 {
                return Err(format!("piece {index}"));
            }
            Ok(index * index)
        };
        for_each(
            count,
            threads,
            || Ok(0),
            work,
            |square| {
                seen.push(square);
                Ok(())
            },
        )?;
        Ok(seen)
    }

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        let expected: Vec<usize> = (0..500).map(|n| n * n).collect();
        for threads in [0, 1, 2, 7, 999] {
            assert_eq!(squares(500, threads).unwrap(), expected, "{threads}");
        }
        assert_eq!(squares(0, 3), Ok(Vec::new()));
    }

    #[test]
    fn an_error_of_either_side_ends_it() {
        assert_eq!(squares(1000, 3), Err("piece 700".to_owned()));
        let refused = for_each(
            1000,
            3,
            || Ok(()),
            |(), index| Ok(index),
            |index| {
                if index == 20 { Err("full") } else { Ok(()) }
            },
        );
        assert_eq!(refused, Err("full"));
        let unready = for_each(9, 2, || Err::<(), _>("no"), |(), _| Ok(()), |()| Ok(()));
        assert_eq!(unready, Err("no"));
    }

    #[test]
    fn workers_do_not_run_away_from_the_consumer() {
        let (ahead, worst) = (AtomicIsize::new(0), AtomicIsize::new(0));
        let made = |(): &mut (), _| {
            worst.fetch_max(ahead.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        for_each(
            300,
            2,
            || Ok(()),
            made,
            |()| {
                ahead.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            },
        )
        .unwrap();
        assert!(worst.into_inner() <= 2 * 3 + 2);
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        let work = |(): &mut (), index: usize| {
            assert!(index != 5, "broken");
            Ok::<_, ()>(())
        };
        let _ = for_each(100, 2, || Ok(()), work, |()| Ok(()));
    }
}
