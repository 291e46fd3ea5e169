//! What always holds, in one place: for tests, models, simulations, `dormouse doctor` and the commit loop.
//!
//! Everything here is a pure function over data that its caller has read. A check shares no code with what it
//! checks, and answers with what it found wrong: nothing, when all is sound.
//!
//! | Invariant | What holds | Checked by |
//! |---|---|---|
//! | [`Rows`](Invariant::Rows) | a committed job's rows are in the table exactly once, an uncommitted one's are not | [`rows`], [`Replay`] (a job takes effect once), deep verification of files; models and simulations compare tables with what they sent |
//! | [`Accept`](Invariant::Accept) | an accepted job comes to one final status | [`check_tracker`], once quiet |
//! | [`Ack`](Invariant::Ack) | an acknowledged commit is in every later state | [`check_acknowledged`] |
//! | [`Once`](Invariant::Once) | a commit id changes the state at most once | [`LogCheck`], [`Replay`], [`check`] (the state's memories) |
//! | [`Log`](Invariant::Log) | numbers without hole or reuse, a hash chain, head and floor that never go back, a snapshot where entries are gone | [`LogCheck`], [`check_succession`], [`check`] |
//! | [`Replay`](Invariant::Replay) | snapshot and tail give the state of the whole log | [`Replay`] |
//! | [`Files`](Invariant::Files) | no object that a state or a live pin needs is gone | [`missing`], [`check`] (what may be marked) |
//! | [`Immutable`](Invariant::Immutable) | an object is written once, and is what the state says | [`missing`] (sizes), deep verification (checksums), [`check`] (names are not used again) |
//! | [`PartitionTree`](Invariant::PartitionTree) | leaves are disjoint and cover the key space; a file's references are disjoint and cover its parts | [`check`], [`Replay::finish`] |
//! | [`Order`](Invariant::Order) | files are sorted, and within their ranges | deep verification |
//! | [`Conservation`](Invariant::Conservation) | compaction, splitting and export keep the multiset of rows | [`rows`], [`check_export`] |
//! | [`SnapshotRead`](Invariant::SnapshotRead) | a reader sees one transaction, and a pin keeps it | [`check`] (pins), [`check_export`] |
//! | [`Export`](Invariant::Export) | complete means mark, manifest and every file, as planned | [`check_export`] |
//! | [`Fencing`](Invariant::Fencing) | a superseded attempt changes nothing | [`check`] (leases), [`Replay`] (nothing refused is in the log) |
//! | [`Tracker`](Invariant::Tracker) | it never claims more than the log, and all of it once quiet | [`check_tracker`] |
//! | [`Orphans`](Invariant::Orphans) | every object is known, or young | [`orphans`] |
//! | [`Liveness`](Invariant::Liveness), [`Bounds`](Invariant::Bounds), [`Determinism`](Invariant::Determinism) | queues drain, memory is bounded, a seed replays a run | simulations and system tests, which report them by these names |
//!
//! In production, [`change`] checks each commit's effect before it is appended, at the cost of what it changed.

pub mod change;
mod export;
mod log;
mod memories;
mod objects;
mod replay;
pub mod rows;
mod shape;
#[cfg(test)]
mod tests;
mod tracker;

use std::{borrow::Cow, fmt};

use serde::{Serialize, Serializer};

pub use export::{ExportView, check_export};
pub use log::{LogCheck, LogHead, check_acknowledged, check_log, check_succession};
pub use objects::{ObjectFact, Orphans, missing, orphans};
pub use replay::Replay;
pub use shape::check;
pub use tracker::{TrackerView, check_tracker};

/// One of the things that always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the module's table says what each means")]
pub enum Invariant {
    Rows,
    Accept,
    Ack,
    Once,
    Log,
    Replay,
    Files,
    Immutable,
    PartitionTree,
    Order,
    Conservation,
    SnapshotRead,
    Export,
    Fencing,
    Tracker,
    Orphans,
    Liveness,
    Bounds,
    Determinism,
}

impl Invariant {
    /// The name, the same for ever.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Accept => "accept",
            Self::Ack => "ack",
            Self::Once => "once",
            Self::Log => "log",
            Self::Replay => "replay",
            Self::Files => "files",
            Self::Immutable => "immutable",
            Self::PartitionTree => "partition-tree",
            Self::Order => "order",
            Self::Conservation => "conservation",
            Self::SnapshotRead => "snapshot-read",
            Self::Export => "export",
            Self::Fencing => "fencing",
            Self::Tracker => "tracker",
            Self::Orphans => "orphans",
            Self::Liveness => "liveness",
            Self::Bounds => "bounds",
            Self::Determinism => "determinism",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Invariant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Violation {
    /// What does not hold.
    pub invariant: Invariant,
    /// The thing: a file, a log entry, a job.
    pub place: String,
    /// What was found there.
    pub found: String,
    /// What to do about it.
    pub remedy: Cow<'static, str>,
}

impl Violation {
    /// A violation.
    pub fn new(
        invariant: Invariant,
        place: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            invariant,
            place: place.into(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.invariant, self.place, self.found)
    }
}
