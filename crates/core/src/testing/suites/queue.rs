//! What every [`Queue`] keeps.
//!
//! The factory makes an empty queue of the given name and settings; checks of groups ask for
//! [`QueueName::Commit`], the ordered queue, and all others for [`QueueName::Ingest`].

mod concurrency;
mod dead_letters;
mod groups;
mod waiting;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub use concurrency::{
    concurrent_producers_and_consumers_lose_nothing, groups_keep_their_order_under_many_consumers,
};
pub use dead_letters::{
    a_dead_letter_frees_its_group, a_message_moves_to_the_dead_letters_after_its_attempts,
    a_message_moves_to_the_dead_letters_on_request, redrive_takes_only_the_messages_named,
    redriven_messages_start_anew,
};
pub use groups::{
    a_delayed_message_blocks_its_group, a_group_delivers_in_order, a_released_message_comes_before_its_group,
    groups_do_not_block_each_other,
};
pub use waiting::{
    a_wait_ends_when_a_hidden_message_becomes_visible, a_wait_ends_when_a_message_is_sent,
    a_wait_without_messages_lasts_as_long_as_asked, a_wait_without_time_returns_at_once,
};

use super::{expect, expect_kind};
use crate::{
    error::ErrorKind,
    ports::{
        Clock, Delivery, Message, Queue, QueueName, QueueSettings, Receipt, SystemClock,
        queue::MAX_BODY_BYTES,
    },
};

/// Visibility in checks that let it end.
const SHORT: Duration = Duration::from_millis(300);
/// Visibility in checks that must not let it end, and waits for messages that will come.
const LONG: Duration = Duration::from_secs(20);
/// A wait for messages that must not come.
const A_MOMENT: Duration = Duration::from_millis(60);

/// What a queue is like where the port leaves an adapter free.
#[derive(Clone, Copy, Debug)]
pub struct Leeway {
    /// Times are rounded up to a multiple of this.
    pub precision: Duration,
    /// Whether a delivery that was given back counts.
    pub counts_what_is_given_back: bool,
    /// Whether the receipt of an earlier delivery acknowledges.
    pub older_receipts_acknowledge: bool,
    /// Whether messages that wait can be looked at.
    pub shows_what_waits: bool,
    /// Whether messages of a group may have a delay.
    pub delays_in_groups: bool,
    /// How soon after a message is there a wait ends.
    pub prompt: Duration,
}

impl Leeway {
    /// A queue that takes none.
    pub const NONE: Self = Self {
        precision: Duration::from_millis(1),
        counts_what_is_given_back: false,
        older_receipts_acknowledge: true,
        shows_what_waits: true,
        delays_in_groups: true,
        prompt: Duration::from_millis(100),
    };

    /// [`SHORT`] as the queue has it.
    fn short(&self) -> Duration {
        SHORT.max(self.precision)
    }
}

/// Runs every check.
pub async fn all(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>) {
    all_with(make, &Leeway::NONE).await;
}

/// Runs every check, of a queue that takes some leeway.
pub async fn all_with(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>, leeway: &Leeway) {
    a_message_is_delivered_as_sent(make).await;
    ids_come_back_in_the_order_of_sending(make).await;
    receive_takes_no_more_than_asked(make).await;
    a_received_message_is_hidden_and_then_delivered_again(make).await;
    extend_keeps_a_message_hidden(make).await;
    extend_by_zero_releases_at_once(make).await;
    a_message_that_is_given_back_comes_at_once(make, leeway).await;
    an_acknowledged_message_is_gone(make).await;
    if leeway.older_receipts_acknowledge {
        any_receipt_of_a_message_acknowledges_it(make).await;
    }
    an_older_receipt_extends_nothing(make).await;
    a_delayed_message_comes_after_its_delay(make).await;
    depth_and_peek_show_what_is_there(make, leeway).await;
    bodies_have_a_limit(make).await;
    a_message_moves_to_the_dead_letters_after_its_attempts(make, leeway).await;
    a_message_moves_to_the_dead_letters_on_request(make).await;
    redriven_messages_start_anew(make, leeway).await;
    redrive_takes_only_the_messages_named(make).await;
    a_group_delivers_in_order(make).await;
    a_released_message_comes_before_its_group(make).await;
    if leeway.delays_in_groups {
        a_delayed_message_blocks_its_group(make).await;
    }
    groups_do_not_block_each_other(make).await;
    a_dead_letter_frees_its_group(make).await;
    a_wait_without_time_returns_at_once(make).await;
    a_wait_without_messages_lasts_as_long_as_asked(make).await;
    a_wait_ends_when_a_message_is_sent(make, leeway).await;
    a_wait_ends_when_a_hidden_message_becomes_visible(make, leeway).await;
    groups_keep_their_order_under_many_consumers(make).await;
    concurrent_producers_and_consumers_lose_nothing(make).await;
}

fn settings(visibility: Duration) -> QueueSettings {
    QueueSettings {
        visibility,
        max_attempts: 5,
    }
}

fn in_group(group: &str, body: &str) -> Message {
    Message {
        group: Some(group.to_owned()),
        ..Message::new(body)
    }
}

async fn send(queue: &dyn Queue, bodies: &[&str]) -> Vec<String> {
    let messages = bodies.iter().copied().map(Message::new).collect();
    expect(queue.send(messages).await, "sending")
}

/// The next delivery, which must come.
async fn next(queue: &dyn Queue, promise: &str) -> Delivery {
    let mut deliveries = expect(queue.receive(1, LONG).await, promise);
    match (deliveries.pop(), deliveries.is_empty()) {
        (Some(delivery), true) => delivery,
        (None, _) => panic!("{promise}: no message came"),
        (Some(_), false) => panic!("{promise}: more than the one message asked for came"),
    }
}

async fn nothing(queue: &dyn Queue, promise: &str) {
    let deliveries = expect(queue.receive(10, A_MOMENT).await, promise);
    assert!(deliveries.is_empty(), "{promise}: {deliveries:?} came");
}

/// Receives until `count` messages are there, which may take several calls.
async fn receive_all(queue: &dyn Queue, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let more = expect(
            queue.receive(10.min(count - deliveries.len()), LONG).await,
            "receiving",
        );
        assert!(
            !more.is_empty(),
            "only {} of {count} messages came",
            deliveries.len()
        );
        deliveries.extend(more);
    }
    deliveries
}

/// Body, id, time of sending and attempt number of a delivery are right.
pub async fn a_message_is_delivered_as_sent(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    assert_eq!(queue.name(), QueueName::Ingest, "the queue tells another name");
    assert_eq!(queue.settings(), settings(LONG), "the queue tells other settings");
    let body = "{\"id\": \"caf\u{e9} \u{1f600}\"}\n";
    let before = SystemClock.now();
    let ids = send(&*queue, &[body]).await;
    let delivery = next(&*queue, "receiving what was sent").await;
    let after = SystemClock.now();
    assert_eq!(delivery.body, body, "the body changed");
    assert_eq!(ids, [delivery.message_id], "the id is not the one that send told");
    assert_eq!(delivery.attempt, 1, "the first delivery has another number");
    let margin = Duration::from_secs(1);
    assert!(
        before.minus(margin) <= delivery.sent_at && delivery.sent_at <= after.plus(margin),
        "sent at {}, but send was called at {before}",
        delivery.sent_at
    );
}

/// `send` answers one id a message, in order, each unlike all others.
pub async fn ids_come_back_in_the_order_of_sending(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    let bodies: Vec<_> = (0..25).map(|n| n.to_string()).collect();
    let ids = send(&*queue, &bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(ids.len(), bodies.len(), "one id a message");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "ids repeat");
    for delivery in receive_all(&*queue, bodies.len()).await {
        let place = bodies.iter().position(|body| *body == delivery.body);
        assert_eq!(
            place.map(|place| &ids[place]),
            Some(&delivery.message_id),
            "the ids are not in the order of the messages"
        );
    }
    assert!(
        send(&*queue, &[]).await.is_empty(),
        "sending nothing answers no ids"
    );
}

/// Never more than `max` messages, and none twice while they are hidden.
pub async fn receive_takes_no_more_than_asked(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    send(&*queue, &["a", "b", "c", "d", "e"]).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 5 {
        let deliveries = expect(queue.receive(2, LONG).await, "receiving");
        assert!(
            (1..=2).contains(&deliveries.len()),
            "asked for up to 2 of 5 messages, got {}",
            deliveries.len()
        );
        for delivery in deliveries {
            assert!(seen.insert(delivery.body), "a hidden message was delivered again");
        }
    }
    nothing(&*queue, "all messages are hidden").await;
}

/// A message that is not acknowledged comes again after its visibility, with the next number.
pub async fn a_received_message_is_hidden_and_then_delivered_again(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(SHORT)).await;
    let ids = send(&*queue, &["again"]).await;
    let mut receipts = BTreeSet::new();
    let mut received_at = None;
    for attempt in 1..=3 {
        let delivery = next(&*queue, "a message whose visibility ended comes again").await;
        let now = SystemClock.now();
        if let Some(before) = received_at.replace(now) {
            let hidden = now.since(before);
            let least = SHORT - Duration::from_millis(100);
            assert!(
                hidden >= least,
                "a message came again after {hidden:?}, its visibility is {SHORT:?}"
            );
        }
        assert_eq!(delivery.attempt, attempt, "attempts are counted from 1");
        assert_eq!(
            delivery.message_id, ids[0],
            "a message changed its id when it came again"
        );
        assert!(
            receipts.insert(delivery.receipt.0),
            "two deliveries have one receipt"
        );
    }
}

/// While it is extended, a message does not come; afterwards it does.
pub async fn extend_keeps_a_message_hidden(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>) {
    let queue = make(QueueName::Ingest, settings(SHORT)).await;
    send(&*queue, &["extended"]).await;
    let delivery = next(&*queue, "receiving what was sent").await;
    expect(queue.extend(&delivery.receipt, SHORT * 4).await, "extending");
    let early = expect(queue.receive(1, SHORT * 2).await, "receiving");
    assert!(early.is_empty(), "an extended message came: {early:?}");
    let again = next(&*queue, "an extended message comes after its extension").await;
    assert_eq!(again.attempt, 2, "extending counted as a delivery");
}

/// Releasing makes a message visible without its visibility running out.
pub async fn extend_by_zero_releases_at_once(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    send(&*queue, &["released"]).await;
    let delivery = next(&*queue, "receiving what was sent").await;
    expect(queue.extend(&delivery.receipt, Duration::ZERO).await, "releasing");
    let before = SystemClock.now();
    let again = next(&*queue, "a released message comes again").await;
    let waited = SystemClock.now().since(before);
    assert!(waited < LONG / 4, "a released message came only after {waited:?}");
    assert_eq!(again.attempt, 2, "the second delivery has another number");
}

/// A message that is given back comes at once, and the receipt that gave it back is spent.
pub async fn a_message_that_is_given_back_comes_at_once(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
    leeway: &Leeway,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    send(&*queue, &["given back"]).await;
    let times = match leeway.counts_what_is_given_back {
        true => 2,
        false => settings(LONG).max_attempts * 2,
    };
    for _ in 0..times {
        let delivery = next(&*queue, "receiving what was given back").await;
        expect(queue.give_back(&delivery.receipt).await, "giving back");
    }
    let kept = next(&*queue, "giving back spends no attempt").await;
    let counted = if leeway.counts_what_is_given_back {
        times
    } else {
        0
    };
    assert_eq!(kept.attempt, counted + 1, "which earlier deliveries count");
    expect(queue.ack(&kept.receipt).await, "acknowledging");
    let late = queue.give_back(&kept.receipt).await;
    assert!(late.is_err(), "a message that is gone cannot be given back");
}

/// An acknowledged message never comes again; acknowledging twice is no error.
pub async fn an_acknowledged_message_is_gone(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(SHORT)).await;
    send(&*queue, &["done"]).await;
    let delivery = next(&*queue, "receiving what was sent").await;
    expect(queue.ack(&delivery.receipt).await, "acknowledging");
    let later = expect(queue.receive(1, SHORT * 2).await, "receiving");
    assert!(later.is_empty(), "an acknowledged message came again: {later:?}");
    expect(queue.ack(&delivery.receipt).await, "acknowledging again");
    expect_kind(
        queue.extend(&delivery.receipt, SHORT).await,
        ErrorKind::Conflict,
        "extending an acknowledged message",
    );
    expect_kind(
        queue.dead_letter(&delivery.receipt).await,
        ErrorKind::Conflict,
        "moving an acknowledged message to the dead letters",
    );
}

/// The receipt of an earlier delivery still acknowledges.
pub async fn any_receipt_of_a_message_acknowledges_it(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(SHORT)).await;
    send(&*queue, &["done by the first"]).await;
    let first = next(&*queue, "receiving what was sent").await;
    let second = next(&*queue, "a message whose visibility ended comes again").await;
    expect(
        queue.ack(&first.receipt).await,
        "acknowledging with an older receipt",
    );
    let later = expect(queue.receive(1, SHORT * 2).await, "receiving");
    assert!(later.is_empty(), "an acknowledged message came again: {later:?}");
    expect(
        queue.ack(&second.receipt).await,
        "acknowledging what is gone already",
    );
}

/// Only the newest receipt extends, releases or moves a message; text that is no receipt does neither.
pub async fn an_older_receipt_extends_nothing(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    send(&*queue, &["mine"]).await;
    let first = next(&*queue, "receiving what was sent").await;
    expect(queue.extend(&first.receipt, Duration::ZERO).await, "releasing");
    let second = next(&*queue, "a released message comes again").await;
    expect_kind(
        queue.extend(&first.receipt, Duration::ZERO).await,
        ErrorKind::Conflict,
        "releasing with an older receipt",
    );
    expect_kind(
        queue.dead_letter(&first.receipt).await,
        ErrorKind::Conflict,
        "moving to the dead letters with an older receipt",
    );
    nothing(&*queue, "an older receipt released a message").await;
    expect(
        queue.extend(&second.receipt, LONG).await,
        "extending with the newest receipt",
    );
    let unknown = Receipt("unheard of".to_owned());
    expect_kind(
        queue.extend(&unknown, LONG).await,
        ErrorKind::Conflict,
        "extending with a receipt of nothing",
    );
}

/// A message with a delay stays hidden until then and holds up no other.
pub async fn a_delayed_message_comes_after_its_delay(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    let late = Message {
        delay: Duration::from_secs(1),
        ..Message::new("late")
    };
    let before = SystemClock.now();
    expect(queue.send(vec![late, Message::new("now")]).await, "sending");
    let first = next(&*queue, "a message without delay comes").await;
    assert_eq!(first.body, "now", "a delayed message came first");
    let second = next(&*queue, "a delayed message comes").await;
    let waited = SystemClock.now().since(before);
    assert_eq!(
        (second.body.as_str(), second.attempt),
        ("late", 1),
        "another message than the delayed one"
    );
    assert!(
        waited >= Duration::from_millis(900),
        "a message with a delay of 1 s came after {waited:?}"
    );
}

/// Counts of visible and hidden messages, and a look at the oldest, without receiving.
pub async fn depth_and_peek_show_what_is_there(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
    leeway: &Leeway,
) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    let ids = send(&*queue, &["a", "b", "c"]).await;
    let late = Message {
        delay: LONG,
        ..Message::new("late")
    };
    expect(queue.send(vec![late]).await, "sending");
    next(&*queue, "receiving what was sent").await;
    let depth = expect(queue.depth().await, "counting");
    assert_eq!(
        (depth.visible, depth.hidden, depth.dead),
        (2, 2, 0),
        "of 4 messages one is received and one delayed: {depth:?}"
    );
    if !leeway.shows_what_waits {
        expect_kind(queue.peek(2).await, ErrorKind::Invalid, "peeking");
        return;
    }
    let peeked = expect(queue.peek(2).await, "peeking");
    assert_eq!(
        peeked.len(),
        2,
        "peeked at {} messages of 4, limit 2",
        peeked.len()
    );
    let all = expect(queue.peek(10).await, "peeking");
    for message in &all {
        let place = ids.iter().position(|id| *id == message.message_id);
        let body = place.map_or("late", |place| ["a", "b", "c"][place]);
        assert_eq!(message.body, body, "peeking shows another body");
    }
    let still = expect(queue.depth().await, "counting");
    assert_eq!(still, depth, "peeking changed the queue");
}

/// A body of [`MAX_BODY_BYTES`] passes; one byte more is refused, and with it the whole call.
pub async fn bodies_have_a_limit(make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>) {
    let queue = make(QueueName::Ingest, settings(LONG)).await;
    let over = "\u{1f600}".repeat(MAX_BODY_BYTES / 4) + "x";
    expect_kind(
        queue.send(vec![Message::new("fine"), Message::new(over)]).await,
        ErrorKind::Invalid,
        "a body one byte over the limit",
    );
    nothing(&*queue, "a refused call sent a message").await;
    let most = "x".repeat(MAX_BODY_BYTES);
    expect(
        queue.send(vec![Message::new(most.clone())]).await,
        "a body as long as the limit allows",
    );
    let delivery = next(&*queue, "a long message comes").await;
    assert!(delivery.body == most, "a long body changed");
}
