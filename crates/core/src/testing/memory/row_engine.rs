use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use futures::future::BoxFuture;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, PartitionId, TableId},
    key::{Key, KeyRange, KeyValue},
    partition::Leaf,
    ports::{
        CompactionSpec, ExportSpec, ExportedFile, FaultKind, FileFault, Ids, IngestSpec, InputObject,
        KeySample, MatchSpec, MergeInput, Progress, RowEngine, SampleSpec, VerifySpec,
    },
    predicate::Predicate,
    row_rules::RulesAt,
    schema::{Column, DataType, Schema},
};

/// A row of a [`MemoryRowEngine`]'s table: `[key, payload]` as JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemoryRow(pub i64, pub String);

/// Where in a call a [`MemoryRowEngine`] is when it asks its hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineStep {
    /// An ingest begins.
    Ingest {
        /// The table.
        table: TableId,
    },
    /// An ingest is about to write a file.
    WriteFile(FileName),
    /// An ingest has written all its files.
    Ingested {
        /// The table.
        table: TableId,
    },
    /// An export begins to write this object.
    Export(Path),
    /// An export has written this object.
    Exported(Path),
    /// A compaction begins at a leaf.
    Compact(PartitionId),
    /// A compaction has written its file, if there is one.
    Compacted(PartitionId),
}

/// What a test does at a step: nothing, wait, fail or panic.
pub type EngineHook = Arc<dyn Fn(EngineStep) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A [`RowEngine`] whose rows are a number and a text, and whose files are short JSON texts: fast, and the same
/// calls in the same order write the same bytes.
///
/// Of predicates it knows `payload LIKE 'text%'` alone, where the text stands for itself.
///
/// An input object is a JSON list of rows in any order, and so are data files and exports, in key order. Tables
/// have the columns of [`MemoryRowEngine::schema`].
pub struct MemoryRowEngine {
    ids: Arc<dyn Ids>,
    hook: Mutex<Option<EngineHook>>,
}

impl fmt::Debug for MemoryRowEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRowEngine").finish_non_exhaustive()
    }
}

static SCHEMA: LazyLock<Option<Arc<Schema>>> = LazyLock::new(|| {
    let key = vec![Column::required("key", DataType::Int64)];
    let payload = vec![Column::required("payload", DataType::Utf8)];
    Schema::new(key, Vec::new(), payload).ok().map(Arc::new)
});

impl MemoryRowEngine {
    /// An engine that names files by these ids.
    pub fn new(ids: Arc<dyn Ids>) -> Self {
        Self {
            ids,
            hook: Mutex::default(),
        }
    }

    /// The columns that every table of this engine has: `key`, a number, and `payload`, a text.
    ///
    /// # Errors
    /// None in fact.
    pub fn schema() -> Result<Arc<Schema>> {
        SCHEMA
            .clone()
            .ok_or_else(|| Error::internal("the schema of rows in memory is not one"))
    }

    /// The row key of a row.
    pub fn key(key: i64) -> Key {
        Key::new([KeyValue::Int64(key)])
    }

    /// An object that holds these rows, in this order.
    pub fn encode(rows: &[MemoryRow]) -> Bytes {
        serde_json::to_vec(rows).unwrap_or_default().into()
    }

    /// The rows of an object.
    ///
    /// # Errors
    /// `Corrupt` when it is not a list of rows.
    pub fn decode(object: &[u8]) -> Result<Vec<MemoryRow>> {
        serde_json::from_slice(object)
            .map_err(|error| Error::corrupt("an object is not a list of rows").with_source(error))
    }

    /// The checksum of an object.
    pub fn checksum(object: &[u8]) -> Checksum {
        let mut crc = Crc::new(CrcAlgorithm::Crc64Nvme);
        crc.update(object);
        Checksum(crc.finalize())
    }

    /// The digest of a row.
    pub fn digest(row: &MemoryRow) -> RowDigest {
        digest_of(row)
    }

    /// From now on, every call asks `hook` at each step.
    pub fn set_hook<F, Wait>(&self, hook: F)
    where
        F: Fn(EngineStep) -> Wait + Send + Sync + 'static,
        Wait: Future<Output = Result<()>> + Send + 'static,
    {
        *self.hook.lock() = Some(Arc::new(move |step| Box::pin(hook(step))));
    }

    /// From now on, calls run through.
    pub fn clear_hook(&self) {
        *self.hook.lock() = None;
    }

    async fn at(&self, step: EngineStep) -> Result<()> {
        let hook = self.hook.lock().clone();
        match hook {
            Some(hook) => hook(step).await,
            None => Ok(()),
        }
    }

    async fn write_file(&self, spec: &IngestSpec, leaves: Vec<LeafRows<'_>>) -> Result<Option<DataFile>> {
        let Some(first) = leaves.first() else {
            return Ok(None);
        };
        let parts: Vec<_> = leaves.iter().filter_map(|leaf| part_of(&leaf.rows)).collect();
        let partition = first.leaf.id.clone();
        let rows: Vec<_> = leaves.into_iter().flat_map(|leaf| leaf.rows).collect();
        self.create_file((&*spec.output, &spec.table), &partition, &rows, parts)
            .await
            .map(Some)
    }

    async fn create_file(
        &self,
        (store, table): (&dyn ObjectStore, &TableId),
        partition: &PartitionId,
        rows: &[MemoryRow],
        parts: Vec<FilePart>,
    ) -> Result<DataFile> {
        let name = FileName::new(partition, self.ids.uuid());
        self.at(EngineStep::WriteFile(name.clone())).await?;
        let body = Self::encode(rows);
        let create = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let path = name.object_path(table);
        store.put_opts(&path, body.clone().into(), create).await?;
        Ok(DataFile {
            name,
            rows: rows.len() as u64,
            bytes: body.len() as u64,
            checksum: Self::checksum(&body),
            parts,
        })
    }
}

struct LeafRows<'a> {
    leaf: &'a Leaf,
    rows: Vec<MemoryRow>,
}

impl LeafRows<'_> {
    fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| 8 + row.1.len() as u64).sum()
    }
}

fn digest_of(row: &MemoryRow) -> RowDigest {
    let mut hash = Sha256::new();
    hash.update(row.0.to_be_bytes());
    hash.update(row.1.as_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    RowDigest(
        hash[..16]
            .iter()
            .fold(0, |sum, byte| sum << 8 | u128::from(*byte)),
    )
}

fn range_of(rows: &[MemoryRow]) -> Option<KeyRange> {
    Some(KeyRange {
        min: MemoryRowEngine::key(rows.first()?.0),
        max: MemoryRowEngine::key(rows.last()?.0),
    })
}

fn part_of(rows: &[MemoryRow]) -> Option<FilePart> {
    Some(FilePart {
        range: range_of(rows)?,
        rows: rows.len() as u64,
        digest: rows.iter().map(digest_of).sum(),
    })
}

async fn read_input(input: &InputObject) -> Result<Vec<MemoryRow>> {
    let named = |error: Error| error.context(format!("cannot read file \"{}\"", input.name));
    let options = GetOptions {
        if_match: input.e_tag.clone(),
        ..GetOptions::default()
    };
    let object = match input.store.get_opts(&input.path, options).await {
        Ok(object) => object.bytes().await.map_err(|error| named(error.into()))?,
        Err(object_store::Error::Precondition { .. }) => {
            return Err(Error::invalid(format!(
                "input \"{}\" has changed since the job was accepted",
                input.name
            )));
        }
        Err(error) => return Err(named(error.into())),
    };
    serde_json::from_slice(&object).map_err(|error| {
        named(Error::invalid(format!("file \"{}\" is not a list of rows", input.name)).with_source(error))
    })
}

pub(super) async fn read_file(input: &MergeInput, leaf: &Leaf) -> Result<Vec<MemoryRow>> {
    let object = input.store.get(&input.path).await?.bytes().await?;
    let damaged = |what: String| Err(Error::corrupt(format!("file {} {what}", input.path)));
    if input.exact.is_none() && MemoryRowEngine::checksum(&object) != input.checksum {
        return damaged("does not have the checksum that the state says".to_owned());
    }
    let mut rows = match MemoryRowEngine::decode(&object) {
        Ok(rows) => rows,
        Err(error) => return damaged(format!("cannot be read: {}", error.report())),
    };
    if !rows.is_sorted_by_key(|row| row.0) {
        return damaged("is not sorted".to_owned());
    }
    rows.retain(|row| leaf.bounds.contains(&MemoryRowEngine::key(row.0)));
    if let Some((count, digest)) = input.exact {
        let found = (rows.len() as u64, rows.iter().map(digest_of).sum());
        if found != (count, digest) {
            return damaged(format!(
                "has {} rows with digest {} in leaf {}, and the state says {count} with {digest}",
                found.0, found.1, leaf.id
            ));
        }
    }
    Ok(rows)
}

/// The rows of the leaf in all files, in key order.
async fn merged(inputs: &[MergeInput], leaf: &Leaf, progress: &Progress) -> Result<Vec<MemoryRow>> {
    let mut rows = Vec::new();
    for input in inputs {
        let more = read_file(input, leaf).await?;
        progress.add_read(more.len() as u64);
        rows.extend(more);
    }
    rows.sort_by_key(|row| row.0);
    Ok(rows)
}

/// The text that the payload of a row begins with that is meant.
fn payload_prefix(predicate: &Predicate) -> Result<&str> {
    let prefix = predicate
        .as_str()
        .strip_prefix("payload LIKE '")
        .and_then(|rest| rest.strip_suffix("%'"));
    prefix.ok_or_else(|| Error::invalid(format!("rows in memory know no predicate such as {predicate}")))
}

/// What rules make of rows is the business of the engine that is real.
fn refuse_rules(rules: Option<&RulesAt>) -> Result<()> {
    match rules {
        Some(_) => Err(Error::internal(
            "the row engine in memory knows no filters and aggregations",
        )),
        None => Ok(()),
    }
}

#[async_trait]
impl RowEngine for MemoryRowEngine {
    async fn ingest(&self, spec: IngestSpec, progress: Arc<Progress>) -> Result<Vec<DataFile>> {
        let table = spec.table.clone();
        self.at(EngineStep::Ingest { table: table.clone() }).await?;
        if spec.schema != Self::schema()? {
            return Err(Error::invalid("rows in memory are a number and a text"));
        }
        let mut rows = Vec::new();
        for input in &spec.inputs {
            let more = read_input(input).await?;
            progress.add_read(more.len() as u64);
            rows.extend(more);
        }
        rows.sort_by_key(|row| row.0);
        let mut rows = rows.into_iter().peekable();
        let mut files = Vec::new();
        let mut gathered: Vec<LeafRows<'_>> = Vec::new();
        for leaf in &spec.leaves {
            let mut of_leaf = LeafRows {
                leaf,
                rows: Vec::new(),
            };
            while let Some(row) = rows.next_if(|row| leaf.bounds.contains(&Self::key(row.0))) {
                of_leaf.rows.push(row);
            }
            if of_leaf.rows.is_empty() {
                continue;
            }
            if of_leaf.bytes() >= spec.target_file_bytes {
                files.extend(self.write_file(&spec, std::mem::take(&mut gathered)).await?);
            }
            gathered.push(of_leaf);
            if gathered.iter().map(LeafRows::bytes).sum::<u64>() >= spec.target_file_bytes {
                files.extend(self.write_file(&spec, std::mem::take(&mut gathered)).await?);
            }
        }
        if let Some(row) = rows.next() {
            return Err(Error::internal(format!("no leaf takes key {}", row.0)));
        }
        files.extend(self.write_file(&spec, gathered).await?);
        progress.add_written(files.iter().map(|file| file.rows).sum());
        self.at(EngineStep::Ingested { table }).await?;
        Ok(files)
    }

    async fn export(&self, spec: ExportSpec, progress: Arc<Progress>) -> Result<ExportedFile> {
        self.at(EngineStep::Export(spec.output_path.clone())).await?;
        refuse_rules(spec.rules.as_ref())?;
        let rows = merged(&spec.inputs, &spec.leaf, &progress).await?;
        let body = Self::encode(&rows);
        spec.output.put(&spec.output_path, body.clone().into()).await?;
        progress.add_written(rows.len() as u64);
        self.at(EngineStep::Exported(spec.output_path)).await?;
        Ok(ExportedFile {
            rows: rows.len() as u64,
            bytes: body.len() as u64,
            checksum: Self::checksum(&body),
            digest: rows.iter().map(digest_of).sum(),
            range: range_of(&rows),
        })
    }

    async fn compact(&self, spec: CompactionSpec, progress: Arc<Progress>) -> Result<Option<DataFile>> {
        let partition = &spec.leaf.id;
        self.at(EngineStep::Compact(partition.clone())).await?;
        refuse_rules(spec.rules.as_ref())?;
        let mut rows = merged(&spec.inputs, &spec.leaf, &progress).await?;
        if let Some(predicate) = &spec.purge {
            let prefix = payload_prefix(predicate)?;
            rows.retain(|row| !row.1.starts_with(prefix));
        }
        let file = match part_of(&rows) {
            None => None,
            Some(part) => {
                let place = (&*spec.output, &spec.table);
                Some(self.create_file(place, partition, &rows, vec![part]).await?)
            }
        };
        progress.add_written(rows.len() as u64);
        self.at(EngineStep::Compacted(partition.clone())).await?;
        Ok(file)
    }

    async fn sample(&self, spec: SampleSpec) -> Result<Vec<KeySample>> {
        let rows = merged(&spec.inputs, &spec.leaf, &Progress::default()).await?;
        let step = rows.len().div_ceil(spec.keys.max(1)).max(1);
        let samples = rows.chunks(step).map(|chunk| KeySample {
            key: Self::key(chunk[0].0),
            rows: chunk.len() as u64,
        });
        Ok(samples.collect())
    }

    async fn may_match(&self, spec: MatchSpec) -> Result<Vec<bool>> {
        let prefix = payload_prefix(&spec.predicate)?;
        let mut matches = Vec::with_capacity(spec.inputs.len());
        for input in &spec.inputs {
            let rows = read_file(input, &spec.leaf).await?;
            matches.push(rows.iter().any(|row| row.1.starts_with(prefix)));
        }
        Ok(matches)
    }

    async fn verify(&self, spec: VerifySpec) -> Result<Vec<FileFault>> {
        let object = spec.store.get(&spec.path).await?.bytes().await?;
        let mut faults = Vec::new();
        let checksum = Self::checksum(&object);
        if (object.len() as u64, checksum) != (spec.bytes, spec.checksum) {
            faults.push(FileFault::new(
                FaultKind::Bytes,
                format!(
                    "it has {} bytes with checksum {checksum}, not {} with {}",
                    object.len(),
                    spec.bytes,
                    spec.checksum
                ),
            ));
        }
        let rows = match Self::decode(&object) {
            Ok(rows) => rows,
            Err(error) => {
                faults.push(FileFault::new(FaultKind::Bytes, error.report()));
                return Ok(faults);
            }
        };
        let found = (rows.len() as u64, rows.iter().map(digest_of).sum::<RowDigest>());
        if found != spec.rows() {
            faults.push(FileFault::new(
                FaultKind::Rows,
                format!("it has {} rows with digest {}", found.0, found.1),
            ));
        }
        if !rows.is_sorted_by_key(|row| row.0) {
            faults.push(FileFault::new(FaultKind::Order, "its rows are not in key order"));
            return Ok(faults);
        }
        let mut rest = rows.as_slice();
        for part in &spec.parts {
            let (in_part, beyond) =
                rest.split_at(rest.partition_point(|row| Self::key(row.0) <= part.range.max));
            rest = beyond;
            let place = format!("the part with keys {} to {}", part.range.min, part.range.max);
            let found = (
                in_part.len() as u64,
                in_part.iter().map(digest_of).sum::<RowDigest>(),
            );
            if found != (part.rows, part.digest) {
                faults.push(FileFault::new(
                    FaultKind::Rows,
                    format!("{place} has {} rows with digest {}", found.0, found.1),
                ));
            }
            if range_of(in_part).is_some_and(|range| range != part.range) {
                faults.push(FileFault::new(
                    FaultKind::Order,
                    format!("{place} has other keys"),
                ));
            }
        }
        if !rest.is_empty() {
            faults.push(FileFault::new(
                FaultKind::Order,
                "it has rows beyond its last key",
            ));
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use object_store::memory::InMemory;

    use super::*;
    use crate::{error::ErrorKind, ids::PartitionId, key::KeyBounds, testing::seeded::SeededIds};

    fn leaves(points: &[i64]) -> Vec<Leaf> {
        let mut lower = None;
        let mut leaves = Vec::new();
        for upper in points
            .iter()
            .map(|point| Some(MemoryRowEngine::key(*point)))
            .chain([None])
        {
            leaves.push(Leaf {
                id: PartitionId::new(format!("p{}", leaves.len())).unwrap(),
                bounds: KeyBounds {
                    lower: lower.clone(),
                    upper: upper.clone(),
                },
            });
            lower = upper;
        }
        leaves
    }

    async fn spec(rows: &[(i64, &str)], points: &[i64], target_file_bytes: u64) -> IngestSpec {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let rows: Vec<_> = rows
            .iter()
            .map(|(key, text)| MemoryRow(*key, (*text).to_owned()))
            .collect();
        let path = Path::from("in/a");
        store
            .put(&path, MemoryRowEngine::encode(&rows).into())
            .await
            .unwrap();
        let input = InputObject {
            name: "in/a".to_owned(),
            store: store.clone(),
            path,
            bytes: 0,
            e_tag: None,
        };
        IngestSpec {
            table: TableId::new("t").unwrap(),
            schema: MemoryRowEngine::schema().unwrap(),
            leaves: leaves(points),
            inputs: vec![input],
            output: store,
            target_file_bytes,
        }
    }

    fn engine() -> MemoryRowEngine {
        MemoryRowEngine::new(Arc::new(SeededIds::new(1)))
    }

    fn export_spec(
        spec: &IngestSpec,
        file: &DataFile,
        leaf: usize,
        exact: Option<(u64, RowDigest)>,
    ) -> ExportSpec {
        ExportSpec {
            schema: spec.schema.clone(),
            leaf: spec.leaves[leaf].clone(),
            inputs: vec![MergeInput {
                store: spec.output.clone(),
                path: file.name.object_path(&spec.table),
                bytes: file.bytes,
                checksum: file.checksum,
                exact,
            }],
            rules: None,
            output: spec.output.clone(),
            output_path: Path::from("out"),
        }
    }

    #[tokio::test]
    async fn small_leaves_share_a_file_and_large_ones_have_their_own() {
        let rows = [
            (1, "a"),
            (11, "b"),
            (21, "long enough for a file"),
            (31, "c"),
            (12, "d"),
        ];
        let spec = spec(&rows, &[10, 20, 30], 30).await;
        let files = engine().ingest(spec, Arc::default()).await.unwrap();
        let parts: Vec<Vec<u64>> = files
            .iter()
            .map(|file| file.parts.iter().map(|part| part.rows).collect())
            .collect();
        assert_eq!(parts, [vec![1, 2], vec![1], vec![1]]);
        let names: BTreeSet<_> = files.iter().map(|file| &file.name).collect();
        assert_eq!(names.len(), 3);
    }

    #[tokio::test]
    async fn an_export_has_the_leaf_rows_in_order_with_the_digest_of_the_part() {
        let spec = spec(&[(11, "b"), (3, "x"), (1, "a"), (3, "y")], &[10], 1 << 20).await;
        let engine = engine();
        let files = engine.ingest(spec.clone(), Arc::default()).await.unwrap();
        let [file] = files.as_slice() else {
            panic!("{files:?}")
        };
        let part = &file.parts[0];
        let exact = Some((part.rows, part.digest));
        let exported = engine
            .export(export_spec(&spec, file, 0, exact), Arc::default())
            .await
            .unwrap();
        assert_eq!((exported.rows, exported.digest), (3, part.digest));
        assert_eq!(exported.range.as_ref(), Some(&part.range));
        let body = spec
            .output
            .get(&Path::from("out"))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let rows = MemoryRowEngine::decode(&body).unwrap();
        assert_eq!(
            rows.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(),
            ["a", "x", "y"]
        );
        assert_eq!(exported.checksum, MemoryRowEngine::checksum(&body));
    }

    #[tokio::test]
    async fn damage_is_found_in_inputs_and_in_files() {
        let spec = spec(&[(1, "a")], &[], 1).await;
        let engine = engine();
        let files = engine.ingest(spec.clone(), Arc::default()).await.unwrap();
        let path = files[0].name.object_path(&spec.table);
        for exact in [None, Some((2, files[0].digest()))] {
            let good = exact.is_none();
            let result = engine
                .export(export_spec(&spec, &files[0], 0, exact), Arc::default())
                .await;
            assert_eq!(result.is_ok(), good);
        }
        spec.output.put(&path, "[[1,\"b\"]]".into()).await.unwrap();
        for exact in [None, Some((1, files[0].digest()))] {
            let export = engine.export(export_spec(&spec, &files[0], 0, exact), Arc::default());
            assert_eq!(export.await.unwrap_err().kind(), ErrorKind::Corrupt);
        }
        spec.output
            .put(&Path::from("in/a"), "not rows".into())
            .await
            .unwrap();
        let error = engine.ingest(spec, Arc::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.report().contains("\"in/a\""), "{}", error.report());
    }
}
