//! Every command and option.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use dormouse_core::{
    ids::{BucketName, ExportId, JobId, TableName},
    ports::QueueName,
    predicate::Predicate,
    tenants::{Scope, TenantId},
    time::Timestamp,
    tracker::{JobKind, JobStatus},
};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 internal error or failed job, 2 wrong request or rejected job, \
                          3 not found, 4 exists already or conflict, 5 unavailable, 6 damaged data.";

/// Key-sorted, range-partitioned tables as Parquet, fed and read by queue messages, exactly once.
#[derive(Debug, Parser)]
#[command(name = "dormouse", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The data directory: queue, tracker, state and objects.
    #[arg(
        long,
        global = true,
        env = "DORMOUSE_DATA",
        default_value = "./dormouse-data",
        value_name = "DIR"
    )]
    pub(crate) data: PathBuf,

    /// An instance on AWS, by its id, instead of a data directory. Credentials, region and endpoints come from the
    /// environment or a profile, as the AWS CLI has them.
    #[arg(
        long,
        global = true,
        env = "DORMOUSE_INSTANCE",
        value_name = "ID",
        help_heading = "AWS"
    )]
    pub(crate) instance: Option<String>,

    /// The bucket that holds instance.properties, instead of dormouse-ID-config-ACCOUNT.
    #[arg(
        long,
        global = true,
        env = "DORMOUSE_CONFIG_BUCKET",
        value_name = "BUCKET",
        help_heading = "AWS"
    )]
    pub(crate) config_bucket: Option<BucketName>,

    /// A file of properties to read instead of that object.
    #[arg(
        long = "properties",
        global = true,
        env = "DORMOUSE_PROPERTIES",
        value_name = "FILE",
        help_heading = "AWS"
    )]
    pub(crate) properties_file: Option<PathBuf>,

    /// How reports are printed.
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub(crate) format: Format,

    /// How logs are printed on standard error. What is logged: DORMOUSE_LOG, such as debug or dormouse_jobs=debug.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "DORMOUSE_LOG_FORMAT"
    )]
    pub(crate) log_format: LogFormat,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes, lists and changes tables.
    #[command(subcommand)]
    Table(TableCommand),
    /// Lists a table's partitions.
    Partitions(PartitionsArgs),
    /// Lists a table's data files.
    Files(FilesArgs),
    /// Sends an ingest job: all rows of some Parquet files, once.
    #[command(after_help = "Examples:\n  \
        dormouse ingest events day1.parquet day2.parquet --wait\n  \
        dormouse ingest events s3://source/2026-11-20/ --id events-2026-11-20\n\n\
        The same id is ingested once, however often it is sent.")]
    Ingest(IngestArgs),
    /// Sends an export job: the whole table as it is now, one file a leaf.
    #[command(after_help = "Examples:\n  \
        dormouse export events --wait\n  \
        dormouse export events --id nightly-2026-11-20 --as-of 2026-11-20T00:00:00Z")]
    Export(ExportArgs),
    /// Asks a SQL query of tables as they are now, or were.
    #[command(after_help = "Examples:\n  \
        dormouse query 'SELECT count(*) FROM events'\n  \
        dormouse query 'SELECT key, max(seen) FROM events GROUP BY key' --output csv > newest.csv\n  \
        dormouse query 'SELECT * FROM events WHERE key = $key' --param key=alice --as-of 2026-11-20T09:30:00Z\n  \
        dormouse query 'EXPLAIN SELECT * FROM events WHERE key = 5'\n\n\
        Names are written as tables and columns have them; those with other characters than letters, digits and _\n\
        in \"quotes\".")]
    Query(QueryArgs),
    /// Answers SQL as it is typed, with history and completion.
    #[command(after_help = "Examples:\n  \
        dormouse shell\n  \
        dormouse shell --as-of 2026-11-20T09:30:00Z\n\n\
        A statement ends with ; and \\? shows what else there is.")]
    Shell(RowsArgs),
    /// Finds rows by their keys.
    #[command(after_help = "Examples:\n  \
        dormouse get events alice\n  \
        dormouse get events '[\"alice\", 5]' '[\"bob\", 7]'\n  \
        dormouse get events --range a b\n\n\
        A key is text for a single column, or a JSON array of values; fewer values than the row key has columns mean\n\
        all keys that begin with them.")]
    Get(GetArgs),
    /// Merges files of a table's leaves now, as its compaction strategy has it.
    #[command(after_help = "Examples:\n  \
        dormouse compact events --wait\n  \
        dormouse compact events --all --wait")]
    Compact(CompactArgs),
    /// Removes rows for good: those of a table, as it is now, that a SQL predicate is true for.
    #[command(after_help = "Examples:\n  \
        dormouse purge events --where \"key = 'customer-17'\"\n  \
        dormouse purge events --where \"seen < TIMESTAMP '2026-01-01 00:00:00'\" --yes\n  \
        dormouse purge events --where \"key LIKE 'test-%'\" --dry-run\n\n\
        Only files that may hold such rows, by their statistics, are written anew, by jobs of kind compaction; the\n\
        command follows them to their end. Past states keep the rows as long as the table keeps its history.")]
    Purge(PurgeArgs),
    /// Shows how a table is doing: its size and shape, what waits, and what became of its jobs.
    #[command(after_help = "Examples:\n  \
        dormouse status events\n  \
        dormouse status events --format json")]
    Status(StatusArgs),
    /// Splits the leaves now that have more rows than the table's threshold.
    #[command(after_help = "Examples:\n  \
        dormouse split events\n  \
        dormouse partitions events")]
    Split(SplitArgs),
    /// Shows what became of jobs.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Sends messages, and looks after queues and their dead letters.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Works on queues and schedules until it is stopped. On AWS it ends by itself when it finds nothing to do, and
    /// at an age, as the properties have it.
    #[command(after_help = "Examples:\n  \
        dormouse worker ingest export-splitter export\n  \
        dormouse worker compaction --max-idle-seconds 120 --instance prod\n  \
        dormouse worker snapshots gc repair --once --instance prod")]
    Worker(WorkerArgs),
    /// Starts workers for the messages that wait, where there are too few. On AWS.
    #[command(after_help = "Example:\n  dormouse scale --dry-run --instance prod")]
    Scale(ScaleArgs),
    /// Makes and checks the parts of an instance on AWS.
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Makes links to the files of an export, which need no credentials. On AWS.
    #[command(after_help = "Example:\n  dormouse links nightly-2026-11-20 --hours 12 --instance prod")]
    Links(LinksArgs),
    /// Runs every worker and schedule, and the HTTP API, in one process, until it is stopped.
    #[command(after_help = "Examples:\n  \
        dormouse serve\n  \
        dormouse serve --listen 0.0.0.0:8440\n\n\
        The API tells of itself at /docs.")]
    Serve(ServeArgs),
    /// Serves the HTTP API alone, until it is stopped.
    #[command(after_help = "Example:\n  dormouse api --listen 0.0.0.0:8440 --instance prod")]
    Api(ApiArgs),
    /// Makes, lists and deletes tenants, who ask over HTTP.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Makes, lists, rotates and revokes the keys that tenants ask with.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Collects garbage now: files that no state that is kept refers to, and old orphans.
    #[command(after_help = "Example:\n  dormouse gc --orphan-age-hours 1")]
    Gc(GcArgs),
    /// Checks everything that is stored of a table, and says what is wrong and what to do. Changes nothing; safe
    /// beside running workers.
    #[command(after_help = "Examples:\n  \
        dormouse doctor events --deep\n  \
        dormouse doctor --all --format json\n\n\
        Ends with exit code 6 when something is wrong.")]
    Doctor(DoctorArgs),
    /// Lists every property with its default and what it does.
    Properties,
    /// Makes Parquet files to try things with.
    #[command(
        after_help = "Example:\n  dormouse generate lineitem --scale 0.1 --files 4 --output ./lineitem"
    )]
    Generate(GenerateArgs),
    /// Shows the main job on real input: makes TPC-H lineitem, ingests it through the queue into eight leaves, and
    /// exports it through the queue.
    Demo(DemoArgs),
}

impl Command {
    /// Whether the command runs until it is stopped, and its logs are of interest.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Api(_) | Self::Worker(_))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// Makes a table.
    #[command(after_help = "Examples:\n  \
        dormouse table create events --schema schema.json --split-points points.txt\n  \
        dormouse table create events --from-parquet day1.parquet --row-key key --sort-key timestamp\n\n\
        A schema file is Sleeper's JSON: {\"rowKeyFields\":[{\"name\":\"key\",\"type\":\"StringType\"}], \
        \"sortKeyFields\":[], \"valueFields\":[…]}.\n\
        A split points file has a line for each point: the first key of a leaf, as text for a single column \
        (mmmm), or as a JSON array of values ([\"mmmm\", 5]).")]
    Create(TableCreateArgs),
    /// Lists tables.
    List,
    /// Shows a table: its columns, leaves, files, rows and properties.
    Describe { table: TableName },
    /// Sets properties of a table; a property without a value is the instance's again.
    #[command(after_help = "Examples:\n  \
        dormouse table set events dormouse.table.shared=true\n  \
        dormouse table set events dormouse.table.shared=")]
    Set {
        table: TableName,
        /// A property of the table and its value.
        #[arg(required = true, value_name = "KEY=VALUE")]
        properties: Vec<String>,
    },
    /// Deletes a table and, with the next garbage collections, its objects.
    Delete {
        table: TableName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Makes a past state of a table current; `--as-of` the transaction before brings back what was there.
    #[command(after_help = "Example:\n  dormouse table restore events --as-of 2026-11-20T09:30:00Z")]
    Restore {
        table: TableName,
        /// The table as it was: a transaction number or a time such as 2026-11-20T09:30:00Z.
        #[arg(long, value_name = "STATE")]
        as_of: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Makes a table from a complete export: its columns, its rows, a leaf for each of its files.
    #[command(after_help = "Examples:\n  \
        dormouse table import-export events-copy ./export/85866a2a/nightly\n  \
        dormouse table import-export events-copy s3://bucket/85866a2a/nightly")]
    ImportExport {
        /// The new table's name.
        table: TableName,
        /// The export: a directory, or bucket/prefix, s3://bucket/prefix.
        export: String,
        /// A property of the table, such as dormouse.table.gc.delay.minutes=5.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        properties: Vec<String>,
    },
    /// Gives a table another name.
    Rename { table: TableName, to: TableName },
    /// Lets schedules work on a table again.
    Online { table: TableName },
    /// Keeps schedules from working on a table.
    Offline { table: TableName },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TableCreateArgs {
    /// The table's name.
    pub(crate) name: TableName,
    /// A schema in Sleeper's JSON form.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "from_parquet",
        conflicts_with = "from_parquet"
    )]
    pub(crate) schema: Option<PathBuf>,
    /// A Parquet file whose columns the table gets.
    #[arg(long, value_name = "FILE", requires = "row_key")]
    pub(crate) from_parquet: Option<PathBuf>,
    /// The row key columns of the Parquet file.
    #[arg(
        long,
        value_name = "COLUMNS",
        value_delimiter = ',',
        conflicts_with = "schema"
    )]
    pub(crate) row_key: Vec<String>,
    /// The sort key columns of the Parquet file.
    #[arg(
        long,
        value_name = "COLUMNS",
        value_delimiter = ',',
        conflicts_with = "schema"
    )]
    pub(crate) sort_key: Vec<String>,
    /// A file of split points, one a line: the table begins with a leaf more than there are.
    #[arg(long, value_name = "FILE")]
    pub(crate) split_points: Option<PathBuf>,
    /// A property of the table, such as dormouse.table.gc.delay.minutes=5.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) properties: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PartitionsArgs {
    pub(crate) table: TableName,
    /// Also partitions that were split.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FilesArgs {
    pub(crate) table: TableName,
    /// The table as it was: a transaction number or a time such as 2026-11-20T09:30:00Z.
    #[arg(long, value_name = "STATE")]
    pub(crate) as_of: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct IngestArgs {
    pub(crate) table: TableName,
    /// Parquet files of this machine, or bucket/key, s3://bucket/key; a prefix means all *.parquet below it.
    #[arg(required = true)]
    pub(crate) files: Vec<String>,
    /// The job's id.
    #[arg(long)]
    pub(crate) id: Option<JobId>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    pub(crate) table: TableName,
    /// The export's id: the last part of its prefix.
    #[arg(long)]
    pub(crate) id: Option<ExportId>,
    /// The table as it was: a transaction number or a time such as 2026-11-20T09:30:00Z.
    #[arg(long, value_name = "STATE")]
    pub(crate) as_of: Option<String>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueryOutput {
    /// For people; up to 10,000 rows.
    Table,
    /// With a header.
    Csv,
    /// An array of objects.
    Json,
    /// An object a line.
    Ndjson,
    /// An Arrow IPC stream.
    Arrow,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QueryArgs {
    /// One SELECT, with or without WITH, or an EXPLAIN of one; - reads it from standard input.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) sql: Option<String>,
    /// A file that holds the query.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// What stands for $NAME in the query: a number, true, false, null, or else text.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
}

/// Which rows are printed, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct RowsArgs {
    /// As of a transaction number, or of a time such as 2026-11-20T09:30:00Z; as of now without.
    #[arg(long, value_name = "STATE")]
    pub(crate) as_of: Option<String>,
    /// The most rows to print.
    #[arg(long, value_name = "ROWS")]
    pub(crate) limit: Option<u64>,
    /// How rows are printed; as --format has it without.
    #[arg(long, value_enum)]
    pub(crate) output: Option<QueryOutput>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GetArgs {
    pub(crate) table: TableName,
    /// The keys.
    #[arg(
        required_unless_present = "range",
        conflicts_with = "range",
        value_name = "KEY"
    )]
    pub(crate) keys: Vec<String>,
    /// All keys from one on, up to another and without it.
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
    pub(crate) range: Vec<String>,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompactArgs {
    pub(crate) table: TableName,
    /// All files of each leaf into one, whatever the strategy.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PurgeArgs {
    pub(crate) table: TableName,
    /// Which rows: a SQL expression over the table's columns. Rows that it is false or unknown for stay.
    #[arg(long = "where", value_name = "PREDICATE")]
    pub(crate) predicate: Predicate,
    /// Only list the files that may hold such rows.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Leave the work to `dormouse serve` or workers, and follow it.
    #[arg(long)]
    pub(crate) no_work: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    pub(crate) table: TableName,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SplitArgs {
    pub(crate) table: TableName,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct WaitArgs {
    /// Follow what was sent to its end, work on its queues too, and end with its outcome as exit code.
    #[arg(long)]
    pub(crate) wait: bool,
    /// With --wait: leave the work to `dormouse serve` or workers.
    #[arg(long, requires = "wait")]
    pub(crate) no_work: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Lists jobs, the newest first.
    #[command(
        after_help = "Example:\n  dormouse jobs list --table events --status FAILED --since 2026-11-20T00:00:00Z"
    )]
    List(JobsListArgs),
    /// Shows everything that is known of a job.
    Show {
        /// The job's id, or the export's.
        id: JobId,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct JobsListArgs {
    /// Of this table.
    #[arg(long)]
    pub(crate) table: Option<TableName>,
    /// With this status, such as FINISHED.
    #[arg(long)]
    pub(crate) status: Option<JobStatus>,
    /// Of this kind: ingest, export or compaction.
    #[arg(long)]
    pub(crate) kind: Option<JobKind>,
    /// First heard of at or after this time.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Timestamp>,
    /// First heard of before this time.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Timestamp>,
    /// How many.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Sends a message, and prints its id.
    #[command(after_help = "Examples:\n  \
        dormouse queue send ingest '{\"id\":\"job-1\",\"tableName\":\"events\",\"files\":[\"file:///data/day1.parquet\"]}'\n  \
        dormouse queue send export '{\"tableName\":\"events\",\"exportId\":\"nightly-2026-11-20\"}'\n  \
        jq -c . job.json | dormouse queue send ingest -")]
    Send {
        queue: QueueName,
        /// The text, exactly as it would be sent to SQS; - reads it from standard input.
        body: String,
    },
    /// Shows how many messages each queue holds.
    List,
    /// Shows messages without receiving them.
    Peek {
        queue: QueueName,
        #[arg(long, default_value_t = 10)]
        limit: usize,
    },
    /// Shows messages that were given up.
    DeadLetters {
        queue: QueueName,
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Moves dead letters back to be tried again.
    Retry {
        queue: QueueName,
        /// Ids of messages; all without any.
        ids: Vec<String>,
    },
}

/// A worker of a queue, or a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WorkerKind {
    /// Queue ingest: adds rows.
    Ingest,
    /// Queue export: plans exports.
    ExportSplitter,
    /// Queue export-leaf: writes exports.
    Export,
    /// Queue compaction: merges files.
    Compaction,
    /// Queue splitting: splits leaves.
    Splitter,
    /// Queue commit: appends queued commits.
    Committer,
    /// Queue query: runs bulk jobs.
    Query,
    /// Schedule: looks for files to merge.
    CompactionPlanner,
    /// Schedule: looks for leaves to split.
    SplitFinder,
    /// Schedule: snapshots, and cutting logs.
    Snapshots,
    /// Schedule: garbage collection.
    Gc,
    /// Schedule: repair of the tracker.
    Repair,
    /// Schedule: bulk jobs that have lost their worker, or are too old.
    BulkSweep,
}

/// The address that the API listens on when none is named.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8440";

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// The address that the API listens on; 127.0.0.1:8440 if it is free.
    #[arg(long, env = "DORMOUSE_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Run without the API.
    #[arg(long, conflicts_with = "listen")]
    pub(crate) no_api: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ApiArgs {
    /// The address to listen on.
    #[arg(long, env = "DORMOUSE_LISTEN", default_value = DEFAULT_LISTEN, value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Makes a tenant. As soon as there is one, the API answers only those who have a key.
    #[command(after_help = "Examples:\n  \
        dormouse tenant create acme\n  \
        dormouse key create acme --name nightly\n  \
        dormouse table create orders --schema orders.json --set dormouse.table.tenant=acme\n\n\
        A tenant reads the tables whose property table.tenant names it, and those with table.shared=true, of these the rows \
        that table.shared.where says.")]
    Create {
        /// Lower-case letters, digits and '-'.
        tenant: TenantId,
    },
    /// Lists all tenants.
    List,
    /// Opens the API, when there is no tenant any more, to whoever reaches it. It stays closed without that.
    Open {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Deletes a tenant, its keys, and its jobs with their results. Its tables stay, and are nobody's over HTTP until
    /// their property table.tenant names another, or a tenant is made anew with this id.
    Delete {
        tenant: TenantId,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a key, and prints it: this once, as only its hash is kept.
    #[command(after_help = "Examples:\n  \
        dormouse key create acme --name nightly\n  \
        dormouse key create acme --scope query:execute --days 30")]
    Create {
        tenant: TenantId,
        /// What to call it.
        #[arg(long, default_value = "")]
        name: String,
        /// What it may be used for: query:execute, bulk:create, bulk:read, bulk:cancel, admin:*. The first four
        /// without any.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// After how many days it is no good any more; never without it.
        #[arg(long)]
        days: Option<u32>,
    },
    /// Makes a key like this one, and prints it; the old one is good for some time more.
    #[command(after_help = "Example:\n  dormouse key rotate acme 0f3a5c7e9b1d --overlap-hours 48")]
    Rotate {
        tenant: TenantId,
        /// The old key's id.
        key: String,
        /// How long the old key is good for.
        #[arg(long, default_value_t = 24)]
        overlap_hours: u32,
    },
    /// Makes a key no good from now on.
    Revoke {
        tenant: TenantId,
        /// The key's id.
        key: String,
    },
    /// Lists a tenant's keys.
    List { tenant: TenantId },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WorkerArgs {
    /// What to work on.
    #[arg(required = true, value_enum)]
    pub(crate) kinds: Vec<WorkerKind>,
    /// End when no queue had a message for so long, instead of the property.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) max_idle_seconds: Option<f64>,
    /// Take no more messages from this age on, finish what is in hand, and end, instead of the property.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) max_age_minutes: Option<f64>,
    /// Handle the messages that wait now, let each schedule have one turn, and end.
    #[arg(long, conflicts_with_all = ["max_idle_seconds", "max_age_minutes"])]
    pub(crate) once: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ScaleArgs {
    /// Only say what would be started.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Makes the buckets, tables and queues that are not there, for development and tests. In production the
    /// deployment makes them.
    #[command(after_help = "Example:\n  dormouse instance init --instance dev")]
    Init,
    /// Checks that every part is there, can be reached and is set right, and says what to do. Changes nothing.
    #[command(after_help = "Example:\n  dormouse instance check --instance prod\n\n\
        Ends with exit code 2 when something is wrong.")]
    Check,
    /// Prints a policy of IAM: the least that workers and schedules of these kinds need. Changes nothing.
    #[command(after_help = "Examples:\n  \
        dormouse instance policy ingest --input-bucket my-landing --instance prod\n  \
        dormouse instance policy export-splitter export --instance prod\n  \
        dormouse instance policy --api --instance prod")]
    Policy(PolicyArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PolicyArgs {
    #[arg(value_name = "KIND", required_unless_present = "api")]
    pub(crate) kinds: Vec<WorkerKind>,
    /// What `dormouse api` needs, too.
    #[arg(long)]
    pub(crate) api: bool,
    /// A bucket that ingest jobs find their files in.
    #[arg(long, value_name = "BUCKET")]
    pub(crate) input_bucket: Vec<BucketName>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LinksArgs {
    /// The export's id.
    pub(crate) export: ExportId,
    /// How long the links are good for; at most 168.
    #[arg(long, default_value_t = 24.0)]
    pub(crate) hours: f64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GcArgs {
    /// Collect files that nothing has referred to for so long, instead of each table's property.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) delay_minutes: Option<f64>,
    /// Sweep orphans of this age, instead of the property. Running jobs whose files are swept start again.
    #[arg(long, value_name = "HOURS")]
    pub(crate) orphan_age_hours: Option<f64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) table: Option<TableName>,
    /// Every table.
    #[arg(long)]
    pub(crate) all: bool,
    /// Also read every byte and row of every live file and finished export.
    #[arg(long)]
    pub(crate) deep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dataset {
    /// Sleeper's standard row: a random 10-letter key, a random timestamp, a random 10-letter value.
    Sleeper,
    /// TPC-H lineitem.
    Lineitem,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GenerateArgs {
    #[arg(value_enum)]
    pub(crate) dataset: Dataset,
    /// The directory to write to.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// How many files.
    #[arg(long, default_value_t = 4)]
    pub(crate) files: u32,
    /// sleeper: how many rows in all.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) rows: u64,
    /// sleeper: how many letters a value has; a standard row has 10.
    #[arg(long, value_name = "LETTERS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) value_letters: u16,
    /// sleeper: the seed of the random rows.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// lineitem: the scale factor; 1 is six million rows.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) scale: f64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// The scale factor of TPC-H; 1 is six million rows.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) scale: f64,
}
