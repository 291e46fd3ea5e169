//! Links to objects that this server answers itself: those of an instance without S3.
//!
//! A link is `<base>/files/<bucket>/<path>?expires=<seconds>&signature=<digits>`, with `&once=<id>` when it is for one
//! use. It is signed with a secret of the instance, so every process of the instance follows it. Nothing about an
//! object is told before the signature is checked, and what a link allows is written in it: no credentials are needed.
//!
//! | Module | What lives there |
//! |---|---|
//! | `signature` | what is signed, and how |
//! | `follow` | following a link |
//! | `object` | answering with what it leads to |
//! | `ranges`, `conditions` | which bytes of which version are asked for |
//! | `describe` | headers about an object |
//! | `download` | its bytes |
//! | `problem` | what is answered instead |

mod conditions;
mod describe;
mod download;
mod follow;
mod object;
mod problem;
mod ranges;
mod signature;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    http::{HeaderMap, Method},
    routing::get,
};
use dormouse_core::{
    Error, Result,
    ids::BucketName,
    ports::{
        Bucket, Buckets, Clock, Ids, ItemStore,
        url_signer::{LinkMethod, UrlSigner, check_life},
    },
};
use object_store::{ObjectStore, path::Path};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{error::ApiResult, links::Links, secret::InstanceSecret};
use object::StoredObject;
use signature::{Signed, SigningKey};

/// What a path is written with in a link, apart from letters and digits.
const PATH: AsciiSet = NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The method that links for reading are signed with.
const READ: &str = "GET";

/// Signs links, and follows them.
pub struct Gateway {
    key: SigningKey,
    links: Arc<Links>,
    buckets: Arc<dyn Buckets>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    base_url: String,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway of the instance with this secret and these items, whose links begin with `base_url`.
    pub fn new(
        secret: InstanceSecret,
        items: Arc<dyn ItemStore>,
        buckets: Arc<dyn Buckets>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        base_url: &str,
    ) -> Self {
        Self {
            key: SigningKey::new(secret),
            links: Arc::new(Links::new(items, clock.clone(), ids.clone())),
            buckets,
            clock,
            ids,
            base_url: base_url.trim_end_matches('/').to_owned(),
        }
    }

    /// A link for reading an object that is good for one use, and for `life` at most.
    ///
    /// # Errors
    /// As [`UrlSigner::sign`].
    pub fn sign_single_use(&self, bucket: &Bucket, path: &Path, life: Duration) -> Result<String> {
        let once = self.ids.uuid().simple().to_string();
        self.link(bucket, path, life, &once)
    }

    fn link(&self, bucket: &Bucket, path: &Path, life: Duration, once: &str) -> Result<String> {
        check_life(life)?;
        let bucket = named(bucket)?.as_str();
        let expires = (self.clock.now().plus(life).as_millis() / 1000).to_string();
        let signature = self.key.sign(&Signed {
            method: READ,
            bucket,
            path: path.as_ref(),
            expires: &expires,
            once,
        });
        let base = &self.base_url;
        let path = utf8_percent_encode(path.as_ref(), &PATH);
        let mut link = format!("{base}/files/{bucket}/{path}?expires={expires}&signature={signature}");
        if !once.is_empty() {
            link.push_str("&once=");
            link.push_str(once);
        }
        Ok(link)
    }

    /// Follows links: `GET` and `HEAD` of `/files/{bucket}/{*path}`. Errors are for [`crate::error::render`] to write.
    pub fn router<S: Clone + Send + Sync + 'static>(self: Arc<Self>) -> Router<S> {
        Router::new()
            .route("/files/{bucket}/{*path}", get(follow::follow))
            .with_state(self)
    }
}

#[async_trait]
impl UrlSigner for Gateway {
    async fn sign(&self, method: LinkMethod, bucket: &Bucket, path: &Path, life: Duration) -> Result<String> {
        match method {
            LinkMethod::Get => self.link(bucket, path, life, ""),
            LinkMethod::Put => Err(Error::invalid("uploads are not there yet")),
        }
    }
}

/// Answers a `GET` or `HEAD` with an object, as a link to it would be, for callers that know who asks.
///
/// # Errors
/// `NOT_FOUND` when there is no such object, and others as links have them.
pub async fn serve_object(
    store: Arc<dyn ObjectStore>,
    path: Path,
    method: &Method,
    headers: &HeaderMap,
) -> ApiResult {
    let object = StoredObject { store, path };
    Ok(object.answer(method, headers, None).await?)
}

/// The bucket's name. Files of the machine have no links.
fn named(bucket: &Bucket) -> Result<&BucketName> {
    match bucket {
        Bucket::Named(name) => Ok(name),
        Bucket::Files => Err(Error::invalid("a file of this machine has no link")),
    }
}
