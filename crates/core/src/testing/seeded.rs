//! Ids and time that a seed replays.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    ports::{Clock, Ids},
    time::Timestamp,
};

/// Ids and random numbers that follow from a seed and the order of the calls.
#[derive(Debug)]
pub struct SeededIds {
    generator: Mutex<StdRng>,
}

impl SeededIds {
    /// The ids of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            generator: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }
}

impl Ids for SeededIds {
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.generator.lock().fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    fn random(&self) -> u64 {
        self.generator.lock().next_u64()
    }
}

/// A wall clock that follows tokio's time, so it stands still while a paused runtime has work and leaps while
/// all tasks wait.
///
/// Must be made and used inside a tokio runtime with time enabled.
#[derive(Debug)]
pub struct PausedClock {
    start: Timestamp,
    since: Instant,
    jumped_millis: AtomicI64,
}

impl PausedClock {
    /// A clock that shows `start` now.
    #[expect(clippy::disallowed_methods, reason = "this is the port's adapter")]
    pub fn new(start: Timestamp) -> Self {
        Self {
            start,
            since: Instant::now(),
            jumped_millis: AtomicI64::new(0),
        }
    }

    /// Sets the clock forward (or back, when negative), as an operator or a time server may. Nobody who sleeps
    /// wakes earlier or later for it.
    pub fn jump(&self, millis: i64) {
        self.jumped_millis.fetch_add(millis, Ordering::Relaxed);
    }
}

#[async_trait]
#[expect(clippy::disallowed_methods, reason = "this is the port's adapter")]
impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        let jumped = self.jumped_millis.load(Ordering::Relaxed);
        let shown = self.start.plus(self.since.elapsed());
        Timestamp::from_millis(shown.as_millis().saturating_add(jumped))
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
