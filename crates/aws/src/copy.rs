//! Copies inside S3: `CopyObject`, and `UploadPartCopy` for what is too large for it.
//!
//! S3 is asked for the CRC-64/NVME of the whole copy. A store that does not tell it has the copy read instead.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use crc_fast::{CrcAlgorithm, Digest};
use dormouse_core::{
    Error, Result,
    file::Checksum,
    ports::{Bucket, Buckets, CopyReceipt, ServerSideCopy},
};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, path::Path};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    clients::Clients,
    error::from_sdk,
    objects::{S3Buckets, named},
};

/// The largest object that one call copies: S3 takes 5 GiB, for which a call would last minutes, and parts go side by
/// side.
const MAX_COPY_BYTES: u64 = 1 << 30;

/// The least size of a copied part.
const PART_BYTES: u64 = 256 << 20;

/// The most parts that an upload is cut into; S3 takes 10,000.
const MAX_PARTS: u64 = 9_000;

/// How many parts are copied at a time.
const PARTS_AT_ONCE: usize = 8;

/// Characters of a key that stand for themselves in a header.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// [`ServerSideCopy`] on S3.
#[derive(Debug)]
pub struct S3Copy {
    client: Client,
    buckets: Arc<S3Buckets>,
    max_copy_bytes: u64,
    part_bytes: u64,
}

/// An object that is copied.
struct Source<'a> {
    bucket: &'a str,
    path: &'a Path,
    bytes: u64,
    e_tag: Option<String>,
}

impl Source<'_> {
    /// As the header `x-amz-copy-source` has it.
    fn header(&self) -> String {
        format!(
            "{}/{}",
            self.bucket,
            utf8_percent_encode(self.path.as_ref(), PLAIN)
        )
    }
}

impl S3Copy {
    /// A copier over these buckets.
    pub fn new(clients: &Clients, buckets: Arc<S3Buckets>) -> Self {
        Self {
            client: clients.s3.clone(),
            buckets,
            max_copy_bytes: MAX_COPY_BYTES,
            part_bytes: PART_BYTES,
        }
    }

    /// Copies objects over `max_copy_bytes` in parts of `part_bytes`.
    pub fn with_parts(mut self, max_copy_bytes: u64, part_bytes: u64) -> Self {
        (self.max_copy_bytes, self.part_bytes) = (max_copy_bytes, part_bytes.max(1));
        self
    }

    async fn copy_whole(&self, source: &Source<'_>, bucket: &str, path: &Path) -> Result<Option<String>> {
        let copied = self
            .client
            .copy_object()
            .copy_source(source.header())
            .set_copy_source_if_match(source.e_tag.clone())
            .bucket(bucket)
            .key(path.as_ref())
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .send()
            .await
            .map_err(|error| not_copied(source, error))?;
        Ok(copied
            .copy_object_result
            .and_then(|result| result.checksum_crc64_nvme))
    }

    async fn copy_in_parts(&self, source: &Source<'_>, bucket: &str, path: &Path) -> Result<Option<String>> {
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(bucket)
            .key(path.as_ref())
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject)
            .send()
            .await
            .map_err(|error| from_sdk("beginning a copy in parts", error))?;
        let upload = begun.upload_id.unwrap_or_default();
        let completed = self.copy_parts(source, bucket, path, &upload).await;
        if completed.is_err() {
            // What cannot be aborted now is swept later.
            let abort = self
                .client
                .abort_multipart_upload()
                .bucket(bucket)
                .key(path.as_ref());
            if let Err(error) = abort.upload_id(&upload).send().await {
                let error = from_sdk("aborting a copy in parts", error);
                tracing::warn!(bucket, path = %path, error = error.report(), "an upload is left behind");
            }
        }
        completed
    }

    async fn copy_parts(
        &self,
        source: &Source<'_>,
        bucket: &str,
        path: &Path,
        upload: &str,
    ) -> Result<Option<String>> {
        let parts: Vec<CompletedPart> = futures::stream::iter(part_ranges(source.bytes, self.part_bytes))
            .map(async |(number, range)| {
                let copied = self
                    .client
                    .upload_part_copy()
                    .copy_source(source.header())
                    .set_copy_source_if_match(source.e_tag.clone())
                    .copy_source_range(range)
                    .bucket(bucket)
                    .key(path.as_ref())
                    .upload_id(upload)
                    .part_number(number)
                    .send()
                    .await
                    .map_err(|error| not_copied(source, error))?;
                let part = CompletedPart::builder().part_number(number);
                let part = match copied.copy_part_result {
                    None => part,
                    Some(told) => part
                        .set_e_tag(told.e_tag)
                        .set_checksum_crc64_nvme(told.checksum_crc64_nvme),
                };
                Ok::<_, Error>(part.build())
            })
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        let completed = self
            .client
            .complete_multipart_upload()
            .bucket(bucket)
            .key(path.as_ref())
            .upload_id(upload)
            .checksum_type(ChecksumType::FullObject)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .send()
            .await
            .map_err(|error| from_sdk("completing a copy in parts", error))?;
        Ok(completed.checksum_crc64_nvme)
    }

    async fn read_checksum(&self, bucket: &Bucket, path: &Path) -> Result<Checksum> {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut stream = self.buckets.open(bucket)?.get(path).await?.into_stream();
        while let Some(bytes) = stream.try_next().await? {
            digest.update(&bytes);
        }
        Ok(Checksum(digest.finalize()))
    }
}

fn not_copied<E>(source: &Source<'_>, error: SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error.code() {
        Some("NoSuchKey" | "NotFound") => no_object(source.bucket, source.path),
        // It was there a moment ago as another version.
        Some("PreconditionFailed") => {
            Error::unavailable("an object changed while it was copied").with_source(error)
        }
        _ => from_sdk("copying an object", error),
    }
}

fn no_object(bucket: &str, path: &Path) -> Error {
    Error::not_found(format!("there is no object s3://{bucket}/{path}"))
}

/// The numbers and byte ranges of the parts of an object, as S3 writes them.
fn part_ranges(bytes: u64, part_bytes: u64) -> impl Iterator<Item = (i32, String)> {
    let part = part_bytes.max(bytes.div_ceil(MAX_PARTS));
    (0..bytes.div_ceil(part)).zip(1..).map(move |(place, number)| {
        let start = place * part;
        (number, format!("bytes={start}-{}", (start + part).min(bytes) - 1))
    })
}

/// A checksum as S3 writes it: the eight bytes, the highest first, in base 64.
fn parse_checksum(text: &str) -> Option<Checksum> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    Some(Checksum(u64::from_be_bytes(bytes.try_into().ok()?)))
}

#[async_trait]
impl ServerSideCopy for S3Copy {
    async fn copy(&self, from: (&Bucket, &Path), to: (&Bucket, &Path)) -> Result<CopyReceipt> {
        let (from_bucket, to_bucket) = (named(from.0)?.as_str(), named(to.0)?.as_str());
        let head = self
            .client
            .head_object()
            .bucket(from_bucket)
            .key(from.1.as_ref())
            .send()
            .await;
        let head = match head {
            Ok(head) => head,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => {
                return Err(no_object(from_bucket, from.1));
            }
            Err(error) => return Err(from_sdk("looking at an object", error)),
        };
        let source = Source {
            bucket: from_bucket,
            path: from.1,
            bytes: head
                .content_length
                .and_then(|bytes| u64::try_from(bytes).ok())
                .unwrap_or_default(),
            e_tag: head.e_tag,
        };
        let told = if source.bytes <= self.max_copy_bytes {
            self.copy_whole(&source, to_bucket, to.1).await?
        } else {
            self.copy_in_parts(&source, to_bucket, to.1).await?
        };
        let checksum = match told.as_deref().and_then(parse_checksum) {
            Some(checksum) => checksum,
            None => self.read_checksum(to.0, to.1).await?,
        };
        Ok(CopyReceipt {
            bytes: source.bytes,
            checksum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_an_object_without_overlap() {
        let ranges: Vec<_> = part_ranges(25, 10).collect();
        let expected = [(1, "bytes=0-9"), (2, "bytes=10-19"), (3, "bytes=20-24")];
        assert!(
            ranges
                .iter()
                .map(|(number, range)| (*number, range.as_str()))
                .eq(expected)
        );
        assert_eq!(part_ranges(20, 10).count(), 2);
        assert_eq!(part_ranges(MAX_PARTS * 20, 10).count() as u64, MAX_PARTS);
    }

    #[test]
    fn a_checksum_is_read_as_s3_writes_it() {
        let known = Checksum(0xae8b_1486_0a79_9888);
        let text = BASE64_STANDARD.encode(known.0.to_be_bytes());
        assert_eq!(parse_checksum(&text), Some(known));
        assert_eq!(parse_checksum("AAAA"), None);
        assert_eq!(parse_checksum("?"), None);
    }
}
