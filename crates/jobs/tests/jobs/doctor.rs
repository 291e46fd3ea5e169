//! The doctor names each kind of damage, and nothing else; sound tables have nothing, also while they are worked on.

use std::{sync::Arc, time::Duration};

use dormouse_core::{
    collections::Collection,
    file::{DataFile, FilePart},
    ids::{ExportId, FileName, JobId, PartitionId, RunId, TransactionNumber},
    key::KeyRange,
    plan::export::ExportPlan,
    ports::{Clock, Condition, ItemKey, Order, QueueName, Range, Value},
    state::{
        Record,
        invariants::{Invariant, Violation},
    },
    tables::TableInfo,
    testing::memory::{MemoryRow, MemoryRowEngine},
    tracker::{EventKind, JobKey, JobKind},
};
use dormouse_jobs::{
    doctor::{Depth, Report, examine},
    garbage::Override,
    schedule::{Schedule, collect_all},
    snapshots,
};
use object_store::{ObjectStoreExt, path::Path};
use tokio_util::sync::CancellationToken;

use crate::{
    faults::polled,
    harness::{World, export_message, rows},
};

const SNAPSHOTS: (&str, &str) = ("table.statestore.snapshot.min.transactions", "3");

/// A table of two leaves with a past: jobs, a snapshot in the middle of its log, a split and an export, all of it
/// known to the tracker.
async fn world() -> (World, TableInfo) {
    let world = World::new();
    let table = world.table_with("events", 2, &[SNAPSHOTS]).await;
    world.fed(&table, "j1", &rows("a", [1, 2, 150])).await;
    world.fed(&table, "j2", &rows("b", [3, 160, 170])).await;
    world.split(&table, 2).await;
    snapshots::run(&world.process(), &table).await.unwrap();
    world.fed(&table, "j3", &rows("c", [4, 180])).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    Schedule::Repair.run_once(&world.process()).await.unwrap();
    (world, table)
}

async fn report(world: &World, table: &TableInfo, depth: Depth) -> Report {
    examine(&world.process(), table, depth).await.unwrap()
}

async fn findings(world: &World, table: &TableInfo, depth: Depth) -> Vec<Violation> {
    report(world, table, depth).await.findings
}

fn names(findings: &[Violation]) -> Vec<(Invariant, &str)> {
    findings
        .iter()
        .map(|finding| (finding.invariant, finding.place.as_str()))
        .collect()
}

/// A data file of job `j1` and its place in a report.
async fn a_file(world: &World, table: &TableInfo) -> (Path, String) {
    let state = world.state(table).await;
    let (file, _) = state.files().find(|(file, _)| file.rows == 3).unwrap();
    (file.name.object_path(&table.id), format!("file {}", file.name))
}

async fn bytes(world: &World, path: &Path) -> Vec<u8> {
    world
        .services
        .data
        .get(path)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .to_vec()
}

fn counted(report: &Report, what: &str) -> u64 {
    report
        .checked
        .iter()
        .find(|checked| checked.what == what)
        .map_or(0, |checked| checked.count)
}

#[tokio::test(start_paused = true)]
async fn a_sound_table_has_no_findings_and_everything_was_looked_at() {
    let (world, table) = world().await;
    let report = report(&world, &table, Depth::Deep).await;
    assert_eq!(report.findings, []);
    for what in [
        "log entries",
        "commits",
        "snapshots",
        "partitions",
        "references",
        "live files",
        "objects",
        "jobs",
        "finished exports",
        "files read",
    ] {
        assert!(counted(&report, what) > 0, "{what}: {report:#?}");
    }
    assert_eq!(counted(&report, "objects in flight"), 0);
    assert_eq!(report.transaction, Some(world.state(&table).await.transaction()));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_cut_is_sound() {
    let world = World::new();
    let no_history = ("table.state.history.retention.hours", "0");
    let table = world.table_with("events", 2, &[SNAPSHOTS, no_history]).await;
    for job in 0..12 {
        world
            .fed(&table, &format!("j{job}"), &rows("a", [job, 100 + job]))
            .await;
        snapshots::run(&world.process(), &table).await.unwrap();
    }
    assert!(world.state(&table).await.floor() > TransactionNumber(3));
    let report = report(&world, &table, Depth::Deep).await;
    assert_eq!(report.findings, []);
    assert!(counted(&report, "log entries") < 12 && counted(&report, "snapshots") >= 2);
}

/// Everybody sleeps so long at a time: all wake at once, and their calls of ports interleave.
const BEAT: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn work_that_goes_on_gives_no_false_alarm() {
    let world = World::with("dormouse.table.gc.delay.minutes=0");
    let no_history = ("table.state.history.retention.hours", "0");
    let table = world.table_with("events", 4, &[SNAPSHOTS, no_history]).await;
    let fed = CancellationToken::new();
    let feed = async {
        for job in 0..150 {
            world
                .feed(&table, &format!("j{job}"), &rows("a", [job, 150 + job, 300]))
                .await;
            if job % 10 == 7 {
                world
                    .commit(&table, &format!("clear-{job}"), Record::TableCleared)
                    .await;
            }
            if job % 15 == 3 {
                world
                    .send(QueueName::Export, export_message(&table, &format!("e{job}")))
                    .await;
            }
            world.sleep(BEAT).await;
        }
        fed.cancel();
    };
    let keep_house = async {
        let services = world.process();
        loop {
            for schedule in Schedule::ALL {
                schedule.run_once(&services).await.unwrap();
            }
            world.sleep(BEAT).await;
        }
    };
    let watch = async {
        let mut looks = 0;
        while !fed.is_cancelled() {
            let depth = [Depth::State, Depth::Deep][looks % 2];
            // Each look meets the others a little later.
            for _ in 0..looks * 7 % 150 {
                tokio::task::yield_now().await;
            }
            assert_eq!(findings(&world, &table, depth).await, [], "look {looks}");
            looks += 1;
            world.sleep(BEAT).await;
        }
        looks
    };
    let services = world.process();
    let looks = tokio::select! {
        biased;
        () = world.work(&services) => unreachable!("workers work for ever"),
        () = keep_house => unreachable!("schedules run for ever"),
        ((), looks) = async { tokio::join!(feed, watch) } => looks,
    };
    assert!(looks > 20, "{looks} looks");
    assert!(
        world.state(&table).await.floor() > TransactionNumber(100),
        "the log was never cut"
    );
}

/// Lets `meanwhile` happen, all of it, after `polls` polls of `future`. Says also whether `future` was not done
/// before.
async fn interrupted<F: Future>(
    polls: usize,
    future: F,
    meanwhile: impl Future<Output = ()>,
) -> (F::Output, bool) {
    let mut future = std::pin::pin!(future);
    if let Some(output) = polled(polls, &mut future).await {
        return (output, false);
    }
    meanwhile.await;
    (future.await, true)
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_at_any_point_of_an_examination_gives_no_false_alarm() {
    for polls in (2..).step_by(4) {
        let world = World::with("dormouse.table.gc.delay.minutes=0");
        let no_history = ("table.state.history.retention.hours", "0");
        let table = world.table_with("events", 2, &[SNAPSHOTS, no_history]).await;
        for job in 0..9 {
            world
                .fed(&table, &format!("j{job}"), &rows("a", [job, 150 + job]))
                .await;
            snapshots::run(&world.process(), &table).await.unwrap();
        }
        world.commit(&table, "clear", Record::TableCleared).await;
        world.fed(&table, "old", &rows("b", [1, 150])).await;
        let meanwhile = async {
            let services = world.process();
            world.commit(&table, "clear-again", Record::TableCleared).await;
            world.fed(&table, "new", &rows("c", [1, 150])).await;
            world.send(QueueName::Export, export_message(&table, "e1")).await;
            world.settle().await;
            for schedule in [Schedule::Repair, Schedule::Snapshots, Schedule::Garbage] {
                schedule.run_once(&services).await.unwrap();
            }
        };
        let examiner = world.process();
        let (report, met) = Box::pin(interrupted(
            polls,
            examine(&examiner, &table, Depth::Deep),
            meanwhile,
        ))
        .await;
        assert_eq!(report.unwrap().findings, [], "{polls} polls");
        if !met {
            assert!(polls > 50, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_data_object_that_is_gone_is_missed() {
    let (world, table) = world().await;
    let (path, place) = a_file(&world, &table).await;
    world.services.data.delete(&path).await.unwrap();
    for depth in [Depth::State, Depth::Deep] {
        let found = findings(&world, &table, depth).await;
        assert_eq!(names(&found), [(Invariant::Files, place.as_str())]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_only_the_past_needs_is_missed_too() {
    let (world, table) = world().await;
    let (path, place) = a_file(&world, &table).await;
    world.commit(&table, "clear", Record::TableCleared).await;
    world.services.data.delete(&path).await.unwrap();
    let found = findings(&world, &table, Depth::State).await;
    assert_eq!(names(&found), [(Invariant::Files, place.as_str())]);
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_is_found_by_a_deep_look_alone() {
    let (world, table) = world().await;
    let (path, place) = a_file(&world, &table).await;
    let body = String::from_utf8(bytes(&world, &path).await).unwrap();
    world
        .services
        .data
        .put(&path, body.replace("-2\"", "-9\"").into())
        .await
        .unwrap();
    assert_ne!(bytes(&world, &path).await, body.as_bytes());
    assert_eq!(findings(&world, &table, Depth::State).await, []);
    let found = findings(&world, &table, Depth::Deep).await;
    assert_eq!(names(&found), [(Invariant::Immutable, place.as_str())]);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_object_is_found_by_its_size() {
    let (world, table) = world().await;
    let (path, place) = a_file(&world, &table).await;
    let mut body = bytes(&world, &path).await;
    body.truncate(body.len() / 2);
    world.services.data.put(&path, body.into()).await.unwrap();
    for depth in [Depth::State, Depth::Deep] {
        let found = findings(&world, &table, depth).await;
        assert_eq!(names(&found), [(Invariant::Immutable, place.as_str())]);
    }
}

/// Commits a file with these rows, whose state says that the keys are from `min` to `max`.
async fn add_file(
    world: &World,
    table: &TableInfo,
    keys: &[i64],
    (min, max): (i64, i64),
    digest: bool,
) -> String {
    let encoded: Vec<_> = keys.iter().map(|key| MemoryRow(*key, "x".to_owned())).collect();
    let body = MemoryRowEngine::encode(&encoded);
    let name = FileName::new(&PartitionId::root(), uuid::Uuid::from_u128(7));
    let path = name.object_path(&table.id);
    world.services.data.put(&path, body.clone().into()).await.unwrap();
    let digests = encoded.iter().map(MemoryRowEngine::digest);
    let file = DataFile {
        name: name.clone(),
        rows: keys.len() as u64,
        bytes: body.len() as u64,
        checksum: MemoryRowEngine::checksum(&body),
        parts: vec![FilePart {
            range: KeyRange {
                min: MemoryRowEngine::key(min),
                max: MemoryRowEngine::key(max),
            },
            rows: keys.len() as u64,
            digest: digests.skip(usize::from(!digest)).sum(),
        }],
    };
    let record = Record::FilesAdded {
        job: JobId::new("by-hand").unwrap(),
        run: RunId::new("run").unwrap(),
        issued: world.clock.now(),
        files: vec![Arc::new(file)],
    };
    world.commit(table, "by-hand", record).await;
    format!("file {name}")
}

#[tokio::test(start_paused = true)]
async fn a_file_of_wrong_rows_is_found_although_its_bytes_are_as_written() {
    for (keys, range, digest, invariant) in [
        (&[11, 13, 12][..], (11, 13), true, Invariant::Order),
        (&[11, 12], (11, 40), true, Invariant::Order),
        (&[11, 12], (11, 12), false, Invariant::Rows),
    ] {
        let (world, table) = world().await;
        let place = add_file(&world, &table, keys, range, digest).await;
        assert_eq!(findings(&world, &table, Depth::State).await, []);
        let found = findings(&world, &table, Depth::Deep).await;
        assert_eq!(names(&found), [(invariant, place.as_str())], "{keys:?}");
    }
}

async fn entry(world: &World, table: &TableInfo, number: u64) -> dormouse_core::ports::Item {
    let key = ItemKey::new(Collection::Transactions, table.id.as_str(), number);
    world.services.ports.items.get(&key).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_log_entry_that_is_gone_is_a_hole() {
    for number in [2, 5] {
        let (world, table) = world().await;
        let item = entry(&world, &table, number).await;
        world
            .services
            .ports
            .items
            .delete(item.key, Condition::None)
            .await
            .unwrap();
        let found = findings(&world, &table, Depth::State).await;
        assert_eq!(
            names(&found),
            [(Invariant::Log, format!("log entry {number}").as_str())]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_log_entry_that_is_gone_disagrees_with_the_head() {
    let (world, table) = world().await;
    let last = world.state(&table).await.transaction();
    let item = entry(&world, &table, last.0).await;
    world
        .services
        .ports
        .items
        .delete(item.key, Condition::None)
        .await
        .unwrap();
    let found = findings(&world, &table, Depth::State).await;
    assert_eq!(names(&found), [(Invariant::Log, "the log's head")]);
}

#[tokio::test(start_paused = true)]
async fn a_log_entry_that_was_changed_is_found_by_its_hash_or_by_the_next_one() {
    for rehashed in [false, true] {
        let (world, table) = world().await;
        let mut item = entry(&world, &table, 3).await;
        let body = item.text("body").unwrap().replace("j2", "jX");
        let other = entry(&world, &table, 2).await;
        item.attributes
            .insert("body".to_owned(), Value::Text(body.clone()));
        if rehashed {
            item.attributes
                .insert("hash".to_owned(), Value::Text(sha256(&body)));
        }
        assert_ne!(item, other);
        world
            .services
            .ports
            .items
            .put(item, Condition::None)
            .await
            .unwrap();
        let found = findings(&world, &table, Depth::State).await;
        let number = if rehashed { 4 } else { 3 };
        assert_eq!(
            names(&found),
            [(Invariant::Log, format!("log entry {number}").as_str())]
        );
    }
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn snapshot(world: &World, table: &TableInfo) -> (Path, String) {
    let entries = world.services.states.snapshots(&table.id).await.unwrap();
    let newest = &entries[0];
    (
        newest.path.clone(),
        format!("snapshot of transaction {}", newest.transaction),
    )
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_gone_or_changed_is_found() {
    for gone in [false, true] {
        let (world, table) = world().await;
        let (path, place) = snapshot(&world, &table).await;
        if gone {
            world.services.data.delete(&path).await.unwrap();
        } else {
            let mut body = bytes(&world, &path).await;
            let middle = body.len() / 2;
            body[middle] ^= 1;
            world.services.data.put(&path, body.into()).await.unwrap();
        }
        let found = findings(&world, &table, Depth::State).await;
        assert_eq!(names(&found), [(Invariant::Replay, place.as_str())]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_state_is_found() {
    let (world, table) = world().await;
    let (path, place) = snapshot(&world, &table).await;
    let state = world.state(&table).await;
    // The newest state, as if it were that of the snapshot's transaction: verified, and wrong.
    let mut other = (*world
        .services
        .states
        .state_as_of(
            &table.id,
            dormouse_core::state::AsOf::Transaction(TransactionNumber(2)),
        )
        .await
        .unwrap())
    .clone();
    let number: u64 = place.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(number > 2 && number < state.transaction().0);
    other.apply(TransactionNumber(number), state.at(), []);
    let body = dormouse_core::state::snapshot::encode(&table.id, &other).unwrap();
    let digest: String = {
        use sha2::{Digest, Sha256};
        Sha256::digest(&body)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    let items = &world.services.ports.items;
    let key = ItemKey::new(Collection::Snapshots, table.id.as_str(), number);
    let mut item = items.get(&key).await.unwrap().unwrap();
    item.attributes.insert("digest".to_owned(), Value::Text(digest));
    items.put(item, Condition::None).await.unwrap();
    world.services.data.put(&path, body.into()).await.unwrap();
    let found = findings(&world, &table, Depth::State).await;
    assert!(
        names(&found).contains(&(Invariant::Replay, place.as_str())),
        "{found:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn objects_that_nobody_knows_are_in_flight_until_they_are_old() {
    let (world, table) = world().await;
    let name = FileName::new(&PartitionId::root(), uuid::Uuid::from_u128(9));
    let foreign = Path::from(format!("{}/readme.txt", table.id));
    let body = Path::from(format!("{}/statestore/transactions/2-lost.json", table.id));
    for path in [&name.object_path(&table.id), &foreign, &body] {
        world.services.data.put(path, "left behind".into()).await.unwrap();
    }
    let young = report(&world, &table, Depth::State).await;
    assert_eq!(young.findings, []);
    assert_eq!(counted(&young, "objects in flight"), 3);
    world.sleep(Duration::from_secs(25 * 3600)).await;
    let found = findings(&world, &table, Depth::State).await;
    let places = [
        format!("file {name}"),
        format!("object {foreign}"),
        format!("object {body}"),
    ];
    assert_eq!(
        names(&found),
        places
            .each_ref()
            .map(|place| (Invariant::Orphans, place.as_str()))
    );
    collect_all(&world.process(), Override::default()).await.unwrap();
    let found = findings(&world, &table, Depth::State).await;
    assert_eq!(names(&found), [(Invariant::Orphans, places[1].as_str())]);
}

#[tokio::test(start_paused = true)]
async fn a_committed_job_that_the_tracker_lost_is_found() {
    let (world, table) = world().await;
    let items = &world.services.ports.items;
    let statuses = items
        .query(Collection::JobStatus, "j1", Range::all(), 10, Order::Ascending)
        .await
        .unwrap();
    items
        .delete(statuses[0].key.clone(), Condition::None)
        .await
        .unwrap();
    let found = findings(&world, &table, Depth::State).await;
    assert_eq!(names(&found), [(Invariant::Tracker, "job j1")]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_finished_without_a_commit_is_found() {
    let (world, table) = world().await;
    let key = JobKey {
        kind: JobKind::Ingest,
        table: Some(table.id.clone()),
        job: JobId::new("liar").unwrap(),
    };
    let kind = EventKind::Committed {
        transaction: TransactionNumber(3),
        rows: 1,
        files: 1,
    };
    let run = RunId::new("run").unwrap();
    world
        .services
        .tracker
        .record(&key, None, (&run, 1), kind)
        .await
        .unwrap();
    let found = findings(&world, &table, Depth::State).await;
    assert_eq!(names(&found), [(Invariant::Tracker, "job liar")]);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_lost_something_is_found() {
    for gone in ["part", "_SUCCESS", "_manifest.json"] {
        let (world, table) = world().await;
        let prefix = ExportPlan::prefix(&table.id, &ExportId::new("e1").unwrap());
        let name = match gone {
            "part" => world.manifest(&table, "e1").await.files[0].file.clone(),
            name => name.to_owned(),
        };
        world
            .services
            .exports
            .delete(&prefix.clone().join(name))
            .await
            .unwrap();
        let found = findings(&world, &table, Depth::State).await;
        assert_eq!(names(&found), [(Invariant::Export, "export e1")], "{gone}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exported_file_that_was_changed_is_found_by_a_deep_look() {
    let (world, table) = world().await;
    let prefix = ExportPlan::prefix(&table.id, &ExportId::new("e1").unwrap());
    let file = world.manifest(&table, "e1").await.files[0].file.clone();
    let path = prefix.join(file.as_str());
    let exports = &world.services.exports;
    let body = exports.get(&path).await.unwrap().bytes().await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap().replace('a', "z");
    exports.put(&path, body.into()).await.unwrap();
    assert_eq!(findings(&world, &table, Depth::State).await, []);
    let found = findings(&world, &table, Depth::Deep).await;
    let place = format!("export e1, file {file}");
    assert_eq!(names(&found), [(Invariant::Immutable, place.as_str())]);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_was_removed_is_counted_and_no_damage() {
    let (world, table) = world().await;
    let prefix = ExportPlan::prefix(&table.id, &ExportId::new("e1").unwrap());
    for name in world.exported(&table, "e1").await.into_keys() {
        world
            .services
            .exports
            .delete(&prefix.clone().join(name))
            .await
            .unwrap();
    }
    let report = report(&world, &table, Depth::Deep).await;
    assert_eq!(report.findings, []);
    assert_eq!(counted(&report, "exports removed"), 1);
}
