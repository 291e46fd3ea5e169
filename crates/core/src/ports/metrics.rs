//! Numbers for operators.

use std::fmt::Debug;

/// A number that is measured. Names are Sleeper's where it has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Rows that an ingest job has added.
    IngestRowsWritten,
    /// Rows that a compaction has written.
    CompactionRowsWritten,
    /// Rows of a leaf that an export has written.
    ExportRowsWritten,
    /// A job that failed or was rejected.
    JobsFailed,
    /// Data files of a table.
    Files,
    /// Rows of a table.
    Rows,
    /// Partitions of a table, split ones too.
    Partitions,
    /// Leaves of a table.
    Leaves,
    /// File references of a leaf, on average.
    FilesPerLeaf,
}

impl Metric {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IngestRowsWritten => "StandardIngestRowsWritten",
            Self::CompactionRowsWritten => "CompactionRowsWritten",
            Self::ExportRowsWritten => "BulkExportRowsWritten",
            Self::JobsFailed => "JobsFailed",
            Self::Files => "NumberOfFilesWithReferences",
            Self::Rows => "RowCount",
            Self::Partitions => "PartitionCount",
            Self::Leaves => "LeafPartitionCount",
            Self::FilesPerLeaf => "AverageFileReferencesPerPartition",
        }
    }
}

/// Takes measurements, each of a table if it is of one. They may be lost.
pub trait Metrics: Debug + Send + Sync {
    /// Takes numbers that were measured together.
    fn put(&self, table: Option<&str>, measured: &[(Metric, f64)]);
}

/// Drops every measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMetrics;

impl Metrics for NoMetrics {
    fn put(&self, _table: Option<&str>, _measured: &[(Metric, f64)]) {}
}
