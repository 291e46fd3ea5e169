//! Snapshot makers, truncation and what a reader can still load.
//!
//! Two makers do rounds of what the schedule does: write a snapshot of the newest state, read it back, list it;
//! then list all, thin them, cut the log behind one, and remove what is before it. Each step is a step of the
//! store, and a maker may stand still before any of them. A put may be torn, and one object may rot, at any time.

use std::collections::{BTreeMap, VecDeque, btree_map::Entry};

use dormouse_core::{
    ids::{PinId, TransactionNumber},
    state::{
        Commit, CommitId, Record,
        snapshot::{SnapshotEntry, bases, redundant},
    },
    time::Timestamp,
};
use object_store::path::Path;
use stateright::{Model, Property};

use crate::world::*;

/// Less than the time that kept snapshots are apart.
const TICK: i64 = 20 * MINUTE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    Add { job: u8 },
    Pin { transaction: u64 },
    Truncate { floor: u64 },
}

impl Request for Ask {
    fn commit(self) -> Commit {
        let record = match self {
            Self::Add { job: number } => Record::FilesAdded {
                job: job(format!("job-{number}")),
                run: run("run"),
                issued: START,
                files: vec![file(format!("{number}"), 1, &[(0, 9)])],
            },
            Self::Pin { transaction } => Record::PinTaken {
                pin: PinId::new("pin").unwrap(),
                transaction: TransactionNumber(transaction),
                until: at(DAY),
            },
            Self::Truncate { floor } => Record::HistoryTruncated {
                floor: TransactionNumber(floor),
            },
        };
        Commit::new(CommitId::new(format!("{self:?}")), record)
    }
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A snapshot is listed and trusted as it was put.
    Verification,
    /// The object of a snapshot is named by its number alone, and a maker removes it when it could not list it.
    OwnNames,
    /// The log is cut behind the newest snapshot.
    SecondSnapshot,
    /// Entries go before the record says so.
    RecordFirst,
    /// Thinning does not look whether the log was cut in the meantime.
    FloorCheck,
    /// The log is cut whether or not its snapshot is still listed after the record.
    BaseCheck,
    /// Thinning goes by a list that is older than the floor.
    FreshList,
}

struct SnapshotModel {
    world: World<Ask>,
    without: Without,
    /// How many entries and snapshots there are to begin with.
    entries: u64,
    /// How many commits come, how far the clock goes, and how many rounds each maker does.
    commits: u8,
    ticks: i64,
    rounds: u8,
    retention: i64,
    pins: bool,
    /// How many puts are torn, and how many objects rot.
    torn: u8,
    rotten: u8,
}

impl SnapshotModel {
    /// A young log, and objects that are damaged.
    fn damage(without: Without) -> Self {
        Self {
            world: World::new(),
            without,
            entries: 1,
            commits: bound(2, 3),
            ticks: 0,
            rounds: 2,
            retention: 0,
            pins: false,
            torn: 1,
            rotten: 1,
        }
    }

    /// A log with snapshots, that is read as of the past.
    fn history(without: Without) -> Self {
        Self {
            world: World::new(),
            without,
            entries: 4,
            commits: bound(0, 1),
            ticks: 1,
            rounds: 1,
            retention: 3 * TICK,
            pins: true,
            torn: 0,
            rotten: 0,
        }
    }
}

/// A snapshot's object: the number, then what makes the name its maker's own.
type Object = (u64, Option<(usize, u8)>);

#[derive(Clone, Debug, PartialEq, Hash)]
struct Table {
    clock: i64,
    entries: BTreeMap<u64, Stored>,
    grown: Vec<State>,
    /// Objects, and whether they are whole.
    objects: BTreeMap<Object, bool>,
    listed: BTreeMap<u64, Object>,
    makers: Vec<Maker>,
    commits: u8,
    pinned: bool,
    torn: u8,
    rotten: u8,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Maker {
    rounds: u8,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Put(u64),
    ReadBack(Object),
    Enlist(Object),
    ReadClock,
    List {
        keep_from: i64,
    },
    Decide {
        keep_from: i64,
        listed: Vec<(u64, Object)>,
    },
    Thin {
        deletes: VecDeque<Delete>,
        cut: Cut,
    },
    CheckBase(Cut),
    Record(Cut),
    CheckListed(Cut),
    DeleteEntries(Cut),
    DeleteSnapshots {
        deletes: VecDeque<Delete>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cut {
    base: (u64, Object),
    /// The end and the floor of the log that the decision was made on.
    end: u64,
    floor: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Delete {
    Item(u64),
    Object(Object),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Commit,
    Tick,
    Pin { transaction: u64 },
    Begin { maker: usize },
    Step { maker: usize },
    TornPut { maker: usize },
    Rot(Object),
}

fn deletes(listed: impl IntoIterator<Item = (u64, Object)>) -> VecDeque<Delete> {
    listed
        .into_iter()
        .flat_map(|(number, object)| [Delete::Item(number), Delete::Object(object)])
        .collect()
}

impl SnapshotModel {
    fn append(&self, table: &mut Table, ask: Ask) -> bool {
        let step = self.world.propose(table.head(), table.clock, ask);
        if let Some(entry) = &step.entry {
            table.entries.insert(step.next.number(), entry.clone());
            table.grown.push(step.next.clone());
        }
        !step.is_refused()
    }

    fn entry(&self, table: &Table, (number, object): (u64, Object)) -> SnapshotEntry {
        SnapshotEntry {
            transaction: TransactionNumber(number),
            at: table.state(number).at(),
            path: Path::from(format!("{object:?}")),
            bytes: 0,
            digest: String::new(),
        }
    }

    /// What loading the newest snapshot up to `last` and following the log to it gives.
    fn load(&self, table: &Table, last: u64) -> Option<State> {
        let listed = table.listed.range(..=last).rev();
        let mut state = listed
            .filter(|(_, object)| table.objects.get(object) == Some(&true))
            .map(|(number, _)| table.state(*number).clone())
            .next()
            .unwrap_or_else(State::empty);
        let tail = table.entries.range(state.number() + 1..);
        for (number, entry) in tail.take_while(|(number, _)| **number <= last) {
            if *number != state.number() + 1 {
                return None;
            }
            state = self.world.follow(&state, entry)?;
        }
        (state.number() == last).then_some(state)
    }

    fn step(&self, table: &mut Table, maker: usize, torn: bool) {
        let name = |number| match self.without {
            Without::OwnNames => (number, None),
            _ => (number, Some((maker, table.makers[maker].rounds))),
        };
        let phase = table.makers[maker].phase.clone();
        table.makers[maker].phase = match phase {
            Phase::Idle => Phase::Idle,
            Phase::Put(number) => {
                let object = name(number);
                table.objects.insert(object, !torn);
                Phase::ReadBack(object)
            }
            Phase::ReadBack(object) => match table.objects.get(&object) {
                _ if self.without == Without::Verification => Phase::Enlist(object),
                Some(true) => Phase::Enlist(object),
                _ => Phase::Idle,
            },
            Phase::Enlist(object) => {
                match table.listed.entry(object.0) {
                    Entry::Vacant(free) => {
                        free.insert(object);
                    }
                    Entry::Occupied(_) if self.without == Without::OwnNames => {
                        table.objects.remove(&object);
                    }
                    Entry::Occupied(_) => {}
                }
                Phase::ReadClock
            }
            Phase::ReadClock => Phase::List {
                keep_from: table.clock - self.retention,
            },
            Phase::List { keep_from } => Phase::Decide {
                keep_from,
                listed: table
                    .listed
                    .iter()
                    .rev()
                    .map(|(number, object)| (*number, *object))
                    .collect(),
            },
            Phase::Decide { keep_from, listed } => self.decide(table, at(keep_from), &listed),
            Phase::Thin { mut deletes, cut } => match deletes.pop_front() {
                Some(Delete::Item(_))
                    if table.head().floor().0 != cut.floor && self.without != Without::FloorCheck =>
                {
                    Phase::Idle
                }
                Some(delete) => {
                    table.delete(delete);
                    Phase::Thin { deletes, cut }
                }
                None => after_thinning(cut),
            },
            Phase::CheckBase(cut) => {
                let whole = table.objects.get(&cut.base.1) == Some(&true);
                match self.without {
                    Without::Verification => Phase::Record(cut),
                    Without::RecordFirst if whole => Phase::DeleteEntries(cut),
                    _ if whole => Phase::Record(cut),
                    _ => Phase::Idle,
                }
            }
            Phase::Record(cut) => {
                let floor = cut.base.0 + 1;
                match (self.append(table, Ask::Truncate { floor }), self.without) {
                    (false, _) => Phase::Idle,
                    (true, Without::RecordFirst) => self.removal(table, cut),
                    (true, _) => Phase::CheckListed(cut),
                }
            }
            Phase::CheckListed(cut) => {
                if table.listed.contains_key(&cut.base.0) || self.without == Without::BaseCheck {
                    Phase::DeleteEntries(cut)
                } else {
                    Phase::Idle
                }
            }
            Phase::DeleteEntries(cut) => {
                table.entries = table.entries.split_off(&(cut.base.0 + 1));
                match self.without {
                    Without::RecordFirst => Phase::Record(cut),
                    _ => self.removal(table, cut),
                }
            }
            Phase::DeleteSnapshots { mut deletes } => match deletes.pop_front() {
                Some(delete) => {
                    table.delete(delete);
                    Phase::DeleteSnapshots { deletes }
                }
                None => Phase::Idle,
            },
        };
        if let Phase::Thin { deletes, cut } = &table.makers[maker].phase
            && deletes.is_empty()
        {
            table.makers[maker].phase = after_thinning(*cut);
        }
        if table.makers[maker].phase
            == (Phase::DeleteSnapshots {
                deletes: VecDeque::new(),
            })
        {
            table.makers[maker].phase = Phase::Idle;
        }
    }

    fn decide(&self, table: &Table, keep_from: Timestamp, listed: &[(u64, Object)]) -> Phase {
        let state = table.head();
        let snapshots: Vec<_> = listed.iter().map(|listed| self.entry(table, *listed)).collect();
        let chosen = if self.without == Without::SecondSnapshot {
            snapshots.first()
        } else {
            let oldest_pin = state.oldest_pin(at(table.clock).max(state.at()));
            bases(&snapshots, keep_from, oldest_pin).next()
        };
        let Some(chosen) = chosen else { return Phase::Idle };
        if chosen.transaction.next() < state.floor() && self.without != Without::FreshList {
            return Phase::Idle;
        }
        let place = |entry: &SnapshotEntry| {
            let found = listed.iter().find(|(number, _)| *number == entry.transaction.0);
            *found.unwrap()
        };
        let thinned = redundant(&snapshots, chosen).map(place);
        Phase::Thin {
            deletes: deletes(thinned),
            cut: Cut {
                base: place(chosen),
                end: state.number(),
                floor: state.floor().0,
            },
        }
    }

    fn removal(&self, table: &Table, cut: Cut) -> Phase {
        let before = table.listed.range(..cut.base.0);
        Phase::DeleteSnapshots {
            deletes: deletes(before.map(|(number, object)| (*number, *object))),
        }
    }
}

fn after_thinning(cut: Cut) -> Phase {
    let floor = cut.base.0 + 1;
    if floor > cut.end {
        Phase::Idle
    } else if floor > cut.floor {
        Phase::CheckBase(cut)
    } else {
        Phase::CheckListed(cut)
    }
}

impl Table {
    fn head(&self) -> &State {
        self.grown.last().unwrap()
    }

    fn state(&self, number: u64) -> &State {
        &self.grown[number as usize - 1]
    }

    fn delete(&mut self, delete: Delete) {
        match delete {
            Delete::Item(number) => {
                self.listed.remove(&number);
            }
            Delete::Object(object) => {
                self.objects.remove(&object);
            }
        }
    }
}

impl Model for SnapshotModel {
    type State = Table;
    type Action = Action;

    fn init_states(&self) -> Vec<Table> {
        let (entry, state) = self.world.genesis();
        let maker = Maker {
            rounds: 0,
            phase: Phase::Idle,
        };
        let mut table = Table {
            clock: 0,
            entries: BTreeMap::from([(1, entry)]),
            grown: vec![state],
            objects: BTreeMap::new(),
            listed: BTreeMap::new(),
            makers: vec![maker; 2],
            commits: 0,
            pinned: false,
            torn: 0,
            rotten: 0,
        };
        for number in 1..self.entries {
            let object = (number, Some((9, 0)));
            table.objects.insert(object, true);
            table.listed.insert(number, object);
            table.clock += TICK;
            self.append(
                &mut table,
                Ask::Add {
                    job: 100 + number as u8,
                },
            );
        }
        vec![table]
    }

    fn actions(&self, table: &Table, actions: &mut Vec<Action>) {
        if table.commits < self.commits {
            actions.push(Action::Commit);
        }
        if table.clock < (self.entries as i64 - 1 + self.ticks) * TICK {
            actions.push(Action::Tick);
        }
        if self.pins && !table.pinned {
            let readable = table.head().oldest_readable().0..=table.head().number();
            actions.extend(readable.map(|transaction| Action::Pin { transaction }));
        }
        for (i, maker) in table.makers.iter().enumerate() {
            match &maker.phase {
                Phase::Idle if maker.rounds < self.rounds => actions.push(Action::Begin { maker: i }),
                Phase::Idle => {}
                phase => {
                    actions.push(Action::Step { maker: i });
                    if matches!(phase, Phase::Put(_)) && table.torn < self.torn {
                        actions.push(Action::TornPut { maker: i });
                    }
                }
            }
        }
        if table.rotten < self.rotten {
            let listed = table
                .listed
                .values()
                .filter(|object| table.objects.get(object) == Some(&true));
            actions.extend(listed.map(|object| Action::Rot(*object)));
        }
    }

    fn next_state(&self, last: &Table, action: Action) -> Option<Table> {
        let mut table = last.clone();
        match action {
            Action::Commit => {
                self.append(&mut table, Ask::Add { job: last.commits });
                table.commits += 1;
            }
            Action::Tick => table.clock += TICK,
            Action::Pin { transaction } => table.pinned = self.append(&mut table, Ask::Pin { transaction }),
            Action::Begin { maker } => {
                let newest = table.head().number();
                let listed = table.listed.keys().next_back() == Some(&newest);
                table.makers[maker].rounds += 1;
                table.makers[maker].phase = if listed {
                    Phase::ReadClock
                } else {
                    Phase::Put(newest)
                };
            }
            Action::Step { maker } => self.step(&mut table, maker, false),
            Action::TornPut { maker } => {
                table.torn += 1;
                self.step(&mut table, maker, true);
            }
            Action::Rot(object) => {
                table.rotten += 1;
                table.objects.insert(object, false);
            }
        }
        Some(table)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("states are sound", |_, table| table.head().is_sound()),
            Property::<Self>::always("a fresh reader loads the newest state", |model, table| {
                model.load(table, table.head().number()).as_ref() == Some(table.head())
            }),
            Property::<Self>::always("every state that is kept can be loaded", |model, table| {
                let oldest = table.head().oldest_readable().0;
                model.rotten > 0
                    || (oldest..=table.head().number())
                        .all(|number| model.load(table, number).as_ref() == Some(table.state(number)))
            }),
            Property::<Self>::always("a pinned state can be loaded", |model, table| {
                let pin = table.head().oldest_pin(at(table.clock));
                pin.is_none_or(|pin| model.load(table, pin.0).is_some())
            }),
            Property::<Self>::sometimes("the log is cut", |_, table| table.head().floor().0 > 1),
            Property::<Self>::sometimes("two makers hold one number", |model, table| {
                let number = |maker: &Maker| match maker.phase {
                    Phase::Enlist(object) => Some(object.0),
                    _ => None,
                };
                model.pins
                    || matches!(
                        (number(&table.makers[0]), number(&table.makers[1])), (Some(a), Some(b)) if a == b
                    )
            }),
            Property::<Self>::sometimes("a torn snapshot is caught", |model, table| {
                model.torn == 0
                    || table.makers.iter().any(|maker| match &maker.phase {
                        Phase::ReadBack(object) => table.objects.get(object) == Some(&false),
                        _ => false,
                    })
            }),
            Property::<Self>::sometimes("a reader passes over a rotten snapshot", |model, table| {
                let newest = table.listed.values().next_back();
                model.rotten == 0 || newest.is_some_and(|object| table.objects.get(object) == Some(&false))
            }),
            Property::<Self>::sometimes("a pin is refused its record's truncation", |model, table| {
                let pin = table.head().oldest_pin(at(table.clock));
                !model.pins
                    || table.makers.iter().any(|maker| match &maker.phase {
                        Phase::Record(cut) => pin.is_some_and(|pin| pin.0 < cut.base.0),
                        _ => false,
                    })
            }),
        ]
    }
}

#[test]
fn damaged_snapshots_are_survived() {
    explore(
        "snapshots, damage",
        SnapshotModel::damage(Without::Nothing),
        500_000,
    );
}

#[test]
fn history_stays_readable() {
    explore(
        "snapshots, history",
        SnapshotModel::history(Without::Nothing),
        1000,
    );
}

#[test]
fn without_verification_the_log_is_cut_behind_a_torn_snapshot() {
    breaks(
        "snapshots without verification",
        SnapshotModel::damage(Without::Verification),
        "a fresh reader loads the newest state",
    );
}

#[test]
fn without_names_of_its_own_a_loser_deletes_the_winners_snapshot() {
    breaks(
        "snapshots without names of their own",
        SnapshotModel::damage(Without::OwnNames),
        "a fresh reader loads the newest state",
    );
}

#[test]
fn without_a_second_snapshot_one_rotten_object_is_fatal() {
    breaks(
        "snapshots without a second one",
        SnapshotModel::damage(Without::SecondSnapshot),
        "a fresh reader loads the newest state",
    );
}

#[test]
fn without_the_record_first_a_pin_comes_too_late() {
    breaks(
        "snapshots without the record first",
        SnapshotModel::history(Without::RecordFirst),
        "a pinned state can be loaded",
    );
}

#[test]
fn without_the_floor_check_a_stale_maker_removes_the_base() {
    breaks(
        "snapshots without the floor check",
        SnapshotModel::history(Without::FloorCheck),
        "every state that is kept can be loaded",
    );
}

#[test]
fn without_the_base_check_the_log_is_cut_behind_a_snapshot_that_is_gone() {
    breaks(
        "snapshots without the base check",
        SnapshotModel::history(Without::BaseCheck),
        "every state that is kept can be loaded",
    );
}

#[test]
fn without_a_fresh_list_a_stale_maker_removes_the_base() {
    breaks(
        "snapshots without a fresh list",
        SnapshotModel::history(Without::FreshList),
        "every state that is kept can be loaded",
    );
}
