//! Is everything that is stored of a table sound?
//!
//! An examination reads and changes nothing. It goes over the log from its first entry to its head, every
//! snapshot, the state, the objects, the tracker and the finished exports; a deep one also reads every live data
//! file and every exported file. What holds is in [`dormouse_core::state::invariants`].
//!
//! Work may go on meanwhile. The parts are read in the order in which things become true, and what looks wrong is
//! looked at again: it is a finding only if it is still so.

mod exports;
mod files;
mod log;
mod objects;
mod tracker;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use dormouse_core::{
    ErrorKind, Result,
    ids::{TableId, TransactionNumber},
    state::{
        StateStore, TableState,
        invariants::{Invariant, Violation},
    },
    tables::TableInfo,
};
use serde::Serialize;

use crate::services::Services;

/// How often what looks wrong is looked at again.
const SECOND_LOOKS: usize = 2;

/// How long a second look waits.
const PAUSE: Duration = Duration::from_millis(500);

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What is stored of the state, and which objects there are.
    State,
    /// Also every byte and row of every live file and finished export.
    Deep,
}

/// Things of one kind that were looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What they are.
    pub what: &'static str,
    /// How many.
    pub count: u64,
}

/// What an examination of one table found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The table's name.
    pub table: String,
    /// The table's id.
    pub table_id: TableId,
    /// The state that was examined; none when it cannot be read.
    pub transaction: Option<TransactionNumber>,
    /// Whether files were read.
    pub deep: bool,
    /// What was looked at.
    pub checked: Vec<Checked>,
    /// What is wrong.
    pub findings: Vec<Violation>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// What one part of an examination saw.
#[derive(Debug, Default)]
struct Part {
    checked: Vec<Checked>,
    findings: Vec<Violation>,
}

impl Part {
    fn count(&mut self, what: &'static str, count: usize) {
        let count = count as u64;
        match self.checked.iter_mut().find(|checked| checked.what == what) {
            Some(checked) => checked.count += count,
            None => self.checked.push(Checked { what, count }),
        }
    }
}

/// What the parts of an examination work with.
struct Examination<'a> {
    services: &'a Services,
    /// Reads states afresh: what this process has in memory may be better than what is stored.
    states: StateStore,
    table: &'a TableInfo,
    depth: Depth,
}

/// Examines a table.
///
/// # Errors
/// Errors of the stores, other than about damage: that is what the report is for.
pub async fn examine(services: &Services, table: &TableInfo, depth: Depth) -> Result<Report> {
    let ports = &services.ports;
    let examination = Examination {
        services,
        states: StateStore::new(
            ports.items.clone(),
            services.data.clone(),
            ports.clock.clone(),
            ports.ids.clone(),
        ),
        table,
        depth,
    };
    let mut report = Report {
        table: table.name.to_string(),
        table_id: table.id.clone(),
        transaction: None,
        deep: depth == Depth::Deep,
        checked: Vec::new(),
        findings: Vec::new(),
    };
    let mut add = |part: Part| {
        report.checked.extend(part.checked);
        report.findings.extend(part.findings);
    };
    add(examination.confirmed(async || examination.log().await).await?);
    let Some(state) = examination.state().await? else {
        if report.is_sound() {
            report.findings.push(Violation::new(
                Invariant::Log,
                "the state",
                "it cannot be read from any snapshot, nor from the log",
                "restore the log and the snapshots from a backup",
            ));
        }
        return Ok(report);
    };
    add(examination
        .confirmed(async || examination.objects().await)
        .await?);
    add(examination
        .confirmed(async || examination.tracker().await)
        .await?);
    add(examination
        .confirmed(async || examination.exports().await)
        .await?);
    if depth == Depth::Deep {
        let known: BTreeSet<String> = report
            .findings
            .iter()
            .map(|finding| finding.place.clone())
            .collect();
        let files = examination.files(&state, &known).await?;
        report.checked.extend(files.checked);
        report.findings.extend(files.findings);
    }
    report.transaction = Some(state.transaction());
    report
        .findings
        .sort_by(|a, b| (a.invariant, &a.place).cmp(&(b.invariant, &b.place)));
    Ok(report)
}

impl Examination<'_> {
    /// The newest state; none when what is stored of it is damaged.
    async fn state(&self) -> Result<Option<Arc<TableState>>> {
        match self.states.state(&self.table.id).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a look saw, with those findings that are still so when looked at again.
    async fn confirmed<F: Future<Output = Result<Part>>>(&self, look: impl Fn() -> F) -> Result<Part> {
        let mut part = look().await?;
        for _ in 0..SECOND_LOOKS {
            if part.findings.is_empty() {
                break;
            }
            self.services.ports.clock.sleep(PAUSE).await;
            let again = look().await?;
            let mut confirmed = again.findings;
            confirmed.retain(|finding| {
                part.findings
                    .iter()
                    .any(|before| before.invariant == finding.invariant && before.place == finding.place)
            });
            part = Part {
                checked: again.checked,
                findings: confirmed,
            };
        }
        Ok(part)
    }
}
