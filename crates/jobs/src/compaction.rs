//! Queue `compaction`: merge files of a leaf.
//!
//! [`create()`] plans, leases the inputs to each job in the table's log, and sends its message. A job that is leased
//! and not sent, or sent and lost, gives its inputs back when the lease runs out. A worker ([`worker`]) takes the
//! lease anew before it begins and while it works, writes one file under a name of its own, and commits the swap,
//! which is refused unless the lease is still the job's and every input still at the leaf. So a run that was
//! overtaken, by another run or by a split, changes nothing.
//!
//! A [`purge`] makes such jobs for the files that may hold certain rows; they leave these rows out.

pub mod create;
pub mod purge;
pub mod worker;

pub use create::create;
pub use purge::Purge;
pub use worker::CompactionWorker;
