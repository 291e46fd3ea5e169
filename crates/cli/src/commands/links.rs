//! `dormouse links`.

use std::time::Duration;

use dormouse_core::{
    Error, Result,
    ids::JobId,
    message::Location,
    ports::{Bucket, LinkMethod, UrlSigner},
    tracker::{JobKind, JobStatus},
};
use futures::TryStreamExt;
use serde::Serialize;

use super::Context;
use crate::{args::LinksArgs, printer::Column};

#[derive(Serialize)]
struct Link {
    file: String,
    bytes: u64,
    link: String,
}

pub(super) async fn run(context: &Context, args: &LinksArgs) -> Result<()> {
    let services = &context.instance.services;
    let signer = &context.instance.aws()?.signer;
    let life = Duration::try_from_secs_f64(args.hours * 3600.0)
        .map_err(|error| Error::invalid(format!("--hours {} is no time", args.hours)).with_source(error))?;
    let reports = services.tracker.reports(&JobId::from(&args.export)).await?;
    let report = reports
        .into_iter()
        .find(|report| report.key.kind == JobKind::Export);
    let report = report.ok_or_else(|| Error::not_found(format!("no export {} is known", args.export)))?;
    if report.status != JobStatus::Finished {
        let status = report.status;
        return Err(Error::conflict(format!(
            "export {} is {status}, not FINISHED",
            args.export
        )));
    }
    let location = report.export.and_then(|export| export.location);
    let location =
        location.ok_or_else(|| Error::not_found(format!("export {} has no files", args.export)))?;
    let location: Location = location.parse()?;
    let bucket: Bucket = location.bucket.clone();
    let store = services.ports.buckets.open(&bucket)?;
    let mut objects: Vec<_> = store.list(Some(&location.path)).try_collect().await?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    let mut links = Vec::new();
    for object in objects {
        let file = object.location.filename().unwrap_or_default();
        if !file.ends_with(".parquet") && file != "_manifest.json" {
            continue;
        }
        links.push(Link {
            file: file.to_owned(),
            bytes: object.size,
            link: signer
                .sign(LinkMethod::Get, &bucket, &object.location, life)
                .await?,
        });
    }
    let columns = [Column::Left("file"), Column::Left("link")];
    context.printer.list(
        &links,
        &columns,
        |link| vec![link.file.clone(), link.link.clone()],
        "no files",
    )
}
