//! What the properties of an instance, and of a table, say.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    properties::{self as keys, PROPERTIES, Property, Scope},
    values::{bucket, bytes, check, checked, count, find, flag, list, text, time, value},
};
use crate::{
    error::{Error, Result},
    ids::BucketName,
    plan::compaction::Policy,
    ports::{MAX_JOINS, MAX_SUBQUERIES, QueryLimits, QueueName},
    predicate::Predicate,
    row_rules::RowRules,
};

/// How a table's commits reach its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// The worker appends.
    Direct,
    /// The worker sends the commit to the queue `commit`, and a committer appends.
    Queued,
}

/// The properties of an instance, checked.
#[derive(Clone, Debug, Default)]
pub struct InstanceSettings {
    values: BTreeMap<String, String>,
}

/// The properties of a table over those of its instance, checked.
#[derive(Clone, Debug)]
pub struct TableSettings {
    values: BTreeMap<String, String>,
}

/// The environment variables that set a property, the strongest first.
fn variables(property: &Property) -> Vec<String> {
    let name = property.name.replace('.', "_").to_uppercase();
    let mut variables = vec![format!("DORMOUSE_{name}"), format!("SPECTRA_{name}")];
    let more = [
        (keys::PRESIGNED_URL_EXPIRY, "SPECTRA_PRESIGNED_URL_EXPIRY"),
        (keys::QUERY_TIMEOUT, "SPECTRA_DEFAULT_TIMEOUT_SECONDS"),
        (keys::QUERY_MAX_TIMEOUT, "SPECTRA_MAX_TIMEOUT_SECONDS"),
        (keys::QUERY_MAX_JOINS, "SPECTRA_MAX_JOINS"),
        (keys::QUERY_MAX_SUBQUERIES, "SPECTRA_MAX_SUBQUERIES"),
    ];
    let more = more.iter().filter(|(other, _)| other.name == property.name);
    variables.extend(more.map(|(_, variable)| (*variable).to_owned()));
    variables
}

fn queue_property(queue: QueueName) -> &'static Property {
    match queue {
        QueueName::Ingest => &keys::INGEST_QUEUE_URL,
        QueueName::Export => &keys::EXPORT_QUEUE_URL,
        QueueName::ExportLeaf => &keys::EXPORT_LEAF_QUEUE_URL,
        QueueName::Compaction => &keys::COMPACTION_QUEUE_URL,
        QueueName::Splitting => &keys::SPLITTING_QUEUE_URL,
        QueueName::Commit => &keys::COMMIT_QUEUE_URL,
        QueueName::Query => &keys::QUERY_QUEUE_URL,
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $read:ident($property:ident) -> $type:ty;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> $type {
            $read(&self.values, &keys::$property)
        })*
    };
}

impl InstanceSettings {
    /// Reads properties text (`key=value` lines, `#` comments) and the environment, which wins.
    ///
    /// Environment variables that are not properties are passed over: others own names that begin alike.
    ///
    /// # Errors
    /// `Invalid`, naming the line or variable, what is wrong, and the nearest known key.
    pub fn read(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut pairs = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let Some((key, value)) = line.split_once(['=', ':']) else {
                return Err(Error::invalid(format!(
                    "line {} of instance.properties is \"{line}\"; it must be KEY=VALUE",
                    number + 1
                )));
            };
            let pair = [(key.trim().to_owned(), value.trim().to_owned())];
            checked(pair.clone(), None).map_err(|error| {
                error.context(format!("line {} of instance.properties is wrong", number + 1))
            })?;
            pairs.extend(pair);
        }
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        for property in PROPERTIES {
            // The later one wins.
            for variable in variables(property).iter().rev() {
                if let Some(value) = environment.get(variable) {
                    check(property, value.trim()).map_err(|error| {
                        error.context(format!("environment variable {variable} is wrong"))
                    })?;
                    pairs.push((property.name.to_owned(), value.clone()));
                }
            }
        }
        Ok(Self {
            values: checked(pairs, None)?,
        })
    }

    /// The properties that are not left to their defaults, by key without its prefix.
    pub fn given(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The settings of a table that has these properties of its own.
    ///
    /// # Errors
    /// `Invalid` as [`TableSettings::check`].
    pub fn for_table(&self, properties: &BTreeMap<String, String>) -> Result<TableSettings> {
        let mut values = self.values.clone();
        values.extend(checked(properties.clone(), Some(Scope::Table))?);
        Ok(TableSettings { values })
    }

    getters! {
        /// How long a received message stays hidden.
        queue_visibility: time(QUEUE_VISIBILITY) -> Duration;
        /// How long a stopping worker lets jobs finish.
        worker_drain: time(WORKER_DRAIN) -> Duration;
        /// How many bytes of rows a process holds.
        memory_bytes: bytes(MEMORY) -> u64;
        /// How often snapshots are looked after.
        snapshot_period: time(SNAPSHOT_PERIOD) -> Duration;
        /// How often garbage is collected.
        gc_period: time(GC_PERIOD) -> Duration;
        /// How old an orphan must be to be swept.
        orphan_age: time(GC_ORPHAN_AGE) -> Duration;
        /// How often the tracker is repaired.
        tracker_repair_period: time(TRACKER_REPAIR_PERIOD) -> Duration;
        /// How long the tracker keeps a job.
        job_status_ttl: time(JOB_STATUS_TTL) -> Duration;
        /// How long nobody hears of a job before it counts as lost.
        job_lost: time(JOB_LOST) -> Duration;
        /// How long an export may take.
        export_pin: time(EXPORT_PIN) -> Duration;
        /// How often files to merge are looked for.
        compaction_period: time(COMPACTION_PERIOD) -> Duration;
        /// How often leaves to split are looked for.
        splitting_period: time(SPLITTING_PERIOD) -> Duration;
        /// How long a worker on AWS stays without messages.
        task_max_idle: time(TASK_MAX_IDLE) -> Duration;
        /// How old a worker on AWS becomes.
        task_max_alive: time(TASK_MAX_ALIVE) -> Duration;
        /// By up to how much younger it ends.
        task_max_alive_jitter: time(TASK_MAX_ALIVE_JITTER) -> Duration;
        /// After how many days exports are removed; 0 for never.
        export_expiry_days: count(EXPORT_EXPIRY) -> u64;
        /// The CloudWatch namespace of metrics.
        metrics_namespace: text(METRICS_NAMESPACE) -> &str;
        /// The ECS cluster that workers are started in; empty for none.
        ecs_cluster: text(ECS_CLUSTER) -> &str;
        /// Whether workers that are started have public addresses.
        ecs_public_ip: flag(ECS_PUBLIC_IP) -> bool;
        /// How long the inputs of a compaction are kept from others.
        compaction_lease: time(COMPACTION_LEASE) -> Duration;
        /// The most rows that a query is answered with at once.
        result_rows: count(RESULT_SIZE_THRESHOLD) -> u64;
        /// The most bytes of rows that a query is answered with at once.
        result_bytes: bytes(RESULT_SIZE_BYTES) -> u64;
        /// How long a query may take that names no time.
        query_timeout: time(QUERY_TIMEOUT) -> Duration;
        /// The longest time that a query may name.
        query_max_timeout: time(QUERY_MAX_TIMEOUT) -> Duration;
        /// How many bytes of footers a process keeps for its queries.
        query_footer_bytes: bytes(QUERY_FOOTERS) -> u64;
        /// The largest upload, in units of 1048576 bytes.
        bulk_max_file_size_mb: count(BULK_MAX_FILE_SIZE) -> u64;
        /// How long a bulk job lives.
        bulk_job_timeout: time(BULK_JOB_TIMEOUT) -> Duration;
        /// How many bulk jobs of a tenant run at a time.
        bulk_max_concurrent_jobs: count(BULK_MAX_CONCURRENT_JOBS) -> u64;
        /// How long results stay.
        bulk_result_retention: time(BULK_RESULT_RETENTION) -> Duration;
        /// What results are below in the bucket of exports.
        bulk_results_prefix: text(BULK_RESULTS_PREFIX) -> &str;
        /// How often bulk jobs are looked after.
        bulk_sweep_period: time(BULK_SWEEP_PERIOD) -> Duration;
        /// How long a link to a result is good for.
        link_life: time(PRESIGNED_URL_EXPIRY) -> Duration;
        /// How long the answer to a request with an idempotency key is given again.
        idempotency_ttl: time(IDEMPOTENCY_TTL) -> Duration;
        /// Whether rates are limited.
        rate_limits: flag(RATE_LIMITS) -> bool;
        /// How many queries a tenant may ask in a minute.
        rate_queries: count(RATE_QUERIES) -> u64;
        /// How many bulk jobs a tenant may make in a minute.
        rate_bulk_create: count(RATE_BULK_CREATE) -> u64;
        /// How many other requests about bulk jobs a tenant may make in a minute.
        rate_bulk: count(RATE_BULK) -> u64;
        /// How many requests about jobs of all kinds a tenant may make in a minute.
        rate_jobs: count(RATE_JOBS) -> u64;
        /// What links to the API begin with; empty for the address that it listens on.
        api_url: text(API_URL) -> &str;
        /// The largest body of a request to the API.
        api_body_bytes: bytes(API_BODY_BYTES) -> u64;
    }

    /// Whether a bulk job that is started while as many run as may waits for its turn, or is refused.
    pub fn bulk_jobs_wait(&self) -> bool {
        value(&self.values, &keys::BULK_CONCURRENCY_POLICY) == "queue"
    }

    /// How many bulk jobs of a tenant may not have ended; at least one, and at most 1000.
    pub fn bulk_max_open_jobs(&self) -> u64 {
        count(&self.values, &keys::BULK_MAX_OPEN_JOBS).clamp(1, 1000)
    }

    /// How long a bulk job is known after it has ended.
    pub fn bulk_job_retention(&self) -> Duration {
        time(&self.values, &keys::BULK_JOB_RETENTION).max(self.bulk_result_retention())
    }

    /// What a query over HTTP may use, whatever it answers.
    pub fn query_limits(&self) -> QueryLimits {
        let most = |property| usize::try_from(count(&self.values, property)).unwrap_or(usize::MAX);
        QueryLimits {
            rows: None,
            bytes: None,
            memory_bytes: bytes(&self.values, &keys::QUERY_MEMORY),
            disk_bytes: bytes(&self.values, &keys::QUERY_DISK),
            joins: most(&keys::QUERY_MAX_JOINS).min(MAX_JOINS),
            subqueries: most(&keys::QUERY_MAX_SUBQUERIES).min(MAX_SUBQUERIES),
        }
    }

    /// How many queries a process answers at a time; at least one.
    pub fn query_concurrency(&self) -> usize {
        (count(&self.values, &keys::QUERY_CONCURRENCY) as usize).max(1)
    }

    /// How many bulk jobs a process runs at a time; at least one.
    pub fn bulk_concurrency(&self) -> usize {
        (count(&self.values, &keys::BULK_CONCURRENCY) as usize).max(1)
    }

    /// The bucket of table data; none when the instance's name tells it.
    ///
    /// # Errors
    /// `Invalid` when no bucket can have the name.
    pub fn data_bucket(&self) -> Result<Option<BucketName>> {
        bucket(&self.values, &keys::DATA_BUCKET)
    }

    /// The bucket of exports; none when the instance's name tells it.
    ///
    /// # Errors
    /// `Invalid` when no bucket can have the name.
    pub fn export_bucket(&self) -> Result<Option<BucketName>> {
        bucket(&self.values, &keys::EXPORT_BUCKET)
    }

    /// The URL of a queue; empty when the instance's name tells it.
    pub fn queue_url(&self, queue: QueueName) -> &str {
        text(&self.values, queue_property(queue))
    }

    /// The name of the property that holds the URL of a queue, without its prefix.
    pub fn queue_url_key(queue: QueueName) -> &'static str {
        queue_property(queue).name
    }

    /// How many workers of a queue may run at a time.
    pub fn max_tasks(&self, queue: QueueName) -> u64 {
        match queue {
            QueueName::Ingest => count(&self.values, &keys::INGEST_MAX_TASKS),
            QueueName::ExportLeaf => count(&self.values, &keys::EXPORT_MAX_TASKS),
            QueueName::Compaction => count(&self.values, &keys::COMPACTION_MAX_TASKS),
            QueueName::Export | QueueName::Splitting | QueueName::Commit | QueueName::Query => 1,
        }
    }

    /// How many messages are counted for one worker; at least one.
    pub fn task_messages(&self) -> u64 {
        count(&self.values, &keys::TASK_MESSAGES).max(1)
    }

    /// The subnets of workers that are started.
    pub fn subnets(&self) -> Vec<String> {
        list(&self.values, &keys::SUBNETS)
    }

    /// The security groups of workers that are started.
    pub fn ecs_security_groups(&self) -> Vec<String> {
        list(&self.values, &keys::ECS_SECURITY_GROUPS)
    }

    /// How often a message is delivered; at least once.
    pub fn queue_max_attempts(&self) -> u32 {
        u32::try_from(count(&self.values, &keys::QUEUE_MAX_ATTEMPTS))
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// How many ingest jobs a process runs at a time; at least one.
    pub fn ingest_concurrency(&self) -> usize {
        (count(&self.values, &keys::INGEST_CONCURRENCY) as usize).max(1)
    }

    /// How many leaves a process exports at a time; at least one.
    pub fn export_concurrency(&self) -> usize {
        (count(&self.values, &keys::EXPORT_CONCURRENCY) as usize).max(1)
    }

    /// How many compactions a process runs at a time; at least one.
    pub fn compaction_concurrency(&self) -> usize {
        (count(&self.values, &keys::COMPACTION_CONCURRENCY) as usize).max(1)
    }

    /// The most compactions of a table that one look makes.
    pub fn compaction_limit(&self) -> usize {
        count(&self.values, &keys::COMPACTION_LIMIT) as usize
    }

    /// How many threads a job computes on; none takes all cores.
    pub fn threads(&self) -> Option<usize> {
        Some(count(&self.values, &keys::THREADS) as usize).filter(|threads| *threads > 0)
    }

    /// Directories below which `file://` inputs may be read.
    pub fn ingest_directories(&self) -> Vec<PathBuf> {
        let directories = list(&self.values, &keys::INGEST_DIRECTORIES);
        directories.into_iter().map(PathBuf::from).collect()
    }
}

impl TableSettings {
    /// Checks the properties of a table.
    ///
    /// # Errors
    /// `Invalid`, naming the key, what is wrong, and the nearest known one.
    pub fn check(properties: &BTreeMap<String, String>) -> Result<()> {
        checked(properties.clone(), Some(Scope::Table)).map(|_| ())
    }

    /// The name of a table property, without its prefix.
    ///
    /// # Errors
    /// `Invalid` when there is none, with the nearest known one.
    pub fn name_of(key: &str) -> Result<&'static str> {
        find(key, Some(Scope::Table)).map(|property| property.name)
    }

    getters! {
        /// About how many bytes ingest puts into a file of several leaves.
        file_target_bytes: bytes(FILE_TARGET) -> u64;
        /// How long past states can be read.
        history_retention: time(HISTORY_RETENTION) -> Duration;
        /// How many rows a leaf may have.
        splitting_threshold: count(SPLITTING_THRESHOLD) -> u64;
        /// How many transactions make a new snapshot worth its while.
        snapshot_min_transactions: count(SNAPSHOT_MIN_TRANSACTIONS) -> u64;
        /// How long a file stays after the last state that is kept refers to it.
        gc_delay: time(GC_DELAY) -> Duration;
        /// The tenant that the table belongs to; empty for none.
        tenant: text(TENANT) -> &str;
        /// Whether every tenant may read the table.
        shared: flag(SHARED) -> bool;
    }

    /// Which files are merged.
    pub fn compaction_policy(&self) -> Policy {
        let files = count(&self.values, &keys::COMPACTION_FILES) as usize;
        match value(&self.values, &keys::COMPACTION_STRATEGY) {
            "basic" => Policy::Basic { files },
            _ => Policy::SizeRatio {
                ratio: count(&self.values, &keys::COMPACTION_RATIO),
                files,
            },
        }
    }

    /// Which rows of a shared table other tenants see; none for all.
    ///
    /// # Errors
    /// `Invalid` when it is no predicate.
    pub fn shared_where(&self) -> Result<Option<Predicate>> {
        match value(&self.values, &keys::SHARED_WHERE) {
            "" => Ok(None),
            text => Predicate::new(text).map(Some),
        }
    }

    /// Which rows count, and which become one.
    pub fn row_rules(&self) -> RowRules {
        let [filters, aggregations] =
            [&keys::FILTERS, &keys::AGGREGATIONS].map(|property| value(&self.values, property));
        RowRules::parse(filters, aggregations).unwrap_or_default()
    }

    /// How commits reach the log.
    pub fn commit_mode(&self) -> CommitMode {
        match value(&self.values, &keys::COMMIT_MODE) {
            "queued" => CommitMode::Queued,
            _ => CommitMode::Direct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeper_and_dormouse_prefixes_are_read_and_the_environment_wins() {
        let text = "# comment\nsleeper.gc.period.minutes=5\ndormouse.memory.bytes = 512M\n";
        let environment = [("DORMOUSE_MEMORY_BYTES".to_owned(), "1G".to_owned())];
        let settings = InstanceSettings::read(text, environment).unwrap();
        assert_eq!(settings.gc_period(), Duration::from_secs(300));
        assert_eq!(settings.memory_bytes(), 1 << 30);
    }

    #[test]
    fn names_of_the_bulk_api_are_read_from_the_environment() {
        let read = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            InstanceSettings::read("", pairs).unwrap()
        };
        let settings = read(&[
            ("SPECTRA_BULK_MAX_FILE_SIZE_MB", "10"),
            ("SPECTRA_BULK_JOB_TIMEOUT_HOURS", "2"),
            ("SPECTRA_PRESIGNED_URL_EXPIRY", "60"),
            ("SPECTRA_BULK_MAX_CONCURRENT_JOBS", "3"),
            ("SPECTRA_RESULT_SIZE_THRESHOLD", "500"),
            ("SPECTRA_DEFAULT_TIMEOUT_SECONDS", "7"),
            ("SPECTRA_MAX_TIMEOUT_SECONDS", "8"),
            ("SPECTRA_MAX_JOINS", "4"),
            ("SPECTRA_MAX_SUBQUERIES", "1000"),
        ]);
        assert_eq!(settings.query_limits().joins, 4);
        assert_eq!(settings.query_limits().subqueries, MAX_SUBQUERIES);
        assert_eq!(settings.bulk_max_file_size_mb(), 10);
        assert_eq!(settings.bulk_job_timeout(), Duration::from_secs(7200));
        assert_eq!(settings.link_life(), Duration::from_secs(60));
        assert_eq!(settings.bulk_max_concurrent_jobs(), 3);
        assert_eq!(settings.result_rows(), 500);
        assert_eq!(settings.query_timeout(), Duration::from_secs(7));
        assert_eq!(settings.query_max_timeout(), Duration::from_secs(8));
        let both = read(&[
            ("SPECTRA_PRESIGNED_URL_EXPIRY", "60"),
            ("SPECTRA_PRESIGNED_URL_EXPIRY_SECONDS", "70"),
            ("DORMOUSE_PRESIGNED_URL_EXPIRY_SECONDS", "80"),
        ]);
        assert_eq!(both.link_life(), Duration::from_secs(80));
    }

    fn instance(text: &str) -> InstanceSettings {
        InstanceSettings::read(text, []).unwrap()
    }

    fn of_table(text: &str) -> TableSettings {
        instance(text).for_table(&BTreeMap::new()).unwrap()
    }

    #[test]
    fn what_is_not_set_is_as_documented() {
        let settings = InstanceSettings::default();
        assert_eq!(settings.queue_max_attempts(), 5);
        assert_eq!(settings.ingest_concurrency(), 2);
        assert_eq!(settings.export_concurrency(), 2);
        assert_eq!(settings.compaction_concurrency(), 1);
        assert_eq!(settings.compaction_limit(), 100_000);
        assert_eq!(settings.threads(), None);
        assert_eq!(settings.ingest_directories(), [PathBuf::from("/")]);
        let table = of_table("");
        let policy = Policy::SizeRatio { ratio: 3, files: 12 };
        assert_eq!(table.compaction_policy(), policy);
        assert_eq!(table.commit_mode(), CommitMode::Direct);
        assert_eq!(table.row_rules(), RowRules::default());
    }

    #[test]
    fn what_is_set_is_read() {
        let settings = instance(
            "! another kind of comment\n\n queue.max.attempts : 7 \ningest.concurrency=8\nexport.concurrency=9\n\
             compaction.concurrency=10\ncompaction.job.creation.limit=11\nthreads=12\n\
             ingest.file.directories=/a, /b/c\n",
        );
        assert_eq!(settings.queue_max_attempts(), 7);
        assert_eq!(settings.ingest_concurrency(), 8);
        assert_eq!(settings.export_concurrency(), 9);
        assert_eq!(settings.compaction_concurrency(), 10);
        assert_eq!(settings.compaction_limit(), 11);
        assert_eq!(settings.threads(), Some(12));
        assert_eq!(settings.ingest_directories(), ["/a", "/b/c"].map(PathBuf::from));
        assert_eq!(
            instance("ingest.file.directories=").ingest_directories(),
            Vec::<PathBuf>::new()
        );

        let table = of_table(
            "table.compaction.files.batch.size=5\ntable.compaction.strategy.sizeratio.ratio=4\n\
             table.commit.mode=queued\ntable.filters=ageOff(at,1000)\ntable.aggregations=sum(n)",
        );
        assert_eq!(
            table.compaction_policy(),
            Policy::SizeRatio { ratio: 4, files: 5 }
        );
        assert_eq!(table.commit_mode(), CommitMode::Queued);
        assert_eq!(
            table.row_rules(),
            RowRules::parse("ageOff(at,1000)", "sum(n)").unwrap()
        );
        let basic = of_table("table.compaction.strategy=basic");
        assert_eq!(basic.compaction_policy(), Policy::Basic { files: 12 });
    }

    #[test]
    fn there_is_always_one_attempt_and_one_worker() {
        let settings = instance(
            "queue.max.attempts=0\ningest.concurrency=0\nexport.concurrency=0\ncompaction.concurrency=0\n",
        );
        assert_eq!(settings.queue_max_attempts(), 1);
        assert_eq!(settings.ingest_concurrency(), 1);
        assert_eq!(settings.export_concurrency(), 1);
        assert_eq!(settings.compaction_concurrency(), 1);
        assert_eq!(
            instance("queue.max.attempts=5000000000").queue_max_attempts(),
            u32::MAX
        );
    }

    #[test]
    fn sizes_and_times_have_units() {
        for (size, bytes) in [
            ("7", 7),
            ("7K", 7 << 10),
            ("7k", 7 << 10),
            ("7M", 7 << 20),
            ("7g", 7 << 30),
            ("7T", 7 << 40),
        ] {
            assert_eq!(
                instance(&format!("memory.bytes={size}")).memory_bytes(),
                bytes,
                "{size}"
            );
        }
        let settings = instance(
            "worker.drain.seconds=2.5\ngc.period.minutes=2\ngc.orphan.age.hours=1.5\njob.status.ttl.days=2",
        );
        assert_eq!(settings.worker_drain(), Duration::from_millis(2500));
        assert_eq!(settings.gc_period(), Duration::from_secs(120));
        assert_eq!(settings.orphan_age(), Duration::from_secs(5400));
        assert_eq!(settings.job_status_ttl(), Duration::from_secs(2 * 86400));
    }

    #[test]
    fn values_that_a_property_does_not_take_are_refused() {
        for (line, told) in [
            ("threads=1.5", "must be a whole number"),
            ("threads=-1", "must be a whole number"),
            ("memory.bytes=", "must be a number of bytes"),
            ("memory.bytes=K", "must be a number of bytes"),
            ("memory.bytes=99999999T", "must be a number of bytes"),
            ("worker.drain.seconds=-1", "must be a number that is not negative"),
            (
                "worker.drain.seconds=inf",
                "must be a number that is not negative",
            ),
            (
                "worker.drain.seconds=1e12",
                "must be a number that is not negative",
            ),
            (
                "queue.visibility.timeout.seconds=0.09",
                "must be a number that makes at least 0.1",
            ),
            (
                "table.compaction.strategy=none",
                "must be one of size_ratio, basic",
            ),
            ("ingest.file.directories=/a,b", "must be absolute paths"),
            (
                "table.filters=older(at,1)",
                "property \"dormouse.table.filters\" is wrong: a filter is",
            ),
            (
                "table.aggregations=avg(n)",
                "property \"dormouse.table.aggregations\" is wrong: there is no",
            ),
            ("threads", "it must be KEY=VALUE"),
        ] {
            let error = InstanceSettings::read(&format!("\n# comment\n{line}"), []).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            let report = error.report();
            assert!(
                report.contains("line 3 of instance.properties") && report.contains(told),
                "{line}: {report}"
            );
        }
        for line in [
            "queue.visibility.timeout.seconds=0.1",
            "worker.drain.seconds=0",
            "worker.drain.seconds=9e11",
        ] {
            InstanceSettings::read(line, []).unwrap();
        }
    }

    #[test]
    fn variables_of_the_environment_are_checked_when_they_are_properties() {
        let read = |variable: &str, value: &str| {
            InstanceSettings::read("", [(variable.to_owned(), value.to_owned())])
        };
        read("DORMOUSE_CACHE", "/tmp").unwrap();
        assert_eq!(read("DORMOUSE_THREADS", " 3 ").unwrap().threads(), Some(3));
        let error = read("DORMOUSE_THREADS", "many").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("environment variable DORMOUSE_THREADS is wrong"),
            "{error}"
        );
    }

    #[test]
    fn a_table_takes_the_properties_of_tables_alone() {
        let of_instance = BTreeMap::from([("gc.period.minutes".to_owned(), "5".to_owned())]);
        for error in [
            TableSettings::check(&of_instance).unwrap_err(),
            InstanceSettings::default().for_table(&of_instance).unwrap_err(),
        ] {
            assert_eq!(
                error.to_string(),
                "there is no table property \"gc.period.minutes\"; the nearest is \"dormouse.table.gc.delay.minutes\""
            );
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
        let error = InstanceSettings::read("\ndormouse.gc.perid.minutes=5", []).unwrap_err();
        let report = error.report();
        assert!(
            report.contains("line 2") && report.contains("dormouse.gc.period.minutes"),
            "{report}"
        );
    }

    #[test]
    fn a_malformed_value_is_refused_with_what_would_be_right() {
        let error = InstanceSettings::read("dormouse.memory.bytes=lots", []).unwrap_err();
        assert!(error.report().contains("such as 512M"), "{}", error.report());
        let properties = BTreeMap::from([("table.commit.mode".to_owned(), "later".to_owned())]);
        let error = TableSettings::check(&properties).unwrap_err();
        assert!(error.to_string().contains("direct, queued"), "{error}");
    }

    #[test]
    fn a_period_of_nothing_is_refused() {
        let error = InstanceSettings::read("dormouse.gc.period.minutes=0", []).unwrap_err();
        assert!(
            error.report().contains("at least 0.1 seconds"),
            "{}",
            error.report()
        );
        assert!(InstanceSettings::read("dormouse.gc.period.minutes=0.01", []).is_ok());
    }

    #[test]
    fn every_default_is_a_value_that_its_property_takes() {
        for property in PROPERTIES {
            check(property, property.default).unwrap();
        }
    }

    #[test]
    fn table_properties_win_over_the_instance() {
        let instance = InstanceSettings::read("table.gc.delay.minutes=30", []).unwrap();
        let own = BTreeMap::from([("dormouse.table.gc.delay.minutes".to_owned(), "0.5".to_owned())]);
        assert_eq!(
            instance.for_table(&own).unwrap().gc_delay(),
            Duration::from_secs(30)
        );
        assert_eq!(
            instance.for_table(&BTreeMap::new()).unwrap().gc_delay(),
            Duration::from_secs(1800)
        );
    }
}
