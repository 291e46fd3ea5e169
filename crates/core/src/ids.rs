//! Newtypes for names and ids, parsed once at the edge.
//!
//! Every id that becomes part of an object key or a file name passes [`check_path_part`]: it cannot leave its
//! prefix, name a parent directory, or hide.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest id or name, in bytes.
pub const MAX_ID_BYTES: usize = 200;

fn check_path_part(what: &str, text: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > MAX_ID_BYTES {
        return Err(Error::invalid(format!(
            "{what} \"{}\" has {} bytes; it must have 1 to {MAX_ID_BYTES}",
            text.chars().take(40).collect::<String>().escape_debug(),
            text.len()
        )));
    }
    if !text.chars().all(allowed) || text.starts_with('.') {
        return Err(Error::invalid(format!(
            "{what} \"{}\" may hold only letters, digits, '-', '_' and '.', and may not start with '.'",
            text.escape_debug()
        )));
    }
    Ok(())
}

macro_rules! text_id {
    ($($(#[$doc:meta])* $name:ident, $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps `text`.
            ///
            /// # Errors
            /// `Invalid` when the text is empty, too long, or holds a character that is not allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                check_path_part($what, text.as_ref())?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
    )*};
}

text_id! {
    /// Names a table for its users; can change.
    TableName, "table name";
    /// Names a table for ever: eight hexadecimal digits when made here.
    TableId, "table id";
    /// Names a partition within its table; the first one is `root`.
    PartitionId, "partition id";
    /// Names a job within its table: given by the sender, or the id of its queue message.
    JobId, "job id";
    /// Names one attempt at a job.
    RunId, "run id";
    /// Names a reader's lease on a state.
    PinId, "pin id";
    /// Names an export: a job id that is also a prefix in the export bucket.
    ExportId, "export id";
    /// Names one leaf's part of an export.
    SubExportId, "sub-export id";
    /// Names a bucket.
    BucketName, "bucket name";
    /// Names a bulk job within its tenant.
    BulkJobId, "job id";
}

impl PartitionId {
    /// The id of a table's first partition.
    pub fn root() -> Self {
        Self(Arc::from("root"))
    }
}

impl From<&ExportId> for JobId {
    fn from(export: &ExportId) -> Self {
        Self(export.0.clone())
    }
}

/// A data file's name within its table: `partition_<partition id>/<uuid>.parquet`.
///
/// A name is used for one object, once, for ever.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileName(Arc<str>);

impl FileName {
    /// The name of a new file written for `partition`.
    pub fn new(partition: &PartitionId, unique: uuid::Uuid) -> Self {
        Self(Arc::from(format!("partition_{partition}/{unique}.parquet")))
    }

    /// The name of the object at `path`, when it is where data files of `table` are.
    pub fn from_object_path(table: &TableId, path: &object_store::path::Path) -> Option<Self> {
        let name = path
            .as_ref()
            .strip_prefix(table.as_str())?
            .strip_prefix("/data/")?;
        Some(Self(Arc::from(name)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the file is in the table-data bucket: `<table id>/data/<name>`.
    pub fn object_path(&self, table: &TableId) -> object_store::path::Path {
        let path = format!("{table}/data/{}", self.0);
        // A name that was found in the store is the object's as it is; one that cannot be there is encoded.
        object_store::path::Path::parse(&path).unwrap_or_else(|_| object_store::path::Path::from(path))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The number of a transaction in its table's log; the first is 1, and 0 is the empty log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransactionNumber(pub u64);

impl TransactionNumber {
    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for TransactionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which workflow a job belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Rows are added to a table.
    #[default]
    Ingest,
    /// A table is written out.
    Export,
    /// Files of a leaf are merged.
    Compaction,
}

impl JobKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Export, Self::Compaction];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Export => "export",
            Self::Compaction => "compaction",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "no kind of job \"{text}\"; the kinds are ingest, export, compaction"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_their_prefix_are_refused() {
        for bad in [
            "",
            "..",
            ".hidden",
            "a/b",
            "a\\b",
            "a\0b",
            "a%2e",
            "\u{2215}",
            "a b",
            &"x".repeat(201),
        ] {
            assert!(ExportId::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(
            ExportId::new("daily-2026.11.20_1").unwrap().as_str(),
            "daily-2026.11.20_1"
        );
        let longest = "x".repeat(200);
        assert_eq!(ExportId::new(&longest).unwrap().as_str(), longest);
    }

    #[test]
    fn kinds_of_jobs_are_read_as_they_are_written() {
        assert_eq!(
            JobKind::ALL.map(JobKind::as_str),
            ["ingest", "export", "compaction"]
        );
        for kind in JobKind::ALL {
            assert_eq!(kind.to_string().parse::<JobKind>().unwrap(), kind);
        }
        let error = "purge".parse::<JobKind>().unwrap_err();
        assert!(error.to_string().contains("no kind of job \"purge\""), "{error}");
    }

    #[test]
    fn file_names_round_trip_through_object_paths() {
        let table = TableId::new("0a1b2c3d").unwrap();
        let name = FileName::new(&PartitionId::root(), uuid::Uuid::nil());
        let path = name.object_path(&table);
        assert_eq!(
            path.as_ref(),
            "0a1b2c3d/data/partition_root/00000000-0000-0000-0000-000000000000.parquet"
        );
        assert_eq!(FileName::from_object_path(&table, &path), Some(name.clone()));
        assert_eq!(format!("{table}/data/{}", name.as_str()), path.as_ref());
        let foreign = object_store::path::Path::parse("0a1b2c3d/data/partition_root/a*b.parquet").unwrap();
        let name = FileName::from_object_path(&table, &foreign).unwrap();
        assert_eq!(name.object_path(&table), foreign);
        let elsewhere = object_store::path::Path::from("0a1b2c3d/statestore/x.json");
        assert_eq!(FileName::from_object_path(&table, &elsewhere), None);
    }
}
