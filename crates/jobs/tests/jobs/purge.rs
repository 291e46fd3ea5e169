//! Purges: the rows that a predicate is true for leave the table, and no others.

use std::time::Duration;

use dormouse_core::{
    ErrorKind,
    ids::{FileName, TransactionNumber},
    plan::compaction::Policy,
    predicate::Predicate,
    state::{AsOf, Record, table_state::CLOCK_SKEW_MARGIN},
    tables::TableInfo,
    testing::memory::EngineStep,
    tracker::JobStatus,
};
use dormouse_jobs::{
    Services,
    compaction::{Purge, create, purge::Round},
};

use crate::{
    faults::polled,
    harness::{Row, World, rows},
};

const LEASE: Duration = Duration::from_secs(60 * 60);

fn of_a() -> Predicate {
    Predicate::new("payload LIKE 'a-%'").unwrap()
}

/// A table of two leaves: `a` in the first alone, `b` in both.
async fn mixed(world: &World) -> TableInfo {
    let table = world.table("events", 2).await;
    world.fed(&table, "job-a", &rows("a", [1, 5, 9])).await;
    world.fed(&table, "job-b", &rows("b", [3, 7, 103, 107])).await;
    table
}

fn without_a() -> Vec<Row> {
    rows("b", [3, 7, 103, 107])
}

async fn begun<'a>(services: &'a Services, table: &TableInfo) -> Purge<'a> {
    Purge::begin(services, table, of_a()).await.unwrap()
}

/// Goes on round by round while workers work; returns the rounds that found something to do.
async fn ended(world: &World, purge: &mut Purge<'_>) -> Vec<Round> {
    let mut rounds = Vec::new();
    loop {
        let round = purge.round().await.unwrap();
        if round.is_last() {
            return rounds;
        }
        rounds.push(round);
        assert!(rounds.len() < 20, "{rounds:?}");
        world.settle().await;
        world.sleep(Duration::from_secs(1)).await;
    }
}

async fn files(world: &World, table: &TableInfo) -> Vec<FileName> {
    let state = world.state(table).await;
    state.files().map(|(file, _)| file.name.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_rows_go_others_stay_and_files_without_them_are_not_touched() {
    let world = World::new();
    let table = mixed(&world).await;
    let before = files(&world, &table).await;
    let services = world.process();
    let mut purge = begun(&services, &table).await;
    assert_eq!(purge.matches().await.unwrap().len(), 1);
    let rounds = ended(&world, &mut purge).await;
    assert_eq!(rounds.len(), 1);
    assert_eq!(world.rows(&table).await, without_a());
    let after = files(&world, &table).await;
    assert_eq!(
        after.iter().filter(|file| !before.contains(file)).count(),
        0,
        "no row was left to write"
    );
    assert_eq!(before.iter().filter(|file| !after.contains(file)).count(), 1);
    let [job] = &rounds[0].sent[..] else {
        panic!("{rounds:?}")
    };
    let report = world.job(job.as_str()).await;
    assert_eq!(
        (report.status, report.purge.clone()),
        (JobStatus::Finished, Some(of_a()))
    );
    assert_eq!((report.rows_read(), report.rows_written()), (3, 0));
    // What was there before is kept as history.
    let past = services
        .states
        .state_as_of(&table.id, AsOf::Transaction(purge.since()))
        .await
        .unwrap();
    assert_eq!(world.rows_of(&table, &past).await.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn rows_that_came_later_stay() {
    let world = World::new();
    let table = mixed(&world).await;
    let services = world.process();
    let mut purge = begun(&services, &table).await;
    world.fed(&table, "job-late", &rows("a", [2])).await;
    ended(&world, &mut purge).await;
    let mut left = without_a();
    left.extend(rows("a", [2]));
    left.sort();
    assert_eq!(world.rows(&table).await, left);
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_is_given_up_anywhere_can_begin_again() {
    for polls in 1.. {
        let world = World::new();
        let table = mixed(&world).await;
        let services = world.process();
        let done = polled(polls, async {
            let mut purge = begun(&services, &table).await;
            purge.round().await.unwrap();
        })
        .await
        .is_some();
        let rows_then = world.rows(&table).await;
        assert!(
            without_a().iter().all(|row| rows_then.contains(row)),
            "{polls} polls"
        );
        world.sleep(LEASE + CLOCK_SKEW_MARGIN).await;
        let other = world.process();
        let mut purge = begun(&other, &table).await;
        ended(&world, &mut purge).await;
        assert_eq!(world.rows(&table).await, without_a(), "{polls} polls");
        world.assert_sound(&table).await;
        if done {
            assert!(polls > 5, "{polls}");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_job_has_leased_is_purged_when_that_has_ended() {
    let world = World::new();
    let table = mixed(&world).await;
    let services = world.process();
    create(&services, &table, Policy::Full).await.unwrap();
    let mut purge = begun(&services, &table).await;
    let first = purge.round().await.unwrap();
    assert_eq!((first.sent.len(), first.busy), (0, 1));
    assert!(!first.is_last());
    world.settle().await;
    assert_eq!(world.rows(&table).await.len(), 7);
    let rounds = ended(&world, &mut purge).await;
    assert_eq!(rounds[0].sent.len(), 1);
    assert_eq!(world.rows(&table).await, without_a());
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_is_split_under_its_job_is_purged_by_the_next_round() {
    let world = World::new();
    let table = mixed(&world).await;
    let services = world.process();
    let mut purge = begun(&services, &table).await;
    let first = purge.round().await.unwrap();
    let written = world.gate(|step| matches!(step, EngineStep::Compacted(_)));
    tokio::select! {
        () = world.work(&services) => {}
        () = async {
            written.reached().await;
            world.split(&table, 4).await;
            written.open();
            world.settle().await;
        } => {}
    }
    assert_eq!(world.job(first.sent[0].as_str()).await.status, JobStatus::Failed);
    assert_eq!(world.rows(&table).await.len(), 7);
    let rounds = ended(&world, &mut purge).await;
    assert_eq!(rounds[0].sent.len(), 2, "a job for each new leaf");
    assert_eq!(world.rows(&table).await, without_a());
}

#[tokio::test(start_paused = true)]
async fn what_a_restore_brings_back_meanwhile_is_purged_too() {
    let world = World::new();
    let table = mixed(&world).await;
    let services = world.process();
    let past = world.state(&table).await;
    let mut purge = begun(&services, &table).await;
    purge.round().await.unwrap();
    world.settle().await;
    assert_eq!(world.rows(&table).await, without_a());
    let record = Record::TableRestored {
        of: past.transaction(),
        files: past.to_restore(),
    };
    world.commit(&table, "restore", record).await;
    assert_eq!(world.rows(&table).await.len(), 7);
    assert_eq!(ended(&world, &mut purge).await.len(), 1);
    assert_eq!(world.rows(&table).await, without_a());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_died_with_its_files_is_told() {
    let world = World::new();
    let table = mixed(&world).await;
    let services = world.process();
    let mut purge = begun(&services, &table).await;
    let first = purge.round().await.unwrap();
    let second = purge.round().await.unwrap();
    assert_eq!(second.stuck.into_iter().collect::<Vec<_>>(), first.sent);
    world.sleep(LEASE + CLOCK_SKEW_MARGIN).await;
    assert_eq!(purge.round().await.unwrap().sent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_predicate_that_means_nothing_is_refused_before_anything_is_done() {
    let world = World::new();
    let table = mixed(&world).await;
    let services = world.process();
    let before = world.state(&table).await.transaction();
    let error = Purge::begin(&services, &table, Predicate::new("colour = 'red'").unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(world.state(&table).await.transaction(), before);
    assert!(before > TransactionNumber(0));
}
