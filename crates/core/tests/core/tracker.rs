//! What the tracker keeps of jobs and of the parts of exports, and how jobs are listed.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use dormouse_core::{
    collections::Collection,
    error::ErrorKind,
    file::{Checksum, RowDigest},
    ids::{ExportId, JobId, SubExportId, TableId, TransactionNumber},
    key::KeyRange,
    plan::export::ExportPlan,
    ports::{Clock, Condition, Item, ItemKey, ItemStore, item_store::MAX_ITEM_BYTES},
    testing::{
        memory::MemoryItemStore,
        seeded::{PausedClock, SeededIds},
    },
    time::Timestamp,
    tracker::{
        EventKind, ExportPart, JobCursor, JobFilter, JobKey, JobKind, JobReport, JobStatus, PartsProgress,
        Tracker,
    },
};
use futures::future::{join, try_join_all};

use crate::{
    faulty_items::FaultyItems,
    samples::{DAY, Fold, MINUTE, START, added, file, job, key, pin, run, table},
};

const HOUR: i64 = 60 * MINUTE;
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

struct World {
    items: Arc<MemoryItemStore>,
    clock: Arc<PausedClock>,
    tracker: Tracker,
}

fn tracker_on(items: Arc<dyn ItemStore>, clock: &Arc<PausedClock>, retention: Duration) -> Tracker {
    Tracker::new(items, clock.clone(), Arc::new(SeededIds::new(1)), retention)
}

impl World {
    fn new() -> Self {
        Self::keeping(RETENTION)
    }

    fn keeping(retention: Duration) -> Self {
        let clock = Arc::new(PausedClock::new(START));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let tracker = tracker_on(items.clone(), &clock, retention);
        Self {
            items,
            clock,
            tracker,
        }
    }

    /// The tracker as a process sees it whose writes fail so.
    fn faulty(&self) -> (Arc<FaultyItems>, Tracker) {
        let items = Arc::new(FaultyItems::new(self.items.clone(), self.clock.clone(), 3));
        (items.clone(), tracker_on(items, &self.clock, RETENTION))
    }

    async fn record(&self, key: &JobKey, kind: EventKind) -> JobReport {
        self.tracker
            .record(key, Some("events"), (&run("run-1"), 1), kind)
            .await
            .unwrap()
    }

    async fn listed(&self, filter: JobFilter) -> Vec<String> {
        names(&self.tracker.list(&filter, 1000).await.unwrap())
    }
}

fn names(reports: &[JobReport]) -> Vec<String> {
    reports.iter().map(|report| report.key.job.to_string()).collect()
}

fn ingest(id: &str) -> JobKey {
    JobKey {
        kind: JobKind::Ingest,
        table: Some(table()),
        job: job(id),
    }
}

fn committed() -> EventKind {
    EventKind::Committed {
        transaction: TransactionNumber(3),
        rows: 5,
        files: 1,
    }
}

fn failed(reasons: Vec<String>) -> EventKind {
    EventKind::Failed { reasons }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_known_by_its_report_and_its_events() {
    let world = World::new();
    let key = ingest("j");
    assert_eq!(world.tracker.report(&key).await.unwrap(), None);
    // All at one time, and not in order.
    world.record(&key, EventKind::Started).await;
    world.record(&key, EventKind::Accepted { input_files: 2 }).await;
    let progress = EventKind::Progress {
        rows_read: 4,
        rows_written: 0,
    };
    let running = world.record(&key, progress).await;
    assert_eq!((running.status, running.rows_read()), (JobStatus::InProgress, 4));
    let written = EventKind::Written {
        rows_read: 5,
        rows_written: 5,
        files: 1,
    };
    world.record(&key, written).await;
    let finished = world.record(&key, committed()).await;
    assert_eq!(
        (finished.status, finished.input_files, finished.rows_written()),
        (JobStatus::Finished, 2, 5)
    );
    assert_eq!(finished.table_name.as_deref(), Some("events"));
    assert_eq!(world.tracker.report(&key).await.unwrap(), Some(finished.clone()));

    let events = world.tracker.events(&key).await.unwrap();
    let kept: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(kept, ["accepted", "started", "written", "committed"]);

    let of_compaction = JobKey {
        kind: JobKind::Compaction,
        ..key.clone()
    };
    assert_eq!(world.tracker.events(&of_compaction).await.unwrap(), []);
    let created = world
        .record(
            &of_compaction,
            EventKind::Created {
                input_files: 0,
                purge: None,
            },
        )
        .await;
    assert_eq!(created.status, JobStatus::Created);
    let both = world.tracker.reports(&key.job).await.unwrap();
    assert_eq!(both, [created, finished]);
    world
        .record(&of_compaction, EventKind::Accepted { input_files: 0 })
        .await;
    let events = world.tracker.events(&of_compaction).await.unwrap();
    let kept: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(kept, ["created", "accepted"]);
}

#[tokio::test(start_paused = true)]
async fn each_part_of_an_export_that_failed_is_an_event() {
    let world = World::new();
    let key = JobKey {
        kind: JobKind::Export,
        ..ingest("e")
    };
    let split = EventKind::Split {
        transaction: TransactionNumber(3),
        sub_exports: 3,
    };
    world.record(&key, split).await;
    let done = EventKind::PartsDone {
        done: 1,
        rows: 2,
        bytes: 3,
    };
    world.record(&key, done).await;
    for part in ["a", "b"] {
        let failed = EventKind::PartFailed {
            part: part.to_owned(),
            reasons: vec!["gone".to_owned()],
        };
        world.record(&key, failed).await;
    }
    let events = world.tracker.events(&key).await.unwrap();
    let kept: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(kept, ["split", "part_failed", "part_failed"]);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_forgotten_some_time_after_its_last_event() {
    let world = World::new();
    let key = ingest("j");
    world.record(&key, EventKind::Started).await;
    world.clock.jump(5 * DAY);
    world.record(&key, committed()).await;
    world.clock.jump(7 * DAY - 1);
    assert!(world.tracker.report(&key).await.unwrap().is_some());
    let events = world.tracker.events(&key).await.unwrap();
    assert_eq!(events.len(), 1, "the first event is as old as it is");
    assert_eq!(world.listed(JobFilter::default()).await, ["j"]);
    world.clock.jump(1);
    assert_eq!(world.tracker.report(&key).await.unwrap(), None);
    assert_eq!(world.tracker.events(&key).await.unwrap(), []);
    assert_eq!(world.listed(JobFilter::default()).await, [""; 0]);

    // It comes back while the place in the list is still kept that it had.
    world.clock.jump(DAY);
    world.record(&key, EventKind::Started).await;
    assert_eq!(world.listed(JobFilter::default()).await, ["j"]);
}

#[tokio::test(start_paused = true)]
async fn jobs_are_listed_as_long_as_they_are_known() {
    let world = World::new();
    // An hour before midnight.
    let to_midnight = DAY - START.as_millis().rem_euclid(DAY);
    world.clock.jump(to_midnight - HOUR);
    let key = ingest("j");
    world.record(&key, EventKind::Started).await;
    world.clock.jump(7 * DAY - 2 * HOUR);
    world.record(&key, committed()).await;
    world.clock.jump(7 * DAY - HOUR);
    assert_eq!(world.listed(JobFilter::default()).await, ["j"]);
}

#[tokio::test(start_paused = true)]
async fn texts_that_are_too_long_are_cut() {
    let world = World::new();
    let key = ingest("j");
    let reasons: Vec<String> = (0..6).map(|i| format!("{i}{}", "é".repeat(1000))).collect();
    let rejected = EventKind::Rejected {
        reasons: reasons.clone(),
        message: "é".repeat(4001),
    };
    let report = world.record(&key, rejected).await;
    assert_eq!(report.message, Some(format!("{}…", "é".repeat(4000))));
    let cut: Vec<String> = (0..5).map(|i| format!("{i}{}…", "é".repeat(999))).collect();
    assert_eq!(report.reasons(), cut);

    let short = EventKind::Rejected {
        reasons: vec!["é".repeat(1000)],
        message: "é".repeat(4000),
    };
    let report = world.record(&ingest("k"), short).await;
    assert_eq!(report.message, Some("é".repeat(4000)));
    assert_eq!(report.reasons(), ["é".repeat(1000)]);

    for kind in [
        failed(reasons.clone()),
        EventKind::Retrying {
            reasons: reasons.clone(),
        },
        EventKind::PartFailed {
            part: "p".to_owned(),
            reasons: reasons.clone(),
        },
    ] {
        let report = world.record(&ingest(kind.name()), kind).await;
        assert_eq!(report.reasons(), cut);
    }
}

#[tokio::test(start_paused = true)]
async fn lists_are_of_the_jobs_that_pass_the_filter() {
    let world = World::new();
    let other = TableId::new("other").unwrap();
    world.record(&ingest("a"), committed()).await;
    world.clock.jump(DAY);
    let of_other = JobKey {
        table: Some(other.clone()),
        ..ingest("b")
    };
    world.record(&of_other, EventKind::Started).await;
    let since = world.clock.now();
    world.clock.jump(1);
    let export = JobKey {
        kind: JobKind::Export,
        ..ingest("c")
    };
    world
        .record(&export, EventKind::Accepted { input_files: 0 })
        .await;
    world.clock.jump(2 * DAY);
    let of_none = JobKey {
        table: None,
        ..ingest("d")
    };
    world.record(&of_none, failed(vec!["no table".to_owned()])).await;

    let all = JobFilter::default;
    assert_eq!(world.listed(all()).await, ["d", "c", "b", "a"]);
    for (filter, expected) in [
        (
            JobFilter {
                kind: Some(JobKind::Ingest),
                ..all()
            },
            &["d", "b", "a"][..],
        ),
        (
            JobFilter {
                table: Some(table()),
                ..all()
            },
            &["c", "a"],
        ),
        (
            JobFilter {
                table: Some(other),
                ..all()
            },
            &["b"],
        ),
        (
            JobFilter {
                status: Some(JobStatus::Failed),
                ..all()
            },
            &["d"],
        ),
        (
            JobFilter {
                since: Some(since),
                ..all()
            },
            &["d", "c", "b"],
        ),
        (
            JobFilter {
                until: Some(since),
                ..all()
            },
            &["a"],
        ),
        (
            JobFilter {
                since: Some(since),
                until: Some(since.plus(Duration::from_millis(1))),
                ..all()
            },
            &["b"],
        ),
        (
            JobFilter {
                until: Some(START.minus(RETENTION * 100)),
                ..all()
            },
            &[],
        ),
        (
            JobFilter {
                since: Some(Timestamp::from_millis(0)),
                until: Some(START.plus(RETENTION * 100_000)),
                ..all()
            },
            &["d", "c", "b", "a"],
        ),
    ] {
        assert_eq!(world.listed(filter.clone()).await, expected, "{filter:?}");
    }
    assert_eq!(names(&world.tracker.list(&all(), 2).await.unwrap()), ["d", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_read_page_by_page() {
    let world = World::new();
    let mut expected = Vec::new();
    for i in 0..450 {
        world.record(&ingest(&format!("j{i}")), EventKind::Started).await;
        expected.push(format!("j{i}"));
        world.clock.jump(if i == 420 { 2 * DAY } else { 1 });
    }
    expected.reverse();
    assert_eq!(world.listed(JobFilter::default()).await, expected);

    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = world
            .tracker
            .list_after(&JobFilter::default(), cursor.as_ref(), 100)
            .await
            .unwrap();
        assert!(page.jobs.len() <= 100);
        found.extend(names(&page.jobs));
        let Some(next) = page.next else { break };
        cursor = Some(JobCursor::new(next.as_str()));
    }
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn a_place_in_a_list_is_one_that_a_page_gave() {
    let world = World::new();
    world.record(&ingest("j"), EventKind::Started).await;
    let page = async |cursor: &str| {
        let cursor = JobCursor::new(cursor);
        world
            .tracker
            .list_after(&JobFilter::default(), Some(&cursor), 10)
            .await
    };
    for wrong in ["", "soon", "|j"] {
        let error = page(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong}");
        assert!(error.to_string().contains("no place in a list"), "{error}");
    }
    let far = page("9999999999999999|j|ingest|-").await.unwrap();
    assert_eq!((names(&far.jobs), far.next), (vec!["j".to_owned()], None));
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_reporter_whose_clock_is_ahead_are_listed() {
    let world = World::new();
    let ahead = Arc::new(PausedClock::new(START.plus(Duration::from_secs(20 * 3600))));
    assert_ne!(ahead.now().day(), START.day());
    let reporter = tracker_on(world.items.clone(), &ahead, RETENTION);
    reporter
        .record(&ingest("j"), None, (&run("run-1"), 1), EventKind::Started)
        .await
        .unwrap();
    assert_eq!(world.listed(JobFilter::default()).await, ["j"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_again_is_not_written_again() {
    let world = World::new();
    let (items, tracker) = world.faulty();
    let run = run("run-1");
    let record = async |kind| {
        let before = items.writes.load(Relaxed);
        tracker.record(&ingest("j"), None, (&run, 1), kind).await.unwrap();
        items.writes.load(Relaxed) - before
    };
    assert_eq!(
        record(EventKind::Started).await,
        3,
        "the event, the place and the report"
    );
    assert_eq!(record(EventKind::Started).await, 1, "the event");
    let progress = || EventKind::Progress {
        rows_read: 4,
        rows_written: 0,
    };
    assert_eq!(record(progress()).await, 1, "the report");
    assert_eq!(record(progress()).await, 0);
    assert_eq!(world.clock.now(), START, "nobody waited");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_changed_is_tried_for_a_while() {
    let world = World::new();
    let (items, tracker) = world.faulty();
    let run = run("run-1");
    let progress = || EventKind::Progress {
        rows_read: 4,
        rows_written: 0,
    };
    *items.refusal.lock().unwrap() = Some(ErrorKind::Conflict);
    let error = tracker
        .record(&ingest("j"), None, (&run, 1), progress())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.report(),
        "the report of job j could not be changed: no write is done"
    );
    assert_eq!(
        items.writes.load(Relaxed),
        2 * 20,
        "the place, and again by itself"
    );
    let waited = world.clock.now().since(START);
    assert!(
        waited > Duration::from_secs(2) && waited < Duration::from_secs(25),
        "{waited:?}"
    );

    *items.refusal.lock().unwrap() = Some(ErrorKind::Invalid);
    let error = tracker
        .record(&ingest("j"), None, (&run, 1), progress())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(items.writes.load(Relaxed), 2 * 21);
}

#[tokio::test(start_paused = true)]
async fn no_event_is_lost_between_reporters_whose_writes_fail() {
    let world = World::new();
    let (items, one) = world.faulty();
    let (_, other) = world.faulty();
    items.write_faults.store(30, Relaxed);
    let progress = |reported| EventKind::Progress {
        rows_read: reported,
        rows_written: 0,
    };
    let (first, second) = (run("run-1"), run("run-2"));
    for reported in 1..20 {
        let (key, other_key) = (ingest("j"), ingest("j"));
        let (told, _) = join(
            one.record(&key, None, (&first, 1), progress(reported)),
            other.record(&other_key, None, (&second, 2), progress(reported)),
        )
        .await;
        told.unwrap();
        let report = world.tracker.report(&key).await.unwrap().unwrap();
        let rows: Vec<_> = report.runs.iter().map(|run| run.rows_read).collect();
        assert_eq!(rows, [reported, reported]);
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_come_meanwhile_are_written_together_and_reports_read() {
    let world = World::new();
    let (items, tracker) = world.faulty();
    let run = run("run-1");
    let keys: Vec<JobKey> = (0..20).map(|i| ingest(&format!("j{i:02}"))).collect();
    items.closed.store(true, Relaxed);
    let first = tracker.record(&keys[0], None, (&run, 1), committed());
    let others = keys[1..]
        .iter()
        .map(|key| tracker.record(key, None, (&run, 1), committed()));
    let others = async {
        items.arrived.notified().await;
        items.closed.store(false, Relaxed);
        let others = try_join_all(others);
        items.gate.notify_one();
        others.await
    };
    let (first, others) = join(first, others).await;
    assert_eq!(first.unwrap().status, JobStatus::Finished);
    assert_eq!(others.unwrap().len(), 19);
    let writes = items.writes.load(Relaxed);
    assert!(
        writes < 20 + 20 + 10,
        "{writes} writes of 20 events, places and reports"
    );
    let reads = items.reads.load(Relaxed);
    assert!(reads < 10, "{reads} reads of 20 reports");
    assert_eq!(world.listed(JobFilter::default()).await.len(), 20);
    for key in &keys {
        let events = world.tracker.events(key).await.unwrap();
        assert_eq!((events.len(), events[0].kind.name()), (1, "committed"));
    }
}

#[tokio::test(start_paused = true)]
async fn events_do_not_suffer_from_one_that_cannot_be_written() {
    let world = World::new();
    let (items, tracker) = world.faulty();
    let run = run("run-1");
    let [first, large, small] = ["first", "large", "small"].map(ingest);
    items.closed.store(true, Relaxed);
    let too_large = EventKind::PartFailed {
        part: "x".repeat(MAX_ITEM_BYTES),
        reasons: Vec::new(),
    };
    let rest = async {
        items.arrived.notified().await;
        items.closed.store(false, Relaxed);
        let both = join(
            tracker.record(&large, None, (&run, 1), too_large),
            tracker.record(&small, None, (&run, 1), committed()),
        );
        items.gate.notify_one();
        both.await
    };
    let (first, (large, small)) = join(tracker.record(&first, None, (&run, 1), committed()), rest).await;
    assert_eq!(first.unwrap().status, JobStatus::Finished);
    assert_eq!(large.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(small.unwrap().status, JobStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn reports_do_not_suffer_from_one_that_cannot_be_read() {
    let world = World::new();
    let (items, tracker) = world.faulty();
    let run = run("run-1");
    let [damaged, whole] = ["damaged", "whole"].map(ingest);
    let place = ItemKey::new(
        Collection::JobStatus,
        "damaged",
        format!("ingest|{}", damaged.table.as_ref().unwrap()),
    );
    let begun = EventKind::Progress {
        rows_read: 1,
        rows_written: 0,
    };
    tracker.record(&damaged, None, (&run, 1), begun).await.unwrap();
    *items.unreadable.lock().unwrap() = Some(place);
    items.reads.store(0, Relaxed);
    let both = join(
        tracker.record(&damaged, None, (&run, 1), committed()),
        tracker.record(&whole, None, (&run, 1), committed()),
    );
    let (damaged, whole) = both.await;
    assert_eq!(damaged.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(whole.unwrap().status, JobStatus::Finished);
    assert_eq!(items.reads.load(Relaxed), 3, "one of both, one of each");
}

/// The plan of an export of two leaves, held by this pin.
fn plan(pin_id: &str) -> ExportPlan {
    let mut fold = Fold::with_table(&[100]);
    fold.ok(added("job-1", &[file("both", &[(2, 99, 4), (100, 300, 5)])]));
    let export = ExportId::new("export-1").unwrap();
    ExportPlan::new((&table(), "events"), &export, pin(pin_id), &fold.state, None).unwrap()
}

fn part(id: &str, rows: u64) -> ExportPart {
    ExportPart {
        sub_export: SubExportId::new(id).unwrap(),
        rows,
        bytes: rows * 10,
        checksum: Checksum(1),
        digest: RowDigest(2),
        range: Some(KeyRange {
            min: key(1),
            max: key(2),
        }),
    }
}

fn progress(done: u64, rows: u64) -> PartsProgress {
    PartsProgress {
        done,
        rows,
        bytes: rows * 10,
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_part_of_an_export_counts_once_and_for_its_plan_alone() {
    let world = World::new();
    let (plan, other) = (plan("p1"), plan("p2"));
    let tracker = &world.tracker;
    assert_eq!(tracker.parts_progress(&plan).await.unwrap(), progress(0, 0));
    assert_eq!(
        tracker.record_part(&plan, &part("b", 5)).await.unwrap(),
        progress(1, 5)
    );
    assert_eq!(
        tracker.record_part(&plan, &part("a", 3)).await.unwrap(),
        progress(2, 8)
    );
    assert_eq!(
        tracker.record_part(&plan, &part("b", 5)).await.unwrap(),
        progress(2, 8)
    );
    assert_eq!(world.clock.now(), START, "nobody waited");
    assert_eq!(tracker.parts_progress(&plan).await.unwrap(), progress(2, 8));
    assert_eq!(tracker.parts(&plan).await.unwrap(), [part("a", 3), part("b", 5)]);
    let a = part("a", 3);
    assert_eq!(tracker.part(&plan, &a.sub_export).await.unwrap(), Some(a.clone()));
    assert_eq!(tracker.parts(&other).await.unwrap(), []);
    assert_eq!(tracker.part(&other, &a.sub_export).await.unwrap(), None);
    assert_eq!(tracker.record_part(&other, &a).await.unwrap(), progress(1, 3));
}

#[tokio::test(start_paused = true)]
async fn all_parts_of_a_large_export_are_read() {
    let world = World::new();
    let plan = plan("p1");
    let parts: Vec<_> = (0..1001).map(|i| part(&format!("part-{i:04}"), i)).collect();
    for part in &parts {
        world.tracker.record_part(&plan, part).await.unwrap();
    }
    assert_eq!(world.tracker.parts(&plan).await.unwrap(), parts);
    assert_eq!(
        world.tracker.parts_progress(&plan).await.unwrap(),
        progress(1001, 1000 * 1001 / 2)
    );
}

#[tokio::test(start_paused = true)]
async fn parts_are_kept_until_their_export_can_have_ended() {
    for (retention, days) in [(Duration::from_secs(24 * 3600), 14), (10 * RETENTION / 7, 20)] {
        let world = World::keeping(retention);
        let plan = plan("p1");
        world.tracker.record_part(&plan, &part("a", 3)).await.unwrap();
        world.clock.jump(days * DAY - 1);
        assert_eq!(world.tracker.parts(&plan).await.unwrap().len(), 1);
        assert_eq!(world.tracker.parts_progress(&plan).await.unwrap(), progress(1, 3));
        world.clock.jump(1);
        assert_eq!(world.tracker.parts(&plan).await.unwrap().len(), 0);
        assert_eq!(world.tracker.parts_progress(&plan).await.unwrap(), progress(0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn parts_that_workers_finish_at_once_all_count() {
    let world = World::new();
    let plan = plan("p1");
    let (items, one) = world.faulty();
    let (_, other) = world.faulty();
    items.write_faults.store(30, Relaxed);
    for i in 0..20 {
        let (a, b) = (part(&format!("a{i}"), 1), part(&format!("b{i}"), 2));
        let (a, b) = join(one.record_part(&plan, &a), other.record_part(&plan, &b)).await;
        let done = [a.unwrap().done, b.unwrap().done];
        assert!(done.contains(&(2 * i + 2)), "{done:?} of {i}");
    }
    assert_eq!(
        world.tracker.parts_progress(&plan).await.unwrap(),
        progress(40, 60)
    );
    assert_eq!(world.tracker.parts(&plan).await.unwrap().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_be_counted_is_tried_for_long() {
    let world = World::new();
    let plan = plan("p1");
    let (items, tracker) = world.faulty();
    for refusal in [ErrorKind::Conflict, ErrorKind::Unavailable] {
        let (began, before) = (world.clock.now(), items.writes.load(Relaxed));
        *items.refusal.lock().unwrap() = Some(refusal);
        let error = tracker.record_part(&plan, &part("a", 3)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.to_string(),
            "part a of export export-1 could not be recorded"
        );
        assert_eq!(items.writes.load(Relaxed) - before, 100);
        let waited = world.clock.now().since(began);
        assert!(
            waited > Duration::from_secs(20) && waited < Duration::from_secs(130),
            "{waited:?}"
        );
    }
    *items.refusal.lock().unwrap() = Some(ErrorKind::Invalid);
    let error = tracker.record_part(&plan, &part("a", 3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(items.writes.load(Relaxed), 201);
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_told_apart_from_what_is_not_there() {
    let world = World::new();
    let key = ingest("j");
    let partition = format!("ingest|{}|j", table());
    let plan = plan("p1");
    let parts = format!("{}|export-1|p1", table());
    for (collection, partition, sort, attribute) in [
        (
            Collection::JobStatus,
            "j".to_owned(),
            format!("ingest|{}", table()),
            "report",
        ),
        (
            Collection::JobEvents,
            partition,
            "0001|run-1|started".to_owned(),
            "body",
        ),
        (Collection::ExportParts, parts, "a".to_owned(), "body"),
    ] {
        let item = Item::new(ItemKey::new(collection, partition, sort)).with(attribute, "{");
        world.items.put(item, Condition::None).await.unwrap();
    }
    let job: JobId = key.job.clone();
    let part = SubExportId::new("a").unwrap();
    for error in [
        world.tracker.report(&key).await.unwrap_err(),
        world.tracker.reports(&job).await.unwrap_err(),
        world.tracker.events(&key).await.unwrap_err(),
        world.tracker.parts(&plan).await.unwrap_err(),
        world.tracker.part(&plan, &part).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().ends_with("is damaged"), "{error}");
    }
}
