//! `dormouse ingest`.

use std::process::ExitCode;

use dormouse_core::{
    Error, Result,
    ids::JobId,
    ports::{Message, QueueName},
    tracker::{JobKey, JobKind},
};
use serde_json::json;

use super::{Context, jobs};
use crate::{
    args::IngestArgs,
    instance::Place,
    wait::{self, Sending},
};

pub(super) async fn run(context: &Context, args: IngestArgs) -> Result<ExitCode> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let files = args
        .files
        .iter()
        .map(|file| location(file))
        .collect::<Result<Vec<_>>>()?;
    if let (Place::Aws(_), Some(file)) = (
        &context.instance.place,
        files.iter().find(|file| file.starts_with("file://")),
    ) {
        return Err(Error::invalid(format!(
            "workers on AWS cannot read {file}; put it into a bucket, and name it as bucket/key"
        )));
    }
    let job = match args.id {
        Some(id) => id,
        None => JobId::new(services.ports.ids.uuid().to_string())?,
    };
    let body = json!({ "id": job, "tableName": args.table, "files": files }).to_string();
    let key = JobKey {
        kind: JobKind::Ingest,
        table: Some(table.id),
        job: job.clone(),
    };
    let sending = Sending::new(services, key).await?;
    services
        .queue(QueueName::Ingest)?
        .send(vec![Message::new(body)])
        .await?;
    if !args.wait.wait {
        context
            .printer
            .value(&json!({ "jobId": job }), |_| job.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = wait::for_job(services, &sending, &args.wait).await?;
    jobs::print(context, &report)?;
    Ok(wait::exit_code(report.status))
}

/// A file of this machine becomes a `file://` path; what looks like a place in a bucket is left as it is.
fn location(file: &str) -> Result<String> {
    if file.contains("://") {
        return Ok(file.to_owned());
    }
    match std::fs::canonicalize(file) {
        Ok(absolute) => match absolute.to_str() {
            Some(path) => Ok(format!("file://{path}")),
            None => Err(Error::invalid(format!("the path of {file} is not UTF-8"))),
        },
        Err(_) if file.contains('/') && !file.starts_with(['/', '.']) => Ok(file.to_owned()),
        Err(error) => Err(Error::invalid(format!(
            "cannot find the file {file}; a whole bucket is s3://{file}"
        ))
        .with_source(error)),
    }
}
