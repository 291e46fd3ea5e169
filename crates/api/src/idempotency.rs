//! Requests that may be sent again.
//!
//! A client that gives a request a key gets the first answer to it however often it sends the request. A key belongs
//! to a tenant and a route. While a request is answered its key has an item that expires after [`LEASE`], so that a
//! crash makes the key free again; the answer then replaces that item.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use dormouse_core::{
    Error, ErrorKind, Result,
    collections::Collection,
    ports::{Clock, Condition, Ids, Item, ItemKey, ItemStore, Value},
    tenants::TenantId,
};

/// How long a request may take until its key is free again.
const LEASE: Duration = Duration::from_secs(600);

/// The longest key.
const MAX_KEY_BYTES: usize = 255;

/// How often a key is looked at that others take and free at the same time.
const MAX_LOOKS: usize = 5;

const TICKET: &str = "ticket";
const BODY_HASH: &str = "requestSha256";
const STATUS: &str = "status";
const HEADERS: &str = "headers";
const BODY: &str = "body";

/// The keys of requests, and the answers to them.
#[derive(Clone, Debug)]
pub struct IdempotencyKeys {
    items: Arc<dyn ItemStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    ttl: Duration,
}

/// What to do about a request with a key.
#[derive(Debug)]
pub enum Begun {
    /// Answer it, and then finish or abandon the ticket.
    First,
    /// It was answered so before.
    Answered(StoredAnswer),
    /// It is being answered.
    InFlight,
    /// The key was used for a request with another body.
    OtherBody,
}

/// The right and the duty to say how a request was answered.
#[derive(Clone, Debug)]
pub struct Ticket {
    key: ItemKey,
    id: String,
    body_sha256: String,
}

/// An answer as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The status.
    pub status: u16,
    /// The headers that belong to the answer itself.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl fmt::Debug for StoredAnswer {
    /// Answers may hold links: only the status is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredAnswer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl IdempotencyKeys {
    /// Keys whose answers are kept for `ttl`.
    pub fn new(items: Arc<dyn ItemStore>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>, ttl: Duration) -> Self {
        Self {
            items,
            clock,
            ids,
            ttl,
        }
    }

    /// A ticket to take a key for a request with.
    ///
    /// # Errors
    /// `Invalid` when the key is not 1 to 255 visible ASCII characters.
    pub fn ticket(&self, tenant: &TenantId, route: &str, key: &str, body_sha256: &str) -> Result<Ticket> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::invalid(format!(
                "an idempotency key has 1 to {MAX_KEY_BYTES} visible ASCII characters"
            )));
        }
        Ok(Ticket {
            key: ItemKey::new(Collection::IdempotencyKeys, format!("{tenant}|{route}"), key),
            id: self.ids.uuid().to_string(),
            body_sha256: body_sha256.to_owned(),
        })
    }

    /// Takes the ticket's key, or finds out what became of the request that has it.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn begin(&self, ticket: &Ticket) -> Result<Begun> {
        for _ in 0..MAX_LOOKS {
            let item = ticket.item().expiring(self.clock.now().plus(LEASE));
            let refused = match self.items.put(item, Condition::NotExists).await {
                Ok(()) => return Ok(Begun::First),
                // An unclear answer may be to a write that happened.
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => error,
                Err(error) => return Err(error),
            };
            match self.items.get(&ticket.key).await? {
                Some(item) => return found(ticket, &item),
                None if refused.kind() == ErrorKind::Unavailable => return Err(refused),
                // It was abandoned or expired just now.
                None => {}
            }
        }
        Ok(Begun::InFlight)
    }

    /// Keeps the answer to a request, and frees its key when the answer is that the server failed, or is too large.
    ///
    /// An answer that came so late that another request has the key is dropped.
    pub async fn finish(&self, ticket: &Ticket, answer: StoredAnswer) -> Result<()> {
        if answer.status >= 500 {
            return self.abandon(ticket).await;
        }
        let headers = serde_json::to_string(&answer.headers).map_err(|error| {
            Error::internal("the headers of an answer cannot be written").with_source(error)
        })?;
        let mut item = ticket
            .item()
            .with(STATUS, i64::from(answer.status))
            .with(HEADERS, headers)
            .expiring(self.clock.now().plus(self.ttl));
        item.attributes.insert(BODY.to_owned(), Value::Bytes(answer.body));
        let bytes = item.encoded_bytes();
        if bytes > dormouse_core::ports::item_store::MAX_ITEM_BYTES {
            tracing::warn!(bytes, "answer too large to be kept for its idempotency key");
            return self.abandon(ticket).await;
        }
        let held = Condition::equals(TICKET, ticket.id.as_str());
        for condition in [held, Condition::NotExists] {
            match self.items.put(item.clone(), condition).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                done => return done,
            }
        }
        tracing::warn!("answer came after its idempotency key was given to another request");
        Ok(())
    }

    /// Frees the key of a request that was not answered.
    pub async fn abandon(&self, ticket: &Ticket) -> Result<()> {
        let held = Condition::equals(TICKET, ticket.id.as_str());
        match self.items.delete(ticket.key.clone(), held).await {
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            done => done,
        }
    }
}

impl Ticket {
    fn item(&self) -> Item {
        Item::new(self.key.clone())
            .with(TICKET, self.id.as_str())
            .with(BODY_HASH, self.body_sha256.as_str())
    }
}

/// What the item that has the key tells.
fn found(ticket: &Ticket, item: &Item) -> Result<Begun> {
    let answered = item.attributes.contains_key(STATUS);
    if !answered && item.text(TICKET)? == ticket.id {
        return Ok(Begun::First);
    }
    if item.text(BODY_HASH)? != ticket.body_sha256 {
        return Ok(Begun::OtherBody);
    }
    if !answered {
        return Ok(Begun::InFlight);
    }
    let corrupt =
        |what: &str| Error::corrupt(format!("the answer kept for an idempotency key has no {what}"));
    Ok(Begun::Answered(StoredAnswer {
        status: u16::try_from(item.number(STATUS)?).map_err(|_| corrupt("status"))?,
        headers: serde_json::from_str(item.text(HEADERS)?)
            .map_err(|error| corrupt("headers").with_source(error))?,
        body: item.bytes(BODY)?.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use dormouse_core::{
        testing::{
            memory::MemoryItemStore,
            seeded::{PausedClock, SeededIds},
        },
        time::Timestamp,
    };

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    struct World {
        clock: Arc<PausedClock>,
        keys: IdempotencyKeys,
        tenant: TenantId,
    }

    fn world() -> World {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_000_000)));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let ids = Arc::new(SeededIds::new(1));
        World {
            keys: IdempotencyKeys::new(items, clock.clone(), ids, DAY),
            clock,
            tenant: TenantId::new("acme").unwrap(),
        }
    }

    impl World {
        fn ticket(&self, key: &str, hash: &str) -> Ticket {
            self.keys
                .ticket(&self.tenant, "POST /bulk/jobs", key, hash)
                .unwrap()
        }

        async fn begin(&self, key: &str, hash: &str) -> Begun {
            self.keys.begin(&self.ticket(key, hash)).await.unwrap()
        }

        async fn first(&self, key: &str, hash: &str) -> Ticket {
            let ticket = self.ticket(key, hash);
            match self.keys.begin(&ticket).await.unwrap() {
                Begun::First => ticket,
                other => panic!("{other:?}"),
            }
        }
    }

    fn answer(status: u16, bytes: usize) -> StoredAnswer {
        StoredAnswer {
            status,
            headers: vec![("location".to_owned(), "/bulk/jobs/7".to_owned())],
            body: vec![b'x'; bytes].into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_is_given_again_until_it_is_forgotten() {
        let world = world();
        let ticket = world.first("k", "h").await;
        assert!(matches!(world.begin("k", "h").await, Begun::InFlight));
        assert!(matches!(world.begin("k", "other").await, Begun::OtherBody));
        world.keys.finish(&ticket, answer(201, 10)).await.unwrap();
        world.clock.sleep(DAY - Duration::from_secs(1)).await;
        match world.begin("k", "h").await {
            Begun::Answered(stored) => assert!(stored == answer(201, 10)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(world.begin("k", "other").await, Begun::OtherBody));
        world.clock.sleep(Duration::from_secs(1)).await;
        assert!(matches!(world.begin("k", "other").await, Begun::First));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_tenants_and_routes_are_apart() {
        let world = world();
        let _ticket = world.first("k", "h").await;
        let rival = TenantId::new("rival").unwrap();
        for (tenant, route) in [(&rival, "POST /bulk/jobs"), (&world.tenant, "POST /queries")] {
            let ticket = world.keys.ticket(tenant, route, "k", "h").unwrap();
            assert!(matches!(world.keys.begin(&ticket).await.unwrap(), Begun::First));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_concurrent_requests_one_is_first() {
        let world = world();
        let begun = futures::future::join_all((0..20).map(|_| world.begin("k", "h"))).await;
        let first = begun.iter().filter(|begun| matches!(begun, Begun::First)).count();
        let waiting = begun
            .iter()
            .filter(|begun| matches!(begun, Begun::InFlight))
            .count();
        assert_eq!((first, waiting), (1, 19));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_requests_on_several_threads_one_is_first() {
        let world = Arc::new(world());
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..200 {
            let world = world.clone();
            tasks.spawn(async move {
                let key = format!("k{}", number / 10);
                matches!(world.begin(&key, "h").await, Begun::First)
            });
        }
        let first = tasks.join_all().await.into_iter().filter(|first| *first).count();
        assert_eq!(first, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_abandoned_requests_free_the_key() {
        let world = world();
        for status in [500, 503] {
            let ticket = world.first("k", "h").await;
            world.keys.finish(&ticket, answer(status, 10)).await.unwrap();
        }
        let ticket = world.first("k", "h").await;
        world.keys.abandon(&ticket).await.unwrap();
        let ticket = world.first("k", "other").await;
        world.keys.finish(&ticket, answer(400, 10)).await.unwrap();
        assert!(matches!(world.begin("k", "other").await, Begun::Answered(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_frees_the_key_after_a_while() {
        let world = world();
        let late = world.first("k", "h").await;
        world.clock.sleep(LEASE - Duration::from_secs(1)).await;
        assert!(matches!(world.begin("k", "h").await, Begun::InFlight));
        world.clock.sleep(Duration::from_secs(1)).await;
        let second = world.first("k", "h").await;
        // The one that was thought dead neither frees the key of the second, nor answers for it.
        world.keys.abandon(&late).await.unwrap();
        world.keys.finish(&late, answer(201, 1)).await.unwrap();
        assert!(matches!(world.begin("k", "h").await, Begun::InFlight));
        world.keys.finish(&second, answer(201, 2)).await.unwrap();
        match world.begin("k", "h").await {
            Begun::Answered(stored) => assert_eq!(stored.body.len(), 2),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_is_kept_when_nobody_else_has_the_key() {
        let world = world();
        let ticket = world.first("k", "h").await;
        world.clock.sleep(LEASE * 2).await;
        world.keys.finish(&ticket, answer(201, 1)).await.unwrap();
        assert!(matches!(world.begin("k", "h").await, Begun::Answered(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_over_the_limit_of_items_is_not_kept() {
        let world = world();
        for (bytes, kept) in [(379 * 1024, true), (381 * 1024, false)] {
            let key = bytes.to_string();
            let ticket = world.first(&key, "h").await;
            world.keys.finish(&ticket, answer(201, bytes)).await.unwrap();
            assert_eq!(
                matches!(world.begin(&key, "h").await, Begun::Answered(_)),
                kept,
                "{bytes}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_visible_ascii() {
        let world = world();
        for good in ["a", "{\"~!", &"x".repeat(255)] {
            assert!(matches!(world.begin(good, "h").await, Begun::First), "{good}");
        }
        for bad in ["", "a b", "a\n", "ä", &"x".repeat(256)] {
            let refused = world.keys.ticket(&world.tenant, "r", bad, "h").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn answers_are_not_shown() {
        let shown = format!("{:?}", answer(201, 3));
        assert!(shown.contains("201") && !shown.contains("bulk") && !shown.contains("xxx"));
    }
}
