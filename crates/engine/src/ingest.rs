//! Ingest: any Parquet in, sorted files cut at the leaves out.
//!
//! 1. Every input is opened and its schema checked; nothing is read before all fit.
//! 2. Threads take row groups from one list. A batch is cut by leaf at once and its rows brought together by leaf;
//!    it stays in the thread's own buffers. A thread whose buffers reach its share of the memory sorts each leaf's
//!    rows and spills them as a run.
//! 3. Consecutive leaves are grouped into files. Threads take files; a leaf's rows are sorted in memory, merged
//!    with its runs, and written.
//! 4. What was written is compared with what was read, by count and digest.

use std::sync::Arc;

use arrow::array::UInt32Array;
use dormouse_core::{
    Error, Result,
    file::{DataFile, FilePart, RowDigest},
    ids::FileName,
    ports::{Ids, IngestSpec, InputObject, Progress},
};
use tokio::runtime::Handle;

use crate::{
    buffers::{LeafBuffers, Volume},
    cancel::Cancel,
    columns::{conform, gather, plain_bytes},
    cut::{Cut, Cutter},
    digest::Digester,
    input::{Input, Rows},
    merge::{Merge, SortedSource},
    meter::Meter,
    object_reader::{Origin, RemoteObject},
    object_writer::Destination,
    options::EngineOptions,
    spill::{Run, SpillDirectory},
    table::TableSchema,
    threads::{WorkList, for_each, on_threads},
    writer::FileWriter,
};

/// A batch whose values take more than this in plain form is taken in parts.
const PART_BYTES: usize = 32 << 20;
/// One call of ingest.
pub(crate) struct Ingest {
    pub(crate) spec: IngestSpec,
    pub(crate) progress: Arc<Progress>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) options: EngineOptions,
    pub(crate) runtime: Handle,
    pub(crate) cancel: Cancel,
}

/// What one thread has read.
struct Harvest {
    buffers: LeafBuffers,
    runs: Vec<Vec<Run>>,
    volumes: Vec<Volume>,
    rows: u64,
    digest: RowDigest,
}

/// What all threads have read.
struct Sorted {
    buffers: LeafBuffers,
    runs: Vec<Vec<Run>>,
}

/// A file to write: consecutive leaves with rows.
struct PlannedFile {
    name: FileName,
    leaves: Vec<usize>,
    bytes: u64,
}

impl Ingest {
    /// Does the work, on this thread and others.
    pub(crate) fn run(&self) -> Result<Vec<DataFile>> {
        let table = TableSchema::new(self.spec.schema.clone());
        let cutter = Cutter::new(&self.spec.leaves, &self.spec.schema)?;
        let inputs = for_each(
            self.options.threads,
            self.spec.inputs.len(),
            &self.cancel,
            |input| Input::open(self.remote(&self.spec.inputs[input]), &table),
        )?;
        let row_groups: Vec<(usize, usize)> = inputs
            .iter()
            .enumerate()
            .flat_map(|(input, opened)| (0..opened.row_groups()).map(move |group| (input, group)))
            .collect();
        let spill = SpillDirectory::new(&self.options.spill_directory, self.ids.uuid());
        let list = WorkList::new(row_groups.len());
        let harvests = on_threads(self.options.threads, &list, || {
            let mut reader = Reader {
                ingest: self,
                table: &table,
                cutter: &cutter,
                spill: &spill,
                harvest: Harvest::new(&table, cutter.leaves()),
                digester: Digester::default(),
                prefixes: Vec::new(),
            };
            while let Some(piece) = list.take() {
                let (input, group) = row_groups[piece];
                reader.read(&inputs[input], group)?;
            }
            Ok(reader.harvest)
        })?;
        drop(inputs);
        let mut all = Harvest::new(&table, cutter.leaves());
        for harvest in harvests {
            all.add(harvest);
        }
        let planned = self.plan(&all.volumes);
        let sorted = Sorted {
            buffers: all.buffers,
            runs: all.runs,
        };
        let threads = self.options.threads.get();
        // Threads without a file of their own help the others encode.
        let helpers = (threads / planned.len().max(1)).saturating_sub(1);
        let files = for_each(self.options.threads, planned.len(), &self.cancel, |file| {
            self.write_file(&table, &sorted, &planned[file], helpers, &spill)
        })?;
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        let digest: RowDigest = files.iter().map(DataFile::digest).sum();
        if rows != all.rows || digest != all.digest {
            return Err(Error::internal(format!(
                "the files hold {rows} rows with digest {digest}, but {} rows with digest {} were read",
                all.rows, all.digest
            )));
        }
        Ok(files)
    }

    fn remote(&self, input: &InputObject) -> RemoteObject {
        RemoteObject {
            name: input.name.clone(),
            origin: Origin::Input,
            store: input.store.clone(),
            path: input.path.clone(),
            bytes: input.bytes,
            e_tag: input.e_tag.clone(),
            runtime: self.runtime.clone(),
        }
    }

    /// Groups consecutive leaves until a file has its target size.
    fn plan(&self, volumes: &[Volume]) -> Vec<PlannedFile> {
        let mut files: Vec<PlannedFile> = Vec::new();
        let mut is_open = false;
        for (leaf, volume) in volumes.iter().enumerate().filter(|(_, volume)| volume.rows > 0) {
            match files.last_mut().filter(|_| is_open) {
                Some(file) => {
                    file.leaves.push(leaf);
                    file.bytes += volume.bytes;
                }
                None => files.push(PlannedFile {
                    name: FileName::new(&self.spec.leaves[leaf].id, self.ids.uuid()),
                    leaves: vec![leaf],
                    bytes: volume.bytes,
                }),
            }
            is_open = files
                .last()
                .is_some_and(|file| file.bytes < self.spec.target_file_bytes);
        }
        files
    }

    fn write_file(
        &self,
        table: &TableSchema,
        sorted: &Sorted,
        planned: &PlannedFile,
        helpers: usize,
        spill: &SpillDirectory,
    ) -> Result<DataFile> {
        let destination = Destination {
            store: self.spec.output.clone(),
            path: planned.name.object_path(&self.spec.table),
            overwrite: false,
            expected_bytes: planned.bytes,
            runtime: self.runtime.clone(),
        };
        let mut writer = FileWriter::new(table.clone(), destination, self.options.layout, helpers);
        let mut parts = Vec::with_capacity(planned.leaves.len());
        for leaf in &planned.leaves {
            match self.write_leaf(table, sorted, *leaf, spill, &mut writer) {
                Ok(part) => parts.extend(part),
                Err(error) => {
                    writer.abort();
                    return Err(error);
                }
            }
        }
        let written = writer.finish()?;
        Ok(DataFile {
            name: planned.name.clone(),
            rows: parts.iter().map(|part| part.rows).sum(),
            bytes: written.bytes,
            checksum: written.checksum,
            parts,
        })
    }

    fn write_leaf(
        &self,
        table: &TableSchema,
        sorted: &Sorted,
        leaf: usize,
        spill: &SpillDirectory,
        writer: &mut FileWriter,
    ) -> Result<Option<FilePart>> {
        let runs = spill.narrow(table, sorted.runs[leaf].clone(), &self.cancel)?;
        let mut sources: Vec<Box<dyn SortedSource + '_>> = Vec::with_capacity(runs.len() + 1);
        for run in &runs {
            sources.push(Box::new(run.open()?));
        }
        let in_memory = sorted.buffers.sorted(leaf);
        let mut meter = Meter::new(table.clone());
        let mut write = |batch| -> Result<()> {
            self.cancel.check()?;
            meter.add(&batch)?;
            writer.write(&batch)?;
            self.progress.add_written(batch.num_rows() as u64);
            Ok(())
        };
        if sources.is_empty() {
            let mut rows = in_memory;
            while let Some(batch) = rows.as_mut().map(SortedSource::next).transpose()?.flatten() {
                write(batch)?;
            }
        } else {
            sources.extend(in_memory.map(|rows| Box::new(rows) as Box<dyn SortedSource>));
            let mut merge = Merge::new(table.clone(), sources, 0)?;
            while let Some(batch) = merge.next()? {
                write(batch)?;
            }
        }
        meter.part()
    }
}

impl Harvest {
    fn new(table: &TableSchema, leaves: usize) -> Self {
        Self {
            buffers: LeafBuffers::new(table.clone(), leaves),
            runs: vec![Vec::new(); leaves],
            volumes: vec![Volume::default(); leaves],
            rows: 0,
            digest: RowDigest::default(),
        }
    }

    fn add(&mut self, other: Self) {
        self.buffers.append(other.buffers);
        for (runs, more) in self.runs.iter_mut().zip(other.runs) {
            runs.extend(more);
        }
        for (volume, more) in self.volumes.iter_mut().zip(other.volumes) {
            volume.add(more);
        }
        self.rows += other.rows;
        self.digest = self.digest + other.digest;
    }
}

/// One thread that reads.
struct Reader<'a> {
    ingest: &'a Ingest,
    table: &'a TableSchema,
    cutter: &'a Cutter,
    spill: &'a SpillDirectory,
    harvest: Harvest,
    digester: Digester,
    prefixes: Vec<u128>,
}

impl Reader<'_> {
    fn read(&mut self, input: &Input, row_group: usize) -> Result<()> {
        let mut reader = input.read(row_group, None, self.table)?;
        while let Some(rows) = reader.next()? {
            self.ingest.cancel.check()?;
            let count = rows.rows as u64;
            self.take(input, rows)?;
            self.ingest.progress.add_read(count);
        }
        Ok(())
    }

    fn take(&mut self, input: &Input, rows: Rows) -> Result<()> {
        let bytes: usize = rows.columns.iter().map(|column| plain_bytes(column)).sum();
        if bytes > PART_BYTES && rows.rows > 1 {
            let middle = rows.rows / 2;
            self.take(input, rows.slice(0, middle))?;
            return self.take(input, rows.slice(middle, rows.rows - middle));
        }
        self.digester.hash_rows(&rows.columns, rows.rows)?;
        self.harvest.digest = self.harvest.digest + self.digester.sum(0..rows.rows);
        self.harvest.rows += rows.rows as u64;

        let cut = if self.cutter.leaves() == 1 {
            Cut {
                rows: UInt32Array::from_iter_values(0..rows.rows as u32),
                ends: vec![(0, rows.rows as u32)],
            }
        } else {
            self.cutter
                .cut(&self.table.keys(&rows.columns)?, &mut self.prefixes)
        };
        let columns = rows
            .columns
            .iter()
            .enumerate()
            .map(|(column, array)| {
                gather(array, &cut.rows, self.table.column_type(column)).map_err(|misfit| {
                    // The rows were moved; the error is for the row as it was.
                    let stayed = conform(array, self.table.column_type(column)).err();
                    rows.misfit(input.object(), self.table, column, stayed.unwrap_or(misfit))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let batch = self.table.batch(columns)?;
        let volumes = &mut self.harvest.volumes;
        self.harvest
            .buffers
            .add(batch, &cut.ends, |leaf, volume| volumes[leaf].add(volume))?;
        let share = self.ingest.options.memory_bytes / self.ingest.options.threads.get() as u64;
        if self.harvest.buffers.bytes() > share {
            self.spill_all()?;
        }
        Ok(())
    }

    /// Sorts and spills every leaf's rows.
    fn spill_all(&mut self) -> Result<()> {
        let mut file = self.spill.create(self.table)?;
        for leaf in 0..self.cutter.leaves() {
            if let Some(mut rows) = self.harvest.buffers.sorted(leaf) {
                let cancel = &self.ingest.cancel;
                let run = file.write_run(|| {
                    cancel.check()?;
                    rows.next()
                })?;
                self.harvest.runs[leaf].push(run);
            }
        }
        file.finish()?;
        self.harvest.buffers.clear();
        Ok(())
    }
}
