//! `splitting`: a leaf to look at. Field names are Sleeper's.

use serde::{Deserialize, Serialize};

use super::parse_json;
use crate::{
    error::{Error, Result},
    ids::{PartitionId, TableId},
};

/// A request to split a leaf, if it is over the threshold by the time it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplittingMessage {
    /// The table.
    pub table_id: TableId,
    /// The leaf.
    pub partition_id: PartitionId,
}

impl SplittingMessage {
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
            .map_err(|error| Error::internal("a splitting message cannot be encoded").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_sleepers_field_names() {
        let message = SplittingMessage {
            table_id: TableId::new("0a1b2c3d").unwrap(),
            partition_id: PartitionId::new("p1").unwrap(),
        };
        let body = message.to_body().unwrap();
        assert_eq!(body, r#"{"tableId":"0a1b2c3d","partitionId":"p1"}"#);
        assert_eq!(SplittingMessage::parse(&body).unwrap(), message);
        let error = SplittingMessage::parse(r#"{"tableId":"0a1b2c3d"}"#).unwrap_err();
        assert!(error.report().contains("partitionId"), "{}", error.report());
    }
}
