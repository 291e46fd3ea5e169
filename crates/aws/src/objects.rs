//! Buckets of S3.
//!
//! Reads and writes go through the `object_store` crate: requests have deadlines and are made again with a
//! budget, a body that breaks off is read on from where it broke, and uploads carry SHA-256 checksums that S3
//! checks. What the crate does not do goes through the SDK: listing uploads that were left behind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_credential_types::{Credentials, provider::ProvideCredentials};
use aws_sdk_s3::error::ProvideErrorMetadata;
use dormouse_core::{
    Error, Result,
    ids::BucketName,
    ports::{AbandonedUploads, Bucket, Buckets, Clock},
    time::Timestamp,
};
use object_store::{
    BackoffConfig, ClientOptions, CredentialProvider, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AwsCredential, Checksum, S3ConditionalPut},
};
use parking_lot::Mutex;

use crate::{clients::Clients, error::from_sdk};

/// How long one request may take, its body included. Reads are of ranges, uploads of parts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often, and for how long, a request is made again.
const RETRIES: usize = 10;
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);

/// How long before their end credentials are asked for anew.
const CREDENTIALS_MARGIN: Duration = Duration::from_secs(300);

/// [`Buckets`] of S3.
#[derive(Debug)]
pub struct S3Buckets {
    clients: Clients,
    credentials: Arc<ChainCredentials>,
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<BucketName, Arc<dyn ObjectStore>>>,
}

impl S3Buckets {
    /// The buckets that the clients' credentials open.
    pub fn new(clients: &Clients, clock: Arc<dyn Clock>) -> Self {
        Self {
            credentials: Arc::new(ChainCredentials {
                clients: clients.clone(),
                clock: clock.clone(),
                known: tokio::sync::Mutex::const_new(None),
            }),
            clients: clients.clone(),
            clock,
            open: Mutex::default(),
        }
    }

    fn build(&self, bucket: &BucketName) -> Result<Arc<dyn ObjectStore>> {
        let endpoint = self.clients.s3_endpoint();
        let options = ClientOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(endpoint.as_ref().is_some_and(|url| url.starts_with("http://")));
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: RETRY_TIMEOUT,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket.as_str())
            .with_region(self.clients.region())
            .with_credentials(self.credentials.clone())
            .with_client_options(options)
            .with_retry(retry)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_checksum_algorithm(Checksum::SHA256);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(|error| {
            Error::invalid(format!("bucket {bucket} cannot be opened")).with_source(error)
        })?;
        Ok(Arc::new(store))
    }
}

impl Buckets for S3Buckets {
    /// Asks nobody: a bucket that is not there is found out by the first request.
    fn open(&self, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>> {
        let name = named(bucket)?;
        if let Some(store) = self.open.lock().get(name) {
            return Ok(store.clone());
        }
        let store = self.build(name)?;
        self.open.lock().insert(name.clone(), store.clone());
        Ok(store)
    }
}

impl S3Buckets {
    /// Aborts an upload. False when it was completed or aborted meanwhile.
    async fn abort(&self, bucket: &BucketName, key: Option<&str>, upload: Option<&str>) -> Result<bool> {
        let aborted = self
            .clients
            .s3
            .abort_multipart_upload()
            .bucket(bucket.as_str())
            .set_key(key.map(str::to_owned))
            .set_upload_id(upload.map(str::to_owned))
            .send()
            .await;
        match aborted {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("NoSuchUpload") => Ok(false),
            Err(error) => Err(from_sdk("aborting an upload", error)),
        }
    }
}

/// The bucket's name.
///
/// # Errors
/// `Invalid` for the machine's own files.
pub(crate) fn named(bucket: &Bucket) -> Result<&BucketName> {
    match bucket {
        Bucket::Named(name) => Ok(name),
        Bucket::Files => Err(Error::invalid(
            "an instance on AWS reads no file:// inputs; put them into a bucket",
        )),
    }
}

#[async_trait]
impl AbandonedUploads for S3Buckets {
    async fn abort_older_than(&self, bucket: &Bucket, age: Duration) -> Result<u64> {
        let bucket = named(bucket)?;
        let before = self.clock.now().minus(age);
        let mut aborted = 0;
        let mut marker = (None, None);
        loop {
            let page = self
                .clients
                .s3
                .list_multipart_uploads()
                .bucket(bucket.as_str())
                .set_key_marker(marker.0)
                .set_upload_id_marker(marker.1)
                .send()
                .await
                .map_err(|error| from_sdk("listing uploads", error))?;
            let old = page.uploads().iter().filter(|upload| {
                let begun = upload.initiated().and_then(|time| time.to_millis().ok());
                begun.is_some_and(|begun| Timestamp::from_millis(begun) <= before)
            });
            for upload in old {
                aborted += u64::from(self.abort(bucket, upload.key(), upload.upload_id()).await?);
            }
            if page.is_truncated() != Some(true) {
                break;
            }
            marker = (page.next_key_marker, page.next_upload_id_marker);
        }
        Ok(aborted)
    }
}

/// Credentials for `object_store` by the SDK's chain, kept until shortly before they end.
#[derive(Debug)]
struct ChainCredentials {
    clients: Clients,
    clock: Arc<dyn Clock>,
    known: tokio::sync::Mutex<Option<(Arc<AwsCredential>, Option<Timestamp>)>>,
}

fn ends(credentials: &Credentials) -> Option<Timestamp> {
    let since = credentials.expiry()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?))
}

#[async_trait]
impl CredentialProvider for ChainCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut known = self.known.lock().await;
        if let Some((credential, ends)) = &*known {
            let margin = self.clock.now().plus(CREDENTIALS_MARGIN);
            if ends.is_none_or(|ends| ends > margin) {
                return Ok(credential.clone());
            }
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
            store: "S3",
            source,
        };
        let chain = self
            .clients
            .config
            .credentials_provider()
            .ok_or_else(|| failed("no credentials are configured".into()))?;
        let credentials = chain
            .provide_credentials()
            .await
            .map_err(|error| failed(error.into()))?;
        let credential = Arc::new(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(str::to_owned),
        });
        *known = Some((credential.clone(), ends(&credentials)));
        Ok(credential)
    }
}
