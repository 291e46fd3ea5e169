use std::{ops::Bound, sync::Arc};

use super::{EXPIRY, expect, fresh_partition, wait_for_expiry};
use crate::{
    collections::Collection,
    ports::{Clock, Condition, Item, ItemKey, ItemStore, Order, Range, Sort, SystemClock},
};

async fn put_all<S: Into<Sort>>(
    store: &dyn ItemStore,
    collection: Collection,
    partition: &str,
    sorts: impl IntoIterator<Item = S>,
) {
    for sort in sorts {
        let item = Item::new(ItemKey::new(collection, partition, sort)).with("here", true);
        expect(store.put(item, Condition::None).await, "a plain put");
    }
}

async fn sorts(
    store: &dyn ItemStore,
    collection: Collection,
    partition: &str,
    range: Range,
    limit: usize,
    order: Order,
) -> Vec<Sort> {
    let found = store.query(collection, partition, range, limit, order).await;
    expect(found, "a query")
        .into_iter()
        .map(|item| item.key.sort)
        .collect()
}

fn numbers(numbers: impl IntoIterator<Item = u64>) -> Vec<Sort> {
    numbers.into_iter().map(Sort::Number).collect()
}

fn texts(texts: &[&str]) -> Vec<Sort> {
    texts.iter().map(|&text| Sort::from(text)).collect()
}

/// All nine pairs of bounds, prefixes, and ranges that hold nothing.
pub async fn queries_honour_every_bound(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    use Bound::{Excluded, Included, Unbounded};
    let store = make().await;
    let partition = fresh_partition();
    put_all(&*store, Collection::Transactions, &partition, 1..=9_u64).await;
    let number = Sort::Number;
    for (start, end, expected) in [
        (Unbounded, Unbounded, 1..10),
        (Unbounded, Included(number(6)), 1..7),
        (Unbounded, Excluded(number(6)), 1..6),
        (Included(number(3)), Unbounded, 3..10),
        (Excluded(number(3)), Unbounded, 4..10),
        (Included(number(3)), Included(number(6)), 3..7),
        (Included(number(3)), Excluded(number(6)), 3..6),
        (Excluded(number(3)), Included(number(6)), 4..7),
        (Excluded(number(3)), Excluded(number(6)), 4..6),
        (Included(number(4)), Included(number(4)), 4..5),
        (Excluded(number(4)), Included(number(4)), 1..1),
        (Excluded(number(4)), Excluded(number(4)), 1..1),
        (Included(number(6)), Included(number(3)), 1..1),
        (Included(number(10)), Unbounded, 1..1),
        (Unbounded, Excluded(number(1)), 1..1),
    ] {
        let range = Range { start, end };
        for order in [Order::Ascending, Order::Descending] {
            let mut expected = numbers(expected.clone());
            if order == Order::Descending {
                expected.reverse();
            }
            let found = sorts(
                &*store,
                Collection::Transactions,
                &partition,
                range.clone(),
                100,
                order,
            );
            assert_eq!(
                found.await,
                expected,
                "a query of {range:?}, {order:?}, over 1 to 9 found other items"
            );
        }
    }

    let keys = ["a", "a|", "a|1", "a|1|x", "a|2", "a|\u{1f600}", "a}", "b"];
    put_all(&*store, Collection::JobEvents, &partition, keys).await;
    for (prefix, expected) in [
        ("a|", &keys[1..6]),
        ("a|1", &keys[2..4]),
        ("a", &keys[..7]),
        ("c", &[]),
        ("", &keys[..]),
    ] {
        let range = Range::prefix(prefix);
        let found = sorts(
            &*store,
            Collection::JobEvents,
            &partition,
            range,
            100,
            Order::Ascending,
        );
        assert_eq!(
            found.await,
            texts(expected),
            "a query of prefix {prefix:?} found other items"
        );
    }
    let range = Range::after("a|1");
    let found = sorts(
        &*store,
        Collection::JobEvents,
        &partition,
        range,
        2,
        Order::Ascending,
    );
    assert_eq!(
        found.await,
        texts(&["a|1|x", "a|2"]),
        "a page after a text sort key"
    );
}

/// The limit cuts at the end where the order ends, and large partitions come whole.
pub async fn queries_honour_order_and_limit(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    put_all(&*store, Collection::Transactions, &partition, 1..=40_u64).await;
    for (limit, order, expected) in [
        (0, Order::Ascending, numbers([])),
        (1, Order::Ascending, numbers([1])),
        (3, Order::Ascending, numbers(1..=3)),
        (3, Order::Descending, numbers((38..=40).rev())),
        (40, Order::Ascending, numbers(1..=40)),
        (usize::MAX, Order::Descending, numbers((1..=40).rev())),
    ] {
        let found = sorts(
            &*store,
            Collection::Transactions,
            &partition,
            Range::all(),
            limit,
            order,
        );
        assert_eq!(
            found.await,
            expected,
            "a query {order:?} with limit {limit} over 1 to 40"
        );
    }
    let range = Range::before(20_u64);
    let newest = sorts(
        &*store,
        Collection::Transactions,
        &partition,
        range,
        1,
        Order::Descending,
    );
    assert_eq!(newest.await, numbers([19]), "the newest item before 20");

    let large = fresh_partition();
    for number in 0..6_u64 {
        let item = Item::new(ItemKey::new(Collection::Transactions, &large, number))
            .with("body", "x".repeat(350 * 1024));
        expect(store.put(item, Condition::None).await, "a large put");
    }
    let found = sorts(
        &*store,
        Collection::Transactions,
        &large,
        Range::all(),
        100,
        Order::Ascending,
    );
    assert_eq!(
        found.await,
        numbers(0..6),
        "fewer items than the limit must mean that there are no more, however large they are"
    );
}

/// Expired items neither appear nor use up the limit.
pub async fn queries_leave_out_expired_items(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let expires = SystemClock.now().plus(EXPIRY);
    for number in 0..10_u64 {
        let mut item = Item::new(ItemKey::new(Collection::Transactions, &partition, number));
        item.expires = (number % 2 == 0).then_some(expires);
        expect(store.put(item, Condition::None).await, "an expiring put");
    }
    wait_for_expiry().await;
    let found = sorts(
        &*store,
        Collection::Transactions,
        &partition,
        Range::all(),
        4,
        Order::Ascending,
    );
    assert_eq!(
        found.await,
        numbers([1, 3, 5, 7]),
        "a query with limit 4 where every second item is expired"
    );
}

/// Numbers order by size over all 64 bits, text by its UTF-8 bytes.
pub async fn sort_keys_order_by_size_and_by_bytes(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let sizes = [
        0,
        1,
        9,
        10,
        255,
        256,
        99_999,
        100_000,
        i64::MAX as u64,
        i64::MAX as u64 + 1,
        u64::MAX,
    ];
    put_all(
        &*store,
        Collection::Snapshots,
        &partition,
        sizes.into_iter().rev(),
    )
    .await;
    let found = sorts(
        &*store,
        Collection::Snapshots,
        &partition,
        Range::all(),
        100,
        Order::Ascending,
    );
    assert_eq!(found.await, numbers(sizes), "numbers must order by size");
    let range = Range::after(i64::MAX as u64);
    let found = sorts(
        &*store,
        Collection::Snapshots,
        &partition,
        range,
        100,
        Order::Ascending,
    );
    assert_eq!(
        found.await,
        numbers([i64::MAX as u64 + 1, u64::MAX]),
        "numbers of 64 bits in a range"
    );

    let by_bytes = [
        "A",
        "Z",
        "a",
        "a b",
        "a-b",
        "aa",
        "\u{e9}",
        "\u{ffff}",
        "\u{1f600}",
    ];
    put_all(
        &*store,
        Collection::TableNames,
        &partition,
        by_bytes.into_iter().rev(),
    )
    .await;
    let found = sorts(
        &*store,
        Collection::TableNames,
        &partition,
        Range::all(),
        100,
        Order::Ascending,
    );
    assert_eq!(
        found.await,
        texts(&by_bytes),
        "text must order by its UTF-8 bytes"
    );
}

/// Queries, reads and deletes stay within their collection and partition.
pub async fn collections_and_partitions_are_apart(make: &impl AsyncFn() -> Arc<dyn ItemStore>) {
    let store = make().await;
    let partition = fresh_partition();
    let neighbours = [
        (Collection::Transactions, partition.clone()),
        (Collection::Transactions, format!("{partition}0")),
        (
            Collection::Transactions,
            partition[..partition.len() - 1].to_owned(),
        ),
        (Collection::Transactions, partition.to_uppercase() + "x"),
        (Collection::Snapshots, partition.clone()),
    ];
    for (collection, partition) in &neighbours {
        put_all(&*store, *collection, partition, 1..=3_u64).await;
    }
    let first = ItemKey::new(Collection::Transactions, &partition, 1_u64);
    expect(store.delete(first, Condition::Exists).await, "a delete");
    for (place, (collection, partition)) in neighbours.iter().enumerate() {
        let found = sorts(
            &*store,
            *collection,
            partition,
            Range::all(),
            100,
            Order::Ascending,
        );
        let expected = if place == 0 {
            numbers(2..=3)
        } else {
            numbers(1..=3)
        };
        assert_eq!(
            found.await,
            expected,
            "{collection} \"{partition}\" after a delete in another"
        );
    }
}
