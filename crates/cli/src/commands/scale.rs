//! `dormouse scale`.

use dormouse_aws::instance::task_launcher;
use dormouse_core::Result;
use dormouse_jobs::scaling::{Scaled, scale};

use super::Context;
use crate::{args::ScaleArgs, printer::Column};

pub(super) async fn run(context: &Context, args: &ScaleArgs) -> Result<()> {
    let services = &context.instance.services;
    let launcher = task_launcher(&context.instance.aws()?.location, &services.settings)?;
    let scaled = scale(services, &launcher, args.dry_run).await?;
    let columns = [
        Column::Left("queue"),
        Column::Right("messages"),
        Column::Right("running"),
        Column::Right("missing"),
        Column::Right("started"),
    ];
    let row = |scaled: &Scaled| {
        let numbers = [scaled.messages, scaled.running, scaled.missing, scaled.started];
        std::iter::once(scaled.queue.to_string())
            .chain(numbers.map(|number| number.to_string()))
            .collect()
    };
    context.printer.list(&scaled, &columns, row, "no queues")
}
