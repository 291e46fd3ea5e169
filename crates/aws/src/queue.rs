//! Queues on SQS: a standard queue each, the ordered one a FIFO queue, and each with a queue of dead letters.
//!
//! What SQS has no place for goes into message attributes, which other senders need not know:
//!
//! | Attribute | Set when | Means |
//! |---|---|---|
//! | `DormouseMessageId`, `DormouseSentAt` | a message moves to the dead letters or back | the id and the time that it had at first; SQS gives a new one to each sending |
//! | `DormouseAttempts` | a worker moves a message to the dead letters | how often it was delivered |
//! | `DormouseBodyObject` | a body is longer than the queue takes | the object of the data bucket that holds it |
//!
//! Where SQS is not as the port would have it: times are whole seconds, rounded up; giving a message back counts
//! as a delivery; a message is gone for good only when its newest receipt acknowledges it, and an older one of
//! another process may be taken for nothing; messages that wait cannot be looked at; and a receive that is dropped
//! may have taken messages, which come again when their visibility ends.

mod attributes;
mod batches;
mod received;
mod sending;

pub(crate) use self::{
    attributes::{attributes, url_of},
    sending::BODIES_PREFIX,
};

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_sqs::{
    Client,
    config::timeout::TimeoutConfig,
    error::ProvideErrorMetadata,
    types::{ChangeMessageVisibilityBatchRequestEntry, MessageSystemAttributeName},
};
use dormouse_core::{
    Error, Result,
    ports::{
        Clock, Delivery, Ids, Message, Queue, QueueDepth, QueueName, QueueSettings, Receipt, StoredMessage,
        queue::check_messages,
    },
};
use object_store::ObjectStore;

use self::{
    batches::Acknowledgements,
    received::{Held, Received},
    sending::Outgoing,
};
use crate::{
    clients::{ATTEMPT_TIMEOUT, Clients},
    error::from_sdk,
};

/// The most messages of one call.
const BATCH: usize = 10;

/// How long one call waits; SQS takes up to 20 s. A call cannot be taken back: what it receives for a process that
/// has gone is hidden until its visibility ends. So processes that end wait for their last call, and calls are short:
/// a worker that waits all day makes 43,200 of them, for two cents.
const LONGEST_POLL: Duration = Duration::from_secs(2);

/// The pause between looks in a wait that is shorter than SQS can wait.
const SHORT_PAUSE: Duration = Duration::from_millis(50);

/// How long dead letters are hidden while somebody looks at them, or moves some.
const LOOK: Duration = Duration::from_secs(20);
const MOVE: Duration = Duration::from_secs(600);

/// How long a look at dead letters waits for some: less, and not every server of SQS is asked.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// Codes of answers that a receipt is not the newest, or its message gone.
const STALE: &[&str] = &[
    "InvalidParameterValue",
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
    "ReceiptHandleIsInvalid",
];

/// A [`Queue`] on SQS.
#[derive(Debug)]
pub struct SqsQueue {
    client: Client,
    name: QueueName,
    url: String,
    dead_url: String,
    settings: QueueSettings,
    max_message_bytes: usize,
    bodies: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    held: Held,
    acknowledgements: Acknowledgements,
    waits_ended: AtomicBool,
}

impl SqsQueue {
    /// Opens a queue, which tells its own settings. Long bodies go to `bodies`.
    ///
    /// # Errors
    /// `Unavailable` when it is not there or does not answer, `Invalid` when it has no dead letters.
    pub async fn open(
        clients: &Clients,
        name: QueueName,
        queue: &str,
        bodies: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self> {
        let client = clients.sqs.clone();
        let url = url_of(&client, queue).await?;
        let found = attributes(&client, &url).await?;
        let dead = found.dead_letter_queue.ok_or_else(|| {
            Error::invalid(format!(
                "queue {queue} has no dead-letter queue; see `dormouse instance check`"
            ))
        })?;
        Ok(Self {
            dead_url: url_of(&client, &dead).await?,
            acknowledgements: Acknowledgements::new(client.clone(), url.clone()),
            client,
            name,
            url,
            settings: QueueSettings {
                visibility: found.visibility,
                max_attempts: found.max_attempts,
            },
            max_message_bytes: found.max_message_bytes,
            bodies,
            clock,
            ids,
            held: Held::default(),
            waits_ended: AtomicBool::new(false),
        })
    }

    async fn poll(
        &self,
        url: &str,
        max: usize,
        wait: Duration,
        visibility: Option<Duration>,
    ) -> Result<Vec<Received>> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT + wait)
            .build();
        let answer = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(max.clamp(1, BATCH)).unwrap_or(1))
            .wait_time_seconds(i32::try_from(wait.as_secs()).unwrap_or(0))
            .set_visibility_timeout(visibility.map(sdk_seconds))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::new().timeout_config(timeouts))
            .send()
            .await
            .map_err(|error| from_sdk("receiving messages", error))?;
        let now = self.clock.now();
        let mut received = Vec::new();
        for message in answer.messages.unwrap_or_default() {
            match Received::read(message, now, &*self.bodies).await {
                Ok(message) => received.push(message),
                // It stays hidden, and comes again.
                Err(error) => {
                    tracing::warn!(queue = %self.name, error = error.report(), "message not readable");
                }
            }
        }
        Ok(received)
    }

    async fn hide(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        let stale = || Error::conflict("the message is gone, or was delivered again since");
        if !self.held.is_newest(receipt) {
            return Err(stale());
        }
        let changed = self
            .client
            .change_message_visibility()
            .queue_url(&self.url)
            .receipt_handle(&receipt.0)
            .visibility_timeout(sdk_seconds(time))
            .send()
            .await;
        match changed {
            Ok(_) => Ok(()),
            Err(error) if error.code().is_some_and(|code| STALE.contains(&code)) => {
                self.held.forget(receipt);
                Err(stale().with_source(error))
            }
            Err(error) => Err(from_sdk("changing a message's visibility", error)),
        }
    }

    /// Some dead letters, hidden from others until they are released or their time is over.
    async fn take_dead_letters(&self, limit: usize) -> Result<Vec<Received>> {
        let mut taken = Vec::new();
        while taken.len() < limit {
            let more = self
                .poll(&self.dead_url, limit - taken.len(), LOOK_WAIT, Some(LOOK))
                .await?;
            if more.is_empty() {
                break;
            }
            taken.extend(more);
        }
        taken.sort_by_key(|letter| letter.sent_at);
        Ok(taken)
    }

    /// Lets others see dead letters again. What is not released shows by itself a little later.
    async fn release_dead_letters(&self, letters: &[Received]) {
        for batch in letters.chunks(BATCH) {
            let entries = batch.iter().enumerate().filter_map(|(place, letter)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(place.to_string())
                    .receipt_handle(&letter.receipt.0)
                    .visibility_timeout(0)
                    .build()
                    .ok()
            });
            let released = self
                .client
                .change_message_visibility_batch()
                .queue_url(&self.dead_url)
                .set_entries(Some(entries.collect()))
                .send()
                .await;
            if let Err(error) = released {
                let error = from_sdk("releasing dead letters", error);
                tracing::warn!(queue = %self.name, error = error.report(), "dead letters stay hidden for a while");
            }
        }
    }

    async fn delete_dead_letter(&self, letter: &Received) -> Result<()> {
        self.client
            .delete_message()
            .queue_url(&self.dead_url)
            .receipt_handle(&letter.receipt.0)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| from_sdk("removing a dead letter", error))
    }

    fn stored(&self, letter: Received) -> StoredMessage {
        StoredMessage {
            // SQS itself moves a message when its attempts have run out.
            attempts: letter.attempts_told.unwrap_or(self.settings.max_attempts),
            message_id: letter.message_id,
            body: letter.body,
            sent_at: letter.sent_at,
        }
    }
}

#[async_trait]
impl Queue for SqsQueue {
    fn name(&self) -> QueueName {
        self.name
    }

    fn settings(&self) -> QueueSettings {
        self.settings
    }

    async fn send(&self, messages: Vec<Message>) -> Result<Vec<String>> {
        check_messages(&messages)?;
        let mut outgoing = Vec::with_capacity(messages.len());
        for message in messages {
            let mut message = Outgoing::new(self.name, message, &*self.ids)?;
            message.shorten(self.max_message_bytes, &*self.bodies).await?;
            outgoing.push(message);
        }
        sending::send(&self.client, &self.url, outgoing, self.max_message_bytes).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let deadline = self.clock.now().plus(wait);
        let polls = wait >= Duration::from_secs(1);
        loop {
            let left = deadline.since(self.clock.now());
            // SQS waits whole seconds.
            let left = if polls {
                Duration::from_secs(whole_seconds(left).into())
            } else {
                Duration::ZERO
            };
            let received = self.poll(&self.url, max, left.min(LONGEST_POLL), None).await?;
            if !received.is_empty() {
                return Ok(received
                    .into_iter()
                    .map(|message| self.held.hold(message))
                    .collect());
            }
            let left = deadline.since(self.clock.now());
            if left.is_zero() || self.waits_ended.load(Ordering::Relaxed) {
                return Ok(Vec::new());
            }
            if !polls {
                self.clock.sleep(left.min(SHORT_PAUSE)).await;
            }
        }
    }

    /// Waits end with the call that is under way.
    fn end_waits(&self) {
        self.waits_ended.store(true, Ordering::Relaxed);
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        self.hide(receipt, time).await?;
        if time.is_zero() {
            self.held.forget(receipt);
        }
        Ok(())
    }

    async fn give_back(&self, receipt: &Receipt) -> Result<()> {
        self.extend(receipt, Duration::ZERO).await
    }

    async fn ack(&self, receipt: &Receipt) -> Result<()> {
        self.acknowledgements.acknowledge(&receipt.0).await?;
        self.held.forget(receipt);
        Ok(())
    }

    async fn dead_letter(&self, receipt: &Receipt) -> Result<()> {
        // Asks SQS whether the receipt still holds, and gives the move time.
        self.hide(receipt, self.settings.visibility).await?;
        let Some(message) = self.held.get(receipt) else {
            return Err(Error::conflict(
                "the message is gone, or was delivered again since",
            ));
        };
        let mut outgoing = Outgoing::moved(self.name, message, &*self.ids);
        outgoing.shorten(self.max_message_bytes, &*self.bodies).await?;
        sending::send(
            &self.client,
            &self.dead_url,
            vec![outgoing],
            self.max_message_bytes,
        )
        .await?;
        self.ack(receipt).await
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let (own, dead) = futures::future::try_join(
            attributes(&self.client, &self.url),
            attributes(&self.client, &self.dead_url),
        )
        .await?;
        Ok(QueueDepth {
            visible: own.visible,
            hidden: own.hidden,
            dead: dead.visible + dead.hidden,
        })
    }

    /// Never works: SQS shows a message only to who receives it, and that counts as a delivery.
    async fn peek(&self, _limit: usize) -> Result<Vec<StoredMessage>> {
        Err(Error::invalid(format!(
            "SQS shows no messages that wait, as looking at one would count as a delivery; `dormouse queue list` \
             tells how many wait in {}",
            self.name
        )))
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        let letters = self.take_dead_letters(limit).await?;
        self.release_dead_letters(&letters).await;
        Ok(letters.into_iter().map(|letter| self.stored(letter)).collect())
    }

    async fn redrive(&self, message_ids: Option<&[String]>) -> Result<u64> {
        let mut passed = Vec::new();
        let mut seen = HashSet::new();
        let mut moved = 0;
        loop {
            let letters = self.poll(&self.dead_url, BATCH, LOOK_WAIT, Some(MOVE)).await?;
            if letters.is_empty() {
                break;
            }
            for letter in letters {
                let is_asked_for = message_ids.is_none_or(|ids| ids.contains(&letter.message_id));
                // One that fails at once is a dead letter again before all others have moved.
                if !is_asked_for || !seen.insert(letter.message_id.clone()) {
                    passed.push(letter);
                    continue;
                }
                let mut outgoing = Outgoing::redriven(self.name, letter.clone(), &*self.ids);
                outgoing.shorten(self.max_message_bytes, &*self.bodies).await?;
                sending::send(&self.client, &self.url, vec![outgoing], self.max_message_bytes).await?;
                self.delete_dead_letter(&letter).await?;
                moved += 1;
            }
        }
        self.release_dead_letters(&passed).await;
        Ok(moved)
    }
}

pub(crate) fn whole_seconds(time: Duration) -> u32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Whole seconds as the SDK has them.
fn sdk_seconds(time: Duration) -> i32 {
    i32::try_from(whole_seconds(time)).unwrap_or(i32::MAX)
}
