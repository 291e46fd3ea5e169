//! Tables in memory and a query engine over them.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    file::DataFile,
    ids::{JobId, PartitionId, RunId, TableId},
    key::Key,
    partition::tree_from_split_points,
    ports::{
        Clock, MAX_JOINS, MAX_SUBQUERIES, Progress, QueryEngine, QueryLimits, QueryRows, QuerySpec,
        QueryTables, RowEngine, RowFormat, RowPolicy, SystemClock, SystemIds, TableSnapshot, Truncated,
    },
    predicate::Predicate,
    row_rules::RowRules,
    schema::{Column, DataType, Schema, TimeUnit},
    state::{Commit, CommitId, Outcome, Record, StateStore, TableState, transaction::Split},
    tenants::TenantId,
    testing::memory::MemoryItemStore,
    time::Timestamp,
};
use dormouse_engine::SqlEngine;

use crate::{
    fixture::{Fixture, batch, leaves, text, text_schema},
    watched_objects::WatchedObjects,
};

const FOOTER_BYTES: usize = 16 << 20;

/// Tables in memory, and an engine over them.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) engine: SqlEngine,
    tables: Arc<Snapshots>,
}

#[derive(Debug, Default)]
struct Snapshots(BTreeMap<String, TableSnapshot>);

#[async_trait]
impl QueryTables for Snapshots {
    async fn table(&self, name: &str) -> Result<Option<TableSnapshot>> {
        Ok(self.0.get(name).cloned())
    }
}

/// A table with a log of its own.
struct Made {
    id: TableId,
    states: StateStore,
    fixture: Fixture,
}

impl Made {
    async fn new(schema: Arc<Schema>, splits: &[&str]) -> Self {
        let fixture = Fixture::new(schema.clone(), leaves(&keys(splits)));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let made = Self {
            id: TableId::new("table").unwrap(),
            states: StateStore::new(items, fixture.store.clone(), clock, Arc::new(SystemIds)),
            fixture,
        };
        let mut number = 0;
        let partitions = tree_from_split_points(&keys(splits), || {
            number += 1;
            partition(&format!("p{number}"))
        });
        let created = Record::TableCreated {
            schema,
            partitions: partitions.unwrap(),
        };
        let commit = Commit::new(CommitId::new("create"), created);
        made.states.create(&made.id, commit, Vec::new()).await.unwrap();
        made
    }

    async fn state(&self) -> Arc<TableState> {
        self.states.state(&self.id).await.unwrap()
    }

    async fn commit(&self, id: &str, record: Record) {
        let commit = Commit::new(CommitId::new(id), record);
        let committed = self.states.commit(&self.id, commit).await.unwrap();
        assert!(
            matches!(committed.outcome, Outcome::Applied(_)),
            "{:?}",
            committed.outcome
        );
    }

    /// Adds rows, as one ingest job does.
    async fn add(&mut self, job: &str, rows: RecordBatch) {
        self.fixture.leaves = self.state().await.leaves().collect();
        let files = self.fixture.ingest_batches(&[rows]).await;
        let added = Record::FilesAdded {
            job: JobId::new(job).unwrap(),
            run: RunId::new("run").unwrap(),
            issued: SystemClock.now(),
            files: files.into_iter().map(Arc::new).collect(),
        };
        self.commit(job, added).await;
    }

    async fn split(&self, leaf: &str, at: &str, into: [&str; 2]) {
        let split = Split {
            partition: partition(leaf),
            at: Key::new([text(at)]),
            left: partition(into[0]),
            right: partition(into[1]),
        };
        self.commit(&format!("split {leaf}"), Record::PartitionSplit(split))
            .await;
    }

    /// Merges all files of a leaf.
    async fn compact(&self, leaf: &str) {
        let state = self.state().await;
        let leaf = state.leaf(&partition(leaf)).unwrap();
        let files: Vec<Arc<DataFile>> = state.references(&leaf.id).map(|one| one.file.clone()).collect();
        let mut spec = self.fixture.compaction_spec(0, Vec::new());
        spec.leaf = leaf.clone();
        let references = state.references(&leaf.id);
        spec.inputs = references
            .map(|one| {
                let mut input = self.fixture.export_input(&one.file, false);
                input.exact = one.exact();
                input
            })
            .collect();
        let output = self
            .fixture
            .engine()
            .compact(spec, Arc::new(Progress::default()))
            .await
            .unwrap();
        let job = JobId::new(format!("compact-{}", leaf.id)).unwrap();
        let inputs: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
        let assigned = Record::CompactionAssigned {
            job: job.clone(),
            partition: leaf.id.clone(),
            inputs: inputs.clone(),
            until: Timestamp::from_millis(i64::MAX / 2),
        };
        self.commit(&format!("assign {job}"), assigned).await;
        let committed = Record::CompactionCommitted {
            job: job.clone(),
            run: RunId::new("run").unwrap(),
            issued: SystemClock.now(),
            partition: leaf.id,
            inputs,
            output: output.map(Arc::new),
        };
        self.commit(job.as_str(), committed).await;
    }

    async fn snapshot(self, rules: &str, aggregations: &str) -> TableSnapshot {
        let state = self.state().await;
        TableSnapshot {
            schema: self.fixture.schema.clone(),
            table: self.id,
            state,
            rules: RowRules::parse(rules, aggregations)
                .unwrap()
                .at(Timestamp::from_millis(1_000_000)),
            policy: None,
            store: self.fixture.store,
        }
    }
}

fn keys(splits: &[&str]) -> Vec<Key> {
    splits.iter().map(|split| Key::new([text(split)])).collect()
}

fn partition(id: &str) -> PartitionId {
    PartitionId::new(id).unwrap()
}

/// Rows `k` = `<letter><number>`, `s` = number, `v` = the letter or null for each third.
fn rows(letters: &str, numbers: std::ops::Range<i64>) -> RecordBatch {
    let all: Vec<(String, i64, Option<String>)> = letters
        .chars()
        .flat_map(|letter| {
            numbers.clone().map(move |number| {
                let value = (number % 3 != 0).then(|| letter.to_string());
                (format!("{letter}{number:03}"), number, value)
            })
        })
        .collect();
    batch(
        &text_schema(),
        vec![
            Arc::new(StringArray::from_iter_values(all.iter().map(|row| &row.0))),
            Arc::new(Int64Array::from_iter_values(all.iter().map(|row| row.1))),
            Arc::new(StringArray::from_iter(all.iter().map(|row| row.2.as_deref()))),
        ],
    )
}

/// 26 letters of 100 keys each, in four leaves. Of three ingests each has a third of the numbers; then a leaf is
/// split, and what is left of it merged, so that files are seen in part.
async fn letters() -> TableSnapshot {
    let mut made = Made::new(text_schema(), &["g", "n", "t"]).await;
    let alphabet = "abcdefghijklmnopqrstuvwxyz";
    made.add("one", rows(alphabet, 0..40)).await;
    made.add("two", rows(alphabet, 40..70)).await;
    let first = made.state().await.leaves().next().unwrap().id;
    made.split(first.as_str(), "d", ["left", "right"]).await;
    made.compact("left").await;
    made.add("three", rows(alphabet, 70..100)).await;
    made.snapshot("", "").await
}

/// Counts by key, from three ingests, in two leaves.
async fn counts() -> TableSnapshot {
    let schema = Schema::new(
        vec![Column::required("k", DataType::Utf8)],
        vec![],
        vec![
            Column::required("n", DataType::Int64),
            Column::required("newest", DataType::Int64),
        ],
    );
    let schema = Arc::new(schema.unwrap());
    let mut made = Made::new(schema.clone(), &["k05"]).await;
    for round in 1..=3_i64 {
        let keys = (0..10).map(|number| format!("k{number:02}"));
        let rows = batch(
            &schema,
            vec![
                Arc::new(StringArray::from_iter_values(keys)),
                Arc::new(Int64Array::from_iter_values((0..10).map(|number| number * round))),
                Arc::new(Int64Array::from_iter_values((0..10).map(|_| round))),
            ],
        );
        made.add(&format!("round-{round}"), rows).await;
    }
    made.snapshot("", "sum(n),max(newest)").await
}

/// Rows of which those seen before the 500th second are too old.
async fn aged() -> TableSnapshot {
    let unit = TimeUnit::Millisecond;
    let seen = DataType::Timestamp { unit, timezone: None };
    let schema = Schema::new(
        vec![Column::required("k", DataType::Int64)],
        vec![],
        vec![Column::nullable("seen", seen)],
    );
    let schema = Arc::new(schema.unwrap());
    let mut made = Made::new(schema.clone(), &[]).await;
    let rows = batch(
        &schema,
        vec![
            Arc::new(Int64Array::from_iter_values(0..1000)),
            Arc::new(TimestampMillisecondArray::from_iter(
                (0..1000_i64).map(|second| (second % 10 != 9).then_some(second * 1000)),
            )),
        ],
    );
    made.add("all", rows).await;
    made.snapshot("ageOff(seen,500000)", "").await
}

/// Fractions of which one is no number, in a file whose statistics leave it out.
async fn fractions() -> TableSnapshot {
    let key = Column::required("k", DataType::Int64);
    let schema = Schema::new(vec![key], vec![], vec![Column::nullable("x", DataType::Float64)]);
    let schema = Arc::new(schema.unwrap());
    let mut made = Made::new(schema.clone(), &[]).await;
    let values = [Some(1.5), Some(f64::NAN), None, Some(-2.0)];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values([-1, 0, 10, 20])),
        Arc::new(Float64Array::from_iter(values)),
    ];
    made.add("all", batch(&schema, columns)).await;
    made.snapshot("", "").await
}

/// The table as the tenant `c` sees it.
fn shared(mut table: TableSnapshot, predicate: &str) -> TableSnapshot {
    table.policy = Some(RowPolicy {
        predicate: Predicate::new(predicate).unwrap(),
        reader: TenantId::new("c").unwrap(),
    });
    table
}

/// Ten thousand keys of each letter in four leaves, each with a file, whose reads are watched.
pub(crate) async fn watched() -> (Database, Arc<WatchedObjects>) {
    let mut made = Made::new(text_schema(), &["g", "n", "t"]).await;
    made.fixture.target_file_bytes = 1;
    made.add("one", rows("abcdefghijklmnopqrstuvwxyz", 0..10_000))
        .await;
    let mut letters = made.snapshot("", "").await;
    let store = Arc::new(WatchedObjects::new(letters.store));
    letters.store = store.clone();
    (Database::of([("letters", letters)]), store)
}

pub(crate) async fn database() -> Database {
    let empty = Made::new(text_schema(), &["m"]).await.snapshot("", "").await;
    let tables = [
        ("letters", letters().await),
        ("shared", shared(letters().await, "v = $tenant")),
        ("shared-keys", shared(letters().await, "k >= $tenant AND k < 'd'")),
        ("shared-counts", shared(counts().await, "n >= 12")),
        ("shared-aged", shared(aged().await, "k % 2 = 0")),
        (
            "shared-casts",
            shared(letters().await, "CAST(v AS BIGINT) IS NULL"),
        ),
        ("shared-amiss", shared(letters().await, "nothing = $tenant")),
        ("counts", counts().await),
        ("aged", aged().await),
        ("fractions", fractions().await),
        ("empty-table", empty),
    ];
    Database::of(tables)
}

impl Database {
    fn of<const TABLES: usize>(tables: [(&str, TableSnapshot); TABLES]) -> Self {
        let tables = tables.map(|(name, snapshot)| (name.to_owned(), snapshot));
        let options = Fixture::text(&[]).options;
        Self {
            engine: SqlEngine::new(&options, FOOTER_BYTES, &SystemIds),
            tables: Arc::new(Snapshots(BTreeMap::from(tables))),
        }
    }

    pub(crate) fn spec(&self, sql: &str) -> QuerySpec {
        QuerySpec {
            sql: sql.to_owned(),
            parameters: BTreeMap::new(),
            tables: self.tables.clone(),
            limits: QueryLimits {
                rows: None,
                bytes: None,
                memory_bytes: 64 << 20,
                disk_bytes: 64 << 20,
                joins: MAX_JOINS,
                subqueries: MAX_SUBQUERIES,
            },
        }
    }

    pub(crate) async fn ask(
        &self,
        spec: QuerySpec,
        format: RowFormat,
    ) -> Result<(String, Option<Truncated>)> {
        let mut answer = self.engine.query(spec, format).await?;
        let text = drain(&mut *answer).await?;
        Ok((text, answer.truncated()))
    }

    pub(crate) async fn text(&self, sql: &str, format: RowFormat) -> String {
        self.ask(self.spec(sql), format).await.unwrap().0
    }

    /// The rows of a query, a line each.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        let text = self.text(sql, RowFormat::Csv).await;
        text.lines().skip(1).map(str::to_owned).collect()
    }

    pub(crate) async fn refusal(&self, sql: &str) -> Error {
        self.ask(self.spec(sql), RowFormat::Csv).await.unwrap_err()
    }
}

pub(crate) async fn drain(answer: &mut dyn QueryRows) -> Result<String> {
    let mut all = Vec::new();
    while let Some(rows) = answer.next().await? {
        all.extend_from_slice(&rows.bytes);
    }
    Ok(String::from_utf8(all).unwrap())
}
