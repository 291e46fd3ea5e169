//! The row engine through its port, on Parquet in an in-memory store.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod cancellation;
mod codes;
mod compact;
mod damage;
mod database;
mod export;
mod fixture;
mod hostile;
mod ingest;
mod inputs;
mod outputs;
mod pieces;
mod properties;
mod purge;
mod queries;
mod rules;
mod sample;
mod spilling;
mod verify;
mod watched_objects;
