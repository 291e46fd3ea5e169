//! The rows of a query, piece by piece, to whoever asks: they are computed and encoded ahead, a few batches at most.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use dormouse_core::{
    Error, Result,
    ports::{EncodedRows, QueryLimits, QueryRows, ResultColumn, RowFormat, Truncated},
};
use futures::StreamExt;
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, Sender, channel},
};

use super::{columns, encode::RowEncoder, failure::failed, pieces::pieces, workers::Work};

/// How many pieces wait to be asked for.
const PIECES_AHEAD: usize = 2;

/// A query under way.
pub(super) struct Answer {
    columns: Vec<ResultColumn>,
    pieces: Receiver<Result<EncodedRows>>,
    work: Work<Option<Truncated>>,
    is_open: bool,
    truncated: Option<Truncated>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn new(
        workers: &Handle,
        rows: SendableRecordBatchStream,
        format: RowFormat,
        limits: QueryLimits,
    ) -> Result<Self> {
        let schema = rows.schema();
        let (sender, pieces) = channel(PIECES_AHEAD);
        let encoding = Encoding {
            encoder: RowEncoder::new(format, &schema)?,
            limits,
            sent: (0, 0),
            truncated: None,
        };
        Ok(Self {
            columns: columns(&schema),
            pieces,
            work: Work::begin(workers, encoding.send_all(rows, sender)),
            is_open: true,
            truncated: None,
        })
    }
}

#[async_trait]
impl QueryRows for Answer {
    fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    async fn next(&mut self) -> Result<Option<EncodedRows>> {
        if !self.is_open {
            return Ok(None);
        }
        match self.pieces.recv().await {
            Some(Ok(rows)) => return Ok(Some(rows)),
            Some(Err(error)) => {
                self.is_open = false;
                return Err(error);
            }
            None => self.is_open = false,
        }
        self.truncated = self.work.end().await?;
        Ok(None)
    }

    fn truncated(&self) -> Option<Truncated> {
        self.truncated
    }
}

/// How far the rows of a query are written.
struct Encoding {
    encoder: RowEncoder,
    limits: QueryLimits,
    /// Rows and bytes.
    sent: (u64, u64),
    truncated: Option<Truncated>,
}

impl Encoding {
    async fn send_all(
        mut self,
        mut rows: SendableRecordBatchStream,
        to: Sender<Result<EncodedRows>>,
    ) -> Option<Truncated> {
        if let Err(error) = self.send(&mut rows, &to).await {
            // Whoever asked may have gone.
            let _ = to.send(Err(error)).await;
        }
        self.truncated
    }

    async fn send(
        &mut self,
        rows: &mut SendableRecordBatchStream,
        to: &Sender<Result<EncodedRows>>,
    ) -> Result<()> {
        let gone = |_| Error::unavailable("nobody asks for the rows any more");
        'rows: while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| failed(&error))?;
            for piece in pieces(batch).filter(|piece| piece.num_rows() > 0) {
                let encoded = self.encode(&piece)?;
                to.send(Ok(encoded)).await.map_err(gone)?;
                if self.truncated.is_some() {
                    break 'rows;
                }
            }
            tokio::task::yield_now().await;
        }
        let bytes = self.encoder.finish()?;
        if !bytes.is_empty() {
            let bytes = bytes.into();
            to.send(Ok(EncodedRows { rows: 0, bytes })).await.map_err(gone)?;
        }
        Ok(())
    }

    /// As much of a batch as the limits allow, as it is written.
    fn encode(&mut self, batch: &RecordBatch) -> Result<EncodedRows> {
        let left = self.limits.rows.map_or(u64::MAX, |rows| rows - self.sent.0);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(batch.num_rows());
        if wanted < batch.num_rows() {
            self.truncated = Some(Truncated::Rows);
        }
        let most = self
            .limits
            .bytes
            .map_or(u64::MAX, |bytes| bytes.saturating_sub(self.sent.1));
        let (rows, bytes) = self.encoder.encode(&batch.slice(0, wanted), most)?;
        if rows < wanted {
            self.truncated = Some(Truncated::Bytes);
        }
        self.sent.0 += rows as u64;
        self.sent.1 += bytes.len() as u64;
        Ok(EncodedRows {
            rows: rows as u64,
            bytes: bytes.into(),
        })
    }
}
