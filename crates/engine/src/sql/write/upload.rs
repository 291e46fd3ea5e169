//! Bytes to a store, part by part: an object is there when all of it is, or not at all.

use std::sync::Arc;

use bytes::Bytes;
use dormouse_core::{
    Error, ErrorKind, Result,
    ports::{QueryOutput, QueryProgress},
};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, path::Path};
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, task::JoinSet};

/// Objects up to this size are put with one request; larger ones have parts of it.
const PART_BYTES: usize = 8 << 20;
/// How many parts are on their way at most.
const PARTS_IN_FLIGHT: usize = 3;
/// Stores take 10,000 parts: after so many, parts are twice as large.
const PARTS_OF_A_SIZE: usize = 2_000;
/// How often parts get larger: 480 GiB fit in an object.
const LARGEST_DOUBLING: usize = 4;

/// An object on its way.
#[derive(Debug)]
pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    progress: Arc<QueryProgress>,
    part: Vec<u8>,
    begun: Option<Begun>,
    sha256: Sha256,
    bytes: u64,
}

impl Upload {
    pub(super) fn new(output: &QueryOutput, path: Path) -> Self {
        Self {
            store: output.store.clone(),
            path,
            progress: output.progress.clone(),
            part: Vec::new(),
            begun: None,
            sha256: Sha256::new(),
            bytes: 0,
        }
    }

    fn failed(&self, error: object_store::Error) -> Error {
        let error = Error::from(error);
        let text = format!("cannot write \"{}\"", self.path);
        match error.kind() {
            ErrorKind::Invalid => error.context(text),
            // Nothing is wrong with the query: another attempt begins anew.
            _ => Error::unavailable(text).with_source(error),
        }
    }

    /// Appends bytes; waits while too many are on their way.
    pub(super) async fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        self.progress.add_bytes_written(bytes.len() as u64);
        while !bytes.is_empty() {
            let part_bytes = part_bytes(self.begun.as_ref().map_or(0, |begun| begun.count));
            if self.part.len() >= part_bytes {
                self.send().await?;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(part_bytes - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        let part = std::mem::take(&mut self.part).into();
        if self.begun.is_none() {
            let upload = self.store.put_multipart(&self.path).await;
            self.begun = Some(Begun::new(upload.map_err(|error| self.failed(error))?));
        }
        let sent = match &mut self.begun {
            Some(begun) => begun.send(part).await,
            None => Ok(()),
        };
        sent.map_err(|error| self.failed(error))
    }

    /// Waits until the object is there: its path, size, and checksum in hexadecimal.
    pub(super) async fn finish(mut self) -> Result<(Path, u64, String)> {
        let done = if self.begun.is_some() {
            self.send().await?;
            match self.begun.take() {
                Some(begun) => begun.finish().await,
                None => Ok(()),
            }
        } else {
            let bytes = Bytes::from(std::mem::take(&mut self.part));
            self.store.put(&self.path, bytes.into()).await.map(drop)
        };
        done.map_err(|error| self.failed(error))?;
        let sha256 = hex::encode(std::mem::take(&mut self.sha256).finalize());
        Ok((self.path.clone(), self.bytes, sha256))
    }
}

fn part_bytes(parts_before: usize) -> usize {
    PART_BYTES << (parts_before / PARTS_OF_A_SIZE).min(LARGEST_DOUBLING)
}

/// An upload in parts, given up when it is dropped.
#[derive(Debug)]
struct Begun {
    upload: Option<Box<dyn MultipartUpload>>,
    on_their_way: JoinSet<object_store::Result<()>>,
    count: usize,
}

impl Begun {
    fn new(upload: Box<dyn MultipartUpload>) -> Self {
        Self {
            upload: Some(upload),
            on_their_way: JoinSet::new(),
            count: 0,
        }
    }

    async fn send(&mut self, part: Bytes) -> object_store::Result<()> {
        while self.on_their_way.len() >= PARTS_IN_FLIGHT {
            self.one_arrives().await?;
        }
        if let Some(upload) = &mut self.upload {
            self.on_their_way.spawn(upload.put_part(part.into()));
            self.count += 1;
        }
        Ok(())
    }

    async fn one_arrives(&mut self) -> object_store::Result<()> {
        match self.on_their_way.join_next().await {
            Some(arrived) => arrived?,
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> object_store::Result<()> {
        while !self.on_their_way.is_empty() {
            self.one_arrives().await?;
        }
        if let Some(upload) = &mut self.upload {
            upload.complete().await?;
        }
        self.upload = None;
        Ok(())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        let mut on_their_way = std::mem::take(&mut self.on_their_way);
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            // A part that arrives later would stay behind.
            on_their_way.shutdown().await;
            if let Err(error) = upload.abort().await {
                tracing::warn!(%error, "an unfinished upload stays behind");
            }
        });
    }
}
