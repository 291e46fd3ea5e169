//! `dormouse doctor`.

use std::process::ExitCode;

use dormouse_core::{ErrorKind, Result};
use dormouse_jobs::doctor::{Depth, Report, examine};

use super::Context;
use crate::{
    args::DoctorArgs,
    printer::{self, Column},
};

pub(super) async fn run(context: &Context, args: &DoctorArgs) -> Result<ExitCode> {
    let services = &context.instance.services;
    let tables = match &args.table {
        Some(name) => vec![services.tables.named(name).await?],
        None => services.tables.list().await?,
    };
    let depth = if args.deep { Depth::Deep } else { Depth::State };
    let mut reports = Vec::with_capacity(tables.len());
    for table in &tables {
        reports.push(examine(services, table, depth).await?);
    }
    context
        .printer
        .value(&reports, |reports| match reports.as_slice() {
            [] => "no tables".to_owned(),
            reports => reports.iter().map(text).collect::<Vec<_>>().join("\n\n"),
        })?;
    Ok(if reports.iter().all(Report::is_sound) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(ErrorKind::Corrupt.exit_code())
    })
}

fn text(report: &Report) -> String {
    let state = report.transaction.map_or_else(
        || "its state cannot be read".to_owned(),
        |transaction| format!("at transaction {transaction}"),
    );
    let checked = report
        .checked
        .iter()
        .map(|checked| vec![checked.what.to_owned(), printer::count(checked.count)]);
    let mut parts = vec![
        format!("table {} ({}), {state}", report.table, report.table_id),
        printer::table(&[Column::Left("checked"), Column::Right("count")], checked),
    ];
    parts.push(match report.findings.len() {
        0 => "nothing is wrong".to_owned(),
        1 => "1 finding:".to_owned(),
        count => format!("{count} findings:"),
    });
    for finding in &report.findings {
        parts.push(printer::fields(&[
            ("invariant", finding.invariant.to_string()),
            ("place", finding.place.clone()),
            ("found", finding.found.clone()),
            ("what to do", finding.remedy.to_string()),
        ]));
    }
    parts.join("\n\n")
}
