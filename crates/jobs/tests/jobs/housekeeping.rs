//! What schedules do: garbage, orphans, snapshots and tables that were deleted; each may stop anywhere and run again.

use std::time::Duration;

use dormouse_core::{
    ErrorKind,
    collections::Collection,
    ids::{FileName, PartitionId, TableName},
    ports::{Clock, Condition, Order, Range},
    state::{Record, log::bodies_prefix},
    tables::TableInfo,
    tracker::JobStatus,
};
use dormouse_jobs::{
    garbage::Override,
    schedule::{Schedule, collect_all},
    snapshots,
};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};
use tokio_util::sync::CancellationToken;

use crate::{
    faults::polled,
    harness::{World, rows},
};

const NO_HISTORY: (&str, &str) = ("table.state.history.retention.hours", "0");

async fn cleared(world: &World) -> TableInfo {
    let table = world.table_with("events", 2, &[NO_HISTORY]).await;
    world.fed(&table, "old-1", &rows("a", [1, 150])).await;
    world.fed(&table, "old-2", &rows("b", [2])).await;
    world.commit(&table, "clear", Record::TableCleared).await;
    world.fed(&table, "new", &rows("c", [3])).await;
    table
}

fn orphan(table: &TableInfo, number: u128) -> Path {
    FileName::new(&PartitionId::root(), uuid::Uuid::from_u128(number)).object_path(&table.id)
}

#[tokio::test(start_paused = true)]
async fn garbage_and_orphans_wait_for_their_time_and_live_files_stay() {
    let world = World::new();
    let table = cleared(&world).await;
    let objects = &world.services.data;
    objects
        .put(&orphan(&table, 1), "left behind".into())
        .await
        .unwrap();
    let collected = collect_all(&world.process(), Override::default()).await.unwrap()[0]
        .1
        .as_ref()
        .map(|collected| *collected)
        .unwrap();
    assert_eq!((collected.files, collected.waiting, collected.orphans), (0, 2, 0));
    world.sleep(Duration::from_secs(16 * 60)).await;
    let collected = collect_all(&world.process(), Override::default()).await.unwrap()[0]
        .1
        .as_ref()
        .map(|collected| *collected)
        .unwrap();
    assert_eq!((collected.files, collected.waiting, collected.orphans), (2, 0, 0));
    assert!(collected.bytes > 0);
    world.sleep(Duration::from_secs(24 * 3600)).await;
    objects
        .put(&orphan(&table, 2), "being written".into())
        .await
        .unwrap();
    let collected = collect_all(&world.process(), Override::default()).await.unwrap()[0]
        .1
        .as_ref()
        .map(|collected| *collected)
        .unwrap();
    assert_eq!((collected.files, collected.orphans), (1, 1));
    assert!(
        objects.head(&orphan(&table, 2)).await.is_ok(),
        "a young object may be a run's"
    );
    assert_eq!(world.rows(&table).await, rows("c", [3]));
}

#[tokio::test(start_paused = true)]
async fn history_keeps_files_that_no_leaf_refers_to() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.fed(&table, "j1", &rows("a", [1])).await;
    let then = world.state(&table).await;
    world.commit(&table, "clear", Record::TableCleared).await;
    world.sleep(Duration::from_secs(6 * 24 * 3600)).await;
    collect_all(
        &world.process(),
        Override {
            delay: Some(Duration::ZERO),
            orphan_age: None,
            offline: false,
        },
    )
    .await
    .unwrap();
    assert_eq!(world.rows_of(&table, &then).await, rows("a", [1]));
    world.sleep(Duration::from_secs(2 * 24 * 3600)).await;
    collect_all(&world.process(), Override::default()).await.unwrap();
    assert!(world.data_files(&table.id).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_collection_that_dies_anywhere_is_completed_by_the_next() {
    for polls in 1.. {
        let world = World::new();
        let table = cleared(&world).await;
        world
            .services
            .data
            .put(&orphan(&table, 1), "left behind".into())
            .await
            .unwrap();
        world.sleep(Duration::from_secs(25 * 3600)).await;
        let done = polled(polls, collect_all(&world.process(), Override::default())).await;
        assert_eq!(world.rows(&table).await, rows("c", [3]), "{polls} polls");
        collect_all(&world.process(), Override::default()).await.unwrap();
        world.assert_no_orphans(&table).await;
        assert_eq!(world.state(&table).await.garbage().count(), 0);
        assert_eq!(world.rows(&table).await, rows("c", [3]), "{polls} polls");
        if done.is_some() {
            assert!(polls > 10, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_die_anywhere_lose_nothing_and_the_log_is_cut_behind_them() {
    for polls in 1.. {
        let world = World::new();
        let properties = [NO_HISTORY, ("table.statestore.snapshot.min.transactions", "3")];
        let table = world.table_with("events", 2, &properties).await;
        let mut wanted = Vec::new();
        for job in 0..4 {
            world.fed(&table, &format!("j{job}"), &rows("a", [job])).await;
            wanted.extend(rows("a", [job]));
            snapshots::run(&world.process(), &table).await.unwrap();
        }
        for job in 4..8 {
            world.fed(&table, &format!("j{job}"), &rows("a", [job])).await;
            wanted.extend(rows("a", [job]));
        }
        world.sleep(Duration::from_secs(60)).await;
        let services = world.process();
        let done = polled(polls, snapshots::run(&services, &table)).await;
        let later = world.process();
        snapshots::run(&later, &table).await.unwrap();
        let fresh = world.process();
        let state = fresh.states.state(&table.id).await.unwrap();
        assert_eq!(*state, *world.state(&table).await, "{polls} polls");
        assert_eq!(world.rows_of(&table, &state).await, wanted, "{polls} polls");
        assert!(state.floor().0 > 1, "the log was never cut");
        if done.is_some() {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_was_cut_short_in_the_log_is_completed_and_holds_up_no_other_table() {
    let world = World::new();
    let table = world.table("events", 2).await;
    world.table("other", 1).await;
    world.fed(&table, "j1", &rows("a", [1, 150])).await;
    world.services.tables.delete(&table.name).await.unwrap();
    let items = &world.services.ports.items;
    let all = (Range::all(), 1000, Order::Ascending);
    let log = items
        .query(Collection::Transactions, table.id.as_str(), all.0, all.1, all.2)
        .await
        .unwrap();
    for entry in log {
        items.delete(entry.key, Condition::None).await.unwrap();
    }
    let turns = collect_all(&world.process(), Override::default()).await.unwrap();
    for (table, turn) in turns {
        turn.unwrap_or_else(|error| panic!("{table}: {}", error.report()));
    }
    assert!(world.services.tables.deleted().await.unwrap().is_empty());
    let left = world.services.data.list(Some(&Path::from(table.id.as_str())));
    assert_eq!(left.try_collect::<Vec<_>>().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_table_goes_entirely_although_each_collection_dies() {
    let mut polls = 1;
    let world = World::new();
    let table = world.table("events", 2).await;
    let other = world.table("other", 1).await;
    world.fed(&table, "j1", &rows("a", [1, 150])).await;
    world.fed(&other, "j2", &rows("b", [1])).await;
    snapshots::run(&world.process(), &table).await.unwrap();
    world.services.tables.delete(&table.name).await.unwrap();
    // A run that began before still writes.
    world
        .services
        .data
        .put(&orphan(&table, 1), "late".into())
        .await
        .unwrap();
    collect_all(&world.process(), Override::default()).await.unwrap();
    assert_eq!(world.services.tables.deleted().await.unwrap().len(), 1);
    world.sleep(Duration::from_secs(25 * 3600)).await;
    while !world.services.tables.deleted().await.unwrap().is_empty() {
        let services = world.process();
        polled(polls, collect_all(&services, Override::default())).await;
        world.sleep(Duration::from_secs(6 * 3600)).await;
        polls += 1;
        assert!(polls < 1000, "the table is never forgotten");
    }
    let left: Vec<_> = world
        .services
        .data
        .list(Some(&Path::from(table.id.as_str())))
        .try_collect()
        .await
        .unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(world.rows(&other).await, rows("b", [1]));
    // The name is free.
    let again = world.table("events", 1).await;
    assert!(world.rows(&again).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_written_after_a_purge_is_swept_and_nothing_else() {
    let world = World::new();
    let table = world.table("events", 2).await;
    let other = world.table("other", 1).await;
    world.fed(&other, "j2", &rows("b", [1])).await;
    world.services.tables.delete(&table.name).await.unwrap();
    world.sleep(Duration::from_secs(25 * 3600)).await;
    Schedule::Garbage.run_once(&world.process()).await.unwrap();
    assert!(world.services.tables.deleted().await.unwrap().is_empty());
    let (late, foreign) = (orphan(&table, 1), Path::from("00000000/data/of-nobody-we-know"));
    for path in [&late, &foreign] {
        world.services.data.put(path, "late".into()).await.unwrap();
    }
    Schedule::Garbage.run_once(&world.process()).await.unwrap();
    world.services.data.head(&late).await.unwrap();
    world.sleep(Duration::from_secs(25 * 3600)).await;
    let turns = collect_all(&world.process(), Override::default()).await.unwrap();
    let (_, turn) = turns.iter().find(|(id, _)| *id == table.id.as_str()).unwrap();
    assert_eq!(turn.as_ref().unwrap().orphans, 1);
    world.services.data.head(&late).await.unwrap_err();
    world.services.data.head(&foreign).await.unwrap();
    assert_eq!(world.rows(&other).await, rows("b", [1]));
}

#[tokio::test(start_paused = true)]
async fn collectors_that_meet_at_a_deleted_table_both_succeed() {
    for polls in 1.. {
        let world = World::new();
        let table = world.table("events", 2).await;
        world.fed(&table, "j1", &rows("a", [1, 150])).await;
        world.services.tables.delete(&table.name).await.unwrap();
        let late = orphan(&table, 1);
        world.services.data.put(&late, "late".into()).await.unwrap();
        world.sleep(Duration::from_secs(25 * 3600)).await;
        let (one, other) = (world.process(), world.process());
        let mut collecting = Box::pin(Schedule::Garbage.run_once(&one));
        let ended = polled(polls, &mut collecting).await;
        for _ in 0..2 {
            Schedule::Garbage.run_once(&other).await.unwrap();
            world.sleep(Duration::from_secs(25 * 3600)).await;
        }
        if let Some(ended) = ended {
            ended.unwrap();
            assert!(polls > 20, "{polls}");
            return;
        }
        let ended = collecting.await;
        ended.unwrap_or_else(|error| panic!("after {polls} polls: {}", error.report()));
        Schedule::Garbage.run_once(&other).await.unwrap();
        assert!(world.services.tables.deleted().await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn commit_requests_that_were_answered_are_swept_whatever_their_names() {
    let world = World::new();
    let table = world.table("events", 1).await;
    for number in [0x9999_9999_u128 << 96, 0xabcd_ef01 << 96] {
        let name = format!("{}/commits/{}.json", table.id, uuid::Uuid::from_u128(number));
        world
            .services
            .data
            .put(&Path::from(name), "{}".into())
            .await
            .unwrap();
    }
    world.sleep(Duration::from_secs(25 * 3600)).await;
    let collected = collect_all(&world.process(), Override::default()).await.unwrap();
    assert_eq!(collected[0].1.as_ref().unwrap().leftovers, 2);
}

#[tokio::test(start_paused = true)]
async fn the_body_of_an_entry_to_come_stays_and_that_of_a_lost_one_goes() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.fed(&table, "j1", &rows("a", [1])).await;
    let last = world.state(&table).await.transaction();
    let body = |number| bodies_prefix(&table.id).join(format!("{number}-{}.json", uuid::Uuid::nil()));
    let (lost, to_come) = (body(last), body(last.next()));
    for path in [&lost, &to_come] {
        world.services.data.put(path, "{}".into()).await.unwrap();
    }
    world.sleep(Duration::from_secs(25 * 3600)).await;
    collect_all(&world.process(), Override::default()).await.unwrap();
    assert_eq!(world.state(&table).await.transaction(), last);
    world.services.data.head(&lost).await.unwrap_err();
    world.services.data.head(&to_come).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn schedules_stop_at_once_and_outlive_failures() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.fed(&table, "j1", &rows("a", [1])).await;
    world.faults.unavailable("items query");
    let services = world.process();
    let stop = CancellationToken::new();
    let stopping = async {
        world.sleep(Duration::from_secs(3600)).await;
        world.faults.clear();
        world.sleep(Duration::from_secs(3600)).await;
        stop.cancel();
        world.clock.now()
    };
    let schedules = Schedule::ALL.map(|schedule| schedule.run(&services, &stop));
    let (_, stopped) = tokio::join!(futures::future::join_all(schedules), stopping);
    assert_eq!(world.clock.now(), stopped);
    assert_eq!(world.job("j1").await.status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_cannot_be_read_does_not_keep_others_from_their_turn() {
    let world = World::new();
    let broken = world.table("a-broken-one", 1).await;
    let table = cleared(&world).await;
    world.faults.set(move |call| {
        let reads = call.contains("transactions") && call.contains(broken.id.as_str());
        reads.then(|| dormouse_core::Error::unavailable("not today"))
    });
    world.sleep(Duration::from_secs(3600)).await;
    let turns = collect_all(&world.process(), Override::default()).await.unwrap();
    let error = turns[0].1.as_ref().unwrap_err();
    assert!(error.report().contains("not today"), "{error}");
    assert_eq!(world.state(&table).await.garbage().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_table_that_meet_are_made_one_after_the_other() {
    let world = World::new();
    let table = world.table("events", 1).await;
    world.table("other", 1).await;
    let name = |text: &str| TableName::new(text).unwrap();
    let changes = (0..5).map(|i| {
        let tables = world.process().tables;
        let table = table.name.clone();
        async move { tables.set_online(&table, i % 2 == 0).await.map(|_| ()) }
    });
    for changed in futures::future::join_all(changes).await {
        changed.unwrap();
    }
    let tables = &world.services.tables;
    let error = tables.rename(&table.name, &name("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let renamed = tables.rename(&table.name, &name("new")).await.unwrap();
    assert_eq!(tables.named(&name("new")).await.unwrap(), renamed);
    let error = tables.named(&table.name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}
