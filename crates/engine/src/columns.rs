//! Brings arrays into the one form of their core type, and gathers rows of them.

use std::{collections::VecDeque, sync::Arc};

use arrow::{
    array::{
        Array, ArrayData, ArrayRef, BinaryArray, BinaryViewArray, GenericByteArray, ListArray, MapArray,
        RecordBatch, StringArray, StringViewArray, StructArray, UInt32Array, cast::AsArray, make_array,
    },
    buffer::{Buffer, OffsetBuffer},
    compute,
    datatypes::{ByteArrayType, DataType as ArrowType, Field, GenericBinaryType, GenericStringType},
    error::ArrowError,
};
use dormouse_core::Error;

use crate::{joined::Joined, table::TableSchema, texts::Texts};

/// Why an array could not take a form.
#[derive(Debug)]
pub(crate) enum Misfit {
    /// A nested value is null where none may be, or a null value is missing from its form.
    Null,
    /// Anything else, as Arrow says it.
    Other(ArrowError),
}

impl From<ArrowError> for Misfit {
    fn from(error: ArrowError) -> Self {
        Self::Other(error)
    }
}

/// The rows `indices` of `array`, in that order, as `target`. All indices are inside.
pub(crate) fn gather(
    array: &ArrayRef,
    indices: &UInt32Array,
    target: &ArrowType,
) -> Result<ArrayRef, Misfit> {
    let rows = indices.values();
    match (array.data_type(), target) {
        (ArrowType::Utf8View, ArrowType::Utf8) => {
            let views = array.as_string_view();
            copy_values::<GenericStringType<i32>>(rows, array, |row| views.value(row).as_bytes())
        }
        (ArrowType::BinaryView, ArrowType::Binary) => {
            let views = array.as_binary_view();
            copy_values::<GenericBinaryType<i32>>(rows, array, |row| views.value(row))
        }
        _ => conform(&compute::take(array.as_ref(), indices, None)?, target),
    }
}

fn copy_values<'a, T: ByteArrayType<Offset = i32>>(
    rows: &[u32],
    source: &dyn Array,
    value: impl Fn(usize) -> &'a [u8],
) -> Result<ArrayRef, Misfit> {
    let nulls = source.logical_nulls().filter(|nulls| nulls.null_count() > 0);
    let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    let mut offsets: Vec<i32> = Vec::with_capacity(rows.len() + 1);
    offsets.push(0);
    let mut bytes: Vec<u8> = Vec::with_capacity(rows.len() * 12);
    for &row in rows {
        let row = row as usize;
        if !is_null(row) {
            bytes.extend_from_slice(value(row));
        }
        let end = i32::try_from(bytes.len()).map_err(|_| ArrowError::OffsetOverflowError(bytes.len()))?;
        offsets.push(end);
    }
    bytes.shrink_to_fit();
    let gathered_nulls = nulls
        .as_ref()
        .map(|nulls| rows.iter().map(|&row| nulls.is_valid(row as usize)).collect());
    let gathered = GenericByteArray::<T>::try_new(
        OffsetBuffer::new(offsets.into()),
        Buffer::from_vec(bytes),
        gathered_nulls,
    )?;
    Ok(Arc::new(gathered))
}

/// `array` as `target`, where the two differ in Arrow flavour, nullability and conventional names only.
pub(crate) fn conform(array: &ArrayRef, target: &ArrowType) -> Result<ArrayRef, Misfit> {
    if array.data_type() == target {
        return Ok(array.clone());
    }
    match target {
        ArrowType::List(item) => {
            let widened;
            let list: &ListArray = match array.data_type() {
                ArrowType::List(_) => array.as_list(),
                ArrowType::LargeList(found) => {
                    widened = compute::cast(array, &ArrowType::List(found.clone()))?;
                    widened.as_list()
                }
                _ => return Ok(compute::cast(array, target)?),
            };
            let (offsets, values) = trimmed(list.offsets(), list.values());
            let values = conform(&values, item.data_type())?;
            refuse_nulls(item, &values)?;
            Ok(Arc::new(ListArray::try_new(
                item.clone(),
                offsets,
                values,
                list.nulls().cloned(),
            )?))
        }
        ArrowType::Map(entries, sorted) => {
            let ArrowType::Struct(fields) = entries.data_type() else {
                return Ok(compute::cast(array, target)?);
            };
            let Some(map) = array.as_map_opt() else {
                return Ok(compute::cast(array, target)?);
            };
            let found: ArrayRef = Arc::new(map.entries().clone());
            let (offsets, found) = trimmed(map.offsets(), &found);
            let found = found.as_struct();
            let columns = fields
                .iter()
                .zip(found.columns())
                .map(|(field, column)| {
                    let column = conform(column, field.data_type())?;
                    refuse_nulls(field, &column)?;
                    Ok(column)
                })
                .collect::<Result<Vec<_>, Misfit>>()?;
            let found = StructArray::try_new(fields.clone(), columns, None)?;
            Ok(Arc::new(MapArray::try_new(
                entries.clone(),
                offsets,
                found,
                map.nulls().cloned(),
                *sorted,
            )?))
        }
        ArrowType::Struct(fields) => {
            let Some(found) = array.as_struct_opt() else {
                return Ok(compute::cast(array, target)?);
            };
            let columns = fields
                .iter()
                .zip(found.columns())
                .map(|(field, column)| {
                    let column = conform(column, field.data_type())?;
                    if !field.is_nullable()
                        && let Some(nulls) = column.logical_nulls()
                        && !found.nulls().is_some_and(|parent| parent.contains(&nulls))
                        && nulls.null_count() > 0
                    {
                        return Err(Misfit::Null);
                    }
                    Ok(column)
                })
                .collect::<Result<Vec<_>, Misfit>>()?;
            Ok(Arc::new(StructArray::try_new(
                fields.clone(),
                columns,
                found.nulls().cloned(),
            )?))
        }
        ArrowType::Timestamp(_, _) => {
            let data = array.to_data().into_builder().data_type(target.clone()).build()?;
            Ok(make_array(data))
        }
        _ => Ok(compute::cast(array, target)?),
    }
}

fn refuse_nulls(field: &Field, values: &ArrayRef) -> Result<(), Misfit> {
    if !field.is_nullable() && values.logical_null_count() > 0 {
        return Err(Misfit::Null);
    }
    Ok(())
}

/// The offsets from zero, and the values that they cover.
fn trimmed(offsets: &OffsetBuffer<i32>, values: &ArrayRef) -> (OffsetBuffer<i32>, ArrayRef) {
    let first = offsets.first().copied().unwrap_or(0);
    let last = offsets.last().copied().unwrap_or(0);
    let moved: Vec<i32> = offsets.iter().map(|offset| offset - first).collect();
    let covered = values.slice(first as usize, (last - first) as usize);
    (OffsetBuffer::new(moved.into()), covered)
}

/// The error for an array of another type than its column's.
pub(crate) fn unknown(data_type: &ArrowType) -> Error {
    Error::internal(format!(
        "values of type {data_type} are not those of their column"
    ))
}

/// Appends the rows `places` of `batches`, each a batch and a row in it, as one batch, or as several where one
/// could not hold them.
pub(crate) fn interleave(
    table: &TableSchema,
    batches: &[RecordBatch],
    places: &[(usize, usize)],
    ready: &mut VecDeque<RecordBatch>,
) -> Result<(), Error> {
    if places.is_empty() {
        return Ok(());
    }
    let columns = (0..table.arrow.fields().len())
        .map(|column| {
            let arrays: Vec<&dyn Array> = batches
                .iter()
                .map(|batch| batch.column(column).as_ref())
                .collect();
            match texts_of(&arrays) {
                Some(texts) => interleave_texts(table.column_type(column), &texts, places),
                None => compute::interleave(&arrays, places),
            }
        })
        .collect::<Result<Vec<_>, _>>();
    match columns {
        Ok(columns) => ready.push_back(table.batch(columns)?),
        Err(ArrowError::OffsetOverflowError(_)) if places.len() > 1 => {
            let (front, back) = places.split_at(places.len() / 2);
            interleave(table, batches, front, ready)?;
            interleave(table, batches, back, ready)?;
        }
        Err(error) => return Err(Error::internal("cannot gather rows").with_source(error)),
    }
    Ok(())
}

/// Columns of text, none of which has nulls.
fn texts_of<'a>(arrays: &[&'a dyn Array]) -> Option<Vec<Texts<'a>>> {
    let texts = arrays.iter().map(|array| Texts::of(*array).ok());
    texts
        .map(|texts| texts.filter(|texts| texts.nulls.is_none()))
        .collect()
}

fn interleave_texts(
    data_type: &ArrowType,
    texts: &[Texts<'_>],
    places: &[(usize, usize)],
) -> Result<ArrayRef, ArrowError> {
    let mut offsets = Vec::with_capacity(places.len() + 1);
    offsets.push(0);
    let mut end = 0_i32;
    for &(batch, row) in places {
        let starts = texts[batch].offsets;
        let length = starts[row + 1] - starts[row];
        let too_long = || ArrowError::OffsetOverflowError(end as usize + length as usize);
        end = end.checked_add(length).ok_or_else(too_long)?;
        offsets.push(end);
    }
    let mut joined = Joined::with_room(end as usize);
    for &(batch, row) in places {
        let text = &texts[batch];
        joined.push(
            text.bytes,
            text.offsets[row] as usize..text.offsets[row + 1] as usize,
        );
    }
    let array = ArrayData::builder(data_type.clone())
        .len(places.len())
        .add_buffer(Buffer::from_vec(offsets))
        .add_buffer(Buffer::from_vec(joined.into_bytes()))
        .build()?;
    Ok(make_array(array))
}

/// How many bytes the values of `array` take in their plain form, offsets left out.
pub(crate) fn plain_bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    match array.data_type() {
        ArrowType::Utf8View => view_bytes(array.as_string_view()),
        ArrowType::BinaryView => binary_view_bytes(array.as_binary_view()),
        ArrowType::Utf8 => span(array.as_string::<i32>().offsets()),
        ArrowType::Binary => span(array.as_binary::<i32>().offsets()),
        ArrowType::List(_) => {
            let list = array.as_list::<i32>();
            let (_, covered) = trimmed(list.offsets(), list.values());
            4 * rows + plain_bytes(&covered)
        }
        ArrowType::Map(_, _) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            let (_, covered) = trimmed(map.offsets(), &entries);
            4 * rows + plain_bytes(&covered)
        }
        ArrowType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .map(|column| plain_bytes(column))
            .sum(),
        ArrowType::Boolean => rows.div_ceil(8),
        ArrowType::FixedSizeBinary(width) => rows * usize::try_from(*width).unwrap_or(0),
        other => rows * other.primitive_width().unwrap_or(16),
    }
}

/// How many bytes the values of a batch take in their plain form.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| plain_bytes(column)).sum()
}

fn view_bytes(array: &StringViewArray) -> usize {
    array.lengths().map(|length| length as usize).sum::<usize>() + 4 * array.len()
}

fn binary_view_bytes(array: &BinaryViewArray) -> usize {
    array.lengths().map(|length| length as usize).sum::<usize>() + 4 * array.len()
}

fn span(offsets: &OffsetBuffer<i32>) -> usize {
    let first = offsets.first().copied().unwrap_or(0);
    let last = offsets.last().copied().unwrap_or(0);
    (last - first) as usize + 4 * (offsets.len() - 1)
}

/// A text or byte column's offsets and bytes.
pub(crate) fn byte_parts(array: &dyn Array) -> Option<(OffsetBuffer<i32>, Buffer)> {
    if let Some(text) = array.as_any().downcast_ref::<StringArray>() {
        return Some((text.offsets().clone(), text.values().clone()));
    }
    let bytes = array.as_any().downcast_ref::<BinaryArray>()?;
    Some((bytes.offsets().clone(), bytes.values().clone()))
}
