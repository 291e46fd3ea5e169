//! Schemas: in Sleeper's JSON, and in the form that the log stores.

use dormouse_core::{
    ErrorKind,
    schema::{DataType, Schema, from_sleeper_json},
};
use dormouse_engine::arrow_schema::{arrow_schema, schema_from_arrow};

use crate::text;

pub(crate) fn run(data: &[u8]) {
    let Some(json) = text(data) else { return };
    match from_sleeper_json(json) {
        Ok(schema) => check(&schema),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report()),
    }
    if let Ok(schema) = serde_json::from_str::<Schema>(json) {
        check(&schema);
    }
}

fn check(schema: &Schema) {
    let json = serde_json::to_string(schema).unwrap_or_else(|error| panic!("{error}"));
    let read: Schema = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    assert_eq!(read, *schema);
    assert!(!schema.row_key().is_empty());
    assert_eq!(
        schema.key_columns(),
        schema.row_key().len() + schema.sort_key().len()
    );
    assert!(
        schema
            .columns()
            .take(schema.key_columns())
            .all(|column| !column.nullable && column.data_type.is_key_type())
    );
    if schema
        .columns()
        .any(|column| has_no_arrow_form(&column.data_type))
    {
        return;
    }
    let names = |columns: &[dormouse_core::schema::Column]| -> Vec<String> {
        columns.iter().map(|column| column.name.clone()).collect()
    };
    let (row_key, sort_key) = (names(schema.row_key()), names(schema.sort_key()));
    let arrow = arrow_schema(schema);
    let back = schema_from_arrow(
        &arrow,
        &row_key.iter().map(String::as_str).collect::<Vec<_>>(),
        &sort_key.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(back, *schema, "Arrow's form is of another schema");
}

/// A struct without fields and a map with nullable keys have none that comes back.
fn has_no_arrow_form(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => has_no_arrow_form(&item.data_type),
        DataType::Struct(fields) => {
            fields.is_empty() || fields.iter().any(|field| has_no_arrow_form(&field.data_type))
        }
        DataType::Map { key, value } => {
            key.nullable || has_no_arrow_form(&key.data_type) || has_no_arrow_form(&value.data_type)
        }
        _ => false,
    }
}
