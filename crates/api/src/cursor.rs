//! Places in lists, as texts that clients give back.
//!
//! A cursor is signed, and belongs to one list: that of a tenant with a filter. With another one it is refused, as is one
//! that the instance did not give.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dormouse_core::{ids::BulkJobId, time::Timestamp};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::secret::InstanceSecret;

/// A place in a list of jobs: the last job before it.
pub type Place = (Timestamp, BulkJobId);

/// What the secret signs here, so that no signature of another kind is one of these.
const KIND: &str = "cursor";

/// How many bytes of a signature a cursor begins with.
const SIGNATURE_BYTES: usize = 16;

/// A list of jobs: whose it is, and what it is filtered by.
#[derive(Debug)]
pub struct List<'a> {
    secret: &'a InstanceSecret,
    parts: Vec<&'a str>,
}

impl<'a> List<'a> {
    /// The list that these parts tell from all others.
    pub fn new(secret: &'a InstanceSecret, parts: Vec<&'a str>) -> Self {
        Self { secret, parts }
    }

    fn mac(&self, place: &str) -> Hmac<Sha256> {
        let mut parts = vec![KIND, place];
        parts.extend(&self.parts);
        self.secret.mac(&parts)
    }

    /// The text of a place.
    pub fn encode(&self, place: &Place) -> String {
        let place = format!("{}|{}", place.0.as_millis(), place.1);
        let signature = self.mac(&place).finalize().into_bytes();
        let mut bytes = signature[..SIGNATURE_BYTES].to_vec();
        bytes.extend(place.bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place that a text names; none when it is no place of this list.
    pub fn decode(&self, text: &str) -> Option<Place> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signature, place) = bytes.split_at_checked(SIGNATURE_BYTES)?;
        let place = std::str::from_utf8(place).ok()?;
        self.mac(place).verify_truncated_left(signature).ok()?;
        let (millis, id) = place.split_once('|')?;
        let created = Timestamp::from_millis(millis.parse().ok()?);
        Some((created, BulkJobId::new(id).ok()?))
    }
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
        let secret = InstanceSecret::new(&[7; 32]).unwrap();
        let list = List::new(&secret, vec!["acme", "Open"]);
        let text = list.encode(&place);
        assert_eq!(list.decode(&text), Some(place.clone()));
        for other in [vec!["acme", "Failed"], vec!["acmeO", "pen"], vec!["acme"]] {
            assert_eq!(List::new(&secret, other).decode(&text), None);
        }
        let stranger = InstanceSecret::new(&[8; 32]).unwrap();
        assert_eq!(List::new(&stranger, vec!["acme", "Open"]).decode(&text), None);
        let mut later = URL_SAFE_NO_PAD.decode(&text).unwrap();
        later[SIGNATURE_BYTES] = b'2';
        let later = URL_SAFE_NO_PAD.encode(later);
        for wrong in ["", "x", "====", "MDB8MHww", &text[..8], &text[2..], &later] {
            assert_eq!(list.decode(wrong), None, "{wrong}");
        }
    }
}
