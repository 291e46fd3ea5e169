//! Queue `splitting`: leaves over the threshold become several.
//!
//! [`find`] sends a message for each leaf that the state gives more rows than the threshold. Who reads it samples the
//! leaf's keys and commits either the splits or that the leaf was looked at and kept, so that it is not looked at
//! again before it has grown. A message is a hint: a leaf that was split, or kept, by the time it is read is passed
//! over, and of two splitters that meet, the second one's commit is refused.

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    ids::{PartitionId, RunId},
    message::{SplittingMessage, TableRef},
    partition::Leaf,
    plan::split::{Division, divide, over_threshold},
    ports::{Delivery, Message, QueueName, SampleSpec},
    state::{Commit, CommitId, Kept, KeptBecause, Outcome, Record, TableState},
    tables::TableInfo,
};

use crate::{
    commit::own_object,
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// About how many keys of a leaf are looked at: a leaf may come apart into a fraction of as many at once.
const SAMPLED_KEYS: usize = 1024;

/// What became of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Splitting {
    /// It is so many leaves now.
    Split {
        /// How many.
        leaves: usize,
    },
    /// It stays whole.
    Kept(KeptBecause),
    /// Somebody else was there first, or it is not over the threshold.
    Passed,
}

/// Leaves of `table` that are worth a look, in key order.
///
/// # Errors
/// Errors of the stores; `Invalid` when a stored property is wrong.
pub async fn candidates(services: &Services, table: &TableInfo) -> Result<Vec<Leaf>> {
    let threshold = services.table_settings(table)?.splitting_threshold();
    let state = services.states.live_state(&table.id).await?;
    Ok(over_threshold(&state, threshold).collect())
}

/// Sends a message for each leaf that is worth a look, and returns how many.
///
/// # Errors
/// Errors of the stores.
pub async fn find(services: &Services, table: &TableInfo) -> Result<usize> {
    let messages = candidates(services, table)
        .await?
        .into_iter()
        .map(|leaf| {
            let message = SplittingMessage {
                table_id: table.id.clone(),
                partition_id: leaf.id,
            };
            Ok(Message::new(message.to_body()?))
        })
        .collect::<Result<Vec<_>>>()?;
    let count = messages.len();
    if count > 0 {
        services.queue(QueueName::Splitting)?.send(messages).await?;
    }
    Ok(count)
}

/// Looks at a leaf, and splits it if it is over the threshold.
///
/// # Errors
/// Errors of the stores; `Corrupt` when a file cannot be read.
pub async fn split(services: &Services, table: &TableInfo, leaf: &PartitionId) -> Result<Splitting> {
    let threshold = services.table_settings(table)?.splitting_threshold();
    let state = services.states.live_state(&table.id).await?;
    let Some(leaf) = over_threshold(&state, threshold).find(|over| over.id == *leaf) else {
        return Ok(Splitting::Passed);
    };
    let rows = state.rows_at(&leaf.id);
    let spec = sample_spec(services, table, &state, &leaf)?;
    drop(state);
    let sample = services.ports.engine.sample(spec).await.map_err(own_object)?;
    let new_id = || PartitionId::new(services.ports.ids.uuid().to_string());
    let (record, result) = match divide(&leaf.id, sample, threshold, new_id)? {
        Division::Splits(splits) => {
            let leaves = splits.len() + 1;
            (
                Record::PartitionTreeExtended { splits },
                Splitting::Split { leaves },
            )
        }
        Division::Keep(because) => {
            let kept = Kept {
                rows,
                because: because.clone(),
            };
            let partition = leaf.id.clone();
            (Record::LeafKept { partition, kept }, Splitting::Kept(because))
        }
    };
    let id = CommitId::new(format!("split/{}/{}", leaf.id, services.ports.ids.uuid()));
    match services
        .states
        .commit(&table.id, Commit::new(id, record))
        .await?
        .outcome
    {
        Outcome::Applied(_) | Outcome::AlreadyDone(_) => Ok(result),
        Outcome::Refused(refusal) if refusal.kind == ErrorKind::Conflict => Ok(Splitting::Passed),
        Outcome::Refused(refusal) => Err(Error::new(refusal.kind, refusal.reason)),
    }
}

fn sample_spec(
    services: &Services,
    table: &TableInfo,
    state: &TableState,
    leaf: &Leaf,
) -> Result<SampleSpec> {
    let schema = state
        .schema()
        .cloned()
        .ok_or_else(|| Error::not_found(format!("table {} has no schema", table.name)))?;
    let inputs = state
        .references(&leaf.id)
        .map(|reference| services.merge_input(&table.id, reference))
        .collect();
    Ok(SampleSpec {
        schema,
        leaf: leaf.clone(),
        inputs,
        keys: SAMPLED_KEYS,
    })
}

/// Splits leaves.
#[derive(Debug)]
pub struct Splitter {
    services: Services,
}

impl Splitter {
    /// A worker.
    pub fn new(services: Services) -> Self {
        Self { services }
    }
}

#[async_trait]
impl Handler for Splitter {
    fn queue(&self) -> QueueName {
        QueueName::Splitting
    }

    fn concurrency(&self) -> usize {
        1
    }

    async fn subject(&self, _body: &str, _message_id: &str) -> Result<Option<Subject>> {
        Ok(None)
    }

    async fn handle(&self, delivery: &Delivery, _run: &RunId) -> Result<(), JobFailure> {
        let message = SplittingMessage::parse(&delivery.body)?;
        let table = self.services.table(&TableRef::Id(message.table_id)).await?;
        let result = split(&self.services, &table, &message.partition_id).await?;
        tracing::info!(table = %table.name, partition = %message.partition_id, ?result, "leaf looked at");
        Ok(())
    }
}
