//! Streams an object to a store from a plain thread, with its size and checksum.

use std::{io, sync::Arc};

use crc_fast::{CrcAlgorithm, Digest};
use dormouse_core::{Error, Result, file::Checksum};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart, path::Path};
use tokio::runtime::Handle;

/// Objects up to this size are put with one request.
const SINGLE_PUT_BYTES: usize = 8 << 20;
/// A multipart upload has at most this many parts in flight.
const PARTS_IN_FLIGHT: usize = 3;
/// Stores take 10,000 parts an upload; parts grow so that an expected size needs at most so many.
const EXPECTED_PARTS: u64 = 4_000;

/// Where and how to write an object.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    /// Whether an object that is there already may be replaced.
    pub(crate) overwrite: bool,
    /// About how large the object will be at most: large objects go in larger parts.
    pub(crate) expected_bytes: u64,
    pub(crate) runtime: Handle,
}

/// An object as it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WrittenObject {
    pub(crate) bytes: u64,
    pub(crate) checksum: Checksum,
}

/// Collects bytes and uploads them, part by part.
pub(crate) struct ObjectWriter {
    destination: Destination,
    part: Vec<u8>,
    part_bytes: usize,
    upload: Option<WriteMultipart>,
    bytes: u64,
    crc: Digest,
    failure: Option<Error>,
}

impl ObjectWriter {
    pub(crate) fn new(destination: Destination) -> Self {
        let part_bytes = (destination.expected_bytes / EXPECTED_PARTS).max(SINGLE_PUT_BYTES as u64);
        Self {
            destination,
            part: Vec::new(),
            part_bytes: usize::try_from(part_bytes).unwrap_or(usize::MAX),
            upload: None,
            bytes: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Nvme),
            failure: None,
        }
    }

    fn failed(&self, error: object_store::Error) -> Error {
        Error::from(error).context(format!("cannot write \"{}\"", self.destination.path))
    }

    /// The store's failure behind an error of the encoder, where there was one.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.part.len() == self.part_bytes {
                self.send()?;
            }
            if self.part.capacity() == 0 {
                let expected = usize::try_from(self.destination.expected_bytes).unwrap_or(usize::MAX);
                self.part.reserve_exact(self.part_bytes.min(expected));
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.part_bytes - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Begins to upload a part, as soon as there are not too many on their way.
    fn send(&mut self) -> Result<()> {
        let runtime = self.destination.runtime.clone();
        let _inside = runtime.enter();
        let mut upload = match self.upload.take() {
            Some(upload) => upload,
            None => {
                let Destination { store, path, .. } = &self.destination;
                let started = runtime.block_on(store.put_multipart(path));
                let started = started.map_err(|error| self.failed(error))?;
                WriteMultipart::new_with_chunk_size(started, self.part_bytes)
            }
        };
        let ready = runtime.block_on(upload.wait_for_capacity(PARTS_IN_FLIGHT));
        upload.put(std::mem::take(&mut self.part).into());
        self.upload = Some(upload);
        ready.map_err(|error| self.failed(error))
    }

    /// Sends what is left and waits until the object is there.
    pub(crate) fn finish(&mut self) -> Result<WrittenObject> {
        let runtime = self.destination.runtime.clone();
        let part = std::mem::take(&mut self.part);
        let done = if let Some(mut upload) = self.upload.take() {
            let _inside = runtime.enter();
            upload.put(part.into());
            runtime.block_on(upload.finish()).map(drop)
        } else {
            let mode = if self.destination.overwrite {
                PutMode::Overwrite
            } else {
                PutMode::Create
            };
            let put =
                self.destination
                    .store
                    .put_opts(&self.destination.path, part.into(), PutOptions::from(mode));
            runtime.block_on(put).map(drop)
        };
        done.map_err(|error| self.failed(error))?;
        Ok(WrittenObject {
            bytes: self.bytes,
            checksum: Checksum(self.crc.finalize()),
        })
    }

    /// Gives up: parts that were sent are discarded, where the store lets us.
    pub(crate) fn abort(&mut self) {
        if let Some(upload) = self.upload.take()
            && let Err(error) = self.destination.runtime.block_on(upload.abort())
        {
            tracing::warn!(path = %self.destination.path, %error, "an unfinished upload stays behind");
        }
    }
}

impl io::Write for ObjectWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(|error| {
            let report = error.report();
            self.failure = Some(error);
            io::Error::other(report)
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
