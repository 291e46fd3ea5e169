//! What every [`ItemStore`] keeps.

mod concurrency;
mod conditions;
mod queries;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

pub use concurrency::{
    append_to_log, check_log, concurrent_appenders_lose_and_double_nothing, counters_lose_no_increment,
};
pub use conditions::{
    an_expired_item_counts_as_absent, conditions_decide_checks, conditions_decide_deletes,
    conditions_decide_puts, transactions_are_all_or_nothing,
};
pub use queries::{
    collections_and_partitions_are_apart, queries_honour_every_bound, queries_honour_order_and_limit,
    queries_leave_out_expired_items, sort_keys_order_by_size_and_by_bytes,
};

use super::{expect, expect_kind};
use crate::{
    collections::Collection,
    error::ErrorKind,
    ports::{
        Clock, Condition, Ids, Item, ItemKey, ItemStore, Sort, SystemClock, SystemIds, Value, Write,
        item_store::{MAX_ITEM_BYTES, MAX_TRANSACTION_WRITES},
    },
};

/// Longer than the life of the items that the checks let expire, with margin.
const EXPIRY: Duration = Duration::from_millis(300);

/// Runs every check.
pub async fn all(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    items_come_back_as_written(make).await;
    a_put_replaces_the_whole_item(make).await;
    a_delete_removes_one_item(make).await;
    conditions_decide_puts(make).await;
    conditions_decide_deletes(make).await;
    conditions_decide_checks(make).await;
    transactions_are_all_or_nothing(make).await;
    an_expired_item_counts_as_absent(make).await;
    transactions_have_a_limit_of_writes(make).await;
    a_transaction_names_a_key_once(make).await;
    items_have_a_limit_in_encoded_bytes(make).await;
    many_items_are_written_and_read_at_once(make).await;
    queries_honour_every_bound(make).await;
    queries_honour_order_and_limit(make).await;
    queries_leave_out_expired_items(make).await;
    sort_keys_order_by_size_and_by_bytes(make).await;
    collections_and_partitions_are_apart(make).await;
    counters_lose_no_increment(make).await;
    concurrent_appenders_lose_and_double_nothing(make).await;
}

/// A partition key that no other check uses.
fn fresh_partition() -> String {
    SystemIds.uuid().to_string()
}

async fn wait_for_expiry() {
    SystemClock.sleep(EXPIRY + Duration::from_millis(100)).await;
}

/// Attributes of every type, extreme ones included, come back equal; so does every kind of sort key.
pub async fn items_come_back_as_written(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    for (collection, sort) in [
        (Collection::Heads, Sort::None),
        (Collection::Transactions, Sort::Number(7)),
        (Collection::JobEvents, Sort::from("run|1")),
    ] {
        let key = ItemKey::new(collection, &partition, sort);
        let absent = expect(store.get(&key).await, "getting an absent item is no error");
        assert_eq!(absent, None, "an item that was never put is there");
        let mut item = Item::new(key.clone())
            .with("text", "caf\u{e9} \u{1f600} 'quoted' \"twice\"\n")
            .with("empty", "")
            .with("least", i64::MIN)
            .with("most", i64::MAX)
            .with("yes", true)
            .with("no", false)
            .expiring(SystemClock.now().plus(Duration::from_secs(3600)));
        let every_byte: Vec<u8> = (0..=255).collect();
        item.attributes
            .insert("bytes".to_owned(), Value::Bytes(every_byte.into()));
        item.attributes
            .insert("no bytes".to_owned(), Value::Bytes(Bytes::new()));
        expect(store.put(item.clone(), Condition::None).await, "a plain put");
        let found = expect(store.get(&key).await, "getting an item");
        assert_eq!(found, Some(item), "an item came back other than it was written");

        let bare = Item::new(key.clone());
        expect(
            store.put(bare.clone(), Condition::None).await,
            "an item without attributes",
        );
        assert_eq!(
            expect(store.get(&key).await, "getting an item"),
            Some(bare),
            "an item without attributes came back otherwise"
        );
    }
}

/// Attributes and expiry of the old item do not show through.
pub async fn a_put_replaces_the_whole_item(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let key = ItemKey::new(Collection::Heads, fresh_partition(), ());
    let old = Item::new(key.clone())
        .with("a", 1_i64)
        .with("b", 2_i64)
        .expiring(SystemClock.now().plus(EXPIRY));
    expect(store.put(old, Condition::None).await, "a plain put");
    let new = Item::new(key.clone()).with("b", 3_i64);
    expect(store.put(new.clone(), Condition::None).await, "a second put");
    assert_eq!(
        expect(store.get(&key).await, "getting an item"),
        Some(new.clone()),
        "an attribute of the replaced item is left"
    );
    wait_for_expiry().await;
    assert_eq!(
        expect(store.get(&key).await, "getting an item"),
        Some(new),
        "the expiry of the replaced item is left"
    );
}

/// A delete removes the item it names and no other; deleting an absent one is no error.
pub async fn a_delete_removes_one_item(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let key = |number: u64| ItemKey::new(Collection::Transactions, &partition, number);
    for number in 1..=3 {
        expect(
            store.put(Item::new(key(number)), Condition::None).await,
            "a plain put",
        );
    }
    expect(store.delete(key(2), Condition::None).await, "a delete");
    expect(
        store.delete(key(2), Condition::None).await,
        "deleting an absent item",
    );
    for (number, there) in [(1, true), (2, false), (3, true)] {
        let found = expect(store.get(&key(number)).await, "getting an item").is_some();
        assert_eq!(
            found, there,
            "after deleting item 2 of three, item {number} is there: {found}"
        );
    }
}

/// [`MAX_TRANSACTION_WRITES`] writes pass, one more is refused.
pub async fn transactions_have_a_limit_of_writes(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let puts = |count: usize| -> Vec<_> {
        (0..count as u64)
            .map(|number| Write::Put {
                item: Item::new(ItemKey::new(Collection::Transactions, &partition, number)),
                condition: Condition::NotExists,
            })
            .collect()
    };
    expect_kind(
        store.transact(puts(MAX_TRANSACTION_WRITES + 1)).await,
        ErrorKind::Invalid,
        "one write over the limit",
    );
    expect(
        store.transact(puts(MAX_TRANSACTION_WRITES)).await,
        "as many writes as the limit allows",
    );
    expect(store.transact(Vec::new()).await, "a transaction of no writes");
}

/// Two writes to one key are refused, and neither happens.
pub async fn a_transaction_names_a_key_once(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let key = ItemKey::new(Collection::Heads, fresh_partition(), ());
    let put = Write::Put {
        item: Item::new(key.clone()),
        condition: Condition::None,
    };
    let check = Write::Check {
        key: key.clone(),
        condition: Condition::NotExists,
    };
    for writes in [vec![put.clone(), put.clone()], vec![check, put]] {
        expect_kind(
            store.transact(writes).await,
            ErrorKind::Invalid,
            "two writes to one key",
        );
        let found = expect(store.get(&key).await, "getting an item");
        assert_eq!(found, None, "a refused transaction wrote");
    }
}

/// An item of [`MAX_ITEM_BYTES`] passes and one byte more is refused, counted in bytes, not characters.
pub async fn items_have_a_limit_in_encoded_bytes(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let sized = |bytes: usize, filler: &str| {
        let item = Item::new(ItemKey::new(Collection::Heads, &partition, ())).with("text", "");
        let room = bytes - item.encoded_bytes();
        let text = filler.repeat(room / filler.len()) + &"x".repeat(room % filler.len());
        let item = item.with("text", text);
        assert_eq!(
            item.encoded_bytes(),
            bytes,
            "the check made an item of the wrong size"
        );
        item
    };
    for filler in ["x", "\u{1f600}"] {
        for bytes in [MAX_ITEM_BYTES - 1, MAX_ITEM_BYTES] {
            let item = sized(bytes, filler);
            expect(
                store.put(item.clone(), Condition::None).await,
                "an item within the limit",
            );
            let found = expect(store.get(&item.key).await, "getting a large item");
            assert!(
                found == Some(item),
                "an item of {bytes} bytes came back otherwise"
            );
        }
        expect_kind(
            store
                .put(sized(MAX_ITEM_BYTES + 1, filler), Condition::None)
                .await,
            ErrorKind::Invalid,
            "an item one byte over the limit",
        );
    }
}

/// What is written replaces what is there, in several collections at once. Two items with one key are refused.
pub async fn many_items_are_written_and_read_at_once(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let key = |number: u64| match number % 3 {
        0 => ItemKey::new(Collection::Transactions, &partition, number),
        1 => ItemKey::new(Collection::JobEvents, &partition, format!("run|{number}")),
        _ => ItemKey::new(Collection::Heads, format!("{partition}-{number}"), ()),
    };
    let item = |number: u64| Item::new(key(number)).with("number", number);
    let old = item(7).with("old", true);
    expect(store.put(old, Condition::None).await, "a plain put");
    let count = 2 * MAX_TRANSACTION_WRITES as u64 + 1;
    expect(
        store.put_all((0..count).map(item).collect()).await,
        "writing many items",
    );
    expect(store.put_all(vec![item(count)]).await, "writing one item of many");
    expect(store.put_all(Vec::new()).await, "writing no items");
    for number in 0..=count {
        let found = expect(store.get(&key(number)).await, "getting an item");
        assert_eq!(found, Some(item(number)), "one of many came back otherwise");
    }
    let absent = count + 1;
    // In the order of the keys, which may be twice there.
    let asked: Vec<u64> = (0..=absent).rev().chain([0, absent]).collect();
    let keys: Vec<_> = asked.iter().map(|number| key(*number)).collect();
    let expected: Vec<_> = asked
        .iter()
        .map(|number| (*number != absent).then(|| item(*number)))
        .collect();
    let found = expect(store.get_all(&keys).await, "getting many items");
    assert_eq!(found, expected, "many items came back otherwise");
    let found = expect(store.get_all(&keys[..1]).await, "getting one item of many");
    assert_eq!(found, [None], "an absent item came back");
    let found = expect(store.get_all(&[]).await, "getting no items");
    assert_eq!(found, [], "items came back that nobody asked for");
    let twice = vec![item(absent), item(absent)];
    expect_kind(
        store.put_all(twice).await,
        ErrorKind::Invalid,
        "two items with one key",
    );
    let found = expect(store.get(&key(absent)).await, "getting an item");
    assert_eq!(found, None, "an item was written that was refused");
}
