//! How the columns of a file are encoded, by what a sample of its rows looks like.
//!
//! | Column | Encoding | Compression |
//! |---|---|---|
//! | few distinct values | dictionary | zstd; from codes (`dictionary_chunk`), where that takes a tenth off |
//! | text or bytes, the first key column | delta byte array: neighbours share their fronts | zstd |
//! | other text or bytes | delta length byte array | zstd |
//! | integers, and all that is stored as such | delta binary packed | zstd where that takes a tenth off |
//! | integers without a pattern but their repeats | plain | zstd |
//! | anything else | plain | zstd |
//!
//! Packed differences of neighbours are written and read in half the time of plain integers with zstd, and are smaller
//! for most columns. Which is which depends on the sample alone, so the same rows make the same bytes.

use std::{collections::HashSet, io, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType as ArrowType, Schema as ArrowSchema},
};
use dormouse_core::{Error, Result};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, Type as PhysicalType, ZstdLevel},
    file::{
        metadata::SortingColumn,
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
    schema::types::ColumnPath,
};

use crate::{
    digest::hash_column,
    options::FileLayout,
    parquet_file::{cannot_encode, parquet_columns},
    table::TableSchema,
};

/// Rows are encoded in batches of at most so many.
const ENCODED_ROWS: usize = 1024;
/// A column of which at most one value in so many is distinct is written with a dictionary.
const DICTIONARY_REPEATS: usize = 8;
/// Of a sample, so many rows are encoded to see what suits a column of integers.
const TRIED_ROWS: usize = 1024;

/// How a file is written, given a sample of its rows.
pub(crate) fn properties(
    table: &TableSchema,
    sample: Option<&RecordBatch>,
    layout: FileLayout,
) -> Result<WriterProperties> {
    let sorting = (0..table.key_columns())
        .map(|column| SortingColumn {
            column_idx: i32::try_from(column).unwrap_or(i32::MAX),
            descending: false,
            nulls_first: false,
        })
        .collect();
    let mut builder = WriterProperties::builder()
        .set_compression(zstd())
        .set_max_row_group_row_count(Some(layout.row_group_rows.max(1)))
        .set_data_page_row_count_limit(layout.page_rows.max(1))
        .set_write_batch_size(layout.page_rows.clamp(1, ENCODED_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(sorting))
        .set_dictionary_enabled(true);
    let leaves = parquet_columns(table)?;
    for leaf in leaves.columns() {
        let [name] = leaf.path().parts() else { continue };
        let (position, field) =
            table.arrow.fields().find(name).ok_or_else(|| {
                Error::internal(format!("column \"{name}\" is in a file and not in its table"))
            })?;
        let path = leaf.path().clone();
        let repeats = match sample {
            Some(sample) => repeats_often(sample, position)?,
            None => false,
        };
        builder = builder.set_column_dictionary_enabled(path.clone(), repeats);
        builder = match (field.data_type(), leaf.physical_type()) {
            (ArrowType::Utf8 | ArrowType::Binary, _) if position == 0 => {
                builder.set_column_encoding(path, Encoding::DELTA_BYTE_ARRAY)
            }
            (ArrowType::Utf8 | ArrowType::Binary, _) => {
                builder.set_column_encoding(path, Encoding::DELTA_LENGTH_BYTE_ARRAY)
            }
            (_, PhysicalType::INT32 | PhysicalType::INT64) if !repeats => match sample {
                Some(sample) => suit_integers(builder, path, sample, position)?,
                None => builder.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
            },
            _ => builder,
        };
    }
    Ok(builder.build())
}

fn zstd() -> Compression {
    Compression::ZSTD(ZstdLevel::default())
}

fn repeats_often(sample: &RecordBatch, column: usize) -> Result<bool> {
    let hashes = hash_column(sample.column(column))?;
    let few = sample.num_rows() / DICTIONARY_REPEATS;
    let mut distinct = HashSet::new();
    Ok(hashes.iter().all(|hash| {
        distinct.insert(*hash);
        distinct.len() <= few
    }))
}

/// Chooses between packed differences, alone or compressed, and plain integers.
fn suit_integers(
    builder: WriterPropertiesBuilder,
    path: ColumnPath,
    sample: &RecordBatch,
    column: usize,
) -> Result<WriterPropertiesBuilder> {
    let packed = try_encoding(sample, column, Encoding::DELTA_BINARY_PACKED)?;
    // Half of what plain integers take is seldom beaten by compressing them.
    if packed.encoded > packed.values / 2 {
        let plain = try_encoding(sample, column, Encoding::PLAIN)?;
        if plain.compressed * 10 < packed.encoded.min(packed.compressed) * 9 {
            return Ok(builder.set_column_encoding(path, Encoding::PLAIN));
        }
    }
    let builder = builder.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
    Ok(match packed.compressed * 10 < packed.encoded * 9 {
        true => builder,
        false => builder.set_column_compression(path, Compression::UNCOMPRESSED),
    })
}

/// How many bytes some values take.
#[derive(Debug)]
struct Tried {
    /// In memory.
    values: usize,
    /// Encoded.
    encoded: usize,
    /// Encoded and compressed.
    compressed: usize,
}

fn try_encoding(sample: &RecordBatch, column: usize, encoding: Encoding) -> Result<Tried> {
    let rows = sample.num_rows().min(TRIED_ROWS);
    let field = sample.schema_ref().field(column).clone();
    let width = field.data_type().primitive_width().unwrap_or(8).min(8);
    let schema = Arc::new(ArrowSchema::new(vec![field]));
    let values = vec![sample.column(column).slice(0, rows)];
    let batch = RecordBatch::try_new(schema.clone(), values)
        .map_err(|error| Error::internal("a column does not make a batch").with_source(error))?;
    let properties = WriterProperties::builder()
        .set_compression(zstd())
        .set_encoding(encoding)
        .set_dictionary_enabled(false)
        .build();
    let written = ArrowWriter::try_new(io::sink(), schema, Some(properties)).and_then(|mut writer| {
        writer.write(&batch)?;
        writer.close()
    });
    let metadata = written.map_err(cannot_encode)?;
    let chunks = || metadata.row_groups().iter().flat_map(|group| group.columns());
    let bytes = |sizes: i64| usize::try_from(sizes).unwrap_or(0);
    Ok(Tried {
        values: rows * width,
        encoded: bytes(chunks().map(|chunk| chunk.uncompressed_size()).sum()),
        compressed: bytes(chunks().map(|chunk| chunk.compressed_size()).sum()),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray};
    use dormouse_core::schema::{Column, DataType, Schema};

    use super::*;

    /// Numbers that follow from `i` without a pattern.
    fn scattered(i: i64) -> i64 {
        let mixed = i
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
        (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9_u64.cast_signed())
    }

    fn chosen(name: &str, data_type: DataType, values: ArrayRef) -> (Encoding, Compression, bool) {
        let keys = vec![Column::required("k", DataType::Utf8)];
        let schema = Schema::new(keys, vec![], vec![Column::required(name, data_type)]).unwrap();
        let table = TableSchema::new(Arc::new(schema));
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..values.len()).map(|row| format!("{row:05}")),
        ));
        let sample = table.batch(vec![keys, values]).unwrap();
        let properties = properties(&table, Some(&sample), FileLayout::default()).unwrap();
        let path = ColumnPath::new(vec![name.to_owned()]);
        (
            properties.encoding(&path).unwrap_or(Encoding::PLAIN),
            properties.compression(&path),
            properties.dictionary_enabled(&path),
        )
    }

    fn integers(value: impl Fn(i64) -> i64) -> (Encoding, Compression, bool) {
        let values = Int64Array::from_iter_values((0..2000).map(value));
        chosen("v", DataType::Int64, Arc::new(values))
    }

    #[test]
    fn integers_are_packed_and_compressed_only_where_that_pays() {
        let packed = |compression| (Encoding::DELTA_BINARY_PACKED, compression, false);
        assert_eq!(
            integers(|i| scattered(i) >> 32),
            packed(Compression::UNCOMPRESSED)
        );
        assert_eq!(integers(|i| i / 4 * 1000), packed(zstd()));
        assert_eq!(integers(scattered), packed(Compression::UNCOMPRESSED));
        // Whole numbers far apart, each of which comes a few times.
        assert_eq!(integers(|i| scattered(i % 400)), (Encoding::PLAIN, zstd(), false));
        assert!(integers(|i| scattered(i % 100)).2);
    }

    #[test]
    fn what_is_stored_as_integers_is_packed() {
        let dates = Date32Array::from_iter_values((0..2000).map(|i| (scattered(i) & 0xfff) as i32));
        assert_eq!(
            chosen("d", DataType::Date32, Arc::new(dates)),
            (Encoding::DELTA_BINARY_PACKED, Compression::UNCOMPRESSED, false)
        );
        let decimals = |precision| {
            let values = (0..2000).map(|i| i128::from(scattered(i) & 0xff_ffff));
            let values = Decimal128Array::from_iter_values(values).with_precision_and_scale(precision, 2);
            let data_type = DataType::Decimal128 { precision, scale: 2 };
            chosen("d", data_type, Arc::new(values.unwrap())).0
        };
        assert_eq!(decimals(15), Encoding::DELTA_BINARY_PACKED);
        assert_eq!(decimals(30), Encoding::PLAIN);
        let floats = Float64Array::from_iter_values((0..2000).map(|i| scattered(i) as f64));
        assert_eq!(
            chosen("f", DataType::Float64, Arc::new(floats)),
            (Encoding::PLAIN, zstd(), false)
        );
    }
}
