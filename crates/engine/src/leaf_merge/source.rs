//! The files that a merge reads, and what was seen of each.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::array::{ArrayRef, RecordBatch};
use dormouse_core::{
    Error, ErrorKind, Result,
    file::{Checksum, RowDigest},
    key::{Key, KeyBounds},
    ports::{MergeInput, Progress},
};
use tokio::runtime::Handle;

use crate::{
    cancel::Cancel,
    dictionary::{Dictionaries, Translation, read_type},
    digest::Digester,
    input::{Input, RowGroupReader, Rows},
    leaf_merge::{coding::CodedPiece, copy::CopiedBytes},
    merge::SortedSource,
    object_reader::RemoteObject,
    pruning,
    sort_key::Keys,
    table::TableSchema,
};

/// An opened input of a merge.
pub(crate) struct MergeFile {
    pub(crate) input: Input,
    pub(crate) checksum: Checksum,
    /// What the table's state knows of its rows in the leaf.
    pub(crate) exact: Option<(u64, RowDigest)>,
    pub(crate) copied: CopiedBytes,
    /// Whether its rows are hashed as they are read, because nobody knows the digest of those that are.
    pub(crate) is_hashed: bool,
}

impl MergeFile {
    /// Opens an input. One whose rows in the leaf are not known proves itself now, by its checksum.
    pub(crate) fn open(
        input: &MergeInput,
        table: &TableSchema,
        runtime: &Handle,
        cancel: &Cancel,
    ) -> Result<Self> {
        let object = RemoteObject::of_table(input, runtime);
        if input.exact.is_none() {
            object.prove(object.checksum(0..object.bytes, cancel)?, input.checksum)?;
        }
        Ok(Self {
            input: Input::open(object, table)?,
            checksum: input.checksum,
            exact: input.exact,
            copied: CopiedBytes::default(),
            is_hashed: input.exact.is_none(),
        })
    }

    /// Checks how many rows were read and copied, and the checksum of a file of which something was copied.
    ///
    /// Answers the digest that the rows read must have in the output.
    pub(crate) fn check(&self, seen: &Seen, cancel: &Cancel) -> Result<RowDigest> {
        let object = self.input.object();
        let found = seen.rows + self.copied.rows();
        if let Some((rows, _)) = self.exact
            && found != rows
        {
            return Err(object.damaged(format!(
                "it has {found} rows in the leaf, where the table's state knows {rows}"
            )));
        }
        if self.copied.rows() > 0 {
            object.prove(self.copied.checksum(object, cancel)?, self.checksum)?;
        }
        match self.exact {
            Some((_, digest)) if !self.is_hashed => Ok(digest),
            _ => Ok(seen.digest),
        }
    }

    /// The digest of all the file's rows that count: those read, by `seen`, and those copied.
    pub(crate) fn digest(&self, seen: &Seen) -> RowDigest {
        self.exact.map_or(seen.digest, |(_, digest)| digest)
    }

    /// How many rows were copied, and their digest.
    pub(crate) fn copied(&self, seen: &Seen) -> (u64, RowDigest) {
        match self.copied.rows() {
            0 => (0, RowDigest::default()),
            rows => (rows, self.digest(seen) - seen.digest),
        }
    }
}

/// Rows of a file that were read in the leaf.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) rows: u64,
    pub(crate) digest: RowDigest,
}

/// What the pieces of a merge have read so far.
pub(crate) struct Tally {
    seen: Vec<Mutex<Seen>>,
    progress: Arc<Progress>,
}

impl Tally {
    pub(crate) fn new(inputs: usize, progress: Arc<Progress>) -> Self {
        Self {
            seen: (0..inputs).map(|_| Mutex::default()).collect(),
            progress,
        }
    }

    /// What was seen of each input.
    pub(crate) fn into_seen(self) -> Vec<Seen> {
        let seen = self.seen.into_iter();
        seen.map(|seen| seen.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    fn add(&self, input: usize, rows: u64, digest: RowDigest) {
        let mut seen = self.seen[input].lock().unwrap_or_else(PoisonError::into_inner);
        seen.rows += rows;
        seen.digest = seen.digest + digest;
        self.progress.add_read(rows);
    }
}

/// The rows of one file within bounds.
pub(crate) struct LeafSource<'a> {
    file: &'a MergeFile,
    number: usize,
    table: TableSchema,
    coded: Option<&'a CodedPiece>,
    /// By column.
    translations: Vec<Translation>,
    bounds: &'a KeyBounds,
    row_groups: VecDeque<usize>,
    reader: Option<RowGroupReader>,
    hashes: bool,
    digester: Digester,
    tally: &'a Tally,
}

impl<'a> LeafSource<'a> {
    /// The rows of some row groups of input `number`.
    pub(crate) fn new(
        file: &'a MergeFile,
        number: usize,
        table: &TableSchema,
        bounds: &'a KeyBounds,
        row_groups: &Range<usize>,
        tally: &'a Tally,
    ) -> Result<Self> {
        let mut touched = pruning::row_groups(&file.input, bounds)?;
        touched.retain(|group| row_groups.contains(group));
        Ok(Self {
            file,
            number,
            table: table.clone(),
            coded: None,
            translations: Vec::new(),
            bounds,
            row_groups: touched.into(),
            reader: None,
            hashes: file.is_hashed,
            digester: Digester::default(),
            tally,
        })
    }

    /// The same rows, hashed in any case.
    pub(crate) fn hashed(self) -> Self {
        Self { hashes: true, ..self }
    }

    /// The same rows, with codes.
    pub(crate) fn with_codes(self, coded: Option<&'a CodedPiece>) -> Self {
        let Some(of) = coded else { return self };
        Self {
            translations: of
                .table
                .arrow
                .fields()
                .iter()
                .map(|_| Translation::default())
                .collect(),
            coded,
            ..self
        }
    }

    fn input(&self) -> &'a Input {
        match self.coded {
            None => &self.file.input,
            Some(coded) => &coded.inputs[self.number],
        }
    }

    /// The columns of a batch.
    fn columns(&mut self, rows: &Rows) -> Result<Vec<ArrayRef>> {
        let object = self.file.input.object();
        let Some(coded) = self.coded else {
            return rows.conformed(object, &self.table);
        };
        let (table, mut dictionaries) = (&self.table, coded.dictionaries.borrow_mut());
        let translations = self.translations.iter_mut().enumerate();
        translations
            .map(|(column, translation)| {
                let Some(dictionary) = dictionaries.get_mut(column) else {
                    return rows.conformed_column(object, table, column);
                };
                let found = &rows.columns[column];
                let codes = match *found.data_type() == read_type(table.column_type(column)) {
                    true => dictionary.encode(found, translation),
                    false => dictionary.encode(&rows.conformed_column(object, table, column)?, translation),
                };
                match codes {
                    Err(error) if error.kind() == ErrorKind::Corrupt => Err(object.damaged(error.report())),
                    codes => Ok(Arc::new(codes?) as ArrayRef),
                }
            })
            .collect()
    }

    /// The rows within the bounds as a batch; none when there are none in `rows`.
    fn restrict(&mut self, rows: &Rows) -> Result<Option<RecordBatch>> {
        let columns = self.columns(rows)?;
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
        let table = self.coded.map_or(&self.table, |coded| &coded.table);
        let batch = table.batch(columns)?.slice(from, until - from);
        let mut digest = RowDigest::default();
        if self.hashes {
            let nothing = Dictionaries::default();
            let coded = self.coded.map(|coded| coded.dictionaries.borrow());
            let dictionaries = coded.as_deref().unwrap_or(&nothing);
            let (columns, rows) = (batch.columns(), batch.num_rows());
            self.digester.hash_coded_rows(columns, dictionaries, rows)?;
            digest = self.digester.sum(0..batch.num_rows());
        }
        self.tally.add(self.number, batch.num_rows() as u64, digest);
        Ok(Some(batch))
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
                let selection = pruning::pages(&self.file.input, group, self.bounds)?;
                self.reader = Some(self.input().read(group, selection, &self.table)?);
                continue;
            };
            let Some(rows) = reader.next()? else {
                self.reader = None;
                continue;
            };
            if let Some(batch) = self.restrict(&rows)? {
                return Ok(Some(batch));
            }
        }
    }

    fn unsorted(&self) -> Error {
        self.file.input.object().damaged("its rows are not in key order")
    }
}
