//! Batches in pieces that are small as they are written: a value that a batch has once may stand for many of its rows.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType as ArrowType, Field, Schema, SchemaRef},
    error::ArrowError,
};

/// How large a piece is at most, as it is written; a row by itself may be larger.
const PIECE_BYTES: u64 = 4 << 20;

/// The columns in types that every reader knows.
pub(super) fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let plain = plain_type(field.data_type());
        Field::new(field.name(), plain, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns in the forms that are for computing: comparing and grouping short texts takes less time.
pub(super) fn viewed(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let viewed = match field.data_type() {
            ArrowType::Utf8 => ArrowType::Utf8View,
            ArrowType::Binary => ArrowType::BinaryView,
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(viewed)
    });
    Arc::new(Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        schema.metadata().clone(),
    ))
}

/// A type without the forms that are for computing.
pub(super) fn plain_type(found: &ArrowType) -> ArrowType {
    match found {
        ArrowType::Utf8View | ArrowType::LargeUtf8 => ArrowType::Utf8,
        ArrowType::BinaryView | ArrowType::LargeBinary => ArrowType::Binary,
        ArrowType::Dictionary(_, values) => plain_type(values),
        other => other.clone(),
    }
}

/// The batch with columns of the types of a schema.
pub(super) fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns: Vec<ArrayRef> = columns
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema.clone(), columns)
}

/// The rows of a batch, in their order and some at a time.
pub(super) fn pieces(batch: RecordBatch) -> impl Iterator<Item = RecordBatch> + Send {
    let mut left = vec![batch];
    std::iter::from_fn(move || {
        loop {
            let piece = left.pop()?;
            let rows = piece.num_rows();
            let bytes = piece.columns().iter().map(|column| written_bytes(column));
            if rows < 2 || bytes.fold(0, u64::saturating_add) <= PIECE_BYTES {
                return Some(piece);
            }
            left.push(piece.slice(rows / 2, rows - rows / 2));
            left.push(piece.slice(0, rows / 2));
        }
    })
}

/// About how many bytes the values of an array take when each is written by itself.
pub(super) fn written_bytes(array: &dyn Array) -> u64 {
    let sum = |lengths: &mut dyn Iterator<Item = u32>| lengths.map(u64::from).sum::<u64>();
    let rows = array.len() as u64;
    match array.data_type() {
        // The low half of a view is the length.
        ArrowType::Utf8View => sum(&mut array.as_string_view().views().iter().map(|view| *view as u32)),
        ArrowType::BinaryView => sum(&mut array.as_binary_view().views().iter().map(|view| *view as u32)),
        ArrowType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let values = dictionary.values();
            let largest = (0..values.len())
                .map(|value| written_bytes(&values.slice(value, 1)))
                .max();
            largest.unwrap_or(0).saturating_mul(rows)
        }
        ArrowType::Utf8 | ArrowType::Binary | ArrowType::LargeUtf8 | ArrowType::LargeBinary => {
            let bytes = array.to_data().get_slice_memory_size();
            bytes.unwrap_or_else(|_| array.get_array_memory_size()) as u64
        }
        ArrowType::List(_) => nested(array, &array.as_list::<i32>().trimmed()),
        ArrowType::LargeList(_) => nested(array, &array.as_list::<i64>().trimmed()),
        ArrowType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            columns
                .map(|column| written_bytes(column))
                .fold(rows, u64::saturating_add)
        }
        _ => array
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| array.get_array_memory_size()) as u64,
    }
}

fn nested(array: &dyn Array, values: &ArrayRef) -> u64 {
    (array.len() as u64)
        .saturating_mul(4)
        .saturating_add(written_bytes(values))
}

/// The values that a list's rows refer to.
trait Trimmed {
    fn trimmed(&self) -> ArrayRef;
}

impl<O: arrow::array::OffsetSizeTrait> Trimmed for arrow::array::GenericListArray<O> {
    fn trimmed(&self) -> ArrayRef {
        let offsets = self.value_offsets();
        let (first, last) = (offsets.first(), offsets.last());
        let first = first.map_or(0, |offset| offset.as_usize());
        let last = last.map_or(first, |offset| offset.as_usize());
        self.values().slice(first, last - first)
    }
}
