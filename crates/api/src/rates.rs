//! How often a tenant may ask.
//!
//! Requests are counted by this process alone, in whole minutes of the clock: what a limit says is for each process
//! that serves an instance. Counts of a past minute are forgotten when the next one begins.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use dormouse_core::{ports::Clock, tenants::TenantId, time::Timestamp};
use parking_lot::Mutex;

const WINDOW_MILLIS: i64 = 60_000;

/// How many requests with wrong credentials an address may make a minute.
const UNKNOWN_LIMIT: u64 = 60;

/// How many addresses are told apart. Those that come later in the same minute share one count.
const MAX_ADDRESSES: usize = 10_000;

/// Requests that are counted together.
#[derive(Clone, Copy, Hash, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub enum RateClass {
    /// Queries that are answered at once.
    Queries,
    /// Making bulk jobs.
    BulkCreate,
    /// Everything else about bulk jobs.
    Bulk,
    /// Everything about jobs of either kind.
    Jobs,
}

/// Whether a request may go on, and what is left after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many requests a minute there may be.
    pub limit: u64,
    /// How many more there may be in this minute.
    pub remaining: u64,
    /// How long this minute lasts yet.
    pub reset: Duration,
    /// Whether this request is within the limit.
    pub allowed: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Asker {
    Tenant(TenantId, RateClass),
    Address(IpAddr),
    OtherAddresses,
}

#[derive(Default)]
struct Counts {
    window: i64,
    addresses: usize,
    taken: HashMap<Asker, u64>,
}

/// Counts the requests of each tenant, and those that no tenant made.
pub struct RateLimiter {
    clock: Arc<dyn Clock>,
    counts: Mutex<Counts>,
}

impl RateLimiter {
    /// Nobody has asked yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            counts: Mutex::default(),
        }
    }

    /// Counts a request of a tenant, unless it is over the limit.
    pub fn take(&self, tenant: &TenantId, class: RateClass, limit: u64) -> Rate {
        self.count(Asker::Tenant(tenant.clone(), class), limit)
    }

    /// Counts a request with wrong credentials from this address, unless it is over the limit. The addresses of an
    /// IPv6 network of 64 bits count as one.
    pub fn take_unknown(&self, address: IpAddr) -> Rate {
        self.count(Asker::Address(network(address)), UNKNOWN_LIMIT)
    }

    fn count(&self, asker: Asker, limit: u64) -> Rate {
        let now = self.clock.now();
        let window = now.as_millis().div_euclid(WINDOW_MILLIS);
        let mut counts = self.counts.lock();
        if counts.window != window {
            *counts = Counts {
                window,
                ..Counts::default()
            };
        }
        let asker = counts.admit(asker);
        let taken = counts.taken.entry(asker).or_default();
        let allowed = *taken < limit;
        if allowed {
            *taken += 1;
        }
        let end = Timestamp::from_millis((window + 1).saturating_mul(WINDOW_MILLIS));
        Rate {
            limit,
            remaining: limit.saturating_sub(*taken),
            reset: end.since(now),
            allowed,
        }
    }
}

impl Counts {
    /// Who the asker counts as: itself, unless there are too many.
    fn admit(&mut self, asker: Asker) -> Asker {
        match asker {
            Asker::Address(_) if self.taken.contains_key(&asker) => asker,
            Asker::Address(_) if self.addresses >= MAX_ADDRESSES => Asker::OtherAddresses,
            Asker::Address(_) => {
                self.addresses += 1;
                asker
            }
            Asker::Tenant(..) | Asker::OtherAddresses => asker,
        }
    }
}

/// The address, or the network that one client has to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dormouse_core::testing::seeded::PausedClock;

    use super::*;

    fn world(start: i64) -> (Arc<PausedClock>, RateLimiter) {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(start)));
        (clock.clone(), RateLimiter::new(clock))
    }

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_has_as_many_requests_as_the_limit() {
        let (clock, rates) = world(600_000 + 45_000);
        let take = || rates.take(&tenant("a"), RateClass::Queries, 2);
        let reset = Duration::from_secs(15);
        let rate = |remaining, allowed| Rate {
            limit: 2,
            remaining,
            reset,
            allowed,
        };
        assert_eq!(
            [take(), take(), take()],
            [rate(1, true), rate(0, true), rate(0, false)]
        );
        clock.sleep(reset).await;
        assert!(take().allowed);
        assert_eq!(take().reset, Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_and_classes_are_counted_apart() {
        let (_, rates) = world(0);
        assert!(rates.take(&tenant("a"), RateClass::Queries, 1).allowed);
        assert!(!rates.take(&tenant("a"), RateClass::Queries, 1).allowed);
        assert!(rates.take(&tenant("a"), RateClass::Bulk, 1).allowed);
        assert!(rates.take(&tenant("b"), RateClass::Queries, 1).allowed);
        assert!(!rates.take(&tenant("c"), RateClass::Queries, 0).allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_not_counted() {
        let (_, rates) = world(0);
        assert!(rates.take(&tenant("a"), RateClass::Jobs, 1).allowed);
        for _ in 0..5 {
            assert!(!rates.take(&tenant("a"), RateClass::Jobs, 1).allowed);
        }
        let more = rates.take(&tenant("a"), RateClass::Jobs, 3);
        assert_eq!((more.remaining, more.allowed), (1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_without_credentials_has_sixty_a_minute() {
        let (clock, rates) = world(0);
        let address = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..60 {
            assert!(rates.take_unknown(address).allowed);
        }
        assert!(!rates.take_unknown(address).allowed);
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        assert!(!rates.take_unknown(mapped.into()).allowed);
        assert!(rates.take_unknown(IpAddr::from([192, 0, 2, 2])).allowed);
        clock.sleep(Duration::from_secs(60)).await;
        assert!(rates.take_unknown(address).allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_one_client_is_one_address() {
        let (_, rates) = world(0);
        for host in 0..60u16 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host);
            assert!(rates.take_unknown(address.into()).allowed);
        }
        let same = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, 9);
        let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);
        assert!(!rates.take_unknown(same.into()).allowed);
        assert!(rates.take_unknown(other.into()).allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_however_many_addresses_ask() {
        let (clock, rates) = world(0);
        let of = |number: usize| IpAddr::V4(Ipv4Addr::from_bits(number as u32));
        for number in 0..MAX_ADDRESSES {
            assert!(rates.take_unknown(of(number)).allowed);
        }
        let late = (MAX_ADDRESSES..MAX_ADDRESSES + 100).map(of);
        let allowed = late
            .filter(|address| rates.take_unknown(*address).allowed)
            .count();
        assert_eq!(allowed as u64, UNKNOWN_LIMIT);
        assert!(rates.take_unknown(of(0)).allowed);
        assert_eq!(rates.counts.lock().taken.len(), MAX_ADDRESSES + 1);
        clock.sleep(Duration::from_secs(60)).await;
        assert!(rates.take_unknown(of(MAX_ADDRESSES)).allowed);
        assert_eq!(rates.counts.lock().taken.len(), 1);
    }
}
