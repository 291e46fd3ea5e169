//! Worker processes on demand.

use std::fmt::Debug;

use async_trait::async_trait;

use super::QueueName;
use crate::error::Result;

/// Starts worker processes, which end by themselves when they find nothing to do. Best effort: whoever asks looks
/// again later.
#[async_trait]
pub trait TaskLauncher: Debug + Send + Sync {
    /// How many processes work on the queue, or are about to.
    async fn running(&self, queue: QueueName) -> Result<u64>;

    /// Starts so many more, and returns how many began to start.
    ///
    /// # Errors
    /// `Unavailable` when the service does not answer; fewer than asked for is no error.
    async fn launch(&self, queue: QueueName, count: u64) -> Result<u64>;
}
