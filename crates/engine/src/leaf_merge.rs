//! One leaf's rows from sorted files into one sorted file: a part of an export, or a compaction.
//!
//! The merge is cut into pieces (`pieces`), which threads make side by side: row groups that nothing else overlaps are
//! copied, the rest is decoded, merged and encoded again, key range by key range. Row groups whose statistics of the
//! first key column are outside a piece are not read; of the others, pages at either end are left out where the page
//! index says so. What is read is cut exactly at the bounds.
//!
//! Rows are hashed once, as they are encoded: their digest must be that of all inputs together, as the state knows
//! it. An input whose rows in the leaf the state does not know proves itself by the checksum of its whole object, read
//! first, and its rows are hashed as they are read; so are the others of an input of which something was copied, which
//! proves itself by its checksum too.
//!
//! Columns of few values are merged as codes (`coding`): neither read nor written out where a file has a dictionary of
//! them.
//!
//! At most [`MERGE_WIDTH`] files are open at a time: of more, each so many are merged into a run on local disk
//! first, in their order, and the runs after them.

use std::{cell::RefCell, num::NonZeroUsize, ops::Range, sync::Arc};

use arrow::array::RecordBatch;
use dormouse_core::{
    Error, Result,
    file::RowDigest,
    key::{Key, KeyBounds, KeyRange},
    ports::{MergeInput, Progress},
    predicate::Predicate,
    row_rules::RulesAt,
    schema::Schema,
};
use object_store::{ObjectStore, path::Path};
use parquet::{arrow::arrow_reader::RowSelection, schema::types::SchemaDescriptor};
use tokio::runtime::Handle;

use crate::{
    cancel::Cancel,
    dictionary::Dictionaries,
    input::row_count,
    merge::{Merge, SortedSource},
    meter::Meter,
    object_writer::{Destination, WrittenObject},
    options::FileLayout,
    ordered_file::{Append, OpenPiece, OrderedFile},
    parquet_file::{Encoder, OpenRowGroup, ParquetFile, parquet_columns},
    pruning,
    rules::Rules,
    sort_key::{row_key, shared_bytes},
    spill::{MERGE_WIDTH, Run, RunReader, SpillDirectory},
    table::TableSchema,
    threads::{WorkList, for_each, on_threads},
};

mod coding;
mod copy;
mod pieces;
mod source;

use coding::CodedPiece;
use pieces::{Mark, Piece, RowGroup};
use source::{LeafSource, MergeFile, Tally};

/// One merge of a leaf.
pub(crate) struct LeafMerge {
    pub(crate) schema: Arc<Schema>,
    pub(crate) bounds: KeyBounds,
    /// In a fixed order: rows of equal keys keep it.
    pub(crate) inputs: Vec<MergeInput>,
    /// Rows to leave out.
    pub(crate) purge: Option<Predicate>,
    /// The table's filters and aggregations.
    pub(crate) rules: Option<RulesAt>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) threads: NonZeroUsize,
    pub(crate) layout: FileLayout,
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

/// What one piece has encoded.
struct WrittenPiece {
    piece: usize,
    /// The rows that were merged, and their digest.
    merged: (u64, RowDigest),
    /// What the table's rules made of them; none without rules.
    ruled: Option<(u64, RowDigest)>,
    /// Of the rows that were written.
    range: Option<KeyRange>,
}

impl LeafMerge {
    /// Does the work, on this thread and as many others as it may. Without rows, nothing is written unless `or_empty`.
    pub(crate) fn run(&self, destination: Destination, or_empty: bool) -> Result<MergedLeaf> {
        let table = TableSchema::new(self.schema.clone());
        for bound in [&self.bounds.lower, &self.bounds.upper].into_iter().flatten() {
            self.schema.check_key(bound)?;
        }
        let mut files = for_each(self.threads, self.inputs.len(), &self.cancel, |input| {
            MergeFile::open(&self.inputs[input], &table, &self.runtime, &self.cancel)
        })?;
        let rules = Rules::new(&table, self.rules.as_ref(), self.purge.as_ref())?;
        let pieces = self.plan(&files, &table, rules.as_ref())?;
        for piece in &pieces {
            if let Piece::Copy { input, .. } = piece {
                files[*input].is_hashed = true;
            }
        }
        Job {
            merge: self,
            table: &table,
            files: &files,
            pieces: &pieces,
            rules: rules.as_ref(),
        }
        .run(destination, or_empty)
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

    fn plan(&self, files: &[MergeFile], table: &TableSchema, rules: Option<&Rules>) -> Result<Vec<Piece>> {
        let columns = parquet_columns(table)?;
        let inputs = files
            .iter()
            .map(|file| self.row_groups(file, table, &columns, rules))
            .collect::<Result<Vec<_>>>()?;
        pieces::plan(&self.bounds, &inputs, self.layout, |input, row_groups| {
            marks(&files[input], table, row_groups)
        })
    }

    /// The row groups of a file, for the planner.
    fn row_groups(
        &self,
        file: &MergeFile,
        table: &TableSchema,
        columns: &SchemaDescriptor,
        rules: Option<&Rules>,
    ) -> Result<Vec<RowGroup>> {
        let groups = file.input.footer().row_groups();
        let rows = groups.iter().map(row_count).fold(0, u64::saturating_add);
        let is_whole = file.exact.is_some_and(|(exact, _)| exact == rows);
        // What is copied passes no rule.
        let may_change = rules.map(|rules| rules.may_change(&file.input));
        let stays = |number: usize| may_change.as_ref().is_none_or(|may_change| !may_change[number]);
        let spans = pruning::spans(&file.input, table)?;
        let described = groups.iter().zip(spans).enumerate();
        Ok(described
            .map(|(number, (group, span))| RowGroup {
                rows: row_count(group),
                bytes: group.compressed_size().unsigned_abs(),
                span,
                may_copy: is_whole && stays(number) && copy::is_copyable(&file.input, number, columns),
            })
            .collect())
    }
}

/// Where the pages of some row groups of a file begin.
fn marks(file: &MergeFile, table: &TableSchema, row_groups: Range<usize>) -> Result<Vec<Mark>> {
    let mut marks = Vec::new();
    for row_group in row_groups {
        let group = file.input.footer().row_group(row_group);
        let row_bytes = group.compressed_size().unsigned_abs() / row_count(group).max(1);
        let pages = pruning::page_starts(&file.input, row_group, table)?;
        marks.extend(pages.into_iter().map(|(key, rows)| Mark {
            key,
            bytes: rows as u64 * row_bytes,
        }));
    }
    Ok(marks)
}

/// A merge that is planned.
struct Job<'a> {
    merge: &'a LeafMerge,
    table: &'a TableSchema,
    files: &'a [MergeFile],
    pieces: &'a [Piece],
    rules: Option<&'a Rules>,
}

impl<'a> Job<'a> {
    fn run(&self, destination: Destination, or_empty: bool) -> Result<MergedLeaf> {
        let tally = Tally::new(self.files.len(), self.merge.progress.clone());
        let sample = self.sample()?;
        let file = ParquetFile::create(self.table, destination, sample.as_ref(), self.merge.layout)?;
        let encoder = file.encoder();
        let codable = self.codable(&encoder);
        let copies = self.pieces.iter().map(|piece| self.copy(piece)).collect();
        let ahead = self.merge.threads.get() + 1;
        let file = OrderedFile::new(file, copies, ahead, &self.merge.cancel);
        let written = match self
            .write(&file, &encoder, &codable, &tally)
            .and_then(|written| self.check(written, tally))
        {
            Ok(written) if written.rows > 0 || or_empty => written,
            Ok(nothing) => {
                file.abort();
                return Ok(nothing);
            }
            Err(error) => {
                file.abort();
                return Err(error);
            }
        };
        Ok(MergedLeaf {
            object: Some(file.into_file()?.finish()?),
            ..written
        })
    }

    /// The columns that may be merged as codes. Rules want to see values, and so do files on local disk.
    fn codable(&self, encoder: &Encoder) -> Vec<usize> {
        match self.rules.is_none() && self.files.len() <= MERGE_WIDTH {
            true => encoder.codable(self.table.key_columns()),
            false => Vec::new(),
        }
    }

    /// Some rows to choose encodings by: from the middle of the merge, and the largest input there.
    fn sample(&self) -> Result<Option<RecordBatch>> {
        let merges = self
            .pieces
            .iter()
            .filter(|piece| matches!(piece, Piece::Merge { .. }));
        let merges: Vec<&Piece> = merges.collect();
        let Some(Piece::Merge { bounds, row_groups }) = merges.get(merges.len() / 2) else {
            return Ok(None);
        };
        let rows = |file: &usize| -> u64 {
            let groups = &self.files[*file].input.footer().row_groups()[row_groups[*file].clone()];
            groups.iter().map(row_count).fold(0, u64::saturating_add)
        };
        let mut by_size: Vec<usize> = (0..self.files.len()).collect();
        by_size.sort_by_key(|file| std::cmp::Reverse(rows(file)));
        let unseen = Tally::new(self.files.len(), Arc::default());
        for file in by_size {
            for mut source in self.open(bounds, row_groups, file..file + 1, &unseen, None)? {
                if let Some(batch) = source.next()? {
                    return Ok(Some(batch));
                }
            }
        }
        Ok(None)
    }

    fn copy(&self, piece: &'a Piece) -> Option<Append<'a>> {
        let Piece::Copy { input, row_group } = piece else {
            return None;
        };
        let MergeFile { input, copied, .. } = &self.files[*input];
        let progress = &self.merge.progress;
        Some(Box::new(move |file| {
            let rows = copied.copy(input, *row_group, file)?;
            progress.add_read(rows);
            progress.add_written(rows);
            Ok(())
        }))
    }

    /// Makes all pieces.
    fn write(
        &self,
        file: &OrderedFile<'_>,
        encoder: &Encoder,
        codable: &[usize],
        tally: &Tally,
    ) -> Result<Vec<WrittenPiece>> {
        file.advance()?;
        let merges: Vec<usize> = (0..self.pieces.len())
            .filter(|piece| matches!(self.pieces[*piece], Piece::Merge { .. }))
            .collect();
        let list = WorkList::new(merges.len());
        let written = on_threads(self.merge.threads, &list, || {
            let mut written = Vec::new();
            while let Some(next) = list.take() {
                let piece = merges[next];
                let Some(open) = file.begin(piece)? else { break };
                written.push(self.write_piece(piece, open, encoder, codable, tally)?);
            }
            Ok(written)
        })?;
        Ok(written.into_iter().flatten().collect())
    }

    fn write_piece(
        &self,
        piece: usize,
        open: OpenPiece<'_, '_>,
        encoder: &Encoder,
        codable: &[usize],
        tally: &Tally,
    ) -> Result<WrittenPiece> {
        let Piece::Merge { bounds, row_groups } = &self.pieces[piece] else {
            return Err(Error::internal("a copy cannot be merged"));
        };
        let shared = match (&bounds.lower, &bounds.upper) {
            (Some(lower), Some(upper)) => shared_bytes(lower, upper),
            _ => 0,
        };
        let files = 0..self.files.len();
        let (merged, written) = if files.len() <= MERGE_WIDTH {
            let coded = CodedPiece::new(self.table, codable, self.files, row_groups);
            let table = coded.as_ref().map_or(self.table, |coded| &coded.table);
            let sources = self.open(bounds, row_groups, files, tally, coded.as_ref())?;
            let merge = Merge::new(table.clone(), sources, shared)?;
            self.encode(merge, &open, encoder, coded.as_ref())?
        } else {
            let Self { merge, table, .. } = self;
            let mut runs = Vec::with_capacity(files.len().div_ceil(MERGE_WIDTH));
            for first in files.step_by(MERGE_WIDTH) {
                let some = first..self.files.len().min(first + MERGE_WIDTH);
                let sources = self.open(bounds, row_groups, some, tally, None)?;
                let merged = Merge::new((*table).clone(), sources, shared)?;
                runs.push(merge.spill.write(table, merged, &merge.cancel)?);
            }
            let runs = merge.spill.narrow(table, runs, &merge.cancel)?;
            let sources: Vec<RunReader> = runs.iter().map(Run::open).collect::<Result<_>>()?;
            let merge = Merge::new((*table).clone(), sources, shared)?;
            self.encode(merge, &open, encoder, None)?
        };
        open.finish()?;
        Ok(WrittenPiece {
            piece,
            merged: (merged.rows(), merged.digest()),
            ruled: written.as_ref().map(|written| (written.rows(), written.digest())),
            range: written.unwrap_or(merged).range()?,
        })
    }

    /// The rows within `bounds` of some of the files.
    fn open<'t>(
        &self,
        bounds: &'t KeyBounds,
        row_groups: &[Range<usize>],
        files: Range<usize>,
        tally: &'t Tally,
        coded: Option<&'t CodedPiece>,
    ) -> Result<Vec<LeafSource<'t>>>
    where
        'a: 't,
    {
        self.merge.cancel.check()?;
        files
            .map(|file| {
                let groups = &row_groups[file];
                LeafSource::new(&self.files[file], file, self.table, bounds, groups, tally)
                    .map(|source| source.with_codes(coded))
            })
            .collect()
    }

    /// Encodes what is merged, as the rules will have it. Answers what was merged and, where there are rules, what was
    /// written.
    fn encode<S: SortedSource>(
        &self,
        mut merge: Merge<S>,
        open: &OpenPiece<'_, '_>,
        encoder: &Encoder,
        coded: Option<&CodedPiece>,
    ) -> Result<(Meter, Option<Meter>)> {
        let nothing = RefCell::default();
        let dictionaries = coded.map_or(&nothing, |coded| &coded.dictionaries);
        let mut merged = Meter::new(self.table.clone());
        let mut ruled = self
            .rules
            .map(|rules| (rules.apply(), Meter::new(self.table.clone())));
        let mut output = PieceOutput {
            open,
            encoder,
            coded: coded.map_or(&[], |coded| &coded.columns),
            dictionaries,
            progress: &self.merge.progress,
            row_group: None,
        };
        while let Some(batch) = merge.next()? {
            self.merge.cancel.check()?;
            if open.is_futile() {
                break;
            }
            merged.add_coded(&batch, &dictionaries.borrow())?;
            match &mut ruled {
                None => output.write(&batch)?,
                Some((rules, written)) => {
                    for batch in rules.push(batch)? {
                        written.add(&batch)?;
                        output.write(&batch)?;
                    }
                }
            }
        }
        if let Some((rules, written)) = &mut ruled
            && let Some(batch) = rules.finish()
        {
            written.add(&batch)?;
            output.write(&batch)?;
        }
        output.finish()?;
        Ok((merged, ruled.map(|(_, written)| written)))
    }

    /// Checks what was read of each input against what the state knows, and what was encoded against all that was
    /// decoded.
    fn check(&self, mut written: Vec<WrittenPiece>, tally: Tally) -> Result<MergedLeaf> {
        written.sort_by_key(|written| written.piece);
        let mut decoded = (0, RowDigest::default());
        let mut total = (0, RowDigest::default());
        for (file, seen) in self.files.iter().zip(tally.into_seen()) {
            let digest = file.check(&seen, &self.merge.cancel)?;
            decoded = (decoded.0 + seen.rows, decoded.1 + digest);
            let kept = match self.rules {
                Some(_) => file.copied(&seen),
                None => (seen.rows + file.copied.rows(), file.digest(&seen)),
            };
            total = (total.0 + kept.0, total.1 + kept.1);
        }
        let merged = sum(written.iter().map(|piece| piece.merged));
        if merged != decoded {
            self.find_damage()?;
            return Err(Error::internal(format!(
                "{} rows with digest {} were written, but {} with digest {} were read",
                merged.0, merged.1, decoded.0, decoded.1
            )));
        }
        let ruled = sum(written.iter().filter_map(|piece| piece.ruled));
        let total = (total.0 + ruled.0, total.1 + ruled.1);
        Ok(MergedLeaf {
            rows: total.0,
            digest: total.1,
            range: self.range(&written)?,
            object: None,
        })
    }

    /// Reads the inputs once more, which were not hashed as they were read, to tell which one has other rows than
    /// the state knows.
    fn find_damage(&self) -> Result<()> {
        for (number, file) in self.files.iter().enumerate().filter(|(_, file)| !file.is_hashed) {
            let Some((rows, digest)) = file.exact else {
                continue;
            };
            let tally = Tally::new(self.files.len(), Arc::default());
            let all = 0..file.input.row_groups();
            let mut source =
                LeafSource::new(file, number, self.table, &self.merge.bounds, &all, &tally)?.hashed();
            while source.next()?.is_some() {
                self.merge.cancel.check()?;
            }
            let found = tally.into_seen().swap_remove(number);
            if found.digest != digest {
                return Err(file.input.object().damaged(format!(
                    "it has {} rows with digest {} in the leaf, where the table's state knows {rows} with digest {digest}",
                    found.rows, found.digest
                )));
            }
        }
        Ok(())
    }

    /// The keys of the first and of the last row.
    fn range(&self, written: &[WrittenPiece]) -> Result<Option<KeyRange>> {
        let of = |number: usize| -> Result<Option<KeyRange>> {
            match &self.pieces[number] {
                Piece::Copy { input, row_group } => self.copied_range(*input, *row_group).map(Some),
                Piece::Merge { .. } => {
                    let found = written.binary_search_by_key(&number, |written| written.piece);
                    Ok(found.ok().and_then(|at| written[at].range.clone()))
                }
            }
        };
        let mut numbers = 0..self.pieces.len();
        let Some(first) = numbers.find_map(|number| of(number).transpose()).transpose()? else {
            return Ok(None);
        };
        let last = numbers
            .rev()
            .find_map(|number| of(number).transpose())
            .transpose()?;
        Ok(Some(last.map_or(first.clone(), |last| first.union(&last))))
    }

    /// The keys of the first and of the last row of a row group.
    fn copied_range(&self, input: usize, row_group: usize) -> Result<KeyRange> {
        let file = &self.files[input].input;
        let rows = row_count(file.footer().row_group(row_group)) as usize;
        let key = |row: usize| -> Result<Key> {
            let selection = RowSelection::from_consecutive_ranges(std::iter::once(row..row + 1), rows);
            let read = file.read(row_group, Some(selection), self.table)?.next()?;
            let read = read.ok_or_else(|| file.object().damaged("a row group has no rows"))?;
            row_key(&self.table.core, &self.table.keys(&read.columns)?, 0)
        };
        Ok(KeyRange {
            min: key(0)?,
            max: key(rows.saturating_sub(1))?,
        })
    }
}

/// Where the batches of a piece go.
struct PieceOutput<'a, 'f> {
    open: &'a OpenPiece<'a, 'f>,
    encoder: &'a Encoder,
    coded: &'a [usize],
    dictionaries: &'a RefCell<Dictionaries>,
    progress: &'a Progress,
    row_group: Option<OpenRowGroup>,
}

impl PieceOutput<'_, '_> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let mut group = match self.row_group.take() {
                Some(group) => group,
                None => self.encoder.begin(self.coded)?,
            };
            from += group.write(
                &batch.slice(from, batch.num_rows() - from),
                &self.dictionaries.borrow(),
            )?;
            if group.is_full() {
                self.open.append(group.finish(&self.dictionaries.borrow())?)?;
            } else {
                self.row_group = Some(group);
            }
        }
        self.progress.add_written(batch.num_rows() as u64);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self.row_group {
            Some(group) => self.open.append(group.finish(&self.dictionaries.borrow())?),
            None => Ok(()),
        }
    }
}

/// Rows and digests, added up.
fn sum(parts: impl Iterator<Item = (u64, RowDigest)>) -> (u64, RowDigest) {
    parts.fold((0, RowDigest::default()), |sum, part| {
        (sum.0 + part.0, sum.1 + part.1)
    })
}
