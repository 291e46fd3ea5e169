//! The one list of what is stored as items, under which keys. In DynamoDB each collection is a table.

use std::fmt;

/// A collection of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collection {
    /// Entries of the tables' logs. Partition key: table id. Sort key: transaction number.
    /// Written by `state::log`.
    Transactions,
    /// The newest entry of each log. Partition key: table id. Written by `state::log`.
    Heads,
    /// Snapshots of table state that were read back and verified. Partition key: table id. Sort key: transaction
    /// number. Written by `state::snapshot`.
    Snapshots,
    /// What became of queued commits where the log does not tell: those that were refused or were so already.
    /// Partition key: table id. Sort key: commit id. Written by the committer.
    CommitOutcomes,
    /// Tables by id, with their properties. Partition key: table id. Written by `tables`.
    Tables,
    /// Table ids by name. Partition key: `names`. Sort key: table name. Also, with the table id as sort key, tables
    /// that were deleted and still have objects (`deleted`), and those that have none left (`purged`). Written by
    /// `tables`.
    TableNames,
    /// Every event of every run of a job. Partition key: `<kind>|<table id>|<job id>`. Sort key:
    /// `<4-digit attempt>|<run>|<event>`, and `|<sub-export id>` for events of one part. Written by `tracker`.
    JobEvents,
    /// The status of each job. Partition key: job id. Sort key: `<kind>|<table id>`. Written by `tracker`.
    JobStatus,
    /// Jobs by the time that they were first seen. Partition key: day, `YYYY-MM-DD`. Sort key:
    /// `<13-digit epoch milliseconds>|<job id>|<kind>|<table id>`. Written by `tracker`.
    JobTimes,
    /// The finished parts of each planned export. Partition key: `<table id>|<export id>|<pin>`. Sort key:
    /// sub-export id, or `#progress` for their count. Written by `tracker`.
    ExportParts,
    /// Up to which transaction the tracker was compared with each log, and when lost jobs were last looked for.
    /// Partition key: table id, or `lost-jobs`. Written by the repair.
    TrackerRepairs,
    /// Tenants. Partition key: `tenants`. Sort key: tenant id. And `closed`, once there was one. Written by `tenants`.
    Tenants,
    /// API keys, as hashes. Partition key: tenant id. Sort key: key id. Written by `tenants`.
    ApiKeys,
    /// Bulk jobs. Partition key: tenant id. Sort key: job id. Written by `bulk`.
    BulkJobs,
    /// Bulk jobs by the time that they were made. Partition key: tenant id. Sort key:
    /// `<13-digit epoch milliseconds>|<job id>`. Written by `bulk`.
    BulkJobTimes,
    /// Which bulk jobs of a tenant are open, wait and run. Partition key: tenant id. Written by `bulk`.
    BulkQueues,
    /// Answers to requests that may be sent again. Partition key: `<tenant id>|<route>`. Sort key: the key that the
    /// client chose. Written by `api`.
    IdempotencyKeys,
    /// What was read over links for one use. Partition key: link id. Written by `api`.
    Links,
    /// Secrets of the instance, such as the one that signs links. Partition key: what it is for. Written by `api`.
    Secrets,
}

impl Collection {
    /// Every collection.
    pub const ALL: [Self; 19] = [
        Self::Transactions,
        Self::Heads,
        Self::Snapshots,
        Self::CommitOutcomes,
        Self::Tables,
        Self::TableNames,
        Self::JobEvents,
        Self::JobStatus,
        Self::JobTimes,
        Self::ExportParts,
        Self::TrackerRepairs,
        Self::Tenants,
        Self::ApiKeys,
        Self::BulkJobs,
        Self::BulkJobTimes,
        Self::BulkQueues,
        Self::IdempotencyKeys,
        Self::Links,
        Self::Secrets,
    ];

    /// The name: of the DynamoDB table after `dormouse-<instance>-`, and of the SQLite rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transactions => "transactions",
            Self::Heads => "heads",
            Self::Snapshots => "snapshots",
            Self::CommitOutcomes => "commit-outcomes",
            Self::Tables => "tables",
            Self::TableNames => "table-names",
            Self::JobEvents => "job-events",
            Self::JobStatus => "job-status",
            Self::JobTimes => "job-times",
            Self::ExportParts => "export-parts",
            Self::TrackerRepairs => "tracker-repairs",
            Self::Tenants => "tenants",
            Self::ApiKeys => "api-keys",
            Self::BulkJobs => "bulk-jobs",
            Self::BulkJobTimes => "bulk-job-times",
            Self::BulkQueues => "bulk-queues",
            Self::IdempotencyKeys => "idempotency-keys",
            Self::Links => "links",
            Self::Secrets => "secrets",
        }
    }

    /// The attribute that holds the partition key in stores that name it, such as DynamoDB.
    pub fn partition_attribute(self) -> &'static str {
        match self {
            Self::Transactions | Self::Heads | Self::Snapshots | Self::CommitOutcomes | Self::Tables => {
                "tableId"
            }
            Self::TableNames | Self::Tenants => "list",
            Self::ApiKeys | Self::BulkJobs | Self::BulkJobTimes | Self::BulkQueues => "tenantId",
            Self::IdempotencyKeys => "tenantAndRoute",
            Self::Links => "link",
            Self::Secrets => "what",
            Self::JobEvents => "job",
            Self::JobStatus => "jobId",
            Self::JobTimes => "day",
            Self::ExportParts => "export",
            Self::TrackerRepairs => "what",
        }
    }

    /// The attribute that holds the sort key in stores that name it. Empty where there is none.
    pub fn sort_attribute(self) -> &'static str {
        match self {
            Self::Heads
            | Self::Tables
            | Self::TrackerRepairs
            | Self::BulkQueues
            | Self::Links
            | Self::Secrets => "",
            Self::Transactions | Self::Snapshots => "transaction",
            Self::CommitOutcomes => "commit",
            Self::TableNames => "name",
            Self::Tenants => "tenantId",
            Self::ApiKeys => "keyId",
            Self::BulkJobs => "jobId",
            Self::BulkJobTimes => "timeAndJob",
            Self::IdempotencyKeys => "key",
            Self::JobEvents => "runAndEvent",
            Self::JobStatus => "kindAndTable",
            Self::JobTimes => "timeAndJob",
            Self::ExportParts => "part",
        }
    }

    /// Whether its items expire; those of the others are there until they are removed.
    pub fn expires(self) -> bool {
        matches!(
            self,
            Self::CommitOutcomes
                | Self::JobEvents
                | Self::JobStatus
                | Self::JobTimes
                | Self::ExportParts
                | Self::IdempotencyKeys
                | Self::Links
        )
    }

    /// What its sort keys are.
    pub fn sort_kind(self) -> SortKind {
        match self {
            Self::Heads
            | Self::Tables
            | Self::TrackerRepairs
            | Self::BulkQueues
            | Self::Links
            | Self::Secrets => SortKind::None,
            Self::Transactions | Self::Snapshots => SortKind::Number,
            Self::CommitOutcomes
            | Self::TableNames
            | Self::JobEvents
            | Self::JobStatus
            | Self::JobTimes
            | Self::ExportParts
            | Self::Tenants
            | Self::ApiKeys
            | Self::BulkJobs
            | Self::BulkJobTimes
            | Self::IdempotencyKeys => SortKind::Text,
        }
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the sort keys of a collection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortKind {
    /// There are none: one item a partition key.
    None,
    /// Numbers.
    Number,
    /// Text.
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_stores_have() {
        let names = Collection::ALL.map(Collection::as_str);
        let stored = [
            "transactions",
            "heads",
            "snapshots",
            "commit-outcomes",
            "tables",
            "table-names",
            "job-events",
            "job-status",
            "job-times",
            "export-parts",
            "tracker-repairs",
            "tenants",
            "api-keys",
            "bulk-jobs",
            "bulk-job-times",
            "bulk-queues",
            "idempotency-keys",
            "links",
            "secrets",
        ];
        assert_eq!(names, stored);
    }

    #[test]
    fn key_attributes_are_where_there_are_keys() {
        for collection in Collection::ALL {
            let sort = collection.sort_attribute();
            assert_eq!(
                sort.is_empty(),
                collection.sort_kind() == SortKind::None,
                "{collection}"
            );
            assert!(!collection.partition_attribute().is_empty() && collection.partition_attribute() != sort);
        }
    }
}
