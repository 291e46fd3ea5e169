//! `dormouse serve` and `dormouse worker`.

use std::{sync::Arc, time::Duration};

use dormouse_core::{Error, Result};
use dormouse_jobs::{
    Handler, Services,
    bulk::QueryWorker,
    commit::Committer,
    compaction::CompactionWorker,
    export::{ExportLeafWorker, ExportSplitter},
    ingest::IngestWorker,
    schedule::Schedule,
    splitting::Splitter,
    worker::{self, Lifetime},
};
use futures::future::OptionFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, api};
use crate::{
    args::{ServeArgs, WorkerArgs, WorkerKind},
    instance::Place,
    printer,
    signals::StopSignals,
};

/// What `dormouse serve` runs.
const EVERYTHING: &[WorkerKind] = &[
    WorkerKind::Ingest,
    WorkerKind::ExportSplitter,
    WorkerKind::Export,
    WorkerKind::Compaction,
    WorkerKind::CompactionPlanner,
    WorkerKind::Splitter,
    WorkerKind::SplitFinder,
    WorkerKind::Committer,
    WorkerKind::Query,
    WorkerKind::Snapshots,
    WorkerKind::Gc,
    WorkerKind::Repair,
    WorkerKind::BulkSweep,
];

/// How often it is looked whether a process has been idle for long enough.
const IDLE_CHECK: Duration = Duration::from_millis(200);

/// How often `--once` looks at a queue that counts messages and shows none.
const LOOKS: u32 = 5;

enum Task {
    Worker(Arc<dyn Handler>),
    Schedule(Schedule),
}

impl Task {
    fn new(kind: WorkerKind, services: &Services) -> Self {
        let services = services.clone();
        match kind {
            WorkerKind::Ingest => Self::Worker(Arc::new(IngestWorker::new(services))),
            WorkerKind::ExportSplitter => Self::Worker(Arc::new(ExportSplitter::new(services))),
            WorkerKind::Export => Self::Worker(Arc::new(ExportLeafWorker::new(services))),
            WorkerKind::Compaction => Self::Worker(Arc::new(CompactionWorker::new(services))),
            WorkerKind::Splitter => Self::Worker(Arc::new(Splitter::new(services))),
            WorkerKind::Committer => Self::Worker(Arc::new(Committer::new(services))),
            WorkerKind::Query => Self::Worker(Arc::new(QueryWorker::new(services))),
            WorkerKind::CompactionPlanner => Self::Schedule(Schedule::Compaction),
            WorkerKind::SplitFinder => Self::Schedule(Schedule::Splitting),
            WorkerKind::Snapshots => Self::Schedule(Schedule::Snapshots),
            WorkerKind::Gc => Self::Schedule(Schedule::Garbage),
            WorkerKind::Repair => Self::Schedule(Schedule::Repair),
            WorkerKind::BulkSweep => Self::Schedule(Schedule::Bulk),
        }
    }
}

/// When a process ends by itself.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    idle: Option<Duration>,
    age: Option<Duration>,
}

impl Limits {
    /// On AWS the properties limit workers; elsewhere only options do.
    fn of_worker(context: &Context, args: &WorkerArgs) -> Result<Self> {
        let services = &context.instance.services;
        let settings = &services.settings;
        let on_aws = matches!(context.instance.place, Place::Aws(_));
        let option = |name: &str, number: Option<f64>, seconds: f64| {
            let time = number.map(|number| Duration::try_from_secs_f64(number * seconds));
            time.transpose()
                .map_err(|error| Error::invalid(format!("{name} is no time")).with_source(error))
        };
        let jitter = services.ports.ids.jitter(settings.task_max_alive_jitter());
        let age = settings.task_max_alive().saturating_sub(jitter);
        Ok(Self {
            idle: option("--max-idle-seconds", args.max_idle_seconds, 1.0)?
                .or_else(|| on_aws.then(|| settings.task_max_idle())),
            age: option("--max-age-minutes", args.max_age_minutes, 60.0)?.or_else(|| on_aws.then_some(age)),
        })
    }
}

/// `dormouse serve`.
pub(super) async fn serve(context: &Context, args: &ServeArgs) -> Result<()> {
    let listener = match args.no_api {
        true => None,
        false => api::listen(args.listen).await?,
    };
    let stop = CancellationToken::new();
    let api = match listener {
        Some(listener) => Some(api::serve(context, listener, stop.clone()).await?),
        None => None,
    };
    let work = async {
        let worked = run(context, EVERYTHING, Limits::default(), &stop).await;
        stop.cancel();
        worked
    };
    let (worked, served) = tokio::join!(work, OptionFuture::from(api));
    worked.and(served.unwrap_or(Ok(())))
}

/// `dormouse worker`.
pub(super) async fn worker(context: &Context, args: &WorkerArgs) -> Result<()> {
    if args.once {
        return once(context, &args.kinds).await;
    }
    let limits = Limits::of_worker(context, args)?;
    run(context, &args.kinds, limits, &CancellationToken::new()).await
}

async fn once(context: &Context, kinds: &[WorkerKind]) -> Result<()> {
    let services = &context.instance.services;
    for kind in kinds {
        match Task::new(*kind, services) {
            Task::Worker(handler) => {
                let mut handled = 0;
                // SQS may show nothing of few messages at a first look.
                for _ in 0..LOOKS {
                    handled += worker::run_once(services, &*handler).await?;
                    if services.queue(handler.queue())?.depth().await?.visible == 0 {
                        break;
                    }
                }
                tracing::info!(?kind, handled, "no more messages");
            }
            Task::Schedule(schedule) => schedule.run_once(services).await?,
        }
    }
    Ok(())
}

/// Works until it is asked to stop; then `stop` is cancelled, for whatever runs beside.
async fn run(
    context: &Context,
    kinds: &[WorkerKind],
    limits: Limits,
    stop: &CancellationToken,
) -> Result<()> {
    let services = &context.instance.services;
    let lifetime = Arc::new(Lifetime::default());
    let mut workers = JoinSet::new();
    let mut others = JoinSet::new();
    for kind in kinds {
        let services = services.clone();
        match Task::new(*kind, &services) {
            Task::Worker(handler) => {
                let lifetime = lifetime.clone();
                workers.spawn(async move { worker::run_for(&services, &*handler, &lifetime).await });
            }
            Task::Schedule(schedule) => {
                let stop = stop.clone();
                others.spawn(async move { schedule.run(&services, &stop).await });
            }
        }
    }
    let mut signals = StopSignals::listen()?;
    tracing::info!(
        instance = context.instance.name(),
        "working; SIGTERM or Ctrl-C stops"
    );
    let alone = workers.is_empty();
    let ended = tokio::select! {
        () = signals.next() => {
            printer::note("stopping: running jobs may finish; a second signal ends at once");
            lifetime.stop();
            Ok(())
        }
        why = enough(services, &lifetime, limits) => {
            tracing::info!(why, "taking no more messages");
            lifetime.retire();
            Ok(())
        }
        ended = workers.join_next(), if !alone => check(ended),
    };
    stop.cancel();
    ended?;
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                None => break,
                ended => check(ended)?,
            },
            () = signals.next() => {
                if lifetime.stopped().is_cancelled() {
                    return Ok(());
                }
                lifetime.stop();
            }
        }
    }
    others.join_all().await;
    Ok(())
}

/// Waits until the process has been idle, or is old, enough.
async fn enough(services: &Services, lifetime: &Lifetime, limits: Limits) -> &'static str {
    let clock = &services.ports.clock;
    let idle = async {
        match limits.idle {
            None => std::future::pending().await,
            Some(limit) => {
                while lifetime.idle(clock.now()) < limit {
                    clock.sleep(IDLE_CHECK).await;
                }
            }
        }
    };
    let old = async {
        match limits.age {
            None => std::future::pending().await,
            Some(age) => clock.sleep(age).await,
        }
    };
    tokio::select! {
        () = idle => "no queue has had a message for the longest time",
        () = old => "the greatest age is reached",
    }
}

fn check(ended: Option<std::result::Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => {
            Err(Error::internal("a part of the process ended unexpectedly").with_source(error))
        }
    }
}
