//! Reads and checks the footer of a Parquet file before anything trusts it.
//!
//! A footer is a Thrift structure, written by anybody. It is walked once to see that its lists are as long as they
//! say, since decoders reserve memory by those numbers, and that the schema in it is not deeper than their stack;
//! then every offset, size and count is compared with the object.

use std::sync::Arc;

use dormouse_core::Result;
use parquet::{
    basic::{Encoding, PageType},
    file::metadata::{
        ColumnChunkMetaData, FooterTail, PageEncodingStats, PageIndexPolicy, ParquetMetaData,
        ParquetMetaDataOptions, ParquetMetaDataReader,
    },
};

use crate::{
    object_reader::RemoteObject,
    thrift::{self, BINARY, I32, I64, Kinds, LIST, STRUCT},
};

const TAIL_BYTES: u64 = 64 << 10;
const FOOTER_BYTES: u64 = 8;

/// How deep a Parquet schema may be: a list takes three levels, and decoders call themselves for each.
const MAX_SCHEMA_DEPTH: usize = 128;

/// The metadata of `object`, checked. The page index comes along where it is asked for and present.
pub(crate) fn read_footer(object: &RemoteObject, page_index: bool) -> Result<Arc<ParquetMetaData>> {
    if object.bytes < FOOTER_BYTES + 4 {
        return Err(object.damaged(format!(
            "it has {} bytes, too few for a Parquet file",
            object.bytes
        )));
    }
    let tail_start = object.bytes.saturating_sub(TAIL_BYTES);
    let tail = object.fetch(tail_start..object.bytes)?;
    let mut last = [0; 8];
    last.copy_from_slice(&tail[tail.len() - 8..]);
    let footer = FooterTail::try_new(&last).map_err(|error| object.damaged(error))?;
    if footer.is_encrypted_footer() {
        return Err(object.damaged("it is encrypted"));
    }
    let length = footer.metadata_length() as u64;
    if length > object.bytes - FOOTER_BYTES - 4 {
        return Err(object.damaged(format!(
            "its footer claims {length} bytes of metadata, more than the file has"
        )));
    }
    let start = object.bytes - FOOTER_BYTES - length;
    let encoded = if start >= tail_start {
        let from = usize::try_from(start - tail_start).unwrap_or(usize::MAX);
        tail.slice(from..tail.len() - 8)
    } else {
        object.fetch(start..object.bytes - FOOTER_BYTES)?
    };
    thrift::check_struct(&encoded)
        .and_then(|()| check_schema_depth(&encoded))
        .map_err(|reason| object.damaged(format!("its footer {reason}")))?;
    // Whole, so that a row group that is copied keeps them.
    let mut options = ParquetMetaDataOptions::new();
    options.set_encoding_stats_as_mask(false);
    let mut metadata = ParquetMetaDataReader::decode_metadata_with_options(&encoded, Some(&options))
        .map_err(|error| object.damaged(error))?;
    check(&metadata, start)
        .and_then(|()| check_counts(&metadata, object))
        .map_err(|reason| object.damaged(reason))?;
    if page_index {
        metadata = read_page_index(object, metadata)?;
    }
    Ok(Arc::new(metadata))
}

/// Whether all data pages of a chunk have an encoding, as its footer says.
pub(crate) fn pages_are(chunk: &ColumnChunkMetaData, encoding: Encoding) -> bool {
    let is_data = |pages: &&PageEncodingStats| {
        pages.count > 0 && matches!(pages.page_type, PageType::DATA_PAGE | PageType::DATA_PAGE_V2)
    };
    chunk.page_encoding_stats().is_some_and(|pages| {
        let mut data = pages.iter().filter(is_data).peekable();
        data.peek().is_some() && data.all(|pages| pages.encoding == encoding)
    })
}

/// Fetches the page index, which lies between the last page and the footer.
fn read_page_index(object: &RemoteObject, metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    let columns = || metadata.row_groups().iter().flat_map(|group| group.columns());
    let first = columns()
        .flat_map(|column| [column.column_index_offset(), column.offset_index_offset()])
        .flatten()
        .filter_map(|offset| u64::try_from(offset).ok())
        .min();
    let Some(first) = first.filter(|first| *first < object.bytes) else {
        return Ok(metadata);
    };
    let bytes = object.fetch(first..object.bytes)?;
    let mut reader =
        ParquetMetaDataReader::new_with_metadata(metadata).with_page_index_policy(PageIndexPolicy::Optional);
    reader
        .read_page_indexes_sized(&bytes, object.bytes)
        .and_then(|()| reader.finish())
        .map_err(|error| object.damaged(error))
}

/// Compares every number with the file, whose data ends at `data_end`.
fn check(metadata: &ParquetMetaData, data_end: u64) -> Result<(), String> {
    let leaves = metadata.file_metadata().schema_descr().num_columns();
    let mut rows = 0_i64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let group_rows = group.num_rows();
        rows = (group_rows >= 0)
            .then(|| rows.checked_add(group_rows))
            .flatten()
            .ok_or_else(|| format!("row group {number} claims {group_rows} rows"))?;
        if group.num_columns() != leaves {
            return Err(format!(
                "row group {number} has {} of {leaves} columns",
                group.num_columns()
            ));
        }
        for column in group.columns() {
            check_column(column, group_rows, data_end).map_err(|reason| {
                format!("column {} of row group {number} {reason}", column.column_path())
            })?;
        }
    }
    if rows != metadata.file_metadata().num_rows() {
        return Err(format!(
            "its row groups have {rows} rows, the file claims {}",
            metadata.file_metadata().num_rows()
        ));
    }
    Ok(())
}

/// Checks that nobody's input makes more rows, or items of lists, of a byte than any data does: a run of a few bytes
/// can stand for billions.
fn check_counts(metadata: &ParquetMetaData, object: &RemoteObject) -> Result<(), String> {
    let most = object.most_values();
    let groups = metadata.row_groups().iter();
    let values = groups.flat_map(|group| group.columns().iter().map(ColumnChunkMetaData::num_values));
    let most_of_a_column = values.max().unwrap_or(0);
    let rows = metadata.file_metadata().num_rows();
    if rows.max(most_of_a_column) > most {
        return Err(format!(
            "it claims {rows} rows and up to {most_of_a_column} values of a column in a row group; \
             with {} bytes it may have {most}",
            object.bytes
        ));
    }
    Ok(())
}

fn check_column(column: &ColumnChunkMetaData, rows: i64, data_end: u64) -> Result<(), String> {
    if column.file_path().is_some_and(|path| !path.is_empty()) {
        return Err("is in another file".to_owned());
    }
    let data = column.data_page_offset();
    let start = column.dictionary_page_offset().unwrap_or(data);
    let end = start.checked_add(column.compressed_size());
    let inside = start >= 0
        && data >= 0
        && column.compressed_size() >= 0
        && end
            .and_then(|end| u64::try_from(end).ok())
            .is_some_and(|end| end <= data_end);
    if !inside {
        return Err("claims bytes that the file does not have".to_owned());
    }
    if column.uncompressed_size() < 0 {
        return Err("claims a negative size".to_owned());
    }
    let values = column.num_values();
    let flat = column.column_descr().max_rep_level() == 0;
    if values < 0 || (flat && values != rows) {
        return Err(format!("claims {values} values for {rows} rows"));
    }
    Ok(())
}

const FOOTER: &Kinds = &[(1, I32), (SCHEMA, LIST), (3, I64), (4, LIST)];
const SCHEMA: i16 = 2;

const SCHEMA_ELEMENT: &Kinds = &[
    (1, I32),
    (2, I32),
    (3, I32),
    (4, BINARY),
    (CHILDREN, I32),
    (6, I32),
    (7, I32),
    (8, I32),
    (9, I32),
    (10, STRUCT),
];
const CHILDREN: i16 = 5;

/// Checks how deep the schema is: a list of elements in preorder, each with the number of its children.
fn check_schema_depth(footer: &[u8]) -> Result<(), String> {
    // How many children are still to come of each element on the way down.
    let mut pending: Vec<i32> = Vec::new();
    thrift::for_each_field_of(&mut &footer[..], FOOTER, |id, kind, input| {
        if id != SCHEMA {
            return thrift::skip(input, kind);
        }
        let (count, kind) = thrift::take_list(input)?;
        if kind != STRUCT {
            return Err("has no schema".to_owned());
        }
        for _ in 0..count {
            let mut children = 0;
            thrift::for_each_field_of(input, SCHEMA_ELEMENT, |id, kind, input| {
                if id == CHILDREN {
                    children = thrift::take_i32(input)?;
                    return Ok(());
                }
                thrift::skip(input, kind)
            })?;
            while pending.last() == Some(&0) {
                pending.pop();
            }
            if let Some(left) = pending.last_mut() {
                *left -= 1;
            }
            if children > 0 {
                pending.push(children);
            }
            if pending.len() > MAX_SCHEMA_DEPTH {
                return Err(format!("has a schema more than {MAX_SCHEMA_DEPTH} deep"));
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer whose schema is these numbers of children.
    fn schema(children: &[u8]) -> Vec<u8> {
        let mut footer = vec![
            0x15,
            2,
            0x19,
            0xfc,
            children.len() as u8 | 0x80,
            (children.len() >> 7) as u8,
        ];
        for children in children {
            footer.extend([0x48, 1, b'a', 0x15, children * 2, 0]);
        }
        footer.push(0);
        footer
    }

    #[test]
    fn schemas_are_as_deep_as_elements_are_below_one_another() {
        let chain = [1; MAX_SCHEMA_DEPTH + 1];
        assert_eq!(check_schema_depth(&schema(&chain[1..])), Ok(()));
        let error = check_schema_depth(&schema(&chain)).unwrap_err();
        assert!(error.contains("128 deep"), "{error}");
        // Many groups side by side are not deep.
        let wide: Vec<u8> = std::iter::once(60).chain((0..60).flat_map(|_| [1, 0])).collect();
        assert_eq!(check_schema_depth(&schema(&wide)), Ok(()));
    }
}
