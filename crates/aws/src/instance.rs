//! Finding an instance, and opening its adapters.

use std::sync::Arc;

use dormouse_core::{
    Error, Result,
    config::InstanceSettings,
    ids::BucketName,
    ports::{Bucket, Buckets, Clock, Ids, Queue, QueueName},
};
use object_store::{ObjectStoreExt, path::Path};
use tokio::sync::OnceCell;

use crate::{
    clients::Clients,
    copy::S3Copy,
    item_store::DynamoItemStore,
    names::{BucketPart, Names},
    objects::S3Buckets,
    queue::SqsQueue,
    signer::S3Signer,
    tasks::{EcsPlace, EcsTaskLauncher},
};

/// The object of the config bucket that holds the instance's properties.
pub const PROPERTIES_OBJECT: &str = "instance.properties";

/// Where an instance is: an account and region, and its names there.
#[derive(Debug)]
pub struct Location {
    /// The services' clients.
    pub clients: Clients,
    /// The names of the instance's parts.
    pub names: Names,
    config_bucket: Option<BucketName>,
    account: OnceCell<String>,
}

impl Location {
    /// An instance of the clients' account. Its properties are in `config_bucket`, or in the bucket that is called
    /// after the instance.
    pub fn new(clients: Clients, names: Names, config_bucket: Option<BucketName>) -> Self {
        Self {
            clients,
            names,
            config_bucket,
            account: OnceCell::new(),
        }
    }

    /// A bucket: as the properties have it, or else called after the instance and its account.
    ///
    /// # Errors
    /// `Unavailable` when nobody tells the account.
    pub async fn bucket(&self, part: BucketPart, settings: &InstanceSettings) -> Result<BucketName> {
        let set = match part {
            BucketPart::Config => self.config_bucket.clone(),
            BucketPart::TableData => settings.data_bucket()?,
            BucketPart::Export => settings.export_bucket()?,
        };
        match set {
            Some(name) => Ok(name),
            None => self.names.bucket(part, self.account().await?),
        }
    }

    /// The number of the account.
    ///
    /// # Errors
    /// `Unavailable` when nobody tells it.
    pub async fn account(&self) -> Result<&str> {
        let account = self
            .account
            .get_or_try_init(async || self.clients.account().await)
            .await?;
        Ok(account)
    }

    /// A queue: its URL as the properties have it, or else its name.
    pub fn queue(&self, queue: QueueName, settings: &InstanceSettings) -> String {
        match settings.queue_url(queue) {
            "" => self.names.queue(queue),
            url => url.to_owned(),
        }
    }

    /// The text of `instance.properties` in the config bucket; none when there is no such object or bucket.
    ///
    /// # Errors
    /// `Unavailable` when S3 does not answer or permissions are missing.
    pub async fn properties(&self, buckets: &S3Buckets) -> Result<Option<String>> {
        let bucket = self
            .bucket(BucketPart::Config, &InstanceSettings::default())
            .await?;
        let store = buckets.open(&Bucket::Named(bucket.clone()))?;
        let body = match store.get(&Path::from(PROPERTIES_OBJECT)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => {
                return Err(
                    Error::from(error).context(format!("cannot read s3://{bucket}/{PROPERTIES_OBJECT}"))
                );
            }
        };
        let text = String::from_utf8(body.to_vec()).map_err(|error| {
            Error::invalid(format!("s3://{bucket}/{PROPERTIES_OBJECT} is not text")).with_source(error)
        })?;
        Ok(Some(text))
    }
}

/// The adapters of an instance.
#[derive(Debug)]
pub struct AwsInstance {
    /// Items.
    pub items: Arc<DynamoItemStore>,
    /// Every queue.
    pub queues: Vec<Arc<SqsQueue>>,
    /// Objects, and uploads that were left behind.
    pub buckets: Arc<S3Buckets>,
    /// Copies.
    pub copy: Arc<S3Copy>,
    /// Links.
    pub signer: Arc<S3Signer>,
    /// The bucket of table data.
    pub data_bucket: BucketName,
    /// The bucket of exports.
    pub export_bucket: BucketName,
}

impl AwsInstance {
    /// Opens the instance's queues; whether its tables and buckets are there, their first use tells.
    ///
    /// # Errors
    /// `Unavailable` when a queue is not there, a service does not answer, or permissions are missing.
    pub async fn open(
        location: &Location,
        settings: &InstanceSettings,
        buckets: Arc<S3Buckets>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self> {
        let clients = &location.clients;
        let data_bucket = location.bucket(BucketPart::TableData, settings).await?;
        let export_bucket = location.bucket(BucketPart::Export, settings).await?;
        let bodies = buckets.open(&Bucket::Named(data_bucket.clone()))?;
        let queues = QueueName::ALL.map(|name| {
            let queue = location.queue(name, settings);
            let (bodies, clock, ids) = (bodies.clone(), clock.clone(), ids.clone());
            async move {
                let queue = SqsQueue::open(clients, name, &queue, bodies, clock, ids).await;
                queue.map(Arc::new)
            }
        });
        let queues = futures::future::try_join_all(queues).await.map_err(|error| {
            let instance = location.names.instance();
            error.context(format!(
                "instance {instance} cannot be opened; `dormouse instance check` tells what is missing"
            ))
        })?;
        Ok(Self {
            items: Arc::new(DynamoItemStore::new(
                clients,
                &location.names.table_prefix(),
                clock,
                ids,
            )),
            queues,
            copy: Arc::new(S3Copy::new(clients, buckets.clone())),
            signer: Arc::new(S3Signer::new(clients)),
            buckets,
            data_bucket,
            export_bucket,
        })
    }

    /// The queues as their port.
    pub fn queues(&self) -> impl Iterator<Item = (QueueName, Arc<dyn Queue>)> {
        self.queues
            .iter()
            .map(|queue| (queue.name(), queue.clone() as Arc<dyn Queue>))
    }
}

/// What starts worker processes of an instance.
///
/// # Errors
/// `Invalid` when the properties name no cluster.
pub fn task_launcher(location: &Location, settings: &InstanceSettings) -> Result<EcsTaskLauncher> {
    let cluster = settings.ecs_cluster();
    if cluster.is_empty() {
        return Err(Error::invalid(
            "no cluster to start tasks in: set dormouse.ecs.cluster in instance.properties",
        ));
    }
    let place = EcsPlace {
        cluster: cluster.to_owned(),
        subnets: settings.subnets(),
        security_groups: settings.ecs_security_groups(),
        public_ip: settings.ecs_public_ip(),
    };
    Ok(EcsTaskLauncher::new(
        &location.clients,
        location.names.clone(),
        place,
    ))
}
