//! Links for one use.
//!
//! A link for one use may be read in ranges and again, as tools that resume a download or read Parquet do, until every
//! byte of its object was handed out once, or nobody used it for ten minutes after its first use. What was handed out
//! is kept as an item, so that it holds for every process and survives a restart; concurrent requests change the item
//! by compare-and-swap of its version.

mod intervals;

use std::{ops::Range, sync::Arc, time::Duration};

use dormouse_core::{
    Error, ErrorKind, Result,
    collections::Collection,
    ports::{Clock, Condition, Ids, Item, ItemKey, ItemStore},
    time::Timestamp,
};

use intervals::Intervals;

/// How long a link may be unused after its first use.
const IDLE: Duration = Duration::from_secs(600);

/// How exactly the last use of a link is known: not every request writes it down. A link may live this much longer.
const USE_GRAIN: Duration = Duration::from_secs(30);

/// How much longer the item is kept than the link is good, so that no clock that is fast brings a link back.
const KEPT_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How often a change is tried while others change the same link.
const MAX_TRIES: u32 = 30;

/// The longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_millis(100);

const VERSION: &str = "version";
const READ: &str = "read";
const USED: &str = "usedAt";
const DONE: &str = "done";

/// What became of the links for one use.
#[derive(Debug)]
pub struct Links {
    items: Arc<dyn ItemStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

/// Whether a link may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Some bytes were not read yet.
    Good,
    /// It was used up, or not used for too long.
    Gone,
}

#[derive(Clone, Debug)]
struct Use {
    version: i64,
    read: Intervals,
    used: Timestamp,
    done: bool,
}

impl Links {
    /// The links that these items tell of.
    pub fn new(items: Arc<dyn ItemStore>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { items, clock, ids }
    }

    /// Whether a link may be used. Changes nothing.
    pub async fn look(&self, link: &str) -> Result<LinkState> {
        let stored = self.read(link).await?;
        Ok(match stored {
            Some(stored) => stored.state(self.clock.now()),
            None => LinkState::Good,
        })
    }

    /// Whether a link that is good until `expires` may be used, which counts as a use.
    pub async fn begin(&self, link: &str, expires: Timestamp) -> Result<LinkState> {
        self.change(link, expires, |stored, now| {
            let recent = stored.version > 0 && now.since(stored.used) < USE_GRAIN;
            if stored.state(now) == LinkState::Gone || recent {
                return None;
            }
            stored.used = now;
            Some(())
        })
        .await
    }

    /// Keeps a link in use while an answer to it goes on, however long it takes.
    pub async fn touch(&self, link: &str, expires: Timestamp) -> Result<()> {
        let touched = self.change(link, expires, |stored, now| {
            if stored.done {
                return None;
            }
            stored.used = now;
            Some(())
        });
        touched.await.map(|_| ())
    }

    /// Notes that these bytes of the link's object of `size` bytes are handed out.
    pub async fn served(&self, link: &str, expires: Timestamp, bytes: Range<u64>, size: u64) -> Result<()> {
        let noted = self.change(link, expires, |stored, now| {
            if stored.done {
                return None;
            }
            stored.used = now;
            stored.read.add(bytes.clone());
            stored.done = stored.read.cover(size);
            Some(())
        });
        noted.await.map(|_| ())
    }

    /// Changes what is known of a link, unless the change says that there is nothing to, and tells its state.
    async fn change(
        &self,
        link: &str,
        expires: Timestamp,
        change: impl Fn(&mut Use, Timestamp) -> Option<()>,
    ) -> Result<LinkState> {
        for _ in 0..MAX_TRIES {
            let now = self.clock.now();
            let mut stored = self.read(link).await?.unwrap_or_else(|| Use {
                version: 0,
                read: Intervals::default(),
                used: now,
                done: false,
            });
            if change(&mut stored, now).is_none() {
                return Ok(stored.state(now));
            }
            let condition = match stored.version {
                0 => Condition::NotExists,
                version => Condition::equals(VERSION, version),
            };
            stored.version += 1;
            let item = stored.item(link).expiring(expires.plus(KEPT_AFTER));
            match self.items.put(item, condition).await {
                Ok(()) => return Ok(stored.state(now)),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    self.clock.sleep(self.ids.jitter(MAX_WAIT)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::unavailable(
            "a link is used by too many requests at the same time",
        ))
    }

    async fn read(&self, link: &str) -> Result<Option<Use>> {
        let key = ItemKey::new(Collection::Links, link, ());
        self.items.get(&key).await?.map(|item| Use::of(&item)).transpose()
    }
}

impl Use {
    fn state(&self, now: Timestamp) -> LinkState {
        if self.done || now.since(self.used) > IDLE + USE_GRAIN {
            LinkState::Gone
        } else {
            LinkState::Good
        }
    }

    fn item(&self, link: &str) -> Item {
        Item::new(ItemKey::new(Collection::Links, link, ()))
            .with(VERSION, self.version)
            .with(READ, self.read.to_text())
            .with(USED, self.used)
            .with(DONE, i64::from(self.done))
    }

    fn of(item: &Item) -> Result<Self> {
        Ok(Self {
            version: item.number(VERSION)?,
            read: Intervals::parse(item.text(READ)?)
                .ok_or_else(|| Error::corrupt("what was read over a link is no list of ranges"))?,
            used: Timestamp::from_millis(item.number(USED)?),
            done: item.number(DONE)? != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use dormouse_core::testing::{
        memory::MemoryItemStore,
        seeded::{PausedClock, SeededIds},
    };

    use super::*;

    const EXPIRES: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn world() -> (Arc<PausedClock>, Arc<MemoryItemStore>, Links) {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(0)));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let links = Links::new(items.clone(), clock.clone(), Arc::new(SeededIds::new(1)));
        (clock, items, links)
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_good_until_every_byte_was_handed_out() {
        let (clock, items, links) = world();
        assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Good);
        for range in [50..100, 0..20, 50..70] {
            links.served("l", EXPIRES, range, 100).await.unwrap();
            assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Good);
        }
        // Another process, or this one after a restart, knows the same.
        let links = Links::new(items, clock, Arc::new(SeededIds::new(2)));
        links.served("l", EXPIRES, 20..50, 100).await.unwrap();
        assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Gone);
        assert_eq!(links.look("l").await.unwrap(), LinkState::Gone);
        assert_eq!(links.look("other").await.unwrap(), LinkState::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_nobody_uses_any_more_is_gone() {
        let (clock, _, links) = world();
        clock.sleep(IDLE * 3).await;
        assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Good);
        clock.sleep(IDLE).await;
        assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Good);
        clock.sleep(IDLE).await;
        links.touch("l", EXPIRES).await.unwrap();
        clock.sleep(IDLE).await;
        assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Good);
        // A use that was not written down does not count, but the grain makes up for it.
        clock.sleep(USE_GRAIN - Duration::from_secs(1)).await;
        assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Good);
        clock.sleep(IDLE).await;
        assert_eq!(links.look("l").await.unwrap(), LinkState::Good);
        clock.sleep(Duration::from_secs(2)).await;
        assert_eq!(links.look("l").await.unwrap(), LinkState::Gone);
        assert_eq!(links.begin("l", EXPIRES).await.unwrap(), LinkState::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn looking_uses_nothing() {
        let (clock, items, links) = world();
        assert_eq!(links.look("l").await.unwrap(), LinkState::Good);
        let key = ItemKey::new(Collection::Links, "l", ());
        assert_eq!(items.get(&key).await.unwrap(), None);
        clock.sleep(IDLE * 2).await;
        assert_eq!(links.look("l").await.unwrap(), LinkState::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_object_is_handed_out_at_once() {
        let (_, _, links) = world();
        links.served("l", EXPIRES, 0..0, 0).await.unwrap();
        assert_eq!(links.look("l").await.unwrap(), LinkState::Gone);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_ranges_all_count() {
        let (_, _, links) = world();
        let links = Arc::new(links);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8u64 {
            let links = links.clone();
            tasks.spawn(async move {
                links.begin("l", EXPIRES).await.unwrap();
                links
                    .served("l", EXPIRES, number * 10..number * 10 + 10, 80)
                    .await
                    .unwrap();
            });
        }
        tasks.join_all().await;
        assert_eq!(links.look("l").await.unwrap(), LinkState::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_a_link_outlasts_it() {
        let (clock, _, links) = world();
        let expires = Timestamp::from_millis(60_000);
        links.served("l", expires, 0..5, 5).await.unwrap();
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(links.look("l").await.unwrap(), LinkState::Gone);
        clock.sleep(KEPT_AFTER).await;
        assert_eq!(links.look("l").await.unwrap(), LinkState::Good);
    }
}
