//! Bodies and queries of requests: read strictly, and refused with what is wrong where.

use axum::{
    body::Body,
    extract::{FromRequestParts, Query},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
};
use dormouse_core::ids::{BulkJobId, JobId};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Path;
use sha2::{Digest, Sha256};

use crate::error::{ApiError, ApiResult, Code};

/// A body of JSON.
#[derive(Debug)]
pub struct JsonBody {
    value: Value,
}

impl JsonBody {
    /// Reads a body of at most `limit` bytes.
    ///
    /// # Errors
    /// `UNSUPPORTED_MEDIA_TYPE` when its content type is another one, `PAYLOAD_TOO_LARGE`, `INVALID_REQUEST` when it
    /// is no object of JSON.
    pub async fn read(headers: &HeaderMap, body: Body, limit: u64) -> ApiResult<Self> {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(is_json) {
            let found = content_type.unwrap_or("none");
            return Err(ApiError::new(
                Code::UnsupportedMediaType,
                format!(
                    "The content type must be application/json, not {}",
                    found.escape_debug()
                ),
            ));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let bytes = axum::body::to_bytes(body, limit).await.map_err(|error| {
            if told_of_length(&error) {
                let message = format!("The body has more than {limit} bytes");
                ApiError::new(Code::PayloadTooLarge, message).detail("max_bytes", limit as u64)
            } else {
                ApiError::invalid("body", "The body did not arrive whole")
            }
        })?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::invalid("body", format!("The body is no JSON: {error}")))?;
        match value.is_object() {
            true => Ok(Self { value }),
            false => Err(ApiError::invalid("body", "The body must be a JSON object")),
        }
    }

    /// The SHA-256 of the body, whatever the order of its names and the blanks between them.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(canonical(&self.value)))
    }

    /// A member that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name)?.as_str()
    }

    /// What the body says.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, naming the fields that are not known, or the one that is wrong.
    pub fn parse<T: DeserializeOwned>(self) -> ApiResult<T> {
        serde_path_to_error::deserialize(&self.value).map_err(|error| {
            let message = error.inner().to_string();
            let unknown = unknown_fields(&self.value, error.path(), &message);
            unknown.unwrap_or_else(|| {
                let path: String = error.path().to_string().chars().take(200).collect();
                let field = if path == "." { "body" } else { &path };
                ApiError::invalid(field, format!("{field}: {message}"))
            })
        })
    }
}

fn is_json(content_type: &str) -> bool {
    let name = content_type.split(';').next().unwrap_or_default().trim();
    let name = name.to_ascii_lowercase();
    name == "application/json" || (name.starts_with("application/") && name.ends_with("+json"))
}

fn told_of_length(error: &axum::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// What is said about fields that are not known, when a message of serde tells of one.
fn unknown_fields(body: &Value, path: &Path, message: &str) -> Option<ApiError> {
    let (name, expected) = message
        .strip_prefix("unknown field `")?
        .rsplit_once("`, expected ")?;
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let mut segments: Vec<String> = path.iter().map(ToString::to_string).collect();
    // The path may end with the field itself, which is in the one before.
    if segments.last().is_some_and(|last| last == name) {
        segments.pop();
    }
    let inner = segments
        .iter()
        .try_fold(body, |value, segment| value.get(segment));
    let names = inner?.as_object()?.keys().map(String::as_str);
    let unknown: Vec<&str> = names.filter(|name| !known.contains(name)).collect();
    let full = |name: &str| {
        let name: String = name.chars().take(100).collect();
        let parts = segments.iter().map(String::as_str).chain([name.as_str()]);
        parts.collect::<Vec<_>>().join(".")
    };
    let told: Vec<String> = unknown
        .iter()
        .map(|name| match nearest(name, &known) {
            Some(near) => format!("\"{}\" (nearest: \"{}\")", full(name).escape_debug(), full(near)),
            None => format!("\"{}\"", full(name).escape_debug()),
        })
        .collect();
    let names: Vec<Value> = unknown.iter().map(|name| Value::from(full(name))).collect();
    let message = format!("There is no field {}", told.join(", "));
    Some(ApiError::invalid(&full(unknown.first()?), message).detail("unknown_fields", names))
}

/// The text of a value, with the names of objects in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.as_str());
            let text = |(name, value): &(&String, &Value)| {
                format!("{}:{}", Value::from(name.as_str()), canonical(value))
            };
            format!("{{{}}}", members.iter().map(text).collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(canonical).collect();
            format!("[{}]", values.join(","))
        }
        value => value.to_string(),
    }
}

/// The word that is most like another one.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // A long name is like none, and takes long to compare.
    let name: String = name.chars().take(100).collect();
    known
        .iter()
        .min_by_key(|word| strsim::damerau_levenshtein(word, &name))
        .copied()
}

/// The parameters in a request's query, each at most once.
#[derive(Debug)]
pub struct Parameters {
    pairs: Vec<(String, String)>,
}

impl Parameters {
    /// Checks that there are none.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when there is one.
    pub fn none(uri: &axum::http::Uri) -> ApiResult<()> {
        Self::read(uri, &[]).map(drop)
    }

    /// Reads those with the names of `known`.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for one that is not known, or is there twice.
    pub fn read(uri: &axum::http::Uri, known: &[&str]) -> ApiResult<Self> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| ApiError::invalid("query", "The query of the address cannot be read"))?;
        for (number, (name, _)) in pairs.iter().enumerate() {
            let shown: String = name.chars().take(100).collect();
            if !known.contains(&name.as_str()) {
                let near = nearest(name, known).map(|near| format!("; the nearest is \"{near}\""));
                return Err(ApiError::invalid(
                    &shown,
                    format!(
                        "There is no parameter \"{}\"{}",
                        shown.escape_debug(),
                        near.unwrap_or_default()
                    ),
                ));
            }
            if pairs[..number].iter().any(|(other, _)| other == name) {
                let message = format!("Parameter \"{shown}\" is there more than once");
                return Err(ApiError::invalid(&shown, message));
            }
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let pair = self.pairs.iter().find(|(other, _)| other == name);
        pair.map(|(_, value)| value.as_str())
    }

    /// A parameter that is a whole number in a range.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when it is not.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> ApiResult<Option<u64>> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text
            .parse()
            .ok()
            .filter(|number| digits && range.contains(number));
        number.map(Some).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            ApiError::invalid(name, format!("{name} must be a whole number from {from} to {to}"))
        })
    }

    /// A parameter that is `true` or `false`.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when it is neither.
    pub fn flag(&self, name: &str) -> ApiResult<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(ApiError::invalid(name, format!("{name} must be true or false"))),
        }
    }
}

/// The job that the path names.
#[derive(Debug)]
pub struct BulkJobPath(pub BulkJobId);

/// The job of any kind that the path names.
#[derive(Debug)]
pub struct JobPath(pub JobId);

async fn job_in_path<S: Send + Sync>(parts: &mut Parts, state: &S) -> ApiResult<String> {
    let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
    path.map(|path| path.0)
        .map_err(|_| ApiError::invalid("job_id", "The job id in the path cannot be read"))
}

impl<S: Send + Sync> FromRequestParts<S> for BulkJobPath {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let id = job_in_path(parts, state).await?;
        BulkJobId::new(id)
            .map(Self)
            .map_err(|error| ApiError::invalid("job_id", error.to_string()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let id = job_in_path(parts, state).await?;
        JobId::new(id)
            .map(Self)
            .map_err(|error| ApiError::invalid("job_id", error.to_string()))
    }
}
