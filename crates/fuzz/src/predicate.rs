//! SQL predicates over the rows of a small data file.

use std::{collections::BTreeSet, sync::Arc};

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use dormouse_core::{
    ErrorKind, Result,
    file::DataFile,
    key::KeyBounds,
    partition::Leaf,
    ports::{CompactionSpec, IngestSpec, MatchSpec, MergeInput, Progress, RowEngine, SystemIds},
    predicate::Predicate,
    schema::{Column, DataType, Schema},
};
use dormouse_engine::{EngineOptions, FileLayout, ParquetRowEngine, arrow_schema::arrow_schema};
use object_store::memory::InMemory;
use parquet::arrow::ArrowWriter;

use crate::{
    rows::{Bench, input, leaves, read, table, texts},
    text,
};

const ROWS: i64 = 24;

thread_local! {
    static WORLD: World = World::new();
}

/// A data file of a few row groups, whose values and nulls differ from group to group.
struct World {
    bench: Bench,
    store: Arc<InMemory>,
    schema: Arc<Schema>,
    leaf: Leaf,
    file: DataFile,
}

pub(crate) fn run(data: &[u8]) {
    let Some(text) = text(data) else { return };
    WORLD.with(|world| world.check(text));
}

fn schema() -> Schema {
    let values = vec![
        Column::nullable("n", DataType::Int64),
        Column::nullable("f", DataType::Float64),
        Column::nullable("Flag", DataType::Boolean),
    ];
    Schema::new(vec![Column::required("k", DataType::Utf8)], vec![], values)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn rows(schema: &Schema) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            (0..ROWS).map(|row| format!("k{row:02}")),
        )),
        Arc::new(Int64Array::from_iter(
            (0..ROWS).map(|row| (row % 5 > 0 && row > 3).then_some(row * 10 - 110)),
        )),
        Arc::new(Float64Array::from_iter((0..ROWS).map(|row| match row {
            0..4 => None,
            9 => Some(f64::NAN),
            _ => Some(row as f64 / 8.0),
        }))),
        Arc::new(BooleanArray::from_iter(
            (0..ROWS).map(|row| (row > 7).then_some(row > 15)),
        )),
    ];
    RecordBatch::try_new(arrow_schema(schema), columns).unwrap_or_else(|error| panic!("{error}"))
}

impl World {
    fn new() -> Self {
        let options = EngineOptions {
            threads: std::num::NonZeroUsize::MIN,
            layout: FileLayout {
                row_group_rows: 4,
                page_rows: 2,
                piece_bytes: 1,
                copied_rows: 1,
            },
            ..EngineOptions::default()
        };
        let bench = Bench {
            engine: ParquetRowEngine::new(options, Arc::new(SystemIds)),
            ..Bench::new(1 << 20)
        };
        let schema = Arc::new(schema());
        let batch = rows(&schema);
        let mut bytes = Vec::new();
        let written = ArrowWriter::try_new(&mut bytes, batch.schema(), None).and_then(|mut writer| {
            writer.write(&batch)?;
            writer.close()
        });
        written.unwrap_or_else(|error| panic!("{error}"));
        let size = bytes.len();
        let store = bench.store("in/rows.parquet", bytes.into());
        let spec = IngestSpec {
            table: table(),
            schema: schema.clone(),
            leaves: leaves(&[]),
            inputs: vec![input(&store, "in/rows.parquet", size)],
            output: store.clone(),
            target_file_bytes: 1 << 20,
        };
        let ingest = bench.engine.ingest(spec, Arc::new(Progress::default()));
        let mut files = bench
            .runtime
            .block_on(ingest)
            .unwrap_or_else(|error| panic!("{error}"));
        let leaf = Leaf {
            bounds: KeyBounds::default(),
            ..leaves(&[]).remove(0)
        };
        Self {
            file: files.remove(0),
            bench,
            store,
            schema,
            leaf,
        }
    }

    fn input(&self) -> MergeInput {
        MergeInput {
            store: self.store.clone(),
            path: self.file.name.object_path(&table()),
            bytes: self.file.bytes,
            checksum: self.file.checksum,
            exact: Some((self.file.rows, self.file.digest())),
        }
    }

    /// Whatever is refused is refused as wrong; else what a predicate is true for and what it is not make all rows, and
    /// statistics rule out no file that has some.
    fn check(&self, text: &str) {
        let Ok(predicate) = Predicate::new(text) else {
            return;
        };
        let may_match = match self.may_match(&predicate) {
            Ok(may_match) => may_match,
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report()),
        };
        let (Ok(left), Ok(others)) = (
            self.left(&predicate),
            Predicate::new(format!("({text}) IS NOT TRUE")).and_then(|others| self.left(&others)),
        ) else {
            return;
        };
        assert!(left.is_disjoint(&others), "{text}: {left:?}, {others:?}");
        assert_eq!(
            left.len() + others.len(),
            ROWS as usize,
            "{text}: {left:?}, {others:?}"
        );
        assert!(
            may_match || others.is_empty(),
            "{text}: ruled out, and true for {others:?}"
        );
    }

    fn may_match(&self, predicate: &Predicate) -> Result<bool> {
        let spec = MatchSpec {
            schema: self.schema.clone(),
            leaf: self.leaf.clone(),
            inputs: vec![self.input()],
            predicate: predicate.clone(),
            rules: None,
        };
        let found = self.bench.runtime.block_on(self.bench.engine.may_match(spec))?;
        Ok(found[0])
    }

    /// The rows that a compaction leaves.
    fn left(&self, predicate: &Predicate) -> Result<BTreeSet<String>> {
        let output = Arc::new(InMemory::new());
        let spec = CompactionSpec {
            table: table(),
            schema: self.schema.clone(),
            leaf: self.leaf.clone(),
            inputs: vec![self.input()],
            purge: Some(predicate.clone()),
            rules: None,
            output: output.clone(),
        };
        let compact = self.bench.engine.compact(spec, Arc::new(Progress::default()));
        let made = self.bench.runtime.block_on(compact).inspect_err(|error| {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
        })?;
        let Some(file) = made else {
            return Ok(BTreeSet::new());
        };
        let bytes = self.bench.get(&*output, &file.name.object_path(&table()));
        let batches = read(bytes).unwrap_or_else(|error| panic!("{predicate}: {error}"));
        let rows: BTreeSet<String> = texts(&batches, &self.schema).into_iter().collect();
        assert_eq!(rows.len() as u64, file.rows, "{predicate}");
        Ok(rows)
    }
}
