//! Many runs, on all cores.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dormouse_core::testing::rows::Rows;
use parking_lot::Mutex;

use super::simulation::{self, Failure, KEPT_LINES, Summary};

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    /// How many runs there were.
    pub seeds: u64,
    /// Their numbers.
    pub total: Summary,
    /// Runs in which a promise was broken, by seed.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs the seeds from `first` on, one after the other on each of `threads`, until `count` were run or `stop_after`
/// of them failed. `progress` hears what there is so far after each run, and how that run failed if it did.
#[expect(
    clippy::disallowed_methods,
    reason = "runs are on threads of their own and last a while"
)]
pub fn run(
    (first, count): (u64, u64),
    rows: &Arc<dyn Rows>,
    threads: usize,
    stop_after: usize,
    progress: impl Fn(&Campaign, Option<&Failure>) + Sync,
) -> Campaign {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let campaign = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || campaign.lock().failures.len() >= stop_after {
                        return;
                    }
                    let end = simulation::run(first + seed, rows, KEPT_LINES);
                    let mut campaign = campaign.lock();
                    campaign.seeds += 1;
                    let failed = end.is_err();
                    match end {
                        Ok(summary) => campaign.total.add(&summary),
                        Err(failure) => campaign.failures.push(failure),
                    }
                    progress(&campaign, campaign.failures.last().filter(|_| failed));
                }
            });
        }
    });
    let mut campaign = campaign.into_inner();
    campaign.failures.sort_by_key(|failure| failure.seed);
    campaign.elapsed = began.elapsed();
    campaign
}

/// How many threads to run on: all of the machine's.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
