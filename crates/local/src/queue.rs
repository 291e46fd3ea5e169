//! Queues in SQLite.
//!
//! A message is ready, behind the oldest message of its group, or dead. Only the oldest message of a group is
//! ready, so a receive reads the ready messages by the time they become visible, from one index, however long
//! the queue and its groups are. Whoever takes the oldest message of a group away makes the next one ready, in
//! the same transaction. A redriven message goes to the end of its group.
//!
//! A receipt names the message and counts its deliveries and redrives, so that no receipt is valid twice.

mod statements;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    ports::{
        Clock, Delivery, Ids, Message, Queue, QueueDepth, QueueName, QueueSettings, Receipt, StoredMessage,
        queue::check_messages,
    },
};
use tokio::sync::Notify;

use self::statements::{Attempt, Statements, parse_receipt};
use crate::database::Database;

#[derive(Debug)]
pub(crate) struct SqliteQueue {
    name: QueueName,
    settings: QueueSettings,
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    arrivals: Arc<Notify>,
    ended_waits: Notify,
}

impl SqliteQueue {
    pub(crate) fn new(
        name: QueueName,
        settings: QueueSettings,
        database: Arc<Database>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self {
            name,
            settings,
            arrivals: database.arrivals(name),
            ended_waits: Notify::new(),
            database,
            clock,
            ids,
        }
    }

    /// Delivers what is visible now.
    async fn take(&self, max: usize) -> Result<Vec<Delivery>> {
        let (name, settings, clock) = (self.name, self.settings, self.clock.clone());
        let deliveries = self
            .database
            .write(move |connection| Statements::new(connection, name).receive(max, settings, clock.now()))
            .await?;
        Ok(deliveries)
    }

    /// How long until a message is visible: zero when one is, `None` when none will be by itself.
    async fn until_visible(&self) -> Result<Option<Duration>> {
        let name = self.name;
        let visible_at = self
            .database
            .read(move |connection| Statements::new(connection, name).next_visible_at())
            .await?;
        Ok(visible_at.map(|visible_at| visible_at.since(self.clock.now())))
    }
}

fn gone(receipt: &Receipt) -> Error {
    Error::conflict(format!(
        "the message of receipt \"{}\" is gone or was delivered again",
        receipt.0
    ))
}

impl SqliteQueue {
    async fn hide(&self, receipt: &Receipt, time: Duration, attempt: Attempt) -> Result<()> {
        let (name, clock) = (self.name, self.clock.clone());
        let (id, delivery) = parse_receipt(receipt).ok_or_else(|| gone(receipt))?;
        let (id, found) = (id.to_owned(), gone(receipt));
        self.database
            .write(move |connection| {
                let visible_at = clock.now().plus(time);
                match Statements::new(connection, name).hide(&id, delivery, visible_at, attempt)? {
                    true => Ok(()),
                    false => Err(found.into()),
                }
            })
            .await?;
        self.arrivals.notify_waiters();
        Ok(())
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    fn name(&self) -> QueueName {
        self.name
    }

    fn settings(&self) -> QueueSettings {
        self.settings
    }

    async fn send(&self, messages: Vec<Message>) -> Result<Vec<String>> {
        check_messages(&messages)?;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = messages.iter().map(|_| self.ids.uuid().to_string()).collect();
        let (name, clock, sent) = (self.name, self.clock.clone(), ids.clone());
        self.database
            .write(move |connection| {
                let now = clock.now();
                let statements = Statements::new(connection, name);
                sent.iter()
                    .zip(&messages)
                    .try_for_each(|(id, message)| statements.add(id, message, now))
            })
            .await?;
        self.arrivals.notify_waiters();
        Ok(ids)
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut time_is_up = self.clock.sleep(wait);
        let watching = (!wait.is_zero()).then(|| self.database.watch());
        let mut last_look = wait.is_zero();
        loop {
            let arrived = self.arrivals.notified();
            let ended = self.ended_waits.notified();
            let committed = watching.as_ref().map(|watching| watching.committed());
            let until_visible = self.until_visible().await?;
            if until_visible == Some(Duration::ZERO) {
                let deliveries = self.take(max).await?;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                if !last_look {
                    continue;
                }
            }
            let Some(committed) = committed.filter(|_| !last_look) else {
                return Ok(Vec::new());
            };
            tokio::select! {
                () = arrived => {}
                () = committed => {}
                () = self.clock.sleep(until_visible.unwrap_or(wait)) => {}
                () = &mut time_is_up => last_look = true,
                () = ended => return Ok(Vec::new()),
            }
        }
    }

    fn end_waits(&self) {
        self.ended_waits.notify_waiters();
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        self.hide(receipt, time, Attempt::Counts).await
    }

    async fn give_back(&self, receipt: &Receipt) -> Result<()> {
        self.hide(receipt, Duration::ZERO, Attempt::WasNone).await
    }

    async fn ack(&self, receipt: &Receipt) -> Result<()> {
        let Some((id, _)) = parse_receipt(receipt) else {
            return Ok(());
        };
        let (name, id) = (self.name, id.to_owned());
        self.database
            .write(move |connection| Statements::new(connection, name).remove(&id))
            .await?;
        self.arrivals.notify_waiters();
        Ok(())
    }

    async fn dead_letter(&self, receipt: &Receipt) -> Result<()> {
        let (id, delivery) = parse_receipt(receipt).ok_or_else(|| gone(receipt))?;
        let (name, id, found) = (self.name, id.to_owned(), gone(receipt));
        self.database
            .write(move |connection| {
                match Statements::new(connection, name).bury_delivery(&id, delivery)? {
                    true => Ok(()),
                    false => Err(found.into()),
                }
            })
            .await?;
        self.arrivals.notify_waiters();
        Ok(())
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let (name, now) = (self.name, self.clock.now());
        self.database
            .read(move |connection| Statements::new(connection, name).depth(now))
            .await
    }

    async fn peek(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        let name = self.name;
        self.database
            .read(move |connection| Statements::new(connection, name).live(limit))
            .await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        let name = self.name;
        self.database
            .read(move |connection| Statements::new(connection, name).dead(limit))
            .await
    }

    async fn redrive(&self, message_ids: Option<&[String]>) -> Result<u64> {
        let (name, clock, ids) = (self.name, self.clock.clone(), message_ids.map(<[String]>::to_vec));
        let moved = self
            .database
            .write(move |connection| Statements::new(connection, name).redrive(ids.as_deref(), clock.now()))
            .await?;
        self.arrivals.notify_waiters();
        Ok(moved)
    }
}
