//! How a workflow commits.
//!
//! Direct: the worker appends to the log itself, together with what its process has waiting for the same table.
//! Queued: the worker sends the commit to the queue `commit`, in one message with what its process has waiting for
//! the same table, and waits until the log tells what became of it, or a stored answer, where the commit was refused
//! or was so already; a committer appends what has gathered. Any mix of both is safe, since the log decides.

mod outbox;

use std::time::Duration;

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    collections::Collection,
    config::CommitMode,
    ids::{RunId, TableId, TransactionNumber},
    message::CommitMessage,
    ports::{Condition, Delivery, Item, ItemKey, QueueName},
    state::{Commit, CommitId, Committed, Outcome, Record, Refusal, TableState},
    tables::TableInfo,
};
use object_store::{ObjectStoreExt, path::Path};

pub(crate) use self::outbox::Outbox;
use crate::{
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// How long an answer that the log does not tell is kept.
const ANSWER_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// The kind of an answer to a commit that was so already, which the log does not tell.
const APPLIED: &str = "Applied";

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
    let outbox = services.outbox.of(table);
    let _under_way = outbox.send(services, table, commit.clone()).await?;
    outbox.outcome(services, table, commit).await
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
        let committed = self
            .services
            .states
            .commit_all(table, message.commits.clone())
            .await?;
        let answers = message.commits.iter().zip(committed);
        futures::future::try_join_all(
            answers.map(|(commit, committed)| self.answer(table, commit, committed)),
        )
        .await?;
        Ok(())
    }

    /// Stores an answer where the log does not tell.
    async fn answer(&self, table: &TableId, commit: &Commit, committed: Committed) -> Result<()> {
        if outcome_in(&committed.state, commit).is_some() {
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
