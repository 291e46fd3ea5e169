//! What became of every job: a projection for people and pipelines, never asked for correctness.
//!
//! Workers report events; [`JobReport::record`] folds them. The fold takes events in any order and any number of
//! times: a status never moves backwards. A run that has committed decides; else the one whose end took the message
//! with it, else the latest attempt, and within an attempt the furthest event. What is lost with a worker is repaired from the log
//! (`jobs::repair`).

mod event;
mod list;
mod record;
mod report;
mod store;

pub use crate::ids::JobKind;
pub use event::{Event, EventKind, JobKey, JobStatus};
pub use list::{JobCursor, JobFilter, JobPage};
pub use report::{ExportCounts, JobReport, RunReport};
pub use store::{ExportPart, PartsProgress, Tracker};
