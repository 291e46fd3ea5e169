//! The one error type that crosses every port.
//!
//! A kind says what the caller does next, never what went wrong inside; one table per edge (queue, HTTP, exit
//! code) maps kinds to actions. The message names the thing, where it is and what would be right.

use std::fmt;

/// What a caller does next about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing does not exist. Queue: record the failure and acknowledge.
    NotFound,
    /// The thing exists already. Queue: acknowledge.
    AlreadyExists,
    /// A requirement of the request no longer holds. Queue: record the failure and acknowledge.
    Conflict,
    /// The request must be corrected. Queue: record a rejection and acknowledge.
    Invalid,
    /// Throttling, timeouts, lost connections: the same request may succeed later. Queue: release with backoff.
    Unavailable,
    /// Stored data is damaged. Queue: dead letter.
    Corrupt,
    /// A bug. Queue: release until the attempts run out.
    Internal,
}

impl ErrorKind {
    /// The exit code of a command that ends with this kind of error.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::AlreadyExists | Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Corrupt => 6,
        }
    }
}

/// An error with a kind, a message for people, and the error that caused it.
///
/// `Display` prints the message alone; [`Error::report`] adds the chain of sources.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result with [`enum@ErrorKind`]-carrying errors.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// An error without a source.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    constructors! {
        /// [`ErrorKind::NotFound`].
        not_found => NotFound;
        /// [`ErrorKind::AlreadyExists`].
        already_exists => AlreadyExists;
        /// [`ErrorKind::Conflict`].
        conflict => Conflict;
        /// [`ErrorKind::Invalid`].
        invalid => Invalid;
        /// [`ErrorKind::Unavailable`].
        unavailable => Unavailable;
        /// [`ErrorKind::Corrupt`].
        corrupt => Corrupt;
        /// [`ErrorKind::Internal`].
        internal => Internal;
    }

    /// Attaches the error that caused this one.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same kind with a message of more context; the error itself becomes the source.
    pub fn context(self, message: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            message: message.into(),
            source: Some(Box::new(self)),
        }
    }

    /// The error for one more who asked for the same: its kind, and its report as the message.
    pub fn copied(&self) -> Self {
        Self::new(self.kind, self.report())
    }

    /// What to do next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message followed by the messages of its sources, each once, joined by `: `.
    pub fn report(&self) -> String {
        let mut report = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            let text = source.to_string();
            if !report.contains(&text) {
                report.push_str(": ");
                report.push_str(&text);
            }
            next = source.source();
        }
        report
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        let kind = match &error {
            object_store::Error::NotFound { .. } => ErrorKind::NotFound,
            object_store::Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            object_store::Error::Precondition { .. } => ErrorKind::Conflict,
            object_store::Error::InvalidPath { .. } => ErrorKind::Invalid,
            _ if tells_of_no_bucket(&error) => ErrorKind::NotFound,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, "the object store answered with an error").with_source(error)
    }
}

/// Whether a listing failed as there is no such bucket: S3 tells by a code, which is in the text alone.
fn tells_of_no_bucket(error: &object_store::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        if error.to_string().contains("<Code>NoSuchBucket</Code>") {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_each_source_once() {
        let error = Error::not_found("no table \"orders\"").context("cannot ingest job j1");
        assert_eq!(error.to_string(), "cannot ingest job j1");
        assert_eq!(error.report(), "cannot ingest job j1: no table \"orders\"");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn exit_codes_are_those_of_the_documented_table() {
        let codes = [
            (ErrorKind::Internal, 1),
            (ErrorKind::Invalid, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::AlreadyExists, 4),
            (ErrorKind::Conflict, 4),
            (ErrorKind::Unavailable, 5),
            (ErrorKind::Corrupt, 6),
        ];
        for (kind, code) in codes {
            assert_eq!(kind.exit_code(), code, "{kind:?}");
        }
    }

    #[test]
    fn what_an_object_store_answers_has_a_kind() {
        use object_store::{Error as StoreError, path};
        let (path, source) = (|| "a".to_owned(), || "told".into());
        let not_found = StoreError::NotFound {
            path: path(),
            source: source(),
        };
        let exists = StoreError::AlreadyExists {
            path: path(),
            source: source(),
        };
        let precondition = StoreError::Precondition {
            path: path(),
            source: source(),
        };
        let bad_path = path::Path::parse("a//b").unwrap_err();
        let no_bucket = StoreError::Generic {
            store: "S3",
            source: "404: <Error><Code>NoSuchBucket</Code></Error>".into(),
        };
        let unclear = StoreError::Generic {
            store: "s",
            source: source(),
        };
        for (error, kind) in [
            (not_found, ErrorKind::NotFound),
            (exists, ErrorKind::AlreadyExists),
            (precondition, ErrorKind::Conflict),
            (StoreError::InvalidPath { source: bad_path }, ErrorKind::Invalid),
            (no_bucket, ErrorKind::NotFound),
            (unclear, ErrorKind::Unavailable),
        ] {
            assert_eq!(Error::from(error).kind(), kind);
        }
    }
}
