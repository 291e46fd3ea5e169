//! Garbage against pins, exports, slow readers and late commits.
//!
//! Runs write objects and commit them, at once or much later. A collector does what the schedule does, one step
//! of a store at a time: the objects are listed, the state is read, what may go is marked, deleted, and
//! forgotten. An export plans from a state, pins it, and reads its files one by one, as long as its pin lasts.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use dormouse_core::{
    error::ErrorKind,
    file::DataFile,
    ids::{FileName, PinId, TransactionNumber},
    plan::garbage::{GarbagePolicy, deletable, markable},
    state::{
        Commit, CommitId, Outcome, Record,
        table_state::{CLOCK_SKEW_MARGIN, LEDGER_RETENTION},
    },
};
use stateright::{Model, Property};

use crate::world::*;

/// How far the clock goes at a time, and how old objects, garbage and past states are before they go.
const TICK: i64 = 60 * MINUTE;
const AGE: Duration = Duration::from_millis(TICK as u64);

/// Beyond what the ledger remembers.
const LEAP: i64 = LEDGER_RETENTION.as_millis() as i64 + DAY;

const POLICY: GarbagePolicy = GarbagePolicy {
    delay: AGE,
    history: AGE,
};

/// A file: the job, and the run that wrote it.
type File = (u8, u8);

/// Objects, and when they were written.
type Objects = Vec<(File, i64)>;

const FILES: [File; 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

fn file_name((job, run): File) -> FileName {
    thread_local! {
        static NAMES: [FileName; 4] = FILES.map(|file| name(format!("{file:?}")));
    }
    NAMES.with(|names| names[usize::from(job * 2 + run)].clone())
}

/// The size of a file, which tells it from others.
fn tag((job, run): File) -> u64 {
    u64::from(job * 2 + run)
}

fn tagged(file: &DataFile) -> File {
    FILES[file.bytes as usize]
}

fn file_of(wanted: &FileName) -> File {
    FILES
        .into_iter()
        .find(|file| file_name(*file) == *wanted)
        .unwrap()
}

/// A set of files, so that a request can be copied and hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Files([bool; 4]);

impl Files {
    fn of(files: impl IntoIterator<Item = File>) -> Self {
        let mut set = [false; 4];
        for (job, run) in files {
            set[usize::from(job * 2 + run)] = true;
        }
        Self(set)
    }

    fn files(self) -> impl Iterator<Item = File> {
        FILES
            .into_iter()
            .zip(self.0)
            .filter(|(_, there)| *there)
            .map(|(file, _)| file)
    }

    fn names(self) -> Vec<FileName> {
        self.files().map(file_name).collect()
    }

    fn is_empty(self) -> bool {
        self == Self::of([])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    Add {
        file: File,
        issued: i64,
    },
    Clear,
    Mark {
        files: Files,
        round: u8,
    },
    Forget {
        files: Files,
        round: u8,
    },
    Pin {
        export: u8,
        transaction: u64,
        until: i64,
    },
    Release {
        export: u8,
    },
}

fn pin(export: u8) -> PinId {
    PinId::new(format!("pin-{export}")).unwrap()
}

impl Request for Ask {
    fn commit(self) -> Commit {
        let record = match self {
            Self::Add {
                file: (number, attempt),
                issued,
            } => Record::FilesAdded {
                job: job(format!("job-{number}")),
                run: run(format!("run-{attempt}")),
                issued: at(issued),
                files: vec![file(
                    format!("{:?}", (number, attempt)),
                    tag((number, attempt)),
                    &[(0, 9)],
                )],
            },
            Self::Clear => Record::TableCleared,
            Self::Mark { files, .. } => Record::GarbageMarked { files: files.names() },
            Self::Forget { files, .. } => Record::FilesDeleted { files: files.names() },
            Self::Pin {
                export,
                transaction,
                until,
            } => Record::PinTaken {
                pin: pin(export),
                transaction: TransactionNumber(transaction),
                until: at(until),
            },
            Self::Release { export } => Record::PinReleased { pin: pin(export) },
        };
        Commit::new(CommitId::new(format!("{self:?}")), record)
    }
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// An export reads without a pin.
    Pins,
    /// An export pins the newest state instead of the one that it planned from.
    PinOfThePlan,
    /// Objects are deleted first and marked then.
    MarkFirst,
    /// Orphans are deleted without a mark.
    OrphanMark,
    /// The state is read first and the objects are listed then.
    ListFirst,
    /// A message that comes again counts as sent anew.
    FirstIssue,
    /// Nobody looks for orphans.
    Sweep,
}

struct GarbageModel {
    world: World<Ask>,
    without: Without,
    jobs: u8,
    runs: u8,
    ticks: u8,
    leaps: u8,
    rounds: u8,
    exports: u8,
    /// What is known of the end of states with these objects.
    quiet: Mutex<HashMap<(State, Objects), bool>>,
}

impl GarbageModel {
    fn new(without: Without) -> Self {
        Self {
            world: World::new(),
            without,
            jobs: 1,
            runs: 2,
            ticks: 2,
            leaps: 0,
            rounds: bound(1, 2),
            exports: 1,
            quiet: Mutex::default(),
        }
    }

    /// The clock also leaps beyond what the ledger remembers.
    fn leaping(without: Without) -> Self {
        Self {
            leaps: 1,
            exports: 0,
            rounds: 2,
            ..Self::new(without)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Table {
    clock: i64,
    ticks: u8,
    leaps: u8,
    state: State,
    /// Objects, and when they were written.
    objects: Objects,
    runs: Vec<Run>,
    cleared: bool,
    collector: Collector,
    exports: Vec<Export>,
    /// Whether a reader with a live pin met an object that was gone.
    misread: bool,
    /// Whether a file of a past state was marked early that the table knew when the objects were listed.
    early: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Run {
    Waiting,
    Wrote,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Collector {
    rounds: u8,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Objects that were old when they were listed.
    Listed {
        now: i64,
        old: Files,
        known: Files,
    },
    /// The state that was read before the objects are listed.
    Read {
        now: i64,
        state: State,
    },
    Mark {
        files: Files,
        known: Files,
    },
    Delete {
        marked: Files,
        left: Files,
        mark_then: bool,
    },
    Forget {
        files: Files,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Export {
    Waiting,
    Planned { transaction: u64, files: Files },
    Reading { until: i64, left: Files },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Tick,
    Leap,
    Write(usize),
    Commit(usize),
    Clear,
    Collect,
    CollectorDies,
    Plan(usize),
    Pin(usize),
    Read { export: usize, file: File },
    Release(usize),
}

impl GarbageModel {
    fn file(&self, run: usize) -> File {
        (run as u8 / self.runs, run as u8 % self.runs)
    }

    fn commit(&self, table: &mut Table, ask: Ask) -> Outcome {
        let step = self.world.propose(&table.state, table.clock, ask);
        table.state = step.next.clone();
        step.outcome.clone()
    }

    fn old(&self, table: &Table, now: i64) -> Files {
        let is_old = |written: i64| at(now).since(at(written)) >= AGE;
        Files::of(
            table
                .objects
                .iter()
                .filter(|(_, written)| is_old(*written))
                .map(|(file, _)| *file),
        )
    }

    fn known(table: &Table) -> Files {
        Files::of(
            FILES
                .into_iter()
                .filter(|file| table.state.knows(&file_name(*file))),
        )
    }

    fn unknown(state: &State, files: Files) -> Files {
        Files::of(files.files().filter(|file| !state.knows(&file_name(*file))))
    }

    /// What a collection marks, from the state that it read and the old objects that it listed.
    fn decide(&self, state: &State, old: Files, known: Files, now: i64) -> Phase {
        let orphans = match self.without {
            Without::Sweep => Files::of([]),
            _ => Self::unknown(state, old),
        };
        let garbage = markable(state, POLICY, at(now));
        let garbage = Files::of(garbage.iter().map(file_of));
        let both = Files::of(garbage.files().chain(orphans.files()));
        match self.without {
            Without::MarkFirst => Phase::Delete {
                marked: both,
                left: both,
                mark_then: true,
            },
            Without::OrphanMark if !orphans.is_empty() => Phase::Delete {
                marked: Files::of([]),
                left: orphans,
                mark_then: false,
            },
            _ => Phase::Mark { files: both, known },
        }
    }

    fn mark(&self, table: &mut Table, files: Files, known: Files) -> Phase {
        let round = table.collector.rounds;
        if !files.is_empty() {
            let before = table.state.clone();
            self.commit(table, Ask::Mark { files, round });
            let names = known.names();
            let unmarked: Vec<_> = before.garbage().filter(|(_, garbage)| !garbage.marked).collect();
            table.early |= table.state.garbage().any(|(name, garbage)| {
                garbage.marked
                    && garbage.added.is_some()
                    && table.state.at().since(garbage.removed_at) < POLICY.history
                    && unmarked.iter().any(|(other, _)| *other == name)
                    && names.contains(name)
            });
        }
        let deleting = Files::of(deletable(&table.state).iter().map(file_of));
        if deleting.is_empty() {
            return Phase::Idle;
        }
        Phase::Delete {
            marked: deleting,
            left: deleting,
            mark_then: false,
        }
    }

    fn collect(&self, table: &mut Table) {
        table.collector.phase = match table.collector.phase.clone() {
            Phase::Idle => {
                table.collector.rounds += 1;
                let now = table.clock;
                match self.without {
                    Without::ListFirst => Phase::Read {
                        now,
                        state: table.state.clone(),
                    },
                    _ => Phase::Listed {
                        now,
                        old: self.old(table, now),
                        known: Self::known(table),
                    },
                }
            }
            Phase::Listed { now, old, known } => self.decide(&table.state, old, known, now),
            Phase::Read { now, state } => self.decide(&state, self.old(table, now), Self::known(table), now),
            Phase::Mark { files, known } => self.mark(table, files, known),
            Phase::Delete {
                marked,
                left,
                mark_then,
            } => {
                let gone = left.files().next();
                table.objects.retain(|(file, _)| Some(*file) != gone);
                let left = Files::of(left.files().skip(1));
                if !left.is_empty() {
                    Phase::Delete {
                        marked,
                        left,
                        mark_then,
                    }
                } else if mark_then {
                    Phase::Mark {
                        files: marked,
                        known: Files::of([]),
                    }
                } else if marked.is_empty() {
                    Phase::Idle
                } else {
                    Phase::Forget { files: marked }
                }
            }
            Phase::Forget { files } => {
                let round = table.collector.rounds;
                self.commit(table, Ask::Forget { files, round });
                Phase::Idle
            }
        };
    }

    /// Whether only what is referenced is left once everybody has stopped and collections go on.
    fn is_clean_after_quiet(&self, table: &Table) -> bool {
        let key = (table.state.clone(), table.objects.clone());
        if let Some(clean) = self.quiet.lock().unwrap().get(&key) {
            return *clean;
        }
        let mut table = table.clone();
        table.collector = Collector {
            rounds: 100,
            phase: Phase::Idle,
        };
        table.clock = i64::from(self.leaps) * LEAP + 3 * DAY;
        for _ in 0..2 {
            self.collect(&mut table);
            while table.collector.phase != Phase::Idle {
                self.collect(&mut table);
            }
            table.clock += DAY;
        }
        let clean = table.objects.len() == table.state.file_count() && table.state.garbage().next().is_none();
        self.quiet.lock().unwrap().insert(key, clean);
        clean
    }
}

impl Model for GarbageModel {
    type State = Table;
    type Action = Action;

    fn init_states(&self) -> Vec<Table> {
        let (_, state) = self.world.genesis();
        vec![Table {
            clock: 0,
            ticks: 0,
            leaps: 0,
            state,
            objects: vec![],
            runs: vec![Run::Waiting; usize::from(self.jobs * self.runs)],
            cleared: false,
            collector: Collector {
                rounds: 0,
                phase: Phase::Idle,
            },
            exports: vec![Export::Waiting; usize::from(self.exports)],
            misread: false,
            early: false,
        }]
    }

    fn actions(&self, table: &Table, actions: &mut Vec<Action>) {
        if table.ticks < self.ticks {
            actions.push(Action::Tick);
        }
        if table.leaps < self.leaps {
            actions.push(Action::Leap);
        }
        for (i, run) in table.runs.iter().enumerate() {
            match run {
                // Runs differ by name alone, so the first one writes first.
                Run::Waiting if i % usize::from(self.runs) == 0 || table.runs[i - 1] != Run::Waiting => {
                    actions.push(Action::Write(i));
                }
                Run::Waiting => {}
                Run::Wrote => actions.push(Action::Commit(i)),
                Run::Done => {}
            }
        }
        if !table.cleared && table.state.file_count() > 0 {
            actions.push(Action::Clear);
        }
        if table.collector.phase != Phase::Idle {
            actions.push(Action::Collect);
            if table.collector.rounds < self.rounds {
                actions.push(Action::CollectorDies);
            }
        } else if table.collector.rounds < self.rounds {
            actions.push(Action::Collect);
        }
        for (i, export) in table.exports.iter().enumerate() {
            match export {
                Export::Waiting if table.state.file_count() > 0 => actions.push(Action::Plan(i)),
                Export::Planned { .. } => actions.push(Action::Pin(i)),
                Export::Reading { left, .. } => {
                    actions.extend(left.files().map(|file| Action::Read { export: i, file }));
                    if left.is_empty() {
                        actions.push(Action::Release(i));
                    }
                }
                Export::Waiting | Export::Ended => {}
            }
        }
    }

    fn next_state(&self, last: &Table, action: Action) -> Option<Table> {
        let mut table = last.clone();
        match action {
            Action::Tick => {
                table.clock += TICK;
                table.ticks += 1;
            }
            Action::Leap => {
                table.clock += LEAP;
                table.leaps += 1;
            }
            Action::Write(run) => {
                table.objects.push((self.file(run), table.clock));
                table.objects.sort_unstable();
                table.runs[run] = Run::Wrote;
            }
            Action::Commit(run) => {
                // Both runs of a job are deliveries of one message.
                let issued = match self.without {
                    Without::FirstIssue => table.clock + 1,
                    _ => 1,
                };
                let file = self.file(run);
                self.commit(&mut table, Ask::Add { file, issued });
                table.runs[run] = Run::Done;
            }
            Action::Clear => {
                self.commit(&mut table, Ask::Clear);
                table.cleared = true;
            }
            Action::Collect => self.collect(&mut table),
            Action::CollectorDies => table.collector.phase = Phase::Idle,
            Action::Plan(i) => {
                table.exports[i] = Export::Planned {
                    transaction: table.state.number(),
                    files: Files::of(table.state.files().map(|(file, _)| tagged(file))),
                };
            }
            Action::Pin(i) => {
                let Export::Planned { transaction, files } = table.exports[i] else {
                    return None;
                };
                let until = table.clock + TICK;
                let transaction = match self.without {
                    Without::PinOfThePlan => table.state.number(),
                    _ => transaction,
                };
                let ask = Ask::Pin {
                    export: i as u8,
                    transaction,
                    until,
                };
                let outcome = match self.without {
                    Without::Pins => Outcome::Applied(TransactionNumber(transaction)),
                    _ => self.commit(&mut table, ask),
                };
                table.exports[i] = match outcome {
                    Outcome::Refused(refusal) => {
                        assert_eq!(refusal.kind, ErrorKind::Conflict);
                        Export::Ended
                    }
                    _ => Export::Reading { until, left: files },
                };
            }
            Action::Read { export, file } => {
                let Export::Reading { until, left } = table.exports[export] else {
                    return None;
                };
                let there = table.objects.iter().any(|(object, _)| *object == file);
                table.exports[export] = if there {
                    Export::Reading {
                        until,
                        left: Files::of(left.files().filter(|other| *other != file)),
                    }
                } else {
                    let lasts = at(table.clock) < at(until).plus(CLOCK_SKEW_MARGIN);
                    table.misread |= lasts;
                    Export::Ended
                };
            }
            Action::Release(i) => {
                self.commit(&mut table, Ask::Release { export: i as u8 });
                table.exports[i] = Export::Ended;
            }
        }
        Some(table)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("states are sound", |_, table| table.state.is_sound()),
            Property::<Self>::always("every referenced object is there", |_, table| {
                table.state.files().all(|(file, _)| {
                    let file = tagged(file);
                    table.objects.iter().any(|(object, _)| *object == file)
                })
            }),
            Property::<Self>::always("a reader with a live pin finds every object", |_, table| {
                !table.misread
            }),
            Property::<Self>::always(
                "what was known when objects were listed is not marked early",
                |_, table| !table.early,
            ),
            Property::<Self>::always("in the end only what is referenced is there", |model, table| {
                model.is_clean_after_quiet(table)
            }),
            Property::<Self>::sometimes("a late commit is refused a swept file", |_, table| {
                table.runs.iter().zip(FILES).any(|(run, file)| {
                    *run == Run::Wrote && !table.objects.iter().any(|(object, _)| *object == file)
                })
            }),
            Property::<Self>::sometimes("a pin runs out under a reader", |model, table| {
                model.exports == 0
                    || table.exports.iter().any(|export| match export {
                        Export::Reading { until, left } => {
                            !left.is_empty() && at(table.clock) >= at(*until).plus(CLOCK_SKEW_MARGIN)
                        }
                        _ => false,
                    })
            }),
            Property::<Self>::sometimes("garbage is kept for a pin alone", |model, table| {
                model.exports == 0
                    || table.state.pins().next().is_some()
                        && !markable(&table.state, POLICY, at(table.clock)).is_empty()
            }),
            Property::<Self>::sometimes("a file is forgotten", |_, table| {
                let written = table.runs.iter().filter(|run| **run != Run::Waiting).count();
                table.collector.phase == Phase::Idle
                    && table.objects.len() < written
                    && table.state.garbage().next().is_none()
            }),
        ]
    }
}

#[test]
fn nothing_that_is_needed_is_deleted() {
    explore("garbage", GarbageModel::new(Without::Nothing), 100_000);
}

#[test]
fn names_are_safe_beyond_the_memory_of_the_ledger() {
    explore(
        "garbage, leaping",
        GarbageModel::leaping(Without::Nothing),
        100_000,
    );
}

fn twin(label: &str, without: Without, property: &'static str) {
    breaks(label, GarbageModel::new(without), property);
}

const FOUND: &str = "a reader with a live pin finds every object";
const THERE: &str = "every referenced object is there";

#[test]
fn without_pins_an_export_loses_its_files() {
    twin("garbage without pins", Without::Pins, FOUND);
}

#[test]
fn without_a_pin_of_the_planned_state_an_export_loses_its_files() {
    twin(
        "garbage without a pin of the planned state",
        Without::PinOfThePlan,
        FOUND,
    );
}

#[test]
fn without_the_mark_first_a_pin_comes_too_late() {
    twin("garbage without the mark first", Without::MarkFirst, FOUND);
}

#[test]
fn without_a_mark_on_orphans_a_late_commit_refers_to_nothing() {
    twin("garbage without a mark on orphans", Without::OrphanMark, THERE);
}

#[test]
fn without_listing_first_history_goes_too_early() {
    twin(
        "garbage without listing first",
        Without::ListFirst,
        "what was known when objects were listed is not marked early",
    );
}

#[test]
fn without_a_sweep_orphans_stay() {
    twin(
        "garbage without a sweep",
        Without::Sweep,
        "in the end only what is referenced is there",
    );
}

#[test]
fn without_the_first_issue_a_forgotten_name_comes_back() {
    breaks(
        "garbage without the first issue time",
        GarbageModel::leaping(Without::FirstIssue),
        THERE,
    );
}
