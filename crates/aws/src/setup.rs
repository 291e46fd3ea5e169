//! Making an instance's parts, for development and tests, and checking those that somebody made.

mod buckets;
mod queues;
mod tables;

use std::collections::BTreeMap;

use dormouse_core::{
    Result,
    config::InstanceSettings,
    ids::BucketName,
    ports::{Bucket, Buckets, QueueName},
};
use object_store::{ObjectStore, path::Path};
use serde::Serialize;

use crate::{
    clients::Clients,
    instance::Location,
    names::{BucketPart, Names},
    objects::S3Buckets,
};

/// A part of an instance, and whether it was made now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is: `bucket`, `table`, `queue` or `object`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// False when it was there.
    pub made: bool,
}

/// Something about a part of an instance that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What the part is: `bucket`, `table` or `queue`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn new(kind: &'static str, name: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// What a check looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How many parts there are to be.
    pub parts: usize,
    /// What is wrong with them.
    pub findings: Vec<Finding>,
}

/// Makes a queue and its dead letters if they are not there.
///
/// # Errors
/// As [`init`].
pub async fn make_queue(
    clients: &Clients,
    names: &Names,
    queue: QueueName,
    settings: &InstanceSettings,
) -> Result<Vec<Part>> {
    queues::make(clients, names, queue, settings).await
}

/// Makes a bucket if it is not there.
///
/// # Errors
/// As [`init`].
pub async fn make_bucket(
    clients: &Clients,
    part: BucketPart,
    name: &BucketName,
    settings: &InstanceSettings,
) -> Result<Part> {
    buckets::make(clients, part, name, settings).await
}

/// Makes every part that is not there, and leaves those alone that are. `instance.properties` is written with what
/// is set and the names of all, when there is none.
///
/// # Errors
/// `Unavailable` when a service does not answer or permissions are missing.
pub async fn init(
    location: &Location,
    settings: &InstanceSettings,
    buckets: &S3Buckets,
) -> Result<Vec<Part>> {
    let clients = &location.clients;
    let mut parts = Vec::new();
    for part in BucketPart::ALL {
        let name = location.bucket(part, settings).await?;
        parts.push(make_bucket(clients, part, &name, settings).await?);
    }
    parts.extend(tables::make(clients, &location.names.table_prefix()).await?);
    for queue in QueueName::ALL {
        parts.extend(make_queue(clients, &location.names, queue, settings).await?);
    }
    parts.push(write_properties(location, settings, buckets).await?);
    Ok(parts)
}

/// Looks at every part, and says what is wrong and what to do. Changes nothing.
///
/// # Errors
/// `Unavailable` when a service does not answer or permissions are missing.
pub async fn check(location: &Location, settings: &InstanceSettings) -> Result<Check> {
    let clients = &location.clients;
    let mut check = Check::default();
    for part in BucketPart::ALL {
        let name = location.bucket(part, settings).await?;
        check.parts += 1;
        check.findings.extend(buckets::check(clients, part, &name).await?);
    }
    tables::check(clients, &location.names.table_prefix(), &mut check).await?;
    for queue in QueueName::ALL {
        check.parts += 2;
        let name = location.queue(queue, settings);
        let findings = queues::check(clients, &name, queue, settings).await?;
        check.findings.extend(findings);
    }
    Ok(check)
}

async fn write_properties(
    location: &Location,
    settings: &InstanceSettings,
    buckets: &S3Buckets,
) -> Result<Part> {
    let mut values: BTreeMap<&str, String> = settings
        .given()
        .map(|(key, value)| (key, value.to_owned()))
        .collect();
    for (key, part) in [
        ("data.bucket", BucketPart::TableData),
        ("bulk.export.s3.bucket", BucketPart::Export),
    ] {
        values.insert(key, location.bucket(part, settings).await?.to_string());
    }
    for queue in QueueName::ALL {
        let url = crate::queue::url_of(&location.clients.sqs, &location.queue(queue, settings)).await?;
        values.insert(InstanceSettings::queue_url_key(queue), url);
    }
    let lines = values
        .iter()
        .map(|(key, value)| format!("dormouse.{key}={value}\n"));
    let text: String = std::iter::once(format!("# Instance {}\n", location.names.instance()))
        .chain(lines)
        .collect();
    let bucket = location.bucket(BucketPart::Config, settings).await?;
    let store = buckets.open(&Bucket::Named(bucket.clone()))?;
    let path = Path::from(crate::instance::PROPERTIES_OBJECT);
    let create = object_store::PutOptions::from(object_store::PutMode::Create);
    let made = match store.put_opts(&path, text.into_bytes().into(), create).await {
        Ok(_) => true,
        Err(object_store::Error::AlreadyExists { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    Ok(Part {
        kind: "object",
        name: format!("s3://{bucket}/{path}"),
        made,
    })
}
