//! The worker loop: visibility, draining, and when a message may go.

use std::time::Duration;

use dormouse_core::{
    ports::{Clock, QueueName},
    testing::memory::EngineStep,
    tracker::JobStatus,
};
use dormouse_jobs::{ingest::IngestWorker, worker};
use tokio_util::sync::CancellationToken;

use crate::harness::{VISIBILITY, World, rows};

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_ten_times_longer_than_its_message_is_hidden_runs_once() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "long", &rows("a", [1])).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingest { .. }));
    let (one, two) = (world.process(), world.process());
    tokio::select! {
        () = world.work(&one) => {}
        () = world.work(&two) => {}
        () = async {
            gate.reached().await;
            for _ in 0..100 {
                world.sleep(VISIBILITY / 10).await;
                assert_eq!(world.depth(QueueName::Ingest).await.hidden, 1);
            }
            gate.open();
            world.settle().await;
        } => {}
    }
    let report = world.job("long").await;
    assert_eq!(
        (report.status, report.runs.len()),
        (JobStatus::Finished, 1),
        "{report:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeats_that_fail_for_a_while_do_not_end_a_run() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingest { .. }));
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            gate.reached().await;
            world.faults.unavailable("queue extend");
            world.sleep(VISIBILITY / 2).await;
            world.faults.clear();
            world.sleep(VISIBILITY).await;
            gate.open();
            world.settle().await;
        } => {}
    }
    assert_eq!(world.job("j1").await.runs.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_superseded_is_dropped_and_commits_nothing() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1, 2])).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingested { .. }));
    let paused = world.process();
    tokio::select! {
        () = world.work(&paused) => {}
        () = async {
            gate.reached().await;
            // The machine of the first run loses its queue; the message goes to another one.
            world.faults.unavailable("queue extend");
            world.sleep(VISIBILITY * 2).await;
            let second = world.process();
            let worker = IngestWorker::new(second.clone());
            tokio::select! {
                handled = worker::run_once(&second, &worker) => panic!("{handled:?}"),
                () = gate.reached() => {}
            }
            world.faults.clear();
            // The first run's next heartbeat finds the message delivered again.
            world.sleep(VISIBILITY).await;
            let before = world.faults.count("items write transactions");
            gate.open();
            world.settle().await;
            assert_eq!(world.faults.count("items write transactions"), before + 1);
        } => {}
    }
    assert_eq!(world.rows(&table).await, rows("a", [1, 2]));
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stopped_finishes_what_it_can_in_time() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingest { .. }));
    let services = world.process();
    let handler = IngestWorker::new(services.clone());
    let stop = CancellationToken::new();
    let (stopped, ()) = tokio::join!(worker::run(&services, &handler, &stop), async {
        gate.reached().await;
        stop.cancel();
        world.feed(&table, "j2", &rows("b", [2])).await;
        world.sleep(Duration::from_secs(20)).await;
        gate.open();
    });
    stopped.unwrap();
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
    assert_eq!(
        world.depth(QueueName::Ingest).await.visible,
        1,
        "j2 is left to others"
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stopped_gives_back_what_it_cannot_finish() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    world.feed(&table, "j2", &rows("b", [2])).await;
    let gate = world.gate(|step| matches!(step, EngineStep::Ingest { .. }));
    let services = world.process();
    let handler = IngestWorker::new(services.clone());
    let stop = CancellationToken::new();
    let begun = world.clock.now();
    let (stopped, ()) = tokio::join!(worker::run(&services, &handler, &stop), async {
        gate.reached().await;
        gate.reached().await;
        stop.cancel();
    });
    stopped.unwrap();
    let took = world.clock.now().since(begun);
    assert!(took <= Duration::from_secs(26), "{took:?}");
    assert_eq!(world.depth(QueueName::Ingest).await.visible, 2);
    gate.open();
    world.settle().await;
    assert_eq!(world.rows(&table).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_stays_until_its_end_is_recorded() {
    let world = World::new();
    world.table("events", 1).await;
    let body = r#"{"id":"bad","tableName":"events","files":["source/gone"]}"#;
    world.send(QueueName::Ingest, body).await;
    world.faults.unavailable("items write job");
    let services = world.process();
    let handler = IngestWorker::new(services.clone());
    worker::run_once(&services, &handler).await.unwrap();
    assert_eq!(
        world.depth(QueueName::Ingest).await.hidden,
        1,
        "nobody would know why it is gone"
    );
    world.faults.clear();
    world.settle().await;
    assert_eq!(world.job("bad").await.status, JobStatus::Rejected);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_queue_does_not_take_at_once_is_tried_again() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    let left = std::sync::atomic::AtomicU32::new(2);
    world.faults.set(move |call| {
        use std::sync::atomic::Ordering::Relaxed;
        let fails = call.contains("queue ack")
            && left
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .is_ok();
        fails.then(|| dormouse_core::Error::unavailable("lost"))
    });
    let services = world.process();
    worker::run_once(&services, &IngestWorker::new(services.clone()))
        .await
        .unwrap();
    assert_eq!(world.depth(QueueName::Ingest).await, Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_out_of_order_is_waited_for() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.feed(&table, "j1", &rows("a", [1])).await;
    world.faults.unavailable("queue receive");
    let services = world.process();
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            world.sleep(Duration::from_secs(600)).await;
            let calls = world.faults.count("queue receive ingest");
            assert!(calls <= 700, "{calls} calls in ten minutes");
            world.faults.clear();
            while !world.has_job("j1").await || !world.job("j1").await.status.is_final() {
                world.sleep(Duration::from_millis(100)).await;
            }
        } => {}
    }
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}
