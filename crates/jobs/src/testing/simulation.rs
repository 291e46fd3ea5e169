//! A whole run from a seed.
//!
//! One thread runs one to three processes, each with every worker and schedule, on storage in memory. Clients send
//! jobs, an operator changes tables, and faults come as the seed has them. Then all faults stop: every queue must
//! drain within [`LIVENESS`](super::instance::LIVENESS), dead letters are sent again, and what is left is checked against what the auditor
//! saw. The same seed gives the same trace.

pub mod faults;
mod script;

use std::{collections::BTreeMap, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use dormouse_core::{
    ports::{Clock, QueueSettings},
    testing::rows::Rows,
};
use futures::FutureExt;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    faults::{ByChance, FaultKind, Swarm},
    script::Script,
};
use super::{
    checks,
    instance::{Instance, OPERATOR},
    process,
    stage::Calm,
};

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
    /// The end of the trace; none of many runs together.
    pub trace: Vec<String>,
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
        for (all, more) in [
            (&mut self.faults, &other.faults),
            (&mut self.events, &other.events),
        ] {
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
    instance: Instance,
    swarm: Swarm,
    rng: Mutex<StdRng>,
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
        let mut violations = run.instance.stage.auditor.violations();
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
        let trace = run.instance.stage.newest();
        if violations.is_empty() {
            return Ok(Summary { trace, ..summary });
        }
        Err(Failure {
            seed,
            rows: rows.name(),
            violations,
            trace,
        })
    })
}

impl Run {
    fn new(seed: u64, rows: Arc<dyn Rows>, kept: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let queues = QueueSettings {
            visibility: VISIBILITY,
            max_attempts: rng.random_range(3..=8),
        };
        let instance = Instance::new(rng.random(), rows, queues, kept);
        let swarm = Swarm::draw(&mut rng);
        let stage = &instance.stage;
        stage.note(format_args!("{swarm:?}"));
        stage.direct(ByChance::new(rng.random(), swarm.clone(), stage.clock.clone()));
        Self {
            instance,
            swarm,
            rng: Mutex::new(rng),
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock())
    }

    fn has(&self, kind: FaultKind) -> bool {
        self.swarm.has(kind)
    }

    async fn all(&self) -> Summary {
        let skew = || match self.has(FaultKind::ClockSkew) {
            true => self.draw(|rng| rng.random_range(-600_000..=600_000)),
            false => 0,
        };
        let down = || Duration::from_millis(self.draw(|rng| rng.random_range(100..20_000)));
        let processes = self.draw(|rng| rng.random_range(1..=3));
        let hosts = (0..processes).map(|slot| self.instance.host(slot, skew, down).boxed());
        let hosts = futures::future::join_all(hosts);
        let script = process::acting(OPERATOR, self.script());
        let summary = tokio::select! {
            biased;
            summary = script => summary,
            _ = hosts => Summary::default(),
        };
        let (calls, hash) = self.instance.stage.trace();
        let (faults, events) = self.instance.stage.auditor.counts();
        Summary {
            calls,
            hash,
            kills: self.instance.kills(),
            faults,
            events,
            ..summary
        }
    }

    async fn script(&self) -> Summary {
        let (instance, stage) = (&self.instance, &self.instance.stage);
        let began = stage.clock.now();
        let mut script = Script::new(self).await;
        script.work().await;
        stage.note("faults stop");
        stage.direct(Calm);
        for control in instance.processes() {
            if self.draw(|rng| rng.random_bool(0.3)) {
                control.kill();
            }
        }
        instance.drained("after faults stopped").await;
        script.redrive().await;
        instance.drained("after dead letters were sent again").await;
        if self.has(FaultKind::Aged) {
            script.age().await;
            instance.drained("after messages came again").await;
        }
        script.end_purges().await;
        let found = checks::all(instance, &mut script.expected).await;
        Summary {
            seconds: stage.clock.now().since(began).as_secs(),
            jobs: script.expected.jobs.len() as u64,
            exports: found.exports,
            rows: found.rows,
            ..Summary::default()
        }
    }
}
