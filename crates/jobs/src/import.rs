//! Import: a table is made from a complete export, of this instance or of another.
//!
//! The manifest says everything: the columns, the files, and each file's rows, digest, checksum and smallest key, at which
//! the new table's leaves are cut. Each file is rewritten by the row engine as a data file of the new table, which copies
//! its row groups and proves bytes and rows on the way. Then one commit adds all of them: the table has the rows of the
//! export, each once, or it is deleted again.

use std::{collections::BTreeMap, sync::Arc};

use dormouse_core::{
    Error, ErrorKind, Result,
    file::DataFile,
    ids::{JobId, RunId, TableName},
    key::Key,
    message::Location,
    partition::Leaf,
    plan::export::{Manifest, ManifestFile},
    ports::{CompactionSpec, MergeInput, Progress},
    state::{Commit, CommitId, Outcome, Record},
    tables::TableInfo,
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Serialize;

use crate::services::Services;

/// How many files are rewritten at a time.
const FILES: usize = 2;

/// A table that was made from an export.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The table.
    #[serde(flatten)]
    pub table: TableInfo,
    /// Its rows.
    pub rows: u64,
    /// Its files.
    pub files: u64,
    /// Its leaves.
    pub leaves: u64,
}

/// Makes table `name` from the export at `from`: its prefix, which ends with the export's id.
///
/// # Errors
/// `NotFound` when there is no complete export; `AlreadyExists` when the name is taken; `Corrupt` when a file is not
/// what the manifest says. Then there is no table.
pub async fn import_export(
    services: &Services,
    name: TableName,
    from: &Location,
    properties: BTreeMap<String, String>,
    progress: Arc<Progress>,
) -> Result<Imported> {
    let store = services.ports.buckets.open(&from.bucket)?;
    let manifest = read_manifest(&*store, from).await?;
    let points: Vec<Key> = files(&manifest).skip(1).map(|(_, min)| min.clone()).collect();
    let schema = manifest.schema.clone();
    let table = services.create_table(name, schema, &points, properties).await?;
    let added = add(services, &table, &manifest, (&store, from), progress).await;
    if let Err(error) = added {
        return Err(match services.tables.delete(&table.name).await {
            Ok(_) => error,
            Err(_) => error.context(format!("table \"{}\" stays behind; delete it", table.name)),
        });
    }
    let state = services.states.live_state(&table.id).await?;
    Ok(Imported {
        rows: state.rows(),
        files: state.file_count() as u64,
        leaves: state.leaf_count() as u64,
        table,
    })
}

async fn read_manifest(store: &dyn ObjectStore, from: &Location) -> Result<Manifest> {
    let missing = |name: &str, error: object_store::Error| match Error::from(error) {
        error if error.kind() == ErrorKind::NotFound => Error::not_found(format!(
            "{from}/{name} is not there: {from} is no complete export"
        )),
        error => error.context(format!("cannot read {from}/{name}")),
    };
    store
        .head(&from.path.clone().join("_SUCCESS"))
        .await
        .map_err(|error| missing("_SUCCESS", error))?;
    let path = from.path.clone().join("_manifest.json");
    let read = async { store.get(&path).await?.bytes().await };
    let bytes = read.await.map_err(|error| missing("_manifest.json", error))?;
    Manifest::decode(&bytes).map_err(|error| error.context(format!("{from}/_manifest.json cannot be used")))
}

/// The files with rows.
fn files(manifest: &Manifest) -> impl Iterator<Item = (&ManifestFile, &Key)> {
    let files = manifest.files.iter();
    files.filter_map(|file| Some((file, file.min_key.as_ref()?)))
}

async fn add(
    services: &Services,
    table: &TableInfo,
    manifest: &Manifest,
    (store, from): (&Arc<dyn ObjectStore>, &Location),
    progress: Arc<Progress>,
) -> Result<()> {
    let issued = services.ports.clock.now();
    let state = services.states.live_state(&table.id).await?;
    let leaves: Vec<Leaf> = state.leaves().collect();
    let rewrites: Vec<_> = files(manifest)
        .zip(leaves)
        .map(|((file, _), leaf)| {
            let spec = CompactionSpec {
                table: table.id.clone(),
                schema: manifest.schema.clone(),
                leaf,
                inputs: vec![MergeInput {
                    store: store.clone(),
                    path: from.path.clone().join(file.file.as_str()),
                    bytes: file.bytes,
                    checksum: file.crc64_nvme,
                    exact: Some((file.rows, file.row_digest)),
                }],
                purge: None,
                rules: None,
                output: services.data.clone(),
            };
            rewrite(services, file, spec, progress.clone())
        })
        .collect();
    let files: Vec<Arc<DataFile>> = stream::iter(rewrites).buffered(FILES).try_collect().await?;
    let run = RunId::new(services.ports.ids.uuid().to_string())?;
    let job = JobId::new(format!("import-{run}"))?;
    let record = Record::FilesAdded {
        job: job.clone(),
        run: run.clone(),
        issued,
        files,
    };
    let request = Commit::new(CommitId::of_run(&job, &run), record);
    match services.states.commit(&table.id, request).await?.outcome {
        Outcome::Applied(_) => Ok(()),
        other => other.into_result().map(drop),
    }
}

async fn rewrite(
    services: &Services,
    file: &ManifestFile,
    spec: CompactionSpec,
    progress: Arc<Progress>,
) -> Result<Arc<DataFile>> {
    let written = services.ports.engine.compact(spec, progress).await?;
    let written = written.filter(|written| written.rows == file.rows);
    written.map(Arc::new).ok_or_else(|| {
        Error::corrupt(format!(
            "{} has not the {} rows of its manifest",
            file.file, file.rows
        ))
    })
}
