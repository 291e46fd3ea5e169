//! `dormouse status`.

use std::collections::BTreeMap;

use dormouse_core::{
    Result,
    ids::JobKind,
    state::summary::Summary,
    tracker::{JobFilter, JobStatus},
};
use serde::Serialize;

use super::Context;
use crate::{args::StatusArgs, printer};

#[derive(Serialize)]
struct Status {
    table: String,
    id: String,
    #[serde(flatten)]
    summary: Summary,
    /// How many jobs the tracker has, by kind and status.
    jobs: BTreeMap<JobKind, BTreeMap<JobStatus, u64>>,
}

pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<()> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let state = services.states.live_state(&table.id).await?;
    let filter = JobFilter {
        table: Some(table.id.clone()),
        ..JobFilter::default()
    };
    let mut jobs: BTreeMap<JobKind, BTreeMap<JobStatus, u64>> = BTreeMap::new();
    for report in services.tracker.list(&filter, usize::MAX).await? {
        let of_kind = jobs.entry(report.key.kind).or_default();
        *of_kind.entry(report.status).or_default() += 1;
    }
    let status = Status {
        table: table.name.to_string(),
        id: table.id.to_string(),
        summary: Summary::of(&state, services.ports.clock.now()),
        jobs,
    };
    context.printer.value(&status, text)
}

fn text(status: &Status) -> String {
    let summary = &status.summary;
    let times = |factor: Option<f64>| factor.map_or("-".to_owned(), |factor| format!("{factor:.2}"));
    let per_leaf = &summary.files_per_leaf;
    let mut pairs = vec![
        ("table", format!("{} ({})", status.table, status.id)),
        (
            "transaction",
            format!("{} at {}", summary.transaction, summary.at),
        ),
        ("rows", printer::count(summary.rows)),
        ("size", printer::bytes(summary.bytes)),
        ("leaves", printer::count(summary.leaves)),
        ("files", printer::count(summary.files)),
        (
            "files per leaf",
            format!(
                "{} to {}, {:.1} on average",
                per_leaf.min, per_leaf.max, per_leaf.mean
            ),
        ),
        ("read amplification", times(summary.read_amplification)),
        ("write amplification", times(summary.write_amplification)),
        (
            "waiting for collection",
            format!(
                "{} files, {}",
                printer::count(summary.garbage_files),
                printer::bytes(summary.garbage_bytes)
            ),
        ),
        (
            "oldest pin",
            match &summary.oldest_pin {
                Some(pin) => format!("transaction {} until {}", pin.transaction, pin.until),
                None => "-".to_owned(),
            },
        ),
        (
            "log",
            format!(
                "{} entries; states from transaction {} can be read",
                printer::count(summary.log_entries),
                summary.oldest_readable
            ),
        ),
    ];
    for (kind, by_status) in &status.jobs {
        let counts: Vec<String> = by_status
            .iter()
            .map(|(status, count)| format!("{} {status}", printer::count(*count)))
            .collect();
        pairs.push((
            match kind {
                JobKind::Ingest => "ingest jobs",
                JobKind::Export => "exports",
                JobKind::Compaction => "compactions",
            },
            counts.join(", "),
        ));
    }
    printer::fields(&pairs)
}
