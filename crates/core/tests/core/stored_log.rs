//! The log as it lies in the stores: read whatever state it is in, and removed.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use dormouse_core::{
    error::ErrorKind,
    ids::TransactionNumber,
    ports::{Clock, Condition, ItemStore, Value},
    state::{
        Commit, CommitId, Record, StateStore, log,
        snapshot::{self, SnapshotEntry},
    },
    testing::seeded::SeededIds,
};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use crate::{
    faulty_objects::{FaultyObjects, Puts},
    samples::*,
    state_world::{World, apply, tick, truncate},
};

/// How many entries one query reads, and how many one transaction deletes.
const READ_PAGE: usize = 500;
const DELETE_PAGE: usize = 100;

/// A commit whose body is too large for an item.
fn large(job_id: &str) -> Commit {
    let parts: Vec<_> = (0..5000).map(|i| (i * 2, i * 2 + 1, 1)).collect();
    commit(job_id, added(job_id, &[file(job_id, &parts)]))
}

async fn bodies(world: &World) -> BTreeSet<Path> {
    let listed = world.objects.list(Some(&log::bodies_prefix(&table())));
    listed
        .map_ok(|object| object.location)
        .try_collect()
        .await
        .unwrap()
}

/// Entries up to this number, with the first and the last in objects.
async fn filled(world: &World, store: &StateStore, last: usize) {
    apply(store, large("first")).await;
    for i in 2..last - 1 {
        tick(world, store, &format!("t{i}")).await;
    }
    apply(store, large("last")).await;
    assert_eq!(world.entries().await.len(), last);
}

#[tokio::test(start_paused = true)]
async fn entries_are_read_with_what_is_wrong_with_each() {
    let (world, store) = World::with_table(1, &[]).await;
    let first = tick(&world, &store, "a").await;
    apply(&store, large("b")).await;
    tick(&world, &store, "c").await;
    let id = table();
    let after = |number, limit| store.stored_entries(&id, TransactionNumber(number), limit);
    let entries = after(0, 10).await.unwrap();
    let numbers: Vec<u64> = entries.iter().map(|entry| entry.number.0).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    for stored in &entries {
        let (entry, hash) = stored.entry.as_ref().unwrap();
        assert_eq!((entry.number, stored.hash), (stored.number, Some(*hash)));
    }
    let head = store.stored_head(&table()).await.unwrap().unwrap();
    assert_eq!((head.number.0, Some(head.hash)), (4, entries[3].hash));
    let two = after(1, 2).await.unwrap();
    assert_eq!(two.iter().map(|entry| entry.number.0).collect::<Vec<_>>(), [2, 3]);

    let body = bodies(&world).await.pop_first().unwrap();
    world.objects.delete(&body).await.unwrap();
    world
        .change_entry(first.0, |item| {
            item.attributes
                .insert("hash".to_owned(), Value::Text("no hash".to_owned()));
        })
        .await;
    let damaged = after(0, 10).await.unwrap();
    let kinds: Vec<_> = damaged
        .iter()
        .map(|entry| entry.entry.as_ref().err().map(|error| error.kind()))
        .collect();
    assert_eq!(
        kinds,
        [None, Some(ErrorKind::Corrupt), Some(ErrorKind::NotFound), None]
    );
    assert_eq!(damaged[1].hash, None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_no_damage() {
    let world = World::new(1);
    let objects = Arc::new(FaultyObjects::new(Puts::Done));
    let ids = Arc::new(SeededIds::new(1));
    let store = StateStore::new(world.items.clone(), objects.clone(), world.clock.clone(), ids);
    store
        .create(&table(), commit("create", created(&[])), vec![])
        .await
        .unwrap();
    apply(&store, large("b")).await;
    objects.silent.store(true, Relaxed);
    let error = store
        .stored_entries(&table(), TransactionNumber(0), 10)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn everything_before_the_cut_goes_with_its_bodies() {
    for entries in [DELETE_PAGE, DELETE_PAGE + 1, 2 * DELETE_PAGE + 7] {
        let (world, store) = World::with_table(1, &[]).await;
        filled(&world, &store, entries).await;
        assert_eq!(bodies(&world).await.len(), 2);
        assert_eq!(truncate(&world, &store).await, entries as u64);
        let left = world.entries().await.len();
        assert_eq!(
            left, 2,
            "of {entries} entries and one more, that one and the cut itself are left"
        );
        assert_eq!(bodies(&world).await.len(), 0);
    }
}

/// A cut that was recorded, and whose maker died before everything was removed.
#[tokio::test(start_paused = true)]
async fn a_cut_that_was_not_finished_is_finished_by_the_next() {
    let (world, store) = World::with_table(1, &[]).await;
    tick(&world, &store, "a").await;
    let first = world.entries().await.remove(0);
    assert!(truncate(&world, &store).await > 0);
    world.items.put(first, Condition::None).await.unwrap();
    let before = world.entries().await.len();
    let now = world.clock.now();
    assert_eq!(store.truncate(&table(), now).await.unwrap(), 1);
    assert_eq!(world.entries().await.len(), before - 1);
    let newest = store.snapshots(&table()).await.unwrap().remove(0);
    let read = store.snapshot_state(&table(), &newest).await.unwrap();
    assert_eq!(read.transaction(), newest.transaction);
}

#[tokio::test(start_paused = true)]
async fn of_two_makers_at_once_both_have_their_snapshot() {
    for seed in 0..20 {
        let (world, store) = World::with_table(seed, &[]).await;
        let last = tick(&world, &store, "a").await;
        let slow = |number| {
            let items = world.faulty(number + seed);
            items.write_faults.store(1, Relaxed);
            world.process_on(items, number)
        };
        let (one, other) = (slow(1), slow(2));
        let id = table();
        let (first, second) = futures::join!(one.snapshot(&id, 1), other.snapshot(&id, 1));
        for made in [first, second] {
            match made {
                Ok(made) => assert_eq!(made, Some(last), "seed {seed}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}"),
            }
        }
        assert_eq!(store.snapshots(&id).await.unwrap().len(), 1, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_objects_of_a_log_of_several_pages_are_all_found_and_all_goes() {
    for entries in [READ_PAGE, READ_PAGE + 1] {
        let (world, store) = World::with_table(1, &[]).await;
        filled(&world, &store, entries).await;
        let found: BTreeSet<_> = store.object_paths(&table()).await.unwrap().into_iter().collect();
        assert_eq!(found, bodies(&world).await);
        assert_eq!(found.len(), 2);
        let deleted = Commit::new(CommitId::new("delete"), Record::TableDeleted);
        apply(&store, deleted).await;
        store.remove(&table()).await.unwrap();
        assert_eq!(world.entries().await.len(), 0);
        assert_eq!(bodies(&world).await.len(), 0);
        assert!(store.stored_head(&table()).await.unwrap().is_none());
    }
}

/// Snapshots that were made so many minutes before the newest, which is of transaction 1000.
fn snapshots(minutes_before: &[i64]) -> Vec<SnapshotEntry> {
    let entry = |minutes: &i64| SnapshotEntry {
        transaction: TransactionNumber(1000 - minutes.unsigned_abs()),
        at: at(DAY - minutes * MINUTE),
        path: Path::from("snapshot"),
        bytes: 1,
        digest: String::new(),
    };
    minutes_before.iter().map(entry).collect()
}

#[test]
fn between_the_newest_snapshots_and_the_cut_one_an_hour_is_kept() {
    let all = snapshots(&[0, 6, 30, 66, 70, 125, 126, 300, 400]);
    let redundant = snapshot::redundant(&all, &all[7]);
    assert_eq!(redundant.cloned().collect::<Vec<_>>(), snapshots(&[30, 70, 125]));
}

#[test]
fn the_log_is_cut_behind_no_snapshot_that_a_reader_needs() {
    let all = snapshots(&[0, 6, 30, 66]);
    let bases = |keep_from_minutes: i64, pin: Option<u64>| {
        let pin = pin.map(TransactionNumber);
        let found = snapshot::bases(&all, at(DAY - keep_from_minutes * MINUTE), pin);
        found.cloned().collect::<Vec<_>>()
    };
    assert_eq!(bases(0, None), snapshots(&[6, 30, 66]));
    assert_eq!(bases(30, None), snapshots(&[30, 66]));
    assert_eq!(bases(31, None), snapshots(&[66]));
    assert_eq!(bases(0, Some(970)), snapshots(&[30, 66]));
    assert_eq!(bases(0, Some(969)), snapshots(&[66]));
}
