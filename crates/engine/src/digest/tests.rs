use std::sync::Arc;

use arrow::{
    array::{
        BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray,
        StringArray, StringViewArray, StructArray, TimestampMillisecondArray, UInt8Array,
    },
    datatypes::{Field, Int32Type},
};

use super::*;

fn of(columns: &[ArrayRef]) -> RowDigest {
    let rows = columns[0].len();
    let mut digester = Digester::default();
    digester.hash_rows(columns, rows).unwrap();
    digester.sum(0..rows)
}

fn sample() -> Vec<ArrayRef> {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None, Some(-3)]),
        None,
        Some(vec![]),
    ]);
    let record = StructArray::from(vec![
        (
            Arc::new(Field::new("x", ArrowType::Int32, true)),
            Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("y", ArrowType::Utf8, false)),
            Arc::new(StringArray::from(vec!["a", "", "\u{1f400}"])) as ArrayRef,
        ),
    ]);
    vec![
        Arc::new(StringArray::from(vec![
            "dormouse",
            "",
            "sleeps through the whole winter",
        ])),
        Arc::new(Int64Array::from(vec![0, -1, i64::MAX])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0xff, 0]), None, Some(&[])])),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        Arc::new(UInt8Array::from(vec![0, 128, 255])),
        Arc::new(Float64Array::from(vec![0.5, -0.0, f64::INFINITY])),
        Arc::new(TimestampMillisecondArray::from(vec![-1, 0, 1]).with_timezone("UTC")),
        Arc::new(Decimal128Array::from(vec![1, -1, 0])),
        Arc::new(list),
        Arc::new(record),
    ]
}

#[test]
fn the_definition_is_frozen() {
    assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    let one: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a"])),
        Arc::new(Int64Array::from(vec![1])),
    ];
    assert_eq!(of(&one).to_string(), "a10ff5dbabab5bff597fbd3a5ac84339");
    assert_eq!(of(&sample()).to_string(), "6c32370c2f982855a24193e815b402e6");
}

#[test]
fn the_order_and_the_batches_of_rows_do_not_count() {
    let columns = sample();
    let slice = |from, rows| columns.iter().map(|c| c.slice(from, rows)).collect::<Vec<_>>();
    assert_eq!(of(&slice(2, 1)) + of(&slice(0, 2)), of(&columns));
}

#[test]
fn the_flavour_of_text_does_not_count() {
    let plain: ArrayRef = Arc::new(StringArray::from(vec![
        Some("a"),
        None,
        Some("a text of many bytes"),
    ]));
    let view: ArrayRef = Arc::new(StringViewArray::from(vec![
        Some("a"),
        None,
        Some("a text of many bytes"),
    ]));
    assert_eq!(of(&[plain]), of(&[view]));
}

#[test]
fn values_positions_and_nulls_count() {
    let a: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let b: ArrayRef = Arc::new(Int32Array::from(vec![3, 4]));
    let swapped: ArrayRef = Arc::new(Int32Array::from(vec![4, 3]));
    assert_ne!(of(&[a.clone(), b.clone()]), of(&[b.clone(), a.clone()]));
    assert_ne!(of(&[a.clone(), b]), of(&[a, swapped]));
    let zero: ArrayRef = Arc::new(Int32Array::from(vec![Some(0)]));
    let null: ArrayRef = Arc::new(Int32Array::from(vec![None]));
    assert_ne!(of(&[zero]), of(&[null]));
}
