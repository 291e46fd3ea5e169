//! `dormouse instance`.

use std::process::ExitCode;

use dormouse_aws::setup::{self, Finding, Part};
use dormouse_core::{ErrorKind, Result};

use crate::{
    args::{Args, InstanceCommand},
    instance::{Found, find},
    printer::{self, Column, Printer},
};

pub(super) async fn run(args: &Args, command: &InstanceCommand, printer: Printer) -> Result<ExitCode> {
    let found = find(args).await?;
    match command {
        InstanceCommand::Init => init(&found, printer).await.map(|()| ExitCode::SUCCESS),
        InstanceCommand::Check => check(&found, printer).await,
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
