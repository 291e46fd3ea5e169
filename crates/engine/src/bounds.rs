//! Bounds of long values, cut short outwards as Parquet has it in statistics and in the page index: a text stays one,
//! and never gets a longer character.

/// What no value is below, of at most `most` bytes where that can be, and whether it is `value` itself.
pub(crate) fn below(value: &[u8], most: usize, is_text: bool) -> (Vec<u8>, bool) {
    let cut = (value.len() > most)
        .then(|| front(value, most, is_text))
        .flatten();
    match cut {
        Some(cut) => (cut.to_vec(), false),
        None => (value.to_vec(), true),
    }
}

/// What no value is above, of at most `most` bytes where that can be, and whether it is `value` itself.
pub(crate) fn above(value: &[u8], most: usize, is_text: bool) -> (Vec<u8>, bool) {
    let cut = (value.len() > most)
        .then(|| front(value, most, is_text))
        .flatten();
    let next = cut.and_then(|cut| match str::from_utf8(cut) {
        Ok(text) if is_text => next_text(text),
        _ => next_bytes(cut),
    });
    match next {
        Some(next) => (next, false),
        None => (value.to_vec(), true),
    }
}

/// At most `most` bytes, at least one, and whole characters of a text.
fn front(value: &[u8], most: usize, is_text: bool) -> Option<&[u8]> {
    let text = match is_text {
        true => str::from_utf8(value).ok(),
        false => None,
    };
    let end = match text {
        Some(text) => text.floor_char_boundary(most),
        None => most,
    };
    (end > 0).then(|| &value[..end])
}

/// A text above all that begin with this one.
fn next_text(text: &str) -> Option<Vec<u8>> {
    text.char_indices().rev().find_map(|(at, last)| {
        let next = char::from_u32(u32::from(last) + 1)?;
        (next.len_utf8() == last.len_utf8()).then(|| format!("{}{next}", &text[..at]).into_bytes())
    })
}

/// Bytes above all that begin with these.
fn next_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
    let last = bytes.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut next = bytes[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_values_stay() {
        assert_eq!(below(b"abc", 3, true), (b"abc".to_vec(), true));
        assert_eq!(above(b"abc", 3, true), (b"abc".to_vec(), true));
        assert_eq!(above(b"", 0, false), (b"".to_vec(), true));
    }

    #[test]
    fn long_values_are_cut_outwards() {
        assert_eq!(below(b"pqrs", 3, true), (b"pqr".to_vec(), false));
        assert_eq!(above(b"pqrs", 3, true), (b"pqs".to_vec(), false));
        assert_eq!(above(&[1, 0xff, 0xff, 9], 3, false), (vec![2], false));
    }

    #[test]
    fn texts_keep_whole_characters() {
        let text = "aéé".as_bytes();
        assert_eq!(below(text, 4, true), ("aé".into(), false));
        assert_eq!(above(text, 4, true), ("aê".into(), false));
        // The last character of two bytes, and the one before surrogates: the one before them rises.
        assert_eq!(above("a\u{7ff}b".as_bytes(), 3, true), ("b".into(), false));
        assert_eq!(above("a\u{d7ff}b".as_bytes(), 4, true), ("b".into(), false));
    }

    #[test]
    fn what_has_nothing_above_stays_whole() {
        assert_eq!(above(&[0xff; 4], 3, false), (vec![0xff; 4], true));
        let last = "\u{10ffff}\u{10ffff}".as_bytes();
        assert_eq!(above(last, 5, true), (last.to_vec(), true));
        assert_eq!(below("éé".as_bytes(), 1, true), ("éé".into(), true));
    }
}
