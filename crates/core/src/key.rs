//! Key values, keys and ranges of keys, in the one order that every code path keeps.
//!
//! Numbers compare by sign and size, strings and bytes by unsigned bytes, tuples from the left. A tuple that is
//! a prefix of another comes before it, so a split point may name fewer columns than the row key has.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One value of a key column. Values of one column always have the same variant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyValue {
    /// A signed 32-bit number.
    Int32(i32),
    /// A signed 64-bit number.
    Int64(i64),
    /// A string, ordered by its UTF-8 bytes.
    Utf8(Box<str>),
    /// Bytes, unsigned.
    Binary(Bytes),
    /// Days since the Unix epoch.
    Date32(i32),
    /// Units of the column's timestamp type since the Unix epoch.
    Timestamp(i64),
}

/// The bytes of a binary key value; hexadecimal in text forms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Box<[u8]>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            hex::decode(text)
                .map(|bytes| Self(bytes.into()))
                .map_err(de::Error::custom)
        } else {
            Vec::<u8>::deserialize(deserializer).map(|bytes| Self(bytes.into()))
        }
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int32(value) | Self::Date32(value) => write!(f, "{value}"),
            Self::Int64(value) | Self::Timestamp(value) => write!(f, "{value}"),
            Self::Utf8(value) => write!(f, "{value:?}"),
            Self::Binary(value) => write!(f, "0x{}", hex::encode(&value.0)),
        }
    }
}

/// A row key or a prefix of one: values of the row key columns, in schema order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Box<[KeyValue]>);

impl Key {
    /// A key of these values.
    pub fn new(values: impl Into<Box<[KeyValue]>>) -> Self {
        Self(values.into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, value) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            value.fmt(f)?;
        }
        f.write_str(")")
    }
}

/// The smallest and the largest row key of a set of rows, both in the set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// The smallest key.
    pub min: Key,
    /// The largest key.
    pub max: Key,
}

impl KeyRange {
    /// The range that covers both.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            min: self.min.clone().min(other.min.clone()),
            max: self.max.clone().max(other.max.clone()),
        }
    }
}

/// A half-open range of the key space: `lower <= key < upper`, where `None` is unbounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyBounds {
    /// The first key inside.
    pub lower: Option<Key>,
    /// The first key beyond.
    pub upper: Option<Key>,
}

impl KeyBounds {
    /// Whether `key` is inside.
    pub fn contains(&self, key: &Key) -> bool {
        self.lower.as_ref().is_none_or(|lower| lower <= key)
            && self.upper.as_ref().is_none_or(|upper| key < upper)
    }

    /// Whether some key of the range is inside.
    pub fn touches(&self, range: &KeyRange) -> bool {
        self.lower.as_ref().is_none_or(|lower| lower <= &range.max)
            && self.upper.as_ref().is_none_or(|upper| &range.min < upper)
    }

    /// Whether every key of the range is inside.
    pub fn covers(&self, range: &KeyRange) -> bool {
        self.contains(&range.min) && self.contains(&range.max)
    }
}

impl fmt::Display for KeyBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lower {
            Some(lower) => write!(f, "[{lower}, ")?,
            None => f.write_str("(-inf, ")?,
        }
        match &self.upper {
            Some(upper) => write!(f, "{upper})"),
            None => f.write_str("+inf)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf8(text: &str) -> KeyValue {
        KeyValue::Utf8(text.into())
    }

    #[test]
    fn bytes_and_strings_order_unsigned() {
        let low = KeyValue::Binary(Bytes(Box::new([0x7f])));
        let high = KeyValue::Binary(Bytes(Box::new([0x80])));
        assert!(low < high);
        assert!(utf8("\u{e000}") < utf8("\u{10000}"));
        assert!(KeyValue::Int32(-1) < KeyValue::Int32(0));
    }

    #[test]
    fn a_prefix_comes_before_its_extensions() {
        let prefix = Key::new([utf8("a")]);
        let longer = Key::new([utf8("a"), KeyValue::Int64(i64::MIN)]);
        assert!(prefix < longer);
        let bounds = KeyBounds {
            lower: Some(prefix),
            upper: Some(Key::new([utf8("b")])),
        };
        assert!(bounds.contains(&longer));
        assert!(!bounds.contains(&Key::new([utf8("b"), KeyValue::Int64(0)])));
    }

    #[test]
    fn binary_values_are_hexadecimal_in_json() {
        let value = KeyValue::Binary(Bytes(Box::new([0, 255])));
        let json = serde_json::to_string(&value).unwrap();
        assert_eq!(json, r#"{"binary":"00ff"}"#);
        assert_eq!(serde_json::from_str::<KeyValue>(&json).unwrap(), value);
    }
}
