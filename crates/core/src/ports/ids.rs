//! The only source of ids and randomness.

use std::{fmt::Debug, time::Duration};

use uuid::Uuid;

/// Ids and random numbers.
pub trait Ids: Debug + Send + Sync {
    /// A new id, unlike every other.
    fn uuid(&self) -> Uuid;

    /// A random number, all values equally likely.
    fn random(&self) -> u64 {
        self.uuid().as_u64_pair().1.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// A random duration below `ceiling`.
    fn jitter(&self, ceiling: Duration) -> Duration {
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if nanos == 0 { 0 } else { self.random() % nanos })
    }
}

/// Random ids from the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemIds;

#[expect(clippy::disallowed_methods, reason = "this is the port's adapter")]
impl Ids for SystemIds {
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}
