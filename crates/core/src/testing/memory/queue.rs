use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    error::{Error, Result},
    ports::{
        Clock, Delivery, Ids, Message, Queue, QueueDepth, QueueName, QueueSettings, Receipt, StoredMessage,
        queue::check_messages,
    },
    time::Timestamp,
};

/// A [`Queue`] in memory.
#[derive(Debug)]
pub struct MemoryQueue {
    name: QueueName,
    settings: QueueSettings,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    messages: Mutex<Messages>,
    arrived: Notify,
}

/// Messages by their place in the order of sending.
#[derive(Debug, Default)]
struct Messages {
    next: u64,
    live: BTreeMap<u64, Stored>,
    dead: BTreeMap<u64, Stored>,
}

#[derive(Debug)]
struct Stored {
    id: String,
    body: String,
    group: Option<String>,
    sent_at: Timestamp,
    visible_at: Timestamp,
    attempts: u32,
    /// Counts deliveries and redrives for ever, so that no receipt is valid twice.
    deliveries: u64,
}

impl Stored {
    fn receipt(&self) -> Receipt {
        Receipt(format!("{}/{}", self.id, self.deliveries))
    }

    fn view(&self) -> StoredMessage {
        StoredMessage {
            message_id: self.id.clone(),
            body: self.body.clone(),
            attempts: self.attempts,
            sent_at: self.sent_at,
        }
    }
}

impl Messages {
    fn add(&mut self, message: Stored) {
        self.live.insert(self.next, message);
        self.next += 1;
    }

    fn bury(&mut self, place: u64) {
        if let Some(message) = self.live.remove(&place) {
            self.dead.insert(place, message);
        }
    }

    /// Buries what was delivered often enough, then finds up to `max` messages to deliver.
    fn ready(&mut self, max: usize, max_attempts: u32, now: Timestamp) -> Vec<u64> {
        let exhausted: Vec<_> = self
            .live
            .iter()
            .filter(|(_, message)| message.visible_at <= now && message.attempts >= max_attempts)
            .map(|(&place, _)| place)
            .collect();
        for place in exhausted {
            self.bury(place);
        }
        let hidden: BTreeSet<_> = self
            .live
            .values()
            .filter(|message| message.visible_at > now)
            .filter_map(|message| message.group.as_ref())
            .collect();
        self.live
            .iter()
            .filter(|(_, message)| {
                let is_free = message.group.as_ref().is_none_or(|group| !hidden.contains(group));
                is_free && message.visible_at <= now
            })
            .map(|(&place, _)| place)
            .take(max)
            .collect()
    }

    fn latest_delivery(&mut self, receipt: &Receipt) -> Result<u64> {
        self.live
            .iter()
            .find(|(_, message)| message.deliveries > 0 && message.receipt() == *receipt)
            .map(|(&place, _)| place)
            .ok_or_else(|| {
                Error::conflict(format!(
                    "the message of receipt \"{}\" is gone or was delivered again",
                    receipt.0
                ))
            })
    }
}

impl MemoryQueue {
    /// An empty queue.
    pub fn new(name: QueueName, settings: QueueSettings, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self {
            name,
            settings,
            clock,
            ids,
            messages: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    fn take(&self, max: usize) -> Vec<Delivery> {
        let now = self.clock.now();
        let mut messages = self.messages.lock();
        let ready = messages.ready(max, self.settings.max_attempts, now);
        ready
            .into_iter()
            .filter_map(|place| {
                let message = messages.live.get_mut(&place)?;
                message.attempts += 1;
                message.deliveries += 1;
                message.visible_at = now.plus(self.settings.visibility);
                Some(Delivery {
                    message_id: message.id.clone(),
                    body: message.body.clone(),
                    receipt: message.receipt(),
                    attempt: message.attempts,
                    sent_at: message.sent_at,
                })
            })
            .collect()
    }

    /// How long until the next hidden message becomes visible.
    fn until_next(&self) -> Option<Duration> {
        let now = self.clock.now();
        let messages = self.messages.lock();
        messages
            .live
            .values()
            .map(|message| message.visible_at.since(now))
            .filter(|time| !time.is_zero())
            .min()
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn name(&self) -> QueueName {
        self.name
    }

    fn settings(&self) -> QueueSettings {
        self.settings
    }

    async fn send(&self, messages: Vec<Message>) -> Result<Vec<String>> {
        check_messages(&messages)?;
        let now = self.clock.now();
        let mut stored = self.messages.lock();
        let ids = messages
            .into_iter()
            .map(|message| {
                let id = self.ids.uuid().to_string();
                stored.add(Stored {
                    id: id.clone(),
                    body: message.body,
                    group: message.group,
                    sent_at: now,
                    visible_at: now.plus(message.delay),
                    attempts: 0,
                    deliveries: 0,
                });
                id
            })
            .collect();
        drop(stored);
        self.arrived.notify_waiters();
        Ok(ids)
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut time_is_up = self.clock.sleep(wait);
        loop {
            let arrived = self.arrived.notified();
            let deliveries = self.take(max);
            if !deliveries.is_empty() || wait.is_zero() {
                return Ok(deliveries);
            }
            let next = self.until_next().unwrap_or(wait);
            tokio::select! {
                biased;
                () = arrived => {}
                () = self.clock.sleep(next) => {}
                () = &mut time_is_up => return Ok(self.take(max)),
            }
        }
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        let mut messages = self.messages.lock();
        let place = messages.latest_delivery(receipt)?;
        if let Some(message) = messages.live.get_mut(&place) {
            message.visible_at = self.clock.now().plus(time);
        }
        drop(messages);
        self.arrived.notify_waiters();
        Ok(())
    }

    async fn give_back(&self, receipt: &Receipt) -> Result<()> {
        let mut messages = self.messages.lock();
        let place = messages.latest_delivery(receipt)?;
        if let Some(message) = messages.live.get_mut(&place) {
            message.visible_at = self.clock.now();
            message.attempts = message.attempts.saturating_sub(1);
        }
        drop(messages);
        self.arrived.notify_waiters();
        Ok(())
    }

    async fn ack(&self, receipt: &Receipt) -> Result<()> {
        let id = receipt.0.split('/').next().unwrap_or_default();
        let mut messages = self.messages.lock();
        messages.live.retain(|_, message| message.id != id);
        messages.dead.retain(|_, message| message.id != id);
        drop(messages);
        self.arrived.notify_waiters();
        Ok(())
    }

    async fn dead_letter(&self, receipt: &Receipt) -> Result<()> {
        let mut messages = self.messages.lock();
        let place = messages.latest_delivery(receipt)?;
        messages.bury(place);
        drop(messages);
        self.arrived.notify_waiters();
        Ok(())
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let now = self.clock.now();
        let messages = self.messages.lock();
        let visible = messages
            .live
            .values()
            .filter(|message| message.visible_at <= now)
            .count();
        Ok(QueueDepth {
            visible: visible as u64,
            hidden: (messages.live.len() - visible) as u64,
            dead: messages.dead.len() as u64,
        })
    }

    async fn peek(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        let messages = self.messages.lock();
        Ok(messages.live.values().take(limit).map(Stored::view).collect())
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        let messages = self.messages.lock();
        Ok(messages.dead.values().take(limit).map(Stored::view).collect())
    }

    async fn redrive(&self, message_ids: Option<&[String]>) -> Result<u64> {
        let now = self.clock.now();
        let mut messages = self.messages.lock();
        let mut moved = 0;
        for (place, mut message) in std::mem::take(&mut messages.dead) {
            if message_ids.is_some_and(|ids| !ids.contains(&message.id)) {
                messages.dead.insert(place, message);
                continue;
            }
            message.attempts = 0;
            message.deliveries += 1;
            message.visible_at = now;
            messages.add(message);
            moved += 1;
        }
        drop(messages);
        self.arrived.notify_waiters();
        Ok(moved)
    }
}
