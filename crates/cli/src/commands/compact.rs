//! `dormouse compact`.

use std::process::ExitCode;

use dormouse_core::{
    Result,
    plan::compaction::Policy,
    tracker::{JobKey, JobKind},
};
use dormouse_jobs::compaction;

use super::{Context, jobs};
use crate::{args::CompactArgs, wait};

pub(super) async fn run(context: &Context, args: &CompactArgs) -> Result<ExitCode> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let policy = match args.all {
        true => Policy::Full,
        false => services.table_settings(&table)?.compaction_policy(),
    };
    let created = compaction::create(services, &table, policy).await?;
    let keys: Vec<_> = created
        .into_iter()
        .map(|job| JobKey {
            kind: JobKind::Compaction,
            table: Some(table.id.clone()),
            job,
        })
        .collect();
    let reports = match args.wait.wait {
        true => wait::for_jobs(services, &keys, &args.wait).await?,
        false => wait::reports(services, &keys).await?,
    };
    jobs::print_all(context, &reports, "no files to merge")?;
    let worst = reports
        .iter()
        .map(|report| report.status)
        .find(|status| status.is_failure());
    Ok(worst.map_or(ExitCode::SUCCESS, wait::exit_code))
}
