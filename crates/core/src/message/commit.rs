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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Record;

    #[test]
    fn a_commit_is_in_the_message_or_in_an_object() {
        let within = CommitMessage {
            table_id: TableId::new("0a1b2c3d").unwrap(),
            commit_id: CommitId::new("c1"),
            commit: Some(Commit::new(CommitId::new("c1"), Record::TableCleared)),
            body_object: None,
        };
        let elsewhere = CommitMessage {
            commit: None,
            body_object: Some("0a1b2c3d/commits/c1".to_owned()),
            ..within.clone()
        };
        for message in [&within, &elsewhere] {
            let body = message.to_body().unwrap();
            assert_eq!(CommitMessage::parse(&body).unwrap(), *message);
        }
        assert_eq!(
            elsewhere.to_body().unwrap(),
            r#"{"tableId":"0a1b2c3d","commitId":"c1","bodyObject":"0a1b2c3d/commits/c1"}"#
        );
        let neither = CommitMessage {
            commit: None,
            ..within.clone()
        };
        let both = CommitMessage {
            commit: within.commit.clone(),
            ..elsewhere
        };
        for message in [neither, both] {
            let error = CommitMessage::parse(&message.to_body().unwrap()).unwrap_err();
            assert!(error.to_string().contains("holds one of"), "{error}");
        }
    }
}
