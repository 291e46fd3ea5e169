//! Messages, plans, schemas, properties, names and items.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dormouse_core::{
    collections::Collection,
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{ExportId, FileName, JobId, PartitionId, PinId, RunId, SubExportId, TableId, TableName},
    key::{Bytes, Key, KeyBounds, KeyRange, KeyValue},
    message::{CommitMessage, ExportLeafMessage, export_leaf::region},
    partition::tree_from_split_points,
    plan::export::ExportPlan,
    ports::{ItemStore, Order, Range, Sort, SystemClock, Value},
    schema::{Column, DataType, Schema, TimeUnit},
    state::{Commit, CommitId, Record, StateStore, TableState, snapshot},
    tables::Tables,
    testing::{memory::MemoryItemStore, seeded::SeededIds},
    time::Timestamp,
    tracker::{EventKind, ExportPart, JobKey, JobKind, Tracker},
};
use futures::executor::block_on;
use object_store::memory::InMemory;
use uuid::Uuid;

use super::put;

const START: i64 = 1_795_000_000_000;

fn schema() -> Arc<Schema> {
    let row_key = vec![
        Column::required("key", DataType::Utf8),
        Column::required("bytes", DataType::Binary),
    ];
    let at = DataType::Timestamp {
        unit: TimeUnit::Microsecond,
        timezone: Some("UTC".to_owned()),
    };
    let entry = DataType::Map {
        key: Box::new(Column::required("key", DataType::Utf8)),
        value: Box::new(Column::nullable("value", DataType::Float64)),
    };
    let values = vec![
        Column::nullable("list", DataType::List(Box::new(Column::nullable("item", entry)))),
        Column::nullable(
            "struct",
            DataType::Struct(vec![Column::nullable("a", DataType::Boolean)]),
        ),
        Column::nullable(
            "price",
            DataType::Decimal128 {
                precision: 18,
                scale: 2,
            },
        ),
    ];
    Arc::new(Schema::new(row_key, vec![Column::required("at", at)], values).unwrap())
}

fn key(text: &str) -> Key {
    Key::new([
        KeyValue::Utf8(text.into()),
        KeyValue::Binary(Bytes(Box::new([0x80, 0xff]))),
    ])
}

fn file(number: u128, parts: &[(&str, &str, u64)]) -> Arc<DataFile> {
    Arc::new(DataFile {
        name: FileName::new(&PartitionId::root(), Uuid::from_u128(number)),
        rows: parts.iter().map(|part| part.2).sum(),
        bytes: 1000,
        checksum: Checksum(0x1234_5678_9abc_def0),
        parts: parts
            .iter()
            .map(|(min, max, rows)| FilePart {
                range: KeyRange {
                    min: key(min),
                    max: key(max),
                },
                rows: *rows,
                digest: RowDigest(u128::from(*rows) << 100),
            })
            .collect(),
    })
}

fn table() -> TableId {
    TableId::new("0a1b2c3d").unwrap()
}

fn files_added() -> Record {
    Record::FilesAdded {
        job: JobId::new("job-1").unwrap(),
        run: RunId::new("run-1").unwrap(),
        issued: Timestamp::from_millis(START),
        files: vec![
            file(1, &[("a", "b", 3), ("n", "z", 9)]),
            file(2, &[("c", "d", 5)]),
        ],
    }
}

fn state() -> TableState {
    let mut next = 0;
    let points = [Key::new([KeyValue::Utf8("m".into())])];
    let partitions = tree_from_split_points(&points, || {
        next += 1;
        PartitionId::new(format!("p{next}")).unwrap()
    })
    .unwrap();
    let records = [
        Record::TableCreated {
            schema: schema(),
            partitions,
        },
        files_added(),
        Record::PinTaken {
            pin: PinId::new("pin-1").unwrap(),
            transaction: dormouse_core::ids::TransactionNumber(2),
            until: Timestamp::from_millis(START + 60_000),
        },
    ];
    let mut state = TableState::default();
    for (number, record) in records.into_iter().enumerate() {
        let commit = Commit::new(CommitId::new(format!("commit-{number}")), record);
        let outcomes = state.apply(
            state.transaction().next(),
            Timestamp::from_millis(START + 1),
            &[commit],
        );
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.clone().into_result().is_ok()),
            "{outcomes:?}"
        );
    }
    state
}

fn messages() {
    let bodies = [
        (
            "ingest",
            r#"{"id":"job-1","tableName":"events","files":["source/a.parquet","s3://source/day=1/","s3a://b/c","file:///data/in.parquet"]}"#,
        ),
        (
            "ingest-bulk",
            r#"{"tableId":"0a1b2c3d","files":["b/k"],"className":"x","platformSpec":{"a":"1"},"sparkConf":{"spark.x":"2"}}"#,
        ),
        (
            "export",
            r#"{"tableName":"events","exportId":"daily-2026.11.20_1","asOf":12,"format":"Parquet"}"#,
        ),
        (
            "export-time",
            r#"{"tableId":"0a1b2c3d","exportId":"e","asOf":"2026-11-20T09:30:00.5+01:00"}"#,
        ),
        (
            "export-filter",
            r#"{"tableName":"t","exportId":"e","filter":"a > 1","columns":["a"],"region":null}"#,
        ),
        (
            "pointer",
            r#"{"tableId":"0a1b2c3d","commitId":"job-1/run-1","bodyObject":"0a1b2c3d/statestore/commits/x.json"}"#,
        ),
    ];
    for (name, body) in bodies {
        put("message", name, body);
    }
    let bounds = KeyBounds {
        lower: Some(key("a")),
        upper: None,
    };
    let leaf = ExportLeafMessage::new(
        table(),
        ExportId::new("e1").unwrap(),
        SubExportId::new("s1").unwrap(),
        (PartitionId::root(), region(&schema(), &bounds)),
        vec![file(1, &[("a", "b", 1)]).name.to_string()],
    );
    put("message", "export-leaf", leaf.to_body().unwrap());
    let commit = Commit::new(CommitId::new("job-1/run-1"), files_added());
    let message = CommitMessage {
        table_id: table(),
        commits: vec![commit],
        body_object: None,
    };
    put("message", "commit", message.to_body().unwrap());
}

fn plan() -> ExportPlan {
    let export = ExportId::new("e1").unwrap();
    ExportPlan::new(
        (&table(), "events"),
        &export,
        PinId::new("pin-1").unwrap(),
        &state(),
        None,
    )
    .unwrap()
}

fn parts(plan: &ExportPlan) -> Vec<ExportPart> {
    let part = |part: &dormouse_core::plan::export::SubExport| ExportPart {
        sub_export: part.id.clone(),
        rows: 3,
        bytes: 4,
        checksum: Checksum(5),
        digest: RowDigest(6),
        range: None,
    };
    plan.sub_exports.iter().map(part).collect()
}

fn plans() {
    let plan = plan();
    put("manifest", "plan", plan.encode().unwrap());
    let manifest = plan.manifest(&parts(&plan)).unwrap();
    put(
        "manifest",
        "manifest",
        serde_json::to_vec_pretty(&manifest).unwrap(),
    );
    put(
        "snapshot",
        "exported",
        snapshot::encode(&table(), &state()).unwrap(),
    );
    let stored = snapshot::encode(&table(), &state()).unwrap();
    put(
        "snapshot",
        "exported-frames",
        zstd::decode_all(&stored[8..]).unwrap(),
    );
}

fn schemas() {
    put("schema", "stored", serde_json::to_string(&*schema()).unwrap());
    let sleeper = r#"{"rowKeyFields":[{"name":"key","type":"StringType"},{"name":"id","type":"IntType"}],"sortKeyFields":[{"name":"timestamp","type":"LongType"}],"valueFields":[{"name":"bytes","type":"ByteArrayType","nullable":true},{"name":"list","type":{"ListType":{"elementType":"IntType"}}},{"name":"map","type":{"MapType":{"keyType":"StringType","valueType":"LongType"}}}]}"#;
    put("schema", "sleeper", sleeper);
    let every = r#"{"row_key":[{"name":"a","type":"date32","nullable":false}],"sort_key":[],"values":[{"name":"b","type":{"time64":"nanosecond"},"nullable":true},{"name":"c","type":{"fixed_size_binary":16},"nullable":true},{"name":"d","type":{"decimal256":{"precision":50,"scale":-3}},"nullable":true},{"name":"e","type":{"duration":"second"},"nullable":false},{"name":"f","type":"float16","nullable":true}]}"#;
    put("schema", "types", every);
}

fn properties() {
    let mut text = String::from("# a comment\n! another\n");
    for property in dormouse_core::config::PROPERTIES {
        text.push_str(&format!("dormouse.{}={}\n", property.name, property.default));
    }
    put("properties", "defaults", &text);
    put(
        "properties",
        "table",
        "sleeper.gc.period.minutes : 0.5\ndormouse.memory.bytes = 2G\n---\ndormouse.table.gc.delay.minutes=0.5\ntable.commit.mode=queued\n---\nDORMOUSE_MEMORY_BYTES=1G\nDORMOUSE_INGEST_FILE_DIRECTORIES=/a, /b\n",
    );
    put(
        "properties",
        "short",
        "threads=2\n---\ntable.file.target.bytes=16M",
    );
}

fn names() {
    for (name, text) in [
        ("id", "daily-2026.11.20_1"),
        ("file-name", "0a1b2c3d\nroot"),
        ("file-path", "0a1b2c3d\npartition_root/x.parquet"),
        ("object-path", "0a1b2c3d/data/partition_root/x.parquet"),
        ("bucket", "b/d/x.parquet"),
        ("s3", "s3://b/d/x.parquet"),
        ("s3a", "s3a://b/../other/x.parquet"),
        ("file", "file://$ALLOWED/d/x.parquet"),
        ("file-link", "file://$ALLOWED/link/x.parquet"),
        ("file-beside", "file://$ALLOWEDsecret/x.parquet"),
        ("file-secret", "file://$SECRET/x.parquet"),
        ("percent", "b/%2e%2e/%2e%2e/x.parquet"),
        ("slashes", "b//d/./x.parquet"),
        ("nul", "b/d\0/x.parquet"),
        ("division-slash", "b/..\u{2215}..\u{2215}x.parquet"),
        ("staged", "b/d/x.parquet#1"),
    ] {
        put("names", name, text);
    }
}

fn predicates() {
    for (name, text) in [
        ("compare", "k = 'k07' OR n > 100 AND f <= 2.5"),
        ("null", "n IS NULL AND Flag IS NOT FALSE"),
        ("like", "k LIKE 'k1%' AND NOT k LIKE '%5'"),
        ("list", "k IN ('k01', 'k02') OR n NOT IN (10, 20)"),
        ("between", "f BETWEEN 0.5 AND 1e3"),
        ("case", "CASE WHEN Flag THEN n % 3 = 1 ELSE length(k) > 2 END"),
        ("cast", "CAST(n AS DOUBLE) / 3 > f AND CAST(k AS VARCHAR) <> ''"),
        (
            "functions",
            "upper(substr(k, 2, 1)) = '1' AND abs(n) > coalesce(f, 1)",
        ),
        ("regex", "k ~ '^k[0-9]+$' AND regexp_like(k, '[13]')"),
        ("quoted", "\"Flag\" = true"),
        ("division", "n / (n - 80) > 0"),
        ("not", "NOT (n > 50) IS TRUE"),
        ("boolean", "CAST(n AS BOOLEAN) = false"),
        ("negative", "-n < 30 AND TRY_CAST(n AS TINYINT) > 1"),
        ("text", "CAST(n AS VARCHAR) > '5'"),
    ] {
        put("predicate", name, text);
    }
}

/// What tables, a tracker and a log have stored.
fn items() {
    let clock = Arc::new(SystemClock);
    let ids = Arc::new(SeededIds::new(1));
    let items = Arc::new(MemoryItemStore::new(clock.clone()));
    let states = Arc::new(StateStore::new(
        items.clone(),
        Arc::new(InMemory::new()),
        clock.clone(),
        ids.clone(),
    ));
    let tables = Tables::new(items.clone(), states.clone(), clock.clone(), ids.clone());
    let tracker = Tracker::new(items.clone(), clock.clone(), ids, Duration::from_secs(3600));
    let properties = BTreeMap::from([("table.gc.delay.minutes".to_owned(), "1".to_owned())]);
    let partitions = tree_from_split_points(&[], PartitionId::root).unwrap();
    let simple = Arc::new(Schema::new(vec![Column::required("k", DataType::Int32)], vec![], vec![]).unwrap());
    let run = RunId::new("run-1").unwrap();
    block_on(async {
        let name = TableName::new("events").unwrap();
        let info = tables.create(name, simple, partitions, properties).await.unwrap();
        states
            .commit(&info.id, Commit::new(CommitId::new("x"), Record::TableCleared))
            .await
            .unwrap();
        let key = |kind| JobKey {
            kind,
            table: Some(info.id.clone()),
            job: JobId::new("job-1").unwrap(),
        };
        for kind in [
            EventKind::Accepted { input_files: 2 },
            EventKind::Failed {
                reasons: vec!["a reason".to_owned()],
            },
        ] {
            tracker
                .record(&key(JobKind::Ingest), Some("events"), (&run, 1), kind)
                .await
                .unwrap();
        }
        let rejected = EventKind::Rejected {
            reasons: vec!["b".to_owned()],
            message: "{".to_owned(),
        };
        tracker
            .record(&key(JobKind::Export), None, (&run, 1), rejected)
            .await
            .unwrap();
        let plan = plan();
        for part in parts(&plan) {
            tracker.record_part(&plan, &part).await.unwrap();
        }
        let day = dormouse_core::ports::Clock::now(&*clock).day();
        let id = info.id.as_str();
        let partitions = [
            id,
            "names",
            "job-1",
            &day,
            &format!("ingest|{id}|job-1"),
            &format!("export|{id}|job-1"),
        ]
        .map(str::to_owned);
        let mut all = Vec::new();
        for collection in Collection::ALL {
            let mut found = Vec::new();
            for partition in &partitions {
                let page = items.query(collection, partition, Range::all(), 100, Order::Ascending);
                found.extend(page.await.unwrap());
            }
            let json: Vec<_> = found.iter().map(|item| item_json(item, id, &day)).collect();
            if json.is_empty() {
                continue;
            }
            put("items", collection.as_str(), serde_json::to_vec(&json).unwrap());
            all.extend(json);
        }
        put("items", "all", serde_json::to_vec(&all).unwrap());
    });
    put(
        "items",
        "snapshot",
        r#"[{"collection":"snapshots","partition":"0a1b2c3d","sort":7,"attributes":{"path":"0a1b2c3d/statestore/snapshots/7.dmsnap","bytes":100,"digest":"00","at":1795000000000}},{"collection":"heads","partition":"0a1b2c3d","attributes":{"number":9,"hash":"0000000000000000000000000000000000000000000000000000000000000000","floor":1}}]"#,
    );
    put(
        "items",
        "cursor",
        r#"[{"collection":"tracker-repairs","partition":"1795000000000|job-1|ingest|0a1b2c3d","attributes":{"transaction":1}}]"#,
    );
}

/// As the target reads it: of the table and the day that it asks for.
fn item_json(item: &dormouse_core::ports::Item, id: &str, day: &str) -> serde_json::Value {
    let text = |text: &str| {
        text.replace(id, "0a1b2c3d")
            .replace(day, &Timestamp::from_millis(START).day())
    };
    let attributes: serde_json::Map<String, serde_json::Value> = item
        .attributes
        .iter()
        .map(|(name, value)| {
            let value = match value {
                Value::Text(value) => text(value).into(),
                Value::Number(number) => (*number).into(),
                Value::Flag(flag) => (*flag).into(),
                Value::Bytes(bytes) => bytes.to_vec().into(),
            };
            (name.clone(), value)
        })
        .collect();
    let sort: serde_json::Value = match &item.key.sort {
        Sort::None => serde_json::Value::Null,
        Sort::Number(number) => (*number).into(),
        Sort::Text(sort) => text(sort).into(),
    };
    serde_json::json!({
        "collection": item.key.collection.as_str(),
        "partition": text(&item.key.partition),
        "sort": sort,
        "attributes": attributes,
    })
}

pub(crate) fn write() {
    messages();
    plans();
    schemas();
    properties();
    names();
    predicates();
    items();
}
