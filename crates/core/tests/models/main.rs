//! Models of the protocols, explored to the end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "the figures of a run are its result")]

mod claims;
mod garbage;
mod log;
mod snapshots;
mod splits;
mod world;
