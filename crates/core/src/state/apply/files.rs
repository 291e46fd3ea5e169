//! Files come in with jobs, once, and lose their references.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use imbl::OrdMap;

use super::{
    super::table_state::{Extent, Garbage, LedgerEntry, LiveFile, Reference, TableState},
    Effect, Refusal, share,
};
use crate::{
    error::ErrorKind,
    file::DataFile,
    ids::{FileName, JobId, JobKind, PartitionId, RunId},
    time::Timestamp,
};

/// How far ahead of the log the clock of a job's sender may be. A job from the far future would, once forgotten,
/// bar every job that was sent before it.
pub(in super::super) const MAX_SENT_AHEAD: Duration = Duration::from_secs(24 * 3600);

impl TableState {
    pub(super) fn add_files(
        &mut self,
        job: &JobId,
        run: &RunId,
        issued: Timestamp,
        files: &[Arc<DataFile>],
    ) -> Result<Effect, Refusal> {
        if let Some(done) = self.ledger.get(job).cloned() {
            let lost = done.run != *run && self.discard(files);
            return Ok(Effect::DoneBefore(done.transaction, lost));
        }
        self.check_not_forgotten(job, issued)?;
        let mut names = BTreeSet::new();
        for file in files {
            self.check_new_file(file)?;
            if !names.insert(&file.name) {
                return Err(Refusal::invalid(format!("file {} is named twice", file.name)));
            }
        }
        for file in files {
            self.add_file(file);
        }
        self.enter_into_ledger(
            job,
            run,
            issued,
            (
                JobKind::Ingest,
                files.iter().fold(0, |rows, file| rows.saturating_add(file.rows)),
                files.len() as u64,
            ),
        );
        Ok(Effect::Changed)
    }

    pub(super) fn check_not_forgotten(&self, job: &JobId, issued: Timestamp) -> Result<(), Refusal> {
        if issued <= self.forgotten {
            return Err(Refusal::conflict(format!(
                "job {job} was sent at {issued}, and jobs sent up to {} may have committed and been forgotten",
                self.forgotten
            )));
        }
        if issued > self.at.plus(MAX_SENT_AHEAD) {
            return Err(Refusal::new(
                ErrorKind::Unavailable,
                format!(
                    "job {job} was sent at {issued}, which is after {}: a clock is wrong",
                    self.at
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn enter_into_ledger(
        &mut self,
        job: &JobId,
        run: &RunId,
        issued: Timestamp,
        (kind, rows, files): (JobKind, u64, u64),
    ) {
        let entry = LedgerEntry {
            kind,
            run: run.clone(),
            transaction: self.transaction,
            at: self.at,
            issued,
            rows,
            files,
        };
        self.ledger.insert(job.clone(), entry);
        self.ledger_by_age.insert((self.at, job.clone()));
    }

    pub(super) fn check_new_file(&self, file: &DataFile) -> Result<(), Refusal> {
        if self.knows(&file.name) {
            return Err(Refusal::new(
                ErrorKind::Unavailable,
                format!(
                    "file {} was in use before or swept as an orphan; run the job again",
                    file.name
                ),
            ));
        }
        let rows = file
            .parts
            .iter()
            .try_fold(0_u64, |rows, part| rows.checked_add(part.rows));
        if file.parts.is_empty() || rows != Some(file.rows) {
            return Err(Refusal::invalid(format!(
                "file {} has {} rows, and its {} parts do not add up to them",
                file.name,
                file.rows,
                file.parts.len()
            )));
        }
        let row_key_columns = self.schema.as_ref().map_or(0, |schema| schema.row_key().len());
        for part in &file.parts {
            for key in [&part.range.min, &part.range.max] {
                if let Some(schema) = &self.schema {
                    schema
                        .check_key(key)
                        .map_err(|error| Refusal::invalid(error.to_string()))?;
                }
                if key.0.len() != row_key_columns {
                    return Err(Refusal::invalid(format!(
                        "key {key} of file {} is not whole",
                        file.name
                    )));
                }
            }
            if part.range.min > part.range.max {
                return Err(Refusal::invalid(format!(
                    "a part of file {} ends at {} before it begins at {}",
                    file.name, part.range.max, part.range.min
                )));
            }
        }
        if let Some(pair) = file
            .parts
            .windows(2)
            .find(|pair| pair[0].range.max >= pair[1].range.min)
        {
            return Err(Refusal::invalid(format!(
                "parts of file {} overlap at {}",
                file.name, pair[1].range.min
            )));
        }
        Ok(())
    }

    pub(super) fn add_file(&mut self, file: &Arc<DataFile>) {
        let mut references = 0;
        for (i, part) in file.parts.iter().enumerate() {
            let leaves = self.leaves_touching(&part.range);
            for (k, leaf) in leaves.iter().enumerate() {
                let rows = share(part.rows, leaves.len(), k);
                let at_leaf = self.references.entry(leaf.clone()).or_default();
                let extent = match at_leaf.get(&file.name) {
                    Some(there) => Extent::Share {
                        range: there.range().union(&part.range),
                        rows: there.rows().saturating_add(rows),
                    },
                    None => {
                        references += 1;
                        if leaves.len() == 1 {
                            Extent::Part(i as u32)
                        } else {
                            Extent::Share {
                                range: part.range.clone(),
                                rows,
                            }
                        }
                    }
                };
                at_leaf.insert(
                    file.name.clone(),
                    Reference {
                        file: file.clone(),
                        extent,
                    },
                );
            }
        }
        let live = LiveFile {
            file: file.clone(),
            added: self.transaction,
            references,
        };
        self.files.insert(file.name.clone(), live);
    }

    /// Makes files that never were in the table garbage. Says whether there were any.
    pub(super) fn discard(&mut self, files: &[Arc<DataFile>]) -> bool {
        let mut changed = false;
        for file in files {
            if self.knows(&file.name) {
                continue;
            }
            let garbage = Garbage {
                bytes: file.bytes,
                added: None,
                removed: self.transaction,
                removed_at: self.at,
                marked: false,
            };
            self.garbage.insert(file.name.clone(), garbage);
            changed = true;
        }
        changed
    }

    pub(super) fn drop_reference(&mut self, leaf: &PartitionId, name: &FileName) {
        self.leases.remove(&(leaf.clone(), name.clone()));
        if let Some(at_leaf) = self.references.get_mut(leaf) {
            at_leaf.remove(name);
            if at_leaf.is_empty() {
                self.references.remove(leaf);
            }
        }
        let Some(live) = self.files.get_mut(name) else {
            return;
        };
        live.references = live.references.saturating_sub(1);
        if live.references == 0 {
            let garbage = Garbage {
                bytes: live.file.bytes,
                added: Some(live.added),
                removed: self.transaction,
                removed_at: self.at,
                marked: false,
            };
            self.files.remove(name);
            self.garbage.insert(name.clone(), garbage);
        }
    }

    pub(super) fn drop_all_references(&mut self) {
        for (name, live) in std::mem::take(&mut self.files) {
            let garbage = Garbage {
                bytes: live.file.bytes,
                added: Some(live.added),
                removed: self.transaction,
                removed_at: self.at,
                marked: false,
            };
            self.garbage.insert(name, garbage);
        }
        self.references = OrdMap::new();
        self.leases = OrdMap::new();
        self.kept = OrdMap::new();
    }
}
