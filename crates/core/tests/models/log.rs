//! The log: append, truncation, lost replies and redelivery.
//!
//! Jobs are messages that are delivered more than once. A writer follows the log, proposes, and appends: one
//! transaction of the item store puts the entry and moves the head. Its reply may be lost, or the request before
//! it had an effect. A writer may stand still between any two steps, while the log is truncated: a snapshot, the
//! record, and then the entries. A writer that has no job follows the log all the while.

use std::collections::BTreeMap;

use dormouse_core::{
    ids::TransactionNumber,
    state::{Commit, CommitId, Outcome, Record},
};
use stateright::{Model, Property};

use crate::world::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    /// A run's commit. `attempt` is zero unless ids are not stable.
    Add {
        job: u8,
        run: u8,
        attempt: u8,
    },
    Truncate {
        floor: u64,
    },
}

impl Request for Ask {
    fn commit(self) -> Commit {
        match self {
            Self::Add {
                job: number,
                run: run_number,
                attempt,
            } => {
                let suffix = if attempt == 0 {
                    String::new()
                } else {
                    format!("-{attempt}")
                };
                let job = job(format!("job-{number}{suffix}"));
                let run = run(format!("run-{run_number}"));
                Commit::new(
                    CommitId::of_run(&job, &run),
                    Record::FilesAdded {
                        job,
                        run,
                        issued: START,
                        files: vec![file(
                            format!("{number}-{run_number}-{attempt}"),
                            u64::from(number),
                            &[(0, 9)],
                        )],
                    },
                )
            }
            Self::Truncate { floor } => Commit::new(
                CommitId::new(format!("truncate/{floor}")),
                Record::HistoryTruncated {
                    floor: TransactionNumber(floor),
                },
            ),
        }
    }
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// There is no head: an append is conditional on the entry alone.
    Head,
    /// The head moves with an append, whatever it was.
    HeadCondition,
    /// Each attempt to append is a new request of a new job.
    StableIds,
    /// A follower applies whatever comes next.
    GapCheck,
    /// A writer that does not hear the answer takes it for a failure.
    Recognition,
}

struct LogModel {
    world: World<Ask>,
    without: Without,
    writers: usize,
    jobs: usize,
    /// How often a message is delivered again, over all jobs.
    redeliveries: u8,
    truncations: u8,
    lost: u8,
    /// Whether a request may also be lost before it has an effect; to the writer it looks the same.
    lost_requests: bool,
}

impl LogModel {
    fn new(without: Without) -> Self {
        Self {
            world: World::new(),
            without,
            writers: 2,
            jobs: 2,
            redeliveries: bound(1, 2),
            truncations: 2,
            lost: 1,
            lost_requests: bound(false, true),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Table {
    entries: BTreeMap<u64, Stored>,
    head: State,
    snapshot: State,
    /// The states of the log as it grew, in order.
    grown: Vec<State>,
    /// Whether an entry was put at a number that had been used.
    reused: bool,
    /// Whether the head ever went down.
    sank: bool,
    writers: Vec<Writer>,
    jobs: Vec<Job>,
    truncations: u8,
    lost: u8,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Writer {
    newest: State,
    run: Option<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Hash)]
struct Run {
    job: u8,
    run: u8,
    attempt: u8,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Reads the tail of the log.
    Follow {
        compare_head: bool,
    },
    /// Begins again from the snapshot.
    Reload,
    CompareHead,
    Append,
    /// Knows its outcome.
    Done(Learned),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Learned {
    Append,
    OwnEntry,
    OtherRun,
    /// Nothing, and gave up.
    Silence,
}

#[derive(Clone, Copy, Debug, PartialEq, Hash)]
struct Job {
    deliveries: u8,
    acked: bool,
    /// Whether it was reported as failed.
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Deliver {
        writer: usize,
        job: usize,
    },
    Step {
        writer: usize,
    },
    /// The append takes effect, and its reply is lost.
    LoseReply {
        writer: usize,
    },
    /// The append fails before it has an effect.
    LoseRequest {
        writer: usize,
    },
    Acknowledge {
        writer: usize,
    },
    /// A writer that has nothing to do follows the log, for a reader in its process.
    Read {
        writer: usize,
    },
    /// A snapshot was made of the state at this number, and the log is to be cut behind it.
    Truncate {
        base: u64,
    },
    DeleteEntries,
}

impl LogModel {
    /// Follows the entries after `state` as one query returns them; none at a gap.
    fn follow(&self, table: &Table, state: &State, blindly: bool) -> Option<State> {
        let mut state = state.clone();
        for entry in table.entries.range(state.number() + 1..).map(|(_, entry)| entry) {
            state = if blindly {
                self.world.follow_blindly(&state, entry)
            } else {
                self.world.follow(&state, entry)?
            };
        }
        Some(state)
    }

    fn fresh(&self, table: &Table) -> Option<State> {
        let state = self.follow(table, &table.snapshot, false)?;
        (self.without == Without::Head || state == table.head).then_some(state)
    }

    fn put(&self, table: &mut Table, step: &Step) {
        let number = step.next.number();
        table.reused |= number != table.grown.len() as u64 + 1;
        table.sank |= number <= table.head.number();
        table.entries.insert(number, step.entry.clone().unwrap());
        table.grown.push(step.next.clone());
        if self.without != Without::Head || number > table.head.number() {
            table.head = step.next.clone();
        }
    }

    fn step(&self, table: &mut Table, writer: usize, fault: Option<Action>) -> Option<()> {
        let Writer { newest, run } = table.writers[writer].clone();
        let mut run = run?;
        let mut state = newest.clone();
        run.phase = match run.phase {
            Phase::Follow { compare_head } => {
                match self.follow(table, &newest, self.without == Without::GapCheck) {
                    None => Phase::Reload,
                    Some(followed) => {
                        state = followed;
                        if compare_head && self.without != Without::Head {
                            Phase::CompareHead
                        } else {
                            Phase::Append
                        }
                    }
                }
            }
            Phase::Reload => {
                state = table.snapshot.clone();
                Phase::Follow { compare_head: true }
            }
            Phase::CompareHead if table.head == newest => Phase::Append,
            Phase::CompareHead if table.head.number() > newest.number() => {
                Phase::Follow { compare_head: true }
            }
            Phase::CompareHead => Phase::Reload,
            Phase::Append => {
                let ask = Ask::Add {
                    job: run.job,
                    run: run.run,
                    attempt: run.attempt,
                };
                let step = self.world.propose(&newest, 0, ask);
                let free = |table: &Table| {
                    !table.entries.contains_key(&step.next.number())
                        && (matches!(self.without, Without::Head | Without::HeadCondition)
                            || table.head.number() == newest.number())
                };
                match (&step.entry, fault) {
                    (None, None) => Phase::Done(match step.outcome {
                        Outcome::Applied(_) => Learned::OwnEntry,
                        _ => Learned::OtherRun,
                    }),
                    (None, Some(_)) => return None,
                    (Some(_), Some(Action::LoseRequest { .. })) => self.again(&mut run, false),
                    (Some(_), _) if !free(table) => self.again(&mut run, true),
                    (Some(_), fault) => {
                        self.put(table, &step);
                        if fault.is_some() {
                            self.again(&mut run, false)
                        } else {
                            state = step.next.clone();
                            Phase::Done(Learned::Append)
                        }
                    }
                }
            }
            Phase::Done(_) => return None,
        };
        table.writers[writer] = Writer {
            newest: state,
            run: Some(run),
        };
        Some(())
    }

    /// What follows an append that was not acknowledged.
    fn again(&self, run: &mut Run, lost_race: bool) -> Phase {
        if self.without == Without::StableIds {
            run.attempt += 1;
        }
        if self.without == Without::Recognition && !lost_race {
            return Phase::Done(Learned::Silence);
        }
        Phase::Follow {
            compare_head: lost_race,
        }
    }
}

impl Model for LogModel {
    type State = Table;
    type Action = Action;

    fn init_states(&self) -> Vec<Table> {
        let (entry, state) = self.world.genesis();
        let writer = Writer {
            newest: state.clone(),
            run: None,
        };
        let job = Job {
            deliveries: 0,
            acked: false,
            failed: false,
        };
        vec![Table {
            entries: BTreeMap::from([(1, entry)]),
            head: state.clone(),
            snapshot: state.clone(),
            grown: vec![state.clone()],
            reused: false,
            sank: false,
            writers: vec![writer; self.writers],
            jobs: vec![job; self.jobs],
            truncations: 0,
            lost: 0,
        }]
    }

    fn actions(&self, table: &Table, actions: &mut Vec<Action>) {
        for (i, writer) in table.writers.iter().enumerate() {
            match writer.run.map(|run| run.phase) {
                None => {
                    if writer.newest != table.head {
                        actions.push(Action::Read { writer: i });
                    }
                    let again = table
                        .jobs
                        .iter()
                        .map(|job| job.deliveries.saturating_sub(1))
                        .sum::<u8>();
                    for (j, job) in table.jobs.iter().enumerate() {
                        if !job.acked && (job.deliveries == 0 || again < self.redeliveries) {
                            actions.push(Action::Deliver { writer: i, job: j });
                        }
                    }
                }
                Some(Phase::Done(_)) => actions.push(Action::Acknowledge { writer: i }),
                Some(Phase::Append) => {
                    actions.push(Action::Step { writer: i });
                    if table.lost < self.lost {
                        actions.push(Action::LoseReply { writer: i });
                        if self.lost_requests {
                            actions.push(Action::LoseRequest { writer: i });
                        }
                    }
                }
                Some(_) => actions.push(Action::Step { writer: i }),
            }
        }
        if table.truncations < self.truncations {
            let bases = table.head.floor().0..table.head.number();
            actions.extend(bases.map(|base| Action::Truncate { base }));
        }
        if table
            .entries
            .keys()
            .next()
            .is_some_and(|first| *first < table.head.floor().0)
        {
            actions.push(Action::DeleteEntries);
        }
    }

    fn next_state(&self, last: &Table, action: Action) -> Option<Table> {
        let mut table = last.clone();
        match action {
            Action::Deliver { writer, job } => {
                table.writers[writer].run = Some(Run {
                    job: job as u8,
                    run: table.jobs[job].deliveries,
                    attempt: 0,
                    phase: Phase::Follow { compare_head: false },
                });
                table.jobs[job].deliveries += 1;
            }
            Action::Step { writer } => self.step(&mut table, writer, None)?,
            Action::LoseReply { writer } | Action::LoseRequest { writer } => {
                table.lost += 1;
                self.step(&mut table, writer, Some(action))?;
            }
            Action::Acknowledge { writer } => {
                let run = table.writers[writer].run.take()?;
                let job = &mut table.jobs[run.job as usize];
                job.acked = true;
                job.failed |= run.phase == Phase::Done(Learned::Silence);
            }
            Action::Read { writer } => {
                let newest = &table.writers[writer].newest;
                let followed = self.follow(&table, newest, self.without == Without::GapCheck);
                table.writers[writer].newest = followed.unwrap_or_else(|| table.snapshot.clone());
            }
            Action::Truncate { base } => {
                table.snapshot = table.grown[base as usize - 1].clone();
                let step = self
                    .world
                    .propose(&table.head, 0, Ask::Truncate { floor: base + 1 });
                self.put(&mut table, &step);
                table.truncations += 1;
            }
            Action::DeleteEntries => table.entries = table.entries.split_off(&table.head.floor().0),
        }
        (table != *last).then_some(table)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("states are sound", |_, table| {
                table.grown.iter().all(State::is_sound)
            }),
            Property::<Self>::always(
                "an acknowledged commit is in every later state",
                |model, table| {
                    let Some(fresh) = model.fresh(table) else {
                        return true;
                    };
                    let mut acked = (0..).zip(&table.jobs).filter(|(_, job)| job.acked && !job.failed);
                    acked.all(|(job, _)| fresh.tagged(job) > 0)
                },
            ),
            Property::<Self>::always("a job's rows come once", |model, table| {
                (0..model.jobs).all(|job| table.head.tagged(job as u64) <= 1)
            }),
            Property::<Self>::always("a job that is reported as failed did not commit", |_, table| {
                let mut failed = (0..).zip(&table.jobs).filter(|(_, job)| job.failed);
                failed.all(|(job, _)| table.head.tagged(job) == 0)
            }),
            Property::<Self>::always("a fresh reader finds the whole log", |model, table| {
                model.fresh(table).is_some()
            }),
            Property::<Self>::always("a number is used once", |_, table| !table.reused),
            Property::<Self>::always("the head never goes down", |_, table| !table.sank),
            Property::<Self>::always("a follower never skips", |_, table| {
                let states = table.writers.iter().map(|writer| &writer.newest);
                states
                    .chain([&table.snapshot])
                    .all(|state| table.grown.get(state.number() as usize - 1) == Some(state))
            }),
            Property::<Self>::always("every message is acknowledged in the end", |model, table| {
                let mut actions = Vec::new();
                model.actions(table, &mut actions);
                let ended = |job: &Job| job.acked;
                !actions.is_empty() || table.jobs.iter().all(ended)
            }),
            Property::<Self>::sometimes("two runs of a job at once", |_, table| {
                let running: Vec<_> = table.writers.iter().filter_map(|w| Some(w.run?.job)).collect();
                running.windows(2).any(|pair| pair[0] == pair[1])
            }),
            Property::<Self>::sometimes("own commit recognised", |_, table| {
                learned(table, Learned::OwnEntry)
            }),
            Property::<Self>::sometimes("another run's commit recognised", |_, table| {
                learned(table, Learned::OtherRun)
            }),
            Property::<Self>::sometimes(
                "a stale writer is about to put a number that was cut off",
                |_, table| {
                    table.writers.iter().any(|writer| {
                        let next = writer.newest.number() + 1;
                        writer.run.is_some_and(|run| run.phase == Phase::Append)
                            && next < table.head.number()
                            && !table.entries.contains_key(&next)
                    })
                },
            ),
            Property::<Self>::sometimes("a follower was overtaken by truncation", |_, table| {
                table
                    .writers
                    .iter()
                    .any(|writer| writer.run.is_some_and(|run| run.phase == Phase::Reload))
            }),
        ]
    }
}

fn learned(table: &Table, how: Learned) -> bool {
    table
        .writers
        .iter()
        .any(|writer| writer.run.is_some_and(|run| run.phase == Phase::Done(how)))
}

#[test]
fn the_log_keeps_its_promises() {
    explore("log", LogModel::new(Without::Nothing), 300_000);
}

#[test]
fn without_a_head_a_stale_writer_loses_a_commit() {
    breaks(
        "log without a head",
        LogModel::new(Without::Head),
        "an acknowledged commit is in every later state",
    );
}

#[test]
fn without_the_condition_on_the_head_it_goes_down() {
    breaks(
        "log without the condition on the head",
        LogModel::new(Without::HeadCondition),
        "the head never goes down",
    );
}

#[test]
fn without_stable_ids_a_lost_reply_doubles_rows() {
    breaks(
        "log without stable ids",
        LogModel::new(Without::StableIds),
        "a job's rows come once",
    );
}

#[test]
fn without_the_gap_check_a_follower_skips() {
    breaks(
        "log without the gap check",
        LogModel::new(Without::GapCheck),
        "a follower never skips",
    );
}

#[test]
fn without_recognition_a_committed_job_is_reported_as_failed() {
    breaks(
        "log without recognition",
        LogModel::new(Without::Recognition),
        "a job that is reported as failed did not commit",
    );
}
