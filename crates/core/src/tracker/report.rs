//! The report that events fold into.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::event::{Event, EventKind, JobKey, JobStatus};
use crate::{
    ids::{JobKind, RunId, TransactionNumber},
    predicate::Predicate,
    time::Timestamp,
};

/// How many runs of a job are kept: the newest, and the one that committed.
const MAX_RUNS: usize = 16;

/// How many reasons of a run are kept: the newest.
const MAX_REASONS: usize = 5;

/// How many parts of an export that failed are told apart; beyond that, their number is too low.
const MAX_FAILED_PARTS: usize = 1000;

/// One attempt at a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run.
    pub run: RunId,
    /// How often the job was sent again, after an end without effect, before this run.
    #[serde(default)]
    pub round: u32,
    /// Which delivery of the message.
    pub attempt: u32,
    /// How far the run is, or how it ended.
    pub status: JobStatus,
    /// When it was first heard of.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Rows read so far.
    pub rows_read: u64,
    /// Rows written so far.
    pub rows_written: u64,
    /// Files written.
    pub files: u64,
    /// The transaction that holds the job's commit.
    pub transaction: Option<TransactionNumber>,
    /// Why it ended.
    pub reasons: Vec<String>,
}

/// How far an export is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportCounts {
    /// The state that is exported.
    pub transaction: TransactionNumber,
    /// Parts in all.
    pub total: u64,
    /// Parts that are written.
    pub done: u64,
    /// Parts that failed for good.
    pub failed: u64,
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Where the files are, once the manifest is written.
    pub location: Option<String>,
    failed_parts: BTreeSet<String>,
}

/// Everything that is known of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Which job.
    #[serde(flatten)]
    pub key: JobKey,
    /// The table's name when the job was first heard of.
    pub table_name: Option<String>,
    /// How far it is.
    pub status: JobStatus,
    /// How many input files it has.
    pub input_files: u64,
    /// Which rows a compaction leaves out, where it purges some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge: Option<Predicate>,
    /// When it was first heard of.
    pub created: Timestamp,
    /// When it was last heard of.
    pub updated: Timestamp,
    /// The attempts, oldest first.
    pub runs: Vec<RunReport>,
    /// How far the export is.
    pub export: Option<ExportCounts>,
    /// A message that cannot be used.
    pub message: Option<String>,
}

/// The status of a job of which no run is known.
fn first_status(kind: JobKind) -> JobStatus {
    match kind {
        JobKind::Compaction => JobStatus::Created,
        JobKind::Ingest | JobKind::Export => JobStatus::Accepted,
    }
}

impl JobReport {
    /// The report of a job that something is heard of for the first time.
    pub fn new(key: JobKey, table_name: Option<String>, at: Timestamp) -> Self {
        Self {
            status: first_status(key.kind),
            key,
            table_name,
            input_files: 0,
            purge: None,
            created: at,
            updated: at,
            runs: Vec::new(),
            export: None,
            message: None,
        }
    }

    /// The run that decides: the one that committed, else of the latest sending the one that ended the message, else
    /// the latest attempt.
    ///
    /// An end takes the message with it, so a delivery that came twice and died may leave a later attempt open for
    /// ever.
    pub fn deciding_run(&self) -> Option<&RunReport> {
        self.runs.iter().max_by_key(|run| {
            let finished = run.status == JobStatus::Finished;
            (finished, run.round, run.status.is_final(), run.order())
        })
    }

    /// Why the job is not finished, if something went wrong: with the latest attempt, or else with the one
    /// before.
    pub fn reasons(&self) -> &[String] {
        match self.deciding_run() {
            Some(run) if run.status != JobStatus::Finished && run.reasons.is_empty() => self
                .runs
                .iter()
                .rev()
                .find(|run| !run.reasons.is_empty())
                .map_or(&[], |run| &run.reasons),
            Some(run) => &run.reasons,
            None => &[],
        }
    }

    /// Which sending of the job a run belongs to that is first heard of by this event: the latest, or a new one. A
    /// job that ended without effect and begins anew was sent again, or came back from the dead letters. That a job was
    /// created may be heard of after it has ended.
    fn round_of(&self, event: &Event) -> u32 {
        if matches!(event.kind, EventKind::Created { .. }) {
            return 0;
        }
        let latest = self.runs.iter().map(|run| run.round).max().unwrap_or(0);
        let ended_before = |run: &RunReport| {
            run.round == latest
                && run.status.is_final()
                && run.attempt >= event.attempt
                && run.ended.is_some_and(|ended| ended < event.at)
        };
        latest + u32::from(self.runs.iter().any(ended_before))
    }

    /// Where the run is that an event belongs to; none when the event begins one.
    ///
    /// All messages of an export report as one run: when the export is sent again after it had failed, that run
    /// has ended, and the plan's first event begins another of the same name.
    fn run_of(&self, event: &Event) -> Option<usize> {
        let named = || {
            self.runs
                .iter()
                .enumerate()
                .filter(|(_, run)| run.run == event.run)
        };
        let ended = |run: &RunReport| {
            matches!(run.status, JobStatus::Failed | JobStatus::Rejected)
                && run.ended.is_some_and(|ended| ended < event.at)
        };
        let going = named().find(|(_, run)| !ended(run));
        let begins = matches!(event.kind, EventKind::Accepted { .. } | EventKind::Split { .. });
        match going {
            Some((index, _)) => Some(index),
            None if begins => None,
            None => named().next_back().map(|(index, _)| index),
        }
    }

    fn forget_old_runs(&mut self) {
        while self.runs.len() > MAX_RUNS {
            let oldest = self.runs.iter().position(|run| run.status != JobStatus::Finished);
            self.runs.remove(oldest.unwrap_or(0));
        }
    }

    /// Folds one event into the report. Events may come in any order, and again.
    pub fn record(&mut self, event: &Event) {
        self.created = self.created.min(event.at);
        self.updated = self.updated.max(event.at);
        if let EventKind::Created { input_files, purge } = &event.kind {
            // Nobody runs it yet.
            self.input_files = self.input_files.max(*input_files);
            self.purge.clone_from(purge);
            return;
        }
        let known = self.run_of(event);
        if known.is_none()
            && let Some(export) = &mut self.export
            && export.location.is_none()
        {
            export.failed_parts.clear();
            export.failed = 0;
        }
        self.record_counts(&event.kind);
        let index = match known {
            Some(index) => index,
            None => {
                self.runs.push(RunReport {
                    run: event.run.clone(),
                    round: self.round_of(event),
                    attempt: event.attempt,
                    status: first_status(self.key.kind),
                    started: event.at,
                    ended: None,
                    rows_read: 0,
                    rows_written: 0,
                    files: 0,
                    transaction: None,
                    reasons: Vec::new(),
                });
                self.runs.len() - 1
            }
        };
        self.runs[index].record(event);
        self.runs.sort_by(|a, b| a.order().cmp(&b.order()));
        self.forget_old_runs();
        let first = first_status(self.key.kind);
        self.status = self.deciding_run().map_or(first, |run| run.status);
    }

    fn record_counts(&mut self, kind: &EventKind) {
        match kind {
            EventKind::Accepted { input_files } => self.input_files = self.input_files.max(*input_files),
            EventKind::Rejected { message, .. } => self.message = Some(message.clone()),
            EventKind::Split {
                transaction,
                sub_exports,
            } => {
                let export = self.export.get_or_insert_default();
                export.transaction = *transaction;
                export.total = *sub_exports;
            }
            EventKind::PartsDone { done, rows, bytes } => {
                let export = self.export.get_or_insert_default();
                export.done = export.done.max(*done);
                export.rows = export.rows.max(*rows);
                export.bytes = export.bytes.max(*bytes);
            }
            EventKind::PartFailed { part, .. } => {
                let export = self.export.get_or_insert_default();
                // A part that fails after the end was done before, and its message came late.
                if export.location.is_none() && export.failed_parts.len() < MAX_FAILED_PARTS {
                    export.failed_parts.insert(part.clone());
                    export.failed = export.failed_parts.len() as u64;
                }
            }
            EventKind::Exported {
                transaction,
                sub_exports,
                rows,
                bytes,
                location,
            } => {
                let export = self.export.get_or_insert_default();
                *export = ExportCounts {
                    transaction: *transaction,
                    total: *sub_exports,
                    done: *sub_exports,
                    failed: 0,
                    rows: *rows,
                    bytes: *bytes,
                    location: Some(location.clone()),
                    failed_parts: BTreeSet::new(),
                };
            }
            _ => {}
        }
    }

    /// Rows that the deciding run read.
    pub fn rows_read(&self) -> u64 {
        self.deciding_run().map_or(0, |run| run.rows_read)
    }

    /// Rows that the deciding run, or the export, wrote.
    pub fn rows_written(&self) -> u64 {
        match &self.export {
            Some(export) => export.rows,
            None => self.deciding_run().map_or(0, |run| run.rows_written),
        }
    }
}

impl RunReport {
    fn order(&self) -> (u32, u32, Timestamp, &RunId) {
        (self.round, self.attempt, self.started, &self.run)
    }

    fn record(&mut self, event: &Event) {
        self.started = self.started.min(event.at);
        let status = event.kind.status();
        self.status = self.status.max(status);
        if status.is_final() || matches!(event.kind, EventKind::Retrying { .. }) {
            self.ended = Some(self.ended.map_or(event.at, |ended| ended.max(event.at)));
        } else if !self.status.is_final() && self.ended.is_some_and(|ended| ended < event.at) {
            // The parts of an export report as one run, which goes on while one of them waits.
            self.ended = None;
        }
        match &event.kind {
            EventKind::Progress {
                rows_read,
                rows_written,
            } => {
                self.rows_read = self.rows_read.max(*rows_read);
                self.rows_written = self.rows_written.max(*rows_written);
            }
            EventKind::Written {
                rows_read,
                rows_written,
                files,
            } => {
                self.rows_read = self.rows_read.max(*rows_read);
                self.rows_written = self.rows_written.max(*rows_written);
                self.files = self.files.max(*files);
            }
            EventKind::Committed {
                transaction,
                rows,
                files,
            } => {
                self.transaction = Some(*transaction);
                self.rows_read = self.rows_read.max(*rows);
                self.rows_written = self.rows_written.max(*rows);
                self.files = self.files.max(*files);
            }
            EventKind::Exported {
                transaction,
                sub_exports,
                rows,
                ..
            } => {
                self.transaction = Some(*transaction);
                self.rows_written = self.rows_written.max(*rows);
                self.files = self.files.max(*sub_exports);
            }
            EventKind::Rejected { reasons, .. }
            | EventKind::Retrying { reasons }
            | EventKind::Failed { reasons }
            | EventKind::PartFailed { reasons, .. } => {
                for reason in reasons {
                    if !self.reasons.contains(reason) {
                        self.reasons.push(reason.clone());
                    }
                }
                let too_many = self.reasons.len().saturating_sub(MAX_REASONS);
                self.reasons.drain(..too_many);
            }
            _ => {}
        }
        if self.status == JobStatus::Finished {
            self.reasons.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;

    fn event(attempt: u32, run: &str, kind: EventKind) -> Event {
        Event {
            at: Timestamp::from_millis(i64::from(attempt) * 1000),
            run: RunId::new(run).unwrap(),
            attempt,
            kind,
        }
    }

    fn report(events: &[Event]) -> JobReport {
        let key = JobKey {
            kind: JobKind::Ingest,
            table: None,
            job: JobId::new("j").unwrap(),
        };
        let mut report = JobReport::new(key, None, Timestamp::from_millis(9_000));
        for event in events {
            report.record(event);
        }
        report
    }

    #[test]
    fn events_in_any_order_and_twice_give_the_same_report() {
        let events = [
            event(1, "a", EventKind::Accepted { input_files: 2 }),
            event(1, "a", EventKind::Started),
            event(
                1,
                "a",
                EventKind::Retrying {
                    reasons: vec!["throttled".into()],
                },
            ),
            event(2, "b", EventKind::Started),
            event(
                2,
                "b",
                EventKind::Written {
                    rows_read: 5,
                    rows_written: 5,
                    files: 1,
                },
            ),
            event(
                2,
                "b",
                EventKind::Committed {
                    transaction: TransactionNumber(3),
                    rows: 5,
                    files: 1,
                },
            ),
        ];
        let expected = report(&events);
        assert_eq!(expected.status, JobStatus::Finished);
        assert_eq!(expected.rows_written(), 5);
        let mut backwards: Vec<_> = events.iter().rev().cloned().collect();
        backwards.extend(events.clone());
        assert_eq!(report(&backwards), expected);
    }

    #[test]
    fn an_export_that_is_sent_again_after_it_failed_is_in_progress() {
        let later = |seconds: i64, kind| Event {
            at: Timestamp::from_millis(seconds * 1000),
            ..event(1, "export", kind)
        };
        let split = || EventKind::Split {
            transaction: TransactionNumber(3),
            sub_exports: 2,
        };
        let failed = EventKind::PartFailed {
            part: "a".into(),
            reasons: vec!["damaged".into()],
        };
        let done = |done| EventKind::PartsDone {
            done,
            rows: 5,
            bytes: 9,
        };
        let mut events = vec![later(1, split()), later(2, failed), later(3, done(1))];
        assert_eq!(
            report(&events).status,
            JobStatus::Failed,
            "other parts go on, and it stays failed"
        );
        events.push(later(4, split()));
        let again = report(&events);
        assert_eq!(again.status, JobStatus::Split);
        assert_eq!(again.export.unwrap().failed, 0);
        events.push(later(
            5,
            EventKind::Exported {
                transaction: TransactionNumber(3),
                sub_exports: 2,
                rows: 10,
                bytes: 18,
                location: "s3://export/t/e".into(),
            },
        ));
        assert_eq!(report(&events).status, JobStatus::Finished);
    }

    #[test]
    fn an_end_decides_over_an_attempt_that_was_left_open() {
        let rejected = EventKind::Rejected {
            reasons: vec!["no such path".into()],
            message: "{}".into(),
        };
        let retrying = || EventKind::Retrying {
            reasons: vec!["throttled".into()],
        };
        // The message was delivered twice: one run ended it, the other died.
        let ended = [
            event(1, "a", EventKind::Started),
            event(2, "b", EventKind::Started),
            event(1, "a", rejected.clone()),
        ];
        assert_eq!(report(&ended).status, JobStatus::Rejected);
        // Sent again: its first attempt gives way, its second ends.
        let later = |seconds: i64, event: Event| Event {
            at: Timestamp::from_millis(seconds * 1000),
            ..event
        };
        let again = [
            event(1, "a", rejected.clone()),
            later(5, event(1, "c", retrying())),
            later(9, event(2, "d", EventKind::Started)),
        ];
        assert_eq!(report(&again).status, JobStatus::InProgress);
        let mut again = again.to_vec();
        again.push(later(9, event(2, "d", rejected)));
        assert_eq!(report(&again).status, JobStatus::Rejected);
    }

    #[test]
    fn a_job_that_was_faster_than_the_word_of_its_creation_has_ended() {
        let events = [
            at(1000, 1, "a", failed("an input is gone")),
            at(
                2000,
                0,
                "j",
                EventKind::Created {
                    input_files: 3,
                    purge: None,
                },
            ),
        ];
        assert_eq!(report(&events).status, JobStatus::Failed);
        assert_eq!(report(&events).input_files, 3);
    }

    #[test]
    fn a_commit_outlives_a_later_failure() {
        let events = [
            event(
                1,
                "a",
                EventKind::Committed {
                    transaction: TransactionNumber(3),
                    rows: 5,
                    files: 1,
                },
            ),
            event(
                2,
                "b",
                EventKind::Failed {
                    reasons: vec!["gone".into()],
                },
            ),
        ];
        assert_eq!(report(&events).status, JobStatus::Finished);
    }

    #[test]
    fn the_latest_attempt_decides_while_none_has_committed() {
        let failed_late = [
            event(
                1,
                "a",
                EventKind::Written {
                    rows_read: 1,
                    rows_written: 1,
                    files: 1,
                },
            ),
            event(
                2,
                "b",
                EventKind::Failed {
                    reasons: vec!["bad input".into()],
                },
            ),
        ];
        assert_eq!(report(&failed_late).status, JobStatus::Failed);
        assert_eq!(report(&failed_late).reasons(), ["bad input"]);
    }

    fn failed(reason: &str) -> EventKind {
        EventKind::Failed {
            reasons: vec![reason.to_owned()],
        }
    }

    fn at(millis: i64, attempt: u32, run: &str, kind: EventKind) -> Event {
        Event {
            at: Timestamp::from_millis(millis),
            ..event(attempt, run, kind)
        }
    }

    #[test]
    fn a_running_attempt_shows_why_the_one_before_ended() {
        let retrying = EventKind::Retrying {
            reasons: vec!["throttled".into()],
        };
        let running = report(&[event(1, "a", retrying), event(2, "b", EventKind::Started)]);
        assert_eq!(running.status, JobStatus::InProgress);
        assert_eq!(running.reasons(), ["throttled"]);
    }

    #[test]
    fn reasons_are_those_of_the_run_that_decides() {
        let retrying = |reason: &str| EventKind::Retrying {
            reasons: vec![reason.to_owned()],
        };
        let committed = EventKind::Committed {
            transaction: TransactionNumber(3),
            rows: 5,
            files: 1,
        };
        let finished = report(&[event(1, "a", retrying("throttled")), event(2, "b", committed)]);
        assert_eq!(finished.reasons(), [""; 0]);
        // The message was delivered twice, and the run that came first ended it.
        let ended = report(&[
            event(1, "a", EventKind::Started),
            event(2, "b", retrying("throttled")),
            event(1, "a", failed("bad input")),
        ]);
        assert_eq!(ended.reasons(), ["bad input"]);
        assert_eq!(report(&[]).reasons(), [""; 0]);
    }

    #[test]
    fn what_a_run_has_written_shows_before_its_commit() {
        let written = EventKind::Written {
            rows_read: 6,
            rows_written: 5,
            files: 2,
        };
        let report = report(&[event(1, "a", EventKind::Started), event(1, "a", written)]);
        assert_eq!(report.status, JobStatus::Uncommitted);
        assert_eq!((report.rows_read(), report.rows_written()), (6, 5));
        assert_eq!(report.runs[0].files, 2);
    }

    #[test]
    fn an_attempt_that_follows_another_is_of_the_same_sending() {
        // The second delivery is heard of after the first has ended the message.
        let report = report(&[
            event(1, "a", failed("bad input")),
            event(2, "b", EventKind::Started),
        ]);
        let rounds: Vec<_> = report.runs.iter().map(|run| run.round).collect();
        assert_eq!(rounds, [0, 0]);
        assert_eq!(report.status, JobStatus::Failed);
    }

    #[test]
    fn an_event_that_comes_late_begins_no_run_of_its_own() {
        let accepted = || EventKind::Accepted { input_files: 2 };
        let late = report(&[
            at(2000, 1, "a", failed("bad input")),
            at(1000, 1, "a", accepted()),
        ]);
        assert_eq!((late.runs.len(), late.status), (1, JobStatus::Failed));
        let committed = EventKind::Committed {
            transaction: TransactionNumber(3),
            rows: 5,
            files: 1,
        };
        let again = report(&[at(1000, 1, "a", committed), at(2000, 1, "a", accepted())]);
        assert_eq!((again.runs.len(), again.status), (1, JobStatus::Finished));
    }

    #[test]
    fn an_export_counts_its_parts() {
        let split = EventKind::Split {
            transaction: TransactionNumber(3),
            sub_exports: 4,
        };
        let done = |done| EventKind::PartsDone {
            done,
            rows: done * 10,
            bytes: done * 100,
        };
        let part_failed = |part: &str| EventKind::PartFailed {
            part: part.to_owned(),
            reasons: vec!["gone".to_owned()],
        };
        let mut events = vec![
            at(1, 1, "e", split),
            at(2, 1, "e", done(2)),
            at(3, 1, "e", done(1)),
        ];
        let counts = |events: &[Event]| {
            let export = report(events).export.unwrap();
            (
                export.total,
                export.done,
                export.failed,
                export.rows,
                export.bytes,
            )
        };
        assert_eq!(counts(&events), (4, 2, 0, 20, 200));
        assert_eq!(report(&events).export.unwrap().transaction, TransactionNumber(3));
        for part in ["a", "b", "a"] {
            events.push(at(4, 1, "e", part_failed(part)));
        }
        assert_eq!(counts(&events), (4, 2, 2, 20, 200));
        assert_eq!(report(&events).rows_written(), 20);
        let exported = EventKind::Exported {
            transaction: TransactionNumber(3),
            sub_exports: 4,
            rows: 40,
            bytes: 400,
            location: "s3://export/t/e".to_owned(),
        };
        events.push(at(5, 1, "e", exported));
        assert_eq!(counts(&events), (4, 4, 0, 40, 400));
        let report = report(&events);
        let run = &report.runs[0];
        assert_eq!(run.transaction, Some(TransactionNumber(3)));
        assert_eq!((run.rows_written, run.files), (40, 4));
    }

    #[test]
    fn so_many_parts_that_failed_are_told_apart() {
        let events: Vec<_> = (0..=MAX_FAILED_PARTS)
            .map(|i| {
                let part = format!("part-{i}");
                let reasons = vec!["gone".to_owned()];
                at(1, 1, "e", EventKind::PartFailed { part, reasons })
            })
            .collect();
        let failed = |events: &[Event]| report(events).export.unwrap().failed;
        assert_eq!(failed(&events[..10]), 10);
        assert_eq!(failed(&events), MAX_FAILED_PARTS as u64);
    }

    #[test]
    fn an_export_goes_on_while_one_of_its_parts_waits() {
        let done = EventKind::PartsDone {
            done: 1,
            rows: 5,
            bytes: 9,
        };
        let retrying = EventKind::Retrying {
            reasons: vec!["throttled".to_owned()],
        };
        let ended = |events: &[Event]| report(events).runs[0].ended;
        let mut events = vec![at(20, 1, "e", retrying), at(10, 1, "e", done.clone())];
        assert_eq!(ended(&events), Some(Timestamp::from_millis(20)));
        events.push(at(30, 1, "e", done));
        assert_eq!(ended(&events), None);
    }

    #[test]
    fn a_job_that_is_sent_again_is_judged_by_its_new_runs() {
        let mut events = vec![
            at(1000, 5, "a", failed("out of attempts")),
            at(2000, 1, "b", EventKind::Started),
        ];
        assert_eq!(report(&events).status, JobStatus::InProgress);
        events.push(at(3000, 1, "b", failed("bad input")));
        assert_eq!(report(&events).reasons(), ["bad input"]);
        // An old event that comes late changes nothing.
        events.push(at(500, 4, "c", EventKind::Started));
        assert_eq!(report(&events).status, JobStatus::Failed);
        assert_eq!(report(&events).reasons(), ["bad input"]);
    }

    #[test]
    fn a_report_stays_small_whatever_is_sent() {
        let mut events = vec![at(
            0,
            1,
            "first",
            EventKind::Committed {
                transaction: TransactionNumber(3),
                rows: 5,
                files: 1,
            },
        )];
        for i in 0..2000 {
            let part = format!("part-{i}");
            let reasons = vec![format!("reason {i}")];
            events.push(at(i + 1, 1, "export", EventKind::PartFailed { part, reasons }));
            events.push(at(i + 1, 1, &format!("run-{i}"), failed("no")));
        }
        let report = report(&events);
        assert_eq!(report.status, JobStatus::Finished);
        assert_eq!(report.runs.len(), MAX_RUNS);
        assert_eq!(report.runs[0].run.as_str(), "first");
        assert!(report.runs.iter().any(|run| run.run.as_str() == "run-1999"));
        let bytes = serde_json::to_vec(&report).unwrap().len();
        assert!(bytes < 64 * 1024, "{bytes} bytes");
    }

    #[test]
    fn a_part_that_fails_after_the_end_changes_nothing() {
        let exported = EventKind::Exported {
            transaction: TransactionNumber(3),
            sub_exports: 2,
            rows: 5,
            bytes: 9,
            location: "s3://exports/t/e".to_owned(),
        };
        let part_failed = EventKind::PartFailed {
            part: "p".to_owned(),
            reasons: vec!["gone".to_owned()],
        };
        let report = report(&[at(1, 1, "e", exported), at(2, 1, "e", part_failed)]);
        assert_eq!(report.status, JobStatus::Finished);
        assert_eq!(report.export.as_ref().map(|export| export.failed), Some(0));
        assert!(report.reasons().is_empty());
    }
}
