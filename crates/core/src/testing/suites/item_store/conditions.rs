use std::sync::Arc;

use super::{EXPIRY, expect, expect_kind, fresh_partition, wait_for_expiry};
use crate::{
    collections::Collection,
    error::{ErrorKind, Result},
    ports::{Clock, Condition, Item, ItemKey, ItemStore, SystemClock, Value, Write},
};

/// Every kind of condition with whether it holds for no item, and for an item where `n` is 1.
fn conditions() -> Vec<(Condition, bool, bool)> {
    vec![
        (Condition::None, true, true),
        (Condition::NotExists, true, false),
        (Condition::Exists, false, true),
        (Condition::equals("n", 1_i64), false, true),
        (Condition::equals("n", 2_i64), false, false),
        (Condition::equals("n", "1"), false, false),
        (Condition::equals("absent", 1_i64), false, false),
        (Condition::equals("flag", true), false, true),
        (Condition::equals("flag", false), false, false),
        (Condition::equals("text", "a\u{1f600}"), false, true),
        (Condition::equals("text", "a"), false, false),
        (
            Condition::Equals("bytes".to_owned(), Value::Bytes(vec![0, 255].into())),
            false,
            true,
        ),
        (
            Condition::Equals("bytes".to_owned(), Value::Bytes(vec![0].into())),
            false,
            false,
        ),
    ]
}

fn sample(key: &ItemKey) -> Item {
    let mut item = Item::new(key.clone())
        .with("n", 1_i64)
        .with("flag", true)
        .with("text", "a\u{1f600}");
    item.attributes
        .insert("bytes".to_owned(), Value::Bytes(vec![0, 255].into()));
    item
}

/// Calls `write` for each condition, against no item and against the sample, and checks that it happened just
/// when the condition holds. `after` is what a write that happened leaves, given what was there.
async fn decide(
    store: &dyn ItemStore,
    what: &str,
    write: impl AsyncFn(ItemKey, Condition) -> Result<()>,
    after: impl Fn(&ItemKey, Option<Item>) -> Option<Item>,
) {
    for (condition, holds_for_none, holds_for_sample) in conditions() {
        for (present, holds) in [(false, holds_for_none), (true, holds_for_sample)] {
            let key = ItemKey::new(Collection::Heads, fresh_partition(), ());
            let before = present.then(|| sample(&key));
            if let Some(item) = before.clone() {
                expect(store.put(item, Condition::None).await, "a plain put");
            }
            let promise = format!("{what} with {condition:?}, item present: {present}");
            let result = write(key.clone(), condition.clone()).await;
            let expected = if holds {
                expect(result, &promise);
                after(&key, before)
            } else {
                expect_kind(result, ErrorKind::Conflict, &promise);
                before
            };
            let found = expect(store.get(&key).await, "getting an item");
            assert_eq!(found, expected, "{promise}: left the wrong item");
        }
    }
}

/// A put happens when its condition holds for the item that is there, and otherwise fails with `Conflict`.
pub async fn conditions_decide_puts(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let written = |key: &ItemKey| Item::new(key.clone()).with("written", true);
    decide(
        &*store,
        "a put",
        async |key, condition| store.put(written(&key), condition).await,
        |key, _| Some(written(key)),
    )
    .await;
}

/// A delete happens when its condition holds for the item that is there, and otherwise fails with `Conflict`.
pub async fn conditions_decide_deletes(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    decide(
        &*store,
        "a delete",
        async |key, condition| store.delete(key, condition).await,
        |_, _| None,
    )
    .await;
}

/// A check changes nothing, and fails its transaction when its condition does not hold.
pub async fn conditions_decide_checks(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    decide(
        &*store,
        "a check",
        async |key, condition| {
            let other = ItemKey::new(Collection::Heads, fresh_partition(), ());
            let put = Write::Put {
                item: Item::new(other.clone()),
                condition: Condition::None,
            };
            let result = store.transact(vec![put, Write::Check { key, condition }]).await;
            let written = expect(store.get(&other).await, "getting an item").is_some();
            assert_eq!(
                written,
                result.is_ok(),
                "the write beside a check happened: {written}, but its transaction: {result:?}"
            );
            result
        },
        |_, before| before,
    )
    .await;
}

/// When one condition of many does not hold, none of the writes happens; otherwise all of them do.
pub async fn transactions_are_all_or_nothing(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let entry = |number: u64| ItemKey::new(Collection::Transactions, &partition, number);
    let head = ItemKey::new(Collection::Heads, &partition, ());
    for number in [1, 2] {
        expect(
            store.put(Item::new(entry(number)), Condition::None).await,
            "a plain put",
        );
    }
    let writes = |condition: Condition| {
        vec![
            Write::Put {
                item: Item::new(entry(3)).with("n", 3_i64),
                condition: Condition::NotExists,
            },
            Write::Delete {
                key: entry(1),
                condition: Condition::Exists,
            },
            Write::Check {
                key: entry(2),
                condition: Condition::Exists,
            },
            Write::Put {
                item: Item::new(head.clone()).with("number", 3_i64),
                condition,
            },
        ]
    };
    expect_kind(
        store.transact(writes(Condition::Exists)).await,
        ErrorKind::Conflict,
        "a transaction whose last condition does not hold",
    );
    for (key, there) in [
        (entry(1), true),
        (entry(2), true),
        (entry(3), false),
        (head.clone(), false),
    ] {
        let found = expect(store.get(&key).await, "getting an item").is_some();
        assert_eq!(found, there, "a failed transaction changed {key:?}");
    }
    expect(
        store.transact(writes(Condition::NotExists)).await,
        "a transaction whose conditions all hold",
    );
    for (key, there) in [
        (entry(1), false),
        (entry(2), true),
        (entry(3), true),
        (head.clone(), true),
    ] {
        let found = expect(store.get(&key).await, "getting an item").is_some();
        assert_eq!(found, there, "a transaction left a part of itself out: {key:?}");
    }
}

/// From its expiry time on, an item is neither read nor seen by conditions.
pub async fn an_expired_item_counts_as_absent(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let key = ItemKey::new(Collection::Heads, fresh_partition(), ());
    let item = sample(&key).expiring(SystemClock.now().plus(EXPIRY));
    expect(store.put(item.clone(), Condition::None).await, "an expiring put");
    assert_eq!(
        expect(store.get(&key).await, "getting an item"),
        Some(item),
        "an item was gone before its expiry time"
    );
    wait_for_expiry().await;
    assert_eq!(
        expect(store.get(&key).await, "getting an item"),
        None,
        "an expired item was read"
    );
    let absent = ItemKey::new(Collection::Heads, fresh_partition(), ());
    assert_eq!(
        expect(store.get_all(&[key.clone(), absent]).await, "getting two items"),
        [None, None],
        "an expired item was read with another"
    );
    for condition in [Condition::Exists, Condition::equals("n", 1_i64)] {
        expect_kind(
            store.delete(key.clone(), condition.clone()).await,
            ErrorKind::Conflict,
            "a condition that saw an expired item",
        );
        let check = Write::Check {
            key: key.clone(),
            condition,
        };
        expect_kind(
            store.transact(vec![check]).await,
            ErrorKind::Conflict,
            "a check that saw an expired item",
        );
    }
    let past = Item::new(key.clone()).expiring(SystemClock.now());
    expect(
        store.put(past, Condition::NotExists).await,
        "a put over an expired item",
    );
    let lasting = Item::new(key.clone());
    expect(
        store.put(lasting.clone(), Condition::NotExists).await,
        "a put over an item that was expired when it was written",
    );
    assert_eq!(
        expect(store.get(&key).await, "getting an item"),
        Some(lasting),
        "an item without expiry over an expired one is gone"
    );
}
