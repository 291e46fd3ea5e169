//! Removes the rows of a table that a predicate is true for, by compactions that leave them out.
//!
//! A purge is about the rows that are in the table when it begins. It goes in rounds: each looks for files that may
//! still hold such rows ([`suspects`]), by their statistics, leases those that nobody else has leased, and sends a job
//! for each leaf. Once its jobs have ended, the next round finds what is left: files that another compaction had
//! leased or has merged since, leaves that were split under a job. The round that finds nothing is the last.
//!
//! A purge that is given up half-way has purged some files and not others; beginning it again is always safe.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dormouse_core::{
    Error, ErrorKind, Result,
    ids::{FileName, JobId, PartitionId, TransactionNumber},
    partition::Leaf,
    plan::{
        compaction::{MAX_INPUTS, PlannedCompaction},
        purge::suspects,
    },
    ports::MatchSpec,
    predicate::Predicate,
    state::{Reference, TableState, table_state::CLOCK_SKEW_MARGIN},
    tables::TableInfo,
};

use super::create::lease_and_send;
use crate::{commit::own_object, services::Services};

/// A purge that is under way.
#[derive(Debug)]
pub struct Purge<'a> {
    services: &'a Services,
    table: TableInfo,
    predicate: Predicate,
    since: TransactionNumber,
    /// Every job that was sent.
    jobs: BTreeSet<JobId>,
    /// What statistics said of files, which never change.
    looked_at: BTreeMap<(PartitionId, FileName), bool>,
}

/// What a round has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The state that it looked at.
    pub transaction: TransactionNumber,
    /// The jobs that it has sent.
    pub sent: Vec<JobId>,
    /// How many files it has to leave to a later round, as others work on them.
    pub busy: usize,
    /// Jobs of earlier rounds that have files leased and have not committed, though they have ended. Nothing is sent
    /// before their leases have run out.
    pub stuck: BTreeSet<JobId>,
}

impl Round {
    /// Whether nothing is left to do.
    pub fn is_last(&self) -> bool {
        self.sent.is_empty() && self.busy == 0 && self.stuck.is_empty()
    }
}

/// A file at a leaf that may hold rows to purge.
#[derive(Clone, Debug)]
pub struct Match {
    /// The leaf.
    pub leaf: Leaf,
    /// The file's rows there.
    pub reference: Reference,
}

impl<'a> Purge<'a> {
    /// Begins a purge; nothing is changed yet.
    ///
    /// # Errors
    /// `Invalid` when the predicate does not fit the table; errors of the stores.
    pub async fn begin(services: &'a Services, table: &TableInfo, predicate: Predicate) -> Result<Self> {
        let state = services.states.live_state(&table.id).await?;
        let purge = Self {
            services,
            table: table.clone(),
            predicate,
            since: state.transaction(),
            jobs: BTreeSet::new(),
            looked_at: BTreeMap::new(),
        };
        let everywhere = Leaf {
            id: PartitionId::root(),
            bounds: Default::default(),
        };
        purge.ask(&state, &everywhere, &[]).await?;
        Ok(purge)
    }

    /// The state whose rows it is about.
    pub fn since(&self) -> TransactionNumber {
        self.since
    }

    /// Every job that was sent so far.
    pub fn jobs(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.iter()
    }

    /// The files that may hold rows to purge, in key order.
    ///
    /// # Errors
    /// `Corrupt` when a file cannot be read; errors of the stores.
    pub async fn matches(&mut self) -> Result<Vec<Match>> {
        Ok(self.look().await?.1)
    }

    /// Sends jobs for what is left to purge, unless one of its jobs is stuck. Call it when the jobs of the round before
    /// have ended.
    ///
    /// # Errors
    /// `Corrupt` when a file cannot be read; errors of the stores.
    pub async fn round(&mut self) -> Result<Round> {
        let (state, matches) = self.look().await?;
        let mut round = Round {
            transaction: state.transaction(),
            ..Round::default()
        };
        let now = self.services.ports.clock.now().max(state.at());
        let mut free: Vec<Match> = Vec::new();
        for found in matches {
            let lease = state.lease(&found.leaf.id, &found.reference.file.name);
            match lease.filter(|lease| now < lease.until.plus(CLOCK_SKEW_MARGIN)) {
                None => free.push(found),
                Some(lease) if self.jobs.contains(&lease.job) => {
                    round.stuck.insert(lease.job.clone());
                }
                Some(_) => round.busy += 1,
            }
        }
        drop(state);
        if !round.stuck.is_empty() {
            return Ok(round);
        }
        let sent = lease_and_send(self.services, &self.table, &plan(&free), Some(&self.predicate)).await?;
        round.busy += free.len() - sent.iter().map(|(_, inputs)| inputs).sum::<usize>();
        round.sent = sent.into_iter().map(|(job, _)| job).collect();
        self.jobs.extend(round.sent.iter().cloned());
        Ok(round)
    }

    /// The newest state, and what it has to purge. A file that was merged and collected while it was looked for is no
    /// longer there in a newer state.
    async fn look(&mut self) -> Result<(Arc<TableState>, Vec<Match>)> {
        loop {
            let state = self.services.states.live_state(&self.table.id).await?;
            match self.matches_in(&state).await {
                Ok(matches) => return Ok((state, matches)),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let newer = self.services.states.live_state(&self.table.id).await?;
                    if newer.transaction() == state.transaction() {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn matches_in(&mut self, state: &Arc<TableState>) -> Result<Vec<Match>> {
        let mut matches = Vec::new();
        for (leaf, references) in suspects(state, self.since, |job| self.jobs.contains(job)) {
            let place = |reference: &Reference| (leaf.id.clone(), reference.file.name.clone());
            let unseen: Vec<_> = references
                .iter()
                .filter(|reference| !self.looked_at.contains_key(&place(reference)))
                .cloned()
                .collect();
            if !unseen.is_empty() {
                let may_match = self.ask(state, &leaf, &unseen).await?;
                self.looked_at.extend(unseen.iter().map(place).zip(may_match));
            }
            let found = references
                .into_iter()
                .filter(|reference| self.looked_at.get(&place(reference)) == Some(&true))
                .map(|reference| Match {
                    leaf: leaf.clone(),
                    reference,
                });
            matches.extend(found);
        }
        Ok(matches)
    }

    async fn ask(&self, state: &TableState, leaf: &Leaf, references: &[Reference]) -> Result<Vec<bool>> {
        let schema = state
            .schema()
            .cloned()
            .ok_or_else(|| Error::not_found(format!("table {} has no schema", self.table.name)))?;
        let rules = self.services.table_settings(&self.table)?.row_rules();
        let inputs = references
            .iter()
            .map(|reference| self.services.merge_input(&self.table.id, reference))
            .collect();
        let spec = MatchSpec {
            schema,
            leaf: leaf.clone(),
            inputs,
            predicate: self.predicate.clone(),
            rules: rules.at(state.at()),
        };
        self.services
            .ports
            .engine
            .may_match(spec)
            .await
            .map_err(own_object)
    }
}

/// A compaction for each leaf, or several where it has very many files.
fn plan(matches: &[Match]) -> Vec<PlannedCompaction> {
    let of_leaf = |at_leaf: &[Match]| PlannedCompaction {
        partition: at_leaf[0].leaf.id.clone(),
        inputs: at_leaf
            .iter()
            .map(|found| found.reference.file.name.clone())
            .collect(),
        rows: at_leaf
            .iter()
            .map(|found| found.reference.rows())
            .fold(0, u64::saturating_add),
    };
    matches
        .chunk_by(|a, b| a.leaf.id == b.leaf.id)
        .flat_map(|at_leaf| at_leaf.chunks(MAX_INPUTS))
        .map(of_leaf)
        .collect()
}
