//! The ports and stores that workflows use.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use dormouse_core::{
    Error, Result,
    bulk::BulkJobs,
    config::{InstanceSettings, TableSettings},
    ids::{BucketName, PartitionId, TableId, TableName},
    key::Key,
    message::TableRef,
    partition::tree_from_split_points,
    ports::{
        AbandonedUploads, Bucket, Buckets, Clock, Ids, ItemStore, MergeInput, Metrics, NoMetrics,
        QueryEngine, Queue, QueueName, RowEngine, ServerSideCopy,
    },
    schema::Schema,
    state::{Reference, StateStore},
    tables::{TableInfo, Tables},
    tenants::{TenantId, Tenants},
    tracker::Tracker,
};
use object_store::ObjectStore;

use crate::{bulk, snapshots};

/// The adapters that an instance runs on.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Durable items.
    pub items: Arc<dyn ItemStore>,
    /// Every queue.
    pub queues: BTreeMap<QueueName, Arc<dyn Queue>>,
    /// Objects.
    pub buckets: Arc<dyn Buckets>,
    /// Uploads that were left behind.
    pub uploads: Arc<dyn AbandonedUploads>,
    /// Copies inside the object store.
    pub copy: Arc<dyn ServerSideCopy>,
    /// Rows.
    pub engine: Arc<dyn RowEngine>,
    /// SQL.
    pub queries: Arc<dyn QueryEngine>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids and randomness.
    pub ids: Arc<dyn Ids>,
    /// The name of the bucket that holds table data.
    pub data_bucket: BucketName,
    /// The name of the bucket that exports go to.
    pub export_bucket: BucketName,
}

/// Everything that workflows use.
#[derive(Clone, Debug)]
pub struct Services {
    /// The adapters.
    pub ports: Ports,
    /// The instance's properties.
    pub settings: InstanceSettings,
    /// Table states.
    pub states: Arc<StateStore>,
    /// The index of tables.
    pub tables: Tables,
    /// What became of jobs.
    pub tracker: Tracker,
    /// Tenants and their keys.
    pub tenants: Tenants,
    /// Bulk jobs.
    pub bulk: BulkJobs,
    /// The bucket that holds table data.
    pub data: Arc<dyn ObjectStore>,
    /// The bucket that exports go to.
    pub exports: Arc<dyn ObjectStore>,
    /// Where measurements go.
    pub metrics: Arc<dyn Metrics>,
    pub(crate) plans: Arc<crate::export::PlanCache>,
    pub(crate) outbox: Arc<crate::commit::Outbox>,
    pub(crate) measured: Arc<snapshots::Measured>,
    pub(crate) looked: Arc<bulk::Looked>,
}

impl Services {
    /// The services over these ports.
    ///
    /// # Errors
    /// `NotFound` when a bucket or queue is missing.
    pub fn new(ports: Ports, settings: InstanceSettings) -> Result<Self> {
        if let Some(name) = QueueName::ALL
            .iter()
            .find(|name| !ports.queues.contains_key(name))
        {
            return Err(Error::not_found(format!("the instance has no queue {name}")));
        }
        let data = ports.buckets.open(&Bucket::Named(ports.data_bucket.clone()))?;
        let exports = ports.buckets.open(&Bucket::Named(ports.export_bucket.clone()))?;
        let (items, clock, ids) = (&ports.items, &ports.clock, &ports.ids);
        let states = Arc::new(StateStore::new(
            items.clone(),
            data.clone(),
            clock.clone(),
            ids.clone(),
        ));
        Ok(Self {
            tables: Tables::new(items.clone(), states.clone(), clock.clone(), ids.clone()),
            tracker: Tracker::new(
                items.clone(),
                clock.clone(),
                ids.clone(),
                settings.job_status_ttl(),
            ),
            tenants: Tenants::new(items.clone(), clock.clone(), ids.clone()),
            bulk: BulkJobs::new(items.clone(), clock.clone(), ids.clone()),
            states,
            data,
            exports,
            settings,
            metrics: Arc::new(NoMetrics),
            plans: Arc::default(),
            outbox: Arc::default(),
            measured: Arc::default(),
            looked: Arc::default(),
            ports,
        })
    }

    /// The services with their measurements sent there.
    pub fn with_metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// A queue.
    ///
    /// # Errors
    /// `NotFound` when the instance does not have it.
    pub fn queue(&self, name: QueueName) -> Result<&Arc<dyn Queue>> {
        self.ports
            .queues
            .get(&name)
            .ok_or_else(|| Error::not_found(format!("the instance has no queue {name}")))
    }

    /// The table that a message names.
    ///
    /// # Errors
    /// `NotFound`, with the name.
    pub async fn table(&self, table: &TableRef) -> Result<TableInfo> {
        match table {
            TableRef::Name(name) => self.tables.named(name).await,
            TableRef::Id(id) => self
                .tables
                .by_id(id)
                .await?
                .ok_or_else(|| Error::not_found(format!("table with id {id} does not exist"))),
        }
    }

    /// Makes a table whose leaves are cut at these points, which are row keys or prefixes of some.
    ///
    /// # Errors
    /// `Invalid` when the points do not rise, or do not fit the schema; others as [`Tables::create`] has them.
    pub async fn create_table(
        &self,
        name: TableName,
        schema: Arc<Schema>,
        points: &[Key],
        properties: BTreeMap<String, String>,
    ) -> Result<TableInfo> {
        self.check_row_policy(&schema, &properties)?;
        let ids = &self.ports.ids;
        let names: Result<Vec<PartitionId>> = (0..points.len() * 2)
            .map(|_| PartitionId::new(ids.uuid().to_string()))
            .collect();
        let mut names = names?.into_iter();
        let partitions = tree_from_split_points(points, || names.next().unwrap_or_else(PartitionId::root))?;
        self.tables.create(name, schema, partitions, properties).await
    }

    /// Sets properties of a table; one without a value is the instance's again.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when a property is wrong.
    pub async fn set_properties(
        &self,
        name: &TableName,
        properties: BTreeMap<String, String>,
    ) -> Result<TableInfo> {
        let check = |schema: &_, set: &_| self.check_row_policy(schema, set);
        self.tables.set_properties(name, properties, check).await
    }

    /// Checks the row policy in properties of a table with these columns.
    fn check_row_policy(&self, schema: &Arc<Schema>, properties: &BTreeMap<String, String>) -> Result<()> {
        match self.settings.for_table(properties)?.shared_where()? {
            Some(predicate) => self.ports.queries.check_row_policy(schema, &predicate),
            None => Ok(()),
        }
    }

    /// The settings of a table.
    ///
    /// # Errors
    /// `Invalid` when a stored property is wrong.
    pub fn table_settings(&self, table: &TableInfo) -> Result<TableSettings> {
        self.settings.for_table(&table.properties)
    }

    /// The tenant whose own and shared tables a tenant's queries see. None when they see all tables, as in an instance
    /// without tenants.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn reader(&self, tenant: &TenantId) -> Result<Option<TenantId>> {
        let sees_all = *tenant == TenantId::instance() && !self.tenants.is_closed().await?;
        Ok((!sees_all).then(|| tenant.clone()))
    }

    /// What the row engine reads for a reference.
    pub(crate) fn merge_input(&self, table: &TableId, reference: &Reference) -> MergeInput {
        MergeInput {
            store: self.data.clone(),
            path: reference.file.name.object_path(table),
            bytes: reference.file.bytes,
            checksum: reference.file.checksum,
            exact: reference.exact(),
        }
    }

    /// The bucket that holds table data.
    pub fn data_bucket(&self) -> Bucket {
        Bucket::Named(self.ports.data_bucket.clone())
    }

    /// The bucket that exports go to.
    pub fn export_bucket(&self) -> Bucket {
        Bucket::Named(self.ports.export_bucket.clone())
    }
}
