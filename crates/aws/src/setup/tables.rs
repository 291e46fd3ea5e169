//! DynamoDB tables: one a collection.

use std::time::Duration;

use aws_sdk_dynamodb::{
    Client,
    error::ProvideErrorMetadata,
    types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
        TimeToLiveSpecification, TimeToLiveStatus,
    },
};
use dormouse_core::{
    Error, Result,
    collections::{Collection, SortKind},
    ports::{Clock, SystemClock},
};

use super::{Check, Finding, Part};
use crate::{clients::Clients, error::from_sdk, item_store::TTL};

/// How long a table may take until it can be used.
const ACTIVE_WAIT: Duration = Duration::from_secs(120);

/// The name and type of each key attribute.
fn keys(collection: Collection) -> Vec<(&'static str, ScalarAttributeType, KeyType)> {
    let mut keys = vec![(
        collection.partition_attribute(),
        ScalarAttributeType::S,
        KeyType::Hash,
    )];
    match collection.sort_kind() {
        SortKind::None => {}
        SortKind::Number => keys.push((
            collection.sort_attribute(),
            ScalarAttributeType::N,
            KeyType::Range,
        )),
        SortKind::Text => keys.push((
            collection.sort_attribute(),
            ScalarAttributeType::S,
            KeyType::Range,
        )),
    }
    keys
}

/// Makes the tables that are not there, and waits until all can be used.
pub(super) async fn make(clients: &Clients, prefix: &str) -> Result<Vec<Part>> {
    let client = &clients.dynamodb;
    let mut parts = Vec::new();
    for collection in Collection::ALL {
        let name = format!("{prefix}{collection}");
        let made = create(client, collection, &name).await?;
        parts.push(Part {
            kind: "table",
            name,
            made,
        });
    }
    for (collection, part) in Collection::ALL.into_iter().zip(&parts) {
        wait_until_active(client, &part.name).await?;
        if part.made && collection.expires() {
            set_ttl(client, &part.name).await?;
        }
    }
    Ok(parts)
}

async fn create(client: &Client, collection: Collection, name: &str) -> Result<bool> {
    let built = |error: aws_sdk_dynamodb::error::BuildError| {
        Error::internal("a table cannot be described").with_source(error)
    };
    let mut create = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest);
    for (attribute, kind, role) in keys(collection) {
        let definition = AttributeDefinition::builder()
            .attribute_name(attribute)
            .attribute_type(kind);
        let key = KeySchemaElement::builder()
            .attribute_name(attribute)
            .key_type(role);
        create = create
            .attribute_definitions(definition.build().map_err(built)?)
            .key_schema(key.build().map_err(built)?);
    }
    match create.send().await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ResourceInUseException") => Ok(false),
        Err(error) => Err(from_sdk(&format!("making table {name}"), error)),
    }
}

async fn wait_until_active(client: &Client, name: &str) -> Result<()> {
    let clock = SystemClock;
    let deadline = clock.now().plus(ACTIVE_WAIT);
    loop {
        let found = client.describe_table().table_name(name).send().await;
        let found = found.map_err(|error| from_sdk(&format!("looking at table {name}"), error))?;
        if found.table().and_then(|table| table.table_status()) == Some(&TableStatus::Active) {
            return Ok(());
        }
        if clock.now() > deadline {
            return Err(Error::unavailable(format!("table {name} is still being made")));
        }
        clock.sleep(Duration::from_millis(500)).await;
    }
}

async fn set_ttl(client: &Client, name: &str) -> Result<()> {
    let specification = TimeToLiveSpecification::builder()
        .attribute_name(TTL)
        .enabled(true)
        .build();
    let specification = specification
        .map_err(|error| Error::internal("a time to live cannot be described").with_source(error))?;
    client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(specification)
        .send()
        .await
        .map(|_| ())
        .map_err(|error| from_sdk(&format!("setting the time to live of table {name}"), error))
}

pub(super) async fn check(clients: &Clients, prefix: &str, check: &mut Check) -> Result<()> {
    let client = &clients.dynamodb;
    for collection in Collection::ALL {
        let name = format!("{prefix}{collection}");
        check.parts += 1;
        let mut found = |problem: String, remedy: &str| {
            check.findings.push(Finding::new("table", &name, problem, remedy));
        };
        let table = match client.describe_table().table_name(&name).send().await {
            Ok(table) => match table.table {
                Some(table) => table,
                None => return Err(Error::unavailable(format!("table {name} is not described"))),
            },
            Err(error) if error.code() == Some("ResourceNotFoundException") => {
                found(
                    "it is not there".to_owned(),
                    "deploy the stack again, or run `dormouse instance init`",
                );
                continue;
            }
            Err(error) => return Err(from_sdk(&format!("looking at table {name}"), error)),
        };
        let types = |attribute: &str| {
            let definitions = table.attribute_definitions();
            let definition = definitions
                .iter()
                .find(|definition| definition.attribute_name == attribute);
            definition.map(|definition| definition.attribute_type.clone())
        };
        let actual: Vec<_> = table
            .key_schema()
            .iter()
            .map(|key| {
                (
                    key.attribute_name.as_str(),
                    types(&key.attribute_name),
                    key.key_type.clone(),
                )
            })
            .collect();
        let expected = keys(collection);
        if !expected
            .iter()
            .map(|(name, kind, role)| (*name, Some(kind.clone()), role.clone()))
            .eq(actual.iter().cloned())
        {
            let told: Vec<_> = expected
                .iter()
                .map(|(name, kind, _)| format!("{name} ({kind})"))
                .collect();
            found(
                format!(
                    "its keys are {:?}, not {}",
                    actual.iter().map(|key| key.0).collect::<Vec<_>>(),
                    told.join(", ")
                ),
                "keys cannot be changed: make the table anew",
            );
        }
        if table.table_status() != Some(&TableStatus::Active) {
            let status = table.table_status().map_or("unknown", TableStatus::as_str);
            found(format!("its status is {status}"), "wait until it is ACTIVE");
        }
        if collection.expires() {
            let ttl = client.describe_time_to_live().table_name(&name).send().await;
            let ttl = ttl.map_err(|error| from_sdk(&format!("looking at table {name}"), error))?;
            let right = ttl.time_to_live_description().is_some_and(|ttl| {
                ttl.attribute_name() == Some(TTL)
                    && matches!(
                        ttl.time_to_live_status(),
                        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
                    )
            });
            if !right {
                found(
                    "old items are never removed".to_owned(),
                    "set its time to live to the attribute \"ttl\"",
                );
            }
        }
    }
    Ok(())
}
