//! Conditions of requests on the version of an object, after RFC 9110.

use axum::http::{HeaderMap, HeaderName, header};
use object_store::ObjectMeta;
use sha2::{Digest, Sha256};

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answer it.
    Proceed,
    /// The client has this version.
    NotModified,
    /// The client wants another version.
    Failed,
}

/// The strong entity tag of an object: the store's, or one of its size and time for stores without.
pub(super) fn entity_tag(meta: &ObjectMeta) -> String {
    let stored = meta.e_tag.as_deref().filter(|tag| !tag.starts_with("W/"));
    match stored.map(|tag| tag.trim_matches('"')) {
        Some(tag) if !tag.is_empty() && tag.bytes().all(is_tag_byte) => format!("\"{tag}\""),
        _ => {
            let text = format!("{}|{:?}|{:?}", meta.size, meta.last_modified, meta.e_tag);
            format!("\"{}\"", hex::encode(&Sha256::digest(text.as_bytes())[..16]))
        }
    }
}

fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"'
}

/// Checks `If-Match` and `If-None-Match` for the object with this tag.
pub(super) fn check(headers: &HeaderMap, tag: &str) -> Outcome {
    if headers.contains_key(header::IF_MATCH) && !lists(headers, header::IF_MATCH, tag, Comparison::Strong) {
        return Outcome::Failed;
    }
    if lists(headers, header::IF_NONE_MATCH, tag, Comparison::Weak) {
        return Outcome::NotModified;
    }
    Outcome::Proceed
}

/// Whether a range may be answered. `If-Range` with anything but this tag, such as a date, which is no strong
/// validator, asks for the whole object.
pub(super) fn range_is_current(headers: &HeaderMap, tag: &str) -> bool {
    match headers.get(header::IF_RANGE) {
        Some(value) => value.to_str().is_ok_and(|value| value.trim() == tag),
        None => true,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// Weak tags are like no other.
    Strong,
    /// It does not matter whether a tag is weak.
    Weak,
}

/// Whether one of the header's lists of tags has this one, or stands for all.
fn lists(headers: &HeaderMap, name: HeaderName, tag: &str, comparison: Comparison) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|listed| {
        let listed = match (comparison, listed.strip_prefix("W/")) {
            (Comparison::Weak, Some(listed)) => listed,
            _ => listed,
        };
        listed == "*" || listed == tag
    })
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn conditions_are_on_the_tag() {
        use Outcome::{Failed, NotModified, Proceed};
        let table = [
            (vec![], Proceed),
            (vec![(header::IF_NONE_MATCH, "\"a\"")], NotModified),
            (vec![(header::IF_NONE_MATCH, "W/\"a\"")], NotModified),
            (vec![(header::IF_NONE_MATCH, "\"b\", \"a\"")], NotModified),
            (
                vec![(header::IF_NONE_MATCH, "\"b\""), (header::IF_NONE_MATCH, "\"a\"")],
                NotModified,
            ),
            (vec![(header::IF_NONE_MATCH, "*")], NotModified),
            (vec![(header::IF_NONE_MATCH, "\"b\"")], Proceed),
            (vec![(header::IF_MATCH, "\"a\"")], Proceed),
            (vec![(header::IF_MATCH, "\"b\",\"a\"")], Proceed),
            (vec![(header::IF_MATCH, "*")], Proceed),
            (vec![(header::IF_MATCH, "\"b\"")], Failed),
            (vec![(header::IF_MATCH, "W/\"a\"")], Failed),
            (
                vec![(header::IF_MATCH, "\"b\""), (header::IF_NONE_MATCH, "\"a\"")],
                Failed,
            ),
        ];
        for (pairs, outcome) in table {
            assert_eq!(check(&headers(&pairs), "\"a\""), outcome, "{pairs:?}");
        }
    }

    #[test]
    fn a_range_is_of_one_version() {
        let table = [
            ("\"a\"", true),
            ("W/\"a\"", false),
            ("\"b\"", false),
            ("Sun, 29 Nov 2026 10:00:00 GMT", false),
        ];
        for (value, current) in table {
            let headers = headers(&[(header::IF_RANGE, value)]);
            assert_eq!(range_is_current(&headers, "\"a\""), current, "{value}");
        }
        assert!(range_is_current(&HeaderMap::new(), "\"a\""));
    }

    #[test]
    fn tags_are_strong_and_one_for_each_version() {
        let meta = |e_tag: Option<&str>, size| ObjectMeta {
            location: Path::from("a"),
            last_modified: Default::default(),
            size,
            e_tag: e_tag.map(str::to_owned),
            version: None,
        };
        assert_eq!(entity_tag(&meta(Some("12-ab"), 1)), "\"12-ab\"");
        assert_eq!(entity_tag(&meta(Some("\"12-ab\""), 1)), "\"12-ab\"");
        let mut made: Vec<_> = [None, Some("W/\"x\""), Some(""), Some("a\"b"), Some("a b")]
            .map(|tag| entity_tag(&meta(tag, 1)))
            .into_iter()
            .chain([entity_tag(&meta(None, 2))])
            .collect();
        assert!(
            made.iter()
                .all(|tag| tag.len() == 34 && tag.starts_with('"') && tag.ends_with('"'))
        );
        made.sort_unstable();
        made.dedup();
        assert_eq!(made.len(), 6);
    }
}
