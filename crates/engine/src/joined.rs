//! Bytes put one behind the other.

use std::ops::Range;

/// Up to so many bytes are copied as so many: that is a move, where other lengths are a call.
const SHORT: usize = 16;

/// Pieces of bytes, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Joined(Vec<u8>);

impl Joined {
    /// Nothing, with room for so many bytes.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes + SHORT))
    }

    /// Makes room for so many more bytes.
    pub(crate) fn make_room(&mut self, bytes: usize) {
        self.0.reserve(bytes + SHORT);
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The pieces.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The pieces.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Leaves nothing, and the room.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Appends some of the bytes of `source`.
    ///
    /// # Panics
    /// When they are not in it.
    #[inline]
    pub(crate) fn push(&mut self, source: &[u8], piece: Range<usize>) {
        let end = self.0.len() + piece.len();
        match source.get(piece.start..).and_then(<[u8]>::first_chunk::<SHORT>) {
            Some(short) if piece.len() <= SHORT => {
                self.0.extend_from_slice(short);
                self.0.truncate(end);
            }
            _ => self.0.extend_from_slice(&source[piece]),
        }
    }

    /// Appends some of the bytes that are there already.
    ///
    /// # Panics
    /// When they are not there.
    #[inline]
    pub(crate) fn repeat(&mut self, piece: Range<usize>) {
        let end = self.0.len();
        if piece.len() > SHORT {
            self.0.extend_from_within(piece);
            return;
        }
        assert!(piece.end <= end, "bytes that are not there");
        self.0.extend_from_slice(&[0; SHORT]);
        self.0.copy_within(piece.start..piece.start + SHORT, end);
        self.0.truncate(end + piece.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_come_one_behind_the_other(
            source in prop::collection::vec(any::<u8>(), 0..100),
            pieces in prop::collection::vec((any::<bool>(), 0_usize..101, 0_usize..40), 0..20),
        ) {
            let mut joined = Joined::with_room(3);
            let mut expected: Vec<u8> = Vec::new();
            for (repeats, from, length) in pieces {
                let all = if repeats { expected.len() } else { source.len() };
                let from = from.min(all);
                let piece = from..(from + length).min(all);
                if repeats {
                    joined.repeat(piece.clone());
                    expected.extend_from_within(piece);
                } else {
                    joined.push(&source, piece.clone());
                    expected.extend_from_slice(&source[piece]);
                }
                prop_assert_eq!(joined.bytes(), &expected[..]);
            }
            prop_assert_eq!(joined.len(), expected.len());
            prop_assert_eq!(joined.into_bytes(), expected);
        }
    }
}
