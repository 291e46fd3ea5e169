//! Writes codes as a column chunk of Parquet: a dictionary page, and data pages of places in it.
//!
//! The dictionary is in the order of its values, so that the bounds of a page are those of its places.

use std::ops::Range;

use arrow::array::{Array, UInt32Array};
use dormouse_core::Result;
use parquet::{
    basic::{Compression, Encoding, Type as PhysicalType},
    errors::ParquetError,
    file::properties::WriterProperties,
    schema::types::ColumnDescPtr,
};

use crate::{
    column_chunk::{self, Bounds, ChunkWriter, ColumnChunk, PageCompressor, PageFacts},
    dictionary::{Dictionary, Values},
    hybrid,
    parquet_file::cannot_encode,
};

/// Longer values are cut short in statistics, which is left to the Parquet writer.
pub(crate) const MAX_VALUE_BYTES: usize = 64;
/// A dictionary has at most so many bytes.
const MAX_DICTIONARY_BYTES: usize = 1 << 20;
/// What is written for nothing in a dictionary.
const NO_PLACE: u32 = u32::MAX;

/// Whether a column's chunks may be written from codes: it is written with a dictionary, and its values are not inside
/// others.
pub(crate) fn is_writable(column: &ColumnDescPtr, properties: &WriterProperties) -> bool {
    column_chunk::is_writable(column, properties)
        && properties.dictionary_enabled(column.path())
        && matches!(properties.compression(column.path()), Compression::ZSTD(_))
}

/// Encodes a column's codes as a chunk; none when its values do not suit a dictionary.
pub(crate) fn encode(
    column: &ColumnDescPtr,
    properties: &WriterProperties,
    dictionary: &Dictionary,
    codes: &UInt32Array,
    compressor: &mut PageCompressor,
) -> Result<Option<ColumnChunk>> {
    let Some(sorted) = Sorted::new(dictionary.values(), codes) else {
        return Ok(None);
    };
    let mut chunk = Chunk {
        stored: column.physical_type(),
        sorted: &sorted,
        width: hybrid::bit_width(sorted.codes.len() as u32 - 1),
        chunk: ChunkWriter::new(column.clone(), properties),
        pages: Vec::new(),
    };
    let rows = properties.data_page_row_count_limit().max(1);
    for first in (0..codes.len()).step_by(rows) {
        chunk.add_page(codes, first..codes.len().min(first + rows));
    }
    chunk.finish(compressor).map(Some).map_err(cannot_encode)
}

/// The values of a chunk in order.
struct Sorted<'a> {
    values: &'a Values,
    /// The code of each.
    codes: Vec<u32>,
    /// The place of each code, if it has one.
    places: Vec<u32>,
    /// How many bytes each has.
    lengths: Vec<usize>,
}

impl<'a> Sorted<'a> {
    /// Those of some rows; none when they do not suit a dictionary.
    fn new(values: &'a Values, rows: &UInt32Array) -> Option<Self> {
        let mut places = vec![NO_PLACE; values.len()];
        match rows.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => rows.values().iter().for_each(|code| places[*code as usize] = 0),
            Some(_) => rows.iter().flatten().for_each(|code| places[code as usize] = 0),
        }
        let used = places.iter().zip(0..).filter(|(place, _)| **place != NO_PLACE);
        let mut codes: Vec<u32> = used.map(|(_, code)| code).collect();
        match values {
            Values::Bytes(values) => codes.sort_unstable_by_key(|code| values.value(*code)),
            Values::Numbers(values) => codes.sort_unstable_by_key(|code| *values.value(*code)),
        }
        for (place, code) in (0..).zip(&codes) {
            places[*code as usize] = place;
        }
        let lengths: Vec<usize> = match values {
            Values::Bytes(values) => codes.iter().map(|code| values.value(*code).len()).collect(),
            Values::Numbers(_) => vec![8; codes.len()],
        };
        let is_suited = !codes.is_empty()
            && lengths.iter().all(|length| *length <= MAX_VALUE_BYTES)
            && lengths.iter().map(|length| length + 4).sum::<usize>() <= MAX_DICTIONARY_BYTES;
        is_suited.then_some(Self {
            values,
            codes,
            places,
            lengths,
        })
    }

    /// Appends a value as Parquet stores it, without its length.
    fn put(&self, place: u32, stored: PhysicalType, out: &mut Vec<u8>) {
        let code = self.codes[place as usize];
        match (self.values, stored) {
            (Values::Bytes(values), _) => out.extend_from_slice(values.value(code)),
            (Values::Numbers(values), PhysicalType::INT32) => {
                out.extend_from_slice(&(*values.value(code) as i32).to_le_bytes());
            }
            (Values::Numbers(values), _) => out.extend_from_slice(&values.value(code).to_le_bytes()),
        }
    }

    /// The values of the smallest and the largest place; none without places.
    fn bounds(&self, places: &[u32]) -> Option<Bounds> {
        let (min, max) = places.iter().min().zip(places.iter().max())?;
        let code = |place: &u32| self.codes[*place as usize];
        Some(match self.values {
            Values::Bytes(values) => {
                let bytes = |place| values.value(code(place)).to_vec();
                Bounds::Bytes(bytes(min), bytes(max))
            }
            Values::Numbers(values) => Bounds::Numbers(*values.value(code(min)), *values.value(code(max))),
        })
    }

    /// All values, plain.
    fn plain(&self, stored: PhysicalType) -> Vec<u8> {
        let mut plain = Vec::new();
        for place in 0..self.codes.len() as u32 {
            if stored == PhysicalType::BYTE_ARRAY {
                plain.extend_from_slice(&(self.lengths[place as usize] as u32).to_le_bytes());
            }
            self.put(place, stored, &mut plain);
        }
        plain
    }
}

/// A chunk whose pages are encoded one after the other.
struct Chunk<'a> {
    stored: PhysicalType,
    sorted: &'a Sorted<'a>,
    width: u32,
    chunk: ChunkWriter,
    /// Pages that are not compressed yet.
    pages: Vec<(Vec<u8>, PageFacts)>,
}

impl Chunk<'_> {
    fn add_page(&mut self, codes: &UInt32Array, rows: Range<usize>) {
        let count = rows.len();
        let codes = codes.slice(rows.start, count);
        let mut page = Vec::new();
        self.chunk.put_levels(codes.nulls(), count, &mut page);
        let place = |code: u32| self.sorted.places[code as usize];
        let places: Vec<u32> = match codes.null_count() {
            0 => codes.values().iter().map(|code| place(*code)).collect(),
            _ => codes.iter().flatten().map(place).collect(),
        };
        page.push(self.width as u8);
        hybrid::encode(&places, self.width, &mut page);
        let facts = PageFacts {
            rows: count,
            nulls: count - places.len(),
            bounds: self.sorted.bounds(&places),
            value_bytes: (self.stored == PhysicalType::BYTE_ARRAY).then(|| {
                let lengths = places.iter().map(|place| self.sorted.lengths[*place as usize]);
                lengths.sum()
            }),
        };
        self.pages.push((page, facts));
    }

    /// Leaves compression out where it takes less than a tenth off the dictionary and the largest page.
    fn choose_compression(
        &mut self,
        dictionary: &[u8],
        compressor: &mut PageCompressor,
    ) -> Result<(), ParquetError> {
        let largest = self.pages.iter().max_by_key(|(page, _)| page.len());
        let largest = largest.map_or(&[][..], |(page, _)| page);
        let plain = dictionary.len() + largest.len() * self.pages.len();
        let mut stored = |bytes| compressor.stored(bytes, self.chunk.compression());
        let compressed = stored(dictionary)?.len() + stored(largest)?.len() * self.pages.len();
        if compressed * 10 > plain * 9 {
            self.chunk.leave_uncompressed();
        }
        Ok(())
    }

    fn finish(mut self, compressor: &mut PageCompressor) -> Result<ColumnChunk, ParquetError> {
        let values = self.sorted.plain(self.stored);
        self.choose_compression(&values, compressor)?;
        self.chunk
            .add_dictionary(&values, self.sorted.codes.len(), compressor)?;
        for (page, facts) in self.pages {
            self.chunk
                .add_page(&page, Encoding::RLE_DICTIONARY, facts, compressor)?;
        }
        self.chunk.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int64Array, StringArray,
            TimestampMicrosecondArray,
        },
        datatypes::DataType as ArrowType,
    };
    use parquet::{arrow::ArrowWriter, basic::ZstdLevel, file::properties::EnabledStatistics};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        dictionary::{Dictionaries, Translation},
        testing_chunks::{by_arrow, check_same, read, schema},
    };

    const PAGE_ROWS: usize = 16;

    fn properties() -> WriterProperties {
        WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_write_batch_size(PAGE_ROWS)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_dictionary_enabled(true)
            .build()
    }

    /// None when the values do not suit a dictionary.
    fn by_codes(array: &ArrayRef) -> Option<Vec<u8>> {
        let mut dictionaries = Dictionaries::new(std::iter::once(Some(array.data_type())));
        let dictionary = dictionaries.get_mut(0).unwrap();
        let codes = dictionary.encode(array, &mut Translation::default()).unwrap();
        let writer = ArrowWriter::try_new(Vec::new(), schema(array), Some(properties())).unwrap();
        let (mut file, _) = writer.into_serialized_writer().unwrap();
        let column = file.schema_descr().column(0);
        let properties = file.properties().clone();
        assert!(is_writable(&column, &properties));
        let mut compressor = PageCompressor::default();
        let chunk = encode(&column, &properties, dictionary, &codes, &mut compressor).unwrap()?;
        let mut group = file.next_row_group().unwrap();
        group.append_column(&chunk.bytes, chunk.description).unwrap();
        group.close().unwrap();
        Some(file.into_inner().unwrap())
    }

    fn check(array: &ArrayRef) {
        check_same(array, by_codes(array).unwrap(), by_arrow(array, properties()));
    }

    fn column(kind: usize, rows: &[Option<u8>]) -> ArrayRef {
        let rows = rows.iter().copied();
        let numbers = rows
            .clone()
            .map(|row| row.map(|row| i64::from(row) * 1_000_003 - 4_000_000));
        match kind {
            0 => Arc::new(
                rows.map(|row| row.map(|row| "é".repeat(row as usize)))
                    .collect::<StringArray>(),
            ),
            1 => Arc::new(
                rows.map(|row| row.map(|row| vec![row ^ 0xf0; 3]))
                    .collect::<BinaryArray>(),
            ),
            2 => Arc::new(numbers.collect::<Int64Array>()),
            3 => Arc::new(
                numbers
                    .map(|number| Some(number? as i32))
                    .collect::<Date32Array>(),
            ),
            4 => Arc::new(numbers.collect::<TimestampMicrosecondArray>()),
            digits => {
                let numbers = numbers
                    .map(|number| number.map(i128::from))
                    .collect::<Decimal128Array>();
                let digits = if digits == 5 { 9 } else { 18 };
                Arc::new(numbers.with_precision_and_scale(digits, 2).unwrap())
            }
        }
    }

    proptest! {
        #[test]
        fn a_chunk_is_read_and_described_as_the_parquet_writer_has_it(
            kind in 0_usize..7,
            few in prop::collection::vec((prop::option::weighted(0.9, 0_u8..9), 1_usize..20), 1..20),
        ) {
            let runs = few.iter().map(|(value, run)| vec![*value; *run]);
            let mut rows: Vec<Option<u8>> = runs.flatten().collect();
            rows.push(Some(3));
            check(&column(kind, &rows));
        }
    }

    #[test]
    fn the_order_of_pages_is_told() {
        let rising: Vec<_> = (0..64_u8).map(|row| Some(row / 8)).collect();
        let falling: Vec<_> = rising.iter().rev().copied().collect();
        let same = [Some(1); 64];
        let with_nulls: Vec<_> = rising
            .iter()
            .map(|row| row.filter(|row| !(2..6).contains(row)))
            .collect();
        for rows in [&rising[..], &falling, &same, &with_nulls] {
            check(&column(0, rows));
            check(&column(2, rows));
        }
    }

    #[test]
    fn pages_are_compressed_where_that_pays() {
        let compression = |array: &ArrayRef| {
            read(by_codes(array).unwrap())
                .0
                .row_group(0)
                .column(0)
                .compression()
        };
        // A long dictionary, and places of more than eight bits that repeat each other.
        let words = |row: usize| Some(format!("a word of some length, number {}", row % 300));
        let words: ArrayRef = Arc::new((0..9000).map(words).collect::<StringArray>());
        check(&words);
        assert!(matches!(compression(&words), Compression::ZSTD(_)));
        let scattered = |row: u64| Some((row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as i64);
        let scattered: ArrayRef = Arc::new((0..9000).map(scattered).collect::<Int64Array>());
        check(&scattered);
        assert_eq!(compression(&scattered), Compression::UNCOMPRESSED);
    }

    #[test]
    fn what_suits_no_dictionary_is_left_to_others() {
        let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(65)]));
        let nothing: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; 3]));
        let many: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
        for array in [long, nothing, many] {
            assert!(by_codes(&array).is_none());
        }
        let fits: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(64)]));
        assert!(by_codes(&fits).is_some());
        assert_eq!(*fits.data_type(), ArrowType::Utf8);
    }
}
