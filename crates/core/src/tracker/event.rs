//! What happens to jobs, and how far they are.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    ids::{JobId, JobKind, RunId, TableId, TransactionNumber},
    predicate::Predicate,
    time::Timestamp,
};

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobStatus {
    /// It was planned, and its message is being sent.
    Created,
    /// Its message was read.
    Accepted,
    /// Its leaves are planned, and their messages sent.
    Split,
    /// It runs.
    InProgress,
    /// Its rows are written, but not in the table yet.
    Uncommitted,
    /// Its message cannot be used. Final.
    Rejected,
    /// It ended without effect. Final, unless it is sent again.
    Failed,
    /// Somebody ended it. Final.
    Cancelled,
    /// Its effect is complete. Final.
    Finished,
}

impl JobStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Accepted,
        Self::Split,
        Self::InProgress,
        Self::Uncommitted,
        Self::Rejected,
        Self::Failed,
        Self::Cancelled,
        Self::Finished,
    ];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Accepted => "ACCEPTED",
            Self::Split => "SPLIT",
            Self::InProgress => "IN_PROGRESS",
            Self::Uncommitted => "UNCOMMITTED",
            Self::Rejected => "REJECTED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Finished => "FINISHED",
        }
    }

    /// Whether it ended otherwise than it should.
    pub fn is_failure(self) -> bool {
        self.is_final() && self != Self::Finished
    }

    /// Whether nothing more will happen by itself.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Rejected | Self::Failed | Self::Cancelled | Self::Finished
        )
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobStatus {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|status| status.as_str()).collect();
                Error::invalid(format!(
                    "no status \"{text}\"; the statuses are {}",
                    names.join(", ")
                ))
            })
    }
}

/// Which job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKey {
    /// The workflow.
    pub kind: JobKind,
    /// The table; none when the message names none that exists.
    pub table: Option<TableId>,
    /// The job.
    pub job: JobId,
}

/// One thing that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the reporter's clock.
    pub at: Timestamp,
    /// The attempt's run; exports, whose parts run apart, have one run named as the export.
    pub run: RunId,
    /// Which delivery of the message the run belongs to.
    pub attempt: u32,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the report")]
pub enum EventKind {
    /// The message cannot be used.
    Rejected { reasons: Vec<String>, message: String },
    /// The job was planned.
    Created {
        input_files: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        purge: Option<Predicate>,
    },
    /// The message was read.
    Accepted { input_files: u64 },
    /// A run began.
    Started,
    /// A run has come so far.
    Progress { rows_read: u64, rows_written: u64 },
    /// A run has written its files and asks for its commit.
    Written {
        rows_read: u64,
        rows_written: u64,
        files: u64,
    },
    /// The log holds the job's commit.
    Committed {
        transaction: TransactionNumber,
        rows: u64,
        files: u64,
    },
    /// A run ended, and the job will be tried again.
    Retrying { reasons: Vec<String> },
    /// A run ended, and the job with it.
    Failed { reasons: Vec<String> },
    /// An export has a plan.
    Split {
        transaction: TransactionNumber,
        sub_exports: u64,
    },
    /// So many parts of an export are done.
    PartsDone { done: u64, rows: u64, bytes: u64 },
    /// A part of an export failed for good.
    PartFailed { part: String, reasons: Vec<String> },
    /// An export's manifest is written.
    Exported {
        transaction: TransactionNumber,
        sub_exports: u64,
        rows: u64,
        bytes: u64,
        location: String,
    },
}

impl EventKind {
    /// The name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::Created { .. } => "created",
            Self::Accepted { .. } => "accepted",
            Self::Started => "started",
            Self::Progress { .. } => "progress",
            Self::Written { .. } => "written",
            Self::Committed { .. } => "committed",
            Self::Retrying { .. } => "retrying",
            Self::Failed { .. } => "failed",
            Self::Split { .. } => "split",
            Self::PartsDone { .. } => "parts_done",
            Self::PartFailed { .. } => "part_failed",
            Self::Exported { .. } => "exported",
        }
    }

    /// Where the event comes among those of an attempt.
    pub(super) fn stage(&self) -> u8 {
        match self {
            Self::Created { .. } => 0,
            Self::Accepted { .. } => 1,
            Self::Started | Self::Split { .. } => 2,
            Self::Progress { .. } | Self::PartsDone { .. } => 3,
            Self::Written { .. } => 4,
            Self::Rejected { .. }
            | Self::Committed { .. }
            | Self::Retrying { .. }
            | Self::Failed { .. }
            | Self::PartFailed { .. }
            | Self::Exported { .. } => 5,
        }
    }

    /// Whether the event is kept for itself, and not only in the report.
    pub fn is_kept(&self) -> bool {
        !matches!(self, Self::Progress { .. } | Self::PartsDone { .. })
    }

    pub(super) fn status(&self) -> JobStatus {
        match self {
            Self::Rejected { .. } => JobStatus::Rejected,
            Self::Created { .. } => JobStatus::Created,
            Self::Accepted { .. } => JobStatus::Accepted,
            Self::Started | Self::Progress { .. } | Self::Retrying { .. } | Self::PartsDone { .. } => {
                JobStatus::InProgress
            }
            Self::Written { .. } => JobStatus::Uncommitted,
            Self::Split { .. } => JobStatus::Split,
            Self::Failed { .. } | Self::PartFailed { .. } => JobStatus::Failed,
            Self::Committed { .. } | Self::Exported { .. } => JobStatus::Finished,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_as_they_are_written_and_four_are_final() {
        let names = [
            "CREATED",
            "ACCEPTED",
            "SPLIT",
            "IN_PROGRESS",
            "UNCOMMITTED",
            "REJECTED",
            "FAILED",
            "CANCELLED",
            "FINISHED",
        ];
        assert_eq!(JobStatus::ALL.map(JobStatus::as_str), names);
        for status in JobStatus::ALL {
            assert_eq!(status.to_string().parse::<JobStatus>().unwrap(), status);
            let json = serde_json::to_value(status).unwrap();
            assert_eq!(json, status.as_str());
        }
        assert_eq!("in_progress".parse::<JobStatus>().unwrap(), JobStatus::InProgress);
        let error = "done".parse::<JobStatus>().unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no status \"done\"; the statuses are CREATED, ACCEPTED"),
            "{error}"
        );
        let failures = JobStatus::ALL.map(JobStatus::is_failure);
        assert_eq!(
            failures,
            [false, false, false, false, false, true, true, true, false]
        );
        assert!(JobStatus::Finished.is_final());
    }
}
