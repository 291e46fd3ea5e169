//! The ports: what Dormouse needs from the world. To run on another cloud, implement these.
//!
//! Each contract is in the documentation of its trait, and in code as a conformance suite
//! (`testing::suites`, feature `testing`) that every adapter must pass. Objects go through the `object_store`
//! crate's own trait; [`Buckets`] opens them.

#![deny(missing_docs)]

pub mod buckets;
pub mod clock;
pub mod ids;
pub mod item_store;
pub mod metrics;
pub mod query_engine;
pub mod queue;
pub mod row_engine;
pub mod server_side_copy;
pub mod task_launcher;
pub mod url_signer;

pub use buckets::{AbandonedUploads, Bucket, Buckets, create_object};
pub use clock::{Clock, SystemClock};
pub use ids::{Ids, SystemIds};
pub use item_store::{Attributes, Condition, Item, ItemKey, ItemStore, Order, Range, Sort, Value, Write};
pub use metrics::{Metric, Metrics, NoMetrics};
pub use query_engine::{
    Compression, CsvFormat, EncodedRows, FileFormat, MAX_JOINS, MAX_MASKED_BYTES, MAX_SQL_BYTES,
    MAX_SUBQUERIES, PageCompression, ParameterValue, QueryEngine, QueryLimits, QueryOutput, QueryProgress,
    QueryRefusal, QueryRows, QuerySpec, QueryTables, ResultColumn, RowFormat, RowPolicy, TableSnapshot,
    Truncated, WrittenFile, WrittenQuery,
};
pub use queue::{Delivery, Message, Queue, QueueDepth, QueueName, QueueSettings, Receipt, StoredMessage};
pub use row_engine::{
    CompactionSpec, ExportSpec, ExportedFile, FaultKind, FileFault, IngestSpec, InputObject, KeySample,
    MatchSpec, MergeInput, Progress, RowEngine, SampleSpec, VerifySpec,
};
pub use server_side_copy::{CopyReceipt, ServerSideCopy};
pub use task_launcher::TaskLauncher;
pub use url_signer::{LinkMethod, UrlSigner};
