//! What goes wrong in a run: drawn from its seed, so that each run has a mix of its own.

use std::{sync::Arc, time::Duration};

use dormouse_core::{ports::Clock, testing::seeded::PausedClock, time::Timestamp};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::testing::{
    instance::OPERATOR,
    stage::{Act, Call, Director, Fate},
};

/// A kind of fault, each with a switch of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A call fails before it has an effect.
    Failed,
    /// A call has its effect, and its reply is lost.
    ReplyLost,
    /// A reply takes seconds.
    Slow,
    /// The item store throttles for a while.
    Throttled,
    /// A transaction of the item store meets another and is refused.
    TransactionConflict,
    /// The object store asks for less for a while.
    SlowDown,
    /// A create is told that the object exists, and it does not.
    FalseExists,
    /// A batch of messages is sent in part.
    PartialSend,
    /// Listings come in another order.
    ListReordered,
    /// A body ends early.
    ShortBody,
    /// A byte of a body is another.
    FlippedByte,
    /// The connection breaks in the middle of a body.
    ResetBody,
    /// No object can be written for a while.
    DiskFull,
    /// A received message is delivered twice at once.
    Duplicate,
    /// A received message is delivered again minutes later.
    LateDuplicate,
    /// Messages count as received and never arrive.
    ReceiveLost,
    /// Extending a message's visibility fails.
    ExtendFailed,
    /// Acknowledging a message fails.
    AckFailed,
    /// The process dies at a call.
    CrashAtCall,
    /// The process stands still at a call for longer than messages stay hidden.
    PauseAtCall,
    /// A process is killed at any moment.
    Kill,
    /// A process is stopped and goes on later.
    Pause,
    /// A process is asked to stop.
    Terminate,
    /// Processes' clocks differ by minutes.
    ClockSkew,
    /// All clocks leap.
    ClockJump,
    /// An operator sends dead letters again while work goes on.
    Redrive,
    /// Tables are dropped and made again under their names.
    TableDropped,
    /// Tables are cleared, or restored to what they were.
    TableCleared,
    /// Rows are purged.
    Purged,
    /// Leaves are split.
    Split,
    /// The newest snapshot is damaged.
    SnapshotDamaged,
    /// Clients send messages again.
    SentAgain,
    /// Every message comes once more, days or weeks after all is done.
    Aged,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 33] = [
        Self::Failed,
        Self::ReplyLost,
        Self::Slow,
        Self::Throttled,
        Self::TransactionConflict,
        Self::SlowDown,
        Self::FalseExists,
        Self::PartialSend,
        Self::ListReordered,
        Self::ShortBody,
        Self::FlippedByte,
        Self::ResetBody,
        Self::DiskFull,
        Self::Duplicate,
        Self::LateDuplicate,
        Self::ReceiveLost,
        Self::ExtendFailed,
        Self::AckFailed,
        Self::CrashAtCall,
        Self::PauseAtCall,
        Self::Kill,
        Self::Pause,
        Self::Terminate,
        Self::ClockSkew,
        Self::ClockJump,
        Self::Redrive,
        Self::TableDropped,
        Self::TableCleared,
        Self::Purged,
        Self::Split,
        Self::SnapshotDamaged,
        Self::SentAgain,
        Self::Aged,
    ];

    /// Whether a call can meet this fault, and how likely in a hundred when the kind is switched on.
    fn chance(self, operation: &str) -> f64 {
        let is = |prefix: &str| operation.starts_with(prefix);
        let stored_body = is("objects get") && !operation.ends_with("input");
        match self {
            Self::Failed | Self::ReplyLost => 0.02,
            Self::Slow => 0.03,
            Self::TransactionConflict if is("items write") => 0.08,
            Self::FalseExists if is("objects put") => 0.08,
            Self::PartialSend if is("queue send") => 0.3,
            Self::ListReordered if is("objects list") => 0.5,
            Self::ShortBody | Self::FlippedByte if stored_body => 0.02,
            Self::ResetBody if is("objects get") => 0.05,
            Self::Duplicate | Self::LateDuplicate if is("queue receive") => 0.2,
            Self::ReceiveLost if is("queue receive") => 0.08,
            Self::ExtendFailed if is("queue extend") => 0.5,
            Self::AckFailed if is("queue ack") => 0.3,
            Self::CrashAtCall => 0.006,
            Self::PauseAtCall => 0.004,
            Self::Throttled if is("items") => 0.003,
            Self::SlowDown if is("objects") => 0.004,
            Self::DiskFull if is("objects put") => 0.03,
            _ => 0.0,
        }
    }
}

/// The mix of one run.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The kinds that are switched on.
    pub kinds: Vec<FaultKind>,
    /// How much likelier than usual faults at calls are.
    pub intensity: f64,
}

impl Swarm {
    /// The mix that these numbers give: about half of all kinds, now and then none or all.
    pub fn draw(rng: &mut StdRng) -> Self {
        let share = *[0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0].choose(rng).unwrap_or(&0.5);
        Self {
            kinds: FaultKind::ALL
                .into_iter()
                .filter(|_| rng.random_bool(share))
                .collect(),
            intensity: *[0.3, 1.0, 1.0, 2.0].choose(rng).unwrap_or(&1.0),
        }
    }

    /// Whether a kind is switched on.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.kinds.contains(&kind)
    }
}

/// Directs a run by chance, as its mix has it. An operator's calls pass.
pub struct ByChance {
    rng: StdRng,
    swarm: Swarm,
    clock: Arc<PausedClock>,
    /// Until when which calls fail.
    outages: Vec<(Timestamp, &'static str, &'static str)>,
}

impl ByChance {
    /// A director with luck of its own.
    pub fn new(seed: u64, swarm: Swarm, clock: Arc<PausedClock>) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            swarm,
            clock,
            outages: Vec::new(),
        }
    }

    fn seconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from * 1000..to * 1000))
    }

    fn outage(&mut self, calls: &'static str, why: &'static str) -> Fate {
        let until = self.clock.now().plus(self.seconds(2, 60));
        self.outages.push((until, calls, why));
        fail(why)
    }

    fn fault(&mut self, kind: FaultKind) -> Fate {
        match kind {
            FaultKind::Failed => fail("failed"),
            FaultKind::TransactionConflict => fail("transaction conflict"),
            FaultKind::ExtendFailed => fail("extend failed"),
            FaultKind::AckFailed if self.rng.random_bool(0.5) => fail("acknowledge failed"),
            FaultKind::ReplyLost | FaultKind::AckFailed | FaultKind::ReceiveLost => act(Act::LoseReply),
            FaultKind::Slow => Fate {
                before: self.seconds(0, 20),
                after: self.seconds(0, 20),
                ..Fate::default()
            },
            FaultKind::Throttled => self.outage("items", "throttled"),
            FaultKind::SlowDown => self.outage("objects", "asked to slow down"),
            FaultKind::DiskFull => self.outage("objects put", "no space left"),
            FaultKind::FalseExists => act(Act::FalseExists),
            FaultKind::PartialSend | FaultKind::ListReordered => act(Act::Partial),
            FaultKind::ShortBody => act(Act::Short),
            FaultKind::FlippedByte => act(Act::Flip),
            FaultKind::ResetBody => act(Act::Reset),
            FaultKind::Duplicate => act(Act::Duplicate(Duration::ZERO)),
            FaultKind::LateDuplicate => {
                let late = self.seconds(1, 1200);
                act(Act::Duplicate(late))
            }
            FaultKind::CrashAtCall if self.rng.random_bool(0.5) => act(Act::CrashBefore),
            FaultKind::CrashAtCall => act(Act::CrashAfter),
            FaultKind::PauseAtCall => {
                // The longest outlasts what tables keep of their history.
                let longest = *[100, 200, 900].choose(&mut self.rng).unwrap_or(&200);
                let time = self.seconds(10, longest);
                act(if self.rng.random_bool(0.5) {
                    Act::PauseBefore(time)
                } else {
                    Act::PauseAfter(time)
                })
            }
            _ => Fate::default(),
        }
    }
}

fn act(act: Act) -> Fate {
    Fate {
        act,
        ..Fate::default()
    }
}

fn fail(why: &'static str) -> Fate {
    act(Act::Fail(why))
}

impl Director for ByChance {
    fn decide(&mut self, call: &Call) -> Fate {
        if call.actor == OPERATOR {
            return Fate::default();
        }
        let delay = Duration::from_millis(u64::from(self.rng.next_u32() % 16));
        let mut fate = Fate::default();
        let now = self.clock.now();
        self.outages.retain(|(until, _, _)| *until > now);
        let out = self
            .outages
            .iter()
            .find(|(_, calls, _)| call.operation.starts_with(calls));
        if let Some(&(_, _, why)) = out
            && self.rng.random_bool(0.7)
        {
            fate = fail(why);
        } else {
            let roll: f64 = self.rng.random();
            let mut below = 0.0;
            let mut met = None;
            for kind in &self.swarm.kinds {
                below += kind.chance(&call.operation) * self.swarm.intensity;
                if roll < below {
                    met = Some(*kind);
                    break;
                }
            }
            if let Some(kind) = met {
                fate = self.fault(kind);
            }
        }
        match delay.as_millis() % 4 {
            0 => fate.before += delay,
            1 => fate.after += delay,
            _ => {}
        }
        fate
    }
}
