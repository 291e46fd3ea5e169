//! Core schemas and types to Arrow's and back.
//!
//! A core type has one Arrow form: the one that files are written in. Reading is wider: the view, large and
//! dictionary forms of text and bytes, and large lists, stand for the plain ones, at any depth. Names of list
//! items and map entries are conventions of writers and do not count when types are compared.

use std::sync::Arc;

use arrow::datatypes::{
    DataType as ArrowType, Field, FieldRef, Fields, Schema as ArrowSchema, TimeUnit as ArrowUnit,
};
use dormouse_core::{
    Error, Result,
    schema::{Column, DataType, Schema, TimeUnit},
};

/// The Arrow schema of a table's files: row key, sort key, value columns.
pub fn arrow_schema(schema: &Schema) -> Arc<ArrowSchema> {
    let fields: Vec<Field> = schema.columns().map(arrow_field).collect();
    Arc::new(ArrowSchema::new(fields))
}

fn arrow_field(column: &Column) -> Field {
    Field::new(&column.name, arrow_type(&column.data_type), column.nullable)
}

/// The Arrow form of a core type.
pub fn arrow_type(data_type: &DataType) -> ArrowType {
    match data_type {
        DataType::Boolean => ArrowType::Boolean,
        DataType::Int8 => ArrowType::Int8,
        DataType::Int16 => ArrowType::Int16,
        DataType::Int32 => ArrowType::Int32,
        DataType::Int64 => ArrowType::Int64,
        DataType::UInt8 => ArrowType::UInt8,
        DataType::UInt16 => ArrowType::UInt16,
        DataType::UInt32 => ArrowType::UInt32,
        DataType::UInt64 => ArrowType::UInt64,
        DataType::Float16 => ArrowType::Float16,
        DataType::Float32 => ArrowType::Float32,
        DataType::Float64 => ArrowType::Float64,
        DataType::Utf8 => ArrowType::Utf8,
        DataType::Binary => ArrowType::Binary,
        DataType::FixedSizeBinary(width) => ArrowType::FixedSizeBinary(*width),
        DataType::Date32 => ArrowType::Date32,
        DataType::Date64 => ArrowType::Date64,
        DataType::Time32(unit) => ArrowType::Time32(arrow_unit(*unit)),
        DataType::Time64(unit) => ArrowType::Time64(arrow_unit(*unit)),
        DataType::Timestamp { unit, timezone } => {
            ArrowType::Timestamp(arrow_unit(*unit), timezone.as_deref().map(Arc::from))
        }
        DataType::Duration(unit) => ArrowType::Duration(arrow_unit(*unit)),
        DataType::Decimal128 { precision, scale } => ArrowType::Decimal128(*precision, *scale),
        DataType::Decimal256 { precision, scale } => ArrowType::Decimal256(*precision, *scale),
        DataType::List(item) => ArrowType::List(Arc::new(arrow_field(item))),
        DataType::Struct(fields) => ArrowType::Struct(fields.iter().map(arrow_field).collect()),
        DataType::Map { key, value } => {
            let entries = Fields::from(vec![arrow_field(key).with_nullable(false), arrow_field(value)]);
            ArrowType::Map(
                Arc::new(Field::new("key_value", ArrowType::Struct(entries), false)),
                false,
            )
        }
    }
}

fn arrow_unit(unit: TimeUnit) -> ArrowUnit {
    match unit {
        TimeUnit::Second => ArrowUnit::Second,
        TimeUnit::Millisecond => ArrowUnit::Millisecond,
        TimeUnit::Microsecond => ArrowUnit::Microsecond,
        TimeUnit::Nanosecond => ArrowUnit::Nanosecond,
    }
}

fn core_unit(unit: ArrowUnit) -> TimeUnit {
    match unit {
        ArrowUnit::Second => TimeUnit::Second,
        ArrowUnit::Millisecond => TimeUnit::Millisecond,
        ArrowUnit::Microsecond => TimeUnit::Microsecond,
        ArrowUnit::Nanosecond => TimeUnit::Nanosecond,
    }
}

/// The core column that an Arrow field stands for.
///
/// # Errors
/// `Invalid`, with the column and the type, when no core type stands for it.
pub fn core_column(field: &Field) -> Result<Column> {
    let data_type = core_type(field.data_type()).map_err(|found| {
        Error::invalid(format!(
            "column \"{}\" has type {found}, which no table can hold",
            field.name()
        ))
    })?;
    Ok(Column {
        name: field.name().clone(),
        data_type,
        nullable: field.is_nullable(),
    })
}

/// The core type that an Arrow type stands for, or the (nested) Arrow type that has none.
pub(crate) fn core_type(found: &ArrowType) -> Result<DataType, ArrowType> {
    let nested = |field: &FieldRef| -> Result<Column, ArrowType> {
        Ok(Column {
            name: field.name().clone(),
            data_type: core_type(field.data_type())?,
            nullable: field.is_nullable(),
        })
    };
    Ok(match found {
        ArrowType::Boolean => DataType::Boolean,
        ArrowType::Int8 => DataType::Int8,
        ArrowType::Int16 => DataType::Int16,
        ArrowType::Int32 => DataType::Int32,
        ArrowType::Int64 => DataType::Int64,
        ArrowType::UInt8 => DataType::UInt8,
        ArrowType::UInt16 => DataType::UInt16,
        ArrowType::UInt32 => DataType::UInt32,
        ArrowType::UInt64 => DataType::UInt64,
        ArrowType::Float16 => DataType::Float16,
        ArrowType::Float32 => DataType::Float32,
        ArrowType::Float64 => DataType::Float64,
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => DataType::Utf8,
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView => DataType::Binary,
        ArrowType::Dictionary(_, values) => match core_type(values)? {
            text @ (DataType::Utf8 | DataType::Binary) => text,
            _ => return Err(found.clone()),
        },
        ArrowType::FixedSizeBinary(width) => DataType::FixedSizeBinary(*width),
        ArrowType::Date32 => DataType::Date32,
        ArrowType::Date64 => DataType::Date64,
        ArrowType::Time32(unit) => DataType::Time32(core_unit(*unit)),
        ArrowType::Time64(unit) => DataType::Time64(core_unit(*unit)),
        ArrowType::Timestamp(unit, timezone) => DataType::Timestamp {
            unit: core_unit(*unit),
            timezone: timezone.as_deref().map(str::to_owned),
        },
        ArrowType::Duration(unit) => DataType::Duration(core_unit(*unit)),
        ArrowType::Decimal128(precision, scale) => DataType::Decimal128 {
            precision: *precision,
            scale: *scale,
        },
        ArrowType::Decimal256(precision, scale) => DataType::Decimal256 {
            precision: *precision,
            scale: *scale,
        },
        ArrowType::List(item) | ArrowType::LargeList(item) => DataType::List(Box::new(nested(item)?)),
        ArrowType::Struct(fields) if !fields.is_empty() => {
            DataType::Struct(fields.iter().map(nested).collect::<Result<_, _>>()?)
        }
        ArrowType::Map(entries, _) => match entries.data_type() {
            ArrowType::Struct(fields) if fields.len() == 2 => DataType::Map {
                key: Box::new(nested(&fields[0])?),
                value: Box::new(nested(&fields[1])?),
            },
            _ => return Err(found.clone()),
        },
        _ => return Err(found.clone()),
    })
}

/// Whether values of `found` can be stored as `expected`: nullability and the names of list items and map
/// entries aside, the types are equal.
pub(crate) fn same_type(found: &DataType, expected: &DataType) -> bool {
    match (found, expected) {
        (DataType::List(found), DataType::List(expected)) => same_type(&found.data_type, &expected.data_type),
        (DataType::Struct(found), DataType::Struct(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| {
                    found.name == expected.name && same_type(&found.data_type, &expected.data_type)
                })
        }
        (
            DataType::Map { key, value },
            DataType::Map {
                key: expected_key,
                value: expected_value,
            },
        ) => {
            same_type(&key.data_type, &expected_key.data_type)
                && same_type(&value.data_type, &expected_value.data_type)
        }
        (
            DataType::Timestamp { unit, timezone },
            DataType::Timestamp {
                unit: expected_unit,
                timezone: expected_timezone,
            },
        ) => unit == expected_unit && same_timezone(timezone.as_deref(), expected_timezone.as_deref()),
        _ => found == expected,
    }
}

/// Whether two time zones are one; the spellings of UTC are.
fn same_timezone(found: Option<&str>, expected: Option<&str>) -> bool {
    let is_utc = |zone: &str| matches!(zone, "UTC" | "+00:00" | "Etc/UTC" | "Z" | "GMT");
    match (found, expected) {
        (Some(found), Some(expected)) => found == expected || (is_utc(found) && is_utc(expected)),
        (found, expected) => found == expected,
    }
}

/// A type as messages name it, such as `List<Int32>`.
pub(crate) fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item) => format!("List<{}>", describe(&item.data_type)),
        DataType::Map { key, value } => {
            format!(
                "Map<{}, {}>",
                describe(&key.data_type),
                describe(&value.data_type)
            )
        }
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{}: {}", field.name, describe(&field.data_type)))
                .collect();
            format!("Struct<{}>", fields.join(", "))
        }
        DataType::Timestamp { unit, timezone: None } => format!("Timestamp({unit:?})"),
        DataType::Timestamp {
            unit,
            timezone: Some(timezone),
        } => format!("Timestamp({unit:?}, \"{timezone}\")"),
        DataType::Decimal128 { precision, scale } => format!("Decimal128({precision}, {scale})"),
        DataType::Decimal256 { precision, scale } => format!("Decimal256({precision}, {scale})"),
        plain => format!("{plain:?}"),
    }
}

/// The form in which a type is read when values are copied once more anyway: text and bytes as views, at any
/// depth, so that a page's dictionary is shared by its rows and a batch is never larger than its pages.
pub(crate) fn view_type(found: &ArrowType) -> ArrowType {
    let nested = |field: &FieldRef| {
        Arc::new(
            field
                .as_ref()
                .clone()
                .with_data_type(view_type(field.data_type())),
        )
    };
    match found {
        ArrowType::Utf8 | ArrowType::LargeUtf8 => ArrowType::Utf8View,
        ArrowType::Binary | ArrowType::LargeBinary => ArrowType::BinaryView,
        ArrowType::Dictionary(_, values) => view_type(values),
        ArrowType::List(item) | ArrowType::LargeList(item) => ArrowType::List(nested(item)),
        ArrowType::Struct(fields) => ArrowType::Struct(fields.iter().map(nested).collect()),
        ArrowType::Map(entries, sorted) => ArrowType::Map(nested(entries), *sorted),
        other => other.clone(),
    }
}

/// The table schema that an Arrow schema stands for, with these key columns; every other column is a value
/// column, in file order. Key columns become required.
///
/// # Errors
/// `Invalid`, with the column, when a key column is missing or a type has no place in a table.
pub fn schema_from_arrow(arrow: &ArrowSchema, row_key: &[&str], sort_key: &[&str]) -> Result<Schema> {
    let key_column = |name: &&str| -> Result<Column> {
        let field = arrow.field_with_name(name).map_err(|_| {
            let names: Vec<String> = arrow
                .fields()
                .iter()
                .map(|f| format!("\"{}\"", f.name()))
                .collect();
            Error::invalid(format!(
                "key column \"{name}\" is not in the file, which has {}",
                names.join(", ")
            ))
        })?;
        Ok(Column {
            nullable: false,
            ..core_column(field)?
        })
    };
    let row_key_columns = row_key.iter().map(key_column).collect::<Result<Vec<_>>>()?;
    let sort_key_columns = sort_key.iter().map(key_column).collect::<Result<Vec<_>>>()?;
    let values = arrow
        .fields()
        .iter()
        .filter(|field| {
            !row_key.contains(&field.name().as_str()) && !sort_key.contains(&field.name().as_str())
        })
        .map(|field| core_column(field))
        .collect::<Result<Vec<_>>>()?;
    Schema::new(row_key_columns, sort_key_columns, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_type_survives_the_way_to_arrow_and_back() {
        let utc = Some("UTC".to_owned());
        for data_type in [
            DataType::Boolean,
            DataType::UInt16,
            DataType::Float16,
            DataType::FixedSizeBinary(7),
            DataType::Date64,
            DataType::Time32(TimeUnit::Second),
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Timestamp {
                unit: TimeUnit::Microsecond,
                timezone: utc,
            },
            DataType::Duration(TimeUnit::Millisecond),
            DataType::Decimal256 {
                precision: 50,
                scale: 3,
            },
            DataType::List(Box::new(Column::nullable("item", DataType::Utf8))),
            DataType::Struct(vec![Column::required("a", DataType::Binary)]),
            DataType::Map {
                key: Box::new(Column::required("key", DataType::Utf8)),
                value: Box::new(Column::nullable("value", DataType::Int64)),
            },
        ] {
            assert_eq!(core_type(&arrow_type(&data_type)).unwrap(), data_type);
        }
    }

    #[test]
    fn wide_forms_of_text_stand_for_the_plain_one_and_other_dictionaries_do_not() {
        let dictionary = |values| ArrowType::Dictionary(Box::new(ArrowType::Int8), Box::new(values));
        assert_eq!(
            core_type(&dictionary(ArrowType::LargeUtf8)).unwrap(),
            DataType::Utf8
        );
        assert!(core_type(&dictionary(ArrowType::Int64)).is_err());
        let list = ArrowType::LargeList(Arc::new(Field::new("x", ArrowType::Utf8View, true)));
        assert_eq!(describe(&core_type(&list).unwrap()), "List<Utf8>");
    }

    #[test]
    fn types_without_a_place_in_a_table_are_refused_by_name() {
        let field = Field::new("gap", ArrowType::Null, true);
        let error = core_column(&field).unwrap_err();
        assert!(error.to_string().contains("\"gap\" has type Null"), "{error}");
    }

    #[test]
    fn spellings_of_utc_are_one_zone() {
        let at = |timezone: Option<&str>| DataType::Timestamp {
            unit: TimeUnit::Second,
            timezone: timezone.map(str::to_owned),
        };
        assert!(same_type(&at(Some("+00:00")), &at(Some("UTC"))));
        assert!(!same_type(&at(None), &at(Some("UTC"))));
        assert!(!same_type(&at(Some("Europe/Berlin")), &at(Some("UTC"))));
    }
}
