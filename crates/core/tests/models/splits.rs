//! Splits, ingests, compactions and plans at the same time.
//!
//! A run cuts its file at the leaves that it knew, and commits it to whatever leaves there are by then. A
//! compaction merges the rows of one leaf as they were when its inputs were leased. Leaves split meanwhile, and
//! split messages come twice. Every row is followed from its file, through leaves and references, to the reader.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use dormouse_core::{
    file::DataFile,
    ids::{ExportId, FileName, PartitionId, PinId},
    plan::export::ExportPlan,
    state::{Commit, CommitId, Outcome, Record, transaction::Split},
};
use stateright::{Model, Property};

use crate::world::*;

/// The rows of the jobs: from the first key to the last.
const JOBS: [(i32, i32); 2] = [(0, 6), (2, 4)];

/// Partition, first key of the right part, left part, right part.
const SPLITS: [(&str, i32, &str, &str); 3] =
    [("root", 3, "l", "r"), ("l", 1, "ll", "lr"), ("r", 5, "rl", "rr")];

const PARTITIONS: [&str; 7] = ["root", "l", "r", "ll", "lr", "rl", "rr"];

fn partition(text: &str) -> PartitionId {
    PartitionId::new(text).unwrap()
}

/// A row: its job and its key.
type Row = (u8, i32);

/// A file is known by its number, which is its tag too: a job's, or 10 and a compaction's.
const OUTPUTS: u8 = 10;

fn numbered(number: u8) -> FileName {
    name(format!("file-{number}"))
}

/// Where one file is cut, as a bit for each split.
fn cut(job: u8, known: u8) -> Vec<(i32, i32)> {
    let (first, last) = JOBS[usize::from(job)];
    let points = SPLITS.iter().enumerate().filter(|(i, _)| known & (1 << i) != 0);
    let mut points: Vec<i32> = points.map(|(_, split)| split.1).collect();
    points.sort_unstable();
    let mut parts = vec![];
    let mut from = first;
    for point in points {
        if from < point && point <= last {
            parts.push((from, point - 1));
            from = point;
        }
    }
    parts.push((from, last));
    parts
}

fn output(number: u8, (min, max, rows): (i32, i32, u8)) -> Arc<DataFile> {
    let mut output = DataFile::clone(&file(format!("file-{number}"), u64::from(number), &[(min, max)]));
    output.rows = rows.into();
    output.parts[0].rows = rows.into();
    Arc::new(output)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    Add {
        job: u8,
        known: u8,
    },
    Split {
        split: u8,
        delivery: u8,
    },
    Assign {
        compaction: u8,
        leaf: u8,
        inputs: u16,
    },
    Compact {
        compaction: u8,
        leaf: u8,
        inputs: u16,
        output: (i32, i32, u8),
    },
    /// A compaction's output, brought in as though it were new rows.
    AddOutput {
        compaction: u8,
        output: (i32, i32, u8),
    },
}

fn inputs_of(inputs: u16) -> Vec<FileName> {
    (0..16)
        .filter(|number| inputs & (1 << number) != 0)
        .map(numbered)
        .collect()
}

impl Request for Ask {
    fn commit(self) -> Commit {
        let record = match self {
            Self::Add { job: number, known } => Record::FilesAdded {
                job: job(format!("job-{number}")),
                run: run("run"),
                issued: START,
                files: vec![file(format!("file-{number}"), number.into(), &cut(number, known))],
            },
            Self::Split { split, .. } => {
                let (leaf, at, left, right) = SPLITS[usize::from(split)];
                Record::PartitionSplit(Split {
                    partition: partition(leaf),
                    at: key(at),
                    left: partition(left),
                    right: partition(right),
                })
            }
            Self::Assign {
                compaction,
                leaf,
                inputs,
            } => Record::CompactionAssigned {
                job: job(format!("compaction-{compaction}")),
                partition: partition(PARTITIONS[usize::from(leaf)]),
                inputs: inputs_of(inputs),
                until: at(DAY),
            },
            Self::Compact {
                compaction,
                leaf,
                inputs,
                output: bounds,
            } => Record::CompactionCommitted {
                job: job(format!("compaction-{compaction}")),
                run: run("run"),
                issued: START,
                partition: partition(PARTITIONS[usize::from(leaf)]),
                inputs: inputs_of(inputs),
                output: Some(output(OUTPUTS + compaction, bounds)),
            },
            Self::AddOutput {
                compaction,
                output: bounds,
            } => Record::FilesAdded {
                job: job(format!("output-{compaction}")),
                run: run("run"),
                issued: START,
                files: vec![output(OUTPUTS + compaction, bounds)],
            },
        };
        Commit::new(CommitId::new(format!("{self:?}")), record)
    }
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A plan takes its leaves from one state and their files from a later one.
    OneState,
    /// A reader takes all rows of a file that its leaf refers to.
    LeafBounds,
    /// A compaction that is refused brings its output in as new rows.
    Refusal,
}

struct SplitModel {
    world: World<Ask>,
    without: Without,
    compactions: u8,
    splits: u8,
    /// Whether the plan of a state gives each row once.
    planned: Mutex<HashMap<State, bool>>,
}

impl SplitModel {
    fn new(without: Without) -> Self {
        Self {
            world: World::new(),
            without,
            compactions: 1,
            splits: bound(2, 3),
            planned: Mutex::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Table {
    state: State,
    files: BTreeMap<u8, Vec<Row>>,
    runs: Vec<Run>,
    /// How often each split was committed.
    splits: Vec<u8>,
    compactions: Vec<Compaction>,
    reader: Reader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Run {
    Waiting,
    /// Knows these splits.
    Planned(u8),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Compaction {
    Waiting,
    Merged { leaf: u8, inputs: u16, rows: Vec<Row> },
    Done,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Waiting,
    HasLeaves(State),
    /// Whether every row was there once.
    Read(bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Plan(u8),
    Add(u8),
    Split(u8),
    Merge { compaction: u8, leaf: u8 },
    Compact(u8),
    ReadLeaves,
    ReadFiles,
}

fn key_of(row: &Row) -> dormouse_core::key::Key {
    key(row.1)
}

impl SplitModel {
    fn commit(&self, table: &mut Table, ask: Ask) -> Outcome {
        let step = self.world.propose(&table.state, 0, ask);
        table.state = step.next.clone();
        step.outcome.clone()
    }

    /// The rows that belong to a table in this state, once each.
    fn expected(state: &State) -> Vec<Row> {
        let jobs = (0..)
            .zip(JOBS)
            .filter(|(number, _)| state.committed(&job(format!("job-{number}"))).is_some());
        let mut rows: Vec<Row> = jobs
            .flat_map(|(number, (first, last))| (first..=last).map(move |key| (number, key)))
            .collect();
        rows.sort_unstable();
        rows
    }

    /// The rows at the leaves of one state by the references of another.
    fn read(&self, table: &Table, leaves: &State, references: &State) -> Vec<Row> {
        let mut rows = vec![];
        for leaf in leaves.leaves() {
            for reference in references.references(&leaf.id) {
                let all = &table.files[&(reference.file.bytes as u8)];
                let inside =
                    |row: &&Row| self.without == Without::LeafBounds || leaf.bounds.contains(&key_of(row));
                rows.extend(all.iter().filter(inside));
            }
        }
        rows.sort_unstable();
        rows
    }

    /// Whether the export that is planned from the newest state has every row once.
    fn is_planned_whole(&self, table: &Table) -> bool {
        if let Some(whole) = self.planned.lock().unwrap().get(&table.state) {
            return *whole;
        }
        let export = ExportId::new("export").unwrap();
        let pin = PinId::new("pin").unwrap();
        let plan = ExportPlan::new(
            (&crate::world::table(), "table"),
            &export,
            pin,
            &table.state,
            None,
        )
        .unwrap();
        let mut rows = vec![];
        for part in &plan.sub_exports {
            for planned in &part.files {
                let found = table
                    .files
                    .iter()
                    .find(|(number, _)| numbered(**number) == planned.name);
                let all = found.unwrap().1;
                // A copy takes the whole file.
                let inside = |row: &&Row| part.copy.is_some() || part.leaf.bounds.contains(&key_of(row));
                rows.extend(all.iter().filter(inside).copied());
            }
        }
        rows.sort_unstable();
        let whole = rows == Self::expected(&table.state);
        self.planned.lock().unwrap().insert(table.state.clone(), whole);
        whole
    }
}

impl Model for SplitModel {
    type State = Table;
    type Action = Action;

    fn init_states(&self) -> Vec<Table> {
        vec![Table {
            state: self.world.genesis().1,
            files: BTreeMap::new(),
            runs: vec![Run::Waiting; JOBS.len()],
            splits: vec![0; usize::from(self.splits)],
            compactions: vec![Compaction::Waiting; usize::from(self.compactions)],
            reader: Reader::Waiting,
        }]
    }

    fn actions(&self, table: &Table, actions: &mut Vec<Action>) {
        for (number, run) in (0..).zip(&table.runs) {
            match run {
                Run::Waiting => actions.push(Action::Plan(number)),
                Run::Planned(_) => actions.push(Action::Add(number)),
                Run::Done => {}
            }
        }
        for (number, times) in (0..).zip(&table.splits) {
            let there = number == 0 || table.splits[0] > 0;
            // The first split comes twice.
            if *times == 0 && there || *times == 1 && number == 0 {
                actions.push(Action::Split(number));
            }
        }
        let next = table
            .compactions
            .iter()
            .position(|compaction| *compaction == Compaction::Waiting);
        for (number, compaction) in (0..).zip(&table.compactions) {
            match compaction {
                Compaction::Waiting if next == Some(usize::from(number)) => {
                    let leaves = (0..).zip(PARTITIONS).filter(|(_, leaf)| {
                        let leaf = partition(leaf);
                        let mut references = table.state.references(&leaf).peekable();
                        references.peek().is_some()
                            && references
                                .all(|reference| table.state.lease(&leaf, &reference.file.name).is_none())
                    });
                    actions.extend(leaves.map(|(leaf, _)| Action::Merge {
                        compaction: number,
                        leaf,
                    }));
                }
                Compaction::Merged { .. } => actions.push(Action::Compact(number)),
                _ => {}
            }
        }
        match table.reader {
            Reader::Waiting => actions.push(Action::ReadLeaves),
            Reader::HasLeaves(_) => actions.push(Action::ReadFiles),
            Reader::Read(_) => {}
        }
    }

    fn next_state(&self, last: &Table, action: Action) -> Option<Table> {
        let mut table = last.clone();
        match action {
            Action::Plan(number) => {
                let known = (0..).zip(&table.splits).filter(|(_, times)| **times > 0);
                table.runs[usize::from(number)] = Run::Planned(known.map(|(split, _)| 1 << split).sum());
            }
            Action::Add(number) => {
                let Run::Planned(known) = table.runs[usize::from(number)] else {
                    return None;
                };
                let (first, last) = JOBS[usize::from(number)];
                table
                    .files
                    .insert(number, (first..=last).map(|key| (number, key)).collect());
                let outcome = self.commit(&mut table, Ask::Add { job: number, known });
                assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
                table.runs[usize::from(number)] = Run::Done;
            }
            Action::Split(split) => {
                let delivery = table.splits[usize::from(split)];
                let outcome = self.commit(&mut table, Ask::Split { split, delivery });
                assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
                table.splits[usize::from(split)] += 1;
            }
            Action::Merge { compaction, leaf } => {
                let id = partition(PARTITIONS[usize::from(leaf)]);
                let bounds = table.state.leaf(&id)?.bounds;
                let numbers: Vec<u8> = table.state.references(&id).map(|r| r.file.bytes as u8).collect();
                let inputs = numbers.iter().map(|number| 1 << number).sum();
                let rows = numbers.iter().flat_map(|number| &table.files[number]);
                let mut rows: Vec<Row> = rows
                    .filter(|row| bounds.contains(&key_of(row)))
                    .copied()
                    .collect();
                rows.sort_unstable();
                let outcome = self.commit(
                    &mut table,
                    Ask::Assign {
                        compaction,
                        leaf,
                        inputs,
                    },
                );
                if !matches!(outcome, Outcome::Applied(_)) || rows.is_empty() {
                    return None;
                }
                table.compactions[usize::from(compaction)] = Compaction::Merged { leaf, inputs, rows };
            }
            Action::Compact(compaction) => {
                let merged = table.compactions[usize::from(compaction)].clone();
                let Compaction::Merged { leaf, inputs, rows } = merged else {
                    return None;
                };
                let keys = || rows.iter().map(|row| row.1);
                let output = (keys().min()?, keys().max()?, rows.len() as u8);
                table.files.insert(OUTPUTS + compaction, rows.clone());
                let ask = Ask::Compact {
                    compaction,
                    leaf,
                    inputs,
                    output,
                };
                table.compactions[usize::from(compaction)] = match self.commit(&mut table, ask) {
                    Outcome::Refused(_) => {
                        if self.without == Without::Refusal {
                            self.commit(&mut table, Ask::AddOutput { compaction, output });
                        }
                        Compaction::Refused
                    }
                    _ => Compaction::Done,
                };
            }
            Action::ReadLeaves => table.reader = Reader::HasLeaves(table.state.clone()),
            Action::ReadFiles => {
                let Reader::HasLeaves(leaves) = &last.reader else {
                    return None;
                };
                let references = match self.without {
                    Without::OneState => &last.state,
                    _ => leaves,
                };
                let rows = self.read(&table, leaves, references);
                table.reader = Reader::Read(rows == Self::expected(references));
            }
        }
        Some(table)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("states are sound", |_, table| table.state.is_sound()),
            Property::<Self>::always("a reader gets every row once", |_, table| {
                table.reader != Reader::Read(false)
            }),
            Property::<Self>::always("an export is planned with every row once", |model, table| {
                model.is_planned_whole(table)
            }),
            Property::<Self>::sometimes("a leaf splits under a compaction", |_, table| {
                table.compactions.contains(&Compaction::Refused)
            }),
            Property::<Self>::sometimes("a leaf splits under a run", |_, table| {
                table.runs.contains(&Run::Planned(0)) && table.splits.iter().all(|times| *times > 0)
            }),
            Property::<Self>::sometimes("a compaction commits in a part of a file", |_, table| {
                table.compactions.contains(&Compaction::Done)
                    && table
                        .state
                        .files()
                        .any(|(file, _)| file.bytes < u64::from(OUTPUTS))
                    && table.splits[1] > 0
            }),
            Property::<Self>::sometimes("a file serves three leaves", |_, table| {
                table.state.files().any(|(_, references)| references == 3)
            }),
            Property::<Self>::sometimes("a reader is overtaken by a split", |_, table| {
                match &table.reader {
                    Reader::HasLeaves(state) => state.leaf_count() < table.state.leaf_count(),
                    _ => false,
                }
            }),
        ]
    }
}

#[test]
fn splits_lose_and_double_no_row() {
    explore("splits", SplitModel::new(Without::Nothing), 20_000);
}

#[test]
fn without_one_state_a_plan_misses_rows() {
    breaks(
        "splits without one state",
        SplitModel::new(Without::OneState),
        "a reader gets every row once",
    );
}

#[test]
fn without_the_bounds_of_leaves_rows_are_read_twice() {
    breaks(
        "splits without the bounds of leaves",
        SplitModel::new(Without::LeafBounds),
        "a reader gets every row once",
    );
}

#[test]
fn without_the_refusal_a_compaction_doubles_rows() {
    breaks(
        "splits without the refusal",
        SplitModel::new(Without::Refusal),
        "an export is planned with every row once",
    );
}
