//! Reads and checks the footer of a Parquet file before anything trusts it.
//!
//! A footer is a Thrift structure in the compact protocol
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>), written by anybody. It
//! is walked once to see that its lists are as long as they say, since decoders reserve memory by those numbers;
//! then every offset, size and count is compared with the object.

use std::sync::Arc;

use dormouse_core::Result;
use parquet::file::metadata::{
    ColumnChunkMetaData, FooterTail, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader,
};

use crate::object_reader::RemoteObject;

const TAIL_BYTES: u64 = 64 << 10;
const FOOTER_BYTES: u64 = 8;

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
    walk_struct(&mut &encoded[..], 0).map_err(|reason| object.damaged(reason))?;
    let mut metadata =
        ParquetMetaDataReader::decode_metadata(&encoded).map_err(|error| object.damaged(error))?;
    check(&metadata, start).map_err(|reason| object.damaged(reason))?;
    if page_index {
        metadata = read_page_index(object, metadata)?;
    }
    Ok(Arc::new(metadata))
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

const MAX_DEPTH: usize = 24;

fn take_byte(input: &mut &[u8]) -> Result<u8, String> {
    let (first, rest) = input.split_first().ok_or("its footer is cut short")?;
    *input = rest;
    Ok(*first)
}

fn take_varint(input: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("its footer holds a number that is too long".to_owned())
}

fn skip_bytes(input: &mut &[u8], count: u64) -> Result<(), String> {
    let count = usize::try_from(count).ok().filter(|count| *count <= input.len());
    *input = &input[count.ok_or("its footer is cut short")?..];
    Ok(())
}

fn walk_struct(input: &mut &[u8], depth: usize) -> Result<(), String> {
    loop {
        let header = take_byte(input)?;
        if header == 0 {
            return Ok(());
        }
        if header >> 4 == 0 {
            take_varint(input)?;
        }
        match header & 0x0f {
            1 | 2 => {}
            kind => walk_value(input, kind, depth)?,
        }
    }
}

fn walk_value(input: &mut &[u8], kind: u8, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("its footer is nested too deeply".to_owned());
    }
    match kind {
        1..=3 => skip_bytes(input, 1),
        4..=6 => take_varint(input).map(drop),
        7 => skip_bytes(input, 8),
        8 => {
            let length = take_varint(input)?;
            skip_bytes(input, length)
        }
        9 | 10 => {
            let header = take_byte(input)?;
            let count = match header >> 4 {
                15 => take_varint(input)?,
                short => u64::from(short),
            };
            if count > input.len() as u64 {
                return Err(format!("its footer claims a list of {count} entries"));
            }
            (0..count).try_for_each(|_| walk_value(input, header & 0x0f, depth + 1))
        }
        11 => {
            let count = take_varint(input)?;
            if count == 0 {
                return Ok(());
            }
            if count > input.len() as u64 {
                return Err(format!("its footer claims a map of {count} entries"));
            }
            let kinds = take_byte(input)?;
            (0..count).try_for_each(|_| {
                walk_value(input, kinds >> 4, depth + 1)?;
                walk_value(input, kinds & 0x0f, depth + 1)
            })
        }
        12 => walk_struct(input, depth + 1),
        other => Err(format!("its footer holds a value of unknown kind {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_longer_than_the_footer_is_refused() {
        // Field 4, a list of structs with a count of 2^28.
        let footer = [0x49, 0xfc, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00];
        let error = walk_struct(&mut &footer[..], 0).unwrap_err();
        assert!(error.contains("268435456 entries"), "{error}");
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let footer = [0x1c; 1000];
        assert!(walk_struct(&mut &footer[..], 0).unwrap_err().contains("deeply"));
    }

    #[test]
    fn a_footer_that_stops_early_is_refused() {
        assert!(
            walk_struct(&mut &[0x15][..], 0)
                .unwrap_err()
                .contains("cut short")
        );
    }
}
