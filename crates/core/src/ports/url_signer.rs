//! Links to objects.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use object_store::path::Path;

use super::Bucket;
use crate::error::Result;

/// The longest time that a link is good for: S3's limit.
pub const MAX_LINK_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMethod {
    /// Reading an object, whole or in ranges.
    Get,
    /// Writing an object.
    Put,
}

/// Signs links: whoever has one needs no credentials, until it expires.
#[async_trait]
pub trait UrlSigner: Debug + Send + Sync {
    /// A link to an object, whether it is there or not, that is good for `life`.
    ///
    /// # Errors
    /// `Invalid` for a life of nothing, or one over [`MAX_LINK_LIFE`]; `Unavailable` without credentials.
    async fn sign(&self, method: LinkMethod, bucket: &Bucket, path: &Path, life: Duration) -> Result<String>;
}

/// Checks the life of a link, the same in every adapter.
///
/// # Errors
/// `Invalid`, with the limit.
pub fn check_life(life: Duration) -> Result<()> {
    if life.as_secs() == 0 || life > MAX_LINK_LIFE {
        return Err(crate::Error::invalid(format!(
            "a link is good for 1 s to {} s, not {} s",
            MAX_LINK_LIFE.as_secs(),
            life.as_secs()
        )));
    }
    Ok(())
}
