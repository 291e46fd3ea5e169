//! When workers end.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use dormouse_core::time::Timestamp;
use tokio_util::sync::CancellationToken;

/// When the workers of a process end, and how busy they are.
#[derive(Debug, Default)]
pub struct Lifetime {
    retire: CancellationToken,
    stop: CancellationToken,
    activity: Mutex<Activity>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    busy: usize,
    last: Option<Timestamp>,
}

impl Lifetime {
    /// A life that ends when `stop` is cancelled.
    pub fn until(stop: CancellationToken) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    /// Lets workers take no more messages, finish what they have in hand, and end.
    pub fn retire(&self) {
        self.retire.cancel();
    }

    /// Lets workers end soon: running jobs have the drain time, then their messages are given back.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Cancelled when workers are to end soon.
    pub fn stopped(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled when workers are to take no more messages.
    pub fn retired(&self) -> &CancellationToken {
        &self.retire
    }

    /// For how long nobody had a message in hand; nothing while somebody has.
    pub fn idle(&self, now: Timestamp) -> Duration {
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        if activity.busy > 0 {
            return Duration::ZERO;
        }
        now.since(*activity.last.get_or_insert(now))
    }

    pub(super) fn began(&self) {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner).busy += 1;
    }

    pub(super) fn ended(&self, now: Timestamp) {
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        activity.busy = activity.busy.saturating_sub(1);
        activity.last = Some(now);
    }
}
