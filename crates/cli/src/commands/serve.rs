//! `dormouse serve` and `dormouse worker`.

use std::sync::Arc;

use dormouse_core::{Error, Result};
use dormouse_jobs::{
    Handler,
    commit::Committer,
    compaction::CompactionWorker,
    export::{ExportLeafWorker, ExportSplitter},
    ingest::IngestWorker,
    schedule::Schedule,
    splitting::Splitter,
    worker,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::{args::WorkerKind, printer, signals::stop_signal};

/// What `dormouse serve` runs.
pub(super) const EVERYTHING: &[WorkerKind] = &[
    WorkerKind::Ingest,
    WorkerKind::Export,
    WorkerKind::ExportLeaf,
    WorkerKind::Compaction,
    WorkerKind::CompactionJobs,
    WorkerKind::Splitting,
    WorkerKind::Splits,
    WorkerKind::Commit,
    WorkerKind::Snapshots,
    WorkerKind::Garbage,
    WorkerKind::Repair,
];

enum Task {
    Worker(Arc<dyn Handler>),
    Schedule(Schedule),
}

pub(super) async fn run(context: &Context, kinds: &[WorkerKind]) -> Result<()> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for kind in kinds {
        let services = context.instance.services.clone();
        let stop = stop.clone();
        let task = match kind {
            WorkerKind::Ingest => Task::Worker(Arc::new(IngestWorker::new(services.clone()))),
            WorkerKind::Export => Task::Worker(Arc::new(ExportSplitter::new(services.clone()))),
            WorkerKind::ExportLeaf => Task::Worker(Arc::new(ExportLeafWorker::new(services.clone()))),
            WorkerKind::Compaction => Task::Worker(Arc::new(CompactionWorker::new(services.clone()))),
            WorkerKind::CompactionJobs => Task::Schedule(Schedule::Compaction),
            WorkerKind::Splitting => Task::Worker(Arc::new(Splitter::new(services.clone()))),
            WorkerKind::Splits => Task::Schedule(Schedule::Splitting),
            WorkerKind::Commit => Task::Worker(Arc::new(Committer::new(services.clone()))),
            WorkerKind::Snapshots => Task::Schedule(Schedule::Snapshots),
            WorkerKind::Garbage => Task::Schedule(Schedule::Garbage),
            WorkerKind::Repair => Task::Schedule(Schedule::Repair),
        };
        tasks.spawn(async move {
            match task {
                Task::Worker(handler) => worker::run(&services, &*handler, &stop).await,
                Task::Schedule(schedule) => {
                    schedule.run(&services, &stop).await;
                    Ok(())
                }
            }
        });
    }
    tracing::info!(data = %context.instance.directory.path().display(), "working; SIGTERM or Ctrl-C stops");
    tokio::select! {
        signal = stop_signal() => {
            signal?;
            printer::note("stopping: running jobs may finish; a second signal ends at once");
        }
        ended = tasks.join_next() => check(ended)?,
    }
    stop.cancel();
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => return Ok(()),
                ended => check(ended)?,
            },
            signal = stop_signal() => return signal,
        }
    }
}

fn check(ended: Option<std::result::Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Error::internal("a worker ended unexpectedly").with_source(error)),
    }
}
