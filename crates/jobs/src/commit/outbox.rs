//! What a process has to commit by the queue: sent together, and waited for together.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dormouse_core::{
    Error, Result,
    gather::{Gather, to_each},
    ids::{TableId, TransactionNumber},
    message::CommitMessage,
    ports::{Message, QueueName, create_object, queue::MAX_BODY_BYTES},
    state::{Commit, CommitId, Outcome, TableState},
    time::Timestamp,
};
use object_store::path::Path;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{outcome_in, stored_answer};
use crate::services::Services;

/// How long a worker waits for a queued commit before its message is given back.
const QUEUED_WAIT: Duration = Duration::from_secs(15 * 60);

/// How long to wait before the log is looked at again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// For how many commits that the log does not tell of one look asks for a stored answer, how long after they were
/// sent, and how long after others were asked for in vain: of nearly all commits the log tells.
const ANSWERS_A_LOOK: usize = 8;
const ANSWER_AFTER: Duration = Duration::from_millis(500);

/// How many messages of a table a process has under way, and for how long at most it waits for one of them to be
/// answered before it sends another: as many as a queue delivers together, so that what comes meanwhile goes in few.
const MESSAGES_UNDER_WAY: usize = 8;
const GATHER: Duration = Duration::from_secs(1);

/// The most commits that one message holds.
const MAX_COMMITS_A_MESSAGE: usize = 250;

/// Commits on their way to the queue `commit` and to their outcomes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    tables: Mutex<BTreeMap<TableId, Arc<TableOutbox>>>,
}

impl Outbox {
    pub(super) fn of(&self, table: &TableId) -> Arc<TableOutbox> {
        lock(&self.tables).entry(table.clone()).or_default().clone()
    }
}

/// Those of one table: what gathers while a message is being sent goes together with the next, and one of those who
/// wait for outcomes looks for all.
#[derive(Debug)]
pub(super) struct TableOutbox {
    sending: Gather<Commit, UnderWay>,
    under_way: Arc<Semaphore>,
    asking: Mutex<Asking>,
    looking: tokio::sync::Mutex<()>,
}

/// A message under way, until all who have a commit in it know what became of it; none where it took too long to wait
/// for others.
pub(super) type UnderWay = Option<Arc<OwnedSemaphorePermit>>;

impl Default for TableOutbox {
    fn default() -> Self {
        Self {
            sending: Gather::default(),
            under_way: Arc::new(Semaphore::new(MESSAGES_UNDER_WAY)),
            asking: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }
}

/// Who waits for outcomes, in the order of asking.
#[derive(Debug, Default)]
struct Asking {
    next: u64,
    /// From which one on stored answers are asked for next, and not before when.
    from: u64,
    not_before: Timestamp,
    commits: BTreeMap<u64, Asked>,
    /// Up to which transaction the log was looked at last, and from which one on nobody was looked for then.
    looked_at: (TransactionNumber, u64),
}

#[derive(Debug)]
struct Asked {
    commit: Commit,
    at: Timestamp,
    answer: oneshot::Sender<Outcome>,
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

impl TableOutbox {
    /// Sends a commit, and returns when it is on the queue. What it answers is kept until the commit's outcome is known.
    pub(super) async fn send(
        &self,
        services: &Services,
        table: &TableId,
        commit: Commit,
    ) -> Result<UnderWay> {
        let ready = || async {
            tokio::select! {
                biased;
                permit = self.under_way.clone().acquire_owned() => permit.ok().map(Arc::new),
                () = services.ports.clock.sleep(GATHER) => None,
            }
        };
        let call = |commits: Vec<Commit>, under_way: UnderWay| async move {
            let sent = send(services, table, &commits).await.map(|()| under_way);
            to_each(&sent, commits.len())
        };
        self.sending
            .send(commit, MAX_COMMITS_A_MESSAGE, ready, call)
            .await
    }

    /// Waits until the log or a stored answer tells what became of a commit that was sent.
    pub(super) async fn outcome(
        &self,
        services: &Services,
        table: &TableId,
        commit: Commit,
    ) -> Result<Outcome> {
        let clock = &services.ports.clock;
        let at = clock.now();
        let deadline = at.plus(QUEUED_WAIT);
        let (answer, mut answered) = oneshot::channel();
        let id = commit.id.clone();
        let number = {
            let mut asking = lock(&self.asking);
            asking.next += 1;
            let number = asking.next;
            asking.commits.insert(number, Asked { commit, at, answer });
            number
        };
        let _place = Place { outbox: self, number };
        let mut pause = FIRST_PAUSE;
        loop {
            let turn = tokio::select! {
                biased;
                outcome = &mut answered => return outcome.map_err(|_| unanswered(&id)),
                turn = self.looking.lock() => turn,
            };
            self.look(services, table).await?;
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

    /// Answers all whose outcome is known by now. Of those that the log does not tell of, some are looked up each
    /// time, in turn.
    async fn look(&self, services: &Services, table: &TableId) -> Result<()> {
        let state = services.states.state(table).await?;
        let unknown = {
            let mut asking = lock(&self.asking);
            asking.answer_by(&state);
            asking.next_unknown(services.ports.clock.now())
        };
        for (number, commit) in unknown {
            if let Some(outcome) = stored_answer(services, table, &commit).await? {
                let mut asking = lock(&self.asking);
                // Where there is one, there are others.
                asking.not_before = Timestamp::default();
                if let Some(asked) = asking.commits.remove(&number) {
                    let _ = asked.answer.send(outcome);
                }
            }
        }
        Ok(())
    }
}

impl Asking {
    fn answer_by(&mut self, state: &TableState) {
        let from = match self.looked_at {
            (transaction, next) if transaction == state.transaction() => next,
            _ => 0,
        };
        self.looked_at = (state.transaction(), self.next + 1);
        let mut outcomes = Vec::new();
        let known = self.commits.extract_if(from.., |_, asked| {
            let outcome = outcome_in(state, &asked.commit);
            let is_known = outcome.is_some();
            outcomes.extend(outcome);
            is_known
        });
        let answers: Vec<_> = known.map(|(_, asked)| asked.answer).collect();
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever asked may be gone.
            let _ = answer.send(outcome);
        }
    }

    fn next_unknown(&mut self, now: Timestamp) -> Vec<(u64, CommitId)> {
        if now < self.not_before {
            return Vec::new();
        }
        let in_turn = self
            .commits
            .range(self.from..)
            .chain(self.commits.range(..self.from));
        let some: Vec<_> = in_turn
            .filter(|(_, asked)| asked.at.plus(ANSWER_AFTER) <= now)
            .take(ANSWERS_A_LOOK)
            .map(|(number, asked)| (*number, asked.commit.id.clone()))
            .collect();
        self.from = some.last().map_or(0, |(number, _)| number + 1);
        self.not_before = now.plus(ANSWER_AFTER);
        some
    }
}

fn unanswered(commit: &CommitId) -> Error {
    Error::unavailable(format!("commit {commit} was queued and not answered"))
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
