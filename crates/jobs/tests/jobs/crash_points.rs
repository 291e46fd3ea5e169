//! Every call on a port is a crash point. Each is met by a crash, an error and a delay, before the call has its
//! effect and after; then the work is run again, and everything must be as if nothing had happened.
//!
//! `crash_points.txt` lists the points. A point that is not listed, or is listed and not visited, fails the test;
//! with `DORMOUSE_UPDATE=1` the list is written anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dormouse_core::{
    ids::{BulkJobId, JobId},
    ports::{QueueName, QueueSettings},
    state::{Commit, CommitId, Record},
    testing::rows::{MemoryRows, Row},
};
use dormouse_jobs::testing::{
    checks::{self, Expected, Sent},
    instance::{Instance, KEYS, OPERATOR, TableForm},
    ports::INPUTS,
    process,
    stage::{Act, Call, Calm, Director, Fate},
};
use futures::FutureExt;
use object_store::ObjectStoreExt;

const LIST: &str = include_str!("crash_points.txt");

/// Longer than messages stay hidden.
const STANDSTILL: Duration = Duration::from_secs(95);

/// The ways in which a call goes wrong.
const FATES: [(&str, Act); 6] = [
    ("crash before", Act::CrashBefore),
    ("crash after", Act::CrashAfter),
    ("error before", Act::Fail("failed")),
    ("error after", Act::LoseReply),
    ("delay before", Act::PauseBefore(STANDSTILL)),
    ("delay after", Act::PauseAfter(STANDSTILL)),
];

/// Counts calls by point, and has its way with one of them.
#[derive(Clone, Default)]
struct Fateful {
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
    /// Which call of which point, and what happens to it.
    target: Option<(String, usize, Act)>,
    met: Arc<AtomicUsize>,
}

impl Director for Fateful {
    fn decide(&mut self, call: &Call) -> Fate {
        if call.actor == OPERATOR {
            return Fate::default();
        }
        let point = call.to_string();
        let mut seen = self.seen.lock().unwrap();
        let count = seen.entry(point.clone()).or_default();
        *count += 1;
        match &self.target {
            Some((wanted, which, act)) if *wanted == point && which == count => {
                self.met.fetch_add(1, Ordering::Relaxed);
                Fate {
                    act: *act,
                    ..Fate::default()
                }
            }
            _ => Fate::default(),
        }
    }
}

const FORM: TableForm = TableForm {
    leaves: 3,
    queued: false,
    snapshot: 1,
    target: 40,
    batch: 2,
    threshold: 100_000,
};

async fn create(instance: &Instance, expected: &mut Expected, name: &str, form: TableForm) {
    let info = instance.create(name, form).await;
    expected.tables.insert(name.to_owned(), info);
}

/// Sends a job that brings a row for each key.
async fn feed(
    instance: &Instance,
    expected: &mut Expected,
    table: &str,
    job: &str,
    keys: impl Iterator<Item = i64>,
) {
    let rows: Vec<Row> = keys.map(|key| (key, format!("{job}/{key}"))).collect();
    instance.input(job, &rows, 2).await;
    let id = JobId::new(job).unwrap();
    instance.stage.auditor.promise(id.clone(), Arc::new(rows));
    let sent = Sent {
        table: table.to_owned(),
        good: true,
    };
    expected.jobs.insert(id, sent);
    let body = format!(r#"{{"id":"{job}","tableName":"{table}","files":["{INPUTS}/{job}"]}}"#);
    instance.send(QueueName::Ingest, body).await;
}

async fn export(instance: &Instance, expected: &mut Expected, table: &str, export: &str) {
    let id = expected.tables[table].id.clone();
    let body = format!(r#"{{"tableId":"{id}","exportId":"{export}"}}"#);
    expected.exports.insert(export.to_owned(), id);
    instance.send(QueueName::Export, body).await;
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// All workflows, one after the other.
    All,
    /// A job whose commit is too large for an item.
    Wide,
}

impl Script {
    async fn play(self, instance: &Instance) -> Expected {
        match self {
            Self::All => all(instance).await,
            Self::Wide => wide(instance).await,
        }
    }
}

async fn wide(instance: &Instance) -> Expected {
    let mut expected = Expected::default();
    create(instance, &mut expected, "wide", TableForm { leaves: 450, ..FORM }).await;
    feed(instance, &mut expected, "wide", "job-1", 0..KEYS).await;
    instance.drained("after a wide job").await;
    for _ in 0..3 {
        instance.leap(Duration::from_secs(2 * 3600));
        instance.sleep(Duration::from_secs(400)).await;
    }
    expected
}

async fn all(instance: &Instance) -> Expected {
    let mut expected = Expected::default();
    let queued = TableForm { queued: true, ..FORM };
    let hot = TableForm { threshold: 2, ..FORM };
    for (name, form) in [
        ("direct", FORM),
        ("queued", queued),
        ("whole", FORM),
        ("dropped", FORM),
        ("hot", hot),
    ] {
        create(instance, &mut expected, name, form).await;
    }
    for (table, job) in [
        ("direct", "job-1"),
        ("queued", "job-2"),
        ("dropped", "job-3"),
        ("whole", "job-4"),
        ("hot", "job-8"),
    ] {
        feed(instance, &mut expected, table, job, (0..KEYS).step_by(50)).await;
    }
    let bad = format!(r#"{{"id":"job-5","tableName":"direct","files":["{INPUTS}/nothing"]}}"#);
    instance.send(QueueName::Ingest, bad).await;
    let sent = Sent {
        table: "direct".to_owned(),
        good: false,
    };
    expected.jobs.insert(JobId::new("job-5").unwrap(), sent);
    instance.drained("after the first jobs").await;
    feed(instance, &mut expected, "hot", "job-9", (0..KEYS).step_by(50)).await;

    // A leaf of one file is copied, others are merged.
    feed(instance, &mut expected, "direct", "job-6", (0..300).step_by(50)).await;
    instance.drained("after one more job").await;
    export(instance, &mut expected, "direct", "export-1").await;
    export(instance, &mut expected, "queued", "export-2").await;
    instance.drained("after the exports").await;

    bulk_jobs(instance, &mut expected).await;

    // A leaf that cannot be read ends in the dead letters; once its file is whole again, it is sent again.
    let state = instance.stage.auditor.state(&expected.tables["whole"].id);
    let (file, _) = state.files().next().unwrap();
    let path = file.name.object_path(&expected.tables["whole"].id);
    let data = instance.storage.bucket("data");
    let whole = data.get(&path).await.unwrap().bytes().await.unwrap();
    data.put(&path, "damaged".into()).await.unwrap();
    export(instance, &mut expected, "whole", "export-3").await;
    instance.drained("after a damaged file").await;
    data.put(&path, whole.into()).await.unwrap();
    instance
        .storage
        .queue(QueueName::ExportLeaf)
        .redrive(None)
        .await
        .unwrap();
    instance.drained("after the file was whole again").await;

    let clear = Commit::new(CommitId::new("clear"), Record::TableCleared);
    let direct = expected.tables["direct"].id.clone();
    instance.operator.states.commit(&direct, clear).await.unwrap();
    feed(instance, &mut expected, "direct", "job-7", (0..KEYS).step_by(90)).await;
    let dropped = expected.tables.remove("dropped").unwrap();
    instance.operator.tables.delete(&dropped.name).await.unwrap();
    expected.dropped.push("dropped".to_owned());
    instance.drained("after the table was cleared").await;

    // Schedules mark, delete, forget and cut, purge the dropped table, and remove bulk jobs and their results.
    for _ in 0..4 {
        instance.leap(Duration::from_secs(2 * 3600));
        instance.sleep(Duration::from_secs(400)).await;
    }
    expected
}

/// Two jobs, of which one waits for the other, and one whose table is not there.
async fn bulk_jobs(instance: &Instance, expected: &mut Expected) {
    let jobs = [("bulk-1", "direct"), ("bulk-2", "direct"), ("bulk-3", "nothing")];
    for (id, table) in jobs {
        instance.bulk_job(&BulkJobId::new(id).unwrap(), table).await;
    }
    instance.bulk_ended().await;
    instance.drained("after bulk jobs").await;
    for (id, table) in jobs {
        let rows = checks::bulk_job(instance, &BulkJobId::new(id).unwrap()).await;
        let state = expected.tables.get(table);
        let state = state.map(|table| instance.stage.auditor.state(&table.id).rows());
        if rows != state {
            let text = format!("Bulk: job {id} has {rows:?} rows, and table {table} {state:?}");
            instance.stage.auditor.violation(text);
        }
    }
}

/// Plays the script with this director; what was broken.
fn run(script: Script, director: Fateful) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let queues = QueueSettings {
            visibility: Duration::from_secs(30),
            max_attempts: 4,
        };
        let instance = Instance::new(7, Arc::new(MemoryRows), queues, 40);
        instance.stage.direct(director);
        let down = || Duration::from_secs(1);
        let hosts = futures::future::join_all((0..2).map(|slot| instance.host(slot, || 0, down).boxed()));
        let work = process::acting(OPERATOR, async {
            let mut expected = script.play(&instance).await;
            instance.stage.direct(Calm);
            for queue in QueueName::ALL {
                instance.storage.queue(queue).redrive(None).await.unwrap();
            }
            instance.drained("after dead letters were sent again").await;
            // The script's own leaps are longer than exports may take.
            expected.leapt = true;
            checks::all(&instance, &mut expected).await;
            checks::no_bulk_jobs(&instance).await;
        });
        tokio::select! {
            biased;
            () = work => {}
            _ = hosts => {}
        }
        instance.stage.auditor.violations()
    })
}

/// The points that a script without faults visits, and how often each.
fn visited(script: Script) -> BTreeMap<String, usize> {
    let director = Fateful::default();
    let violations = run(script, director.clone());
    assert!(violations.is_empty(), "{violations:#?}");
    let seen = director.seen.lock().unwrap();
    seen.clone()
}

/// Every point, and how often which script visits it.
fn points() -> BTreeMap<String, (Script, usize)> {
    let mut points = BTreeMap::new();
    for script in [Script::All, Script::Wide] {
        for (point, count) in visited(script) {
            points.entry(point).or_insert((script, count));
        }
    }
    points
}

#[test]
fn every_point_is_listed() {
    let points: Vec<String> = points().into_keys().collect();
    let text = points.join("\n") + "\n";
    if std::env::var_os("DORMOUSE_UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jobs/crash_points.txt");
        std::fs::write(path, text).unwrap();
        return;
    }
    let listed: BTreeSet<_> = LIST.lines().collect();
    let found: BTreeSet<_> = points.iter().map(String::as_str).collect();
    let unlisted: Vec<_> = found.difference(&listed).collect();
    let unvisited: Vec<_> = listed.difference(&found).collect();
    assert!(
        unlisted.is_empty() && unvisited.is_empty(),
        "not listed: {unlisted:#?}\nnot visited: {unvisited:#?}\nDORMOUSE_UPDATE=1 writes the list anew"
    );
}

#[test]
fn every_point_survives_a_crash_an_error_and_a_delay() {
    let mut runs = Vec::new();
    for (point, (script, count)) in points() {
        // What a point is about may differ from call to call: crashes meet the last one too.
        for (name, act) in FATES {
            let is_crash = matches!(act, Act::CrashBefore | Act::CrashAfter);
            let places = if is_crash && count > 1 {
                vec![1, count]
            } else {
                vec![1]
            };
            for place in places {
                runs.push((
                    format!("{name} \"{point}\" #{place}"),
                    script,
                    point.clone(),
                    place,
                    act,
                ));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    let unmet = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, script, point, place, act)) =
                    runs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let director = Fateful {
                        target: Some((point.clone(), *place, *act)),
                        ..Fateful::default()
                    };
                    let violations = run(*script, director.clone());
                    if !violations.is_empty() {
                        broken.lock().unwrap().push(format!("{name}: {violations:#?}"));
                    }
                    if director.met.load(Ordering::Relaxed) == 0 {
                        unmet.lock().unwrap().push(name.clone());
                    }
                }
            });
        }
    });
    let (broken, unmet) = (broken.into_inner().unwrap(), unmet.into_inner().unwrap());
    assert!(
        broken.is_empty(),
        "{} of {} runs: {}",
        broken.len(),
        runs.len(),
        broken.join("\n")
    );
    assert!(unmet.is_empty(), "never came: {unmet:#?}");
}
