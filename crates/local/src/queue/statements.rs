//! The SQL of one queue. Every method expects to run inside a transaction.

use std::collections::HashSet;

use dormouse_core::{
    ports::{Delivery, Message, QueueDepth, QueueName, QueueSettings, Receipt, StoredMessage},
    time::Timestamp,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, named_params};

use crate::error::Failure;

const READY: i64 = 0;
const BEHIND: i64 = 1;
const DEAD: i64 = 2;

type Result<T> = std::result::Result<T, Failure>;

pub(super) struct Statements<'a> {
    connection: &'a Connection,
    queue: &'static str,
}

/// Whether a delivery counts as an attempt after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Counts,
    WasNone,
}

/// What is known of a message before its body is read.
struct Found {
    place: i64,
    group: Option<String>,
}

impl Found {
    /// Reads a row of `place, group_key`.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            place: row.get(0)?,
            group: row.get(1)?,
        })
    }
}

/// The message id and the number of the delivery.
pub(super) fn parse_receipt(receipt: &Receipt) -> Option<(&str, i64)> {
    let (id, delivery) = receipt.0.split_once('/')?;
    Some((id, delivery.parse().ok()?))
}

fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl<'a> Statements<'a> {
    pub(super) fn new(connection: &'a Connection, queue: QueueName) -> Self {
        Self {
            connection,
            queue: queue.as_str(),
        }
    }

    fn prepare(&self, sql: &str) -> Result<CachedStatement<'a>> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// Whether a message that joins the group now has one before it.
    fn is_occupied(&self, group: Option<&str>) -> Result<bool> {
        let Some(group) = group else {
            return Ok(false);
        };
        let mut occupied = self.prepare(
            "SELECT EXISTS (SELECT 1 FROM messages INDEXED BY messages_by_group
                            WHERE queue = :queue AND group_key = :group AND state < 2)",
        )?;
        Ok(
            occupied.query_row(named_params! { ":queue": self.queue, ":group": group }, |row| {
                row.get(0)
            })?,
        )
    }

    /// Makes the oldest message of the group ready, when it is not.
    fn advance(&self, group: Option<&str>) -> Result<()> {
        let Some(group) = group else {
            return Ok(());
        };
        self.prepare(
            "UPDATE messages SET state = 0
             WHERE state = 1 AND place = (SELECT min(place) FROM messages INDEXED BY messages_by_group
                                          WHERE queue = :queue AND group_key = :group AND state < 2)",
        )?
        .execute(named_params! { ":queue": self.queue, ":group": group })?;
        Ok(())
    }

    pub(super) fn add(&self, id: &str, message: &Message, now: Timestamp) -> Result<()> {
        let state = if self.is_occupied(message.group.as_deref())? {
            BEHIND
        } else {
            READY
        };
        self.prepare(
            "INSERT INTO messages
                 (queue, id, group_key, state, visible_at, attempts, deliveries, sent_at, body)
             VALUES (:queue, :id, :group, :state, :visible_at, 0, 0, :now, :body)",
        )?
        .execute(named_params! {
            ":queue": self.queue,
            ":id": id,
            ":group": message.group,
            ":state": state,
            ":visible_at": now.plus(message.delay).as_millis(),
            ":now": now.as_millis(),
            ":body": message.body,
        })?;
        Ok(())
    }

    pub(super) fn next_visible_at(&self) -> Result<Option<Timestamp>> {
        let mut next =
            self.prepare("SELECT min(visible_at) FROM messages WHERE queue = :queue AND state = 0")?;
        let millis: Option<i64> = next.query_row(named_params! { ":queue": self.queue }, |row| row.get(0))?;
        Ok(millis.map(Timestamp::from_millis))
    }

    /// Delivers up to `max` visible messages; buries those without attempts left on the way.
    pub(super) fn receive(
        &self,
        max: usize,
        settings: QueueSettings,
        now: Timestamp,
    ) -> Result<Vec<Delivery>> {
        let mut deliveries = Vec::new();
        while deliveries.len() < max {
            let (exhausted, ready) = self.visible(max - deliveries.len(), settings.max_attempts, now)?;
            if exhausted.is_empty() && ready.is_empty() {
                break;
            }
            for found in exhausted {
                self.bury(&found)?;
            }
            for place in ready {
                deliveries.push(self.deliver(place, now.plus(settings.visibility))?);
            }
        }
        Ok(deliveries)
    }

    /// Visible messages, oldest first: those that were delivered often enough, and the places of the others.
    fn visible(&self, limit: usize, max_attempts: u32, now: Timestamp) -> Result<(Vec<Found>, Vec<i64>)> {
        let mut visible = self.prepare(
            "SELECT place, group_key, attempts FROM messages
             WHERE queue = :queue AND state = 0 AND visible_at <= :now
             ORDER BY visible_at, place LIMIT :limit",
        )?;
        let mut rows = visible.query(named_params! {
            ":queue": self.queue,
            ":now": now.as_millis(),
            ":limit": at_most(limit),
        })?;
        let (mut exhausted, mut ready) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            let found = Found::read(row)?;
            if row.get::<_, u32>(2)? >= max_attempts {
                exhausted.push(found);
            } else {
                ready.push(found.place);
            }
        }
        Ok((exhausted, ready))
    }

    fn deliver(&self, place: i64, visible_at: Timestamp) -> Result<Delivery> {
        let mut deliver = self.prepare(
            "UPDATE messages
             SET attempts = attempts + 1, deliveries = deliveries + 1, visible_at = :visible_at
             WHERE place = :place
             RETURNING id, body, deliveries, attempts, sent_at",
        )?;
        let parameters = named_params! { ":place": place, ":visible_at": visible_at.as_millis() };
        Ok(deliver.query_row(parameters, |row| {
            let (message_id, deliveries): (String, i64) = (row.get(0)?, row.get(2)?);
            Ok(Delivery {
                receipt: Receipt(format!("{message_id}/{deliveries}")),
                message_id,
                body: row.get(1)?,
                attempt: row.get(3)?,
                sent_at: Timestamp::from_millis(row.get(4)?),
            })
        })?)
    }

    /// Hides the message of the newest delivery, if this is it.
    pub(super) fn hide(
        &self,
        id: &str,
        delivery: i64,
        visible_at: Timestamp,
        attempt: Attempt,
    ) -> Result<bool> {
        let mut hide = self.prepare(
            "UPDATE messages SET visible_at = :visible_at, attempts = max(0, attempts - :taken_back)
             WHERE id = :id AND queue = :queue AND deliveries = :delivery AND state < 2",
        )?;
        let changed = hide.execute(named_params! {
            ":visible_at": visible_at.as_millis(),
            ":taken_back": i64::from(attempt == Attempt::WasNone),
            ":id": id,
            ":queue": self.queue,
            ":delivery": delivery,
        })?;
        Ok(changed > 0)
    }

    pub(super) fn remove(&self, id: &str) -> Result<()> {
        let mut remove =
            self.prepare("DELETE FROM messages WHERE id = :id AND queue = :queue RETURNING group_key")?;
        let parameters = named_params! { ":id": id, ":queue": self.queue };
        let group: Option<Option<String>> = remove.query_row(parameters, |row| row.get(0)).optional()?;
        self.advance(group.flatten().as_deref())
    }

    /// Moves the message of the newest delivery, if this is it, to the dead letters.
    pub(super) fn bury_delivery(&self, id: &str, delivery: i64) -> Result<bool> {
        let mut find = self.prepare(
            "SELECT place, group_key FROM messages
             WHERE id = :id AND queue = :queue AND deliveries = :delivery AND state < 2",
        )?;
        let parameters = named_params! { ":id": id, ":queue": self.queue, ":delivery": delivery };
        match find.query_row(parameters, Found::read).optional()? {
            Some(found) => self.bury(&found).map(|()| true),
            None => Ok(false),
        }
    }

    fn bury(&self, found: &Found) -> Result<()> {
        self.prepare("UPDATE messages SET state = 2, visible_at = sent_at WHERE place = :place")?
            .execute(named_params! { ":place": found.place })?;
        self.advance(found.group.as_deref())
    }

    pub(super) fn depth(&self, now: Timestamp) -> Result<QueueDepth> {
        let mut count = self.prepare(
            "SELECT state = 2, visible_at <= :now, count(*) FROM messages WHERE queue = :queue GROUP BY 1, 2",
        )?;
        let mut rows = count.query(named_params! { ":queue": self.queue, ":now": now.as_millis() })?;
        let mut depth = QueueDepth::default();
        while let Some(row) = rows.next()? {
            let (is_dead, is_visible, messages): (bool, bool, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let messages = messages.unsigned_abs();
            match (is_dead, is_visible) {
                (true, _) => depth.dead += messages,
                (false, true) => depth.visible += messages,
                (false, false) => depth.hidden += messages,
            }
        }
        Ok(depth)
    }

    /// Messages that are not dead, the oldest first.
    pub(super) fn live(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        let mut live = self.prepare(
            "SELECT id, body, attempts, sent_at FROM messages
             WHERE place IN (SELECT place FROM messages
                             WHERE queue = :queue AND state < 2 ORDER BY place LIMIT :limit)
             ORDER BY place",
        )?;
        let parameters = named_params! { ":queue": self.queue, ":limit": at_most(limit) };
        let messages = live.query_map(parameters, read_stored)?;
        Ok(messages.collect::<rusqlite::Result<_>>()?)
    }

    /// Dead letters, the oldest first.
    pub(super) fn dead(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        let mut dead = self.prepare(
            "SELECT id, body, attempts, sent_at FROM messages
             WHERE queue = :queue AND state = 2 ORDER BY visible_at, place LIMIT :limit",
        )?;
        let parameters = named_params! { ":queue": self.queue, ":limit": at_most(limit) };
        let messages = dead.query_map(parameters, read_stored)?;
        Ok(messages.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn redrive(&self, ids: Option<&[String]>, now: Timestamp) -> Result<u64> {
        let wanted: Option<HashSet<&str>> = ids.map(|ids| ids.iter().map(String::as_str).collect());
        let mut dead = self.prepare(
            "SELECT place, group_key, id FROM messages
             WHERE queue = :queue AND state = :dead ORDER BY visible_at, place",
        )?;
        let parameters = named_params! { ":queue": self.queue, ":dead": DEAD };
        let found: Vec<(Found, String)> = dead
            .query_map(parameters, |row| Ok((Found::read(row)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut moved = 0;
        for (found, id) in found {
            if wanted
                .as_ref()
                .is_some_and(|wanted| !wanted.contains(id.as_str()))
            {
                continue;
            }
            let state = if self.is_occupied(found.group.as_deref())? {
                BEHIND
            } else {
                READY
            };
            self.prepare(
                "UPDATE messages
                 SET place = (SELECT max(place) + 1 FROM messages), state = :state, visible_at = :now,
                     attempts = 0, deliveries = deliveries + 1
                 WHERE place = :place",
            )?
            .execute(named_params! {
                ":place": found.place,
                ":state": state,
                ":now": now.as_millis(),
            })?;
            moved += 1;
        }
        Ok(moved)
    }
}

/// Reads a row of `id, body, attempts, sent_at`.
fn read_stored(row: &Row<'_>) -> rusqlite::Result<StoredMessage> {
    Ok(StoredMessage {
        message_id: row.get(0)?,
        body: row.get(1)?,
        attempts: row.get(2)?,
        sent_at: Timestamp::from_millis(row.get(3)?),
    })
}
