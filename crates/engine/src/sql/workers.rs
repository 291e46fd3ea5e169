//! The threads that queries run on: computing never holds up those who ask.

use std::{
    future::Future,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use dormouse_core::{Error, Result};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

use super::failure::panicked;

/// As deep as the deepest statement that is taken needs it: a chain of operators is dropped by recursion. Only what is
/// used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

/// A runtime, made when the first query comes.
#[derive(Debug)]
pub(super) struct Workers {
    threads: NonZeroUsize,
    runtime: Mutex<Option<Runtime>>,
}

impl Workers {
    /// So many threads, and some more, so that a long computation leaves one to others.
    pub(super) fn new(threads: NonZeroUsize) -> Self {
        Self {
            threads: threads.saturating_add(2),
            runtime: Mutex::new(None),
        }
    }

    /// What tasks are begun by.
    pub(super) fn handle(&self) -> Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let made = Builder::new_multi_thread()
            .worker_threads(self.threads.get())
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable("no threads for queries").with_source(error))?;
        let handle = made.handle().clone();
        *runtime = Some(made);
        Ok(handle)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            // Where there is async work, nobody may wait for threads.
            runtime.shutdown_background();
        }
    }
}

/// A task that stops when this is dropped.
#[derive(Debug)]
pub(super) struct Work<T>(JoinHandle<T>);

impl<T: Send + 'static> Work<T> {
    pub(super) fn begin(workers: &Handle, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(workers.spawn(work))
    }

    /// What the task comes to.
    ///
    /// # Errors
    /// `Internal` when it panicked.
    pub(super) async fn end(&mut self) -> Result<T> {
        (&mut self.0).await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => panicked(&*panic),
            Err(_) => Error::unavailable("the query was stopped"),
        })
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
