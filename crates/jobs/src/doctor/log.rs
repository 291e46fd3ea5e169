//! The log from its first entry to its head, the snapshots beside it, and the state that both give.

use std::collections::BTreeMap;

use dormouse_core::{
    Error, ErrorKind, Result,
    ids::TransactionNumber,
    state::{
        invariants::{Invariant, LogCheck, LogHead, Replay, Violation, check},
        log::StoredEntry,
        snapshot::SnapshotEntry,
    },
};

use super::{Examination, Part};

/// How many entries are in memory at a time.
const PAGE: usize = 100;

/// How often the log is followed on when commits come faster than it is read.
const ROUNDS: usize = 10;

/// A walk along the log.
struct Walk<'a> {
    examination: &'a Examination<'a>,
    part: Part,
    check: LogCheck<'a>,
    replay: Option<Replay>,
    /// Snapshots that lie ahead.
    ahead: BTreeMap<TransactionNumber, SnapshotEntry>,
    verified: Vec<TransactionNumber>,
    entries: usize,
    commits: usize,
}

impl Examination<'_> {
    pub(super) async fn log(&self) -> Result<Part> {
        let table = &self.table.id;
        let mut part = Part::default();
        let snapshots = match self.states.snapshots(table).await {
            Ok(snapshots) => snapshots,
            Err(error) => {
                part.findings.push(damaged("the list of snapshots", error)?);
                Vec::new()
            }
        };
        let mut walk = Walk {
            examination: self,
            part,
            check: LogCheck::new(table),
            replay: None,
            ahead: snapshots
                .into_iter()
                .map(|entry| (entry.transaction, entry))
                .collect(),
            verified: Vec::new(),
            entries: 0,
            commits: 0,
        };
        let mut head = None;
        for _ in 0..ROUNDS {
            let before = walk.check.last();
            walk.walk_on().await?;
            head = match self.states.stored_head(table).await {
                Ok(head) => head,
                Err(error) => {
                    walk.part.findings.push(damaged("the log's head", error)?);
                    break;
                }
            };
            let behind = head.is_some_and(|head| Some(head.number) > walk.check.last());
            if !behind || walk.check.last() == before {
                break;
            }
        }
        walk.finish(head).await
    }
}

/// The finding for something that is damaged or gone.
fn damaged(place: &str, error: Error) -> Result<Violation> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Invalid => Ok(Violation::new(
            Invariant::Log,
            place,
            error.report(),
            "restore its items from a backup of the item store",
        )),
        _ => Err(error),
    }
}

impl Walk<'_> {
    async fn walk_on(&mut self) -> Result<()> {
        loop {
            let after = self.check.last().unwrap_or_default();
            let (states, table) = (&self.examination.states, &self.examination.table.id);
            let page = states.stored_entries(table, after, PAGE).await?;
            let full = page.len() == PAGE;
            for entry in page {
                self.snapshots_before(entry.number).await?;
                self.entry(entry);
            }
            if !full {
                return Ok(());
            }
        }
    }

    fn entry(&mut self, stored: StoredEntry) {
        self.entries += 1;
        if stored.number.0 == 1 {
            self.replay = Some(Replay::new(&self.examination.table.id, Default::default()));
        }
        match stored.entry {
            Ok((entry, hash)) => {
                self.commits += entry.commits.len();
                self.check.entry(stored.number, &entry, hash);
                let follows = self
                    .replay
                    .as_mut()
                    .is_none_or(|replay| replay.follow(&entry, hash));
                if !follows {
                    self.end_replay(None);
                }
            }
            Err(error) => {
                self.check.damaged(stored.number, stored.hash, &error);
                self.end_replay(None);
            }
        }
    }

    /// Looks at the snapshots of transactions before `number`.
    async fn snapshots_before(&mut self, number: TransactionNumber) -> Result<()> {
        while let Some(next) = self.ahead.first_entry() {
            if *next.key() >= number {
                return Ok(());
            }
            let entry = next.remove();
            self.snapshot(entry).await?;
        }
        Ok(())
    }

    async fn snapshot(&mut self, entry: SnapshotEntry) -> Result<()> {
        let (states, table) = (&self.examination.states, &self.examination.table.id);
        let place = format!("snapshot of transaction {}", entry.transaction);
        let state = match states.snapshot_state(table, &entry).await {
            Ok(state) if state.transaction() == entry.transaction => state,
            Err(error) if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                return Err(error);
            }
            result => {
                let found = match result {
                    Ok(state) => format!("it holds transaction {}", state.transaction()),
                    Err(error) => format!("{}: {}", entry.path, error.report()),
                };
                self.part.findings.push(Violation::new(
                    Invariant::Replay,
                    place,
                    found,
                    "restore the object; else readers begin with an older snapshot, and the next snapshots take \
                     its place",
                ));
                return Ok(());
            }
        };
        self.verified.push(entry.transaction);
        match &mut self.replay {
            Some(replay) if replay.state().transaction() == entry.transaction => {
                replay.compare(place, &state)
            }
            Some(_) => {}
            None => {
                self.part.findings.extend(check(&state));
                self.replay = Some(Replay::new(table, state));
            }
        }
        Ok(())
    }

    fn end_replay(&mut self, head: Option<&LogHead>) -> Option<dormouse_core::state::TableState> {
        let (state, wrong) = self.replay.take()?.finish(head);
        self.part.findings.extend(wrong);
        Some(state)
    }

    async fn finish(mut self, head: Option<LogHead>) -> Result<Part> {
        let beyond = TransactionNumber(u64::MAX);
        self.snapshots_before(beyond).await?;
        let state = self.end_replay(head.as_ref());
        let loaded = self.examination.state().await?;
        if let (Some(state), Some(loaded)) = (&state, &loaded)
            && state.transaction() == loaded.transaction()
            && *state != **loaded
        {
            self.part.findings.push(Violation::new(
                Invariant::Replay,
                "the state that readers load",
                format!(
                    "it is not what the log gives at transaction {}",
                    state.transaction()
                ),
                "find the newest snapshot that disagrees with the log, and delete it and its item",
            ));
        }
        let Self {
            mut part,
            check,
            verified,
            entries,
            commits,
            ..
        } = self;
        part.count("log entries", entries);
        part.count("commits", commits);
        part.count("snapshots", verified.len());
        if let Some(state) = state {
            part.count("partitions", state.partitions().count());
            part.count(
                "references",
                usize::try_from(state.reference_count()).unwrap_or_default(),
            );
        }
        part.findings.extend(check.finish(head.as_ref(), verified));
        Ok(part)
    }
}
