//! The tracker against the ledger of the state.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{TableState, table_state::LEDGER_RETENTION},
    Invariant, Violation,
};
use crate::{
    ids::{JobId, TransactionNumber},
    time::Timestamp,
    tracker::{JobKind, JobReport, JobStatus},
};

/// A report expires some time after it is last written, by clocks that differ.
const EXPIRY_MARGIN: Duration = Duration::from_secs(3600);

/// What the tracker says of the jobs of one table.
#[derive(Clone, Copy, Debug)]
pub struct TrackerView<'a> {
    /// The reports, in any order.
    pub reports: &'a [JobReport],
    /// A state that was read after the reports.
    pub state: &'a TableState,
    /// A state that was read before the reports, whose jobs are all in them.
    pub earlier: &'a TableState,
    /// Up to which transaction the tracker must know every commit: the last that the repair has compared, or the
    /// newest once all is quiet.
    pub known_up_to: TransactionNumber,
    /// How long the tracker keeps a job.
    pub retention: Duration,
    /// Whether all work has come to its end.
    pub quiet: bool,
    /// Now.
    pub now: Timestamp,
}

/// That the tracker claims nothing that the log does not hold, and everything that it must know.
pub fn check_tracker(view: TrackerView<'_>) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let mut known: BTreeMap<(JobKind, &JobId), &JobReport> = BTreeMap::new();
    for report in view.reports {
        let place = format!("job {}", report.key.job);
        if report.key.kind != JobKind::Export {
            known.insert((report.key.kind, &report.key.job), report);
            if report.status == JobStatus::Finished
                && let Some(found) = check_claim(view, report)
            {
                wrong.push(Violation::new(
                    Invariant::Tracker,
                    &place,
                    found,
                    "believe the log: the table does not have the job's rows; send the job again under another id",
                ));
            }
        }
        if view.quiet && !report.status.is_final() {
            wrong.push(Violation::new(
                Invariant::Accept,
                place,
                format!("all work has ended, and the job is {}", report.status),
                "look for its message in the dead letters, and send it again",
            ));
        }
    }
    for (job, entry) in view.earlier.ledger() {
        let kept = entry.at.plus(view.retention) > view.now.plus(EXPIRY_MARGIN);
        if !kept || entry.transaction > view.known_up_to {
            continue;
        }
        let found = match known.get(&(entry.kind, job)).map(|report| report.status) {
            Some(JobStatus::Finished) => continue,
            Some(status) => format!(
                "it committed in transaction {}, and is {status}",
                entry.transaction
            ),
            None => format!(
                "it committed in transaction {}, and is not known",
                entry.transaction
            ),
        };
        wrong.push(Violation::new(
            Invariant::Tracker,
            format!("job {job}"),
            found,
            "believe the log: the job is done, and its rows are in the table; send its message again, which \
             changes nothing but the report",
        ));
    }
    wrong
}

/// What is wrong with a report that says that its job is in the table.
fn check_claim(view: TrackerView<'_>, report: &JobReport) -> Option<String> {
    let run = report.deciding_run()?;
    let entry = view.state.committed(&report.key.job);
    match entry.filter(|entry| entry.kind == report.key.kind) {
        Some(entry) if run.transaction.is_none_or(|number| number == entry.transaction) => None,
        Some(entry) => Some(format!(
            "it is finished in transaction {}, and its commit is in {}",
            run.transaction.unwrap_or_default(),
            entry.transaction
        )),
        None if view.now.since(report.created) >= LEDGER_RETENTION => None,
        None => Some(format!(
            "it is finished in transaction {}, and the log holds no commit of it",
            run.transaction.unwrap_or_default()
        )),
    }
}
