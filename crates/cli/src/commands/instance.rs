//! `dormouse instance`.

use std::process::ExitCode;

use dormouse_aws::{
    permissions::{Arns, Role},
    setup::{self, Finding, Part},
};
use dormouse_core::{Error, ErrorKind, Result};

use crate::{
    args::{Args, InstanceCommand, PolicyArgs, WorkerKind},
    instance::{Found, find},
    printer::{self, Column, Printer},
};

pub(super) async fn run(args: &Args, command: &InstanceCommand, printer: Printer) -> Result<ExitCode> {
    let found = find(args).await?;
    match command {
        InstanceCommand::Init => init(&found, printer).await.map(|()| ExitCode::SUCCESS),
        InstanceCommand::Check => check(&found, printer).await,
        InstanceCommand::Policy(args) => policy(&found, args, printer).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn policy(found: &Found, args: &PolicyArgs, printer: Printer) -> Result<()> {
    let mut roles: Vec<Role> = args.kinds.iter().map(|kind| role(*kind)).collect();
    roles.extend(args.api.then_some(Role::Api));
    let arns = Arns::of(&found.location, &found.settings, args.input_bucket.clone()).await?;
    let policy = arns.policy(&roles);
    let text = serde_json::to_string_pretty(&policy)
        .map_err(|error| Error::internal("a policy cannot be written").with_source(error))?;
    printer.value(&policy, |_| text)
}

fn role(kind: WorkerKind) -> Role {
    match kind {
        WorkerKind::Ingest => Role::Ingest,
        WorkerKind::ExportSplitter => Role::ExportSplitter,
        WorkerKind::Export => Role::Export,
        WorkerKind::Compaction => Role::Compaction,
        WorkerKind::Splitter => Role::Splitter,
        WorkerKind::Committer => Role::Committer,
        WorkerKind::Query => Role::Query,
        WorkerKind::CompactionPlanner => Role::CompactionPlanner,
        WorkerKind::SplitFinder => Role::SplitFinder,
        WorkerKind::Snapshots => Role::Snapshots,
        WorkerKind::Gc => Role::Gc,
        WorkerKind::Repair => Role::Repair,
        WorkerKind::BulkSweep => Role::BulkSweep,
    }
}

async fn init(found: &Found, printer: Printer) -> Result<()> {
    let parts = setup::init(&found.location, &found.settings, &found.buckets).await?;
    let columns = [Column::Left("part"), Column::Left("name"), Column::Left("")];
    let row = |part: &Part| {
        let made = if part.made { "made" } else { "was there" };
        vec![part.kind.to_owned(), part.name.clone(), made.to_owned()]
    };
    printer.list(&parts, &columns, row, "nothing to make")
}

async fn check(found: &Found, printer: Printer) -> Result<ExitCode> {
    let check = setup::check(&found.location, &found.settings).await?;
    printer.value(&check, |check| {
        if check.findings.is_empty() {
            return format!("{} parts, all as they should be", check.parts);
        }
        let columns = [
            Column::Left("part"),
            Column::Left("name"),
            Column::Left("what is wrong"),
            Column::Left("what to do"),
        ];
        let row = |finding: &Finding| {
            vec![
                finding.kind.to_owned(),
                finding.name.clone(),
                finding.problem.clone(),
                finding.remedy.clone(),
            ]
        };
        printer::table(&columns, check.findings.iter().map(row))
    })?;
    Ok(match check.findings.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(ErrorKind::Invalid.exit_code()),
    })
}
