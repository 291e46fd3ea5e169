//! A state in numbers.

use serde::Serialize;

use super::{TableState, table_state::Pin};
use crate::{
    ids::{JobKind, TransactionNumber},
    time::Timestamp,
};

/// How a table is doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The state's transaction.
    pub transaction: TransactionNumber,
    /// When that was.
    pub at: Timestamp,
    /// Rows; estimated where leaves were split since their files were written.
    pub rows: u64,
    /// Bytes of the files that leaves refer to.
    pub bytes: u64,
    /// How many there are.
    pub files: u64,
    /// How many leaves there are.
    pub leaves: u64,
    /// How many files a leaf has.
    pub files_per_leaf: Spread,
    /// Files that no leaf refers to and that are still there.
    pub garbage_files: u64,
    /// Their bytes.
    pub garbage_bytes: u64,
    /// The reader's lease on the oldest state.
    pub oldest_pin: Option<Pin>,
    /// Entries of the log, from the oldest that is kept.
    pub log_entries: u64,
    /// The oldest state that can be read.
    pub oldest_readable: TransactionNumber,
    /// How many files hold a row's leaf: the mean over all rows. None without rows.
    pub read_amplification: Option<f64>,
    /// How often a row was written, by ingest and by compactions: of the jobs of the last 35 days, rows written by
    /// both for each row ingested. None without ingests.
    pub write_amplification: Option<f64>,
}

/// The smallest, the mean and the largest of some numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub max: u64,
}

impl Spread {
    fn of(numbers: &[u64]) -> Self {
        let (Some(min), Some(max)) = (numbers.iter().min(), numbers.iter().max()) else {
            return Self::default();
        };
        Self {
            min: *min,
            mean: numbers.iter().sum::<u64>() as f64 / numbers.len() as f64,
            max: *max,
        }
    }
}

impl Summary {
    /// The numbers of `state` at `now`.
    pub fn of(state: &TableState, now: Timestamp) -> Self {
        let leaves: Vec<(u64, u64)> = state
            .leaves()
            .map(|leaf| (state.references(&leaf.id).count() as u64, state.rows_at(&leaf.id)))
            .collect();
        let files: Vec<u64> = leaves.iter().map(|(files, _)| *files).collect();
        let reads: f64 = leaves
            .iter()
            .map(|(files, rows)| *files as f64 * *rows as f64)
            .sum();
        let rows = state.rows();
        let written = |kind| {
            let of_kind = state.ledger().filter(|(_, entry)| entry.kind == kind);
            of_kind.map(|(_, entry)| entry.rows as f64).sum::<f64>()
        };
        let (ingested, compacted) = (written(JobKind::Ingest), written(JobKind::Compaction));
        let live_pins = state.pins().map(|(_, pin)| pin).filter(|pin| pin.is_live(now));
        Self {
            transaction: state.transaction(),
            at: state.at(),
            rows,
            bytes: state
                .files()
                .fold(0, |bytes, (file, _)| bytes.saturating_add(file.bytes)),
            files: state.file_count() as u64,
            leaves: leaves.len() as u64,
            files_per_leaf: Spread::of(&files),
            garbage_files: state.garbage().count() as u64,
            garbage_bytes: state
                .garbage()
                .fold(0, |bytes, (_, garbage)| bytes.saturating_add(garbage.bytes)),
            oldest_pin: live_pins.min_by_key(|pin| pin.transaction).cloned(),
            log_entries: (state.transaction().0 + 1).saturating_sub(state.floor().0),
            oldest_readable: state.oldest_readable(),
            read_amplification: (rows > 0).then(|| reads / rows as f64),
            write_amplification: (ingested > 0.0).then(|| (ingested + compacted) / ingested),
        }
    }
}
