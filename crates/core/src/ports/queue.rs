//! Messages between the parts, at least once.

use std::{fmt, fmt::Debug, str::FromStr, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    time::Timestamp,
};

/// The longest message body, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The queues. The name is the same in messages, commands, metrics and, after `dormouse-<instance>-`, in SQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueName {
    /// Ingest jobs.
    Ingest,
    /// Exports to plan.
    Export,
    /// Leaves of planned exports to write.
    ExportLeaf,
    /// Compactions.
    Compaction,
    /// Leaves that may be too large.
    Splitting,
    /// Commit requests, ordered by table.
    Commit,
    /// Bulk query jobs.
    Query,
}

impl QueueName {
    /// Every queue.
    pub const ALL: [Self; 7] = [
        Self::Ingest,
        Self::Export,
        Self::ExportLeaf,
        Self::Compaction,
        Self::Splitting,
        Self::Commit,
        Self::Query,
    ];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Export => "export",
            Self::ExportLeaf => "export-leaf",
            Self::Compaction => "compaction",
            Self::Splitting => "splitting",
            Self::Commit => "commit",
            Self::Query => "query",
        }
    }

    /// Whether its messages have groups, whose order it keeps.
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Commit)
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for QueueName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|name| name.as_str()).collect();
                Error::invalid(format!(
                    "no queue \"{text}\"; the queues are {}",
                    names.join(", ")
                ))
            })
    }
}

/// How a queue treats messages that were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a received message stays hidden unless it is extended.
    pub visibility: Duration,
    /// How often a message is delivered before it moves to the dead letters.
    pub max_attempts: u32,
}

impl Default for QueueSettings {
    /// 30 seconds, 5 attempts.
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            max_attempts: 5,
        }
    }
}

/// A message to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The text, at most [`MAX_BODY_BYTES`].
    pub body: String,
    /// Messages of one group are delivered in the order of sending.
    pub group: Option<String>,
    /// In a group, a queue may drop a message when another with this id was sent minutes before it.
    pub deduplication_id: Option<String>,
    /// How long the message stays hidden at first.
    pub delay: Duration,
}

impl Message {
    /// A message of no group, visible at once.
    pub fn new(body: impl Into<String>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }
}

/// The right to extend or acknowledge one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message's id, the same at every delivery and after a move back from the dead letters.
    pub message_id: String,
    /// The text.
    pub body: String,
    /// The right to extend or acknowledge this delivery.
    pub receipt: Receipt,
    /// Which delivery of the message this is; the first is 1.
    pub attempt: u32,
    /// When the message was first sent.
    pub sent_at: Timestamp,
}

/// A message as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredMessage {
    /// The message's id.
    pub message_id: String,
    /// The text.
    pub body: String,
    /// How often it was delivered.
    pub attempts: u32,
    /// When it was first sent.
    pub sent_at: Timestamp,
}

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueDepth {
    /// Ready to be received.
    pub visible: u64,
    /// Hidden: received and not acknowledged, or delayed.
    pub hidden: u64,
    /// In the dead letters.
    pub dead: u64,
}

/// A queue.
///
/// * At least once: a message is delivered again when its visibility ends before it is acknowledged. Deliveries
///   may be late, repeated and, without a group, out of order.
/// * A message that was delivered `max_attempts` times and becomes visible again moves to the dead letters.
/// * Of a group, the oldest messages are delivered, in order; one receive may return several. None is delivered
///   while one of the group is hidden.
/// * An acknowledged message is gone, whichever of its deliveries was acknowledged.
#[async_trait]
pub trait Queue: Debug + Send + Sync {
    /// Which queue this is.
    fn name(&self) -> QueueName;

    /// How it treats messages that were received.
    fn settings(&self) -> QueueSettings;

    /// Sends all messages and returns their ids, in order. After an error any of them may have been sent.
    ///
    /// # Errors
    /// `Invalid` for a body over [`MAX_BODY_BYTES`]; then none was sent.
    async fn send(&self, messages: Vec<Message>) -> Result<Vec<String>>;

    /// Up to `max` messages; waits up to `wait` for the first, and returns as soon as there is one.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>>;

    /// Lets receives that wait for a message return without one. An adapter that cannot tell them does nothing.
    fn end_waits(&self) {}

    /// Hides the message for `time` from now; zero makes it visible at once.
    ///
    /// # Errors
    /// `Conflict` when the message is gone or was delivered again since.
    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()>;

    /// Makes the message visible at once, as if it had not been delivered: a worker that is asked to stop gives
    /// back what it did not finish. An adapter whose queue counts every delivery counts this one too.
    ///
    /// # Errors
    /// `Conflict` when the message is gone or was delivered again since.
    async fn give_back(&self, receipt: &Receipt) -> Result<()>;

    /// Removes the message for good. A message that is gone already is no error.
    async fn ack(&self, receipt: &Receipt) -> Result<()>;

    /// Moves the message to the dead letters.
    ///
    /// # Errors
    /// `Conflict` when the message is gone or was delivered again since.
    async fn dead_letter(&self, receipt: &Receipt) -> Result<()>;

    /// How many messages there are.
    async fn depth(&self) -> Result<QueueDepth>;

    /// Some messages, the oldest first, without receiving them.
    async fn peek(&self, limit: usize) -> Result<Vec<StoredMessage>>;

    /// Some dead letters, the oldest first.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredMessage>>;

    /// Moves dead letters back, with their ids and times of sending and no attempts: those with these ids, or
    /// all. Returns how many.
    async fn redrive(&self, message_ids: Option<&[String]>) -> Result<u64>;
}

/// Checks the limits of [`Queue::send`], the same in every adapter.
///
/// # Errors
/// `Invalid`, with the limit that was passed.
pub fn check_messages(messages: &[Message]) -> Result<()> {
    match messages
        .iter()
        .map(|message| message.body.len())
        .find(|&bytes| bytes > MAX_BODY_BYTES)
    {
        Some(bytes) => Err(Error::invalid(format!(
            "a message body of {bytes} bytes is over the limit of {MAX_BODY_BYTES}"
        ))),
        None => Ok(()),
    }
}
