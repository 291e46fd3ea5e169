//! Simulated instances: all of Dormouse on storage in memory, in one thread, with time that leaps.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`stage`] | where every call on a port passes, and what a director makes of it: faults, delays, crashes |
//! | [`process`] | one simulated process: its workers and schedules, killed, paused and stopped from outside |
//! | [`ports`] | the ports of a simulated process |
//! | [`auditor`] | who sees every write that took effect, and says at once when a promise is broken |
//! | `presence` | which rows of which jobs the auditor expects in a table |
//! | [`instance`] | a simulated instance: storage, processes, an operator |
//! | [`checks`] | what must hold once all is quiet |
//! | [`simulation`] | a whole run from a seed: clients, an operator, faults, quiet, and the last checks |
//! | [`campaign`] | many runs on all cores |
//!
//! A handler touches nothing but ports, so the instants that a crash can tell apart are those before and after
//! the calls on ports: every call is a crash point, named after the worker that calls and what it calls.

#![expect(clippy::unwrap_used, reason = "a simulation that cannot go on says where")]

pub mod auditor;
pub mod campaign;
pub mod checks;
pub mod instance;
pub mod ports;
mod presence;
pub mod process;
pub mod simulation;
pub mod stage;
