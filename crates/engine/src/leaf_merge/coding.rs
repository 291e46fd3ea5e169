//! Which columns of a piece go through its merge as codes, and what their codes stand for.

use std::{cell::RefCell, ops::Range};

use parquet::{
    basic::{Encoding, Type as PhysicalType},
    file::metadata::ColumnChunkMetaData,
};

use super::source::MergeFile;
use crate::{
    dictionary::Dictionaries, dictionary_chunk::MAX_VALUE_BYTES, footer::pages_are, input::Input,
    parquet_file::flat_leaf, table::TableSchema,
};

/// The dictionaries that a column has in all row groups of a piece have so many bytes at most, as they are stored.
const MAX_STORED_BYTES: u64 = 1 << 20;

/// A piece with codes in some columns.
pub(super) struct CodedPiece {
    pub(super) columns: Vec<usize>,
    /// The table with codes in those columns.
    pub(super) table: TableSchema,
    /// All inputs of the merge, as they are read for codes.
    pub(super) inputs: Vec<Input>,
    pub(super) dictionaries: RefCell<Dictionaries>,
}

impl CodedPiece {
    /// The piece with codes in those of the `codable` columns that all its row groups have in dictionaries; none
    /// without such a column.
    pub(super) fn new(
        table: &TableSchema,
        codable: &[usize],
        files: &[MergeFile],
        row_groups: &[Range<usize>],
    ) -> Option<Self> {
        let suits = |column: &usize| {
            let pieces = files.iter().zip(row_groups);
            let mut bytes =
                pieces.map(|(file, groups)| dictionary_bytes(&file.input, table, *column, groups));
            let all = bytes.try_fold(0, |sum: u64, bytes| Some(sum.saturating_add(bytes?)));
            all.is_some_and(|all| all <= MAX_STORED_BYTES)
        };
        let columns: Vec<usize> = codable.iter().copied().filter(suits).collect();
        if columns.is_empty() {
            return None;
        }
        let inputs = files.iter().map(|file| file.input.with_dictionaries(&columns));
        let types = (0..table.arrow.fields().len())
            .map(|column| columns.contains(&column).then(|| table.column_type(column)));
        Some(Self {
            table: table.with_codes(&columns),
            inputs: inputs.collect(),
            dictionaries: RefCell::new(Dictionaries::new(types)),
            columns,
        })
    }
}

/// How many bytes the dictionaries of a column have in some row groups; none where values are written out.
fn dictionary_bytes(
    input: &Input,
    table: &TableSchema,
    column: usize,
    row_groups: &Range<usize>,
) -> Option<u64> {
    let footer = input.footer();
    let leaves = footer.file_metadata().schema_descr();
    let leaf = flat_leaf(leaves, table.arrow.field(column).name())?;
    let groups = footer.row_groups().get(row_groups.clone())?.iter();
    let mut bytes = groups.map(|group| dictionary_of(group.column(leaf)));
    bytes.try_fold(0, |sum: u64, bytes| Some(sum.saturating_add(bytes?)))
}

fn dictionary_of(chunk: &ColumnChunkMetaData) -> Option<u64> {
    if !pages_are(chunk, Encoding::RLE_DICTIONARY) {
        return None;
    }
    if chunk.column_type() == PhysicalType::BYTE_ARRAY {
        // On average; longer ones would not be written from codes.
        let most = chunk
            .num_values()
            .unsigned_abs()
            .saturating_mul(MAX_VALUE_BYTES as u64);
        chunk
            .unencoded_byte_array_data_bytes()
            .filter(|bytes| bytes.unsigned_abs() <= most)?;
    }
    u64::try_from(chunk.data_page_offset() - chunk.dictionary_page_offset()?).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use bytes::Bytes;
    use parquet::{
        arrow::{
            ArrowWriter,
            arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
        },
        file::properties::WriterProperties,
    };

    use super::*;

    /// What is said of the one chunk of a file with this column.
    fn dictionary(values: ArrayRef, properties: WriterProperties) -> Option<u64> {
        let batch = RecordBatch::try_from_iter([("v", values)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        let options = ArrowReaderOptions::new().with_encoding_stats_as_mask(false);
        let file = ArrowReaderMetadata::load(&bytes, options).unwrap();
        dictionary_of(file.metadata().row_group(0).column(0))
    }

    #[test]
    fn only_columns_that_are_all_in_dictionaries_of_short_values_suit() {
        let texts = |length: usize| -> ArrayRef {
            let texts = (0..3000).map(|row| format!("{:0length$}", row % 30));
            Arc::new(StringArray::from_iter_values(texts))
        };
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..3000).map(|row| row % 30)));
        let whole = WriterProperties::default;
        assert!(dictionary(numbers.clone(), whole()).is_some_and(|bytes| (240..400).contains(&bytes)));
        assert!(dictionary(texts(64), whole()).is_some());
        assert_eq!(dictionary(texts(65), whole()), None);
        let plain = || WriterProperties::builder().set_dictionary_enabled(false).build();
        assert_eq!(dictionary(numbers, plain()), None);
        assert_eq!(dictionary(texts(9), plain()), None);
        // A dictionary that became too large, and values written out behind it.
        let given_up = WriterProperties::builder()
            .set_dictionary_page_size_limit(100)
            .set_write_batch_size(10)
            .build();
        assert_eq!(dictionary(texts(9), given_up), None);
    }
}
