//! Which files may be deleted.

use std::time::Duration;

use crate::{ids::FileName, state::TableState, time::Timestamp};

/// How long garbage stays.
#[derive(Clone, Copy, Debug)]
pub struct GarbagePolicy {
    /// After the last state that is kept refers to the file.
    pub delay: Duration,
    /// How long past states are kept.
    pub history: Duration,
}

/// Garbage that is old enough to be marked at `now`. What pins protect is left to the record that marks.
pub fn markable(state: &TableState, policy: GarbagePolicy, now: Timestamp) -> Vec<FileName> {
    state
        .garbage()
        .filter(|(_, garbage)| !garbage.marked)
        .filter(|(_, garbage)| {
            let in_history = garbage.added.is_some();
            let wait = if in_history {
                policy.history.max(policy.delay)
            } else {
                policy.delay
            };
            now.since(garbage.removed_at) >= wait
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// Files whose objects may be deleted at once.
pub fn deletable(state: &TableState) -> Vec<FileName> {
    state
        .garbage()
        .filter(|(_, garbage)| garbage.marked)
        .map(|(name, _)| name.clone())
        .collect()
}
