//! `compaction`: files of one leaf to merge. Field names are Sleeper's.

use serde::{Deserialize, Serialize};

use super::parse_json;
use crate::{
    error::{Error, Result},
    ids::{FileName, JobId, PartitionId, TableId},
    predicate::Predicate,
};

/// A request to merge files.
///
/// Each attempt names its output itself, so that none writes over another's: the message names none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompactionMessage {
    /// The table.
    pub table_id: TableId,
    /// The job, which the inputs are leased to.
    pub job_id: JobId,
    /// The leaf.
    pub partition_id: PartitionId,
    /// The files.
    pub input_files: Vec<FileName>,
    /// The rows to leave out. Sleeper has no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge: Option<Predicate>,
}

impl CompactionMessage {
    /// Reads a body.
    ///
    /// # Errors
    /// `Invalid`, with the field that is wrong.
    pub fn parse(body: &str) -> Result<Self> {
        parse_json(body)
    }

    /// The body.
    ///
    /// # Errors
    /// `Internal` when it cannot be written as JSON.
    pub fn to_body(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("a compaction message cannot be encoded").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn has_sleepers_field_names() {
        let leaf = PartitionId::new("p1").unwrap();
        let message = CompactionMessage {
            table_id: TableId::new("0a1b2c3d").unwrap(),
            job_id: JobId::new("j1").unwrap(),
            input_files: vec![FileName::new(&leaf, Uuid::nil())],
            partition_id: leaf,
            purge: None,
        };
        let body = message.to_body().unwrap();
        assert_eq!(
            body,
            r#"{"tableId":"0a1b2c3d","jobId":"j1","partitionId":"p1","inputFiles":["partition_p1/00000000-0000-0000-0000-000000000000.parquet"]}"#
        );
        assert_eq!(CompactionMessage::parse(&body).unwrap(), message);
        let error = CompactionMessage::parse(r#"{"tableId":"0a1b2c3d"}"#).unwrap_err();
        assert!(error.report().contains("jobId"), "{}", error.report());
    }

    #[test]
    fn may_leave_rows_out() {
        let body =
            r#"{"tableId":"0a1b2c3d","jobId":"j1","partitionId":"p1","inputFiles":[],"purge":"k = 1"}"#;
        let message = CompactionMessage::parse(body).unwrap();
        assert_eq!(message.purge, Some(Predicate::new("k = 1").unwrap()));
        assert_eq!(message.to_body().unwrap(), body);
        let error = CompactionMessage::parse(&body.replace("k = 1", "")).unwrap_err();
        assert!(
            error.report().contains("predicate is empty"),
            "{}",
            error.report()
        );
    }
}
