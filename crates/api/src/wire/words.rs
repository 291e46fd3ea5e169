//! Words of requests, and numbers and times as they are written.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Number, Value};

/// Declares an enum of words that are read in any case, and written and documented in one.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
        #[expect(missing_docs, reason = "the words say it")]
        pub enum $name {
            $(#[serde(rename = $word)] $variant),*
        }

        impl $name {
            /// The word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),*
                }
            }

            /// The word that a text is, in any case.
            pub fn parse(text: &str) -> Option<Self> {
                $(if text.eq_ignore_ascii_case($word) {
                    return Some(Self::$variant);
                })*
                None
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| {
                    let shown: String = text.chars().take(40).collect();
                    serde::de::Error::custom(format!(
                        "\"{}\" is none of {}",
                        shown.escape_debug(),
                        [$($word),*].join(", ")
                    ))
                })
            }
        }
    )*};
}
pub(crate) use words;

/// Reads a whole number, which may be written with a fraction of zero.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let whole = number.as_u64().or_else(|| {
        let number = number.as_f64()?;
        ((0.0..1e15).contains(&number) && number.fract() == 0.0).then_some(number as u64)
    });
    let wrong = || D::Error::custom(format!("{number} is no whole number that is not negative"));
    whole.map(Some).ok_or_else(wrong)
}

/// Reads a text or a whole number as a text.
pub fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(match number.as_f64() {
            // As `whole` has it.
            Some(float) if !number.is_u64() && (0.0..1e15).contains(&float) && float.fract() == 0.0 => {
                (float as u64).to_string()
            }
            _ => number.to_string(),
        })),
        Some(_) => Err(D::Error::custom("a text or a number is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_however_they_are_written() {
        let read = |text: &str| whole(&mut serde_json::Deserializer::from_str(text));
        assert_eq!(read("5").unwrap(), Some(5));
        assert_eq!(read("5.0").unwrap(), Some(5));
        assert_eq!(read("null").unwrap(), None);
        for wrong in ["5.5", "-1", "1e300", "\"5\"", "true"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
