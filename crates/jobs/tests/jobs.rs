//! The workflows as their users see them: messages in; rows, exports and job reports out. The real worker loop runs
//! on ports in memory, whose time is tokio's paused time.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "jobs/bulk.rs"]
mod bulk;
#[path = "jobs/commits.rs"]
mod commits;
#[path = "jobs/compaction.rs"]
mod compaction;
#[path = "jobs/crash_points.rs"]
mod crash_points;
#[path = "jobs/doctor.rs"]
mod doctor;
#[path = "jobs/export.rs"]
mod export;
#[path = "jobs/faults.rs"]
mod faults;
#[path = "jobs/harness.rs"]
mod harness;
#[path = "jobs/housekeeping.rs"]
mod housekeeping;
#[path = "jobs/ingest.rs"]
mod ingest;
#[path = "jobs/purge.rs"]
mod purge;
#[path = "jobs/repair.rs"]
mod repair;
#[path = "jobs/simulation.rs"]
mod simulation;
#[path = "jobs/splitting.rs"]
mod splitting;
#[path = "jobs/tracker.rs"]
mod tracker;
#[path = "jobs/worker.rs"]
mod worker;
