//! One leaf's rows from sorted files into one sorted file: a part of an export, or a compaction.
//!
//! Row groups whose statistics of the first key column are outside the leaf are not read; of the others, pages at
//! either end are left out where the page index says so. What is read is cut exactly at the bounds. Each input
//! proves itself: by the count and digest of its rows in the leaf where the state knows them, else by the checksum
//! of its whole object, read first. The output's digest is taken again from what is written and compared.
//!
//! At most [`MERGE_WIDTH`] files are open at a time: of more, each so many are merged into a run on local disk
//! first, in their order, and the runs after them.

use std::{cell::RefCell, collections::VecDeque, num::NonZeroUsize, rc::Rc, sync::Arc};

use arrow::array::RecordBatch;
use crc_fast::{CrcAlgorithm, Digest};
use dormouse_core::{
    Error, Result,
    file::{Checksum, RowDigest},
    key::{Key, KeyBounds, KeyRange},
    ports::{MergeInput, Progress},
    schema::Schema,
};
use object_store::{ObjectStore, path::Path};
use tokio::runtime::Handle;

use crate::{
    cancel::Cancel,
    columns::conform,
    digest::Digester,
    input::{Input, RowGroupReader, Rows},
    merge::{Merge, SortedSource},
    object_reader::{Origin, RemoteObject},
    object_writer::{Destination, WrittenObject},
    pruning,
    sort_key::{Keys, shared_bytes},
    spill::{MERGE_WIDTH, Run, RunReader, SpillDirectory},
    table::TableSchema,
    writer::{FileWriter, Meter},
};

/// One merge of a leaf.
pub(crate) struct LeafMerge {
    pub(crate) schema: Arc<Schema>,
    pub(crate) bounds: KeyBounds,
    /// In a fixed order: rows of equal keys keep it.
    pub(crate) inputs: Vec<MergeInput>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) threads: NonZeroUsize,
    pub(crate) spill: SpillDirectory,
    pub(crate) runtime: Handle,
    pub(crate) cancel: Cancel,
}

/// What a merge has written.
pub(crate) struct MergedLeaf {
    pub(crate) rows: u64,
    pub(crate) digest: RowDigest,
    /// None without rows.
    pub(crate) range: Option<KeyRange>,
    /// None when there was no row, and a file without rows was not asked for.
    pub(crate) object: Option<WrittenObject>,
}

impl LeafMerge {
    /// Does the work, on this thread; others help to encode. Without rows, nothing is written unless `or_empty`.
    pub(crate) fn run(&self, destination: Destination, or_empty: bool) -> Result<MergedLeaf> {
        let table = TableSchema::new(self.schema.clone());
        for bound in [&self.bounds.lower, &self.bounds.upper].into_iter().flatten() {
            self.schema.check_key(bound)?;
        }
        let mut writer = FileWriter::new(table.clone(), destination, self.threads.get() - 1);
        let mut meter = Meter::new(table.clone());
        if let Err(error) = self.merge(&table, &mut writer, &mut meter) {
            writer.abort();
            return Err(error);
        }
        let object = if meter.rows() > 0 || or_empty {
            Some(writer.finish()?)
        } else {
            writer.abort();
            None
        };
        Ok(MergedLeaf {
            rows: meter.rows(),
            digest: meter.digest(),
            range: meter.range()?,
            object,
        })
    }

    /// Where the merge writes to.
    pub(crate) fn destination(
        &self,
        store: Arc<dyn ObjectStore>,
        path: Path,
        overwrite: bool,
    ) -> Destination {
        Destination {
            store,
            path,
            overwrite,
            expected_bytes: self.inputs.iter().map(|input| input.bytes).sum(),
            runtime: self.runtime.clone(),
        }
    }

    fn merge(&self, table: &TableSchema, writer: &mut FileWriter, meter: &mut Meter) -> Result<()> {
        let mut proofs = Vec::with_capacity(self.inputs.len());
        let inputs = &self.inputs;
        if inputs.len() <= MERGE_WIDTH {
            let sources = self.open_all(inputs, table, &mut proofs)?;
            self.write(
                Merge::new(table.clone(), sources, self.shared_bytes())?,
                writer,
                meter,
            )?;
        } else {
            let mut runs = Vec::with_capacity(inputs.len().div_ceil(MERGE_WIDTH));
            for some in inputs.chunks(MERGE_WIDTH) {
                let sources = self.open_all(some, table, &mut proofs)?;
                let merge = Merge::new(table.clone(), sources, self.shared_bytes())?;
                runs.push(self.spill.write(table, merge, &self.cancel)?);
            }
            let runs = self.spill.narrow(table, runs, &self.cancel)?;
            let sources: Vec<RunReader> = runs.iter().map(Run::open).collect::<Result<_>>()?;
            self.write(
                Merge::new(table.clone(), sources, self.shared_bytes())?,
                writer,
                meter,
            )?;
        }
        self.check(&proofs, meter)
    }

    fn open_all<'a>(
        &'a self,
        inputs: &[MergeInput],
        table: &TableSchema,
        proofs: &mut Vec<Proof>,
    ) -> Result<Vec<LeafSource<'a>>> {
        inputs
            .iter()
            .map(|input| {
                self.cancel.check()?;
                let source = self.open(input, table)?;
                proofs.push((source.seen.clone(), source.input.object().clone(), input.exact));
                Ok(source)
            })
            .collect()
    }

    /// How many leading bytes all keys of the leaf have in common.
    fn shared_bytes(&self) -> usize {
        match (&self.bounds.lower, &self.bounds.upper) {
            (Some(lower), Some(upper)) => shared_bytes(lower, upper),
            _ => 0,
        }
    }

    fn write<S: SortedSource>(
        &self,
        mut merge: Merge<S>,
        writer: &mut FileWriter,
        meter: &mut Meter,
    ) -> Result<()> {
        while let Some(batch) = merge.next()? {
            self.cancel.check()?;
            meter.add(&batch)?;
            writer.write(&batch)?;
            self.progress.add_written(batch.num_rows() as u64);
        }
        Ok(())
    }

    /// Checks what was read of each input against what the state knows, and what was written against all of it.
    fn check(&self, proofs: &[Proof], meter: &Meter) -> Result<()> {
        let mut read = Seen::default();
        for (seen, object, exact) in proofs {
            let seen = seen.borrow();
            if let Some((rows, digest)) = exact
                && (seen.rows, seen.digest) != (*rows, *digest)
            {
                return Err(object.damaged(format!(
                    "it has {} rows with digest {} in the leaf, where the table's state knows {rows} with digest {digest}",
                    seen.rows, seen.digest
                )));
            }
            read.rows += seen.rows;
            read.digest = read.digest + seen.digest;
        }
        if (read.rows, read.digest) != (meter.rows(), meter.digest()) {
            return Err(Error::internal(format!(
                "{} rows with digest {} were written, but {} with digest {} were read",
                meter.rows(),
                meter.digest(),
                read.rows,
                read.digest
            )));
        }
        Ok(())
    }

    fn open<'a>(&'a self, input: &MergeInput, table: &TableSchema) -> Result<LeafSource<'a>> {
        let object = RemoteObject {
            name: input.path.to_string(),
            origin: Origin::Table,
            store: input.store.clone(),
            path: input.path.clone(),
            bytes: input.bytes,
            e_tag: None,
            runtime: self.runtime.clone(),
        };
        if input.exact.is_none() {
            self.check_checksum(&object, input.checksum)?;
        }
        let bounds = &self.bounds;
        let opened = Input::open(object, table)?;
        let row_groups = pruning::row_groups(&opened, bounds)?.into();
        Ok(LeafSource {
            input: opened,
            table: table.clone(),
            bounds,
            row_groups,
            reader: None,
            seen: Rc::default(),
            digester: Digester::default(),
            progress: &self.progress,
        })
    }

    fn check_checksum(&self, object: &RemoteObject, expected: Checksum) -> Result<()> {
        let found = checksum_of(object, &self.cancel)?;
        if found != expected {
            return Err(object.damaged(format!("its checksum is {found}, not {expected}")));
        }
        Ok(())
    }
}

/// The checksum of a whole object.
pub(crate) fn checksum_of(object: &RemoteObject, cancel: &Cancel) -> Result<Checksum> {
    let mut crc = Digest::new(CrcAlgorithm::Crc64Nvme);
    object.scan(|bytes| {
        crc.update(bytes);
        cancel.check()
    })?;
    Ok(Checksum(crc.finalize()))
}

type Proof = (Rc<RefCell<Seen>>, Arc<RemoteObject>, Option<(u64, RowDigest)>);

/// Rows of an input that were in the leaf.
#[derive(Debug, Default)]
struct Seen {
    rows: u64,
    digest: RowDigest,
}

/// The rows of one file within the leaf's bounds.
struct LeafSource<'a> {
    input: Input,
    table: TableSchema,
    bounds: &'a KeyBounds,
    row_groups: VecDeque<usize>,
    reader: Option<RowGroupReader>,
    seen: Rc<RefCell<Seen>>,
    digester: Digester,
    progress: &'a Progress,
}

impl LeafSource<'_> {
    /// The rows of the leaf as a batch; none when there are none in `rows`.
    fn restrict(&mut self, rows: &Rows) -> Result<Option<RecordBatch>> {
        let columns = rows
            .columns
            .iter()
            .enumerate()
            .map(|(column, array)| {
                conform(array, self.table.column_type(column))
                    .map_err(|misfit| rows.misfit(self.input.object(), &self.table, column, misfit))
            })
            .collect::<Result<Vec<_>>>()?;
        let keys = self.table.keys(&columns)?;
        let from = self
            .bounds
            .lower
            .as_ref()
            .map_or(0, |lower| self.first_not_before(&keys, lower));
        let until = self
            .bounds
            .upper
            .as_ref()
            .map_or(rows.rows, |upper| self.first_not_before(&keys, upper));
        if from >= until {
            return Ok(None);
        }
        self.digester.hash_rows(&columns, rows.rows)?;
        let mut seen = self.seen.borrow_mut();
        seen.rows += (until - from) as u64;
        seen.digest = seen.digest + self.digester.sum(from..until);
        Ok(Some(self.table.batch(columns)?.slice(from, until - from)))
    }

    fn first_not_before(&self, keys: &Keys, bound: &Key) -> usize {
        let columns = self.table.row_key_columns();
        let (mut low, mut high) = (0, keys.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if keys.compare_key(middle, bound, columns).is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl SortedSource for LeafSource<'_> {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(group) = self.row_groups.pop_front() else {
                    return Ok(None);
                };
                let selection = pruning::pages(&self.input, group, self.bounds)?;
                self.reader = Some(self.input.read(group, selection, &self.table)?);
                continue;
            };
            let Some(rows) = reader.next()? else {
                self.reader = None;
                continue;
            };
            if let Some(batch) = self.restrict(&rows)? {
                self.progress.add_read(batch.num_rows() as u64);
                return Ok(Some(batch));
            }
        }
    }

    fn unsorted(&self) -> Error {
        self.input.object().damaged("its rows are not in key order")
    }
}
