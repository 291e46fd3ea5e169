//! Following a job to its end.

use std::{process::ExitCode, time::Duration};

use dormouse_core::{
    Error, Result,
    tracker::{JobKey, JobReport, JobStatus},
};
use dormouse_jobs::{
    Handler, Services,
    commit::Committer,
    compaction::CompactionWorker,
    export::{ExportLeafWorker, ExportSplitter},
    ingest::IngestWorker,
    schedule::Schedule,
    worker,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::{args::WaitArgs, printer, signals::stop_signal};

/// How long to wait before the tracker is asked again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// A job about to be sent: what is known of it from an earlier sending is not the outcome of this one.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    key: JobKey,
    known: Vec<JobReport>,
}

impl Sending {
    /// Notes what is known of the job.
    ///
    /// # Errors
    /// Errors of the item store.
    pub(crate) async fn new(services: &Services, key: JobKey) -> Result<Self> {
        let known = services.tracker.reports(&key.job).await?;
        Ok(Self { key, known })
    }

    /// Whether the report says something that was not known before the sending. A job that had finished stays so.
    fn is_news(&self, report: &JobReport) -> bool {
        let before = self.known.iter().find(|known| known.key == report.key);
        report.status == JobStatus::Finished || before.is_none_or(|known| report.updated > known.updated)
    }
}

/// Follows a job that was sent until it ends, and works on the queues unless others do. Returns its last report.
///
/// # Errors
/// Errors of the stores.
pub(crate) async fn for_job(services: &Services, sending: &Sending, args: &WaitArgs) -> Result<JobReport> {
    let interrupted = || {
        format!(
            "job {} is on its queue, and goes on with the next worker",
            sending.key.job
        )
    };
    working(services, args.no_work, follow(services, sending), interrupted).await
}

/// Follows jobs that were sent until all have ended, and works on the queues unless others do. Returns their last
/// reports.
///
/// # Errors
/// Errors of the stores.
pub(crate) async fn for_jobs(
    services: &Services,
    keys: &[JobKey],
    args: &WaitArgs,
) -> Result<Vec<JobReport>> {
    let interrupted = || "jobs are on their queue, and go on with the next worker".to_owned();
    working(services, args.no_work, follow_all(services, keys), interrupted).await
}

/// What is known of jobs.
///
/// # Errors
/// Errors of the item store.
pub(crate) async fn reports(services: &Services, keys: &[JobKey]) -> Result<Vec<JobReport>> {
    let mut reports = Vec::with_capacity(keys.len());
    for key in keys {
        reports.extend(services.tracker.report(key).await?);
    }
    Ok(reports)
}

/// Waits for `follow`, and works on the queues meanwhile unless others do. A signal ends it with the error that says
/// what is `interrupted`.
///
/// # Errors
/// Those of `follow`; errors of the stores.
pub(crate) async fn working<T>(
    services: &Services,
    no_work: bool,
    follow: impl Future<Output = Result<T>>,
    interrupted: impl Fn() -> String,
) -> Result<T> {
    let stop = CancellationToken::new();
    let follow = async {
        let ended = tokio::select! {
            ended = follow => ended,
            signal = stop_signal() => signal.and_then(|()| {
                let what = interrupted();
                Err(Error::unavailable(format!("interrupted: {what}")))
            }),
        };
        stop.cancel();
        ended
    };
    if no_work {
        return follow.await;
    }
    let (ended, worked) = tokio::join!(follow, work(services, &stop));
    worked?;
    ended
}

/// Follows jobs to their end, and returns their last reports.
///
/// # Errors
/// Errors of the item store.
pub(crate) async fn follow_all(services: &Services, keys: &[JobKey]) -> Result<Vec<JobReport>> {
    let bar = spinner();
    let mut pauses = Pauses(FIRST_PAUSE);
    loop {
        let reports = reports(services, keys).await?;
        let ended = reports.iter().filter(|report| report.status.is_final()).count();
        if ended == keys.len() {
            bar.finish_and_clear();
            return Ok(reports);
        }
        let rows: u64 = reports.iter().map(JobReport::rows_written).sum();
        bar.set_message(format!(
            "{ended} of {} jobs, {} rows",
            keys.len(),
            printer::count(rows)
        ));
        bar.tick();
        services.ports.clock.sleep(pauses.next()).await;
    }
}

/// Pauses that grow with the time waited so far: each is about an eighth of it.
struct Pauses(Duration);

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause + pause / 8).min(MAX_PAUSE);
        pause
    }
}

/// Shows that something goes on.
pub(crate) fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
        bar.set_style(style);
    }
    bar
}

async fn work(services: &Services, stop: &CancellationToken) -> Result<()> {
    let ingest = IngestWorker::new(services.clone());
    let splitter = ExportSplitter::new(services.clone());
    let leaf = ExportLeafWorker::new(services.clone());
    let compaction = CompactionWorker::new(services.clone());
    let committer = Committer::new(services.clone());
    let handlers: [&dyn Handler; 5] = [&ingest, &splitter, &leaf, &compaction, &committer];
    let workers = handlers.map(|handler| worker::run(services, handler, stop));
    // A message that dies without a report would be waited for in vain.
    let repair = Schedule::Repair.run(services, stop);
    let (worked, ()) = tokio::join!(futures::future::try_join_all(workers), repair);
    worked.map(|_| ())
}

async fn follow(services: &Services, sending: &Sending) -> Result<JobReport> {
    let key = &sending.key;
    let bar = spinner();
    bar.set_message(format!("{} {} waits in its queue", key.kind, key.job));
    let mut pauses = Pauses(FIRST_PAUSE);
    loop {
        if let Some(report) = find(services, sending).await? {
            bar.set_message(progress(&report));
            if report.status.is_final() {
                bar.finish_and_clear();
                return Ok(report);
            }
        }
        bar.tick();
        services.ports.clock.sleep(pauses.next()).await;
    }
}

/// The news of a job. A rejected one may be filed without its table.
async fn find(services: &Services, sending: &Sending) -> Result<Option<JobReport>> {
    let untabled = JobKey {
        table: None,
        ..sending.key.clone()
    };
    for key in [&sending.key, &untabled] {
        if let Some(report) = services
            .tracker
            .report(key)
            .await?
            .filter(|report| sending.is_news(report))
        {
            return Ok(Some(report));
        }
    }
    Ok(None)
}

fn progress(report: &JobReport) -> String {
    let key = &report.key;
    let rows = printer::count(report.rows_written().max(report.rows_read()));
    match &report.export {
        Some(export) => format!(
            "{} {} {} {} of {} leaves, {rows} rows, {}",
            key.kind,
            key.job,
            report.status,
            export.done,
            export.total,
            printer::bytes(export.bytes)
        ),
        None => format!("{} {} {} {rows} rows", key.kind, key.job, report.status),
    }
}

/// The exit code of a job's end.
pub(crate) fn exit_code(status: JobStatus) -> ExitCode {
    match status {
        JobStatus::Rejected => ExitCode::from(2),
        JobStatus::Failed => ExitCode::from(1),
        JobStatus::Cancelled => ExitCode::from(4),
        _ => ExitCode::SUCCESS,
    }
}

/// The error of a job that ended otherwise than it should.
pub(crate) fn check_finished(report: &JobReport) -> Result<()> {
    if report.status == JobStatus::Finished {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{} job {} ended {}: {}",
        report.key.kind,
        report.key.job,
        report.status,
        report.reasons().join("; ")
    )))
}
