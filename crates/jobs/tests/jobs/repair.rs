//! The repair: the tracker says what the logs and the dead letters know.

use std::time::Duration;

use dormouse_core::{
    ids::{ExportId, JobId, RunId},
    plan::export::ExportPlan,
    ports::{Clock, QueueName},
    state::Record,
    tables::TableInfo,
    testing::memory::EngineStep,
    tracker::{EventKind, JobFilter, JobKey, JobKind, JobStatus},
};
use dormouse_jobs::{
    garbage::Override,
    ingest::IngestWorker,
    repair,
    schedule::{Schedule, collect_all},
    worker,
};

use object_store::{ObjectStoreExt, PutPayload};

use crate::{
    faults::polled,
    harness::{VISIBILITY, World, export_message, rows},
};

async fn repaired(world: &World) {
    Schedule::Repair.run_once(&world.process()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_not_reported_is_found_in_the_log() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1, 2])).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            gate.reached().await;
            gate.open();
            while world.job("j1").await.status != JobStatus::Uncommitted {
                tokio::task::yield_now().await;
            }
            world.faults.unavailable("items write job");
            while world.depth(QueueName::Ingest).await.hidden > 0 {
                world.sleep(Duration::from_millis(100)).await;
            }
        } => {}
    }
    world.faults.clear();
    assert_eq!(world.job("j1").await.status, JobStatus::Uncommitted);
    assert_eq!(repair::commits(&world.process(), &table).await.unwrap(), 1);
    let report = world.job("j1").await;
    assert_eq!(
        (report.status, report.rows_written(), report.runs.len()),
        (JobStatus::Finished, 2, 1)
    );
    assert_eq!(repair::commits(&world.process(), &table).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_worker_died_on_every_attempt_is_reported() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "deadly", &rows("a", [1])).await;
    let _gate = world.gate(|step| matches!(step, EngineStep::Ingest { .. }));
    for _ in 0..5 {
        let services = world.process();
        let handler = IngestWorker::new(services.clone());
        assert!(polled(500, worker::run_once(&services, &handler)).await.is_none());
        world.sleep(VISIBILITY).await;
    }
    world.engine.clear_hook();
    let services = world.process();
    worker::run_once(&services, &IngestWorker::new(services.clone()))
        .await
        .unwrap();
    assert_eq!(world.job("deadly").await.status, JobStatus::InProgress);
    repaired(&world).await;
    let report = world.job("deadly").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(
        report.reasons()[0].contains("dead letters of queue ingest after 5"),
        "{:?}",
        report.reasons()
    );
    let before = world.faults.count("items write job");
    repaired(&world).await;
    assert_eq!(
        world.faults.count("items write job"),
        before,
        "a report is written again and again"
    );
    world.queue(QueueName::Ingest).redrive(None).await.unwrap();
    world.settle().await;
    assert_eq!(world.job("deadly").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn an_export_whose_part_died_is_reported() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.fed(&table, "j1", &rows("a", [1])).await;
    world.fed(&table, "j2", &rows("b", [2])).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world
        .engine
        .set_hook(|_| async { Err(dormouse_core::Error::unavailable("no")) });
    world.settle().await;
    let report = world.job("e1").await;
    assert_eq!(
        (report.status, report.export.unwrap().failed),
        (JobStatus::Failed, 1)
    );
    repaired(&world).await;
    assert_eq!(world.job("e1").await.runs.len(), 1);
}

/// The worker dies between the mark and its report, on every attempt.
#[tokio::test(start_paused = true)]
async fn a_complete_export_whose_message_died_is_reported_as_finished() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.fed(&table, "j1", &rows("a", [1])).await;
    world.send(QueueName::Export, export_message(&table, "e1")).await;
    world.faults.set(|call| {
        (call.starts_with("objects put") && call.ends_with("_SUCCESS"))
            .then(|| dormouse_core::Error::unavailable("stop here"))
    });
    world.settle().await;
    world.faults.clear();
    let mark = ExportPlan::success_path(&table.id, &ExportId::new("e1").unwrap());
    world
        .services
        .exports
        .put(&mark, PutPayload::new())
        .await
        .unwrap();
    assert_eq!(world.job("e1").await.status, JobStatus::Failed);
    let key = JobKey {
        kind: JobKind::Export,
        table: Some(table.id.clone()),
        job: JobId::new("e1").unwrap(),
    };
    let run = RunId::new("e1").unwrap();
    let split = EventKind::Split {
        transaction: world.state(&table).await.transaction(),
        sub_exports: 1,
    };
    world
        .services
        .tracker
        .record(&key, Some("events"), (&run, 1), split)
        .await
        .unwrap();
    repaired(&world).await;
    assert_eq!(world.job("e1").await.status, JobStatus::Finished);
    assert_eq!(world.state(&table).await.pins().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_hears_of_is_reported_as_lost() {
    let world = World::with("dormouse.job.lost.hours=2");
    let table = world.table("events", 1).await;
    let key = JobKey {
        kind: JobKind::Ingest,
        table: Some(table.id.clone()),
        job: JobId::new("silent").unwrap(),
    };
    let run = RunId::new("dead").unwrap();
    world
        .services
        .tracker
        .record(&key, Some("events"), (&run, 1), EventKind::Started)
        .await
        .unwrap();
    world.clock.jump(3601 * 1000);
    repaired(&world).await;
    assert_eq!(world.job("silent").await.status, JobStatus::InProgress);
    world.clock.jump(3601 * 1000);
    repaired(&world).await;
    let report = world.job("silent").await;
    assert_eq!(report.status, JobStatus::Failed);
    assert!(
        report.reasons()[0].contains("for 2 hours"),
        "{:?}",
        report.reasons()
    );

    // Should it live after all, what it did counts.
    world.fed(&table, "silent", &rows("a", [1])).await;
}

#[tokio::test(start_paused = true)]
async fn jobs_whose_table_was_deleted_after_their_worker_died_are_ended() {
    let world = World::new();
    let table = world.table("events", 1).await;
    let other = world.table("other", 1).await;
    let job = |kind, table: &TableInfo, job: &str| JobKey {
        kind,
        table: Some(table.id.clone()),
        job: JobId::new(job).unwrap(),
    };
    let run = RunId::new("run-of-a-dead-worker").unwrap();
    let files_added = Record::FilesAdded {
        job: JobId::new("committed").unwrap(),
        run: run.clone(),
        issued: world.clock.now(),
        files: Vec::new(),
    };
    world.commit(&table, "committed", files_added).await;
    let ends = [
        (job(JobKind::Ingest, &table, "committed"), JobStatus::Finished),
        (job(JobKind::Ingest, &table, "begun"), JobStatus::Failed),
        (job(JobKind::Export, &table, "export"), JobStatus::Failed),
        (job(JobKind::Ingest, &other, "elsewhere"), JobStatus::InProgress),
    ];
    for (key, _) in &ends {
        let tracker = &world.services.tracker;
        tracker
            .record(key, Some("events"), (&run, 2), EventKind::Started)
            .await
            .unwrap();
    }
    world.services.tables.delete(&table.name).await.unwrap();
    world.sleep(Duration::from_secs(25 * 3600)).await;
    collect_all(&world.process(), Override::default()).await.unwrap();
    for (key, end) in &ends {
        let report = world.services.tracker.report(key).await.unwrap().unwrap();
        assert_eq!((report.status, report.runs.len()), (*end, 1), "{key:?}");
        if *end == JobStatus::Failed {
            assert_eq!(report.reasons(), ["the table was deleted"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_dies_anywhere_is_completed_by_the_next() {
    for polls in 1.. {
        let world = World::new();
        let table = world.table("events", 1).await;
        let services = world.process();
        for job in ["j1", "j2"] {
            let record = Record::FilesAdded {
                job: JobId::new(job).unwrap(),
                run: RunId::new(format!("{job}-run")).unwrap(),
                issued: world.clock.now(),
                files: Vec::new(),
            };
            world.commit(&table, job, record).await;
        }
        let done = polled(polls, repair::commits(&services, &table)).await;
        repair::commits(&world.process(), &table).await.unwrap();
        for job in ["j1", "j2"] {
            assert_eq!(world.job(job).await.status, JobStatus::Finished, "{polls} polls");
        }
        let listed = world
            .services
            .tracker
            .list(&JobFilter::default(), 10)
            .await
            .unwrap();
        assert_eq!(listed.len(), 2);
        if done.is_some() {
            break;
        }
    }
}
