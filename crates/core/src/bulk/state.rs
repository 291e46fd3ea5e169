//! The states of bulk jobs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How far a bulk job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BulkState {
    /// It was made, and is not started.
    Open,
    /// It waits for its turn.
    UploadComplete,
    /// It runs.
    InProgress,
    /// Its result is there.
    JobComplete,
    /// It has failed, and says why.
    Failed,
    /// It was cancelled, or has never been started in time.
    Aborted,
}

impl BulkState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::UploadComplete,
        Self::InProgress,
        Self::JobComplete,
        Self::Failed,
        Self::Aborted,
    ];

    /// Whether a job in this state may come into that one.
    pub fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Open, Self::UploadComplete | Self::Aborted)
                | (Self::UploadComplete, Self::InProgress | Self::Aborted)
                | (Self::InProgress, Self::JobComplete | Self::Failed | Self::Aborted)
        )
    }

    /// Whether no other state follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::JobComplete | Self::Failed | Self::Aborted)
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::UploadComplete => "UploadComplete",
            Self::InProgress => "InProgress",
            Self::JobComplete => "JobComplete",
            Self::Failed => "Failed",
            Self::Aborted => "Aborted",
        }
    }

    /// The word of the other vocabulary: `PENDING`, `RUNNING`, `COMPLETED`, `FAILED` or `CANCELLED`.
    pub fn status(self) -> &'static str {
        match self {
            Self::Open | Self::UploadComplete => "PENDING",
            Self::InProgress => "RUNNING",
            Self::JobComplete => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Aborted => "CANCELLED",
        }
    }
}

impl fmt::Display for BulkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BulkState {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid(format!(
                "there is no state \"{}\"; the states are {words}",
                text.escape_debug()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BulkState::*, *};

    #[test]
    fn seven_of_the_36_pairs_are_allowed() {
        let allowed = [
            (Open, UploadComplete),
            (Open, Aborted),
            (UploadComplete, InProgress),
            (UploadComplete, Aborted),
            (InProgress, JobComplete),
            (InProgress, Failed),
            (InProgress, Aborted),
        ];
        for from in BulkState::ALL {
            for to in BulkState::ALL {
                assert_eq!(
                    from.may_become(to),
                    allowed.contains(&(from, to)),
                    "{from} to {to}"
                );
            }
            let ends = !BulkState::ALL.into_iter().any(|to| from.may_become(to));
            assert_eq!(from.is_terminal(), ends, "{from}");
            assert_eq!(from.as_str().parse::<BulkState>().unwrap(), from);
            assert_eq!(serde_json::to_value(from).unwrap(), from.as_str());
        }
    }
}
