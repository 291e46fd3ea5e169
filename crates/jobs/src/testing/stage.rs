//! Where every call on a port passes.
//!
//! A wrapped port announces each call, and a [`Director`] answers with a [`Fate`]. The stage then waits, crashes or
//! pauses the calling process, runs the call or not, and gives the answer or loses it. All of it goes into a
//! trace, whose hash tells whether two runs were the same.

use std::{
    collections::VecDeque,
    fmt,
    hash::Hasher,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dormouse_core::{Error, Result, ports::Clock, testing::seeded::PausedClock};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::auditor::Auditor;

tokio::task_local! {
    /// Which worker, schedule or client of a process is running.
    pub(super) static ACTOR: &'static str;
}

/// A call on a port.
#[derive(Clone, Debug)]
pub struct Call {
    /// The worker, schedule or client that calls.
    pub actor: &'static str,
    /// What is called, without ids: `items write transactions,heads`, `objects put data`.
    pub operation: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.actor, self.operation)
    }
}

/// The actor of calls that a row engine makes on a thread of its own.
///
/// Time stands still while such a thread works, so these calls neither wait nor stand still themselves; a crash ends
/// them with an error that nobody is left to see.
const ENGINE: &str = "engine";

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// How long the call waits before it takes effect.
    pub before: Duration,
    /// What happens.
    pub act: Act,
    /// How long the answer takes.
    pub after: Duration,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// Nothing unusual.
    #[default]
    Pass,
    /// It fails before it has an effect, as a store that is throttling, full or gone.
    Fail(&'static str),
    /// It has its effect, and the answer is lost.
    LoseReply,
    /// The process dies before the effect.
    CrashBefore,
    /// The process dies after the effect.
    CrashAfter,
    /// The whole process stands still before the effect.
    PauseBefore(Duration),
    /// The whole process stands still after the effect.
    PauseAfter(Duration),
    /// A create answers that the object exists, and it does not; other calls fail.
    FalseExists,
    /// A part of a batch takes effect, and the call fails.
    Partial,
    /// The body of an object ends early.
    Short,
    /// One byte of the body of an object is another.
    Flip,
    /// The connection breaks in the middle of a body.
    Reset,
    /// A copy of each received message is delivered again, so much later.
    Duplicate(Duration),
}

impl Act {
    /// The name in traces and counts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(why) => why,
            Self::LoseReply => "lost reply",
            Self::CrashBefore => "crash before",
            Self::CrashAfter => "crash after",
            Self::PauseBefore(_) => "pause before",
            Self::PauseAfter(_) => "pause after",
            Self::FalseExists => "false exists",
            Self::Partial => "partial batch",
            Self::Short => "short body",
            Self::Flip => "flipped byte",
            Self::Reset => "reset body",
            Self::Duplicate(_) => "duplicate delivery",
        }
    }
}

/// Decides what becomes of calls.
pub trait Director: Send {
    /// The fate of the next call.
    fn decide(&mut self, call: &Call) -> Fate;
}

/// Nothing goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calm;

impl Director for Calm {
    fn decide(&mut self, _call: &Call) -> Fate {
        Fate::default()
    }
}

/// What a process can be done to from outside.
#[derive(Debug)]
pub struct Control {
    /// Counts the processes of a run.
    pub number: u32,
    killed: AtomicBool,
    paused: Mutex<Option<Duration>>,
    waker: AtomicWaker,
    /// Asks the process to stop, as SIGTERM does.
    pub stop: CancellationToken,
}

impl Control {
    /// A process that is to run.
    pub fn new(number: u32) -> Arc<Self> {
        Arc::new(Self {
            number,
            killed: AtomicBool::new(false),
            paused: Mutex::default(),
            waker: AtomicWaker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Ends the process between two of its steps, as SIGKILL does.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Stops the process, as SIGSTOP does, and lets it go on after `time`.
    pub fn pause(&self, time: Duration) {
        *self.paused.lock() = Some(time);
        self.waker.wake();
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    pub(super) fn take_pause(&self) -> Option<Duration> {
        self.paused.lock().take()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.lock().is_some()
    }

    pub(super) fn register(&self, context: &std::task::Context<'_>) {
        self.waker.register(context.waker());
    }
}

/// An error that a fault can be made of.
pub(super) trait Faulty {
    fn fault(text: String) -> Self;
}

impl Faulty for Error {
    fn fault(text: String) -> Self {
        Error::unavailable(text)
    }
}

impl Faulty for object_store::Error {
    fn fault(text: String) -> Self {
        object_store::Error::Generic {
            store: "simulation",
            source: text.into(),
        }
    }
}

/// What happened, in order: a hash of all, and the newest in words.
#[derive(Debug)]
struct Trace {
    hasher: std::collections::hash_map::DefaultHasher,
    calls: u64,
    kept: usize,
    newest: VecDeque<String>,
}

/// The meeting place of a run.
pub struct Stage {
    /// The true time.
    pub clock: Arc<PausedClock>,
    /// Who sees every effect.
    pub auditor: Auditor,
    director: Mutex<Box<dyn Director>>,
    trace: Mutex<Trace>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

impl Stage {
    /// A stage without faults, whose trace keeps so many of the newest lines.
    pub fn new(clock: Arc<PausedClock>, auditor: Auditor, kept: usize) -> Arc<Self> {
        Arc::new(Self {
            clock,
            auditor,
            director: Mutex::new(Box::new(Calm)),
            trace: Mutex::new(Trace {
                hasher: std::collections::hash_map::DefaultHasher::new(),
                calls: 0,
                kept,
                newest: VecDeque::new(),
            }),
        })
    }

    /// From now on `director` decides.
    pub fn direct(&self, director: impl Director + 'static) {
        *self.director.lock() = Box::new(director);
    }

    /// Writes a line into the trace.
    pub fn note(&self, text: impl fmt::Display) {
        let now = self.clock.now().as_millis();
        let line = format!("{now} {text}");
        let mut trace = self.trace.lock();
        trace.hasher.write(line.as_bytes());
        if trace.newest.len() >= trace.kept {
            trace.newest.pop_front();
        }
        trace.newest.push_back(line);
    }

    /// How many calls there were, and the hash of the trace.
    pub fn trace(&self) -> (u64, u64) {
        let trace = self.trace.lock();
        (trace.calls, trace.hasher.finish())
    }

    /// The newest lines of the trace.
    pub fn newest(&self) -> Vec<String> {
        self.trace.lock().newest.iter().cloned().collect()
    }

    /// Asks the director about a call.
    pub(super) fn fate(&self, control: &Control, operation: String) -> (Call, Fate) {
        let actor = ACTOR.try_with(|actor| *actor).unwrap_or(ENGINE);
        let call = Call { actor, operation };
        let fate = self.director.lock().decide(&call);
        self.trace.lock().calls += 1;
        self.auditor.count_fate(fate);
        self.note(format_args!("#{} {call} {:?}", control.number, fate.act));
        (call, fate)
    }

    /// What comes before the effect; an error means that there is none.
    pub(super) async fn before<E: Faulty>(
        &self,
        control: &Control,
        call: &Call,
        fate: Fate,
    ) -> Result<(), E> {
        self.wait(call, fate.before).await;
        match fate.act {
            Act::CrashBefore => return Err(crash(control, call).await),
            Act::PauseBefore(time) => pause(control, time).await,
            Act::Fail(why) => return Err(E::fault(format!("{why} at \"{call}\""))),
            _ => {}
        }
        Ok(())
    }

    /// What comes after the effect; an error takes the place of the answer.
    pub(super) async fn after<E: Faulty>(&self, control: &Control, call: &Call, fate: Fate) -> Result<(), E> {
        self.wait(call, fate.after).await;
        match fate.act {
            Act::CrashAfter => return Err(crash(control, call).await),
            Act::PauseAfter(time) => pause(control, time).await,
            Act::LoseReply => return Err(E::fault(format!("no reply from \"{call}\""))),
            _ => {}
        }
        Ok(())
    }

    /// A call without fates of its own kind.
    pub(super) async fn around<T, E: Faulty>(
        &self,
        control: &Control,
        operation: String,
        effect: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let (call, fate) = self.fate(control, operation);
        self.before(control, &call, fate).await?;
        let answer = effect.await;
        self.after(control, &call, fate).await?;
        answer
    }

    async fn wait(&self, call: &Call, time: Duration) {
        if time.is_zero() || call.actor == ENGINE {
            tokio::task::yield_now().await;
        } else {
            self.clock.sleep(time).await;
        }
    }
}

async fn crash<E: Faulty>(control: &Control, call: &Call) -> E {
    control.kill();
    if call.actor != ENGINE {
        futures::future::pending::<()>().await;
    }
    E::fault(format!("the process died at \"{call}\""))
}

async fn pause(control: &Control, time: Duration) {
    control.pause(time);
    tokio::task::yield_now().await;
}
