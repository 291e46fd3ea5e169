//! What DynamoDB's failures become, and the requests that are sent: emulators neither throttle nor lose answers,
//! and always read consistently.

use std::sync::Arc;

use dormouse_aws::{Names, item_store::DynamoItemStore};
use dormouse_core::{
    ErrorKind,
    collections::Collection,
    config::InstanceSettings,
    ports::{Condition, Item, ItemKey, ItemStore, Order, Range, SystemIds, Write},
};

use crate::{
    emulators::{Emulators, clock},
    proxy::{Fault, Proxy},
};

struct Store {
    _emulators: Emulators,
    proxy: Proxy,
    store: DynamoItemStore,
}

async fn store() -> Store {
    let emulators = Emulators::start().await;
    emulators.instance(&InstanceSettings::default()).await;
    let proxy = Proxy::start(&emulators.dynamodb_url()).await;
    let clients = emulators.clients_at(&emulators.url(), &proxy.url());
    let prefix = Names::new("test").expect("names").table_prefix();
    let store = DynamoItemStore::new(&clients, &prefix, clock(), Arc::new(SystemIds));
    Store {
        _emulators: emulators,
        proxy,
        store,
    }
}

fn item(partition: &str, number: i64) -> Item {
    Item::new(ItemKey::new(Collection::Heads, partition, ())).with("n", number)
}

fn refusal(code: &str) -> Fault {
    Fault::Answer(
        400,
        format!("{{\"__type\":\"com.amazonaws.dynamodb.v20120810#{code}\",\"message\":\"told\"}}"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_turned_away_is_tried_again_and_then_unavailable() {
    let Store { proxy, store, .. } = &store().await;
    for code in [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
    ] {
        for target in ["PutItem", "GetItem", "Query", "TransactWriteItems"] {
            proxy.next(&format!("DynamoDB_20120810.{target}"), refusal(code));
        }
        store.put(item("a", 1), Condition::None).await.unwrap();
        assert!(store.get(&item("a", 1).key).await.unwrap().is_some());
        let key = |sort: u64| ItemKey::new(Collection::Transactions, "a", sort);
        let puts = [1, 2].map(|sort| Write::Put {
            item: Item::new(key(sort)),
            condition: Condition::None,
        });
        store.transact(puts.to_vec()).await.unwrap();
        let found = store
            .query(Collection::Transactions, "a", Range::all(), 10, Order::Ascending)
            .await;
        assert_eq!(found.unwrap().len(), 2);
        assert_eq!(proxy.left(), 0);
    }
    for _ in 0..20 {
        proxy.next("DynamoDB_20120810.PutItem", refusal("ThrottlingException"));
    }
    let error = store.put(item("a", 2), Condition::None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_leaves_undone_is_done_by_the_next() {
    let Store { proxy, store, .. } = &store().await;
    let items: Vec<Item> = (0..30)
        .map(|number| item(&format!("f{number:02}"), number))
        .collect();
    proxy.next("BatchWriteItem", refusal("ThrottlingException"));
    proxy.next("BatchWriteItem", Fault::LoseReply);
    store.put_all(items.clone()).await.unwrap();
    for item in &items {
        assert_eq!(store.get(&item.key).await.unwrap().as_ref(), Some(item));
    }

    let table = Names::new("test").expect("names").table_prefix() + Collection::Heads.as_str();
    let key = Collection::Heads.partition_attribute();
    let put = format!(r#"{{"PutRequest":{{"Item":{{"{key}":{{"S":"left"}},"n":{{"N":"1"}}}}}}}}"#);
    let answer = format!(r#"{{"UnprocessedItems":{{"{table}":[{put}]}}}}"#);
    proxy.next("BatchWriteItem", Fault::Answer(200, answer));
    store
        .put_all(vec![item("left", 1), item("done", 1)])
        .await
        .unwrap();
    // The answer is not true of the other one.
    assert_eq!(store.get(&item("done", 1).key).await.unwrap(), None);
    assert_eq!(
        store.get(&item("left", 1).key).await.unwrap(),
        Some(item("left", 1))
    );
    assert_eq!(proxy.left(), 0);
    for _ in 0..20 {
        proxy.next("BatchWriteItem", refusal("ThrottlingException"));
    }
    let error = store.put_all(items).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_leaves_unread_is_read_by_the_next() {
    let Store { proxy, store, .. } = &store().await;
    let items: Vec<Item> = (0..130)
        .map(|number| item(&format!("r{number:03}"), number))
        .collect();
    store.put_all(items.clone()).await.unwrap();
    let keys: Vec<ItemKey> = items.iter().map(|item| item.key.clone()).collect();
    proxy.next("BatchGetItem", refusal("ThrottlingException"));
    proxy.next("BatchGetItem", Fault::LoseReply);
    let found = store.get_all(&keys).await.unwrap();
    assert_eq!(found, items.iter().cloned().map(Some).collect::<Vec<_>>());

    let table = Names::new("test").expect("names").table_prefix() + Collection::Heads.as_str();
    let key = Collection::Heads.partition_attribute();
    let unread = format!(r#"{{"{table}":{{"ConsistentRead":true,"Keys":[{{"{key}":{{"S":"r001"}}}}]}}}}"#);
    let answer = format!(r#"{{"Responses":{{}},"UnprocessedKeys":{unread}}}"#);
    proxy.next("BatchGetItem", Fault::Answer(200, answer));
    let found = store.get_all(&keys[..2]).await.unwrap();
    // The answer is not true of the first one.
    assert_eq!(found, [None, Some(items[1].clone())]);
    assert_eq!(proxy.left(), 0);
    for _ in 0..20 {
        proxy.next("BatchGetItem", refusal("ThrottlingException"));
    }
    let error = store.get_all(&keys).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_answer_was_lost_happens_once() {
    let Store { proxy, store, .. } = &store().await;
    store.put(item("b", 1), Condition::None).await.unwrap();
    proxy.next("TransactWriteItems", Fault::LoseReply);
    proxy.next("TransactWriteItems", Fault::LoseReply);
    let writes = vec![
        Write::Put {
            item: item("b", 2),
            condition: Condition::equals("n", 1_i64),
        },
        Write::Put {
            item: Item::new(ItemKey::new(Collection::Transactions, "b", 1_u64)),
            condition: Condition::NotExists,
        },
    ];
    store.transact(writes.clone()).await.unwrap();
    assert_eq!(proxy.left(), 0);
    assert_eq!(store.get(&item("b", 0).key).await.unwrap(), Some(item("b", 2)));
    // The same again is another call, with a token of its own.
    assert_eq!(
        store.transact(writes).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_may_have_been_this_writes_own_doing_is_unavailable() {
    let Store { proxy, store, .. } = &store().await;
    proxy.next("PutItem", Fault::LoseReply);
    let error = store.put(item("c", 1), Condition::NotExists).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert_eq!(store.get(&item("c", 1).key).await.unwrap(), Some(item("c", 1)));
    proxy.next("DeleteItem", Fault::LoseReply);
    let error = store
        .delete(item("c", 1).key, Condition::Exists)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    // Without an answer lost, it is somebody else's.
    store.put(item("c", 1), Condition::None).await.unwrap();
    let error = store.put(item("c", 2), Condition::NotExists).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_met_another_is_tried_again() {
    let Store { proxy, store, .. } = &store().await;
    let cancelled = |codes: &[&str]| {
        let reasons: Vec<_> = codes
            .iter()
            .map(|code| format!("{{\"Code\":\"{code}\"}}"))
            .collect();
        let body = format!(
            "{{\"__type\":\"com.amazonaws.dynamodb.v20120810#TransactionCanceledException\",\"Message\":\"told\",\
             \"CancellationReasons\":[{}]}}",
            reasons.join(",")
        );
        Fault::Answer(400, body)
    };
    let writes = || {
        vec![1_u64, 2].into_iter().map(|sort| Write::Put {
            item: Item::new(ItemKey::new(Collection::Transactions, "d", sort)),
            condition: Condition::None,
        })
    };
    proxy.next("TransactWriteItems", cancelled(&["TransactionConflict", "None"]));
    proxy.next("TransactWriteItems", cancelled(&["None", "ThrottlingError"]));
    store.transact(writes().collect()).await.unwrap();
    assert_eq!(proxy.left(), 0);
    proxy.next(
        "TransactWriteItems",
        cancelled(&["None", "ConditionalCheckFailed"]),
    );
    let error = store.transact(writes().collect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("Number(2)"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_consistent_and_transactions_have_a_token() {
    let Store { proxy, store, .. } = &store().await;
    store.get(&item("e", 1).key).await.unwrap();
    store
        .query(Collection::Transactions, "e", Range::all(), 1, Order::Ascending)
        .await
        .unwrap();
    let check = Write::Check {
        key: item("e", 1).key,
        condition: Condition::NotExists,
    };
    store.transact(vec![check]).await.unwrap();
    for target in ["GetItem", "Query"] {
        let seen = proxy.seen(&format!("DynamoDB_20120810.{target}"));
        assert!(!seen.is_empty());
        assert!(
            seen.iter()
                .all(|request| request.contains("\"ConsistentRead\":true")),
            "{seen:?}"
        );
    }
    let seen = proxy.seen("DynamoDB_20120810.TransactWriteItems");
    assert!(
        !seen.is_empty()
            && seen
                .iter()
                .all(|request| request.contains("\"ClientRequestToken\":"))
    );
}
