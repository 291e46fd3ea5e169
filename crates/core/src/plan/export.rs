//! What an export reads and writes, fixed once from one state.

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    file::{Checksum, RowDigest},
    ids::{ExportId, FileName, PinId, SubExportId, TableId, TransactionNumber},
    key::{Key, KeyRange},
    partition::Leaf,
    row_rules::RulesAt,
    schema::Schema,
    state::TableState,
    time::Timestamp,
    tracker::ExportPart,
};

/// The latest version of the plan's format: 2 has rules. Plans without rules stay at version 1.
const VERSION: u32 = 2;
/// The version of the manifest's format.
const MANIFEST_VERSION: u32 = 1;

/// Everything that an export will do. Stored once, at [`ExportPlan::path`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportPlan {
    version: u32,
    /// The table.
    pub table_id: TableId,
    /// The table's name when the plan was made.
    pub table_name: String,
    /// The export.
    pub export_id: ExportId,
    /// The state that is exported.
    pub transaction: TransactionNumber,
    /// When that state's transaction was.
    pub at: Timestamp,
    /// The lease that keeps the state's files.
    pub pin: PinId,
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The table's filters and aggregations, at the time of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<RulesAt>,
    /// The parts, in key order: one for each leaf that files refer to.
    pub sub_exports: Vec<SubExport>,
}

/// One leaf's part of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubExport {
    /// The part's id, the same whenever the export is planned.
    pub id: SubExportId,
    /// The leaf.
    pub leaf: Leaf,
    /// The files with rows of the leaf, by name.
    pub files: Vec<PlannedFile>,
    /// Whether the leaf is exactly the one file, which can be copied as it is.
    pub copy: Option<PlannedCopy>,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedFile {
    /// The file.
    pub name: FileName,
    /// The object's size.
    pub bytes: u64,
    /// CRC-64/NVME of the object.
    pub checksum: Checksum,
    /// How many of its rows are in the leaf, and their digest, where known exactly.
    pub exact: Option<(u64, RowDigest)>,
}

/// What is known of a leaf that is one whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedCopy {
    /// How many rows.
    pub rows: u64,
    /// Their digest.
    pub digest: RowDigest,
    /// The smallest and largest row key.
    pub range: KeyRange,
}

/// A plan as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    #[serde(flatten)]
    plan: T,
    sha256: String,
}

fn unencodable(error: serde_json::Error) -> Error {
    Error::internal("an export plan cannot be encoded").with_source(error)
}

impl ExportPlan {
    /// Plans the export of `state`.
    ///
    /// # Errors
    /// `NotFound` when the state has no schema: the table was never created.
    pub fn new(
        table: (&TableId, &str),
        export: &ExportId,
        pin: PinId,
        state: &TableState,
        rules: Option<RulesAt>,
    ) -> Result<Self> {
        let (table_id, table_name) = table;
        let schema = state
            .schema()
            .cloned()
            .ok_or_else(|| Error::not_found(format!("table {table_id} does not exist")))?;
        let namespace = Self::namespace(table_id, export);
        let mut sub_exports = Vec::new();
        for leaf in state.leaves() {
            let references: Vec<_> = state.references(&leaf.id).collect();
            if references.is_empty() {
                continue;
            }
            let id = Uuid::new_v5(&namespace, leaf.id.as_str().as_bytes()).to_string();
            let copy = match references.as_slice() {
                [one] if one.is_whole_file() && rules.is_none() => {
                    one.exact().map(|(rows, digest)| PlannedCopy {
                        rows,
                        digest,
                        range: one.range().clone(),
                    })
                }
                _ => None,
            };
            let files = references
                .iter()
                .map(|reference| PlannedFile {
                    name: reference.file.name.clone(),
                    bytes: reference.file.bytes,
                    checksum: reference.file.checksum,
                    exact: reference.exact(),
                })
                .collect();
            sub_exports.push(SubExport {
                id: SubExportId::new(id)?,
                leaf,
                files,
                copy,
            });
        }
        Ok(Self {
            version: if rules.is_some() { VERSION } else { 1 },
            table_id: table_id.clone(),
            table_name: table_name.to_owned(),
            export_id: export.clone(),
            transaction: state.transaction(),
            at: state.at(),
            pin,
            schema,
            rules,
            sub_exports,
        })
    }

    /// The UUID that stands for an export of a table, the same everywhere.
    pub fn namespace(table: &TableId, export: &ExportId) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{table}/{export}").as_bytes())
    }

    /// The prefix that an export writes below, in the export bucket: `<table id>/<export id>`.
    pub fn prefix(table: &TableId, export: &ExportId) -> Path {
        Path::from(format!("{table}/{export}"))
    }

    /// Where the plan is.
    pub fn path(table: &TableId, export: &ExportId) -> Path {
        Self::prefix(table, export).join("_plan.json")
    }

    /// Where the manifest is.
    pub fn manifest_path(table: &TableId, export: &ExportId) -> Path {
        Self::prefix(table, export).join("_manifest.json")
    }

    /// Where the mark of a complete export is.
    pub fn success_path(table: &TableId, export: &ExportId) -> Path {
        Self::prefix(table, export).join("_SUCCESS")
    }

    /// Where a part's file is.
    pub fn part_path(&self, part: &SubExportId) -> Path {
        Self::prefix(&self.table_id, &self.export_id).join(format!("{part}.parquet"))
    }

    /// The part with this id.
    pub fn sub_export(&self, id: &SubExportId) -> Option<&SubExport> {
        self.sub_exports.iter().find(|part| part.id == *id)
    }

    /// The stored form: JSON, with the SHA-256 of the plan without it as `sha256`.
    ///
    /// # Errors
    /// `Internal` when it cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let stored = Stored {
            plan: self,
            sha256: self.sha256()?,
        };
        serde_json::to_vec(&stored).map_err(unencodable)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or of a version that this code does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Stored { plan, sha256 }: Stored<Self> = serde_json::from_slice(bytes)
            .map_err(|error| Error::corrupt("an export plan is damaged").with_source(error))?;
        if plan.version > VERSION {
            return Err(Error::corrupt(format!(
                "an export plan has version {}; this program reads up to {VERSION}",
                plan.version
            )));
        }
        if plan.sha256()? != sha256 {
            return Err(Error::corrupt("an export plan does not have its digest"));
        }
        Ok(plan)
    }

    fn sha256(&self) -> Result<String> {
        let plan = serde_json::to_vec(self).map_err(unencodable)?;
        Ok(hex::encode(Sha256::digest(&plan)))
    }

    /// The manifest, once every part is done; none while some are missing.
    pub fn manifest(&self, parts: &[ExportPart]) -> Option<Manifest> {
        let parts: BTreeMap<_, _> = parts.iter().map(|part| (&part.sub_export, part)).collect();
        let files = self
            .sub_exports
            .iter()
            .map(|planned| {
                let part = parts.get(&planned.id)?;
                Some(ManifestFile {
                    file: format!("{}.parquet", part.sub_export),
                    leaf_partition_id: planned.leaf.id.to_string(),
                    rows: part.rows,
                    bytes: part.bytes,
                    crc64_nvme: part.checksum,
                    row_digest: part.digest,
                    min_key: part.range.as_ref().map(|range| range.min.clone()),
                    max_key: part.range.as_ref().map(|range| range.max.clone()),
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Manifest {
            version: MANIFEST_VERSION,
            table_id: self.table_id.clone(),
            table_name: self.table_name.clone(),
            export_id: self.export_id.clone(),
            transaction: self.transaction,
            as_of: self.at.to_string(),
            rows: total(files.iter().map(|file| file.rows)),
            bytes: total(files.iter().map(|file| file.bytes)),
            schema: self.schema.clone(),
            files,
        })
    }
}

/// The sum, saturating.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// What a complete export consists of: `_manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    version: u32,
    /// The table.
    pub table_id: TableId,
    /// The table's name when the export was planned.
    pub table_name: String,
    /// The export.
    pub export_id: ExportId,
    /// The state that was exported.
    pub transaction: TransactionNumber,
    /// When that state's transaction was, as RFC 3339.
    pub as_of: String,
    /// Rows in all files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The files, in key order.
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// Reads `_manifest.json`.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or of a version that this code does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::corrupt("an export's manifest is damaged").with_source(error))?;
        if manifest.version > MANIFEST_VERSION {
            return Err(Error::corrupt(format!(
                "an export's manifest has version {}; this program reads up to {MANIFEST_VERSION}",
                manifest.version
            )));
        }
        Ok(manifest)
    }
}

/// A file of an export, beside its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// The file's name.
    pub file: String,
    /// The leaf whose rows it holds.
    pub leaf_partition_id: String,
    /// How many rows.
    pub rows: u64,
    /// The file's size.
    pub bytes: u64,
    /// CRC-64/NVME of the file, hexadecimal.
    pub crc64_nvme: Checksum,
    /// The order-free digest of the rows, hexadecimal.
    pub row_digest: RowDigest,
    /// The smallest row key; none without rows.
    pub min_key: Option<Key>,
    /// The largest row key; none without rows.
    pub max_key: Option<Key>,
}
