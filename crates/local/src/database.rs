//! The SQLite file of a data directory.
//!
//! * **Writes** go to one thread a process ([`writer`]), which runs those that are waiting as one transaction:
//!   one `fsync` acknowledges many. Processes take turns ([`turn`]), so none starves.
//! * **Reads** run on blocking threads, each with a connection of its own from a small pool. In WAL mode they
//!   neither wait for writes nor hold them up, and see every write that was acknowledged before.
//! * **Waits** end when any process commits: a thread watches the file's change counter while somebody waits
//!   ([`watch`]).

mod turn;
mod watch;
mod writer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dormouse_core::{Error, Result, ports::QueueName};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Notify, Semaphore};

pub(crate) use self::watch::Watching;
use self::{turn::Turns, watch::Watch, writer::Writer};
use crate::{
    error::{Failure, from_sqlite},
    migrations,
};

/// How long a write waits for other processes before it fails with `Unavailable`.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many reads run at once.
const READERS: usize = 8;

/// The database of one data directory, shared by the adapters on it.
#[derive(Debug)]
pub(crate) struct Database {
    writer: Writer,
    readers: Arc<Readers>,
    watch: Watch,
    arrivals: Mutex<BTreeMap<QueueName, Arc<Notify>>>,
}

impl Database {
    /// Opens the file `dormouse.sqlite3` in `directory`, and makes or migrates it first when needed.
    pub(crate) fn open(directory: &Path) -> Result<Arc<Self>> {
        let path = directory.join("dormouse.sqlite3");
        let turns = Turns::open(&directory.join("dormouse.lock"))?;
        let connection = {
            // Not all of SQLite's set-up waits for locks, so processes that open a new file at once take turns.
            let _turn = turns.take(PATIENCE)?;
            let mut connection = connect(&path)?;
            migrations::migrate(&mut connection, &path)?;
            connection
        };
        Ok(Arc::new(Self {
            writer: Writer::start(connection, turns)?,
            watch: Watch::start(connect(&path)?)?,
            readers: Arc::new(Readers {
                path,
                slots: Semaphore::new(READERS),
                idle: Mutex::default(),
            }),
            arrivals: Mutex::default(),
        }))
    }

    /// Runs `operation` in a transaction and answers when it is on disk. An error rolls it back.
    ///
    /// Dropping the future does not stop an operation that was accepted.
    pub(crate) async fn write<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.writer.write(operation).await
    }

    /// Runs `operation`, which must be one statement or not mind changes between its statements.
    pub(crate) async fn read<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let readers = self.readers.clone();
        let _slot = readers
            .slots
            .acquire()
            .await
            .map_err(|closed| Error::internal("the readers are closed").with_source(closed))?;
        let pool = self.readers.clone();
        let read = tokio::task::spawn_blocking(move || {
            let connection = pool.take()?;
            let result = operation(&connection).map_err(Error::from);
            pool.idle.lock().push(connection);
            result
        });
        read.await
            .map_err(|failed| Error::internal("a read of the database panicked").with_source(failed))?
    }

    /// Wakes this process' receivers of a queue.
    pub(crate) fn arrivals(&self, queue: QueueName) -> Arc<Notify> {
        self.arrivals.lock().entry(queue).or_default().clone()
    }

    /// Watches for commits of any process until the answer is dropped.
    pub(crate) fn watch(&self) -> Watching<'_> {
        self.watch.begin()
    }
}

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    slots: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    fn take(&self) -> Result<Connection> {
        if let Some(connection) = self.idle.lock().pop() {
            return Ok(connection);
        }
        let connection = connect(&self.path)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(from_sqlite)?;
        Ok(connection)
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", false)?;
        connection.pragma_update(None, "cache_size", -8 * 1024)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|error| from_sqlite(error).context(format!("cannot open {}", path.display())))
}

#[cfg(test)]
mod tests {
    use dormouse_core::ErrorKind;

    use super::*;

    #[test]
    fn every_connection_waits_for_the_disk_at_each_commit() {
        let directory = tempfile::TempDir::new().unwrap();
        let connection = connect(&directory.path().join("dormouse.sqlite3")).unwrap();
        let pragma = |name: &str| {
            let read =
                connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
            format!("{:?}", read.unwrap())
        };
        assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
        assert_eq!(pragma("synchronous"), "Integer(2)");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_operation_that_fails_or_panics_fails_alone() {
        let directory = tempfile::TempDir::new().unwrap();
        let database = Database::open(directory.path()).unwrap();
        let insert = |id: &'static str| {
            move |connection: &Connection| -> Result<(), Failure> {
                let sql = "INSERT INTO items VALUES ('heads', ?1, x'', x'00', NULL)";
                connection.execute(sql, [id])?;
                match id {
                    "panics" => panic!("as the test wants"),
                    "fails" => Err(Error::conflict("as the test wants").into()),
                    _ => Ok(()),
                }
            }
        };
        let ids = ["first", "fails", "second", "panics", "third"];
        let writes = ids.map(|id| database.write(insert(id)));
        let outcomes = futures::future::join_all(writes).await;
        let failed: Vec<_> = outcomes
            .iter()
            .map(|outcome| outcome.as_ref().err().map(Error::kind))
            .collect();
        let (conflict, internal) = (Some(ErrorKind::Conflict), Some(ErrorKind::Internal));
        assert_eq!(failed, [None, conflict, None, internal, None]);
        let count = |connection: &Connection| -> Result<i64, Failure> {
            Ok(connection.query_row("SELECT count(*) FROM items", [], |row| row.get(0))?)
        };
        assert_eq!(database.read(count).await.unwrap(), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_log_is_started_over_after_a_long_read() {
        let directory = tempfile::TempDir::new().unwrap();
        let database = Database::open(directory.path()).unwrap();
        let fill = |connection: &Connection| -> Result<(), Failure> {
            let sql = "INSERT INTO items VALUES ('heads', hex(randomblob(9)), x'', zeroblob(1000000), NULL)";
            Ok(connection.execute(sql, []).map(drop)?)
        };
        let reader = connect(&directory.path().join("dormouse.sqlite3")).unwrap();
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM items;")
            .unwrap();
        for _ in 0..80 {
            database.write(fill).await.unwrap();
        }
        let log = directory.path().join("dormouse.sqlite3-wal");
        let grown = log.metadata().unwrap().len();
        assert!(grown > 64 * 1024 * 1024, "the log has {grown} bytes");
        drop(reader);
        for _ in 0..64 {
            database.write(|_| Ok(())).await.unwrap();
        }
        let shrunk = log.metadata().unwrap().len();
        assert!(shrunk < 1024 * 1024, "the log still has {shrunk} bytes");
    }
}
