//! Queries: the tables of an instance, as a query is to see them.

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    ids::TableName,
    ports::{QueryTables, TableSnapshot},
    state::AsOf,
};

use crate::services::Services;

/// Every table of an instance, as it is when a query names it, or as it was.
#[derive(Clone, Debug)]
pub struct AllTables {
    services: Services,
    as_of: Option<AsOf>,
}

impl AllTables {
    /// The tables as of a transaction or a time; as they are without one.
    pub fn new(services: Services, as_of: Option<AsOf>) -> Self {
        Self { services, as_of }
    }
}

#[async_trait]
impl QueryTables for AllTables {
    async fn table(&self, name: &str) -> Result<Option<TableSnapshot>> {
        let Ok(name) = TableName::new(name) else {
            return Ok(None);
        };
        let services = &self.services;
        let Some(info) = services.tables.by_name(&name).await? else {
            return Ok(None);
        };
        let state = match services.states.state_at(&info.id, self.as_of).await {
            // Deleted since its name was looked up.
            Err(error) if error.kind() == ErrorKind::NotFound && self.as_of.is_none() => return Ok(None),
            state => state?,
        };
        let schema = state
            .schema()
            .ok_or_else(|| Error::corrupt(format!("table {name} has no schema")))?
            .clone();
        let rules = services.table_settings(&info)?.row_rules();
        Ok(Some(TableSnapshot {
            table: info.id,
            schema,
            state,
            rules: rules.at(services.ports.clock.now()),
            store: services.data.clone(),
        }))
    }
}
