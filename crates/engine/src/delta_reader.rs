//! Reads columns of text, bytes or integers whose values are told by their neighbours, as [`delta_chunk`] writes them:
//! texts stay where their page was decompressed.
//!
//! [`delta_chunk`]: crate::delta_chunk

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayData, ArrayRef, BinaryArray, StringArray, make_array, new_empty_array},
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    compute,
    datatypes::{ArrowNativeType, DataType as ArrowType, TimeUnit},
};
use bytes::{Buf, Bytes};
use parquet::{
    arrow::arrow_reader::RowSelector,
    basic::{Encoding, Type as PhysicalType},
    column::page::{Page, PageReader},
    errors::ParquetError,
    file::metadata::ColumnChunkMetaData,
};

use crate::{
    column_chunk::is_flat,
    delta::{Number, Packed},
    footer::pages_are,
    hybrid,
    joined::Joined,
    pages::{levels_of, values_of},
};

/// Of a page of which some rows are skipped, so many are read at a time.
const SKIPPED_ROWS: usize = 4 << 10;

/// How the values of a chunk are told; none when it is read in another way.
fn encoding(chunk: &ColumnChunkMetaData, data_type: &ArrowType) -> Option<Encoding> {
    let column = chunk.column_descr();
    let encoding = match (data_type, column.physical_type()) {
        (ArrowType::Utf8 | ArrowType::Binary, PhysicalType::BYTE_ARRAY) => {
            let all = [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY];
            all.into_iter().find(|encoding| pages_are(chunk, *encoding))?
        }
        (ArrowType::Int32 | ArrowType::Date32 | ArrowType::Decimal128(..=9, _), PhysicalType::INT32)
        | (ArrowType::Int64 | ArrowType::Decimal128(..=18, _), PhysicalType::INT64) => {
            Encoding::DELTA_BINARY_PACKED
        }
        (ArrowType::Timestamp(unit, _), PhysicalType::INT64) if *unit != TimeUnit::Second => {
            Encoding::DELTA_BINARY_PACKED
        }
        _ => return None,
    };
    (is_flat(column) && pages_are(chunk, encoding)).then_some(encoding)
}

/// The values of one chunk, read row by row.
pub(crate) struct DeltaReader {
    pages: Box<dyn PageReader>,
    encoding: Encoding,
    data_type: ArrowType,
    is_narrow: bool,
    max_levels: [i16; 2],
    /// Of the pages that are not open yet.
    rows_left: usize,
    page: Option<OpenPage>,
}

/// A page of which some rows are read.
struct OpenPage {
    data_type: ArrowType,
    left: usize,
    /// Of the rows that are left.
    nulls: Option<NullBuffer>,
    values: Values,
}

enum Values {
    Narrow(Packed<i32>),
    Wide(Packed<i64>),
    /// Texts one behind the other.
    Texts {
        lengths: Packed<i32>,
        bytes: Bytes,
    },
    /// Texts without what they share with the one before.
    Tails(Tails),
}

struct Tails {
    shared: Packed<i32>,
    lengths: Packed<i32>,
    bytes: Bytes,
    /// The last text.
    last: Vec<u8>,
}

impl DeltaReader {
    /// The values of a chunk, as this type; none when they are read in another way.
    pub(crate) fn new(
        chunk: &ColumnChunkMetaData,
        data_type: &ArrowType,
        pages: impl FnOnce() -> Result<Box<dyn PageReader>, ParquetError>,
    ) -> Result<Option<Self>, ParquetError> {
        let Some(encoding) = encoding(chunk, data_type) else {
            return Ok(None);
        };
        let column = chunk.column_descr();
        Ok(Some(Self {
            pages: pages()?,
            encoding,
            data_type: data_type.clone(),
            is_narrow: column.physical_type() == PhysicalType::INT32,
            max_levels: [column.max_rep_level(), column.max_def_level()],
            rows_left: usize::try_from(chunk.num_values()).unwrap_or_default(),
            page: None,
        }))
    }

    /// The rows that some selectors select.
    ///
    /// # Errors
    /// Damage, and what reading pages says.
    pub(crate) fn read(&mut self, selectors: &[RowSelector]) -> Result<ArrayRef, ParquetError> {
        let mut parts = Vec::new();
        for selector in selectors {
            match selector.skip {
                true => self.skip(selector.row_count)?,
                false => self.select(selector.row_count, &mut parts)?,
            }
        }
        match &parts[..] {
            [part] => Ok(part.clone()),
            [] => Ok(new_empty_array(&self.data_type)),
            _ => {
                let parts: Vec<&dyn Array> = parts.iter().map(|part| part.as_ref()).collect();
                compute::concat(&parts).map_err(ParquetError::from)
            }
        }
    }

    fn skip(&mut self, mut rows: usize) -> Result<(), ParquetError> {
        while rows > 0 {
            if self.page.is_none() {
                let next = self.pages.peek_next_page()?.ok_or_else(ends_early)?;
                let next_rows = next.num_rows.or(next.num_levels);
                let passed = if next.is_dict { Some(0) } else { next_rows };
                if let Some(passed) = passed.filter(|passed| *passed <= rows) {
                    self.pages.skip_next_page()?;
                    self.pass(passed)?;
                    rows -= passed;
                    continue;
                }
            }
            let page = self.open()?;
            let count = match rows < page.left {
                true => rows.min(SKIPPED_ROWS),
                false => page.left,
            };
            match count < page.left {
                true => drop(page.read(count)?),
                false => page.left = 0,
            }
            rows -= count;
            self.close();
        }
        Ok(())
    }

    /// Counts the rows of a page.
    fn pass(&mut self, rows: usize) -> Result<(), ParquetError> {
        self.rows_left = self
            .rows_left
            .checked_sub(rows)
            .ok_or_else(|| damage("pages have more rows than their chunk"))?;
        Ok(())
    }

    /// Whether no row is left.
    ///
    /// # Errors
    /// What reading pages says.
    pub(crate) fn is_at_end(&mut self) -> Result<bool, ParquetError> {
        Ok(self.page.is_none() && self.rows_left == 0 && self.pages.peek_next_page()?.is_none())
    }

    fn select(&mut self, mut rows: usize, parts: &mut Vec<ArrayRef>) -> Result<(), ParquetError> {
        while rows > 0 {
            let page = self.open()?;
            let count = rows.min(page.left);
            if count > 0 {
                parts.push(page.read(count)?);
            }
            rows -= count;
            self.close();
        }
        Ok(())
    }

    /// The page of the next row.
    fn open(&mut self) -> Result<&mut OpenPage, ParquetError> {
        let page = match self.page.take() {
            Some(page) => page,
            None => loop {
                match self.pages.get_next_page()?.ok_or_else(ends_early)? {
                    Page::DictionaryPage { .. } => {}
                    page => break self.begin(&page)?,
                }
            },
        };
        Ok(self.page.insert(page))
    }

    fn begin(&mut self, page: &Page) -> Result<OpenPage, ParquetError> {
        if page.encoding() != self.encoding {
            return Err(damage("a page is encoded in another way than its footer says"));
        }
        let left = page.num_values() as usize;
        self.pass(left)?;
        let mut bytes = values_of(page, self.max_levels).ok_or_else(ends_early)?;
        let nulls = match self.max_levels[1] {
            0 => None,
            _ => Some(levels(page, left)?).filter(|nulls| nulls.null_count() > 0),
        };
        let count = left - nulls.as_ref().map_or(0, NullBuffer::null_count);
        let lengths = |bytes: &mut Bytes| Packed::take(bytes, count).map_err(damage);
        let values = match self.encoding {
            Encoding::DELTA_BINARY_PACKED if self.is_narrow => Values::Narrow(lengths(&mut bytes)?),
            Encoding::DELTA_BINARY_PACKED => Values::Wide(Packed::take(&mut bytes, count).map_err(damage)?),
            Encoding::DELTA_LENGTH_BYTE_ARRAY => Values::Texts {
                lengths: lengths(&mut bytes)?,
                bytes,
            },
            _ => Values::Tails(Tails {
                shared: lengths(&mut bytes)?,
                lengths: lengths(&mut bytes)?,
                bytes,
                last: Vec::new(),
            }),
        };
        Ok(OpenPage {
            data_type: self.data_type.clone(),
            left,
            nulls,
            values,
        })
    }

    /// Lets go of a page that is read.
    fn close(&mut self) {
        self.page.take_if(|page| page.left == 0);
    }
}

impl OpenPage {
    /// The next rows, of which there are so many.
    fn read(&mut self, rows: usize) -> Result<ArrayRef, ParquetError> {
        let nulls = self.nulls.as_ref().map(|nulls| nulls.slice(0, rows));
        let left = self.nulls.take();
        self.nulls = left.map(|nulls| nulls.slice(rows, nulls.len() - rows));
        self.left -= rows;
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        let count = rows - nulls.as_ref().map_or(0, NullBuffer::null_count);
        let is_text = self.data_type == ArrowType::Utf8;
        let values = match &mut self.values {
            Values::Narrow(numbers) => {
                numbers_of(&self.data_type, spread(take(numbers, count)?, nulls.as_ref()))
            }
            Values::Wide(numbers) => {
                numbers_of(&self.data_type, spread(take(numbers, count)?, nulls.as_ref()))
            }
            Values::Texts { lengths, bytes } => {
                let lengths = spread(take(lengths, count)?, nulls.as_ref());
                let (offsets, end) = offsets(0, &lengths, bytes.len())?;
                let values = Buffer::from(bytes.split_to(end));
                return texts(is_text, offsets, values, nulls);
            }
            Values::Tails(tails) => {
                let first = tails.last.len();
                let (lengths, values) = tails.read(count)?;
                let lengths = spread(lengths, nulls.as_ref());
                let (offsets, _) = offsets(first, &lengths, values.len())?;
                return texts(is_text, offsets, Buffer::from_vec(values), nulls);
            }
        };
        let array = ArrayData::builder(self.data_type.clone())
            .len(rows)
            .nulls(nulls)
            .add_buffer(values)
            .build()?;
        Ok(make_array(array))
    }
}

impl Tails {
    /// The lengths of the next texts, and the texts one behind the other, behind the one before them.
    fn read(&mut self, count: usize) -> Result<(Vec<i32>, Vec<u8>), ParquetError> {
        let shared = take(&mut self.shared, count)?;
        let mut lengths = take(&mut self.lengths, count)?;
        let (mut before, mut left, mut whole) = (self.last.len(), self.bytes.len(), 0);
        for (shared, length) in shared.iter().zip(&lengths) {
            let (Ok(shared), Ok(length)) = (usize::try_from(*shared), usize::try_from(*length)) else {
                return Err(too_long());
            };
            if shared > before || length > left {
                return Err(too_long());
            }
            before = shared + length;
            left -= length;
            whole += before;
        }
        if i32::try_from(self.last.len() + whole).is_err() {
            return Err(too_long());
        }
        let mut texts = Joined::with_room(self.last.len() + whole);
        texts.push(&self.last, 0..self.last.len());
        let (mut before, mut at) = (0, 0);
        for (shared, length) in shared.iter().zip(&mut lengths) {
            let start = texts.len();
            texts.repeat(before..before + *shared as usize);
            texts.push(&self.bytes, at..at + *length as usize);
            at += *length as usize;
            before = start;
            *length += *shared;
        }
        self.bytes.advance(at);
        self.last = texts.bytes()[before..].to_vec();
        Ok((lengths, texts.into_bytes()))
    }
}

fn take<N: Number>(numbers: &mut Packed<N>, count: usize) -> Result<Vec<N>, ParquetError> {
    let mut taken = Vec::with_capacity(count);
    numbers.read(count, &mut taken).map_err(damage)?;
    Ok(taken)
}

/// Numbers at the rows that are not null, zeros at those that are.
fn spread<N: Copy + Default>(numbers: Vec<N>, nulls: Option<&NullBuffer>) -> Vec<N> {
    let Some(nulls) = nulls else { return numbers };
    let mut rows = vec![N::default(); nulls.len()];
    for (row, number) in nulls.valid_indices().zip(numbers) {
        rows[row] = number;
    }
    rows
}

/// Numbers as Arrow has them in a type.
fn numbers_of<N: Number + ArrowNativeType>(data_type: &ArrowType, numbers: Vec<N>) -> Buffer {
    match data_type {
        ArrowType::Decimal128(_, _) => {
            let wide = numbers.iter().map(|number| i128::from((*number).into()));
            Buffer::from_vec(wide.collect::<Vec<_>>())
        }
        _ => Buffer::from_vec(numbers),
    }
}

/// Where texts of these lengths begin, from `first` on, and where the last one ends: at most at `most`.
fn offsets(first: usize, lengths: &[i32], most: usize) -> Result<(OffsetBuffer<i32>, usize), ParquetError> {
    let most = i32::try_from(most).map_err(|_| too_long())?;
    let mut end = first as i32;
    let mut offsets = Vec::with_capacity(lengths.len() + 1);
    offsets.push(end);
    for length in lengths {
        // Each is within what there is, so no sum is beyond what fits.
        if *length < 0 || *length > most - end {
            return Err(too_long());
        }
        end += length;
        offsets.push(end);
    }
    Ok((OffsetBuffer::new(offsets.into()), end as usize))
}

fn texts(
    is_text: bool,
    offsets: OffsetBuffer<i32>,
    values: Buffer,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ParquetError> {
    Ok(match is_text {
        true => Arc::new(StringArray::try_new(offsets, values, nulls)?),
        false => Arc::new(BinaryArray::try_new(offsets, values, nulls)?),
    })
}

/// Which rows of a page are null.
fn levels(page: &Page, rows: usize) -> Result<NullBuffer, ParquetError> {
    let levels = levels_of(page).ok_or_else(ends_early)?;
    let bits = hybrid::decode_bits(levels, rows).ok_or_else(ends_early)?;
    Ok(NullBuffer::new(bits))
}

fn too_long() -> ParquetError {
    damage("a text is longer than what its page has")
}

fn ends_early() -> ParquetError {
    damage("a page or a chunk ends early")
}

fn damage(reason: &str) -> ParquetError {
    ParquetError::General(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            ArrowPrimitiveType, Date32Array, Decimal128Array, Int32Array, Int64Array, PrimitiveArray,
            TimestampMicrosecondArray,
        },
        datatypes::{Date32Type, Int64Type},
    };
    use parquet::{
        basic::{Compression, ZstdLevel},
        file::{
            metadata::ParquetMetaData,
            properties::{WriterProperties, WriterVersion},
            reader::{FileReader, SerializedFileReader},
            serialized_reader::{ReadOptionsBuilder, SerializedPageReader},
        },
    };
    use proptest::prelude::*;

    use super::*;
    use crate::testing_chunks::by_arrow;

    fn properties(encoding: Encoding, version: WriterVersion) -> WriterProperties {
        WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_encoding(encoding)
            .set_dictionary_enabled(false)
            .set_data_page_row_count_limit(16)
            .set_write_batch_size(16)
            .build()
    }

    fn metadata(file: &Bytes, with_index: bool) -> ParquetMetaData {
        let options = ReadOptionsBuilder::new().with_encoding_stats_as_mask(false);
        let options = match with_index {
            true => options.with_page_index(),
            false => options,
        };
        let found = SerializedFileReader::new_with_options(file.clone(), options.build()).unwrap();
        found.metadata().clone()
    }

    fn reader(file: &Bytes, data_type: &ArrowType, with_index: bool) -> DeltaReader {
        let metadata = metadata(file, with_index);
        let chunk = metadata.row_group(0).column(0);
        let locations = metadata
            .offset_index()
            .map(|index| index[0][0].page_locations().clone());
        let rows = metadata.file_metadata().num_rows() as usize;
        let pages = || {
            let pages = SerializedPageReader::new(Arc::new(file.clone()), chunk, rows, locations)?;
            Ok(Box::new(pages) as Box<dyn PageReader>)
        };
        DeltaReader::new(chunk, data_type, pages).unwrap().unwrap()
    }

    /// Reads some rows and leaves out others, in turn.
    fn check(array: &ArrayRef, encoding: Encoding, steps: &[(usize, usize)]) {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for with_index in [true, false] {
                let file = Bytes::from(by_arrow(array, properties(encoding, version)));
                let mut reader = reader(&file, array.data_type(), with_index);
                let mut at = 0;
                for (skipped, selected) in steps.iter().copied().chain([(0, array.len())]) {
                    let skipped = skipped.min(array.len() - at);
                    let selected = selected.min(array.len() - at - skipped);
                    let (first, rest) = (selected / 3, selected - selected / 3);
                    let selectors = [
                        RowSelector::skip(skipped),
                        RowSelector::select(first),
                        RowSelector::select(rest),
                    ];
                    let found = reader.read(&selectors).unwrap();
                    found.to_data().validate_full().unwrap();
                    assert_eq!(&found, &array.slice(at + skipped, selected));
                    at += skipped + selected;
                }
                assert!(reader.is_at_end().unwrap());
                assert!(reader.read(&[RowSelector::select(1)]).is_err());
            }
        }
    }

    fn numbers<T: ArrowPrimitiveType>(
        rows: &[Option<i64>],
        of: impl Fn(i64) -> T::Native,
    ) -> PrimitiveArray<T> {
        rows.iter().map(|row| row.map(&of)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn texts_are_read_as_they_were_written(
            texts in prop::collection::vec(prop::option::weighted(0.9, "[ab]{0,3}|[a-z]{0,20}|[é-ü]{0,40}"), 1..100),
            steps in prop::collection::vec((0_usize..40, 0_usize..40), 0..6),
        ) {
            let bytes = texts.iter().map(|text| text.as_ref().map(String::as_bytes));
            let bytes: ArrayRef = Arc::new(bytes.collect::<BinaryArray>());
            let whole: ArrayRef = Arc::new(texts.iter().flatten().map(Some).collect::<StringArray>());
            let texts: ArrayRef = Arc::new(texts.iter().collect::<StringArray>());
            for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
                for array in [&texts, &bytes, &whole].into_iter().filter(|array| !array.is_empty()) {
                    check(array, encoding, &steps);
                }
            }
        }

        #[test]
        fn numbers_are_read_as_they_were_written(
            rows in prop::collection::vec(prop::option::weighted(0.9, any::<i64>()), 1..300),
            shift in 0_u32..63,
            steps in prop::collection::vec((0_usize..60, 0_usize..60), 0..6),
        ) {
            let rows: Vec<_> = rows.iter().map(|row| row.map(|row| row >> shift)).collect();
            let decimals = |digits: u32| {
                let most = 10_i128.pow(digits);
                let decimals = rows.iter().map(|row| row.map(|row| i128::from(row) % most));
                let decimals = decimals.collect::<Decimal128Array>();
                decimals.with_precision_and_scale(digits as u8, 2).unwrap()
            };
            let arrays: [ArrayRef; 6] = [
                Arc::new(numbers::<Int64Type>(&rows, |row| row)),
                Arc::new(rows.iter().copied().collect::<TimestampMicrosecondArray>()),
                Arc::new(rows.iter().map(|row| row.map(|row| row as i32)).collect::<Int32Array>()),
                Arc::new(numbers::<Date32Type>(&rows, |row| row as i32)) as Arc<Date32Array>,
                Arc::new(decimals(9)),
                Arc::new(decimals(18)),
            ];
            for array in &arrays {
                check(array, Encoding::DELTA_BINARY_PACKED, &steps);
            }
        }

        #[test]
        fn damage_ends_in_an_error_or_in_values(
            texts in prop::collection::vec("[a-z]{0,20}", 1..60),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let texts: ArrayRef = Arc::new(StringArray::from(texts));
            for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
                let properties = WriterProperties::builder()
                    .set_encoding(encoding)
                    .set_dictionary_enabled(false)
                    .build();
                let mut file = by_arrow(&texts, properties);
                let chunk = {
                    let found = SerializedFileReader::new(Bytes::from(file.clone())).unwrap();
                    let (start, length) = found.metadata().row_group(0).column(0).byte_range();
                    start as usize..(start + length) as usize
                };
                for (at, byte) in &damage {
                    file[chunk.start + at.index(chunk.len())] = *byte;
                }
                let mut reader = reader(&Bytes::from(file), &ArrowType::Utf8, false);
                if let Ok(array) = reader.read(&[RowSelector::select(texts.len())]) {
                    array.to_data().validate_full().unwrap();
                }
            }
        }
    }

    #[test]
    fn other_encodings_are_left_to_others() {
        let array: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let file = Bytes::from(by_arrow(
            &array,
            properties(Encoding::PLAIN, WriterVersion::PARQUET_1_0),
        ));
        assert_eq!(
            encoding(metadata(&file, false).row_group(0).column(0), &ArrowType::Int64),
            None
        );
    }

    #[test]
    fn rows_beyond_those_of_the_chunk_are_refused() {
        let array: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let file = properties(Encoding::DELTA_BINARY_PACKED, WriterVersion::PARQUET_1_0);
        let file = Bytes::from(by_arrow(&array, file));
        let mut found = reader(&file, &ArrowType::Int64, false);
        found.rows_left = 90;
        assert!(found.read(&[RowSelector::select(80)]).is_ok());
        assert!(found.read(&[RowSelector::select(20)]).is_err());
        let mut found = reader(&file, &ArrowType::Int64, false);
        found.rows_left = 90;
        assert!(found.read(&[RowSelector::skip(100)]).is_err());
        let mut found = reader(&file, &ArrowType::Int64, false);
        assert!(found.read(&[RowSelector::select(80)]).is_ok());
        assert!(!found.is_at_end().unwrap());
    }
}
