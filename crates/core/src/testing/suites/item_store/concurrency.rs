use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{expect, fresh_partition};
use crate::{
    collections::Collection,
    error::{ErrorKind, Result},
    ports::{
        Clock, Condition, Ids, Item, ItemKey, ItemStore, Order, Range, SystemClock, SystemIds, Value, Write,
    },
};

const APPENDERS: usize = 16;
const APPENDS_EACH: usize = 12;

/// Appends `what` to the log of `partition` as the transaction log does: the new entry must not exist, and the
/// head must move from its number to the next, in one transaction. Returns the entry's number.
///
/// # Errors
/// Whatever the store answers but `Conflict`, after which the append is tried again.
pub async fn append_to_log(store: &dyn ItemStore, partition: &str, what: &str) -> Result<u64> {
    let head_key = ItemKey::new(Collection::Heads, partition, ());
    loop {
        let head = store.get(&head_key).await?;
        let (number, head_condition) = match &head {
            None => (1, Condition::NotExists),
            Some(head) => {
                let number = head.number("number")?;
                (number + 1, Condition::equals("number", number))
            }
        };
        let entry = ItemKey::new(Collection::Transactions, partition, number as u64);
        let writes = vec![
            Write::Put {
                item: Item::new(entry).with("what", what),
                condition: Condition::NotExists,
            },
            Write::Put {
                item: Item::new(head_key.clone()).with("number", number),
                condition: head_condition,
            },
        ];
        match store.transact(writes).await {
            Ok(()) => return Ok(number as u64),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                SystemClock
                    .sleep(SystemIds.jitter(Duration::from_millis(2)))
                    .await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Panics unless the log of `partition` holds what `acknowledged` says, each number once, and nothing else.
pub async fn check_log(store: &dyn ItemStore, partition: &str, acknowledged: &BTreeMap<u64, String>) {
    let entries = store
        .query(
            Collection::Transactions,
            partition,
            Range::all(),
            usize::MAX,
            Order::Ascending,
        )
        .await;
    let found: BTreeMap<u64, String> = expect(entries, "a query of the log")
        .into_iter()
        .map(|item| match (&item.key.sort, item.attributes.get("what")) {
            (crate::ports::Sort::Number(number), Some(Value::Text(what))) => (*number, what.clone()),
            _ => panic!("the log holds {item:?}"),
        })
        .collect();
    assert!(
        found.keys().copied().eq(1..=found.len() as u64),
        "the log has holes: {:?}",
        found.keys()
    );
    assert_eq!(
        &found, acknowledged,
        "the log holds other entries than were acknowledged"
    );
    let head = expect(
        store.get(&ItemKey::new(Collection::Heads, partition, ())).await,
        "getting the head",
    )
    .unwrap_or_else(|| panic!("the log has no head"));
    assert_eq!(
        head.attributes.get("number"),
        Some(&Value::from(found.len() as u64)),
        "the head is not at the newest entry"
    );
}

/// Many appenders on one log: every acknowledged append is there at its number, once, and the numbers have no
/// hole.
pub async fn concurrent_appenders_lose_and_double_nothing(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let mut appenders = JoinSet::new();
    for appender in 0..APPENDERS {
        let (store, partition) = (store.clone(), partition.clone());
        appenders.spawn(async move {
            let mut appended = Vec::new();
            for append in 0..APPENDS_EACH {
                let what = format!("{appender}/{append}");
                let number = expect(append_to_log(&*store, &partition, &what).await, "an append");
                appended.push((number, what));
            }
            appended
        });
    }
    let acknowledged: Vec<_> = appenders.join_all().await.into_iter().flatten().collect();
    let by_number: BTreeMap<_, _> = acknowledged.iter().cloned().collect();
    assert_eq!(
        by_number.len(),
        APPENDERS * APPENDS_EACH,
        "two appenders were told the same number"
    );
    check_log(&*store, &partition, &by_number).await;
}

/// Compare-and-set from many tasks loses no increment.
pub async fn counters_lose_no_increment(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    const TASKS: i64 = 8;
    const INCREMENTS: i64 = 10;
    let store = make().await;
    let key = ItemKey::new(Collection::Heads, fresh_partition(), ());
    let counter = |count: i64| Item::new(key.clone()).with("count", count);
    expect(store.put(counter(0), Condition::NotExists).await, "a plain put");
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (store, key) = (store.clone(), key.clone());
        tasks.spawn(async move {
            for _ in 0..INCREMENTS {
                loop {
                    let item = expect(store.get(&key).await, "getting the counter")
                        .unwrap_or_else(|| panic!("the counter is gone"));
                    let count = expect(item.number("count"), "the counter's attribute");
                    let next = Item::new(key.clone()).with("count", count + 1);
                    match store.put(next, Condition::equals("count", count)).await {
                        Ok(()) => break,
                        Err(error) if error.kind() == ErrorKind::Conflict => {
                            SystemClock
                                .sleep(SystemIds.jitter(Duration::from_millis(2)))
                                .await;
                        }
                        Err(error) => panic!("an increment: {}", error.report()),
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    let found = expect(store.get(&key).await, "getting the counter");
    assert_eq!(found, Some(counter(TASKS * INCREMENTS)), "increments were lost");
}
