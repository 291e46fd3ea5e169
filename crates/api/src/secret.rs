//! The secret that all processes of an instance share, and sign with.

use std::fmt;

use bytes::Bytes;
use dormouse_core::{
    Error, ErrorKind, Result,
    collections::Collection,
    ports::{Condition, Ids, Item, ItemKey, ItemStore, Value},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What the secret is for: its partition key.
const PURPOSE: &str = "links";
const SECRET: &str = "secret";

/// How many random ids a secret is made of. Each has 122 random bits.
const IDS: usize = 4;

/// Signs what clients give back.
#[derive(Clone)]
pub struct InstanceSecret(Hmac<Sha256>);

impl fmt::Debug for InstanceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstanceSecret")
    }
}

impl InstanceSecret {
    /// The secret of the instance with these items. Makes it when there is none.
    ///
    /// # Errors
    /// `Corrupt` when what is stored is no secret; errors of the item store.
    pub async fn open(items: &dyn ItemStore, ids: &dyn Ids) -> Result<Self> {
        Self::new(&get_or_make(items, ids).await?)
    }

    pub(crate) fn new(secret: &[u8]) -> Result<Self> {
        match Hmac::new_from_slice(secret) {
            Ok(mac) => Ok(Self(mac)),
            Err(_) => Err(Error::corrupt("the secret that signs links is of a wrong size")),
        }
    }

    /// Over all parts, each with its length before it: no two lists of parts are signed alike.
    pub(crate) fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

/// The instance's secret. Of processes that make it at the same time, one does, and all have that one.
///
/// # Errors
/// `Corrupt` when what is stored is no secret.
async fn get_or_make(items: &dyn ItemStore, ids: &dyn Ids) -> Result<Bytes> {
    let key = ItemKey::new(Collection::Secrets, PURPOSE, ());
    if let Some(item) = items.get(&key).await? {
        return read(&item);
    }
    let mut digest = Sha256::new();
    for _ in 0..IDS {
        digest.update(ids.uuid().as_bytes());
    }
    let secret = Bytes::copy_from_slice(&digest.finalize());
    let mut item = Item::new(key.clone());
    item.attributes.insert(SECRET.to_owned(), Value::Bytes(secret));
    match items.put(item, Condition::NotExists).await {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Conflict => {}
        Err(error) => return Err(error),
    }
    match items.get(&key).await? {
        Some(item) => read(&item),
        None => Err(Error::unavailable(
            "the secret that signs links was removed just now",
        )),
    }
}

fn read(item: &Item) -> Result<Bytes> {
    let secret = item.bytes(SECRET)?;
    if secret.len() != Sha256::output_size() {
        return Err(Error::corrupt("the secret that signs links is of a wrong size"));
    }
    Ok(secret.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dormouse_core::{
        testing::{
            memory::MemoryItemStore,
            seeded::{PausedClock, SeededIds},
        },
        time::Timestamp,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_instance_has_one_secret() {
        let clock = Arc::new(PausedClock::new(Timestamp::default()));
        let items = MemoryItemStore::new(clock);
        let processes = (0..5).map(SeededIds::new).collect::<Vec<_>>();
        let secrets = processes.iter().map(|ids| get_or_make(&items, ids));
        let mut secrets = futures::future::try_join_all(secrets).await.unwrap();
        secrets.dedup();
        assert_eq!(secrets.len(), 1);
        assert_eq!(secrets[0].len(), 32);
        assert_eq!(get_or_make(&items, &SeededIds::new(9)).await.unwrap(), secrets[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_secret_is_not_signed_with() {
        let clock = Arc::new(PausedClock::new(Timestamp::default()));
        let items = MemoryItemStore::new(clock);
        let mut item = Item::new(ItemKey::new(Collection::Secrets, PURPOSE, ()));
        item.attributes
            .insert(SECRET.to_owned(), Value::Bytes(Bytes::from_static(b"short")));
        items.put(item, Condition::None).await.unwrap();
        let error = get_or_make(&items, &SeededIds::new(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
