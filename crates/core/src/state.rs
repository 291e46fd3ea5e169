//! Table state: the fold of a table's log, and the only loop that appends to it.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`transaction`] | the records: every way a table can change |
//! | [`table_state`] | the state, and how to ask it |
//! | [`apply`](mod@apply) | what each record does to the state, and when it is refused |
//! | [`invariants`] | what always holds, and how it is checked |
//! | [`log`] | entries as stored: encoding, hash chain, reading the tail |
//! | [`proposal`] | what an append would do, before it is written |
//! | [`store`] | load, check, append, retry: group commit |
//! | [`summary`] | a state in numbers |
//! | [`snapshot`] | whole states as objects, and cutting the log behind them |
//!
//! # The protocol
//!
//! A table has one log. Entry `n` holds the hash of entry `n - 1` and one or more commits. An append is one
//! transaction of the item store: put entry `n + 1` if there is none, and move the head from `n` to `n + 1`. The
//! condition on the entry alone would not do: once a log is cut, a stale writer could create a number anew that
//! was removed, and lose an acknowledged commit.
//!
//! A writer checks its commit against the newest state, appends, and retries from a fresh state when it lost the
//! race or never heard the answer. The state remembers the ids of recent commits, so a writer whose answer was
//! lost finds its own commit in the tail that it reads, and neither commits twice nor reports a failure. What a
//! commit meets at its place in the log is what it was checked against, so its outcome is known from the append.
//!
//! A reader asks for the entries after the one it has. A gap or a broken chain makes it start again from the
//! newest snapshot; it never skips. Cutting the log keeps the newest entry and everything after the snapshot
//! that it cuts behind, so a reader that was overtaken meets a gap, and none is misled by an empty answer. A reader
//! that starts afresh, and a writer that lost a race, also compare the end of the log with the head: an entry that
//! was acknowledged and is gone from the end is an error too.

pub mod apply;
pub mod invariants;
pub mod log;
pub mod proposal;
pub mod snapshot;
pub mod store;
pub mod summary;
pub mod table_state;
pub mod transaction;

pub use apply::{Outcome, Refusal};
pub use store::{AsOf, Committed, StateStore};
pub use table_state::{Kept, KeptBecause, Reference, TableState};
pub use transaction::{Commit, CommitId, Record};
