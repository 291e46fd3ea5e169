//! What a run of a job tells the tracker, which is for people: a run goes on when the tracker does not listen.

use std::{convert::Infallible, time::Duration};

use dormouse_core::{
    ids::RunId,
    ports::{Metric, Progress},
    state::TableState,
    tracker::EventKind,
};

use crate::{services::Services, worker::Subject};

/// How often a run reports how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// One attempt at a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) services: &'a Services,
    pub(crate) subject: &'a Subject,
    pub(crate) id: &'a RunId,
    /// Which delivery of the message it is.
    pub(crate) attempt: u32,
}

impl Run<'_> {
    /// Reports an event, and says whether it was heard.
    pub(crate) async fn report(&self, kind: EventKind) -> bool {
        let table_name = self.subject.table_name.as_deref();
        let run = (self.id, self.attempt);
        let recorded = self
            .services
            .tracker
            .record(&self.subject.key, table_name, run, kind)
            .await;
        if let Err(error) = &recorded {
            tracing::warn!(job = %self.subject.key.job, error = error.report(), "not reported");
        }
        recorded.is_ok()
    }

    /// Measures what the run has written.
    pub(crate) fn measure(&self, metric: Metric, rows: u64) {
        let table = self.subject.table_name.as_deref();
        self.services.metrics.put(table, &[(metric, rows as f64)]);
    }

    /// Reports how far the run is, again and again.
    pub(crate) async fn report_progress(&self, progress: &Progress) -> Infallible {
        let mut reported = (0, 0);
        loop {
            self.services.ports.clock.sleep(PROGRESS_PERIOD).await;
            let now = (progress.read(), progress.written());
            if now != reported {
                let kind = EventKind::Progress {
                    rows_read: now.0,
                    rows_written: now.1,
                };
                // The next report says it again.
                if self.report(kind).await {
                    reported = now;
                }
            }
        }
    }

    /// Reports the run that has committed the job, which may be another one.
    pub(crate) async fn report_done(&self, state: &TableState) {
        if let Some(done) = state.committed(&self.subject.key.job) {
            let kind = EventKind::Committed {
                transaction: done.transaction,
                rows: done.rows,
                files: done.files,
            };
            let committed = Run {
                id: &done.run,
                ..*self
            };
            committed.report(kind).await;
        }
    }
}
