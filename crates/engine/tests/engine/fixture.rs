//! Tables, inputs and answers for the tests of this binary.

use std::{num::NonZeroUsize, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    compute::concat_batches,
    datatypes::{Field, Schema as ArrowSchema},
    util::display::{ArrayFormatter, FormatOptions},
};
use bytes::Bytes;
use dormouse_core::{
    Error, Result,
    file::DataFile,
    ids::{PartitionId, TableId},
    key::{Key, KeyBounds, KeyValue},
    partition::Leaf,
    ports::{
        CompactionSpec, ExportSpec, ExportedFile, IngestSpec, InputObject, MergeInput, Progress, RowEngine,
        SystemIds,
    },
    schema::{Column, DataType, Schema},
};
use dormouse_engine::{EngineOptions, ParquetRowEngine, arrow_schema::arrow_schema};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    file::properties::WriterProperties,
};

/// A store, a table and an engine.
pub(crate) struct Fixture {
    pub(crate) store: Arc<InMemory>,
    pub(crate) schema: Arc<Schema>,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) options: EngineOptions,
    pub(crate) target_file_bytes: u64,
}

/// Key `k`, sort key `s`, nullable value `v`.
pub(crate) fn text_schema() -> Arc<Schema> {
    Arc::new(
        Schema::new(
            vec![Column::required("k", DataType::Utf8)],
            vec![Column::required("s", DataType::Int64)],
            vec![Column::nullable("v", DataType::Utf8)],
        )
        .unwrap(),
    )
}

pub(crate) fn text(text: &str) -> KeyValue {
    KeyValue::Utf8(text.into())
}

pub(crate) fn leaves(splits: &[Key]) -> Vec<Leaf> {
    (0..=splits.len())
        .map(|number| Leaf {
            id: PartitionId::new(format!("leaf{number}")).unwrap(),
            bounds: KeyBounds {
                lower: number.checked_sub(1).map(|split| splits[split].clone()),
                upper: splits.get(number).cloned(),
            },
        })
        .collect()
}

pub(crate) fn text_leaves(splits: &[&str]) -> Vec<Leaf> {
    let splits: Vec<Key> = splits.iter().map(|split| Key::new([text(split)])).collect();
    leaves(&splits)
}

/// A batch of [`text_schema`].
pub(crate) fn text_batch(rows: &[(&str, i64, Option<&str>)]) -> RecordBatch {
    batch(
        &text_schema(),
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(StringArray::from_iter(rows.iter().map(|row| row.2))),
        ],
    )
}

pub(crate) fn batch(schema: &Schema, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(arrow_schema(schema), columns).unwrap()
}

/// A batch whose columns have the types and nulls that they happen to have.
pub(crate) fn loose_batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let columns = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns).unwrap()
}

pub(crate) fn encode(batches: &[RecordBatch], properties: WriterProperties) -> Bytes {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.close().unwrap();
    bytes.into()
}

/// The rows of a Parquet file.
pub(crate) fn decode(bytes: Bytes) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(|batch| batch.unwrap()).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Each row as text.
pub(crate) fn rows(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("<null>");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect()
}

pub(crate) fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

impl Fixture {
    pub(crate) fn new(schema: Arc<Schema>, leaves: Vec<Leaf>) -> Self {
        Self {
            store: Arc::new(InMemory::new()),
            schema,
            leaves,
            options: EngineOptions {
                threads: NonZeroUsize::new(2).unwrap(),
                ..EngineOptions::default()
            },
            target_file_bytes: 1,
        }
    }

    pub(crate) fn text(splits: &[&str]) -> Self {
        Self::new(text_schema(), text_leaves(splits))
    }

    pub(crate) fn engine(&self) -> ParquetRowEngine {
        ParquetRowEngine::new(self.options.clone(), Arc::new(SystemIds))
    }

    pub(crate) async fn put(&self, name: &str, bytes: Bytes) -> InputObject {
        let path = Path::from(name);
        let size = bytes.len() as u64;
        let put = self.store.put(&path, bytes.into()).await.unwrap();
        InputObject {
            name: format!("bucket/{name}"),
            store: self.store.clone(),
            path,
            bytes: size,
            e_tag: put.e_tag,
        }
    }

    pub(crate) async fn put_batches(&self, name: &str, batches: &[RecordBatch]) -> InputObject {
        self.put(name, encode(batches, WriterProperties::default())).await
    }

    pub(crate) fn spec(&self, inputs: Vec<InputObject>) -> IngestSpec {
        IngestSpec {
            table: TableId::new("table").unwrap(),
            schema: self.schema.clone(),
            leaves: self.leaves.clone(),
            inputs,
            output: self.store.clone(),
            target_file_bytes: self.target_file_bytes,
        }
    }

    pub(crate) async fn ingest(&self, inputs: Vec<InputObject>) -> Result<Vec<DataFile>> {
        self.engine()
            .ingest(self.spec(inputs), Arc::new(Progress::default()))
            .await
    }

    /// Ingests batches, one file each.
    pub(crate) async fn ingest_batches(&self, batches: &[RecordBatch]) -> Vec<DataFile> {
        let mut inputs = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            inputs.push(
                self.put_batches(&format!("in/{number}.parquet"), std::slice::from_ref(batch))
                    .await,
            );
        }
        self.ingest(inputs).await.unwrap()
    }

    /// The refusal of one input.
    pub(crate) async fn refusal(&self, bytes: Bytes) -> Error {
        let input = self.put("in/bad.parquet", bytes).await;
        self.ingest(vec![input]).await.unwrap_err()
    }

    pub(crate) async fn bytes(&self, path: &Path) -> Bytes {
        self.store.get(path).await.unwrap().bytes().await.unwrap()
    }

    /// The rows of a data file.
    pub(crate) async fn read(&self, file: &DataFile) -> RecordBatch {
        decode(
            self.bytes(&file.name.object_path(&TableId::new("table").unwrap()))
                .await,
        )
    }

    /// A data file as an export's input, with what the state knows of it in the leaf.
    pub(crate) fn export_input(&self, file: &DataFile, exact: bool) -> MergeInput {
        MergeInput {
            store: self.store.clone(),
            path: file.name.object_path(&TableId::new("table").unwrap()),
            bytes: file.bytes,
            checksum: file.checksum,
            exact: exact.then(|| (file.rows, file.digest())),
        }
    }

    pub(crate) fn export_spec(&self, leaf: usize, inputs: Vec<MergeInput>) -> ExportSpec {
        ExportSpec {
            schema: self.schema.clone(),
            leaf: self.leaves[leaf].clone(),
            inputs,
            rules: None,
            output: self.store.clone(),
            output_path: Path::from("export/out.parquet"),
        }
    }

    /// A compaction that changes no row.
    pub(crate) fn compaction_spec(&self, leaf: usize, inputs: Vec<MergeInput>) -> CompactionSpec {
        CompactionSpec {
            table: TableId::new("table").unwrap(),
            schema: self.schema.clone(),
            leaf: self.leaves[leaf].clone(),
            inputs,
            purge: None,
            rules: None,
            output: self.store.clone(),
        }
    }

    pub(crate) async fn export(
        &self,
        leaf: usize,
        inputs: Vec<MergeInput>,
    ) -> Result<(ExportedFile, RecordBatch)> {
        let spec = self.export_spec(leaf, inputs);
        let path = spec.output_path.clone();
        let exported = self.engine().export(spec, Arc::new(Progress::default())).await?;
        Ok((exported, decode(self.bytes(&path).await)))
    }
}
