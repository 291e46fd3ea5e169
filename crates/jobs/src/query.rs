//! Queries: the tables of an instance, as a query is to see them.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    config::TableSettings,
    ids::TableName,
    ports::{QueryTables, RowPolicy, TableSnapshot},
    state::{AsOf, TableState},
    tables::TableInfo,
    tenants::TenantId,
};
use futures::lock::Mutex;

use crate::services::Services;

/// Whether a tenant may read a table with these settings. Without a tenant, whoever asks may read all.
pub fn may_read(settings: &TableSettings, tenant: Option<&TenantId>) -> bool {
    tenant.is_none_or(|tenant| settings.shared() || settings.tenant() == tenant.as_str())
}

/// What a tenant may read of a table of another's that is shared.
fn row_policy(settings: &TableSettings, reader: Option<&TenantId>) -> Result<Option<RowPolicy>> {
    let Some(reader) = reader.filter(|reader| settings.tenant() != reader.as_str()) else {
        return Ok(None);
    };
    let policy = |predicate| RowPolicy {
        predicate,
        reader: reader.clone(),
    };
    Ok(settings.shared_where()?.map(policy))
}

/// Every table of an instance that may be read, as it is when a query names it, or as it was.
#[derive(Clone, Debug)]
pub struct AllTables {
    services: Services,
    reader: Option<TenantId>,
    as_of: Option<AsOf>,
}

impl AllTables {
    /// The tables as of a transaction or a time; as they are without one.
    pub fn new(services: Services, as_of: Option<AsOf>) -> Self {
        Self::of_tenant(services, None, as_of)
    }

    /// The tables that a tenant may read; all, without a tenant. One that it may not read is as absent.
    pub fn of_tenant(services: Services, reader: Option<TenantId>, as_of: Option<AsOf>) -> Self {
        Self {
            services,
            reader,
            as_of,
        }
    }

    /// The table with this name and its state, if it is there and may be read.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<(TableInfo, Arc<TableState>)>> {
        let Ok(name) = TableName::new(name) else {
            return Ok(None);
        };
        let services = &self.services;
        let Some(info) = services.tables.by_name(&name).await? else {
            return Ok(None);
        };
        if !may_read(&services.table_settings(&info)?, self.reader.as_ref()) {
            return Ok(None);
        }
        match services.states.state_at(&info.id, self.as_of).await {
            // Deleted since its name was looked up.
            Err(error) if error.kind() == ErrorKind::NotFound && self.as_of.is_none() => Ok(None),
            state => Ok(Some((info, state?))),
        }
    }

    /// What a query reads of a table in this state.
    pub(crate) fn snapshot(&self, info: TableInfo, state: Arc<TableState>) -> Result<TableSnapshot> {
        let services = &self.services;
        let schema = state
            .schema()
            .ok_or_else(|| Error::corrupt(format!("table {} has no schema", info.name)))?
            .clone();
        let settings = services.table_settings(&info)?;
        Ok(TableSnapshot {
            table: info.id,
            schema,
            state,
            rules: settings.row_rules().at(services.ports.clock.now()),
            policy: row_policy(&settings, self.reader.as_ref())?,
            store: services.data.clone(),
        })
    }
}

/// Tables that stay as they were first seen, however often they are asked for.
#[derive(Debug)]
pub struct SeenTables<T> {
    tables: T,
    seen: Mutex<BTreeMap<String, Option<TableSnapshot>>>,
}

impl<T> SeenTables<T> {
    /// These tables, of which none was seen.
    pub fn new(tables: T) -> Self {
        Self {
            tables,
            seen: Mutex::default(),
        }
    }
}

#[async_trait]
impl<T: QueryTables> QueryTables for SeenTables<T> {
    async fn table(&self, name: &str) -> Result<Option<TableSnapshot>> {
        let mut seen = self.seen.lock().await;
        if let Some(snapshot) = seen.get(name) {
            return Ok(snapshot.clone());
        }
        let snapshot = self.tables.table(name).await?;
        seen.insert(name.to_owned(), snapshot.clone());
        Ok(snapshot)
    }
}

#[async_trait]
impl QueryTables for AllTables {
    async fn table(&self, name: &str) -> Result<Option<TableSnapshot>> {
        match self.find(name).await? {
            Some((info, state)) => self.snapshot(info, state).map(Some),
            None => Ok(None),
        }
    }
}
