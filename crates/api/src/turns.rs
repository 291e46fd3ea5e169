//! How many queries are answered at a time, and how many of one tenant.
//!
//! Of several tenants, none takes every place where there are two or more: an eighth of them, at least one, stays for
//! others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use dormouse_core::tenants::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places that there are.
#[derive(Debug)]
pub struct Turns {
    places: Arc<Semaphore>,
    /// How many one tenant has at most.
    share: usize,
    of_tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

/// A place, until this is dropped.
#[derive(Debug)]
pub struct Turn {
    _of_tenant: Option<OwnedSemaphorePermit>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// So many places; all of them for one tenant when nobody else is there.
    pub fn new(places: usize) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            share: (places - places.div_ceil(8)).max(1),
            of_tenants: Mutex::default(),
        }
    }

    /// Waits for a place. Tenants that are not alone wait for one of their share first.
    pub async fn take(&self, tenant: &TenantId, is_alone: bool) -> Turn {
        let of_tenant = if is_alone {
            None
        } else {
            let share = self.share_of(tenant);
            // No semaphore is ever closed.
            share.acquire_owned().await.ok()
        };
        Turn {
            _of_tenant: of_tenant,
            _place: self.places.clone().acquire_owned().await.ok(),
        }
    }

    fn share_of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut of_tenants = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for or has a place of are made again when they are asked for.
        of_tenants.retain(|_, share| Arc::strong_count(share) > 1);
        let share = of_tenants.entry(tenant.clone());
        share
            .or_insert_with(|| Arc::new(Semaphore::new(self.share)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn id(text: &str) -> TenantId {
        TenantId::new(text).unwrap()
    }

    #[test]
    fn a_tenant_leaves_places_to_others() {
        let turns = Turns::new(8);
        let mut taken = Vec::new();
        while let Some(turn) = turns.take(&id("greedy"), false).now_or_never() {
            taken.push(turn);
        }
        assert_eq!(taken.len(), 7);
        let other = turns.take(&id("modest"), false).now_or_never();
        assert!(other.is_some());
        assert!(turns.take(&id("third"), false).now_or_never().is_none());
        taken.pop();
        assert!(turns.take(&id("greedy"), false).now_or_never().is_some());
        drop((taken, other));
        assert!(turns.take(&id("modest"), false).now_or_never().is_some());
        assert!(turns.of_tenants.lock().unwrap().len() <= 1);
    }

    #[test]
    fn who_is_alone_has_every_place() {
        let turns = Turns::new(3);
        let taken: Vec<_> = std::iter::from_fn(|| turns.take(&id("a"), true).now_or_never()).collect();
        assert_eq!(taken.len(), 3);
        drop(taken);
        let one = Turns::new(1);
        assert!(one.take(&id("a"), false).now_or_never().is_some());
    }
}
