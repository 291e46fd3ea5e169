//! What a reader of a state finds while others write, and what it does not read again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use dormouse_core::{
    error::ErrorKind,
    ids::TableId,
    ports::{Clock, Condition, ItemStore},
    state::{AsOf, Commit, CommitId, Record, StateStore, TableState, table_state::TableStatus},
    testing::seeded::SeededIds,
};

use crate::{
    faulty_objects::{FaultyObjects, Puts},
    samples::*,
    state_world::{World, add, apply, tick, truncate},
};

#[tokio::test(start_paused = true)]
async fn a_table_that_never_was_or_is_no_more_is_not_live() {
    let (_, store) = World::with_table(1, &[]).await;
    let nobody = TableId::new("ffffffff").unwrap();
    assert_eq!(*store.state(&nobody).await.unwrap(), TableState::default());
    let absent = store.live_state(&nobody).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    let live = store.live_state(&table()).await.unwrap();
    assert_eq!(live.status(), TableStatus::Live);
    apply(&store, Commit::new(CommitId::new("delete"), Record::TableDeleted)).await;
    let deleted = store.live_state(&table()).await.unwrap_err();
    assert_eq!(deleted.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_table_is_found_as_it_was_and_not_as_it_is() {
    let (_, store) = World::with_table(1, &[]).await;
    let before = store.state_at(&table(), None).await.unwrap();
    assert_eq!(before.status(), TableStatus::Live);
    apply(&store, Commit::new(CommitId::new("delete"), Record::TableDeleted)).await;
    let now = store.state_at(&table(), None).await.unwrap_err();
    assert_eq!(now.kind(), ErrorKind::NotFound);
    let as_of = Some(AsOf::Transaction(before.transaction()));
    assert_eq!(store.state_at(&table(), as_of).await.unwrap(), before);
}

/// Who has read a state reads only what came after; who forgot it, or never knew it, reads all.
#[tokio::test(start_paused = true)]
async fn what_was_read_or_written_is_not_read_again() {
    let (world, writer) = World::with_table(1, &[]).await;
    let reader = world.process(1);
    reader.state(&table()).await.unwrap();
    let last = apply(&writer, add("a")).await;
    reader.state(&table()).await.unwrap();
    for entry in world.entries().await {
        if entry.key.sort != last.0.into() {
            world.items.delete(entry.key, Condition::None).await.unwrap();
        }
    }
    for store in [&reader, &writer] {
        assert_eq!(store.state(&table()).await.unwrap().transaction(), last);
    }
    for store in [&world.process(2), &writer] {
        store.forget(&table());
        let error = store.state(&table()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

/// Somebody commits between any two steps of a reader, and it finds a state all the same.
#[tokio::test(start_paused = true)]
async fn a_log_that_grows_while_it_is_read_is_not_damaged() {
    let (world, _) = World::with_table(1, &[]).await;
    let items = world.faulty(5);
    let writer = Arc::new(world.process(1));
    let commits = Arc::new(AtomicU64::new(0));
    let meanwhile = {
        let (writer, commits) = (writer.clone(), commits.clone());
        move || -> futures::future::BoxFuture<'static, ()> {
            let (writer, number) = (writer.clone(), commits.fetch_add(1, Relaxed));
            Box::pin(async move {
                apply(&writer, add(&format!("job-{number}"))).await;
            })
        }
    };
    *items.around_heads.lock().unwrap() = Some(Arc::new(Box::new(meanwhile)));
    let reader = world.process_on(items, 2);
    let state = reader.state(&table()).await.unwrap();
    assert!(commits.load(Relaxed) >= 2);
    assert!(state.transaction().0 > 1);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_not_answered_for_is_not_passed_over() {
    let world = World::new(1);
    let objects = Arc::new(FaultyObjects::new(Puts::Done));
    let process = |seed| {
        let ids = Arc::new(SeededIds::new(seed));
        StateStore::new(world.items.clone(), objects.clone(), world.clock.clone(), ids)
    };
    let store = process(1);
    store
        .create(&table(), commit("create", created(&[])), vec![])
        .await
        .unwrap();
    tick(&world, &store, "a").await;
    assert!(truncate(&world, &store).await > 0);
    let expected = store.state(&table()).await.unwrap();
    objects.silent.store(true, Relaxed);
    let fresh = process(2);
    let error = fresh.state(&table()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    objects.silent.store(false, Relaxed);
    assert_eq!(fresh.state(&table()).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_store_that_is_away_for_a_while() {
    for seed in 0..20 {
        let (world, _) = World::with_table(seed, &[]).await;
        let items = world.faulty(seed);
        items.read_faults.store(30, Relaxed);
        apply(&world.process_on(items, 3), add("job")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_longer_each_time_and_gives_up_in_the_end() {
    let (world, store) = World::with_table(1, &[]).await;
    let began = world.clock.now();
    apply(&store, add("alone")).await;
    assert_eq!(world.clock.now(), began, "nobody was in its way, and it waited");
    let items = world.faulty(1);
    *items.refusal.lock().unwrap() = Some(ErrorKind::Conflict);
    let writer = world.process_on(items.clone(), 3);
    let error = writer.commit(&table(), add("late")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let waited = world.clock.now().since(began).as_millis();
    let attempts = u128::from(items.writes.load(Relaxed));
    assert!(waited > attempts * 100, "{attempts} attempts within {waited} ms");
    assert!(waited < 600_000, "{waited} ms");
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_helps_is_told_at_once() {
    let (world, _) = World::with_table(1, &[]).await;
    let items = world.faulty(1);
    *items.refusal.lock().unwrap() = Some(ErrorKind::Corrupt);
    let writer = world.process_on(items.clone(), 3);
    let error = writer.commit(&table(), add("job")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(items.writes.load(Relaxed), 1);
}
