//! `ingest`: `{"id":…?, "tableName":…, "files":[…]}`.

use serde::Deserialize;

use super::{Location, TableRef, parse_json};
use crate::{
    error::{Error, Result},
    ids::JobId,
};

/// A request to add all rows of some files to a table, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestMessage {
    /// The job's id; without one, the queue message's.
    pub id: Option<JobId>,
    /// The table.
    pub table: TableRef,
    /// The files as the sender wrote them, with where they are.
    pub files: Vec<(String, Location)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    id: Option<String>,
    table_name: Option<String>,
    table_id: Option<String>,
    files: Option<Vec<Option<String>>>,
}

impl IngestMessage {
    /// Reads a body.
    ///
    /// # Errors
    /// `Invalid`, with the field that is wrong.
    pub fn parse(body: &str) -> Result<Self> {
        let body: Body = parse_json(body)?;
        let id = body.id.filter(|id| !id.is_empty()).map(JobId::new).transpose()?;
        let table = TableRef::from_fields(body.table_name, body.table_id)?;
        let files = body
            .files
            .ok_or_else(|| Error::invalid("missing field \"files\""))?;
        if files.is_empty() {
            return Err(Error::invalid("field \"files\" names no file"));
        }
        let files = files
            .into_iter()
            .enumerate()
            .map(|(i, file)| match file {
                Some(file) => Ok((file.clone(), file.parse()?)),
                None => Err(Error::invalid(format!("files[{i}] is null"))),
            })
            .collect::<Result<_>>()?;
        Ok(Self { id, table, files })
    }

    /// The id that a body gives its job, even when the rest of it cannot be used.
    pub fn id_of(body: &str) -> Option<JobId> {
        let value: serde_json::Value = serde_json::from_str(body).ok()?;
        JobId::new(value.get("id")?.as_str()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sleepers_body_and_ignores_unknown_fields() {
        let message = IngestMessage::parse(
            r#"{"id":"job-1","tableName":"events","files":["source/a.parquet"],"extra":{"a":1}}"#,
        )
        .unwrap();
        assert_eq!(message.id, Some(JobId::new("job-1").unwrap()));
        assert_eq!(message.files[0].0, "source/a.parquet");
        let by_id = IngestMessage::parse(r#"{"tableId":"0a1b2c3d","files":["b/k"]}"#).unwrap();
        assert_eq!(by_id.id, None);
    }

    #[test]
    fn an_id_is_read_even_from_a_body_that_cannot_be_used() {
        let id = |body: &str| IngestMessage::id_of(body).map(|id| id.to_string());
        assert_eq!(id(r#"{"id":"j1","files":7}"#).as_deref(), Some("j1"));
        for body in ["{", "{}", r#"{"id":7}"#, r#"{"id":"../x"}"#] {
            assert_eq!(id(body), None, "{body}");
        }
        let without = IngestMessage::parse(r#"{"id":"","tableName":"t","files":["b/k"]}"#).unwrap();
        assert_eq!(without.id, None);
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        for (body, needle) in [
            ("{", "Error parsing JSON. Reason: "),
            (r#"[null, "t", null, ["b/k"]]"#, "not an object"),
            (r#"{"files":["b/k"]}"#, "tableName"),
            (r#"{"tableName":"t","tableId":"i","files":["b/k"]}"#, "not both"),
            (r#"{"tableName":"t"}"#, "\"files\""),
            (r#"{"tableName":"t","files":[]}"#, "no file"),
            (r#"{"tableName":"t","files":[null]}"#, "files[0] is null"),
            (r#"{"tableName":"t","files":"b/k"}"#, "Error parsing JSON"),
            (r#"{"id":"../x","tableName":"t","files":["b/k"]}"#, "job id"),
        ] {
            let error = IngestMessage::parse(body).expect_err(body);
            assert!(error.to_string().contains(needle), "{body}: {error}");
        }
    }
}
