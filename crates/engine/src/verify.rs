//! Verify: one file against what is known of it, read once for its checksum and once for its
//! rows, a batch at a time.

use dormouse_core::{
    ErrorKind, Result,
    file::{FilePart, RowDigest},
    key::Key,
    ports::{FaultKind, FileFault, VerifySpec},
};
use tokio::runtime::Handle;

use crate::{
    cancel::Cancel,
    digest::Digester,
    input::{Input, Rows},
    object_reader::{Origin, RemoteObject},
    sort_key::{Keys, row_key},
    table::TableSchema,
};

/// One call of verify.
pub(crate) struct Verify {
    pub(crate) spec: VerifySpec,
    pub(crate) runtime: Handle,
    pub(crate) cancel: Cancel,
}

impl Verify {
    /// Does the work, on this thread.
    pub(crate) fn run(&self) -> Result<Vec<FileFault>> {
        let spec = &self.spec;
        let object = RemoteObject {
            name: self.spec.path.to_string(),
            origin: Origin::Table,
            store: self.spec.store.clone(),
            path: self.spec.path.clone(),
            bytes: spec.bytes,
            e_tag: None,
            runtime: self.runtime.clone(),
        };
        let mut faults = Vec::new();
        match object.checksum(0..object.bytes, &self.cancel) {
            Ok(found) if found == spec.checksum => {}
            Ok(found) => faults.push(FileFault::new(
                FaultKind::Bytes,
                format!("its checksum is {found}, not {}", spec.checksum),
            )),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                faults.push(FileFault::new(FaultKind::Bytes, error.report()));
                return Ok(faults);
            }
            Err(error) => return Err(error),
        }
        let table = TableSchema::new(self.spec.schema.clone());
        let mut rows = RowCheck::new(table.clone(), &spec.parts);
        match self.read(object, &table, &mut rows) {
            Ok(()) => rows.finish(spec.rows(), &mut faults),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                faults.push(FileFault::new(FaultKind::Bytes, error.report()));
            }
            Err(error) => return Err(error),
        }
        Ok(faults)
    }

    fn read(&self, object: RemoteObject, table: &TableSchema, check: &mut RowCheck<'_>) -> Result<()> {
        let input = Input::open(object, table)?;
        for group in 0..input.row_groups() {
            let mut reader = input.read(group, None, table)?;
            while let Some(rows) = reader.next()? {
                self.cancel.check()?;
                check.add(&input, &rows)?;
            }
        }
        Ok(())
    }
}

/// What was seen of one part.
#[derive(Default)]
struct Seen {
    rows: u64,
    digest: RowDigest,
    min: Option<Key>,
    max: Option<Key>,
}

/// Goes along the rows of a file and its parts.
struct RowCheck<'a> {
    table: TableSchema,
    digester: Digester,
    parts: &'a [FilePart],
    seen: Vec<Seen>,
    /// The part that the next row may belong to.
    part: usize,
    rows: u64,
    digest: RowDigest,
    last: Option<Keys>,
    /// The first row that sorts before the one before it.
    unsorted: Option<u64>,
    /// The first row between or beyond the parts.
    outside: Option<u64>,
}

impl<'a> RowCheck<'a> {
    fn new(table: TableSchema, parts: &'a [FilePart]) -> Self {
        Self {
            table,
            digester: Digester::default(),
            parts,
            seen: parts.iter().map(|_| Seen::default()).collect(),
            part: 0,
            rows: 0,
            digest: RowDigest::default(),
            last: None,
            unsorted: None,
            outside: None,
        }
    }

    fn add(&mut self, input: &Input, rows: &Rows) -> Result<()> {
        let columns = rows.conformed(input.object(), &self.table)?;
        self.digester.hash_rows(&columns, rows.rows)?;
        self.digest = self.digest + self.digester.sum(0..rows.rows);
        let keys = self.table.keys(&columns)?;
        self.check_order(&keys);
        // Places of unsorted rows cannot be searched for.
        if self.unsorted.is_none() {
            self.count_by_part(&keys)?;
        }
        self.rows += rows.rows as u64;
        self.last = Some(keys).filter(|keys| keys.rows() > 0).or(self.last.take());
        Ok(())
    }

    fn check_order(&mut self, keys: &Keys) {
        if self.unsorted.is_some() || keys.rows() == 0 {
            return;
        }
        let follows = |row: usize| match row.checked_sub(1) {
            Some(before) => keys.compare(before, keys, row, 0).is_le(),
            None => self
                .last
                .as_ref()
                .is_none_or(|last| last.compare(last.rows() - 1, keys, 0, 0).is_le()),
        };
        let first = (0..keys.rows()).find(|row| !follows(*row));
        self.unsorted = first.map(|row| self.rows + row as u64);
    }

    fn count_by_part(&mut self, keys: &Keys) -> Result<()> {
        let columns = self.table.row_key_columns();
        let mut from = 0;
        while from < keys.rows() {
            let Some(part) = self.parts.get(self.part) else {
                self.outside.get_or_insert(self.rows + from as u64);
                return Ok(());
            };
            let until = first(from, keys.rows(), |row| {
                keys.compare_key(row, &part.range.max, columns).is_gt()
            });
            if until > from {
                let seen = &mut self.seen[self.part];
                seen.rows += (until - from) as u64;
                seen.digest = seen.digest + self.digester.sum(from..until);
                if seen.min.is_none() {
                    seen.min = Some(row_key(&self.table.core, keys, from)?);
                }
                seen.max = Some(row_key(&self.table.core, keys, until - 1)?);
            }
            if until < keys.rows() {
                self.part += 1;
            }
            from = until;
        }
        Ok(())
    }

    fn finish(self, (rows, digest): (u64, RowDigest), faults: &mut Vec<FileFault>) {
        if (self.rows, self.digest) != (rows, digest) {
            faults.push(FileFault::new(
                FaultKind::Rows,
                format!(
                    "it has {} rows with digest {}, not {rows} with {digest}",
                    self.rows, self.digest
                ),
            ));
        }
        if let Some(row) = self.unsorted {
            faults.push(FileFault::new(
                FaultKind::Order,
                format!("row {row} sorts before the one before it"),
            ));
            return;
        }
        if let Some(row) = self.outside {
            faults.push(FileFault::new(
                FaultKind::Order,
                format!("row {row} has a key beyond the last part"),
            ));
        }
        for (part, seen) in self.parts.iter().zip(&self.seen) {
            let (min, max) = (&part.range.min, &part.range.max);
            if (seen.rows, seen.digest) != (part.rows, part.digest) {
                faults.push(FileFault::new(
                    FaultKind::Rows,
                    format!(
                        "the part with keys {min} to {max} has {} rows with digest {}, not {} with {}",
                        seen.rows, seen.digest, part.rows, part.digest
                    ),
                ));
            }
            if let (Some(first), Some(last)) = (&seen.min, &seen.max)
                && (first, last) != (min, max)
            {
                faults.push(FileFault::new(
                    FaultKind::Order,
                    format!("the part with keys {min} to {max} has keys {first} to {last}"),
                ));
            }
        }
    }
}

/// The first number from `low` on, before `high`, that `is` says yes to; those before it it says no to.
fn first(low: usize, high: usize, is: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low + (high - low) / 2;
        if is(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
