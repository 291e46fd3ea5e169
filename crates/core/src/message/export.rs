//! `export`: `{"tableName":… | "tableId":…, "exportId":…?, "asOf":…?}`.

use serde::Deserialize;

use super::{TableRef, parse_json, text_or_number};
use crate::{
    error::{Error, Result},
    ids::{ExportId, TransactionNumber},
    state::AsOf,
};

/// A request to write a whole table as it is at one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportMessage {
    /// The export's id; without one, the queue message's.
    pub id: Option<ExportId>,
    /// The table.
    pub table: TableRef,
    /// Which state; without one, the newest. A transaction number or an RFC 3339 time.
    pub as_of: Option<AsOf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    export_id: Option<String>,
    table_name: Option<String>,
    table_id: Option<String>,
    #[serde(default, deserialize_with = "text_or_number")]
    as_of: Option<String>,
    format: Option<String>,
    filter: Option<serde_json::Value>,
    columns: Option<serde_json::Value>,
    region: Option<serde_json::Value>,
}

impl ExportMessage {
    /// Reads a body.
    ///
    /// # Errors
    /// `Invalid`, with the field that is wrong.
    pub fn parse(body: &str) -> Result<Self> {
        let body: Body = parse_json(body)?;
        let id = body
            .export_id
            .filter(|id| !id.is_empty())
            .map(ExportId::new)
            .transpose()?;
        let table = TableRef::from_fields(body.table_name, body.table_id)?;
        // To leave one of these out would export other rows than were asked for.
        for (field, value) in [
            ("filter", &body.filter),
            ("columns", &body.columns),
            ("region", &body.region),
        ] {
            if value.is_some() {
                return Err(Error::invalid(format!(
                    "field \"{field}\" is not supported: exports are whole"
                )));
            }
        }
        if let Some(format) = body
            .format
            .filter(|format| !format.eq_ignore_ascii_case("parquet"))
        {
            return Err(Error::invalid(format!(
                "format \"{format}\" is not supported; exports are Parquet"
            )));
        }
        let as_of = body.as_of.as_deref().map(parse_as_of).transpose()?;
        Ok(Self { id, table, as_of })
    }

    /// The id that a body gives its export, even when the rest of it cannot be used.
    pub fn id_of(body: &str) -> Option<ExportId> {
        let value: serde_json::Value = serde_json::from_str(body).ok()?;
        ExportId::new(value.get("exportId")?.as_str()?).ok()
    }
}

/// Reads a transaction number or an RFC 3339 time.
///
/// # Errors
/// `Invalid` when the text is neither.
pub fn parse_as_of(text: &str) -> Result<AsOf> {
    if let Ok(number) = text.parse() {
        return Ok(AsOf::Transaction(TransactionNumber(number)));
    }
    text.parse().map(AsOf::Time).map_err(|_| {
        Error::invalid(format!(
            "\"{text}\" is neither a transaction number nor a time such as 2026-11-20T09:30:00Z"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ids_and_states() {
        let message =
            ExportMessage::parse(r#"{"tableName":"t","exportId":"e1","asOf":12,"format":"Parquet"}"#)
                .unwrap();
        assert_eq!(message.id, Some(ExportId::new("e1").unwrap()));
        assert_eq!(message.as_of, Some(AsOf::Transaction(TransactionNumber(12))));
        let at = ExportMessage::parse(r#"{"tableId":"i","asOf":"2026-11-20T09:30:00Z"}"#).unwrap();
        assert!(matches!(at.as_of, Some(AsOf::Time(_))));
    }

    #[test]
    fn an_id_is_read_even_from_a_body_that_cannot_be_used() {
        let id = |body: &str| ExportMessage::id_of(body).map(|id| id.to_string());
        assert_eq!(id(r#"{"exportId":"e1","format":"csv"}"#).as_deref(), Some("e1"));
        for body in ["{", "{}", r#"{"exportId":7}"#, r#"{"exportId":"a/b"}"#] {
            assert_eq!(id(body), None, "{body}");
        }
        let without = ExportMessage::parse(r#"{"tableName":"t","exportId":"","asOf":null}"#).unwrap();
        assert_eq!((without.id, without.as_of), (None, None));
    }

    #[test]
    fn refuses_what_it_would_otherwise_leave_out() {
        for (body, needle) in [
            (r#"{"tableName":"t","filter":"a > 1"}"#, "filter"),
            (r#"{"tableName":"t","format":"csv"}"#, "csv"),
            (r#"{"tableName":"t","asOf":"soon"}"#, "soon"),
            (r#"{"tableName":"t","asOf":-1}"#, "\"-1\" is neither"),
            (r#"{"tableName":"t","asOf":[1]}"#, "[1] is neither"),
            (r#"{"tableName":"t","exportId":"a/b"}"#, "export id"),
            (r#"{}"#, "tableName"),
        ] {
            let error = ExportMessage::parse(body).expect_err(body);
            assert!(error.to_string().contains(needle), "{body}: {error}");
        }
    }
}
