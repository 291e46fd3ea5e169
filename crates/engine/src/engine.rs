//! The port `RowEngine` on Parquet.

use std::sync::Arc;

use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    file::{DataFile, FilePart},
    ids::FileName,
    key::KeyBounds,
    ports::{
        CompactionSpec, ExportSpec, ExportedFile, FileFault, Ids, IngestSpec, InputObject, KeySample,
        MatchSpec, MergeInput, Progress, RowEngine, SampleSpec, VerifySpec,
    },
    predicate::Predicate,
    row_rules::RulesAt,
    schema::Schema,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    cancel::Cancel,
    ingest::Ingest,
    input::read_schema,
    leaf_merge::LeafMerge,
    matching::may_match,
    object_reader::{Origin, RemoteObject},
    options::EngineOptions,
    sample::Sample,
    spill::{SpillDirectory, remove_abandoned},
    verify::Verify,
};

/// Sorts, merges and writes rows as Parquet files.
///
/// Calls need a Tokio runtime; each works on up to `options.threads` threads beside it.
#[derive(Debug)]
pub struct ParquetRowEngine {
    options: EngineOptions,
    ids: Arc<dyn Ids>,
    /// A permit for each mebibyte of `options.memory_bytes`.
    memory: Arc<Semaphore>,
}

/// How many bytes of rows with their sort entries a byte of Parquet may become, as a guess: it decides how many
/// calls share the memory, and each call keeps to its share whatever its rows become.
const ROWS_PER_PARQUET_BYTE: u64 = 8;

/// The least memory that a call is given, in mebibytes.
const LEAST_MEMORY_MIB: u64 = 32;

impl ParquetRowEngine {
    /// An engine that keeps to `options` and names files by `ids`. Removes what killed processes left in the spill
    /// directory.
    pub fn new(options: EngineOptions, ids: Arc<dyn Ids>) -> Self {
        remove_abandoned(&options.spill_directory);
        let memory = Arc::new(Semaphore::new(memory_mib(&options) as usize));
        Self { options, ids, memory }
    }

    /// Waits for as much of the memory as these inputs may need. Small calls run side by side; one that needs
    /// all of it waits until it is alone, in the order of the calls.
    async fn reserve(&self, inputs: &[InputObject]) -> Result<(OwnedSemaphorePermit, u64)> {
        let bytes = inputs
            .iter()
            .map(|input| input.bytes)
            .fold(0, u64::saturating_add);
        let wanted = (bytes.saturating_mul(ROWS_PER_PARQUET_BYTE) >> 20).saturating_add(LEAST_MEMORY_MIB);
        let granted = wanted.min(memory_mib(&self.options));
        let permits = u32::try_from(granted).unwrap_or(u32::MAX);
        let permit = self
            .memory
            .clone()
            .acquire_many_owned(permits)
            .await
            .map_err(|error| Error::internal("the row engine's memory is closed").with_source(error))?;
        Ok((permit, (granted << 20).min(self.options.memory_bytes)))
    }

    /// A merge of a leaf, once it is known where it runs.
    fn merging(
        &self,
        schema: Arc<Schema>,
        bounds: KeyBounds,
        inputs: Vec<MergeInput>,
        purge: Option<Predicate>,
        rules: Option<RulesAt>,
        progress: Arc<Progress>,
    ) -> impl FnOnce(Handle, Cancel) -> LeafMerge + Send + 'static {
        let (threads, layout) = (self.options.threads, self.options.layout);
        let spill = SpillDirectory::new(&self.options.spill_directory, self.ids.uuid());
        move |runtime, cancel| LeafMerge {
            schema,
            bounds,
            inputs,
            purge,
            rules,
            progress,
            threads,
            layout,
            spill,
            runtime,
            cancel,
        }
    }

    /// The table schema that a Parquet object stands for, with these key columns; every other column is a value
    /// column, in file order. Key columns become required.
    ///
    /// # Errors
    /// `Invalid`, with the column, when a key column is missing, a type has no place in a table, or the object is
    /// not Parquet.
    pub async fn schema_of(
        &self,
        object: InputObject,
        row_key: &[&str],
        sort_key: &[&str],
    ) -> Result<Schema> {
        let names = |columns: &[&str]| columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (row_key, sort_key) = (names(row_key), names(sort_key));
        off_runtime(move |runtime, _| {
            let object = RemoteObject {
                name: object.name,
                origin: Origin::Input,
                store: object.store,
                path: object.path,
                bytes: object.bytes,
                e_tag: object.e_tag,
                runtime,
            };
            let row_key: Vec<&str> = row_key.iter().map(String::as_str).collect();
            let sort_key: Vec<&str> = sort_key.iter().map(String::as_str).collect();
            read_schema(&object, &row_key, &sort_key)
        })
        .await
    }
}

fn memory_mib(options: &EngineOptions) -> u64 {
    (options.memory_bytes >> 20).clamp(1, Semaphore::MAX_PERMITS as u64 >> 3)
}

/// Runs `work` on a thread where it may block; dropping the future cancels it.
async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce(Handle, Cancel) -> Result<T> + Send + 'static,
) -> Result<T> {
    let cancel = Cancel::default();
    let _guard = cancel.on_drop();
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || work(runtime, cancel))
        .await
        .map_err(|error| Error::internal("the row engine's thread did not finish").with_source(error))?
}

#[async_trait]
impl RowEngine for ParquetRowEngine {
    async fn ingest(&self, spec: IngestSpec, progress: Arc<Progress>) -> Result<Vec<DataFile>> {
        let (permit, memory_bytes) = self.reserve(&spec.inputs).await?;
        let ids = self.ids.clone();
        let options = EngineOptions {
            memory_bytes,
            ..self.options.clone()
        };
        off_runtime(move |runtime, cancel| {
            // A call that was dropped holds its memory until its threads have stopped.
            let _permit = permit;
            Ingest {
                spec,
                progress,
                ids,
                options,
                runtime,
                cancel,
            }
            .run()
        })
        .await
    }

    async fn export(&self, spec: ExportSpec, progress: Arc<Progress>) -> Result<ExportedFile> {
        let merging = self.merging(
            spec.schema,
            spec.leaf.bounds,
            spec.inputs,
            None,
            spec.rules,
            progress,
        );
        let (store, path) = (spec.output, spec.output_path);
        off_runtime(move |runtime, cancel| {
            let merge = merging(runtime, cancel);
            let merged = merge.run(merge.destination(store, path, true), true)?;
            let object = merged
                .object
                .ok_or_else(|| Error::internal("an export has written no object"))?;
            Ok(ExportedFile {
                rows: merged.rows,
                bytes: object.bytes,
                checksum: object.checksum,
                digest: merged.digest,
                range: merged.range,
            })
        })
        .await
    }

    async fn compact(&self, spec: CompactionSpec, progress: Arc<Progress>) -> Result<Option<DataFile>> {
        let name = FileName::new(&spec.leaf.id, self.ids.uuid());
        let merging = self.merging(
            spec.schema,
            spec.leaf.bounds,
            spec.inputs,
            spec.purge,
            spec.rules,
            progress,
        );
        let (store, path) = (spec.output, name.object_path(&spec.table));
        off_runtime(move |runtime, cancel| {
            let merge = merging(runtime, cancel);
            let merged = merge.run(merge.destination(store, path, false), false)?;
            let (Some(object), Some(range)) = (merged.object, merged.range) else {
                return Ok(None);
            };
            let part = FilePart {
                range,
                rows: merged.rows,
                digest: merged.digest,
            };
            Ok(Some(DataFile {
                name,
                rows: merged.rows,
                bytes: object.bytes,
                checksum: object.checksum,
                parts: vec![part],
            }))
        })
        .await
    }

    async fn sample(&self, spec: SampleSpec) -> Result<Vec<KeySample>> {
        off_runtime(move |runtime, cancel| {
            Sample {
                schema: spec.schema,
                bounds: spec.leaf.bounds,
                inputs: spec.inputs,
                keys: spec.keys,
                runtime,
                cancel,
            }
            .run()
        })
        .await
    }

    async fn may_match(&self, spec: MatchSpec) -> Result<Vec<bool>> {
        let threads = self.options.threads;
        off_runtime(move |runtime, cancel| may_match(&spec, threads, &runtime, &cancel)).await
    }

    async fn verify(&self, spec: VerifySpec) -> Result<Vec<FileFault>> {
        off_runtime(move |runtime, cancel| {
            Verify {
                spec,
                runtime,
                cancel,
            }
            .run()
        })
        .await
    }
}
