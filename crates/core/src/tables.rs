//! The index of tables: names, ids, properties, and whether a table is worked on.
//!
//! A table is made by one transaction of the item store that reserves its name, lists it and writes the first
//! entry of its log, so no table is ever half there. A deleted table frees its name at once and stays listed as
//! deleted until garbage collection has removed its objects; that it was purged stays known, for what runs that
//! outlived it may still write.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    collections::Collection,
    config::{InstanceSettings, TableSettings},
    error::{Error, ErrorKind, Result},
    ids::{TableId, TableName},
    partition::Partition,
    ports::{Clock, Condition, Ids, Item, ItemKey, ItemStore, Order, Range, Sort, Write},
    schema::Schema,
    state::{Commit, CommitId, Record, StateStore},
    time::Timestamp,
};

const NAMES: &str = "names";
const DELETED: &str = "deleted";
const PURGED: &str = "purged";

/// How often a change is tried again that met another one.
const MAX_ATTEMPTS: u32 = 10;

/// Whether a table is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TablePhase {
    /// Jobs and schedules run.
    Online,
    /// Schedules pass the table over; jobs that are sent to it still run.
    Offline,
    /// The name is free and the objects are being removed.
    Deleted,
}

impl TablePhase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Deleted => "deleted",
        }
    }
}

impl fmt::Display for TablePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A table as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// The name.
    pub name: TableName,
    /// The id.
    pub id: TableId,
    /// Whether it is worked on.
    pub phase: TablePhase,
    /// When it was made.
    pub created: Timestamp,
    /// Properties that were set for this table.
    pub properties: BTreeMap<String, String>,
    #[serde(skip)]
    version: i64,
}

impl TableInfo {
    fn key(id: &TableId) -> ItemKey {
        ItemKey::new(Collection::Tables, id.as_str(), ())
    }

    fn name_key(name: &TableName) -> ItemKey {
        ItemKey::new(Collection::TableNames, NAMES, name.as_str())
    }

    fn name_item(&self) -> Item {
        Item::new(Self::name_key(&self.name)).with("id", self.id.as_str())
    }

    fn item(&self) -> Result<Item> {
        let properties = serde_json::to_string(&self.properties)
            .map_err(|error| Error::internal("table properties cannot be encoded").with_source(error))?;
        Ok(Item::new(Self::key(&self.id))
            .with("name", self.name.as_str())
            .with("phase", self.phase.as_str())
            .with("created", self.created)
            .with("properties", properties)
            .with("version", self.version))
    }

    fn from_item(item: &Item) -> Result<Self> {
        let phase = match item.text("phase")? {
            "online" => TablePhase::Online,
            "offline" => TablePhase::Offline,
            "deleted" => TablePhase::Deleted,
            other => {
                return Err(Error::corrupt(format!(
                    "table {:?} has phase \"{other}\"",
                    item.key
                )));
            }
        };
        let damaged =
            |error: Error| Error::corrupt(format!("table item {:?} is damaged", item.key)).with_source(error);
        Ok(Self {
            name: TableName::new(item.text("name")?).map_err(damaged)?,
            id: TableId::new(&item.key.partition).map_err(damaged)?,
            phase,
            created: Timestamp::from_millis(item.number("created")?),
            properties: serde_json::from_str(item.text("properties")?).map_err(|error| {
                Error::corrupt(format!("properties of table {:?} are damaged", item.key)).with_source(error)
            })?,
            version: item.number("version")?,
        })
    }
}

/// Finds and changes tables.
#[derive(Clone, Debug)]
pub struct Tables {
    items: Arc<dyn ItemStore>,
    states: Arc<StateStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Tables {
    /// The index in these items.
    pub fn new(
        items: Arc<dyn ItemStore>,
        states: Arc<StateStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self {
            items,
            states,
            clock,
            ids,
        }
    }

    /// Makes a table.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; `Invalid` when the partitions do not fit the schema or a property
    /// is wrong; `Unavailable` when nobody knows, and the same request may be made again.
    pub async fn create(
        &self,
        name: TableName,
        schema: Arc<Schema>,
        partitions: Vec<Partition>,
        properties: BTreeMap<String, String>,
    ) -> Result<TableInfo> {
        let settings = InstanceSettings::default().for_table(&properties)?;
        settings.row_rules().check(&schema)?;
        let id = TableId::new(&self.ids.uuid().simple().to_string()[..8])?;
        let info = TableInfo {
            name,
            id,
            phase: TablePhase::Online,
            created: self.clock.now(),
            properties,
            version: 1,
        };
        let with = vec![
            Write::Put {
                item: info.name_item(),
                condition: Condition::NotExists,
            },
            Write::Put {
                item: info.item()?,
                condition: Condition::NotExists,
            },
        ];
        let commit = Commit::new(
            CommitId::new(format!("create/{}", info.id)),
            Record::TableCreated { schema, partitions },
        );
        match self.states.create(&info.id, commit, with).await {
            Ok(_) => Ok(info),
            // Lost a race, or the answer to this very request was lost: what is stored tells.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => {
                match self.by_name(&info.name).await? {
                    Some(found) if found.id == info.id => Ok(found),
                    Some(_) => Err(Error::already_exists(format!(
                        "table \"{}\" exists already",
                        info.name
                    ))),
                    None => {
                        Err(Error::unavailable("the table could not be made; try again").with_source(error))
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The table with this name.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn by_name(&self, name: &TableName) -> Result<Option<TableInfo>> {
        let Some(item) = self.items.get(&TableInfo::name_key(name)).await? else {
            return Ok(None);
        };
        self.by_id(&TableId::new(item.text("id")?)?).await
    }

    /// The table with this id, unless it was deleted.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn by_id(&self, id: &TableId) -> Result<Option<TableInfo>> {
        let item = self.items.get(&TableInfo::key(id)).await?;
        let info = item.as_ref().map(TableInfo::from_item).transpose()?;
        Ok(info.filter(|info| info.phase != TablePhase::Deleted))
    }

    /// The table with this name.
    ///
    /// # Errors
    /// `NotFound`, with the names that are nearest.
    pub async fn named(&self, name: &TableName) -> Result<TableInfo> {
        match self.by_name(name).await? {
            Some(info) => Ok(info),
            None => {
                let tables = self.list().await?;
                let nearest = tables
                    .iter()
                    .map(|table| {
                        (
                            strsim::damerau_levenshtein(table.name.as_str(), name.as_str()),
                            table,
                        )
                    })
                    .filter(|(distance, _)| *distance <= 3)
                    .min_by_key(|(distance, _)| *distance);
                let hint = nearest
                    .map(|(_, table)| format!("; did you mean \"{}\"?", table.name))
                    .unwrap_or_default();
                Err(Error::not_found(format!("table \"{name}\" does not exist{hint}")))
            }
        }
    }

    /// All tables that are not deleted, by name.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn list(&self) -> Result<Vec<TableInfo>> {
        let mut tables = Vec::new();
        let mut range = Range::all();
        loop {
            let page = self
                .items
                .query(Collection::TableNames, NAMES, range, 500, Order::Ascending)
                .await?;
            for item in &page {
                tables.extend(self.by_id(&TableId::new(item.text("id")?)?).await?);
            }
            match page.last() {
                Some(item) if page.len() == 500 => range = Range::after(item.key.sort.clone()),
                _ => return Ok(tables),
            }
        }
    }

    /// Ids of tables that were deleted and whose objects may still be there.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn deleted(&self) -> Result<Vec<TableId>> {
        let mut tables = Vec::new();
        let mut range = Range::all();
        loop {
            let page = self
                .items
                .query(Collection::TableNames, DELETED, range, 500, Order::Ascending)
                .await?;
            for item in &page {
                match &item.key.sort {
                    Sort::Text(id) => tables.push(TableId::new(id)?),
                    other => return Err(Error::corrupt(format!("a deleted table is listed as {other:?}"))),
                }
            }
            match page.last() {
                Some(item) if page.len() == 500 => range = Range::after(item.key.sort.clone()),
                _ => return Ok(tables),
            }
        }
    }

    /// Changes the table with this id.
    async fn update(
        &self,
        id: &TableId,
        change: impl Fn(&mut TableInfo),
        names: impl Fn(&TableInfo, &TableInfo) -> Vec<Write>,
    ) -> Result<TableInfo> {
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                let ceiling = Duration::from_millis(10 << attempt);
                self.clock.sleep(self.ids.jitter(ceiling)).await;
            }
            let old = self
                .by_id(id)
                .await?
                .ok_or_else(|| Error::not_found(format!("table with id {id} does not exist")))?;
            let mut new = old.clone();
            change(&mut new);
            new.version += 1;
            if new.name != old.name && self.by_name(&new.name).await?.is_some() {
                return Err(Error::already_exists(format!(
                    "table \"{}\" exists already",
                    new.name
                )));
            }
            let mut writes = vec![Write::Put {
                item: new.item()?,
                condition: Condition::equals("version", old.version),
            }];
            writes.extend(names(&old, &new));
            let Err(error) = self.items.transact(writes).await else {
                return Ok(new);
            };
            // The answer may have been lost, and not the change.
            let stored = self.items.get(&TableInfo::key(&new.id)).await?;
            if stored == Some(new.item()?) {
                return Ok(new);
            }
            if error.kind() != ErrorKind::Conflict {
                return Err(error);
            }
        }
        Err(Error::unavailable(format!(
            "table with id {id} is being changed by others; try again"
        )))
    }

    /// Gives a table another name.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` when the new name is taken.
    pub async fn rename(&self, name: &TableName, to: &TableName) -> Result<TableInfo> {
        let info = self.named(name).await?;
        if name == to {
            return Ok(info);
        }
        self.update(
            &info.id,
            |info| info.name = to.clone(),
            |old, new| {
                vec![
                    Write::Put {
                        item: new.name_item(),
                        condition: Condition::NotExists,
                    },
                    Write::Delete {
                        key: TableInfo::name_key(&old.name),
                        condition: Condition::equals("id", old.id.as_str()),
                    },
                ]
            },
        )
        .await
    }

    /// Puts a table online or offline.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn set_online(&self, name: &TableName, online: bool) -> Result<TableInfo> {
        let phase = if online {
            TablePhase::Online
        } else {
            TablePhase::Offline
        };
        let info = self.named(name).await?;
        self.update(&info.id, |info| info.phase = phase, |_, _| Vec::new())
            .await
    }

    /// Sets properties of a table; one without a value is the instance's again. `check` sees the table's schema and the
    /// properties that have values.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when a property is wrong; those of `check`.
    pub async fn set_properties(
        &self,
        name: &TableName,
        properties: BTreeMap<String, String>,
        check: impl FnOnce(&Arc<Schema>, &BTreeMap<String, String>) -> Result<()>,
    ) -> Result<TableInfo> {
        let info = self.named(name).await?;
        let state = self.states.live_state(&info.id).await?;
        let schema = state
            .schema()
            .ok_or_else(|| Error::corrupt(format!("table {name} has no schema")))?;
        let (unset, set): (BTreeMap<_, _>, BTreeMap<_, _>) =
            properties.into_iter().partition(|(_, value)| value.is_empty());
        let defaults = InstanceSettings::default();
        let unset: Vec<_> = unset
            .keys()
            .map(|key| TableSettings::name_of(key))
            .collect::<Result<_>>()?;
        defaults.for_table(&set)?.row_rules().check(schema)?;
        check(schema, &set)?;
        self.update(
            &info.id,
            |info| {
                let is_kept = |key: &String| {
                    let name = TableSettings::name_of(key).ok();
                    let is_set = |other: &String| TableSettings::name_of(other).ok() == name;
                    !set.keys().any(is_set) && !name.is_some_and(|name| unset.contains(&name))
                };
                info.properties.retain(|key, _| is_kept(key));
                info.properties.extend(set.clone());
            },
            |_, _| Vec::new(),
        )
        .await
    }

    /// Deletes a table: its name is free at once, its objects go with garbage collection.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, name: &TableName) -> Result<TableInfo> {
        let info = self.named(name).await?;
        let id = CommitId::new(format!("delete/{}", info.id));
        let committed = self
            .states
            .commit(&info.id, Commit::new(id, Record::TableDeleted))
            .await?;
        committed.outcome.into_result()?;
        let result = self
            .update(
                &info.id,
                |info| info.phase = TablePhase::Deleted,
                |old, new| {
                    let listed = ItemKey::new(Collection::TableNames, DELETED, new.id.as_str());
                    vec![
                        Write::Delete {
                            key: TableInfo::name_key(&old.name),
                            condition: Condition::equals("id", old.id.as_str()),
                        },
                        Write::Put {
                            item: Item::new(listed),
                            condition: Condition::None,
                        },
                    ]
                },
            )
            .await;
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(info),
            result => result,
        }
    }

    /// Forgets a deleted table whose objects are gone, but for its id.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn forget_deleted(&self, id: &TableId) -> Result<()> {
        let listed = ItemKey::new(Collection::TableNames, DELETED, id.as_str());
        let purged = ItemKey::new(Collection::TableNames, PURGED, id.as_str());
        self.items
            .transact(vec![
                Write::Delete {
                    key: TableInfo::key(id),
                    condition: Condition::None,
                },
                Write::Delete {
                    key: listed,
                    condition: Condition::None,
                },
                Write::Put {
                    item: Item::new(purged),
                    condition: Condition::None,
                },
            ])
            .await
    }

    /// Whether there once was a table with this id, and is not any more.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn is_purged(&self, id: &TableId) -> Result<bool> {
        let purged = ItemKey::new(Collection::TableNames, PURGED, id.as_str());
        Ok(self.items.get(&purged).await?.is_some() && self.by_id(id).await?.is_none())
    }
}
