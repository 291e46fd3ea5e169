//! Queue `splitting`: large leaves become several, and no reader can tell.

use dormouse_core::{
    ports::QueueName,
    state::{KeptBecause, TableState},
    tables::TableInfo,
};
use dormouse_jobs::{
    schedule::Schedule,
    splitting::{self, Splitter, Splitting},
    worker,
};

use crate::{
    faults::polled,
    harness::{World, rows},
};

/// A table of two leaves, of which the second has 60 rows in three files.
async fn grown(world: &World, threshold: &str) -> TableInfo {
    let properties = [("table.partition.splitting.threshold", threshold)];
    let table = world.table_with("events", 2, &properties).await;
    for job in ["a", "b", "c"] {
        world.fed(&table, job, &rows(job, (100..160).step_by(3))).await;
    }
    table
}

fn rows_by_leaf(state: &TableState) -> Vec<u64> {
    state.leaves().map(|leaf| state.rows_at(&leaf.id)).collect()
}

async fn split_by_schedule(world: &World) {
    Schedule::Splitting.run_once(&world.process()).await.unwrap();
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_leaf_over_the_threshold_comes_apart_and_its_rows_stay() {
    let world = World::new();
    let table = grown(&world, "20").await;
    let before = world.rows(&table).await;
    split_by_schedule(&world).await;
    let state = world.state(&table).await;
    assert_eq!(state.leaf_count(), 5, "{:?}", rows_by_leaf(&state));
    assert_eq!(state.rows(), 60);
    assert_eq!(world.rows(&table).await, before);
    // Counted, each leaf fits; it is noted, and not looked at again.
    split_by_schedule(&world).await;
    let settled = world.state(&table).await;
    Schedule::Splitting.run_once(&world.process()).await.unwrap();
    assert_eq!(world.depth(QueueName::Splitting).await.visible, 0);
    assert_eq!(settled.leaf_count(), 5);
    for (job, rows) in [("d", rows("d", 130..150)), ("e", rows("e", 0..10))] {
        world.fed(&table, job, &rows).await;
    }
    split_by_schedule(&world).await;
    assert!(world.state(&table).await.leaf_count() > 5);
    assert_eq!(world.rows(&table).await.len(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_leaf_within_the_threshold_stays() {
    let world = World::new();
    let table = grown(&world, "60").await;
    split_by_schedule(&world).await;
    assert_eq!(world.state(&table).await.leaf_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leaf_of_one_key_is_kept_until_it_has_grown_twofold() {
    let world = World::new();
    let table = world
        .table_with("events", 2, &[("table.partition.splitting.threshold", "5")])
        .await;
    world.fed(&table, "a", &rows("a", [150; 8])).await;
    split_by_schedule(&world).await;
    let state = world.state(&table).await;
    let leaf = state.leaves().last().unwrap();
    let kept = state.kept(&leaf.id).unwrap();
    assert!(matches!(kept.because, KeptBecause::OneKey { .. }), "{kept:?}");
    let looks = async || {
        Schedule::Splitting.run_once(&world.process()).await.unwrap();
        let depth = world.depth(QueueName::Splitting).await.visible;
        world.settle().await;
        depth
    };
    assert_eq!(looks().await, 0);
    world.fed(&table, "b", &rows("b", [150; 7])).await;
    assert_eq!(looks().await, 0);
    world.fed(&table, "c", &rows("c", [150, 151])).await;
    assert_eq!(looks().await, 1);
    assert_eq!(world.state(&table).await.leaf_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_splitter_that_dies_anywhere_leaves_a_leaf_that_another_splits() {
    for polls in 1.. {
        let world = World::new();
        let table = grown(&world, "20").await;
        let before = world.rows(&table).await;
        Schedule::Splitting.run_once(&world.process()).await.unwrap();
        let services = world.process();
        let splitter = Splitter::new(services.clone());
        let done = polled(polls, worker::run_once(&services, &splitter))
            .await
            .is_some();
        world.settle().await;
        split_by_schedule(&world).await;
        assert_eq!(world.state(&table).await.leaf_count(), 5, "{polls} polls");
        assert_eq!(world.rows(&table).await, before, "{polls} polls");
        if done {
            assert!(polls > 5, "{polls}");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_splitters_one_splits() {
    let world = World::new();
    let table = grown(&world, "20").await;
    let leaf = world.state(&table).await.leaves().last().unwrap().id;
    let (one, other) = (world.process(), world.process());
    let (first, second) = tokio::join!(
        splitting::split(&one, &table, &leaf),
        splitting::split(&other, &table, &leaf)
    );
    let mut results = [first.unwrap(), second.unwrap()];
    results.sort_by_key(|result| *result == Splitting::Passed);
    assert_eq!(results, [Splitting::Split { leaves: 4 }, Splitting::Passed]);
    assert_eq!(world.state(&table).await.leaf_count(), 5);
    let again = splitting::split(&one, &table, &leaf).await.unwrap();
    assert_eq!(again, Splitting::Passed);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_late_or_wrong_change_nothing_and_go() {
    let world = World::new();
    let table = grown(&world, "20").await;
    for body in [
        "{ no message".to_owned(),
        r#"{"tableId":"0badf00d","partitionId":"p"}"#.to_owned(),
        format!(r#"{{"tableId":"{}","partitionId":"root"}}"#, table.id),
        format!(r#"{{"tableId":"{}","partitionId":"nowhere"}}"#, table.id),
    ] {
        world.send(QueueName::Splitting, body).await;
    }
    world.settle().await;
    let depth = world.depth(QueueName::Splitting).await;
    assert_eq!((depth.visible, depth.hidden, depth.dead), (0, 0, 0));
    assert_eq!(world.state(&table).await.leaf_count(), 2);
}
