//! Writes codes as a column chunk of Parquet: a dictionary page, and data pages of places in it.
//!
//! The dictionary is in the order of its values, so that the bounds of a page are those of its places. What the
//! Parquet writer says of a chunk and of its pages is said here too: statistics, page index, histograms and sizes.

use std::{cmp::Ordering, ops::Range};

use arrow::{
    array::{Array, UInt32Array},
    buffer::NullBuffer,
};
use bytes::Bytes;
use dormouse_core::{Error, Result};
use parquet::{
    basic::{BoundaryOrder, Compression, Encoding, EncodingMask, PageType, Type as PhysicalType, ZstdLevel},
    column::{
        page::{CompressedPage, Page, PageWriteSpec, PageWriter},
        writer::ColumnCloseResult,
    },
    data_type::ByteArray,
    errors::ParquetError,
    file::{
        metadata::{
            ColumnChunkMetaData, ColumnIndexBuilder, LevelHistogram, OffsetIndexBuilder, PageEncodingStats,
        },
        properties::{EnabledStatistics, WriterProperties},
        statistics::{Statistics, ValueStatistics},
        writer::{SerializedPageWriter, TrackedWrite},
    },
    schema::types::ColumnDescPtr,
};

use crate::{
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
    let path = column.path();
    let is_flat = column.max_rep_level() == 0 && column.max_def_level() <= 1 && path.parts().len() == 1;
    let is_stored = matches!(
        column.physical_type(),
        PhysicalType::BYTE_ARRAY | PhysicalType::INT32 | PhysicalType::INT64
    );
    is_flat
        && is_stored
        && properties.dictionary_enabled(path)
        && properties.statistics_enabled(path) == EnabledStatistics::Page
        && matches!(properties.compression(path), Compression::ZSTD(_))
}

/// A column chunk in memory, with its offsets from its own beginning.
pub(crate) struct DictionaryChunk {
    pub(crate) bytes: Bytes,
    pub(crate) description: ColumnCloseResult,
}

/// Compresses the pages of one chunk after the other.
#[derive(Default)]
pub(crate) struct PageCompressor(Option<(ZstdLevel, zstd::bulk::Compressor<'static>)>);

impl PageCompressor {
    fn of_level(&mut self, level: ZstdLevel) -> Result<&mut zstd::bulk::Compressor<'static>> {
        let known = self.0.take().filter(|(known, _)| *known == level);
        let compressor = match known {
            Some((_, compressor)) => compressor,
            None => zstd::bulk::Compressor::new(level.compression_level()).map_err(cannot_compress)?,
        };
        Ok(&mut self.0.insert((level, compressor)).1)
    }
}

/// Encodes a column's codes as a chunk; none when its values do not suit a dictionary.
pub(crate) fn encode(
    column: &ColumnDescPtr,
    properties: &WriterProperties,
    dictionary: &Dictionary,
    codes: &UInt32Array,
    compressor: &mut PageCompressor,
) -> Result<Option<DictionaryChunk>> {
    let Some(sorted) = Sorted::new(dictionary.values(), codes) else {
        return Ok(None);
    };
    let Compression::ZSTD(level) = properties.compression(column.path()) else {
        return Ok(None);
    };
    let mut chunk = Chunk {
        column,
        sorted: &sorted,
        width: hybrid::bit_width(sorted.codes.len() as u32 - 1),
        compression: properties.compression(column.path()),
        compressor: compressor.of_level(level)?,
        pages: Vec::new(),
        bounds: Vec::new(),
        column_index: ColumnIndexBuilder::new(column.physical_type()),
        offset_index: OffsetIndexBuilder::new(),
        nulls: 0,
        value_bytes: 0,
        levels: LevelHistogram::try_new(column.max_def_level()),
    };
    let rows = properties.data_page_row_count_limit().max(1);
    for first in (0..codes.len()).step_by(rows) {
        chunk.add_page(codes, first..codes.len().min(first + rows));
    }
    chunk.finish(codes.len()).map(Some).map_err(cannot_encode)
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

    fn bytes(&self, place: u32, stored: PhysicalType) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(place, stored, &mut bytes);
        bytes
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
    column: &'a ColumnDescPtr,
    sorted: &'a Sorted<'a>,
    width: u32,
    compression: Compression,
    compressor: &'a mut zstd::bulk::Compressor<'static>,
    /// Pages that are not compressed yet, each with its rows.
    pages: Vec<(Vec<u8>, usize)>,
    /// The smallest and the largest place in each page that has values.
    bounds: Vec<(u32, u32)>,
    column_index: ColumnIndexBuilder,
    offset_index: OffsetIndexBuilder,
    nulls: u64,
    value_bytes: usize,
    levels: Option<LevelHistogram>,
}

impl Chunk<'_> {
    fn add_page(&mut self, codes: &UInt32Array, rows: Range<usize>) {
        let count = rows.len();
        let codes = codes.slice(rows.start, count);
        let mut page = Vec::new();
        if self.column.max_def_level() > 0 {
            put_levels(codes.nulls(), count, &mut page);
        }
        let place = |code: u32| self.sorted.places[code as usize];
        let places: Vec<u32> = match codes.null_count() {
            0 => codes.values().iter().map(|code| place(*code)).collect(),
            _ => codes.iter().flatten().map(place).collect(),
        };
        page.push(self.width as u8);
        hybrid::encode(&places, self.width, &mut page);
        self.describe(&places, count);

        self.pages.push((page, count));
    }

    /// Leaves compression out where it takes less than a tenth off the dictionary and the largest page.
    fn choose_compression(&mut self, dictionary: &[u8]) -> Result<(), ParquetError> {
        let largest = self.pages.iter().max_by_key(|(page, _)| page.len());
        let largest = largest.map_or(&[][..], |(page, _)| page);
        let plain = dictionary.len() + largest.len() * self.pages.len();
        let compressed = self.compressor.compress(dictionary)?.len()
            + self.compressor.compress(largest)?.len() * self.pages.len();
        if compressed * 10 > plain * 9 {
            self.compression = Compression::UNCOMPRESSED;
        }
        Ok(())
    }

    /// A page's bytes as they are stored.
    fn stored(&mut self, page: Vec<u8>) -> Result<Bytes, ParquetError> {
        Ok(match self.compression {
            Compression::UNCOMPRESSED => page.into(),
            _ => self.compressor.compress(&page)?.into(),
        })
    }

    /// Takes down what a page has: the places of its values, in so many rows.
    fn describe(&mut self, places: &[u32], rows: usize) {
        let nulls = rows - places.len();
        self.nulls += nulls as u64;
        let stored = self.column.physical_type();
        let bounds = places.iter().copied().min().zip(places.iter().copied().max());
        let (min, max) = match bounds {
            Some((min, max)) => (self.sorted.bytes(min, stored), self.sorted.bytes(max, stored)),
            None => (Vec::new(), Vec::new()),
        };
        self.column_index.append(bounds.is_none(), min, max, nulls as i64);
        self.bounds.extend(bounds);
        let mut levels = LevelHistogram::try_new(self.column.max_def_level());
        if let (Some(levels), Some(all)) = (&mut levels, &mut self.levels) {
            levels.increment_by(0, nulls as i64);
            levels.increment_by(1, places.len() as i64);
            all.add(levels);
        }
        self.column_index.append_histograms(&None, &levels);
        self.offset_index.append_row_count(rows as i64);
        if stored == PhysicalType::BYTE_ARRAY {
            let lengths = places.iter().map(|place| self.sorted.lengths[*place as usize]);
            let bytes: usize = lengths.sum();
            self.value_bytes += bytes;
            self.offset_index
                .append_unencoded_byte_array_data_bytes(Some(bytes as i64));
        }
    }

    fn finish(mut self, rows: usize) -> Result<DictionaryChunk, ParquetError> {
        let stored = self.column.physical_type();
        let plain = self.sorted.plain(stored);
        self.choose_compression(&plain)?;
        let size = plain.len();
        let dictionary = Page::DictionaryPage {
            buf: self.stored(plain)?,
            num_values: self.sorted.codes.len() as u32,
            encoding: Encoding::PLAIN,
            // As all writers say; readers make nothing of it.
            is_sorted: false,
        };
        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        let mut sizes = Sizes::default();
        let dictionary = writer.write_page(CompressedPage::new(dictionary, size))?;
        sizes.add(&dictionary);
        let mut first = None;
        let pages = std::mem::take(&mut self.pages);
        let page_count = pages.len() as i32;
        for (page, count) in pages {
            let size = page.len();
            let page = Page::DataPage {
                buf: self.stored(page)?,
                num_values: count as u32,
                encoding: Encoding::RLE_DICTIONARY,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let page = writer.write_page(CompressedPage::new(page, size))?;
            sizes.add(&page);
            first.get_or_insert(page.offset as i64);
            self.offset_index
                .append_offset_and_size(page.offset as i64, page.compressed_size as i32);
        }
        writer.close()?;
        let statistics = |page_type, encoding, count| PageEncodingStats {
            page_type,
            encoding,
            count,
        };
        let encodings = [Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY];
        let is_text = stored == PhysicalType::BYTE_ARRAY;
        let metadata = ColumnChunkMetaData::builder(self.column.clone())
            .set_compression(self.compression)
            .set_encodings_mask(EncodingMask::new_from_encodings(encodings.iter()))
            .set_page_encoding_stats(vec![
                statistics(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1),
                statistics(PageType::DATA_PAGE, Encoding::RLE_DICTIONARY, page_count),
            ])
            .set_total_compressed_size(sizes.compressed)
            .set_total_uncompressed_size(sizes.uncompressed)
            .set_num_values(rows as i64)
            .set_dictionary_page_offset(Some(dictionary.offset as i64))
            .set_data_page_offset(first.unwrap_or_default())
            .set_statistics(bounds_of(self.column, self.sorted, self.nulls))
            .set_unencoded_byte_array_data_bytes(is_text.then_some(self.value_bytes as i64))
            .set_definition_level_histogram(self.levels)
            .build()?;
        self.column_index.set_boundary_order(order(&self.bounds));
        let description = ColumnCloseResult {
            bytes_written: sizes.compressed as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: Some(self.column_index.build()?),
            offset_index: Some(self.offset_index.build()),
        };
        Ok(DictionaryChunk {
            bytes: sink.into_inner()?.into(),
            description,
        })
    }
}

/// Bytes of pages, with their headers.
#[derive(Default)]
struct Sizes {
    compressed: i64,
    uncompressed: i64,
}

impl Sizes {
    fn add(&mut self, page: &PageWriteSpec) {
        self.compressed += page.compressed_size as i64;
        self.uncompressed += page.uncompressed_size as i64;
    }
}

/// Appends the definition levels of rows: 1 where there is a value.
fn put_levels(nulls: Option<&NullBuffer>, rows: usize, out: &mut Vec<u8>) {
    let levels: Vec<u32> = match nulls {
        Some(nulls) => nulls.iter().map(u32::from).collect(),
        None => vec![1; rows],
    };
    let mut encoded = Vec::new();
    hybrid::encode(&levels, 1, &mut encoded);
    out.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
    out.extend_from_slice(&encoded);
}

/// The statistics of all values.
fn bounds_of(column: &ColumnDescPtr, sorted: &Sorted<'_>, nulls: u64) -> Statistics {
    let largest = sorted.codes.len() as u32 - 1;
    let (min, max) = (sorted.codes[0], sorted.codes[largest as usize]);
    let nulls = Some(nulls);
    let is_signed = column.sort_order().is_signed();
    match (sorted.values, column.physical_type()) {
        (Values::Bytes(values), _) => {
            let value = |code| Some(ByteArray::from(values.value(code).to_vec()));
            let statistics = ValueStatistics::new(value(min), value(max), None, nulls, false);
            Statistics::ByteArray(statistics.with_backwards_compatible_min_max(is_signed))
        }
        (Values::Numbers(values), PhysicalType::INT32) => {
            let value = |code| Some(*values.value(code) as i32);
            let statistics = ValueStatistics::new(value(min), value(max), None, nulls, false);
            Statistics::Int32(statistics.with_backwards_compatible_min_max(is_signed))
        }
        (Values::Numbers(values), _) => {
            let value = |code| Some(*values.value(code));
            let statistics = ValueStatistics::new(value(min), value(max), None, nulls, false);
            Statistics::Int64(statistics.with_backwards_compatible_min_max(is_signed))
        }
    }
}

fn cannot_compress(error: std::io::Error) -> Error {
    Error::internal("cannot compress a page").with_source(error)
}

/// How the bounds of pages follow each other.
fn order(bounds: &[(u32, u32)]) -> BoundaryOrder {
    let all = |order: Ordering| {
        let mut pairs = bounds.windows(2);
        pairs.all(|pair| {
            let (one, next) = (pair[0], pair[1]);
            next.0.cmp(&one.0) != order && next.1.cmp(&one.1) != order
        })
    };
    if all(Ordering::Less) {
        BoundaryOrder::ASCENDING
    } else if all(Ordering::Greater) {
        BoundaryOrder::DESCENDING
    } else {
        BoundaryOrder::UNORDERED
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray,
            TimestampMicrosecondArray,
        },
        datatypes::{DataType as ArrowType, Field, Schema, SchemaRef},
    };
    use parquet::{
        arrow::{
            ArrowWriter,
            arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
        },
        file::metadata::{PageIndexPolicy, ParquetMetaData},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::dictionary::{Dictionaries, Translation};

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

    fn schema(array: &ArrayRef) -> SchemaRef {
        let field = Field::new("v", array.data_type().clone(), array.null_count() > 0);
        Arc::new(Schema::new(vec![field]))
    }

    fn by_arrow(array: &ArrayRef) -> Vec<u8> {
        let batch = RecordBatch::try_new(schema(array), vec![array.clone()]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema(array), Some(properties())).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
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

    fn read(bytes: Vec<u8>) -> (ParquetMetaData, Vec<ArrayRef>) {
        let bytes = Bytes::from(bytes);
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata = ArrowReaderMetadata::load(&bytes, options).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata.clone());
        let batches = reader.with_batch_size(1 << 20).build().unwrap();
        let arrays = batches.map(|batch| batch.unwrap().column(0).clone());
        (metadata.metadata().as_ref().clone(), arrays.collect())
    }

    /// What a file says of its one chunk, but where it is and how large.
    fn said(file: &ParquetMetaData) -> String {
        let chunk = file.row_group(0).column(0);
        let pages = &file.offset_index().unwrap()[0][0];
        let rows: Vec<i64> = pages
            .page_locations()
            .iter()
            .map(|page| page.first_row_index)
            .collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {rows:?} {:?}",
            chunk.page_encoding_stats_mask(),
            chunk.statistics(),
            chunk.num_values(),
            chunk.encodings().collect::<Vec<_>>(),
            chunk.unencoded_byte_array_data_bytes(),
            chunk.definition_level_histogram(),
            pages.unencoded_byte_array_data_bytes(),
            file.column_index().unwrap()[0][0],
        )
    }

    fn check(array: &ArrayRef) {
        let (expected, _) = read(by_arrow(array));
        let (found, arrays) = read(by_codes(array).unwrap());
        assert_eq!(arrays, std::slice::from_ref(array));
        assert_eq!(said(&found), said(&expected));
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
