//! What is answered instead of an object.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dormouse_core::{Error, ErrorKind};
use serde_json::json;

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

impl Problem {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Signature => (
                StatusCode::FORBIDDEN,
                "FORBIDDEN",
                "The link's signature does not match",
            ),
            Self::Expired => (StatusCode::FORBIDDEN, "FORBIDDEN", "Request has expired"),
            Self::UsedUp => (
                StatusCode::GONE,
                "GONE",
                "The link was for a single use and was used",
            ),
            Self::Absent => (StatusCode::NOT_FOUND, "NOT_FOUND", "The file does not exist"),
            Self::OtherVersion => (
                StatusCode::PRECONDITION_FAILED,
                "PRECONDITION_FAILED",
                "The file is another version than the one asked for",
            ),
            Self::NoSuchBytes { .. } => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                "RANGE_NOT_SATISFIABLE",
                "The file has none of the bytes asked for",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                "The file cannot be read now; try again later",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "INTERNAL_ERROR",
                "The file cannot be read",
            ),
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
        let (status, code, message) = self.parts();
        let body = json!({"error": {"code": code, "message": message, "details": {}}});
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-store"),
        );
        match self {
            Self::NoSuchBytes { size } => {
                if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            Self::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
