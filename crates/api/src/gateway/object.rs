//! Answering with an object, or with a part of it.

use std::{ops::Range, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use dormouse_core::{ports::Clock, time::Timestamp};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, path::Path};

use super::{
    conditions::{self, Outcome},
    describe,
    download::{self, Receipt},
    problem::Problem,
    ranges::{self, Part},
};
use crate::links::{LinkState, Links};

/// Where an object is, whether it is there or not.
pub(super) struct StoredObject {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
}

/// A link for one use that an object is asked for over.
pub(super) struct Once {
    pub(super) links: Arc<Links>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) link: String,
    pub(super) expires: Timestamp,
}

impl StoredObject {
    /// Answers a request. Only `GET` has bytes, and uses a link for one use.
    pub(super) async fn answer(
        &self,
        method: &Method,
        headers: &HeaderMap,
        once: Option<Once>,
    ) -> Result<Response, Problem> {
        let reads = *method == Method::GET;
        if let Some(once) = &once {
            let state = match reads {
                true => once.links.begin(&once.link, once.expires).await?,
                false => once.links.look(&once.link).await?,
            };
            if state == LinkState::Gone {
                return Err(Problem::UsedUp);
            }
        }
        let meta = self
            .store
            .get_opts(&self.path, GetOptions::new().with_head(true))
            .await?
            .meta;
        let tag = conditions::entity_tag(&meta);
        let described = describe::headers(&meta, &tag);
        match conditions::check(headers, &tag) {
            Outcome::Failed => Err(Problem::OtherVersion),
            Outcome::NotModified => Ok(answer(StatusCode::NOT_MODIFIED, described, Body::empty())),
            Outcome::Proceed if reads => {
                let part = part(headers, &tag, meta.size);
                self.send(part, described, meta, once).await
            }
            Outcome::Proceed => Ok(sized(StatusCode::OK, described, meta.size, Body::empty())),
        }
    }

    async fn send(
        &self,
        part: Part,
        mut headers: HeaderMap,
        meta: ObjectMeta,
        once: Option<Once>,
    ) -> Result<Response, Problem> {
        let size = meta.size;
        let (status, range) = match part {
            Part::Whole => (StatusCode::OK, 0..size),
            Part::Some(range) => (StatusCode::PARTIAL_CONTENT, range),
            Part::Unsatisfiable => return Err(Problem::NoSuchBytes { size }),
        };
        let bytes = range.end.saturating_sub(range.start);
        if status == StatusCode::PARTIAL_CONTENT {
            let told = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
            let told = HeaderValue::try_from(told).map_err(|_| Problem::Internal)?;
            headers.insert(header::CONTENT_RANGE, told);
        }
        let receipt = once.map(|once| Receipt {
            once,
            range: range.clone(),
            size,
        });
        let body = if bytes > 0 {
            self.open(range, meta.e_tag, receipt).await?
        } else {
            if let Some(receipt) = receipt {
                receipt.note().await?;
            }
            Body::empty()
        };
        Ok(sized(status, headers, bytes, body))
    }

    /// These bytes of the version with this tag.
    async fn open(
        &self,
        range: Range<u64>,
        e_tag: Option<String>,
        receipt: Option<Receipt>,
    ) -> Result<Body, Problem> {
        let bytes = range.end.saturating_sub(range.start);
        let options = GetOptions::new()
            .with_range(Some(GetRange::Bounded(range)))
            .with_if_match(e_tag);
        let chunks = self.store.get_opts(&self.path, options).await?.into_stream();
        Ok(download::body(chunks, bytes, receipt))
    }
}

/// The part of an object with this tag and size that is asked for.
fn part(headers: &HeaderMap, tag: &str, size: u64) -> Part {
    match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) if conditions::range_is_current(headers, tag) => ranges::requested(range, size),
        _ => Part::Whole,
    }
}

fn answer(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// An answer that tells how many bytes there are, whether it has them or not.
fn sized(status: StatusCode, mut headers: HeaderMap, bytes: u64, body: Body) -> Response {
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    answer(status, headers, body)
}
