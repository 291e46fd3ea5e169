//! One conformance suite per port: what the port promises, as checks that every adapter must pass.
//!
//! A check is a public function that is given a way to make a fresh adapter and panics with the promise that was
//! broken; `all` runs every check of a suite. The checks run in real time against real services too: waits are
//! hundreds of milliseconds, keys are unlike those of any other check, and nothing is expected sooner than the
//! port promises it. Run them on a multi-threaded runtime.

pub mod buckets;
pub mod copy;
pub mod item_store;
pub mod queue;

use crate::error::{ErrorKind, Result};

/// Panics with `promise` when `result` is anything but an error of `kind`.
#[track_caller]
fn expect_kind<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, promise: &str) {
    match result {
        Err(error) if error.kind() == kind => {}
        other => panic!("{promise}: expected {kind:?}, got {other:?}"),
    }
}

/// Panics with `promise` and the error when `result` is one.
#[track_caller]
fn expect<T>(result: Result<T>, promise: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{promise}: {:?}: {}", error.kind(), error.report()),
    }
}
