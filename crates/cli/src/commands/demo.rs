//! `dormouse demo`: the main job, from outside to outside, on TPC-H lineitem.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dormouse_core::{
    Result,
    ids::{ExportId, JobId, TableName},
    key::{Key, KeyValue},
    ports::{Message, QueueName},
    tracker::{JobKey, JobKind, JobReport},
};
use serde_json::json;

use super::{Context, generate, jobs, table};
use crate::{
    args::{Dataset, DemoArgs, GenerateArgs, WaitArgs},
    printer,
    wait::{self, Sending},
};

/// How many leaves the demo's table has.
const LEAVES: i64 = 8;

/// How many files lineitem is made into.
const FILES: u32 = 4;

pub(super) async fn run(context: &Context, args: &DemoArgs) -> Result<()> {
    let services = &context.instance.services;
    let unique = services.ports.ids.uuid().simple().to_string();
    let name = TableName::new(format!("lineitem-{}", &unique[..8]))?;
    let source = context.instance.directory()?.join("demo").join(name.as_str());

    printer::note(&format!(
        "1. makes TPC-H lineitem, scale {}, in {}",
        args.scale,
        source.display()
    ));
    let files = generate::write(&GenerateArgs {
        dataset: Dataset::Lineitem,
        output: source,
        files: FILES,
        rows: 0,
        value_letters: 0,
        seed: 0,
        scale: args.scale,
    })?;

    printer::note(&format!("2. makes table \"{name}\" with {LEAVES} leaves"));
    let row_key = ["l_orderkey".to_owned()];
    let sort_key = ["l_linenumber".to_owned()];
    let schema = table::schema_of_parquet(context, &files[0], &row_key, &sort_key).await?;
    let last_order = (6_000_000.0 * args.scale) as i64;
    let points: Vec<_> = (1..LEAVES)
        .map(|leaf| Key::new([KeyValue::Int64(last_order * leaf / LEAVES)]))
        .collect();
    let services = &context.instance.services;
    let info = services
        .create_table(name.clone(), Arc::new(schema), &points, BTreeMap::new())
        .await?;

    let inputs: Vec<_> = files
        .iter()
        .map(|file| format!("file://{}", file.display()))
        .collect();
    let job = JobId::new(format!("demo-ingest-{unique}"))?;
    let body = json!({ "id": job, "tableName": name, "files": inputs });
    let key = JobKey {
        kind: JobKind::Ingest,
        table: Some(info.id.clone()),
        job,
    };
    let ingested = send_and_wait(context, 3, QueueName::Ingest, body, key).await?;

    let export = ExportId::new(format!("demo-export-{unique}"))?;
    let body = json!({ "tableName": name, "exportId": export });
    let key = JobKey {
        kind: JobKind::Export,
        table: Some(info.id),
        job: JobId::from(&export),
    };
    let exported = send_and_wait(context, 4, QueueName::Export, body, key).await?;

    let took = |report: &JobReport| report.updated.since(report.created).max(Duration::from_millis(1));
    let rate = |report: &JobReport| {
        printer::count((report.rows_written() as f64 / took(report).as_secs_f64()) as u64)
    };
    printer::note(&format!(
        "done: {} rows in at {} rows/s, out at {} rows/s; see also\n  \
         dormouse --data {data} jobs list\n  dormouse --data {data} partitions {name}",
        printer::count(ingested.rows_written()),
        rate(&ingested),
        rate(&exported),
        data = context.instance.directory()?.display(),
    ));
    Ok(())
}

async fn send_and_wait(
    context: &Context,
    step: u32,
    queue: QueueName,
    body: serde_json::Value,
    key: JobKey,
) -> Result<JobReport> {
    let services = &context.instance.services;
    let body = body.to_string();
    printer::note(&format!("{step}. sends to queue {queue}: {body}"));
    let sending = Sending::new(services, key).await?;
    services.queue(queue)?.send(vec![Message::new(body)]).await?;
    let report = wait::for_job(
        services,
        &sending,
        &WaitArgs {
            wait: true,
            no_work: false,
        },
    )
    .await?;
    jobs::print(context, &report)?;
    wait::check_finished(&report)?;
    Ok(report)
}
