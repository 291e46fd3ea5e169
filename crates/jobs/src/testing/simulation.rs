//! A whole run from a seed.
//!
//! One thread runs one to three processes, each with every worker and schedule, on storage in memory. Clients send
//! jobs, an operator changes tables, and faults come as the seed has them. Then all faults stop: every queue must
//! drain within [`LIVENESS`], dead letters are sent again, and what is left is checked against what the auditor
//! saw. The same seed gives the same trace.

mod checks;
pub mod faults;
mod script;

use std::{
    collections::BTreeMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use dormouse_core::{
    config::InstanceSettings,
    ports::{Clock, QueueName, QueueSettings},
    testing::seeded::PausedClock,
    time::Timestamp,
};
use futures::FutureExt;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    faults::{ByChance, FaultKind, Swarm},
    script::Script,
};
use super::{
    auditor::Auditor,
    ports::Storage,
    process::{self, Ended},
    rows::Rows,
    stage::{Calm, Control, Stage},
};
use crate::Services;

/// The actor whose calls meet no faults.
pub const OPERATOR: &str = "operator";

/// How long queues may take to drain once faults have stopped, in simulated time.
pub const LIVENESS: Duration = Duration::from_secs(4 * 3600);

/// How long messages stay hidden.
const VISIBILITY: Duration = Duration::from_secs(30);

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Calls on ports.
    pub calls: u64,
    /// The hash of the trace.
    pub hash: u64,
    /// Simulated time, in seconds.
    pub seconds: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Jobs that brought rows.
    pub jobs: u64,
    /// Exports that were compared with their table.
    pub exports: u64,
    /// Rows in the tables at the end.
    pub rows: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Rare events.
    pub events: BTreeMap<&'static str, u64>,
}

impl Summary {
    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.hash ^= other.hash;
        self.seconds += other.seconds;
        self.kills += other.kills;
        self.jobs += other.jobs;
        self.exports += other.exports;
        self.rows += other.rows;
        for (all, more) in [(&mut self.faults, &other.faults), (&mut self.events, &other.events)] {
            for (name, count) in more {
                *all.entry(name).or_default() += count;
            }
        }
    }
}

/// A run in which a promise was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// The form of its rows.
    pub rows: &'static str,
    /// What was broken.
    pub violations: Vec<String>,
    /// The end of the trace.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} with {} rows:", self.seed, self.rows)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        write!(
            f,
            "replay: scripts/simulate --rows {} --seed {} --trace",
            self.rows, self.seed
        )
    }
}

/// Everything that the parts of a run share.
struct Run {
    stage: Arc<Stage>,
    storage: Storage,
    settings: InstanceSettings,
    rows: Arc<dyn Rows>,
    swarm: Swarm,
    rng: Mutex<StdRng>,
    slots: Mutex<Vec<Arc<Control>>>,
    kills: Mutex<u64>,
    started: Mutex<u32>,
    /// The services of clients, operators and checks.
    operator: Services,
}

/// How many of the newest lines of a trace a run keeps, unless it is replayed to be read.
pub const KEPT_LINES: usize = 50;

/// Runs one seed in a runtime of its own, and keeps so many of the newest lines of its trace.
///
/// # Errors
/// The promises that were broken.
pub fn run(seed: u64, rows: &Arc<dyn Rows>, kept: usize) -> Result<Summary, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let run = Run::new(seed, rows.clone(), kept);
        let end = AssertUnwindSafe(run.all()).catch_unwind().await;
        let mut violations = run.stage.auditor.violations();
        let summary = match end {
            Ok(summary) => summary,
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                violations.push(format!("panic: {}", text.unwrap_or_default()));
                Summary::default()
            }
        };
        if violations.is_empty() {
            return Ok(summary);
        }
        Err(Failure {
            seed,
            rows: rows.name(),
            violations,
            trace: run.stage.newest(),
        })
    })
}

const PROPERTIES: &str = "
dormouse.ingest.concurrency=2
dormouse.export.concurrency=2
dormouse.worker.drain.seconds=5
dormouse.statestore.snapshot.period.seconds=60
dormouse.gc.period.minutes=3
dormouse.gc.orphan.age.hours=1
dormouse.tracker.repair.period.seconds=60
dormouse.export.pin.hours=6
dormouse.job.lost.hours=2
";

impl Run {
    fn new(seed: u64, rows: Arc<dyn Rows>, kept: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_800_000_000_000)));
        let as_clock: Arc<dyn Clock> = clock.clone();
        let queues = QueueSettings {
            visibility: VISIBILITY,
            max_attempts: rng.random_range(3..=8),
        };
        let storage = Storage::new(&as_clock, rng.random(), queues);
        let auditor = Auditor::new(storage.items.clone(), storage.bucket("data"));
        let stage = Stage::new(clock.clone(), auditor, kept);
        let swarm = Swarm::draw(&mut rng);
        stage.note(format_args!("{swarm:?}"));
        stage.direct(ByChance::new(rng.random(), swarm.clone(), clock));
        let settings = InstanceSettings::read(PROPERTIES, []).unwrap();
        let operator = storage.services(&stage, &Control::new(0), &settings, &*rows, 0);
        Self {
            storage,
            settings,
            rows,
            swarm,
            rng: Mutex::new(rng),
            slots: Mutex::default(),
            kills: Mutex::default(),
            started: Mutex::default(),
            operator,
            stage,
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock())
    }

    fn has(&self, kind: FaultKind) -> bool {
        self.swarm.has(kind)
    }

    async fn sleep(&self, time: Duration) {
        self.stage.clock.sleep(time).await;
    }

    async fn all(&self) -> Summary {
        let processes = self.draw(|rng| rng.random_range(1..=3));
        let hosts = futures::future::join_all((0..processes).map(|slot| self.host(slot).boxed()));
        let script = process::acting(OPERATOR, self.script());
        let summary = tokio::select! {
            biased;
            summary = script => summary,
            _ = hosts => Summary::default(),
        };
        let (calls, hash) = self.stage.trace();
        let (faults, events) = self.stage.auditor.counts();
        Summary {
            calls,
            hash,
            kills: *self.kills.lock(),
            faults,
            events,
            ..summary
        }
    }

    /// Keeps a process running, one after the other.
    async fn host(&self, slot: usize) {
        loop {
            let number = {
                let mut started = self.started.lock();
                *started += 1;
                *started
            };
            let control = Control::new(number);
            {
                let mut slots = self.slots.lock();
                match slots.get_mut(slot) {
                    Some(held) => *held = control.clone(),
                    None => slots.push(control.clone()),
                }
            }
            let skew = match self.has(FaultKind::ClockSkew) {
                true => self.draw(|rng| rng.random_range(-600_000..=600_000)),
                false => 0,
            };
            let services = self
                .storage
                .services(&self.stage, &control, &self.settings, &*self.rows, skew);
            self.stage.note(format_args!("process {number} starts, {skew} ms ahead"));
            let ended = process::run(&self.stage, &control, process::serve(services, control.clone())).await;
            self.stage.note(format_args!("process {number}: {ended:?}"));
            if ended == Ended::Killed {
                *self.kills.lock() += 1;
            }
            let down = self.draw(|rng| rng.random_range(100..20_000));
            self.sleep(Duration::from_millis(down)).await;
        }
    }

    async fn script(&self) -> Summary {
        let began = self.stage.clock.now();
        let mut script = Script::new(self).await;
        script.work().await;
        self.stage.note("faults stop");
        self.stage.direct(Calm);
        for control in self.slots.lock().iter() {
            if self.draw(|rng| rng.random_bool(0.3)) {
                control.kill();
            }
        }
        self.drained("after faults stopped").await;
        script.redrive().await;
        self.drained("after dead letters were sent again").await;
        if self.has(FaultKind::Aged) {
            script.age().await;
            self.drained("after messages came again").await;
        }
        let mut summary = checks::all(self, &mut script).await;
        summary.seconds = self.stage.clock.now().since(began).as_secs();
        summary
    }

    /// Waits until all queues are empty.
    async fn drained(&self, when: &str) {
        let limit = self.stage.clock.now().plus(LIVENESS);
        loop {
            let mut waiting = 0;
            for queue in QueueName::ALL {
                waiting += self.storage.waiting(queue).await;
            }
            if waiting == 0 {
                return;
            }
            if self.stage.clock.now() > limit {
                let mut left = Vec::new();
                for queue in QueueName::ALL {
                    left.push((queue, self.storage.queue(queue).peek(3).await.unwrap()));
                }
                self.stage
                    .auditor
                    .violation(format!("Liveness: {when}, queues hold {left:?}"));
                return;
            }
            self.sleep(Duration::from_secs(2)).await;
        }
    }
}
