//! Finding queues, and what they tell of themselves.

use std::time::Duration;

use aws_sdk_sqs::{Client, types::QueueAttributeName};
use dormouse_core::{Error, Result, ports::queue::MAX_BODY_BYTES};

use crate::error::from_sdk;

/// The URL of a queue: its name, or the URL itself.
pub(crate) async fn url_of(client: &Client, queue: &str) -> Result<String> {
    if queue.contains("://") {
        return Ok(queue.to_owned());
    }
    let found = client.get_queue_url().queue_name(queue).send().await;
    let found = found.map_err(|error| from_sdk(&format!("looking for queue {queue}"), error))?;
    found
        .queue_url
        .ok_or_else(|| Error::unavailable(format!("queue {queue} has no URL")))
}

/// What a queue tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueAttributes {
    pub(crate) visibility: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) max_message_bytes: usize,
    pub(crate) retention: Duration,
    pub(crate) fifo: bool,
    pub(crate) encrypted: bool,
    /// Its name.
    pub(crate) dead_letter_queue: Option<String>,
    pub(super) visible: u64,
    pub(super) hidden: u64,
}

pub(crate) async fn attributes(client: &Client, url: &str) -> Result<QueueAttributes> {
    let found = client
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::All)
        .send()
        .await
        .map_err(|error| from_sdk("reading a queue's attributes", error))?;
    let found = found.attributes.unwrap_or_default();
    let text = |name: QueueAttributeName| found.get(&name).map_or("", String::as_str);
    let number = |name: QueueAttributeName| text(name).parse::<u64>().unwrap_or_default();
    let redrive: serde_json::Value =
        serde_json::from_str(text(QueueAttributeName::RedrivePolicy)).unwrap_or_default();
    // A number, and a text when a template wrote it so.
    let max_attempts = match &redrive["maxReceiveCount"] {
        serde_json::Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    let arn = redrive["deadLetterTargetArn"].as_str();
    Ok(QueueAttributes {
        visibility: Duration::from_secs(number(QueueAttributeName::VisibilityTimeout)),
        max_attempts: max_attempts
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or_default(),
        max_message_bytes: match number(QueueAttributeName::MaximumMessageSize) {
            0 => MAX_BODY_BYTES,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        },
        retention: Duration::from_secs(number(QueueAttributeName::MessageRetentionPeriod)),
        fifo: text(QueueAttributeName::FifoQueue) == "true",
        encrypted: text(QueueAttributeName::SqsManagedSseEnabled) == "true"
            || !text(QueueAttributeName::KmsMasterKeyId).is_empty(),
        dead_letter_queue: arn.and_then(|arn| arn.rsplit(':').next()).map(str::to_owned),
        visible: number(QueueAttributeName::ApproximateNumberOfMessages),
        hidden: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            + number(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
    })
}
