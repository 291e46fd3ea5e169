//! Texts, or bytes, of an array.

use std::ops::Range;

use arrow::{
    array::{Array, AsArray},
    buffer::NullBuffer,
    datatypes::DataType as ArrowType,
};
use dormouse_core::Result;

use crate::{column_chunk::Bounds, columns::unknown};

/// The texts of an array, null where it is.
pub(crate) struct Texts<'a> {
    pub(crate) offsets: &'a [i32],
    pub(crate) bytes: &'a [u8],
    /// None where no text is null.
    pub(crate) nulls: Option<&'a NullBuffer>,
}

impl<'a> Texts<'a> {
    pub(crate) fn of(array: &'a dyn Array) -> Result<Self> {
        let (offsets, bytes) = match array.data_type() {
            ArrowType::Utf8 => {
                let texts = array.as_string::<i32>();
                (texts.value_offsets(), texts.value_data())
            }
            ArrowType::Binary => {
                let texts = array.as_binary::<i32>();
                (texts.value_offsets(), texts.value_data())
            }
            other => return Err(unknown(other)),
        };
        Ok(Self {
            offsets,
            bytes,
            nulls: array.nulls().filter(|nulls| nulls.null_count() > 0),
        })
    }

    pub(crate) fn text(&self, row: usize) -> &'a [u8] {
        &self.bytes[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    /// Calls back with rows that follow each other and are not null.
    pub(crate) fn for_each_run(&self, mut run: impl FnMut(Range<usize>)) {
        match self.nulls {
            None => run(0..self.offsets.len() - 1),
            Some(nulls) => nulls.valid_slices().for_each(|(start, end)| run(start..end)),
        }
    }

    /// The first and the last text.
    pub(crate) fn ends(&self) -> Option<Bounds> {
        let (mut first, mut last) = (None, None);
        self.for_each_run(|run| {
            first.get_or_insert(run.start);
            last = Some(run.end - 1);
        });
        let (first, last) = first.zip(last)?;
        Some(Bounds::Bytes(self.text(first).to_vec(), self.text(last).to_vec()))
    }

    /// The smallest and the largest text.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        let mut bounds: Option<[(u64, usize); 2]> = None;
        self.for_each_run(|run| {
            for row in run {
                let text = self.text(row);
                let front = front(text);
                let [min, max] = bounds.get_or_insert([(front, row); 2]);
                if front <= min.0 && (front < min.0 || text < self.text(min.1)) {
                    *min = (front, row);
                }
                if front >= max.0 && (front > max.0 || text > self.text(max.1)) {
                    *max = (front, row);
                }
            }
        });
        bounds.map(|[min, max]| Bounds::Bytes(self.text(min.1).to_vec(), self.text(max.1).to_vec()))
    }
}

/// The first bytes of a text as a number: texts compare as these do, where these differ.
fn front(text: &[u8]) -> u64 {
    let mut front = [0; 8];
    match text.first_chunk() {
        Some(bytes) => front = *bytes,
        None => front[..text.len()].copy_from_slice(text),
    }
    u64::from_be_bytes(front)
}

/// How many bytes two texts begin with alike.
pub(crate) fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    let (words, _) = one.as_chunks::<8>();
    let (others, _) = other.as_chunks::<8>();
    let mut shared = 0;
    for (word, other) in words.iter().zip(others) {
        let differ = u64::from_le_bytes(*word) ^ u64::from_le_bytes(*other);
        if differ != 0 {
            return shared + differ.trailing_zeros() as usize / 8;
        }
        shared += 8;
    }
    let rest = one[shared..].iter().zip(&other[shared..]);
    shared + rest.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bounds_and_common_prefixes_are_those_of_all_bytes(
            texts in prop::collection::vec(prop::option::weighted(0.9, prop::collection::vec(0_u8..3, 0..20)), 0..20),
        ) {
            let array: ArrayRef = Arc::new(texts.iter().map(Option::as_ref).collect::<BinaryArray>());
            let values: Vec<&Vec<u8>> = texts.iter().flatten().collect();
            let bounds = values.iter().min().zip(values.iter().max());
            let bounds = bounds.map(|(min, max)| Bounds::Bytes(min.to_vec(), max.to_vec()));
            prop_assert_eq!(Texts::of(&array).unwrap().bounds(), bounds);
            for pair in values.windows(2) {
                let alike = pair[0].iter().zip(pair[1]).take_while(|(one, other)| one == other);
                prop_assert_eq!(common_prefix(pair[0], pair[1]), alike.count());
            }
        }
    }
}
