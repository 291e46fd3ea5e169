//! The thread that writes.
//!
//! Operations that wait while a commit is on its way to disk form the next group: each runs in a savepoint of
//! one transaction, one `fsync` makes all of them durable, and then each gets its answer. An operation that
//! fails rolls back its savepoint and fails alone.
//!
//! SQLite starts its log over only at a moment without readers, and many readers may leave none; so when the log
//! has grown large, the writer makes the next ones wait for such a moment.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use dormouse_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::{
    PATIENCE,
    turn::{Turns, wait_for_sqlite},
};
use crate::error::{Failure, from_sqlite};

/// The most operations of one transaction.
const GROUP: usize = 256;

/// How often the size of the log is looked at, in groups.
const LOG_CHECK: u64 = 64;

/// The size of the log, in bytes, from which on it is started over.
const LARGE_LOG: u64 = 64 * 1024 * 1024;

/// How long starting the log over may hold up writes.
const LOG_PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Writer {
    operations: Sender<Box<dyn Operation>>,
}

impl Writer {
    /// Starts the thread; it ends when the writer is dropped, after what was accepted before.
    pub(super) fn start(mut connection: Connection, turns: Turns) -> Result<Self> {
        connection
            .busy_handler(Some(wait_for_sqlite))
            .map_err(from_sqlite)?;
        let (sender, operations) = channel();
        std::thread::Builder::new()
            .name("dormouse-writer".to_owned())
            .spawn(move || run(connection, &turns, &operations))
            .map_err(|error| Error::unavailable("cannot start the writer thread").with_source(error))?;
        Ok(Self { operations: sender })
    }

    pub(super) async fn write<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let stopped = || Error::internal("the writer thread has stopped");
        let (sender, answer) = oneshot::channel();
        self.operations
            .send(Box::new(Waiting {
                operation: Some(operation),
                result: None,
                answer: sender,
            }))
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// An operation with the place of its result, whatever its type.
trait Operation: Send {
    /// Runs it and says whether its changes stay.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Sends its result, or why the whole group failed.
    fn answer(self: Box<Self>, group: Result<()>);
}

struct Waiting<T, F> {
    operation: Option<F>,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T, F> Operation for Waiting<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Failure> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(operation) = self.operation.take() else {
            return false;
        };
        let result = catch_unwind(AssertUnwindSafe(|| operation(connection)))
            .unwrap_or_else(|_| Err(Error::internal("a database operation panicked").into()));
        let stays = result.is_ok();
        self.result = Some(result.map_err(Error::from));
        stays
    }

    fn answer(self: Box<Self>, group: Result<()>) {
        let result = match (group, self.result) {
            (Ok(()), Some(result)) | (Err(_), Some(result @ Err(_))) => result,
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(Error::internal("a database operation was left out")),
        };
        // A caller that has gone away needs no answer.
        let _ = self.answer.send(result);
    }
}

fn run(mut connection: Connection, turns: &Turns, operations: &Receiver<Box<dyn Operation>>) {
    let log = connection.path().map(|path| PathBuf::from(format!("{path}-wal")));
    let mut groups: u64 = 0;
    while let Ok(first) = operations.recv() {
        groups += 1;
        if groups.is_multiple_of(LOG_CHECK) && log.as_deref().is_some_and(is_large) {
            start_log_over(&mut connection);
        }
        let mut group = vec![first];
        group.extend(operations.try_iter().take(GROUP - 1));
        let outcome = commit(&mut connection, turns, &mut group).map_err(Error::from);
        if let Err(error) = &outcome {
            tracing::warn!(
                error = error.report(),
                operations = group.len(),
                "a group of writes failed"
            );
        }
        for operation in group {
            operation.answer(match &outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(error.copied()),
            });
        }
    }
}

fn is_large(log: &Path) -> bool {
    log.metadata().is_ok_and(|log| log.len() > LARGE_LOG)
}

fn start_log_over(connection: &mut Connection) {
    let started = connection.busy_timeout(LOG_PATIENCE).and_then(|()| {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
    });
    let restored = connection.busy_handler(Some(wait_for_sqlite));
    match restored.and(started) {
        Ok(false) => {}
        Ok(true) => tracing::warn!("a reader kept the log of the database from being started over"),
        Err(error) => tracing::warn!(%error, "cannot start the log of the database over"),
    }
}

fn commit(
    connection: &mut Connection,
    turns: &Turns,
    group: &mut [Box<dyn Operation>],
) -> Result<(), Failure> {
    let turn = turns.take(PATIENCE)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    drop(turn);
    for operation in group {
        statement(&transaction, "SAVEPOINT operation")?;
        if !operation.run(&transaction) {
            // Some failures, such as a full disk, make SQLite roll back the whole transaction by itself.
            if transaction.is_autocommit() {
                let message = "another write of the same transaction failed; the disk may be full";
                return Err(Error::new(ErrorKind::Unavailable, message).into());
            }
            statement(&transaction, "ROLLBACK TO operation")?;
        }
        statement(&transaction, "RELEASE operation")?;
    }
    transaction.commit()?;
    Ok(())
}

fn statement(transaction: &Transaction<'_>, sql: &str) -> Result<(), Failure> {
    transaction.prepare_cached(sql)?.execute([])?;
    Ok(())
}
