//! Queue `ingest`: a job's rows come into the table once, or not at all with a reason.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use dormouse_core::{
    Error,
    ports::{Clock, QueueName},
    state::{Outcome, Record},
    testing::memory::EngineStep,
    tracker::{JobKind, JobStatus},
};
use dormouse_jobs::{ingest::IngestWorker, schedule::Schedule, schedule::collect_all, worker};
use tokio_util::sync::CancellationToken;

use crate::{
    faults::polled,
    harness::{Row, VISIBILITY, World, ingest_message, rows},
};

const KEYS: std::ops::Range<i64> = 0..300;

fn wanted() -> Vec<Row> {
    rows("a", KEYS.step_by(7))
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_through_every_status_and_its_rows_are_in_the_table() {
    let world = World::new();
    let table = world.table("events", 3).await;
    world.feed(&table, "j1", &wanted()).await;
    let written = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            written.reached().await;
            assert_eq!(world.job("j1").await.status, JobStatus::InProgress);
            assert!(world.rows(&table).await.is_empty());
            world.faults.unavailable("items write transactions");
            written.open();
            while world.job("j1").await.status != JobStatus::Uncommitted {
                world.sleep(Duration::from_millis(10)).await;
            }
            assert!(world.rows(&table).await.is_empty());
            world.faults.clear();
            while !world.job("j1").await.status.is_final() {
                world.sleep(Duration::from_millis(10)).await;
            }
        } => {}
    }
    let report = world.job("j1").await;
    assert_eq!(report.status, JobStatus::Finished);
    assert_eq!(
        (report.rows_written(), report.input_files),
        (wanted().len() as u64, 1)
    );
    assert_eq!(world.rows(&table).await, wanted());
    let events = world.events(JobKind::Ingest, &table, "j1").await;
    for event in ["accepted", "started", "written", "committed"] {
        assert!(events.contains(&event), "{event} of {events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_ten_times_brings_its_rows_once() {
    let world = World::new();
    let table = world.table("events", 3).await;
    for _ in 0..10 {
        world.feed(&table, "j1", &wanted()).await;
    }
    world.settle().await;
    assert_eq!(world.rows(&table).await, wanted());
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_message_without_an_id_that_is_delivered_again_brings_its_rows_once() {
    let world = World::new();
    let table = world.table("events", 3).await;
    world.input("in/a.parquet", &wanted()).await;
    let body = r#"{"tableName":"events","files":["source/in"]}"#;
    let id = world.send(QueueName::Ingest, body).await;
    // The acknowledgement fails, and the message comes again.
    world.faults.unavailable("queue ack");
    let services = world.process();
    worker::run_once(&services, &IngestWorker::new(services.clone()))
        .await
        .unwrap();
    assert_eq!(world.depth(QueueName::Ingest).await.hidden, 1);
    world.faults.clear();
    world.settle().await;
    assert_eq!(world.rows(&table).await, wanted());
    assert_eq!(world.job(&id).await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn of_two_workers_that_race_one_commits_and_the_files_of_the_other_are_collected() {
    let world = World::new();
    let table = world
        .table_with("events", 3, &[("table.gc.delay.minutes", "0")])
        .await;
    world.input("j1.parquet", &wanted()).await;
    for _ in 0..2 {
        world.send(QueueName::Ingest, ingest_message(&table, "j1")).await;
    }
    let both = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    let (one, two) = (world.process(), world.process());
    tokio::select! {
        () = world.work(&one) => {}
        () = world.work(&two) => {}
        () = async {
            both.reached().await;
            both.reached().await;
            both.open();
            world.settle().await;
        } => {}
    }
    assert_eq!(world.rows(&table).await, wanted());
    assert_eq!(world.data_files(&table.id).await.len(), 2);
    assert_eq!(world.state(&table).await.garbage().count(), 1);
    let collected = collect_all(&world.process(), Default::default()).await.unwrap();
    assert_eq!(collected[0].1.as_ref().unwrap().files, 1);
    world.assert_no_orphans(&table).await;
    assert_eq!(world.rows(&table).await, wanted());
}

/// Drops the worker after `k` polls, for every `k`, and lets another one finish.
#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_anywhere_leaves_a_job_that_another_finishes() {
    for mode in ["direct", "queued"] {
        for polls in 1.. {
            let world = World::new();
            let table = world
                .table_with("events", 2, &[("table.commit.mode", mode)])
                .await;
            world.feed(&table, "j1", &rows("a", [1, 50, 150])).await;
            let services = world.process();
            let done = polled(polls, async {
                let stop = CancellationToken::new();
                let ingest = IngestWorker::new(services.clone());
                let watch = async {
                    while world.depth(QueueName::Ingest).await.visible
                        + world.depth(QueueName::Ingest).await.hidden
                        > 0
                    {
                        world.sleep(Duration::from_millis(5)).await;
                    }
                };
                if mode == "direct" {
                    tokio::select! {
                        _ = worker::run(&services, &ingest, &stop) => {}
                        () = watch => {}
                    }
                } else {
                    tokio::select! {
                        () = world.work(&services) => {}
                        () = watch => {}
                    }
                }
            })
            .await;
            world.settle().await;
            assert_eq!(
                world.rows(&table).await,
                rows("a", [1, 50, 150]),
                "{mode}, {polls} polls"
            );
            let report = world.job("j1").await;
            assert_eq!(
                report.status,
                JobStatus::Finished,
                "{mode}, {polls} polls: {report:#?}"
            );
            world.sleep(Duration::from_secs(25 * 3600)).await;
            for _ in 0..2 {
                collect_all(&world.process(), Default::default()).await.unwrap();
                world.sleep(Duration::from_secs(3600)).await;
            }
            world.assert_no_orphans(&table).await;
            if done.is_some() {
                assert!(polls > 20, "{polls} polls");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_cannot_be_done_say_why_and_do_not_hold_up_others() {
    let world = World::new();
    let table = world.table("events", 3).await;
    world.input("good.parquet", &wanted()).await;
    world.object("bad.parquet", "PAR1 or not").await;
    let cases = [
        (
            "unknown",
            r#""tableName":"evnets","files":["source/good.parquet"]"#,
            JobStatus::Rejected,
            vec!["evnets", "did you mean \"events\"?"],
        ),
        (
            "no-id",
            r#""tableId":"12345678","files":["source/good.parquet"]"#,
            JobStatus::Rejected,
            vec!["12345678"],
        ),
        (
            "nothing",
            r#""tableName":"events","files":["source/gone","source/good.parquet","source/lost/"]"#,
            JobStatus::Rejected,
            vec!["Could not find one or more paths", "source/gone", "source/lost/"],
        ),
        (
            "no-files",
            r#""tableName":"events""#,
            JobStatus::Rejected,
            vec!["\"files\""],
        ),
        (
            "null",
            r#""tableName":"events","files":[null]"#,
            JobStatus::Rejected,
            vec!["files[0]"],
        ),
        (
            "scheme",
            r#""tableName":"events","files":["gopher://x/y"]"#,
            JobStatus::Rejected,
            vec!["gopher://x/y"],
        ),
        (
            "twice",
            r#""tableName":"events","files":["source/good.parquet","s3a://source/good.parquet"]"#,
            JobStatus::Rejected,
            vec!["named twice", "s3a://source/good.parquet"],
        ),
        (
            "damaged",
            r#""tableName":"events","files":["source/good.parquet","source/bad.parquet"]"#,
            JobStatus::Failed,
            vec!["source/bad.parquet"],
        ),
    ];
    for (id, fields, _, _) in &cases {
        world
            .send(
                QueueName::Ingest,
                format!(r#"{{"id":"{id}",{fields},"unheard-of":{{}}}}"#),
            )
            .await;
    }
    let malformed = world
        .send(QueueName::Ingest, r#"{"tableName":"events","files":"#)
        .await;
    world.feed(&table, "after", &wanted()).await;
    world.settle().await;
    for (id, _, status, needles) in cases {
        let report = world.job(id).await;
        assert_eq!(report.status, status, "{id}");
        for needle in needles {
            assert!(
                report.reasons()[0].contains(needle),
                "{id}: {:?}",
                report.reasons()
            );
        }
    }
    let report = world.job(&malformed).await;
    assert_eq!(report.status, JobStatus::Rejected);
    assert!(
        report.reasons()[0].contains("Error parsing JSON"),
        "{:?}",
        report.reasons()
    );
    assert!(report.message.unwrap().contains(r#""files":"#));
    assert_eq!(world.job("after").await.status, JobStatus::Finished);
    assert_eq!(world.rows(&table).await, wanted());
    assert_eq!(world.depth(QueueName::Ingest).await, Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_job_for_a_table_that_is_offline_still_runs() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world
        .services
        .tables
        .set_online(&table.name, false)
        .await
        .unwrap();
    world.fed(&table, "j1", &wanted()).await;
    assert_eq!(world.rows(&table).await, wanted());
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_after_an_outage_of_a_minute() {
    for port in [
        "items get tables",
        "objects head",
        "items write job-events",
        "items query transactions",
        "objects put",
    ] {
        let world = World::new();
        let table = world.table("events", 2).await;
        world.feed(&table, "j1", &wanted()).await;
        world.faults.unavailable(port);
        let services = world.process();
        tokio::select! {
            () = world.work(&services) => {}
            () = world.sleep(Duration::from_secs(60)) => {}
        }
        world.faults.clear();
        world.settle().await;
        assert_eq!(world.rows(&table).await, wanted(), "{port}");
        // Where the tracker was out of order, the repair finds the commit in the log.
        Schedule::Repair.run_once(&world.process()).await.unwrap();
        assert_eq!(world.job("j1").await.status, JobStatus::Finished, "{port}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_again_and_again_waits_longer_each_time_and_ends_in_the_dead_letters() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &wanted()).await;
    let starts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (clock, seen) = (world.clock.clone(), starts.clone());
    world.engine.set_hook(move |_| {
        seen.lock().unwrap().push(clock.now());
        async { Err(Error::unavailable("throttled by the store")) }
    });
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = world.sleep(Duration::from_secs(3)) => {}
    }
    let report = world.job("j1").await;
    assert_eq!(report.status, JobStatus::InProgress);
    assert!(
        report.reasons()[0].contains("throttled by the store"),
        "{:?}",
        report.reasons()
    );
    world.settle().await;
    let report = world.job("j1").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(report.reasons()[0].contains("throttled by the store"));
    assert_eq!(world.depth(QueueName::Ingest).await.dead, 1);
    let starts = starts.lock().unwrap().clone();
    assert_eq!(starts.len(), 5);
    let waits: Vec<_> = starts.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert!(
        waits.is_sorted() && waits[0] >= Duration::from_secs(1),
        "{waits:?}"
    );
    assert!(
        waits.iter().sum::<Duration>() > Duration::from_secs(60),
        "{waits:?}"
    );
    // A redrive runs the job anew, and the tracker follows.
    world.engine.clear_hook();
    world.queue(QueueName::Ingest).redrive(None).await.unwrap();
    world.settle().await;
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
    assert_eq!(world.rows(&table).await, wanted());
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_attempt_with_its_text() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "broken", &wanted()).await;
    world.engine.set_hook(|_| async { panic!("index out of bounds") });
    world.settle().await;
    world.engine.clear_hook();
    let report = world.job("broken").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(
        report.reasons()[0].contains("panicked: index out of bounds"),
        "{:?}",
        report.reasons()
    );
    world.fed(&table, "next", &wanted()).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_older_than_the_memory_of_jobs_is_parked() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "old", &wanted()).await;
    world.clock.jump(35 * 24 * 3600 * 1000);
    world.settle().await;
    let report = world.job("old").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(report.reasons()[0].contains("not run"), "{:?}", report.reasons());
    assert_eq!(world.depth(QueueName::Ingest).await.dead, 1);
    assert!(world.rows(&table).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_deleted_meanwhile_fails_the_job() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &wanted()).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            gate.reached().await;
            world.services.tables.delete(&table.name).await.unwrap();
            gate.open();
            world.settle().await;
        } => {}
    }
    let report = world.job("j1").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(report.reasons()[0].contains("deleted"), "{:?}", report.reasons());
    assert_eq!(world.depth(QueueName::Ingest).await, Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_splits_between_planning_and_commit_loses_no_row() {
    let world = World::new();
    let table = world.table("events", 3).await;
    world.feed(&table, "j1", &wanted()).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            gate.reached().await;
            world.split(&table, 50).await;
            world.split(&table, 250).await;
            gate.open();
            world.settle().await;
        } => {}
    }
    assert_eq!(world.rows(&table).await, wanted());
    assert_eq!(world.state(&table).await.leaf_count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_swept_before_its_commit_is_written_anew() {
    let world = World::new();
    let table = world.table("events", 2).await;
    world.feed(&table, "j1", &wanted()).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            gate.reached().await;
            let times = dormouse_jobs::garbage::Override { orphan_age: Some(Duration::ZERO), ..Default::default() };
            let collected = collect_all(&world.process(), times).await.unwrap();
            assert_eq!(collected[0].1.as_ref().unwrap().orphans, 1);
            gate.open();
            world.settle().await;
        } => {}
    }
    assert_eq!(world.rows(&table).await, wanted());
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_replaced_while_its_job_runs_fails_the_job() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    let begun = world.gate(|step| matches!(step, EngineStep::Ingest { .. }));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            begun.reached().await;
            world.input("j1.parquet", &rows("b", [2, 3])).await;
            world.engine.set_hook(|_| std::future::ready(Ok(())));
            begun.open();
            world.settle().await;
        } => {}
    }
    let report = world.job("j1").await;
    assert_eq!(report.status, JobStatus::Failed);
    let reasons = report.reasons().join("\n");
    assert!(
        reasons.contains("input \"source/j1.parquet\" has changed"),
        "{reasons}"
    );
    assert!(world.rows(&table).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_whose_commit_was_not_answered_stay() {
    let world = World::new();
    let table = world.table("events", 2).await;
    world.feed(&table, "j1", &wanted()).await;
    let cut_off = Arc::new(AtomicBool::new(false));
    let (cut, is_cut) = (cut_off.clone(), cut_off.clone());
    world.faults.lose_answers(move |call| {
        let commits = call.contains("items write transactions");
        cut.fetch_or(commits, Relaxed);
        commits.then(|| Error::unavailable("the line went dead"))
    });
    world.faults.set(move |call| {
        let fails = is_cut.load(Relaxed) && call.contains("transactions");
        fails.then(|| Error::unavailable("the line is dead"))
    });
    let services = world.process();
    let handler = IngestWorker::new(services.clone());
    worker::run_once(&services, &handler).await.unwrap();
    assert!(cut_off.load(Relaxed));
    assert_eq!(world.job("j1").await.reasons().len(), 1);
    world.faults.clear();
    assert_eq!(world.rows(&table).await, wanted());
    world.settle().await;
    assert_eq!(world.rows(&table).await, wanted());
    let report = world.job("j1").await;
    assert_eq!(
        (report.status, report.deciding_run().map(|run| run.attempt)),
        (JobStatus::Finished, Some(1))
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_written_by_a_request_sent_twice_does_not_end_its_job() {
    let world = World::new();
    let table = world.table("events", 2).await;
    world.feed(&table, "j1", &wanted()).await;
    let once = AtomicBool::new(true);
    world.engine.set_hook(move |step| {
        let fails = matches!(step, EngineStep::Ingested { .. }) && once.swap(false, Relaxed);
        async move {
            if fails {
                Err(Error::already_exists("an object of this name"))
            } else {
                Ok(())
            }
        }
    });
    world.settle().await;
    assert_eq!(world.rows(&table).await, wanted());
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn an_input_without_rows_finishes_its_job() {
    let world = World::new();
    let table = world.table("events", 2).await;
    world.fed(&table, "empty", &[]).await;
    assert_eq!(world.state(&table).await.file_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cleared_table_takes_new_jobs_and_not_the_old_ones_again() {
    let world = World::new();
    let table = world.table("events", 2).await;
    world.fed(&table, "j1", &wanted()).await;
    let outcome = world.commit(&table, "clear", Record::TableCleared).await;
    assert!(matches!(outcome, Outcome::Applied(_)));
    world.fed(&table, "j1", &wanted()).await;
    world.fed(&table, "j2", &rows("b", [5])).await;
    assert_eq!(world.rows(&table).await, rows("b", [5]));
    world.sleep(VISIBILITY).await;
}
