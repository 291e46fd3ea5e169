//! A bulk job, and how it is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::BulkState;
use crate::{
    collections::Collection,
    error::{Error, Result},
    ids::{BulkJobId, PinId, RunId, TableId},
    ports::{FileFormat, Item, ItemKey, ParameterValue, ResultColumn, Sort, WrittenFile},
    state::AsOf,
    tenants::TenantId,
    time::Timestamp,
};

/// The longest text of why a job has failed, in characters.
const MAX_FAILURE_CHARS: usize = 4000;

/// How many files of a result the job itself lists; the manifest lists all.
pub const LISTED_FILES: usize = 100;

/// What a bulk job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Writes the rows of a query as objects.
    Query,
}

impl Operation {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
        }
    }
}

/// A query that a job is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryRequest {
    /// The SQL.
    pub sql: String,
    /// What stands for `$name` in it.
    #[serde(default)]
    pub parameters: BTreeMap<String, ParameterValue>,
    /// The state of its tables; the newest when it starts, without one.
    #[serde(default)]
    pub as_of: Option<AsOf>,
}

/// A job to make.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBulkJob {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its id.
    pub id: BulkJobId,
    /// What it does.
    pub operation: Operation,
    /// What it is about, in the client's words.
    pub object: Option<String>,
    /// What to ask.
    pub query: QueryRequest,
    /// How the rows are written.
    pub format: FileFormat,
    /// What the client wants to find again in it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// From when on it is too old.
    pub deadline: Timestamp,
    /// The request that makes it: the same when it comes again.
    pub request: String,
    /// Whether it starts at once, or waits to be started.
    pub starts: bool,
}

/// A bulk job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BulkJob {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its id, unique in the tenant.
    pub id: BulkJobId,
    /// How far it is.
    pub state: BulkState,
    /// What it does.
    pub operation: Operation,
    /// What it is about, in the client's words.
    pub object: Option<String>,
    /// What it asks.
    pub query: QueryRequest,
    /// How its rows are written.
    pub format: FileFormat,
    /// What the client wants to find again in it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// When it was made.
    pub created: Timestamp,
    /// When it changed last.
    pub updated: Timestamp,
    /// When its first run began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub completed: Option<Timestamp>,
    /// From when on it is too old.
    pub deadline: Timestamp,
    /// The states that it was in, and since when.
    pub history: Vec<(BulkState, Timestamp)>,
    /// How far its rows are.
    pub progress: JobProgress,
    /// How many runs were begun.
    pub runs: u32,
    /// The run that works on it.
    pub run: Option<JobRun>,
    /// The pins that runs have taken, or were about to.
    pub pins: Vec<(TableId, PinId)>,
    /// The transaction that each table of the query was read at, by name.
    pub snapshot: BTreeMap<String, u64>,
    /// What it has written.
    pub result: Option<BulkResult>,
    /// Since when nobody is given its result any more.
    #[serde(default)]
    pub withdrawn: Option<Timestamp>,
    /// Whether its objects are gone.
    #[serde(default)]
    pub removed: bool,
    /// Whether a run had it when somebody else ended it: it may write until it hears of that.
    #[serde(default)]
    pub left_running: bool,
    /// The request that made it.
    #[serde(default)]
    pub request: String,
    /// Why it has no result.
    pub failure: Option<BulkFailure>,
    /// Grows with every change.
    #[serde(skip)]
    pub(super) version: i64,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Rows that were written.
    pub rows: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// In hundredths of the whole; none when nobody can tell. 100 when the job is complete, and not before.
    pub percent: Option<u8>,
}

impl JobProgress {
    /// The greater of both in each part.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            bytes: self.bytes.max(other.bytes),
            percent: self.percent.max(other.percent.map(|percent| percent.min(99))),
        }
    }
}

/// One attempt at a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// Its id.
    pub id: RunId,
    /// Which run of the job it is; the first is 1.
    pub number: u32,
    /// The queue message that it works on.
    pub message: String,
    /// Which delivery of it.
    pub attempt: u32,
    /// Until when no other run may take the job over, unless it has another delivery of the same message: one is handled at
    /// a time, and a delivery that was given back comes again with its number.
    pub lease: Timestamp,
}

/// What a job has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkResult {
    /// The columns of its rows.
    pub columns: Vec<ResultColumn>,
    /// How many rows.
    pub rows: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many files.
    pub file_count: u64,
    /// The first [`LISTED_FILES`] of them.
    pub files: Vec<WrittenFile>,
    /// The object that lists all of them.
    pub manifest: String,
}

/// Why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkFailure {
    /// A word for programs.
    pub code: FailureCode,
    /// A sentence for people.
    pub message: String,
}

impl BulkFailure {
    /// A failure; a message that is too long is cut.
    pub fn new(code: FailureCode, message: impl AsRef<str>) -> Self {
        Self {
            code,
            message: message.as_ref().chars().take(MAX_FAILURE_CHARS).collect(),
        }
    }
}

/// Why a job has no result, in a word for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureCode {
    /// The query cannot be answered.
    QueryError,
    /// It ran for too long.
    JobTimeout,
    /// It was not started in time.
    JobExpired,
    /// The store has failed again and again, or what it holds is damaged.
    StorageError,
    /// A bug.
    InternalError,
}

impl FailureCode {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueryError => "QUERY_ERROR",
            Self::JobTimeout => "JOB_TIMEOUT",
            Self::JobExpired => "JOB_EXPIRED",
            Self::StorageError => "STORAGE_ERROR",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

impl BulkJob {
    pub(super) fn new(new: NewBulkJob, now: Timestamp) -> Result<Self> {
        let mut job = Self {
            tenant: new.tenant,
            id: new.id,
            state: BulkState::Open,
            operation: new.operation,
            object: new.object,
            query: new.query,
            format: new.format,
            metadata: new.metadata,
            created: now,
            updated: now,
            started: None,
            completed: None,
            deadline: new.deadline,
            history: vec![(BulkState::Open, now)],
            progress: JobProgress::default(),
            runs: 0,
            run: None,
            pins: Vec::new(),
            snapshot: BTreeMap::new(),
            result: None,
            withdrawn: None,
            removed: false,
            left_running: false,
            request: new.request,
            failure: None,
            version: 1,
        };
        if new.starts {
            job.become_state(BulkState::UploadComplete, now)?;
        }
        Ok(job)
    }

    /// Where the objects of a tenant's job are, in the bucket of exports:
    /// `<prefix>tenant-<tenant>/job-<job>/<milliseconds>`, with the time when it was made. What runs of a job write late
    /// never meets a later job with its id.
    pub fn results_path(&self, prefix: &str) -> String {
        let made = self.created.as_millis();
        format!("{prefix}tenant-{}/job-{}/{made}", self.tenant, self.id)
    }

    /// Whether this is the same job at another time, and not one that has its id after it.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.tenant, &self.id, self.created, &self.request)
            == (&other.tenant, &other.id, other.created, &other.request)
    }

    /// Grows with every change: whoever saw a job at a version sees that it has changed.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Checks that the job has ended: others are not deleted.
    ///
    /// # Errors
    /// `Conflict` when it has not.
    pub fn check_ended(&self) -> Result<()> {
        if self.state.is_terminal() {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "job {} is {} and can be deleted when it has ended; abort it first",
            self.id, self.state
        )))
    }

    /// Moves the job on.
    ///
    /// # Errors
    /// `Conflict` when this state may not follow.
    pub(super) fn become_state(&mut self, next: BulkState, now: Timestamp) -> Result<()> {
        if !self.state.may_become(next) {
            return Err(Error::conflict(format!(
                "job {} is {} and cannot become {next}",
                self.id, self.state
            )));
        }
        self.state = next;
        self.updated = now;
        self.history.push((next, now));
        if next == BulkState::InProgress {
            self.started = Some(now);
        }
        if next.is_terminal() {
            self.completed = Some(now);
            self.left_running = self.run.take().is_some();
        }
        Ok(())
    }

    pub(super) fn key(tenant: &TenantId, id: &BulkJobId) -> ItemKey {
        ItemKey::new(Collection::BulkJobs, tenant.as_str(), id.as_str())
    }

    pub(super) fn time_key(&self) -> ItemKey {
        ItemKey::new(
            Collection::BulkJobTimes,
            self.tenant.as_str(),
            place(self.created, &self.id),
        )
    }

    pub(super) fn item(&self) -> Result<Item> {
        let job = serde_json::to_string(self)
            .map_err(|error| Error::internal("a bulk job cannot be encoded").with_source(error))?;
        Ok(Item::new(Self::key(&self.tenant, &self.id))
            .with("state", self.state.as_str())
            .with("created", self.created)
            .with("updated", self.updated)
            .with("rows", self.progress.rows)
            .with("version", self.version)
            .with("job", job))
    }

    pub(super) fn from_item(item: &Item) -> Result<Self> {
        let mut job: Self = serde_json::from_str(item.text("job")?).map_err(|error| {
            Error::corrupt(format!("bulk job {:?} is damaged", item.key)).with_source(error)
        })?;
        job.version = item.number("version")?;
        Ok(job)
    }
}

/// A job's place in the list of its tenant's jobs, oldest first.
pub(super) fn place(created: Timestamp, id: &BulkJobId) -> String {
    format!("{:013}|{id}", created.as_millis().max(0))
}

/// The job that has a place in the list.
pub(super) fn at_place(sort: &Sort) -> Result<(Timestamp, BulkJobId)> {
    let parsed = match sort {
        Sort::Text(text) => text.split_once('|'),
        _ => None,
    };
    let parsed = parsed.and_then(|(millis, id)| Some((millis.parse().ok()?, BulkJobId::new(id).ok()?)));
    let (millis, id) = parsed.ok_or_else(|| Error::corrupt(format!("{sort:?} is no place of a bulk job")))?;
    Ok((Timestamp::from_millis(millis), id))
}
