//! `dormouse gc`.

use std::time::Duration;

use dormouse_core::{Error, Result};
use dormouse_jobs::{
    garbage::{Collected, Override},
    schedule::collect_all,
};
use serde::Serialize;

use super::Context;
use crate::{
    args::GcArgs,
    printer::{self, Column},
};

#[derive(Serialize)]
struct Row {
    table: String,
    #[serde(flatten)]
    collected: Collected,
}

pub(super) async fn run(context: &Context, args: &GcArgs) -> Result<()> {
    let times = Override {
        delay: duration(args.delay_minutes, 60.0, "--delay-minutes")?,
        orphan_age: duration(args.orphan_age_hours, 3600.0, "--orphan-age-hours")?,
        offline: true,
    };
    let turns = collect_all(&context.instance.services, times).await?;
    let mut rows = Vec::new();
    let mut failure = None;
    for (table, turn) in turns {
        match turn {
            Ok(collected) => rows.push(Row { table, collected }),
            Err(error) => {
                printer::note(&format!("table {table}: {}", error.report()));
                failure = failure.or(Some(error));
            }
        }
    }
    let columns = [
        Column::Left("table"),
        Column::Right("deleted files"),
        Column::Right("size"),
        Column::Right("of them orphans"),
        Column::Right("leftovers"),
        Column::Right("waiting"),
    ];
    let row = |row: &Row| {
        vec![
            row.table.clone(),
            printer::count(row.collected.files),
            printer::bytes(row.collected.bytes),
            printer::count(row.collected.orphans),
            printer::count(row.collected.leftovers),
            printer::count(row.collected.waiting),
        ]
    };
    context.printer.list(&rows, &columns, row, "no tables")?;
    failure.map_or(Ok(()), Err)
}

fn duration(number: Option<f64>, unit: f64, option: &str) -> Result<Option<Duration>> {
    number
        .map(|number| {
            Duration::try_from_secs_f64(number * unit)
                .map_err(|error| Error::invalid(format!("{option} {number} is no time")).with_source(error))
        })
        .transpose()
}
