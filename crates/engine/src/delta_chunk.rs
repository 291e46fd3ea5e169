//! Writes a column of text, bytes or integers as a column chunk of Parquet whose values are told by their neighbours:
//! as packed differences, as texts behind their lengths, or as what texts do not share with the one before.
//!
//! Rows come batch by batch; a page ends with its rows or its bytes.

use std::ops::Range;

use arrow::{
    array::{Array, ArrayRef, AsArray, NullBufferBuilder},
    datatypes::{
        ArrowPrimitiveType, DataType as ArrowType, Date32Type, Decimal128Type, Int32Type, Int64Type,
        TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType,
    },
};
use dormouse_core::Result;
use parquet::{
    basic::{Encoding, Type as PhysicalType},
    file::properties::WriterProperties,
    schema::types::ColumnDescPtr,
};

use crate::{
    column_chunk::{self, Bounds, ChunkWriter, ColumnChunk, PageCompressor, PageFacts},
    columns::unknown,
    delta,
    joined::Joined,
    parquet_file::cannot_encode,
    texts::{Texts, common_prefix},
};

/// A column chunk that values are encoded into as they come.
pub(crate) struct DeltaChunk {
    chunk: ChunkWriter,
    encoding: Encoding,
    page_rows: usize,
    page_bytes: usize,
    page: Page,
    /// What a page is put together in.
    buffer: Vec<u8>,
}

/// The values of a page.
struct Page {
    /// Whether no value is below one before it.
    rises: bool,
    rows: usize,
    nulls: NullBufferBuilder,
    bounds: Option<Bounds>,
    values: Values,
}

enum Values {
    Narrow(Vec<i32>),
    Wide(Vec<i64>),
    /// Texts one behind the other, and their lengths.
    Texts {
        lengths: Vec<i32>,
        bytes: Vec<u8>,
    },
    /// Texts without what they share with the one before.
    Tails(Tails),
}

#[derive(Default)]
struct Tails {
    shared: Vec<i32>,
    lengths: Vec<i32>,
    bytes: Joined,
    /// The last text.
    last: Vec<u8>,
    /// How many bytes the texts have.
    whole: usize,
}

impl DeltaChunk {
    /// An empty chunk of a leaf; none when its column is written in another way.
    pub(crate) fn new(
        leaf: usize,
        column: ColumnDescPtr,
        data_type: &ArrowType,
        properties: &WriterProperties,
    ) -> Option<Self> {
        let path = column.path();
        if properties.dictionary_enabled(path) || !column_chunk::is_writable(&column, properties) {
            return None;
        }
        let encoding = properties.encoding(path)?;
        let values = match (encoding, column.physical_type(), data_type) {
            (Encoding::DELTA_BINARY_PACKED, stored, data_type) if is_number(data_type) => match stored {
                PhysicalType::INT32 => Values::Narrow(Vec::new()),
                _ => Values::Wide(Vec::new()),
            },
            (Encoding::DELTA_LENGTH_BYTE_ARRAY, _, ArrowType::Utf8 | ArrowType::Binary) => Values::Texts {
                lengths: Vec::new(),
                bytes: Vec::new(),
            },
            (Encoding::DELTA_BYTE_ARRAY, _, ArrowType::Utf8 | ArrowType::Binary) => {
                Values::Tails(Tails::default())
            }
            _ => return None,
        };
        Some(Self {
            encoding,
            page_rows: properties.data_page_row_count_limit().max(1),
            page_bytes: properties.column_data_page_size_limit(path).max(1),
            page: Page {
                rises: leads(leaf, properties),
                rows: 0,
                nulls: NullBufferBuilder::new(0),
                bounds: None,
                values,
            },
            buffer: Vec::new(),
            chunk: ChunkWriter::new(column, properties),
        })
    }

    /// Encodes the values of some rows.
    pub(crate) fn write(&mut self, array: &ArrayRef, compressor: &mut PageCompressor) -> Result<()> {
        let mut from = 0;
        while from < array.len() {
            let most = (array.len() - from).min(self.page_rows - self.page.rows);
            let room = self.page_bytes.saturating_sub(self.page.value_bytes());
            let count = rows_within(array, from, most, room);
            self.page.add(array, from..from + count)?;
            from += count;
            if self.page.rows >= self.page_rows || self.page.value_bytes() >= self.page_bytes {
                self.end_page(compressor)?;
            }
        }
        Ok(())
    }

    fn end_page(&mut self, compressor: &mut PageCompressor) -> Result<()> {
        self.buffer.clear();
        let nulls = self.page.nulls.finish();
        self.chunk
            .put_levels(nulls.as_ref(), self.page.rows, &mut self.buffer);
        let value_bytes = self.page.values.take(&mut self.buffer);
        let facts = PageFacts {
            rows: std::mem::take(&mut self.page.rows),
            nulls: nulls.map_or(0, |nulls| nulls.null_count()),
            bounds: self.page.bounds.take(),
            value_bytes,
        };
        self.chunk
            .add_page(&self.buffer, self.encoding, facts, compressor)
            .map_err(cannot_encode)
    }

    /// The chunk.
    pub(crate) fn finish(mut self, compressor: &mut PageCompressor) -> Result<ColumnChunk> {
        if self.page.rows > 0 {
            self.end_page(compressor)?;
        }
        self.chunk.finish().map_err(cannot_encode)
    }
}

/// Whether rows are in the order of this column before all others.
fn leads(leaf: usize, properties: &WriterProperties) -> bool {
    let first = properties.sorting_columns().and_then(|columns| columns.first());
    first.is_some_and(|first| usize::try_from(first.column_idx) == Ok(leaf) && !first.descending)
}

/// Whether Parquet stores values of this type as whole numbers.
fn is_number(data_type: &ArrowType) -> bool {
    matches!(
        data_type,
        ArrowType::Int32
            | ArrowType::Int64
            | ArrowType::Date32
            | ArrowType::Timestamp(_, _)
            | ArrowType::Decimal128(..=18, _)
    )
}

/// How many rows from one on, of at most `most`, have texts of `room` bytes; at least one.
fn rows_within(array: &ArrayRef, from: usize, most: usize, room: usize) -> usize {
    let Ok(Texts { offsets, .. }) = Texts::of(array) else {
        return most;
    };
    let start = offsets[from] as usize;
    let ends = &offsets[from + 1..=from + most];
    let whole = ends.partition_point(|end| *end as usize - start < room);
    (whole + 1).min(most)
}

impl Page {
    fn value_bytes(&self) -> usize {
        match &self.values {
            Values::Narrow(numbers) => 4 * numbers.len(),
            Values::Wide(numbers) => 8 * numbers.len(),
            Values::Texts { bytes, .. } => bytes.len(),
            Values::Tails(tails) => tails.bytes.len(),
        }
    }

    fn add(&mut self, array: &ArrayRef, rows: Range<usize>) -> Result<()> {
        self.rows += rows.len();
        let array = array.slice(rows.start, rows.len());
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        match nulls {
            Some(nulls) => self.nulls.append_buffer(nulls),
            None => self.nulls.append_n_non_nulls(array.len()),
        }
        let bounds = match &mut self.values {
            Values::Narrow(numbers) => {
                let first = numbers.len();
                match array.data_type() {
                    ArrowType::Int32 => add_numbers::<Int32Type, _>(&array, |value| value, numbers),
                    ArrowType::Date32 => add_numbers::<Date32Type, _>(&array, |value| value, numbers),
                    ArrowType::Decimal128(_, _) => {
                        add_numbers::<Decimal128Type, _>(&array, |value| value as i32, numbers);
                    }
                    other => return Err(unknown(other)),
                }
                bounds_of(&numbers[first..])
            }
            Values::Wide(numbers) => {
                let first = numbers.len();
                add_wide(&array, numbers)?;
                bounds_of(&numbers[first..])
            }
            Values::Texts { lengths, bytes } => {
                let texts = Texts::of(&array)?;
                texts.for_each_run(|run| {
                    lengths.extend(
                        texts.offsets[run.start..=run.end]
                            .windows(2)
                            .map(|ends| ends[1] - ends[0]),
                    );
                    let (start, end) = (texts.offsets[run.start], texts.offsets[run.end]);
                    bytes.extend_from_slice(&texts.bytes[start as usize..end as usize]);
                });
                texts.bounds()
            }
            Values::Tails(tails) => {
                let texts = Texts::of(&array)?;
                tails.add(&texts);
                match self.rises {
                    true => texts.ends(),
                    false => texts.bounds(),
                }
            }
        };
        match (&mut self.bounds, bounds) {
            (Some(all), Some(bounds)) => all.add(&bounds),
            (all, bounds) => *all = all.take().or(bounds),
        }
        Ok(())
    }
}

impl Values {
    /// Encodes the values of a page and leaves none. Answers how many bytes texts had.
    fn take(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        match self {
            Self::Narrow(numbers) => {
                delta::encode(numbers, out);
                numbers.clear();
                None
            }
            Self::Wide(numbers) => {
                delta::encode(numbers, out);
                numbers.clear();
                None
            }
            Self::Texts { lengths, bytes } => {
                delta::encode(lengths, out);
                out.extend_from_slice(bytes);
                let count = bytes.len();
                lengths.clear();
                bytes.clear();
                Some(count)
            }
            Self::Tails(tails) => {
                delta::encode(&tails.shared, out);
                delta::encode(&tails.lengths, out);
                out.extend_from_slice(tails.bytes.bytes());
                tails.shared.clear();
                tails.lengths.clear();
                tails.bytes.clear();
                tails.last.clear();
                Some(std::mem::take(&mut tails.whole))
            }
        }
    }
}

fn add_numbers<T: ArrowPrimitiveType, N>(
    array: &ArrayRef,
    stored: impl Fn(T::Native) -> N,
    out: &mut Vec<N>,
) {
    let array = array.as_primitive::<T>();
    match array.null_count() {
        0 => out.extend(array.values().iter().map(|value| stored(*value))),
        _ => out.extend(array.iter().flatten().map(stored)),
    }
}

fn add_wide(array: &ArrayRef, out: &mut Vec<i64>) -> Result<()> {
    match array.data_type() {
        ArrowType::Int64 => add_numbers::<Int64Type, _>(array, |value| value, out),
        ArrowType::Decimal128(_, _) => add_numbers::<Decimal128Type, _>(array, |value| value as i64, out),
        ArrowType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => add_numbers::<TimestampSecondType, _>(array, |value| value, out),
            TimeUnit::Millisecond => add_numbers::<TimestampMillisecondType, _>(array, |value| value, out),
            TimeUnit::Microsecond => add_numbers::<TimestampMicrosecondType, _>(array, |value| value, out),
            TimeUnit::Nanosecond => add_numbers::<TimestampNanosecondType, _>(array, |value| value, out),
        },
        other => return Err(unknown(other)),
    }
    Ok(())
}

fn bounds_of<N: delta::Number>(numbers: &[N]) -> Option<Bounds> {
    let (min, max) = numbers.iter().min().zip(numbers.iter().max())?;
    Some(Bounds::Numbers((*min).into(), (*max).into()))
}

impl Tails {
    fn add(&mut self, texts: &Texts<'_>) {
        let last = std::mem::take(&mut self.last);
        let mut before = &last[..];
        texts.for_each_run(|run| {
            let (start, end) = (texts.offsets[run.start], texts.offsets[run.end]);
            self.whole += (end - start) as usize;
            self.bytes.make_room((end - start) as usize);
            let first = self.shared.len();
            self.shared.extend(run.clone().map(|row| {
                let text = texts.text(row);
                common_prefix(std::mem::replace(&mut before, text), text) as i32
            }));
            let ends = texts.offsets[run.start..=run.end].windows(2);
            for (ends, shared) in ends.zip(&self.shared[first..]) {
                self.lengths.push(ends[1] - ends[0] - shared);
                self.bytes
                    .push(texts.bytes, (ends[0] + shared) as usize..ends[1] as usize);
            }
        });
        self.last = before.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Date32Array, Decimal128Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };
    use parquet::{
        arrow::ArrowWriter,
        basic::Compression,
        file::{metadata::SortingColumn, properties::EnabledStatistics},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::testing_chunks::{by_arrow, check_same, schema};

    fn properties(encoding: Encoding, compression: Compression, sorted: bool) -> WriterProperties {
        let first = SortingColumn {
            column_idx: 0,
            descending: false,
            nulls_first: false,
        };
        WriterProperties::builder()
            .set_compression(compression)
            .set_encoding(encoding)
            .set_dictionary_enabled(false)
            .set_data_page_row_count_limit(16)
            .set_write_batch_size(16)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_sorting_columns(sorted.then(|| vec![first]))
            .build()
    }

    /// The file of one chunk to which the array came in parts.
    fn by_us(array: &ArrayRef, properties: WriterProperties, parts: &[usize]) -> Vec<u8> {
        let writer = ArrowWriter::try_new(Vec::new(), schema(array), Some(properties)).unwrap();
        let (mut file, _) = writer.into_serialized_writer().unwrap();
        let column = file.schema_descr().column(0);
        let mut compressor = PageCompressor::default();
        let mut chunk = DeltaChunk::new(0, column, array.data_type(), file.properties()).unwrap();
        let mut from = 0;
        for part in parts.iter().copied().chain([array.len()]) {
            let count = part.min(array.len() - from);
            chunk.write(&array.slice(from, count), &mut compressor).unwrap();
            from += count;
        }
        let chunk = chunk.finish(&mut compressor).unwrap();
        let mut group = file.next_row_group().unwrap();
        group.append_column(&chunk.bytes, chunk.description).unwrap();
        group.close().unwrap();
        file.into_inner().unwrap()
    }

    fn check(array: &ArrayRef, encoding: Encoding, compression: Compression, sorted: bool, parts: &[usize]) {
        let properties = || properties(encoding, compression, sorted);
        check_same(
            array,
            by_us(array, properties(), parts),
            by_arrow(array, properties()),
        );
    }

    fn texts() -> impl Strategy<Value = Vec<Option<String>>> {
        let text = prop_oneof![
            "[ab]{0,3}",
            "[a-z]{0,20}",
            "[é-ü]{30,40}",
            "a{60,70}[é𝄞]{0,3}b{0,9}"
        ];
        prop::collection::vec(prop::option::weighted(0.9, text), 1..100)
    }

    proptest! {
        #[test]
        fn texts_are_read_and_described_as_the_parquet_writer_has_them(
            texts in texts(),
            parts in prop::collection::vec(0_usize..40, 0..6),
            sorted in any::<bool>(),
        ) {
            let mut texts = texts;
            if sorted {
                // Where rows are in the order of a column, it has no nulls.
                texts = texts.into_iter().map(Option::unwrap_or_default).map(Some).collect();
                texts.sort();
            }
            let zstd = Compression::ZSTD(parquet::basic::ZstdLevel::default());
            let bytes = texts.iter().map(|text| text.as_ref().map(String::as_bytes));
            let bytes: ArrayRef = Arc::new(bytes.collect::<BinaryArray>());
            let texts: ArrayRef = Arc::new(texts.iter().collect::<StringArray>());
            for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
                check(&texts, encoding, zstd, sorted, &parts);
                check(&bytes, encoding, Compression::UNCOMPRESSED, sorted, &parts);
            }
        }

        #[test]
        fn numbers_are_read_and_described_as_the_parquet_writer_has_them(
            numbers in prop::collection::vec(prop::option::weighted(0.9, any::<i64>()), 1..400),
            shift in 0_u32..63,
            parts in prop::collection::vec(0_usize..40, 0..6),
        ) {
            let numbers: Vec<_> = numbers.iter().map(|number| number.map(|number| number >> shift)).collect();
            let narrow = || numbers.iter().map(|number| number.map(|number| number as i32));
            let decimals = |digits| {
                let most = 10_i128.pow(digits);
                let decimals = numbers.iter().map(|number| number.map(|number| i128::from(number) % most));
                let decimals = decimals.collect::<Decimal128Array>();
                decimals.with_precision_and_scale(digits as u8, 2).unwrap()
            };
            let arrays: [ArrayRef; 6] = [
                Arc::new(numbers.iter().copied().collect::<Int64Array>()),
                Arc::new(numbers.iter().copied().collect::<TimestampMicrosecondArray>()),
                Arc::new(narrow().collect::<Int32Array>()),
                Arc::new(narrow().collect::<Date32Array>()),
                Arc::new(decimals(9)),
                Arc::new(decimals(18)),
            ];
            for array in &arrays {
                check(array, Encoding::DELTA_BINARY_PACKED, Compression::UNCOMPRESSED, false, &parts);
            }
        }
    }

    #[test]
    fn a_page_ends_with_its_bytes() {
        let text = |row: usize| format!("{row:01000}");
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..64).map(text)));
        let properties = WriterProperties::builder()
            .set_encoding(Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_dictionary_enabled(false)
            .set_data_page_size_limit(4000)
            .set_statistics_enabled(EnabledStatistics::Page)
            .build();
        let (metadata, found) = crate::testing_chunks::read(by_us(&texts, properties, &[]));
        assert_eq!(found, [texts]);
        let pages = &metadata.offset_index().unwrap()[0][0];
        assert_eq!(pages.page_locations().len(), 16);
    }
}
