//! Each check of an invariant finds what breaks it, and nothing in what is sound.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dormouse_core::{
    Error,
    file::{Checksum, RowDigest},
    ids::{ExportId, FileName, TableId, TransactionNumber},
    plan::export::{ExportPlan, Manifest},
    state::{
        CommitId, Record, TableState,
        invariants::{
            ExportView, Invariant, LogCheck, LogHead, ObjectFact, Replay, TrackerView, Violation,
            check_acknowledged, check_export, check_log, check_succession, check_tracker, missing, orphans,
            rows::{RowSum, check_conserved, check_rows},
        },
        log::Entry,
        table_state::EntryHash,
    },
    tracker::{Event, EventKind, ExportPart, JobKey, JobKind, JobReport},
};

use crate::samples::{
    DAY, START, added, assigned, at, commit, compacted, created, deleted, file, job, key, marked, name, pin,
    run, split, table, truncated,
};

type Stored = Vec<(Entry, EntryHash)>;

fn names(wrong: &[Violation]) -> Vec<(Invariant, &str)> {
    wrong
        .iter()
        .map(|violation| (violation.invariant, violation.place.as_str()))
        .collect()
}

/// A log of these records, and the state after each entry.
fn log(records: Vec<(&str, Record)>) -> (Stored, Vec<TableState>) {
    let mut state = TableState::default();
    let (mut entries, mut states) = (Vec::new(), Vec::new());
    for (i, (id, record)) in records.into_iter().enumerate() {
        let now = at(i as i64 * 1000);
        let entry = Entry::after(&state, &table(), now, vec![commit(id, record)]);
        let (_, hash) = entry.encode().unwrap();
        state.follow(&table(), &entry, hash).unwrap();
        entries.push((entry, hash));
        states.push(state.clone());
    }
    (entries, states)
}

fn sample() -> (Stored, Vec<TableState>) {
    log(vec![
        ("create", created(&[10])),
        ("a", added("a", &[file("a", &[(1, 5, 4), (12, 15, 2)])])),
        ("b", added("b", &[file("b", &[(3, 8, 5)])])),
        ("split", Record::PartitionSplit(split("p1", 4, "l", "r"))),
        ("c", added("c", &[file("c", &[(1, 2, 1)])])),
    ])
}

fn head_of(entries: &Stored, floor: u64) -> LogHead {
    let (entry, hash) = entries.last().unwrap();
    LogHead {
        number: entry.number,
        hash: *hash,
        floor: TransactionNumber(floor),
    }
}

fn wrong_in(entries: &Stored, head: Option<&LogHead>, snapshots: &[u64]) -> Vec<Violation> {
    let entries = entries.iter().map(|(entry, hash)| (entry, *hash));
    let snapshots = snapshots.iter().map(|number| TransactionNumber(*number));
    check_log(&table(), entries, head, snapshots)
}

#[test]
fn a_whole_log_and_one_cut_behind_a_snapshot_are_sound() {
    let (mut entries, _) = sample();
    let head = head_of(&entries, 1);
    assert_eq!(wrong_in(&entries, Some(&head), &[]), []);
    entries.drain(..2);
    let cut = head_of(&entries, 3);
    assert_eq!(wrong_in(&entries, Some(&cut), &[2]), []);
    assert_eq!(
        names(&wrong_in(&entries, Some(&cut), &[1])),
        [(Invariant::Log, "log entry 3")]
    );
    assert_eq!(
        names(&wrong_in(&entries, Some(&head), &[2])),
        [(Invariant::Log, "log entry 1")]
    );
    assert_eq!(wrong_in(&Vec::new(), None, &[]), []);
}

#[test]
fn holes_broken_chains_and_heads_that_disagree_are_found() {
    let (entries, _) = sample();
    let head = head_of(&entries, 1);
    let mut hole = entries.clone();
    hole.drain(1..3);
    let found = wrong_in(&hole, Some(&head), &[]);
    assert_eq!(names(&found), [(Invariant::Log, "log entry 2")]);
    assert!(found[0].found.contains("2 to 3"), "{found:?}");

    let mut changed = entries.clone();
    changed[2].1 = EntryHash([7; 32]);
    assert_eq!(
        names(&wrong_in(&changed, Some(&head), &[])),
        [(Invariant::Log, "log entry 4")]
    );

    let mut first = entries.clone();
    first[0].0.previous = EntryHash([7; 32]);
    assert_eq!(
        names(&wrong_in(&first, Some(&head), &[])),
        [(Invariant::Log, "log entry 1")]
    );
    let mut one = entries.clone();
    one.remove(2);
    let found = wrong_in(&one, Some(&head), &[]);
    assert_eq!(names(&found), [(Invariant::Log, "log entry 3")]);
    assert_eq!(found[0].found, "it is missing");

    let short = entries[..4].to_vec();
    assert_eq!(
        names(&wrong_in(&short, Some(&head), &[])),
        [(Invariant::Log, "the log's head")]
    );
    assert_eq!(
        names(&wrong_in(&entries, None, &[])),
        [(Invariant::Log, "the log's head")]
    );
    let other = LogHead {
        hash: EntryHash([7; 32]),
        ..head
    };
    assert_eq!(
        names(&wrong_in(&entries, Some(&other), &[])),
        [(Invariant::Log, "the log's head")]
    );
}

#[test]
fn an_entry_is_where_it_belongs_and_not_older_than_the_one_before() {
    let (entries, _) = sample();
    let head = head_of(&entries, 1);
    let mut same_time = entries.clone();
    same_time[3].0.at = same_time[2].0.at;
    assert_eq!(wrong_in(&same_time, Some(&head), &[]), []);
    let mut older = entries.clone();
    older[3].0.at = at(1);
    assert_eq!(
        names(&wrong_in(&older, Some(&head), &[])),
        [(Invariant::Log, "log entry 4")]
    );

    let of_other = TableId::new("other").unwrap();
    let mut check = LogCheck::new(&of_other);
    check.entry(TransactionNumber(1), &entries[0].0, entries[0].1);
    assert_eq!(names(&check.finish(None, [])).len(), 2, "the entry and the head");
    let table = table();
    let mut check = LogCheck::new(&table);
    check.entry(TransactionNumber(1), &entries[0].0, entries[0].1);
    check.entry(TransactionNumber(2), &entries[2].0, entries[2].1);
    let head = LogHead {
        hash: entries[2].1,
        ..head_of(&entries[..2].to_vec(), 1)
    };
    assert_eq!(
        names(&check.finish(Some(&head), [])),
        [(Invariant::Log, "log entry 2")]
    );
}

#[test]
fn a_damaged_entry_is_found_and_the_chain_goes_on_by_its_hash() {
    let (entries, _) = sample();
    let head = head_of(&entries, 1);
    let table = table();
    let places = |hash: Option<EntryHash>| {
        let mut check = LogCheck::new(&table);
        assert_eq!(check.last(), None);
        for (i, (entry, own)) in entries.iter().enumerate() {
            if i == 2 {
                check.damaged(entry.number, hash, &Error::corrupt("it cannot be read"));
            } else {
                check.entry(entry.number, entry, *own);
            }
            assert_eq!(check.last(), Some(entry.number));
        }
        let wrong = check.finish(Some(&head), []);
        assert!(wrong[0].found.contains("it cannot be read"), "{wrong:?}");
        wrong
            .into_iter()
            .map(|violation| violation.place)
            .collect::<Vec<_>>()
    };
    assert_eq!(places(None), ["log entry 3"]);
    assert_eq!(places(Some(entries[2].1)), ["log entry 3"]);
    assert_eq!(places(Some(EntryHash([7; 32]))), ["log entry 3", "log entry 4"]);
}

#[test]
fn a_commit_that_is_in_the_log_twice_is_found() {
    let (mut entries, states) = sample();
    let twice = Entry::after(
        states.last().unwrap(),
        &table(),
        at(9000),
        entries[1].0.commits.clone(),
    );
    let (_, hash) = twice.encode().unwrap();
    entries.push((twice, hash));
    let head = head_of(&entries, 1);
    assert_eq!(
        names(&wrong_in(&entries, Some(&head), &[])),
        [(Invariant::Once, "log entry 6")]
    );
}

#[test]
fn a_head_that_goes_back_and_commits_that_vanish_are_found() {
    let (entries, _) = sample();
    let early = head_of(&entries[..3].to_vec(), 1);
    let late = head_of(&entries, 2);
    assert_eq!(check_succession(Some(&early), Some(&late)), []);
    assert_eq!(check_succession(None, Some(&late)), []);
    let rewritten = LogHead {
        hash: EntryHash([1; 32]),
        ..late
    };
    assert_eq!(check_succession(Some(&late), Some(&late)), []);
    let uncut = LogHead {
        floor: TransactionNumber(1),
        ..late
    };
    let shorter = LogHead {
        number: early.number,
        ..late
    };
    for after in [None, Some(&early), Some(&rewritten), Some(&uncut), Some(&shorter)] {
        let found = check_succession(Some(&late), after);
        assert_eq!(names(&found), [(Invariant::Log, "the log's head")]);
    }
    let ids: Vec<_> = ["a", "b", "split"].map(CommitId::new).to_vec();
    let acknowledged = |numbers: [u64; 3]| ids.iter().zip(numbers.map(TransactionNumber)).collect::<Vec<_>>();
    let all = || entries.iter().map(|(entry, _)| entry);
    let floor = TransactionNumber(1);
    assert_eq!(check_acknowledged(all(), floor, acknowledged([2, 3, 4])), []);
    assert_eq!(
        names(&check_acknowledged(all().skip(2), floor, acknowledged([2, 3, 5]))),
        [(Invariant::Ack, "commit a"), (Invariant::Ack, "commit split")]
    );
    assert_eq!(
        check_acknowledged(all().skip(2), TransactionNumber(3), acknowledged([2, 3, 4])),
        []
    );
}

fn replayed(entries: &Stored, from: TableState) -> Replay {
    let mut replay = Replay::new(&table(), from);
    for (entry, hash) in entries {
        assert!(replay.follow(entry, *hash), "entry {}", entry.number);
    }
    replay
}

#[test]
fn a_replay_agrees_with_the_states_on_its_way_and_with_no_others() {
    let (entries, states) = sample();
    let mut replay = replayed(&entries, TableState::default());
    assert_eq!(replay.state(), &states[4]);
    replay.compare("snapshot", &states[4]);
    let (state, wrong) = replay.finish(Some(&head_of(&entries, 1)));
    assert_eq!((&state, wrong), (&states[4], vec![]));
    let mut tail = replayed(&entries[2..].to_vec(), states[1].clone());
    tail.compare("snapshot", &states[4]);
    assert_eq!(tail.finish(None).1, []);

    let mut replay = replayed(&entries, TableState::default());
    replay.compare("snapshot", &states[3]);
    assert_eq!(names(&replay.finish(None).1), [(Invariant::Replay, "snapshot")]);
    let replay = replayed(&entries, TableState::default());
    let head = head_of(&entries, 3);
    assert_eq!(
        names(&replay.finish(Some(&head)).1),
        [(Invariant::Log, "the log's head")]
    );
    let mut replay = Replay::new(&table(), states[0].clone());
    assert!(
        !replay.follow(&entries[3].0, entries[3].1),
        "a hole is not passed over"
    );
}

#[test]
fn what_is_refused_at_its_place_has_no_business_in_the_log() {
    let (mut entries, states) = sample();
    let refused = commit("again", created(&[]));
    let entry = Entry::after(&states[4], &table(), at(9000), vec![refused]);
    let (_, hash) = entry.encode().unwrap();
    entries.push((entry, hash));
    let replay = replayed(&entries, TableState::default());
    assert_eq!(
        names(&replay.finish(None).1),
        [(Invariant::Fencing, "log entry 6")]
    );
}

#[test]
fn compacted_files_need_no_references_where_they_were_read() {
    let (entries, _) = log(vec![
        ("create", created(&[10])),
        ("a", added("a", &[file("a", &[(1, 5, 4), (12, 15, 2)])])),
        ("assign", assigned("c", "p1", &["a"], at(DAY))),
        (
            "compact",
            compacted("c", "p1", &["a"], Some(file("out", &[(1, 5, 4)]))),
        ),
    ]);
    assert_eq!(replayed(&entries, TableState::default()).finish(None).1, []);
}

fn fact(bytes: u64, modified: i64) -> ObjectFact {
    ObjectFact {
        bytes,
        modified: at(modified),
    }
}

#[test]
fn objects_that_a_state_needs_are_missed_and_those_that_none_knows_are_orphans() {
    let (_, states) = log(vec![
        ("create", created(&[])),
        ("a", added("a", &[file("a", &[(1, 5, 4)])])),
        ("clear", Record::TableCleared),
        ("b", added("b", &[file("b", &[(1, 5, 4)])])),
        ("mark", marked(&["a"])),
        ("forget", deleted(&["a"])),
    ]);
    let [with_garbage, with_mark, last] = [&states[3], &states[4], &states[5]];
    let both: BTreeMap<FileName, ObjectFact> =
        [(name("a"), fact(1000, 0)), (name("b"), fact(1000, 0))].into();
    let only_b: BTreeMap<FileName, ObjectFact> = [(name("b"), fact(1000, 0))].into();
    let place = format!("file {}", name("a"));
    assert_eq!(missing(&[with_garbage], &both, with_garbage), []);
    assert_eq!(
        names(&missing(&[with_garbage], &only_b, with_garbage)),
        [(Invariant::Files, place.as_str())]
    );
    assert_eq!(missing(&[with_garbage], &only_b, with_mark), []);
    assert_eq!(missing(&[last], &only_b, last), []);
    let small: BTreeMap<FileName, ObjectFact> = [(name("b"), fact(999, 0))].into();
    let place = format!("file {}", name("b"));
    assert_eq!(
        names(&missing(&[last], &small, last)),
        [(Invariant::Immutable, place.as_str())]
    );

    let objects: BTreeMap<FileName, ObjectFact> = [
        (name("a"), fact(1, 0)),
        (name("b"), fact(1, 0)),
        (name("old"), fact(1, 0)),
        (name("young"), fact(1, DAY)),
    ]
    .into();
    let found = orphans(&[last], &objects, at(DAY), Duration::from_secs(24 * 3600));
    let place = format!("file {}", name("old"));
    assert_eq!(names(&found.old), [(Invariant::Orphans, place.as_str())]);
    assert_eq!(found.young, 1);
}

fn export() -> (ExportPlan, Manifest, BTreeMap<String, u64>) {
    let (_, states) = sample();
    let export = ExportId::new("e1").unwrap();
    let plan = ExportPlan::new(
        (&table(), "events"),
        &export,
        pin("p"),
        states.last().unwrap(),
        None,
    )
    .unwrap();
    let parts: Vec<ExportPart> = plan
        .sub_exports
        .iter()
        .map(|part| {
            let exact = part.files.iter().map(|file| file.exact.unwrap_or_default());
            let sum = RowSum::of(exact);
            ExportPart {
                sub_export: part.id.clone(),
                rows: sum.rows,
                bytes: 10,
                checksum: Checksum(1),
                digest: sum.digest,
                range: part
                    .leaf
                    .bounds
                    .lower
                    .clone()
                    .map(|min| dormouse_core::key::KeyRange {
                        max: min.clone(),
                        min,
                    }),
            }
        })
        .collect();
    let manifest = plan.manifest(&parts).unwrap();
    let objects = manifest
        .files
        .iter()
        .map(|file| (file.file.clone(), 10))
        .collect();
    (plan, manifest, objects)
}

fn wrong_with(
    claimed: bool,
    marked: bool,
    plan: &ExportPlan,
    manifest: Option<&Manifest>,
    objects: &BTreeMap<String, u64>,
) -> Vec<Invariant> {
    let view = ExportView {
        place: "export e1",
        claimed,
        plan: Some(plan),
        manifest,
        marked,
        objects,
    };
    check_export(view)
        .into_iter()
        .map(|violation| violation.invariant)
        .collect()
}

#[test]
fn a_complete_export_has_everything_and_nothing_else() {
    let (plan, manifest, objects) = export();
    assert!(manifest.files.len() == 3, "{manifest:#?}");
    assert_eq!(wrong_with(true, true, &plan, Some(&manifest), &objects), []);
    assert_eq!(wrong_with(false, false, &plan, None, &BTreeMap::new()), []);
    let torn = [Invariant::Export];
    assert_eq!(wrong_with(true, false, &plan, Some(&manifest), &objects), torn);
    assert_eq!(wrong_with(false, true, &plan, None, &objects), torn);
    let mut changed = objects.clone();
    changed.pop_first();
    assert_eq!(wrong_with(true, true, &plan, Some(&manifest), &changed), torn);
    changed = objects.clone();
    changed.insert(manifest.files[0].file.clone(), 11);
    assert_eq!(wrong_with(true, true, &plan, Some(&manifest), &changed), torn);
    changed = objects.clone();
    changed.insert("foreign.parquet".to_owned(), 1);
    assert_eq!(wrong_with(true, true, &plan, Some(&manifest), &changed), torn);
}

#[test]
fn a_manifest_that_is_not_its_plan_carried_out_is_found() {
    let (plan, manifest, objects) = export();
    let with = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        wrong_with(true, true, &plan, Some(&changed), &objects)
    };
    assert_eq!(with(&|manifest| manifest.rows += 1), [Invariant::Export]);
    assert_eq!(
        with(&|manifest| manifest.transaction = TransactionNumber(1)),
        [Invariant::SnapshotRead]
    );
    let out_of_order = with(&|manifest| manifest.files.swap(1, 2));
    assert_eq!(out_of_order, [Invariant::Export, Invariant::SnapshotRead]);
    assert_eq!(
        with(&|manifest| manifest.files[2].row_digest = RowDigest(1)),
        [Invariant::Conservation]
    );
    let beyond = with(&|manifest| manifest.files[2].max_key = Some(key(i32::MAX)));
    assert_eq!(beyond, []);
    let beyond = with(&|manifest| {
        manifest.files[1].min_key = Some(key(2));
        manifest.files[1].max_key = Some(key(3));
    });
    assert_eq!(beyond, [Invariant::Export]);
    let beyond = with(&|manifest| {
        manifest.files[1].min_key = Some(key(2));
        manifest.files[1].max_key = Some(key(5));
    });
    assert_eq!(beyond, [Invariant::Export]);
}

fn finished(job_id: &str, transaction: u64) -> JobReport {
    let key = JobKey {
        kind: JobKind::Ingest,
        table: Some(table()),
        job: job(job_id),
    };
    let mut report = JobReport::new(key, None, START);
    report.record(&Event {
        at: START,
        run: run("run-1"),
        attempt: 1,
        kind: EventKind::Committed {
            transaction: TransactionNumber(transaction),
            rows: 1,
            files: 1,
        },
    });
    report
}

fn accepted(job_id: &str) -> JobReport {
    let mut report = JobReport::new(finished(job_id, 1).key, None, START);
    report.record(&Event {
        at: START,
        run: run("run-1"),
        attempt: 1,
        kind: EventKind::Accepted { input_files: 1 },
    });
    report
}

#[test]
fn the_tracker_claims_what_the_log_holds_no_more_and_once_quiet_no_less() {
    let (_, states) = sample();
    let state = states.last().unwrap();
    let wrong = |reports: &[JobReport], quiet: bool| {
        let view = TrackerView {
            reports,
            state,
            earlier: state,
            known_up_to: if quiet {
                state.transaction()
            } else {
                TransactionNumber(2)
            },
            retention: Duration::from_secs(7 * 24 * 3600),
            quiet,
            now: at(DAY),
        };
        check_tracker(view)
    };
    let all = [finished("a", 2), finished("b", 3), finished("c", 5)];
    assert_eq!(wrong(&all, true), []);
    assert_eq!(wrong(&all[..1], false), []);
    assert_eq!(names(&wrong(&all[1..], false)), [(Invariant::Tracker, "job a")]);
    assert_eq!(
        names(&wrong(&all[..1], true)),
        [(Invariant::Tracker, "job b"), (Invariant::Tracker, "job c")]
    );
    let lies = [finished("a", 2), finished("b", 4), finished("z", 3)];
    assert_eq!(
        names(&wrong(&lies, false)),
        [(Invariant::Tracker, "job b"), (Invariant::Tracker, "job z")]
    );
    let open = [all[0].clone(), all[1].clone(), all[2].clone(), accepted("d")];
    assert_eq!(names(&wrong(&open, true)), [(Invariant::Accept, "job d")]);
    assert_eq!(wrong(&open, false), []);
}

#[test]
fn what_the_tracker_or_the_ledger_may_have_forgotten_is_not_compared() {
    let (_, states) = sample();
    let state = states.last().unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    let wrong = |reports: &[JobReport], now| {
        check_tracker(TrackerView {
            reports,
            state,
            earlier: state,
            known_up_to: state.transaction(),
            retention: week,
            quiet: true,
            now,
        })
    };
    // Job c committed four seconds after the start; an hour is left for clocks that differ.
    let until = at(4000).plus(week).minus(Duration::from_secs(3600));
    assert_eq!(wrong(&[], until), []);
    let before = until.minus(Duration::from_millis(1));
    assert_eq!(names(&wrong(&[], before)), [(Invariant::Tracker, "job c")]);

    let claim = [finished("z", 3)];
    assert_eq!(wrong(&claim, at(35 * DAY)), []);
    assert_eq!(
        names(&wrong(&claim, at(35 * DAY - 1))),
        [(Invariant::Tracker, "job z")]
    );
}

#[test]
fn rows_that_are_lost_on_the_way_are_found() {
    let files = [file("a", &[(1, 2, 3)]), file("b", &[(3, 4, 5)])];
    let sum = RowSum::of_files(files.iter().map(Arc::as_ref));
    assert_eq!(
        sum,
        RowSum {
            rows: 8,
            digest: RowDigest(8)
        }
    );
    let one = RowSum::of_files([files[0].as_ref()]);
    assert_eq!(check_conserved("merge", sum, one.and(5, RowDigest(5))), []);
    assert_eq!(
        names(&check_conserved("merge", sum, one)),
        [(Invariant::Conservation, "merge")]
    );
    assert_eq!(check_rows("table", sum, sum), []);
    assert_eq!(
        names(&check_rows("table", sum, one)),
        [(Invariant::Rows, "table")]
    );
}

#[test]
fn history_that_was_cut_stays_sound() {
    let (entries, states) = log(vec![
        ("create", created(&[])),
        ("a", added("a", &[file("a", &[(1, 5, 4)])])),
        ("cut", truncated(2)),
    ]);
    let replay = replayed(&entries[1..].to_vec(), states[0].clone());
    assert_eq!(replay.finish(Some(&head_of(&entries, 2))).1, []);
}
