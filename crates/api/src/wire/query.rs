//! Queries, and what they are answered.

use std::collections::BTreeMap;

use dormouse_core::{
    message::export::parse_as_of,
    ports::{MAX_SQL_BYTES, ParameterValue, ResultColumn},
    state::AsOf,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::words::{text_or_number, whole};
use crate::error::{ApiError, ApiResult};

/// The most parameters of a query.
pub const MAX_PARAMS: usize = 100;

/// The most bytes of what a client wants to find again.
pub const MAX_METADATA_BYTES: usize = 4096;

/// A query to answer at once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "sql": "SELECT * FROM events WHERE key = $key",
    "params": {"key": "alice"},
    "parameters": {"limit": 100, "timeout_seconds": 30},
}))]
pub struct QueryBody {
    /// One `SELECT`, with or without `WITH`.
    #[schema(min_length = 1, max_length = 100000)]
    pub sql: String,
    /// What the answer may take.
    pub parameters: Option<QueryParameters>,
    /// What stands for `$name` in the query.
    #[schema(value_type = Option<Object>)]
    pub params: Option<BTreeMap<String, Value>>,
    /// The state of the tables: the number of a transaction, or a time. The newest without it.
    #[serde(default, alias = "snapshot_id", deserialize_with = "text_or_number")]
    #[schema(value_type = Option<Object>)]
    pub as_of: Option<String>,
    /// Comes back in `bulk_request`; at most 4096 bytes.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// As the header `Idempotency-Key`.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    pub idempotency_key: Option<String>,
}

/// What an answer may take.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryParameters {
    /// The most rows of the answer.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1)]
    pub limit: Option<u64>,
    /// The longest time, in seconds.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1)]
    pub timeout_seconds: Option<u64>,
    /// Whether all rows are counted when not all are answered. This takes another query.
    pub count_total: Option<bool>,
}

/// What a query is answered.
///
/// Rows are written as they come, so this is what documents them.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueryAnswer {
    /// The id of this answer. It is not kept.
    #[schema(pattern = "^query-")]
    pub job_id: String,
    /// Always `COMPLETED`.
    #[schema(pattern = "^COMPLETED$")]
    pub status: String,
    /// The rows, as objects by column.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<Value>,
    /// Whether there are more rows than those here.
    pub truncated: bool,
    /// What to do about rows that are not here.
    pub message: Option<String>,
    /// What is known of the rows.
    pub metadata: QueryMetadata,
}

/// What is known of the rows of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueryMetadata {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The types of the columns.
    pub column_types: Vec<String>,
    /// The columns with all that is known of them.
    pub schema: Vec<ColumnView>,
    /// How many rows are here.
    pub row_count: u64,
    /// How many rows there are, where that is known.
    pub total_rows: Option<u64>,
    /// Whether there are more rows than those here.
    pub truncated: bool,
    /// How long it took.
    pub execution_time_ms: u64,
    /// What to do about rows that are not here.
    pub message: Option<String>,
    /// When there are more rows: a body for `POST /v1/bulk` that writes all of them.
    #[schema(value_type = Option<Object>)]
    pub bulk_request: Option<Value>,
}

/// A column of rows.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ColumnView {
    /// Its name.
    pub name: String,
    /// Its type, in Arrow's words.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Whether it may be null.
    pub nullable: bool,
}

impl From<&ResultColumn> for ColumnView {
    fn from(column: &ResultColumn) -> Self {
        Self {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            nullable: column.nullable,
        }
    }
}

/// Checks the text of a query.
///
/// # Errors
/// `INVALID_REQUEST` when it is empty or too long.
pub fn check_sql(field: &str, sql: &str) -> ApiResult<()> {
    if sql.is_empty() {
        return Err(ApiError::invalid(field, format!("{field} must not be empty")));
    }
    if sql.len() > MAX_SQL_BYTES {
        let message = format!("{field} has {} bytes, and may have {MAX_SQL_BYTES}", sql.len());
        return Err(ApiError::invalid(field, message).detail("max_bytes", MAX_SQL_BYTES));
    }
    Ok(())
}

/// Checks what a client wants to find again.
///
/// # Errors
/// `INVALID_REQUEST` when it is too long.
pub fn check_metadata(metadata: &Map<String, Value>) -> ApiResult<()> {
    let bytes = serde_json::to_vec(metadata).map_or(0, |text| text.len());
    if bytes > MAX_METADATA_BYTES {
        let message = format!("metadata has {bytes} bytes, and may have {MAX_METADATA_BYTES}");
        return Err(ApiError::invalid("metadata", message).detail("max_bytes", MAX_METADATA_BYTES));
    }
    Ok(())
}

/// The values that stand for names in a query.
///
/// # Errors
/// `INVALID_REQUEST` when a name is none, or a value is an array or an object.
pub fn parameters(params: &BTreeMap<String, Value>) -> ApiResult<BTreeMap<String, ParameterValue>> {
    if params.len() > MAX_PARAMS {
        let message = format!("There are {} params, and may be {MAX_PARAMS}", params.len());
        return Err(ApiError::invalid("params", message));
    }
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.len() <= 64
    };
    let parameter = |(name, value): (&String, &Value)| {
        let shown: String = name.chars().take(64).collect();
        let field = format!("params.{shown}");
        if !is_name(name) {
            let message = format!(
                "\"{}\" is no name of a parameter: it has up to 64 letters, digits and '_', and no digit first",
                shown.escape_debug()
            );
            return Err(ApiError::invalid(&field, message));
        }
        let value = match value {
            Value::Null => ParameterValue::Null,
            Value::Bool(value) => ParameterValue::Boolean(*value),
            Value::String(text) => ParameterValue::Text(text.clone()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => ParameterValue::Integer(whole),
                (None, Some(fraction)) => ParameterValue::Float(fraction),
                (None, None) => ParameterValue::Text(number.to_string()),
            },
            Value::Array(_) | Value::Object(_) => {
                let message = format!("{field} must be a text, a number, true, false or null");
                return Err(ApiError::invalid(&field, message));
            }
        };
        Ok((name.clone(), value))
    };
    params.iter().map(parameter).collect()
}

/// Which state a text names.
///
/// # Errors
/// `INVALID_REQUEST` when it is neither the number of a transaction nor a time.
pub fn as_of(text: Option<&str>) -> ApiResult<Option<AsOf>> {
    text.map(parse_as_of)
        .transpose()
        .map_err(|error| ApiError::invalid("as_of", error.to_string()))
}
