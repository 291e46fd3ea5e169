//! The list of properties.

use std::fmt::Write as _;

/// What a property is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An instance.
    Instance,
    /// A table; set for the instance, it is the default of all tables.
    Table,
}

/// What values a property takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Count,
    /// A number of bytes, with an optional suffix K, M, G or T (powers of 1024).
    Bytes,
    /// A number of the time unit that ends the name: `.seconds`, `.minutes`, `.hours` or `.days`; may have a
    /// fraction.
    Time,
    /// As [`Kind::Time`], and not less than 0.1 seconds.
    Period,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Directories, separated by commas.
    Directories,
    /// Yes or no: `true` or `false`.
    Flag,
    /// A name or an address; empty for none.
    Text,
    /// A condition in SQL, see [`predicate`](crate::predicate); empty for none.
    Predicate,
    /// Filters, see [`row_rules`](crate::row_rules).
    Filters,
    /// Aggregations, see [`row_rules`](crate::row_rules).
    Aggregations,
}

/// A property.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// The name after `dormouse.`.
    pub name: &'static str,
    /// What it is set for.
    pub scope: Scope,
    /// What values it takes.
    pub kind: Kind,
    /// The value when it is not set.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

macro_rules! properties {
    ($($constant:ident = $name:literal, $scope:ident, $kind:expr, $default:literal, $doc:literal;)*) => {
        $(pub(super) const $constant: Property = Property {
            name: $name,
            scope: Scope::$scope,
            kind: $kind,
            default: $default,
            doc: $doc,
        };)*

        /// Every property.
        pub const PROPERTIES: &[Property] = &[$($constant),*];
    };
}

properties! {
    QUEUE_VISIBILITY = "queue.visibility.timeout.seconds", Instance, Kind::Period, "30",
        "How long a received message stays hidden unless its worker extends it. Workers extend at a third of it, \
         so a job may run much longer; after a crash its message is delivered again when this time is over.";
    QUEUE_MAX_ATTEMPTS = "queue.max.attempts", Instance, Kind::Count, "5",
        "How often a message is delivered before it moves to the dead letters.";
    WORKER_DRAIN = "worker.drain.seconds", Instance, Kind::Time, "25",
        "How long a worker that is asked to stop lets its jobs finish before it gives their messages back.";
    INGEST_CONCURRENCY = "ingest.concurrency", Instance, Kind::Count, "2",
        "How many ingest jobs one process runs at a time. They share `memory.bytes`; a job large enough to need \
         all of it runs alone.";
    EXPORT_CONCURRENCY = "export.concurrency", Instance, Kind::Count, "2",
        "How many leaves one process exports at a time.";
    INGEST_DIRECTORIES = "ingest.file.directories", Instance, Kind::Directories, "/",
        "Directories below which `file://` inputs may be read.";
    MEMORY = "memory.bytes", Instance, Kind::Bytes, "1G",
        "How many bytes of rows one process holds before it spills them to disk.";
    THREADS = "threads", Instance, Kind::Count, "0",
        "How many threads one job computes on; 0 takes all cores.";
    COMPACTION_CONCURRENCY = "compaction.concurrency", Instance, Kind::Count, "1",
        "How many compactions one process runs at a time.";
    COMPACTION_PERIOD = "compaction.job.creation.period.minutes", Instance, Kind::Period, "1",
        "How often `serve` looks for files to merge.";
    COMPACTION_LIMIT = "compaction.job.creation.limit", Instance, Kind::Count, "100000",
        "The most compactions of a table that one look makes.";
    COMPACTION_LEASE = "compaction.lease.minutes", Instance, Kind::Period, "60",
        "How long the inputs of a compaction are kept from others if nobody works on it. Workers extend it.";
    SPLITTING_PERIOD = "partition.splitting.period.minutes", Instance, Kind::Period, "30",
        "How often `serve` looks for leaves to split.";
    SNAPSHOT_PERIOD = "statestore.snapshot.period.seconds", Instance, Kind::Period, "60",
        "How often `serve` looks for tables that need a snapshot, and cuts logs.";
    GC_PERIOD = "gc.period.minutes", Instance, Kind::Period, "15",
        "How often `serve` collects garbage.";
    GC_ORPHAN_AGE = "gc.orphan.age.hours", Instance, Kind::Time, "24",
        "How old an object that no state knows must be before it is swept. Longer than the longest job, or jobs \
         run in vain: their commit is refused when their files are gone.";
    TRACKER_REPAIR_PERIOD = "tracker.repair.period.seconds", Instance, Kind::Period, "20",
        "How often `serve` compares the tracker with the logs and the dead letters.";
    JOB_STATUS_TTL = "job.status.ttl.days", Instance, Kind::Period, "7",
        "How long the tracker keeps a job after its last event.";
    JOB_LOST = "job.lost.hours", Instance, Kind::Period, "24",
        "After how long without a word from any worker a job that has not ended is reported as failed.";
    EXPORT_PIN = "export.pin.hours", Instance, Kind::Period, "24",
        "How long an export may take. The files that it reads are kept so long.";
    TASK_MAX_IDLE = "task.max.idle.time.seconds", Instance, Kind::Time, "60",
        "On AWS, after how long without a message `dormouse worker` ends.";
    TASK_MAX_ALIVE = "task.max.alive.time.minutes", Instance, Kind::Time, "1440",
        "On AWS, at what age `dormouse worker` takes no more messages, finishes what it has, and ends.";
    TASK_MAX_ALIVE_JITTER = "task.max.alive.jitter.minutes", Instance, Kind::Time, "120",
        "By up to how much earlier it ends, by chance, so that not all workers end at once.";
    DATA_BUCKET = "data.bucket", Instance, Kind::Text, "",
        "On AWS, the bucket of table data; none takes `dormouse-<instance>-table-data-<account>`.";
    EXPORT_BUCKET = "bulk.export.s3.bucket", Instance, Kind::Text, "",
        "On AWS, the bucket of exports; none takes `dormouse-<instance>-bulk-export-results-<account>`.";
    EXPORT_EXPIRY = "bulk.export.results.bucket.expiry.days", Instance, Kind::Count, "7",
        "On AWS, after how many days `dormouse instance init` has exports removed; 0 for never.";
    INGEST_QUEUE_URL = "ingest.job.queue.url", Instance, Kind::Text, "",
        "On AWS, the URL of the queue `ingest`; none takes the queue `dormouse-<instance>-ingest`.";
    EXPORT_QUEUE_URL = "bulk.export.queue.url", Instance, Kind::Text, "",
        "As above, of the queue `export`.";
    EXPORT_LEAF_QUEUE_URL = "bulk.export.leaf.partition.queue.url", Instance, Kind::Text, "",
        "As above, of the queue `export-leaf`.";
    COMPACTION_QUEUE_URL = "compaction.job.queue.url", Instance, Kind::Text, "",
        "As above, of the queue `compaction`.";
    SPLITTING_QUEUE_URL = "partition.splitting.job.queue.url", Instance, Kind::Text, "",
        "As above, of the queue `splitting`.";
    QUERY_QUEUE_URL = "query.queue.url", Instance, Kind::Text, "",
        "As above, of the queue `query`.";
    COMMIT_QUEUE_URL = "statestore.committer.queue.url", Instance, Kind::Text, "",
        "As above, of the queue `commit`, `dormouse-<instance>-commit.fifo`.";
    RESULT_SIZE_THRESHOLD = "result.size.threshold", Instance, Kind::Count, "10000",
        "The most rows that the query API answers at once; a query with more is cut off and says so.";
    RESULT_SIZE_BYTES = "result.size.bytes", Instance, Kind::Bytes, "16M",
        "The most bytes of rows that it answers at once.";
    QUERY_TIMEOUT = "query.default.timeout.seconds", Instance, Kind::Period, "60",
        "How long a query over the query API may take that names no time.";
    QUERY_MAX_TIMEOUT = "query.max.timeout.seconds", Instance, Kind::Period, "300",
        "The longest time that one may name.";
    QUERY_CONCURRENCY = "query.concurrency", Instance, Kind::Count, "8",
        "How many queries of the query API one process answers at a time; others wait for their turn.";
    QUERY_MEMORY = "query.memory.bytes", Instance, Kind::Bytes, "256M",
        "How much memory the sorts, joins and aggregates of one query hold before they go to disk.";
    QUERY_DISK = "query.disk.bytes", Instance, Kind::Bytes, "20G",
        "How much disk one query may take.";
    QUERY_MAX_JOINS = "query.max.joins", Instance, Kind::Count, "10",
        "How many joins a query over HTTP has at most, each comma in `FROM` one; never more than 32.";
    QUERY_MAX_SUBQUERIES = "query.max.subqueries", Instance, Kind::Count, "5",
        "How many queries are inside a query over HTTP at most, beside those of `WITH`; never more than 64 with those.";
    QUERY_FOOTERS = "query.footers.bytes", Instance, Kind::Bytes, "256M",
        "How many bytes of footers of files one process keeps for its queries.";
    BULK_CONCURRENCY = "bulk.concurrency", Instance, Kind::Count, "2",
        "How many bulk jobs one process runs at a time.";
    BULK_MAX_FILE_SIZE = "bulk.max.file.size.mb", Instance, Kind::Count, "150",
        "The largest upload of a bulk job, in units of 1048576 bytes.";
    BULK_JOB_TIMEOUT = "bulk.job.timeout.hours", Instance, Kind::Period, "24",
        "How long a bulk job lives, from when it was made, before it fails or is aborted.";
    BULK_MAX_CONCURRENT_JOBS = "bulk.max.concurrent.jobs", Instance, Kind::Count, "5",
        "How many bulk jobs of a tenant run at a time.";
    BULK_CONCURRENCY_POLICY = "bulk.concurrency.policy", Instance, Kind::Word(&["queue", "reject"]), "queue",
        "What becomes of a bulk job that is started while as many run: `queue` lets it wait for its turn, `reject` \
         answers 429.";
    BULK_MAX_OPEN_JOBS = "bulk.max.open.jobs", Instance, Kind::Count, "100",
        "How many bulk jobs of a tenant may not have ended, at most 1000. More are answered with 429.";
    BULK_RESULT_RETENTION = "bulk.result.retention.days", Instance, Kind::Period, "7",
        "How long the results of a bulk job stay after it has ended.";
    BULK_JOB_RETENTION = "bulk.job.retention.days", Instance, Kind::Period, "7",
        "How long a bulk job is known after it has ended; not shorter than its results stay.";
    BULK_RESULTS_PREFIX = "bulk.results.prefix", Instance, Kind::Text, "exports/",
        "What the results of bulk jobs are below in the bucket of exports; a job's are in \
         `tenant-<tenant>/job-<job>/` there.";
    BULK_SWEEP_PERIOD = "bulk.sweep.period.seconds", Instance, Kind::Period, "20",
        "How often `serve` looks for bulk jobs that have lost their message or worker, or are too old.";
    PRESIGNED_URL_EXPIRY = "presigned.url.expiry.seconds", Instance, Kind::Period, "3600",
        "How long a link to the result of a bulk job is good for.";
    IDEMPOTENCY_TTL = "idempotency.ttl.hours", Instance, Kind::Period, "24",
        "How long the answer to a request with an idempotency key is given again.";
    RATE_LIMITS = "api.rate.limits", Instance, Kind::Flag, "true",
        "Whether the rates below are limits.";
    RATE_QUERIES = "api.rate.queries", Instance, Kind::Count, "100",
        "How many queries a tenant may ask in a minute.";
    RATE_BULK_CREATE = "api.rate.bulk.create", Instance, Kind::Count, "10",
        "How many bulk jobs a tenant may make in a minute.";
    RATE_BULK = "api.rate.bulk", Instance, Kind::Count, "100",
        "How many other requests about bulk jobs a tenant may make in a minute.";
    RATE_JOBS = "api.rate.jobs", Instance, Kind::Count, "300",
        "How many requests at `/jobs` and `/limits` a tenant may make in a minute.";
    API_URL = "api.url", Instance, Kind::Text, "",
        "What links to the API begin with, such as `https://data.example.org`; none takes the address that it \
         listens on.";
    API_BODY_BYTES = "api.body.max.bytes", Instance, Kind::Bytes, "1M",
        "The largest body of a request to the API.";
    METRICS_NAMESPACE = "metrics.namespace", Instance, Kind::Text, "Dormouse",
        "On AWS, the CloudWatch namespace of the metrics that workers and schedules log.";
    ECS_CLUSTER = "ecs.cluster", Instance, Kind::Text, "",
        "The ECS cluster that `dormouse scale` starts workers in.";
    SUBNETS = "subnets", Instance, Kind::Text, "",
        "The subnets of workers that `dormouse scale` starts, separated by commas; none for tasks that use the \
         network of their host.";
    ECS_SECURITY_GROUPS = "ecs.security.groups", Instance, Kind::Text, "",
        "The security groups of workers that `dormouse scale` starts, separated by commas.";
    ECS_PUBLIC_IP = "ecs.public.ip", Instance, Kind::Flag, "true",
        "Whether those workers have public addresses, which they need in subnets without a NAT gateway.";
    TASK_MESSAGES = "task.messages", Instance, Kind::Count, "4",
        "How many messages, waiting or in hand, `dormouse scale` counts for one worker.";
    INGEST_MAX_TASKS = "ingest.max.concurrent.tasks", Instance, Kind::Count, "200",
        "The most workers of the queue `ingest` that `dormouse scale` has running.";
    EXPORT_MAX_TASKS = "bulk.export.max.concurrent.tasks", Instance, Kind::Count, "300",
        "As above, of the queue `export-leaf`.";
    COMPACTION_MAX_TASKS = "compaction.max.concurrent.tasks", Instance, Kind::Count, "300",
        "As above, of the queue `compaction`. Of the queues `export`, `splitting` and `commit` it has one each.";
    FILE_TARGET = "table.ingest.file.target.bytes", Table, Kind::Bytes, "8M",
        "Ingest puts the rows of consecutive leaves into one file until it holds so many bytes, as they are in \
         memory. Jobs with more than that for a leaf give it a file of its own.";
    TENANT = "table.tenant", Table, Kind::Text, "",
        "The tenant that a table belongs to. Queries over HTTP of other tenants do not see it.";
    SHARED = "table.shared", Table, Kind::Flag, "false",
        "Whether every tenant may read a table, or the rows of it that `table.shared.where` says.";
    SHARED_WHERE = "table.shared.where", Table, Kind::Predicate, "",
        "Which rows of a shared table other tenants see, such as `region = 'eu'` or `owner = $tenant`: a condition in \
         SQL on its columns, where `$tenant` is the id of the tenant that asks. None for all.";
    FILTERS = "table.filters", Table, Kind::Filters, "",
        "Which rows count, such as `ageOff(timestamp,86400000)`: rows whose time is so many milliseconds ago are \
         dropped by compactions, and left out of exports.";
    AGGREGATIONS = "table.aggregations", Table, Kind::Aggregations, "",
        "What compactions and exports make of rows with the same row key and sort key, such as \
         `sum(count),max(last)`: `sum`, `min` and `max` of numbers, `map_sum`, `map_min` and `map_max` of maps of \
         numbers, for every value column.";
    COMPACTION_STRATEGY = "table.compaction.strategy", Table, Kind::Word(&["size_ratio", "basic"]), "size_ratio",
        "Which files of a leaf are merged. `size_ratio`: those of about one size. `basic`: as many as a job takes, \
         the smallest first.";
    COMPACTION_RATIO = "table.compaction.strategy.sizeratio.ratio", Table, Kind::Count, "3",
        "With `size_ratio`, the rows of a job's files without the largest are at least so many times those of the \
         largest. A greater number merges later, and each row less often.";
    COMPACTION_FILES = "table.compaction.files.batch.size", Table, Kind::Count, "12",
        "The most files that one compaction merges.";
    SPLITTING_THRESHOLD = "table.partition.splitting.threshold", Table, Kind::Count, "1000000000",
        "A leaf with more rows is split.";
    COMMIT_MODE = "table.commit.mode", Table, Kind::Word(&["direct", "queued"]), "direct",
        "`direct`: workers append to the log themselves. `queued`: they send commits to the ordered queue \
         `commit`, and a committer appends what it receives.";
    HISTORY_RETENTION = "table.state.history.retention.hours", Table, Kind::Time, "168",
        "How long past states can be read.";
    SNAPSHOT_MIN_TRANSACTIONS = "table.statestore.snapshot.min.transactions", Table, Kind::Count, "100",
        "How many transactions since the last snapshot make a new one worth its while.";
    GC_DELAY = "table.gc.delay.minutes", Table, Kind::Time, "15",
        "How long a file stays after the last state that is kept refers to it.";
}

/// The reference page of all properties, as Markdown.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Properties\n\n\
         Set for an instance in `instance.properties`, in its data directory or on AWS in its config bucket, or in the \
         environment \
         (`dormouse.gc.period.minutes` is `DORMOUSE_GC_PERIOD_MINUTES`, and may be `SPECTRA_GC_PERIOD_MINUTES`), for a \
         table with \
         `dormouse table create --set KEY=VALUE`. A table property that is set for the instance is the default \
         of its tables. Every key may also be written with Sleeper's prefix, `sleeper.`.\n\n\
         Sizes take a suffix K, M, G or T; times may have a fraction.\n",
    );
    for (scope, title) in [(Scope::Instance, "Instance"), (Scope::Table, "Table")] {
        let _ = write!(
            page,
            "\n## {title}\n\n| Key | Default | What it does |\n|---|---|---|\n"
        );
        for property in PROPERTIES.iter().filter(|property| property.scope == scope) {
            let default = match property.default {
                "" => "none".to_owned(),
                default => format!("`{default}`"),
            };
            let _ = writeln!(
                page,
                "| `dormouse.{}` | {default} | {} |",
                property.name, property.doc
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed page is written anew when `DORMOUSE_UPDATE` is set: see `scripts/gen-reference`.
    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/properties.md");
        if std::env::var_os("DORMOUSE_UPDATE").is_some() {
            std::fs::write(path, reference_page()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            committed,
            reference_page(),
            "run scripts/gen-reference and commit {path}"
        );
    }
}
