//! The ports on one machine: an embedded data directory with nothing to install.
//!
//! Any number of processes may open one directory at once. Whatever a port acknowledged is on disk, and
//! survives the loss of power.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`directory`] | the layout of a data directory, and what opening one checks |
//! | `database` | the SQLite file: one writer thread that commits in groups, readers, and a watch for changes |
//! | `item_store`, `queue` | their ports as SQL |
//! | [`objects`] | buckets as directories, and the operator's files |
//! | `copy` | copies between buckets inside the kernel |
//! | `migrations` | the schema's versions |
//! | `error` | what each of SQLite's errors means to a caller |

#![warn(missing_docs)]

mod copy;
mod database;
pub mod directory;
mod error;
mod item_store;
mod migrations;
pub mod objects;
mod queue;

pub use directory::LocalDirectory;
pub use objects::DirectoryBuckets;
