//! What tests of every crate share: adapters in memory, seeded time and ids, and a conformance suite per port.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`memory`] | every storage port in memory: small, ordered, without threads |
//! | [`rows`] | rows of simulated tables, whichever engine keeps them |
//! | [`seeded`] | ids from a seed, and a clock that follows tokio's paused time |
//! | [`suites`] | the contracts of the ports as checks that any adapter can run |

pub mod memory;
pub mod rows;
pub mod seeded;
pub mod suites;
