//! The API as its clients see it: requests in, answers out. Instances are in memory, and their time is tokio's paused
//! time.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "api/access.rs"]
mod access;
#[path = "api/again.rs"]
mod again;
#[path = "api/audit.rs"]
mod audit;
#[path = "api/bulk.rs"]
mod bulk;
#[path = "api/document.rs"]
mod document;
#[path = "api/errors.rs"]
mod errors;
#[path = "api/gateway.rs"]
mod gateway;
#[path = "api/harness.rs"]
mod harness;
#[path = "api/jobs.rs"]
mod jobs;
#[path = "api/lists.rs"]
mod lists;
#[path = "api/queries.rs"]
mod queries;
#[path = "api/results.rs"]
mod results;
#[path = "api/server.rs"]
mod server;
