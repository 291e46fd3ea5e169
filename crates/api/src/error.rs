//! What a request is refused with: one shape for every error.
//!
//! A body has the members of the bulk API (`error.code`, `error.message`, `error.details`) and those of RFC 9457
//! (`type`, `title`, `status`, `detail`, `instance`). Handlers answer an [`ApiError`]; [`render`] writes it, as it
//! knows the request. What is wrong inside is logged and not told.

use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use dormouse_core::{Error, ErrorKind};
use serde_json::{Map, Value, json};

use crate::observe::RequestId;

/// Why a request is refused, in a word for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Code {
    InvalidRequest,
    InvalidSql,
    SqlBlocked,
    QueryFailed,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    Gone,
    PayloadTooLarge,
    UnsupportedMediaType,
    PreconditionFailed,
    RangeNotSatisfiable,
    IdempotencyMismatch,
    RateLimited,
    InternalError,
    Unavailable,
    QueryTimeout,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 19] = [
        Self::InvalidRequest,
        Self::InvalidSql,
        Self::SqlBlocked,
        Self::QueryFailed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::Gone,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::PreconditionFailed,
        Self::RangeNotSatisfiable,
        Self::IdempotencyMismatch,
        Self::RateLimited,
        Self::InternalError,
        Self::Unavailable,
        Self::QueryTimeout,
    ];

    /// The word, its status, and what it means in general.
    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::InvalidRequest => (
                "INVALID_REQUEST",
                StatusCode::BAD_REQUEST,
                "The request is not valid",
            ),
            Self::InvalidSql => (
                "INVALID_SQL",
                StatusCode::BAD_REQUEST,
                "The query cannot be read or planned",
            ),
            Self::SqlBlocked => (
                "SQL_BLOCKED",
                StatusCode::BAD_REQUEST,
                "The statement is not a query",
            ),
            Self::QueryFailed => (
                "QUERY_FAILED",
                StatusCode::BAD_REQUEST,
                "The query cannot be answered",
            ),
            Self::Unauthorized => (
                "UNAUTHORIZED",
                StatusCode::UNAUTHORIZED,
                "A good API key is needed",
            ),
            Self::Forbidden => ("FORBIDDEN", StatusCode::FORBIDDEN, "Whoever asks may not do this"),
            Self::NotFound => ("NOT_FOUND", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => (
                "METHOD_NOT_ALLOWED",
                StatusCode::METHOD_NOT_ALLOWED,
                "The method is not allowed here",
            ),
            Self::Conflict => (
                "CONFLICT",
                StatusCode::CONFLICT,
                "The state of the job does not allow it",
            ),
            Self::Gone => ("GONE", StatusCode::GONE, "The result is not kept any more"),
            Self::PayloadTooLarge => (
                "PAYLOAD_TOO_LARGE",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large",
            ),
            Self::UnsupportedMediaType => (
                "UNSUPPORTED_MEDIA_TYPE",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is not JSON",
            ),
            Self::PreconditionFailed => (
                "PRECONDITION_FAILED",
                StatusCode::PRECONDITION_FAILED,
                "The result is another version",
            ),
            Self::RangeNotSatisfiable => (
                "RANGE_NOT_SATISFIABLE",
                StatusCode::RANGE_NOT_SATISFIABLE,
                "The range is not in the result",
            ),
            Self::IdempotencyMismatch => (
                "IDEMPOTENCY_MISMATCH",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key was used with another body",
            ),
            Self::RateLimited => (
                "RATE_LIMITED",
                StatusCode::TOO_MANY_REQUESTS,
                "There are too many requests or jobs",
            ),
            Self::InternalError => (
                "INTERNAL_ERROR",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The server has failed",
            ),
            Self::Unavailable => (
                "UNAVAILABLE",
                StatusCode::SERVICE_UNAVAILABLE,
                "The service cannot answer now",
            ),
            Self::QueryTimeout => (
                "QUERY_TIMEOUT",
                StatusCode::GATEWAY_TIMEOUT,
                "The query took too long",
            ),
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        self.parts().0
    }

    /// The status of answers with it.
    pub fn status(self) -> StatusCode {
        self.parts().1
    }

    /// What it means in general.
    pub fn title(self) -> &'static str {
        self.parts().2
    }
}

/// Why a request is refused.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Refusal>);

#[derive(Clone, Debug)]
struct Refusal {
    code: Code,
    message: String,
    details: Map<String, Value>,
    headers: HeaderMap,
}

/// What handlers answer.
pub type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    /// An error with a sentence for people.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Refusal {
            code,
            message: message.into(),
            details: Map::new(),
            headers: HeaderMap::new(),
        }))
    }

    /// A request that must be corrected, and which part of it.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message).detail("field", field)
    }

    /// There is no job with this id, or not for whoever asks.
    pub fn no_job(id: &str) -> Self {
        Self::new(Code::NotFound, format!("There is no job {id}"))
    }

    /// The state of something does not allow it; the reason is a word for programs.
    pub fn conflict(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Code::Conflict, message).detail("reason", reason)
    }

    /// Credentials are missing or wrong.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        let challenge = HeaderValue::from_static("Bearer realm=\"dormouse\"");
        Self::new(Code::Unauthorized, message).header(WWW_AUTHENTICATE, challenge)
    }

    /// The same may work in so many seconds.
    pub fn later(code: Code, message: impl Into<String>, seconds: u64) -> Self {
        Self::new(code, message)
            .detail("retry_after", seconds)
            .header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Adds to the details.
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.details.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The body of the answer to a request at `path`.
    fn body(&self, path: &str) -> Value {
        let (code, status, title) = self.0.code.parts();
        json!({
            "error": {"code": code, "message": self.0.message, "details": self.0.details},
            "type": format!("/docs#{code}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.0.message,
            "instance": path,
        })
    }

    /// The answer to a request at `path`; as `application/problem+json` when the request asks for that.
    pub fn response(&self, path: &str, as_problem: bool) -> Response {
        let content_type = match as_problem {
            true => "application/problem+json",
            false => "application/json",
        };
        let mut response = Response::new(Body::from(self.body(path).to_string()));
        *response.status_mut() = self.0.code.status();
        *response.headers_mut() = self.0.headers.clone();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::new(Code::NotFound, error.to_string()),
            ErrorKind::AlreadyExists => Self::conflict("exists", error.to_string()),
            ErrorKind::Conflict => Self::conflict("state", error.to_string()),
            ErrorKind::Invalid => Self::new(Code::InvalidRequest, error.to_string()),
            ErrorKind::Unavailable => {
                tracing::warn!(error = error.report(), "a request cannot be answered now");
                Self::later(
                    Code::Unavailable,
                    "The service cannot answer now; try again in a moment",
                    1,
                )
            }
            ErrorKind::Corrupt | ErrorKind::Internal => {
                tracing::error!(error = error.report(), "a request has failed");
                Self::new(Code::InternalError, "The server has failed")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Whether a request prefers `application/problem+json` to `application/json`.
pub fn wants_problem(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        let name = kind.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("application/problem+json")
    })
}

/// Writes the errors that handlers answer.
pub async fn render(request: Request, next: Next) -> Response {
    let as_problem = wants_problem(request.headers());
    let path = request.uri().path().to_owned();
    let id = request.extensions().get::<RequestId>().map(ToString::to_string);
    let mut response = next.run(request).await;
    let Some(mut error) = response.extensions_mut().remove::<ApiError>() else {
        return response;
    };
    if let (Code::InternalError, Some(id)) = (error.0.code, id) {
        error.0.message = format!("The server has failed; its log tells more about request {id}");
        error = error.detail("request_id", id);
    }
    let mut rendered = error.response(&path, as_problem);
    *rendered.extensions_mut() = std::mem::take(response.extensions_mut());
    // What layers below have added, such as the methods that are allowed.
    for (name, value) in response.headers() {
        if !rendered.headers().contains_key(name) && name != "content-length" {
            rendered.headers_mut().append(name, value.clone());
        }
    }
    rendered
}
