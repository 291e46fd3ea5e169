use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    ports::{
        Clock, Delivery, Ids, Message, Queue, QueueDepth, QueueName, QueueSettings, Receipt, StoredMessage,
    },
    testing::memory::MemoryQueue,
    time::Timestamp,
};
use parking_lot::Mutex;

use crate::testing::stage::{Act, Control, Stage};

/// A queue that also delivers copies of what it has delivered before.
#[derive(Debug)]
pub(super) struct SharedQueue {
    inner: MemoryQueue,
    clock: Arc<dyn Clock>,
    copies: Mutex<Copies>,
}

#[derive(Debug, Default)]
struct Copies {
    next: u64,
    /// By the time when they are due.
    due: BTreeMap<(Timestamp, u64), Delivery>,
    /// The last delivery of each message.
    delivered: BTreeMap<String, Delivery>,
}

fn is_copy(receipt: &Receipt) -> bool {
    receipt.0.contains("/copy-")
}

impl SharedQueue {
    pub(super) fn new(
        name: QueueName,
        settings: QueueSettings,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self {
            inner: MemoryQueue::new(name, settings, clock.clone(), ids),
            clock,
            copies: Mutex::default(),
        }
    }

    /// Delivers a copy again after `delay`, with a receipt of its own that acknowledges the same message.
    fn copy(&self, delivery: &Delivery, delay: Duration) {
        let mut copies = self.copies.lock();
        copies.next += 1;
        let number = copies.next;
        let copy = Delivery {
            receipt: Receipt(format!("{}/copy-{number}", delivery.message_id)),
            attempt: delivery.attempt + 1,
            ..delivery.clone()
        };
        copies.due.insert((self.clock.now().plus(delay), number), copy);
    }

    pub(super) fn deliver_again(&self) -> usize {
        let delivered: Vec<_> = self.copies.lock().delivered.values().cloned().collect();
        for delivery in &delivered {
            self.copy(delivery, Duration::ZERO);
        }
        delivered.len()
    }

    fn due(&self, max: usize) -> Vec<Delivery> {
        let now = self.clock.now();
        let mut copies = self.copies.lock();
        let due: Vec<_> = copies
            .due
            .range(..=(now, u64::MAX))
            .map(|(place, _)| *place)
            .take(max)
            .collect();
        due.iter().filter_map(|place| copies.due.remove(place)).collect()
    }

    fn until_due(&self) -> Option<Duration> {
        let now = self.clock.now();
        self.copies.lock().due.keys().next().map(|(at, _)| at.since(now))
    }
}

#[async_trait]
impl Queue for SharedQueue {
    fn name(&self) -> QueueName {
        self.inner.name()
    }

    fn settings(&self) -> QueueSettings {
        self.inner.settings()
    }

    async fn send(&self, messages: Vec<Message>) -> Result<Vec<String>> {
        self.inner.send(messages).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let due = self.due(max);
        if !due.is_empty() {
            return Ok(due);
        }
        let wait = self.until_due().map_or(wait, |due| due.min(wait));
        let received = self.inner.receive(max, wait).await?;
        if received.is_empty() {
            return Ok(self.due(max));
        }
        let mut copies = self.copies.lock();
        for delivery in &received {
            copies
                .delivered
                .insert(delivery.message_id.clone(), delivery.clone());
        }
        Ok(received)
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        match is_copy(receipt) {
            true => Ok(()),
            false => self.inner.extend(receipt, time).await,
        }
    }

    async fn give_back(&self, receipt: &Receipt) -> Result<()> {
        match is_copy(receipt) {
            true => Ok(()),
            false => self.inner.give_back(receipt).await,
        }
    }

    async fn ack(&self, receipt: &Receipt) -> Result<()> {
        self.inner.ack(receipt).await
    }

    async fn dead_letter(&self, receipt: &Receipt) -> Result<()> {
        match is_copy(receipt) {
            true => Ok(()),
            false => self.inner.dead_letter(receipt).await,
        }
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let mut depth = self.inner.depth().await?;
        depth.hidden += self.copies.lock().due.len() as u64;
        Ok(depth)
    }

    async fn peek(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        self.inner.peek(limit).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        self.inner.dead_letters(limit).await
    }

    async fn redrive(&self, message_ids: Option<&[String]>) -> Result<u64> {
        self.inner.redrive(message_ids).await
    }
}

/// A process's connection to a queue.
#[derive(Debug)]
pub(super) struct SimulatedQueue {
    pub(super) inner: Arc<SharedQueue>,
    pub(super) stage: Arc<Stage>,
    pub(super) control: Arc<Control>,
}

impl SimulatedQueue {
    async fn around<T>(&self, method: &str, effect: impl Future<Output = Result<T>>) -> Result<T> {
        let operation = format!("queue {method} {}", self.inner.name());
        self.stage.around(&self.control, operation, effect).await
    }
}

#[async_trait]
impl Queue for SimulatedQueue {
    fn name(&self) -> QueueName {
        self.inner.name()
    }

    fn settings(&self) -> QueueSettings {
        self.inner.settings()
    }

    async fn send(&self, messages: Vec<Message>) -> Result<Vec<String>> {
        let operation = format!("queue send {}", self.inner.name());
        let (call, fate) = self.stage.fate(&self.control, operation);
        self.stage.before::<Error>(&self.control, &call, fate).await?;
        if fate.act == Act::Partial {
            let half = messages.len() / 2;
            self.inner.send(messages.into_iter().take(half).collect()).await?;
            return Err(Error::unavailable(format!("half of \"{call}\" was sent")));
        }
        let sent = self.inner.send(messages).await;
        self.stage.after::<Error>(&self.control, &call, fate).await?;
        sent
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let operation = format!("queue receive {}", self.inner.name());
        let (call, fate) = self.stage.fate(&self.control, operation);
        self.stage.before::<Error>(&self.control, &call, fate).await?;
        let received = self.inner.receive(max, wait).await?;
        if let Act::Duplicate(delay) = fate.act {
            for delivery in &received {
                self.inner.copy(delivery, delay);
            }
        }
        if !received.is_empty() {
            self.stage.after::<Error>(&self.control, &call, fate).await?;
        }
        self.stage.auditor.received(&self.stage, self.name(), &received);
        Ok(received)
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        let method = if time.is_zero() { "release" } else { "extend" };
        self.around(method, self.inner.extend(receipt, time)).await
    }

    async fn give_back(&self, receipt: &Receipt) -> Result<()> {
        self.around("give_back", self.inner.give_back(receipt)).await
    }

    async fn ack(&self, receipt: &Receipt) -> Result<()> {
        let acknowledge = async {
            self.stage
                .auditor
                .acknowledged(&self.stage, self.name(), receipt)
                .await;
            self.inner.ack(receipt).await
        };
        self.around("ack", acknowledge).await
    }

    async fn dead_letter(&self, receipt: &Receipt) -> Result<()> {
        self.around("dead_letter", self.inner.dead_letter(receipt)).await
    }

    async fn depth(&self) -> Result<QueueDepth> {
        self.around("depth", self.inner.depth()).await
    }

    async fn peek(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        self.around("peek", self.inner.peek(limit)).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        self.around("dead_letters", self.inner.dead_letters(limit)).await
    }

    async fn redrive(&self, message_ids: Option<&[String]>) -> Result<u64> {
        self.around("redrive", self.inner.redrive(message_ids)).await
    }
}
