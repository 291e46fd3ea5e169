//! Bodies of requests that are cut when they stop to come, and of answers whose end is seen.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::phase::Busy;

/// The body of a request. It ends with an error when no byte of it comes for a while.
pub(super) struct Incoming<B> {
    body: B,
    timeout: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<B> Incoming<B> {
    pub(super) fn new(body: B, timeout: Duration) -> Self {
        Self {
            body,
            timeout,
            alarm: None,
        }
    }
}

impl<B> Body for Incoming<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.alarm = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep(this.timeout)));
        ready!(alarm.as_mut().poll(context));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the body of the request stopped to come");
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "sockets follow the machine's time, not the instance's clock"
)]
fn sleep(duration: Duration) -> Sleep {
    tokio::time::sleep(duration)
}

/// The body of an answer: its connection is busy until it is dropped.
pub(super) struct Outgoing {
    body: axum::body::Body,
    _busy: Busy,
}

impl Outgoing {
    pub(super) fn new(body: axum::body::Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// A body whose frames come after these seconds each.
    fn frames(seconds: Vec<u64>) -> impl Body<Data = Bytes, Error = io::Error> + Unpin {
        let stream = futures::stream::iter(seconds).then(|seconds| async move {
            sleep(Duration::from_secs(seconds)).await;
            Ok(Frame::data(Bytes::from_static(b"x")))
        });
        StreamBody::new(Box::pin(stream))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_but_not_stop() {
        let timeout = Duration::from_secs(30);
        let slow = Incoming::new(frames(vec![29, 29, 29, 0]), timeout);
        assert_eq!(slow.collect().await.unwrap().to_bytes().len(), 4);
        let stopped = Incoming::new(frames(vec![29, 31]), timeout);
        let error = stopped.collect().await.unwrap_err();
        assert!(error.to_string().contains("stopped to come"), "{error}");
    }
}
