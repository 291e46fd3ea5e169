//! The domain of Dormouse: key-sorted, range-partitioned tables of Parquet files, changed by transactions.
//!
//! Nothing here does I/O but through the ports, and nothing reads a clock, draws a random number or spawns a
//! task, so a seed replays a run.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`error`], [`time`], [`ids`] | the error that crosses every port, points in time, names and ids |
//! | [`schema`], [`key`], [`partition`], [`mod@file`] | what a table is made of |
//! | [`predicate`], [`row_rules`] | which rows are meant; which rows of a table count, and which become one |
//! | [`ports`] | what Dormouse needs from the world, with each port's contract |
//! | [`state`] | the table state: records, their effects, the log, snapshots, and the commit loop |
//! | [`tables`], [`tracker`], [`config`] | the index of tables, what became of jobs, properties |
//! | [`tenants`], [`bulk`] | who may ask over HTTP, and the jobs that they make |
//! | [`plan`] | planners: pure functions from a state to what should be done |
//! | [`message`] | message bodies as users and workers send them |
//! | [`gather`] | many things sent by few calls |
//! | [`collections`] | the one list of stored items and their keys |
//! | `testing` (feature) | in-memory adapters, seeded clock and ids, and a conformance suite per port |

#![warn(missing_docs)]

pub mod bulk;
pub mod collections;
pub mod config;
pub mod error;
pub mod file;
pub mod gather;
pub mod ids;
pub mod key;
pub mod message;
pub mod partition;
pub mod plan;
pub mod ports;
pub mod predicate;
pub mod row_rules;
pub mod schema;
pub mod state;
pub mod tables;
pub mod tenants;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod tracker;

pub use error::{Error, ErrorKind, Result};
