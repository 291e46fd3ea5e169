//! Tests of the core crate as its users see it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "core/bulk.rs"]
mod bulk;
#[path = "core/compaction_plan.rs"]
mod compaction_plan;
#[path = "core/export_plan.rs"]
mod export_plan;
#[path = "core/faulty_items.rs"]
mod faulty_items;
#[path = "core/faulty_objects.rs"]
mod faulty_objects;
#[path = "core/garbage_plan.rs"]
mod garbage_plan;
#[path = "core/invariants.rs"]
mod invariants;
#[path = "core/ports.rs"]
mod ports;
#[path = "core/samples.rs"]
mod samples;
#[path = "core/split_plan.rs"]
mod split_plan;
#[path = "core/state_fixtures.rs"]
mod state_fixtures;
#[path = "core/state_model.rs"]
mod state_model;
#[path = "core/state_reads.rs"]
mod state_reads;
#[path = "core/state_records.rs"]
mod state_records;
#[path = "core/state_store.rs"]
mod state_store;
#[path = "core/state_summary.rs"]
mod state_summary;
#[path = "core/state_world.rs"]
mod state_world;
#[path = "core/stored_log.rs"]
mod stored_log;
#[path = "core/tables.rs"]
mod tables;
#[path = "core/tracker.rs"]
mod tracker;
