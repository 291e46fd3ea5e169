//! What each of SQLite's errors means to a caller.

use dormouse_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// An error inside a database operation.
#[derive(Debug)]
pub(crate) enum Failure {
    Sqlite(rusqlite::Error),
    Ours(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Sqlite(error) => from_sqlite(error),
            Failure::Ours(error) => error,
        }
    }
}

pub(crate) fn from_sqlite(error: rusqlite::Error) -> Error {
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Unavailable,
            "the database is locked by another process",
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            (ErrorKind::Corrupt, "the database file is damaged")
        }
        Some(ErrorCode::DiskFull) => (
            ErrorKind::Unavailable,
            "the disk is full: the database cannot grow",
        ),
        Some(ErrorCode::SystemIoFailure) => (
            ErrorKind::Unavailable,
            "the disk is full or failing: the database cannot be read or written",
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            ErrorKind::Unavailable,
            "the database file cannot be opened for writing",
        ),
        Some(ErrorCode::OutOfMemory) => (ErrorKind::Unavailable, "the database ran out of memory"),
        _ => (ErrorKind::Internal, "a database statement failed; this is a bug"),
    };
    Error::new(kind, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn kinds_say_what_to_do_next() {
        for (code, kind) in [
            (ffi::SQLITE_BUSY, ErrorKind::Unavailable),
            (ffi::SQLITE_BUSY_SNAPSHOT, ErrorKind::Unavailable),
            (ffi::SQLITE_LOCKED, ErrorKind::Unavailable),
            (ffi::SQLITE_FULL, ErrorKind::Unavailable),
            (ffi::SQLITE_IOERR_FSYNC, ErrorKind::Unavailable),
            (ffi::SQLITE_CORRUPT, ErrorKind::Corrupt),
            (ffi::SQLITE_NOTADB, ErrorKind::Corrupt),
            (ffi::SQLITE_MISUSE, ErrorKind::Internal),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(from_sqlite(error).kind(), kind, "code {code}");
        }
        let full = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None);
        assert!(from_sqlite(full).to_string().contains("disk is full"));
    }
}
