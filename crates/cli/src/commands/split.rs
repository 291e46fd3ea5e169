//! `dormouse split`.

use dormouse_core::{Result, ids::PartitionId, key::KeyBounds};
use dormouse_jobs::splitting::{self, Splitting};
use serde::Serialize;

use super::{Context, partitions::why_kept};
use crate::{
    args::SplitArgs,
    printer::{self, Column},
};

#[derive(Serialize)]
struct Row {
    partition: PartitionId,
    bounds: KeyBounds,
    rows: u64,
    leaves: usize,
    kept_because: Option<String>,
}

pub(super) async fn run(context: &Context, args: &SplitArgs) -> Result<()> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let mut rows = Vec::new();
    for leaf in splitting::candidates(services, &table).await? {
        let state = services.states.live_state(&table.id).await?;
        let (leaves, kept_because) = match splitting::split(services, &table, &leaf.id).await? {
            Splitting::Split { leaves } => (leaves, None),
            Splitting::Kept(because) => (1, Some(why_kept(&because))),
            Splitting::Passed => continue,
        };
        rows.push(Row {
            rows: state.rows_at(&leaf.id),
            partition: leaf.id,
            bounds: leaf.bounds,
            leaves,
            kept_because,
        });
    }
    let columns = [
        Column::Left("partition"),
        Column::Left("keys"),
        Column::Right("rows"),
        Column::Right("leaves now"),
        Column::Left("why not split"),
    ];
    let line = |row: &Row| {
        vec![
            row.partition.to_string(),
            row.bounds.to_string(),
            printer::count(row.rows),
            printer::count(row.leaves as u64),
            row.kept_because.clone().unwrap_or_default(),
        ]
    };
    let threshold = services.table_settings(&table)?.splitting_threshold();
    let empty = format!(
        "no leaf to split: none has grown over {} rows",
        printer::count(threshold)
    );
    context.printer.list(&rows, &columns, line, &empty)
}
