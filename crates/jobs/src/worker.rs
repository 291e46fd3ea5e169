//! The worker loop: receive, extend, handle, record, acknowledge, drain.
//!
//! The worker owns a message's visibility. While a handler runs and its end is recorded, a heartbeat in the same
//! future extends it by a full period at every third of one; when the message turns out to be gone or delivered
//! again, the handler is dropped, as its run has been superseded. The heartbeat has come to rest, with no request
//! of its own under way, before the message is acknowledged or given back. The error's kind says which:
//!
//! | Outcome | Tracker | Message |
//! |---|---|---|
//! | done | by the handler | acknowledged |
//! | `Invalid`, `NotFound`, `Conflict`, `AlreadyExists` | REJECTED or FAILED | acknowledged |
//! | `Unavailable`, `Internal`, attempts left | the reason, still in progress | released with backoff |
//! | `Unavailable`, `Internal`, last attempt | FAILED | dead letter |
//! | `Corrupt` | FAILED | dead letter |
//!
//! A message is acknowledged only after its end was recorded. A message older than what the ledger remembers
//! is parked: recorded as failed and moved to the dead letters, as nobody could tell whether its job has
//! committed.

mod lifetime;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    ids::RunId,
    ports::{Delivery, Metric, Queue, QueueName, Receipt},
    state::table_state::LEDGER_RETENTION,
    tracker::{EventKind, JobKey},
};
use futures::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture},
    stream::FuturesUnordered,
};
use tokio_util::sync::CancellationToken;

pub use self::lifetime::Lifetime;
use crate::services::Services;

/// How long one receive waits for a message.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);

/// How long a worker that is asked to stop waits for the receive that is under way.
const RECEIVE_GRACE: Duration = Duration::from_secs(3);

/// How long the worker waits after a receive that failed.
const RECEIVE_BACKOFF: Duration = Duration::from_secs(1);

/// The first release hides a message for up to so long, each one after for up to [`RELEASE_FACTOR`] times as long:
/// five attempts outlast an outage of more than a minute.
const FIRST_RELEASE: Duration = Duration::from_secs(2);
const RELEASE_FACTOR: u32 = 4;

/// No release hides a message for longer.
const MAX_RELEASE: Duration = Duration::from_secs(300);

/// How often the queue is asked to end a message, before it is left to come again.
const END_ATTEMPTS: u32 = 3;
const END_PAUSE: Duration = Duration::from_millis(200);

/// Messages older than the ledger's memory less this margin are parked.
const PARK_MARGIN: Duration = Duration::from_secs(24 * 3600);

/// What a queue's messages are for.
#[async_trait]
pub trait Handler: Send + Sync {
    /// The queue.
    fn queue(&self) -> QueueName;

    /// How many messages are handled at a time; at least one.
    fn concurrency(&self) -> usize;

    /// What a message is about, as well as its text tells, for reports about messages that no handler ended.
    async fn subject(&self, body: &str, message_id: &str) -> Result<Option<Subject>>;

    /// Does what the message asks for. Ok means that its effect is there for every later reader.
    async fn handle(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure>;
}

/// What in the tracker a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The job.
    pub key: JobKey,
    /// The table's name, if the table exists.
    pub table_name: Option<String>,
    /// The run to report as; none takes the delivery's own.
    pub run: Option<RunId>,
    /// The part of the job that the message is about; none for all of it.
    pub part: Option<String>,
    /// Whether the job had been accepted.
    pub accepted: bool,
}

/// An error, and what in the tracker it is about.
#[derive(Debug)]
pub struct JobFailure {
    /// The error.
    pub error: Error,
    /// What it is about; none when the message is about no job.
    pub subject: Option<Subject>,
}

impl From<Error> for JobFailure {
    fn from(error: Error) -> Self {
        Self { error, subject: None }
    }
}

impl Subject {
    /// Pairs this subject with an error.
    pub fn failure(&self, error: Error) -> JobFailure {
        JobFailure {
            error,
            subject: Some(self.clone()),
        }
    }

    /// Pairs this subject, which knows no table, with what came of looking for the table. While nobody knows
    /// whether there is one, the failure is about no job: a report without a table would never end.
    pub(crate) fn failure_of_lookup(&self, error: Error) -> JobFailure {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::Invalid => self.failure(error),
            _ => error.into(),
        }
    }

    fn final_event(&self, error: &Error, body: &str) -> EventKind {
        let reasons = vec![error.report()];
        match &self.part {
            Some(part) => EventKind::PartFailed {
                part: part.clone(),
                reasons,
            },
            None if !self.accepted && matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound) => {
                EventKind::Rejected {
                    reasons,
                    message: body.to_owned(),
                }
            }
            None => EventKind::Failed { reasons },
        }
    }
}

/// Works on a queue until `stop` is cancelled, then lets running jobs finish for the drain time and gives the
/// messages of the rest back.
///
/// # Errors
/// As [`run_for`].
pub async fn run(services: &Services, handler: &dyn Handler, stop: &CancellationToken) -> Result<()> {
    run_for(services, handler, &Lifetime::until(stop.clone())).await
}

/// Works on a queue for a life.
///
/// # Errors
/// `NotFound` when the instance does not have the queue. Failures of the queue are waited out.
pub async fn run_for(services: &Services, handler: &dyn Handler, lifetime: &Lifetime) -> Result<()> {
    let worker = Worker {
        services,
        handler,
        queue: services.queue(handler.queue())?.clone(),
    };
    let clock = &services.ports.clock;
    let mut running = FuturesUnordered::new();
    let mut held: Vec<Delivery> = Vec::new();
    let mut receiving = Fuse::terminated();
    let mut retired = false;
    loop {
        let free = handler.concurrency().max(1).saturating_sub(running.len());
        if receiving.is_terminated() && free > 0 && !retired {
            receiving = worker.receive(free).boxed().fuse();
        }
        if retired && receiving.is_terminated() && running.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = lifetime.stopped().cancelled() => break,
            () = lifetime.retired().cancelled(), if !retired => {
                retired = true;
                worker.queue.end_waits();
            }
            Some(finished) = running.next(), if !running.is_empty() => {
                lifetime.ended(clock.now());
                held.retain(|delivery| delivery.receipt != finished);
            }
            received = &mut receiving, if !receiving.is_terminated() => {
                for delivery in received {
                    lifetime.began();
                    held.push(delivery.clone());
                    running.push(worker.process(delivery));
                }
            }
        }
    }
    worker.queue.end_waits();
    // A receive that is under way may have taken messages already.
    if !receiving.is_terminated() {
        tokio::select! {
            biased;
            received = &mut receiving => held.extend(received),
            () = clock.sleep(RECEIVE_GRACE) => {}
        }
    }
    drop(receiving);
    let drained = async {
        while let Some(finished) = running.next().await {
            held.retain(|delivery| delivery.receipt != finished);
        }
    };
    tokio::select! {
        biased;
        () = drained => {}
        () = clock.sleep(services.settings.worker_drain()) => {}
    }
    drop(running);
    for delivery in held {
        let given_back = worker.queue.give_back(&delivery.receipt).await;
        tracing::info!(queue = %handler.queue(), message_id = delivery.message_id, ?given_back, "message given back");
    }
    Ok(())
}

/// Handles the messages that are visible now, one at a time, and returns how many.
///
/// # Errors
/// Errors of the queue.
pub async fn run_once(services: &Services, handler: &dyn Handler) -> Result<u64> {
    let worker = Worker {
        services,
        handler,
        queue: services.queue(handler.queue())?.clone(),
    };
    let mut handled = 0;
    loop {
        let received = worker.queue.receive(1, Duration::ZERO).await?;
        if received.is_empty() {
            return Ok(handled);
        }
        for delivery in received {
            worker.process(delivery).await;
            handled += 1;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Acknowledge,
    /// Hidden for so long.
    Release(Duration),
    DeadLetter,
    /// Hidden until its visibility ends: what has become of it could not be recorded.
    Leave,
}

struct Worker<'a> {
    services: &'a Services,
    handler: &'a dyn Handler,
    queue: Arc<dyn Queue>,
}

impl Worker<'_> {
    async fn receive(&self, max: usize) -> Vec<Delivery> {
        match self.queue.receive(max, RECEIVE_WAIT).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                tracing::warn!(queue = %self.handler.queue(), error = error.report(), "receive failed");
                self.services.ports.clock.sleep(RECEIVE_BACKOFF).await;
                Vec::new()
            }
        }
    }

    /// Handles one delivery to its end. Returns its receipt.
    async fn process(&self, delivery: Delivery) -> Receipt {
        let resting = CancellationToken::new();
        let end = {
            let heartbeat = self.heartbeat(&delivery, &resting);
            tokio::pin!(heartbeat);
            let end = tokio::select! {
                biased;
                end = self.work(&delivery) => Some(end),
                () = &mut heartbeat => None,
            };
            if end.is_some() {
                resting.cancel();
                heartbeat.await;
            }
            end
        };
        match end {
            Some(end) => self.end(&delivery, end).await,
            None => tracing::warn!(
                queue = %self.handler.queue(), message_id = delivery.message_id, attempt = delivery.attempt,
                "run superseded"
            ),
        }
        delivery.receipt
    }

    /// Extends the message's visibility until `resting`; ends by itself when the message is no longer this
    /// delivery's.
    async fn heartbeat(&self, delivery: &Delivery, resting: &CancellationToken) {
        let visibility = self.queue.settings().visibility;
        loop {
            tokio::select! {
                biased;
                () = resting.cancelled() => return,
                () = self.services.ports.clock.sleep(visibility / 3) => {}
            }
            match self.queue.extend(&delivery.receipt, visibility).await {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => return,
                Err(error) => {
                    tracing::warn!(
                        message_id = delivery.message_id,
                        error = error.report(),
                        "extend failed"
                    );
                }
            }
        }
    }

    /// Handles one delivery and records its end, and says what becomes of its message.
    async fn work(&self, delivery: &Delivery) -> End {
        let run = match RunId::new(self.services.ports.ids.uuid().to_string()) {
            Ok(run) => run,
            Err(_) => return self.again(delivery),
        };
        let result = if self.is_forgotten(delivery) {
            self.parked(delivery).await
        } else {
            match AssertUnwindSafe(self.handler.handle(delivery, &run))
                .catch_unwind()
                .await
            {
                Ok(result) => result,
                Err(panic) => Err(self.panicked(delivery, panic_text(&*panic)).await),
            }
        };
        match result {
            Ok(()) => End::Acknowledge,
            Err(failure) => self.end_of_failed(delivery, &run, failure).await,
        }
    }

    async fn end(&self, delivery: &Delivery, end: End) {
        for attempt in 1.. {
            let ended = match end {
                End::Acknowledge => self.queue.ack(&delivery.receipt).await,
                End::Release(time) => self.queue.extend(&delivery.receipt, time).await,
                End::DeadLetter => self.queue.dead_letter(&delivery.receipt).await,
                End::Leave => Ok(()),
            };
            let Err(error) = ended else { return };
            if error.kind() != ErrorKind::Unavailable || attempt == END_ATTEMPTS {
                // The message comes again, and finds the effect there or does the rest.
                tracing::warn!(
                    message_id = delivery.message_id,
                    error = error.report(),
                    "message not ended"
                );
                return;
            }
            self.services.ports.clock.sleep(END_PAUSE).await;
        }
    }

    fn is_forgotten(&self, delivery: &Delivery) -> bool {
        let age = self.services.ports.clock.now().since(delivery.sent_at);
        age > LEDGER_RETENTION.saturating_sub(PARK_MARGIN)
    }

    async fn parked(&self, delivery: &Delivery) -> Result<(), JobFailure> {
        let subject = self.handler.subject(&delivery.body, &delivery.message_id).await?;
        let error = Error::corrupt(format!(
            "the message was sent at {}, and jobs are remembered for {} days: nobody could tell whether this one \
             has committed, so it was not run. To run it in any case, send it as a new message",
            delivery.sent_at,
            LEDGER_RETENTION.as_secs() / (24 * 3600),
        ));
        Err(JobFailure { error, subject })
    }

    async fn panicked(&self, delivery: &Delivery, text: String) -> JobFailure {
        JobFailure {
            error: Error::internal(format!("the handler panicked: {text}")),
            subject: self.subject(delivery).await,
        }
    }

    /// What the message is about. When that cannot be told now, the repair finds the message in the dead letters.
    async fn subject(&self, delivery: &Delivery) -> Option<Subject> {
        let subject = self.handler.subject(&delivery.body, &delivery.message_id).await;
        subject.ok().flatten()
    }

    async fn end_of_failed(&self, delivery: &Delivery, run: &RunId, failure: JobFailure) -> End {
        let JobFailure { error, subject } = failure;
        let last = delivery.attempt >= self.queue.settings().max_attempts;
        let end = match error.kind() {
            ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::AlreadyExists => {
                End::Acknowledge
            }
            ErrorKind::Corrupt => End::DeadLetter,
            ErrorKind::Unavailable | ErrorKind::Internal if last => End::DeadLetter,
            ErrorKind::Unavailable | ErrorKind::Internal => self.again(delivery),
        };
        tracing::warn!(
            queue = %self.handler.queue(), message_id = delivery.message_id, attempt = delivery.attempt,
            error = error.report(), ?end, "job failed"
        );
        let subject = match subject {
            None if end == End::DeadLetter => self.subject(delivery).await,
            subject => subject,
        };
        let recorded = match (end, subject) {
            (_, None) => Ok(()),
            (End::Release(_), Some(subject)) => {
                let reasons = vec![error.report()];
                let retrying = EventKind::Retrying { reasons };
                let recorded = self.record(delivery, run, &subject, retrying).await;
                if let Err(error) = recorded {
                    tracing::warn!(error = error.report(), "retry not recorded");
                }
                Ok(())
            }
            (_, Some(subject)) => self.record_end(delivery, run, &error, &subject).await,
        };
        match recorded {
            Ok(()) => end,
            Err(error) => {
                tracing::warn!(
                    message_id = delivery.message_id,
                    error = error.report(),
                    "end not recorded"
                );
                End::Leave
            }
        }
    }

    fn again(&self, delivery: &Delivery) -> End {
        let factor = RELEASE_FACTOR.saturating_pow(delivery.attempt.saturating_sub(1));
        let ceiling = FIRST_RELEASE.saturating_mul(factor).min(MAX_RELEASE);
        End::Release(ceiling / 2 + self.services.ports.ids.jitter(ceiling / 2))
    }

    async fn record_end(
        &self,
        delivery: &Delivery,
        run: &RunId,
        error: &Error,
        subject: &Subject,
    ) -> Result<()> {
        let kind = subject.final_event(error, &delivery.body);
        self.services
            .metrics
            .put(subject.table_name.as_deref(), &[(Metric::JobsFailed, 1.0)]);
        self.record(delivery, run, subject, kind).await
    }

    async fn record(
        &self,
        delivery: &Delivery,
        run: &RunId,
        subject: &Subject,
        kind: EventKind,
    ) -> Result<()> {
        let run = match &subject.run {
            Some(run) => (run, 1),
            None => (run, delivery.attempt),
        };
        self.services
            .tracker
            .record(&subject.key, subject.table_name.as_deref(), run, kind)
            .await?;
        Ok(())
    }
}
