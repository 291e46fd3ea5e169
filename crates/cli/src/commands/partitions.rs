//! `dormouse partitions`.

use dormouse_core::{Result, ids::PartitionId, key::KeyBounds, state::KeptBecause};
use serde::Serialize;

use super::Context;
use crate::{
    args::PartitionsArgs,
    printer::{self, Column},
};

#[derive(Serialize)]
struct Row {
    id: PartitionId,
    parent: Option<PartitionId>,
    leaf: bool,
    bounds: KeyBounds,
    files: u64,
    rows: u64,
    kept_because: Option<String>,
}

/// Why a leaf over the threshold stays whole, for people.
pub(super) fn why_kept(because: &KeptBecause) -> String {
    match because {
        KeptBecause::OneKey { key } => format!("all rows have the key {key}"),
        KeptBecause::Fits { rows } => format!("has {} rows, counted", printer::count(*rows)),
    }
}

pub(super) async fn run(context: &Context, args: &PartitionsArgs) -> Result<()> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let state = services.states.live_state(&table.id).await?;
    let mut rows: Vec<Row> = state
        .partitions()
        .filter(|partition| args.all || partition.is_leaf())
        .map(|partition| Row {
            id: partition.id.clone(),
            parent: partition.parent.clone(),
            leaf: partition.is_leaf(),
            bounds: partition.bounds.clone(),
            files: state.references(&partition.id).count() as u64,
            rows: state.rows_at(&partition.id),
            kept_because: state.kept(&partition.id).map(|kept| why_kept(&kept.because)),
        })
        .collect();
    rows.sort_by(|a, b| (&a.bounds.lower, a.leaf).cmp(&(&b.bounds.lower, b.leaf)));
    let columns = [
        Column::Left("partition"),
        Column::Left("kind"),
        Column::Left("keys"),
        Column::Right("files"),
        Column::Right("rows"),
        Column::Left("why not split"),
    ];
    let row = |row: &Row| {
        let kind = if row.leaf { "leaf" } else { "split" };
        vec![
            row.id.to_string(),
            kind.to_owned(),
            row.bounds.to_string(),
            printer::count(row.files),
            printer::count(row.rows),
            row.kept_because.clone().unwrap_or_default(),
        ]
    };
    context.printer.list(&rows, &columns, row, "no partitions")
}
