//! The pages of a row group, checked once more after they are decompressed.
//!
//! Decoders of text with delta encodings reserve memory for as many lengths as the page's bytes claim, and a
//! reservation that fails ends the process. The encodings are
//! <https://github.com/apache/parquet-format/blob/master/Encodings.md#delta-encoding-delta_binary_packed--5> and
//! the two after it.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::{
    arrow::arrow_reader::RowGroups,
    basic::Encoding,
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        serialized_reader::SerializedPageReader,
    },
};

use crate::{object_reader::RowGroupBytes, varint::take_varint};

/// One row group, whose bytes are read as pages are asked for.
pub(crate) struct CheckedRowGroup {
    pub(crate) bytes: RowGroupBytes,
    pub(crate) metadata: Arc<ParquetMetaData>,
    pub(crate) row_group: usize,
}

impl CheckedRowGroup {
    fn group(&self) -> &RowGroupMetaData {
        self.metadata.row_group(self.row_group)
    }

    /// What the footer says of a chunk.
    pub(crate) fn chunk(&self, column: usize) -> &ColumnChunkMetaData {
        self.group().column(column)
    }

    /// The pages of a chunk.
    pub(crate) fn pages(&self, column: usize) -> Result<Box<dyn PageReader>> {
        let chunk = self.chunk(column);
        let locations = self
            .metadata
            .offset_index()
            .and_then(|index| index.get(self.row_group)?.get(column))
            .map(|index| index.page_locations.clone())
            .filter(|locations| !locations.is_empty());
        Ok(Box::new(CheckedPages {
            inner: SerializedPageReader::new(
                Arc::new(self.bytes.clone()),
                chunk,
                self.num_rows(),
                locations,
            )?,
            max_levels: [
                chunk.column_descr().max_rep_level(),
                chunk.column_descr().max_def_level(),
            ],
        }))
    }
}

impl RowGroups for CheckedRowGroup {
    fn num_rows(&self) -> usize {
        usize::try_from(self.group().num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        let pages = self.pages(column)?;
        Ok(Box::new(OneChunk(Some(pages))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.group()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

struct OneChunk(Option<Box<dyn PageReader>>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneChunk {}

struct CheckedPages {
    inner: SerializedPageReader<RowGroupBytes>,
    /// Of repetition and definition.
    max_levels: [i16; 2],
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        if let Some(page) = &page {
            check_lengths(page, self.max_levels).map_err(ParquetError::General)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

/// Checks that a page does not claim more lengths of texts than it has values. What ends early or is otherwise
/// wrong is left to the decoder.
fn check_lengths(page: &Page, max_levels: [i16; 2]) -> Result<(), String> {
    let streams = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let Some(mut values) = values_of(page, max_levels) else {
        return Ok(());
    };
    for _ in 0..streams {
        let Some(lengths) = skip_packed(&mut values, page.num_values()) else {
            return Ok(());
        };
        if lengths > u64::from(page.num_values()) {
            return Err(format!(
                "a page of {} values claims {lengths} lengths",
                page.num_values()
            ));
        }
    }
    Ok(())
}

/// The definition levels of a page of a column without lists, as runs and packed bits; none when they are not all
/// there, or are written in another way.
pub(crate) fn levels_of(page: &Page) -> Option<Bytes> {
    let buffer = page.buffer();
    let range = match page {
        Page::DataPage {
            def_level_encoding: Encoding::RLE,
            ..
        } => {
            let length = buffer.first_chunk().map(|length| u32::from_le_bytes(*length))?;
            4..4_usize.checked_add(length as usize)?
        }
        Page::DataPageV2 {
            def_levels_byte_len, ..
        } => 0..*def_levels_byte_len as usize,
        _ => return None,
    };
    (range.end <= buffer.len()).then(|| buffer.slice(range))
}

/// The bytes of a page behind its levels; none when they are not all there.
pub(crate) fn values_of(page: &Page, max_levels: [i16; 2]) -> Option<Bytes> {
    let mut bytes = page.buffer().clone();
    let mut skip = |count: usize| (count <= bytes.len()).then(|| bytes.advance(count));
    match page {
        Page::DataPage {
            num_values,
            def_level_encoding,
            rep_level_encoding,
            ..
        } => {
            let buffer = page.buffer();
            let mut at = 0;
            for (max_level, encoding) in max_levels
                .into_iter()
                .zip([rep_level_encoding, def_level_encoding])
            {
                if max_level <= 0 {
                    continue;
                }
                let count = if *encoding == Encoding::RLE {
                    let length = buffer.get(at..at + 4)?.try_into().ok()?;
                    4 + u32::from_le_bytes(length) as usize
                } else {
                    let bits = 16 - max_level.leading_zeros() as usize;
                    (*num_values as usize * bits).div_ceil(8)
                };
                at += count;
                skip(count)?;
            }
        }
        Page::DataPageV2 {
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => skip(*def_levels_byte_len as usize + *rep_levels_byte_len as usize)?,
        Page::DictionaryPage { .. } => {}
    }
    Some(bytes)
}

/// Skips a packed sequence of numbers of which no more than `most` are walked over; answers how many it claims, or
/// none when it is not all there.
fn skip_packed(bytes: &mut Bytes, most: u32) -> Option<u64> {
    let block = take_varint(bytes)?;
    let parts = take_varint(bytes)?;
    let count = take_varint(bytes)?;
    take_varint(bytes)?;
    let part = usize::try_from(block.checked_div(parts)?).ok()?;
    let parts = usize::try_from(parts).ok()?;
    if part == 0 || count > u64::from(most) {
        return Some(count);
    }
    let mut left = usize::try_from(count).ok()?.saturating_sub(1);
    while left > 0 {
        take_varint(bytes)?;
        if parts > bytes.len() {
            return None;
        }
        let widths = bytes.split_to(parts);
        let mut packed = 0_usize;
        for width in widths {
            if left > 0 {
                packed = packed.checked_add(part.checked_mul(width.into())? / 8)?;
            }
            left = left.saturating_sub(part);
        }
        if packed > bytes.len() {
            return None;
        }
        bytes.advance(packed);
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(encoding: Encoding, values: u32, bytes: &[u8]) -> Page {
        Page::DataPage {
            buf: Bytes::copy_from_slice(bytes),
            num_values: values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    /// Three numbers in a block of 128, in four parts of which one is used, one bit wide.
    const THREE: [u8; 13] = [0x80, 1, 4, 3, 0, 0, 1, 9, 9, 9, 0, 0, 0];

    #[test]
    fn both_streams_of_lengths_are_checked_behind_the_levels() {
        let packed = [&THREE[..], &[0]].concat();
        let twice = [&packed[..], &packed[..]].concat();
        let is_right = |values, bytes: &[u8], levels| {
            check_lengths(&page(Encoding::DELTA_BYTE_ARRAY, values, bytes), levels).is_ok()
        };
        assert!(is_right(3, &twice, [0, 0]));
        assert!(!is_right(2, &twice, [0, 0]));
        let mut second = twice.clone();
        second[packed.len() + 3] = 4;
        assert!(!is_right(3, &second, [0, 0]));
        let levels = [&[1, 0, 0, 0, 7][..], &second].concat();
        assert!(!is_right(3, &levels, [0, 1]));
        assert!(is_right(4, &levels, [0, 1]));
    }
}
