//! The ids of tenants.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest tenant id.
pub const MAX_TENANT_BYTES: usize = 40;

/// Names a tenant, for ever: lower-case letters, digits and `-`, and a letter or digit first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Checks and wraps `text`.
    ///
    /// # Errors
    /// `Invalid` when the text is empty, too long, or holds a character that is not allowed.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty()
            || text.len() > MAX_TENANT_BYTES
            || text.starts_with('-')
            || !text.bytes().all(allowed)
        {
            return Err(Error::invalid(format!(
                "\"{}\" is no tenant id: it must have 1 to {MAX_TENANT_BYTES} lower-case letters, digits and '-', and \
                 begin with a letter or digit",
                text.chars().take(60).collect::<String>().escape_debug()
            )));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The tenant of an instance that has none.
    pub fn instance() -> Self {
        Self(Arc::from("default"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for TenantId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl FromStr for TenantId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn ids_are_parts_of_keys_and_paths() {
        for good in ["acme", "a", "7-eleven", "x".repeat(40).as_str()] {
            assert_eq!(TenantId::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "Acme",
            "a_b",
            "a/b",
            "a.b",
            "ä",
            "x".repeat(41).as_str(),
        ] {
            assert_eq!(
                TenantId::new(bad).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
    }
}
