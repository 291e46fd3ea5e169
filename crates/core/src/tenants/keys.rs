//! The keys that tenants ask with.
//!
//! A key is `spk_<tenant>_<key id><secret>`: 12 hexadecimal digits of an id, and 64 of a secret. The secret is shown
//! once, when the key is made; what is stored is a salt, and the SHA-256 of salt and secret. The secret is random,
//! so a slow hash would make nothing safer.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Tenant, TenantId, Tenants};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    ports::{Condition, Item, ItemKey, Sort, Write},
    time::Timestamp,
};

const KEY_PREFIX: &str = "spk_";
const KEY_ID_DIGITS: usize = 12;
const SECRET_DIGITS: usize = 64;

/// The longest name of a key.
pub const MAX_KEY_NAME_BYTES: usize = 100;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Asking queries that are answered at once.
    #[serde(rename = "query:execute")]
    QueryExecute,
    /// Making and starting bulk jobs.
    #[serde(rename = "bulk:create")]
    BulkCreate,
    /// Reading bulk jobs and their results.
    #[serde(rename = "bulk:read")]
    BulkRead,
    /// Cancelling and deleting bulk jobs.
    #[serde(rename = "bulk:cancel")]
    BulkCancel,
    /// Everything.
    #[serde(rename = "admin:*")]
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [
        Self::QueryExecute,
        Self::BulkCreate,
        Self::BulkRead,
        Self::BulkCancel,
        Self::Admin,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueryExecute => "query:execute",
            Self::BulkCreate => "bulk:create",
            Self::BulkRead => "bulk:read",
            Self::BulkCancel => "bulk:cancel",
            Self::Admin => "admin:*",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid(format!("there is no scope \"{text}\"; the scopes are {words}"))
        })
    }
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// Its id, unique in the tenant: the public part of the key.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is no good; none for never.
    pub expires: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it may be used for this.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    fn key(tenant: &TenantId, id: &str) -> ItemKey {
        ItemKey::new(Collection::ApiKeys, tenant.as_str(), id)
    }

    fn is_good(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it is of this tenant, and not of an earlier one with the same id.
    fn is_of(&self, tenant: &Tenant, stored: &StoredSecret) -> bool {
        let is_of = match stored.tenant_created {
            Some(created) => created == tenant.created,
            None => self.created >= tenant.created,
        };
        is_of && self.tenant == tenant.id
    }

    fn item(&self, stored: &StoredSecret) -> Item {
        let scopes: Vec<_> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        let mut item = Item::new(Self::key(&self.tenant, &self.id))
            .with("name", self.name.as_str())
            .with("scopes", scopes.join(" "))
            .with("created", self.created)
            .with("salt", stored.salt.as_str())
            .with("hash", stored.hash.as_str())
            .with("version", stored.version);
        if let Some(created) = stored.tenant_created {
            item = item.with("tenantCreated", created);
        }
        for (name, time) in [("goodUntil", self.expires), ("revoked", self.revoked)] {
            if let Some(time) = time {
                item = item.with(name, time);
            }
        }
        item
    }

    /// Writes the key, if it is stored as it was read.
    fn change(&self, stored: StoredSecret) -> Write {
        let condition = Condition::equals("version", stored.version);
        let stored = StoredSecret {
            version: stored.version + 1,
            ..stored
        };
        Write::Put {
            item: self.item(&stored),
            condition,
        }
    }

    fn from_item(item: &Item) -> Result<(Self, StoredSecret)> {
        let damaged =
            |error: Error| Error::corrupt(format!("API key {:?} is damaged", item.key)).with_source(error);
        let time = |name: &str| item.number(name).ok().map(Timestamp::from_millis);
        let Sort::Text(id) = &item.key.sort else {
            return Err(Error::corrupt(format!("API key {:?} has no id", item.key)));
        };
        let scopes = item.text("scopes")?.split_whitespace().map(str::parse);
        let key = Self {
            id: id.clone(),
            tenant: TenantId::new(&item.key.partition).map_err(damaged)?,
            name: item.text("name")?.to_owned(),
            scopes: scopes.collect::<Result<_>>().map_err(damaged)?,
            created: Timestamp::from_millis(item.number("created")?),
            expires: time("goodUntil"),
            revoked: time("revoked"),
        };
        let stored = StoredSecret {
            salt: item.text("salt")?.to_owned(),
            hash: item.text("hash")?.to_owned(),
            tenant_created: item.number("tenantCreated").ok().map(Timestamp::from_millis),
            version: item.number("version")?,
        };
        Ok((key, stored))
    }
}

/// A key that was just made. Its text is not stored, and is shown this once.
#[derive(Clone)]
pub struct NewApiKey {
    /// What is known of it later.
    pub key: ApiKey,
    /// The text to ask with.
    pub text: String,
}

impl fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewApiKey")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// What is stored of a key beside what is shown.
struct StoredSecret {
    salt: String,
    hash: String,
    /// When the tenant was made that the key is of; none where that was not noted.
    tenant_created: Option<Timestamp>,
    /// Grows with every change.
    version: i64,
}

impl StoredSecret {
    fn new(salt: String, secret: &str, tenant: &Tenant) -> Self {
        Self {
            tenant_created: Some(tenant.created),
            hash: hash(&salt, secret),
            salt,
            version: 1,
        }
    }

    /// Compares all digits, so that the time it takes tells nothing of them.
    fn is_of(&self, secret: &str) -> bool {
        let other = hash(&self.salt, secret);
        let difference = self
            .hash
            .bytes()
            .zip(other.bytes())
            .fold(0, |all, (a, b)| all | (a ^ b));
        self.hash.len() == other.len() && difference == 0
    }
}

fn hash(salt: &str, secret: &str) -> String {
    hex::encode(Sha256::digest(format!("{salt}{secret}")))
}

/// Takes the text of a key apart: tenant, key id, secret.
fn parse_key(text: &str) -> Option<(TenantId, &str, &str)> {
    let (tenant, rest) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if rest.len() != KEY_ID_DIGITS + SECRET_DIGITS || !rest.bytes().all(is_digit) {
        return None;
    }
    let (id, secret) = rest.split_at(KEY_ID_DIGITS);
    Some((TenantId::new(tenant).ok()?, id, secret))
}

impl Tenants {
    /// Makes a key.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant; `Invalid` without a scope, with a name that is too long, or one that
    /// expires in the past.
    pub async fn create_key(
        &self,
        tenant: &TenantId,
        name: &str,
        scopes: BTreeSet<Scope>,
        expires: Option<Timestamp>,
    ) -> Result<NewApiKey> {
        let tenant = self.get(tenant).await?;
        let (new, put) = self.new_key(&tenant, name, scopes, expires)?;
        self.items
            .transact(vec![check(&tenant), put])
            .await
            .map_err(|error| absent(&tenant.id, error))?;
        Ok(new)
    }

    fn new_key(
        &self,
        tenant: &Tenant,
        name: &str,
        scopes: BTreeSet<Scope>,
        expires: Option<Timestamp>,
    ) -> Result<(NewApiKey, Write)> {
        let now = self.clock.now();
        if scopes.is_empty() {
            return Err(Error::invalid("a key needs at least one scope"));
        }
        if name.len() > MAX_KEY_NAME_BYTES {
            return Err(Error::invalid(format!(
                "the name of a key has at most {MAX_KEY_NAME_BYTES} bytes, not {}",
                name.len()
            )));
        }
        if let Some(expires) = expires.filter(|expires| *expires <= now) {
            return Err(Error::invalid(format!(
                "the key would expire at {expires}, which is past"
            )));
        }
        let digits = || self.ids.uuid().simple().to_string();
        let id = digits()[..KEY_ID_DIGITS].to_owned();
        let secret = digits() + &digits();
        let key = ApiKey {
            id,
            tenant: tenant.id.clone(),
            name: name.to_owned(),
            scopes,
            created: now,
            expires,
            revoked: None,
        };
        let put = Write::Put {
            item: key.item(&StoredSecret::new(digits(), &secret, tenant)),
            condition: Condition::NotExists,
        };
        let text = format!("{KEY_PREFIX}{}_{}{secret}", tenant.id, key.id);
        Ok((NewApiKey { key, text }, put))
    }

    /// Makes a key like this one, as long-lived as it was made to be; the old one is good until `until` and no longer.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant or key; `Conflict` when the key is no good any more, or was changed
    /// meanwhile.
    pub async fn rotate_key(&self, tenant: &TenantId, id: &str, until: Timestamp) -> Result<NewApiKey> {
        let tenant = self.get(tenant).await?;
        let (mut old, stored) = self.stored_key(&tenant.id, id).await?;
        let now = self.clock.now();
        if !old.is_good(now) || !old.is_of(&tenant, &stored) {
            return Err(Error::conflict(format!(
                "key {id} of tenant {} is revoked or has expired; make a new one",
                tenant.id
            )));
        }
        let expires = old.expires.map(|expires| now.plus(expires.since(old.created)));
        let (new, put) = self.new_key(&tenant, &old.name, old.scopes.clone(), expires)?;
        old.expires = Some(old.expires.map_or(until, |expires| expires.min(until)));
        let writes = vec![check(&tenant), old.change(stored), put];
        self.items.transact(writes).await?;
        Ok(new)
    }

    /// Makes a key no good from now on. A key that is revoked stays so.
    ///
    /// # Errors
    /// `NotFound` when there is no such key; `Conflict` when it is being changed; errors of the item store.
    pub async fn revoke_key(&self, tenant: &TenantId, id: &str) -> Result<ApiKey> {
        let (mut key, stored) = self.stored_key(tenant, id).await?;
        if key.revoked.is_none() {
            key.revoked = Some(self.clock.now());
            self.items.transact(vec![key.change(stored)]).await?;
        }
        Ok(key)
    }

    async fn stored_key(&self, tenant: &TenantId, id: &str) -> Result<(ApiKey, StoredSecret)> {
        let item = self.items.get(&ApiKey::key(tenant, id)).await?;
        let item = item.ok_or_else(|| Error::not_found(format!("tenant {tenant} has no key {id}")))?;
        ApiKey::from_item(&item)
    }

    /// The keys of a tenant, by id.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant; errors of the item store.
    pub async fn keys(&self, tenant: &TenantId) -> Result<Vec<ApiKey>> {
        self.get(tenant).await?;
        let items = self.all(Collection::ApiKeys, tenant.as_str()).await?;
        items.iter().map(|item| Ok(ApiKey::from_item(item)?.0)).collect()
    }

    /// The key that a text is, if it is one and good.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn authenticate(&self, text: &str) -> Result<Option<ApiKey>> {
        let Some((tenant, id, secret)) = parse_key(text) else {
            return Ok(None);
        };
        let Some(item) = self.items.get(&ApiKey::key(&tenant, id)).await? else {
            return Ok(None);
        };
        let (key, stored) = ApiKey::from_item(&item)?;
        if !stored.is_of(secret) || !key.is_good(self.clock.now()) {
            return Ok(None);
        }
        match self.get(&tenant).await {
            Ok(tenant) => Ok(key.is_of(&tenant, &stored).then_some(key)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// That a tenant is the one that was read.
fn check(tenant: &Tenant) -> Write {
    Write::Check {
        key: Tenants::key(&tenant.id),
        condition: Condition::equals("created", tenant.created),
    }
}

fn absent(tenant: &TenantId, error: Error) -> Error {
    match error.kind() {
        ErrorKind::Conflict => Error::not_found(format!("tenant {tenant} does not exist")),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        ports::{Clock, ItemStore},
        testing::{
            memory::MemoryItemStore,
            seeded::{PausedClock, SeededIds},
        },
    };

    struct World {
        clock: Arc<PausedClock>,
        items: Arc<MemoryItemStore>,
        tenants: Tenants,
    }

    fn world() -> World {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_000_000)));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let tenants = Tenants::new(items.clone(), clock.clone(), Arc::new(SeededIds::new(1)));
        World {
            clock,
            items,
            tenants,
        }
    }

    fn id(text: &str) -> TenantId {
        TenantId::new(text).unwrap()
    }

    fn reads() -> BTreeSet<Scope> {
        BTreeSet::from([Scope::BulkRead])
    }

    #[test]
    fn scopes_are_words() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse::<Scope>().unwrap(), scope);
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        let error = "query".parse::<Scope>().unwrap_err();
        assert!(error.to_string().contains("query:execute"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_good_until_it_expires_or_is_revoked() {
        let World { clock, tenants, .. } = world();
        tenants.create(id("acme")).await.unwrap();
        let expires = clock.now().plus(Duration::from_secs(10));
        let new = tenants
            .create_key(&id("acme"), "nightly", reads(), Some(expires))
            .await
            .unwrap();
        assert!(new.text.starts_with("spk_acme_"), "{}", new.text);
        let key = tenants.authenticate(&new.text).await.unwrap().unwrap();
        assert_eq!(key, new.key);
        assert!(key.allows(Scope::BulkRead) && !key.allows(Scope::BulkCreate));
        clock.sleep(Duration::from_secs(10)).await;
        assert_eq!(tenants.authenticate(&new.text).await.unwrap(), None);
        let other = tenants
            .create_key(&id("acme"), "", BTreeSet::from([Scope::Admin]), None)
            .await
            .unwrap();
        assert!(other.key.allows(Scope::QueryExecute));
        let revoked = tenants.revoke_key(&id("acme"), &other.key.id).await.unwrap();
        assert_eq!(revoked.revoked, Some(clock.now()));
        assert_eq!(tenants.authenticate(&other.text).await.unwrap(), None);
        assert_eq!(tenants.keys(&id("acme")).await.unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn no_other_text_is_a_key() {
        let World { tenants, .. } = world();
        tenants.create(id("acme")).await.unwrap();
        tenants.create(id("rival")).await.unwrap();
        let text = tenants
            .create_key(&id("acme"), "", reads(), None)
            .await
            .unwrap()
            .text;
        let end = if text.ends_with('0') { "1" } else { "0" };
        let wrong = [
            String::new(),
            text.replace("acme", "rival"),
            text.replace("spk_", "spk-"),
            format!("{}{end}", &text[..text.len() - 1]),
            text[..text.len() - 1].to_owned(),
            format!("{text}0"),
            text.to_uppercase(),
        ];
        for wrong in wrong {
            assert_eq!(tenants.authenticate(&wrong).await.unwrap(), None, "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stored_does_not_tell_the_secret() {
        let World { items, tenants, .. } = world();
        tenants.create(id("acme")).await.unwrap();
        let new = tenants.create_key(&id("acme"), "", reads(), None).await.unwrap();
        let item = items
            .get(&ApiKey::key(&id("acme"), &new.key.id))
            .await
            .unwrap()
            .unwrap();
        let secret = &new.text[new.text.len() - SECRET_DIGITS..];
        assert!(!format!("{item:?}").contains(secret));
        assert!(!format!("{new:?}").contains(secret));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotated_key_overlaps_with_the_new_one() {
        let World { clock, tenants, .. } = world();
        tenants.create(id("acme")).await.unwrap();
        let old = tenants
            .create_key(&id("acme"), "nightly", reads(), None)
            .await
            .unwrap();
        let until = clock.now().plus(Duration::from_secs(60));
        let new = tenants.rotate_key(&id("acme"), &old.key.id, until).await.unwrap();
        assert_eq!((&new.key.name, &new.key.scopes), (&old.key.name, &old.key.scopes));
        for text in [&old.text, &new.text] {
            assert!(tenants.authenticate(text).await.unwrap().is_some());
        }
        clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(tenants.authenticate(&old.text).await.unwrap(), None);
        assert!(tenants.authenticate(&new.text).await.unwrap().is_some());
        let gone = tenants
            .rotate_key(&id("acme"), &old.key.id, until)
            .await
            .unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Conflict);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotated_key_lives_as_long_as_the_old_one_was_made_to() {
        let World { clock, tenants, .. } = world();
        tenants.create(id("acme")).await.unwrap();
        let month = Duration::from_secs(30 * 24 * 3600);
        let expires = Some(clock.now().plus(month));
        let old = tenants
            .create_key(&id("acme"), "", reads(), expires)
            .await
            .unwrap();
        clock.sleep(month / 2).await;
        let until = clock.now().plus(Duration::from_secs(60));
        let new = tenants.rotate_key(&id("acme"), &old.key.id, until).await.unwrap();
        assert_eq!(new.key.expires, Some(clock.now().plus(month)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_was_changed_since_it_was_read_is_not_changed() {
        let World { items, tenants, .. } = world();
        tenants.create(id("acme")).await.unwrap();
        let new = tenants.create_key(&id("acme"), "", reads(), None).await.unwrap();
        let (read, stored) = tenants.stored_key(&id("acme"), &new.key.id).await.unwrap();
        tenants.revoke_key(&id("acme"), &new.key.id).await.unwrap();
        let late = items.transact(vec![read.change(stored)]).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Conflict);
        assert_eq!(tenants.authenticate(&new.text).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_need_a_tenant_a_scope_and_a_future() {
        let World { clock, tenants, .. } = world();
        let absent = tenants
            .create_key(&id("acme"), "", reads(), None)
            .await
            .unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        tenants.create(id("acme")).await.unwrap();
        for (scopes, expires) in [(BTreeSet::new(), None), (reads(), Some(clock.now()))] {
            let error = tenants
                .create_key(&id("acme"), "", scopes, expires)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_go_with_their_tenant() {
        let World { tenants, .. } = world();
        tenants.create(id("acme")).await.unwrap();
        let new = tenants.create_key(&id("acme"), "", reads(), None).await.unwrap();
        tenants.delete(&id("acme")).await.unwrap();
        assert_eq!(tenants.authenticate(&new.text).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_was_left_behind_is_no_good_for_a_later_tenant() {
        let World {
            clock,
            items,
            tenants,
        } = world();
        tenants.create(id("acme")).await.unwrap();
        let new = tenants.create_key(&id("acme"), "", reads(), None).await.unwrap();
        let kept = ApiKey::key(&id("acme"), &new.key.id);
        let item = items.get(&kept).await.unwrap().unwrap();
        tenants.delete(&id("acme")).await.unwrap();
        items.put(item, Condition::None).await.unwrap();
        assert_eq!(tenants.authenticate(&new.text).await.unwrap(), None);
        clock.sleep(Duration::from_millis(1)).await;
        tenants.create(id("acme")).await.unwrap();
        assert_eq!(tenants.authenticate(&new.text).await.unwrap(), None);
        let until = clock.now().plus(Duration::from_secs(60));
        let rotated = tenants.rotate_key(&id("acme"), &new.key.id, until).await;
        assert_eq!(rotated.unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_does_not_say_of_which_tenant_it_is_may_not_be_older_than_it() {
        let World {
            clock,
            items,
            tenants,
        } = world();
        tenants.create(id("acme")).await.unwrap();
        let new = tenants.create_key(&id("acme"), "", reads(), None).await.unwrap();
        let kept = ApiKey::key(&id("acme"), &new.key.id);
        let mut item = items.get(&kept).await.unwrap().unwrap();
        item.attributes.remove("tenantCreated").unwrap();
        items.put(item.clone(), Condition::None).await.unwrap();
        assert!(tenants.authenticate(&new.text).await.unwrap().is_some());
        assert_eq!(tenants.keys(&id("acme")).await.unwrap().len(), 1);
        tenants.delete(&id("acme")).await.unwrap();
        clock.sleep(Duration::from_millis(1)).await;
        tenants.create(id("acme")).await.unwrap();
        items.put(item, Condition::None).await.unwrap();
        assert_eq!(tenants.authenticate(&new.text).await.unwrap(), None);
    }
}
