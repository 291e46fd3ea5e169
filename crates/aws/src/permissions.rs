//! What each kind of process may do: the least that it needs.
//!
//! A policy is put together from grants, each of some actions on one part of the instance. Transactions of DynamoDB
//! need the permissions of their parts. A batch of items needs one of its own, which would let items be removed too;
//! a batch of messages needs that for one. Every part of an upload is a `PutObject`, and a copy a `GetObject` and a
//! `PutObject`. `sts:GetCallerIdentity` needs none.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_core::{
    Result, collections::Collection, config::InstanceSettings, ids::BucketName, ports::QueueName,
};
use serde::Serialize;

use crate::{
    instance::{Location, PROPERTIES_OBJECT},
    names::BucketPart,
};

/// A kind of process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are called as workers and schedules are")]
pub enum Role {
    Ingest,
    ExportSplitter,
    Export,
    Compaction,
    Splitter,
    Committer,
    Query,
    CompactionPlanner,
    SplitFinder,
    Snapshots,
    Gc,
    Repair,
    BulkSweep,
    Api,
}

/// A policy document of IAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: &'static str,
    action: Vec<String>,
    resource: Vec<String>,
}

/// What an instance's parts are called by those who grant something on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arns {
    partition: String,
    region: String,
    account: String,
    table_prefix: String,
    queues: BTreeMap<QueueName, (String, String)>,
    buckets: [BucketName; 3],
    /// Where ingest jobs find their files.
    inputs: Vec<BucketName>,
}

/// A part of an instance.
#[derive(Clone, Copy, Debug)]
enum On {
    Table(Collection),
    Queue(QueueName),
    DeadLetters(QueueName),
    Bucket(BucketPart),
    Objects(BucketPart, &'static str),
    InputBuckets,
    Inputs,
}

const MESSAGES: On = On::Objects(BucketPart::TableData, "messages/*");
const DATA: On = On::Objects(BucketPart::TableData, "*/data/*");
const STATE: On = On::Objects(BucketPart::TableData, "*/statestore/*");
const COMMITS: On = On::Objects(BucketPart::TableData, "*/commits/*");
const EXPORTS: On = On::Objects(BucketPart::Export, "*");
const GET: &[&str] = &["GetObject"];
const PUT: &[&str] = &["PutObject"];
const WRITE: &[&str] = &["PutObject", "AbortMultipartUpload"];
const DELETE: &[&str] = &["DeleteObject"];
const GET_ITEM: &[&str] = &["GetItem"];
const GET_ITEMS: &[&str] = &["BatchGetItem"];
const PUT_ITEM: &[&str] = &["PutItem"];
const DELETE_ITEM: &[&str] = &["DeleteItem"];
const QUERY: &[&str] = &["Query"];
const KEEP_ITEM: &[&str] = &["GetItem", "PutItem"];

/// The grants of one policy.
#[derive(Debug, Default)]
struct Grants(Vec<(&'static [&'static str], On)>);

impl Grants {
    fn add(&mut self, actions: &'static [&'static str], on: On) -> &mut Self {
        self.0.push((actions, on));
        self
    }

    fn tables<const N: usize>(
        &mut self,
        actions: &'static [&'static str],
        tables: [Collection; N],
    ) -> &mut Self {
        self.0.extend(tables.map(|table| (actions, On::Table(table))));
        self
    }

    /// What opening an instance takes.
    fn open(&mut self) -> &mut Self {
        for queue in QueueName::ALL {
            let actions = &["GetQueueUrl", "GetQueueAttributes"];
            self.add(actions, On::Queue(queue))
                .add(actions, On::DeadLetters(queue));
        }
        // Without it an object that is absent looks like one that may not be read.
        for bucket in BucketPart::ALL {
            self.add(&["ListBucket"], On::Bucket(bucket));
        }
        self.add(GET, On::Objects(BucketPart::Config, PROPERTIES_OBJECT))
    }

    fn receive(&mut self, queue: QueueName) -> &mut Self {
        self.add(
            &["ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"],
            On::Queue(queue),
        )
        .add(&["SendMessage"], On::DeadLetters(queue))
        .add(&["GetObject", "PutObject"], MESSAGES)
    }

    fn send(&mut self, queue: QueueName) -> &mut Self {
        self.add(&["SendMessage"], On::Queue(queue)).add(PUT, MESSAGES)
    }

    fn read(&mut self) -> &mut Self {
        self.tables(QUERY, [Collection::Transactions, Collection::Snapshots])
            .add(GET_ITEM, On::Table(Collection::Heads))
            .add(GET, STATE)
    }

    fn commit(&mut self) -> &mut Self {
        self.read()
            .tables(PUT_ITEM, [Collection::Transactions, Collection::Heads])
            .add(
                PUT,
                On::Objects(BucketPart::TableData, "*/statestore/transactions/*"),
            )
    }

    fn track(&mut self) -> &mut Self {
        self.add(KEEP_ITEM, On::Table(Collection::JobStatus))
            .add(GET_ITEMS, On::Table(Collection::JobStatus))
            .tables(
                &["PutItem", "BatchWriteItem"],
                [Collection::JobEvents, Collection::JobTimes],
            )
    }

    fn table(&mut self) -> &mut Self {
        self.tables(GET_ITEM, [Collection::Tables, Collection::TableNames])
    }

    fn all_tables(&mut self) -> &mut Self {
        self.table().add(QUERY, On::Table(Collection::TableNames))
    }

    /// Commits of tables whose commits are queued.
    fn queued(&mut self) -> &mut Self {
        self.send(QueueName::Commit)
            .add(GET_ITEM, On::Table(Collection::CommitOutcomes))
            .add(&["GetObject", "PutObject"], COMMITS)
    }

    fn bulk(&mut self) -> &mut Self {
        self.tables(KEEP_ITEM, [Collection::BulkJobs, Collection::BulkQueues])
    }

    fn role(&mut self, role: Role) -> &mut Self {
        let grants = self.open();
        match role {
            Role::Ingest => grants
                .receive(QueueName::Ingest)
                .table()
                .commit()
                .track()
                .queued()
                .add(&["ListBucket"], On::InputBuckets)
                .add(GET, On::Inputs)
                .add(WRITE, DATA),
            Role::ExportSplitter => grants
                .receive(QueueName::Export)
                .send(QueueName::ExportLeaf)
                .table()
                .commit()
                .track()
                // Times that `asOf` names.
                .add(GET_ITEM, On::Table(Collection::Transactions))
                .add(&["GetItem", "Query"], On::Table(Collection::ExportParts))
                .add(&["GetObject", "PutObject"], EXPORTS),
            Role::Export => grants
                .receive(QueueName::ExportLeaf)
                .table()
                .commit()
                .track()
                .add(
                    &["GetItem", "PutItem", "Query"],
                    On::Table(Collection::ExportParts),
                )
                .add(GET, DATA)
                .add(GET, EXPORTS)
                .add(WRITE, EXPORTS),
            Role::Compaction => grants
                .receive(QueueName::Compaction)
                .table()
                .commit()
                .track()
                .queued()
                .add(GET, DATA)
                .add(WRITE, DATA),
            Role::Splitter => grants
                .receive(QueueName::Splitting)
                .table()
                .commit()
                .add(GET, DATA),
            Role::Committer => grants
                .receive(QueueName::Commit)
                .commit()
                .add(PUT_ITEM, On::Table(Collection::CommitOutcomes))
                .add(GET, COMMITS),
            Role::Query => grants
                .receive(QueueName::Query)
                .send(QueueName::Query)
                .table()
                .commit()
                .bulk()
                .add(GET_ITEM, On::Table(Collection::Tenants))
                .add(GET, DATA)
                .add(WRITE, EXPORTS),
            Role::CompactionPlanner => grants.all_tables().commit().track().send(QueueName::Compaction),
            Role::SplitFinder => grants.all_tables().read().send(QueueName::Splitting),
            Role::Snapshots => grants
                .all_tables()
                .commit()
                .add(
                    &["GetItem", "PutItem", "DeleteItem"],
                    On::Table(Collection::Snapshots),
                )
                .add(DELETE_ITEM, On::Table(Collection::Transactions))
                .add(&["ConditionCheckItem"], On::Table(Collection::Heads))
                .add(&["PutObject", "DeleteObject"], STATE),
            Role::Gc => grants
                .all_tables()
                .commit()
                .track()
                .add(&["PutItem", "DeleteItem"], On::Table(Collection::TableNames))
                .tables(
                    DELETE_ITEM,
                    [
                        Collection::Tables,
                        Collection::Heads,
                        Collection::Transactions,
                        Collection::Snapshots,
                    ],
                )
                .add(QUERY, On::Table(Collection::JobTimes))
                .add(
                    &["GetObject", "DeleteObject"],
                    On::Objects(BucketPart::TableData, "*"),
                )
                .add(&["ListBucketMultipartUploads"], On::Bucket(BucketPart::TableData))
                .add(&["ListBucketMultipartUploads"], On::Bucket(BucketPart::Export))
                .add(&["AbortMultipartUpload"], On::Objects(BucketPart::TableData, "*"))
                .add(&["AbortMultipartUpload"], EXPORTS),
            Role::Repair => {
                for queue in QueueName::ALL {
                    grants.add(
                        &["ReceiveMessage", "ChangeMessageVisibility"],
                        On::DeadLetters(queue),
                    );
                }
                grants
                    .all_tables()
                    .commit()
                    .track()
                    .add(KEEP_ITEM, On::Table(Collection::TrackerRepairs))
                    .add(QUERY, On::Table(Collection::JobTimes))
                    .add(&["GetItem", "Query"], On::Table(Collection::ExportParts))
                    .add(GET, MESSAGES)
                    .add(&["GetObject", "PutObject"], EXPORTS)
            }
            Role::BulkSweep => grants
                .send(QueueName::Query)
                .commit()
                .bulk()
                .tables(QUERY, [Collection::Tenants, Collection::BulkJobTimes])
                .add(GET_ITEMS, On::Table(Collection::BulkJobs))
                .tables(DELETE_ITEM, [Collection::BulkJobs, Collection::BulkJobTimes])
                .add(DELETE, EXPORTS),
            Role::Api => grants
                .send(QueueName::Query)
                .all_tables()
                .commit()
                .bulk()
                .tables(QUERY, [Collection::BulkJobTimes, Collection::JobStatus])
                .tables(GET_ITEM, [Collection::Tenants, Collection::ApiKeys])
                .add(KEEP_ITEM, On::Table(Collection::Secrets))
                .add(GET_ITEMS, On::Table(Collection::BulkJobs))
                .add(DELETE_ITEM, On::Table(Collection::BulkJobs))
                .tables(
                    &["GetItem", "PutItem", "DeleteItem"],
                    [Collection::BulkJobTimes, Collection::IdempotencyKeys],
                )
                .add(GET, DATA)
                .add(&["GetObject", "DeleteObject"], EXPORTS),
        }
    }
}

impl Arns {
    /// Those of an instance. Ingest jobs find their files in the buckets `inputs`.
    ///
    /// # Errors
    /// `Unavailable` when nobody tells the account.
    pub async fn of(
        location: &Location,
        settings: &InstanceSettings,
        inputs: Vec<BucketName>,
    ) -> Result<Self> {
        let names = &location.names;
        let [config, data, export] = BucketPart::ALL;
        let buckets = [
            location.bucket(config, settings).await?,
            location.bucket(data, settings).await?,
            location.bucket(export, settings).await?,
        ];
        let queues = QueueName::ALL.map(|queue| {
            let place = location.queue(queue, settings);
            let name = place.rsplit('/').next().unwrap_or(&place).to_owned();
            (queue, (name, names.dead_letters(queue)))
        });
        let region = location.clients.region().to_owned();
        let partition = match region.split('-').next() {
            Some("cn") => "aws-cn",
            Some("us") if region.contains("-gov-") => "aws-us-gov",
            _ => "aws",
        };
        Ok(Self {
            partition: partition.to_owned(),
            region,
            account: location.account().await?.to_owned(),
            table_prefix: names.table_prefix(),
            queues: queues.into(),
            buckets,
            inputs,
        })
    }

    /// The least that processes need that do all of these.
    pub fn policy(&self, roles: &[Role]) -> Policy {
        let mut grants = Grants::default();
        for role in roles {
            grants.role(*role);
        }
        let mut by_resource: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (actions, on) in grants.0 {
            let (service, resources) = self.resources(on);
            for resource in resources {
                let actions = actions.iter().map(|action| format!("{service}:{action}"));
                by_resource.entry(resource).or_default().extend(actions);
            }
        }
        let mut by_actions: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        for (resource, actions) in by_resource {
            let actions = actions.into_iter().collect();
            by_actions.entry(actions).or_default().push(resource);
        }
        let statements = by_actions.into_iter().map(|(action, resource)| Statement {
            effect: "Allow",
            action,
            resource,
        });
        Policy {
            version: "2012-10-17",
            statement: statements.collect(),
        }
    }

    fn resources(&self, on: On) -> (&'static str, Vec<String>) {
        let Self {
            partition,
            region,
            account,
            ..
        } = self;
        let queue = |name: &str| format!("arn:{partition}:sqs:{region}:{account}:{name}");
        let bucket = |name: &BucketName| format!("arn:{partition}:s3:::{name}");
        let of = |part: BucketPart| {
            let at = BucketPart::ALL.iter().position(|other| *other == part);
            &self.buckets[at.unwrap_or_default()]
        };
        match on {
            On::Table(table) => {
                let name = format!("{}{table}", self.table_prefix);
                let arn = format!("arn:{partition}:dynamodb:{region}:{account}:table/{name}");
                ("dynamodb", vec![arn])
            }
            On::Queue(name) => (
                "sqs",
                self.queues
                    .get(&name)
                    .map(|(name, _)| queue(name))
                    .into_iter()
                    .collect(),
            ),
            On::DeadLetters(name) => (
                "sqs",
                self.queues
                    .get(&name)
                    .map(|(_, dead)| queue(dead))
                    .into_iter()
                    .collect(),
            ),
            On::Bucket(part) => ("s3", vec![bucket(of(part))]),
            On::Objects(part, keys) => ("s3", vec![format!("{}/{keys}", bucket(of(part)))]),
            On::InputBuckets => ("s3", self.inputs.iter().map(bucket).collect()),
            On::Inputs => (
                "s3",
                self.inputs
                    .iter()
                    .map(|name| format!("{}/*", bucket(name)))
                    .collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arns() -> Arns {
        let bucket = |name: &str| BucketName::new(name).unwrap();
        let queue = |queue: QueueName| (queue, (format!("d-{queue}"), format!("d-{queue}-dead")));
        Arns {
            partition: "aws".to_owned(),
            region: "eu-west-1".to_owned(),
            account: "123456789012".to_owned(),
            table_prefix: "dormouse-prod-".to_owned(),
            queues: QueueName::ALL.map(queue).into(),
            buckets: ["d-config", "d-data", "d-export"].map(bucket),
            inputs: vec![bucket("landing")],
        }
    }

    fn allows(policy: &Policy, action: &str, resource: &str) -> bool {
        let mut statements = policy.statement.iter();
        statements.any(|statement| {
            statement.action.iter().any(|granted| granted == action)
                && statement.resource.iter().any(|granted| granted == resource)
        })
    }

    #[test]
    fn a_policy_names_the_parts_of_the_instance() {
        let policy = arns().policy(&[Role::Ingest]);
        for (action, resource) in [
            ("s3:GetObject", "arn:aws:s3:::landing/*"),
            ("s3:PutObject", "arn:aws:s3:::d-data/*/data/*"),
            (
                "sqs:ReceiveMessage",
                "arn:aws:sqs:eu-west-1:123456789012:d-ingest",
            ),
            (
                "dynamodb:PutItem",
                "arn:aws:dynamodb:eu-west-1:123456789012:table/dormouse-prod-transactions",
            ),
        ] {
            assert!(allows(&policy, action, resource), "{action} {resource}");
        }
        assert!(!allows(&policy, "s3:DeleteObject", "arn:aws:s3:::d-data/*"));
        let written = serde_json::to_value(&policy).unwrap();
        assert_eq!(written["Version"], "2012-10-17");
        assert_eq!(written["Statement"][0]["Effect"], "Allow");
    }

    #[test]
    fn nobody_but_garbage_collection_deletes_data() {
        let roles = [
            Role::Ingest,
            Role::ExportSplitter,
            Role::Export,
            Role::Compaction,
            Role::Splitter,
            Role::Committer,
            Role::Query,
            Role::CompactionPlanner,
            Role::SplitFinder,
            Role::Repair,
            Role::BulkSweep,
            Role::Api,
        ];
        let policy = arns().policy(&roles);
        let deletes =
            |statement: &&Statement| statement.action.iter().any(|action| action == "s3:DeleteObject");
        let deleting: Vec<_> = policy.statement.iter().filter(deletes).collect();
        assert!(
            deleting
                .iter()
                .all(|statement| statement.resource == ["arn:aws:s3:::d-export/*"])
        );
        let collected = arns().policy(&[Role::Gc]);
        assert!(allows(&collected, "s3:DeleteObject", "arn:aws:s3:::d-data/*"));
    }
}
