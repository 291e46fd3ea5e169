//! Columns of few values as codes: on its way through a merge a row has the number of its value.
//!
//! The values of a column are numbered as they are met, across all files of a piece of a merge. Of a file that was
//! written with a dictionary only the places in it are decoded, and what is written needs the codes alone.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, BinaryArray, Decimal128Array, DictionaryArray, Int32Array,
        Int64Array, StringArray, UInt32Array, cast::AsArray,
    },
    compute,
    datatypes::{
        DataType as ArrowType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    },
};
use dormouse_core::{Error, Result};
use foldhash::fast::RandomState;

use crate::digest::hash_column;

/// Whether the values of a column of this type may be numbered.
pub(crate) fn is_codable(data_type: &ArrowType) -> bool {
    match data_type {
        ArrowType::Utf8
        | ArrowType::Binary
        | ArrowType::Int32
        | ArrowType::Int64
        | ArrowType::Date32
        | ArrowType::Timestamp(_, _) => true,
        // Those that Parquet stores as numbers of at most 64 bits.
        ArrowType::Decimal128(precision, _) => *precision <= 18,
        _ => false,
    }
}

/// The type in which a codable column is read: as a dictionary where a file may have one that is of use.
pub(crate) fn read_type(data_type: &ArrowType) -> ArrowType {
    match data_type {
        ArrowType::Utf8 | ArrowType::Binary => {
            ArrowType::Dictionary(Box::new(ArrowType::Int32), Box::new(data_type.clone()))
        }
        other => other.clone(),
    }
}

/// The numbered values of the columns of a table; none of columns that are not coded.
#[derive(Debug, Default)]
pub(crate) struct Dictionaries(Vec<Option<Dictionary>>);

impl Dictionaries {
    /// Empty ones of the columns that have a type here.
    pub(crate) fn new<'a>(types: impl Iterator<Item = Option<&'a ArrowType>>) -> Self {
        Self(types.map(|data_type| data_type.map(Dictionary::new)).collect())
    }

    /// That of a column, when it is coded.
    pub(crate) fn get(&self, column: usize) -> Option<&Dictionary> {
        self.0.get(column)?.as_ref()
    }

    /// That of a column, when it is coded.
    pub(crate) fn get_mut(&mut self, column: usize) -> Option<&mut Dictionary> {
        self.0.get_mut(column)?.as_mut()
    }
}

/// The numbered values of one column.
#[derive(Debug)]
pub(crate) struct Dictionary {
    data_type: ArrowType,
    values: Values,
    hashes: Vec<u64>,
}

/// Values by their codes.
#[derive(Debug)]
pub(crate) enum Values {
    /// Of text, too.
    Bytes(Numbered<Arc<[u8]>>),
    /// As Parquet stores them.
    Numbers(Numbered<i64>),
}

/// Values in the order in which they were first met.
#[derive(Debug)]
pub(crate) struct Numbered<V> {
    codes: HashMap<V, u32, RandomState>,
    values: Vec<V>,
}

/// The codes of the values of a dictionary that a file has.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    of: Option<ArrayRef>,
    codes: Vec<u32>,
}

impl Dictionary {
    fn new(data_type: &ArrowType) -> Self {
        let values = match data_type {
            ArrowType::Utf8 | ArrowType::Binary => Values::Bytes(Numbered::default()),
            _ => Values::Numbers(Numbered::default()),
        };
        Self {
            data_type: data_type.clone(),
            values,
            hashes: Vec::new(),
        }
    }

    /// The codes of an array of the column's type or of [`read_type`], null where it is. `translation` is that of the file.
    ///
    /// # Errors
    /// `Corrupt` when a value is missing from the array's dictionary.
    pub(crate) fn encode(&mut self, array: &ArrayRef, translation: &mut Translation) -> Result<UInt32Array> {
        let codes = match (&mut self.values, array.data_type()) {
            (Values::Bytes(values), ArrowType::Dictionary(_, _)) => {
                let unknown = || Error::internal("a dictionary has keys of another type");
                let array = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>();
                let array = array.ok_or_else(unknown)?;
                translation.update(array.values(), values)?;
                translation.codes_of(array.keys())?
            }
            (Values::Bytes(values), ArrowType::Utf8) => {
                let rows = array.as_string::<i32>().iter();
                rows.map(|value| value.map_or(0, |value| values.code(value.as_bytes())))
                    .collect()
            }
            (Values::Bytes(values), ArrowType::Binary) => {
                let rows = array.as_binary::<i32>().iter();
                rows.map(|value| value.map_or(0, |value| values.code(value)))
                    .collect()
            }
            (Values::Numbers(values), ArrowType::Int32) => values.codes::<Int32Type>(array, i64::from),
            (Values::Numbers(values), ArrowType::Date32) => values.codes::<Date32Type>(array, i64::from),
            (Values::Numbers(values), ArrowType::Int64) => values.codes::<Int64Type>(array, |value| value),
            (Values::Numbers(values), ArrowType::Timestamp(unit, _)) => match unit {
                TimeUnit::Second => values.codes::<TimestampSecondType>(array, |value| value),
                TimeUnit::Millisecond => values.codes::<TimestampMillisecondType>(array, |value| value),
                TimeUnit::Microsecond => values.codes::<TimestampMicrosecondType>(array, |value| value),
                TimeUnit::Nanosecond => values.codes::<TimestampNanosecondType>(array, |value| value),
            },
            (Values::Numbers(values), ArrowType::Decimal128(precision, _)) => {
                let numbers = array.as_primitive::<Decimal128Type>();
                // What has more digits does not fit the numbers that Parquet stores them as.
                let checked = numbers.validate_decimal_precision(*precision);
                checked
                    .map_err(|error| Error::corrupt("a decimal has too many digits").with_source(error))?;
                values.codes::<Decimal128Type>(array, |value| value as i64)
            }
            (_, other) => return Err(Error::internal(format!("a column of type {other} has no codes"))),
        };
        let known = self.hashes.len();
        if known < self.values.len() {
            self.hashes.extend(hash_column(&self.decoded(known)?)?);
        }
        Ok(UInt32Array::new(codes.into(), array.nulls().cloned()))
    }

    /// The hash of each value, as in the digest of a row.
    pub(crate) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// How many bytes the values of some rows take in their plain form, offsets left out.
    pub(crate) fn plain_bytes(&self, codes: &UInt32Array) -> usize {
        match &self.values {
            Values::Numbers(_) => 8 * codes.len(),
            Values::Bytes(values) => {
                let lengths = |code: u32| values.values.get(code as usize).map_or(0, |value| value.len());
                let bytes: usize = codes.iter().flatten().map(lengths).sum();
                bytes + 4 * codes.len()
            }
        }
    }

    /// The values by their codes.
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    /// The values that codes stand for.
    pub(crate) fn decode(&self, codes: &UInt32Array) -> Result<ArrayRef> {
        compute::take(&self.decoded(0)?, codes, None)
            .map_err(|error| Error::internal("codes do not stand for values").with_source(error))
    }

    /// The values from a code on, in the column's type.
    fn decoded(&self, first: usize) -> Result<ArrayRef> {
        let values: ArrayRef = match (&self.values, &self.data_type) {
            (Values::Bytes(values), _) => {
                let values = values.values[first..].iter();
                Arc::new(BinaryArray::from_iter_values(values))
            }
            (Values::Numbers(values), ArrowType::Int32 | ArrowType::Date32) => {
                let values = values.values[first..].iter().map(|value| *value as i32);
                Arc::new(Int32Array::from_iter_values(values))
            }
            (Values::Numbers(values), ArrowType::Decimal128(precision, scale)) => {
                let values = values.values[first..].iter().map(|value| i128::from(*value));
                let values = Decimal128Array::from_iter_values(values);
                let values = values.with_precision_and_scale(*precision, *scale);
                Arc::new(values.map_err(|error| Error::internal("a type is none").with_source(error))?)
            }
            (Values::Numbers(values), _) => {
                let values = values.values[first..].iter().copied();
                Arc::new(Int64Array::from_iter_values(values))
            }
        };
        let decoded = match self.data_type {
            ArrowType::Utf8 => StringArray::try_from_binary(values.as_binary().clone())
                .map(|text| Arc::new(text) as ArrayRef),
            _ => compute::cast(&values, &self.data_type),
        };
        decoded.map_err(|error| Error::corrupt("values are not of their column's type").with_source(error))
    }
}

impl Values {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(values) => values.values.len(),
            Self::Numbers(values) => values.values.len(),
        }
    }
}

impl<V> Default for Numbered<V> {
    fn default() -> Self {
        Self {
            codes: HashMap::default(),
            values: Vec::new(),
        }
    }
}

impl<V: Clone + Eq + Hash> Numbered<V> {
    /// The value of a code.
    pub(crate) fn value(&self, code: u32) -> &V {
        &self.values[code as usize]
    }

    fn add(&mut self, value: V) -> u32 {
        let code = self.values.len() as u32;
        self.values.push(value.clone());
        self.codes.insert(value, code);
        code
    }
}

impl Numbered<Arc<[u8]>> {
    fn code(&mut self, value: &[u8]) -> u32 {
        let known = self.codes.get(value).copied();
        known.unwrap_or_else(|| self.add(value.into()))
    }
}

impl Numbered<i64> {
    fn codes<T: ArrowPrimitiveType>(
        &mut self,
        array: &ArrayRef,
        wide: impl Fn(T::Native) -> i64,
    ) -> Vec<u32> {
        let mut code = |value: T::Native| {
            let value = wide(value);
            let known = self.codes.get(&value).copied();
            known.unwrap_or_else(|| self.add(value))
        };
        let array = array.as_primitive::<T>();
        match array.null_count() {
            0 => array.values().iter().map(|value| code(*value)).collect(),
            _ => array.iter().map(|value| value.map_or(0, &mut code)).collect(),
        }
    }
}

impl Translation {
    /// The codes of rows by their places in the dictionary.
    fn codes_of(&self, places: &Int32Array) -> Result<Vec<u32>> {
        let code = |place: &i32| self.codes.get(*place as usize).copied();
        let codes: Option<Vec<u32>> = match places.null_count() {
            0 => places.values().iter().map(code).collect(),
            _ => places
                .iter()
                .map(|place| place.map_or(Some(0), |place| code(&place)))
                .collect(),
        };
        codes.ok_or_else(|| Error::corrupt("a dictionary lacks values"))
    }

    /// Makes it that of `values`, which are text or bytes.
    fn update(&mut self, values: &ArrayRef, numbered: &mut Numbered<Arc<[u8]>>) -> Result<()> {
        let same = |known: &ArrayRef| known.to_data().ptr_eq(&values.to_data());
        if self.of.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.codes.clear();
        if values.null_count() > 0 {
            return Err(Error::corrupt("a dictionary has a null"));
        }
        match values.data_type() {
            ArrowType::Utf8 => {
                let values = values.as_string::<i32>().iter().flatten();
                self.codes
                    .extend(values.map(|value| numbered.code(value.as_bytes())));
            }
            ArrowType::Binary => {
                let values = values.as_binary::<i32>().iter().flatten();
                self.codes.extend(values.map(|value| numbered.code(value)));
            }
            other => return Err(Error::internal(format!("a dictionary of {other} has no codes"))),
        }
        self.of = Some(values.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int32Array};

    use super::*;

    fn text(values: &[Option<&str>], keys: &[Option<i32>]) -> ArrayRef {
        let values: ArrayRef = Arc::new(values.iter().copied().collect::<StringArray>());
        let keys = keys.iter().copied().collect::<Int32Array>();
        Arc::new(DictionaryArray::new(keys, values))
    }

    #[test]
    fn a_value_has_one_code_whatever_dictionary_it_comes_from() {
        let mut dictionary = Dictionary::new(&ArrowType::Utf8);
        let (mut one, mut other) = (Translation::default(), Translation::default());
        let mut codes = |array: &ArrayRef, translation: &mut Translation| -> Vec<Option<u32>> {
            dictionary.encode(array, translation).unwrap().iter().collect()
        };
        let first = text(&[Some("b"), Some("a")], &[Some(0), None, Some(1)]);
        assert_eq!(codes(&first, &mut one), [Some(0), None, Some(1)]);
        let second = text(&[Some("a"), Some("c"), Some("b")], &[Some(2), Some(1), Some(0)]);
        assert_eq!(codes(&second, &mut other), [Some(0), Some(2), Some(1)]);
        assert_eq!(codes(&first.slice(2, 1), &mut one), [Some(1)]);
        let decoded = dictionary.decode(&UInt32Array::from(vec![Some(2), None, Some(0)]));
        let decoded = decoded.unwrap();
        let expected: ArrayRef = Arc::new(StringArray::from(vec![Some("c"), None, Some("b")]));
        assert_eq!(&decoded, &expected);
    }

    #[test]
    fn values_hash_as_they_do_in_rows() {
        let decimals = Decimal128Array::from(vec![Some(700), None, Some(-3), Some(700)]);
        let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(15, 2).unwrap());
        let times = Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![5, -5, 5]));
        let days = Arc::new(arrow::array::Date32Array::from(vec![Some(-1), Some(2), None]));
        let words = text(&[Some("x"), Some("")], &[Some(1), Some(0), None]);
        for array in [decimals, times, days, words] {
            let plain = match array.data_type() {
                ArrowType::Dictionary(_, plain) => compute::cast(&array, plain).unwrap(),
                _ => array.clone(),
            };
            let mut dictionary = Dictionary::new(plain.data_type());
            assert_eq!(read_type(plain.data_type()), *array.data_type());
            let codes = dictionary.encode(&array, &mut Translation::default()).unwrap();
            assert_eq!(&dictionary.decode(&codes).unwrap(), &plain);
            let hashes = hash_column(&plain).unwrap();
            for (code, hash) in codes.iter().zip(hashes) {
                assert!(code.is_none_or(|code| dictionary.hashes()[code as usize] == hash));
            }
        }
    }

    #[test]
    fn rows_without_a_value_in_their_dictionary_are_damage() {
        let mut dictionary = Dictionary::new(&ArrowType::Utf8);
        let nothing = text(&[], &[None, None]);
        let codes = dictionary.encode(&nothing, &mut Translation::default()).unwrap();
        assert_eq!(codes.null_count(), 2);
        assert_eq!(dictionary.decode(&codes).unwrap().null_count(), 2);
        let null = text(&[None], &[Some(0)]);
        let error = dictionary.encode(&null, &mut Translation::default()).unwrap_err();
        assert_eq!(error.to_string(), "a dictionary has a null");
        let translation = Translation {
            of: None,
            codes: vec![7],
        };
        let places = |places: [Option<i32>; 3]| translation.codes_of(&places.into_iter().collect());
        assert_eq!(places([Some(0), None, Some(0)]).unwrap(), [7, 0, 7]);
        for outside in [Some(1), Some(-1)] {
            for other in [None, Some(0)] {
                let error = places([Some(0), other, outside]).unwrap_err();
                assert_eq!(error.to_string(), "a dictionary lacks values");
            }
        }
    }

    #[test]
    fn decimals_of_too_many_digits_are_damage() {
        let mut dictionary = Dictionary::new(&ArrowType::Decimal128(9, 2));
        let values: Decimal128Array = [Some(999_999_999), Some(1_000_000_000)].into_iter().collect();
        let array = |values: Decimal128Array| -> ArrayRef {
            Arc::new(values.with_precision_and_scale(9, 2).unwrap())
        };
        dictionary
            .encode(&array(values.slice(0, 1)), &mut Translation::default())
            .unwrap();
        let error = dictionary
            .encode(&array(values), &mut Translation::default())
            .unwrap_err();
        assert_eq!(error.kind(), dormouse_core::ErrorKind::Corrupt);
    }
}
