//! Stops a call's threads when its future is dropped, and contains their panics.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dormouse_core::{Error, Result};

/// A flag that threads check once a batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Raises the flag.
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails once the flag is up.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Error::unavailable("the work was cancelled"));
        }
        Ok(())
    }

    /// Raises the flag when dropped.
    pub(crate) fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Raises its flag when dropped: held by the future whose threads must not outlive it.
#[derive(Debug)]
pub(crate) struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs `work`; a panic in it becomes the error that `on_panic` makes of the panic's message.
pub(crate) fn contain<T>(
    on_panic: impl FnOnce(String) -> Error,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(on_panic(panic_message(panic.as_ref()))))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guard_raises_the_flag() {
        let cancel = Cancel::default();
        let guard = cancel.on_drop();
        assert!(cancel.check().is_ok());
        drop(guard);
        assert!(cancel.check().is_err());
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let error = contain(Error::corrupt, || -> Result<()> { panic!("boom {}", 1) }).unwrap_err();
        assert_eq!(error.to_string(), "boom 1");
    }
}
