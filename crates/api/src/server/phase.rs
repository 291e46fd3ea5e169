//! What a connection waits for, and until when.
//!
//! The socket asks for the deadline whenever it has no byte to read; while a request is answered there is none, as
//! a client says nothing then, however long the answer takes.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The phase of a connection, which its socket, its service and its answers share.
#[derive(Clone, Debug)]
pub(super) struct Phases {
    state: Arc<Mutex<State>>,
    header: Duration,
    idle: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No byte came yet.
    Fresh { until: Instant },
    /// A head comes.
    Head { until: Instant },
    /// A request is answered.
    Busy,
    /// A request was answered, and the next one did not begin.
    Idle { until: Instant },
}

#[expect(
    clippy::disallowed_methods,
    reason = "sockets follow the machine's time, not the instance's clock"
)]
fn after(duration: Duration) -> Instant {
    Instant::now() + duration
}

impl Phases {
    /// A connection that was accepted just now: its first head may take `header`, and it may be idle for `idle`
    /// between requests.
    pub(super) fn new(header: Duration, idle: Duration) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::Fresh { until: after(header) })),
            header,
            idle,
        }
    }

    /// Until when the next byte must come, if it must.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match *self.state.lock() {
            State::Fresh { until } | State::Head { until } | State::Idle { until } => Some(until),
            State::Busy => None,
        }
    }

    /// Whether the client has not said anything.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(*self.state.lock(), State::Fresh { .. })
    }

    /// Bytes came.
    pub(super) fn on_read(&self) {
        let mut state = self.state.lock();
        match *state {
            State::Fresh { until } => *state = State::Head { until },
            State::Idle { .. } => {
                *state = State::Head {
                    until: after(self.header),
                }
            }
            State::Head { .. } | State::Busy => {}
        }
    }

    /// Bytes went: the rest of an answer leaves its buffer.
    pub(super) fn on_write(&self) {
        let mut state = self.state.lock();
        if let State::Idle { until } = &mut *state {
            *until = after(self.idle);
        }
    }

    /// A head is complete. The request is being answered until what this returns is dropped.
    pub(super) fn busy(&self) -> Busy {
        *self.state.lock() = State::Busy;
        Busy(self.clone())
    }
}

/// Held while a request is answered.
#[derive(Debug)]
pub(super) struct Busy(Phases);

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.state.lock() = State::Idle {
            until: after(self.0.idle),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_deadline() {
        let phases = Phases::new(HEADER, IDLE);
        let first = after(HEADER);
        assert!(phases.is_fresh());
        assert_eq!(phases.deadline(), Some(first));
        tokio::time::advance(Duration::from_secs(5)).await;
        // Neither the first byte nor any other moves the end of the head.
        for _ in 0..2 {
            phases.on_read();
            assert_eq!((phases.deadline(), phases.is_fresh()), (Some(first), false));
        }
        let busy = phases.busy();
        phases.on_read();
        phases.on_write();
        assert_eq!(phases.deadline(), None);
        drop(busy);
        assert_eq!(phases.deadline(), Some(after(IDLE)));
        tokio::time::advance(Duration::from_secs(5)).await;
        phases.on_write();
        assert_eq!(phases.deadline(), Some(after(IDLE)));
        phases.on_read();
        let head = after(HEADER);
        tokio::time::advance(Duration::from_secs(5)).await;
        phases.on_write();
        phases.on_read();
        assert_eq!(phases.deadline(), Some(head));
    }
}
