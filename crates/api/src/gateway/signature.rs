//! What a link's signature is over.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::secret::InstanceSecret;

/// The one way to sign so far: part of what is signed, so that another way makes other signatures.
const VERSION: &str = "1";

/// Everything that a link allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    /// The method, as a word; reading covers `HEAD`.
    pub(super) method: &'a str,
    /// The name of the bucket.
    pub(super) bucket: &'a str,
    /// The path of the object.
    pub(super) path: &'a str,
    /// When the link ends, as its text has it.
    pub(super) expires: &'a str,
    /// The id of a link for one use; empty for others.
    pub(super) once: &'a str,
}

/// What links are signed with.
#[derive(Debug)]
pub(super) struct SigningKey(InstanceSecret);

impl SigningKey {
    pub(super) fn new(secret: InstanceSecret) -> Self {
        Self(secret)
    }

    fn mac(&self, signed: &Signed<'_>) -> Hmac<Sha256> {
        let Signed {
            method,
            bucket,
            path,
            expires,
            once,
        } = signed;
        self.0.mac(&[VERSION, method, bucket, path, expires, once])
    }

    /// The signature, in hexadecimal digits.
    pub(super) fn sign(&self, signed: &Signed<'_>) -> String {
        hex::encode(self.mac(signed).finalize().into_bytes())
    }

    /// Whether this is the signature. Takes as long whatever is wrong about it.
    pub(super) fn verify(&self, signed: &Signed<'_>, signature: &str) -> bool {
        hex::decode(signature).is_ok_and(|bytes| self.mac(signed).verify_slice(&bytes).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(byte: u8) -> SigningKey {
        SigningKey::new(InstanceSecret::new(&[byte; 32]).unwrap())
    }

    const LINK: Signed<'_> = Signed {
        method: "GET",
        bucket: "results",
        path: "a/b.csv",
        expires: "100",
        once: "",
    };

    #[test]
    fn the_signature_is_over_everything() {
        let key = key_of(7);
        let signature = key.sign(&LINK);
        assert!(key.verify(&LINK, &signature));
        let others = [
            Signed {
                method: "PUT",
                ..LINK
            },
            Signed {
                bucket: "other",
                ..LINK
            },
            Signed {
                path: "a/c.csv",
                ..LINK
            },
            Signed {
                expires: "101",
                ..LINK
            },
            Signed { once: "1", ..LINK },
            Signed {
                path: "a/b.csv1",
                expires: "00",
                ..LINK
            },
        ];
        for other in others {
            assert!(!key.verify(&other, &signature), "{other:?}");
        }
        assert!(!key_of(8).verify(&LINK, &signature));
    }

    #[test]
    fn nothing_else_is_the_signature() {
        let key = key_of(7);
        let signature = key.sign(&LINK);
        let flipped: String = signature
            .chars()
            .rev()
            .enumerate()
            .map(|(at, digit)| match (at, digit) {
                (0, '0') => '1',
                (0, _) => '0',
                _ => digit,
            })
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        for wrong in [
            "",
            "zz",
            &signature[..62],
            &signature[..2],
            &format!("{signature}00"),
            &flipped,
        ] {
            assert!(!key.verify(&LINK, wrong), "{wrong}");
        }
    }

    #[test]
    fn the_way_to_sign_stays() {
        // Links that are out there must stay good when the server is replaced.
        let signature = key_of(7).sign(&LINK);
        assert_eq!(
            signature,
            "9504f8f72724b5c4d69994ff3e862637d842f8ab2ece4c45ad82b1d8cbb419a9"
        );
    }
}
