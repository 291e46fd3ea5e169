//! Items in DynamoDB: a table for each collection, whose keys and attributes are readable names.
//!
//! * Reads are strongly consistent.
//! * Several writes are one `TransactWriteItems` with a client token, so the call may be made again when its
//!   answer is lost. A single write is a `PutItem` or `DeleteItem`, which has no token: once an answer was lost, a
//!   condition that does not hold may be this call's own doing, and the answer is `Unavailable`.
//! * Many items are read by `BatchGetItem` and written by `BatchWriteItem`, each by itself.
//! * An item that expires has `expiresAt` in epoch milliseconds, which decides, and `ttl` in epoch seconds, by
//!   which DynamoDB removes it some time later.

mod attributes;
mod batch;

pub(crate) use self::attributes::TTL;

use std::{collections::HashMap, ops::Bound, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, ConditionCheck, Delete, Put, TransactWriteItem},
};
use dormouse_core::{
    Error, Result,
    collections::Collection,
    ports::{
        Clock, Condition, Ids, Item, ItemKey, ItemStore, Order, Range, Sort, Write,
        item_store::{check_items, check_range, check_sort, check_writes},
    },
};

use self::attributes::{EXPIRES_AT, from_attributes, key_attributes, sort_value, to_attributes, value_of};
use crate::{
    clients::Clients,
    error::{Effect, effect, from_sdk, is_turned_away},
};

/// How often a call is made before it is given up as `Unavailable`.
const ATTEMPTS: u32 = 8;

/// The ceiling of the pause before the second attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// The ceiling of any pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// An [`ItemStore`] on DynamoDB.
#[derive(Debug)]
pub struct DynamoItemStore {
    client: Client,
    prefix: String,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

/// The call with the expression as its condition; the SDK has a type for each call.
macro_rules! conditioned {
    ($call:expr, $expression:expr) => {
        $call
            .set_condition_expression($expression.text)
            .set_expression_attribute_names($expression.names)
            .set_expression_attribute_values($expression.values)
    };
}

/// How one attempt at a call ended, if not well.
enum Failed {
    /// The condition does not hold.
    Refused,
    Again(Error, Effect),
    End(Error),
}

impl Failed {
    fn of<E>(doing: &str, error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + std::fmt::Debug + 'static,
    {
        if error.code() == Some("ConditionalCheckFailedException") {
            return Self::Refused;
        }
        match effect(&error) {
            Effect::Never => Self::End(from_sdk(doing, error)),
            effect => Self::Again(from_sdk(doing, error), effect),
        }
    }
}

/// The attempts at one call.
struct Attempts<'a> {
    store: &'a DynamoItemStore,
    made: u32,
    ceiling: Duration,
    /// Whether an attempt may have had its effect.
    perhaps_done: bool,
}

impl Attempts<'_> {
    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The failure's error when there is to be none.
    async fn next(&mut self, failed: Failed) -> Result<()> {
        self.made += 1;
        match failed {
            Failed::Refused => return Err(Error::conflict("a condition does not hold")),
            Failed::End(error) => return Err(error),
            Failed::Again(error, _) if self.made == ATTEMPTS => return Err(error),
            Failed::Again(_, effect) => self.perhaps_done |= effect == Effect::Unknown,
        }
        let pause = self.store.ids.jitter(self.ceiling);
        self.ceiling = (self.ceiling * 2).min(MAX_PAUSE);
        self.store.clock.sleep(pause).await;
        Ok(())
    }
}

impl DynamoItemStore {
    /// The store whose tables are called `prefix` and the collection's name.
    pub fn new(clients: &Clients, prefix: &str, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self {
            client: clients.dynamodb.clone(),
            prefix: prefix.to_owned(),
            clock,
            ids,
        }
    }

    fn table(&self, collection: Collection) -> String {
        format!("{}{collection}", self.prefix)
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts {
            store: self,
            made: 0,
            ceiling: FIRST_PAUSE,
            perhaps_done: false,
        }
    }

    /// The condition, where an expired item counts as absent.
    fn condition(&self, write: &Write) -> Expression {
        let mut expression = Expression::default();
        let key = write.key().collection.partition_attribute();
        let expired = "#expires <= :now";
        let live = "(attribute_not_exists(#expires) OR #expires > :now)";
        let text = match write.condition() {
            Condition::None => return expression,
            Condition::NotExists => {
                expression.name("#key", key);
                format!("attribute_not_exists(#key) OR {expired}")
            }
            Condition::Exists => {
                expression.name("#key", key);
                format!("attribute_exists(#key) AND {live}")
            }
            Condition::Equals(name, value) => {
                expression.name("#name", name);
                expression.value(":value", value_of(value));
                format!("#name = :value AND {live}")
            }
        };
        expression.name("#expires", EXPIRES_AT);
        let now = self.clock.now().as_millis().to_string();
        expression.value(":now", AttributeValue::N(now));
        expression.text = Some(text);
        expression
    }

    /// A put or a delete by itself.
    async fn write_one(&self, write: &Write) -> Result<()> {
        let mut attempts = self.attempts();
        loop {
            let (table, expression) = (self.table(write.key().collection), self.condition(write));
            let client = &self.client;
            let done = match write {
                Write::Put { item, .. } => {
                    let put = client
                        .put_item()
                        .table_name(table)
                        .set_item(Some(to_attributes(item)?));
                    let sent = conditioned!(put, expression).send().await;
                    sent.map(|_| ())
                        .map_err(|error| Failed::of("writing an item", error))
                }
                Write::Delete { key, .. } => {
                    let delete = client
                        .delete_item()
                        .table_name(table)
                        .set_key(Some(key_attributes(key)));
                    let sent = conditioned!(delete, expression).send().await;
                    sent.map(|_| ())
                        .map_err(|error| Failed::of("removing an item", error))
                }
                Write::Check { .. } => return Err(Error::internal("a check is no write by itself")),
            };
            match done {
                Ok(()) => return Ok(()),
                Err(Failed::Refused) => return Err(refused(write, attempts.perhaps_done)),
                Err(failed) => attempts.next(failed).await?,
            }
        }
    }

    fn part(&self, write: &Write) -> Result<TransactWriteItem> {
        let expression = self.condition(write);
        let table = self.table(write.key().collection);
        let part = TransactWriteItem::builder();
        let built = match write {
            Write::Put { item, .. } => {
                let put = Put::builder()
                    .table_name(table)
                    .set_item(Some(to_attributes(item)?));
                conditioned!(put, expression).build().map(|put| part.put(put))
            }
            Write::Delete { key, .. } => {
                let delete = Delete::builder()
                    .table_name(table)
                    .set_key(Some(key_attributes(key)));
                conditioned!(delete, expression)
                    .build()
                    .map(|delete| part.delete(delete))
            }
            Write::Check { key, .. } => {
                let check = ConditionCheck::builder()
                    .table_name(table)
                    .set_key(Some(key_attributes(key)));
                conditioned!(check, expression)
                    .build()
                    .map(|check| part.condition_check(check))
            }
        };
        built
            .map(|part| part.build())
            .map_err(|error| Error::internal("a write cannot be built").with_source(error))
    }

    async fn transact_all(&self, writes: &[Write]) -> Result<()> {
        let token = self.ids.uuid().to_string();
        let parts = writes
            .iter()
            .map(|write| self.part(write))
            .collect::<Result<Vec<_>>>()?;
        let mut attempts = self.attempts();
        loop {
            let sent = self
                .client
                .transact_write_items()
                .client_request_token(&token)
                .set_transact_items(Some(parts.clone()))
                .send()
                .await;
            match sent {
                Ok(_) => return Ok(()),
                Err(error) => attempts.next(cancelled(writes, error)).await?,
            }
        }
    }
}

/// What a transaction that did not happen means.
fn cancelled(writes: &[Write], error: SdkError<TransactWriteItemsError>) -> Failed {
    const DOING: &str = "writing several items";
    let reasons: Vec<String> = match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled
            .cancellation_reasons()
            .iter()
            .map(|reason| reason.code().unwrap_or_default().to_owned())
            .collect(),
        _ => return Failed::of(DOING, error),
    };
    let failed = writes
        .iter()
        .zip(&reasons)
        .find(|(_, code)| *code == "ConditionalCheckFailed");
    if let Some((write, _)) = failed {
        return Failed::End(refused(write, false));
    }
    let error = from_sdk(DOING, error);
    match reasons.iter().any(|code| is_turned_away(code)) {
        true => Failed::Again(
            Error::unavailable("other writers have the same items in hand").with_source(error),
            Effect::None,
        ),
        false => Failed::End(error),
    }
}

fn refused(write: &Write, perhaps_done: bool) -> Error {
    let told = format!("{:?} does not hold for item {:?}", write.condition(), write.key());
    match perhaps_done {
        false => Error::conflict(told),
        true => Error::unavailable(format!(
            "{told}: by another write, or by this one, whose answer was lost"
        )),
    }
}

/// An expression with its placeholders.
#[derive(Default)]
struct Expression {
    text: Option<String>,
    names: Option<HashMap<String, String>>,
    values: Option<HashMap<String, AttributeValue>>,
}

impl Expression {
    fn name(&mut self, placeholder: &str, name: &str) {
        let names = self.names.get_or_insert_default();
        names.insert(placeholder.to_owned(), name.to_owned());
    }

    fn value(&mut self, placeholder: &str, value: AttributeValue) {
        let values = self.values.get_or_insert_default();
        values.insert(placeholder.to_owned(), value);
    }
}

/// The condition of a query on the keys: the ends of the range belong to it, also those that are excluded. None
/// when no key can be in the range.
fn key_condition(collection: Collection, partition: &str, range: &Range) -> Option<Expression> {
    let mut expression = Expression::default();
    expression.name("#partition", collection.partition_attribute());
    expression.value(":partition", AttributeValue::S(partition.to_owned()));
    let end = |bound: &Bound<Sort>| match bound {
        Bound::Included(sort) | Bound::Excluded(sort) => Some(sort.clone()),
        Bound::Unbounded => None,
    };
    let (start, end) = (end(&range.start), end(&range.end));
    let text = match (&start, &end) {
        (None, None) => "",
        (Some(_), None) => " AND #sort >= :start",
        (None, Some(_)) => " AND #sort <= :end",
        (Some(start), Some(end)) if start > end => return None,
        (Some(_), Some(_)) => " AND #sort BETWEEN :start AND :end",
    };
    for (placeholder, sort) in [(":start", start), (":end", end)] {
        // An empty text is below every other, and DynamoDB takes none as a key.
        match sort {
            Some(Sort::Text(text)) if text.is_empty() && placeholder == ":start" => {
                expression.value(":start", AttributeValue::S("\u{1}".to_owned()));
            }
            Some(Sort::Text(text)) if text.is_empty() => return None,
            Some(sort) => expression.value(placeholder, sort_value(&sort)?),
            None => continue,
        }
        expression.name("#sort", collection.sort_attribute());
    }
    expression.text = Some(format!("#partition = :partition{text}"));
    Some(expression)
}

fn is_end(bound: &Bound<Sort>, sort: &Sort) -> bool {
    matches!(bound, Bound::Excluded(end) if end == sort)
}

#[async_trait]
impl ItemStore for DynamoItemStore {
    async fn get(&self, key: &ItemKey) -> Result<Option<Item>> {
        check_sort(key.collection, &key.sort)?;
        let mut attempts = self.attempts();
        let answer = loop {
            let get = self
                .client
                .get_item()
                .table_name(self.table(key.collection))
                .set_key(Some(key_attributes(key)))
                .consistent_read(true);
            match get.send().await {
                Ok(answer) => break answer,
                Err(error) => attempts.next(Failed::of("reading an item", error)).await?,
            }
        };
        let now = self.clock.now();
        let item = answer
            .item
            .map(|attributes| from_attributes(key.collection, attributes))
            .transpose()?;
        Ok(item.filter(|item| item.is_live(now)))
    }

    async fn get_all(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>> {
        if let [key] = keys {
            return Ok(vec![self.get(key).await?]);
        }
        keys.iter()
            .try_for_each(|key| check_sort(key.collection, &key.sort))?;
        let found = self.read_batches(keys).await?;
        let now = self.clock.now();
        let live = |key| found.get(key).filter(|item| item.is_live(now)).cloned();
        Ok(keys.iter().map(live).collect())
    }

    async fn put_all(&self, items: Vec<Item>) -> Result<()> {
        if let [item] = &items[..] {
            return self.put(item.clone(), Condition::None).await;
        }
        check_items(&items)?;
        self.write_batches(&items).await
    }

    async fn query(
        &self,
        collection: Collection,
        partition: &str,
        range: Range,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Item>> {
        check_range(collection, &range)?;
        let mut items = Vec::new();
        let Some(condition) = key_condition(collection, partition, &range) else {
            return Ok(items);
        };
        let now = self.clock.now();
        let mut from = None;
        let mut attempts = self.attempts();
        while items.len() < limit {
            // The ends of the range may come too, and are left out below.
            let wanted = (limit - items.len()).saturating_add(2);
            let query = self
                .client
                .query()
                .table_name(self.table(collection))
                .consistent_read(true)
                .set_key_condition_expression(condition.text.clone())
                .set_expression_attribute_names(condition.names.clone())
                .set_expression_attribute_values(condition.values.clone())
                .scan_index_forward(order == Order::Ascending)
                .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from.clone());
            let page = match query.send().await {
                Ok(page) => page,
                Err(error) => {
                    attempts.next(Failed::of("querying items", error)).await?;
                    continue;
                }
            };
            attempts = self.attempts();
            for attributes in page.items.unwrap_or_default() {
                let item = from_attributes(collection, attributes)?;
                let sort = &item.key.sort;
                if !is_end(&range.start, sort)
                    && !is_end(&range.end, sort)
                    && item.is_live(now)
                    && items.len() < limit
                {
                    items.push(item);
                }
            }
            from = page.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                break;
            }
        }
        Ok(items)
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<()> {
        check_writes(&writes)?;
        // DynamoDB takes no check that asks for nothing.
        let asks = |write: &Write| {
            !matches!(write, Write::Check { .. }) || !matches!(write.condition(), Condition::None)
        };
        let writes: Vec<Write> = writes.into_iter().filter(asks).collect();
        match writes.as_slice() {
            [] => Ok(()),
            [write @ (Write::Put { .. } | Write::Delete { .. })] => self.write_one(write).await,
            writes => self.transact_all(writes).await,
        }
    }
}
