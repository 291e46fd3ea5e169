//! SQS queues, each with one of dead letters.

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::{Client, types::QueueAttributeName};
use dormouse_core::{
    Error, Result,
    config::InstanceSettings,
    ports::{QueueName, queue::MAX_BODY_BYTES},
};
use serde_json::json;

use super::{Finding, Part};
use crate::{
    clients::Clients,
    error::from_sdk,
    names::Names,
    queue::{attributes, url_of, whole_seconds},
};

/// How long a message waits before it is lost. Dead letters keep the time of sending, so theirs is longer.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
const DEAD_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

/// The least that a queue's longest message should be.
const LEAST_MESSAGE_BYTES: usize = 256 * 1024;

/// Makes a queue and its dead letters if they are not there.
pub(super) async fn make(
    clients: &Clients,
    names: &Names,
    queue: QueueName,
    settings: &InstanceSettings,
) -> Result<Vec<Part>> {
    let client = &clients.sqs;
    let common = HashMap::from([
        (QueueAttributeName::MaximumMessageSize, MAX_BODY_BYTES.to_string()),
        (QueueAttributeName::SqsManagedSseEnabled, "true".to_owned()),
    ]);
    let mut dead = common.clone();
    dead.insert(
        QueueAttributeName::MessageRetentionPeriod,
        DEAD_RETENTION.as_secs().to_string(),
    );
    let mut own = common;
    own.insert(
        QueueAttributeName::MessageRetentionPeriod,
        RETENTION.as_secs().to_string(),
    );
    own.insert(
        QueueAttributeName::VisibilityTimeout,
        whole_seconds(settings.queue_visibility()).to_string(),
    );
    own.insert(QueueAttributeName::ReceiveMessageWaitTimeSeconds, "20".to_owned());
    if queue.is_ordered() {
        for attributes in [&mut own, &mut dead] {
            attributes.insert(QueueAttributeName::FifoQueue, "true".to_owned());
            attributes.insert(QueueAttributeName::DeduplicationScope, "messageGroup".to_owned());
            attributes.insert(
                QueueAttributeName::FifoThroughputLimit,
                "perMessageGroupId".to_owned(),
            );
        }
    }
    let (dead_name, name) = (names.dead_letters(queue), names.queue(queue));
    let dead_part = create(client, &dead_name, dead).await?;
    let arn = arn_of(client, &dead_name).await?;
    let redrive = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": settings.queue_max_attempts() });
    own.insert(QueueAttributeName::RedrivePolicy, redrive.to_string());
    Ok(vec![create(client, &name, own).await?, dead_part])
}

async fn exists(client: &Client, name: &str) -> Result<bool> {
    match client.get_queue_url().queue_name(name).send().await {
        Ok(_) => Ok(true),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(|error| error.is_queue_does_not_exist()) =>
        {
            Ok(false)
        }
        Err(error) => Err(from_sdk(&format!("looking for queue {name}"), error)),
    }
}

async fn create(
    client: &Client,
    name: &str,
    attributes: HashMap<QueueAttributeName, String>,
) -> Result<Part> {
    let made = !exists(client, name).await?;
    if made {
        let create = client
            .create_queue()
            .queue_name(name)
            .set_attributes(Some(attributes));
        create
            .send()
            .await
            .map_err(|error| from_sdk(&format!("making queue {name}"), error))?;
    }
    Ok(Part {
        kind: "queue",
        name: name.to_owned(),
        made,
    })
}

async fn arn_of(client: &Client, name: &str) -> Result<String> {
    let url = url_of(client, name).await?;
    let found = client
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .map_err(|error| from_sdk(&format!("looking at queue {name}"), error))?;
    found
        .attributes
        .and_then(|mut attributes| attributes.remove(&QueueAttributeName::QueueArn))
        .ok_or_else(|| Error::unavailable(format!("queue {name} has no ARN")))
}

/// Looks at a queue, by name or URL, and its dead letters.
pub(super) async fn check(
    clients: &Clients,
    name: &str,
    queue: QueueName,
    settings: &InstanceSettings,
) -> Result<Vec<Finding>> {
    const MISSING: &str = "deploy the stack again, or run `dormouse instance init`";
    let client = &clients.sqs;
    let mut findings = Vec::new();
    let mut found = |problem: String, remedy: String| {
        findings.push(Finding::new("queue", name, problem, remedy));
    };
    let plain_name = name.rsplit('/').next().unwrap_or(name);
    if !exists(client, plain_name).await? {
        found("it is not there".to_owned(), MISSING.to_owned());
        return Ok(findings);
    }
    let own = attributes(client, &url_of(client, name).await?).await?;
    let visibility = whole_seconds(settings.queue_visibility());
    if whole_seconds(own.visibility) != visibility {
        found(
            format!("its visibility timeout is {} s", own.visibility.as_secs()),
            format!(
                "set it to {visibility} s, as dormouse.queue.visibility.timeout.seconds has it, or change that"
            ),
        );
    }
    if own.fifo != queue.is_ordered() {
        let (is, should) = if own.fifo {
            ("a FIFO", "a standard")
        } else {
            ("a standard", "a FIFO")
        };
        found(
            format!("it is {is} queue"),
            format!("make it anew as {should} queue"),
        );
    }
    if !own.encrypted {
        found(
            "its messages are not encrypted at rest".to_owned(),
            "set SqsManagedSseEnabled, or a KMS key".to_owned(),
        );
    }
    if own.max_message_bytes < LEAST_MESSAGE_BYTES {
        found(
            format!("it takes messages of up to {} bytes", own.max_message_bytes),
            format!("set MaximumMessageSize to {MAX_BODY_BYTES}"),
        );
    }
    let Some(dead_name) = own.dead_letter_queue else {
        found(
            "it has no dead-letter queue: a message that always fails comes for ever".to_owned(),
            "set its RedrivePolicy".to_owned(),
        );
        return Ok(findings);
    };
    let attempts = settings.queue_max_attempts();
    if own.max_attempts != attempts {
        found(
            format!("it delivers a message {} times", own.max_attempts),
            format!(
                "set maxReceiveCount of its RedrivePolicy to {attempts}, as dormouse.queue.max.attempts has it, or change that"
            ),
        );
    }
    if !exists(client, &dead_name).await? {
        found(
            format!("its dead-letter queue {dead_name} is not there"),
            MISSING.to_owned(),
        );
        return Ok(findings);
    }
    let dead = attributes(client, &url_of(client, &dead_name).await?).await?;
    if dead.retention < own.retention {
        found(
            format!(
                "dead letters are kept {} s from their first sending, less than the {} s of the queue itself",
                dead.retention.as_secs(),
                own.retention.as_secs()
            ),
            format!(
                "set MessageRetentionPeriod of {dead_name} to {}",
                DEAD_RETENTION.as_secs()
            ),
        );
    }
    Ok(findings)
}
