//! `dormouse tenant`.

use dormouse_core::{
    Error, Result,
    bulk::{BulkFilter, BulkJob},
    tenants::TenantId,
};
use dormouse_jobs::bulk;

use super::{Context, table::confirmed};
use crate::{args::TenantCommand, printer::Column};

pub(super) async fn run(context: &Context, command: TenantCommand) -> Result<()> {
    let tenants = &context.instance.services.tenants;
    match command {
        TenantCommand::Create { tenant } => {
            let made = tenants.create(tenant).await?;
            context.printer.value(&made, |tenant| {
                format!(
                    "tenant {} made; the API asks for keys from now on: dormouse key create {}",
                    tenant.id, tenant.id
                )
            })
        }
        TenantCommand::List => {
            let columns = [Column::Left("tenant"), Column::Left("made")];
            context.printer.list(
                &tenants.list().await?,
                &columns,
                |tenant| vec![tenant.id.to_string(), tenant.created.to_string()],
                "no tenants",
            )
        }
        TenantCommand::Open { yes } => {
            if !yes && !confirmed("let everybody ask over HTTP who reaches the instance?")? {
                return Err(Error::invalid("not confirmed; --yes opens without asking"));
            }
            tenants.open().await?;
            context
                .printer
                .value(&"open", |_| "the API asks for no keys".to_owned())
        }
        TenantCommand::Delete { tenant, yes } => delete(context, &tenant, yes).await,
    }
}

/// How many jobs one query asks for.
const PAGE: usize = 200;

async fn jobs_of(context: &Context, tenant: &TenantId) -> Result<Vec<BulkJob>> {
    let (mut jobs, mut after) = (Vec::new(), None);
    loop {
        let page = context
            .instance
            .services
            .bulk
            .list(tenant, &BulkFilter::default(), after, PAGE)
            .await?;
        jobs.extend(page.jobs);
        after = page.next;
        if after.is_none() {
            return Ok(jobs);
        }
    }
}

async fn delete(context: &Context, tenant: &TenantId, yes: bool) -> Result<()> {
    let services = &context.instance.services;
    services.tenants.get(tenant).await?;
    let jobs = services.bulk.queue(tenant).await?;
    if !jobs.is_empty() {
        return Err(Error::conflict(format!(
            "tenant {tenant} has {} jobs that have not ended; abort them or wait",
            jobs.len()
        )));
    }
    if !yes
        && !confirmed(&format!(
            "delete tenant {tenant}, its keys, and its jobs with their results?"
        ))?
    {
        return Err(Error::invalid("not confirmed; --yes deletes without asking"));
    }
    // Nobody makes a job from here on; one that was made meanwhile stops the rest.
    services.tenants.delete_keys(tenant).await?;
    for job in jobs_of(context, tenant).await? {
        bulk::delete(services, tenant, &job.id).await?;
    }
    services.tenants.delete(tenant).await?;
    context
        .printer
        .value(tenant, |tenant| format!("tenant {tenant} deleted"))
}
