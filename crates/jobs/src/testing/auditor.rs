//! Who sees every write that took effect.
//!
//! The auditor folds each log entry the moment it is stored, whatever its writer learns of it, and keeps a model of
//! its own beside: which job's rows came with which transaction. It checks what must hold at every moment, counts
//! faults and the rare events that a run is made for, and knows what each table must hold at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use dormouse_core::{
    collections::Collection,
    ids::{FileName, JobId, TableId, TransactionNumber},
    ports::{Delivery, Item, ItemStore, Order, QueueName, Range, Receipt, Sort, Write},
    state::{Outcome, Record, TableState, invariants, log::Entry, table_state::TableStatus},
    testing::{memory::MemoryItemStore, rows::Row},
};
use futures::FutureExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parking_lot::Mutex;

use super::{
    presence::{Change, RowsAt, presence_at},
    stage::{Act, Fate, Stage},
};

/// What the auditor knows of a table.
#[derive(Clone, Debug, Default)]
struct Audited {
    state: TableState,
    changes: Vec<(TransactionNumber, Change)>,
    committed: BTreeMap<JobId, TransactionNumber>,
    splits: Vec<TransactionNumber>,
}

#[derive(Debug, Default)]
struct Audit {
    tables: BTreeMap<TableId, Audited>,
    promises: BTreeMap<JobId, Arc<Vec<Row>>>,
    deliveries: BTreeMap<String, Delivery>,
    /// Jobs whose commit is in the log and whose writer was not told.
    untold: BTreeMap<JobId, TransactionNumber>,
    /// Jobs of which a run was reported to have ended.
    ended: BTreeSet<JobId>,
    written: BTreeMap<Path, u32>,
    violations: Vec<String>,
    faults: BTreeMap<&'static str, u64>,
    events: BTreeMap<&'static str, u64>,
}

/// The rare events that simulations are made for; a long run sees each.
pub const RARE_EVENTS: [&str; 24] = [
    "append landed and its reply was lost",
    "append lost its race",
    "job acknowledged by a run that was not told of its commit",
    "second run of a job found it committed",
    "files of a losing run became garbage",
    "several commits in one entry",
    "log cut",
    "reader was behind the cut",
    "snapshot makers met at one transaction",
    "snapshot was damaged",
    "orphan swept",
    "split while an export was open",
    "table dropped with jobs under way",
    "copy of a message came after the ledger's time",
    "dead letter of a committed job sent again",
    "entry too large for its item",
    "table cleared",
    "table restored",
    "table cleared while an export was open",
    "compaction committed",
    "leaf split by its rows",
    "leaf kept whole",
    "purge came to its end",
    "purge met files that others had leased",
];

/// Who sees every write that took effect.
#[derive(Debug)]
pub struct Auditor {
    items: Arc<MemoryItemStore>,
    data: Arc<dyn ObjectStore>,
    audit: Mutex<Audit>,
}

fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    future.now_or_never()
}

impl Auditor {
    /// An auditor of an instance that has no tables yet. Both stores are without faults.
    pub fn new(items: Arc<MemoryItemStore>, data: Arc<dyn ObjectStore>) -> Self {
        Self {
            items,
            data,
            audit: Mutex::default(),
        }
    }

    /// A client promises that a job brings these rows.
    pub fn promise(&self, job: JobId, rows: Arc<Vec<Row>>) {
        self.audit.lock().promises.insert(job, rows);
    }

    /// The rows that a client promised of a job.
    pub fn promised(&self, job: &JobId) -> Option<Arc<Vec<Row>>> {
        self.audit.lock().promises.get(job).cloned()
    }

    /// Counts an event.
    pub fn count(&self, event: &'static str) {
        *self.audit.lock().events.entry(event).or_default() += 1;
    }

    pub(super) fn count_fate(&self, fate: Fate) {
        if fate.act != Act::Pass {
            *self.audit.lock().faults.entry(fate.act.name()).or_default() += 1;
        }
    }

    /// A promise that was broken.
    pub fn violation(&self, text: String) {
        self.audit.lock().violations.push(text);
    }

    /// What was broken so far.
    pub fn violations(&self) -> Vec<String> {
        self.audit.lock().violations.clone()
    }

    /// How often each kind of fault and each event was seen.
    pub fn counts(&self) -> (BTreeMap<&'static str, u64>, BTreeMap<&'static str, u64>) {
        let audit = self.audit.lock();
        (audit.faults.clone(), audit.events.clone())
    }

    /// The state of a table.
    pub fn state(&self, table: &TableId) -> TableState {
        let audit = self.audit.lock();
        audit
            .tables
            .get(table)
            .map(|table| table.state.clone())
            .unwrap_or_default()
    }

    /// Where a job's rows came into tables.
    pub fn committed(&self, job: &JobId) -> Vec<TableId> {
        let audit = self.audit.lock();
        let holds = audit
            .tables
            .iter()
            .filter(|(_, table)| table.committed.contains_key(job));
        holds.map(|(id, _)| id.clone()).collect()
    }

    /// Which jobs a table has rows of, ever.
    pub fn jobs(&self, table: &TableId) -> Vec<JobId> {
        let audit = self.audit.lock();
        let jobs = audit
            .tables
            .get(table)
            .map(|table| table.committed.keys().cloned().collect());
        jobs.unwrap_or_default()
    }

    /// The rows that a table must hold after a transaction, and those that it may hold.
    pub fn rows_at(&self, table: &TableId, at: TransactionNumber) -> RowsAt {
        let audit = self.audit.lock();
        let changes = audit.tables.get(table).map(|table| &*table.changes);
        let mut rows = RowsAt::default();
        for (job, presence) in presence_at(changes.unwrap_or_default(), at) {
            let promised = audit
                .promises
                .get(job)
                .into_iter()
                .flat_map(|rows| rows.iter().cloned());
            rows.add(presence, promised);
        }
        rows
    }

    /// The operator begins to purge a job's rows from a table.
    pub fn purge_begins(&self, table: &TableId, job: &JobId) {
        let mut audit = self.audit.lock();
        if let Some(table) = audit.tables.get_mut(table) {
            let next = table.state.transaction().next();
            table.changes.push((next, Change::PurgeBegun(job.clone())));
        }
    }

    /// A purge has found nothing left of a job's rows in the table after a transaction.
    pub fn purge_ended(&self, table: &TableId, job: &JobId, at: TransactionNumber) {
        let mut audit = self.audit.lock();
        if let Some(table) = audit.tables.get_mut(table) {
            let later = table.changes.partition_point(|(number, _)| *number <= at);
            table.changes.insert(later, (at, Change::Purged(job.clone())));
        }
    }

    /// How many splits came after a transaction.
    pub fn splits_since(&self, table: &TableId, since: TransactionNumber) -> usize {
        let audit = self.audit.lock();
        let splits = audit
            .tables
            .get(table)
            .map(|table| &*table.splits)
            .unwrap_or_default();
        splits.iter().filter(|at| **at > since).count()
    }

    pub(super) fn reads(&self, collection: Collection, partition: &str, range: &Range) {
        if collection != Collection::Transactions {
            return;
        }
        let (Ok(table), Bound::Excluded(Sort::Number(after))) = (TableId::new(partition), &range.start)
        else {
            return;
        };
        let floor = self
            .audit
            .lock()
            .tables
            .get(&table)
            .map(|table| table.state.floor());
        if *after > 0 && floor.is_some_and(|floor| after + 1 < floor.0) {
            self.count("reader was behind the cut");
        }
    }

    pub(super) async fn written(&self, stage: &Stage, writes: &[Write], done: bool, fate: Fate) {
        for write in writes {
            let Write::Put { item, .. } = write else { continue };
            match item.key.collection {
                Collection::Transactions if done => self.appended(stage, item, fate).await,
                Collection::Transactions => self.count("append lost its race"),
                Collection::JobStatus if done => self.reported(item),
                Collection::Snapshots if !done => self.count("snapshot makers met at one transaction"),
                _ => {}
            }
        }
    }

    /// Some run of a job has ended; its status may be that of a later run, where one is still going.
    fn reported(&self, item: &Item) {
        let has = |status| item.text("report").is_ok_and(|text| text.contains(status));
        let ends = ["\"FINISHED\"", "\"FAILED\"", "\"REJECTED\""];
        if let Ok(job) = JobId::new(&item.key.partition)
            && ends.into_iter().any(has)
        {
            self.audit.lock().ended.insert(job);
        }
    }

    async fn appended(&self, stage: &Stage, item: &Item, fate: Fate) {
        if let Err(error) = self.fold(stage, item, fate).await {
            self.violation(format!("Log: {:?}: {error}", item.key));
        }
    }

    async fn fold(&self, stage: &Stage, item: &Item, fate: Fate) -> Result<(), String> {
        let table = TableId::new(&item.key.partition).map_err(|error| error.report())?;
        let body = match item.attributes.contains_key("body_object") {
            true => {
                self.count("entry too large for its item");
                let path = Path::from(item.text("body_object").map_err(|error| error.report())?);
                let got = self.data.get(&path).await;
                let got = got.map_err(|error| format!("the body that the entry names: {error}"))?;
                got.bytes().await.map_err(|error| error.to_string())?
            }
            false => item
                .text("body")
                .map_err(|error| error.report())?
                .to_owned()
                .into(),
        };
        let (entry, hash) = Entry::decode(&body).map_err(|error| error.report())?;
        stage.note(format_args!(
            "entry {} of {table}: {:?}",
            entry.number,
            entry
                .commits
                .iter()
                .map(|c| (c.id.as_str(), c.record.type_name()))
                .collect::<Vec<_>>()
        ));
        let mut audit = self.audit.lock();
        let audit = &mut *audit;
        let audited = audit.tables.entry(table.clone()).or_default();
        let before = audited.state.clone();
        let outcomes = audited
            .state
            .follow(&table, &entry, hash)
            .map_err(|error| error.report())?;
        let mut count = |event| *audit.events.entry(event).or_default() += 1;
        if entry.commits.len() > 1 {
            count("several commits in one entry");
        }
        for (commit, outcome) in entry.commits.iter().zip(&outcomes) {
            match (&commit.record, outcome) {
                (Record::FilesAdded { job, files, .. }, Outcome::Applied(_)) => {
                    if let Some(earlier) = audited.committed.insert(job.clone(), entry.number) {
                        audit.violations.push(format!(
                            "Once: job {job} committed in table {table} at {earlier} and at {}",
                            entry.number
                        ));
                    }
                    audited.changes.push((entry.number, Change::Added(job.clone())));
                    let rows: u64 = files.iter().map(|file| file.rows).sum();
                    match audit.promises.get(job) {
                        Some(promised) if promised.len() as u64 == rows => {}
                        promised => audit.violations.push(format!(
                            "Rows: job {job} committed {rows} rows, and was to bring {:?}",
                            promised.map(|rows| rows.len())
                        )),
                    }
                    if matches!(fate.act, Act::LoseReply | Act::CrashAfter) {
                        count("append landed and its reply was lost");
                        audit.untold.insert(job.clone(), entry.number);
                    }
                }
                (Record::FilesAdded { .. } | Record::CompactionCommitted { .. }, Outcome::AlreadyDone(_)) => {
                    count("files of a losing run became garbage")
                }
                (Record::CompactionCommitted { .. }, Outcome::Applied(_)) => count("compaction committed"),
                (Record::PartitionSplit(_), Outcome::Applied(_)) => audited.splits.push(entry.number),
                (Record::PartitionTreeExtended { .. }, Outcome::Applied(_)) => {
                    audited.splits.push(entry.number);
                    count("leaf split by its rows");
                }
                (Record::LeafKept { .. }, Outcome::Applied(_)) => count("leaf kept whole"),
                (Record::TableCleared, Outcome::Applied(_)) => {
                    count("table cleared");
                    audited.changes.push((entry.number, Change::Cleared));
                }
                (Record::TableRestored { of, .. }, Outcome::Applied(_)) => {
                    count("table restored");
                    audited.changes.push((entry.number, Change::Restored(*of)));
                }
                (Record::HistoryTruncated { .. }, Outcome::Applied(_)) => count("log cut"),
                (Record::GarbageMarked { files }, Outcome::Applied(_)) => {
                    for _ in files.iter().filter(|file| !before.knows(file)) {
                        count("orphan swept");
                    }
                }
                (_, Outcome::Refused(refusal)) => audit.violations.push(format!(
                    "Log: entry {} of {table} holds a commit that is refused: {}",
                    entry.number, refusal.reason
                )),
                _ => {}
            }
        }
        let wrong = invariants::check(&audited.state);
        if !wrong.is_empty() {
            audit
                .violations
                .push(format!("State: table {table} at {}: {wrong:?}", entry.number));
        }
        Ok(())
    }

    pub(super) fn wrote(&self, bucket: &str, path: &Path) {
        if bucket != "s3://data" || !path.as_ref().contains("/data/") {
            return;
        }
        let mut audit = self.audit.lock();
        let times = audit.written.entry(path.clone()).or_default();
        *times += 1;
        if *times > 1 {
            audit
                .violations
                .push(format!("Immutable: {path} was written twice"));
        }
    }

    pub(super) fn deleted(&self, bucket: &str, path: &Path) {
        if bucket != "s3://data" {
            return;
        }
        let Some(table) = path
            .parts()
            .next()
            .and_then(|part| TableId::new(part.as_ref()).ok())
        else {
            return;
        };
        let mut audit = self.audit.lock();
        let audit = &mut *audit;
        let Some(audited) = audit.tables.get(&table) else {
            return;
        };
        if path.as_ref().contains("/statestore/transactions") {
            let entries = self.items.query(
                Collection::Transactions,
                table.as_str(),
                Range::all(),
                usize::MAX >> 1,
                Order::Ascending,
            );
            let entries = now(entries).and_then(|entries| entries.ok()).unwrap_or_default();
            if entries
                .iter()
                .any(|item| item.text("body_object").is_ok_and(|body| body == path.as_ref()))
            {
                audit
                    .violations
                    .push(format!("Log: {path} was deleted before its entry"));
            }
        }
        let Some(file) = FileName::from_object_path(&table, path) else {
            return;
        };
        if audited.state.status() != TableStatus::Live {
            return;
        }
        let state = &audited.state;
        let garbage = state.garbage().find(|(name, _)| **name == file);
        let may_go = match garbage {
            Some((_, garbage)) => garbage.marked,
            // Somebody else has deleted it before.
            None => state.knows(&file) && !state.is_referenced(&file),
        };
        if !may_go {
            let text = format!("Files: {path} was deleted, and is referenced or was not marked");
            audit.violations.push(text);
        }
    }

    pub(super) fn received(&self, stage: &Stage, queue: QueueName, deliveries: &[Delivery]) {
        for delivery in deliveries {
            stage.note(format_args!(
                "received {queue} {} {}",
                delivery.message_id, delivery.attempt
            ));
            let key = format!("{queue} {}", delivery.receipt.0);
            self.audit.lock().deliveries.insert(key, delivery.clone());
        }
    }

    /// An ingest message may go once its job has come to its end.
    pub(super) fn acknowledged(&self, stage: &Stage, queue: QueueName, receipt: &Receipt) {
        let delivery = self
            .audit
            .lock()
            .deliveries
            .get(&format!("{queue} {}", receipt.0))
            .cloned();
        let (Some(delivery), QueueName::Ingest) = (delivery, queue) else {
            return;
        };
        let job = dormouse_core::message::IngestMessage::id_of(&delivery.body)
            .or_else(|| JobId::new(&delivery.message_id).ok());
        let Some(job) = job else { return };
        if !self.committed(&job).is_empty() {
            if self.audit.lock().untold.contains_key(&job) {
                self.count("job acknowledged by a run that was not told of its commit");
            }
            if delivery.attempt > 1 || receipt.0.contains("copy") {
                self.count("second run of a job found it committed");
            }
            return;
        }
        if !self.audit.lock().ended.contains(&job) {
            self.violation(format!(
                "Ack: the message of job {job} was acknowledged, and the job has neither committed nor ended"
            ));
        }
        stage.note(format_args!("acknowledged {job} without a commit"));
    }

    /// Tables whose log was begun, and whether they are still there.
    pub fn tables(&self) -> Vec<(TableId, bool)> {
        let audit = self.audit.lock();
        audit
            .tables
            .iter()
            .map(|(id, table)| (id.clone(), table.state.status() == TableStatus::Live))
            .collect()
    }
}
