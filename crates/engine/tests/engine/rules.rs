//! Filters and aggregations, as exports and compactions apply them.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc};

use arrow::array::{
    ArrayRef, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, UInt8Array, UInt8Builder,
};
use arrow::{
    array::MapFieldNames,
    datatypes::{DataType as ArrowType, Field},
};
use dormouse_core::{
    ErrorKind,
    file::DataFile,
    ports::{CompactionSpec, Progress, RowEngine},
    row_rules::RowRules,
    schema::{Column, DataType, Schema, TimeUnit},
    time::Timestamp,
};
use dormouse_engine::FileLayout;
use proptest::prelude::*;

use crate::fixture::{Fixture, batch, leaves, rows};

const SMALL: FileLayout = FileLayout {
    row_group_rows: 4,
    page_rows: 2,
    piece_bytes: 1,
    copied_rows: 1,
};

fn small(schema: Schema) -> Fixture {
    let mut fixture = Fixture::new(Arc::new(schema), leaves(&[]));
    fixture.options.layout = SMALL;
    fixture
}

/// Exports files by rules; answers the rows.
async fn export(fixture: &Fixture, files: &[DataFile], rules: (&str, &str), now: i64) -> Vec<String> {
    let inputs = files
        .iter()
        .map(|file| fixture.export_input(file, true))
        .collect();
    let mut spec = fixture.export_spec(0, inputs);
    let rules = RowRules::parse(rules.0, rules.1).unwrap();
    spec.rules = rules.at(Timestamp::from_millis(now));
    let path = spec.output_path.clone();
    let exported = fixture
        .engine()
        .export(spec, Arc::new(Progress::default()))
        .await
        .unwrap();
    let found = crate::fixture::decode(fixture.bytes(&path).await);
    assert_eq!(exported.rows as usize, found.num_rows());
    assert_eq!(exported.range.is_none(), found.num_rows() == 0);
    rows(&found)
}

fn timed_schema(time: DataType) -> Schema {
    Schema::new(
        vec![Column::required("k", DataType::Utf8)],
        vec![],
        vec![Column::nullable("at", time)],
    )
    .unwrap()
}

fn timed(schema: &Schema, values: &[(&str, Option<i64>)]) -> RecordBatch {
    let times: ArrayRef = Arc::new(Int64Array::from_iter(values.iter().map(|row| row.1)));
    let target = dormouse_engine::arrow_schema::arrow_schema(schema);
    let times = arrow::compute::cast(&times, target.field(1).data_type()).unwrap();
    let keys = StringArray::from_iter_values(values.iter().map(|row| row.0));
    batch(schema, vec![Arc::new(keys), times])
}

#[tokio::test]
async fn rows_of_an_age_are_dropped_and_so_are_those_without_one() {
    let timestamp = |unit| DataType::Timestamp { unit, timezone: None };
    for (time, scale) in [
        (DataType::Int64, 1000),
        (timestamp(TimeUnit::Second), 1),
        (timestamp(TimeUnit::Millisecond), 1000),
        (timestamp(TimeUnit::Microsecond), 1_000_000),
        (timestamp(TimeUnit::Nanosecond), 1_000_000_000),
    ] {
        let schema = timed_schema(time);
        let values = [
            ("a", Some(40)),
            ("b", Some(41)),
            ("c", None),
            ("d", Some(39)),
            ("e", Some(90)),
        ];
        let values = values.map(|(key, seconds)| (key, seconds.map(|seconds: i64| seconds * scale)));
        let fixture = small(schema.clone());
        let files = fixture.ingest_batches(&[timed(&schema, &values)]).await;
        let kept = export(&fixture, &files, ("ageOff(at,10000)", ""), 50_000).await;
        let keys: Vec<&str> = kept.iter().map(|row| &row[..1]).collect();
        assert_eq!(keys, ["b", "e"], "{schema:?}");
        assert_eq!(
            export(&fixture, &files, ("ageOff(at,10000)", ""), 200_000).await,
            [""; 0]
        );
    }
}

#[tokio::test]
async fn a_compaction_whose_rows_are_all_dropped_writes_nothing() {
    let schema = timed_schema(DataType::Int64);
    let fixture = small(schema.clone());
    let files = fixture
        .ingest_batches(&[timed(&schema, &[("a", Some(1)), ("b", None)])])
        .await;
    let compact = |rules: RowRules| {
        let inputs = files.iter().map(|file| fixture.export_input(file, true));
        let spec = CompactionSpec {
            rules: rules.at(Timestamp::from_millis(100)),
            ..fixture.compaction_spec(0, inputs.collect())
        };
        let engine = fixture.engine();
        async move { engine.compact(spec, Arc::new(Progress::default())).await }
    };
    let rules = |age: &str| RowRules::parse(age, "").unwrap();
    assert_eq!(compact(rules("ageOff(at,50)")).await.unwrap(), None);
    let kept = compact(rules("ageOff(at,100)")).await.unwrap().unwrap();
    assert_eq!((kept.rows, kept.parts[0].rows), (1, 1));
    assert_eq!(rows(&fixture.read(&kept).await), ["a|1"]);
    let error = compact(rules("ageOff(gone,1)")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

fn counted_schema() -> Schema {
    let map = DataType::Map {
        key: Box::new(Column::required("key", DataType::Utf8)),
        value: Box::new(Column::required("value", DataType::UInt8)),
    };
    Schema::new(
        vec![Column::required("k", DataType::Utf8)],
        vec![Column::required("s", DataType::Int64)],
        vec![
            Column::required("n", DataType::Int64),
            Column::required("low", DataType::UInt8),
            Column::required("m", map),
        ],
    )
    .unwrap()
}

type Counted = (u8, i64, i64, u8, Vec<(u8, u8)>);

fn counted(values: &[Counted]) -> RecordBatch {
    let schema = counted_schema();
    let arrow = dormouse_engine::arrow_schema::arrow_schema(&schema);
    let ArrowType::Map(entries, _) = arrow.field(4).data_type() else {
        panic!()
    };
    let ArrowType::Struct(fields) = entries.data_type() else {
        panic!()
    };
    let names = MapFieldNames {
        entry: entries.name().clone(),
        key: fields[0].name().clone(),
        value: fields[1].name().clone(),
    };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), UInt8Builder::new())
        .with_keys_field(fields[0].clone())
        .with_values_field(Arc::new(Field::clone(&fields[1])));
    for row in values {
        for (key, value) in &row.4 {
            maps.keys().append_value(format!("m{key}"));
            maps.values().append_value(*value);
        }
        maps.append(true).unwrap();
    }
    let keys = StringArray::from_iter_values(values.iter().map(|row| format!("k{}", row.0)));
    batch(
        &schema,
        vec![
            Arc::new(keys),
            Arc::new(Int64Array::from_iter_values(values.iter().map(|row| row.1))),
            Arc::new(Int64Array::from_iter_values(values.iter().map(|row| row.2))),
            Arc::new(UInt8Array::from_iter_values(values.iter().map(|row| row.3))),
            Arc::new(maps.finish()),
        ],
    )
}

/// What the rows must become, by keys.
fn model(inputs: &[Vec<Counted>]) -> Vec<Counted> {
    type Folded = (i64, u8, BTreeMap<u8, u8>);
    let mut found: BTreeMap<(u8, i64), Folded> = BTreeMap::new();
    for (k, s, n, low, map) in inputs.iter().flatten() {
        let entry = found.entry((*k, *s)).or_insert((0, u8::MAX, BTreeMap::new()));
        entry.0 = entry.0.wrapping_add(*n);
        entry.1 = entry.1.min(*low);
        for (key, value) in map {
            let slot = entry.2.entry(*key).or_insert(0);
            *slot = slot.wrapping_add(*value);
        }
    }
    let rows = found.into_iter();
    rows.map(|((k, s), (n, low, map))| (k, s, n, low, map.into_iter().collect()))
        .collect()
}

/// Maps, whose entries have no order of their own, with entries in order.
fn in_order(values: Vec<Counted>) -> Vec<String> {
    let sorted: Vec<Counted> = values
        .into_iter()
        .map(|mut row| {
            row.4.sort_unstable();
            row
        })
        .collect();
    rows(&counted(&sorted))
}

fn counted_row() -> impl Strategy<Value = Counted> {
    let map =
        prop::collection::btree_map(0u8..5, any::<u8>(), 0..4).prop_map(|map| map.into_iter().collect());
    let n = prop_oneof![any::<i64>(), -9i64..9];
    (0u8..5, 0i64..3, n, any::<u8>(), map)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_of_equal_keys_become_one_wherever_they_were(
        inputs in prop::collection::vec(prop::collection::vec(counted_row(), 1..30), 1..5),
        row_group_rows in 1usize..9,
        piece_bytes in prop_oneof![Just(1u64), 200u64..3000, Just(1 << 30)],
        threads in 1usize..4,
    ) {
        let mut fixture = small(counted_schema());
        fixture.options.threads = NonZeroUsize::new(threads).unwrap();
        fixture.options.layout = FileLayout { row_group_rows, piece_bytes, ..SMALL };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut files = Vec::new();
            for rows in &inputs {
                files.push(fixture.ingest_batches(&[counted(rows)]).await.remove(0));
            }
            let rules = ("", "sum(n),min(low),map_sum(m)");
            assert_eq!(export(&fixture, &files, rules, 0).await, in_order(model(&inputs)));
        });
    }
}

#[tokio::test]
async fn numbers_and_maps_are_summed_and_the_largest_and_smallest_kept() {
    let fixture = small(counted_schema());
    let first = vec![(1, 1, 5, 9, vec![(2, 200), (1, 1)]), (1, 2, 1, 1, vec![])];
    let second = vec![(1, 1, i64::MAX, 3, vec![(2, 100), (3, 7)])];
    let mut files = Vec::new();
    for values in [first, second] {
        files.push(fixture.ingest_batches(&[counted(&values)]).await.remove(0));
    }
    for (rules, first) in [
        (
            "sum(n),min(low),map_sum(m)",
            "k1|1|-9223372036854775804|3|{m1: 1, m2: 44, m3: 7}",
        ),
        (
            "max(n),max(low),map_max(m)",
            "k1|1|9223372036854775807|9|{m1: 1, m2: 200, m3: 7}",
        ),
        ("min(n),sum(low),map_min(m)", "k1|1|5|12|{m1: 1, m2: 100, m3: 7}"),
    ] {
        assert_eq!(
            export(&fixture, &files, ("", rules), 0).await,
            [first, "k1|2|1|1|{}"],
            "{rules}"
        );
    }
}
