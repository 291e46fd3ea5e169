//! Row keys as people write them.

use dormouse_core::{
    Error, Result,
    key::{Bytes, Key, KeyValue},
    schema::{Column as SchemaColumn, DataType, Schema},
};

/// A row key, or its first columns: text for a single column, or a JSON array of values.
///
/// # Errors
/// `Invalid`, with the column and what would be right.
pub(crate) fn parse_key(schema: &Schema, line: &str) -> Result<Key> {
    let values = match serde_json::from_str(line) {
        Ok(serde_json::Value::Array(values)) => values,
        _ => vec![serde_json::Value::String(line.to_owned())],
    };
    if values.len() > schema.row_key().len() {
        return Err(Error::invalid(format!(
            "{line} has {} values; the row key has {} columns",
            values.len(),
            schema.row_key().len()
        )));
    }
    let values = values
        .iter()
        .zip(schema.row_key())
        .map(|(value, column)| key_value(column, value))
        .collect::<Result<Vec<_>>>()?;
    let key = Key::new(values);
    schema.check_key(&key)?;
    Ok(key)
}

fn key_value(column: &SchemaColumn, value: &serde_json::Value) -> Result<KeyValue> {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let wrong = |right: &str| {
        Error::invalid(format!(
            "\"{text}\" is no value of column \"{}\": it must be {right}",
            column.name
        ))
    };
    let number = || text.parse::<i64>().map_err(|_| wrong("a whole number"));
    let small = || {
        text.parse::<i32>()
            .map_err(|_| wrong("a whole number of 32 bits"))
    };
    match &column.data_type {
        DataType::Int32 => small().map(KeyValue::Int32),
        DataType::Int64 => number().map(KeyValue::Int64),
        DataType::Date32 => small().map(KeyValue::Date32),
        DataType::Timestamp { .. } => number().map(KeyValue::Timestamp),
        DataType::Utf8 => Ok(KeyValue::Utf8(text.into())),
        DataType::Binary => parse_hex(&text)
            .map(|bytes| KeyValue::Binary(Bytes(bytes)))
            .ok_or_else(|| wrong("hexadecimal")),
        _ => Err(wrong("of a key type")),
    }
}

fn parse_hex(text: &str) -> Option<Box<[u8]>> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::new(
            vec![
                SchemaColumn::required("name", DataType::Utf8),
                SchemaColumn::required("number", DataType::Int64),
            ],
            vec![],
            vec![],
        )
        .unwrap()
    }

    #[test]
    fn a_key_is_text_or_a_tuple() {
        let text = parse_key(&schema(), "mm").unwrap();
        assert_eq!(text, Key::new([KeyValue::Utf8("mm".into())]));
        let tuple = parse_key(&schema(), r#"["mm", -5]"#).unwrap();
        assert_eq!(
            tuple,
            Key::new([KeyValue::Utf8("mm".into()), KeyValue::Int64(-5)])
        );
    }

    #[test]
    fn a_wrong_key_is_refused_with_its_column() {
        let error = parse_key(&schema(), r#"["mm", "x"]"#).unwrap_err();
        assert!(error.to_string().contains("\"number\""), "{error}");
        assert!(parse_key(&schema(), r#"["a", 1, 2]"#).is_err());
    }
}
