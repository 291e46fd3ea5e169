//! Queues `export` and `export-leaf`: a whole table as it is at one transaction, each row once.

use std::{collections::BTreeMap, time::Duration};

use dormouse_core::{
    Error,
    message::ExportLeafMessage,
    plan::export::ExportPlan,
    ports::{Message, QueueName},
    state::Record,
    tables::TableInfo,
    testing::memory::{EngineStep, MemoryRowEngine},
    tracker::JobStatus,
};
use dormouse_jobs::{
    export::{ExportLeafWorker, ExportSplitter},
    garbage::{Collected, Override},
    schedule::collect_all,
    worker,
};
use object_store::{ObjectStoreExt, path::Path};

use crate::{
    faults::polled,
    harness::{Row, World, export_message, rows},
};

/// How many files of the first table were deleted, and how many wait.
fn counts(turns: &[(String, Result<Collected, Error>)]) -> (u64, u64) {
    let collected = turns[0].1.as_ref().unwrap();
    (collected.files, collected.waiting)
}

const AT_ONCE: Override = Override {
    delay: Some(Duration::ZERO),
    orphan_age: None,
    offline: false,
};

/// A table of four leaves with files that span some of them.
async fn filled(world: &World) -> TableInfo {
    filled_with(world, &[]).await
}

async fn filled_with(world: &World, properties: &[(&str, &str)]) -> TableInfo {
    let table = world.table_with("events", 4, properties).await;
    world.fed(&table, "first", &rows("a", (0..400).step_by(11))).await;
    world
        .fed(&table, "second", &rows("b", (90..210).step_by(7)))
        .await;
    table
}

async fn split(world: &World) {
    let services = world.process();
    worker::run_once(&services, &ExportSplitter::new(services.clone()))
        .await
        .unwrap();
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort();
    rows
}

#[tokio::test(start_paused = true)]
async fn an_export_is_the_table_at_its_transaction_although_ingests_go_on() {
    let world = World::new();
    let table = filled(&world).await;
    let expected = world.rows(&table).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Export(_)));
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            gate.reached().await;
            let report = world.job("e1").await;
            assert_eq!(report.status, JobStatus::InProgress.min(report.status));
            let counts = report.export.clone().unwrap();
            assert_eq!((counts.total, counts.failed), (4, 0));
            world.feed(&table, "later", &rows("c", 0..400)).await;
            while !world.has_job("later").await || !world.job("later").await.status.is_final() {
                world.sleep(Duration::from_millis(50)).await;
            }
            gate.open();
            world.settle().await;
        } => {}
    }
    assert_eq!(sorted(world.rows_of_export(&table, "e1").await), expected);
    let report = world.job("e1").await;
    let counts = report.export.unwrap();
    assert_eq!(report.status, JobStatus::Finished);
    assert_eq!(
        (counts.total, counts.done, counts.rows),
        (4, 4, expected.len() as u64)
    );
    assert_eq!(counts.location, Some(format!("s3://exports/{}/e1", table.id)));
    assert_eq!(world.state(&table).await.pins().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_manifest_has_the_shape_that_consumers_rely_on() {
    let world = World::new();
    let table = world.table("events", 2).await;
    world
        .fed(&table, "j1", &[(7, "seven".to_owned()), (-1, "minus".to_owned())])
        .await;
    world
        .send(QueueName::Export, export_message(&table, "daily"))
        .await;
    world.settle().await;
    let objects = world.exported(&table, "daily").await;
    let manifest = String::from_utf8(objects["_manifest.json"].clone()).unwrap();
    let [part] = world.manifest(&table, "daily").await.files.try_into().unwrap();
    let golden = include_str!("manifest.golden.json")
        .replace("{table}", table.id.as_str())
        .replace("{part}", part.file.trim_end_matches(".parquet"));
    assert_eq!(manifest, golden.trim_end());
    assert!(objects["_SUCCESS"].is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_is_one_whole_file_is_copied_and_others_are_merged() {
    let world = World::new();
    let table = world
        .table_with("events", 2, &[("table.ingest.file.target.bytes", "1")])
        .await;
    world.fed(&table, "j1", &rows("a", [1, 2, 150])).await;
    world.fed(&table, "j2", &rows("b", [3])).await;
    let merges = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = merges.clone();
    world.engine.set_hook(move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async { Ok(()) }
    });
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    assert_eq!(world.rows_of_export(&table, "e1").await.len(), 4);
    assert_eq!(world.faults.count("copy "), 1);
    assert_eq!(
        merges.load(std::sync::atomic::Ordering::Relaxed),
        2,
        "one merge has two steps"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_table_gives_an_empty_manifest_and_success() {
    let world = World::new();
    let table = world.table("events", 3).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    assert!(world.rows_of_export(&table, "e1").await.is_empty());
    assert_eq!(world.job("e1").await.status, JobStatus::Finished);
    assert_eq!(world.state(&table).await.pins().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_splitter_that_dies_anywhere_and_an_export_that_is_sent_again_change_nothing() {
    for polls in 1.. {
        let world = World::new();
        let table = filled(&world).await;
        world.send(QueueName::Export, export_message(&table, "e1")).await;
        let services = world.process();
        let splitter = ExportSplitter::new(services.clone());
        let done = polled(polls, worker::run_once(&services, &splitter)).await;
        world.send(QueueName::Export, export_message(&table, "e1")).await;
        // The export is fixed only with its plan, so what came before it is in every one.
        world.settle().await;
        let exported = world.rows_of_export(&table, "e1").await;
        assert_eq!(sorted(exported), world.rows(&table).await, "{polls} polls");
        assert_eq!(world.job("e1").await.status, JobStatus::Finished, "{polls} polls");
        // Also of a splitter that died between its pin and its plan.
        assert_eq!(world.state(&table).await.pins().count(), 0, "{polls} polls");
        let before = world.exported(&table, "e1").await;
        world.send(QueueName::Export, export_message(&table, "e1")).await;
        world.settle().await;
        assert_eq!(world.exported(&table, "e1").await, before, "{polls} polls");
        if done.is_some() {
            assert!(polls > 10, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_splitters_that_race_go_by_the_plan_that_was_stored_first() {
    for polls in 1.. {
        let world = World::new();
        let table = filled(&world).await;
        world.send(QueueName::Export, export_message(&table, "e1")).await;
        let services = world.process();
        let splitter = ExportSplitter::new(services.clone());
        let mut slow = Box::pin(worker::run_once(&services, &splitter));
        let done = polled(polls, &mut slow).await.is_some();
        // Plans that are made from now on have another part.
        world.split(&table, 150).await;
        world.send(QueueName::Export, export_message(&table, "e1")).await;
        split(&world).await;
        if !done {
            slow.await.unwrap();
        }
        let stored = &world.exported(&table, "e1").await["_plan.json"];
        let stored = ExportPlan::decode(stored).unwrap();
        for letter in world.queue(QueueName::ExportLeaf).peek(100).await.unwrap() {
            let message = ExportLeafMessage::parse(&letter.body).unwrap();
            let planned = stored.sub_export(&message.sub_export_id);
            assert!(planned.is_some(), "{polls} polls: {}", letter.body);
        }
        world.settle().await;
        assert_eq!(
            sorted(world.rows_of_export(&table, "e1").await),
            world.rows(&table).await,
            "{polls} polls"
        );
        assert_eq!(world.job("e1").await.status, JobStatus::Finished, "{polls} polls");
        assert_eq!(world.state(&table).await.pins().count(), 0, "{polls} polls");
        if done {
            assert!(polls > 10, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_splitter_that_sleeps_while_the_table_moves_on_exports_a_newer_state() {
    for polls in 1.. {
        let world = World::new();
        let table = filled_with(&world, &[("table.state.history.retention.hours", "0")]).await;
        let before = world.rows(&table).await;
        world.send(QueueName::Export, export_message(&table, "e1")).await;
        let services = world.process();
        let splitter = ExportSplitter::new(services.clone());
        let mut slow = Box::pin(worker::run_once(&services, &splitter));
        let done = polled(polls, &mut slow).await.is_some();
        world.commit(&table, "clear", Record::TableCleared).await;
        world.sleep(Duration::from_secs(20 * 60)).await;
        collect_all(&world.process(), Override::default()).await.unwrap();
        if !done {
            slow.await.unwrap();
        }
        world.settle().await;
        assert_eq!(world.job("e1").await.status, JobStatus::Finished, "{polls} polls");
        let exported = sorted(world.rows_of_export(&table, "e1").await);
        assert!(exported.is_empty() || exported == before, "{polls} polls");
        if done {
            assert!(polls > 10, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaf_worker_that_dies_anywhere_loses_and_doubles_no_part() {
    let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
    for polls in 1.. {
        let world = World::new();
        let table = world.table("events", 2).await;
        world.fed(&table, "first", &rows("a", (0..200).step_by(11))).await;
        world.send(QueueName::Export, export_message(&table, "e1")).await;
        split(&world).await;
        let services = world.process();
        let leaf = ExportLeafWorker::new(services.clone());
        let done = polled(polls, worker::run_once(&services, &leaf)).await;
        if world.job("e1").await.status == JobStatus::Finished {
            assert_eq!(world.state(&table).await.pins().count(), 0, "{polls} polls");
        }
        world.settle().await;
        assert_eq!(
            world.rows_of_export(&table, "e1").await,
            world.rows(&table).await,
            "{polls} polls"
        );
        assert_eq!(world.job("e1").await.status, JobStatus::Finished, "{polls} polls");
        assert_eq!(world.state(&table).await.pins().count(), 0, "{polls} polls");
        let mut objects = world.exported(&table, "e1").await;
        objects.remove("_plan.json");
        let names = first.get_or_insert_with(|| objects.clone());
        assert_eq!(
            names.keys().collect::<Vec<_>>(),
            objects.keys().collect::<Vec<_>>()
        );
        if done.is_some() {
            assert!(polls > 20, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leaf_messages_that_are_repeated_reordered_and_late_change_nothing() {
    let world = World::new();
    let table = filled(&world).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    split(&world).await;
    let queue = world.queue(QueueName::ExportLeaf);
    let bodies: Vec<_> = queue
        .peek(100)
        .await
        .unwrap()
        .into_iter()
        .map(|message| message.body)
        .collect();
    assert_eq!(bodies.len(), 4);
    let again: Vec<_> = bodies.iter().rev().chain(&bodies).map(Message::new).collect();
    queue.send(again.clone()).await.unwrap();
    world.settle().await;
    let before = world.exported(&table, "e1").await;
    assert_eq!(
        sorted(world.rows_of_export(&table, "e1").await),
        world.rows(&table).await
    );
    let writes = world.faults.count("objects put");
    // The files of the plan are gone by now.
    for path in world.data_files(&table.id).await {
        world.services.data.delete(&Path::from(path)).await.unwrap();
    }
    queue.send(again).await.unwrap();
    world.settle().await;
    assert_eq!(world.exported(&table, "e1").await, before);
    assert_eq!(
        world.faults.count("objects put"),
        writes,
        "a complete export is written again"
    );
    assert_eq!(world.job("e1").await.status, JobStatus::Finished);
    assert_eq!(world.depth(QueueName::ExportLeaf).await, Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_recorded_again_counts_once() {
    let world = World::new();
    let table = filled(&world).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    let exported = world.exported(&table, "e1").await;
    let plan = ExportPlan::decode(&exported["_plan.json"]).unwrap();
    let tracker = &world.services.tracker;
    let parts = tracker.parts(&plan).await.unwrap();
    assert_eq!(parts.len(), 4);
    let (one, other) = (world.process().tracker, world.process().tracker);
    for part in &parts {
        let (first, second) = futures::join!(one.record_part(&plan, part), other.record_part(&plan, part));
        assert_eq!((first.unwrap().done, second.unwrap().done), (4, 4));
    }
    assert_eq!(tracker.parts_progress(&plan).await.unwrap().done, 4);
}

#[tokio::test(start_paused = true)]
async fn a_complete_export_stays_complete_when_the_tracker_has_forgotten_it() {
    let world = World::new();
    let table = filled(&world).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    let before = world.exported(&table, "e1").await;
    world.sleep(Duration::from_secs(20 * 24 * 3600)).await;
    assert!(!world.has_job("e1").await);
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    assert_eq!(world.job("e1").await.status, JobStatus::Finished);
    assert_eq!(world.exported(&table, "e1").await, before);
}

#[tokio::test(start_paused = true)]
async fn an_export_whose_objects_were_removed_is_made_anew() {
    let world = World::new();
    let table = filled(&world).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    for name in world.exported(&table, "e1").await.keys() {
        let path = Path::from(format!("{}/e1/{name}", table.id));
        world.services.exports.delete(&path).await.unwrap();
    }
    world.fed(&table, "third", &rows("c", [5])).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    assert_eq!(
        sorted(world.rows_of_export(&table, "e1").await),
        world.rows(&table).await
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_says_complete_while_a_part_is_missing() {
    let world = World::new();
    let table = filled(&world).await;
    let failing = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let fails = failing.clone();
    world.engine.set_hook(move |step| {
        let fails =
            matches!(&step, EngineStep::Export(_)) && fails.swap(false, std::sync::atomic::Ordering::Relaxed);
        async move {
            if fails {
                Err(Error::corrupt("a file is damaged"))
            } else {
                Ok(())
            }
        }
    });
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    let objects = world.exported(&table, "e1").await;
    assert!(
        !objects.contains_key("_SUCCESS") && !objects.contains_key("_manifest.json"),
        "{:?}",
        objects.keys()
    );
    let report = world.job("e1").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(
        report.reasons()[0].contains("a file is damaged"),
        "{:?}",
        report.reasons()
    );
    let counts = report.export.unwrap();
    assert_eq!((counts.total, counts.done, counts.failed), (4, 3, 1));
    // The dead letter is moved back, and the export is completed.
    assert_eq!(world.queue(QueueName::ExportLeaf).redrive(None).await.unwrap(), 1);
    world.settle().await;
    assert_eq!(
        sorted(world.rows_of_export(&table, "e1").await),
        world.rows(&table).await
    );
    assert_eq!(world.job("e1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn one_id_on_two_tables_is_two_exports() {
    let world = World::new();
    let (one, two) = (world.table("one", 2).await, world.table("two", 2).await);
    world.fed(&one, "j1", &rows("a", [1, 150])).await;
    world.fed(&two, "j2", &rows("b", [2])).await;
    for table in [&one, &two] {
        world
            .send(QueueName::Export, export_message(table, "daily"))
            .await;
    }
    world.settle().await;
    assert_eq!(world.rows_of_export(&one, "daily").await, rows("a", [1, 150]));
    assert_eq!(world.rows_of_export(&two, "daily").await, rows("b", [2]));
}

#[tokio::test(start_paused = true)]
async fn an_export_may_be_of_a_past_transaction_or_time() {
    let world = World::new();
    let table = filled(&world).await;
    let (then, expected) = (world.state(&table).await, world.rows(&table).await);
    world.sleep(Duration::from_secs(60)).await;
    world.fed(&table, "later", &rows("c", [1, 2, 3])).await;
    let as_of = [
        then.transaction().to_string(),
        format!("\"{}\"", then.at().plus(Duration::from_secs(30))),
    ];
    for (i, as_of) in as_of.iter().enumerate() {
        let body = format!(r#"{{"tableName":"events","exportId":"past-{i}","asOf":{as_of}}}"#);
        world.send(QueueName::Export, body).await;
        world.settle().await;
        assert_eq!(
            sorted(world.rows_of_export(&table, &format!("past-{i}")).await),
            expected
        );
    }
    let body = r#"{"tableName":"events","exportId":"future","asOf":999}"#;
    world.send(QueueName::Export, body).await;
    world.settle().await;
    let report = world.job("future").await;
    assert_eq!(report.status, JobStatus::Rejected);
    assert!(report.reasons()[0].contains("999"), "{:?}", report.reasons());
}

#[tokio::test(start_paused = true)]
async fn requests_that_cannot_be_done_are_rejected_with_the_field() {
    let world = World::new();
    world.table("events", 1).await;
    let cases = [
        (
            "filter",
            r#""tableName":"events","filter":"key > 1""#,
            "\"filter\"",
        ),
        (
            "columns",
            r#""tableName":"events","columns":["key"]"#,
            "\"columns\"",
        ),
        ("region", r#""tableName":"events","region":{}"#, "\"region\""),
        ("format", r#""tableName":"events","format":"csv""#, "csv"),
        ("both", r#""tableName":"events","tableId":"x""#, "not both"),
        ("when", r#""tableName":"events","asOf":"soon""#, "soon"),
        ("name", r#""tableName":"event""#, "did you mean \"events\"?"),
    ];
    for (id, fields, _) in cases {
        world
            .send(QueueName::Export, format!(r#"{{"exportId":"{id}",{fields}}}"#))
            .await;
    }
    world.settle().await;
    for (id, _, needle) in cases {
        let report = world.job(id).await;
        assert_eq!(report.status, JobStatus::Rejected, "{id}");
        assert!(
            report.reasons()[0].contains(needle),
            "{id}: {:?}",
            report.reasons()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaf_message_that_nobody_planned_is_dropped_without_harm() {
    let world = World::new();
    let table = filled(&world).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    split(&world).await;
    let queue = world.queue(QueueName::ExportLeaf);
    let body = queue.peek(1).await.unwrap().remove(0).body;
    let mut forged: serde_json::Value = serde_json::from_str(&body).unwrap();
    forged["subExportId"] = "forged".into();
    world.send(QueueName::ExportLeaf, forged.to_string()).await;
    world.send(QueueName::ExportLeaf, "{").await;
    world.settle().await;
    let report = world.job("e1").await;
    assert_eq!((report.status, report.runs.len()), (JobStatus::Finished, 1));
    world.rows_of_export(&table, "e1").await;
}

#[tokio::test(start_paused = true)]
async fn a_data_file_that_is_missing_or_damaged_fails_the_export_with_its_name() {
    for target in ["1", "8M"] {
        for damage in ["gone", "longer", "other"] {
            let world = World::new();
            let table = world
                .table_with("events", 2, &[("table.ingest.file.target.bytes", target)])
                .await;
            world.fed(&table, "j1", &rows("a", [1, 150])).await;
            let path = Path::from(world.data_files(&table.id).await.remove(0));
            let data = &world.services.data;
            let body = data.get(&path).await.unwrap().bytes().await.unwrap();
            let body = String::from_utf8(body.into()).unwrap();
            match damage {
                "gone" => data.delete(&path).await.unwrap(),
                "longer" => drop(data.put(&path, body.replace("a-", "aa-").into()).await.unwrap()),
                _ => drop(data.put(&path, body.replace("a-", "b-").into()).await.unwrap()),
            }
            world.send(QueueName::Export, export_message(&table, "e1")).await;
            world.settle().await;
            let report = world.job("e1").await;
            assert_eq!(report.status, JobStatus::Failed, "{target} {damage}");
            let reasons = report.reasons().join("\n");
            let needle = match damage {
                "gone" => "is gone",
                _ => path.filename().unwrap(),
            };
            assert!(reasons.contains(needle), "{reasons}");
            assert!(world.depth(QueueName::ExportLeaf).await.dead >= 1);
            assert!(!world.exported(&table, "e1").await.contains_key("_SUCCESS"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_that_a_slow_export_reads_stays_until_it_is_done() {
    let world = World::new();
    let table = filled_with(&world, &[("table.state.history.retention.hours", "0")]).await;
    let expected = world.rows(&table).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Export(_)));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            gate.reached().await;
            world.commit(&table, "clear", Record::TableCleared).await;
            for _ in 0..3 {
                world.sleep(Duration::from_secs(3600)).await;
                let collected = collect_all(&world.process(), AT_ONCE).await.unwrap();
                assert_eq!(counts(&collected), (0, 2));
            }
            gate.open();
            world.settle().await;
        } => {}
    }
    assert_eq!(sorted(world.rows_of_export(&table, "e1").await), expected);
    let collected = collect_all(&world.process(), AT_ONCE).await.unwrap();
    assert_eq!(counts(&collected), (2, 0));
    assert!(world.data_files(&table.id).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_pin_of_an_export_that_never_ended_runs_out() {
    let world = World::new();
    let table = filled_with(&world, &[("table.state.history.retention.hours", "0")]).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    split(&world).await;
    world.commit(&table, "clear", Record::TableCleared).await;
    world.sleep(Duration::from_secs(20 * 3600)).await;
    assert_eq!(
        collect_all(&world.process(), AT_ONCE).await.unwrap()[0]
            .1
            .as_ref()
            .unwrap()
            .files,
        0
    );
    world.sleep(Duration::from_secs(5 * 3600)).await;
    assert_eq!(
        collect_all(&world.process(), AT_ONCE).await.unwrap()[0]
            .1
            .as_ref()
            .unwrap()
            .files,
        2
    );
    // Its leaves say so when they are written after all.
    world.settle().await;
    let report = world.job("e1").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(
        report
            .reasons()
            .iter()
            .any(|reason| reason.contains("export.pin.hours")),
        "{:?}",
        report.reasons()
    );
}

#[tokio::test(start_paused = true)]
async fn an_export_of_many_leaves_finishes_soon() {
    let world = World::with("dormouse.export.concurrency=8");
    let table = world.table("events", 1000).await;
    world
        .fed(&table, "j1", &rows("a", (0..1000).map(|leaf| leaf * 100)))
        .await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.settle().await;
    let manifest = world.manifest(&table, "e1").await;
    assert_eq!((manifest.files.len(), manifest.rows), (1000, 1000));
    let key = |file: &dormouse_core::plan::export::ManifestFile| file.min_key.clone();
    assert!(manifest.files.is_sorted_by_key(key));
    assert_eq!(manifest.files[999].min_key, Some(MemoryRowEngine::key(99_900)));
}
