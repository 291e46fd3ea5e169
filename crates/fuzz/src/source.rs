//! Values made of bytes: the same bytes give the same values, and any bytes give some.

/// Bytes that values are taken from; zeros once they are used up.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    bytes: &'a [u8],
}

impl<'a> Source<'a> {
    /// A source of these bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether all bytes are used up.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *first
    }

    /// A number below `count`, which is at least 1 and at most 256.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// One of `choices`.
    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Up to `most` bytes.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let count = self.below(most + 1).min(self.bytes.len());
        let (taken, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        taken
    }

    /// Short text: of few characters, so that texts meet, or of any.
    pub(crate) fn text(&mut self) -> String {
        const CHARACTERS: [char; 8] = ['a', 'b', '\0', '\u{7f}', '\u{80}', 'é', '\u{ffff}', '\u{1f42d}'];
        if self.byte() & 1 == 0 {
            return self
                .bytes(20)
                .iter()
                .map(|byte| CHARACTERS[usize::from(*byte) % 8])
                .collect();
        }
        String::from_utf8_lossy(self.bytes(24)).into_owned()
    }

    /// A number with small ones and extremes among them.
    pub(crate) fn number(&mut self) -> i64 {
        let byte = self.byte();
        match byte % 8 {
            0 => i64::MIN + i64::from(byte / 128),
            1 => i64::MAX - i64::from(byte / 128),
            2 => i64::from(i32::MIN) - i64::from(byte / 128),
            3 => i64::from(i32::MAX) + i64::from(byte / 128),
            4 => {
                let mut number = [0; 8];
                number.iter_mut().for_each(|byte| *byte = self.byte());
                i64::from_le_bytes(number)
            }
            _ => i64::from(self.byte().cast_signed()),
        }
    }
}

/// A hash by which inputs are told apart; no secret.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
