//! Deliveries, leases, runs that were superseded, and work that is assigned but never sent.
//!
//! A queue delivers messages again when their visibility ends, while the worker that had them may live on. An
//! ingest and up to two compactions of the same files go through it. A planner leases files to a compaction in one
//! transaction and sends its message in a second step, which may never happen.

use std::{collections::BTreeMap, sync::Arc};

use dormouse_core::{
    file::DataFile,
    ids::{FileName, JobId, PartitionId, RunId},
    state::{Commit, CommitId, Outcome, Record},
};
use stateright::{Model, Property};

use crate::world::*;

/// Longer than a lease and its margin.
const TICK: i64 = 60 * MINUTE;
const LEASE: i64 = 10 * MINUTE;

/// The job that ingests; the others compact.
const INGEST: u8 = 0;

const FOR_EVER: i64 = 1000 * 365 * DAY;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    /// The files that are there from the beginning.
    Seed {
        number: u8,
    },
    Ingest {
        job: JobName,
        run: u8,
        output: u8,
    },
    Assign {
        job: u8,
        until: i64,
    },
    Compact {
        job: u8,
        run: u8,
        output: u8,
    },
    /// A part of a compaction: only its output, or only the end of its inputs.
    AddOutput {
        job: u8,
        output: u8,
    },
    DropInputs {
        job: u8,
        run: u8,
    },
}

/// A job's id, which holds the run unless ids are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct JobName(u8, Option<u8>);

const SEEDS: u8 = 2;

fn seed_name(number: u8) -> FileName {
    name(format!("seed-{number}"))
}

fn job_id(job_number: u8) -> JobId {
    job(format!("job-{job_number}"))
}

fn run_id(number: u8) -> RunId {
    run(format!("run-{number}"))
}

/// What the tag of an output is: the job that made it.
fn output_file(job: u8, output: u8) -> Arc<DataFile> {
    let parts: &[(i32, i32)] = if job == INGEST { &[(0, 9)] } else { &[(0, 19)] };
    file(format!("output-{job}-{output}"), u64::from(job), parts)
}

impl Request for Ask {
    fn commit(self) -> Commit {
        let inputs = || (0..SEEDS).map(seed_name).collect();
        let record = match self {
            Self::Seed { number } => Record::FilesAdded {
                job: job(format!("seed-{number}")),
                run: run_id(0),
                issued: START,
                files: vec![file(format!("seed-{number}"), 99, &[(0, 9)])],
            },
            Self::Ingest {
                job: JobName(number, own),
                run,
                output,
            } => Record::FilesAdded {
                job: match own {
                    Some(run) => job(format!("job-{number}-{run}")),
                    None => job_id(number),
                },
                run: run_id(run),
                issued: START,
                files: vec![output_file(number, output)],
            },
            Self::Assign { job, until } => Record::CompactionAssigned {
                job: job_id(job),
                partition: PartitionId::root(),
                inputs: inputs(),
                until: at(until),
            },
            Self::Compact { job, run, output } => Record::CompactionCommitted {
                job: job_id(job),
                run: run_id(run),
                issued: START,
                partition: PartitionId::root(),
                inputs: inputs(),
                output: Some(output_file(job, output)),
            },
            Self::AddOutput { job: number, output } => Record::FilesAdded {
                job: job(format!("output-{number}-{output}")),
                run: run_id(0),
                issued: START,
                files: vec![output_file(number, output)],
            },
            Self::DropInputs { job, run } => Record::CompactionCommitted {
                job: job_id(job),
                run: run_id(run),
                issued: START,
                partition: PartitionId::root(),
                inputs: inputs(),
                output: None,
            },
        };
        Commit::new(CommitId::new(format!("{self:?}")), record)
    }
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A message is acknowledged when it is received.
    EffectFirst,
    /// The runs of a job write to one name.
    OwnNames,
    /// Each run commits as a job of its own.
    StableJobs,
    /// A lease has no end.
    LeaseEnd,
    /// A compaction commits its output first and drops its inputs in a second transaction.
    OneTransaction,
    /// Whoever holds any receipt of a message can acknowledge it, and does so when it stops.
    Receipts,
}

struct ClaimModel {
    world: World<Ask>,
    without: Without,
    compactions: u8,
    workers: usize,
    deliveries: u8,
    ticks: u8,
    crashes: u8,
    // Names that properties look for, as making them takes its time.
    ids: Vec<JobId>,
    runs: Vec<RunId>,
    seed: FileName,
    outputs: BTreeMap<(u8, u8), FileName>,
}

impl ClaimModel {
    fn new(without: Without) -> Self {
        Self {
            world: World::new(),
            without,
            compactions: 2,
            workers: 2,
            deliveries: 2,
            ticks: bound(1, 2),
            crashes: 1,
            ids: (INGEST..=2).map(job_id).collect(),
            runs: (0..3).map(run_id).collect(),
            seed: seed_name(0),
            outputs: (INGEST..=2)
                .flat_map(|job| {
                    [0, 1, 2, 9].map(|output| ((job, output), output_file(job, output).name.clone()))
                })
                .collect(),
        }
    }

    fn jobs(&self) -> std::ops::RangeInclusive<u8> {
        INGEST..=self.compactions
    }
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Table {
    clock: i64,
    ticks: u8,
    crashes: u8,
    state: State,
    /// Outputs, and the run that wrote each last.
    objects: Vec<((u8, u8), u8)>,
    messages: Vec<Message>,
    workers: Vec<Option<Run>>,
    /// The compaction that was assigned and whose message is yet to be sent.
    unsent: Option<u8>,
    assigned: u8,
    /// Whether a run that was not to have an effect changed what readers see.
    meddled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Message {
    deliveries: u8,
    at: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Nowhere,
    Visible,
    Hidden,
    Acknowledged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    job: u8,
    run: u8,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Received,
    Wrote,
    /// Between the two transactions of a compaction that has two.
    Half,
    Applied,
    AlreadyDone,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Tick,
    Assign(u8),
    Send,
    LoseMessage,
    Receive { worker: usize, job: u8 },
    Expire(u8),
    Work(usize),
    Acknowledge(usize),
    Crash(usize),
}

impl ClaimModel {
    fn commit(&self, table: &mut Table, ask: Ask) -> Outcome {
        let step = self.world.propose(&table.state, table.clock, ask);
        table.state = step.next.clone();
        step.outcome.clone()
    }

    fn output(&self, run: Run) -> u8 {
        match self.without {
            Without::OwnNames => 9,
            _ => run.run,
        }
    }

    fn work(&self, table: &mut Table, mut run: Run) -> Run {
        let output = self.output(run);
        let before = table.state.clone();
        let outcome = match run.phase {
            // A run that finds its job done ends.
            Phase::Received if table.state.committed(&self.ids[usize::from(run.job)]).is_some() => {
                run.phase = Phase::AlreadyDone;
                return run;
            }
            Phase::Received => {
                table.objects.retain(|(object, _)| *object != (run.job, output));
                table.objects.push(((run.job, output), run.run));
                table.objects.sort_unstable();
                run.phase = Phase::Wrote;
                return run;
            }
            Phase::Half => self.commit(
                table,
                Ask::DropInputs {
                    job: run.job,
                    run: run.run,
                },
            ),
            _ if run.job == INGEST => {
                let own = (self.without == Without::StableJobs).then_some(run.run);
                let job = JobName(run.job, own);
                self.commit(
                    table,
                    Ask::Ingest {
                        job,
                        run: run.run,
                        output,
                    },
                )
            }
            _ if self.without == Without::OneTransaction => {
                self.commit(table, Ask::AddOutput { job: run.job, output });
                run.phase = Phase::Half;
                return run;
            }
            _ => {
                let leased = table.state.lease(&PartitionId::root(), &self.seed);
                let lost = leased.is_none_or(|lease| lease.job != self.ids[usize::from(run.job)]);
                let ask = Ask::Compact {
                    job: run.job,
                    run: run.run,
                    output,
                };
                let outcome = self.commit(table, ask);
                table.meddled |= lost && visible(&before) != visible(&table.state);
                outcome
            }
        };
        run.phase = match outcome {
            Outcome::Applied(_) => Phase::Applied,
            Outcome::AlreadyDone(_) => Phase::AlreadyDone,
            Outcome::Refused(_) => Phase::Refused,
        };
        table.meddled |= run.phase != Phase::Applied && visible(&before) != visible(&table.state);
        run
    }
}

fn visible(state: &State) -> Vec<FileName> {
    state.files().map(|(file, _)| file.name.clone()).collect()
}

impl Model for ClaimModel {
    type State = Table;
    type Action = Action;

    fn init_states(&self) -> Vec<Table> {
        let (_, state) = self.world.genesis();
        let mut messages = vec![
            Message {
                deliveries: 0,
                at: Place::Nowhere,
            };
            usize::from(self.compactions) + 1
        ];
        messages[usize::from(INGEST)].at = Place::Visible;
        let mut table = Table {
            clock: 0,
            ticks: 0,
            crashes: 0,
            state,
            objects: vec![],
            messages,
            workers: vec![None; self.workers],
            unsent: None,
            assigned: 0,
            meddled: false,
        };
        for number in 0..SEEDS {
            self.commit(&mut table, Ask::Seed { number });
        }
        vec![table]
    }

    fn actions(&self, table: &Table, actions: &mut Vec<Action>) {
        if table.ticks < self.ticks {
            actions.push(Action::Tick);
        }
        if table.unsent.is_some() {
            actions.extend([Action::Send, Action::LoseMessage]);
        } else if table.assigned < self.compactions {
            actions.push(Action::Assign(table.assigned + 1));
        }
        for (job, message) in self.jobs().zip(&table.messages) {
            match message.at {
                Place::Visible if message.deliveries < self.deliveries => {
                    // Workers differ by number alone, so the first idle one receives.
                    let idle = table.workers.iter().position(Option::is_none);
                    actions.extend(idle.map(|worker| Action::Receive { worker, job }));
                }
                Place::Hidden if message.deliveries < self.deliveries => actions.push(Action::Expire(job)),
                _ => {}
            }
        }
        for (i, run) in table.workers.iter().enumerate() {
            let Some(run) = run else { continue };
            match run.phase {
                Phase::Received | Phase::Wrote | Phase::Half => {
                    actions.push(Action::Work(i));
                    if table.crashes < self.crashes {
                        actions.push(Action::Crash(i));
                    }
                }
                Phase::Applied | Phase::AlreadyDone | Phase::Refused => actions.push(Action::Acknowledge(i)),
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
            Action::Assign(job) => {
                let until = match self.without {
                    Without::LeaseEnd => FOR_EVER,
                    _ => table.clock + LEASE,
                };
                let outcome = self.commit(&mut table, Ask::Assign { job, until });
                if matches!(outcome, Outcome::Refused(_)) {
                    return None;
                }
                table.assigned = job;
                table.unsent = Some(job);
            }
            Action::Send => {
                let job = table.unsent.take()?;
                table.messages[usize::from(job)].at = Place::Visible;
            }
            Action::LoseMessage => table.unsent = None,
            Action::Receive { worker, job } => {
                let message = &mut table.messages[usize::from(job)];
                table.workers[worker] = Some(Run {
                    job,
                    run: message.deliveries,
                    phase: Phase::Received,
                });
                message.deliveries += 1;
                message.at = match self.without {
                    Without::EffectFirst => Place::Acknowledged,
                    _ => Place::Hidden,
                };
            }
            Action::Expire(job) => table.messages[usize::from(job)].at = Place::Visible,
            Action::Work(worker) => {
                let run = table.workers[worker]?;
                table.workers[worker] = Some(self.work(&mut table, run));
            }
            Action::Acknowledge(worker) => {
                let run = table.workers[worker].take()?;
                let message = &mut table.messages[usize::from(run.job)];
                if message.deliveries == run.run + 1 && message.at == Place::Hidden {
                    message.at = Place::Acknowledged;
                }
            }
            Action::Crash(worker) => {
                let run = table.workers[worker].take()?;
                table.crashes += 1;
                if self.without == Without::Receipts {
                    table.messages[usize::from(run.job)].at = Place::Acknowledged;
                }
            }
        }
        Some(table)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("states are sound", |_, table| table.state.is_sound()),
            Property::<Self>::always("every row is there once", |_, table| {
                let ingested = u64::from(table.state.tagged(u64::from(INGEST)) > 0);
                table.state.rows() == 10 * (u64::from(SEEDS) + ingested)
            }),
            Property::<Self>::always("a superseded run changes nothing", |_, table| !table.meddled),
            Property::<Self>::always("a live object is what its run wrote", |model, table| {
                table.objects.iter().all(|((job, output), wrote)| {
                    let done = table.state.committed(&model.ids[usize::from(*job)]);
                    let live = table.state.is_referenced(&model.outputs[&(*job, *output)]);
                    !live || done.is_none_or(|done| done.run == model.runs[usize::from(*wrote)])
                })
            }),
            Property::<Self>::always("what is acknowledged has had its effect", |model, table| {
                model.jobs().zip(&table.messages).all(|(job, message)| {
                    message.at != Place::Acknowledged
                        || table.state.committed(&model.ids[usize::from(job)]).is_some()
                        // A compaction that lost its lease has nothing left to do.
                        || job != INGEST && table.state.lease(&PartitionId::root(), &model.seed)
                            .is_none_or(|lease| lease.job != model.ids[usize::from(job)])
                })
            }),
            Property::<Self>::always("no file stays assigned for ever", |model, table| {
                let later = Ask::Assign { job: 77, until: 0 };
                !table.state.is_referenced(&model.seed)
                    || !model.world.propose(&table.state, DAY, later).is_refused()
            }),
            Property::<Self>::sometimes("two runs of a job at once", |_, table| {
                let jobs: Vec<_> = table.workers.iter().flatten().map(|run| run.job).collect();
                jobs.windows(2).any(|pair| pair[0] == pair[1])
            }),
            Property::<Self>::sometimes("a superseded run is told that its job is done", |_, table| {
                ended(table, Phase::AlreadyDone)
            }),
            Property::<Self>::sometimes("a run that lost its lease is refused", |_, table| {
                ended(table, Phase::Refused)
            }),
            Property::<Self>::sometimes("files are leased anew after a message was lost", |_, table| {
                table.assigned == 2 && table.messages[1].at == Place::Nowhere
            }),
            Property::<Self>::sometimes("a compaction commits", |_, table| table.state.tagged(1) > 0),
        ]
    }
}

fn ended(table: &Table, phase: Phase) -> bool {
    table.workers.iter().flatten().any(|run| run.phase == phase)
}

#[test]
fn a_job_takes_effect_once_whoever_runs_it() {
    explore("claims", ClaimModel::new(Without::Nothing), 200_000);
}

fn twin(label: &str, without: Without, property: &'static str) {
    breaks(label, ClaimModel::new(without), property);
}

#[test]
fn without_the_effect_first_an_acknowledged_job_is_lost() {
    twin(
        "claims without the effect first",
        Without::EffectFirst,
        "what is acknowledged has had its effect",
    );
}

#[test]
fn without_receipts_a_run_that_stops_takes_the_message_with_it() {
    twin(
        "claims without receipts",
        Without::Receipts,
        "what is acknowledged has had its effect",
    );
}

#[test]
fn without_names_of_their_own_a_zombie_overwrites_a_live_file() {
    twin(
        "claims without names of their own",
        Without::OwnNames,
        "a live object is what its run wrote",
    );
}

#[test]
fn without_stable_jobs_rows_come_twice() {
    twin(
        "claims without stable jobs",
        Without::StableJobs,
        "every row is there once",
    );
}

#[test]
fn without_one_transaction_readers_see_rows_twice() {
    twin(
        "claims without one transaction",
        Without::OneTransaction,
        "every row is there once",
    );
}

#[test]
fn without_the_end_of_a_lease_a_lost_message_blocks_files_for_ever() {
    twin(
        "claims without the end of a lease",
        Without::LeaseEnd,
        "no file stays assigned for ever",
    );
}
