//! Commit mode `queued`: the same promises as direct commits, and fewer log entries.

use std::time::Duration;

use dormouse_core::{
    ids::{JobId, PartitionId, RunId},
    ports::{Message, QueueName},
    state::{Commit, CommitId, Outcome, Record, transaction::Split},
    tables::TableInfo,
    testing::memory::{EngineStep, MemoryRowEngine},
    tracker::JobStatus,
};
use dormouse_jobs::{commit::Committer, commit::commit, ingest::IngestWorker, worker};
use tokio_util::sync::CancellationToken;

use crate::{
    faults::polled,
    harness::{VISIBILITY, World, ingest_message, rows},
};

async fn queued(world: &World, properties: &[(&str, &str)]) -> TableInfo {
    let properties = [&[("table.commit.mode", "queued")], properties].concat();
    world.table_with("events", 2, &properties).await
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_repeated_and_raced_commits_once() {
    let world = World::new();
    let table = queued(&world, &[]).await;
    for _ in 0..10 {
        world.feed(&table, "j1", &rows("a", [1, 150])).await;
    }
    let (one, two) = (world.process(), world.process());
    tokio::select! {
        () = world.work(&one) => {}
        () = world.work(&two) => {}
        () = world.settle() => {}
    }
    assert_eq!(world.rows(&table).await, rows("a", [1, 150]));
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
    assert!(world.faults.count("queue send commit") >= 1);
}

#[tokio::test(start_paused = true)]
async fn many_jobs_share_few_log_entries() {
    let world = World::with("dormouse.ingest.concurrency=50");
    let table = queued(&world, &[]).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    for job in 0..50 {
        world.feed(&table, &format!("j{job}"), &rows("a", [job])).await;
    }
    let services = world.process();
    let handler = IngestWorker::new(services.clone());
    let stop = CancellationToken::new();
    tokio::select! {
        _ = worker::run(&services, &handler, &stop) => {}
        () = async {
            for _ in 0..50 {
                gate.reached().await;
            }
            gate.open();
            while world.depth(QueueName::Commit).await.visible < 50 {
                world.sleep(Duration::from_millis(10)).await;
            }
            world.settle().await;
        } => {}
    }
    assert_eq!(world.rows(&table).await, rows("a", 0..50));
    let entries = world.state(&table).await.transaction().0;
    assert!(entries <= 1 + 10, "{entries} entries for 50 commits");
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_refused_is_answered_and_its_neighbours_are_not() {
    let world = World::new();
    let table = queued(&world, &[]).await;
    let services = world.process();
    let bad = Commit::new(
        CommitId::new("bad"),
        Record::PartitionSplit(Split {
            partition: PartitionId::new("elsewhere").unwrap(),
            at: MemoryRowEngine::key(1),
            left: PartitionId::new("l").unwrap(),
            right: PartitionId::new("r").unwrap(),
        }),
    );
    let idle = Commit::new(CommitId::new("idle"), Record::FilesDeleted { files: Vec::new() });
    let good = Commit::new(
        CommitId::new("good"),
        Record::FilesAdded {
            job: JobId::new("good").unwrap(),
            run: RunId::new("r").unwrap(),
            issued: dormouse_core::ports::Clock::now(&*world.clock),
            files: Vec::new(),
        },
    );
    let (refused, done, idle, ()) = tokio::join!(
        commit(&services, &table, bad),
        commit(&services, &table, good),
        commit(&services, &table, idle),
        async {
            world.sleep(Duration::from_millis(100)).await;
            let committer = world.process();
            worker::run_once(&committer, &Committer::new(committer.clone()))
                .await
                .unwrap();
        }
    );
    assert!(matches!(refused.unwrap(), Outcome::Refused(_)));
    for outcome in [done, idle] {
        assert!(matches!(outcome.unwrap(), Outcome::Applied(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_committer_that_dies_anywhere_leaves_the_commit_to_the_next() {
    for polls in 1.. {
        let world = World::new();
        let table = queued(&world, &[]).await;
        let services = world.process();
        let clear = Commit::new(CommitId::new("clear"), Record::TableCleared);
        let (outcome, done) = tokio::join!(commit(&services, &table, clear), async {
            world.sleep(Duration::from_millis(100)).await;
            let dying = world.process();
            let committer = Committer::new(dying.clone());
            let done = polled(polls, worker::run_once(&dying, &committer)).await;
            world.sleep(2 * VISIBILITY).await;
            let next = world.process();
            worker::run_once(&next, &Committer::new(next.clone()))
                .await
                .unwrap();
            done.is_some()
        });
        assert!(matches!(outcome.unwrap(), Outcome::Applied(_)), "{polls} polls");
        if done {
            assert!(polls > 5, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_too_large_for_a_message_goes_through_an_object() {
    let world = World::new();
    let properties = [
        ("table.commit.mode", "queued"),
        ("table.ingest.file.target.bytes", "1"),
    ];
    let table = world.table_with("events", 2500, &properties).await;
    let wanted = rows("a", (0..2500).map(|leaf| leaf * 100));
    world.fed(&table, "large", &wanted).await;
    assert_eq!(world.faults.count("/commits/"), 2, "one put and one get");
    assert_eq!(world.rows(&table).await, wanted);
}

#[tokio::test(start_paused = true)]
async fn without_a_committer_a_job_waits_and_its_rows_come_in_once_there_is_one() {
    let world = World::new();
    let table = queued(&world, &[]).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    let services = world.process();
    let handler = IngestWorker::new(services.clone());
    let stop = CancellationToken::new();
    tokio::select! {
        _ = worker::run(&services, &handler, &stop) => {}
        () = world.sleep(Duration::from_secs(20 * 60)) => {}
    }
    let report = world.job("j1").await;
    assert_eq!(report.status, JobStatus::Uncommitted, "{report:#?}");
    assert!(
        report.reasons()[0].contains("not answered"),
        "{:?}",
        report.reasons()
    );
    world.settle().await;
    assert_eq!(world.rows(&table).await, rows("a", [1]));
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn direct_and_queued_commits_of_one_job_bring_its_rows_once() {
    let world = World::new();
    let table = queued(&world, &[]).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    let services = world.process();
    let handler = IngestWorker::new(services.clone());
    let stop = CancellationToken::new();
    // The commit waits in its queue while another worker, with another mode, does the job.
    tokio::select! {
        _ = worker::run(&services, &handler, &stop) => {}
        () = world.sleep(Duration::from_secs(1)) => {}
    }
    assert_eq!(world.depth(QueueName::Commit).await.visible, 1);
    let mut direct = table.clone();
    direct.properties.clear();
    let record = Record::FilesAdded {
        job: JobId::new("j1").unwrap(),
        run: RunId::new("other").unwrap(),
        issued: dormouse_core::ports::Clock::now(&*world.clock),
        files: Vec::new(),
    };
    let outcome = commit(
        &world.services,
        &direct,
        Commit::new(CommitId::new("other"), record),
    )
    .await;
    assert!(matches!(outcome.unwrap(), Outcome::Applied(_)));
    world.settle().await;
    assert!(world.rows(&table).await.is_empty());
    assert_eq!(world.state(&table).await.garbage().count(), 1);
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_commit_message_that_cannot_be_read_does_not_block_its_table() {
    let world = World::new();
    let table = queued(&world, &[]).await;
    let message = Message {
        group: Some(table.id.to_string()),
        ..Message::new("{")
    };
    world.queue(QueueName::Commit).send(vec![message]).await.unwrap();
    world.input("j1.parquet", &rows("a", [1])).await;
    world.send(QueueName::Ingest, ingest_message(&table, "j1")).await;
    world.settle().await;
    assert_eq!(world.rows(&table).await, rows("a", [1]));
}
