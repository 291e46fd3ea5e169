//! A whole object compressed on its way to a store.

use std::{collections::VecDeque, io::Write};

use dormouse_core::{Error, Result, ports::Compression};
use libdeflater::{CompressionLvl, Compressor};
use object_store::path::Path;
use tokio::task::JoinSet;
use zstd::stream::write::Encoder;

use super::upload::Upload;

/// How much of an object a member of gzip holds.
const MEMBER_BYTES: usize = 1 << 20;
/// How many members are compressed at a time.
const MEMBERS_AT_A_TIME: usize = 4;
const GZIP_LEVEL: i32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Takes the bytes of an object as they are before they are compressed.
pub(super) struct Compressed {
    upload: Upload,
    form: Form,
}

enum Form {
    Plain,
    Gzip(Members),
    Zstd(Box<Encoder<'static, Vec<u8>>>),
}

impl Compressed {
    pub(super) fn new(upload: Upload, compression: Compression) -> Result<Self> {
        let form = match compression {
            Compression::None => Form::Plain,
            Compression::Gzip => Form::Gzip(Members::default()),
            Compression::Zstd => {
                let encoder = Encoder::new(Vec::new(), ZSTD_LEVEL).map_err(uncompressed)?;
                Form::Zstd(Box::new(encoder))
            }
        };
        Ok(Self { upload, form })
    }

    pub(super) async fn append(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.form {
            Form::Plain => self.upload.append(bytes).await,
            Form::Gzip(members) => {
                let mut left = bytes;
                while !left.is_empty() {
                    let room = MEMBER_BYTES - members.next.len();
                    let (now, later) = left.split_at(left.len().min(room));
                    members.next.extend_from_slice(now);
                    left = later;
                    if members.next.len() == MEMBER_BYTES {
                        members.begin();
                        while members.on_their_way.len() >= MEMBERS_AT_A_TIME {
                            members.first_to(&mut self.upload).await?;
                        }
                    }
                }
                Ok(())
            }
            Form::Zstd(encoder) => {
                encoder.write_all(bytes).map_err(uncompressed)?;
                let out = std::mem::take(encoder.get_mut());
                self.upload.append(&out).await
            }
        }
    }

    /// Waits until the object is there: its path, size, and checksum in hexadecimal.
    pub(super) async fn finish(mut self) -> Result<(Path, u64, String)> {
        match self.form {
            Form::Plain => {}
            Form::Gzip(mut members) => {
                if !members.next.is_empty() || members.count == 0 {
                    members.begin();
                }
                while !members.on_their_way.is_empty() {
                    members.first_to(&mut self.upload).await?;
                }
            }
            Form::Zstd(encoder) => {
                let out = encoder.finish().map_err(uncompressed)?;
                self.upload.append(&out).await?;
            }
        }
        self.upload.finish().await
    }
}

fn uncompressed(error: std::io::Error) -> Error {
    Error::internal("rows cannot be compressed").with_source(error)
}

/// Members of gzip, each compressed by itself, some at a time.
#[derive(Default)]
struct Members {
    next: Vec<u8>,
    count: usize,
    /// A set for each, so that they stop when this is dropped and come in their order.
    on_their_way: VecDeque<JoinSet<Result<Vec<u8>>>>,
}

impl Members {
    fn begin(&mut self) {
        let bytes = std::mem::take(&mut self.next);
        let mut work = JoinSet::new();
        work.spawn_blocking(move || member(&bytes));
        self.on_their_way.push_back(work);
        self.count += 1;
    }

    async fn first_to(&mut self, upload: &mut Upload) -> Result<()> {
        let Some(mut first) = self.on_their_way.pop_front() else {
            return Ok(());
        };
        let Some(member) = first.join_next().await else {
            return Ok(());
        };
        let member =
            member.map_err(|error| Error::internal("rows cannot be compressed").with_source(error))?;
        upload.append(&member?).await
    }
}

fn member(bytes: &[u8]) -> Result<Vec<u8>> {
    let level = CompressionLvl::new(GZIP_LEVEL).map_err(|_| Error::internal("gzip has no such level"))?;
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let length = compressor
        .gzip_compress(bytes, &mut out)
        .map_err(|error| Error::internal("rows cannot be compressed").with_source(error))?;
    out.truncate(length);
    Ok(out)
}
