//! `commit`: commit requests for the committer, or a pointer to some in the object store.

use serde::{Deserialize, Serialize};

use super::parse_json;
use crate::{
    error::{Error, Result},
    ids::TableId,
    state::Commit,
};

/// Commit requests of one table, which is the message's group on the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitMessage {
    /// The table.
    pub table_id: TableId,
    /// The requests: what a process had waiting when it sent them. Each has an outcome of its own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub commits: Vec<Commit>,
    /// Where the requests are in the table-data bucket, when they are too large for a message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body_object: Option<String>,
}

impl CommitMessage {
    /// Reads a body.
    ///
    /// # Errors
    /// `Invalid` when it is no commit request.
    pub fn parse(body: &str) -> Result<Self> {
        let message: Self = parse_json(body)?;
        if message.commits.is_empty() == message.body_object.is_none() {
            return Err(Error::invalid(
                "a commit message holds one of \"commits\" and \"bodyObject\"",
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
    use crate::state::{CommitId, Record};

    #[test]
    fn commits_are_in_the_message_or_in_an_object() {
        let commit = |id: &str| Commit::new(CommitId::new(id), Record::TableCleared);
        let within = CommitMessage {
            table_id: TableId::new("0a1b2c3d").unwrap(),
            commits: vec![commit("c1"), commit("c2")],
            body_object: None,
        };
        let elsewhere = CommitMessage {
            commits: Vec::new(),
            body_object: Some("0a1b2c3d/commits/c1".to_owned()),
            ..within.clone()
        };
        for message in [&within, &elsewhere] {
            let body = message.to_body().unwrap();
            assert_eq!(CommitMessage::parse(&body).unwrap(), *message);
        }
        assert_eq!(
            elsewhere.to_body().unwrap(),
            r#"{"tableId":"0a1b2c3d","bodyObject":"0a1b2c3d/commits/c1"}"#
        );
        let neither = CommitMessage {
            commits: Vec::new(),
            ..within.clone()
        };
        let both = CommitMessage {
            commits: within.commits.clone(),
            ..elsewhere
        };
        for message in [neither, both] {
            let error = CommitMessage::parse(&message.to_body().unwrap()).unwrap_err();
            assert!(error.to_string().contains("holds one of"), "{error}");
        }
    }
}
