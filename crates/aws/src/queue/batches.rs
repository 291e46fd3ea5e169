//! Acknowledging many messages by few calls.

use aws_sdk_sqs::{
    Client,
    types::{BatchResultErrorEntry, DeleteMessageBatchRequestEntry},
};
use dormouse_core::{Error, ErrorKind, Result, gather::Gather};

use super::{BATCH, STALE};
use crate::error::{from_sdk, is_turned_away};

/// Removes messages that were handled.
#[derive(Debug)]
pub(super) struct Acknowledgements {
    client: Client,
    url: String,
    receipts: Gather<String, ()>,
}

impl Acknowledgements {
    pub(super) fn new(client: Client, url: String) -> Self {
        Self {
            client,
            url,
            receipts: Gather::default(),
        }
    }

    /// Removes a message for good; one that is gone, or was delivered again, is no error.
    ///
    /// # Errors
    /// `Unavailable` when the service does not answer.
    pub(super) async fn acknowledge(&self, receipt: &str) -> Result<()> {
        let call = |receipts, ()| self.delete(receipts);
        self.receipts
            .send(receipt.to_owned(), BATCH, async || (), call)
            .await
    }

    async fn delete(&self, receipts: Vec<String>) -> Vec<Result<()>> {
        let entries = receipts.iter().enumerate().filter_map(|(place, receipt)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(place.to_string())
                .receipt_handle(receipt)
                .build()
                .ok()
        });
        let sent = self
            .client
            .delete_message_batch()
            .queue_url(&self.url)
            .set_entries(Some(entries.collect()))
            .send()
            .await
            .map_err(|error| from_sdk("acknowledging messages", error));
        let outcome = |place: usize| match &sent {
            Err(error) => Err(error.copied()),
            Ok(sent) => sent
                .failed
                .iter()
                .find(|failed| failed.id == place.to_string())
                .map_or(Ok(()), not_deleted),
        };
        (0..receipts.len()).map(outcome).collect()
    }
}

fn not_deleted(failed: &BatchResultErrorEntry) -> Result<()> {
    if STALE.contains(&failed.code.as_str()) {
        return Ok(());
    }
    let kind = match failed.sender_fault && !is_turned_away(&failed.code) {
        true => ErrorKind::Internal,
        false => ErrorKind::Unavailable,
    };
    let told = failed.message.as_deref().unwrap_or_default();
    let text = format!("acknowledging a message failed ({}: {told})", failed.code);
    Err(Error::new(kind, text))
}
