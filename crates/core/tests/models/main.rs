//! Models of the protocols, explored to the end: every order of the steps of every process, within bounds.
//!
//! The table's state in a model is a real [`TableState`](dormouse_core::state::TableState), and what changes it,
//! plans from it and checks it is the code that production runs; only the stores are modelled, as maps with atomic
//! steps. See `world.rs`. No run is cut at a depth, so a model that passes holds in all its states.
//!
//! | Model | Processes | States: generated, distinct | In large bounds |
//! |---|---|---|---|
//! | `log` | 2 writers, 2 jobs, 1 redelivery, 1 lost reply, 2 truncations | 983,825, 357,025 | 2,623,889, 936,153 |
//! | `snapshots`, damage | 2 makers of 2 rounds, 2 commits, 1 torn put, 1 rotten object | 1,440,830, 561,739 | 7,371,530, 2,767,158 |
//! | `snapshots`, history | 2 makers over 3 snapshots, 1 tick of the clock, 1 pin | 212,481, 101,456 | 2,246,669, 1,028,601 |
//! | `garbage` | 2 runs of a job, a clearing, 1 collection, 1 export, 2 ticks | 221,628, 131,672 | 1,158,321, 622,934 |
//! | `garbage`, leaping | the same without the export, 2 collections, one of which may die, a leap of 36 days | 351,875, 192,153 | as usual |
//! | `claims` | 2 workers, an ingest, 2 compactions, 2 deliveries of each, a lost message, 1 crash, 1 tick | 612,117, 253,582 | 3,567,096, 1,396,930 |
//! | `splits` | 2 runs, 2 splits, one of them twice, 1 compaction, a reader, an export's plan in every state | 63,723, 27,368 | 562,769, 239,316 |
//!
//! Each model asserts that the rare events are among its states, and has a twin for each mechanism that it is
//! about: the same model without the mechanism, in which the checker must find the named property broken.
//!
//! | Model | Mechanisms that a twin lacks |
//! |---|---|
//! | `log` | a head, its condition, stable ids, the gap check, recognition of one's own commit |
//! | `snapshots` | verification, names of their own, a second snapshot, the record before the deletion, the floor check of thinning, the check that the base is still listed, a list no older than the floor |
//! | `garbage` | pins, the pin of the very state planned from, the mark before the deletion, a mark on orphans, listing before reading the state, the sweep, the time of the first issue |
//! | `claims` | acknowledging after the effect, receipts, names of their own, stable jobs, one transaction for a compaction, the end of a lease |
//! | `splits` | a plan from one state, reading within a leaf's bounds, a refusal that is final |
//!
//! Each run prints its figures, which `--nocapture` shows. `DORMOUSE_MODEL_BOUNDS=large` widens the bounds,
//! `DORMOUSE_MODEL_THREADS` is the number of threads, and `DORMOUSE_MODEL_TRACES=1` prints how each twin breaks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "the figures of a run are its result")]

mod claims;
mod garbage;
mod log;
mod snapshots;
mod splits;
mod world;
