//! Which rows are meant, in SQL.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest text of a predicate, in bytes.
pub const MAX_PREDICATE_BYTES: usize = 16 << 10;

/// A condition on the columns of a table, such as `key = 'a' AND seen < TIMESTAMP '2026-01-01 00:00:00'`.
///
/// It is the text of a SQL expression; the row engine knows what it means, and whether it fits a table. A row is meant
/// where it is true, not where it is false or unknown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Predicate(Arc<str>);

impl Predicate {
    /// A predicate.
    ///
    /// # Errors
    /// `Invalid` when the text is empty or has more than [`MAX_PREDICATE_BYTES`].
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref().trim();
        if text.is_empty() {
            return Err(Error::invalid(
                "a predicate is empty; such as key = 'a' would be right",
            ));
        }
        if text.len() > MAX_PREDICATE_BYTES {
            return Err(Error::invalid(format!(
                "a predicate has {} bytes, and may have {MAX_PREDICATE_BYTES}",
                text.len()
            )));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Predicate {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for Predicate {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<Predicate> for String {
    fn from(predicate: Predicate) -> Self {
        predicate.as_str().to_owned()
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predicate_has_a_text_that_is_not_too_long() {
        let predicate = Predicate::new(" key = 'a' ").unwrap();
        assert_eq!(predicate.as_str(), "key = 'a'");
        assert_eq!(
            Predicate::new("x".repeat(MAX_PREDICATE_BYTES))
                .unwrap()
                .as_str()
                .len(),
            MAX_PREDICATE_BYTES
        );
        for wrong in [
            String::new(),
            "  ".to_owned(),
            "é".repeat(MAX_PREDICATE_BYTES / 2 + 1),
        ] {
            assert!(Predicate::new(&wrong).is_err());
            assert!(serde_json::from_value::<Predicate>(wrong.into()).is_err());
        }
    }
}
