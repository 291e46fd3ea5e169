//! A column chunk of Parquet that is put together here, page by page, and what the footer and the page index say of
//! it.
//!
//! All that the Parquet writer says of a chunk and of its pages is said here too: statistics, page index, histograms
//! and sizes.

use std::cmp::Ordering;

use arrow::buffer::NullBuffer;
use bytes::Bytes;
use parquet::{
    basic::{
        BoundaryOrder, Compression, ConvertedType, Encoding, EncodingMask, LogicalType, Type as PhysicalType,
        ZstdLevel,
    },
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
    schema::types::{ColumnDescPtr, ColumnDescriptor},
};

use crate::{bounds, chunk_bytes::ChunkBytes, hybrid};

/// Whether values of a column are not inside others.
pub(crate) fn is_flat(column: &ColumnDescriptor) -> bool {
    column.max_rep_level() == 0 && column.max_def_level() <= 1 && column.path().parts().len() == 1
}

/// Whether chunks of a column may be put together here: its values are not inside others, of a kind known here, and
/// described by page.
pub(crate) fn is_writable(column: &ColumnDescPtr, properties: &WriterProperties) -> bool {
    let path = column.path();
    let is_stored = matches!(
        column.physical_type(),
        PhysicalType::BYTE_ARRAY | PhysicalType::INT32 | PhysicalType::INT64
    );
    let is_compressed = matches!(
        properties.compression(path),
        Compression::ZSTD(_) | Compression::UNCOMPRESSED
    );
    is_flat(column)
        && is_stored
        && is_compressed
        && properties.statistics_enabled(path) == EnabledStatistics::Page
}

/// A column chunk in memory, with its offsets from its own beginning.
pub(crate) struct ColumnChunk {
    pub(crate) bytes: ChunkBytes,
    pub(crate) description: ColumnCloseResult,
}

/// The smallest and the largest of some values, as Parquet stores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    Bytes(Vec<u8>, Vec<u8>),
    Numbers(i64, i64),
}

/// What is said of the values of a page.
pub(crate) struct PageFacts {
    pub(crate) rows: usize,
    pub(crate) nulls: usize,
    /// None without values.
    pub(crate) bounds: Option<Bounds>,
    /// How many bytes texts have; none of numbers.
    pub(crate) value_bytes: Option<usize>,
}

/// Compresses the pages of one chunk after the other.
#[derive(Default)]
pub(crate) struct PageCompressor {
    zstd: Option<(ZstdLevel, zstd::bulk::Compressor<'static>)>,
    buffer: Vec<u8>,
}

impl PageCompressor {
    /// A page's bytes as they are stored.
    pub(crate) fn stored(&mut self, page: &[u8], compression: Compression) -> Result<Bytes, ParquetError> {
        let Compression::ZSTD(level) = compression else {
            return Ok(Bytes::copy_from_slice(page));
        };
        let known = self.zstd.take().filter(|(known, _)| *known == level);
        let (_, zstd) = self.zstd.insert(match known {
            Some(known) => known,
            None => (level, zstd::bulk::Compressor::new(level.compression_level())?),
        });
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(page.len()));
        zstd.compress_to_buffer(page, &mut self.buffer)?;
        Ok(Bytes::copy_from_slice(&self.buffer))
    }
}

/// A chunk whose pages are appended in order.
pub(crate) struct ChunkWriter {
    column: ColumnDescPtr,
    compression: Compression,
    statistics_bytes: Option<usize>,
    index_bytes: Option<usize>,
    sink: TrackedWrite<ChunkBytes>,
    column_index: ColumnIndexBuilder,
    offset_index: OffsetIndexBuilder,
    /// Of the whole chunk.
    bounds: Option<Bounds>,
    /// Of the last page that has values.
    last: Option<Bounds>,
    rises: bool,
    falls: bool,
    rows: usize,
    nulls: usize,
    value_bytes: Option<usize>,
    levels: Option<LevelHistogram>,
    sizes: Sizes,
    dictionary: Option<u64>,
    data: Option<u64>,
    pages: Vec<PageEncodingStats>,
}

/// Bytes of pages, with their headers.
#[derive(Default)]
struct Sizes {
    compressed: i64,
    uncompressed: i64,
}

impl ChunkWriter {
    /// An empty chunk of a column that [`is_writable`].
    pub(crate) fn new(column: ColumnDescPtr, properties: &WriterProperties) -> Self {
        Self {
            compression: properties.compression(column.path()),
            statistics_bytes: properties.statistics_truncate_length(),
            index_bytes: properties.column_index_truncate_length(),
            sink: TrackedWrite::new(ChunkBytes::default()),
            column_index: ColumnIndexBuilder::new(column.physical_type()),
            offset_index: OffsetIndexBuilder::new(),
            bounds: None,
            last: None,
            rises: true,
            falls: true,
            rows: 0,
            nulls: 0,
            value_bytes: (column.physical_type() == PhysicalType::BYTE_ARRAY).then_some(0),
            levels: LevelHistogram::try_new(column.max_def_level()),
            sizes: Sizes::default(),
            dictionary: None,
            data: None,
            pages: Vec::new(),
            column,
        }
    }

    /// How the pages are compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Stores pages as they are.
    pub(crate) fn leave_uncompressed(&mut self) {
        self.compression = Compression::UNCOMPRESSED;
    }

    /// Begins a page: appends the definition levels of rows, where there are any.
    pub(crate) fn put_levels(&self, nulls: Option<&NullBuffer>, rows: usize, page: &mut Vec<u8>) {
        if self.column.max_def_level() > 0 {
            put_levels(nulls, rows, page);
        }
    }

    /// Appends the dictionary, which comes first.
    pub(crate) fn add_dictionary(
        &mut self,
        values: &[u8],
        count: usize,
        compressor: &mut PageCompressor,
    ) -> Result<(), ParquetError> {
        let page = Page::DictionaryPage {
            buf: compressor.stored(values, self.compression)?,
            num_values: count as u32,
            encoding: Encoding::PLAIN,
            // As all writers say; readers make nothing of it.
            is_sorted: false,
        };
        let written = self.write(CompressedPage::new(page, values.len()))?;
        self.dictionary = Some(written.offset);
        Ok(())
    }

    /// Appends a page, levels and values.
    pub(crate) fn add_page(
        &mut self,
        page: &[u8],
        encoding: Encoding,
        facts: PageFacts,
        compressor: &mut PageCompressor,
    ) -> Result<(), ParquetError> {
        let stored = compressor.stored(page, self.compression)?;
        self.sink.inner_mut().lend(stored.clone());
        let data = Page::DataPage {
            buf: stored,
            num_values: facts.rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let written = self.write(CompressedPage::new(data, page.len()))?;
        self.data.get_or_insert(written.offset);
        self.offset_index
            .append_offset_and_size(written.offset as i64, written.compressed_size as i32);
        self.describe(facts);
        Ok(())
    }

    fn write(&mut self, page: CompressedPage) -> Result<PageWriteSpec, ParquetError> {
        let (page_type, encoding) = (page.page_type(), page.encoding());
        let written = SerializedPageWriter::new(&mut self.sink).write_page(page)?;
        self.sizes.compressed += written.compressed_size as i64;
        self.sizes.uncompressed += written.uncompressed_size as i64;
        match self.pages.last_mut() {
            Some(last) if last.page_type == page_type && last.encoding == encoding => last.count += 1,
            _ => self.pages.push(PageEncodingStats {
                page_type,
                encoding,
                count: 1,
            }),
        }
        Ok(written)
    }

    fn describe(&mut self, facts: PageFacts) {
        let PageFacts {
            rows,
            nulls,
            bounds,
            value_bytes,
        } = facts;
        self.rows += rows;
        self.nulls += nulls;
        let (min, max) = match &bounds {
            Some(bounds) => self.stored_bounds(bounds),
            None => (Vec::new(), Vec::new()),
        };
        self.column_index.append(bounds.is_none(), min, max, nulls as i64);
        let mut levels = LevelHistogram::try_new(self.column.max_def_level());
        if let (Some(levels), Some(all)) = (&mut levels, &mut self.levels) {
            levels.increment_by(0, nulls as i64);
            levels.increment_by(1, (rows - nulls) as i64);
            all.add(levels);
        }
        self.column_index.append_histograms(&None, &levels);
        self.offset_index.append_row_count(rows as i64);
        self.offset_index
            .append_unencoded_byte_array_data_bytes(value_bytes.map(|bytes| bytes as i64));
        if let (Some(all), Some(bytes)) = (&mut self.value_bytes, value_bytes) {
            *all += bytes;
        }
        if let Some(bounds) = bounds {
            if let Some(last) = &self.last {
                let (min, max) = last.compare(&bounds);
                self.rises &= min.is_le() && max.is_le();
                self.falls &= min.is_ge() && max.is_ge();
            }
            match &mut self.bounds {
                Some(all) => all.add(&bounds),
                None => self.bounds = Some(bounds.clone()),
            }
            self.last = Some(bounds);
        }
    }

    /// What the page index says of the bounds of a page.
    fn stored_bounds(&self, bounds: &Bounds) -> (Vec<u8>, Vec<u8>) {
        let is_narrow = self.column.physical_type() == PhysicalType::INT32;
        let stored = |number: i64| match is_narrow {
            true => (number as i32).to_le_bytes().to_vec(),
            false => number.to_le_bytes().to_vec(),
        };
        match bounds {
            Bounds::Numbers(min, max) => (stored(*min), stored(*max)),
            Bounds::Bytes(min, max) => {
                let (min, max) = self.shortened(min, max, self.index_bytes);
                (min.0, max.0)
            }
        }
    }

    /// Bounds of at most so many bytes, each with whether it is a value as it was.
    fn shortened(&self, min: &[u8], max: &[u8], most: Option<usize>) -> ((Vec<u8>, bool), (Vec<u8>, bool)) {
        let is_text = matches!(self.column.logical_type_ref(), Some(LogicalType::String))
            || self.column.converted_type() == ConvertedType::UTF8;
        let most = most.unwrap_or(usize::MAX);
        (
            bounds::below(min, most, is_text),
            bounds::above(max, most, is_text),
        )
    }

    /// The statistics of all values.
    fn statistics(&self) -> Statistics {
        let nulls = Some(self.nulls as u64);
        let is_signed = self.column.sort_order().is_signed();
        let (text, numbers) = match &self.bounds {
            Some(Bounds::Bytes(min, max)) => (Some(self.shortened(min, max, self.statistics_bytes)), None),
            Some(Bounds::Numbers(min, max)) => (None, Some((*min, *max))),
            None => (None, None),
        };
        match self.column.physical_type() {
            PhysicalType::BYTE_ARRAY => {
                let (min, max) = text.unzip();
                let is_exact = |bound: &Option<(Vec<u8>, bool)>| bound.as_ref().is_none_or(|bound| bound.1);
                let exact = (is_exact(&min), is_exact(&max));
                let value = |bound: Option<(Vec<u8>, bool)>| bound.map(|bound| ByteArray::from(bound.0));
                let statistics = ValueStatistics::new(value(min), value(max), None, nulls, false)
                    .with_backwards_compatible_min_max(is_signed)
                    .with_min_is_exact(exact.0)
                    .with_max_is_exact(exact.1);
                Statistics::ByteArray(statistics)
            }
            PhysicalType::INT32 => {
                let (min, max) = numbers.map(|(min, max)| (min as i32, max as i32)).unzip();
                let statistics = ValueStatistics::new(min, max, None, nulls, false);
                Statistics::Int32(statistics.with_backwards_compatible_min_max(is_signed))
            }
            _ => {
                let (min, max) = numbers.unzip();
                let statistics = ValueStatistics::new(min, max, None, nulls, false);
                Statistics::Int64(statistics.with_backwards_compatible_min_max(is_signed))
            }
        }
    }

    /// The chunk.
    pub(crate) fn finish(mut self) -> Result<ColumnChunk, ParquetError> {
        SerializedPageWriter::new(&mut self.sink).close()?;
        let order = match (self.rises, self.falls) {
            (true, _) => BoundaryOrder::ASCENDING,
            (false, true) => BoundaryOrder::DESCENDING,
            (false, false) => BoundaryOrder::UNORDERED,
        };
        let encodings: Vec<Encoding> = self.pages.iter().map(|pages| pages.encoding).collect();
        let metadata = ColumnChunkMetaData::builder(self.column.clone())
            .set_compression(self.compression)
            .set_encodings_mask(EncodingMask::new_from_encodings(
                encodings.iter().chain([&Encoding::RLE]),
            ))
            .set_total_compressed_size(self.sizes.compressed)
            .set_total_uncompressed_size(self.sizes.uncompressed)
            .set_num_values(self.rows as i64)
            .set_dictionary_page_offset(self.dictionary.map(|offset| offset as i64))
            .set_data_page_offset(self.data.unwrap_or_default() as i64)
            .set_statistics(self.statistics())
            .set_unencoded_byte_array_data_bytes(self.value_bytes.map(|bytes| bytes as i64))
            .set_definition_level_histogram(self.levels)
            .set_page_encoding_stats(self.pages)
            .build()?;
        self.column_index.set_boundary_order(order);
        let description = ColumnCloseResult {
            bytes_written: self.sizes.compressed as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: Some(self.column_index.build()?),
            offset_index: Some(self.offset_index.build()),
        };
        Ok(ColumnChunk {
            bytes: self.sink.into_inner()?,
            description,
        })
    }
}

impl Bounds {
    /// Makes them those of other values, too.
    pub(crate) fn add(&mut self, other: &Self) {
        let (min, max) = self.compare(other);
        match (self, other) {
            (Self::Bytes(least, most), Self::Bytes(other_min, other_max)) => {
                if min.is_gt() {
                    least.clone_from(other_min);
                }
                if max.is_lt() {
                    most.clone_from(other_max);
                }
            }
            (Self::Numbers(least, most), Self::Numbers(other_min, other_max)) => {
                *least = (*least).min(*other_min);
                *most = (*most).max(*other_max);
            }
            _ => {}
        }
    }

    /// How the smallest ones compare, and the largest.
    fn compare(&self, other: &Self) -> (Ordering, Ordering) {
        match (self, other) {
            (Self::Bytes(min, max), Self::Bytes(other_min, other_max)) => {
                (min.cmp(other_min), max.cmp(other_max))
            }
            (Self::Numbers(min, max), Self::Numbers(other_min, other_max)) => {
                (min.cmp(other_min), max.cmp(other_max))
            }
            // A column has one kind of values.
            _ => (Ordering::Equal, Ordering::Equal),
        }
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
