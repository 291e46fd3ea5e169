//! How far scans are, for those who wait.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use datafusion::{
    error::Result, execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter,
};
use dormouse_core::ports::QueryProgress;
use futures::StreamExt;

/// One scan of files: what it passes over counts as read when a partition is at its end.
#[derive(Debug)]
pub(super) struct Reading {
    progress: Arc<QueryProgress>,
    rows: u64,
    done: Mutex<Done>,
}

#[derive(Debug, Default)]
struct Done {
    rows: u64,
    partitions: u64,
}

impl Reading {
    /// A scan that is to read so many rows.
    pub(super) fn new(progress: &Arc<QueryProgress>, rows: u64) -> Self {
        progress.add_rows_to_read(rows);
        Self {
            progress: progress.clone(),
            rows,
            done: Mutex::default(),
        }
    }

    /// The rows of one of some partitions, counted as they come.
    pub(super) fn counted(
        self: &Arc<Self>,
        rows: SendableRecordBatchStream,
        partitions: usize,
    ) -> SendableRecordBatchStream {
        let schema = rows.schema();
        let partition = Partition {
            reading: self.clone(),
            partitions: partitions.max(1) as u64,
        };
        let rows = rows.inspect(move |batch| partition.add(batch));
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    /// Counts up to so many rows, of those that there are.
    fn reach(&self, done: &mut Done, rows: u64) {
        let rows = rows.min(self.rows);
        if rows > done.rows {
            self.progress.add_rows_read(rows - done.rows);
            done.rows = rows;
        }
    }
}

/// A partition that is read, until this is dropped.
struct Partition {
    reading: Arc<Reading>,
    partitions: u64,
}

impl Partition {
    fn add(&self, batch: &Result<RecordBatch>) {
        if let Ok(batch) = batch {
            let mut done = self.reading.done.lock().unwrap_or_else(PoisonError::into_inner);
            let rows = done.rows + batch.num_rows() as u64;
            self.reading.reach(&mut done, rows);
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        let reading = &self.reading;
        let mut done = reading.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.partitions = (done.partitions + 1).min(self.partitions);
        let share = u128::from(reading.rows) * u128::from(done.partitions) / u128::from(self.partitions);
        reading.reach(&mut done, u64::try_from(share).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::Int64Array,
        datatypes::{DataType, Field, Schema},
    };
    use futures::{StreamExt, stream};

    use super::*;

    fn rows(batches: &[i64]) -> SendableRecordBatchStream {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let batches: Vec<_> = batches
            .iter()
            .map(|rows| {
                let column = Arc::new(Int64Array::from_iter_values(0..*rows));
                Ok(RecordBatch::try_new(schema.clone(), vec![column]).unwrap())
            })
            .collect();
        Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batches)))
    }

    #[test]
    fn rows_count_as_they_come_and_those_passed_over_at_the_end() {
        let progress = Arc::new(QueryProgress::default());
        let reading = Arc::new(Reading::new(&progress, 100));
        assert_eq!((progress.rows_to_read(), progress.rows_read()), (100, 0));
        let mut first = reading.counted(rows(&[10, 20]), 2);
        futures::executor::block_on(first.next());
        assert_eq!(progress.rows_read(), 10);
        drop(first);
        assert_eq!(progress.rows_read(), 50);
        let second = reading.counted(rows(&[200]), 2);
        futures::executor::block_on(second.collect::<Vec<_>>());
        assert_eq!(progress.rows_read(), 100);
    }
}
