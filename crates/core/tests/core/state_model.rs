//! Random records against a model that knows each row: a table is a set of rows, jobs are a set, and a reference
//! is "the rows of this file in this leaf".

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dormouse_core::{
    error::ErrorKind,
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, PartitionId, TransactionNumber},
    key::{KeyRange, KeyValue},
    state::{
        Kept, KeptBecause, Outcome, Record, TableState, invariants,
        table_state::Extent,
        transaction::{RestoredFile, RestoredReference, Split},
    },
    time::Timestamp,
};
use proptest::prelude::*;

use crate::samples::*;

const HOUR: i64 = 60 * MINUTE;
const SKEW: i64 = 10 * MINUTE;
const KEYS: i32 = 60;

/// One row: its key, and a number that no other row has.
type Row = (i32, u64);

#[derive(Clone, Debug)]
enum Op {
    Create {
        points: Vec<i32>,
    },
    Split {
        leaf: usize,
        point: i32,
        again: bool,
    },
    Extend {
        splits: Vec<(usize, i32)>,
        spoil: bool,
    },
    Add {
        job: u8,
        run: u8,
        age: i64,
        files: Vec<Vec<i32>>,
        cut: Cut,
        reuse: Option<usize>,
    },
    Assign {
        job: u8,
        leaf: usize,
        inputs: u8,
        until: i64,
    },
    Compact {
        job: u8,
        run: u8,
        leaf: usize,
        inputs: u8,
        filter: bool,
        astray: bool,
    },
    Mark {
        files: u16,
    },
    Delete {
        files: u16,
    },
    Pin {
        pin: u8,
        back: u64,
        until: i64,
    },
    Release {
        pin: u8,
    },
    Truncate {
        back: u64,
    },
    Keep {
        leaf: usize,
        rows: u64,
    },
    Clear,
    Restore {
        back: usize,
    },
    Drop,
    Wait {
        millis: i64,
    },
    Again {
        commit: usize,
    },
}

/// How a writer cut its files.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// At the leaves of now.
    Leaves,
    /// At no leaf.
    Nowhere,
    /// At every tenth key, whatever the leaves are.
    Elsewhere,
}

fn op() -> impl Strategy<Value = Op> {
    let keys = || prop::collection::vec(0..KEYS, 1..6);
    let cut = prop_oneof![Just(Cut::Leaves), Just(Cut::Nowhere), Just(Cut::Elsewhere)];
    prop_oneof![
        1 => prop::collection::vec(0..KEYS, 0..3).prop_map(|points| Op::Create { points }),
        6 => (any::<usize>(), -2..KEYS + 2, prop::bool::weighted(0.1))
            .prop_map(|(leaf, point, again)| Op::Split { leaf, point, again }),
        2 => (prop::collection::vec((any::<usize>(), 0..KEYS), 0..3), prop::bool::weighted(0.2))
            .prop_map(|(splits, spoil)| Op::Extend { splits, spoil }),
        16 => (0..40_u8, 0..2_u8, prop_oneof![6 => 0..3 * DAY, 2 => 20 * DAY..60 * DAY, 1 => -2 * DAY..0], prop::collection::vec(keys(), 0..3), cut, prop::option::weighted(0.1, any::<usize>()))
            .prop_map(|(job, run, age, files, cut, reuse)| Op::Add { job, run, age, files, cut, reuse }),
        8 => (40..60_u8, 0..3_usize, 1..16_u8, -HOUR..3 * HOUR)
            .prop_map(|(job, leaf, inputs, until)| Op::Assign { job, leaf, inputs, until }),
        10 => (40..60_u8, 0..2_u8, 0..3_usize, 1..16_u8, prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(job, run, leaf, inputs, filter, astray)| Op::Compact { job, run, leaf, inputs, filter, astray }),
        5 => any::<u16>().prop_map(|files| Op::Mark { files }),
        4 => any::<u16>().prop_map(|files| Op::Delete { files }),
        4 => (0..4_u8, 0..6_u64, -HOUR..2 * DAY).prop_map(|(pin, back, until)| Op::Pin { pin, back, until }),
        2 => (0..4_u8).prop_map(|pin| Op::Release { pin }),
        2 => (0..8_u64).prop_map(|back| Op::Truncate { back }),
        2 => (0..4_usize, 0..3_u64).prop_map(|(leaf, rows)| Op::Keep { leaf, rows }),
        1 => Just(Op::Clear),
        3 => (0..12_usize).prop_map(|back| Op::Restore { back }),
        1 => prop::bool::weighted(0.1).prop_map(|drop| if drop { Op::Drop } else { Op::Clear }),
        6 => prop_oneof![Just(HOUR), Just(DAY), Just(20 * DAY), -DAY..2 * DAY].prop_map(|millis| Op::Wait { millis }),
        4 => any::<usize>().prop_map(|commit| Op::Again { commit }),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Expected {
    Applied,
    Done(u64),
    Refused(ErrorKind),
}

#[derive(Clone, Debug, PartialEq)]
struct GoneFile {
    added: Option<u64>,
    removed: u64,
    marked: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    live: bool,
    dropped: bool,
    number: u64,
    at: i64,
    /// Lower bound (none is the smallest number) to leaf.
    leaves: BTreeMap<i64, String>,
    partitions: BTreeSet<String>,
    splits: BTreeSet<(String, i32, String, String)>,
    kept: BTreeMap<String, Kept>,
    /// Between which keys the rows of a file at a leaf are, as far as its writer told.
    references: BTreeMap<(String, FileName), (i32, i32)>,
    added: BTreeMap<FileName, u64>,
    rows: BTreeSet<Row>,
    jobs: BTreeMap<String, (String, u64, i64, i64)>,
    forgotten: i64,
    garbage: BTreeMap<FileName, GoneFile>,
    tombstones: BTreeMap<FileName, i64>,
    leases: BTreeMap<(String, FileName), (String, i64)>,
    pins: BTreeMap<String, (u64, i64)>,
    retained: u64,
    floor: u64,
    /// Requests that took effect: when, and those that clear or restore by time too.
    seen: BTreeMap<String, (u64, Option<i64>)>,
    past: BTreeMap<u64, Past>,
}

/// What a state of the past had.
#[derive(Clone, Debug, PartialEq)]
struct Past {
    references: BTreeMap<(String, FileName), (i32, i32)>,
    rows: BTreeSet<Row>,
}

impl Model {
    fn begin(&mut self, now: i64) {
        self.number += 1;
        self.at = self.at.max(now);
        let horizon = self.at - 35 * DAY;
        for (job, (_, _, issued, at)) in self.jobs.clone() {
            if at < horizon {
                self.forgotten = self.forgotten.max(issued);
                self.jobs.remove(&job);
            }
        }
        self.seen
            .retain(|_, (_, cleared)| cleared.is_none_or(|at| at >= horizon));
        for (file, at) in self.tombstones.clone() {
            if at < horizon {
                self.forgotten = self.forgotten.max(at);
                self.tombstones.remove(&file);
            }
        }
    }

    fn holds(&self, (_, until): (u64, i64)) -> bool {
        self.at < until + SKEW
    }

    fn oldest(&self) -> u64 {
        self.retained.max(self.floor.saturating_sub(1))
    }

    fn bounds(&self, leaf: &str) -> Option<(i64, i64)> {
        let (lower, _) = self.leaves.iter().find(|(_, id)| *id == leaf)?;
        let upper = self
            .leaves
            .range(lower + 1..)
            .next()
            .map_or(i64::MAX, |(upper, _)| *upper);
        Some((*lower, upper))
    }

    fn knows(&self, file: &FileName) -> bool {
        self.added.contains_key(file) || self.garbage.contains_key(file) || self.tombstones.contains_key(file)
    }

    fn bin(&mut self, file: &FileName, added: Option<u64>) {
        let gone = GoneFile {
            added,
            removed: self.number,
            marked: false,
        };
        self.garbage.insert(file.clone(), gone);
    }

    fn drop_unreferenced(&mut self) {
        for (file, added) in self.added.clone() {
            if !self.references.keys().any(|(_, at_leaf)| *at_leaf == file) {
                self.added.remove(&file);
                self.bin(&file, Some(added));
            }
        }
        let references = &self.references;
        self.leases.retain(|place, _| references.contains_key(place));
    }

    fn refer(&mut self, file: &DataFile) {
        self.added.insert(file.name.clone(), self.number);
        for part in &file.parts {
            let (min, max) = (number(&part.range.min), number(&part.range.max));
            for leaf in self.leaves.values().cloned().collect::<Vec<_>>() {
                let Some((lower, upper)) = self.bounds(&leaf) else {
                    continue;
                };
                if lower <= i64::from(max) && i64::from(min) < upper {
                    let range = self
                        .references
                        .entry((leaf, file.name.clone()))
                        .or_insert((min, max));
                    *range = (range.0.min(min), range.1.max(max));
                }
            }
        }
    }

    fn split(&mut self, split: &Split) -> Result<(), ErrorKind> {
        let point = number(&split.at);
        let (from, left, right) = (
            split.partition.to_string(),
            split.left.to_string(),
            split.right.to_string(),
        );
        if self
            .splits
            .contains(&(from.clone(), point, left.clone(), right.clone()))
        {
            return Ok(());
        }
        let (lower, upper) = self.bounds(&from).ok_or(ErrorKind::Conflict)?;
        if i64::from(point) <= lower || i64::from(point) >= upper {
            return Err(ErrorKind::Invalid);
        }
        if left == right || self.partitions.contains(&left) || self.partitions.contains(&right) {
            return Err(ErrorKind::Conflict);
        }
        self.partitions.extend([left.clone(), right.clone()]);
        self.leaves.insert(lower, left.clone());
        self.leaves.insert(point.into(), right.clone());
        for ((leaf, file), (min, max)) in self.references.clone() {
            if leaf == from {
                self.references.remove(&(leaf, file.clone()));
                if min < point {
                    self.references.insert((left.clone(), file.clone()), (min, max));
                }
                if max >= point {
                    self.references.insert((right.clone(), file.clone()), (min, max));
                }
            }
        }
        self.kept.remove(&from);
        self.splits.insert((from, point, left, right));
        self.drop_unreferenced();
        Ok(())
    }

    /// The leaves below a partition that have keys of a range.
    fn below(&self, partition: &str, range: (i32, i32)) -> Vec<String> {
        match self.splits.iter().find(|split| split.0 == partition) {
            None => vec![partition.to_owned()],
            Some((_, point, left, right)) => {
                let mut found = Vec::new();
                if range.0 < *point {
                    found.extend(self.below(left, range));
                }
                if range.1 >= *point {
                    found.extend(self.below(right, range));
                }
                found
            }
        }
    }

    fn check_inputs(&self, leaf: &PartitionId, inputs: &[FileName]) -> Result<(), ErrorKind> {
        if inputs.is_empty() {
            return Err(ErrorKind::Invalid);
        }
        let there = |input: &FileName| self.references.contains_key(&(leaf.to_string(), input.clone()));
        if !inputs.iter().all(there) {
            return Err(ErrorKind::Conflict);
        }
        Ok(())
    }

    fn check_age(&self, issued: Timestamp) -> Result<(), ErrorKind> {
        if issued.as_millis() <= self.forgotten {
            return Err(ErrorKind::Conflict);
        }
        if issued.as_millis() > self.at + DAY {
            return Err(ErrorKind::Unavailable);
        }
        Ok(())
    }

    fn discard(&mut self, files: &[Arc<DataFile>]) {
        for file in files {
            if !self.knows(&file.name) {
                self.bin(&file.name, None);
            }
        }
    }

    fn apply(&mut self, id: &str, record: &Record, contents: &BTreeMap<FileName, Vec<Row>>) -> Expected {
        if let Some((number, _)) = self.seen.get(id) {
            return Expected::Done(*number);
        }
        let before = self.clone();
        let expected = self.effect(record, contents).unwrap_or_else(Expected::Refused);
        if matches!(expected, Expected::Refused(_)) {
            *self = before;
        } else if expected == Expected::Applied {
            // A request that found everything so already is not remembered.
            let always = matches!(
                record,
                Record::CompactionAssigned { .. }
                    | Record::PinTaken { .. }
                    | Record::TableCleared
                    | Record::TableRestored { .. }
            );
            if always || *self != before {
                let is_kept = matches!(record, Record::TableCleared | Record::TableRestored { .. });
                let cleared = is_kept.then_some(self.at);
                self.seen.insert(id.to_owned(), (self.number, cleared));
            }
        }
        expected
    }

    fn effect(
        &mut self,
        record: &Record,
        contents: &BTreeMap<FileName, Vec<Row>>,
    ) -> Result<Expected, ErrorKind> {
        match record {
            Record::TableCreated { partitions, .. } => {
                if self.live || self.dropped {
                    return Err(ErrorKind::AlreadyExists);
                }
                self.live = true;
                self.floor = self.number;
                for partition in partitions {
                    self.partitions.insert(partition.id.to_string());
                    if partition.is_leaf() {
                        let lower = partition
                            .bounds
                            .lower
                            .as_ref()
                            .map_or(i64::MIN, |key| number(key).into());
                        self.leaves.insert(lower, partition.id.to_string());
                    }
                }
                return Ok(Expected::Applied);
            }
            _ if !self.live && !self.dropped => return Err(ErrorKind::NotFound),
            Record::GarbageMarked { .. }
            | Record::FilesDeleted { .. }
            | Record::PinReleased { .. }
            | Record::HistoryTruncated { .. }
            | Record::TableDeleted => {}
            _ if self.dropped => return Err(ErrorKind::NotFound),
            _ => {}
        }
        match record {
            Record::TableCreated { .. } => unreachable!(),
            Record::PartitionSplit(split) => self.split(split)?,
            Record::PartitionTreeExtended { splits } => {
                for split in splits {
                    self.split(split)?;
                }
            }
            Record::FilesAdded {
                job,
                run,
                issued,
                files,
            } => {
                if let Some((winner, number, ..)) = self.jobs.get(job.as_str()).cloned() {
                    if winner != run.as_str() {
                        self.discard(files);
                    }
                    return Ok(Expected::Done(number));
                }
                self.check_age(*issued)?;
                for file in files {
                    if self.knows(&file.name) {
                        return Err(ErrorKind::Unavailable);
                    }
                }
                let names: BTreeSet<_> = files.iter().map(|file| &file.name).collect();
                if names.len() != files.len() {
                    return Err(ErrorKind::Invalid);
                }
                for file in files {
                    self.refer(file);
                    for row in &contents[&file.name] {
                        assert!(self.rows.insert(*row), "row {row:?} is in the table twice");
                    }
                }
                let entry = (run.to_string(), self.number, issued.as_millis(), self.at);
                self.jobs.insert(job.to_string(), entry);
            }
            Record::CompactionAssigned {
                job,
                partition,
                inputs,
                until,
            } => {
                if let Some((_, number, ..)) = self.jobs.get(job.as_str()) {
                    return Ok(Expected::Done(*number));
                }
                self.check_inputs(partition, inputs)?;
                let places = || inputs.iter().map(|input| (partition.to_string(), input.clone()));
                for place in places() {
                    if let Some((holder, until)) = self.leases.get(&place)
                        && holder != job.as_str()
                        && self.at < until + SKEW
                    {
                        return Err(ErrorKind::Conflict);
                    }
                }
                for place in places() {
                    self.leases.insert(place, (job.to_string(), until.as_millis()));
                }
            }
            Record::CompactionCommitted {
                job,
                run,
                issued,
                partition,
                inputs,
                output,
            } => {
                if let Some((winner, number, ..)) = self.jobs.get(job.as_str()).cloned() {
                    if winner != run.as_str() {
                        self.discard(output.as_slice());
                    }
                    return Ok(Expected::Done(number));
                }
                self.check_age(*issued)?;
                self.check_inputs(partition, inputs)?;
                let leaf = partition.to_string();
                let held = |input: &FileName| {
                    let lease = self.leases.get(&(leaf.clone(), input.clone()));
                    lease.is_some_and(|(holder, _)| holder == job.as_str())
                };
                if !inputs.iter().all(held) {
                    return Err(ErrorKind::Conflict);
                }
                let (lower, upper) = self.bounds(&leaf).ok_or(ErrorKind::Conflict)?;
                let inside = |key: i32| lower <= i64::from(key) && i64::from(key) < upper;
                if let Some(output) = output {
                    if self.knows(&output.name) {
                        return Err(ErrorKind::Unavailable);
                    }
                    for part in &output.parts {
                        if !inside(number(&part.range.min)) || !inside(number(&part.range.max)) {
                            return Err(ErrorKind::Invalid);
                        }
                    }
                }
                for input in inputs {
                    self.references.remove(&(leaf.clone(), input.clone()));
                    for row in contents[input].iter().filter(|row| inside(row.0)) {
                        assert!(self.rows.remove(row), "row {row:?} was not in the table");
                    }
                }
                self.drop_unreferenced();
                if let Some(output) = output {
                    self.refer(output);
                    self.rows.extend(&contents[&output.name]);
                }
                let entry = (run.to_string(), self.number, issued.as_millis(), self.at);
                self.jobs.insert(job.to_string(), entry);
            }
            Record::GarbageMarked { files } => {
                for file in files {
                    if self.added.contains_key(file) || self.tombstones.contains_key(file) {
                        continue;
                    }
                    if !self.garbage.contains_key(file) {
                        self.bin(file, None);
                    }
                    let Some(gone) = self.garbage.get(file).filter(|gone| !gone.marked) else {
                        continue;
                    };
                    let needed = |pin: &(u64, i64)| {
                        self.holds(*pin)
                            && gone
                                .added
                                .is_some_and(|added| added <= pin.0 && pin.0 < gone.removed)
                    };
                    if self.pins.values().any(needed) {
                        continue;
                    }
                    if gone.added.is_some() {
                        self.retained = self.retained.max(gone.removed);
                    }
                    if let Some(gone) = self.garbage.get_mut(file) {
                        gone.marked = true;
                    }
                }
            }
            Record::FilesDeleted { files } => {
                let stays = |file: &FileName| {
                    self.added.contains_key(file) || self.garbage.get(file).is_some_and(|gone| !gone.marked)
                };
                if files.iter().any(stays) {
                    return Err(ErrorKind::Conflict);
                }
                for file in files {
                    if self.garbage.remove(file).is_some() {
                        self.tombstones.insert(file.clone(), self.at);
                    }
                }
            }
            Record::PinTaken {
                pin,
                transaction,
                until,
            } => {
                let at = self.at;
                self.pins.retain(|_, pin| at < pin.1 + SKEW);
                let until = match self.pins.get(pin.as_str()) {
                    Some((held, _)) if *held != transaction.0 => return Err(ErrorKind::Conflict),
                    Some((_, held)) => until.as_millis().max(*held),
                    None if transaction.0 < self.oldest() || transaction.0 > self.number => {
                        return Err(ErrorKind::Conflict);
                    }
                    None => until.as_millis(),
                };
                self.pins.insert(pin.to_string(), (transaction.0, until));
            }
            Record::PinReleased { pin } => drop(self.pins.remove(pin.as_str())),
            Record::HistoryTruncated { floor } => {
                if floor.0 > self.number {
                    return Err(ErrorKind::Invalid);
                }
                let needs = |pin: &(u64, i64)| self.holds(*pin) && pin.0 + 1 < floor.0;
                if floor.0 > self.floor && self.pins.values().any(needs) {
                    return Err(ErrorKind::Conflict);
                }
                self.floor = self.floor.max(floor.0);
            }
            Record::LeafKept { partition, kept } => {
                self.bounds(partition.as_str()).ok_or(ErrorKind::Conflict)?;
                self.kept.insert(partition.to_string(), kept.clone());
            }
            Record::TableRestored { of, files } => {
                let past = self.past.get(&of.0).cloned().ok_or(ErrorKind::Invalid)?;
                let mut added = BTreeMap::new();
                for file in files.iter().map(|restored| &restored.file.name) {
                    let kept = self.garbage.get(file).filter(|gone| !gone.marked);
                    let since = self.added.get(file).copied();
                    let since = since
                        .or(kept.and_then(|gone| gone.added))
                        .ok_or(ErrorKind::Conflict)?;
                    added.insert(file.clone(), since);
                }
                self.kept.clear();
                self.references.clear();
                self.drop_unreferenced();
                for ((leaf, file), range) in &past.references {
                    for leaf in self.below(leaf, *range) {
                        self.references.insert((leaf, file.clone()), *range);
                    }
                }
                for (file, since) in added {
                    self.garbage.remove(&file);
                    self.added.insert(file, since);
                }
                self.rows = past.rows;
            }
            Record::TableCleared | Record::TableDeleted => {
                self.kept.clear();
                self.references.clear();
                self.drop_unreferenced();
                self.rows.clear();
                if *record == Record::TableDeleted {
                    self.live = false;
                    self.dropped = true;
                }
            }
        }
        Ok(Expected::Applied)
    }
}

fn number(key: &dormouse_core::key::Key) -> i32 {
    match key.0.as_ref() {
        [KeyValue::Int32(value)] => *value,
        other => panic!("{other:?}"),
    }
}

/// The state, the model, and what the writers wrote.
#[derive(Default)]
struct World {
    fold: Fold,
    model: Model,
    contents: BTreeMap<FileName, Vec<Row>>,
    names: Vec<FileName>,
    next_row: u64,
    sent: Vec<(String, Record)>,
    /// Every state so far.
    states: Vec<TableState>,
    now: i64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            fold: Fold::empty(),
            now: START.as_millis(),
            ..Self::default()
        };
        world.apply(created(&[20, 40]));
        world
    }

    fn write(&mut self, mut rows: Vec<Row>, cut: Cut) -> Arc<DataFile> {
        rows.sort_unstable();
        let file_name = name(&format!("file-{}", self.names.len()));
        self.names.push(file_name.clone());
        let mut groups: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
        for row in &rows {
            let group = match cut {
                Cut::Leaves => self
                    .model
                    .leaves
                    .range(..=i64::from(row.0))
                    .next_back()
                    .map_or(0, |(lower, _)| *lower),
                Cut::Nowhere => 0,
                Cut::Elsewhere => i64::from(row.0 / 10),
            };
            groups.entry(group).or_default().push(*row);
        }
        let parts = groups.values().map(|rows| FilePart {
            range: KeyRange {
                min: key(rows[0].0),
                max: key(rows[rows.len() - 1].0),
            },
            rows: rows.len() as u64,
            digest: RowDigest(rows.iter().map(|row| u128::from(row.1)).sum()),
        });
        let file = DataFile {
            name: file_name.clone(),
            rows: rows.len() as u64,
            bytes: 1,
            checksum: Checksum(1),
            parts: parts.collect(),
        };
        self.contents.insert(file_name, rows);
        Arc::new(file)
    }

    fn leaf(&self, index: usize) -> PartitionId {
        let leaves: Vec<_> = self.model.leaves.values().collect();
        leaves
            .get(index % leaves.len().max(1))
            .map_or_else(PartitionId::root, |leaf| id(leaf))
    }

    fn picked(&self, bits: u16) -> Vec<FileName> {
        let recent = self.names.iter().rev().take(16).enumerate();
        recent
            .filter(|(i, _)| bits & (1 << i) != 0)
            .map(|(_, name)| name.clone())
            .collect()
    }

    fn inputs(&self, leaf: &PartitionId, bits: u8) -> Vec<FileName> {
        let at_leaf = self.model.references.keys().filter(|(at, _)| at == leaf.as_str());
        let some = at_leaf
            .enumerate()
            .filter(|(i, _)| *i >= 4 || bits & (1 << i) != 0);
        some.map(|(_, (_, file))| file.clone()).take(4).collect()
    }

    /// The partitions that a new split of `leaf` makes.
    fn split(&self, leaf: &PartitionId, point: i32, i: usize) -> Split {
        let unique = self.model.partitions.len() * 10 + i * 2;
        split(
            leaf.as_str(),
            point,
            &format!("s{unique}"),
            &format!("s{}", unique + 1),
        )
    }

    fn record(&mut self, op: Op) -> Option<Record> {
        let now = self.now.max(self.model.at);
        Some(match op {
            Op::Wait { millis } => {
                self.fold.wait(millis);
                self.now += millis;
                return None;
            }
            Op::Again { .. } => return None,
            Op::Create { points } => {
                let points: BTreeSet<_> = points.into_iter().collect();
                created(&points.into_iter().collect::<Vec<_>>())
            }
            Op::Split { leaf, point, again } => match self.model.splits.iter().next_back() {
                Some((from, point, left, right)) if again => {
                    Record::PartitionSplit(split(from, *point, left, right))
                }
                _ => Record::PartitionSplit(self.split(&self.leaf(leaf), point, 0)),
            },
            Op::Extend { splits, spoil } => {
                let mut made = Vec::new();
                for (i, (leaf, point)) in splits.into_iter().enumerate() {
                    made.push(self.split(&self.leaf(leaf), point, i));
                }
                if spoil {
                    made.push(self.split(&id("nowhere"), 1, 4));
                }
                Record::PartitionTreeExtended { splits: made }
            }
            Op::Add {
                job: number,
                run: attempt,
                age,
                files,
                cut,
                reuse,
            } => {
                let mut made: Vec<_> = files
                    .into_iter()
                    .map(|keys| {
                        let rows = keys.into_iter().map(|key| {
                            self.next_row += 1;
                            (key, self.next_row)
                        });
                        let rows = rows.collect();
                        self.write(rows, cut)
                    })
                    .collect();
                if let Some(index) = reuse
                    && let Some(name) = self.names.get(index % self.names.len().max(1)).cloned()
                    && self.model.knows(&name)
                    && let Some(first) = made.first_mut()
                {
                    Arc::make_mut(first).name = name;
                }
                Record::FilesAdded {
                    job: job(&format!("job-{number}")),
                    run: run(&format!("run-{attempt}")),
                    issued: Timestamp::from_millis(now - age),
                    files: made,
                }
            }
            Op::Assign {
                job: number,
                leaf,
                inputs,
                until,
            } => {
                let leaf = self.leaf(leaf);
                Record::CompactionAssigned {
                    job: job(&format!("job-{number}")),
                    inputs: self.inputs(&leaf, inputs),
                    partition: leaf,
                    until: Timestamp::from_millis(now + until),
                }
            }
            Op::Compact {
                job: number,
                run: attempt,
                leaf,
                inputs,
                filter,
                astray,
            } => {
                let job_id = format!("job-{number}");
                let held: Vec<_> = self
                    .model
                    .leases
                    .iter()
                    .filter(|(_, (job, _))| *job == job_id)
                    .collect();
                let (leaf, inputs) = match held.first() {
                    Some(((leaf, _), _)) => {
                        let there = held.iter().filter(|((at, _), _)| at == leaf);
                        (id(leaf), there.map(|((_, file), _)| file.clone()).collect())
                    }
                    None => {
                        let leaf = self.leaf(leaf);
                        let inputs = self.inputs(&leaf, inputs);
                        (leaf, inputs)
                    }
                };
                let (lower, upper) = self.model.bounds(leaf.as_str()).unwrap_or((0, 0));
                let mut rows: Vec<Row> = inputs
                    .iter()
                    .flat_map(|input| self.contents[input].clone())
                    .collect();
                rows.retain(|row| lower <= i64::from(row.0) && i64::from(row.0) < upper);
                if filter {
                    rows.retain(|row| row.1 % 2 == 0);
                }
                if astray && upper != i64::MAX {
                    rows.push((i32::try_from(upper).unwrap(), 0));
                }
                let output = (!rows.is_empty()).then(|| self.write(rows, Cut::Nowhere));
                Record::CompactionCommitted {
                    job: job(&job_id),
                    run: run(&format!("run-{attempt}")),
                    issued: Timestamp::from_millis(now),
                    partition: leaf,
                    inputs,
                    output,
                }
            }
            Op::Mark { files } => Record::GarbageMarked {
                files: self.picked(files),
            },
            Op::Delete { files } => {
                let marked = |name: &FileName| self.model.garbage.get(name).is_some_and(|gone| gone.marked);
                let mut files = self.picked(files);
                if !self.names.len().is_multiple_of(3) {
                    files.retain(marked);
                }
                Record::FilesDeleted { files }
            }
            Op::Pin {
                pin: number,
                back,
                until,
            } => pinned(
                &format!("pin-{number}"),
                self.model.number.saturating_sub(back) + 1,
                Timestamp::from_millis(now + until),
            ),
            Op::Release { pin: number } => released(&format!("pin-{number}")),
            Op::Truncate { back } => truncated((self.model.number + 2).saturating_sub(back)),
            Op::Keep { leaf, rows } => kept(self.leaf(leaf).as_str(), rows, KeptBecause::Fits { rows }),
            Op::Clear => Record::TableCleared,
            Op::Restore { back } => {
                let past = &self.states[self.states.len().saturating_sub(back + 1)];
                Record::TableRestored {
                    of: past.transaction(),
                    files: past.to_restore(),
                }
            }
            Op::Drop => Record::TableDeleted,
        })
    }

    fn step(&mut self, op: Op) {
        if let Op::Again { commit } = &op
            && let Some((commit_id, record)) = self.sent.get(commit % self.sent.len().max(1)).cloned()
        {
            self.send(commit_id, record);
        } else if let Some(record) = self.record(op) {
            self.apply(record);
        }
    }

    fn apply(&mut self, record: Record) {
        let commit_id = format!("c{}", self.sent.len());
        self.sent.push((commit_id.clone(), record.clone()));
        self.send(commit_id, record);
    }

    fn send(&mut self, commit_id: String, record: Record) {
        self.model.begin(self.now);
        let expected = self.model.apply(&commit_id, &record, &self.contents);
        let outcome = self.fold.request(&commit_id, record.clone());
        match (&outcome, &expected) {
            (Outcome::Applied(number), Expected::Applied) => {
                assert_eq!(number.0, self.model.number);
            }
            (Outcome::Applied(number) | Outcome::AlreadyDone(number), Expected::Done(done)) => {
                // A request without effect is not remembered, and says so of a later transaction.
                assert!(
                    number.0 == *done || number.0 == self.model.number,
                    "{outcome:?} {expected:?}"
                );
            }
            (Outcome::Refused(refusal), Expected::Refused(kind)) => {
                assert_eq!(refusal.kind, *kind, "{refusal:?}")
            }
            _ => panic!("{record:?} ended in {outcome:?}, not in {expected:?}"),
        }
        self.compare();
        let past = Past {
            references: self.model.references.clone(),
            rows: self.model.rows.clone(),
        };
        self.model.past.insert(self.model.number, past);
        self.states.push(self.fold.state.clone());
    }

    fn compare(&self) {
        let (state, model) = (&self.fold.state, &self.model);
        assert_eq!(
            rows(state, &self.contents),
            model.rows.iter().copied().collect::<Vec<_>>()
        );
        let leaves: Vec<_> = state.leaves().map(|leaf| leaf.id.to_string()).collect();
        assert_eq!(leaves, model.leaves.values().cloned().collect::<Vec<_>>());
        let references: BTreeSet<_> = state
            .leaves()
            .flat_map(|leaf| {
                let leaf_id = leaf.id.to_string();
                state
                    .references(&leaf.id)
                    .map(move |at| (leaf_id.clone(), at.file.name.clone()))
            })
            .collect();
        assert!(references.iter().eq(model.references.keys()));
        let garbage: Vec<_> = state
            .garbage()
            .map(|(file, gone)| (file.clone(), gone.marked))
            .collect();
        let expected: Vec<_> = model
            .garbage
            .iter()
            .map(|(file, gone)| (file.clone(), gone.marked))
            .collect();
        assert_eq!(garbage, expected);
        let jobs: Vec<_> = state
            .ledger()
            .map(|(job, entry)| (job.to_string(), entry.transaction.0))
            .collect();
        let expected: Vec<_> = model
            .jobs
            .iter()
            .map(|(job, entry)| (job.clone(), entry.1))
            .collect();
        assert_eq!(jobs, expected);
        let pins: Vec<_> = state
            .pins()
            .map(|(pin, held)| (pin.to_string(), held.transaction.0))
            .collect();
        let expected: Vec<_> = model
            .pins
            .iter()
            .map(|(pin, held)| (pin.clone(), held.0))
            .collect();
        assert_eq!(pins, expected);
        assert_eq!(state.oldest_readable(), TransactionNumber(model.oldest().max(1)));
        assert_eq!(state.floor(), TransactionNumber(model.floor));
        for leaf in state.leaves() {
            assert_eq!(state.kept(&leaf.id), model.kept.get(leaf.id.as_str()));
        }
        for (file, leaf) in model.references.keys().map(|(leaf, file)| (file, leaf)) {
            let lease = state.lease(&id(leaf), file).map(|lease| lease.job.to_string());
            let expected = model
                .leases
                .get(&(leaf.clone(), file.clone()))
                .map(|lease| lease.0.clone());
            assert_eq!(lease, expected);
        }
    }
}

/// What a reader of `state` finds, sorted.
fn rows(state: &TableState, contents: &BTreeMap<FileName, Vec<Row>>) -> Vec<Row> {
    let mut found = Vec::new();
    for leaf in state.leaves() {
        for reference in state.references(&leaf.id) {
            let rows = contents[&reference.file.name].iter();
            let here: Vec<_> = rows
                .filter(|row| leaf.bounds.contains(&key(row.0)))
                .copied()
                .collect();
            if let Some((rows, _)) = reference.exact() {
                assert_eq!(rows, here.len() as u64, "an exact count was wrong");
            }
            found.extend(here);
        }
    }
    found.sort_unstable();
    found
}

/// Values at the edges of their types.
fn wild_record() -> impl Strategy<Value = Record> {
    let number = prop_oneof![Just(0), Just(1), Just(u64::MAX), 0..9_u64];
    let time = prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), -DAY..DAY].prop_map(|millis| {
        if millis.unsigned_abs() > DAY.unsigned_abs() {
            Timestamp::from_millis(millis)
        } else {
            at(millis)
        }
    });
    let part = (
        any::<i32>(),
        any::<i32>(),
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..9_u64],
    );
    let file_name = (0..6_u8).prop_map(|i| format!("f{i}"));
    let data_file = (file_name.clone(), prop::collection::vec(part, 0..4)).prop_map(|(name, mut parts)| {
        parts.sort_unstable();
        file(&name, &parts)
    });
    let names = prop::collection::vec(file_name, 0..4)
        .prop_map(|names| names.iter().map(|text| name(text)).collect::<Vec<_>>());
    let partition = prop_oneof![Just("root"), Just("a"), Just("b"), Just("c"), Just("d")].prop_map(id);
    let one_split = (
        partition.clone(),
        any::<i32>(),
        partition.clone(),
        partition.clone(),
    )
        .prop_map(|(partition, point, left, right)| Split {
            partition,
            at: key(point),
            left,
            right,
        });
    let extent = prop_oneof![
        (0..3_u32).prop_map(Extent::Part),
        (any::<i32>(), any::<i32>(), any::<u64>()).prop_map(|(a, b, rows)| Extent::Share {
            range: KeyRange {
                min: key(a),
                max: key(b)
            },
            rows
        }),
    ];
    let reference =
        (partition.clone(), extent).prop_map(|(partition, extent)| RestoredReference { partition, extent });
    let restored = (data_file.clone(), prop::collection::vec(reference, 0..3))
        .prop_map(|(file, references)| RestoredFile { file, references });
    let wild_number = number.clone();
    let job_id = prop_oneof![Just("j"), Just("k")].prop_map(job);
    let run_id = prop_oneof![Just("1"), Just("2")].prop_map(run);
    prop_oneof![
        Just(created(&[])),
        one_split.clone().prop_map(Record::PartitionSplit),
        prop::collection::vec(one_split, 0..4).prop_map(|splits| Record::PartitionTreeExtended { splits }),
        (
            job_id.clone(),
            run_id.clone(),
            time.clone(),
            prop::collection::vec(data_file.clone(), 0..3)
        )
            .prop_map(|(job, run, issued, files)| Record::FilesAdded {
                job,
                run,
                issued,
                files
            }),
        (job_id.clone(), partition.clone(), names.clone(), time.clone()).prop_map(
            |(job, partition, inputs, until)| Record::CompactionAssigned {
                job,
                partition,
                inputs,
                until
            }
        ),
        (
            job_id,
            run_id,
            time.clone(),
            partition,
            names.clone(),
            prop::option::of(data_file)
        )
            .prop_map(
                |(job, run, issued, partition, inputs, output)| Record::CompactionCommitted {
                    job,
                    run,
                    issued,
                    partition,
                    inputs,
                    output
                }
            ),
        names.clone().prop_map(|files| Record::GarbageMarked { files }),
        names.prop_map(|files| Record::FilesDeleted { files }),
        (number.clone(), time).prop_map(|(number, until)| pinned("p", number, until)),
        Just(released("p")),
        number.prop_map(truncated),
        Just(Record::TableCleared),
        (wild_number, prop::collection::vec(restored, 0..3)).prop_map(|(of, files)| Record::TableRestored {
            of: TransactionNumber(of),
            files
        }),
        Just(Record::TableDeleted),
    ]
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default);
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        max_shrink_time: 15_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn the_state_does_what_the_model_does(ops in prop::collection::vec(op(), 1..90)) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
    }

    #[test]
    fn no_record_panics_or_leaves_an_unsound_state(
        records in prop::collection::vec((wild_record(), prop_oneof![Just(i64::MIN), Just(i64::MAX), -DAY..DAY]), 1..40)
    ) {
        let mut state = TableState::default();
        let first = commit("first", created(&[0]));
        state.apply(TransactionNumber(1), START, [&first]);
        for (i, (record, millis)) in records.into_iter().enumerate() {
            let time = Timestamp::from_millis(START.as_millis().saturating_add(millis));
            let one = commit(&format!("c{i}"), record);
            state.apply(state.transaction().next(), time, [&one]);
            prop_assert_eq!(invariants::check(&state), Vec::<invariants::Violation>::new());
            let _ = (state.rows(), state.reference_count(), state.oldest_readable());
            for leaf in state.leaves() {
                for reference in state.references(&leaf.id) {
                    let _ = (reference.range(), reference.rows(), reference.exact());
                }
            }
        }
    }
}
