//! Real table states in models, and the run of a checker.
//!
//! A model's state holds the table's state as [`TableState`], changed by [`Proposal`] and
//! [`TableState::follow`] and nothing else. A state is the fold of its log, and the log's hash chain names it, so
//! states are compared and hashed by the hash of their last entry. What a request does to a state is worked out
//! once and remembered: a checker meets the same pair in a great many of its own states.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    fmt::Debug,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::{Arc, Mutex},
    time::Instant,
};

use dormouse_core::{
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, PartitionId, RunId, TableId},
    key::{Key, KeyRange, KeyValue},
    partition::tree_from_split_points,
    schema::{Column, DataType, Schema},
    state::{
        Commit, CommitId, Outcome, Record, TableState, invariants, log::Entry, proposal::Proposal,
        table_state::EntryHash,
    },
    time::Timestamp,
};
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use uuid::Uuid;

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const DAY: i64 = 24 * 60 * MINUTE;

/// When the models' tables begin.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

pub(crate) fn table() -> TableId {
    TableId::new("0a1b2c3d").unwrap()
}

pub(crate) fn job(text: impl AsRef<str>) -> JobId {
    JobId::new(text).unwrap()
}

pub(crate) fn run(text: impl AsRef<str>) -> RunId {
    RunId::new(text).unwrap()
}

pub(crate) fn key(value: i32) -> Key {
    Key::new([KeyValue::Int32(value)])
}

pub(crate) fn name(text: impl AsRef<str>) -> FileName {
    FileName::new(
        &PartitionId::root(),
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_ref().as_bytes()),
    )
}

/// A file with parts of one row a key: the keys from the first to the second of each pair. `tag` is its size, by
/// which properties tell files apart at little cost.
pub(crate) fn file(text: impl AsRef<str>, tag: u64, parts: &[(i32, i32)]) -> Arc<DataFile> {
    let rows = |part: &(i32, i32)| u64::try_from(part.1 - part.0 + 1).unwrap();
    Arc::new(DataFile {
        name: name(text),
        rows: parts.iter().map(rows).sum(),
        bytes: tag,
        checksum: Checksum(7),
        parts: parts
            .iter()
            .map(|part| FilePart {
                range: KeyRange {
                    min: key(part.0),
                    max: key(part.1),
                },
                rows: rows(part),
                digest: RowDigest(1),
            })
            .collect(),
    })
}

/// The request that makes the table, with one leaf.
pub(crate) fn created() -> Commit {
    let id = Column::required("id", DataType::Int32);
    let text = Column::nullable("text", DataType::Utf8);
    let record = Record::TableCreated {
        schema: Schema::new(vec![id], vec![], vec![text]).unwrap().into(),
        partitions: tree_from_split_points(&[], PartitionId::root).unwrap(),
    };
    Commit::new(CommitId::new("create"), record)
}

/// A table state, known by the log that it is the fold of.
#[derive(Clone)]
pub(crate) struct State(Arc<Known>);

struct Known {
    id: [u8; 32],
    state: TableState,
    wrong: Vec<String>,
}

impl State {
    fn new(id: [u8; 32], state: TableState) -> Self {
        let wrong = invariants::check(&state)
            .iter()
            .map(ToString::to_string)
            .collect();
        Self(Arc::new(Known { id, state, wrong }))
    }

    pub(crate) fn empty() -> Self {
        Self::new(EntryHash::default().0, TableState::default())
    }

    /// Whether [`invariants::check`] finds nothing.
    pub(crate) fn is_sound(&self) -> bool {
        self.0.wrong.is_empty()
    }

    /// How many files of the table have this tag.
    pub(crate) fn tagged(&self, tag: u64) -> usize {
        self.files().filter(|(file, _)| file.bytes == tag).count()
    }

    pub(crate) fn number(&self) -> u64 {
        self.transaction().0
    }
}

impl Deref for State {
    type Target = TableState;
    fn deref(&self) -> &TableState {
        &self.0.state
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for State {}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.id[..16]);
    }
}

impl Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.number(), hex::encode(&self.0.id[..2]))?;
        if self.0.wrong.is_empty() {
            return Ok(());
        }
        write!(f, " {:?}", self.0.wrong)
    }
}

/// A log entry as stored, known by its hash.
#[derive(Clone)]
pub(crate) struct Stored(Arc<(Entry, EntryHash)>);

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.0.1 == other.0.1
    }
}

impl Eq for Stored {}

impl Hash for Stored {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.1.0[..16]);
    }
}

impl Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.0.0.commits.iter().map(|commit| &commit.id).collect();
        write!(f, "{ids:?}")
    }
}

/// A request of a model, which names one commit for ever.
pub(crate) trait Request: Copy + Eq + Hash + Debug + Send + Sync + 'static {
    fn commit(self) -> Commit;
}

/// What a request does to a state.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) outcome: Outcome,
    /// The entry that would be appended; none when nothing changes.
    pub(crate) entry: Option<Stored>,
    /// The state after it.
    pub(crate) next: State,
}

impl Step {
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused(_))
    }
}

/// A state, the time and a request.
type Asked<R> = ([u8; 32], i64, R);

/// A state and an entry.
type Followed = ([u8; 32], [u8; 32]);

/// What is known of states, requests and entries.
pub(crate) struct World<R> {
    steps: Mutex<HashMap<Asked<R>, Arc<Step>>>,
    followed: Mutex<HashMap<Followed, Option<State>>>,
}

impl<R: Request> World<R> {
    pub(crate) fn new() -> Self {
        Self {
            steps: Mutex::default(),
            followed: Mutex::default(),
        }
    }

    /// The entry that makes the table, and the state after it.
    pub(crate) fn genesis(&self) -> (Stored, State) {
        let (entry, next) = append(&State::empty(), START, &created()).1.unwrap();
        (entry, next)
    }

    /// What `request` does to `state` when it is sent `now` milliseconds after the start.
    pub(crate) fn propose(&self, state: &State, now: i64, request: R) -> Arc<Step> {
        let key = (state.0.id, now, request);
        if let Some(step) = self.steps.lock().unwrap().get(&key) {
            return step.clone();
        }
        let (outcome, appended) = append(state, at(now), &request.commit());
        let (entry, next) = match appended {
            Some((entry, next)) => (Some(entry), next),
            None => (None, state.clone()),
        };
        let step = Arc::new(Step { outcome, entry, next });
        self.steps.lock().unwrap().insert(key, step.clone());
        step
    }

    /// The state after `entry`, as a reader of the log sees it; none when the entry does not follow.
    pub(crate) fn follow(&self, state: &State, entry: &Stored) -> Option<State> {
        let key = (state.0.id, entry.0.1.0);
        if let Some(known) = self.followed.lock().unwrap().get(&key) {
            return known.clone();
        }
        let mut next = TableState::clone(state);
        let next = next
            .follow(&table(), &entry.0.0, entry.0.1)
            .is_ok()
            .then(|| State::new(entry.0.1.0, next));
        self.followed.lock().unwrap().insert(key, next.clone());
        next
    }

    /// The state after `entry` as a reader would have it that looks at neither numbers nor hashes.
    pub(crate) fn follow_blindly(&self, state: &State, entry: &Stored) -> State {
        if let Some(next) = self.follow(state, entry) {
            return next;
        }
        let mut next = TableState::clone(state);
        let (entry, hash) = &*entry.0;
        next.apply(entry.number, entry.at, &entry.commits);
        let mut id = state.0.id;
        for (byte, other) in id.iter_mut().zip(hash.0) {
            *byte = byte.wrapping_mul(31).wrapping_add(other);
        }
        State::new(id, next)
    }
}

fn append(state: &State, now: Timestamp, commit: &Commit) -> (Outcome, Option<(Stored, State)>) {
    let mut proposal = Proposal::new(state, &table(), now, &[commit]).unwrap();
    let outcome = proposal.outcomes.pop().unwrap();
    let appended = proposal.append.map(|append| {
        let (entry, hash) = Entry::decode(&append.body).unwrap();
        let mut followed = TableState::clone(state);
        followed.follow(&table(), &entry, hash).unwrap();
        assert_eq!(followed, append.next, "the log does not say what {commit:?} did");
        let next = State::new(hash.0, append.next);
        (Stored(Arc::new((entry, hash))), next)
    });
    (outcome, appended)
}

/// Whether models run in the bounds of a full run.
pub(crate) fn large() -> bool {
    std::env::var_os("DORMOUSE_MODEL_BOUNDS").is_some_and(|bounds| bounds == "large")
}

/// One of two bounds: of every run, and of a full run.
pub(crate) fn bound<T>(usual: T, full: T) -> T {
    if large() { full } else { usual }
}

fn threads() -> usize {
    std::env::var("DORMOUSE_MODEL_THREADS")
        .ok()
        .and_then(|threads| threads.parse().ok())
        .unwrap_or(1)
}

/// Explores every state of `model`: what must always hold does, and what must happen sometimes does.
pub(crate) fn explore<M>(label: &str, model: M, at_least: usize)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = now();
    // No set of discoveries ends the run, so the whole space is seen.
    let nothing = HasDiscoveries::AllOf(BTreeSet::from(["-"]));
    let checker = model
        .checker()
        .threads(threads())
        .finish_when(nothing)
        .spawn_bfs()
        .join();
    println!(
        "model {label}: states={} unique={} depth={} seconds={:.1}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    for property in checker.model().properties() {
        if property.expectation == Expectation::Sometimes {
            continue;
        }
        if let Some(path) = checker.discovery(property.name) {
            let last = path.last_state().clone();
            let actions = path.into_actions();
            panic!(
                "{label}: \"{}\" does not hold after {} actions:\n{}\nin {last:#?}",
                property.name,
                actions.len(),
                listed(&actions)
            );
        }
    }
    assert!(checker.is_done(), "{label} was not explored to its end");
    checker.assert_properties();
    assert!(
        checker.unique_state_count() >= at_least,
        "{label} has {} states, which is fewer than {at_least}",
        checker.unique_state_count()
    );
}

/// Checks that `model`, which lacks a mechanism, breaks `property`.
pub(crate) fn breaks<M>(label: &str, model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = now();
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AllOf(BTreeSet::from([property])))
        .spawn_bfs()
        .join();
    let Some(path) = checker.discovery(property) else {
        panic!(
            "{label}: \"{property}\" holds in all {} states without the mechanism",
            checker.unique_state_count()
        );
    };
    let actions = path.into_actions();
    println!(
        "twin {label}: \"{property}\" broken after {} actions, states={} unique={} seconds={:.1}",
        actions.len(),
        checker.state_count(),
        checker.unique_state_count(),
        started.elapsed().as_secs_f64()
    );
    if std::env::var_os("DORMOUSE_MODEL_TRACES").is_some() {
        println!("{}", listed(&actions));
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a run takes is a figure of it")]
fn now() -> Instant {
    Instant::now()
}

fn listed<A: Debug>(actions: &[A]) -> String {
    let lines: Vec<_> = actions
        .iter()
        .enumerate()
        .map(|(i, action)| format!("{:4}. {action:?}", i + 1))
        .collect();
    lines.join("\n")
}
