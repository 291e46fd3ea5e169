//! One JSON object of all rows, with how many they are before the first: rows wait, on disk when they are many, until
//! all are known.

use std::{
    fs::File,
    io::{Read, Write},
    sync::Arc,
};

use arrow::datatypes::Schema;
use datafusion::execution::{SendableRecordBatchStream, SpillFile, SpillWriter, disk_manager::DiskManager};
use dormouse_core::{
    Error, Result,
    ports::{Compression, QueryOutput, WrittenFile},
    time::Timestamp,
};
use zstd::stream::{read::Decoder, write::Encoder};

use super::{compress::Compressed, next, single, written};
use crate::sql::{
    encode::{check_names, names, unwritable, write_json},
    failure::{failed, too_large},
    pieces::{pieces, plain, plain_schema},
};

/// How many bytes of rows wait in memory.
const MEMORY_BYTES: usize = 8 << 20;
/// How many bytes are read back at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// What goes to disk is read once: light is enough.
const DISK_ZSTD_LEVEL: i32 = 1;

/// Writes the metadata and the rows.
pub(super) async fn write(
    mut rows: SendableRecordBatchStream,
    output: &QueryOutput,
    compression: Compression,
    disk: &Arc<DiskManager>,
) -> Result<WrittenFile> {
    let schema = plain_schema(&rows.schema());
    check_names(&schema)?;
    let mut waiting = Waiting::new(disk);
    let mut count = 0;
    while let Some(batch) = next(&mut rows).await? {
        for piece in pieces(batch).filter(|piece| piece.num_rows() > 0) {
            let mut bytes = write_json(&plain(&piece, &schema).map_err(unwritable)?)?;
            // Lines end nowhere but between rows.
            bytes.pop();
            for byte in bytes.iter_mut().filter(|byte| **byte == b'\n') {
                *byte = b',';
            }
            if count > 0 {
                waiting.append(b",")?;
            }
            waiting.append(&bytes)?;
            count += piece.num_rows() as u64;
            output.progress.add_rows_written(piece.num_rows() as u64);
        }
    }
    drop(rows);
    let mut object = Compressed::new(single(output)?, compression)?;
    object.append(&head(&schema, count, output.generated_at)?).await?;
    let mut read = waiting.read()?;
    while let Some(chunk) = read.next()? {
        object.append(&chunk).await?;
        tokio::task::yield_now().await;
    }
    object.append(b"]}\n").await?;
    Ok(written(count, object.finish().await?))
}

/// What stands before the first row.
fn head(schema: &Schema, rows: u64, generated_at: Timestamp) -> Result<Vec<u8>> {
    let columns: Vec<&str> = names(schema).collect();
    let columns = serde_json::to_string(&columns)
        .map_err(|error| Error::internal("names cannot be written").with_source(error))?;
    let generated_at = generated_at.rfc3339_seconds();
    let head = format!(
        "{{\"metadata\":{{\"columns\":{columns},\"row_count\":{rows},\"generated_at\":\"{generated_at}\"}},\"data\":["
    );
    Ok(head.into_bytes())
}

/// Bytes that wait, the first of them in memory and more on disk.
struct Waiting<'a> {
    disk: &'a Arc<DiskManager>,
    memory: Vec<u8>,
    file: Option<Spooled>,
}

/// A file of the query's own, which counts as its disk and goes when this is dropped.
struct Spooled {
    file: Arc<dyn SpillFile>,
    encoder: Encoder<'static, Box<dyn SpillWriter>>,
}

impl<'a> Waiting<'a> {
    fn new(disk: &'a Arc<DiskManager>) -> Self {
        Self {
            disk,
            memory: Vec::new(),
            file: None,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > MEMORY_BYTES {
            self.spool()?;
        }
        Ok(())
    }

    fn spool(&mut self) -> Result<()> {
        let mut spooled = match self.file.take() {
            Some(spooled) => spooled,
            None => {
                let file = self.disk.create_tmp_file("rows that wait");
                let file = file.map_err(|error| failed(&error))?;
                let writer = file.open_writer().map_err(|error| failed(&error))?;
                Spooled {
                    file,
                    encoder: Encoder::new(writer, DISK_ZSTD_LEVEL).map_err(unspooled)?,
                }
            }
        };
        spooled.encoder.write_all(&self.memory).map_err(unspooled)?;
        self.memory.clear();
        self.file = Some(spooled);
        Ok(())
    }

    /// All bytes, from the first.
    fn read(mut self) -> Result<Reading> {
        if self.file.is_some() {
            self.spool()?;
        }
        let Some(Spooled { file, encoder }) = self.file else {
            return Ok(Reading::Memory(self.memory));
        };
        let mut writer = encoder.finish().map_err(unspooled)?;
        writer.finish().map_err(|error| failed(&error))?;
        let path = file
            .path()
            .ok_or_else(|| Error::internal("a file that rows wait in has no path"))?;
        let decoder = Decoder::new(File::open(path).map_err(unspooled)?).map_err(unspooled)?;
        Ok(Reading::File {
            _file: file,
            decoder: Box::new(decoder),
        })
    }
}

/// Bytes that waited.
enum Reading {
    Memory(Vec<u8>),
    File {
        _file: Arc<dyn SpillFile>,
        decoder: Box<Decoder<'static, std::io::BufReader<File>>>,
    },
}

impl Reading {
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let chunk = match self {
            Self::Memory(all) => std::mem::take(all),
            Self::File { decoder, .. } => {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                let read = decoder.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
                read.map_err(unspooled)?;
                chunk
            }
        };
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

fn unspooled(error: std::io::Error) -> Error {
    match error.raw_os_error() {
        // The limit of a query's disk is no error of the system.
        None => too_large(&error.to_string()),
        Some(_) => Error::unavailable("rows cannot wait on disk").with_source(error),
    }
}
