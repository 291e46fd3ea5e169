//! S3 buckets.

use aws_sdk_s3::{
    Client,
    error::ProvideErrorMetadata,
    types::{
        AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint,
        CreateBucketConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
        PublicAccessBlockConfiguration,
    },
};
use dormouse_core::{Error, Result, config::InstanceSettings, ids::BucketName};

use super::{Finding, Part};
use crate::{clients::Clients, error::from_sdk, names::BucketPart, queue::BODIES_PREFIX};

/// How long uploads that were left behind, and long messages, are kept.
const UPLOAD_DAYS: i32 = 7;
const MESSAGE_DAYS: i32 = 40;

/// Makes a bucket if it is not there.
pub(super) async fn make(
    clients: &Clients,
    part: BucketPart,
    name: &BucketName,
    settings: &InstanceSettings,
) -> Result<Part> {
    let client = &clients.s3;
    let made = !exists(client, name).await?;
    if made {
        let place = (clients.region() != "us-east-1").then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(clients.region()))
                .build()
        });
        let create = client
            .create_bucket()
            .bucket(name.as_str())
            .set_create_bucket_configuration(place);
        create
            .send()
            .await
            .map_err(|error| from_sdk(&format!("making bucket {name}"), error))?;
        block_public_access(client, name).await?;
        set_lifecycle(client, name, rules(part, settings)?).await?;
    }
    Ok(Part {
        kind: "bucket",
        name: name.to_string(),
        made,
    })
}

async fn exists(client: &Client, name: &BucketName) -> Result<bool> {
    match client.head_bucket().bucket(name.as_str()).send().await {
        Ok(_) => Ok(true),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(false),
        Err(error) => Err(from_sdk(&format!("looking for bucket {name}"), error)),
    }
}

async fn block_public_access(client: &Client, name: &BucketName) -> Result<()> {
    let all = PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .ignore_public_acls(true)
        .block_public_policy(true)
        .restrict_public_buckets(true)
        .build();
    client
        .put_public_access_block()
        .bucket(name.as_str())
        .public_access_block_configuration(all)
        .send()
        .await
        .map(|_| ())
        .map_err(|error| from_sdk(&format!("closing bucket {name} to the public"), error))
}

fn expiring(id: &str, prefix: &str, days: i32) -> Result<LifecycleRule> {
    LifecycleRule::builder()
        .id(id)
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
        .expiration(LifecycleExpiration::builder().days(days).build())
        .build()
        .map_err(|error| Error::internal("a lifecycle rule cannot be built").with_source(error))
}

fn rules(part: BucketPart, settings: &InstanceSettings) -> Result<Vec<LifecycleRule>> {
    let uploads = LifecycleRule::builder()
        .id("uploads-left-behind")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("").build())
        .abort_incomplete_multipart_upload(
            AbortIncompleteMultipartUpload::builder()
                .days_after_initiation(UPLOAD_DAYS)
                .build(),
        )
        .build()
        .map_err(|error| Error::internal("a lifecycle rule cannot be built").with_source(error))?;
    let mut rules = vec![uploads];
    match part {
        BucketPart::Config => {}
        BucketPart::TableData => rules.push(expiring(
            "long-messages",
            &format!("{BODIES_PREFIX}/"),
            MESSAGE_DAYS,
        )?),
        BucketPart::Export => {
            let days = settings.export_expiry_days();
            if days > 0 {
                rules.push(expiring("exports", "", i32::try_from(days).unwrap_or(i32::MAX))?);
            }
        }
    }
    Ok(rules)
}

async fn set_lifecycle(client: &Client, name: &BucketName, rules: Vec<LifecycleRule>) -> Result<()> {
    let configuration = BucketLifecycleConfiguration::builder()
        .set_rules(Some(rules))
        .build();
    let configuration =
        configuration.map_err(|error| Error::internal("a lifecycle cannot be built").with_source(error))?;
    client
        .put_bucket_lifecycle_configuration()
        .bucket(name.as_str())
        .lifecycle_configuration(configuration)
        .send()
        .await
        .map(|_| ())
        .map_err(|error| from_sdk(&format!("setting the lifecycle of bucket {name}"), error))
}

/// Looks at a bucket.
pub(super) async fn check(clients: &Clients, part: BucketPart, name: &BucketName) -> Result<Vec<Finding>> {
    let client = &clients.s3;
    let mut findings = Vec::new();
    let mut found = |problem: &str, remedy: &str| {
        findings.push(Finding::new("bucket", name.as_str(), problem, remedy));
    };
    if !exists(client, name).await? {
        found(
            "it is not there",
            "deploy the stack again, or run `dormouse instance init`",
        );
        return Ok(findings);
    }
    let access = client
        .get_public_access_block()
        .bucket(name.as_str())
        .send()
        .await;
    let closed = match access {
        Ok(access) => access.public_access_block_configuration.is_some_and(|access| {
            access.block_public_acls == Some(true)
                && access.ignore_public_acls == Some(true)
                && access.block_public_policy == Some(true)
                && access.restrict_public_buckets == Some(true)
        }),
        Err(error) if error.code() == Some("NoSuchPublicAccessBlockConfiguration") => false,
        Err(error) => return Err(from_sdk(&format!("looking at bucket {name}"), error)),
    };
    if !closed {
        found("it is not closed to the public", "block all public access");
    }
    let lifecycle = client
        .get_bucket_lifecycle_configuration()
        .bucket(name.as_str())
        .send()
        .await;
    let rules = match lifecycle {
        Ok(lifecycle) => lifecycle.rules.unwrap_or_default(),
        Err(error) if error.code() == Some("NoSuchLifecycleConfiguration") => Vec::new(),
        Err(error) => return Err(from_sdk(&format!("looking at bucket {name}"), error)),
    };
    if !rules
        .iter()
        .any(|rule| rule.abort_incomplete_multipart_upload.is_some())
    {
        found(
            "uploads that are left behind stay and are paid for",
            "add a lifecycle rule that aborts incomplete multipart uploads after 7 days",
        );
    }
    let of_messages = |rule: &LifecycleRule| {
        let prefix = rule
            .filter()
            .and_then(LifecycleRuleFilter::prefix)
            .unwrap_or_default();
        rule.expiration.is_some() && prefix.trim_end_matches('/') == BODIES_PREFIX
    };
    if part == BucketPart::TableData && !rules.iter().any(of_messages) {
        found(
            "the bodies of long messages stay for ever",
            "add a lifecycle rule that removes what is below messages/ after 40 days",
        );
    }
    Ok(findings)
}
