//! The commit loop, snapshots and truncation over stores that fail.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use dormouse_core::{
    collections::Collection,
    error::ErrorKind,
    ids::TransactionNumber,
    ports::{Clock, Condition, Item, ItemKey, ItemStore, Value},
    state::{
        AsOf, Commit, Outcome, Record, StateStore, TableState, invariants, log,
        log::{Entry, MAX_INLINE_BYTES},
        snapshot,
    },
    testing::seeded::SeededIds,
    time::Timestamp,
};
use futures::future::join_all;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use crate::{
    faulty_items::FaultyItems,
    faulty_objects::{FaultyObjects, Puts},
    samples::*,
    state_world::{World, add, apply, tick, truncate},
};

/// That the log holds each of these jobs once, and that every reader finds them.
async fn assert_each_once(world: &World, jobs: &BTreeSet<String>) {
    let mut requests = BTreeSet::new();
    let mut committed = BTreeSet::new();
    for entry in world.decoded().await {
        for one in entry.commits {
            assert!(
                requests.insert(one.id.to_string()),
                "{} is in the log twice",
                one.id
            );
            if let Record::FilesAdded { job, .. } = one.record {
                committed.insert(job.to_string());
            }
        }
    }
    let state = world.process(9999).state(&table()).await.unwrap();
    assert_eq!(invariants::check(&state), Vec::<invariants::Violation>::new());
    let ledger: BTreeSet<_> = state.ledger().map(|(job, _)| job.to_string()).collect();
    assert_eq!(ledger, *jobs);
    assert_eq!(state.rows(), jobs.len() as u64);
    if state.floor() == TransactionNumber(1) {
        assert_eq!(committed, *jobs);
    }
}

/// Commits until an answer comes, as a worker does whose message comes again.
async fn persist(store: &StateStore, one: Commit) -> Outcome {
    loop {
        match store.commit(&table(), one.clone()).await {
            Ok(committed) => {
                if let Outcome::Applied(number) | Outcome::AlreadyDone(number) = committed.outcome {
                    assert!(number <= committed.state.transaction());
                }
                return committed.outcome;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report()),
        }
    }
}

fn run_paused<F: Future>(future: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { future().await })
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default);
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_time: 15_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn committers_over_faulty_stores_commit_each_job_once(
        seed in any::<u64>(), writes in 0..60_u64, reads in 0..20_u64, processes in 2..4_u64, jobs in 1..12_u64,
    ) {
        run_paused(async || {
            let (world, _) = World::with_table(seed, &[]).await;
            let mut stores = Vec::new();
            for number in 1..=processes {
                let items = world.faulty(number);
                items.write_faults.store(writes, Relaxed);
                items.read_faults.store(reads, Relaxed);
                stores.push(world.process_on(items, number));
            }
            let dice = SeededIds::new(seed);
            let mut tasks = Vec::new();
            for number in 0..jobs {
                // Some jobs are run by two processes at once, as two runs with files of their own.
                for attempt in 0..=u64::from(number % 3 == 0) {
                    let store = &stores[((number + attempt) % processes) as usize];
                    let wait = dormouse_core::ports::Ids::jitter(&dice, Duration::from_millis(60));
                    let clock = &world.clock;
                    tasks.push(async move {
                        clock.sleep(wait).await;
                        let record = Record::FilesAdded {
                            job: job(&format!("j{number}")),
                            run: run(&format!("r{attempt}")),
                            issued: START,
                            files: vec![file(&format!("{number}-{attempt}"), &[(1, 2, 1)])],
                        };
                        persist(store, commit(&format!("j{number}/r{attempt}"), record)).await
                    });
                }
            }
            let outcomes = join_all(tasks).await;
            assert!(outcomes.iter().all(|outcome| !matches!(outcome, Outcome::Refused(_))), "{outcomes:?}");
            let applied = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Applied(_))).count();
            assert_eq!(applied as u64, jobs, "a run was told that it committed when another did");
            assert_each_once(&world, &(0..jobs).map(|number| format!("j{number}")).collect()).await;
        });
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn a_snapshot_and_the_tail_are_the_whole_log(
        points in prop::collection::vec(any::<u8>(), 1..40), large in any::<bool>(),
    ) {
        run_paused(async || {
            let (world, store) = World::with_table(1, &[10]).await;
            let mut whole = vec![store.state(&table()).await.unwrap()];
            for (i, point) in points.iter().enumerate() {
                let text = format!("f{i}");
                let record = match point % 8 {
                    0 => Record::PartitionSplit(split(
                        whole[i].leaves().next().unwrap().id.as_str(), -1 - i32::try_from(i).unwrap(),
                        &format!("l{i}"), &format!("r{i}"),
                    )),
                    1 => pinned(&text, 1, at(DAY)),
                    2 => Record::TableCleared,
                    3 => marked(&[&format!("f{}", point % 40), "unknown"]),
                    4 => assigned(&text, "p2", &[&format!("f{}", i.saturating_sub(1))], at(DAY)),
                    5 => compacted(&format!("f{}", i.saturating_sub(1)), "p2", &[&format!("f{}", i.saturating_sub(2))], None),
                    6 => deleted(&["unknown"]),
                    _ => added(&text, &[file(&text, &[(-50, 2, 3), (5, 20, 4)])]),
                };
                store.commit(&table(), commit(&text, record)).await.unwrap();
                world.clock.sleep(Duration::from_secs(if large { 86_400 } else { 1 })).await;
                if point % 5 == 0 {
                    store.snapshot(&table(), 1).await.unwrap();
                }
                whole.push(store.state(&table()).await.unwrap());
            }
            let mut folded = TableState::default();
            for item in world.entries().await {
                let (entry, hash) = Entry::decode(item.text("body").unwrap().as_bytes()).unwrap();
                folded.follow(&table(), &entry, hash).unwrap();
            }
            let fresh = world.process(1).state(&table()).await.unwrap();
            assert_eq!(*fresh, folded);
            assert_eq!(**whole.last().unwrap(), folded);
            let bytes = snapshot::encode(&table(), &folded).unwrap();
            assert_eq!(snapshot::decode(&table(), &bytes).unwrap(), folded);
            for state in &whole {
                let as_of = AsOf::Transaction(state.transaction());
                if state.transaction() >= fresh.oldest_readable() {
                    assert_eq!(world.process(2).state_as_of(&table(), as_of).await.unwrap(), *state);
                }
            }
        });
    }
}

#[test]
fn sixteen_committers_at_once_commit_each_job_once() {
    run_paused(async || {
        let (world, _) = World::with_table(3, &[]).await;
        let stores: Vec<_> = (1..=16)
            .map(|number| (number, world.process_on(slow(&world, number), number)))
            .collect();
        let mut tasks = Vec::new();
        let mut jobs = BTreeSet::new();

        for (number, store) in &stores {
            for i in 0..5 {
                let text = format!("p{number}-{i}");
                jobs.insert(text.clone());
                tasks.push(persist(store, add(&text)));
            }
        }
        let outcomes = join_all(tasks).await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Applied(_)))
        );
        assert_each_once(&world, &jobs).await;
    });
}

/// A store without faults that takes its time.
fn slow(world: &World, number: u64) -> Arc<FaultyItems> {
    let items = world.faulty(number);
    items.write_faults.store(1, Relaxed);
    items
}

#[tokio::test(start_paused = true)]
async fn commits_that_wait_together_are_one_entry() {
    let (world, store) = World::with_table(4, &[]).await;
    let commits: Vec<_> = (0..300).map(|i| add(&format!("j{i}"))).collect();
    let committed = store.commit_all(&table(), commits).await.unwrap();
    assert!(
        committed
            .iter()
            .all(|one| one.outcome == Outcome::Applied(TransactionNumber(2)))
    );
    assert_eq!(world.entries().await.len(), 2);

    let items = world.faulty(1);
    items.closed.store(true, Relaxed);
    let other = world.process_on(items.clone(), 1);
    let table = table();
    let waiting = join_all((0..50).map(|i| other.commit(&table, add(&format!("k{i}")))));
    let open = async {
        items.arrived.notified().await;
        items.closed.store(false, Relaxed);
        items.gate.notify_one();
    };
    tokio::join!(waiting, open);
    assert_eq!(
        world.entries().await.len(),
        4,
        "one went ahead, and all others together"
    );
    let many: Vec<_> = (0..2500)
        .map(|i| commit(&format!("m{i}"), added(&format!("m{i}"), &[])))
        .collect();
    store.commit_all(&table, many).await.unwrap();
    assert_eq!(world.entries().await.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_fails_none_of_its_neighbours() {
    let (world, store) = World::with_table(5, &[]).await;
    let bad = commit("bad", Record::PartitionSplit(split("nowhere", 5, "l", "r")));
    let invalid = commit("invalid", added("invalid", &[file("x", &[])]));
    let commits = vec![add("a"), bad, add("b"), invalid, add("a2")];
    let outcomes: Vec<_> = store
        .commit_all(&table(), commits)
        .await
        .unwrap()
        .into_iter()
        .map(|one| one.outcome)
        .collect();
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Refused(refusal) => Some(refusal.kind),
            _ => None,
        })
        .collect();
    assert_eq!(
        kinds,
        [
            None,
            Some(ErrorKind::Conflict),
            None,
            Some(ErrorKind::Invalid),
            None
        ]
    );
    assert_eq!(
        world.decoded().await[1].commits.len(),
        3,
        "a refused commit was written"
    );
    assert_each_once(&world, &["a", "a2", "b"].map(str::to_owned).into()).await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_effect_writes_nothing_and_names_a_transaction_that_is_there() {
    let (world, store) = World::with_table(6, &[]).await;
    let committed = store
        .commit(&table(), commit("release", released("nobody")))
        .await
        .unwrap();
    assert_eq!(committed.outcome, Outcome::Applied(TransactionNumber(1)));
    assert_eq!(committed.state.transaction(), TransactionNumber(1));
    assert_eq!(world.entries().await.len(), 1);
}

#[test]
fn commits_that_are_dropped_half_way_neither_lose_nor_double_others() {
    for seed in 0..60 {
        run_paused(async || {
            let (world, _) = World::with_table(seed, &[]).await;
            let items = world.faulty(1);
            items.write_faults.store(20, Relaxed);
            let store = world.process_on(items, 1);
            let dice = SeededIds::new(seed);
            let mut tasks = Vec::new();
            for i in 0..12 {
                let patience = dormouse_core::ports::Ids::jitter(&dice, Duration::from_millis(150));
                let (store, clock) = (&store, &world.clock);
                tasks.push(async move {
                    let text = format!("j{i}");
                    let commit = persist(store, add(&text));
                    if i % 2 == 0 {
                        return Some((text, commit.await));
                    }
                    tokio::select! {
                        outcome = commit => Some((text, outcome)),
                        () = clock.sleep(patience) => None,
                    }
                });
            }
            let answered: Vec<_> = join_all(tasks).await.into_iter().flatten().collect();
            assert!(answered.len() >= 6);
            let state = world.process(2).state(&table()).await.unwrap();
            let ledger: BTreeSet<_> = state.ledger().map(|(job, _)| job.to_string()).collect();
            for (text, outcome) in answered {
                assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
                assert!(ledger.contains(&text), "acknowledged {text} is lost");
            }
            assert_each_once(&world, &ledger).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_writer_cannot_bring_back_a_number_that_was_cut() {
    let (world, store) = World::with_table(8, &[]).await;
    let items = world.faulty(1);
    let stale = world.process_on(items.clone(), 1);
    apply(&stale, add("first")).await;
    items.closed.store(true, Relaxed);
    let table = table();
    let late = stale.commit(&table, add("late"));
    let meanwhile = async {
        items.arrived.notified().await;
        apply(&store, add("acknowledged")).await;
        for i in 0..4 {
            tick(&world, &store, &format!("tick-{i}")).await;
        }
        assert!(truncate(&world, &store).await >= 3);
        assert!(
            world
                .entries()
                .await
                .iter()
                .all(|item| item.key.sort > 4_u64.into())
        );
        items.closed.store(false, Relaxed);
        items.gate.notify_one();
    };
    let (late, ()) = tokio::join!(late, meanwhile);
    let committed = late.unwrap();
    assert!(matches!(committed.outcome, Outcome::Applied(number) if number.0 > 6));
    assert_each_once(
        &world,
        &["first", "acknowledged", "late"].map(str::to_owned).into(),
    )
    .await;
    assert_eq!(
        stale.state(&table).await.unwrap(),
        store.state(&table).await.unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_overtaken_by_truncation_starts_again() {
    let (world, store) = World::with_table(9, &[]).await;
    let reader = world.process(1);
    reader.state(&table()).await.unwrap();
    for i in 0..5 {
        apply(&store, add(&format!("j{i}"))).await;
    }
    assert!(truncate(&world, &store).await > 1);
    assert_eq!(
        reader.state(&table()).await.unwrap(),
        store.state(&table()).await.unwrap()
    );
    apply(&reader, add("after")).await;
    assert_eq!(store.state(&table()).await.unwrap().rows(), 6);
    assert_eq!(store.truncate(&table(), world.clock.now()).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn two_makers_of_one_snapshot_leave_one_that_loads() {
    let (world, store) = World::with_table(10, &[]).await;
    apply(&store, add("a")).await;
    let other = world.process(1);
    let table = table();
    let (one, two) = tokio::join!(store.snapshot(&table, 1), other.snapshot(&table, 1));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(store.snapshots(&table).await.unwrap().len(), 1);
    assert_eq!(
        store.snapshot(&table, 1).await.unwrap(),
        Some(TransactionNumber(2))
    );
    assert_eq!(
        store.snapshot(&table, 5).await.unwrap(),
        Some(TransactionNumber(2))
    );
    assert_eq!(
        *world.process(2).state(&table).await.unwrap(),
        *store.state(&table).await.unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_gives_way_to_the_one_before_it() {
    let (world, store) = World::with_table(11, &[]).await;
    apply(&store, add("a")).await;
    truncate(&world, &store).await;
    let expected = store.state(&table()).await.unwrap();
    let snapshots = store.snapshots(&table()).await.unwrap();
    assert_eq!(snapshots.len(), 2);
    let whole = world
        .objects
        .get(&snapshots[0].path)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    for i in [0, 9, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.to_vec();
        damaged[i] ^= 1;
        world
            .objects
            .put(&snapshots[0].path, damaged.into())
            .await
            .unwrap();
        assert_eq!(world.process(1).state(&table()).await.unwrap(), expected);
    }
    world.objects.delete(&snapshots[0].path).await.unwrap();
    assert_eq!(world.process(1).state(&table()).await.unwrap(), expected);
    world
        .objects
        .put(&snapshots[1].path, vec![1, 2, 3].into())
        .await
        .unwrap();
    let error = world.process(1).state(&table()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_does_not_keep_the_log_from_being_cut() {
    let (world, store) = World::with_table(11, &[]).await;
    for name in ["first", "second", "third"] {
        tick(&world, &store, name).await;
        store.snapshot(&table(), 1).await.unwrap();
    }
    let snapshots = store.snapshots(&table()).await.unwrap();
    let damaged = &snapshots[1];
    world.objects.put(&damaged.path, vec![1].into()).await.unwrap();
    let cut = store.truncate(&table(), world.clock.now()).await.unwrap();
    assert!(cut > 0);
    let floor = store.state(&table()).await.unwrap().floor();
    assert_eq!(
        floor,
        snapshots[2].transaction.next(),
        "behind the one that can be read"
    );
    let expected = store.state(&table()).await.unwrap();
    assert_eq!(world.process(1).state(&table()).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_goes_back_to_its_beginning_needs_no_snapshot() {
    let (world, store) = World::with_table(12, &[]).await;
    apply(&store, add("a")).await;
    store.snapshot(&table(), 1).await.unwrap();
    let path = store.snapshots(&table()).await.unwrap()[0].path.clone();
    world.objects.put(&path, vec![0].into()).await.unwrap();
    assert_eq!(world.process(1).state(&table()).await.unwrap().rows(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_missing_damaged_or_out_of_order_is_an_error() {
    for case in 0..7 {
        let (world, store) = World::with_table(13, &[]).await;
        let reader = world.process(1);
        for i in 0..3 {
            apply(&store, add(&format!("j{i}"))).await;
        }
        reader.state(&table()).await.unwrap();
        for i in 3..6 {
            apply(&store, add(&format!("j{i}"))).await;
        }
        let attribute = |item: &Item, name: &str| item.attributes[name].clone();
        let entries = world.entries().await;
        match case {
            // Missing in the middle, and at the end.
            0 => world
                .items
                .delete(entries[5].key.clone(), Condition::None)
                .await
                .unwrap(),
            1 => world
                .items
                .delete(entries[6].key.clone(), Condition::None)
                .await
                .unwrap(),
            2 => {
                world
                    .change_entry(6, |item| {
                        let body = item.text("body").unwrap().replace("\"j4\"", "\"jX\"");
                        item.attributes.insert("body".to_owned(), body.into());
                    })
                    .await
            }
            // Two entries changed places, hash and all.
            3 => {
                for (number, other) in [(5, 5), (6, 4)] {
                    let (body, hash) = (
                        attribute(&entries[other], "body"),
                        attribute(&entries[other], "hash"),
                    );
                    world
                        .change_entry(number, |item| {
                            item.attributes.insert("body".to_owned(), body);
                            item.attributes.insert("hash".to_owned(), hash);
                        })
                        .await;
                }
            }
            4 => {
                world
                    .change_entry(7, |item| {
                        drop(
                            item.attributes
                                .insert("hash".to_owned(), Value::from("00".repeat(32))),
                        )
                    })
                    .await
            }
            5 => {
                let head = ItemKey::new(Collection::Heads, table().as_str(), ());
                world.items.delete(head, Condition::None).await.unwrap();
            }
            _ => {
                world
                    .change_entry(7, |item| drop(item.attributes.remove("body")))
                    .await
            }
        }
        let fresh = world.process(2).state(&table()).await.unwrap_err();
        assert_eq!(
            fresh.kind(),
            ErrorKind::Corrupt,
            "case {case}: {}",
            fresh.report()
        );
        if case == 0 {
            let report = fresh.report();
            assert!(
                report.contains("entry 6 of table 0a1b2c3d is no longer in the log"),
                "{report}"
            );
        }
        if !matches!(case, 1 | 5) {
            let error = reader.state(&table()).await.unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::Corrupt,
                "case {case}: {}",
                error.report()
            );
        }
        let error = reader.commit(&table(), add("more")).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Corrupt,
            "case {case}: {}",
            error.report()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_program_wrote_stops_the_reader() {
    for (find, replace, reason) in [
        (
            "\"version\":1",
            "\"version\":2",
            "version 2, and this program reads up to 1",
        ),
        (
            "\"type\":\"files_added\"",
            "\"type\":\"files_teleported\"",
            "unknown variant `files_teleported`",
        ),
    ] {
        let (world, store) = World::with_table(14, &[]).await;
        apply(&store, add("a")).await;
        world
            .change_entry(2, |item| {
                let body = item.text("body").unwrap().replace(find, replace);
                assert!(body.contains(replace));
                item.attributes.insert("body".to_owned(), body.into());
            })
            .await;
        let error = world.process(1).state(&table()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.report().contains(reason), "{}", error.report());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_goes_to_an_object_by_its_size_in_bytes() {
    let (world, store) = World::with_table(15, &[]).await;
    // Four bytes a letter: far fewer characters than the limit.
    let text = |letters: usize| "\u{1F42D}".repeat(letters);
    let body = |letters: usize| commit(&text(letters), pinned("p", 1, at(0)));
    let mut lengths = Vec::new();
    for letters in [15_000, 17_000] {
        assert!(letters < MAX_INLINE_BYTES);
        apply(&store, body(letters)).await;
        let entries = world.entries().await;
        let newest = entries.last().unwrap();
        lengths.push((
            newest.attributes.contains_key("body"),
            newest.encoded_bytes() < 80_000,
        ));
    }
    assert_eq!(lengths, [(true, true), (false, true)]);
    assert_eq!(store.object_paths(&table()).await.unwrap().len(), 1);
    let fresh = world.process(1).state(&table()).await.unwrap();
    assert_eq!(fresh, store.state(&table()).await.unwrap());

    // At the limit to the byte.
    let overhead = Entry::after(
        &fresh,
        &table(),
        world.clock.now(),
        vec![commit("", pinned("p", 1, at(0)))],
    )
    .encode()
    .unwrap()
    .0
    .len();
    for (extra, inline) in [(0, true), (1, false)] {
        // The number has as many digits as before.
        apply(
            &store,
            commit(
                &format!("{}{extra}", "x".repeat(MAX_INLINE_BYTES - overhead - 1 + extra)),
                pinned("p", 1, at(0)),
            ),
        )
        .await;
        let entries = world.entries().await;
        assert_eq!(
            entries.last().unwrap().attributes.contains_key("body"),
            inline,
            "{extra}"
        );
    }

    let path = store.object_paths(&table()).await.unwrap()[0].clone();
    world.objects.put(&path, b"{}".to_vec().into()).await.unwrap();
    assert_eq!(
        world.process(2).state(&table()).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    world.objects.delete(&path).await.unwrap();
    assert_eq!(
        world.process(3).state(&table()).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test(start_paused = true)]
async fn truncation_removes_bodies_and_snapshots_that_nothing_needs() {
    let (world, store) = World::with_table(16, &[]).await;
    for i in 0..3 {
        apply(
            &store,
            commit(
                &"y".repeat(MAX_INLINE_BYTES + i),
                pinned(&format!("p{i}"), 1, at(0)),
            ),
        )
        .await;
        tick(&world, &store, &format!("t{i}")).await;
        store.snapshot(&table(), 1).await.unwrap();
    }
    world.clock.sleep(Duration::from_secs(3600)).await;
    truncate(&world, &store).await;
    let prefixes = [log::bodies_prefix(&table()), snapshot::snapshots_prefix(&table())];
    let mut stored = BTreeSet::new();
    for prefix in prefixes {
        let listed = world.objects.list_with_delimiter(Some(&prefix)).await.unwrap();
        stored.extend(listed.objects.into_iter().map(|object| object.location));
    }
    let named: BTreeSet<_> = store.object_paths(&table()).await.unwrap().into_iter().collect();
    assert_eq!(stored, named);
    assert_eq!(store.snapshots(&table()).await.unwrap().len(), 2);
    assert_eq!(
        world.process(1).state(&table()).await.unwrap(),
        store.state(&table()).await.unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_not_stored_as_it_was_written_is_not_listed() {
    let (world, _) = World::with_table(18, &[]).await;
    let objects = Arc::new(FaultyObjects::new(Puts::Flipped));
    let ids = Arc::new(SeededIds::new(1));
    let store = StateStore::new(world.items.clone(), objects, world.clock.clone(), ids);
    let error = store.snapshot(&table(), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    assert_eq!(world.process(1).snapshots(&table()).await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_maker_that_stood_still_does_not_remove_the_snapshot_that_the_log_was_cut_behind() {
    let (world, store) = World::with_table(18, &[]).await;
    let mut made = Vec::new();
    for i in 0..4 {
        let number = tick(&world, &store, &format!("t{i}")).await;
        store.snapshot(&table(), 1).await.unwrap();
        made.push((number, world.clock.now()));
        world.clock.sleep(Duration::from_secs(60)).await;
    }
    let slow_items = world.faulty(1);
    let slow = world.process_on(slow_items.clone(), 1);
    slow_items.closed.store(true, Relaxed);
    let table = table();
    let others = async {
        // The slow one has decided to cut behind the first snapshot, and that the second one can go.
        slow_items.arrived.notified().await;
        store.truncate(&table, made[1].1).await.unwrap();
        slow_items.closed.store(false, Relaxed);
        slow_items.gate.notify_one();
    };
    let (cut, ()) = futures::join!(slow.truncate(&table, made[0].1), others);
    assert_eq!(cut.unwrap(), 0);
    let newest = world.process(2).state(&table).await.unwrap();
    assert_eq!(newest.oldest_readable(), made[1].0);
    for number in made[1].0.0..=newest.transaction().0 {
        let number = TransactionNumber(number);
        let as_of = AsOf::Transaction(number);
        let state = world.process(3).state_as_of(&table, as_of).await.unwrap();
        assert_eq!(state.transaction(), number);
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_is_not_cut_behind_a_snapshot_that_another_maker_has_removed() {
    let (world, store) = World::with_table(18, &[]).await;
    let mut made = Vec::new();
    let make = async |made: &mut Vec<_>| {
        let number = tick(&world, &store, &format!("t{}", made.len())).await;
        store.snapshot(&table(), 1).await.unwrap();
        made.push((number, world.clock.now()));
        world.clock.sleep(Duration::from_secs(60)).await;
    };
    for _ in 0..3 {
        make(&mut made).await;
    }
    let slow_items = world.faulty(1);
    let slow = world.process_on(slow_items.clone(), 1);
    slow_items.closed.store(true, Relaxed);
    let (table, behind) = (table(), made[1].1);
    let others = async {
        // The slow one has decided to cut behind the second snapshot.
        slow_items.arrived.notified().await;
        for _ in 0..2 {
            make(&mut made).await;
        }
        store.truncate(&table, made[0].1).await.unwrap();
        let listed = store.snapshots(&table).await.unwrap();
        assert!(listed.iter().all(|entry| entry.transaction != made[1].0));
        slow_items.closed.store(false, Relaxed);
        slow_items.gate.notify_one();
    };
    let (cut, ()) = futures::join!(slow.truncate(&table, behind), others);
    assert_eq!(cut.unwrap(), 0);
    let newest = world.process(2).state(&table).await.unwrap();
    for number in newest.oldest_readable().0..=newest.transaction().0 {
        let number = TransactionNumber(number);
        let as_of = AsOf::Transaction(number);
        let state = world.process(3).state_as_of(&table, as_of).await.unwrap();
        assert_eq!(state.transaction(), number);
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_is_read_as_of_a_transaction_or_a_time_while_history_is_kept() {
    let (world, store) = World::with_table(17, &[]).await;
    let mut times = vec![];
    for i in 0..8 {
        world.clock.sleep(Duration::from_secs(100)).await;
        times.push((apply(&store, add(&format!("j{i}"))).await, world.clock.now()));
        if i % 3 == 2 {
            store.snapshot(&table(), 1).await.unwrap();
        }
    }
    let as_of = async |as_of| {
        world
            .process(1)
            .state_as_of(&table(), as_of)
            .await
            .map(|state| (state.transaction(), state.rows()))
    };
    for (i, (number, time)) in times.iter().enumerate() {
        let expected = (*number, i as u64 + 1);
        assert_eq!(as_of(AsOf::Transaction(*number)).await.unwrap(), expected);
        assert_eq!(as_of(AsOf::Time(*time)).await.unwrap(), expected);
        let later = Timestamp::from_millis(time.as_millis() + 99_999);
        assert_eq!(as_of(AsOf::Time(later)).await.unwrap(), expected);
    }
    assert_eq!(as_of(AsOf::Time(at(1))).await.unwrap(), (TransactionNumber(1), 0));
    assert_eq!(
        as_of(AsOf::Time(at(-1))).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        as_of(AsOf::Transaction(TransactionNumber(10)))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );

    // Cut behind the snapshot of transaction 4.
    store.truncate(&table(), times[3].1).await.unwrap();
    let oldest = store.state(&table()).await.unwrap().oldest_readable();
    assert_eq!(oldest, TransactionNumber(4));
    assert_eq!(as_of(AsOf::Transaction(oldest)).await.unwrap(), (oldest, 3));
    assert_eq!(as_of(AsOf::Time(times[2].1)).await.unwrap(), (oldest, 3));
    assert_eq!(as_of(AsOf::Time(times[3].1)).await.unwrap(), (times[3].0, 4));
    let error = as_of(AsOf::Transaction(TransactionNumber(3))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("those from 4 to"), "{error}");
    let error = as_of(AsOf::Time(times[1].1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("the oldest is that of transaction 4"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pin_holds_off_truncation_until_it_runs_out() {
    let (world, store) = World::with_table(18, &[]).await;
    apply(&store, add("a")).await;
    store.snapshot(&table(), 1).await.unwrap();
    let pinned_state = store.state(&table()).await.unwrap();
    let until = Timestamp::from_millis(world.clock.now().as_millis() + DAY);
    apply(
        &store,
        commit("pin", pinned("reader", pinned_state.transaction().0, until)),
    )
    .await;
    for i in 0..3 {
        tick(&world, &store, &format!("t{i}")).await;
        store.snapshot(&table(), 1).await.unwrap();
    }
    store.truncate(&table(), world.clock.now()).await.unwrap();
    let as_of = AsOf::Transaction(pinned_state.transaction());
    assert_eq!(
        world.process(1).state_as_of(&table(), as_of).await.unwrap(),
        pinned_state
    );
    world.clock.sleep(Duration::from_secs(2 * 24 * 3600)).await;
    assert!(store.truncate(&table(), world.clock.now()).await.unwrap() > 0);
    let error = world.process(1).state_as_of(&table(), as_of).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_table_is_created_once_whatever_happens_to_the_reply() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let world = World::new(seed);
        let items = world.faulty(1);
        items.write_faults.store(80, Relaxed);
        let store = world.process_on(items, 1);
        let created = store
            .create(&table(), commit("create", created(&[])), vec![])
            .await;
        let there = world.entries().await.len();
        match created {
            Ok(state) => {
                assert_eq!((state.transaction(), there), (TransactionNumber(1), 1));
                seen.insert("made");
            }
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict),
                    "{}",
                    error.report()
                );
                assert_eq!(there, 0);
                seen.insert("not made");
            }
        }
    }
    assert_eq!(seen.len(), 2);

    let (world, store) = World::with_table(1, &[]).await;
    world.clock.sleep(Duration::from_secs(1)).await;
    let error = store
        .create(&table(), commit("create", created(&[])), vec![])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let error = World::new(2)
        .process(0)
        .create(&table(), commit("x", added("x", &[])), vec![])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn clocks_that_leap_lose_and_double_no_commit() {
    let (world, store) = World::with_table(20, &[]).await;
    apply(&store, add("before")).await;
    world.clock.jump(-400 * DAY);
    apply(&store, add("back")).await;
    world.clock.jump(800 * DAY);
    let late = store.commit(&table(), add("late")).await.unwrap();
    assert!(
        matches!(late.outcome, Outcome::Refused(_)),
        "a job older than the ledger ran: {late:?}"
    );
    for text in ["before", "back"] {
        let again = store
            .commit(&table(), commit("another-id", add(text).record))
            .await
            .unwrap();
        assert!(matches!(again.outcome, Outcome::Refused(_)), "{again:?}");
    }
    world.clock.jump(-400 * DAY);
    let entries = world.decoded().await;
    assert!(entries.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert_eq!(world.process(1).state(&table()).await.unwrap().rows(), 2);
}
