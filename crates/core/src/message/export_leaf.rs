//! `export-leaf`: one leaf of a planned export. Field names are Sleeper's.
//!
//! Workers take what to read from the stored plan; the message only says which part of which export to write.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::parse_json;
use crate::{
    error::{Error, Result},
    ids::{ExportId, PartitionId, SubExportId, TableId},
    key::{Key, KeyBounds, KeyValue},
    schema::Schema,
};

/// A request to write one leaf of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportLeafMessage {
    /// The table.
    pub table_id: TableId,
    /// The export.
    pub export_id: ExportId,
    /// The part of the export.
    pub sub_export_id: SubExportId,
    /// The regions to write, in Sleeper's form.
    #[serde(default)]
    pub regions: Vec<Value>,
    /// The leaf.
    pub leaf_partition_id: PartitionId,
    /// The leaf's region, in Sleeper's form.
    #[serde(default)]
    pub partition_region: Value,
    /// The files with rows of the leaf; empty when the list would not fit into a message.
    #[serde(default)]
    pub files: Vec<String>,
}

/// How many bytes of file names go into a message at the most.
const MAX_FILES_BYTES: usize = 512 * 1024;

impl ExportLeafMessage {
    /// The message for one leaf.
    pub fn new(
        table_id: TableId,
        export_id: ExportId,
        sub_export_id: SubExportId,
        leaf: (PartitionId, Value),
        files: Vec<String>,
    ) -> Self {
        let (leaf_partition_id, region) = leaf;
        let bytes: usize = files.iter().map(|file| file.len() + 3).sum();
        Self {
            table_id,
            export_id,
            sub_export_id,
            regions: vec![region.clone()],
            leaf_partition_id,
            partition_region: region,
            files: if bytes <= MAX_FILES_BYTES {
                files
            } else {
                Vec::new()
            },
        }
    }

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
            .map_err(|error| Error::internal("a leaf export message cannot be encoded").with_source(error))
    }
}

/// A leaf's bounds as a region in Sleeper's form, by the first row key column alone: a region is a range of each
/// row key column, which cannot say more of a range of tuples.
pub fn region(schema: &Schema, bounds: &KeyBounds) -> Value {
    let edge = |key: &Option<Key>| match key.as_ref().and_then(|key| key.0.first()) {
        None => Value::Null,
        Some(KeyValue::Int32(value) | KeyValue::Date32(value)) => json!(value),
        Some(KeyValue::Int64(value) | KeyValue::Timestamp(value)) => json!(value),
        Some(KeyValue::Utf8(value)) => json!(STANDARD.encode(value.as_bytes())),
        Some(KeyValue::Binary(value)) => json!(STANDARD.encode(&value.0)),
    };
    // A tuple bound cuts inside its first value, so both sides must include it.
    let whole = |key: &Option<Key>| key.as_ref().is_none_or(|key| key.0.len() == 1);
    let mut region = Map::new();
    region.insert(
        schema.row_key()[0].name.clone(),
        json!({
            "min": edge(&bounds.lower),
            "minInclusive": true,
            "max": edge(&bounds.upper),
            "maxInclusive": !whole(&bounds.upper),
        }),
    );
    region.insert("stringsBase64Encoded".to_owned(), json!(true));
    Value::Object(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::Bytes,
        schema::{Column, DataType},
    };

    #[test]
    fn a_list_of_files_that_is_too_long_is_left_to_the_plan() {
        let message = |files: Vec<String>| {
            ExportLeafMessage::new(
                TableId::new("0a1b2c3d").unwrap(),
                ExportId::new("e1").unwrap(),
                SubExportId::new("s1").unwrap(),
                (PartitionId::new("p1").unwrap(), Value::Null),
                files,
            )
        };
        // With its quotes and its comma, each takes an eighth of what there is room for.
        let name = "x".repeat(64 * 1024 - 3);
        let full = vec![name; 8];
        assert_eq!(message(full.clone()).files, full);
        let mut longer = full;
        longer[7].push('x');
        assert_eq!(message(longer).files, [""; 0]);
    }

    #[test]
    fn a_region_is_the_range_of_the_first_column() {
        let of = |data_type, lower: &[KeyValue], upper: &[KeyValue]| {
            let columns = vec![
                Column::required("k", data_type),
                Column::required("l", DataType::Int32),
            ];
            let bounds = KeyBounds {
                lower: Some(Key::new(lower.to_vec())),
                upper: Some(Key::new(upper.to_vec())),
            };
            let region = region(&Schema::new(columns, vec![], vec![]).unwrap(), &bounds);
            let range = &region["k"];
            (
                range["min"].clone(),
                range["max"].clone(),
                range["maxInclusive"].clone(),
            )
        };
        let binary = |text: &[u8]| KeyValue::Binary(Bytes(text.to_vec().into()));
        for (data_type, lower, upper, expected) in [
            (
                DataType::Int32,
                KeyValue::Int32(1),
                KeyValue::Int32(2),
                (json!(1), json!(2)),
            ),
            (
                DataType::Date32,
                KeyValue::Date32(1),
                KeyValue::Date32(2),
                (json!(1), json!(2)),
            ),
            (
                DataType::Int64,
                KeyValue::Int64(-1),
                KeyValue::Int64(2),
                (json!(-1), json!(2)),
            ),
            (
                DataType::Binary,
                binary(b"a"),
                binary(b"b"),
                (json!("YQ=="), json!("Yg==")),
            ),
        ] {
            let (min, max) = expected;
            assert_eq!(of(data_type, &[lower], &[upper]), (min, max, json!(false)));
        }
        // Rows of 2 that come before (2, 7) are in the leaf.
        let number = KeyValue::Int32;
        assert_eq!(
            of(DataType::Int32, &[number(1), number(5)], &[number(2), number(7)]),
            (json!(1), json!(2), json!(true))
        );
    }

    #[test]
    fn has_sleepers_field_names() {
        let schema = Schema::new(vec![Column::required("key", DataType::Utf8)], vec![], vec![]).unwrap();
        let bounds = KeyBounds {
            lower: None,
            upper: Some(Key::new([KeyValue::Utf8("mm".into())])),
        };
        let message = ExportLeafMessage::new(
            TableId::new("0a1b2c3d").unwrap(),
            ExportId::new("e1").unwrap(),
            SubExportId::new("s1").unwrap(),
            (PartitionId::new("p1").unwrap(), region(&schema, &bounds)),
            vec!["partition_p1/x.parquet".to_owned()],
        );
        let body = message.to_body().unwrap();
        assert_eq!(
            body,
            r#"{"tableId":"0a1b2c3d","exportId":"e1","subExportId":"s1","regions":[{"key":{"max":"bW0=","maxInclusive":false,"min":null,"minInclusive":true},"stringsBase64Encoded":true}],"leafPartitionId":"p1","partitionRegion":{"key":{"max":"bW0=","maxInclusive":false,"min":null,"minInclusive":true},"stringsBase64Encoded":true},"files":["partition_p1/x.parquet"]}"#
        );
        assert_eq!(ExportLeafMessage::parse(&body).unwrap(), message);
    }
}
