//! Rows: everything that reads, sorts, merges and writes them.
//!
//! [`ParquetRowEngine`] is the port `RowEngine` on Parquet files in any object store, [`SqlEngine`] the port
//! `QueryEngine`. The row engine's
//! calls do their work on
//! threads of their own, never on the async runtime; they stop when their future is dropped. Rows move in columns
//! from end to end: what is sorted and merged is places of rows, and rows are gathered once, on their way out.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`options`] | memory, threads and the spill directory |
//! | `engine` | the port |
//! | `ingest`, `leaf_merge`, `sample`, `matching`, `verify` | the calls, step by step |
//! | [`arrow_schema`], `table`, `columns`, `texts`, `joined` | core types and Arrow's; arrays brought into one form |
//! | `input`, `footer`, `page_header`, `pages`, `thrift`, `varint`, `object_reader`, `pruning` | untrusted Parquet, read in bounded windows, without what no bound needs |
//! | `sort_key`, `cut`, `sort`, `merge` | the order of rows |
//! | `rules`, `predicate` | a table's filters and aggregations; what a SQL expression is true for |
//! | `buffers`, `spill` | rows in memory and on disk until they are written |
//! | `dictionary` | columns of few values as codes |
//! | `column_chunk`, `chunk_bytes`, `bounds` | column chunks of Parquet that are put together here |
//! | `dictionary_chunk`, `hybrid` | of codes |
//! | `delta_chunk`, `delta_reader`, `delta` | of values told by their neighbours, written and read |
//! | `digest` | the row digest, frozen |
//! | `writer`, `ordered_file`, `parquet_file`, `encodings`, `object_writer`, `meter` | Parquet out, with checksum and key range |
//! | [`sql`] | queries over tables, by DataFusion |
//! | [`generate`] | files to try things with |
//! | `testing` | rows of simulated tables as Parquet, with feature `testing` |
//! | `threads`, `cancel` | shared work, panics contained, work stopped |
//!
//! Invariants: every row read is written once, which count and digest prove before a call answers; files are
//! sorted and cut at leaves; damaged bytes end in an error that names the object, never in a panic; objects are
//! only ever added.

#![warn(missing_docs)]

pub mod arrow_schema;
pub mod generate;
pub mod options;
pub mod sql;
#[cfg(feature = "testing")]
pub mod testing;

mod bounds;
mod buffers;
mod cancel;
mod chunk_bytes;
mod column_chunk;
mod columns;
mod cut;
mod delta;
mod delta_chunk;
mod delta_reader;
mod dictionary;
mod dictionary_chunk;
mod digest;
mod encodings;
mod engine;
mod footer;
mod hybrid;
mod ingest;
mod input;
mod joined;
mod leaf_merge;
mod matching;
mod merge;
mod meter;
mod object_reader;
mod object_writer;
mod ordered_file;
mod page_header;
mod pages;
mod parquet_file;
mod predicate;
mod pruning;
mod rules;
mod sample;
mod sort;
mod sort_key;
mod spill;
mod table;
#[cfg(test)]
mod testing_chunks;
mod texts;
mod threads;
mod thrift;
mod varint;
mod verify;
mod writer;

pub use engine::ParquetRowEngine;
pub use options::{EngineOptions, FileLayout};
pub use sql::SqlEngine;
