//! How a workflow commits.
//!
//! Direct: the worker appends to the log itself, together with what its process has waiting for the same table.
//! Queued: the worker sends the commit to the queue `commit`, in one message with what its process has waiting for
//! the same table, and waits until the log tells what became of it, or a stored answer, where the commit was refused
//! or was so already; a committer appends what has gathered. Any mix of both is safe, since the log decides.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    collections::Collection,
    config::CommitMode,
    ids::{RunId, TableId, TransactionNumber},
    message::CommitMessage,
    ports::{Condition, Delivery, Item, ItemKey, Message, QueueName, create_object, queue::MAX_BODY_BYTES},
    state::{Commit, CommitId, Outcome, Record, Refusal, TableState},
    tables::TableInfo,
};
use object_store::{ObjectStoreExt, path::Path};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::{
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// How long a worker waits for a queued commit before its message is given back.
const QUEUED_WAIT: Duration = Duration::from_secs(15 * 60);

/// How long an answer that the log does not tell is kept.
const ANSWER_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// The kind of an answer to a commit that was so already, which the log does not tell.
const APPLIED: &str = "Applied";

/// How long to wait before the log is looked at again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// For how many commits that the log does not tell of, the oldest, one look asks for a stored answer.
const ANSWERS_A_LOOK: usize = 8;

/// How long a message waits for more commits. It takes many times that until it is received and appended.
const GATHER: Duration = Duration::from_millis(10);

/// The most commits that one message holds.
const MAX_COMMITS_A_MESSAGE: usize = 250;

/// How many commit messages a committer has in hand.
const COMMITTER_CONCURRENCY: usize = 100;

/// Commits to a table in its commit mode, and answers once the outcome is known.
///
/// # Errors
/// `Unavailable` while the outcome is not known; errors of the stores.
pub async fn commit(services: &Services, table: &TableInfo, commit: Commit) -> Result<Outcome> {
    let outcome = match services.table_settings(table)?.commit_mode() {
        CommitMode::Direct => services
            .states
            .commit(&table.id, commit)
            .await
            .map(|committed| committed.outcome),
        CommitMode::Queued => commit_queued(services, &table.id, commit).await,
    };
    outcome.map_err(own_object)
}

/// An object that must be new and is there already was written by this very request, which the store's client
/// sent twice as the first answer was lost. The message is not to end for it.
pub(crate) fn own_object(error: Error) -> Error {
    match error.kind() {
        ErrorKind::AlreadyExists => {
            Error::unavailable("an object was written, and the answer was lost").with_source(error)
        }
        _ => error,
    }
}

async fn commit_queued(services: &Services, table: &TableId, commit: Commit) -> Result<Outcome> {
    services.outbox.send(services, table, commit.clone()).await?;
    services.outbox.outcome(services, table, commit).await
}

async fn send(services: &Services, table: &TableId, commits: &[Commit]) -> Result<()> {
    let mut message = CommitMessage {
        table_id: table.clone(),
        commits: commits.to_vec(),
        body_object: None,
    };
    let mut body = message.to_body()?;
    if body.len() > MAX_BODY_BYTES / 2 {
        let path = Path::from(format!("{table}/commits/{}.json", services.ports.ids.uuid()));
        create_object(&*services.data, &path, body.into_bytes().into()).await?;
        message.commits.clear();
        message.body_object = Some(path.to_string());
        body = message.to_body()?;
    }
    let ids: Vec<_> = commits.iter().map(|commit| commit.id.as_str()).collect();
    let message = Message {
        body,
        group: Some(table.to_string()),
        deduplication_id: Some(ids.join(",")),
        delay: Duration::ZERO,
    };
    services.queue(QueueName::Commit)?.send(vec![message]).await?;
    Ok(())
}

type Answer = oneshot::Sender<Result<(), (ErrorKind, String)>>;

/// Commits on their way to the queue `commit` and to their outcomes: those of a table that gather while a message of
/// it is being sent go together with the next, and one of those who wait for outcomes looks for all.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    tables: Mutex<BTreeMap<TableId, Arc<TableOutbox>>>,
}

#[derive(Debug, Default)]
struct TableOutbox {
    waiting: Mutex<VecDeque<(Commit, Answer)>>,
    sending: tokio::sync::Mutex<()>,
    asking: Mutex<Asking>,
    looking: tokio::sync::Mutex<()>,
}

/// Who waits for outcomes, in the order of asking.
#[derive(Debug, Default)]
struct Asking {
    next: u64,
    commits: BTreeMap<u64, (Commit, oneshot::Sender<Outcome>)>,
}

/// A place among those who wait; given up when it is dropped.
struct Place<'a> {
    outbox: &'a TableOutbox,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.outbox.asking).commits.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    fn of(&self, table: &TableId) -> Arc<TableOutbox> {
        lock(&self.tables).entry(table.clone()).or_default().clone()
    }

    /// Waits until the log or a stored answer tells what became of a commit that was sent.
    async fn outcome(&self, services: &Services, table: &TableId, commit: Commit) -> Result<Outcome> {
        let outbox = self.of(table);
        let clock = &services.ports.clock;
        let deadline = clock.now().plus(QUEUED_WAIT);
        let (answer, mut answered) = oneshot::channel();
        let id = commit.id.clone();
        let number = {
            let mut asking = lock(&outbox.asking);
            asking.next += 1;
            let number = asking.next;
            asking.commits.insert(number, (commit, answer));
            number
        };
        let _place = Place {
            outbox: &outbox,
            number,
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let turn = tokio::select! {
                biased;
                outcome = &mut answered => return outcome.map_err(|_| unanswered(&id)),
                turn = outbox.looking.lock() => turn,
            };
            outbox.look(services, table).await?;
            if let Ok(outcome) = answered.try_recv() {
                return Ok(outcome);
            }
            if clock.now() > deadline {
                return Err(unanswered(&id));
            }
            clock.sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
            drop(turn);
        }
    }

    /// Sends a commit, and returns when it is on the queue.
    async fn send(&self, services: &Services, table: &TableId, commit: Commit) -> Result<()> {
        let outbox = self.of(table);
        let (answer, mut answered) = oneshot::channel();
        lock(&outbox.waiting).push_back((commit, answer));
        loop {
            let turn = outbox.sending.lock().await;
            match answered.try_recv() {
                Ok(outcome) => return outcome.map_err(|(kind, text)| Error::new(kind, text)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => {
                    return Err(Error::unavailable("whoever was sending the commit has ended"));
                }
            }
            // Others finish at about the same time.
            services.ports.clock.sleep(GATHER).await;
            let batch: Vec<_> = {
                let mut waiting = lock(&outbox.waiting);
                let count = waiting.len().min(MAX_COMMITS_A_MESSAGE);
                waiting.drain(..count).collect()
            };
            let (commits, answers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let sent = send(services, table, &commits).await;
            let sent = sent.map_err(|error| (error.kind(), error.report()));
            for answer in answers {
                // Whoever asked may be gone.
                let _ = answer.send(sent.clone());
            }
            drop(turn);
        }
    }
}

fn unanswered(commit: &CommitId) -> Error {
    Error::unavailable(format!("commit {commit} was queued and not answered"))
}

impl TableOutbox {
    /// Answers all whose outcome is known by now.
    async fn look(&self, services: &Services, table: &TableId) -> Result<()> {
        let state = services.states.state(table).await?;
        let unknown: Vec<(u64, CommitId)> = {
            let mut asking = lock(&self.asking);
            let known = asking
                .commits
                .extract_if(.., |_, (commit, _)| outcome_in(&state, commit).is_some());
            for (_, (commit, answer)) in known {
                if let Some(outcome) = outcome_in(&state, &commit) {
                    let _ = answer.send(outcome);
                }
            }
            let oldest = asking.commits.iter().take(ANSWERS_A_LOOK);
            oldest
                .map(|(number, (commit, _))| (*number, commit.id.clone()))
                .collect()
        };
        for (number, commit) in unknown {
            if let Some(outcome) = stored_answer(services, table, &commit).await?
                && let Some((_, answer)) = lock(&self.asking).commits.remove(&number)
            {
                let _ = answer.send(outcome);
            }
        }
        Ok(())
    }
}

/// What became of a commit where the log does not tell, if somebody has stored it.
async fn stored_answer(services: &Services, table: &TableId, commit: &CommitId) -> Result<Option<Outcome>> {
    let Some(item) = services.ports.items.get(&answer_key(table, commit)).await? else {
        return Ok(None);
    };
    let kind = match item.text("kind")? {
        APPLIED => {
            let transaction = u64::try_from(item.number("transaction")?).unwrap_or_default();
            return Ok(Some(Outcome::Applied(TransactionNumber(transaction))));
        }
        "Conflict" => ErrorKind::Conflict,
        "NotFound" => ErrorKind::NotFound,
        "Invalid" => ErrorKind::Invalid,
        "AlreadyExists" => ErrorKind::AlreadyExists,
        _ => ErrorKind::Unavailable,
    };
    Ok(Some(Outcome::Refused(Refusal {
        kind,
        reason: item.text("reason")?.to_owned(),
    })))
}

fn outcome_in(state: &TableState, commit: &Commit) -> Option<Outcome> {
    if let Some(transaction) = state.recent_commit(&commit.id) {
        return Some(Outcome::Applied(transaction));
    }
    match &commit.record {
        Record::FilesAdded { job, run, .. } | Record::CompactionCommitted { job, run, .. } => {
            let done = state.committed(job)?;
            Some(if done.run == *run {
                Outcome::Applied(done.transaction)
            } else {
                Outcome::AlreadyDone(done.transaction)
            })
        }
        _ => None,
    }
}

fn answer_key(table: &TableId, commit: &CommitId) -> ItemKey {
    ItemKey::new(Collection::CommitOutcomes, table.as_str(), commit.as_str())
}

/// Works on the queue `commit`: appends what other workers ask for.
#[derive(Debug)]
pub struct Committer {
    services: Services,
}

impl Committer {
    /// A committer.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    async fn commit(&self, delivery: &Delivery) -> Result<()> {
        let mut message = CommitMessage::parse(&delivery.body)?;
        if let Some(path) = message.body_object.take() {
            let path = Path::parse(&path)
                .map_err(|error| Error::invalid("\"bodyObject\" is not a path").with_source(error))?;
            let body = self.services.data.get(&path).await?.bytes().await?;
            let text = std::str::from_utf8(&body)
                .map_err(|error| Error::corrupt("a commit request is not text").with_source(error))?;
            message = CommitMessage::parse(text)?;
        }
        if message.commits.is_empty() {
            return Err(Error::invalid("a commit request points to another one"));
        }
        let table = &message.table_id;
        // Together, so that they are few entries; each is answered by itself.
        let commits = message
            .commits
            .into_iter()
            .map(|commit| self.commit_one(table, commit));
        let outcomes = futures::future::join_all(commits).await;
        outcomes.into_iter().collect()
    }

    async fn commit_one(&self, table: &TableId, commit: Commit) -> Result<()> {
        let committed = self.services.states.commit(table, commit.clone()).await?;
        if outcome_in(&committed.state, &commit).is_some() {
            return Ok(());
        }
        let item = Item::new(answer_key(table, &commit.id))
            .expiring(self.services.ports.clock.now().plus(ANSWER_RETENTION));
        let item = match committed.outcome {
            Outcome::Applied(transaction) | Outcome::AlreadyDone(transaction) => {
                item.with("kind", APPLIED).with("transaction", transaction.0)
            }
            Outcome::Refused(refusal) => item
                .with("kind", format!("{:?}", refusal.kind))
                .with("reason", refusal.reason),
        };
        self.services.ports.items.put(item, Condition::None).await
    }
}

#[async_trait]
impl Handler for Committer {
    fn queue(&self) -> QueueName {
        QueueName::Commit
    }

    fn concurrency(&self) -> usize {
        COMMITTER_CONCURRENCY
    }

    /// None: the worker that waits for the outcome reports it.
    async fn subject(&self, _body: &str, _message_id: &str) -> Result<Option<Subject>> {
        Ok(None)
    }

    async fn handle(&self, delivery: &Delivery, _run: &RunId) -> Result<(), JobFailure> {
        Ok(self.commit(delivery).await?)
    }
}
