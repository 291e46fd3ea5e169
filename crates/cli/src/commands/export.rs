//! `dormouse export`.

use std::process::ExitCode;

use dormouse_core::{
    Result,
    ids::{ExportId, JobId},
    message::export::parse_as_of,
    ports::{Message, QueueName},
    tracker::{JobKey, JobKind},
};
use serde_json::json;

use super::{Context, jobs};
use crate::{
    args::ExportArgs,
    wait::{self, Sending},
};

pub(super) async fn run(context: &Context, args: ExportArgs) -> Result<ExitCode> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    if let Some(as_of) = &args.as_of {
        parse_as_of(as_of)?;
    }
    let export = match args.id {
        Some(id) => id,
        None => ExportId::new(services.ports.ids.uuid().to_string())?,
    };
    let mut body = json!({ "tableName": args.table, "exportId": export });
    if let Some(as_of) = args.as_of {
        body["asOf"] = json!(as_of);
    }
    let key = JobKey {
        kind: JobKind::Export,
        table: Some(table.id),
        job: JobId::from(&export),
    };
    let sending = Sending::new(services, key).await?;
    services
        .queue(QueueName::Export)?
        .send(vec![Message::new(body.to_string())])
        .await?;
    if !args.wait.wait {
        context
            .printer
            .value(&json!({ "exportId": export }), |_| export.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = wait::for_job(services, &sending, &args.wait).await?;
    jobs::print(context, &report)?;
    Ok(wait::exit_code(report.status))
}
