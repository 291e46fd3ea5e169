//! What every compaction policy keeps to, over leaves of any files.

use std::collections::BTreeSet;

use dormouse_core::{
    plan::compaction::{Candidate, MAX_INPUTS, Policy, compactions, jobs},
    state::table_state::CLOCK_SKEW_MARGIN,
};
use proptest::prelude::*;

use crate::samples::{Fold, added, assigned, at, file, id, name};

fn candidates(rows: &[u64]) -> Vec<Candidate> {
    let named = |(i, rows): (usize, &u64)| Candidate {
        name: name(&format!("f{i}")),
        rows: *rows,
    };
    rows.iter().enumerate().map(named).collect()
}

fn sizes(jobs: &[Vec<Candidate>]) -> Vec<Vec<u64>> {
    let rows = |job: &Vec<Candidate>| job.iter().map(|input| input.rows).collect();
    jobs.iter().map(rows).collect()
}

fn planned(policy: Policy, rows: &[u64]) -> Vec<Vec<u64>> {
    sizes(&jobs(policy, candidates(rows)))
}

const SIZE_RATIO: Policy = Policy::SizeRatio { ratio: 3, files: 12 };

#[test]
fn files_of_about_one_size_are_merged_and_a_large_one_waits() {
    assert_eq!(planned(SIZE_RATIO, &[10, 10, 10, 10]), [[10, 10, 10, 10]]);
    assert_eq!(planned(SIZE_RATIO, &[10, 1000, 11, 10, 9]), [[9, 10, 10, 11]; 0]);
    assert_eq!(planned(SIZE_RATIO, &[10, 1000, 10, 10, 9]), [[9, 10, 10, 10]; 0]);
    assert_eq!(planned(SIZE_RATIO, &[10, 1000, 10, 10, 10]), [[10, 10, 10, 10]]);
    assert_eq!(planned(SIZE_RATIO, &[30, 10, 10, 10]), [[10, 10]; 0]);
    assert_eq!(
        planned(SIZE_RATIO, &[30, 10, 10, 10, 30, 30]),
        [[10, 10, 10, 30, 30, 30]]
    );
    assert_eq!(planned(SIZE_RATIO, &[10, 10, 10]), [[10, 10]; 0]);
    assert_eq!(planned(SIZE_RATIO, &[10]), [[10]; 0]);
}

#[test]
fn more_files_than_a_job_takes_make_several_jobs() {
    let jobs = planned(SIZE_RATIO, &[10; 30]);
    assert_eq!(jobs.iter().map(Vec::len).collect::<Vec<_>>(), [12, 12, 6]);
    // The window slides over small files that do not carry the large ones.
    let mut rows = vec![1; 2];
    rows.extend([100; 12]);
    let jobs = planned(SIZE_RATIO, &rows);
    assert_eq!(jobs.iter().map(Vec::len).collect::<Vec<_>>(), [12]);
}

#[test]
fn a_leaf_of_more_files_than_a_job_takes_is_thinned_out_whatever_their_sizes() {
    let sizes: Vec<u64> = (0..13).map(|i| 2_u64.pow(i)).collect();
    assert_eq!(planned(SIZE_RATIO, &sizes[..12]), [[1; 0]; 0]);
    assert_eq!(planned(SIZE_RATIO, &sizes), [&sizes[..12]]);
}

#[test]
fn basic_takes_full_groups_and_full_takes_all() {
    assert_eq!(planned(Policy::Basic { files: 3 }, &[5, 1, 4, 2, 3]), [[1, 2, 3]]);
    assert_eq!(planned(Policy::Full, &[500, 1, 4]), [[1, 4, 500]]);
    assert_eq!(planned(Policy::Full, &[500]), [[0]; 0]);
    let many = planned(Policy::Full, &[1; MAX_INPUTS + 2]);
    assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_INPUTS, 2]);
}

#[test]
fn leased_references_are_passed_over_until_their_lease_has_run_out() {
    let mut fold = Fold::with_table(&[100]);
    for i in 0..4 {
        let name = format!("f{i}");
        fold.ok(added(
            &format!("job-{i}"),
            &[file(&name, &[(1, 9, 5), (100, 120, 5)])],
        ));
    }
    let plan = |fold: &Fold, now| compactions(&fold.state, Policy::Full, usize::MAX, now);
    let now = fold.state.at();
    let first = plan(&fold, now);
    assert_eq!(first.len(), 2);
    assert!(first.iter().all(|job| job.inputs.len() == 4 && job.rows == 20));
    assert_eq!(compactions(&fold.state, Policy::Full, 1, now), first[..1]);

    let until = at(60_000);
    let leaf = first[0].partition.as_str().to_owned();
    fold.ok(assigned("compaction", &leaf, &["f0", "f1", "f2", "f3"], until));
    let left = plan(&fold, now);
    assert_eq!(left, first[1..]);
    assert_eq!(plan(&fold, until), first[1..]);
    assert_eq!(plan(&fold, until.plus(CLOCK_SKEW_MARGIN)), first);
    assert_eq!(first[0].partition, id(&leaf));
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        (0..6_u64, 0..20_usize).prop_map(|(ratio, files)| Policy::SizeRatio { ratio, files }),
        (0..20_usize).prop_map(|files| Policy::Basic { files }),
        Just(Policy::Full),
    ]
}

fn most_inputs(policy: Policy) -> usize {
    match policy {
        Policy::SizeRatio { files, ratio } => files.max(ratio as usize + 1).max(2),
        Policy::Basic { files } => files.max(2),
        Policy::Full => MAX_INPUTS,
    }
}

proptest! {
    #[test]
    fn jobs_are_disjoint_bounded_and_worth_their_while(
        policy in policies(),
        rows in prop::collection::vec(prop_oneof![0..50_u64, 0..1_000_000_u64, Just(u64::MAX)], 0..80),
    ) {
        let given = candidates(&rows);
        let jobs = jobs(policy, given.clone());
        let mut used = BTreeSet::new();
        for job in &jobs {
            prop_assert!((2..=most_inputs(policy)).contains(&job.len()));
            prop_assert!(job.is_sorted_by_key(|input| input.rows));
            for input in job {
                prop_assert!(given.contains(input));
                prop_assert!(used.insert(input.name.clone()), "{} is in two jobs", input.name);
            }
            if let (Policy::SizeRatio { ratio, .. }, Some((largest, others))) = (policy, job.split_last()) {
                let others = others.iter().fold(0_u64, |sum, input| sum.saturating_add(input.rows));
                let crowded = jobs.len() == 1 && given.len() > most_inputs(policy);
                prop_assert!(others >= largest.rows.saturating_mul(ratio) || crowded);
            }
        }
        let mut other_order = given;
        other_order.reverse();
        prop_assert_eq!(jobs, dormouse_core::plan::compaction::jobs(policy, other_order));
    }

    /// However files arrive, compacting until nothing is left to do ends, and loses nothing.
    #[test]
    fn compaction_comes_to_rest(policy in policies(), rows in prop::collection::vec(1..100_000_u64, 0..200)) {
        let mut leaf = Leaf { files: candidates(&rows), ..Leaf::default() };
        leaf.compact(policy);
        prop_assert_eq!(leaf.files.iter().map(|file| file.rows).sum::<u64>(), rows.iter().sum::<u64>());
        match policy {
            Policy::Full => prop_assert!(leaf.files.len() <= 1),
            Policy::Basic { files } => prop_assert!(leaf.files.len() < files.max(2)),
            Policy::SizeRatio { .. } => prop_assert!(leaf.files.len() <= most_inputs(policy)),
        }
    }

    /// Ingests of one size leave few files, and each row is written a few times: about once for each fourfold growth.
    #[test]
    fn a_leaf_fed_by_small_ingests_stays_in_shape(ingests in 1..2000_u32, together in 1..30_u32) {
        let mut leaf = Leaf::default();
        for i in 0..ingests {
            leaf.files.push(Candidate { name: name(&format!("ingest-{i}")), rows: 1000 });
            if i % together == 0 {
                leaf.compact(SIZE_RATIO);
            }
        }
        leaf.compact(SIZE_RATIO);
        let levels = f64::from(ingests).log(4.0) + 1.0;
        prop_assert!(leaf.files.len() as f64 <= 3.0 * levels, "{} files", leaf.files.len());
        let amplification = leaf.rows_written as f64 / (1000.0 * f64::from(ingests));
        prop_assert!(amplification <= levels, "each row was written {amplification} times again");
    }
}

/// A leaf whose compactions are done as soon as they are planned.
#[derive(Default)]
struct Leaf {
    files: Vec<Candidate>,
    rows_written: u64,
    jobs: u32,
}

impl Leaf {
    fn compact(&mut self, policy: Policy) {
        loop {
            let jobs = jobs(policy, self.files.clone());
            if jobs.is_empty() {
                return;
            }
            for job in jobs {
                self.files.retain(|file| !job.contains(file));
                let rows = job.iter().map(|input| input.rows).sum();
                self.jobs += 1;
                assert!(self.jobs < 10_000, "no rest");
                self.rows_written += rows;
                self.files.push(Candidate {
                    name: name(&format!("compacted-{}", self.jobs)),
                    rows,
                });
            }
        }
    }
}
