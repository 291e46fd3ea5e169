//! `commit`: a commit request for the committer, or a pointer to one in the object store.

use serde::{Deserialize, Serialize};

use super::parse_json;
use crate::{
    error::{Error, Result},
    ids::TableId,
    state::{Commit, CommitId},
};

/// A commit request. Its group on the queue is the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitMessage {
    /// The table.
    pub table_id: TableId,
    /// The request's id.
    pub commit_id: CommitId,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub commit: Option<Commit>,
    /// Where the request is in the table-data bucket, when it is too large for a message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body_object: Option<String>,
}

impl CommitMessage {
    /// Reads a body.
    ///
    /// # Errors
    /// `Invalid` when it is not a commit request.
    pub fn parse(body: &str) -> Result<Self> {
        let message: Self = parse_json(body)?;
        if message.commit.is_none() == message.body_object.is_none() {
            return Err(Error::invalid(
                "a commit message holds one of \"commit\" and \"bodyObject\"",
            ));
        }
        Ok(message)
    }

    /// The body.
    ///
    /// # Errors
    /// `Internal` when it cannot be written as JSON.
    pub fn to_body(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("a commit message cannot be encoded").with_source(error))
    }
}
