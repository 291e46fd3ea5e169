//! Every workflow of Dormouse, against the ports.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`services`] | the ports and stores that workflows use |
//! | [`worker`] | the loop: receive, extend, handle, record, acknowledge, drain |
//! | [`ingest`] | queue `ingest`: add the rows of some files to a table, once |
//! | [`export`] | queues `export` and `export-leaf`: plan, write and finish an export |
//! | [`compaction`] | queue `compaction`: merge files of a leaf |
//! | [`splitting`] | queue `splitting`: leaves over the threshold become several |
//! | [`query`] | tables as a query is to see them |
//! | [`audit`] | the log line of each query |
//! | [`mod@bulk`] | queue `query`: write the rows of a tenant's query as objects |
//! | [`commit`] | how a workflow commits, and queue `commit` |
//! | [`garbage`], [`snapshots`], [`repair`] | what schedules do for each table |
//! | [`schedule`] | the schedules themselves |
//! | [`scaling`] | how many workers there are to be |
//! | [`doctor`] | is everything that is stored of a table sound? |
//! | `testing` | simulated instances, with feature `testing` |
//!
//! A message is a hint: every handler may run twice, late, out of order, or be dropped at any await, and reads
//! what is true from the state. A handler acknowledges nothing itself; the worker does, after the handler has
//! read its outcome back. Workers never delete objects. No task is spawned here: dropping a future stops it.

#![warn(missing_docs)]

pub mod audit;
pub mod bulk;
pub mod commit;
pub mod compaction;
pub mod doctor;
pub mod export;
pub mod garbage;
pub mod import;
pub mod ingest;
pub mod query;
pub mod repair;
pub mod restore;
mod run;
pub mod scaling;
pub mod schedule;
pub mod services;
pub mod snapshots;
pub mod splitting;
#[cfg(feature = "testing")]
pub mod testing;
pub mod worker;

pub use services::{Ports, Services};
pub use worker::{Handler, JobFailure, Subject};

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use crate::{Handler, Services, schedule::Schedule, worker};

    fn is_send<T: Send>(_: &T) {}

    /// A process may run each worker and schedule as a task of its own.
    #[expect(dead_code, reason = "it is enough that it compiles")]
    fn workers_and_schedules_are_send(services: &Services, handler: &dyn Handler, stop: &CancellationToken) {
        is_send(&worker::run(services, handler, stop));
        is_send(&Schedule::Repair.run(services, stop));
    }
}
