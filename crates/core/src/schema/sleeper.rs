//! Sleeper's schema JSON: `{"rowKeyFields":[{"name","type"}], "sortKeyFields":[…], "valueFields":[…]}`.
//!
//! Primitive types are `IntType`, `LongType`, `StringType`, `ByteArrayType`; complex ones are
//! `{"ListType":{"elementType":…}}` and `{"MapType":{"keyType":…,"valueType":…}}`. A value field may say
//! `"nullable": true`.

use serde::Deserialize;
use serde_json::Value;

use super::{Column, DataType, Schema};
use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SleeperSchema {
    #[serde(default)]
    row_key_fields: Vec<Field>,
    #[serde(default)]
    sort_key_fields: Vec<Field>,
    #[serde(default)]
    value_fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    #[serde(rename = "type")]
    field_type: Value,
    #[serde(default)]
    nullable: bool,
}

impl TryFrom<Field> for Column {
    type Error = Error;

    fn try_from(field: Field) -> Result<Self> {
        let data_type = data_type(&field.field_type)
            .map_err(|error| error.context(format!("the type of field \"{}\" is wrong", field.name)))?;
        Ok(Self {
            name: field.name,
            data_type,
            nullable: field.nullable,
        })
    }
}

fn data_type(value: &Value) -> Result<DataType> {
    let part = |whole: &Value, name: &str| primitive(whole.get(name).unwrap_or(&Value::Null));
    if let Some(list) = value.get("ListType") {
        let element = part(list, "elementType")?;
        return Ok(DataType::List(Box::new(Column::required("element", element))));
    }
    if let Some(map) = value.get("MapType") {
        return Ok(DataType::Map {
            key: Box::new(Column::required("key", part(map, "keyType")?)),
            value: Box::new(Column::required("value", part(map, "valueType")?)),
        });
    }
    primitive(value)
}

fn primitive(value: &Value) -> Result<DataType> {
    match value.as_str() {
        Some("IntType") => Ok(DataType::Int32),
        Some("LongType") => Ok(DataType::Int64),
        Some("StringType") => Ok(DataType::Utf8),
        Some("ByteArrayType") => Ok(DataType::Binary),
        _ => Err(Error::invalid(format!(
            "{value} is no type; the types are IntType, LongType, StringType, ByteArrayType, \
             {{\"ListType\":{{\"elementType\":…}}}} and {{\"MapType\":{{\"keyType\":…,\"valueType\":…}}}}"
        ))),
    }
}

/// Reads a schema in Sleeper's JSON form.
///
/// # Errors
/// `Invalid`, with the place in the text or the column that is wrong.
pub fn from_sleeper_json(json: &str) -> Result<Schema> {
    let schema: SleeperSchema = serde_json::from_str(json).map_err(|error| {
        Error::invalid(
            "the schema is not in Sleeper's JSON form, such as \
             {\"rowKeyFields\":[{\"name\":\"key\",\"type\":\"StringType\"}]}",
        )
        .with_source(error)
    })?;
    let columns = |fields: Vec<Field>| fields.into_iter().map(Column::try_from).collect::<Result<_>>();
    Schema::new(
        columns(schema.row_key_fields)?,
        columns(schema.sort_key_fields)?,
        columns(schema.value_fields)?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_sleeper_type() {
        let schema = from_sleeper_json(
            r#"{"rowKeyFields":[{"name":"key","type":"StringType"}],
                "sortKeyFields":[{"name":"timestamp","type":"LongType"}],
                "valueFields":[
                    {"name":"bytes","type":"ByteArrayType","nullable":true},
                    {"name":"list","type":{"ListType":{"elementType":"IntType"}}},
                    {"name":"map","type":{"MapType":{"keyType":"StringType","valueType":"LongType"}}}]}"#,
        )
        .unwrap();
        assert_eq!(schema.row_key()[0].data_type, DataType::Utf8);
        assert_eq!(schema.sort_key()[0].data_type, DataType::Int64);
        assert!(schema.values()[0].nullable);
        assert!(matches!(&schema.values()[1].data_type, DataType::List(element) if !element.nullable));
        assert!(matches!(&schema.values()[2].data_type, DataType::Map { .. }));
    }

    #[test]
    fn says_where_the_text_is_wrong() {
        let error = from_sleeper_json(r#"{"rowKeyFields":[{"name":"key","type":"FloatType"}]}"#).unwrap_err();
        let report = error.report();
        for needle in ["\"key\"", "\"FloatType\"", "LongType"] {
            assert!(report.contains(needle), "{report}");
        }
        let error = from_sleeper_json("{\"rowKeyFields\":\n 5}").unwrap_err();
        assert!(error.report().contains("line 2"), "{}", error.report());
    }
}
