//! Job reports under concurrency, and lists of jobs.

use std::time::Duration;

use dormouse_core::{
    ids::{JobId, RunId, TransactionNumber},
    ports::Clock,
    tracker::{EventKind, JobCursor, JobFilter, JobKey, JobKind, JobStatus},
};

use crate::harness::World;

fn key(job: &str) -> JobKey {
    JobKey {
        kind: JobKind::Ingest,
        table: None,
        job: JobId::new(job).unwrap(),
    }
}

fn run(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn reports_of_many_workers_at_once_are_all_kept() {
    let world = World::new();
    let writers = (0..12_u32).map(|i| {
        let tracker = world.process().tracker;
        async move {
            let run = run(&format!("run-{i}"));
            for kind in [
                EventKind::Started,
                EventKind::Written {
                    rows_read: 5,
                    rows_written: 5,
                    files: 1,
                },
            ] {
                tracker
                    .record(&key("j1"), None, (&run, i + 1), kind)
                    .await
                    .unwrap();
            }
            if i == 3 {
                let kind = EventKind::Committed {
                    transaction: TransactionNumber(2),
                    rows: 5,
                    files: 1,
                };
                tracker
                    .record(&key("j1"), None, (&run, i + 1), kind)
                    .await
                    .unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
    let report = world.job("j1").await;
    assert_eq!((report.status, report.runs.len()), (JobStatus::Finished, 12));
    assert_eq!(report.deciding_run().unwrap().run, run("run-3"));
}

#[tokio::test(start_paused = true)]
async fn pages_list_every_job_once_the_newest_first() {
    let world = World::new();
    let tracker = &world.services.tracker;
    let mut jobs = Vec::new();
    for i in 0..25 {
        let job = format!("job-{i:02}");
        tracker
            .record(&key(&job), None, (&run("r"), 1), EventKind::Started)
            .await
            .unwrap();
        jobs.insert(0, job);
        world.sleep(Duration::from_secs(3 * 3600)).await;
    }
    let filter = JobFilter::default();
    let mut listed = Vec::new();
    let mut cursor: Option<JobCursor> = None;
    loop {
        let page = tracker.list_after(&filter, cursor.as_ref(), 7).await.unwrap();
        assert!(page.jobs.len() <= 7);
        listed.extend(page.jobs.iter().map(|report| report.key.job.to_string()));
        let Some(next) = page.next else { break };
        cursor = Some(JobCursor::new(next.as_str()));
    }
    assert_eq!(listed, jobs);
    let none = tracker
        .list_after(&filter, Some(&JobCursor::new("elsewhere")), 7)
        .await;
    assert!(none.unwrap_err().to_string().contains("elsewhere"));
}

#[tokio::test(start_paused = true)]
async fn a_list_since_long_ago_asks_only_for_days_that_are_kept() {
    let world = World::new();
    let filter = JobFilter {
        since: Some("1970-01-01T00:00:00Z".parse().unwrap()),
        ..JobFilter::default()
    };
    world.services.tracker.list(&filter, 10).await.unwrap();
    let queries = world.faults.count("items query job-times");
    assert!(queries < 20, "{queries} queries");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_forgotten_and_comes_back_is_listed_once() {
    let world = World::new();
    let tracker = &world.services.tracker;
    for _ in 0..2 {
        tracker
            .record(&key("j1"), None, (&run("r"), 1), EventKind::Started)
            .await
            .unwrap();
        world.sleep(Duration::from_secs(9 * 24 * 3600)).await;
    }
    tracker
        .record(&key("j1"), None, (&run("r"), 1), EventKind::Started)
        .await
        .unwrap();
    let listed = tracker.list(&JobFilter::default(), 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].created, world.clock.now());
}

#[tokio::test(start_paused = true)]
async fn a_place_in_the_far_future_is_where_the_list_begins() {
    let world = World::new();
    let tracker = world.process().tracker;
    let kind = EventKind::Accepted { input_files: 1 };
    tracker
        .record(&key("j1"), None, (&run("r"), 1), kind)
        .await
        .unwrap();
    let cursor = JobCursor::new(format!("{}|z", i64::MAX));
    let page = tracker
        .list_after(&JobFilter::default(), Some(&cursor), 10)
        .await
        .unwrap();
    assert_eq!(page.jobs.len(), 1);
}
