//! Simulated runs over rows in memory.

use std::sync::Arc;

use dormouse_core::testing::rows::{MemoryRows, Rows};
use dormouse_jobs::testing::{auditor::RARE_EVENTS, campaign, simulation};

/// How many seeds every change is tested with.
const SEEDS: u64 = 2000;

/// Set to a number of seeds, makes the first broken promise end the run, and leaves rare events uncounted: for
/// `scripts/mutate`.
const OTHER_SEEDS: &str = "DORMOUSE_SIMULATED_SEEDS";

fn rows() -> Arc<dyn Rows> {
    Arc::new(MemoryRows)
}

#[test]
fn two_thousand_seeds_break_no_promise_and_see_every_rare_event() {
    let other_seeds: Option<u64> = std::env::var(OTHER_SEEDS)
        .ok()
        .map(|seeds| seeds.parse().unwrap());
    let (seeds, stop_after) = other_seeds.map_or((SEEDS, 5), |seeds| (seeds, 1));
    let campaign = campaign::run(
        (1, seeds),
        &rows(),
        campaign::all_threads(),
        stop_after,
        |_, _| {},
    );
    let failures: Vec<_> = campaign.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(campaign.seeds, seeds);
    if other_seeds.is_some() {
        return;
    }
    let total = &campaign.total;
    let unseen: Vec<_> = RARE_EVENTS
        .into_iter()
        .filter(|event| !total.events.contains_key(event))
        .collect();
    assert!(unseen.is_empty(), "never seen: {unseen:#?}");
    assert!(
        total.faults.len() >= 18,
        "too few kinds of faults: {:?}",
        total.faults
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=100 {
        let run = || simulation::run(seed, &rows(), simulation::KEPT_LINES).unwrap();
        let (first, second) = (run(), run());
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.calls, second.calls, "seed {seed}");
    }
}

/// Seeds that once broke a promise. A seed names a schedule only as long as nothing that draws from it changes, so
/// each defect also has a test of its own, named here.
#[test]
fn seeds_that_once_failed_do_not_again() {
    let regressions = [
        // A damaged snapshot stopped the cutting of the log for good:
        // core `a_damaged_snapshot_does_not_keep_the_log_from_being_cut`.
        229,
        // A run that died after another delivery had ended its message stayed in progress for ever:
        // core `an_end_decides_over_an_attempt_that_was_left_open`.
        394, 819, 915, 1029, 1185, 1791, 1853, 1886,
        // A flipped byte of a plan dropped a part of an export: core `a_plan_with_any_other_byte_is_refused`.
        1727,
        // An export that had its mark was reported as failed when its message died:
        // `a_complete_export_whose_message_died_is_reported_as_finished`.
        1877,
        // An export whose table was deleted after its mark was written was reported as failed:
        // `an_export_that_was_complete_before_its_table_went_is_reported_as_finished`.
        6659, 8194, 9617,
        // A collector failed whose table another had just purged:
        // `collectors_that_meet_at_a_deleted_table_both_succeed`.
        30324,
        // An export failed whose state had left the history before it was pinned:
        // `a_splitter_that_sleeps_while_the_table_moves_on_exports_a_newer_state`.
        70831,
    ];
    for seed in regressions {
        if let Err(failure) = simulation::run(seed, &rows(), simulation::KEPT_LINES) {
            panic!("{failure}");
        }
    }
}
