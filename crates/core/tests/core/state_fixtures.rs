//! What was once written stays readable, and is written the same for ever.
//!
//! Each fixture is made once, by running this test with `MAKE_MISSING_FIXTURES=1` after a variant was added, and
//! never changed after.

use std::{collections::BTreeSet, path::PathBuf};

use dormouse_core::{
    error::ErrorKind,
    ids::{TableId, TransactionNumber},
    key::{Bytes, Key, KeyRange, KeyValue},
    schema::{Column, DataType, Schema, TimeUnit},
    state::{
        Commit, CommitId, KeptBecause, Record, TableState, invariants,
        log::{self, Entry},
        snapshot,
        table_state::{EntryHash, Extent},
        transaction::{RestoredFile, RestoredReference},
    },
};

use crate::samples::*;

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(path)
}

fn read_or_make(path: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = fixture(path);
    if std::env::var_os("MAKE_MISSING_FIXTURES").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, make()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("no fixture {}: {error}", path.display()))
}

/// One of each record, with something in every field.
fn records() -> Vec<Record> {
    let every_key = vec![
        Column::required("a", DataType::Int32),
        Column::required("b", DataType::Int64),
        Column::required("c", DataType::Utf8),
        Column::required("d", DataType::Binary),
        Column::required("e", DataType::Date32),
        Column::required(
            "f",
            DataType::Timestamp {
                unit: TimeUnit::Microsecond,
                timezone: Some("UTC".to_owned()),
            },
        ),
    ];
    let list = DataType::List(Box::new(Column::nullable("item", DataType::Float64)));
    let sort = vec![Column::required("at", DataType::Int64)];
    let schema = Schema::new(every_key, sort, vec![Column::nullable("values", list)]).unwrap();
    let whole = |number: i32| {
        Key::new([
            KeyValue::Int32(number),
            KeyValue::Int64(i64::MIN),
            KeyValue::Utf8("dormouse \u{1F42D}".into()),
            KeyValue::Binary(Bytes(Box::new([0, 127, 255]))),
            KeyValue::Date32(-1),
            KeyValue::Timestamp(i64::MAX),
        ])
    };
    let mut many_keys = dormouse_core::file::DataFile::clone(&file("keys", &[(1, 2, 3)]));
    many_keys.parts[0].range = KeyRange {
        min: whole(-1),
        max: whole(1),
    };
    let mut partitions = tree(&[10]);
    partitions[0].parent = None;
    vec![
        Record::TableCreated {
            schema: schema.into(),
            partitions,
        },
        Record::PartitionSplit(split("root", 5, "l", "r")),
        Record::PartitionTreeExtended {
            splits: vec![split("l", 2, "ll", "lr"), split("r", 8, "rl", "rr")],
        },
        added(
            "job-1",
            &[file("a", &[(1, 2, 3), (5, 6, u64::MAX >> 12)]), many_keys.into()],
        ),
        assigned("job-2", "root", &["a", "b"], at(MINUTE)),
        compacted("job-2", "root", &["a", "b"], Some(file("out", &[(1, 6, 9)]))),
        marked(&["a"]),
        deleted(&["a"]),
        pinned("pin-1", 7, at(DAY)),
        released("pin-1"),
        truncated(3),
        Record::TableCleared,
        Record::TableRestored {
            of: TransactionNumber(6),
            files: vec![RestoredFile {
                file: file("a", &[(1, 2, 3), (5, 6, 7)]),
                references: vec![
                    RestoredReference {
                        partition: id("l"),
                        extent: Extent::Part(1),
                    },
                    RestoredReference {
                        partition: id("r"),
                        extent: Extent::Share {
                            range: KeyRange {
                                min: key(5),
                                max: key(6),
                            },
                            rows: 4,
                        },
                    },
                ],
            }],
        },
        kept("root", 8, KeptBecause::OneKey { key: whole(3) }),
        Record::TableDeleted,
    ]
}

/// The stored names of all variants, as the decoder knows them.
fn variants() -> BTreeSet<String> {
    let error = serde_json::from_str::<Record>(r#"{"type":"?"}"#)
        .unwrap_err()
        .to_string();
    let (_, expected) = error.split_once("expected one of ").unwrap();
    let quoted = expected.split('`').skip(1).step_by(2);
    quoted.map(|name| format!("{name}.json")).collect()
}

#[test]
fn every_record_is_read_and_written_as_it_was_first_stored() {
    let mut names = BTreeSet::new();
    for record in records() {
        let name = record.type_name();
        names.insert(format!("{name}.json"));
        let mut before = TableState::default();
        before.apply(TransactionNumber(41), START, []);
        let commits = vec![Commit::new(CommitId::new(format!("{name}/1")), record)];
        let entry = Entry::after(&before, &table(), at(1), commits);
        let stored = read_or_make(&format!("records/{name}.json"), || {
            entry.encode().unwrap().0.to_vec()
        });
        let (decoded, hash) = Entry::decode(&stored).unwrap();
        assert_eq!(decoded, entry, "{name} is read as something else");
        let (encoded, hash_of_encoded) = decoded.encode().unwrap();
        assert_eq!(
            String::from_utf8(encoded.to_vec()).unwrap(),
            String::from_utf8(stored).unwrap()
        );
        assert_eq!(hash, hash_of_encoded);
    }
    assert_eq!(names, variants(), "a variant has no sample");
    let there: BTreeSet<_> = std::fs::read_dir(fixture("records"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, names);
}

#[test]
fn a_compaction_without_output_is_read_as_it_was_first_stored() {
    let stored = read_or_make("compaction_without_output.json", || {
        let commits = vec![commit("c/1", compacted("c", "root", &["a"], None))];
        Entry::after(&TableState::default(), &table(), START, commits)
            .encode()
            .unwrap()
            .0
            .to_vec()
    });
    let (entry, _) = Entry::decode(&stored).unwrap();
    assert_eq!(entry.commits[0].record, compacted("c", "root", &["a"], None));
    assert_eq!(entry.encode().unwrap().0, stored);
}

/// A state with something in every field.
fn full_state() -> Fold {
    let mut fold = Fold::with_table(&[10, 20]);
    fold.ok(added("j0", &[file("old", &[(1, 2, 1)])]));
    fold.ok(marked(&["ancient"]));
    fold.ok(deleted(&["ancient"]));
    fold.wait(36 * DAY);
    for i in 1..9 {
        let record = Record::FilesAdded {
            job: job(&format!("j{i}")),
            run: run("run-1"),
            issued: fold.now(),
            files: vec![file(&format!("f{i}"), &[(i, 9, 3), (10, 15, 4), (16, 30 + i, 5)])],
        };
        fold.ok(record);
    }
    fold.ok(pinned("reader", 7, at(100 * DAY)));
    let leaf = fold.state.leaves().next().unwrap().id;
    fold.ok(assigned("c1", leaf.as_str(), &["f1", "f2"], at(40 * DAY)));
    let merged = Record::CompactionCommitted {
        job: job("c1"),
        run: run("run-1"),
        issued: fold.now(),
        partition: leaf.clone(),
        inputs: vec![name("f1"), name("f2")],
        output: Some(file("merged", &[(1, 9, 6)])),
    };
    fold.ok(merged);
    fold.ok(assigned("c2", leaf.as_str(), &["f3"], at(40 * DAY)));
    let last = fold.state.leaves().last().unwrap().id;
    fold.ok(Record::PartitionSplit(split(last.as_str(), 33, "left", "right")));
    fold.ok(marked(&["orphan", "gone"]));
    fold.ok(deleted(&["gone"]));
    fold.ok(truncated(6));
    fold.request("clear", Record::TableCleared);
    let after = Record::FilesAdded {
        job: job("j9"),
        run: run("run-1"),
        issued: fold.now(),
        files: vec![file("f9", &[(1, 9, 3), (10, 45, 4)])],
    };
    fold.ok(after);
    fold.ok(assigned("c3", leaf.as_str(), &["f9"], at(40 * DAY)));
    fold
}

#[test]
fn a_tables_objects_are_below_its_id() {
    let prefix = log::bodies_prefix(&table());
    assert_eq!(prefix.as_ref(), "0a1b2c3d/statestore/transactions");
    let prefix = snapshot::snapshots_prefix(&table());
    assert_eq!(prefix.as_ref(), "0a1b2c3d/statestore/snapshots");
}

#[test]
fn only_the_next_entry_of_the_tables_own_chain_is_followed() {
    let state = Fold::with_table(&[10]).state;
    let next = Entry::after(&state, &table(), at(1), vec![commit("c", Record::TableCleared)]);
    let follow = |table: TableId, change: fn(&mut Entry)| {
        let mut entry = next.clone();
        change(&mut entry);
        let (_, hash) = entry.encode().unwrap();
        state.clone().follow(&table, &entry, hash).map(|_| ())
    };
    let other = TableId::new("ffffffff").unwrap();
    follow(table(), |_| {}).unwrap();
    for refused in [
        follow(other, |_| {}),
        follow(table(), |entry| entry.number = entry.number.next()),
        follow(table(), |entry| entry.previous = EntryHash([1; 32])),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("does not follow entry 1"), "{error}");
    }
}

#[test]
fn a_snapshot_is_read_as_it_was_first_stored() {
    let mut fold = full_state();
    let first = read_or_make("snapshots/1.dmsnap", || unreachable!("it was stored long ago"));
    let decoded = snapshot::decode(&table(), &first).unwrap();
    // It did not tell compactions from ingests.
    let without_kinds = format!("{:?}", fold.state).replace("kind: Compaction", "kind: Ingest");
    assert_eq!(format!("{decoded:?}"), without_kinds);
    let leaf = fold.state.leaves().next().unwrap().id;
    fold.ok(kept(leaf.as_str(), 7, KeptBecause::OneKey { key: key(3) }));
    let state = fold.state;
    let stored = read_or_make("snapshots/2.dmsnap", || {
        snapshot::encode(&table(), &state).unwrap().to_vec()
    });
    let decoded = snapshot::decode(&table(), &stored).unwrap();
    assert_eq!(decoded, state);
    assert_eq!(invariants::check(&decoded), Vec::<invariants::Violation>::new());
}

#[test]
fn a_snapshot_that_is_cut_short_or_changed_is_refused_or_the_same() {
    let state = full_state().state;
    let whole = snapshot::encode(&table(), &state).unwrap();
    for length in 0..whole.len() {
        assert!(
            snapshot::decode(&table(), &whole[..length]).is_err(),
            "cut to {length} bytes"
        );
    }
    for place in 0..whole.len() {
        let mut changed = whole.to_vec();
        changed[place] ^= 0x55;
        let _ = snapshot::decode(&table(), &changed);
    }
    let other = TableId::new("ffffffff").unwrap();
    assert!(
        snapshot::decode(&other, &whole)
            .unwrap_err()
            .to_string()
            .contains("of another table")
    );
}

/// The frames of a snapshot, and a snapshot of frames.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let plain = zstd::decode_all(&bytes[8..]).unwrap();
    let mut frames = Vec::new();
    let mut rest = &plain[..];
    while let Some((length, more)) = rest.split_first_chunk() {
        let (frame, more) = more.split_at(u32::from_le_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = more;
    }
    frames
}

fn of_frames(frames: &[Vec<u8>]) -> Vec<u8> {
    let framed = |frame: &Vec<u8>| [&(frame.len() as u32).to_le_bytes(), &frame[..]].concat();
    let plain: Vec<u8> = frames.iter().flat_map(framed).collect();
    [&b"DMSNAP01"[..], &zstd::encode_all(&plain[..], 1).unwrap()].concat()
}

#[test]
fn a_snapshot_that_lacks_any_frame_is_refused() {
    let whole = snapshot::encode(&table(), &full_state().state).unwrap();
    let frames = frames(&whole);
    assert!(frames.len() > 10, "{} frames", frames.len());
    snapshot::decode(&table(), &of_frames(&frames)).unwrap();
    for lost in 0..frames.len() {
        let mut left = frames.clone();
        left.remove(lost);
        let error = snapshot::decode(&table(), &of_frames(&left)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "without frame {lost}");
    }
}

#[test]
fn a_frame_that_claims_a_gigabyte_is_not_read() {
    let claiming = |length: u32| {
        let stream = zstd::encode_all(&length.to_le_bytes()[..], 1).unwrap();
        let bytes = [&b"DMSNAP01"[..], &stream].concat();
        snapshot::decode(&table(), &bytes).unwrap_err().to_string()
    };
    assert!(claiming((1 << 30) + 1).contains("too long"));
    assert!(claiming(1 << 30).contains("cut short"));
}

#[test]
fn frames_have_as_many_entries_as_they_may() {
    let names = |count: usize| -> Vec<String> { (0..count).map(|i| format!("orphan-{i}")).collect() };
    let frames_of = |count: usize| {
        let mut state = Fold::with_table(&[]).state;
        let names = names(count);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mark = commit("mark", marked(&names));
        state.apply(state.transaction().next(), START, [&mark]);
        let bytes = snapshot::encode(&table(), &state).unwrap();
        assert_eq!(snapshot::decode(&table(), &bytes).unwrap(), state);
        frames(&bytes).len()
    };
    let without = frames_of(1) - 1;
    assert_eq!(frames_of(8192), without + 1);
    assert_eq!(frames_of(8193), without + 2);
    assert_eq!(frames_of(2 * 8192), without + 2);
}

#[test]
fn a_snapshot_of_files_with_very_many_parts_is_cut_into_small_frames() {
    let mut fold = Fold::with_table(&[]);
    let parts: Vec<_> = (0..30_000).map(|i| (i * 2, i * 2 + 1, 1)).collect();
    for i in 0..3 {
        fold.ok(added(&format!("j{i}"), &[file(&format!("f{i}"), &parts)]));
    }
    let bytes = snapshot::encode(&table(), &fold.state).unwrap();
    assert_eq!(snapshot::decode(&table(), &bytes).unwrap(), fold.state);
    let longest = |bytes: &[u8]| frames(bytes).iter().map(Vec::len).max().unwrap();
    let mut one = Fold::with_table(&[]);
    one.ok(added("j0", &[file("f0", &parts)]));
    let alone = longest(&snapshot::encode(&table(), &one.state).unwrap());
    assert!(
        longest(&bytes) <= alone + 8,
        "{} bytes, alone {alone}",
        longest(&bytes)
    );
}
