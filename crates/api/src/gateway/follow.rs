//! Following a link.

use std::sync::Arc;

use axum::{
    extract::{Path as UrlPath, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, Method},
    response::{IntoResponse, Response},
};
use dormouse_core::{ids::BucketName, ports::Bucket, time::Timestamp};
use object_store::path::Path;

use super::{
    Gateway, READ,
    object::{Once, StoredObject},
    problem::Problem,
    signature::Signed,
};

/// Answers `GET` and `HEAD` of a link.
pub(super) async fn follow(
    State(gateway): State<Arc<Gateway>>,
    method: Method,
    path: Result<UrlPath<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    // What is no text was not signed.
    let Ok(UrlPath((bucket, path))) = path else {
        return Problem::Signature.into_response();
    };
    let answered = async {
        let once = gateway.check(&bucket, &path, query.as_deref().unwrap_or_default())?;
        let object = gateway.find(&bucket, &path)?;
        object.answer(&method, &headers, once).await
    };
    answered.await.unwrap_or_else(IntoResponse::into_response)
}

impl Gateway {
    /// Checks that a link was signed here and did not end. Tells what is to be noted of a link for one use.
    fn check(&self, bucket: &str, path: &str, query: &str) -> Result<Option<Once>, Problem> {
        let once = parameter(query, "once")?.unwrap_or_default();
        let (Some(expires), Some(signature)) = (parameter(query, "expires")?, parameter(query, "signature")?)
        else {
            return Err(Problem::Signature);
        };
        let signed = Signed {
            method: READ,
            bucket,
            path,
            expires,
            once,
        };
        if !self.key.verify(&signed, signature) {
            return Err(Problem::Signature);
        }
        let seconds: i64 = expires.parse().map_err(|_| Problem::Signature)?;
        let expires = Timestamp::from_millis(seconds.saturating_mul(1000));
        if self.clock.now() >= expires {
            return Err(Problem::Expired);
        }
        Ok((!once.is_empty()).then(|| Once {
            links: self.links.clone(),
            clock: self.clock.clone(),
            link: once.to_owned(),
            expires,
        }))
    }

    fn find(&self, bucket: &str, path: &str) -> Result<StoredObject, Problem> {
        let bucket = Bucket::Named(BucketName::new(bucket)?);
        Ok(StoredObject {
            store: self.buckets.open(&bucket)?,
            path: Path::parse(path).map_err(|_| Problem::Absent)?,
        })
    }
}

/// A parameter of the query, which the signer wrote without any escapes.
fn parameter<'a>(query: &'a str, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = query
        .split('&')
        .filter_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
    let first = values.next();
    match values.next() {
        Some(_) => Err(Problem::Signature),
        None => Ok(first.map(|(_, value)| value)),
    }
}
