//! Queue `compaction`: files of a leaf become one, and no reader can tell.

use std::time::Duration;

use dormouse_core::{
    ids::{FileName, JobId},
    plan::compaction::Policy,
    ports::QueueName,
    state::table_state::CLOCK_SKEW_MARGIN,
    tables::TableInfo,
    testing::memory::EngineStep,
    tracker::{JobKind, JobStatus},
};
use dormouse_jobs::{
    Services,
    compaction::{CompactionWorker, create},
    garbage::Override,
    schedule::{Schedule, collect_all},
    worker,
};
use object_store::ObjectStoreExt;

use crate::{
    faults::polled,
    harness::{Row, World, rows},
};

const LEASE: Duration = Duration::from_secs(60 * 60);

/// A table of two leaves with four files in each, or shared by both.
async fn fragmented(world: &World) -> TableInfo {
    let properties = [("table.state.history.retention.hours", "0")];
    let table = world.table_with("events", 2, &properties).await;
    for i in 0..4 {
        let keys = [i, i + 10, 100 + i, 150 - i];
        let text = ["a", "b", "c", "d"][i as usize];
        world.fed(&table, &format!("job-{i}"), &rows(text, keys)).await;
    }
    table
}

fn all_rows() -> Vec<Row> {
    let mut all: Vec<Row> = (0..4_i64)
        .flat_map(|i| rows(["a", "b", "c", "d"][i as usize], [i, i + 10, 100 + i, 150 - i]))
        .collect();
    all.sort();
    all
}

async fn files_by_leaf(world: &World, table: &TableInfo) -> Vec<usize> {
    let state = world.state(table).await;
    state
        .leaves()
        .map(|leaf| state.references(&leaf.id).count())
        .collect()
}

async fn work_once(services: &Services) {
    worker::run_once(services, &CompactionWorker::new(services.clone()))
        .await
        .unwrap();
}

async fn collect(world: &World) {
    world.sleep(Duration::from_secs(25 * 3600)).await;
    for (_, turn) in collect_all(&world.process(), Override::default()).await.unwrap() {
        turn.unwrap();
    }
}

async fn assert_compacted(world: &World, table: &TableInfo, context: &str) {
    assert_eq!(world.rows(table).await, all_rows(), "{context}");
    assert_eq!(files_by_leaf(world, table).await, [1, 1], "{context}");
    collect(world).await;
    world.assert_no_orphans(table).await;
    assert_eq!(world.rows(table).await, all_rows(), "{context}");
    world.assert_sound(table).await;
}

#[tokio::test(start_paused = true)]
async fn small_files_become_one_and_the_tracker_tells() {
    let world = World::new();
    let table = fragmented(&world).await;
    assert_eq!(files_by_leaf(&world, &table).await, [4, 4]);
    Schedule::Compaction.run_once(&world.process()).await.unwrap();
    let filter = dormouse_core::tracker::JobFilter {
        kind: Some(JobKind::Compaction),
        ..Default::default()
    };
    let created = world.services.tracker.list(&filter, 10).await.unwrap();
    assert_eq!(created.len(), 2);
    assert!(
        created
            .iter()
            .all(|job| job.status == JobStatus::Created && job.input_files == 4)
    );
    // What is leased is not planned again.
    Schedule::Compaction.run_once(&world.process()).await.unwrap();
    assert_eq!(world.services.tracker.list(&filter, 10).await.unwrap().len(), 2);
    world.sleep(Duration::from_secs(1)).await;
    world.settle().await;
    for report in world.services.tracker.list(&filter, 10).await.unwrap() {
        assert_eq!(report.status, JobStatus::Finished, "{report:?}");
        assert_eq!((report.rows_read(), report.rows_written()), (8, 8));
        let events = world
            .events(JobKind::Compaction, &table, report.key.job.as_str())
            .await;
        assert_eq!(events, ["created", "started", "written", "committed"]);
    }
    assert_compacted(&world, &table, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_planner_that_dies_anywhere_gives_its_files_back() {
    for polls in 1.. {
        let world = World::new();
        let table = fragmented(&world).await;
        let services = world.process();
        let done = polled(polls, create(&services, &table, Policy::Full))
            .await
            .is_some();
        world.sleep(LEASE + CLOCK_SKEW_MARGIN).await;
        create(&world.process(), &table, Policy::Full).await.unwrap();
        world.settle().await;
        assert_compacted(&world, &table, &format!("{polls} polls")).await;
        if done {
            assert!(polls > 5, "{polls}");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_anywhere_leaves_a_job_that_another_finishes() {
    for polls in 1.. {
        let world = World::new();
        let table = fragmented(&world).await;
        let jobs = create(&world.process(), &table, Policy::Full).await.unwrap();
        assert_eq!(jobs.len(), 2);
        let services = world.process();
        let handler = CompactionWorker::new(services.clone());
        let done = polled(polls, worker::run_once(&services, &handler))
            .await
            .is_some();
        world.settle().await;
        Schedule::Repair.run_once(&world.process()).await.unwrap();
        for job in jobs {
            assert_eq!(
                world.job(job.as_str()).await.status,
                JobStatus::Finished,
                "{polls} polls"
            );
        }
        assert_compacted(&world, &table, &format!("{polls} polls")).await;
        if done {
            assert!(polls > 15, "{polls}");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_workers_with_one_message_one_commits() {
    let world = World::new();
    let table = fragmented(&world).await;
    create(&world.process(), &table, Policy::Full).await.unwrap();
    let bodies = world.queue(QueueName::Compaction).peek(10).await.unwrap();
    let both = world.gate(|step| matches!(step, EngineStep::Compacted(_)));
    for body in bodies {
        world.send(QueueName::Compaction, body.body).await;
    }
    let (one, other) = (world.process(), world.process());
    tokio::select! {
        () = world.work(&one) => {}
        () = world.work(&other) => {}
        () = async {
            both.reached().await;
            both.reached().await;
            both.open();
            world.settle().await;
        } => {}
    }
    assert_compacted(&world, &table, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_split_before_the_commit_fails_the_job_and_harms_nothing() {
    for when in ["before the work", "before the commit"] {
        let world = World::new();
        let table = fragmented(&world).await;
        let jobs = create(&world.process(), &table, Policy::Full).await.unwrap();
        if when == "before the work" {
            world.split(&table, 50).await;
            world.split(&table, 120).await;
            world.settle().await;
        } else {
            let written = world.gate(|step| matches!(step, EngineStep::Compacted(_)));
            let services = world.process();
            tokio::select! {
                () = world.work(&services) => {}
                () = async {
                    written.reached().await;
                    world.split(&table, 50).await;
                    world.split(&table, 120).await;
                    written.open();
                    world.settle().await;
                } => {}
            }
        }
        for job in jobs {
            let report = world.job(job.as_str()).await;
            assert_eq!(report.status, JobStatus::Failed, "{when}");
            let reasons = report.reasons().join("; ");
            assert!(
                reasons.contains("no longer referenced at leaf"),
                "{when}: {reasons}"
            );
        }
        assert_eq!(world.rows(&table).await, all_rows(), "{when}");
        Schedule::Compaction.run_once(&world.process()).await.unwrap();
        world.settle().await;
        assert_eq!(world.rows(&table).await, all_rows(), "{when}");
        assert_eq!(files_by_leaf(&world, &table).await, [1, 0, 1, 1], "{when}");
        collect(&world).await;
        world.assert_no_orphans(&table).await;
        world.assert_sound(&table).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_its_worker_is_only_slow() {
    let world = World::with("compaction.lease.minutes=10");
    let table = fragmented(&world).await;
    let jobs = create(&world.process(), &table, Policy::Full).await.unwrap();
    let written = world.gate(|step| matches!(step, EngineStep::Compacted(_)));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            written.reached().await;
            world.sleep(Duration::from_secs(3 * 3600)).await;
            let stolen = create(&world.process(), &table, Policy::Full).await.unwrap();
            // The other leaf's job has not begun: a process compacts one leaf at a time.
            assert_eq!(stolen.len(), 1);
            written.open();
            world.settle().await;
        } => {}
    }
    let mut statuses = Vec::new();
    for job in &jobs {
        statuses.push(world.job(job.as_str()).await.status);
    }
    statuses.sort();
    assert_eq!(statuses, [JobStatus::Failed, JobStatus::Finished]);
    assert_compacted(&world, &table, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_lease_was_taken_commits_nothing() {
    let world = World::new();
    let table = fragmented(&world).await;
    let jobs = create(&world.process(), &table, Policy::Full).await.unwrap();
    let letters = world.queue(QueueName::Compaction).peek(10).await.unwrap();
    world.sleep(LEASE + CLOCK_SKEW_MARGIN).await;
    let others = create(&world.process(), &table, Policy::Full).await.unwrap();
    assert_eq!(others.len(), 2);
    world.settle().await;
    for job in &jobs {
        let report = world.job(job.as_str()).await;
        assert_eq!(report.status, JobStatus::Failed);
        assert!(
            report.reasons()[0].contains("is leased to job"),
            "{:?}",
            report.reasons()
        );
    }
    assert_eq!(letters.len(), 2);
    assert_compacted(&world, &table, "").await;
}

#[tokio::test(start_paused = true)]
async fn an_export_that_began_before_reads_the_files_of_its_state() {
    let world = World::new();
    let table = fragmented(&world).await;
    world
        .send(QueueName::Export, crate::harness::export_message(&table, "e1"))
        .await;
    let services = world.process();
    let splitter = dormouse_jobs::export::ExportSplitter::new(services.clone());
    worker::run_once(&services, &splitter).await.unwrap();
    create(&services, &table, Policy::Full).await.unwrap();
    for _ in 0..2 {
        work_once(&services).await;
    }
    world.sleep(Duration::from_secs(2 * 3600)).await;
    collect_all(&services, Override::default()).await.unwrap();
    world.settle().await;
    let mut exported = world.rows_of_export(&table, "e1").await;
    exported.sort();
    assert_eq!(exported, all_rows());
    assert_compacted(&world, &table, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_input_fails_the_job_and_stays() {
    let world = World::new();
    let table = fragmented(&world).await;
    let path = object_store::path::Path::from(world.data_files(&table.id).await.remove(0));
    world
        .services
        .data
        .put(&path, "[[1,\"other\"]]".into())
        .await
        .unwrap();
    let jobs: Vec<JobId> = create(&world.process(), &table, Policy::Full).await.unwrap();
    world.settle().await;
    let report = world.job(jobs[0].as_str()).await;
    assert_eq!(report.status, JobStatus::Failed);
    let file = FileName::from_object_path(&table.id, &path).unwrap();
    let reasons = report.reasons().join("; ");
    assert!(reasons.contains(path.filename().unwrap()), "{reasons}");
    assert!(world.state(&table).await.is_referenced(&file));
    assert!(world.depth(QueueName::Compaction).await.dead > 0);
}
