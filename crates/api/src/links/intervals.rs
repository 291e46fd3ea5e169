//! Sets of bytes of an object, as intervals.

use std::ops::Range;

/// The most intervals that a set remembers: it must fit an item.
const MAX_INTERVALS: usize = 4096;

/// Bytes of an object: intervals in order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Intervals(Vec<Range<u64>>);

impl Intervals {
    /// Adds bytes. Those that would make too many intervals are left out.
    pub(super) fn add(&mut self, added: Range<u64>) {
        if added.is_empty() {
            return;
        }
        let first = self.0.partition_point(|interval| interval.end < added.start);
        let last = self.0.partition_point(|interval| interval.start <= added.end);
        let (mut start, mut end) = (added.start, added.end);
        if let Some(joined) = self.0.get(first..last) {
            for interval in joined {
                start = start.min(interval.start);
                end = end.max(interval.end);
            }
        }
        if first < last || self.0.len() < MAX_INTERVALS {
            self.0.splice(first..last, std::iter::once(start..end));
        }
    }

    /// Whether all bytes of an object of this size are there.
    pub(super) fn cover(&self, size: u64) -> bool {
        size == 0
            || self
                .0
                .first()
                .is_some_and(|first| first.start == 0 && first.end >= size)
    }

    /// As text, such as `0-99,200-299` with the last byte of each.
    pub(super) fn to_text(&self) -> String {
        let intervals = self
            .0
            .iter()
            .map(|interval| format!("{}-{}", interval.start, interval.end - 1));
        intervals.collect::<Vec<_>>().join(",")
    }

    /// Reads what [`Intervals::to_text`] wrote; nothing for other text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut intervals = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-')?;
            let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
            intervals.add(first..last.checked_add(1).filter(|end| first < *end)?);
        }
        Some(intervals)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn intervals_are_the_set_of_their_bytes(ranges in prop::collection::vec((0u64..60, 0u64..20), 0..30)) {
            let mut intervals = Intervals::default();
            let mut bytes = BTreeSet::new();
            for (start, length) in ranges {
                intervals.add(start..start + length);
                bytes.extend(start..start + length);
                let held: Vec<u64> = intervals.0.iter().cloned().flatten().collect();
                prop_assert_eq!(held, bytes.iter().copied().collect::<Vec<_>>());
                // Neighbours have a gap between them.
                prop_assert!(intervals.0.windows(2).all(|pair| pair[0].end < pair[1].start));
                for size in 0..90 {
                    prop_assert_eq!(intervals.cover(size), (0..size).all(|byte| bytes.contains(&byte)));
                }
                let read = Intervals::parse(&intervals.to_text());
                prop_assert_eq!(read.as_ref(), Some(&intervals));
            }
        }
    }

    #[test]
    fn other_text_is_no_set() {
        for text in ["a", "1", "1-", "-1", "5-4", "0-18446744073709551615", "0-1;2-3"] {
            assert_eq!(Intervals::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_set_has_a_limit_and_still_joins() {
        let mut intervals = Intervals::default();
        for number in 0..MAX_INTERVALS as u64 + 10 {
            intervals.add(number * 3..number * 3 + 1);
        }
        assert_eq!(intervals.0.len(), MAX_INTERVALS);
        intervals.add(0..u64::MAX - 1);
        assert_eq!(intervals.to_text(), "0-18446744073709551613");
    }
}
