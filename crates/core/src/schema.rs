//! A table's schema: row key columns, then sort key columns, then value columns.

mod sleeper;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    key::{Key, KeyValue},
};

pub use sleeper::from_sleeper_json;

/// How deeply types may be nested: what is stored as JSON can be read again, with a stack that always suffices.
pub const MAX_NESTING: usize = 32;

/// The columns of a table. Rows are sorted by the row key columns, then the sort key columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedSchema")]
pub struct Schema {
    row_key: Vec<Column>,
    sort_key: Vec<Column>,
    values: Vec<Column>,
}

#[derive(Deserialize)]
struct UncheckedSchema {
    row_key: Vec<Column>,
    sort_key: Vec<Column>,
    values: Vec<Column>,
}

impl TryFrom<UncheckedSchema> for Schema {
    type Error = Error;
    fn try_from(unchecked: UncheckedSchema) -> Result<Self> {
        Self::new(unchecked.row_key, unchecked.sort_key, unchecked.values)
    }
}

/// A named, typed column or nested field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The name, unique in its schema.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub data_type: DataType,
    /// Whether nulls are allowed; never in a key column.
    pub nullable: bool,
}

impl Column {
    /// A column that allows no nulls.
    pub fn required(name: impl Into<String>, data_type: DataType) -> Self {
        Self {
            name: name.into(),
            data_type,
            nullable: false,
        }
    }

    /// A column that allows nulls.
    pub fn nullable(name: impl Into<String>, data_type: DataType) -> Self {
        Self {
            name: name.into(),
            data_type,
            nullable: true,
        }
    }
}

/// The unit of a time type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TimeUnit {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

/// The type of a column, named as in Arrow. Text, bytes and lists have one form each: the views, large and
/// dictionary forms of Arrow are read into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Arrow's")]
pub enum DataType {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float16,
    Float32,
    Float64,
    Utf8,
    Binary,
    FixedSizeBinary(i32),
    Date32,
    Date64,
    Time32(TimeUnit),
    Time64(TimeUnit),
    Timestamp {
        unit: TimeUnit,
        timezone: Option<String>,
    },
    Duration(TimeUnit),
    Decimal128 {
        precision: u8,
        scale: i8,
    },
    Decimal256 {
        precision: u8,
        scale: i8,
    },
    List(#[serde(deserialize_with = "nested::deserialize")] Box<Column>),
    Struct(#[serde(deserialize_with = "nested::deserialize")] Vec<Column>),
    /// Keys are never null.
    Map {
        #[serde(deserialize_with = "nested::deserialize")]
        key: Box<Column>,
        #[serde(deserialize_with = "nested::deserialize")]
        value: Box<Column>,
    },
}

/// Counts how deeply the type is nested that is being read: some encodings have no limit of their own.
mod nested {
    use std::cell::Cell;

    use serde::{Deserialize, Deserializer, de::Error as _};

    thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
    }

    struct Level;

    impl Drop for Level {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        DEPTH.set(DEPTH.get() + 1);
        let _level = Level;
        if DEPTH.get() > super::MAX_NESTING {
            return Err(D::Error::custom("a type is nested too deeply"));
        }
        T::deserialize(deserializer)
    }
}

impl DataType {
    /// Whether a row key or sort key column may have this type.
    pub fn is_key_type(&self) -> bool {
        matches!(
            self,
            Self::Int32 | Self::Int64 | Self::Utf8 | Self::Binary | Self::Date32 | Self::Timestamp { .. }
        )
    }

    /// How many types are around the innermost one.
    fn nesting(&self) -> usize {
        let deepest = |columns: &[&Column]| {
            let nesting = |column: &&Column| column.data_type.nesting() + 1;
            columns.iter().map(nesting).max().unwrap_or(1)
        };
        match self {
            Self::List(item) => deepest(&[item]),
            Self::Map { key, value } => deepest(&[key, value]),
            Self::Struct(fields) => deepest(&fields.iter().collect::<Vec<_>>()),
            _ => 0,
        }
    }

    /// Whether a value of a key column of this type has this variant.
    pub fn holds(&self, value: &KeyValue) -> bool {
        matches!(
            (self, value),
            (Self::Int32, KeyValue::Int32(_))
                | (Self::Int64, KeyValue::Int64(_))
                | (Self::Utf8, KeyValue::Utf8(_))
                | (Self::Binary, KeyValue::Binary(_))
                | (Self::Date32, KeyValue::Date32(_))
                | (Self::Timestamp { .. }, KeyValue::Timestamp(_))
        )
    }
}

impl Schema {
    /// Checks and makes a schema.
    ///
    /// # Errors
    /// `Invalid` when there is no row key, a key column is nullable or of a type that cannot be a key, a name
    /// is empty or used twice, or a type is nested beyond [`MAX_NESTING`].
    pub fn new(row_key: Vec<Column>, sort_key: Vec<Column>, values: Vec<Column>) -> Result<Self> {
        if row_key.is_empty() {
            return Err(Error::invalid("a schema needs at least one row key column"));
        }
        for column in row_key.iter().chain(&sort_key) {
            if !column.data_type.is_key_type() {
                return Err(Error::invalid(format!(
                    "key column \"{}\" has type {:?}; a key may be Int32, Int64, Utf8, Binary, Date32 or Timestamp",
                    column.name, column.data_type
                )));
            }
            if column.nullable {
                return Err(Error::invalid(format!(
                    "key column \"{}\" may not be nullable",
                    column.name
                )));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for column in row_key.iter().chain(&sort_key).chain(&values) {
            if column.name.is_empty() {
                return Err(Error::invalid("a column has an empty name"));
            }
            if column.data_type.nesting() > MAX_NESTING {
                return Err(Error::invalid(format!(
                    "the type of column \"{}\" is nested more than {MAX_NESTING} deep",
                    column.name
                )));
            }
            if !seen.insert(column.name.as_str()) {
                return Err(Error::invalid(format!(
                    "column \"{}\" is named twice",
                    column.name
                )));
            }
        }
        Ok(Self {
            row_key,
            sort_key,
            values,
        })
    }

    /// The columns that partition and sort the table.
    pub fn row_key(&self) -> &[Column] {
        &self.row_key
    }

    /// The columns that sort rows of equal row keys.
    pub fn sort_key(&self) -> &[Column] {
        &self.sort_key
    }

    /// The columns that are not part of a key.
    pub fn values(&self) -> &[Column] {
        &self.values
    }

    /// All columns, in the order of the table's files: row key, sort key, values.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        self.row_key.iter().chain(&self.sort_key).chain(&self.values)
    }

    /// How many columns decide the order of rows.
    pub fn key_columns(&self) -> usize {
        self.row_key.len() + self.sort_key.len()
    }

    /// Checks that `key` fits the row key: at least one value, no more than it has columns, types equal.
    ///
    /// # Errors
    /// `Invalid`, with the key and what is wrong with it.
    pub fn check_key(&self, key: &Key) -> Result<()> {
        if key.0.is_empty() || key.0.len() > self.row_key.len() {
            return Err(Error::invalid(format!(
                "key {key} has {} values; the row key has {} columns",
                key.0.len(),
                self.row_key.len()
            )));
        }
        for (value, column) in key.0.iter().zip(&self.row_key) {
            if !column.data_type.holds(value) {
                return Err(Error::invalid(format!(
                    "value {value} of key {key} does not fit row key column \"{}\" of type {:?}",
                    column.name, column.data_type
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Bytes;

    /// `nesting` lists around a number.
    fn nested(nesting: usize) -> Column {
        (0..nesting).fold(Column::nullable("v", DataType::Int8), |item, _| {
            Column::nullable("v", DataType::List(Box::new(item)))
        })
    }

    #[test]
    fn types_are_nested_no_deeper_than_can_be_read_back() {
        let key = || vec![Column::required("k", DataType::Int32)];
        let schema = Schema::new(key(), vec![], vec![nested(MAX_NESTING)]).unwrap();
        let json = serde_json::to_string(&schema).unwrap();
        assert_eq!(serde_json::from_str::<Schema>(&json).unwrap(), schema);
        let bytes = postcard::to_stdvec(&schema).unwrap();
        assert_eq!(postcard::from_bytes::<Schema>(&bytes).unwrap(), schema);

        let error = Schema::new(key(), vec![], vec![nested(MAX_NESTING + 1)]).unwrap_err();
        assert!(error.to_string().contains("\"v\" is nested"), "{error}");
        let deep = postcard::to_stdvec(&nested(2000)).unwrap();
        assert!(postcard::from_bytes::<Column>(&deep).is_err());
    }

    #[test]
    fn maps_and_structs_count_as_nested() {
        let item = || nested(MAX_NESTING - 1);
        let map = |key, value| DataType::Map {
            key: Box::new(key),
            value: Box::new(value),
        };
        let short = || Column::required("s", DataType::Int8);
        let around = |item: Column| {
            [
                map(item.clone(), short()),
                map(short(), item.clone()),
                DataType::Struct(vec![short(), item]),
            ]
        };
        let with = |data_type| {
            let key = vec![Column::required("k", DataType::Int32)];
            Schema::new(key, vec![], vec![Column::nullable("v", data_type)])
        };
        for data_type in around(item()) {
            let schema = with(data_type).unwrap();
            let json = serde_json::to_string(&schema).unwrap();
            assert_eq!(serde_json::from_str::<Schema>(&json).unwrap(), schema);
        }
        for data_type in around(nested(MAX_NESTING)) {
            with(data_type).unwrap_err();
        }
    }

    fn key_types() -> Vec<(DataType, KeyValue)> {
        let timestamp = DataType::Timestamp {
            unit: TimeUnit::Second,
            timezone: None,
        };
        vec![
            (DataType::Int32, KeyValue::Int32(1)),
            (DataType::Int64, KeyValue::Int64(1)),
            (DataType::Utf8, KeyValue::Utf8("a".into())),
            (DataType::Binary, KeyValue::Binary(Bytes(b"a".to_vec().into()))),
            (DataType::Date32, KeyValue::Date32(1)),
            (timestamp, KeyValue::Timestamp(1)),
        ]
    }

    #[test]
    fn a_key_column_holds_values_of_its_type_alone() {
        let types = key_types();
        for (i, (data_type, _)) in types.iter().enumerate() {
            assert!(data_type.is_key_type());
            let held: Vec<_> = types.iter().map(|(_, value)| data_type.holds(value)).collect();
            assert_eq!(held, (0..types.len()).map(|j| i == j).collect::<Vec<_>>());
        }
        for data_type in [DataType::Boolean, DataType::UInt64, DataType::Float64] {
            assert!(!data_type.is_key_type());
            assert!(!types.iter().any(|(_, value)| data_type.holds(value)));
        }
    }

    #[test]
    fn a_key_is_the_first_values_of_a_row_key() {
        let schema = Schema::new(
            vec![
                Column::required("a", DataType::Int32),
                Column::required("b", DataType::Utf8),
            ],
            vec![Column::required("c", DataType::Int64)],
            vec![Column::nullable("d", DataType::Boolean)],
        )
        .unwrap();
        let names: Vec<_> = schema.columns().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(schema.key_columns(), 3);
        let [a, b] = [KeyValue::Int32(1), KeyValue::Utf8("x".into())];
        for right in [vec![a.clone()], vec![a.clone(), b.clone()]] {
            schema.check_key(&Key::new(right)).unwrap();
        }
        for (wrong, told) in [
            (vec![], "has 0 values; the row key has 2 columns"),
            (vec![a.clone(), b.clone(), b.clone()], "has 3 values"),
            (vec![b.clone()], "does not fit row key column \"a\""),
            (vec![a.clone(), a.clone()], "does not fit row key column \"b\""),
        ] {
            let error = schema.check_key(&Key::new(wrong)).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn a_schema_has_a_row_key_and_every_column_a_name() {
        let key = |name: &str| vec![Column::required(name, DataType::Int32)];
        let error = Schema::new(vec![], key("k"), vec![]).unwrap_err();
        assert!(error.to_string().contains("at least one row key"), "{error}");
        let error = Schema::new(key("k"), key(""), vec![]).unwrap_err();
        assert!(error.to_string().contains("empty name"), "{error}");
        let nullable = vec![Column::nullable("s", DataType::Int32)];
        let error = Schema::new(key("k"), nullable, vec![]).unwrap_err();
        assert!(error.to_string().contains("\"s\" may not be nullable"), "{error}");
    }

    #[test]
    fn key_columns_are_checked() {
        let float = Schema::new(vec![Column::required("k", DataType::Float64)], vec![], vec![]);
        assert!(float.unwrap_err().to_string().contains("\"k\""));
        let nullable = Schema::new(vec![Column::nullable("k", DataType::Int32)], vec![], vec![]);
        assert!(nullable.unwrap_err().to_string().contains("nullable"));
        let twice = Schema::new(
            vec![Column::required("k", DataType::Int32)],
            vec![],
            vec![Column::nullable("k", DataType::Utf8)],
        );
        assert!(twice.unwrap_err().to_string().contains("twice"));
    }
}
