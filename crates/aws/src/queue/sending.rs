//! Messages on their way.

use std::time::Duration;

use aws_sdk_sqs::{
    Client,
    types::{MessageAttributeValue, SendMessageBatchRequestEntry},
};
use dormouse_core::{
    Error, Result,
    ports::{Ids, Message, QueueName, create_object},
};
use object_store::{ObjectStore, path::Path};
use serde_json::json;
use uuid::Uuid;

use super::{BATCH, received::Received};
use crate::error::{from_sdk, is_turned_away};

pub(super) const MESSAGE_ID: &str = "DormouseMessageId";
pub(super) const SENT_AT: &str = "DormouseSentAt";
pub(super) const ATTEMPTS: &str = "DormouseAttempts";
pub(super) const BODY_OBJECT: &str = "DormouseBodyObject";

/// Where long bodies are, in the data bucket.
pub(crate) const BODIES_PREFIX: &str = "messages";

/// The longest delay that SQS takes.
const MAX_DELAY: Duration = Duration::from_secs(15 * 60);

/// How often entries that were turned away are sent before that is an error.
const ATTEMPTS_TO_SEND: u32 = 5;

/// What SQS takes for a de-duplication id or a group.
const MAX_ID_CHARACTERS: usize = 128;

/// A message, as SQS takes it.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    body: String,
    attributes: Vec<(&'static str, &'static str, String)>,
    group: Option<String>,
    deduplication_id: Option<String>,
    delay: i32,
    object: Uuid,
}

impl Outgoing {
    /// A message to send for the first time.
    ///
    /// # Errors
    /// `Invalid` for a delay in the ordered queue, which SQS does not know, or one that is too long.
    pub(super) fn new(queue: QueueName, message: Message, ids: &dyn Ids) -> Result<Self> {
        if queue.is_ordered() && !message.delay.is_zero() {
            return Err(Error::invalid(format!(
                "messages of the ordered queue {queue} have no delay"
            )));
        }
        if message.delay > MAX_DELAY {
            return Err(Error::invalid(format!(
                "a delay of {} s is over the limit of {} s",
                message.delay.as_secs(),
                MAX_DELAY.as_secs()
            )));
        }
        let mut outgoing = Self::of_body(queue, message.body, message.group, ids);
        if let (true, Some(id)) = (queue.is_ordered(), message.deduplication_id) {
            outgoing.deduplication_id = Some(short_id(&id));
        }
        outgoing.delay = super::sdk_seconds(message.delay);
        Ok(outgoing)
    }

    fn of_body(queue: QueueName, body: String, group: Option<String>, ids: &dyn Ids) -> Self {
        let object = ids.uuid();
        let ordered = queue.is_ordered();
        let group = ordered.then(|| group.map_or_else(|| object.to_string(), |group| short_id(&group)));
        Self {
            body,
            attributes: Vec::new(),
            group,
            deduplication_id: ordered.then(|| ids.uuid().to_string()),
            delay: 0,
            object,
        }
    }

    /// A message on its way to the dead letters.
    pub(super) fn moved(queue: QueueName, message: Received, ids: &dyn Ids) -> Self {
        let attempt = message.attempt;
        let mut outgoing = Self::redriven(queue, message, ids);
        outgoing
            .attributes
            .push((ATTEMPTS, "Number", attempt.to_string()));
        outgoing
    }

    /// A message on its way back from the dead letters. It is sent under a de-duplication id of its own: SQS would
    /// drop it as the one that it was.
    pub(super) fn redriven(queue: QueueName, message: Received, ids: &dyn Ids) -> Self {
        let mut outgoing = Self::of_body(queue, message.body, message.group, ids);
        outgoing.attributes = vec![
            (MESSAGE_ID, "String", message.message_id),
            (SENT_AT, "Number", message.sent_at.as_millis().to_string()),
        ];
        outgoing
    }

    /// What it counts as: SQS counts attributes too.
    fn bytes(&self) -> usize {
        let attribute = |(name, kind, value): &(&str, &str, String)| name.len() + kind.len() + value.len();
        self.body.len() + self.attributes.iter().map(attribute).sum::<usize>()
    }

    /// Puts a body that is too long for the queue into an object.
    ///
    /// # Errors
    /// Errors of the object store.
    pub(super) async fn shorten(&mut self, max_bytes: usize, bodies: &dyn ObjectStore) -> Result<()> {
        if self.bytes() <= max_bytes {
            return Ok(());
        }
        let path = Path::from_iter([BODIES_PREFIX, &self.object.to_string()]);
        let body = std::mem::take(&mut self.body);
        create_object(bodies, &path, body.into_bytes().into()).await?;
        self.body = json!({ "bodyObject": path.to_string() }).to_string();
        self.attributes.push((BODY_OBJECT, "String", path.to_string()));
        Ok(())
    }

    fn entry(&self, id: usize) -> Result<SendMessageBatchRequestEntry> {
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(id.to_string())
            .message_body(&self.body)
            .set_message_group_id(self.group.clone())
            .set_message_deduplication_id(self.deduplication_id.clone())
            .set_delay_seconds((self.delay > 0).then_some(self.delay));
        for (name, kind, value) in &self.attributes {
            let value = MessageAttributeValue::builder()
                .data_type(*kind)
                .string_value(value)
                .build();
            entry = entry.message_attributes(*name, value.map_err(not_built)?);
        }
        entry.build().map_err(not_built)
    }
}

fn not_built(error: aws_sdk_sqs::error::BuildError) -> Error {
    Error::internal("a message cannot be built").with_source(error)
}

/// The id itself, or one made of it where SQS would not take it.
fn short_id(id: &str) -> String {
    let fits = (1..=MAX_ID_CHARACTERS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    match fits {
        true => id.to_owned(),
        false => Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()).to_string(),
    }
}

/// Cuts messages into calls: at most ten, and no more bytes than one message may have.
fn calls(messages: &[Outgoing], max_bytes: usize) -> Vec<std::ops::Range<usize>> {
    let mut calls = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, message) in messages.iter().enumerate() {
        if place > start && (place - start == BATCH || bytes + message.bytes() > max_bytes) {
            calls.push(start..place);
            (start, bytes) = (place, 0);
        }
        bytes += message.bytes();
    }
    if start < messages.len() {
        calls.push(start..messages.len());
    }
    calls
}

/// Sends messages, in order, and returns their ids.
///
/// # Errors
/// `Unavailable` when the service turns some away again and again; any of the messages may have been sent.
pub(super) async fn send(
    client: &Client,
    url: &str,
    messages: Vec<Outgoing>,
    max_bytes: usize,
) -> Result<Vec<String>> {
    let mut ids = vec![String::new(); messages.len()];
    for call in calls(&messages, max_bytes) {
        let mut waiting: Vec<usize> = call.collect();
        for attempt in 1.. {
            let entries = waiting
                .iter()
                .map(|&place| messages[place].entry(place))
                .collect::<Result<Vec<_>>>()?;
            let answer = client
                .send_message_batch()
                .queue_url(url)
                .set_entries(Some(entries))
                .send()
                .await
                .map_err(|error| from_sdk("sending messages", error))?;
            for sent in answer.successful {
                if let Some(id) = sent.id.parse::<usize>().ok().and_then(|place| ids.get_mut(place)) {
                    *id = sent.message_id;
                }
            }
            let failed = answer.failed;
            waiting.retain(|place| failed.iter().any(|failed| failed.id == place.to_string()));
            let Some(first) = failed.first() else { break };
            let told = format!(
                "sending {} of the messages failed ({}: {})",
                failed.len(),
                first.code,
                first.message.as_deref().unwrap_or_default()
            );
            if failed
                .iter()
                .any(|failed| failed.sender_fault && !is_turned_away(&failed.code))
            {
                return Err(Error::internal(told));
            }
            if attempt == ATTEMPTS_TO_SEND {
                return Err(Error::unavailable(told));
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use dormouse_core::ports::SystemIds;

    use super::*;

    fn outgoing(bytes: usize) -> Outgoing {
        Outgoing::new(QueueName::Ingest, Message::new("x".repeat(bytes)), &SystemIds).unwrap()
    }

    #[test]
    fn calls_take_ten_messages_and_so_many_bytes() {
        let many: Vec<_> = (0..25).map(|_| outgoing(1)).collect();
        assert_eq!(calls(&many, 1000), [0..10, 10..20, 20..25]);
        let long: Vec<_> = [400, 400, 400, 1000, 1].map(outgoing).into();
        assert_eq!(calls(&long, 1000), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(calls(&[], 1000), []);
    }

    #[test]
    fn ids_that_sqs_would_not_take_are_made_shorter() {
        assert_eq!(short_id("job-1/run"), "job-1/run");
        for id in [
            "x".repeat(129),
            "a b".to_owned(),
            "caf\u{e9}".to_owned(),
            String::new(),
        ] {
            let short = short_id(&id);
            assert_eq!(short.len(), 36);
            assert_eq!(short, short_id(&id));
        }
    }

    #[test]
    fn the_ordered_queue_has_groups_and_no_delays() {
        let message = |delay| Message {
            group: Some("table".to_owned()),
            deduplication_id: Some("commit".to_owned()),
            delay,
            ..Message::new("x")
        };
        let ordered = Outgoing::new(QueueName::Commit, message(Duration::ZERO), &SystemIds).unwrap();
        assert_eq!(ordered.group.as_deref(), Some("table"));
        assert_eq!(ordered.deduplication_id.as_deref(), Some("commit"));
        assert!(Outgoing::new(QueueName::Commit, message(Duration::from_secs(1)), &SystemIds).is_err());
        let standard = Outgoing::new(QueueName::Ingest, message(Duration::from_secs(1)), &SystemIds).unwrap();
        assert_eq!(
            (standard.group, standard.deduplication_id, standard.delay),
            (None, None, 1)
        );
        assert!(Outgoing::new(QueueName::Ingest, message(Duration::from_secs(901)), &SystemIds).is_err());
    }
}
