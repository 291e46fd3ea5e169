//! Sending many things by few calls: those that come while a call is under way go together with the next.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::error::{Error, Result};

/// Things that wait to be sent, each with an answer of its own.
///
/// Nothing runs in the background: whoever has something to send sends for all that wait, in turn. What whoever asked
/// was dropped for is not sent, unless it was on its way.
#[derive(Debug)]
pub struct Gather<T, A> {
    waiting: Mutex<VecDeque<(T, oneshot::Sender<Result<A>>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl<T, A> Default for Gather<T, A> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl<T, A> Gather<T, A> {
    /// Sends a thing, with at most `max` in a call, and returns what `call` answered for it. The call answers for
    /// each in order. It is made when `ready` is; what comes until then goes with it, and it is given what that answers.
    ///
    /// # Errors
    /// What `call` answered; `Unavailable` when whoever was sending it was dropped, or there was no answer for it.
    pub async fn send<P, R, F>(
        &self,
        thing: T,
        max: usize,
        ready: impl Fn() -> R,
        call: impl Fn(Vec<T>, P) -> F,
    ) -> Result<A>
    where
        R: Future<Output = P>,
        F: Future<Output = Vec<Result<A>>>,
    {
        let (answer, mut answered) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back((thing, answer));
        loop {
            let turn = self.turn.lock().await;
            match answered.try_recv() {
                Ok(outcome) => return outcome,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => {
                    return Err(Error::unavailable("it was given up while it was being sent"));
                }
            }
            let made_ready = ready().await;
            let (things, answers): (Vec<_>, Vec<_>) = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.retain(|(_, answer)| !answer.is_closed());
                let count = waiting.len().min(max.max(1));
                waiting.drain(..count).unzip()
            };
            for (answer, outcome) in answers.into_iter().zip(call(things, made_ready).await) {
                // Whoever asked may be gone.
                let _ = answer.send(outcome);
            }
            drop(turn);
        }
    }
}

/// One outcome as the answer for each of so many things.
pub fn to_each<A: Clone>(outcome: &Result<A>, count: usize) -> Vec<Result<A>> {
    let one = || match outcome {
        Ok(answer) => Ok(answer.clone()),
        Err(error) => Err(error.copied()),
    };
    (0..count).map(|_| one()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{FutureExt, future::join_all};
    use tokio::task::yield_now;

    use super::*;
    use crate::ErrorKind;

    #[tokio::test]
    async fn what_comes_during_a_call_goes_with_the_next_and_each_has_its_answer() {
        let (gather, calls) = (Gather::default(), Mutex::new(Vec::new()));
        let call = async |things: Vec<usize>| {
            calls.lock().unwrap().push(things.len());
            yield_now().await;
            things.into_iter().map(|thing| match thing % 5 {
                0 => Err(Error::conflict(thing.to_string())),
                _ => Ok(thing * 10),
            })
        };
        let sends = join_all((0..30).map(|thing| {
            gather.send(thing, 20, yield_now, |things, ()| {
                call(things).map(Iterator::collect)
            })
        }));
        let answers = sends.await;
        assert_eq!(*calls.lock().unwrap(), [20, 10]);
        for (thing, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(answer) => assert_eq!(answer, thing * 10),
                Err(error) => assert_eq!((error.to_string(), thing % 5), (thing.to_string(), 0)),
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_answered_is_unavailable() {
        let gather = Arc::new(Gather::<u8, ()>::default());
        let none = gather.send(1, 1, async || (), async |_, ()| Vec::new()).await;
        assert_eq!(none.unwrap_err().kind(), ErrorKind::Unavailable);

        let mut first = Box::pin(gather.send(1, 2, async || (), async |_, ()| std::future::pending().await));
        let mut second = Box::pin(gather.send(
            2,
            2,
            async || (),
            async |things, ()| things.iter().map(|_| Ok(())).collect(),
        ));
        // The second is on its way with nobody yet; the first took itself alone.
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_sent() {
        let gather = Gather::<u8, Vec<u8>>::default();
        let send = |thing| {
            gather.send(
                thing,
                3,
                async || yield_now().await,
                async |things: Vec<u8>, ()| things.iter().map(|_| Ok(things.clone())).collect(),
            )
        };
        let mut first = Box::pin(send(1));
        let mut second = Box::pin(send(2));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(second.await.unwrap(), [2]);
    }
}
