use std::{sync::Arc, time::Duration};

use super::{LONG, Leeway, SHORT, expect, in_group, next, send, settings};
use crate::ports::{Clock, Queue, QueueName, QueueSettings, SystemClock};

/// An empty queue answers at once when no wait is asked for.
pub async fn a_wait_without_time_returns_at_once(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    let before = SystemClock.now();
    let deliveries = expect(queue.receive(10, Duration::ZERO).await, "receiving");
    let waited = SystemClock.now().since(before);
    assert!(deliveries.is_empty(), "an empty queue delivered {deliveries:?}");
    assert!(
        waited < Duration::from_millis(500),
        "a receive without wait took {waited:?}"
    );
}

/// A wait on an empty queue ends with nothing, after its time.
pub async fn a_wait_without_messages_lasts_as_long_as_asked(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    let wait = Duration::from_secs(1);
    let before = SystemClock.now();
    let deliveries = expect(queue.receive(10, wait).await, "receiving");
    let waited = SystemClock.now().since(before);
    assert!(deliveries.is_empty(), "an empty queue delivered {deliveries:?}");
    assert!(
        waited >= wait - Duration::from_millis(10) && waited < wait * 3,
        "a wait of {wait:?} took {waited:?}"
    );
}

/// From the end of a send to the delivery a waiting receiver loses milliseconds only.
pub async fn a_wait_ends_when_a_message_is_sent(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
    leeway: &Leeway,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    let mut delays = Vec::new();
    for _ in 0..10 {
        let receiver = async {
            let delivery = next(&*queue, "a message sent during a wait comes").await;
            (delivery, SystemClock.now())
        };
        let sender = async {
            SystemClock.sleep(Duration::from_millis(30)).await;
            send(&*queue, &["awaited"]).await;
            SystemClock.now()
        };
        let ((delivery, received), sent) = futures::future::join(receiver, sender).await;
        expect(queue.ack(&delivery.receipt).await, "acknowledging");
        delays.push(received.since(sent));
    }
    delays.sort_unstable();
    let typical = delays[delays.len() / 2];
    assert!(
        typical < leeway.prompt,
        "a wait ended {typical:?} after a send: {delays:?}"
    );
}

/// A waiting receiver gets a message when its delay, its visibility or its group's block ends, not only when one
/// is sent.
pub async fn a_wait_ends_when_a_hidden_message_becomes_visible(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
    leeway: &Leeway,
) {
    let queue = make(QueueName::Ingest, settings(SHORT)).await;
    send(&*queue, &["hidden"]).await;
    next(&*queue, "receiving what was sent").await;
    let before = SystemClock.now();
    next(&*queue, "a wait ends when a message's visibility does").await;
    let waited = SystemClock.now().since(before);
    assert!(
        waited < SHORT + leeway.precision + leeway.prompt * 5,
        "a message with visibility {SHORT:?} came after {waited:?}"
    );

    let queue = make(QueueName::Commit, settings(LONG)).await;
    let messages = vec![in_group("table", "1"), in_group("table", "2")];
    expect(queue.send(messages).await, "sending");
    let first = next(&*queue, "the oldest message of a group comes").await;
    let receiver = async {
        next(&*queue, "a wait ends when the message before is acknowledged").await;
        SystemClock.now()
    };
    let worker = async {
        SystemClock.sleep(Duration::from_millis(50)).await;
        expect(queue.ack(&first.receipt).await, "acknowledging");
        SystemClock.now()
    };
    let (received, acknowledged) = futures::future::join(receiver, worker).await;
    let waited = received.since(acknowledged);
    assert!(
        waited < leeway.prompt * 5,
        "the next message of a group came {waited:?} after the one before was acknowledged"
    );
}
