//! Load, check, append, retry: the only loop that reads and writes table state.

use std::{
    cmp::Ordering,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use object_store::{ObjectStore, path::Path};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    apply::{Outcome, Refusal},
    invariants::LogHead,
    log,
    log::{Entry, StoredEntry},
    proposal::Proposal,
    snapshot,
    snapshot::SnapshotEntry,
    table_state::{TableState, TableStatus},
    transaction::{Commit, Record},
};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    ids::{TableId, TransactionNumber},
    ports::{Clock, Condition, Ids, ItemKey, ItemStore, Range, Write},
    time::Timestamp,
};

/// How often an append is tried again before its commits are answered as unavailable.
const MAX_ATTEMPTS: u32 = 40;

/// The first retry waits up to so long, the next ones up to twice as long as the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);

/// No retry waits longer.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// How many snapshots are tried before the whole log is.
const SNAPSHOTS_TRIED: usize = 8;

/// The most commits in one entry.
const MAX_GROUP: usize = 1000;

/// What became of a commit, and the state that it was checked against or made.
#[derive(Clone, Debug)]
pub struct Committed {
    /// What became of it.
    pub outcome: Outcome,
    /// The state after it.
    pub state: Arc<TableState>,
}

/// Which state to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AsOf {
    /// After this transaction.
    Transaction(TransactionNumber),
    /// After the last transaction at or before this time.
    Time(Timestamp),
}

/// Reads table states, and commits.
///
/// Commits that wait in one process for one table go into one log entry, each with an outcome of its own.
#[derive(Debug)]
pub struct StateStore {
    items: Arc<dyn ItemStore>,
    objects: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    logs: Mutex<HashMap<TableId, Arc<TableLog>>>,
}

#[derive(Debug)]
struct TableLog {
    table: TableId,
    newest: Mutex<Arc<TableState>>,
    waiting: Mutex<Vec<Waiting>>,
    appending: tokio::sync::Mutex<()>,
}

type Answer = oneshot::Receiver<Result<Committed, (ErrorKind, String)>>;

#[derive(Debug)]
struct Waiting {
    commit: Arc<Commit>,
    answer: oneshot::Sender<Result<Committed, (ErrorKind, String)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TableLog {
    fn newest(&self) -> Arc<TableState> {
        lock(&self.newest).clone()
    }

    /// Puts a commit in the queue.
    fn ask(&self, commit: &Arc<Commit>) -> Answer {
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).push(Waiting {
            commit: commit.clone(),
            answer,
        });
        answered
    }

    fn offer(&self, state: &Arc<TableState>) {
        let mut newest = lock(&self.newest);
        if state.transaction() > newest.transaction() {
            *newest = state.clone();
        }
    }
}

impl StateStore {
    /// A store over these items, and over the bucket that holds table data.
    pub fn new(
        items: Arc<dyn ItemStore>,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self {
            items,
            objects,
            clock,
            ids,
            logs: Mutex::default(),
        }
    }

    fn log(&self, table: &TableId) -> Arc<TableLog> {
        lock(&self.logs)
            .entry(table.clone())
            .or_insert_with(|| {
                Arc::new(TableLog {
                    table: table.clone(),
                    newest: Mutex::new(Arc::default()),
                    waiting: Mutex::default(),
                    appending: tokio::sync::Mutex::default(),
                })
            })
            .clone()
    }

    /// Frees the memory that the state of `table` takes here.
    pub fn forget(&self, table: &TableId) {
        lock(&self.logs).remove(table);
    }

    /// The newest state: it holds every commit that was acknowledged before the call. A table that was never
    /// created has the default state.
    ///
    /// # Errors
    /// `Corrupt` when the log or its snapshots are damaged; errors of the stores.
    pub async fn state(&self, table: &TableId) -> Result<Arc<TableState>> {
        self.refresh(&self.log(table), false).await
    }

    /// The newest state of a table that is there.
    ///
    /// # Errors
    /// `NotFound` when the table was never created or was deleted, and as [`Self::state`].
    pub async fn live_state(&self, table: &TableId) -> Result<Arc<TableState>> {
        let state = self.state(table).await?;
        match state.status() {
            TableStatus::Live => Ok(state),
            TableStatus::Absent | TableStatus::Deleted => {
                Err(Error::not_found(format!("table {table} does not exist")))
            }
        }
    }

    /// A table's state as it was; without a time or a transaction, the newest of a table that is there.
    ///
    /// # Errors
    /// As [`Self::state_as_of`] and [`Self::live_state`].
    pub async fn state_at(&self, table: &TableId, as_of: Option<AsOf>) -> Result<Arc<TableState>> {
        match as_of {
            Some(as_of) => self.state_as_of(table, as_of).await,
            None => self.live_state(table).await,
        }
    }

    /// Follows the log to its end. Compares the end with the head when asked to, and whenever the state was
    /// not followed from one that was compared before.
    async fn refresh(&self, log: &TableLog, mut compare_head: bool) -> Result<Arc<TableState>> {
        let mut state = log.newest();
        let mut failure = None;
        for _ in 0..3 {
            if state.transaction().0 == 0 {
                state = self.load_first(&log.table, Range::all()).await?;
                compare_head = true;
            }
            let mut next = TableState::clone(&state);
            match self.follow_to_end(&log.table, &mut next, compare_head).await {
                Ok(()) => {
                    if next.transaction() > state.transaction() {
                        state = Arc::new(next);
                    }
                    if failure.is_some() {
                        *lock(&log.newest) = state.clone();
                    } else {
                        log.offer(&state);
                    }
                    return Ok(state);
                }
                // The log was cut beyond this state, or is not the one it came from: start again from a snapshot.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                    state = Arc::default();
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let error = Error::corrupt(format!(
            "the log of table {} cannot be followed from any snapshot",
            log.table
        ));
        Err(match failure {
            Some(source) => error.with_source(source),
            None => error,
        })
    }

    async fn follow_to_end(&self, table: &TableId, state: &mut TableState, compare_head: bool) -> Result<()> {
        log::follow_tail(&*self.items, &*self.objects, table, state, None).await?;
        if !compare_head {
            return Ok(());
        }
        let Some(head) = log::head(&*self.items, table).await? else {
            return match state.transaction().0 {
                0 => Ok(()),
                _ => Err(Error::corrupt(format!("the log of table {table} has no head"))),
            };
        };
        if head.number > state.transaction() {
            // Whatever was appended since the tail was read is there to be read now.
            log::follow_tail(&*self.items, &*self.objects, table, state, None).await?;
        }
        let fits = match head.number.cmp(&state.transaction()) {
            Ordering::Less => log::head(&*self.items, table)
                .await?
                .is_some_and(|head| head.number >= state.transaction()),
            Ordering::Equal => head.hash == state.hash(),
            Ordering::Greater => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "the log of table {table} ends with entry {}, but its head is at {}",
            state.transaction(),
            head.number
        )))
    }

    /// Loads the newest whole snapshot in `range`. Without one, it is for the log to tell whether it goes back
    /// to the beginning.
    async fn load_first(&self, table: &TableId, range: Range) -> Result<Arc<TableState>> {
        for entry in &snapshot::list(&*self.items, table, range, SNAPSHOTS_TRIED).await? {
            match snapshot::load(&*self.objects, table, entry).await {
                Ok(state) => return Ok(Arc::new(state)),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    tracing::warn!(%table, path = %entry.path, error = error.report(), "snapshot passed over");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::default())
    }

    /// The state as of a transaction or a time.
    ///
    /// # Errors
    /// `NotFound` when that state is in the future or no longer kept.
    pub async fn state_as_of(&self, table: &TableId, as_of: AsOf) -> Result<Arc<TableState>> {
        let newest = self.state(table).await?;
        let oldest = newest.oldest_readable();
        let number = match as_of {
            AsOf::Transaction(number) => number,
            AsOf::Time(time) => {
                let number = self.number_at(table, &newest, time).await?;
                number.filter(|number| *number >= oldest).ok_or_else(|| {
                    Error::not_found(format!(
                        "the state of table {table} at {time} is not kept; the oldest is that of transaction {oldest}"
                    ))
                })?
            }
        };
        if number > newest.transaction() || number < oldest {
            return Err(Error::not_found(format!(
                "the state of table {table} at transaction {number} is not kept; those from {oldest} to {} are",
                newest.transaction()
            )));
        }
        if number == newest.transaction() {
            return Ok(newest);
        }
        let mut state = TableState::clone(&*self.load_first(table, Range::up_to(number.0)).await?);
        log::follow_tail(&*self.items, &*self.objects, table, &mut state, Some(number)).await?;
        if state.transaction() != number {
            return Err(Error::corrupt(format!(
                "the log of table {table} ends with entry {}, before {number}",
                state.transaction()
            )));
        }
        Ok(Arc::new(state))
    }

    /// The last transaction at or before `time`; none when it is older than all that is kept.
    async fn number_at(
        &self,
        table: &TableId,
        newest: &TableState,
        time: Timestamp,
    ) -> Result<Option<TransactionNumber>> {
        if newest.at() <= time {
            return Ok(Some(newest.transaction()));
        }
        let found = log::number_at(&*self.items, table, newest.floor(), newest.transaction(), time).await?;
        if found.is_some() {
            return Ok(found);
        }
        // The state before the floor is in a snapshot.
        let before = Range::before(newest.floor().0);
        let snapshots = snapshot::list(&*self.items, table, before, 1).await?;
        Ok(snapshots
            .first()
            .filter(|entry| entry.at <= time && entry.transaction.next() == newest.floor())
            .map(|entry| entry.transaction))
    }

    /// Commits, and answers once the outcome is known.
    ///
    /// The outcome is what the log says; an error means that it is not known yet, and the same commit may be sent
    /// again. Dropping the future leaves the outcome open too.
    ///
    /// # Errors
    /// `Unavailable` when the stores did not answer; `Corrupt` when the log is damaged.
    pub async fn commit(&self, table: &TableId, commit: Commit) -> Result<Committed> {
        let log = self.log(table);
        let commit = Arc::new(commit);
        let answered = log.ask(&commit);
        self.answer(&log, &commit, answered).await
    }

    async fn answer(&self, log: &TableLog, commit: &Arc<Commit>, mut answered: Answer) -> Result<Committed> {
        loop {
            let appending = log.appending.lock().await;
            match answered.try_recv() {
                Ok(result) => return result.map_err(|(kind, message)| Error::new(kind, message)),
                // The one who took this commit along was dropped half-way.
                Err(TryRecvError::Closed) => answered = log.ask(commit),
                Err(TryRecvError::Empty) => {}
            }
            self.append_waiting(log).await;
            drop(appending);
        }
    }

    /// Commits several requests together, and answers each once its outcome is known.
    ///
    /// # Errors
    /// As [`Self::commit`], for all of them.
    pub async fn commit_all(&self, table: &TableId, commits: Vec<Commit>) -> Result<Vec<Committed>> {
        let log = self.log(table);
        let asked: Vec<_> = commits
            .into_iter()
            .map(Arc::new)
            .map(|commit| (log.ask(&commit), commit))
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        for (answered, commit) in asked {
            answers.push(self.answer(&log, &commit, answered).await);
        }
        answers.into_iter().collect()
    }

    async fn append_waiting(&self, log: &TableLog) {
        let group: Vec<Waiting> = {
            let mut waiting = lock(&log.waiting);
            let count = waiting.len().min(MAX_GROUP);
            waiting
                .drain(..count)
                .filter(|waiting| !waiting.answer.is_closed())
                .collect()
        };
        if group.is_empty() {
            return;
        }
        let commits: Vec<_> = group.iter().map(|waiting| waiting.commit.clone()).collect();
        match self.append(log, &commits).await {
            Ok((outcomes, state)) => {
                for (waiting, outcome) in group.into_iter().zip(outcomes) {
                    let _ = waiting.answer.send(Ok(Committed {
                        outcome,
                        state: state.clone(),
                    }));
                }
            }
            Err(error) => {
                // What a store says is about the store, and must not be taken for a commit's refusal.
                let kind = match error.kind() {
                    kind @ (ErrorKind::Unavailable | ErrorKind::Corrupt) => kind,
                    _ => ErrorKind::Internal,
                };
                for waiting in group {
                    let _ = waiting.answer.send(Err((kind, error.report())));
                }
            }
        }
    }

    /// Appends those of the commits that change something.
    async fn append(
        &self,
        log: &TableLog,
        commits: &[Arc<Commit>],
    ) -> Result<(Vec<Outcome>, Arc<TableState>)> {
        let mut last_error = None;
        let mut lost_race = false;
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                let ceiling = FIRST_BACKOFF
                    .saturating_mul(1 << attempt.min(10))
                    .min(MAX_BACKOFF);
                self.clock.sleep(self.ids.jitter(ceiling)).await;
            }
            // A race is lost to an entry that can be read. When there is none, it is the head that tells why.
            let state = match self.refresh(log, lost_race).await {
                Ok(state) => state,
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    last_error = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let proposal = Proposal::new(&state, &log.table, self.clock.now(), commits)?;
            let Some(append) = proposal.append else {
                return Ok((proposal.outcomes, state));
            };
            let floor = append.next.floor();
            let writes = log::append_writes(
                &*self.objects,
                &append.entry,
                append.body,
                append.hash,
                floor,
                self.ids.uuid(),
            )
            .await;
            let appended = match writes {
                Ok(writes) => self.items.transact(writes).await,
                Err(error) => Err(error),
            };
            match appended {
                Ok(()) => {
                    let next = Arc::new(append.next);
                    log.offer(&next);
                    return Ok((proposal.outcomes, next));
                }
                // Either way the next refresh tells whether the entry is in the log.
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => {
                    tracing::debug!(table = %log.table, attempt, error = error.report(), "append not acknowledged");
                    lost_race = error.kind() == ErrorKind::Conflict;
                    last_error = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let message = format!(
            "it is not known after {MAX_ATTEMPTS} attempts whether table {} has changed",
            log.table
        );
        let error = Error::unavailable(message);
        Err(match last_error {
            Some(source) => error.with_source(source),
            None => error,
        })
    }

    /// Makes a table: its first log entry, and `with` in the same transaction of the item store.
    ///
    /// # Errors
    /// `AlreadyExists` when the table exists; `Conflict` when a condition of `with` does not hold; `Invalid` when
    /// the record does not make a table; `Unavailable` when it is not known whether there is a table now.
    pub async fn create(&self, table: &TableId, commit: Commit, with: Vec<Write>) -> Result<Arc<TableState>> {
        let log = self.log(table);
        let _appending = log.appending.lock().await;
        let mut state = TableState::default();
        let now = self.clock.now();
        let entry = Entry::after(&state, table, now, vec![commit]);
        if let Some(Outcome::Refused(Refusal { kind, reason })) =
            state.apply(entry.number, entry.at, &entry.commits).pop()
        {
            return Err(Error::new(kind, reason));
        }
        let (body, hash) = entry.encode()?;
        let mut writes =
            log::append_writes(&*self.objects, &entry, body, hash, state.floor(), self.ids.uuid()).await?;
        writes.extend(with);
        match self.items.transact(writes).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => {
                match log::stored_hash(&*self.items, table, entry.number).await? {
                    // The store's own client may have sent the request twice, and the first one counted.
                    Some(stored) if stored == hash => {}
                    Some(_) => return Err(Error::already_exists(format!("table {table} exists already"))),
                    None => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        self.refresh(&log, false).await
    }

    /// Writes a snapshot of the newest state when at least `min_transactions` came since the last one. Returns
    /// the transaction of the newest snapshot.
    ///
    /// # Errors
    /// Errors of the stores, and `Corrupt` when the object does not read back as written.
    pub async fn snapshot(
        &self,
        table: &TableId,
        min_transactions: u64,
    ) -> Result<Option<TransactionNumber>> {
        let state = self.state(table).await?;
        let newest = snapshot::list(&*self.items, table, Range::all(), 1).await?.pop();
        let since = newest.as_ref().map_or(0, |newest| newest.transaction.0);
        if state.transaction().0.saturating_sub(since) < min_transactions.max(1) {
            return Ok(newest.map(|newest| newest.transaction));
        }
        match snapshot::write(&*self.items, &*self.objects, table, &state, self.ids.uuid()).await {
            // Another maker listed one at this number first: it stands.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            result => result?,
        }
        Ok(Some(state.transaction()))
    }

    /// Cuts the log behind a snapshot, keeping two snapshots, every state from `keep_from` on, and what pins need.
    /// Returns how many entries were removed.
    ///
    /// # Errors
    /// Errors of the stores.
    pub async fn truncate(&self, table: &TableId, keep_from: Timestamp) -> Result<u64> {
        let snapshots = snapshot::list(&*self.items, table, Range::all(), usize::MAX >> 1).await?;
        let state = self.state(table).await?;
        let now = self.clock.now().max(state.at());
        let bases = snapshot::bases(&snapshots, keep_from, state.oldest_pin(now));
        let Some(base) = self.readable(table, bases, &state).await? else {
            return Ok(0);
        };
        let floor = base.transaction.next();
        if floor < state.floor() {
            return Ok(0);
        }
        for entry in snapshot::redundant(&snapshots, base) {
            let uncut = log::floor_is(table, state.floor());
            match snapshot::delete(&*self.items, &*self.objects, table, entry, Some(uncut)).await {
                // Somebody else has cut the log since, maybe behind this very snapshot.
                Err(error) if error.kind() == ErrorKind::Conflict => return Ok(0),
                result => result?,
            }
        }
        if floor > state.transaction() {
            return Ok(0);
        }
        if floor > state.floor() {
            let id = super::CommitId::new(format!("truncate/{floor}/{}", self.ids.uuid()));
            let record = Record::HistoryTruncated { floor };
            self.commit(table, Commit::new(id, record))
                .await?
                .outcome
                .into_result()?;
        }
        // From the record on nobody removes the base; before it, somebody may have.
        if !snapshot::is_listed(&*self.items, table, base.transaction).await? {
            return Ok(0);
        }
        let deleted = log::delete_before(&*self.items, &*self.objects, table, floor).await?;
        snapshot::delete_before(&*self.items, &*self.objects, table, base.transaction).await?;
        Ok(deleted)
    }

    /// The first of the snapshots that the log may be cut behind: one that it was cut behind before, or that still
    /// reads back whole.
    async fn readable<'a>(
        &self,
        table: &TableId,
        bases: impl Iterator<Item = &'a SnapshotEntry>,
        state: &TableState,
    ) -> Result<Option<&'a SnapshotEntry>> {
        for entry in bases {
            if entry.transaction.next() <= state.floor() {
                return Ok(Some(entry));
            }
            match snapshot::load(&*self.objects, table, entry).await {
                Ok(_) => return Ok(Some(entry)),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    tracing::warn!(%table, path = %entry.path, error = error.report(), "snapshot passed over");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The verified snapshots of a table, the newest first.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn snapshots(&self, table: &TableId) -> Result<Vec<SnapshotEntry>> {
        snapshot::list(&*self.items, table, Range::all(), usize::MAX >> 1).await
    }

    /// The state in a snapshot.
    ///
    /// # Errors
    /// `Corrupt` when the object is not what was verified; `NotFound` when it is gone.
    pub async fn snapshot_state(&self, table: &TableId, entry: &SnapshotEntry) -> Result<TableState> {
        snapshot::load(&*self.objects, table, entry).await
    }

    /// The head of a log, as it is stored; none before its first entry.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; errors of the item store.
    pub async fn stored_head(&self, table: &TableId) -> Result<Option<LogHead>> {
        log::head(&*self.items, table).await
    }

    /// Up to `limit` entries after `after`, as they are stored, in whatever state.
    ///
    /// # Errors
    /// `Unavailable` when a store does not answer.
    pub async fn stored_entries(
        &self,
        table: &TableId,
        after: TransactionNumber,
        limit: usize,
    ) -> Result<Vec<StoredEntry>> {
        log::stored_entries(&*self.items, &*self.objects, table, after, limit).await
    }

    /// The objects that the log and the snapshots of a table are in.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn object_paths(&self, table: &TableId) -> Result<Vec<Path>> {
        let mut paths = log::body_paths(&*self.items, table).await?;
        paths.extend(self.snapshots(table).await?.into_iter().map(|entry| entry.path));
        Ok(paths)
    }

    /// Removes the log and the list of snapshots of a table that was deleted; their objects are the caller's.
    ///
    /// # Errors
    /// Errors of the stores.
    pub async fn remove(&self, table: &TableId) -> Result<()> {
        let beyond = TransactionNumber(u64::MAX >> 1);
        snapshot::delete_before(&*self.items, &*self.objects, table, beyond).await?;
        log::delete_before(&*self.items, &*self.objects, table, beyond).await?;
        let head = ItemKey::new(Collection::Heads, table.as_str(), ());
        self.items.delete(head, Condition::None).await?;
        self.forget(table);
        Ok(())
    }
}
