//! Which bytes of an object a request asks for, after RFC 9110.

use std::ops::Range;

/// What part of an object to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// These bytes, at least one.
    Some(Range<u64>),
    /// None: the bytes asked for are not there.
    Unsatisfiable,
}

/// Reads a `Range` header for an object of `size` bytes.
///
/// What is not understood is passed over, as are several ranges at once: the answer is the whole object then.
pub(super) fn requested(header: &str, size: u64) -> Part {
    let Some((unit, set)) = header.split_once('=') else {
        return Part::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else {
        return Part::Whole;
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if last < first => Part::Whole,
        (Some(first), last) if last.is_some() || is_open(set) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            if first < size {
                Part::Some(first..end)
            } else {
                Part::Unsatisfiable
            }
        }
        (None, Some(0)) if first.is_empty() => Part::Unsatisfiable,
        // The last bytes of an object that has none: a range of them could not be told.
        (None, Some(_)) if first.is_empty() && size == 0 => Part::Whole,
        (None, Some(length)) if first.is_empty() => Part::Some(size.saturating_sub(length)..size),
        _ => Part::Whole,
    }
}

/// Whether a range has no last byte.
fn is_open(set: &str) -> bool {
    set.trim().ends_with('-')
}

/// A number of decimal digits, however many.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        let table = [
            ("bytes=0-0", 10, Part::Some(0..1)),
            ("bytes=0-9", 10, Part::Some(0..10)),
            ("bytes=2-5", 10, Part::Some(2..6)),
            ("bytes=2-99", 10, Part::Some(2..10)),
            ("bytes=9-", 10, Part::Some(9..10)),
            ("bytes=0-", 10, Part::Some(0..10)),
            ("bytes=-3", 10, Part::Some(7..10)),
            ("bytes=-99", 10, Part::Some(0..10)),
            ("Bytes= 2-5 ", 10, Part::Some(2..6)),
            ("bytes=2-18446744073709551615", 10, Part::Some(2..10)),
            ("bytes=2-99999999999999999999999", 10, Part::Some(2..10)),
            ("bytes=-99999999999999999999999", 10, Part::Some(0..10)),
            ("bytes=10-", 10, Part::Unsatisfiable),
            ("bytes=10-20", 10, Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Part::Unsatisfiable),
            ("bytes=-0", 10, Part::Unsatisfiable),
            ("bytes=0-", 0, Part::Unsatisfiable),
            ("bytes=-1", 0, Part::Whole),
            ("bytes=5-2", 10, Part::Whole),
            ("bytes=0-1,3-4", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=", 10, Part::Whole),
            ("bytes=a-b", 10, Part::Whole),
            ("bytes=1-b", 10, Part::Whole),
            ("bytes=a-1", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("bytes=1--2", 10, Part::Whole),
            ("bytes=--2", 10, Part::Whole),
            ("rows=0-1", 10, Part::Whole),
            ("0-1", 10, Part::Whole),
            ("", 10, Part::Whole),
        ];
        for (header, size, part) in table {
            assert_eq!(requested(header, size), part, "{header} of {size}");
        }
    }
}
