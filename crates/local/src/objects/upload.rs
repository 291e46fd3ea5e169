//! Uploads in parts.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart, path::Path};

use super::{
    bucket_store::{blocking, put_result},
    staging::{Existing, Staged, failure, write_error},
};

/// An upload in parts, written side by side into one file.
#[derive(Debug)]
pub(super) struct Upload {
    location: Path,
    staged: Option<Staged>,
    file: Arc<File>,
    begun_bytes: u64,
    written_bytes: Arc<AtomicU64>,
}

impl Upload {
    pub(super) fn new(location: Path, staged: Staged) -> io::Result<Self> {
        Ok(Self {
            location,
            file: Arc::new(staged.file().try_clone()?),
            staged: Some(staged),
            begun_bytes: 0,
            written_bytes: Arc::default(),
        })
    }

    fn take(&mut self) -> Result<Staged> {
        let ended = || failure(format!("the upload of {} has ended already", self.location));
        self.staged.take().ok_or_else(ended)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let start = self.begun_bytes;
        self.begun_bytes += data.content_length() as u64;
        let (file, written) = (self.file.clone(), self.written_bytes.clone());
        let location = self.location.clone();
        Box::pin(blocking(move || {
            let mut at = start;
            for chunk in &data {
                file.write_all_at(chunk, at)
                    .map_err(|error| write_error(&location, error))?;
                at += chunk.len() as u64;
            }
            // The disk works while the rest is made, so that little is left to wait for at the end.
            file.sync_data().map_err(|error| write_error(&location, error))?;
            written.fetch_add(at - start, Ordering::Relaxed);
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.take()?;
        if self.written_bytes.load(Ordering::Relaxed) != self.begun_bytes {
            return Err(failure(format!(
                "a part of the upload of {} failed",
                self.location
            )));
        }
        let location = self.location.clone();
        blocking(move || {
            let metadata = staged
                .publish(Existing::Replace)
                .map_err(|error| write_error(&location, error))?;
            Ok(put_result(&metadata))
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.take()?;
        blocking(move || {
            drop(staged);
            Ok(())
        })
        .await
    }
}
