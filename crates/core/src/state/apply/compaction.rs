//! References are leased to compactions, and give way to what these made.

use std::{slice, sync::Arc};

use super::{
    super::table_state::{CLOCK_SKEW_MARGIN, Lease, TableState},
    Effect, Refusal,
};
use crate::{
    file::DataFile,
    ids::{FileName, JobId, JobKind, PartitionId, RunId},
    time::Timestamp,
};

impl TableState {
    fn check_inputs(&self, partition: &PartitionId, inputs: &[FileName]) -> Result<(), Refusal> {
        if inputs.is_empty() {
            return Err(Refusal::invalid("a compaction needs at least one input"));
        }
        let at_leaf = self.references.get(partition);
        for input in inputs {
            if at_leaf.is_none_or(|at_leaf| !at_leaf.contains_key(input)) {
                return Err(Refusal::conflict(format!(
                    "input {input} is no longer referenced at leaf {partition}"
                )));
            }
        }
        let mut names: Vec<_> = inputs.iter().collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Refusal::invalid(format!("input {} is named twice", pair[0]))),
            None => Ok(()),
        }
    }

    pub(super) fn assign(
        &mut self,
        job: &JobId,
        partition: &PartitionId,
        inputs: &[FileName],
        until: Timestamp,
    ) -> Result<Effect, Refusal> {
        if let Some(done) = self.ledger.get(job) {
            return Ok(Effect::DoneBefore(done.transaction, false));
        }
        self.check_inputs(partition, inputs)?;
        for input in inputs {
            if let Some(lease) = self.leases.get(&(partition.clone(), input.clone()))
                && lease.job != *job
                && self.at < lease.until.plus(CLOCK_SKEW_MARGIN)
            {
                return Err(Refusal::conflict(format!(
                    "input {input} is leased to job {}",
                    lease.job
                )));
            }
        }
        for input in inputs {
            self.leases.insert(
                (partition.clone(), input.clone()),
                Lease {
                    job: job.clone(),
                    until,
                },
            );
        }
        Ok(Effect::Changed)
    }

    pub(super) fn commit_compaction(
        &mut self,
        job: &JobId,
        run: &RunId,
        issued: Timestamp,
        partition: &PartitionId,
        inputs: &[FileName],
        output: Option<&Arc<DataFile>>,
    ) -> Result<Effect, Refusal> {
        if let Some(done) = self.ledger.get(job).cloned() {
            let lost = done.run != *run && output.is_some_and(|file| self.discard(slice::from_ref(file)));
            return Ok(Effect::DoneBefore(done.transaction, lost));
        }
        self.check_not_forgotten(job, issued)?;
        self.check_inputs(partition, inputs)?;
        for input in inputs {
            match self.leases.get(&(partition.clone(), input.clone())) {
                Some(lease) if lease.job == *job => {}
                _ => {
                    return Err(Refusal::conflict(format!(
                        "job {job} lost its lease on input {input}"
                    )));
                }
            }
        }
        if let Some(file) = output {
            self.check_new_file(file)?;
            let bounds = self
                .partitions
                .get(partition)
                .map(|partition| partition.bounds.clone());
            if !bounds.is_some_and(|bounds| file.parts.iter().all(|part| bounds.covers(&part.range))) {
                return Err(Refusal::invalid(format!(
                    "output {} has keys beyond leaf {partition}",
                    file.name
                )));
            }
        }
        for input in inputs {
            self.drop_reference(partition, input);
        }
        if let Some(file) = output {
            self.add_file(file);
        }
        self.enter_into_ledger(
            job,
            run,
            issued,
            (
                JobKind::Compaction,
                output.map_or(0, |file| file.rows),
                output.map_or(0, |_| 1),
            ),
        );
        Ok(Effect::Changed)
    }
}
