//! How many workers there are to be.
//!
//! A queue has a worker for every so many messages, waiting or in hand, up to a limit; those that run count, and
//! end by themselves when they find nothing to do. Messages in hand count too, or the workers that have them in
//! hand would be started again.

use dormouse_core::{
    Result,
    ports::{QueueName, TaskLauncher},
};
use serde::Serialize;

use crate::services::Services;

/// What was seen of a queue and done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Scaled {
    /// The queue.
    pub queue: QueueName,
    /// Its messages, waiting or in hand.
    pub messages: u64,
    /// Workers that run.
    pub running: u64,
    /// Workers that are missing.
    pub missing: u64,
    /// Workers that were started.
    pub started: u64,
}

/// How many workers are missing.
pub fn missing(messages: u64, running: u64, messages_each: u64, limit: u64) -> u64 {
    messages
        .div_ceil(messages_each.max(1))
        .min(limit)
        .saturating_sub(running)
}

/// Starts the workers that are missing, unless it is only to say how many.
///
/// # Errors
/// Errors of queues and the launcher.
pub async fn scale(services: &Services, launcher: &dyn TaskLauncher, dry_run: bool) -> Result<Vec<Scaled>> {
    let mut all = Vec::new();
    for queue in QueueName::ALL {
        let depth = services.queue(queue)?.depth().await?;
        let messages = depth.visible + depth.hidden;
        // A queue at rest needs no look at tasks.
        let running = if messages == 0 {
            0
        } else {
            launcher.running(queue).await?
        };
        let settings = &services.settings;
        let missing = missing(
            messages,
            running,
            settings.task_messages(),
            settings.max_tasks(queue),
        );
        let started = match missing > 0 && !dry_run {
            true => launcher.launch(queue, missing).await?,
            false => 0,
        };
        all.push(Scaled {
            queue,
            messages,
            running,
            missing,
            started,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_follow_messages_up_to_the_limit() {
        for ((messages, running, each, limit), expected) in [
            ((0, 0, 4, 10), 0),
            ((1, 0, 4, 10), 1),
            ((4, 0, 4, 10), 1),
            ((5, 0, 4, 10), 2),
            ((5, 2, 4, 10), 0),
            ((5, 3, 4, 10), 0),
            ((1000, 7, 4, 10), 3),
            ((1000, 12, 4, 10), 0),
            ((3, 0, 0, 10), 3),
            ((3, 0, 1, 0), 0),
        ] {
            assert_eq!(
                missing(messages, running, each, limit),
                expected,
                "{messages} {running} {each} {limit}"
            );
        }
    }
}
