//! Messages that were received, and their receipts.

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::types::MessageSystemAttributeName;
use dormouse_core::{
    Error, Result,
    ports::{Delivery, Receipt},
    time::Timestamp,
};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parking_lot::Mutex;

use super::sending::{ATTEMPTS, BODY_OBJECT, MESSAGE_ID, SENT_AT};

/// After how long SQS has shown any message again.
const LONGEST_HOLD: Duration = Duration::from_secs(13 * 3600);

/// A message as it was received.
#[derive(Clone, Debug)]
pub(super) struct Received {
    /// The id that it had at first.
    pub(super) message_id: String,
    pub(super) body: String,
    pub(super) receipt: Receipt,
    pub(super) attempt: u32,
    /// When it was sent at first.
    pub(super) sent_at: Timestamp,
    pub(super) group: Option<String>,
    /// How often it was delivered before a worker gave it up.
    pub(super) attempts_told: Option<u32>,
    received_at: Timestamp,
}

impl Received {
    /// Reads a message, and its body from its object where it has one.
    ///
    /// # Errors
    /// Errors of the object store.
    pub(super) async fn read(
        message: aws_sdk_sqs::types::Message,
        now: Timestamp,
        bodies: &dyn ObjectStore,
    ) -> Result<Self> {
        let system = |name: MessageSystemAttributeName| {
            message
                .attributes
                .as_ref()
                .and_then(|found| found.get(&name))
                .map(String::as_str)
        };
        let ours = |name: &str| {
            let found = message.message_attributes.as_ref()?.get(name)?;
            found.string_value.as_deref()
        };
        let millis = |text: Option<&str>| text?.parse().ok().map(Timestamp::from_millis);
        let body = match ours(BODY_OBJECT) {
            None => message.body.clone().unwrap_or_default(),
            Some(path) => {
                let at = Path::parse(path).map_err(|error| {
                    Error::invalid(format!("\"{path}\" is not the path of a message's body"))
                        .with_source(error)
                })?;
                let bytes = bodies.get(&at).await?.bytes().await?;
                String::from_utf8(bytes.to_vec()).map_err(|error| {
                    Error::corrupt(format!("object {path} is not text")).with_source(error)
                })?
            }
        };
        Ok(Self {
            message_id: ours(MESSAGE_ID)
                .or(message.message_id.as_deref())
                .unwrap_or_default()
                .to_owned(),
            body,
            receipt: Receipt(message.receipt_handle.clone().unwrap_or_default()),
            attempt: system(MessageSystemAttributeName::ApproximateReceiveCount)
                .and_then(|text| text.parse().ok())
                .unwrap_or(1),
            sent_at: millis(ours(SENT_AT))
                .or_else(|| millis(system(MessageSystemAttributeName::SentTimestamp)))
                .unwrap_or(now),
            group: system(MessageSystemAttributeName::MessageGroupId).map(str::to_owned),
            attempts_told: ours(ATTEMPTS).and_then(|text| text.parse().ok()),
            received_at: now,
        })
    }
}

/// The deliveries that this process has in hand: which receipt is a message's newest, and what a message was.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: Mutex<HashMap<Receipt, Received>>,
}

impl Held {
    /// Takes a delivery; older ones of the same message count no more.
    pub(super) fn hold(&self, message: Received) -> Delivery {
        let delivery = Delivery {
            message_id: message.message_id.clone(),
            body: message.body.clone(),
            receipt: message.receipt.clone(),
            attempt: message.attempt,
            sent_at: message.sent_at,
        };
        let mut messages = self.messages.lock();
        messages.retain(|_, held| {
            held.message_id != message.message_id
                && message.received_at.since(held.received_at) < LONGEST_HOLD
        });
        messages.insert(message.receipt.clone(), message);
        delivery
    }

    pub(super) fn is_newest(&self, receipt: &Receipt) -> bool {
        self.messages.lock().contains_key(receipt)
    }

    pub(super) fn get(&self, receipt: &Receipt) -> Option<Received> {
        self.messages.lock().get(receipt).cloned()
    }

    pub(super) fn forget(&self, receipt: &Receipt) {
        self.messages.lock().remove(receipt);
    }
}
