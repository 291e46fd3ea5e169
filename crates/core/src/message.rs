//! Message bodies, as users and workers send them.
//!
//! Field names are Sleeper's. Unknown fields are ignored; a field that is known and wrong is refused with its
//! name. A body that cannot be read ends in an `Invalid` error whose text goes into the tracker.

pub mod commit;
pub mod compaction;
pub mod export;
pub mod export_leaf;
pub mod ingest;
pub mod location;
pub mod query;
pub mod splitting;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    ids::{TableId, TableName},
};

pub use commit::CommitMessage;
pub use compaction::CompactionMessage;
pub use export::ExportMessage;
pub use export_leaf::ExportLeafMessage;
pub use ingest::IngestMessage;
pub use location::Location;
pub use query::QueryMessage;
pub use splitting::SplittingMessage;

/// The table that a message names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableRef {
    /// By `tableName`.
    Name(TableName),
    /// By `tableId`.
    Id(TableId),
}

impl TableRef {
    fn from_fields(name: Option<String>, id: Option<String>) -> Result<Self> {
        match (name, id) {
            (Some(name), None) => TableName::new(name).map(Self::Name),
            (None, Some(id)) => TableId::new(id).map(Self::Id),
            (Some(_), Some(_)) => Err(Error::invalid(
                "name the table by \"tableName\" or \"tableId\", not both",
            )),
            (None, None) => Err(Error::invalid("missing field \"tableName\" (or \"tableId\")")),
        }
    }
}

fn parse_json<T: DeserializeOwned>(body: &str) -> Result<T> {
    let wrong = |reason: String| Error::invalid(format!("Error parsing JSON. Reason: {reason}"));
    let value: serde_json::Value = serde_json::from_str(body).map_err(|error| wrong(error.to_string()))?;
    // Fields could be read from an array by their places, too.
    if !value.is_object() {
        return Err(wrong("the message is not an object".to_owned()));
    }
    serde_json::from_str(body).map_err(|error| wrong(error.to_string()))
}

/// Reads a number or text as text, so that `"asOf": 12` and `"asOf": "12"` are the same.
fn text_or_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<String>, D::Error> {
    use serde::de::Error as _;
    match Option::<serde_json::Value>::deserialize(deserializer)? {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text)),
        Some(serde_json::Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(D::Error::custom(format!("{other} is neither a number nor text"))),
    }
}
