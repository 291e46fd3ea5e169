//! The row digest: an order-free sum of 128-bit row hashes.
//!
//! The definition is part of every table's state and never changes. All arithmetic is modulo 2^64 on unsigned
//! numbers; `rotl` rotates left, `>>` shifts in zeros.
//!
//! ```text
//! mix(x)      x += 0x9e3779b97f4a7c15
//!             x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
//!             x = (x ^ (x >> 27)) * 0x94d049bb133111eb
//!             x ^ (x >> 31)
//! value       null                        0x6b2f0e5d8c1a4793
//!             boolean                     mix(0) or mix(1)
//!             signed number, date, time,  mix(the number extended by its sign to 64 bits)
//!             timestamp, duration
//!             unsigned number             mix(the number extended by zeros)
//!             float                       mix(its IEEE 754 bits extended by zeros)
//!             text, bytes, fixed bytes    XXH3-64 of the bytes, seed 0
//!             decimal                     XXH3-64 of the two's complement, little endian, 16 or 32 bytes
//!             struct                      h = 0x2545f4914f6cdd1d; for each field: h = mix(rotl(h, 5) ^ value)
//!             list                        h = mix(length); for each item: h = mix(rotl(h, 5) ^ value)
//!             map                         a list of structs of key and value, in the order stored
//! row         a = 0x243f6a8885a308d3, b = 0x13198a2e03707344; for each column in table order:
//!                 a = (a ^ value) * 0x9e3779b97f4a7c15; a = a ^ (a >> 32)
//!                 b = (rotl(b, 23) + value) * 0xc2b2ae3d27d4eb4f; b = b ^ (b >> 29)
//!             hash = mix(a) * 2^64 + mix(b)
//! digest      the sum of all rows' hashes, modulo 2^128
//! ```
//!
//! `mix` is the finalizer of SplitMix64 (Steele, Lea, Flood 2014); XXH3 is Collet's
//! (<https://github.com/Cyan4973/xxHash>). A digest depends on values and column positions only: not on the Arrow
//! flavour, on batches, files or the order of rows. It finds damage and lost rows; it is no defence against
//! somebody who searches for rows of equal digest.

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, PrimitiveArray, UInt32Array, cast::AsArray},
    buffer::OffsetBuffer,
    datatypes::{
        DataType as ArrowType, Date32Type, Date64Type, Decimal128Type, Decimal256Type,
        DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
        Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use dormouse_core::{Error, Result, file::RowDigest};
use xxhash_rust::xxh3::xxh3_64;

use crate::dictionary::Dictionaries;

const NULL: u64 = 0x6b2f_0e5d_8c1a_4793;
const STRUCT: u64 = 0x2545_f491_4f6c_dd1d;
const LANES: (u64, u64) = (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of each value of a column.
pub(crate) fn hash_column(column: &ArrayRef) -> Result<Vec<u64>> {
    let mut hashes = Vec::with_capacity(column.len());
    hash_values(column, &mut hashes)?;
    Ok(hashes)
}

/// Hashes rows and keeps the hashes and its memory for the next batch.
#[derive(Debug, Default)]
pub(crate) struct Digester {
    values: Vec<u64>,
    lanes: Vec<(u64, u64)>,
}

impl Digester {
    /// Hashes the rows of a batch.
    pub(crate) fn hash_rows(&mut self, columns: &[ArrayRef], rows: usize) -> Result<()> {
        self.hash_coded_rows(columns, &Dictionaries::default(), rows)
    }

    /// Hashes the rows of a batch that has codes in the columns of `dictionaries`.
    pub(crate) fn hash_coded_rows(
        &mut self,
        columns: &[ArrayRef],
        dictionaries: &Dictionaries,
        rows: usize,
    ) -> Result<()> {
        self.lanes.clear();
        self.lanes.resize(rows, LANES);
        for (position, column) in columns.iter().enumerate() {
            self.values.clear();
            match dictionaries.get(position) {
                None => hash_values(column, &mut self.values)?,
                Some(dictionary) => hash_codes(column.as_primitive(), dictionary.hashes(), &mut self.values),
            }
            for ((a, b), &value) in self.lanes.iter_mut().zip(&self.values) {
                let x = (*a ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *a = x ^ (x >> 32);
                let y = b
                    .rotate_left(23)
                    .wrapping_add(value)
                    .wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
                *b = y ^ (y >> 29);
            }
        }
        Ok(())
    }

    /// The digest of some of the rows that were hashed last.
    pub(crate) fn sum(&self, rows: std::ops::Range<usize>) -> RowDigest {
        let sum = self.lanes[rows].iter().fold(0_u128, |sum, &(a, b)| {
            sum.wrapping_add((u128::from(mix(a)) << 64) | u128::from(mix(b)))
        });
        RowDigest(sum)
    }
}

/// Appends the hash of the value that each code stands for.
fn hash_codes(codes: &UInt32Array, values: &[u64], hashes: &mut Vec<u64>) {
    match codes.null_count() {
        0 => hashes.extend(codes.values().iter().map(|code| values[*code as usize])),
        _ => hashes.extend(
            codes
                .iter()
                .map(|code| code.map_or(NULL, |code| values[code as usize])),
        ),
    }
}

/// Appends the hash of each value.
fn hash_values(array: &dyn Array, hashes: &mut Vec<u64>) -> Result<()> {
    let first = hashes.len();
    match array.data_type() {
        ArrowType::Null => hashes.resize(first + array.len(), NULL),
        ArrowType::Boolean => {
            let array = array.as_boolean();
            hashes.extend((0..array.len()).map(|row| mix(u64::from(array.value(row)))));
        }
        ArrowType::Int8 => numbers::<Int8Type>(array, hashes, |v| i64::from(v).cast_unsigned()),
        ArrowType::Int16 => numbers::<Int16Type>(array, hashes, |v| i64::from(v).cast_unsigned()),
        ArrowType::Int32 => numbers::<Int32Type>(array, hashes, |v| i64::from(v).cast_unsigned()),
        ArrowType::Int64 => numbers::<Int64Type>(array, hashes, i64::cast_unsigned),
        ArrowType::UInt8 => numbers::<UInt8Type>(array, hashes, u64::from),
        ArrowType::UInt16 => numbers::<UInt16Type>(array, hashes, u64::from),
        ArrowType::UInt32 => numbers::<UInt32Type>(array, hashes, u64::from),
        ArrowType::UInt64 => numbers::<UInt64Type>(array, hashes, |v| v),
        ArrowType::Float16 => numbers::<Float16Type>(array, hashes, |v| u64::from(v.to_bits())),
        ArrowType::Float32 => numbers::<Float32Type>(array, hashes, |v| u64::from(v.to_bits())),
        ArrowType::Float64 => numbers::<Float64Type>(array, hashes, f64::to_bits),
        ArrowType::Date32 => numbers::<Date32Type>(array, hashes, |v| i64::from(v).cast_unsigned()),
        ArrowType::Date64 => numbers::<Date64Type>(array, hashes, i64::cast_unsigned),
        ArrowType::Time32(TimeUnit::Second) => {
            numbers::<Time32SecondType>(array, hashes, |v| i64::from(v).cast_unsigned());
        }
        ArrowType::Time32(_) => {
            numbers::<Time32MillisecondType>(array, hashes, |v| i64::from(v).cast_unsigned());
        }
        ArrowType::Time64(TimeUnit::Microsecond) => {
            numbers::<Time64MicrosecondType>(array, hashes, i64::cast_unsigned);
        }
        ArrowType::Time64(_) => numbers::<Time64NanosecondType>(array, hashes, i64::cast_unsigned),
        ArrowType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => numbers::<TimestampSecondType>(array, hashes, i64::cast_unsigned),
            TimeUnit::Millisecond => numbers::<TimestampMillisecondType>(array, hashes, i64::cast_unsigned),
            TimeUnit::Microsecond => numbers::<TimestampMicrosecondType>(array, hashes, i64::cast_unsigned),
            TimeUnit::Nanosecond => numbers::<TimestampNanosecondType>(array, hashes, i64::cast_unsigned),
        },
        ArrowType::Duration(unit) => match unit {
            TimeUnit::Second => numbers::<DurationSecondType>(array, hashes, i64::cast_unsigned),
            TimeUnit::Millisecond => numbers::<DurationMillisecondType>(array, hashes, i64::cast_unsigned),
            TimeUnit::Microsecond => numbers::<DurationMicrosecondType>(array, hashes, i64::cast_unsigned),
            TimeUnit::Nanosecond => numbers::<DurationNanosecondType>(array, hashes, i64::cast_unsigned),
        },
        ArrowType::Decimal128(_, _) => {
            let values = array.as_primitive::<Decimal128Type>().values();
            hashes.extend(values.iter().map(|value| xxh3_64(&value.to_le_bytes())));
        }
        ArrowType::Decimal256(_, _) => {
            let values = array.as_primitive::<Decimal256Type>().values();
            hashes.extend(values.iter().map(|value| xxh3_64(&value.to_le_bytes())));
        }
        ArrowType::Utf8 => {
            let array = array.as_string::<i32>();
            hash_spans(array.offsets(), array.values(), hashes);
        }
        ArrowType::Binary => {
            let array = array.as_binary::<i32>();
            hash_spans(array.offsets(), array.values(), hashes);
        }
        ArrowType::Utf8View => {
            let array = array.as_string_view();
            hashes.extend((0..array.len()).map(|row| xxh3_64(array.value(row).as_bytes())));
        }
        ArrowType::BinaryView => {
            let array = array.as_binary_view();
            hashes.extend((0..array.len()).map(|row| xxh3_64(array.value(row))));
        }
        ArrowType::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary();
            hashes.extend((0..array.len()).map(|row| xxh3_64(array.value(row))));
        }
        ArrowType::Struct(_) => hash_structs(array.as_struct().columns(), array.len(), hashes)?,
        ArrowType::List(_) => {
            let list = array.as_list::<i32>();
            let mut items = Vec::new();
            hash_values(
                &list
                    .values()
                    .slice(start(list.offsets()), covered(list.offsets())),
                &mut items,
            )?;
            hash_lists(list.offsets(), &items, hashes);
        }
        ArrowType::Map(_, _) => {
            let map = array.as_map();
            let found = map.entries().slice(start(map.offsets()), covered(map.offsets()));
            let mut entries = Vec::new();
            hash_structs(found.columns(), found.len(), &mut entries)?;
            hash_lists(map.offsets(), &entries, hashes);
        }
        other => return Err(Error::internal(format!("no digest is defined for {other}"))),
    }
    if let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) {
        for (row, hash) in hashes[first..].iter_mut().enumerate() {
            if nulls.is_null(row) {
                *hash = NULL;
            }
        }
    }
    Ok(())
}

fn numbers<T: ArrowPrimitiveType>(array: &dyn Array, hashes: &mut Vec<u64>, bits: impl Fn(T::Native) -> u64) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    hashes.extend(array.values().iter().map(|&value| mix(bits(value))));
}

fn hash_spans(offsets: &OffsetBuffer<i32>, bytes: &[u8], hashes: &mut Vec<u64>) {
    hashes.extend(
        offsets
            .windows(2)
            .map(|span| xxh3_64(&bytes[span[0] as usize..span[1] as usize])),
    );
}

fn hash_structs(fields: &[ArrayRef], rows: usize, hashes: &mut Vec<u64>) -> Result<()> {
    let first = hashes.len();
    hashes.resize(first + rows, STRUCT);
    let mut values = Vec::with_capacity(rows);
    for field in fields {
        values.clear();
        hash_values(field, &mut values)?;
        for (hash, value) in hashes[first..].iter_mut().zip(&values) {
            *hash = mix(hash.rotate_left(5) ^ value);
        }
    }
    Ok(())
}

/// The first item of the first list.
fn start(offsets: &OffsetBuffer<i32>) -> usize {
    offsets.first().map_or(0, |offset| *offset as usize)
}

/// How many items all lists have.
fn covered(offsets: &OffsetBuffer<i32>) -> usize {
    offsets.last().map_or(0, |offset| *offset as usize) - start(offsets)
}

/// Folds the hashes of the items from the first list's first one.
fn hash_lists(offsets: &OffsetBuffer<i32>, items: &[u64], hashes: &mut Vec<u64>) {
    let start = start(offsets);
    hashes.extend(offsets.windows(2).map(|span| {
        let items = &items[span[0] as usize - start..span[1] as usize - start];
        items.iter().fold(mix(items.len() as u64), |hash, item| {
            mix(hash.rotate_left(5) ^ item)
        })
    }));
}

#[cfg(test)]
mod tests;
