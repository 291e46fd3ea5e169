//! The index of tables, alone and over stores that fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use dormouse_core::{
    error::{ErrorKind, Result},
    ids::TableName,
    ports::{Clock, ItemStore},
    state::{StateStore, table_state::TableStatus},
    tables::{TableInfo, TablePhase, Tables},
    testing::{
        memory::MemoryItemStore,
        seeded::{PausedClock, SeededIds},
    },
};
use futures::future::join;
use object_store::memory::InMemory;

use crate::{
    faulty_items::FaultyItems,
    samples::{START, schema, tree},
};

/// How many items a page of the index has.
const PAGE: usize = 500;

struct World {
    items: Arc<MemoryItemStore>,
    clock: Arc<PausedClock>,
    tables: Tables,
    states: Arc<StateStore>,
}

fn tables_on(items: Arc<dyn ItemStore>, clock: &Arc<PausedClock>, seed: u64) -> (Tables, Arc<StateStore>) {
    let ids = Arc::new(SeededIds::new(seed));
    let objects = Arc::new(InMemory::new());
    let states = Arc::new(StateStore::new(
        items.clone(),
        objects,
        clock.clone(),
        ids.clone(),
    ));
    (Tables::new(items, states.clone(), clock.clone(), ids), states)
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(PausedClock::new(START));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let (tables, states) = tables_on(items.clone(), &clock, 1);
        Self {
            items,
            clock,
            tables,
            states,
        }
    }

    /// The index as a process sees it of whose writes and reads so many in a hundred fail.
    fn faulty(&self, seed: u64, writes: u64, reads: u64) -> Tables {
        let items = FaultyItems::new(self.items.clone(), self.clock.clone(), seed);
        items.write_faults.store(writes, Relaxed);
        items.read_faults.store(reads, Relaxed);
        tables_on(Arc::new(items), &self.clock, seed + 1000).0
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.tables.list().await.unwrap();
        listed.iter().map(|table| table.name.to_string()).collect()
    }
}

fn name(text: &str) -> TableName {
    TableName::new(text).unwrap()
}

async fn create(tables: &Tables, text: &str) -> Result<TableInfo> {
    let properties = BTreeMap::from([("table.gc.delay.minutes".to_owned(), "7".to_owned())]);
    tables.create(name(text), schema(), tree(&[10]), properties).await
}

#[tokio::test(start_paused = true)]
async fn a_table_is_found_by_name_and_id_as_it_was_made() {
    let World { tables, states, .. } = World::new();
    let made = create(&tables, "events").await.unwrap();
    assert_eq!((made.phase, made.created), (TablePhase::Online, START));
    assert_eq!(made.properties["table.gc.delay.minutes"], "7");
    assert_eq!(tables.by_name(&made.name).await.unwrap(), Some(made.clone()));
    assert_eq!(tables.by_id(&made.id).await.unwrap(), Some(made.clone()));
    assert_eq!(tables.named(&made.name).await.unwrap(), made);
    assert_eq!(states.state(&made.id).await.unwrap().leaf_count(), 2);
    let again = create(&tables, "events").await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(tables.list().await.unwrap(), [made]);
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_none_is_refused_and_nothing_is_made() {
    let world = World::new();
    let mut partitions = tree(&[10]);
    partitions.pop();
    let made = world
        .tables
        .create(name("events"), schema(), partitions, BTreeMap::new());
    assert_eq!(made.await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(world.names().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn who_was_told_nothing_is_not_told_that_its_own_table_is_in_the_way() {
    let mut found = 0;
    for seed in 0..300 {
        let world = World::new();
        match create(&world.faulty(seed, 60, 40), "events").await {
            Ok(made) => assert_eq!(world.tables.named(&made.name).await.unwrap(), made),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}: {error}");
                found += world.names().await.len();
            }
        }
    }
    assert!(found > 0, "an answer was never lost for good");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_there_is_answered_with_the_nearest() {
    let world = World::new();
    create(&world.tables, "events").await.unwrap();
    create(&world.tables, "evening").await.unwrap();
    let hint = async |text| world.tables.named(&name(text)).await.unwrap_err().to_string();
    assert_eq!(
        hint("evnets").await,
        "table \"evnets\" does not exist; did you mean \"events\"?"
    );
    assert_eq!(
        hint("eve").await,
        "table \"eve\" does not exist; did you mean \"events\"?"
    );
    assert_eq!(hint("e").await, "table \"e\" does not exist");
}

#[tokio::test(start_paused = true)]
async fn more_tables_than_a_page_holds_are_listed() {
    for count in [PAGE, PAGE + 1] {
        let world = World::new();
        let mut names = Vec::new();
        for i in 0..count {
            names.push(format!("table-{i:04}"));
            create(&world.tables, &names[i]).await.unwrap();
        }
        assert_eq!(world.names().await, names);
        let mut ids = Vec::new();
        for text in &names {
            ids.push(world.tables.delete(&name(text)).await.unwrap().id);
        }
        ids.sort();
        assert_eq!(world.tables.deleted().await.unwrap(), ids);
        assert_eq!(world.names().await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_renamed_table_is_the_same_table() {
    let World { tables, .. } = World::new();
    let made = create(&tables, "events").await.unwrap();
    create(&tables, "visits").await.unwrap();
    let taken = tables.rename(&made.name, &name("visits")).await.unwrap_err();
    assert_eq!(
        (taken.kind(), taken.to_string().as_str()),
        (ErrorKind::AlreadyExists, "table \"visits\" exists already")
    );
    assert_eq!(tables.rename(&made.name, &made.name).await.unwrap(), made);
    let renamed = tables.rename(&made.name, &name("clicks")).await.unwrap();
    assert_eq!(
        (renamed.id.clone(), renamed.name.clone()),
        (made.id, name("clicks"))
    );
    assert_eq!(tables.named(&name("clicks")).await.unwrap(), renamed);
    assert_eq!(tables.by_name(&made.name).await.unwrap(), None);
    create(&tables, "events").await.unwrap();
}

/// A table, and two processes over it whose writes take their time.
async fn with_two_processes(seed: u64) -> (World, TableInfo, Tables, Tables) {
    let world = World::new();
    let made = create(&world.tables, "events").await.unwrap();
    let (one, other) = (world.faulty(seed, 10, 0), world.faulty(seed + 500, 10, 0));
    (world, made, one, other)
}

#[tokio::test(start_paused = true)]
async fn changes_that_meet_both_happen() {
    let mut both = 0;
    for seed in 0..50 {
        let (world, made, one, other) = with_two_processes(seed).await;
        let clicks = name("clicks");
        let (offline, renamed) = join(
            one.set_online(&made.name, false),
            other.rename(&made.name, &clicks),
        )
        .await;
        let found = world.tables.by_id(&made.id).await.unwrap().unwrap();
        if offline.is_ok() {
            assert_eq!(found.phase, TablePhase::Offline, "seed {seed}");
        }
        if renamed.is_ok() {
            assert_eq!(found.name, clicks, "seed {seed}");
        }
        both += u32::from(offline.is_ok() && renamed.is_ok());
        let online = world.tables.set_online(&found.name, true).await.unwrap();
        assert_eq!(online.phase, TablePhase::Online);
        assert_eq!(world.tables.by_id(&made.id).await.unwrap(), Some(online));
    }
    assert!(both > 20, "{both}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_table_frees_its_name_and_is_known_until_it_is_purged_and_after() {
    let World { tables, states, .. } = World::new();
    let made = create(&tables, "events").await.unwrap();
    assert!(!tables.is_purged(&made.id).await.unwrap());
    tables.delete(&made.name).await.unwrap();
    assert_eq!(
        states.state(&made.id).await.unwrap().status(),
        TableStatus::Deleted
    );
    assert_eq!(tables.by_name(&made.name).await.unwrap(), None);
    assert_eq!(tables.by_id(&made.id).await.unwrap(), None);
    assert_eq!(tables.deleted().await.unwrap(), std::slice::from_ref(&made.id));
    assert!(!tables.is_purged(&made.id).await.unwrap());
    let again = tables.delete(&made.name).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    let next = create(&tables, "events").await.unwrap();
    assert_ne!(next.id, made.id);
    tables.forget_deleted(&made.id).await.unwrap();
    assert_eq!(tables.deleted().await.unwrap(), []);
    assert!(tables.is_purged(&made.id).await.unwrap());
    assert!(!tables.is_purged(&next.id).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_deletes_at_the_same_time_deletes_too() {
    let mut both = 0;
    for seed in 0..50 {
        let (_, made, one, other) = with_two_processes(seed).await;
        let (first, second) = join(one.delete(&made.name), other.delete(&made.name)).await;
        both += u32::from(first.is_ok() && second.is_ok());
        for error in [first, second].into_iter().filter_map(Result::err) {
            // Who comes late finds no table of the name; who has begun ends well.
            let late = error.to_string() == "table \"events\" does not exist";
            assert!(
                late || error.kind() == ErrorKind::Unavailable,
                "seed {seed}: {error}"
            );
        }
    }
    assert!(both > 20, "{both}");
}

#[tokio::test(start_paused = true)]
async fn over_a_faulty_store_what_is_answered_is_what_is_stored() {
    let (mut made, mut failed, mut deleted) = (0, 0, 0);
    for seed in 0..200 {
        let world = World::new();
        let faulty = world.faulty(seed, 40, 0);
        let info = match create(&faulty, "events").await {
            Ok(info) => {
                made += 1;
                assert_eq!(world.tables.named(&info.name).await.unwrap(), info, "seed {seed}");
                info
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}: {error}");
                assert_eq!(world.names().await, [""; 0], "seed {seed}");
                failed += 1;
                create(&world.tables, "events").await.unwrap()
            }
        };
        let other = create(&faulty, "events").await.unwrap_err();
        assert!(
            matches!(other.kind(), ErrorKind::AlreadyExists),
            "seed {seed}: {other}"
        );
        match faulty.rename(&info.name, &name("clicks")).await {
            Ok(renamed) => assert_eq!(world.tables.named(&renamed.name).await.unwrap(), renamed),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}: {error}");
                assert_eq!(world.names().await, ["events"], "seed {seed}");
            }
        }
        let current = world.tables.by_id(&info.id).await.unwrap().unwrap();
        match faulty.delete(&current.name).await {
            Ok(_) => {
                deleted += 1;
                assert_eq!(world.names().await, [""; 0], "seed {seed}");
                assert_eq!(world.tables.deleted().await.unwrap(), [info.id], "seed {seed}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}: {error}"),
        }
    }
    assert!(
        made > 50 && failed > 5 && deleted > 50,
        "{made} {failed} {deleted}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_gives_up_when_others_always_come_first() {
    let world = World::new();
    let made = create(&world.tables, "events").await.unwrap();
    let items = Arc::new(FaultyItems::new(world.items.clone(), world.clock.clone(), 3));
    *items.refusal.lock().unwrap() = Some(ErrorKind::Conflict);
    let (tables, _) = tables_on(items.clone(), &world.clock, 9);
    let began = world.clock.now();
    world.tables.set_online(&made.name, true).await.unwrap();
    assert_eq!(world.clock.now(), began, "nobody else was there, and it waited");
    let error = tables.set_online(&made.name, false).await.unwrap_err();
    let waited = world.clock.now().since(began).as_millis();
    assert!((500..11_000).contains(&waited), "{waited} ms");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("being changed by others"), "{error}");
    assert_eq!(items.writes.load(Relaxed), 10);
}
