use std::{sync::Arc, time::Duration};

use super::{LONG, Leeway, SHORT, expect, expect_kind, in_group, next, nothing, send, settings};
use crate::{
    error::ErrorKind,
    ports::{Queue, QueueName, QueueSettings, StoredMessage},
};

fn view(messages: &[StoredMessage]) -> Vec<(&str, u32)> {
    messages
        .iter()
        .map(|message| (message.body.as_str(), message.attempts))
        .collect()
}

/// After `max_attempts` deliveries without acknowledgement a message is not delivered again.
pub async fn a_message_moves_to_the_dead_letters_after_its_attempts(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
    leeway: &Leeway,
) {
    let limited = QueueSettings {
        visibility: SHORT,
        max_attempts: 2,
    };
    let queue = make(QueueName::Ingest, limited).await;
    send(&*queue, &["poison"]).await;
    for attempt in 1..=2 {
        let delivery = next(&*queue, "a message with attempts left comes").await;
        assert_eq!(delivery.attempt, attempt, "attempts are counted from 1");
    }
    let last = expect(queue.receive(1, leeway.short() * 3).await, "receiving");
    assert!(last.is_empty(), "a third delivery with max_attempts 2: {last:?}");
    let depth = expect(queue.depth().await, "counting");
    assert_eq!(
        (depth.visible, depth.hidden, depth.dead),
        (0, 0, 1),
        "where is the message? {depth:?}"
    );
    let dead = expect(queue.dead_letters(10).await, "reading dead letters");
    assert_eq!(view(&dead), [("poison", 2)], "the dead letters");
}

/// `dead_letter` moves a message at its first delivery.
pub async fn a_message_moves_to_the_dead_letters_on_request(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(SHORT)).await;
    let ids = send(&*queue, &["damaged"]).await;
    let delivery = next(&*queue, "receiving what was sent").await;
    expect(
        queue.dead_letter(&delivery.receipt).await,
        "moving to the dead letters",
    );
    let later = expect(queue.receive(1, SHORT * 2).await, "receiving");
    assert!(later.is_empty(), "a dead letter was delivered: {later:?}");
    let dead = expect(queue.dead_letters(10).await, "reading dead letters");
    assert_eq!(view(&dead), [("damaged", 1)], "the dead letters");
    assert_eq!(
        (&dead[0].message_id, dead[0].sent_at),
        (&ids[0], delivery.sent_at),
        "a dead letter changed its id or time of sending"
    );
    assert!(
        expect(queue.dead_letters(0).await, "reading dead letters").is_empty(),
        "the limit of dead letters is ignored"
    );
    expect_kind(
        queue.extend(&delivery.receipt, SHORT).await,
        ErrorKind::Conflict,
        "extending a dead letter",
    );
}

/// A redriven message keeps its id and time of sending and has all its attempts again.
pub async fn redriven_messages_start_anew(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
    leeway: &Leeway,
) {
    let limited = QueueSettings {
        visibility: SHORT,
        max_attempts: 1,
    };
    let queue = make(QueueName::Ingest, limited).await;
    send(&*queue, &["second chance"]).await;
    let first = next(&*queue, "receiving what was sent").await;
    let gone = expect(queue.receive(1, leeway.short() * 3).await, "receiving");
    assert!(gone.is_empty(), "a second delivery with max_attempts 1: {gone:?}");
    assert_eq!(
        expect(queue.redrive(None).await, "redriving"),
        1,
        "the count of redriven messages"
    );
    let again = next(&*queue, "a redriven message comes").await;
    assert_eq!(again.attempt, 1, "a redrive resets the attempts");
    assert_eq!(
        (&again.message_id, &again.body, again.sent_at),
        (&first.message_id, &first.body, first.sent_at),
        "a redrive changed the message"
    );
    assert_ne!(
        again.receipt, first.receipt,
        "a delivery after a redrive has an older one's receipt"
    );
    expect_kind(
        queue.extend(&first.receipt, Duration::ZERO).await,
        ErrorKind::Conflict,
        "releasing with a receipt from before the redrive",
    );
    expect(
        queue.ack(&again.receipt).await,
        "acknowledging a redriven message",
    );
    let depth = expect(queue.depth().await, "counting");
    assert_eq!(
        (depth.visible, depth.hidden, depth.dead),
        (0, 0, 0),
        "all messages are gone: {depth:?}"
    );
    assert_eq!(
        expect(queue.redrive(None).await, "redriving"),
        0,
        "no dead letters are left to redrive"
    );
}

/// Ids choose what is redriven; unknown ids are nothing.
pub async fn redrive_takes_only_the_messages_named(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    send(&*queue, &["a", "b", "c"]).await;
    let mut chosen = None;
    for _ in 0..3 {
        let delivery = next(&*queue, "receiving what was sent").await;
        expect(
            queue.dead_letter(&delivery.receipt).await,
            "moving to the dead letters",
        );
        if delivery.body == "b" {
            chosen = Some(delivery.message_id);
        }
    }
    let chosen = chosen.unwrap_or_else(|| panic!("message b did not come"));
    let moved = queue.redrive(Some(&[chosen, "unheard of".to_owned()])).await;
    assert_eq!(expect(moved, "redriving"), 1, "the count of redriven messages");
    let delivery = next(&*queue, "a redriven message comes").await;
    assert_eq!(delivery.body, "b", "another message than the one named");
    nothing(&*queue, "messages that were not named stay dead").await;
    let moved = queue.redrive(Some(&[])).await;
    assert_eq!(expect(moved, "redriving"), 0, "naming no message redrives none");
    assert_eq!(
        expect(queue.depth().await, "counting").dead,
        2,
        "dead letters that are left"
    );
}

/// When the oldest message of a group becomes a dead letter, by request or by its attempts, the next one comes.
pub async fn a_dead_letter_frees_its_group(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>) {
    let limited = QueueSettings {
        visibility: SHORT,
        max_attempts: 1,
    };
    let queue = make(QueueName::Commit, limited).await;
    let messages = ["1", "2", "3"].map(|body| in_group("table", body)).to_vec();
    expect(queue.send(messages).await, "sending");
    let first = next(&*queue, "the oldest message of a group comes").await;
    assert_eq!(first.body, "1", "a group out of order");
    expect(
        queue.dead_letter(&first.receipt).await,
        "moving to the dead letters",
    );
    let second = next(&*queue, "a dead letter frees its group").await;
    assert_eq!(second.body, "2", "a group out of order");
    let third = next(&*queue, "a message without attempts left frees its group").await;
    assert_eq!(third.body, "3", "a group out of order");
    expect(queue.ack(&third.receipt).await, "acknowledging");
    let dead = expect(queue.dead_letters(10).await, "reading dead letters");
    assert_eq!(view(&dead), [("1", 1), ("2", 1)], "the dead letters");
}
