use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{LONG, expect, in_group, next, nothing, receive_all, settings};
use crate::ports::{Message, Queue, QueueName, QueueSettings};

/// The messages of a group come in the order of sending, and none while another is unacknowledged.
pub async fn a_group_delivers_in_order(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>) {
    let queue = make(QueueName::Commit, settings(LONG)).await;
    let bodies: Vec<_> = (0..6).map(|n| n.to_string()).collect();
    for half in bodies.chunks(3) {
        let messages = half.iter().map(|body| in_group("table", body)).collect();
        expect(queue.send(messages).await, "sending");
    }
    let mut received = Vec::new();
    while received.len() < bodies.len() {
        let deliveries = expect(queue.receive(2, LONG).await, "receiving");
        assert!(!deliveries.is_empty(), "a group stopped after {received:?}");
        for delivery in deliveries {
            nothing(&*queue, "a group is blocked while one of it is hidden").await;
            expect(queue.ack(&delivery.receipt).await, "acknowledging");
            received.push(delivery.body);
        }
    }
    assert_eq!(received, bodies, "a group delivers its oldest messages first");
    nothing(&*queue, "all messages are acknowledged").await;
}

/// A failed message is tried again before its successors.
pub async fn a_released_message_comes_before_its_group(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Commit, settings(LONG)).await;
    let messages = vec![in_group("table", "first"), in_group("table", "second")];
    expect(queue.send(messages).await, "sending");
    for attempt in 1..=3 {
        let delivery = next(&*queue, "the oldest message of a group comes").await;
        assert_eq!(
            (delivery.body.as_str(), delivery.attempt),
            ("first", attempt),
            "a group out of order"
        );
        let backoff = Duration::from_millis(100);
        expect(
            queue.extend(&delivery.receipt, backoff).await,
            "releasing with backoff",
        );
        nothing(&*queue, "a group is blocked while its oldest message backs off").await;
    }
}

/// Order is kept through delays too: successors wait for a delayed message.
pub async fn a_delayed_message_blocks_its_group(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Commit, settings(LONG)).await;
    let delayed = Message {
        delay: Duration::from_secs(1),
        ..in_group("table", "delayed")
    };
    let messages = vec![delayed, in_group("table", "next"), in_group("other", "other")];
    expect(queue.send(messages).await, "sending");
    for body in ["other", "delayed", "next"] {
        let delivery = next(&*queue, "a message of a group comes").await;
        assert_eq!(delivery.body, body, "a group out of order");
        expect(queue.ack(&delivery.receipt).await, "acknowledging");
    }
}

/// A blocked group holds up neither other groups nor messages without one.
pub async fn groups_do_not_block_each_other(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>) {
    let queue = make(QueueName::Commit, settings(LONG)).await;
    let groups = ["a", "b", "c", "d"];
    let mut messages = Vec::new();
    for turn in 0..20 {
        messages.extend(
            groups
                .iter()
                .take(if turn == 0 { 4 } else { 1 })
                .map(|group| in_group(group, &format!("{group}{turn}"))),
        );
    }
    expect(queue.send(messages).await, "sending");
    let deliveries = receive_all(&*queue, groups.len()).await;
    let received: BTreeSet<_> = deliveries.iter().map(|delivery| delivery.body.as_str()).collect();
    assert_eq!(
        received,
        BTreeSet::from(["a0", "b0", "c0", "d0"]),
        "each group delivers its oldest message"
    );
    nothing(&*queue, "all groups are blocked").await;
}
