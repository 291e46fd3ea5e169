//! What is answered instead of an object.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use dormouse_core::{Error, ErrorKind};

use crate::error::{ApiError, Code};

/// Why a link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The link was not signed here, or was changed.
    Signature,
    /// The link is too old.
    Expired,
    /// The link was for one use, which was made.
    UsedUp,
    /// There is no such object.
    Absent,
    /// The object is not the version that the client wants.
    OtherVersion,
    /// The object has no such bytes.
    NoSuchBytes {
        /// How many it has.
        size: u64,
    },
    /// The same request may be answered later.
    Unavailable,
    /// Something is wrong here.
    Internal,
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let (code, message) = match problem {
            Problem::Signature => (Code::Forbidden, "The link's signature does not match"),
            Problem::Expired => (Code::Forbidden, "Request has expired"),
            Problem::UsedUp => (Code::Gone, "The link was for a single use and was used"),
            Problem::Absent => (Code::NotFound, "The file does not exist"),
            Problem::OtherVersion => (
                Code::PreconditionFailed,
                "The file is another version than the one asked for",
            ),
            Problem::NoSuchBytes { .. } => (
                Code::RangeNotSatisfiable,
                "The file has none of the bytes asked for",
            ),
            Problem::Unavailable => (Code::Unavailable, "The file cannot be read now; try again later"),
            Problem::Internal => (Code::InternalError, "The file cannot be read"),
        };
        let error = match problem {
            Problem::Unavailable => Self::later(code, message, 1),
            _ => Self::new(code, message),
        };
        let error = error.header(
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-store"),
        );
        match problem {
            Problem::NoSuchBytes { size } => {
                let range = HeaderValue::try_from(format!("bytes */{size}"));
                range.map_or(error.clone(), |range| error.header(header::CONTENT_RANGE, range))
            }
            _ => error,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem = match error.kind() {
            ErrorKind::NotFound | ErrorKind::Invalid => return Self::Absent,
            ErrorKind::Conflict => return Self::OtherVersion,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::AlreadyExists | ErrorKind::Corrupt | ErrorKind::Internal => Self::Internal,
        };
        tracing::warn!(error = error.report(), "link not followed");
        problem
    }
}

impl From<object_store::Error> for Problem {
    fn from(error: object_store::Error) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        ApiError::from(self).into_response()
    }
}
