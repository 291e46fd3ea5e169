//! `dormouse jobs`.

use dormouse_core::{
    Error, Result,
    tracker::{Event, JobFilter, JobReport},
};
use serde::Serialize;

use super::Context;
use crate::{
    args::{JobsCommand, JobsListArgs},
    printer::{self, Column},
};

pub(super) async fn run(context: &Context, command: JobsCommand) -> Result<()> {
    match command {
        JobsCommand::List(args) => list(context, args).await,
        JobsCommand::Show { id } => {
            let services = &context.instance.services;
            let reports = services.tracker.reports(&id).await?;
            if reports.is_empty() {
                return Err(Error::not_found(format!(
                    "no job {id} is known: it was never sent, waits in its queue, or was forgotten"
                )));
            }
            let mut details = Vec::new();
            for report in reports {
                let events = services.tracker.events(&report.key).await?;
                details.push(Detail { report, events });
            }
            context.printer.value(&details, |details| {
                let texts: Vec<_> = details.iter().map(|detail| describe(context, detail)).collect();
                texts.join("\n\n")
            })
        }
    }
}

#[derive(Serialize)]
struct Detail {
    #[serde(flatten)]
    report: JobReport,
    events: Vec<Event>,
}

async fn list(context: &Context, args: JobsListArgs) -> Result<()> {
    let services = &context.instance.services;
    let table = match &args.table {
        Some(name) => Some(services.tables.named(name).await?.id),
        None => None,
    };
    let filter = JobFilter {
        kind: args.kind,
        table,
        status: args.status,
        since: args.since,
        until: args.until,
    };
    let reports = services.tracker.list(&filter, args.limit).await?;
    print_all(context, &reports, "no jobs")
}

/// Prints a line for each job; without any, `empty`.
pub(super) fn print_all(context: &Context, reports: &[JobReport], empty: &str) -> Result<()> {
    let columns = [
        Column::Left("job"),
        Column::Left("kind"),
        Column::Left("table"),
        Column::Left("status"),
        Column::Right("rows"),
        Column::Left("created"),
        Column::Left("reason"),
    ];
    let row = |report: &JobReport| {
        vec![
            report.key.job.to_string(),
            report.key.kind.to_string(),
            report.table_name.clone().unwrap_or_else(|| "-".to_owned()),
            report.status.to_string(),
            printer::count(report.rows_written()),
            report.created.to_string(),
            report.reasons().first().cloned().unwrap_or_default(),
        ]
    };
    context.printer.list(reports, &columns, row, empty)
}

/// Prints the report of one job.
pub(super) fn print(context: &Context, report: &JobReport) -> Result<()> {
    context.printer.value(report, |report| summary(context, report))
}

fn summary(context: &Context, report: &JobReport) -> String {
    let mut fields = vec![
        ("job", report.key.job.to_string()),
        ("kind", report.key.kind.to_string()),
        (
            "table",
            report.table_name.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("status", report.status.to_string()),
        ("created", report.created.to_string()),
        ("updated", report.updated.to_string()),
        (
            "took",
            format!("{:.2} s", report.updated.since(report.created).as_secs_f64()),
        ),
    ];
    match &report.export {
        Some(export) => {
            fields.push(("transaction", export.transaction.to_string()));
            fields.push((
                "leaves",
                format!(
                    "{} of {} done, {} failed",
                    export.done, export.total, export.failed
                ),
            ));
            fields.push(("rows", printer::count(export.rows)));
            fields.push(("size", printer::bytes(export.bytes)));
            if let Some(location) = &export.location {
                fields.push(("files", context.instance.object_place(location)));
            }
        }
        None => {
            fields.push(("input files", printer::count(report.input_files)));
            if let Some(predicate) = &report.purge {
                fields.push(("purges rows where", predicate.to_string()));
            }
            fields.push(("rows", printer::count(report.rows_written())));
            if let Some(run) = report.deciding_run() {
                fields.push(("files", printer::count(run.files)));
                if let Some(transaction) = run.transaction {
                    fields.push(("transaction", transaction.to_string()));
                }
            }
        }
    }
    for reason in report.reasons() {
        fields.push(("reason", reason.clone()));
    }
    if let Some(message) = &report.message {
        fields.push(("message", message.clone()));
    }
    printer::fields(&fields)
}

fn describe(context: &Context, detail: &Detail) -> String {
    let columns = [
        Column::Left("time"),
        Column::Right("attempt"),
        Column::Left("event"),
        Column::Left("run"),
    ];
    let rows = detail.events.iter().map(|event| {
        vec![
            event.at.to_string(),
            event.attempt.to_string(),
            event.kind.name().to_owned(),
            event.run.to_string(),
        ]
    });
    format!(
        "{}\n\n{}",
        summary(context, &detail.report),
        printer::table(&columns, rows)
    )
}
