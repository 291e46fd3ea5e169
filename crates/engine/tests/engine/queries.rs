//! SQL over tables: the statements of `slt/`, and what plans and limits show.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    file::DataFile,
    ids::{JobId, PartitionId, RunId, TableId},
    key::Key,
    partition::tree_from_split_points,
    ports::{
        Clock, Progress, QueryEngine, QueryLimits, QueryRows, QuerySpec, QueryTables, RowEngine, RowFormat,
        SystemClock, SystemIds, TableSnapshot, Truncated,
    },
    row_rules::RowRules,
    schema::{Column, DataType, Schema, TimeUnit},
    state::{Commit, CommitId, Outcome, Record, StateStore, TableState, transaction::Split},
    testing::memory::MemoryItemStore,
    time::Timestamp,
};
use dormouse_engine::SqlEngine;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

use crate::fixture::{Fixture, batch, leaves, text, text_schema};

const FOOTER_BYTES: usize = 16 << 20;

/// Tables in memory, and an engine over them.
#[derive(Debug)]
struct Database {
    engine: SqlEngine,
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

async fn database() -> Database {
    let empty = Made::new(text_schema(), &["m"]).await.snapshot("", "").await;
    let tables = [
        ("letters", letters().await),
        ("counts", counts().await),
        ("aged", aged().await),
        ("fractions", fractions().await),
        ("empty-table", empty),
    ];
    let tables = tables.map(|(name, snapshot)| (name.to_owned(), snapshot));
    let options = Fixture::text(&[]).options;
    Database {
        engine: SqlEngine::new(&options, FOOTER_BYTES, &SystemIds),
        tables: Arc::new(Snapshots(BTreeMap::from(tables))),
    }
}

impl Database {
    fn spec(&self, sql: &str, format: RowFormat) -> QuerySpec {
        QuerySpec {
            sql: sql.to_owned(),
            parameters: BTreeMap::new(),
            tables: self.tables.clone(),
            format,
            limits: QueryLimits {
                rows: None,
                bytes: None,
                memory_bytes: 64 << 20,
                disk_bytes: 64 << 20,
            },
        }
    }

    async fn ask(&self, spec: QuerySpec) -> Result<(String, Option<Truncated>)> {
        let mut answer = self.engine.query(spec).await?;
        let text = drain(&mut *answer).await?;
        Ok((text, answer.truncated()))
    }

    async fn text(&self, sql: &str, format: RowFormat) -> String {
        self.ask(self.spec(sql, format)).await.unwrap().0
    }

    /// The rows of a query, a line each.
    async fn lines(&self, sql: &str) -> Vec<String> {
        let text = self.text(sql, RowFormat::Csv).await;
        text.lines().skip(1).map(str::to_owned).collect()
    }

    async fn refusal(&self, sql: &str) -> Error {
        self.ask(self.spec(sql, RowFormat::Csv)).await.unwrap_err()
    }
}

async fn drain(answer: &mut dyn QueryRows) -> Result<String> {
    let mut all = Vec::new();
    while let Some(rows) = answer.next().await? {
        all.extend_from_slice(&rows.bytes);
    }
    Ok(String::from_utf8(all).unwrap())
}

struct Session(Arc<Database>);

#[async_trait]
impl AsyncDB for Session {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>> {
        let mut answer = self
            .0
            .engine
            .query(self.0.spec(sql, RowFormat::TextLines))
            .await?;
        let text = drain(&mut *answer).await?;
        let types = answer.columns().iter().map(|_| DefaultColumnType::Any);
        let rows = serde_json::Deserializer::from_str(&text).into_iter::<Vec<Option<String>>>();
        Ok(DBOutput::Rows {
            types: types.collect(),
            rows: rows
                .map(|row| {
                    row.unwrap()
                        .into_iter()
                        .map(|value| value.unwrap_or("NULL".into()))
                        .collect()
                })
                .collect(),
        })
    }

    async fn shutdown(&mut self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_slt_files_is_answered_as_it_says() {
    let database = Arc::new(database().await);
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/slt"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Session(database.clone())) });
        runner
            .run_file_async(&file)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_read_only_the_leaves_and_files_whose_keys_fit() {
    let database = database().await;
    let plan = async |sql: &str| database.lines(&format!("EXPLAIN {sql}")).await.join("\n");
    let one = plan("SELECT * FROM letters WHERE k = 'p050'").await;
    assert!(one.contains("leaves=1/5, files=3/14"), "{one}");
    let some = plan("SELECT v FROM letters WHERE k IN ('a001', 'z001')").await;
    assert!(some.contains("leaves=2/5"), "{some}");
    let none = plan("SELECT * FROM letters WHERE k < 'a'").await;
    assert!(none.contains("EmptyExec"), "{none}");
    let ordered = plan("SELECT k, s FROM letters ORDER BY k, s").await;
    assert!(
        ordered.contains("SortPreservingMergeExec") && !ordered.contains("SortExec"),
        "{ordered}"
    );
    let other = plan("SELECT k, s FROM letters ORDER BY s").await;
    assert!(other.contains("SortExec"), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_beyond_a_limit_are_cut_off_and_it_is_told() {
    let database = database().await;
    let spec = |rows, bytes| {
        let mut spec = database.spec("SELECT k FROM letters ORDER BY k", RowFormat::JsonLines);
        (spec.limits.rows, spec.limits.bytes) = (rows, bytes);
        spec
    };
    let row = "{\"k\":\"a000\"}\n".len();
    let (text, truncated) = database.ask(spec(Some(10), None)).await.unwrap();
    assert_eq!((text.lines().count(), truncated), (10, Some(Truncated::Rows)));
    let (text, truncated) = database.ask(spec(Some(2600), None)).await.unwrap();
    assert_eq!((text.lines().count(), truncated), (2600, None));
    let (text, truncated) = database
        .ask(spec(Some(50), Some(row as u64 * 7 + 3)))
        .await
        .unwrap();
    assert_eq!((text.lines().count(), truncated), (7, Some(Truncated::Bytes)));
    let mut csv = spec(None, Some(12));
    csv.format = RowFormat::Csv;
    let (text, truncated) = database.ask(csv).await.unwrap();
    assert_eq!(
        (text.as_str(), truncated),
        ("k\na000\na001\n", Some(Truncated::Bytes))
    );
    let (text, truncated) = database.ask(spec(None, Some(3))).await.unwrap();
    assert_eq!((text.as_str(), truncated), ("", Some(Truncated::Bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_query_is_refused_and_says_what_would_be_right() {
    let database = database().await;
    for (sql, reason) in [
        ("DROP TABLE letters", "DROP is not allowed; a query is one SELECT"),
        ("COPY letters TO '/tmp/x.csv'", "COPY is not allowed"),
        (
            "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE EXTERNAL TABLE is not allowed",
        ),
        (
            "INSERT INTO letters VALUES ('a', 1, 'x')",
            "INSERT is not allowed",
        ),
        ("SET datafusion.execution.batch_size = 1", "SET is not allowed"),
        ("SELECT 1; SELECT 2", "single SQL statement"),
        ("EXPLAIN DROP TABLE letters", "DROP is not allowed"),
        (
            "SELECT * FROM '/etc/passwd'",
            "Table '/etc/passwd' does not exist",
        ),
        ("SELECT * FROM nothing", "Table 'nothing' does not exist"),
        ("SELECT * FROM information_schema.tables", "names of one part"),
        ("SELECT x FROM letters", "x"),
        ("SELECT k FROM letters WHERE k = $missing", "missing"),
        ("CHOOSE 1", "CHOOSE"),
        ("", "No SQL statements"),
        ("SELECT 1 / 0", "ivide by zero"),
        ("SELECT CAST(k AS BIGINT) FROM letters", "cannot"),
    ] {
        let error = database.refusal(sql).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error}");
        let report = error.report();
        assert!(
            report.to_lowercase().contains(&reason.to_lowercase()),
            "{sql}: {report}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_enough_memory_says_so() {
    let database = database().await;
    let sql = "SELECT a.k, array_agg(b.k) FROM letters a CROSS JOIN letters b GROUP BY a.k";
    let mut spec = database.spec(sql, RowFormat::Csv);
    (spec.limits.memory_bytes, spec.limits.disk_bytes) = (1 << 20, 1 << 20);
    let error = database.ask(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.report().contains("more memory or disk than it may use"),
        "{}",
        error.report()
    );
}
