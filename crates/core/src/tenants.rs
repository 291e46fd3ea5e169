//! Tenants, and the keys that they ask with.
//!
//! An instance that never had a tenant has one, [`TenantId::instance`], that needs no key and may read every table.

mod id;
mod keys;

use std::sync::Arc;

use serde::Serialize;

pub use self::{
    id::{MAX_TENANT_BYTES, TenantId},
    keys::{ApiKey, MAX_KEY_NAME_BYTES, NewApiKey, Scope},
};

use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    ports::{Clock, Condition, Ids, Item, ItemKey, ItemStore, Order, Range, Sort, Write},
    time::Timestamp,
};

const TENANTS: &str = "tenants";
const CLOSED: &str = "closed";

/// How many tenants or keys one query of a list asks for.
const LIST_PAGE: usize = 200;

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// When it was made.
    pub created: Timestamp,
}

/// Finds and changes tenants and their keys.
#[derive(Clone, Debug)]
pub struct Tenants {
    items: Arc<dyn ItemStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Tenants {
    /// The tenants in these items.
    pub fn new(items: Arc<dyn ItemStore>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { items, clock, ids }
    }

    fn key(id: &TenantId) -> ItemKey {
        ItemKey::new(Collection::Tenants, TENANTS, id.as_str())
    }

    /// Makes a tenant. The instance is closed from then on.
    ///
    /// # Errors
    /// `AlreadyExists`; errors of the item store.
    pub async fn create(&self, id: TenantId) -> Result<Tenant> {
        let created = self.clock.now();
        let writes = vec![
            Write::Put {
                item: Item::new(Self::key(&id)).with("created", created),
                condition: Condition::NotExists,
            },
            Write::Put {
                item: Item::new(closed()),
                condition: Condition::None,
            },
        ];
        match self.items.transact(writes).await {
            Ok(()) => Ok(Tenant { id, created }),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                Err(Error::already_exists(format!("tenant {id} exists already")))
            }
            Err(error) => Err(error),
        }
    }

    /// The tenant with this id.
    ///
    /// # Errors
    /// `NotFound`; errors of the item store.
    pub async fn get(&self, id: &TenantId) -> Result<Tenant> {
        let item = self.items.get(&Self::key(id)).await?;
        let item = item.ok_or_else(|| Error::not_found(format!("tenant {id} does not exist")))?;
        Ok(Tenant {
            id: id.clone(),
            created: Timestamp::from_millis(item.number("created")?),
        })
    }

    /// All tenants, by id.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn list(&self) -> Result<Vec<Tenant>> {
        let items = self.all(Collection::Tenants, TENANTS).await?;
        let tenant = |item: &Item| match &item.key.sort {
            Sort::Text(id) => Ok(Tenant {
                id: TenantId::new(id)?,
                created: Timestamp::from_millis(item.number("created")?),
            }),
            other => Err(Error::corrupt(format!("a tenant is listed as {other:?}"))),
        };
        items.iter().map(tenant).collect()
    }

    /// Whether only those who have a key may ask. So it is from the first tenant on, until [`Tenants::open`].
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn is_closed(&self) -> Result<bool> {
        Ok(self.items.get(&closed()).await?.is_some())
    }

    /// Lets everybody ask who reaches the instance.
    ///
    /// # Errors
    /// `Conflict` when there are tenants; errors of the item store.
    pub async fn open(&self) -> Result<()> {
        match self.list().await?.len() {
            0 => self.items.delete(closed(), Condition::None).await,
            count => Err(Error::conflict(format!(
                "there are {count} tenants; delete them first"
            ))),
        }
    }

    async fn all(&self, collection: Collection, partition: &str) -> Result<Vec<Item>> {
        let mut all: Vec<Item> = Vec::new();
        let mut range = Range::all();
        loop {
            let page = self
                .items
                .query(collection, partition, range, LIST_PAGE, Order::Ascending)
                .await?;
            let is_last = page.len() < LIST_PAGE;
            all.extend(page);
            match all.last() {
                Some(item) if !is_last => range = Range::after(item.key.sort.clone()),
                _ => return Ok(all),
            }
        }
    }

    /// Forgets all keys of a tenant, so that nobody asks in its name any more.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant; errors of the item store.
    pub async fn delete_keys(&self, id: &TenantId) -> Result<()> {
        self.get(id).await?;
        for item in self.all(Collection::ApiKeys, id.as_str()).await? {
            self.items.delete(item.key, Condition::None).await?;
        }
        Ok(())
    }

    /// Deletes a tenant and its keys, which are no good from then on.
    ///
    /// # Errors
    /// `NotFound`; errors of the item store.
    pub async fn delete(&self, id: &TenantId) -> Result<()> {
        self.delete_keys(id).await?;
        self.items.delete(Self::key(id), Condition::None).await
    }
}

/// What tells that an instance is closed.
fn closed() -> ItemKey {
    ItemKey::new(Collection::Tenants, CLOSED, CLOSED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        memory::MemoryItemStore,
        seeded::{PausedClock, SeededIds},
    };

    fn tenants() -> Tenants {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_000_000)));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        Tenants::new(items, clock, Arc::new(SeededIds::new(1)))
    }

    fn id(text: &str) -> TenantId {
        TenantId::new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_are_made_once_and_listed() {
        let tenants = tenants();
        tenants.create(id("b")).await.unwrap();
        tenants.create(id("a")).await.unwrap();
        let again = tenants.create(id("a")).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let listed = tenants.list().await.unwrap();
        let ids: Vec<_> = listed.iter().map(|tenant| tenant.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(
            tenants.get(&id("c")).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_had_a_tenant_stays_closed_until_it_is_opened() {
        let tenants = tenants();
        assert!(!tenants.is_closed().await.unwrap());
        tenants.create(id("acme")).await.unwrap();
        assert!(tenants.is_closed().await.unwrap());
        let told = tenants.open().await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Conflict);
        tenants.delete(&id("acme")).await.unwrap();
        assert!(
            tenants.is_closed().await.unwrap(),
            "what was somebody's is not everybody's"
        );
        tenants.open().await.unwrap();
        assert!(!tenants.is_closed().await.unwrap());
    }
}
