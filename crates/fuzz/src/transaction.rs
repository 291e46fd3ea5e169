//! Log entries: read as stored, and made of choices and applied one after another.

use std::sync::Arc;

use dormouse_core::{
    ErrorKind,
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, PartitionId, PinId, RunId, TableId, TransactionNumber},
    key::{Key, KeyBounds, KeyRange, KeyValue},
    partition::{Partition, tree_from_split_points},
    schema::{Column, DataType, Schema},
    state::{
        Commit, CommitId, Outcome, Record, TableState, invariants,
        log::Entry,
        snapshot,
        table_state::Extent,
        transaction::{RestoredFile, RestoredReference, Split},
    },
    time::Timestamp,
};
use uuid::Uuid;

use crate::source::Source;

const START: i64 = 1_795_000_000_000;
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// The most commits that are made of one input.
const MAX_COMMITS: usize = 60;

pub(crate) fn run(data: &[u8]) {
    if data.first() == Some(&b'{') {
        run_stored(data);
    } else {
        run_made(data);
    }
}

pub(crate) fn table() -> TableId {
    TableId::new("0a1b2c3d").unwrap_or_else(|error| panic!("{error}"))
}

/// Reads each line as an entry and applies its commits to states where they may mean something.
fn run_stored(data: &[u8]) {
    let mut states = [TableState::default(), made_state(&[0, 1, 2, 0, 3, 9, 2, 40, 1])];
    for line in data.split(|byte| *byte == b'\n') {
        let entry = match Entry::decode(line) {
            Ok((entry, _)) => entry,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                continue;
            }
        };
        let (again, hash) = entry.encode().unwrap_or_else(|error| panic!("{error}"));
        let (read, read_hash) = Entry::decode(&again).unwrap_or_else(|error| panic!("{}", error.report()));
        assert_eq!((&read, read_hash), (&entry, hash));
        for state in &mut states {
            apply(state, entry.at, entry.commits.clone());
        }
        let [first, _] = &states;
        check_snapshot(first);
    }
}

fn run_made(data: &[u8]) {
    check_snapshot(&made_state(data));
}

/// The state that choices lead to.
pub(crate) fn made_state(data: &[u8]) -> TableState {
    let mut maker = Maker {
        source: Source::new(data),
        state: TableState::default(),
        now: START,
        commits: 0,
        wide: data.first().is_some_and(|byte| byte & 0x40 != 0),
    };
    let created = maker.created();
    maker.commit(vec![created]);
    while !maker.source.is_empty() && maker.commits < MAX_COMMITS {
        let count = 1 + usize::from(maker.source.byte() > 230);
        let records = (0..count).map(|_| maker.record()).collect();
        maker.commit(records);
    }
    maker.state
}

/// Applies an entry through its stored form, and checks all that holds.
fn apply(state: &mut TableState, now: Timestamp, commits: Vec<Commit>) {
    let before = state.clone();
    let entry = Entry::after(state, &table(), now, commits);
    let (body, hash) = entry.encode().unwrap_or_else(|error| panic!("{error}"));
    let (read, _) = Entry::decode(&body).unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(read, entry);
    let outcomes = state
        .follow(&table(), &read, hash)
        .unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(outcomes.len(), entry.commits.len());
    let wrong = invariants::check(state);
    assert!(wrong.is_empty(), "{wrong:?} after {:?}", entry.commits);
    let all_refused = outcomes
        .iter()
        .all(|outcome| matches!(outcome, Outcome::Refused(_)));
    if all_refused {
        let mut untouched = before.clone();
        let empty = Entry::after(&untouched, &table(), now, Vec::new());
        untouched
            .follow(&table(), &empty, hash)
            .unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(
            *state == untouched,
            "a refused {:?} left something",
            entry.commits
        );
    }
    let mut again = before;
    let same = again.apply(entry.number, entry.at, &entry.commits);
    assert_eq!(same, outcomes, "the same entry has two outcomes");
}

fn check_snapshot(state: &TableState) {
    let bytes = snapshot::encode(&table(), state).unwrap_or_else(|error| panic!("{error}"));
    let read = snapshot::decode(&table(), &bytes).unwrap_or_else(|error| panic!("{}", error.report()));
    assert!(read == *state, "a snapshot does not give back its state");
}

struct Maker<'a> {
    source: Source<'a>,
    state: TableState,
    now: i64,
    commits: usize,
    /// Whether the row key has two columns.
    wide: bool,
}

impl Maker<'_> {
    fn commit(&mut self, records: Vec<Record>) {
        self.now = self.now.saturating_add(match self.source.byte() % 16 {
            0 => self.source.one_of(&[DAY, 30 * DAY, 36 * DAY, -DAY, i64::MAX]),
            1 => -MINUTE,
            2 => 11 * MINUTE,
            3 => 0,
            other => i64::from(other) * 1000,
        });
        let commits = records
            .into_iter()
            .map(|record| {
                self.commits += 1;
                // An id of few comes again.
                let id = match self.source.byte() {
                    byte @ 0..20 => format!("again-{}", byte % 3),
                    _ => format!("commit-{}", self.commits),
                };
                Commit::new(CommitId::new(id), record)
            })
            .collect();
        apply(&mut self.state, Timestamp::from_millis(self.now), commits);
    }

    fn created(&mut self) -> Record {
        let mut row_key = vec![Column::required("id", DataType::Int32)];
        if self.wide {
            row_key.push(Column::required("name", DataType::Utf8));
        }
        let values = vec![Column::nullable("text", DataType::Utf8)];
        let schema = Schema::new(row_key, Vec::new(), values).unwrap_or_else(|error| panic!("{error}"));
        Record::TableCreated {
            schema: Arc::new(schema),
            partitions: self.tree(),
        }
    }

    fn tree(&mut self) -> Vec<Partition> {
        let count = self.source.below(5);
        let mut points: Vec<Key> = (0..count).map(|_| self.split_point()).collect();
        points.sort();
        points.dedup();
        let mut next = 0;
        let mut tree = tree_from_split_points(&points, || {
            next += 1;
            partition(&format!("p{next}"))
        })
        .unwrap_or_else(|error| panic!("{error}"));
        if self.source.byte() < 40 {
            let at = self.source.below(tree.len());
            match self.source.below(6) {
                0 => drop(tree.remove(at)),
                1 => tree.push(tree[at].clone()),
                2 => tree[at].parent = Some(partition("p1")),
                3 => tree[at].children = Some([partition("p1"), partition("p2")]),
                4 => tree[at].bounds.lower = Some(self.key()),
                _ => tree[at].bounds = KeyBounds::default(),
            }
        }
        tree
    }

    fn int(&mut self) -> i32 {
        let byte = self.source.byte();
        match byte {
            0 => i32::MIN,
            255 => i32::MAX,
            byte => i32::from(byte.cast_signed()) / 4,
        }
    }

    /// A key that is nearly always whole.
    fn key(&mut self) -> Key {
        let number = KeyValue::Int32(self.int());
        let shape = self.source.byte();
        match (self.wide, shape) {
            (_, 0) => Key::new([]),
            (_, 1) => Key::new([KeyValue::Int64(5)]),
            (true, 2) | (false, 4..) => Key::new([number]),
            _ => Key::new([
                number,
                KeyValue::Utf8(["", "a", "b"][usize::from(shape) % 3].into()),
            ]),
        }
    }

    fn split_point(&mut self) -> Key {
        let whole = self.key();
        if self.wide && self.source.byte() & 1 == 0 {
            return Key::new(whole.0[..whole.0.len().min(1)].to_vec());
        }
        whole
    }

    fn range(&mut self) -> KeyRange {
        let (a, b) = (self.key(), self.key());
        if a <= b || self.source.byte() < 8 {
            return KeyRange { min: a, max: b };
        }
        KeyRange { min: b, max: a }
    }

    fn rows(&mut self) -> u64 {
        match self.source.byte() {
            0 => u64::MAX,
            1 => u64::MAX / 2,
            2 => 0,
            byte => byte.into(),
        }
    }

    fn file(&mut self) -> Arc<DataFile> {
        let name = self.new_name();
        let count = self.source.below(4);
        let mut parts: Vec<FilePart> = (0..=count)
            .map(|_| FilePart {
                range: self.range(),
                rows: self.rows(),
                digest: RowDigest(u128::from(self.source.byte()) << 120),
            })
            .collect();
        parts.sort_by(|a, b| a.range.min.cmp(&b.range.min));
        if self.source.byte() >= 16 {
            parts.dedup_by(|later, earlier| earlier.range.max >= later.range.min);
        }
        let rows = parts
            .iter()
            .fold(0_u64, |rows, part| rows.wrapping_add(part.rows));
        Arc::new(DataFile {
            name,
            rows: rows.wrapping_add(u64::from(self.source.byte() == 1)),
            bytes: self.rows(),
            checksum: Checksum(7),
            parts,
        })
    }

    fn files(&mut self, most: usize) -> Vec<Arc<DataFile>> {
        let count = self.source.below(most + 1);
        (0..count).map(|_| self.file()).collect()
    }

    /// What the state has, mostly, or what no state ever had.
    fn restored(&mut self) -> Vec<RestoredFile> {
        let mut files = self.state.to_restore();
        files.truncate(self.source.below(4));
        if self.source.byte() < 64 {
            let file = self.file();
            let extent = if self.source.byte() & 1 == 0 {
                Extent::Part(self.source.below(4) as u32)
            } else {
                let (range, rows) = (self.range(), self.rows());
                Extent::Share { range, rows }
            };
            let partition = self.leaf();
            let references = vec![RestoredReference { partition, extent }];
            files.push(RestoredFile { file, references });
        }
        files
    }

    fn new_name(&mut self) -> FileName {
        name(self.source.below(24))
    }

    /// A name that means something, mostly.
    fn name(&mut self) -> FileName {
        let live: Vec<_> = self.state.files().map(|(file, _)| file.name.clone()).collect();
        let garbage: Vec<_> = self.state.garbage().map(|(name, _)| name.clone()).collect();
        let pool = if self.source.byte() & 1 == 0 {
            live
        } else {
            garbage
        };
        if pool.is_empty() || self.source.byte() < 32 {
            return self.new_name();
        }
        pool[self.source.below(pool.len())].clone()
    }

    fn names(&mut self, most: usize) -> Vec<FileName> {
        let count = self.source.below(most + 1);
        (0..count).map(|_| self.name()).collect()
    }

    /// Names that the leaf refers to, mostly.
    fn names_at(&mut self, leaf: &PartitionId) -> Vec<FileName> {
        let there: Vec<_> = self
            .state
            .references(leaf)
            .map(|reference| reference.file.name.clone())
            .collect();
        if there.is_empty() || self.source.byte() < 32 {
            return self.names(3);
        }
        let count = 1 + self.source.below(there.len().min(3));
        there.into_iter().take(count).collect()
    }

    /// The commit of a compaction that has leases, with an output that fits.
    fn compacted(&mut self, run: &RunId) -> Option<Record> {
        let leases: Vec<_> = self
            .state
            .leaves()
            .flat_map(|leaf| {
                self.state
                    .references(&leaf.id)
                    .map(move |at| (leaf.id.clone(), at))
            })
            .filter_map(|(leaf, at)| {
                let job = self.state.lease(&leaf, &at.file.name)?.job.clone();
                Some((job, leaf, at.clone()))
            })
            .collect();
        let (job, partition, _) = leases.get(self.source.below(leases.len().clamp(1, 256)))?.clone();
        let inputs: Vec<_> = leases
            .into_iter()
            .filter(|(other, leaf, _)| *other == job && *leaf == partition)
            .map(|(_, _, reference)| reference)
            .collect();
        let range = inputs
            .iter()
            .skip(1)
            .fold(inputs[0].range().clone(), |range, input| {
                range.union(input.range())
            });
        let rows = self.rows();
        let output = DataFile {
            name: self.new_name(),
            rows,
            bytes: 9,
            checksum: Checksum(7),
            parts: vec![FilePart {
                range,
                rows,
                digest: RowDigest(1),
            }],
        };
        Some(Record::CompactionCommitted {
            job,
            run: run.clone(),
            issued: self.time(),
            partition,
            inputs: inputs.iter().map(|input| input.file.name.clone()).collect(),
            output: (self.source.byte() & 3 > 0).then(|| Arc::new(output)),
        })
    }

    fn leaf(&mut self) -> PartitionId {
        let leaves: Vec<_> = self.state.leaves().map(|leaf| leaf.id).collect();
        if leaves.is_empty() || self.source.byte() < 16 {
            return partition(&format!("p{}", self.source.below(6)));
        }
        leaves[self.source.below(leaves.len().min(256))].clone()
    }

    fn split(&mut self, number: usize) -> Split {
        let fresh = format!("n{}-{number}", self.commits);
        Split {
            partition: self.leaf(),
            at: self.split_point(),
            left: partition(&format!("{fresh}l")),
            right: match self.source.byte() {
                0 => self.leaf(),
                1 => partition(&format!("{fresh}l")),
                _ => partition(&format!("{fresh}r")),
            },
        }
    }

    fn job(&mut self) -> (JobId, RunId) {
        let (job, run) = (self.source.below(12), self.source.below(3));
        (
            JobId::new(format!("job-{job}")).unwrap_or_else(|error| panic!("{error}")),
            RunId::new(format!("run-{run}")).unwrap_or_else(|error| panic!("{error}")),
        )
    }

    fn time(&mut self) -> Timestamp {
        let ahead = match self.source.byte() % 16 {
            0 => self.source.number(),
            1 => 2 * DAY,
            2 => -40 * DAY,
            3 => -DAY,
            other => (i64::from(other) - 6) * MINUTE,
        };
        Timestamp::from_millis(self.now.saturating_add(ahead))
    }

    fn transaction(&mut self) -> TransactionNumber {
        let newest = self.state.transaction().0;
        TransactionNumber(match self.source.byte() {
            0 => u64::MAX,
            1 => newest + 1,
            2 => 0,
            byte => newest.saturating_sub(u64::from(byte % 8)),
        })
    }

    fn record(&mut self) -> Record {
        match self.source.below(23) {
            0 => self.created(),
            1 | 2 => Record::PartitionSplit(self.split(0)),
            3 => Record::PartitionTreeExtended {
                splits: (0..self.source.below(4))
                    .map(|number| self.split(number))
                    .collect(),
            },
            4..=8 => {
                let (job, run) = self.job();
                Record::FilesAdded {
                    job,
                    run,
                    issued: self.time(),
                    files: self.files(3),
                }
            }
            9 | 10 => {
                let partition = self.leaf();
                Record::CompactionAssigned {
                    job: self.job().0,
                    inputs: self.names_at(&partition),
                    partition,
                    until: self.time(),
                }
            }
            11 | 12 => {
                let (job, run) = self.job();
                if self.source.byte() >= 32
                    && let Some(compacted) = self.compacted(&run)
                {
                    return compacted;
                }
                Record::CompactionCommitted {
                    job,
                    run,
                    issued: self.time(),
                    partition: self.leaf(),
                    inputs: self.names(3),
                    output: self.files(1).pop(),
                }
            }
            13 | 14 => Record::GarbageMarked { files: self.names(4) },
            15 | 16 => Record::FilesDeleted { files: self.names(4) },
            17 => Record::PinTaken {
                pin: self.pin(),
                transaction: self.transaction(),
                until: self.time(),
            },
            18 => Record::PinReleased { pin: self.pin() },
            19 => Record::HistoryTruncated {
                floor: self.transaction(),
            },
            20 => Record::TableCleared,
            21 => Record::TableRestored {
                of: self.transaction(),
                files: self.restored(),
            },
            _ if self.source.byte() < 64 => Record::TableDeleted,
            _ => Record::PartitionSplit(self.split(0)),
        }
    }

    fn pin(&mut self) -> PinId {
        PinId::new(format!("pin-{}", self.source.below(4))).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn name(number: usize) -> FileName {
    FileName::new(&PartitionId::root(), Uuid::from_u128(number as u128))
}

fn partition(text: &str) -> PartitionId {
    PartitionId::new(text).unwrap_or_else(|error| panic!("{error}"))
}
