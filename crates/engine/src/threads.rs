//! Shares work among a call's threads.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use dormouse_core::{Error, Result};

use crate::cancel::{Cancel, contain};

/// Numbered pieces of work that threads take one after another.
#[derive(Debug)]
pub(crate) struct WorkList {
    next: AtomicUsize,
    count: usize,
}

impl WorkList {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            next: AtomicUsize::new(0),
            count,
        }
    }

    /// The next piece; none when all are taken.
    pub(crate) fn take(&self) -> Option<usize> {
        let piece = self.next.fetch_add(1, Ordering::Relaxed);
        (piece < self.count).then_some(piece)
    }

    /// Leaves nothing to take: somebody failed.
    pub(crate) fn close(&self) {
        self.next.store(self.count, Ordering::Relaxed);
    }
}

/// Runs `work` on up to `threads` threads at once, this one among them; answers all results, in no order, or the
/// first error. A panic is an `Internal` error.
pub(crate) fn on_threads<T: Send>(
    threads: NonZeroUsize,
    list: &WorkList,
    work: impl Fn() -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let guarded = || {
        let result = contain(
            |panic| Error::internal(format!("the row engine gave up: {panic}")),
            &work,
        );
        if result.is_err() {
            list.close();
        }
        result
    };
    let threads = threads.get().min(list.count.max(1));
    let results: Vec<Result<T>> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(guarded)).collect();
        let mut results = vec![guarded()];
        results.extend(others.into_iter().map(|other| {
            other
                .join()
                .unwrap_or_else(|_| Err(Error::internal("a thread of the row engine panicked")))
        }));
        results
    });
    results.into_iter().collect()
}

/// Runs `work` for each of `count` pieces; answers the results by piece, or the first piece's error.
pub(crate) fn for_each<T: Send>(
    threads: NonZeroUsize,
    count: usize,
    cancel: &Cancel,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let list = WorkList::new(count);
    let results: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(count));
    on_threads(threads, &list, || {
        while let Some(piece) = list.take() {
            let result = cancel.check().and_then(|()| work(piece));
            let failed = result.is_err();
            results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((piece, result));
            if failed {
                list.close();
            }
        }
        Ok(())
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(piece, _)| *piece);
    results.into_iter().map(|(_, result)| result).collect()
}
