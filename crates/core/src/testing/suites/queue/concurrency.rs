use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{LONG, expect, in_group, settings};
use crate::ports::{Message, Queue, QueueName, QueueSettings};

const PRODUCERS: usize = 8;
const CONSUMERS: usize = 8;
const MESSAGES_EACH: usize = 250;

/// Receives and acknowledges until `expected` messages were handled, by anybody.
async fn consume(queue: Arc<dyn Queue>, handled: Arc<Mutex<BTreeMap<String, Vec<String>>>>, expected: usize) {
    loop {
        let deliveries = queue.receive(10, Duration::from_millis(200)).await;
        for delivery in expect(deliveries, "receiving") {
            handled
                .lock()
                .entry(delivery.message_id)
                .or_default()
                .push(delivery.body);
            expect(queue.ack(&delivery.receipt).await, "acknowledging");
        }
        if handled.lock().len() >= expected {
            return;
        }
    }
}

/// Eight producers and eight consumers: every message is handled, and none twice, since none was hidden for
/// longer than its visibility.
pub async fn concurrent_producers_and_consumers_lose_nothing(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    let queue = make(QueueName::Ingest, settings(LONG * 3)).await;
    let handled = Arc::new(Mutex::new(BTreeMap::new()));
    let sent = Arc::new(Mutex::new(BTreeSet::new()));
    let mut tasks = JoinSet::new();
    for producer in 0..PRODUCERS {
        let (queue, sent) = (queue.clone(), sent.clone());
        tasks.spawn(async move {
            let messages: Vec<_> = (0..MESSAGES_EACH)
                .map(|n| Message::new(format!("{producer}/{n}")))
                .collect();
            for (turn, batch) in messages.chunks(10).enumerate() {
                let ids = if turn % 5 == 0 {
                    let mut ids = Vec::new();
                    for message in batch {
                        ids.extend(expect(queue.send(vec![message.clone()]).await, "sending"));
                    }
                    ids
                } else {
                    expect(queue.send(batch.to_vec()).await, "sending")
                };
                sent.lock().extend(ids);
            }
        });
    }
    for _ in 0..CONSUMERS {
        tasks.spawn(consume(queue.clone(), handled.clone(), PRODUCERS * MESSAGES_EACH));
    }
    tasks.join_all().await;
    let depth = expect(queue.depth().await, "counting");
    let handled = handled.lock();
    assert!(
        handled.keys().eq(sent.lock().iter()),
        "other messages were handled than were sent"
    );
    let twice: Vec<_> = handled.values().filter(|bodies| bodies.len() > 1).collect();
    assert!(twice.is_empty(), "handled more than once: {twice:?}");
    assert_eq!(
        (depth.visible, depth.hidden, depth.dead),
        (0, 0, 0),
        "all messages are acknowledged: {depth:?}"
    );
}

/// Eight consumers on several groups: within each, messages are handled one at a time and in order.
pub async fn groups_keep_their_order_under_many_consumers(
    make: &impl AsyncFn(QueueName, QueueSettings) -> Arc<dyn Queue>,
) {
    const GROUPS: usize = 5;
    const MESSAGES: usize = 24;
    let queue = make(QueueName::Commit, settings(LONG * 3)).await;
    let messages: Vec<_> = (0..MESSAGES * GROUPS)
        .map(|n| in_group(&format!("table {}", n % GROUPS), &format!("{}", n / GROUPS)))
        .enumerate()
        .map(|(n, message)| Message {
            body: format!("{}|{}", n % GROUPS, message.body),
            ..message
        })
        .collect();
    for batch in messages.chunks(10) {
        expect(queue.send(batch.to_vec()).await, "sending");
    }
    let started = Arc::new(Mutex::new(vec![Vec::<usize>::new(); GROUPS]));
    let busy = Arc::new(Mutex::new([false; GROUPS]));
    let mut tasks = JoinSet::new();
    for _ in 0..CONSUMERS {
        let (queue, started, busy) = (queue.clone(), started.clone(), busy.clone());
        tasks.spawn(async move {
            while started.lock().iter().map(Vec::len).sum::<usize>() < MESSAGES * GROUPS {
                let deliveries = queue.receive(2, Duration::from_millis(100)).await;
                for delivery in expect(deliveries, "receiving") {
                    let (group, number) = parse(&delivery.body);
                    let others = std::mem::replace(&mut busy.lock()[group], true);
                    assert!(!others, "two messages of one group were out at once");
                    started.lock()[group].push(number);
                    tokio::task::yield_now().await;
                    busy.lock()[group] = false;
                    expect(queue.ack(&delivery.receipt).await, "acknowledging");
                }
            }
        });
    }
    tasks.join_all().await;
    for (group, order) in started.lock().iter().enumerate() {
        assert!(
            order.iter().copied().eq(0..MESSAGES),
            "group {group} came in the order {order:?}"
        );
    }
}

fn parse(body: &str) -> (usize, usize) {
    body.split_once('|')
        .and_then(|(group, number)| Some((group.parse().ok()?, number.parse().ok()?)))
        .unwrap_or_else(|| panic!("a body changed: {body}"))
}
