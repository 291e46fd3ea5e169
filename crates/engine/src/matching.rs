//! Which files may have rows that a predicate is true for, by what their footers say.

use std::num::NonZeroUsize;

use dormouse_core::{Result, ports::MatchSpec};
use tokio::runtime::Handle;

use crate::{
    cancel::Cancel, input::Input, object_reader::RemoteObject, predicate::RowPredicate, pruning,
    rules::aggregates, table::TableSchema, threads::for_each,
};

/// Looks at the footer of each input: some row group must have keys of the leaf, and statistics that do not rule the
/// predicate out.
pub(crate) fn may_match(
    spec: &MatchSpec,
    threads: NonZeroUsize,
    runtime: &Handle,
    cancel: &Cancel,
) -> Result<Vec<bool>> {
    let table = TableSchema::new(spec.schema.clone());
    let predicate = RowPredicate::new(&table, &spec.predicate, aggregates(spec.rules.as_ref()))?;
    for_each(threads, spec.inputs.len(), cancel, |number| {
        let input = Input::open(RemoteObject::of_table(&spec.inputs[number], runtime), &table)?;
        let matches = predicate.may_match(&input, &table);
        let in_leaf = pruning::row_groups(&input, &spec.leaf.bounds)?;
        Ok(in_leaf.into_iter().any(|group| matches[group]))
    })
}
