//! Items as attributes of DynamoDB.

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use dormouse_core::{
    Error, Result,
    collections::{Collection, SortKind},
    ports::{Attributes, Item, ItemKey, Sort, Value},
    time::Timestamp,
};

/// When an item counts as absent, in epoch milliseconds.
pub(crate) const EXPIRES_AT: &str = "expiresAt";

/// After when DynamoDB may remove an item, in epoch seconds.
pub(crate) const TTL: &str = "ttl";

/// A value as DynamoDB has it.
pub(super) fn value_of(value: &Value) -> AttributeValue {
    match value {
        Value::Text(text) => AttributeValue::S(text.clone()),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::Bytes(bytes) => AttributeValue::B(Blob::new(bytes.to_vec())),
        Value::Flag(flag) => AttributeValue::Bool(*flag),
    }
}

/// A sort key as DynamoDB has it; none where there is none.
pub(super) fn sort_value(sort: &Sort) -> Option<AttributeValue> {
    match sort {
        Sort::None => None,
        Sort::Number(number) => Some(AttributeValue::N(number.to_string())),
        Sort::Text(text) => Some(AttributeValue::S(text.clone())),
    }
}

/// The attributes of a key.
pub(super) fn key_attributes(key: &ItemKey) -> HashMap<String, AttributeValue> {
    let partition = AttributeValue::S(key.partition.clone());
    let mut attributes = HashMap::from([(key.collection.partition_attribute().to_owned(), partition)]);
    if let Some(sort) = sort_value(&key.sort) {
        attributes.insert(key.collection.sort_attribute().to_owned(), sort);
    }
    attributes
}

/// The attributes of an item, its key among them.
///
/// # Errors
/// `Internal` when an attribute is called as the key, or as what tells the expiry.
pub(super) fn to_attributes(item: &Item) -> Result<HashMap<String, AttributeValue>> {
    let mut attributes = key_attributes(&item.key);
    if let Some(expires) = item.expires {
        let millis = expires.as_millis();
        let seconds = millis.div_euclid(1000) + i64::from(millis.rem_euclid(1000) > 0);
        attributes.insert(EXPIRES_AT.to_owned(), AttributeValue::N(millis.to_string()));
        attributes.insert(TTL.to_owned(), AttributeValue::N(seconds.to_string()));
    }
    for (name, value) in &item.attributes {
        if [EXPIRES_AT, TTL].contains(&name.as_str()) || attributes.contains_key(name) {
            let collection = item.key.collection;
            return Err(Error::internal(format!(
                "an item of {collection} has an attribute \"{name}\", which is a key"
            )));
        }
        attributes.insert(name.clone(), value_of(value));
    }
    Ok(attributes)
}

/// The item of these attributes.
///
/// # Errors
/// `Corrupt` when they are none.
pub(super) fn from_attributes(
    collection: Collection,
    mut attributes: HashMap<String, AttributeValue>,
) -> Result<Item> {
    let damaged = |name: &str| {
        Error::corrupt(format!(
            "attribute \"{name}\" of an item of {collection} is damaged"
        ))
    };
    let partition = match attributes.remove(collection.partition_attribute()) {
        Some(AttributeValue::S(text)) => text,
        _ => return Err(damaged(collection.partition_attribute())),
    };
    let sort = match (
        collection.sort_kind(),
        attributes.remove(collection.sort_attribute()),
    ) {
        (SortKind::None, _) => Sort::None,
        (SortKind::Number, Some(AttributeValue::N(number))) => {
            Sort::Number(number.parse().map_err(|_| damaged(collection.sort_attribute()))?)
        }
        (SortKind::Text, Some(AttributeValue::S(text))) => Sort::Text(text),
        _ => return Err(damaged(collection.sort_attribute())),
    };
    attributes.remove(TTL);
    let expires = match attributes.remove(EXPIRES_AT) {
        None => None,
        Some(AttributeValue::N(number)) => {
            let millis = number.parse().map_err(|_| damaged(EXPIRES_AT))?;
            Some(Timestamp::from_millis(millis))
        }
        Some(_) => return Err(damaged(EXPIRES_AT)),
    };
    let mut values = Attributes::new();
    for (name, value) in attributes {
        let value = match value {
            AttributeValue::S(text) => Value::Text(text),
            AttributeValue::N(number) => Value::Number(number.parse().map_err(|_| damaged(&name))?),
            AttributeValue::B(bytes) => Value::Bytes(bytes.into_inner().into()),
            AttributeValue::Bool(flag) => Value::Flag(flag),
            // Of a kind that no item of ours has: somebody else's.
            _ => continue,
        };
        values.insert(name, value);
    }
    Ok(Item {
        key: ItemKey::new(collection, partition, sort),
        attributes: values,
        expires,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_has_readable_attributes_and_comes_back() {
        let key = ItemKey::new(Collection::JobStatus, "job-1", "ingest|85866a2a");
        let item = Item::new(key)
            .with("status", "FINISHED")
            .with("rowsRead", 7_i64)
            .expiring(Timestamp::from_millis(1_700_000_000_001));
        let attributes = to_attributes(&item).unwrap();
        let text = |name: &str| attributes[name].as_s().unwrap().as_str();
        let number = |name: &str| attributes[name].as_n().unwrap().as_str();
        assert_eq!(text("jobId"), "job-1");
        assert_eq!(text("kindAndTable"), "ingest|85866a2a");
        assert_eq!(text("status"), "FINISHED");
        assert_eq!(number("rowsRead"), "7");
        assert_eq!(number("expiresAt"), "1700000000001");
        assert_eq!(number("ttl"), "1700000001");
        assert_eq!(from_attributes(Collection::JobStatus, attributes).unwrap(), item);
    }

    #[test]
    fn an_attribute_called_as_a_key_is_refused() {
        for name in ["tableId", "ttl", "expiresAt"] {
            let item = Item::new(ItemKey::new(Collection::Heads, "t", ())).with(name, "x");
            assert!(to_attributes(&item).is_err(), "{name}");
        }
    }

    #[test]
    fn attributes_that_are_no_item_are_damage() {
        let named = |name: &str, value| HashMap::from([(name.to_owned(), value)]);
        let text = || AttributeValue::S("x".to_owned());
        assert!(from_attributes(Collection::Heads, HashMap::new()).is_err());
        assert!(from_attributes(Collection::Transactions, named("tableId", text())).is_err());
        let mut bad_number = named("tableId", text());
        bad_number.insert("n".to_owned(), AttributeValue::N("1.5".to_owned()));
        assert!(from_attributes(Collection::Heads, bad_number).is_err());
    }
}
