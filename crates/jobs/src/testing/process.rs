//! One simulated process: its workers and schedules.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use dormouse_core::ports::Clock;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::stage::{ACTOR, Control, Stage};
use crate::{
    Handler, Services,
    bulk::QueryWorker,
    commit::Committer,
    compaction::CompactionWorker,
    export::{ExportLeafWorker, ExportSplitter},
    ingest::IngestWorker,
    schedule::Schedule,
    splitting::Splitter,
    worker,
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was killed.
    Killed,
    /// It came to its own end.
    Done,
}

/// Every handler of an instance, with the name of its worker.
pub fn handlers(services: &Services) -> Vec<(&'static str, Box<dyn Handler>)> {
    vec![
        ("ingest", Box::new(IngestWorker::new(services.clone()))),
        ("export-splitter", Box::new(ExportSplitter::new(services.clone()))),
        ("export", Box::new(ExportLeafWorker::new(services.clone()))),
        ("compaction", Box::new(CompactionWorker::new(services.clone()))),
        ("splitter", Box::new(Splitter::new(services.clone()))),
        ("committer", Box::new(Committer::new(services.clone()))),
        ("query", Box::new(QueryWorker::new(services.clone()))),
    ]
}

/// Every schedule of an instance, with its name.
pub const SCHEDULES: [(&str, Schedule); 6] = [
    ("compaction-jobs", Schedule::Compaction),
    ("splits", Schedule::Splitting),
    ("snapshots", Schedule::Snapshots),
    ("garbage", Schedule::Garbage),
    ("repair", Schedule::Repair),
    ("bulk", Schedule::Bulk),
];

/// All workers and schedules of one process, until it is stopped.
pub async fn serve(services: Services, control: Arc<Control>) {
    let handlers = handlers(&services);
    let mut parts: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    for (actor, handler) in &handlers {
        let work = worker::run(&services, &**handler, &control.stop).map(|_| ());
        parts.push(ACTOR.scope(actor, work).boxed());
    }
    for (actor, schedule) in SCHEDULES {
        parts.push(ACTOR.scope(actor, schedule.run(&services, &control.stop)).boxed());
    }
    while parts.next().await.is_some() {}
}

/// Runs `work` as a process: it makes no step while it is paused, and none after it was killed.
pub async fn run(stage: &Stage, control: &Control, work: impl Future<Output = ()> + Send) -> Ended {
    let mut work = Box::pin(work);
    let mut asleep: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    poll_fn(move |context| {
        control.register(context);
        loop {
            if control.is_killed() {
                return Poll::Ready(Ended::Killed);
            }
            if let Some(time) = control.take_pause() {
                asleep = Some(stage.clock.sleep(time));
            }
            if let Some(sleep) = &mut asleep {
                match sleep.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => asleep = None,
                }
            }
            match work.as_mut().poll(context) {
                Poll::Ready(()) => return Poll::Ready(Ended::Done),
                Poll::Pending if control.is_killed() || control.is_paused() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Runs `work` as the named worker, schedule or client.
pub async fn acting<T>(actor: &'static str, work: impl Future<Output = T>) -> T {
    ACTOR.scope(actor, work).await
}
