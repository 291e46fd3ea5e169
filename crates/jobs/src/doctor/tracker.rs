//! What the tracker says of the table's jobs, against the log.

use std::collections::BTreeSet;

use dormouse_core::{
    Result,
    collections::Collection,
    ids::TransactionNumber,
    ports::ItemKey,
    state::invariants::{TrackerView, check_tracker},
    tracker::{JobFilter, JobKey, JobKind, JobReport},
};

use super::{Examination, Part};

/// How many jobs one page of their list has.
const PAGE: usize = 500;

impl Examination<'_> {
    pub(super) async fn tracker(&self) -> Result<Part> {
        let services = self.services;
        let mut part = Part::default();
        let key = ItemKey::new(Collection::TrackerRepairs, self.table.id.as_str(), ());
        let known_up_to = match services.ports.items.get(&key).await? {
            Some(item) => TransactionNumber(u64::try_from(item.number("transaction")?).unwrap_or_default()),
            None => TransactionNumber::default(),
        };
        let Some(earlier) = self.state().await? else {
            return Ok(part);
        };
        let mut reports = self.reports(None).await?;
        let listed: BTreeSet<_> = reports.iter().map(|report| report.key.clone()).collect();
        for (job, _) in earlier.ledger() {
            let key = JobKey {
                kind: JobKind::Ingest,
                table: Some(self.table.id.clone()),
                job: job.clone(),
            };
            if !listed.contains(&key) {
                reports.extend(services.tracker.report(&key).await?);
            }
        }
        let Some(state) = self.state().await? else {
            return Ok(part);
        };
        let open = reports.iter().filter(|report| !report.status.is_final()).count();
        part.count("jobs", reports.len());
        part.count("jobs in progress", open);
        part.findings = check_tracker(TrackerView {
            reports: &reports,
            state: &state,
            earlier: &earlier,
            known_up_to,
            retention: services.settings.job_status_ttl(),
            quiet: false,
            now: services.ports.clock.now(),
        });
        Ok(part)
    }

    /// The reports of the table's jobs, of one kind or all.
    pub(super) async fn reports(&self, kind: Option<JobKind>) -> Result<Vec<JobReport>> {
        let filter = JobFilter {
            kind,
            table: Some(self.table.id.clone()),
            ..JobFilter::default()
        };
        let mut reports = Vec::new();
        let mut cursor = None;
        loop {
            let tracker = &self.services.tracker;
            let page = tracker.list_after(&filter, cursor.as_ref(), PAGE).await?;
            reports.extend(page.jobs);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(reports);
            }
        }
    }
}
