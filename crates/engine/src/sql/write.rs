//! The rows of a query as objects.
//!
//! | Module | What lives there |
//! |---|---|
//! | `lines` | CSV and JSON Lines |
//! | `document` | one JSON object of all rows |
//! | `parquet` | Parquet, in one file or in directories |
//! | `compress` | a whole object compressed on its way |
//! | `upload` | bytes to a store, part by part |

mod compress;
mod document;
mod lines;
mod parquet;
mod upload;

use std::sync::Arc;

use datafusion::execution::{SendableRecordBatchStream, disk_manager::DiskManager};
use dormouse_core::{
    Error, Result,
    ports::{FileFormat, QueryOutput, WrittenFile, WrittenQuery},
};
use futures::StreamExt;
use object_store::path::Path;

pub(super) use self::parquet::partitioned;
use self::upload::Upload;
use super::{columns, failure::failed};

/// The longest path of an object, where S3 takes 1024 bytes.
const MAX_PATH_BYTES: usize = 1000;

/// Writes all rows.
pub(super) async fn write(
    rows: SendableRecordBatchStream,
    output: &QueryOutput,
    disk: &Arc<DiskManager>,
) -> Result<WrittenQuery> {
    let columns = columns(&rows.schema());
    let files = match &output.format {
        FileFormat::Csv { csv, compression } => {
            let lines = lines::Lines::csv(csv.clone())?;
            vec![lines::write(rows, output, lines, *compression).await?]
        }
        FileFormat::JsonLines { compression } => {
            let lines = lines::Lines::Json;
            vec![lines::write(rows, output, lines, *compression).await?]
        }
        FileFormat::Json { compression } => vec![document::write(rows, output, *compression, disk).await?],
        FileFormat::Parquet {
            compression,
            partition_by,
        } => parquet::write(rows, output, *compression, partition_by).await?,
    };
    Ok(WrittenQuery {
        columns,
        rows: files.iter().map(|file| file.rows).sum(),
        files,
    })
}

/// An upload to `<prefix>/<name>.<ending>`.
fn single(output: &QueryOutput) -> Result<Upload> {
    let name = format!("{}.{}", output.name, output.format.ending());
    Ok(Upload::new(output, path(output, &name)?))
}

/// A path below the prefix.
fn path(output: &QueryOutput, below: &str) -> Result<Path> {
    let whole = match output.prefix.as_ref() {
        "" => below.to_owned(),
        prefix => format!("{prefix}/{below}"),
    };
    if whole.len() > MAX_PATH_BYTES {
        return Err(Error::invalid(format!(
            "rows cannot be partitioned by values that make the path of a file over {MAX_PATH_BYTES} bytes long"
        )));
    }
    Path::parse(&whole).map_err(|error| Error::invalid(format!("\"{whole}\" is no path")).with_source(error))
}

/// The next batch, and a chance for others to work.
async fn next(rows: &mut SendableRecordBatchStream) -> Result<Option<arrow::array::RecordBatch>> {
    tokio::task::yield_now().await;
    let next = rows.next().await.transpose();
    next.map_err(|error| failed(&error))
}

/// What an object came to.
fn written(rows: u64, (path, bytes, sha256): (Path, u64, String)) -> WrittenFile {
    WrittenFile {
        path: path.into(),
        rows,
        bytes,
        sha256,
    }
}
