//! Keys of rows as plain numbers and bytes: prefixes to sort by, and comparisons for what prefixes leave open.
//!
//! A *prefix* is an unsigned number made of the front of a key's order-preserving encoding: if one prefix is
//! smaller, so is its key; equal prefixes leave the order open. Numbers are encoded big endian with the sign bit
//! flipped. Text and bytes fill what is left of the prefix but its last byte, padded with zeros; the last byte is
//! the count of bytes left, up to one more than fit, so that a value comes before its extensions.

use std::{cmp::Ordering, ops::Range};

use arrow::{
    array::{Array, ArrayRef, BinaryViewArray, cast::AsArray},
    buffer::{Buffer, OffsetBuffer, ScalarBuffer},
    datatypes::{
        DataType as ArrowType, Date32Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    },
};
use dormouse_core::{
    Error, Result,
    key::{Bytes, Key, KeyValue},
    schema::{DataType, Schema},
};

use crate::{columns::byte_parts, texts::common_prefix};

/// One key column of a batch, without nulls.
#[derive(Clone, Debug)]
pub(crate) enum KeyColumn {
    Int32(ScalarBuffer<i32>),
    Int64(ScalarBuffer<i64>),
    Bytes(OffsetBuffer<i32>, Buffer),
    Views(BinaryViewArray),
}

impl KeyColumn {
    /// # Errors
    /// `Internal` for a type that cannot be a key.
    pub(crate) fn new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            ArrowType::Int32 => Self::Int32(array.as_primitive::<Int32Type>().values().clone()),
            ArrowType::Date32 => Self::Int32(array.as_primitive::<Date32Type>().values().clone()),
            ArrowType::Int64 => Self::Int64(array.as_primitive::<Int64Type>().values().clone()),
            ArrowType::Timestamp(unit, _) => Self::Int64(match unit {
                TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values().clone(),
                TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values().clone(),
                TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values().clone(),
                TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values().clone(),
            }),
            ArrowType::Utf8View => Self::Views(array.as_string_view().clone().to_binary_view()),
            ArrowType::BinaryView => Self::Views(array.as_binary_view().clone()),
            other => {
                let (offsets, bytes) =
                    byte_parts(array).ok_or_else(|| Error::internal(format!("{other} cannot be a key")))?;
                Self::Bytes(offsets, bytes)
            }
        })
    }

    /// The bytes of a text or bytes value; empty for numbers.
    pub(crate) fn bytes(&self, row: usize) -> &[u8] {
        match self {
            Self::Bytes(offsets, bytes) => &bytes[offsets[row] as usize..offsets[row + 1] as usize],
            Self::Views(views) => views.value(row),
            Self::Int32(_) | Self::Int64(_) => &[],
        }
    }

    fn compare(&self, row: usize, other: &Self, other_row: usize) -> Ordering {
        match (self, other) {
            (Self::Int32(a), Self::Int32(b)) => a[row].cmp(&b[other_row]),
            (Self::Int64(a), Self::Int64(b)) => a[row].cmp(&b[other_row]),
            (a, b) => a.bytes(row).cmp(b.bytes(other_row)),
        }
    }

    /// Compares a value with one of the column's type.
    pub(crate) fn compare_value(&self, row: usize, value: &KeyValue) -> Ordering {
        match (self, value) {
            (Self::Int32(a), KeyValue::Int32(b) | KeyValue::Date32(b)) => a[row].cmp(b),
            (Self::Int64(a), KeyValue::Int64(b) | KeyValue::Timestamp(b)) => a[row].cmp(b),
            (a, KeyValue::Utf8(b)) => a.bytes(row).cmp(b.as_bytes()),
            (a, KeyValue::Binary(b)) => a.bytes(row).cmp(&b.0),
            _ => Ordering::Equal,
        }
    }
}

/// The key columns of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    columns: Vec<KeyColumn>,
    rows: usize,
}

impl Keys {
    /// The keys of a batch whose first `key_columns` columns, in table order, are the key.
    pub(crate) fn new(columns: &[ArrayRef], key_columns: usize) -> Result<Self> {
        Ok(Self {
            columns: columns[..key_columns]
                .iter()
                .map(KeyColumn::new)
                .collect::<Result<_>>()?,
            rows: columns.first().map_or(0, |column| column.len()),
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> &[KeyColumn] {
        &self.columns
    }

    /// Compares two rows by all key columns from `first_column` on.
    pub(crate) fn compare(
        &self,
        row: usize,
        other: &Self,
        other_row: usize,
        first_column: usize,
    ) -> Ordering {
        self.columns[first_column..]
            .iter()
            .zip(&other.columns[first_column..])
            .map(|(a, b)| a.compare(row, b, other_row))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// Compares a row's row key with a key or a prefix of one, which comes before its extensions. `key` has the
    /// types of the row key, and `row_key_columns` is the number of the table's row key columns.
    pub(crate) fn compare_key(&self, row: usize, key: &Key, row_key_columns: usize) -> Ordering {
        self.columns
            .iter()
            .zip(key.0.iter())
            .map(|(column, value)| column.compare_value(row, value))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| row_key_columns.cmp(&key.0.len()))
    }

    /// The prefixes of all rows, without the first `skip` bytes of the first column, which all rows share.
    pub(crate) fn prefixes(&self, skip: usize, prefixes: &mut Vec<u128>) {
        prefixes.clear();
        match &self.columns[..] {
            [KeyColumn::Int64(values)] => {
                prefixes.extend(values.iter().map(|&value| u128::from(flip64(value)) << 64));
            }
            [KeyColumn::Int64(first), KeyColumn::Int64(second), ..] => {
                prefixes.extend(
                    first
                        .iter()
                        .zip(second.iter())
                        .map(|(&a, &b)| (u128::from(flip64(a)) << 64) | u128::from(flip64(b))),
                );
            }
            [KeyColumn::Bytes(offsets, bytes), ..] => {
                prefixes.extend(
                    offsets
                        .windows(2)
                        .map(|span| span_prefix(bytes, span[0] as usize + skip..span[1] as usize)),
                );
            }
            [KeyColumn::Views(views), ..] => {
                prefixes.extend((0..self.rows).map(|row| bytes_prefix(&views.value(row)[skip..])));
            }
            columns => prefixes.extend((0..self.rows).map(|row| {
                let mut packer = Packer::default();
                for column in columns {
                    match column {
                        KeyColumn::Int32(values) => packer.int32(values[row]),
                        KeyColumn::Int64(values) => packer.int64(values[row]),
                        text => packer.bytes(text.bytes(row)),
                    }
                }
                packer.prefix
            })),
        }
    }
}

/// The prefix of a key or a prefix of one.
pub(crate) fn key_prefix(key: &Key) -> u128 {
    let mut packer = Packer::default();
    for value in &key.0 {
        match value {
            KeyValue::Int32(value) | KeyValue::Date32(value) => packer.int32(*value),
            KeyValue::Int64(value) | KeyValue::Timestamp(value) => packer.int64(*value),
            KeyValue::Utf8(value) => packer.bytes(value.as_bytes()),
            KeyValue::Binary(value) => packer.bytes(&value.0),
        }
    }
    packer.prefix
}

/// How many bytes every key between two keys, both included, shares at the front of its first column.
pub(crate) fn shared_bytes(low: &Key, high: &Key) -> usize {
    let bytes = |key: &Key| -> Vec<u8> {
        match key.0.first() {
            Some(KeyValue::Utf8(text)) => text.as_bytes().to_vec(),
            Some(KeyValue::Binary(Bytes(bytes))) => bytes.to_vec(),
            _ => Vec::new(),
        }
    };
    common_prefix(&bytes(low), &bytes(high))
}

#[derive(Debug, Default)]
struct Packer {
    prefix: u128,
    used: u32,
}

impl Packer {
    fn int32(&mut self, value: i32) {
        self.number(u64::from(flip32(value)) << 32, 32);
    }

    fn int64(&mut self, value: i64) {
        self.number(flip64(value), 64);
    }

    /// Packs the upper `bits` bits of `encoded`, as far as there is room.
    fn number(&mut self, encoded: u64, bits: u32) {
        if self.used < 128 {
            self.prefix |= (u128::from(encoded) << 64) >> self.used;
            self.used += bits;
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.used < 128 {
            let room = (128 - self.used) / 8 - 1;
            let mut padded = [0; 16];
            let taken = bytes.len().min(room as usize);
            padded[..taken].copy_from_slice(&bytes[..taken]);
            let count = bytes.len().min(room as usize + 1) as u128;
            self.prefix |= (u128::from_be_bytes(padded) >> self.used) | count;
            self.used = 128;
        }
    }
}

fn flip32(value: i32) -> u32 {
    value.cast_unsigned() ^ (1 << 31)
}

pub(crate) fn flip64(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// The prefix of a value inside `bytes`, of which a whole word is taken where there is one.
fn span_prefix(bytes: &[u8], span: Range<usize>) -> u128 {
    let Some(front) = bytes[span.start..].first_chunk::<16>() else {
        return bytes_prefix(&bytes[span]);
    };
    let length = span.len();
    let beyond = u128::MAX >> (8 * length.min(15));
    (u128::from_be_bytes(*front) & !beyond) | length.min(16) as u128
}

fn bytes_prefix(bytes: &[u8]) -> u128 {
    let mut padded = [0; 16];
    let taken = bytes.len().min(15);
    padded[..taken].copy_from_slice(&bytes[..taken]);
    padded[15] = bytes.len().min(16) as u8;
    u128::from_be_bytes(padded)
}

/// Seven bytes of text from its front and how many bytes there are, up to 8.
pub(crate) fn bytes_prefix64(bytes: &[u8]) -> u64 {
    if let Some(front) = bytes.first_chunk::<8>() {
        return (u64::from_be_bytes(*front) & !0xff) | 8;
    }
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded[7] = bytes.len() as u8;
    u64::from_be_bytes(padded)
}

/// The row key of a row, by the types of `schema`.
///
/// # Errors
/// `Internal` when text is not UTF-8 or a column does not have the schema's type.
pub(crate) fn row_key(schema: &Schema, keys: &Keys, row: usize) -> Result<Key> {
    let values = schema
        .row_key()
        .iter()
        .zip(&keys.columns)
        .map(|(column, values)| {
            Ok(match (&column.data_type, values) {
                (DataType::Int32, KeyColumn::Int32(values)) => KeyValue::Int32(values[row]),
                (DataType::Date32, KeyColumn::Int32(values)) => KeyValue::Date32(values[row]),
                (DataType::Int64, KeyColumn::Int64(values)) => KeyValue::Int64(values[row]),
                (DataType::Timestamp { .. }, KeyColumn::Int64(values)) => KeyValue::Timestamp(values[row]),
                (DataType::Utf8, values) => {
                    let text = std::str::from_utf8(values.bytes(row))
                        .map_err(|error| Error::internal("a text key is not UTF-8").with_source(error))?;
                    KeyValue::Utf8(text.into())
                }
                (DataType::Binary, values) => KeyValue::Binary(Bytes(values.bytes(row).into())),
                (other, _) => return Err(Error::internal(format!("a key column is not of type {other:?}"))),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Key::new(values))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BinaryArray, Int32Array, Int64Array, StringViewArray};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prefixes_never_contradict_the_order(
            rows in prop::collection::vec((-3i32..3, prop::collection::vec(0u8..=255, 0..20), any::<i64>()), 2..40),
            shape in 0..4,
        ) {
            let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0)));
            let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| &row.1)));
            let longs: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
            let columns = match shape {
                0 => vec![numbers, bytes, longs],
                1 => vec![bytes, longs, numbers],
                2 => vec![longs, numbers, bytes],
                _ => vec![longs.clone(), longs, bytes],
            };
            let keys = Keys::new(&columns, 3).unwrap();
            let mut prefixes = Vec::new();
            keys.prefixes(0, &mut prefixes);
            for a in 0..rows.len() {
                for b in 0..rows.len() {
                    let order = keys.compare(a, &keys, b, 0);
                    let by_prefix = prefixes[a].cmp(&prefixes[b]);
                    prop_assert!(by_prefix.is_eq() || by_prefix == order);
                }
            }
        }

        #[test]
        fn a_prefix_is_the_same_wherever_its_value_is(before: Vec<u8>, value: Vec<u8>, after: Vec<u8>) {
            let bytes = [&before[..], &value, &after].concat();
            let span = before.len()..before.len() + value.len();
            prop_assert_eq!(span_prefix(&bytes, span), bytes_prefix(&value));
        }

        #[test]
        fn short_prefixes_never_contradict_the_order(a: Vec<u8>, b: Vec<u8>) {
            let by_prefix = bytes_prefix64(&a).cmp(&bytes_prefix64(&b));
            prop_assert!(by_prefix.is_eq() || by_prefix == a.cmp(&b));
        }
    }

    #[test]
    fn a_shorter_key_comes_before_its_extensions_and_its_prefix_never_after() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from(vec!["ab", "ab\0"])),
            Arc::new(Int64Array::from(vec![i64::MIN, 7])),
        ];
        let keys = Keys::new(&columns, 2).unwrap();
        let split = Key::new([KeyValue::Utf8("ab".into())]);
        assert_eq!(keys.compare_key(0, &split, 2), Ordering::Greater);
        assert_eq!(keys.compare_key(0, &split, 1), Ordering::Equal);
        assert_eq!(keys.compare_key(1, &split, 2), Ordering::Greater);
        let mut prefixes = Vec::new();
        keys.prefixes(0, &mut prefixes);
        assert!(key_prefix(&split) <= prefixes[0] && prefixes[0] < prefixes[1]);
    }

    #[test]
    fn keys_share_the_front_that_both_ends_share() {
        let key = |text: &str| Key::new([KeyValue::Utf8(text.into())]);
        assert_eq!(shared_bytes(&key("user-10"), &key("user-2")), 5);
        assert_eq!(
            shared_bytes(&Key::new([KeyValue::Int32(1)]), &Key::new([KeyValue::Int32(1)])),
            0
        );
    }
}
