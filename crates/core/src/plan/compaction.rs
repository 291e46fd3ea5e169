//! Which files to merge.
//!
//! A policy looks at the references of one leaf that no job has leased, and groups them into jobs. Each job replaces
//! its inputs, as far as they are in the leaf, by one file. The policies and their defaults are those of Sleeper:
//! [`Policy::SizeRatio`] is size-tiered compaction in the terms of the LSM literature.

use crate::{
    ids::{FileName, PartitionId},
    state::{TableState, table_state::CLOCK_SKEW_MARGIN},
    time::Timestamp,
};

/// The most inputs of a job, whatever its policy asks for: each input that is merged takes memory and open requests.
pub const MAX_INPUTS: usize = 512;

/// How files are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Files of about one size: the rows of a job's inputs without the largest are at least `ratio` times the rows of
    /// the largest. So a row is written again about once each time that the leaf grows by the ratio. Where no files
    /// keep the ratio and there are more than `files`, as many of the smallest are a job, so that no leaf has more at rest.
    SizeRatio {
        /// How many times.
        ratio: u64,
        /// The most inputs of a job; at least one more than the ratio, as fewer files of one size cannot keep it.
        files: usize,
    },
    /// As many files as there may be, the smallest first; fewer wait.
    Basic {
        /// The inputs of a job.
        files: usize,
    },
    /// All files of a leaf, whatever their sizes.
    Full,
}

/// A reference that may be an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file.
    pub name: FileName,
    /// Its rows in the leaf, as far as known.
    pub rows: u64,
}

/// A job to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCompaction {
    /// The leaf.
    pub partition: PartitionId,
    /// The files, the smallest first.
    pub inputs: Vec<FileName>,
    /// Their rows in the leaf, as far as known.
    pub rows: u64,
}

/// The jobs of all leaves, in key order, but no more than `limit`.
///
/// References whose lease has not run out at `now`, with its margin for skew, are passed over.
pub fn compactions(
    state: &TableState,
    policy: Policy,
    limit: usize,
    now: Timestamp,
) -> Vec<PlannedCompaction> {
    let of_leaf = |partition: PartitionId| {
        let candidates = candidates(state, &partition, now);
        jobs(policy, candidates)
            .into_iter()
            .map(move |job| PlannedCompaction {
                partition: partition.clone(),
                rows: job.iter().fold(0, |rows, input| rows.saturating_add(input.rows)),
                inputs: job.into_iter().map(|input| input.name).collect(),
            })
    };
    state
        .leaves()
        .flat_map(|leaf| of_leaf(leaf.id))
        .take(limit)
        .collect()
}

/// The references of a leaf that no job has leased at `now`.
pub fn candidates(state: &TableState, partition: &PartitionId, now: Timestamp) -> Vec<Candidate> {
    let is_free = |name: &FileName| {
        state
            .lease(partition, name)
            .is_none_or(|lease| now >= lease.until.plus(CLOCK_SKEW_MARGIN))
    };
    state
        .references(partition)
        .filter(|reference| is_free(&reference.file.name))
        .map(|reference| Candidate {
            name: reference.file.name.clone(),
            rows: reference.rows(),
        })
        .collect()
}

/// The jobs of one leaf: each has at least two inputs, and no input is in two.
pub fn jobs(policy: Policy, mut candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    candidates.sort_by(|a, b| (a.rows, &a.name).cmp(&(b.rows, &b.name)));
    match policy {
        Policy::SizeRatio { ratio, files } => {
            let least = usize::try_from(ratio).unwrap_or(MAX_INPUTS).saturating_add(1);
            let files = files.max(least).clamp(2, MAX_INPUTS);
            match size_ratio(&candidates, ratio, files) {
                jobs if jobs.is_empty() && candidates.len() > files => vec![candidates[..files].to_vec()],
                jobs => jobs,
            }
        }
        Policy::Basic { files } => {
            let files = files.clamp(2, MAX_INPUTS);
            candidates.chunks_exact(files).map(<[_]>::to_vec).collect()
        }
        Policy::Full => candidates
            .chunks(MAX_INPUTS)
            .filter(|job| job.len() > 1)
            .map(<[_]>::to_vec)
            .collect(),
    }
}

/// Files too large for the others are left out; of the rest, each run of neighbours in size that keeps the ratio is
/// a job.
fn size_ratio(candidates: &[Candidate], ratio: u64, files: usize) -> Vec<Vec<Candidate>> {
    let mut rest = candidates;
    while rest.len() > 1 && !keeps_ratio(rest, ratio) {
        rest = &rest[..rest.len() - 1];
    }
    let mut jobs = Vec::new();
    while rest.len() > 1 {
        let window = &rest[..rest.len().min(files)];
        if keeps_ratio(window, ratio) {
            jobs.push(window.to_vec());
            rest = &rest[window.len()..];
        } else {
            rest = &rest[1..];
        }
    }
    jobs
}

/// Whether the rows of all but the last, which has the most, are at least `ratio` times those of the last.
fn keeps_ratio(sorted: &[Candidate], ratio: u64) -> bool {
    let Some((largest, others)) = sorted.split_last() else {
        return false;
    };
    let others = others
        .iter()
        .fold(0_u64, |rows, input| rows.saturating_add(input.rows));
    others >= largest.rows.saturating_mul(ratio)
}
