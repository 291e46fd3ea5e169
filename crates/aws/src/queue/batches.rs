//! Acknowledging many messages by few calls.

use std::collections::VecDeque;

use aws_sdk_sqs::{Client, types::DeleteMessageBatchRequestEntry};
use dormouse_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{BATCH, STALE};
use crate::error::{from_sdk, is_turned_away};

type Answer = oneshot::Sender<Result<(), (ErrorKind, String)>>;

/// Sends acknowledgements. Those that gather while a call is under way go together with the next.
#[derive(Debug)]
pub(super) struct Acknowledgements {
    client: Client,
    url: String,
    waiting: Mutex<VecDeque<(String, Answer)>>,
    sending: tokio::sync::Mutex<()>,
}

impl Acknowledgements {
    pub(super) fn new(client: Client, url: String) -> Self {
        Self {
            client,
            url,
            waiting: Mutex::default(),
            sending: tokio::sync::Mutex::const_new(()),
        }
    }

    /// Removes a message for good; one that is gone, or was delivered again, is no error.
    ///
    /// # Errors
    /// `Unavailable` when the service does not answer.
    pub(super) async fn acknowledge(&self, receipt: &str) -> Result<()> {
        let (answer, mut answered) = oneshot::channel();
        self.waiting.lock().push_back((receipt.to_owned(), answer));
        loop {
            // Whoever holds the lock sends for all that wait, perhaps for this one too.
            let turn = self.sending.lock().await;
            match answered.try_recv() {
                Ok(outcome) => return outcome.map_err(|(kind, text)| Error::new(kind, text)),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(Error::unavailable("an acknowledgement was given up half-way"));
                }
            }
            let batch: Vec<_> = {
                let mut waiting = self.waiting.lock();
                let count = waiting.len().min(BATCH);
                waiting.drain(..count).collect()
            };
            self.send(batch).await;
            drop(turn);
        }
    }

    async fn send(&self, batch: Vec<(String, Answer)>) {
        let entries = batch.iter().enumerate().filter_map(|(place, (receipt, _))| {
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
        for (place, (_, answer)) in batch.into_iter().enumerate() {
            let outcome = match &sent {
                Err(error) => Err((error.kind(), error.report())),
                Ok(sent) => {
                    let id = place.to_string();
                    match sent.failed.iter().find(|failed| failed.id == id) {
                        None => Ok(()),
                        Some(failed) if STALE.contains(&failed.code.as_str()) => Ok(()),
                        Some(failed) => {
                            let kind = if failed.sender_fault && !is_turned_away(&failed.code) {
                                ErrorKind::Internal
                            } else {
                                ErrorKind::Unavailable
                            };
                            let told = failed.message.as_deref().unwrap_or_default();
                            Err((
                                kind,
                                format!("acknowledging a message failed ({}: {told})", failed.code),
                            ))
                        }
                    }
                }
            };
            // Whoever asked may be gone.
            let _ = answer.send(outcome);
        }
    }
}
