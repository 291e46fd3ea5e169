//! Rows are kept: what goes into a file, a merge or an export comes out, by count and digest.

use super::{Invariant, Violation};
use crate::file::{DataFile, RowDigest};

/// Rows by count and order-free digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    /// How many.
    pub rows: u64,
    /// The sum of their digests.
    pub digest: RowDigest,
}

impl RowSum {
    /// These rows and those.
    #[must_use]
    pub fn and(self, rows: u64, digest: RowDigest) -> Self {
        Self {
            rows: self.rows.saturating_add(rows),
            digest: self.digest + digest,
        }
    }

    /// The sum of some.
    pub fn of(sums: impl IntoIterator<Item = (u64, RowDigest)>) -> Self {
        sums.into_iter()
            .fold(Self::default(), |sum, (rows, digest)| sum.and(rows, digest))
    }

    /// All rows of some files.
    pub fn of_files<'a>(files: impl IntoIterator<Item = &'a DataFile>) -> Self {
        Self::of(files.into_iter().map(|file| (file.rows, file.digest())))
    }
}

/// That what came out is what went in.
pub fn check_conserved(place: impl Into<String>, before: RowSum, after: RowSum) -> Vec<Violation> {
    if before == after {
        return Vec::new();
    }
    vec![Violation::new(
        Invariant::Conservation,
        place,
        format!(
            "{} rows with digest {} became {} with digest {}",
            before.rows, before.digest, after.rows, after.digest
        ),
        "do not use what came out; keep both sides, as rows were lost, doubled or changed on the way",
    )]
}

/// That a table has the rows of its committed jobs, each once: `expected` is what they sent.
pub fn check_rows(place: impl Into<String>, expected: RowSum, found: RowSum) -> Vec<Violation> {
    if expected == found {
        return Vec::new();
    }
    vec![Violation::new(
        Invariant::Rows,
        place,
        format!(
            "{} rows with digest {} were committed, and {} with digest {} are there",
            expected.rows, expected.digest, found.rows, found.digest
        ),
        "stop the writers and keep the log: rows of committed jobs are missing, doubled or changed",
    )]
}
