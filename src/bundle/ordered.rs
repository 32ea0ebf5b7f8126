//! Work on numbered pieces in parallel, results in their order.
//!
//! Workers never wait for the consumer. What they send ahead of it stays in memory until its turn,
//! so it has to be small; how that is seen to is not known here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Calls `work` for `0..count` on `threads` threads and `take` with the results in order, on the
/// caller's thread. `state` makes what each worker keeps between pieces.
///
/// The first error that is met ends everything.
pub(super) fn for_each<S, T: Send, E: Send>(
    count: usize,
    threads: usize,
    state: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let line = Line {
        count,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads.clamp(1, count.max(1)) {
            let sender = sender.clone();
            scope.spawn(|| line.work(sender, &state, &work));
        }
        drop(sender);
        let outcome = line.consume(&results, &mut take);
        line.stopped.store(true, Ordering::Relaxed);
        outcome
    })
}

/// What the workers and the consumer share.
struct Line {
    count: usize,
    next: AtomicUsize,
    stopped: AtomicBool,
}

impl Line {
    fn work<S, T, E>(
        &self,
        results: Sender<(usize, Result<T, E>)>,
        state: &impl Fn() -> Result<S, E>,
        work: &impl Fn(&mut S, usize) -> Result<T, E>,
    ) {
        let mut own = match state() {
            Ok(own) => own,
            Err(error) => {
                // Any number will do: the consumer ends at the first error.
                let _ = results.send((0, Err(error)));
                return;
            }
        };
        while !self.stopped.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count || results.send((index, work(&mut own, index))).is_err() {
                return;
            }
        }
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
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        let work = |(): &mut (), index: usize| {
            assert!(index != 5, "broken");
            Ok::<_, ()>(())
        };
        let _ = for_each(100, 2, || Ok(()), work, |()| Ok(()));
    }
}
