//! Queue `query`: bulk jobs, each of which comes to one truthful end, whatever dies.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dormouse_core::{
    Error,
    bulk::{
        Admission, BulkJob, BulkState, Claim, ClaimedBy, FailureCode, NewBulkJob, Operation, QueryRequest,
    },
    ids::{BulkJobId, RunId},
    message::QueryMessage,
    ports::{Clock, Compression, FileFormat, QueryTables, QueueName, RowPolicy},
    predicate::Predicate,
    state::{AsOf, Record},
    tables::TableInfo,
    tenants::TenantId,
    testing::memory::QueryStep,
};
use dormouse_jobs::{
    bulk::{self, QueryWorker},
    garbage::Override,
    query::AllTables,
    schedule::{Schedule, collect_all},
    worker,
};
use futures::{TryStreamExt, future::join};
use object_store::{ObjectStoreExt, path::Path};

use crate::{
    faults::polled,
    harness::{Row, World, rows},
};

const EVENTS: &str = "SELECT * FROM events";

const DAY: Duration = Duration::from_secs(24 * 3600);

const AT_ONCE: Override = Override {
    delay: Some(Duration::ZERO),
    orphan_age: None,
    offline: false,
};

fn id(name: &str) -> BulkJobId {
    BulkJobId::new(name).unwrap()
}

fn tenant() -> TenantId {
    TenantId::instance()
}

fn query_of(world: &World, tenant: &TenantId, name: &str, sql: &str) -> NewBulkJob {
    NewBulkJob {
        tenant: tenant.clone(),
        id: id(name),
        operation: Operation::Query,
        object: None,
        query: QueryRequest {
            sql: sql.to_owned(),
            parameters: BTreeMap::new(),
            as_of: None,
        },
        format: FileFormat::JsonLines {
            compression: Compression::None,
        },
        metadata: serde_json::Map::new(),
        deadline: world.clock.now().plus(DAY),
        request: name.to_owned(),
        starts: false,
    }
}

/// Makes a job and closes it.
async fn start(world: &World, new: NewBulkJob) {
    let (tenant, id) = (new.tenant.clone(), new.id.clone());
    let made = bulk::create(&world.services, new).await.unwrap();
    assert!(matches!(made, Admission::Admitted(_)), "{made:?}");
    let closed = bulk::close(&world.services, &tenant, &id).await.unwrap();
    assert!(matches!(closed, Admission::Admitted(_)), "{closed:?}");
}

/// Starts a query over the table `events`.
async fn started(world: &World, name: &str) {
    start(world, query_of(world, &tenant(), name, EVENTS)).await;
}

/// A table of four leaves with some rows.
async fn filled(world: &World) -> TableInfo {
    let table = world.table("events", 4).await;
    world.fed(&table, "first", &rows("a", (0..400).step_by(40))).await;
    table
}

async fn job(world: &World, name: &str) -> BulkJob {
    job_of(world, &tenant(), name).await
}

async fn job_of(world: &World, tenant: &TenantId, name: &str) -> BulkJob {
    world.services.bulk.get(tenant, &id(name)).await.unwrap().unwrap()
}

/// Handles the messages that are there, in a new process.
async fn work(world: &World) {
    let services = world.process();
    worker::run_once(&services, &QueryWorker::new(services.clone()))
        .await
        .unwrap();
}

async fn sweep(world: &World) {
    Schedule::Bulk.run_once(&world.process()).await.unwrap();
}

/// Sweeps and works until no job of the instance's tenant is left that has not ended.
async fn tended(world: &World) {
    for _ in 0..60 {
        world.settle().await;
        if world.services.bulk.queue(&tenant()).await.unwrap().is_empty() {
            sweep(world).await;
            return;
        }
        world.sleep(Duration::from_secs(10)).await;
        sweep(world).await;
    }
    let queue = world.services.bulk.queue(&tenant()).await;
    panic!("jobs come to no end: {queue:?}");
}

/// The objects of a job, by their names below its path.
async fn objects(world: &World, job: &BulkJob) -> Vec<String> {
    let path = bulk::results_path(&world.services, job);
    let listed: Vec<_> = world
        .services
        .exports
        .list(Some(&path))
        .try_collect()
        .await
        .unwrap();
    let name = |path: &Path| path.filename().unwrap_or_default().to_owned();
    let mut names: Vec<_> = listed.iter().map(|meta| name(&meta.location)).collect();
    names.sort();
    names
}

/// The rows that a job has written; checks that its manifest and the job say the same of them.
async fn written(world: &World, job: &BulkJob) -> Vec<Row> {
    let manifest = bulk::manifest(&world.services, job).await.unwrap();
    let result = job.result.as_ref().unwrap();
    assert_eq!((&manifest.files, manifest.rows), (&result.files, result.rows));
    assert_eq!((&manifest.job_id, &manifest.snapshot), (&job.id, &job.snapshot));
    let mut rows = Vec::new();
    for file in &manifest.files {
        let stored = world
            .services
            .exports
            .get(&Path::from(file.path.as_str()))
            .await
            .unwrap();
        let body = stored.bytes().await.unwrap();
        assert_eq!(body.len() as u64, file.bytes);
        for line in std::str::from_utf8(&body).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let payload = row["payload"].as_str().unwrap();
            rows.push((row["key"].as_i64().unwrap(), payload.to_owned()));
        }
    }
    assert_eq!(rows.len() as u64, manifest.rows);
    rows
}

/// The job went through its states once, and its rows are those of the table; nothing is pinned.
async fn assert_complete(world: &World, table: &TableInfo, name: &str) -> BulkJob {
    let job = job(world, name).await;
    let states: Vec<_> = job.history.iter().map(|(state, _)| *state).collect();
    let all = [
        BulkState::Open,
        BulkState::UploadComplete,
        BulkState::InProgress,
        BulkState::JobComplete,
    ];
    assert_eq!(states, all, "{job:#?}");
    assert_eq!(written(world, &job).await, world.rows(table).await);
    assert_eq!(job.progress.percent, Some(100));
    assert_unpinned(world, table, &job).await;
    job
}

async fn assert_unpinned(world: &World, table: &TableInfo, job: &BulkJob) {
    assert!(job.pins.is_empty(), "{:?}", job.pins);
    assert_eq!(world.state(table).await.pins().count(), 0);
}

fn failure(job: &BulkJob) -> (FailureCode, &str) {
    assert_eq!(job.result, None);
    let failure = job.failure.as_ref().unwrap();
    (failure.code, failure.message.as_str())
}

#[tokio::test(start_paused = true)]
async fn a_closed_job_writes_the_rows_of_its_query_and_gives_its_pins_back() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let transaction = world.state(&table).await.transaction().0;
    world.settle().await;
    let job = assert_complete(&world, &table, "job-1").await;
    assert_eq!(objects(&world, &job).await, ["data.ndjson", "manifest.json"]);
    let path = format!(
        "exports/tenant-default/job-job-1/{}/data.ndjson",
        job.created.as_millis()
    );
    assert_eq!(job.result.as_ref().unwrap().files[0].path, path);
    assert_eq!(job.snapshot, BTreeMap::from([("events".to_owned(), transaction)]));
    assert_eq!((job.runs, job.progress.rows), (1, 10));
    // The same message once more.
    let message = QueryMessage {
        tenant_id: tenant(),
        job_id: id("job-1"),
    };
    world.send(QueueName::Query, message.to_body().unwrap()).await;
    world.settle().await;
    assert_eq!(self::job(&world, "job-1").await, job);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_not_closed_is_not_run() {
    let world = World::new();
    filled(&world).await;
    let new = query_of(&world, &tenant(), "job-1", EVENTS);
    bulk::create(&world.services, new).await.unwrap();
    world.sleep(Duration::from_secs(60)).await;
    sweep(&world).await;
    let message = QueryMessage {
        tenant_id: tenant(),
        job_id: id("job-1"),
    };
    world.send(QueueName::Query, message.to_body().unwrap()).await;
    world.settle().await;
    assert_eq!(job(&world, "job-1").await.state, BulkState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_job_as_of_a_transaction_reads_what_was_there() {
    let world = World::new();
    let table = filled(&world).await;
    let before = (world.state(&table).await.transaction(), world.rows(&table).await);
    world.fed(&table, "second", &rows("b", [7])).await;
    let mut new = query_of(&world, &tenant(), "job-1", EVENTS);
    new.query.as_of = Some(AsOf::Transaction(before.0));
    start(&world, new).await;
    world.settle().await;
    let job = job(&world, "job-1").await;
    assert_eq!(written(&world, &job).await, before.1);
    assert_unpinned(&world, &table, &job).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_anywhere_leaves_a_job_that_completes_once() {
    for polls in 1.. {
        let world = World::new();
        let table = filled(&world).await;
        started(&world, "job-1").await;
        let services = world.process();
        let worker = QueryWorker::new(services.clone());
        let done = polled(polls, worker::run_once(&services, &worker))
            .await
            .is_some();
        tended(&world).await;
        assert_complete(&world, &table, "job-1").await;
        if done {
            assert!(polls > 30, "{polls} polls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dies_anywhere_leaves_a_job_that_can_go_on() {
    for polls in 1.. {
        let world = World::new();
        let table = filled(&world).await;
        let done = polled(polls, started(&world, "job-1")).await.is_some();
        let made = world.services.bulk.get(&tenant(), &id("job-1")).await.unwrap();
        if made.is_none() {
            continue;
        }
        bulk::close(&world.services, &tenant(), &id("job-1"))
            .await
            .unwrap();
        tended(&world).await;
        assert_complete(&world, &table, "job-1").await;
        if done {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_message_is_lost_or_never_sent_is_found() {
    let world = World::new();
    let table = filled(&world).await;
    world.faults.unavailable("queue send query");
    started(&world, "job-1").await;
    world.faults.clear();
    assert_eq!(world.depth(QueueName::Query).await.visible, 0);
    sweep(&world).await;
    assert_eq!(
        world.depth(QueueName::Query).await.visible,
        0,
        "it may be on its way"
    );
    world.sleep(Duration::from_secs(21)).await;
    sweep(&world).await;
    world.settle().await;
    assert_complete(&world, &table, "job-1").await;
}

#[tokio::test(start_paused = true)]
async fn replies_of_the_item_store_that_are_lost_change_nothing() {
    for lost in 0.. {
        let world = World::new();
        let table = filled(&world).await;
        started(&world, "job-1").await;
        let (count, met) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let told = met.clone();
        world.faults.lose_answers(move |call| {
            let is_it = call.starts_with("items write") && count.fetch_add(1, Relaxed) == lost;
            is_it.then(|| {
                told.fetch_add(1, Relaxed);
                Error::unavailable("no reply")
            })
        });
        work(&world).await;
        world.faults.clear();
        tended(&world).await;
        let job = assert_complete(&world, &table, "job-1").await;
        assert!(job.runs <= 2, "{}", job.runs);
        if met.load(Relaxed) == 0 {
            assert!(lost > 5, "{lost} writes");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_workers_with_the_same_job_make_one_result() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    bulk::wake(&world.services, &tenant()).await.unwrap();
    assert_eq!(world.depth(QueueName::Query).await.visible, 2);
    join(work(&world), work(&world)).await;
    let job = assert_complete(&world, &table, "job-1").await;
    assert_eq!(job.runs, 1);
    assert_eq!(objects(&world, &job).await, ["data.ndjson", "manifest.json"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_taken_over_ends_nothing() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let gate = world
        .query_gate(|step| matches!(step, QueryStep::Write(path) if path.filename() == Some("data.ndjson")));
    let mut frozen = pin!(work(&world));
    tokio::select! {
        () = &mut frozen => panic!("it stands at the gate"),
        () = gate.reached() => {}
    }
    world.sleep(Duration::from_secs(100)).await;
    tended(&world).await;
    let done = assert_complete(&world, &table, "job-1").await;
    assert_eq!(done.runs, 2);
    assert_eq!(objects(&world, &done).await, ["data-2.ndjson", "manifest-2.json"]);
    gate.open();
    frozen.await;
    tended(&world).await;
    assert_eq!(assert_complete(&world, &table, "job-1").await, done);
}

#[tokio::test(start_paused = true)]
async fn an_abort_stops_the_write_soon_and_lets_the_next_job_have_its_turn() {
    let world = World::with("dormouse.bulk.max.concurrent.jobs=1");
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let gate = world.query_gate(|step| matches!(step, QueryStep::Read(_)));
    let services = world.process();
    let worker = QueryWorker::new(services.clone());
    let mut working = pin!(worker::run_once(&services, &worker));
    tokio::select! {
        _ = &mut working => panic!("it stands at the gate"),
        () = gate.reached() => {}
    }
    started(&world, "job-2").await;
    world.queries.clear_hook();
    let before = world.clock.now();
    let aborted = bulk::abort(&world.services, &tenant(), &id("job-1"))
        .await
        .unwrap();
    assert_eq!(aborted.state, BulkState::Aborted);
    working.await.unwrap();
    assert!(world.clock.now().since(before) < Duration::from_secs(3));
    let job = job(&world, "job-1").await;
    assert_eq!(
        (job.state, &job.failure, &job.result),
        (BulkState::Aborted, &None, &None)
    );
    assert!(objects(&world, &job).await.is_empty());
    assert_unpinned(&world, &table, &job).await;
    world.settle().await;
    assert_complete(&world, &table, "job-2").await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_too_long_fails_and_one_that_waits_too_long_is_aborted() {
    let world = World::with("dormouse.bulk.max.concurrent.jobs=1");
    let table = filled(&world).await;
    let deadline = world.clock.now().plus(Duration::from_secs(40));
    let gate = world.query_gate(|step| matches!(step, QueryStep::Read(_)));
    for name in ["job-1", "job-2"] {
        let new = query_of(&world, &tenant(), name, EVENTS);
        start(&world, NewBulkJob { deadline, ..new }).await;
    }
    let new = query_of(&world, &tenant(), "job-3", EVENTS);
    bulk::create(&world.services, NewBulkJob { deadline, ..new })
        .await
        .unwrap();
    let services = world.process();
    let worker = QueryWorker::new(services.clone());
    let mut working = pin!(worker::run_once(&services, &worker));
    tokio::select! {
        _ = &mut working => panic!("it stands at the gate"),
        () = gate.reached() => {}
    }
    // The clock has come to the deadline before job-2 has its turn.
    working.await.unwrap();
    sweep(&world).await;
    world.settle().await;
    let late = world.clock.now().since(deadline);
    assert!(late < Duration::from_secs(5), "{late:?}");
    let first = job(&world, "job-1").await;
    assert_eq!(first.state, BulkState::Failed);
    assert_eq!(failure(&first).0, FailureCode::JobTimeout);
    assert_unpinned(&world, &table, &first).await;
    let third = job(&world, "job-3").await;
    assert_eq!(
        (third.state, failure(&third).0),
        (BulkState::Aborted, FailureCode::JobExpired)
    );
    let second = job(&world, "job-2").await;
    assert!(
        second.state.is_terminal() && second.result.is_none(),
        "{second:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_sweep_ends_jobs_whose_time_is_over_although_no_worker_is_there() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "running").await;
    let services = world.process();
    let worker = QueryWorker::new(services.clone());
    let gate = world.query_gate(|step| matches!(step, QueryStep::Read(_)));
    {
        let mut dying = pin!(worker::run_once(&services, &worker));
        tokio::select! {
            _ = &mut dying => panic!("it stands at the gate"),
            () = gate.reached() => {}
        }
    }
    world.queries.clear_hook();
    assert_eq!(world.state(&table).await.pins().count(), 1);
    started(&world, "waiting").await;
    world.sleep(DAY).await;
    sweep(&world).await;
    let running = job(&world, "running").await;
    assert_eq!(
        (running.state, failure(&running).0),
        (BulkState::Failed, FailureCode::JobTimeout)
    );
    assert_unpinned(&world, &table, &running).await;
    let waiting = job(&world, "waiting").await;
    assert_eq!(
        (waiting.state, failure(&waiting).0),
        (BulkState::Aborted, FailureCode::JobExpired)
    );
    world.settle().await;
    assert_eq!(job(&world, "waiting").await, waiting);
}

#[tokio::test(start_paused = true)]
async fn the_pins_of_a_job_that_was_aborted_by_somebody_who_died_are_found() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let services = world.process();
    let worker = QueryWorker::new(services.clone());
    let gate = world.query_gate(|step| matches!(step, QueryStep::Read(_)));
    {
        let mut dying = pin!(worker::run_once(&services, &worker));
        tokio::select! {
            _ = &mut dying => panic!("it stands at the gate"),
            () = gate.reached() => {}
        }
    }
    let bulk = &world.services.bulk;
    bulk.abort(&tenant(), &id("job-1"), None).await.unwrap();
    assert_eq!(world.state(&table).await.pins().count(), 1);
    world.sleep(Duration::from_secs(1)).await;
    sweep(&world).await;
    assert_unpinned(&world, &table, &job(&world, "job-1").await).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_kills_its_workers_is_given_up() {
    let world = World::new();
    filled(&world).await;
    started(&world, "job-1").await;
    for number in 1..=10 {
        let by = ClaimedBy {
            run: RunId::new(format!("run-{number}")).unwrap(),
            message: format!("message-{number}"),
            attempt: 1,
        };
        let lease = Duration::from_secs(1);
        let claim = world
            .services
            .bulk
            .claim(&tenant(), &id("job-1"), &by, 1, lease)
            .await
            .unwrap();
        assert!(matches!(claim, Claim::Begun(_)), "{claim:?}");
        world.sleep(lease).await;
    }
    world.sleep(Duration::from_secs(30)).await;
    sweep(&world).await;
    let job = job(&world, "job-1").await;
    assert_eq!(
        (job.state, failure(&job).0),
        (BulkState::Failed, FailureCode::InternalError)
    );
}

#[tokio::test(start_paused = true)]
async fn where_jobs_do_not_wait_the_one_too_many_stays_open() {
    let world = World::with("dormouse.bulk.concurrency.policy=reject\ndormouse.bulk.max.concurrent.jobs=1");
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let new = query_of(&world, &tenant(), "job-2", EVENTS);
    bulk::create(&world.services, new).await.unwrap();
    let closed = bulk::close(&world.services, &tenant(), &id("job-2"))
        .await
        .unwrap();
    assert_eq!(closed, Admission::Busy { limit: 1 });
    assert_eq!(job(&world, "job-2").await.state, BulkState::Open);
    world.settle().await;
    bulk::close(&world.services, &tenant(), &id("job-2"))
        .await
        .unwrap();
    world.settle().await;
    for name in ["job-1", "job-2"] {
        assert_complete(&world, &table, name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_jobs_of_a_tenant_run_than_may_and_they_begin_in_their_order() {
    let world = World::with("dormouse.bulk.max.concurrent.jobs=2\ndormouse.bulk.concurrency=4");
    let table = filled(&world).await;
    let running = Arc::new(AtomicU32::new(0));
    let (most, order) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
    let hook = (running.clone(), most.clone(), order.clone(), world.clock.clone());
    world.queries.set_hook(move |step| {
        let (running, most, order, clock) = hook.clone();
        async move {
            match step {
                QueryStep::Write(path) => order.lock().unwrap().push(path.to_string()),
                QueryStep::Plan(_) => {
                    most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                    clock.sleep(Duration::from_secs(3)).await;
                }
                QueryStep::Written(_) => drop(running.fetch_sub(1, Relaxed)),
                _ => {}
            }
            Ok(())
        }
    });
    for number in 1..=6 {
        started(&world, &format!("job-{number}")).await;
    }
    join(tended(&world), work(&world)).await;
    assert_eq!(most.load(Relaxed), 2);
    let mut begun = Vec::new();
    for number in 1..=6 {
        let job = assert_complete(&world, &table, &format!("job-{number}")).await;
        assert_eq!(job.runs, 1);
        begun.push(job.started.unwrap());
    }
    assert!(begun.is_sorted(), "{begun:?}");
    assert_eq!(order.lock().unwrap().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn results_go_after_their_time_and_jobs_after_theirs() {
    let world = World::with("dormouse.bulk.result.retention.days=1\ndormouse.bulk.job.retention.days=2");
    let table = filled(&world).await;
    for name in ["job-1", "job-10"] {
        started(&world, name).await;
    }
    world.settle().await;
    let minute = Duration::from_secs(60);
    world.sleep(DAY - minute).await;
    sweep(&world).await;
    let job = assert_complete(&world, &table, "job-1").await;
    bulk::delete(&world.services, &tenant(), &id("job-10"))
        .await
        .unwrap();
    assert_eq!(
        world.services.bulk.get(&tenant(), &id("job-10")).await.unwrap(),
        None
    );
    assert_eq!(objects(&world, &job).await.len(), 2);
    world.sleep(minute).await;
    sweep(&world).await;
    assert!(objects(&world, &job).await.is_empty());
    let removed = self::job(&world, "job-1").await;
    assert!(removed.removed);
    assert_eq!(removed.withdrawn, Some(world.clock.now()));
    assert_eq!(removed.result, job.result);
    world.sleep(DAY).await;
    sweep(&world).await;
    assert_eq!(
        world.services.bulk.get(&tenant(), &id("job-1")).await.unwrap(),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_not_ended_is_not_deleted_and_one_that_has_goes_with_its_objects() {
    let world = World::new();
    filled(&world).await;
    started(&world, "job-1").await;
    let early = bulk::delete(&world.services, &tenant(), &id("job-1"))
        .await
        .unwrap_err();
    assert_eq!(early.kind(), dormouse_core::ErrorKind::Conflict);
    world.settle().await;
    let done = job(&world, "job-1").await;
    for polls in 1.. {
        let deleted = polled(polls, bulk::delete(&world.services, &tenant(), &id("job-1"))).await;
        match deleted {
            Some(Ok(())) => break,
            Some(Err(error)) => assert_eq!(error.kind(), dormouse_core::ErrorKind::NotFound),
            None => continue,
        }
        break;
    }
    assert!(objects(&world, &done).await.is_empty());
    assert_eq!(
        world.services.bulk.get(&tenant(), &id("job-1")).await.unwrap(),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_running_job_reads_is_not_collected() {
    let world = World::new();
    let table = world
        .table_with("events", 2, &[("table.state.history.retention.hours", "0")])
        .await;
    world.fed(&table, "first", &rows("a", [1, 150])).await;
    let expected = world.rows(&table).await;
    started(&world, "job-1").await;
    let gate = world.query_gate(|step| matches!(step, QueryStep::Named(_)));
    let collect = async {
        gate.reached().await;
        world.commit(&table, "clear", Record::TableCleared).await;
        for _ in 0..3 {
            world.sleep(Duration::from_secs(1200)).await;
            collect_all(&world.process(), AT_ONCE).await.unwrap();
        }
        assert_eq!(world.data_files(&table.id).await.len(), 1);
        gate.open();
    };
    join(work(&world), collect).await;
    let job = job(&world, "job-1").await;
    assert_eq!(written(&world, &job).await, expected);
    assert_unpinned(&world, &table, &job).await;
    for _ in 0..3 {
        world.sleep(Duration::from_secs(1200)).await;
        collect_all(&world.process(), AT_ONCE).await.unwrap();
    }
    assert!(world.data_files(&table.id).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_sees_a_table_in_one_state() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let (claimed, run) = claimed(&world, "job-1").await;
    let tables = bulk::pinned_tables(&world.services, &claimed, &run)
        .await
        .unwrap();
    let first = tables.table("events").await.unwrap().unwrap();
    world.fed(&table, "second", &rows("b", [7])).await;
    let second = tables.table("events").await.unwrap().unwrap();
    assert_eq!(first.state.transaction(), second.state.transaction());
    let pins: Vec<_> = world
        .state(&table)
        .await
        .pins()
        .map(|(_, pin)| pin.clone())
        .collect();
    assert_eq!(pins.len(), 1);
    assert_eq!(pins[0].transaction, first.state.transaction());
    assert_eq!(pins[0].until, claimed.deadline);
    assert_eq!(job(&world, "job-1").await.pins.len(), 1);
    assert!(tables.table("nothing").await.unwrap().is_none());
    // Of a run that has lost its job, nothing is pinned.
    bulk::abort(&world.services, &tenant(), &id("job-1"))
        .await
        .unwrap();
    let late = bulk::pinned_tables(&world.services, &claimed, &run)
        .await
        .unwrap();
    assert!(late.table("events").await.is_err());
    assert_eq!(world.state(&table).await.pins().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ends_while_its_run_takes_a_pin_leaves_none() {
    let mut pinned = 0;
    for polls in 1.. {
        let world = World::new();
        let table = filled(&world).await;
        started(&world, "job-1").await;
        let (claimed, run) = claimed(&world, "job-1").await;
        let tables = bulk::pinned_tables(&world.services, &claimed, &run)
            .await
            .unwrap();
        let mut pinning = tables.table("events");
        let snapshot = polled(polls, &mut pinning).await;
        // In another process: what is begun here may hold what calls of one process take turns with.
        let other = world.process();
        pinned += usize::from(other.states.state(&table.id).await.unwrap().pins().count() > 0);
        bulk::abort(&other, &tenant(), &id("job-1")).await.unwrap();
        if snapshot.is_some() {
            assert!(polls > 2 && pinned > 1, "{pinned} of {polls}");
            break;
        }
        // It may have seen the job as it was before: what matters is that the pin is gone.
        let _ = pinning.await;
        assert_eq!(world.state(&table).await.pins().count(), 0, "{polls}");
    }
}

/// A job that a run has claimed, with the run's id.
async fn claimed(world: &World, name: &str) -> (BulkJob, RunId) {
    let by = ClaimedBy {
        run: RunId::new("run").unwrap(),
        message: "message".to_owned(),
        attempt: 1,
    };
    let lease = Duration::from_secs(60);
    let claim = world
        .services
        .bulk
        .claim(&tenant(), &id(name), &by, 1, lease)
        .await;
    match claim.unwrap() {
        Claim::Begun(job) => (*job, by.run),
        _ => panic!("it is its turn"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_reads_its_own_tables_and_shared_ones_and_others_are_as_absent() {
    let world = World::new();
    let acme = TenantId::new("acme").unwrap();
    let other = TenantId::new("other").unwrap();
    for (name, properties) in [
        ("own", vec![("table.tenant", "acme")]),
        ("shared", vec![("table.tenant", "acme"), ("table.shared", "true")]),
        ("nobodys", vec![]),
    ] {
        let table = world.table_with(name, 1, &properties).await;
        world.fed(&table, &format!("feed-{name}"), &rows("a", [1])).await;
    }
    let sql = |table: &str| format!("SELECT * FROM {table}");
    start(&world, query_of(&world, &tenant(), "alone", &sql("nobodys"))).await;
    world.settle().await;
    assert_eq!(job(&world, "alone").await.state, BulkState::JobComplete);
    for tenant in [&acme, &other] {
        world.services.tenants.create(tenant.clone()).await.unwrap();
    }
    let instance = tenant();
    for (tenant, table, sees) in [
        (&acme, "own", true),
        (&acme, "shared", true),
        (&acme, "nobodys", false),
        (&other, "own", false),
        (&other, "shared", true),
        (&other, "nobodys", false),
        (&other, "absent", false),
        (&instance, "own", false),
        (&instance, "nobodys", false),
    ] {
        start(
            &world,
            query_of(&world, tenant, &format!("job-{table}"), &sql(table)),
        )
        .await;
        world.settle().await;
        let job = job_of(&world, tenant, &format!("job-{table}")).await;
        if sees {
            assert_eq!(written(&world, &job).await, rows("a", [1]), "{tenant} {table}");
        } else {
            assert_eq!(job.state, BulkState::Failed, "{tenant} {table}");
            let text = format!("Table '{table}' does not exist");
            assert_eq!(failure(&job), (FailureCode::QueryError, text.as_str()));
            assert!(job.pins.is_empty() && job.snapshot.is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn others_read_a_shared_table_by_its_row_policy() {
    let world = World::new();
    let [owner, other] = ["acme", "other"].map(|id| TenantId::new(id).unwrap());
    let predicate = "payload = $tenant";
    let properties = [
        ("table.tenant", "acme"),
        ("table.shared", "true"),
        ("table.shared.where", predicate),
    ];
    world.table_with("shared", 1, &properties).await;
    let policy = Some(RowPolicy {
        predicate: Predicate::new(predicate).unwrap(),
        reader: other.clone(),
    });
    for (reader, expected) in [(None, None), (Some(owner), None), (Some(other), policy)] {
        let tables = AllTables::of_tenant(world.services.clone(), reader.clone(), None);
        let snapshot = tables.table("shared").await.unwrap().unwrap();
        assert_eq!(snapshot.policy, expected, "{reader:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn progress_grows_while_a_job_runs() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let clock = world.clock.clone();
    world.queries.set_hook(move |_| {
        let clock = clock.clone();
        async move {
            clock.sleep(Duration::from_secs(2)).await;
            Ok(())
        }
    });
    let mut seen = Vec::new();
    let watch = async {
        loop {
            let job = job(&world, "job-1").await;
            seen.push(job.progress.percent);
            if job.state.is_terminal() {
                return;
            }
            world.sleep(Duration::from_millis(300)).await;
        }
    };
    join(work(&world), watch).await;
    assert_complete(&world, &table, "job-1").await;
    assert!(seen.is_sorted(), "{seen:?}");
    seen.dedup();
    let expected = [None, Some(0), Some(30), Some(50), Some(80), Some(99), Some(100)];
    let known = seen.iter().filter(|percent| expected.contains(percent)).count();
    assert!(known >= 4 && seen.len() <= expected.len(), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_delays_a_job_and_one_that_fails_for_ever_ends_it() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let failures = Arc::new(AtomicU32::new(2));
    let left = failures.clone();
    world.queries.set_hook(move |step| {
        let fails = matches!(step, QueryStep::Write(_))
            && left
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .is_ok();
        async move {
            match fails {
                true => Err(Error::unavailable("the store is out of order")),
                false => Ok(()),
            }
        }
    });
    world.settle().await;
    let done = assert_complete(&world, &table, "job-1").await;
    assert_eq!(done.runs, 3);
    for (number, (kind, code)) in [
        (Error::unavailable("no"), FailureCode::StorageError),
        (Error::corrupt("no"), FailureCode::StorageError),
        (Error::internal("no"), FailureCode::InternalError),
        (Error::invalid("no"), FailureCode::QueryError),
        (Error::not_found("no"), FailureCode::QueryError),
    ]
    .map(|(error, code)| (error.kind(), code))
    .into_iter()
    .enumerate()
    {
        let name = format!("job-{}", number + 2);
        world.queries.set_hook(move |step| async move {
            match step {
                QueryStep::Written(_) => Err(Error::new(kind, "it is so")),
                _ => Ok(()),
            }
        });
        started(&world, &name).await;
        world.settle().await;
        let job = job(&world, &name).await;
        assert_eq!(
            (job.state, failure(&job).0),
            (BulkState::Failed, code),
            "{kind:?}"
        );
        // What is wrong inside is not the client's.
        let is_clients = code == FailureCode::QueryError;
        assert_eq!(
            failure(&job).1.contains("it is so"),
            is_clients,
            "{}",
            failure(&job).1
        );
        let runs = if is_clients { 1 } else { 5 };
        assert_eq!(job.runs, runs, "{kind:?}");
        assert_unpinned(&world, &table, &job).await;
        assert!(
            world
                .queue(QueueName::Query)
                .dead_letters(9)
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_has_heard_of_for_its_lease_stops() {
    let world = World::new();
    let table = filled(&world).await;
    started(&world, "job-1").await;
    let gate = world.query_gate(|step| matches!(step, QueryStep::Read(_)));
    let silence = async {
        gate.reached().await;
        world.faults.unavailable("items write bulk-jobs");
        world.clock.now()
    };
    let services = world.process();
    let worker = QueryWorker::new(services.clone());
    let mut working = pin!(worker::run_once(&services, &worker));
    let since = tokio::select! {
        _ = &mut working => panic!("it stands at the gate"),
        since = silence => since,
    };
    working.await.unwrap();
    let took = world.clock.now().since(since);
    assert!(
        took > Duration::from_secs(58) && took < Duration::from_secs(65),
        "{took:?}"
    );
    world.faults.clear();
    world.queries.clear_hook();
    tended(&world).await;
    assert_eq!(assert_complete(&world, &table, "job-1").await.runs, 2);
}
