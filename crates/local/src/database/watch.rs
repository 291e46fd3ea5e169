//! Noticing commits of other processes.
//!
//! SQLite counts the commits that a connection did not make itself. While somebody waits, a thread reads this
//! counter from shared memory every few milliseconds; while nobody does, it sleeps.

use std::{sync::Arc, time::Duration};

use dormouse_core::{Error, Result};
use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tokio::sync::{Notify, futures::Notified};

/// How often the counter is read while somebody waits.
const INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    state_changed: Condvar,
    committed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    stopped: bool,
}

/// A wait for commits; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watching<'a> {
    shared: &'a Shared,
}

impl Watch {
    pub(super) fn start(connection: Connection) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        std::thread::Builder::new()
            .name("dormouse-watch".to_owned())
            .spawn(move || run(&connection, &thread))
            .map_err(|error| Error::unavailable("cannot start the watch thread").with_source(error))?;
        Ok(Self { shared })
    }

    pub(super) fn begin(&self) -> Watching<'_> {
        self.shared.state.lock().waiting += 1;
        self.shared.state_changed.notify_one();
        Watching { shared: &self.shared }
    }
}

impl Watching<'_> {
    /// Ends at the next commit, by any process, that is noticed after this call.
    pub(crate) fn committed(&self) -> Notified<'_> {
        self.shared.committed.notified()
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().waiting -= 1;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.state_changed.notify_one();
    }
}

fn run(connection: &Connection, shared: &Shared) {
    let mut seen = None;
    loop {
        let mut state = shared.state.lock();
        if state.waiting > 0 && !state.stopped {
            shared.state_changed.wait_for(&mut state, INTERVAL);
        }
        while state.waiting == 0 && !state.stopped {
            shared.state_changed.wait(&mut state);
        }
        if state.stopped {
            return;
        }
        drop(state);
        match version(connection) {
            Ok(version) if seen == Some(version) => {}
            // After an error a needless look is better than a missed message.
            result => {
                seen = result.ok();
                shared.committed.notify_waiters();
            }
        }
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}
