//! Fuzzing: one entry point for each thing that reads foreign or stored bytes.
//!
//! An entry point takes any bytes. It panics when the code under test panics or when a property does not hold:
//!
//! | Target | Bytes are | What holds |
//! |---|---|---|
//! | [`parquet()`] | a Parquet file | ingest refuses it as `Invalid` by its name, or its rows are those that the reader of the arrow project finds, sorted and cut at leaves; an export has the same rows; a data file with a wrong checksum or a flipped bit is `Corrupt` |
//! | [`message()`] | a queue message | parsers refuse with `Invalid`, what they take survives being written and read, ids agree |
//! | [`transaction()`] | a log entry, or choices of records | every record applies to every state, the invariants hold after it, a refusal changes nothing, and entries and snapshots survive being written and read |
//! | [`snapshot()`] | a snapshot, or its frames | damage is `Corrupt`; what is read is written as the same state |
//! | [`manifest()`] | an export plan or a manifest | as for messages; paths stay below the export's prefix |
//! | [`key()`] | choices of keys | order, codec, bounds and the engine agree, whatever the types |
//! | [`schema()`] | a schema in Sleeper's or our JSON | what is read survives JSON and Arrow |
//! | [`predicate()`] | a SQL predicate | it is refused as `Invalid`, or the rows that it is true for and those that it is not make all rows of a file, and statistics rule none out |
//! | [`properties()`] | `instance.properties` and a table's properties | what is taken can be asked for |
//! | [`names()`] | a name, path or location | nothing outside the directories that are allowed can be named |
//! | [`items()`] | stored items as JSON | damage is an error of the reader, never a panic |
//!
//! # Running
//!
//! On stable, the entry points are tests: `cargo nextest run -p dormouse-fuzz` runs the corpus (`corpus/<target>/`),
//! then mutations of it that follow from a seed. `DORMOUSE_FUZZ_INPUTS=<n>` or `DORMOUSE_FUZZ_SECONDS=<n>` say how
//! many for each target, `DORMOUSE_FUZZ_SEED=<n>` takes others. Each input has a time limit and a memory limit.
//!
//! `scripts/fuzz [--seconds N] [TARGET...]` runs longer: with cargo-fuzz where the nightly toolchain is installed,
//! which looks for inputs that reach new code (`coverage/`), else the tests above on all cores.
//!
//! # After a crash
//!
//! Both ways write the input as `corpus/<target>/crash-<hash>`. Replay it with
//! `DORMOUSE_FUZZ_REPLAY=<file> cargo nextest run -p dormouse-fuzz <target> --no-capture`. Once it is fixed, rename the
//! file to say what it showed and commit it with the fix: the corpus is run by every `scripts/check`.
//!
//! # A new target
//!
//! Write the function, list it in [`TARGETS`], here and in `coverage/`, and make seeds of real values in
//! `examples/make_seeds.rs` (`cargo run -p dormouse-fuzz --example make_seeds`). Keep seeds small: what is
//! mutated is one of a few hundred bytes.

#![warn(missing_docs)]

mod items;
mod key;
mod manifest;
mod message;
mod mutate;
mod names;
mod parquet;
mod predicate;
mod properties;
mod rows;
mod schema;
mod snapshot;
mod source;
mod transaction;

pub use mutate::Mutator;
pub use source::fingerprint;

/// An entry point and its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 11] = [
    ("items", items),
    ("key", key),
    ("manifest", manifest),
    ("message", message),
    ("names", names),
    ("parquet", parquet),
    ("predicate", predicate),
    ("properties", properties),
    ("schema", schema),
    ("snapshot", snapshot),
    ("transaction", transaction),
];

macro_rules! entry_points {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Panics
        /// When the code under test does, or a property does not hold.
        pub fn $name(data: &[u8]) {
            $name::run(data);
        }
    )*};
}

entry_points! {
    /// Stored items, as JSON.
    items;
    /// Keys and their order.
    key;
    /// Export plans and manifests.
    manifest;
    /// Queue messages.
    message;
    /// Names, paths and locations.
    names;
    /// Parquet files.
    parquet;
    /// SQL predicates.
    predicate;
    /// Properties.
    properties;
    /// Schemas.
    schema;
    /// Snapshots of table state.
    snapshot;
    /// Log entries and their effect.
    transaction;
}

/// Makes panics silent: those of decoders are many, and contained by the code under test.
pub fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// The bytes as text, unless they are none.
fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}
