//! Bulk jobs: their states, their turns and their runs, over a store that is sound and over one that loses replies.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use dormouse_core::{
    bulk::{
        Admission, BulkFailure, BulkFilter, BulkJob, BulkJobs, BulkResult, BulkState, Claim, ClaimedBy,
        FailureCode, JobEnd, JobProgress, NewBulkJob, Operation, QueryRequest, TenantQueue,
    },
    collections::Collection,
    error::{Error, ErrorKind, Result},
    ids::{BulkJobId, PinId, RunId, TableId},
    ports::{
        Clock, Compression, Condition, FileFormat, Item, ItemKey, ItemStore, Order, Range, ResultColumn,
    },
    tenants::TenantId,
    testing::{
        memory::MemoryItemStore,
        seeded::{PausedClock, SeededIds},
    },
};
use futures::future::join_all;

use crate::{faulty_items::FaultyItems, samples::START};

const LEASE: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    items: Arc<MemoryItemStore>,
    clock: Arc<PausedClock>,
    jobs: BulkJobs,
}

fn jobs_on(items: Arc<dyn ItemStore>, clock: &Arc<PausedClock>, seed: u64) -> BulkJobs {
    BulkJobs::new(items, clock.clone(), Arc::new(SeededIds::new(seed)))
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn id(text: &str) -> BulkJobId {
    BulkJobId::new(text).unwrap()
}

fn run(text: &str) -> RunId {
    RunId::new(text).unwrap()
}

fn by(text: &str, message: &str, attempt: u32) -> ClaimedBy {
    ClaimedBy {
        run: run(text),
        message: message.to_owned(),
        attempt,
    }
}

fn complete(rows: u64) -> JobEnd {
    JobEnd::Complete(BulkResult {
        columns: vec![ResultColumn {
            name: "key".to_owned(),
            type_name: "Int64".to_owned(),
            nullable: false,
        }],
        rows,
        bytes: 10 * rows,
        file_count: 0,
        files: Vec::new(),
        manifest: "manifest.json".to_owned(),
    })
}

fn why() -> BulkFailure {
    BulkFailure::new(FailureCode::QueryError, "no such table")
}

fn progress(rows: u64, percent: Option<u8>) -> JobProgress {
    JobProgress {
        rows,
        bytes: rows,
        percent,
    }
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(PausedClock::new(START));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let jobs = jobs_on(items.clone(), &clock, 1);
        Self { items, clock, jobs }
    }

    fn new_job(&self, name: &str) -> NewBulkJob {
        NewBulkJob {
            tenant: tenant(),
            id: id(name),
            operation: Operation::Query,
            object: Some("events".to_owned()),
            query: QueryRequest {
                sql: "SELECT * FROM events".to_owned(),
                parameters: Default::default(),
                as_of: None,
            },
            format: FileFormat::JsonLines {
                compression: Compression::None,
            },
            metadata: serde_json::Map::new(),
            deadline: self.clock.now().plus(DAY),
            request: name.to_owned(),
            starts: false,
        }
    }

    async fn create(&self, name: &str) -> BulkJob {
        match self.jobs.create(self.new_job(name), 100, None).await.unwrap() {
            Admission::Admitted(job) => *job,
            full => panic!("{full:?}"),
        }
    }

    async fn close(&self, name: &str) -> BulkJob {
        match self.jobs.close(&tenant(), &id(name), None).await.unwrap() {
            Admission::Admitted(job) => *job,
            full => panic!("{full:?}"),
        }
    }

    async fn claim(&self, name: &str, by: &ClaimedBy) -> Claim {
        self.jobs.claim(&tenant(), &id(name), by, 2, LEASE).await.unwrap()
    }

    async fn report(&self, name: &str, by: &str, progress: JobProgress) -> Result<BulkJob> {
        self.jobs
            .report(&tenant(), &id(name), &run(by), progress, LEASE)
            .await
    }

    async fn finish(&self, name: &str, by: &str, end: &JobEnd) -> Result<BulkJob> {
        self.jobs.finish(&tenant(), &id(name), &run(by), end).await
    }

    async fn job(&self, name: &str) -> BulkJob {
        self.jobs.get(&tenant(), &id(name)).await.unwrap().unwrap()
    }

    async fn queue(&self) -> TenantQueue {
        self.jobs.queue(&tenant()).await.unwrap()
    }

    /// A job that is in this state; `r` runs it, or ran it.
    async fn in_state(&self, name: &str, state: BulkState) -> BulkJob {
        self.create(name).await;
        if matches!(state, BulkState::Open | BulkState::Aborted) {
            if state == BulkState::Aborted {
                self.jobs.abort(&tenant(), &id(name), None).await.unwrap();
            }
            return self.job(name).await;
        }
        self.close(name).await;
        if state != BulkState::UploadComplete {
            let claim = self.claim(name, &by("r", "m", 1)).await;
            assert!(matches!(claim, Claim::Begun(_)), "{claim:?}");
        }
        match state {
            BulkState::JobComplete => drop(self.finish(name, "r", &complete(1)).await.unwrap()),
            BulkState::Failed => drop(self.finish(name, "r", &JobEnd::Failed(why())).await.unwrap()),
            _ => {}
        }
        self.job(name).await
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn a_job_is_made_closed_run_and_complete() {
    let world = World::new();
    let made = world.create("a").await;
    assert_eq!(made, world.job("a").await);
    assert_eq!((made.state, made.created), (BulkState::Open, START));
    world.clock.sleep(Duration::from_secs(1)).await;
    world.close("a").await;
    world.clock.sleep(Duration::from_secs(1)).await;
    let Claim::Begun(begun) = world.claim("a", &by("r", "m", 1)).await else {
        panic!("it is its turn");
    };
    let run = begun.run.clone().unwrap();
    assert_eq!((run.number, run.lease), (1, world.clock.now().plus(LEASE)));
    world.clock.sleep(Duration::from_secs(1)).await;
    let done = world.finish("a", "r", &complete(7)).await.unwrap();
    assert_eq!(done, world.job("a").await);
    let at = |seconds| START.plus(Duration::from_secs(seconds));
    assert_eq!(
        done.history,
        [
            (BulkState::Open, at(0)),
            (BulkState::UploadComplete, at(1)),
            (BulkState::InProgress, at(2)),
            (BulkState::JobComplete, at(3)),
        ]
    );
    assert_eq!((done.started, done.completed), (Some(at(2)), Some(at(3))));
    assert_eq!((done.progress.rows, done.progress.percent), (7, Some(100)));
    assert_eq!(done.run, None);
    assert!(world.queue().await.is_empty());
    let done = world.job("a").await;
    world.jobs.delete(&done).await.unwrap();
    assert_eq!(world.jobs.get(&tenant(), &id("a")).await.unwrap(), None);
    assert_eq!(kind(world.jobs.delete(&done).await), ErrorKind::NotFound);
}

/// Asks for a state by every operation that leads to it. What was refused or had no effect is an error or none.
async fn ask(world: &World, name: &str, to: BulkState) -> Vec<Option<ErrorKind>> {
    let (tenant, job) = (tenant(), id(name));
    let failed = JobEnd::Failed(why());
    match to {
        BulkState::Open => vec![
            world
                .jobs
                .create(world.new_job(name), 100, None)
                .await
                .err()
                .map(|e| e.kind()),
        ],
        BulkState::UploadComplete => {
            vec![
                world
                    .jobs
                    .close(&tenant, &job, None)
                    .await
                    .err()
                    .map(|e| e.kind()),
            ]
        }
        BulkState::InProgress => {
            world.claim(name, &by("s", "n", 1)).await;
            vec![None]
        }
        BulkState::JobComplete => {
            let mut kinds = Vec::new();
            for run in ["other", "r"] {
                kinds.push(
                    world
                        .finish(name, run, &complete(1))
                        .await
                        .err()
                        .map(|e| e.kind()),
                );
            }
            kinds
        }
        BulkState::Failed => vec![
            world.finish(name, "other", &failed).await.err().map(|e| e.kind()),
            world
                .jobs
                .fail(&tenant, &job, why())
                .await
                .err()
                .map(|e| e.kind()),
        ],
        BulkState::Aborted => {
            vec![
                world
                    .jobs
                    .abort(&tenant, &job, None)
                    .await
                    .err()
                    .map(|e| e.kind()),
            ]
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_36_pairs_of_states_the_allowed_happen_and_the_others_change_nothing() {
    for from in BulkState::ALL {
        for to in BulkState::ALL {
            let world = World::new();
            let before = world.in_state("a", from).await;
            assert_eq!(before.state, from);
            let queue = world.queue().await;
            world.clock.sleep(Duration::from_secs(1)).await;
            let errors = ask(&world, "a", to).await;
            let after = world.job("a").await;
            if from.may_become(to) {
                assert_eq!(after.state, to, "{from} to {to}");
                assert_eq!(errors.last(), Some(&None), "{from} to {to}");
                assert_eq!(after.history.len(), before.history.len() + 1);
                continue;
            }
            assert_eq!(after, before, "{from} to {to}");
            assert_eq!(world.queue().await, queue, "{from} to {to}");
            let repeated = match to {
                BulkState::UploadComplete => {
                    matches!(from, BulkState::UploadComplete | BulkState::InProgress)
                }
                BulkState::Aborted => from == BulkState::Aborted,
                BulkState::InProgress => true,
                _ => false,
            };
            let expected = match to {
                _ if repeated => None,
                BulkState::Open => Some(ErrorKind::AlreadyExists),
                _ => Some(ErrorKind::Conflict),
            };
            assert!(
                errors.iter().all(|error| *error == expected),
                "{from} to {to}: {errors:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_have_their_turn_in_the_order_of_being_closed() {
    let world = World::new();
    for name in ["a", "b", "c", "d"] {
        world.create(name).await;
    }
    for name in ["d", "a", "c", "b"] {
        world.close(name).await;
    }
    assert_eq!(world.queue().await.waiting, ["d", "a", "c", "b"].map(id));
    assert_eq!(world.claim("c", &by("r", "m", 1)).await, Claim::Waits);
    for name in ["a", "d"] {
        let claim = world.claim(name, &by(name, name, 1)).await;
        assert!(matches!(claim, Claim::Begun(_)), "{claim:?}");
    }
    assert_eq!(world.claim("c", &by("r", "m", 1)).await, Claim::Waits);
    world.finish("d", "d", &complete(0)).await.unwrap();
    assert_eq!(world.queue().await.ready(2), [id("c")]);
    assert_eq!(world.claim("b", &by("r", "m", 1)).await, Claim::Waits);
    world.jobs.abort(&tenant(), &id("c"), None).await.unwrap();
    assert!(matches!(
        world.claim("b", &by("r", "m", 1)).await,
        Claim::Begun(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_no_more_jobs_than_it_may_and_closes_none_beyond_a_limit() {
    let world = World::new();
    for name in ["a", "b"] {
        world.jobs.create(world.new_job(name), 2, None).await.unwrap();
    }
    let full = world.jobs.create(world.new_job("c"), 2, None).await.unwrap();
    assert_eq!(full, Admission::Full { limit: 2 });
    let other = NewBulkJob {
        tenant: TenantId::new("other").unwrap(),
        ..world.new_job("c")
    };
    assert!(matches!(
        world.jobs.create(other, 2, None).await.unwrap(),
        Admission::Admitted(_)
    ));
    let close = async |name: &str| world.jobs.close(&tenant(), &id(name), Some(1)).await.unwrap();
    assert!(matches!(close("a").await, Admission::Admitted(_)));
    assert_eq!(close("b").await, Admission::Busy { limit: 1 });
    assert_eq!(world.job("b").await.state, BulkState::Open);
    assert!(matches!(close("a").await, Admission::Admitted(_)));
    world.jobs.abort(&tenant(), &id("a"), None).await.unwrap();
    assert!(matches!(close("b").await, Admission::Admitted(_)));
}

#[tokio::test(start_paused = true)]
async fn a_job_may_start_as_it_is_made_or_not_be_made() {
    let world = World::new();
    let starting = |name: &str| NewBulkJob {
        starts: true,
        ..world.new_job(name)
    };
    let made = world.jobs.create(starting("a"), 10, Some(1)).await.unwrap();
    let Admission::Admitted(made) = made else {
        panic!("{made:?}");
    };
    assert_eq!(made.state, BulkState::UploadComplete);
    let states: Vec<_> = made.history.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, [BulkState::Open, BulkState::UploadComplete]);
    assert_eq!(world.queue().await.ready(1), [id("a")]);
    let busy = world.jobs.create(starting("b"), 10, Some(1)).await.unwrap();
    assert_eq!(busy, Admission::Busy { limit: 1 });
    assert_eq!(world.jobs.get(&tenant(), &id("b")).await.unwrap(), None);
    let waits = world.jobs.create(world.new_job("b"), 10, Some(1)).await.unwrap();
    assert!(matches!(waits, Admission::Admitted(_)));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_made_anew_is_not_deleted_for_the_one_before() {
    let world = World::new();
    let before = world.create("a").await;
    let aborted = world.jobs.abort(&tenant(), &id("a"), None).await.unwrap();
    assert!(!aborted.left_running);
    world.jobs.delete(&before).await.unwrap();
    world.clock.sleep(Duration::from_millis(1)).await;
    world.create("a").await;
    world.jobs.abort(&tenant(), &id("a"), None).await.unwrap();
    assert_eq!(kind(world.jobs.delete(&before).await), ErrorKind::Conflict);
    let now = world.job("a").await;
    world.jobs.delete(&now).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_others_end_tells_that_a_run_had_it() {
    let world = World::new();
    for name in ["own", "aborted", "failed"] {
        world.create(name).await;
        world.close(name).await;
        let jobs = &world.jobs;
        jobs.claim(&tenant(), &id(name), &by(name, name, 1), 3, LEASE)
            .await
            .unwrap();
    }
    world.finish("own", "own", &JobEnd::Failed(why())).await.unwrap();
    world.jobs.abort(&tenant(), &id("aborted"), None).await.unwrap();
    world.jobs.fail(&tenant(), &id("failed"), why()).await.unwrap();
    for (name, left) in [("own", false), ("aborted", true), ("failed", true)] {
        assert_eq!(world.job(name).await.left_running, left, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_has_its_job_until_its_lease_ends_or_its_message_comes_again() {
    let world = World::new();
    world.in_state("a", BulkState::InProgress).await;
    let until = world.clock.now().plus(LEASE);
    assert_eq!(
        world.claim("a", &by("s", "other", 1)).await,
        Claim::Taken { until }
    );
    assert_eq!(world.claim("a", &by("s", "m", 0)).await, Claim::Taken { until });
    let Claim::Begun(again) = world.claim("a", &by("r", "m", 1)).await else {
        panic!("the message was given back");
    };
    assert_eq!((again.runs, again.run.unwrap().number), (2, 2));
    let Claim::Begun(again) = world.claim("a", &by("s", "m", 2)).await else {
        panic!("the message was delivered again");
    };
    assert_eq!((again.runs, again.run.unwrap().number), (3, 3));
    world.clock.sleep(Duration::from_secs(50)).await;
    let reported = world.report("a", "s", progress(1, None)).await.unwrap();
    let until = world.clock.now().plus(LEASE);
    assert_eq!(reported.run.unwrap().lease, until);
    world.clock.sleep(Duration::from_secs(59)).await;
    assert_eq!(world.claim("a", &by("t", "n", 1)).await, Claim::Taken { until });
    world.clock.sleep(Duration::from_secs(1)).await;
    assert!(matches!(
        world.claim("a", &by("t", "n", 1)).await,
        Claim::Begun(_)
    ));
    world.jobs.release(&tenant(), &id("a"), &run("t")).await.unwrap();
    assert!(matches!(
        world.claim("a", &by("u", "o", 1)).await,
        Claim::Begun(_)
    ));
    assert_eq!(world.job("a").await.history.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_taken_over_changes_nothing() {
    let world = World::new();
    world.in_state("a", BulkState::InProgress).await;
    world.claim("a", &by("s", "m", 2)).await;
    let before = world.job("a").await;
    let (tenant, job, old) = (tenant(), id("a"), run("r"));
    let pin = (TableId::new("t").unwrap(), PinId::new("p").unwrap());
    let jobs = &world.jobs;
    let kinds = [
        kind(jobs.report(&tenant, &job, &old, progress(5, None), LEASE).await),
        kind(jobs.release(&tenant, &job, &old).await),
        kind(
            jobs.note_pin((&tenant, &job), &old, (&pin.0, &pin.1), ("events", 1))
                .await,
        ),
        kind(jobs.finish(&tenant, &job, &old, &complete(1)).await),
        kind(jobs.finish(&tenant, &job, &old, &JobEnd::Failed(why())).await),
    ];
    assert_eq!(kinds, [ErrorKind::Conflict; 5]);
    assert_eq!(world.job("a").await, before);
}

#[tokio::test(start_paused = true)]
async fn progress_only_grows_and_is_100_at_the_end_alone() {
    let world = World::new();
    world.in_state("a", BulkState::InProgress).await;
    let mut seen = Vec::new();
    for (rows, percent) in [(5, Some(10)), (3, None), (3, Some(4)), (9, Some(200)), (1, None)] {
        let reported = world.report("a", "r", progress(rows, percent)).await.unwrap();
        let progress = reported.progress;
        seen.push((progress.rows, progress.percent));
    }
    let expected = [(5, 10), (5, 10), (5, 10), (9, 99), (9, 99)];
    assert_eq!(seen, expected.map(|(rows, percent)| (rows, Some(percent))));
    let done = world.finish("a", "r", &complete(9)).await.unwrap();
    assert_eq!(done.progress.percent, Some(100));
}

#[tokio::test(start_paused = true)]
async fn pins_are_noted_once_and_forgotten() {
    let world = World::new();
    world.in_state("a", BulkState::InProgress).await;
    let table = TableId::new("t").unwrap();
    let pins: Vec<_> = ["p", "q"].map(|pin| PinId::new(pin).unwrap()).into();
    let owner = (tenant(), id("a"));
    for (pin, transaction) in [(&pins[0], 4), (&pins[0], 4), (&pins[1], 5)] {
        world
            .jobs
            .note_pin(
                (&owner.0, &owner.1),
                &run("r"),
                (&table, pin),
                ("events", transaction),
            )
            .await
            .unwrap();
    }
    let job = world.job("a").await;
    assert_eq!(
        job.pins,
        [(table.clone(), pins[0].clone()), (table.clone(), pins[1].clone())]
    );
    assert_eq!(job.snapshot["events"], 5);
    world.finish("a", "r", &complete(0)).await.unwrap();
    world
        .jobs
        .forget_pins(&owner.0, &owner.1, &[(table, pins[0].clone())])
        .await
        .unwrap();
    assert_eq!(world.job("a").await.pins.len(), 1);
}

async fn names(page: impl Future<Output = Result<dormouse_core::bulk::BulkPage>>) -> Vec<String> {
    let page = page.await.unwrap();
    page.jobs.iter().map(|job| job.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn lists_are_in_order_and_their_pages_stay_while_jobs_are_made() {
    let world = World::new();
    for number in 0..7 {
        world.create(&format!("j{number}")).await;
        world.clock.sleep(Duration::from_millis(1)).await;
    }
    world.close("j3").await;
    let all = BulkFilter::default();
    let first = world.jobs.list(&tenant(), &all, None, 3).await.unwrap();
    world.create("later").await;
    let second = world
        .jobs
        .list(&tenant(), &all, first.next.clone(), 3)
        .await
        .unwrap();
    let third = world
        .jobs
        .list(&tenant(), &all, second.next.clone(), 3)
        .await
        .unwrap();
    assert_eq!(third.next, None);
    let ids: Vec<_> = [first, second, third]
        .into_iter()
        .flat_map(|page| page.jobs.into_iter().map(|job| job.id.to_string()))
        .collect();
    assert_eq!(ids, ["j6", "j5", "j4", "j3", "j2", "j1", "j0"]);

    let open = BulkFilter {
        states: vec![BulkState::UploadComplete],
        ..BulkFilter::default()
    };
    assert_eq!(names(world.jobs.list(&tenant(), &open, None, 3)).await, ["j3"]);
    let recent = BulkFilter {
        created_after: Some(START.plus(Duration::from_millis(5))),
        ..BulkFilter::default()
    };
    assert_eq!(
        names(world.jobs.list(&tenant(), &recent, None, 9)).await,
        ["later", "j6"]
    );
    let about = BulkFilter {
        object: Some("nothing".to_owned()),
        ..BulkFilter::default()
    };
    assert!(
        names(world.jobs.list(&tenant(), &about, None, 9))
            .await
            .is_empty()
    );
    let other = TenantId::new("other").unwrap();
    assert!(names(world.jobs.list(&other, &all, None, 9)).await.is_empty());

    let before = START.plus(Duration::from_millis(2));
    assert_eq!(
        names(world.jobs.oldest(&tenant(), before, None)).await,
        ["j0", "j1"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_finds_little_ends_soon_and_goes_on_from_there() {
    let world = World::new();
    for number in 0..1300 {
        let new = NewBulkJob {
            object: (number < 2).then(|| "rare".to_owned()),
            ..world.new_job(&format!("j{number:04}"))
        };
        world.jobs.create(new, 2000, None).await.unwrap();
    }
    let rare = BulkFilter {
        object: Some("rare".to_owned()),
        ..BulkFilter::default()
    };
    let first = world.jobs.list(&tenant(), &rare, None, 5).await.unwrap();
    assert!(first.jobs.is_empty());
    assert!(first.next.is_some());
    assert_eq!(
        names(world.jobs.list(&tenant(), &rare, first.next, 5)).await,
        ["j0001", "j0000"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_walk_goes_over_every_page_and_drops_places_without_a_job() {
    let world = World::new();
    for number in 0..230 {
        let new = world.new_job(&format!("j{number:03}"));
        world.jobs.create(new, 1000, None).await.unwrap();
    }
    let stray = ItemKey::new(Collection::BulkJobTimes, "acme", "0000000000001|gone");
    world
        .items
        .put(Item::new(stray.clone()), Condition::None)
        .await
        .unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = world
            .jobs
            .oldest(&tenant(), START.plus(DAY), after)
            .await
            .unwrap();
        seen.extend(page.jobs.iter().map(|job| job.id.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let expected: Vec<_> = (0..230).map(|number| format!("j{number:03}")).collect();
    assert_eq!(seen, expected);
    assert_eq!(world.items.get(&stray).await.unwrap(), None);
}

/// Does it again while the store is out of order.
async fn surely<T>(mut work: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    for _ in 0..200 {
        match work().await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            result => return result,
        }
    }
    Err(Error::internal("the store is never in order"))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_twice_although_replies_are_lost() {
    for seed in 0..40 {
        let world = World::new();
        let items = FaultyItems::new(world.items.clone(), world.clock.clone(), seed);
        items.write_faults.store(50, Relaxed);
        items.read_faults.store(10, Relaxed);
        let jobs = jobs_on(Arc::new(items), &world.clock, seed + 1000);
        let (tenant, job) = (tenant(), id("a"));
        let created = surely(async || jobs.create(world.new_job("a"), 5, None).await).await;
        // Whoever lost the answer to the first request finds the job there when it asks again.
        if let Err(error) = created {
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
        }
        surely(async || jobs.close(&tenant, &job, None).await)
            .await
            .unwrap();
        let mut attempt = 0;
        let claim = surely(async || {
            attempt += 1;
            let by = by(&format!("r{attempt}"), "m", attempt);
            let claim = jobs.claim(&tenant, &job, &by, 1, LEASE).await?;
            Ok((claim, by.run))
        });
        let (claim, run) = claim.await.unwrap();
        assert!(matches!(claim, Claim::Begun(_)), "{claim:?}");
        surely(async || jobs.report(&tenant, &job, &run, progress(3, None), LEASE).await)
            .await
            .unwrap();
        let ended = surely(async || jobs.finish(&tenant, &job, &run, &complete(3)).await).await;
        if let Err(error) = ended {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
        }
        let job = world.job("a").await;
        let states: Vec<_> = job.history.iter().map(|(state, _)| *state).collect();
        assert_eq!(
            states,
            [
                BulkState::Open,
                BulkState::UploadComplete,
                BulkState::InProgress,
                BulkState::JobComplete
            ]
        );
        assert!(world.queue().await.is_empty());
    }
}

/// Takes jobs from their making to their end, one after the other, against all others that do.
async fn client(jobs: &BulkJobs, world: &World, number: usize) {
    for turn in 0..3 {
        let name = format!("j{number}-{turn}");
        let (tenant, job) = (tenant(), id(&name));
        let created = surely(async || jobs.create(world.new_job(&name), 100, None).await).await;
        assert!(created.is_ok() || kind(created) == ErrorKind::AlreadyExists);
        surely(async || jobs.close(&tenant, &job, None).await)
            .await
            .unwrap();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let by = by(&format!("{name}-{attempt}"), &name, attempt);
            let claim = surely(async || jobs.claim(&tenant, &job, &by, 2, LEASE).await).await;
            match claim.unwrap() {
                Claim::Begun(_) => {
                    world.clock.sleep(Duration::from_millis(30)).await;
                    let ended = surely(async || jobs.finish(&tenant, &job, &by.run, &complete(1)).await);
                    assert!(
                        ended.await.is_ok_and(|job| job.state == BulkState::JobComplete) || {
                            world.job(&name).await.state == BulkState::JobComplete
                        }
                    );
                    break;
                }
                Claim::Waits | Claim::Taken { .. } => world.clock.sleep(Duration::from_millis(20)).await,
                Claim::Nothing => panic!("{name} has ended before it began"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_jobs_run_than_may_and_the_queue_is_what_the_jobs_say() {
    for seed in 0..6 {
        let world = World::new();
        let clients = (0..6).map(|number| {
            let items = FaultyItems::new(
                world.items.clone(),
                world.clock.clone(),
                seed * 10 + number as u64,
            );
            items.write_faults.store(20, Relaxed);
            let jobs = jobs_on(Arc::new(items), &world.clock, seed * 10 + number as u64 + 500);
            let world = &world;
            async move { client(&jobs, world, number).await }
        });
        let watch = async {
            loop {
                let queue = world.queue().await;
                assert!(queue.running.len() <= 2, "{queue:?}");
                let all: Vec<_> = queue.all().collect();
                assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{queue:?}");
                for id in &queue.running {
                    let job = world.jobs.get(&tenant(), id).await.unwrap().unwrap();
                    assert_eq!(job.state, BulkState::InProgress);
                }
                world.clock.sleep(Duration::from_millis(7)).await;
            }
        };
        tokio::select! {
            _ = join_all(clients) => {}
            () = watch => {}
        }
        assert!(world.queue().await.is_empty());
        let listed = world
            .items
            .query(Collection::BulkJobs, "acme", Range::all(), 100, Order::Ascending);
        assert_eq!(listed.await.unwrap().len(), 18);
    }
}
