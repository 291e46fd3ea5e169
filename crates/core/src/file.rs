//! What the state knows of a data file.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, Sub},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ids::FileName, key::KeyRange};

/// A sorted Parquet file: one object, written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// The name within the table.
    pub name: FileName,
    /// How many rows it holds.
    pub rows: u64,
    /// The object's size.
    pub bytes: u64,
    /// CRC-64/NVME of the object.
    pub checksum: Checksum,
    /// The file's rows cut at the leaves that the writer knew: at least one, in key order, without overlap.
    pub parts: Vec<FilePart>,
}

impl DataFile {
    /// The digest of all rows.
    pub fn digest(&self) -> RowDigest {
        self.parts.iter().map(|part| part.digest).sum()
    }
}

/// The rows of a data file that fell in one leaf when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    /// The smallest and largest row key.
    pub range: KeyRange,
    /// How many rows.
    pub rows: u64,
    /// The digest of these rows.
    pub digest: RowDigest,
}

macro_rules! hexadecimal {
    ($name:ident, $inner:ty, $digits:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    <$inner>::from_str_radix(&text, 16)
                        .map(Self)
                        .map_err(de::Error::custom)
                } else {
                    <$inner>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

/// CRC-64/NVME over the bytes of an object: the full-object checksum that S3 keeps too. Hexadecimal as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checksum(pub u64);

hexadecimal!(Checksum, u64, "16");

/// An order-free digest of a multiset of rows: the sum of the rows' 128-bit hashes, modulo 2^128.
///
/// Files that together hold the same rows have digests with the same sum, however the rows are cut or ordered;
/// the row hash is defined by the row engine. Hexadecimal as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowDigest(pub u128);

hexadecimal!(RowDigest, u128, "32");

impl Add for RowDigest {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl Sub for RowDigest {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl Sum for RowDigest {
    fn sum<I: Iterator<Item = Self>>(digests: I) -> Self {
        digests.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hexadecimal_in_json_and_wrap() {
        let digest = RowDigest(u128::MAX);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, "\"ffffffffffffffffffffffffffffffff\"");
        assert_eq!(serde_json::from_str::<RowDigest>(&json).unwrap(), digest);
        assert_eq!(digest + RowDigest(2), RowDigest(1));
    }
}
