//! `dormouse purge`.

use std::{process::ExitCode, time::Duration};

use dormouse_core::{
    Error, Result,
    ids::{FileName, JobId, PartitionId},
    key::KeyRange,
    tables::TableInfo,
    tracker::{JobKey, JobKind, JobReport, JobStatus},
};
use dormouse_jobs::{
    Services,
    compaction::{Purge, purge::Round},
};
use serde::Serialize;

use super::{Context, jobs, table::confirmed};
use crate::{
    args::PurgeArgs,
    printer::{self, Column},
    wait,
};

/// How long to wait for files that other jobs work on before looking again.
const BUSY: Duration = Duration::from_millis(500);

pub(super) async fn run(context: &Context, args: PurgeArgs) -> Result<ExitCode> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let mut purge = Purge::begin(services, &table, args.predicate.clone()).await?;
    if args.dry_run {
        return list(context, &mut purge).await;
    }
    if !args.yes {
        let question = format!(
            "remove the rows of table \"{}\" where {}?",
            table.name, args.predicate
        );
        if !confirmed(&question)? {
            return Err(Error::invalid("not confirmed; --yes purges without asking"));
        }
        // It may have taken long to answer, and rows may have come.
        purge = Purge::begin(services, &table, args.predicate).await?;
    }
    let interrupted = || {
        "jobs that were sent go on with the next worker; other files may be left, and to purge again is safe"
            .to_owned()
    };
    let work = to_the_end(services, &table, &mut purge);
    let (last, reports) = Box::pin(wait::working(services, args.no_work, work, interrupted)).await?;
    jobs::print_all(context, &reports, "no file holds such rows")?;
    let finished = || {
        reports
            .iter()
            .filter(|report| report.status == JobStatus::Finished)
    };
    let read = finished().map(JobReport::rows_read).fold(0, u64::saturating_add);
    let written = finished()
        .map(JobReport::rows_written)
        .fold(0, u64::saturating_add);
    printer::note(&format!(
        "nothing is left to purge as of transaction {}: of {} rows that were read, {} were written again",
        last.transaction,
        printer::count(read),
        printer::count(written)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Round after round, until nothing is left. Returns the last one, and what became of all jobs.
async fn to_the_end(
    services: &Services,
    table: &TableInfo,
    purge: &mut Purge<'_>,
) -> Result<(Round, Vec<JobReport>)> {
    let key = |job: &JobId| JobKey {
        kind: JobKind::Compaction,
        table: Some(table.id.clone()),
        job: job.clone(),
    };
    let mut waiting = None;
    loop {
        let round = purge.round().await?;
        let stuck: Vec<_> = round.stuck.iter().map(key).collect();
        wait::reports(services, &stuck)
            .await?
            .iter()
            .try_for_each(wait::check_finished)?;
        if round.is_last() {
            let keys: Vec<_> = purge.jobs().map(key).collect();
            return Ok((round, wait::reports(services, &keys).await?));
        }
        let keys: Vec<_> = round.sent.iter().map(key).collect();
        wait::follow_all(services, &keys).await?;
        if round.sent.is_empty() {
            let bar = waiting.get_or_insert_with(wait::spinner);
            bar.set_message(format!("waits for {} files that other jobs work on", round.busy));
            bar.tick();
            services.ports.clock.sleep(BUSY).await;
        } else if let Some(bar) = waiting.take() {
            bar.finish_and_clear();
        }
    }
}

#[derive(Serialize)]
struct Row {
    partition: PartitionId,
    file: FileName,
    rows: u64,
    bytes: u64,
    keys: KeyRange,
}

async fn list(context: &Context, purge: &mut Purge<'_>) -> Result<ExitCode> {
    let matches = purge.matches().await?;
    let rows: Vec<_> = matches
        .into_iter()
        .map(|found| Row {
            rows: found.reference.rows(),
            bytes: found.reference.file.bytes,
            keys: found.reference.range().clone(),
            file: found.reference.file.name.clone(),
            partition: found.leaf.id,
        })
        .collect();
    let columns = [
        Column::Left("file"),
        Column::Right("rows"),
        Column::Right("size"),
        Column::Left("keys"),
    ];
    let row = |row: &Row| {
        vec![
            row.file.to_string(),
            printer::count(row.rows),
            printer::bytes(row.bytes),
            format!("{} to {}", row.keys.min, row.keys.max),
        ]
    };
    context
        .printer
        .list(&rows, &columns, row, "no file holds such rows")?;
    Ok(ExitCode::SUCCESS)
}
