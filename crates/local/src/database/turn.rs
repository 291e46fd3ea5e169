//! Taking turns between processes.
//!
//! SQLite lets one process write at a time and has the others poll, so one that writes without a pause is
//! rarely interrupted. Here the next writer holds the lock of a file while it waits for SQLite's, and gives it
//! back once it has that: whoever just committed cannot begin again before the next one did. The lock is the
//! kernel's, so it goes with its process however that ends.

use std::{
    fs::{File, TryLockError},
    path::Path,
    time::Duration,
};

use dormouse_core::{Error, Result};

/// How long to wait between looks at a lock.
const PAUSE: Duration = Duration::from_micros(300);

#[derive(Debug)]
pub(super) struct Turns {
    file: File,
}

/// The right to be the next writer, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    file: &'a File,
}

impl Turns {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|error| {
                Error::invalid(format!("cannot open {} for writing", path.display())).with_source(error)
            })?;
        Ok(Self { file })
    }

    /// Waits for the turn, up to `patience`.
    pub(super) fn take(&self, patience: Duration) -> Result<Turn<'_>> {
        let mut waited = Duration::ZERO;
        loop {
            match self.file.try_lock() {
                Ok(()) => return Ok(Turn { file: &self.file }),
                Err(TryLockError::WouldBlock) if waited < patience => {
                    pause();
                    waited += PAUSE;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::unavailable(format!(
                        "other processes kept the database for {patience:?}"
                    )));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(Error::unavailable("the lock file cannot be locked").with_source(error));
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the writer's own thread waits")]
fn pause() {
    std::thread::sleep(PAUSE);
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::error!(%error, "cannot unlock the lock file");
        }
    }
}

/// Waits for SQLite's own lock at a short and even pace, up to the database's patience.
pub(super) fn wait_for_sqlite(looks: i32) -> bool {
    if looks as u128 * PAUSE.as_micros() > super::PATIENCE.as_micros() {
        return false;
    }
    pause();
    true
}
