//! Places in lists, as texts that clients give back.
//!
//! A cursor belongs to one list: that of a tenant with a filter. With another one it is refused.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dormouse_core::{ids::BulkJobId, time::Timestamp};
use sha2::{Digest, Sha256};

/// A place in a list of jobs: the last job before it.
pub type Place = (Timestamp, BulkJobId);

/// How many hexadecimal digits tell one list from another.
const LIST_DIGITS: usize = 16;

/// What tells one list from another: whose it is, and what it is filtered by.
pub fn list_digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    hex::encode(digest.finalize())[..LIST_DIGITS].to_owned()
}

/// The text of a place in a list.
pub fn encode(place: &Place, list: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}|{list}|{}", place.0.as_millis(), place.1))
}

/// The place that a text names; none when it is no place of this list.
pub fn decode(text: &str, list: &str) -> Option<Place> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let mut parts = text.splitn(3, '|');
    let millis = parts.next()?.parse().ok()?;
    (parts.next()? == list).then_some(())?;
    let id = BulkJobId::new(parts.next()?).ok()?;
    Some((Timestamp::from_millis(millis), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_of_its_list_alone() {
        let place = (
            Timestamp::from_millis(1234),
            BulkJobId::new("bulk-job-1").unwrap(),
        );
        let list = list_digest(&["acme", "Open"]);
        let text = encode(&place, &list);
        assert_eq!(decode(&text, &list), Some(place));
        assert_eq!(decode(&text, &list_digest(&["acme", "Failed"])), None);
        assert_eq!(decode(&text, &list_digest(&["acmeO", "pen"])), None);
        for wrong in ["", "x", "====", "MDB8MHww", "MHwwfC4u"] {
            assert_eq!(decode(wrong, &list), None, "{wrong}");
        }
    }
}
