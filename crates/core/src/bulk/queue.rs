//! Which jobs of a tenant have not ended.

use serde::{Deserialize, Serialize};

use super::state::BulkState;
use crate::{
    collections::Collection,
    error::{Error, Result},
    ids::BulkJobId,
    ports::{Condition, Item, ItemKey, Write},
    tenants::TenantId,
};

/// The jobs of a tenant that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantQueue {
    /// Made and not started.
    pub open: Vec<BulkJobId>,
    /// Waiting, in the order of being started.
    pub waiting: Vec<BulkJobId>,
    /// Running.
    pub running: Vec<BulkJobId>,
    #[serde(skip)]
    version: i64,
}

impl TenantQueue {
    pub(super) fn key(tenant: &TenantId) -> ItemKey {
        ItemKey::new(Collection::BulkQueues, tenant.as_str(), ())
    }

    pub(super) fn from_item(item: Option<&Item>) -> Result<Self> {
        let Some(item) = item else {
            return Ok(Self::default());
        };
        let mut queue: Self = serde_json::from_str(item.text("jobs")?).map_err(|error| {
            Error::corrupt(format!("queue {:?} of bulk jobs is damaged", item.key)).with_source(error)
        })?;
        queue.version = item.number("version")?;
        Ok(queue)
    }

    /// Writes the queue if it has not changed since it was read.
    pub(super) fn write(&self, tenant: &TenantId) -> Result<Write> {
        let jobs = serde_json::to_string(self)
            .map_err(|error| Error::internal("a queue of bulk jobs cannot be encoded").with_source(error))?;
        Ok(Write::Put {
            item: Item::new(Self::key(tenant))
                .with("jobs", jobs)
                .with("version", self.version + 1),
            condition: match self.version {
                0 => Condition::NotExists,
                version => Condition::equals("version", version),
            },
        })
    }

    /// How many jobs have not ended.
    pub fn len(&self) -> usize {
        self.open.len() + self.waiting.len() + self.running.len()
    }

    /// How many jobs wait or run.
    pub fn active(&self) -> u64 {
        (self.waiting.len() + self.running.len()) as u64
    }

    /// Whether all have ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every job that has not ended.
    pub fn all(&self) -> impl Iterator<Item = &BulkJobId> {
        self.open.iter().chain(&self.waiting).chain(&self.running)
    }

    /// The waiting jobs whose turn it is, when so many may run at a time.
    pub fn ready(&self, most: u64) -> &[BulkJobId] {
        let free = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.running.len());
        &self.waiting[..free.min(self.waiting.len())]
    }

    /// Puts a job where its state belongs.
    pub(super) fn place(&mut self, id: &BulkJobId, state: BulkState) {
        for list in [&mut self.open, &mut self.waiting, &mut self.running] {
            list.retain(|other| other != id);
        }
        match state {
            BulkState::Open => self.open.push(id.clone()),
            BulkState::UploadComplete => self.waiting.push(id.clone()),
            BulkState::InProgress => self.running.push(id.clone()),
            BulkState::JobComplete | BulkState::Failed | BulkState::Aborted => {}
        }
    }
}
