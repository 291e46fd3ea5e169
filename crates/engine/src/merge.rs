//! Merges sorted sources of batches into one.
//!
//! A tree of losers holds each source's next row by its key prefix; equal prefixes are settled by whole keys, and
//! equal keys by the sources' order, so a merge is stable. A source that wins several times in a row is compared with
//! the best of the others once and then runs on for as long as it stays ahead: sources that do not overlap pass
//! through as slices, and interleaved ones cost one path of the tree a row.

use std::{collections::VecDeque, hint::select_unpredictable};

use arrow::array::RecordBatch;
use dormouse_core::{Error, Result};

use crate::{
    columns::{batch_bytes, interleave},
    sort_key::Keys,
    table::TableSchema,
};

/// An output batch has at most so many rows.
const OUTPUT_ROWS: usize = 4 << 10;
/// An output batch has about so many bytes at most.
const OUTPUT_BYTES: usize = 8 << 20;
/// A source that has won so often in a row is taken to win some more.
const STREAK: usize = 4;
/// Runs of at least so many rows leave as slices of their batch.
const LONG_RUN: usize = 2 << 10;

/// Batches in key order, none of them empty.
pub(crate) trait SortedSource {
    /// The next batch; none at the end.
    fn next(&mut self) -> Result<Option<RecordBatch>>;

    /// The error for rows that turn out not to be in order.
    fn unsorted(&self) -> Error;
}

impl<S: SortedSource + ?Sized> SortedSource for Box<S> {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.as_mut().next()
    }

    fn unsorted(&self) -> Error {
        self.as_ref().unsorted()
    }
}

/// A k-way merge; holds about two batches of each source.
pub(crate) struct Merge<S> {
    table: TableSchema,
    cursors: Vec<Cursor<S>>,
    /// The loser of each inner node; node 0 holds the winner.
    tree: Vec<usize>,
    /// The prefix of each source's next row; the largest at its end.
    heads: Vec<u128>,
    /// The source whose row was taken last, and how often in a row.
    streak: (usize, usize),
    /// The batches that the output may name, the cursors' own among them.
    batches: Vec<RecordBatch>,
    /// The rows of the next output batch.
    picked: Vec<(usize, usize)>,
    picked_bytes: usize,
    /// Output batches in order.
    ready: VecDeque<RecordBatch>,
    shared_bytes: usize,
}

struct Cursor<S> {
    source: S,
    keys: Option<Keys>,
    prefixes: Vec<u128>,
    at: usize,
    /// The position in `batches`.
    batch: usize,
    row_bytes: usize,
}

impl<S: SortedSource> Merge<S> {
    /// Merges `sources`, all of whose rows share the first `shared_bytes` bytes of their first key column.
    pub(crate) fn new(table: TableSchema, sources: Vec<S>, shared_bytes: usize) -> Result<Self> {
        let cursors: Vec<_> = sources
            .into_iter()
            .map(|source| Cursor {
                source,
                keys: None,
                prefixes: Vec::new(),
                at: 0,
                batch: 0,
                row_bytes: 0,
            })
            .collect();
        let mut merge = Self {
            table,
            heads: vec![u128::MAX; cursors.len()],
            cursors,
            tree: Vec::new(),
            streak: (0, 0),
            batches: Vec::new(),
            picked: Vec::with_capacity(OUTPUT_ROWS),
            picked_bytes: 0,
            ready: VecDeque::new(),
            shared_bytes,
        };
        for cursor in 0..merge.cursors.len() {
            merge.load(cursor)?;
        }
        merge.build();
        Ok(merge)
    }

    /// The next rows in order; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.ready.is_empty() && self.picked.len() < OUTPUT_ROWS && self.picked_bytes < OUTPUT_BYTES {
            let Some(&winner) = self.tree.first() else { break };
            if self.cursors[winner].keys.is_none() {
                break;
            }
            let run = if self.is_on_a_streak(winner) {
                self.run_length(winner)
            } else {
                1
            };
            self.take(winner, run)?;
            self.replay(winner);
        }
        if self.ready.is_empty() {
            self.flush()?;
        }
        Ok(self.ready.pop_front())
    }

    fn is_on_a_streak(&mut self, winner: usize) -> bool {
        let (last, wins) = self.streak;
        self.streak = (winner, if winner == last { wins + 1 } else { 0 });
        self.streak.1 >= STREAK || self.cursors.len() == 1
    }

    /// How many rows the winner can give before another source's row comes.
    fn run_length(&self, winner: usize) -> usize {
        let cursor = &self.cursors[winner];
        let left = cursor.prefixes.len() - cursor.at;
        let Some(challenger) = self.challenger(winner) else {
            return left;
        };
        let room = (OUTPUT_ROWS - self.picked.len()).min(left);
        // Beyond one output batch only whole runs are of use, and those are found by a search.
        if left >= LONG_RUN && self.beats(winner, cursor.at + left - 1, challenger) {
            return left;
        }
        let mut run = 1;
        while run < room && self.beats(winner, cursor.at + run, challenger) {
            run += 1;
        }
        run
    }

    /// The best source but the winner: one of the losers on its path.
    fn challenger(&self, winner: usize) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut node = (winner + self.cursors.len()) / 2;
        while node > 0 {
            let loser = self.tree[node];
            if best.is_none_or(|best| self.before(loser, best)) {
                best = Some(loser);
            }
            node /= 2;
        }
        best.filter(|best| self.cursors[*best].keys.is_some())
    }

    /// Whether a row of `cursor` comes before the next row of `other`.
    fn beats(&self, cursor: usize, row: usize, other: usize) -> bool {
        let (a, b) = (&self.cursors[cursor], &self.cursors[other]);
        match a.prefixes[row].cmp(&b.prefixes[b.at]) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => match (&a.keys, &b.keys) {
                (Some(a_keys), Some(b_keys)) => a_keys
                    .compare(row, b_keys, b.at, 0)
                    .then(cursor.cmp(&other))
                    .is_lt(),
                _ => false,
            },
        }
    }

    /// Whether the next row of source `a` comes before that of source `b`; a source at its end is last.
    fn before(&self, a: usize, b: usize) -> bool {
        match self.heads[a].cmp(&self.heads[b]) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => self.is_first_of_equals(a, b),
        }
    }

    fn is_first_of_equals(&self, a: usize, b: usize) -> bool {
        match (&self.cursors[a].keys, &self.cursors[b].keys) {
            (Some(_), Some(_)) => self.beats(a, self.cursors[a].at, b),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn build(&mut self) {
        let sources = self.cursors.len();
        if sources == 0 {
            return;
        }
        let mut winners = vec![0; 2 * sources];
        for (source, winner) in winners[sources..].iter_mut().enumerate() {
            *winner = source;
        }
        self.tree = vec![0; sources];
        for node in (1..sources).rev() {
            let (left, right) = (winners[2 * node], winners[2 * node + 1]);
            let (winner, loser) = if self.before(right, left) {
                (right, left)
            } else {
                (left, right)
            };
            winners[node] = winner;
            self.tree[node] = loser;
        }
        self.tree[0] = if sources == 1 { 0 } else { winners[1] };
    }

    /// Plays the path of a source whose next row has changed. Which of two rows comes first is anybody's guess, so the
    /// processor had better not guess.
    fn replay(&mut self, source: usize) {
        let mut winner = source;
        let mut head = self.heads[source];
        let mut node = (source + self.cursors.len()) / 2;
        while node > 0 {
            let loser = self.tree[node];
            let other = self.heads[loser];
            let is_beaten = match other == head {
                true => self.is_first_of_equals(loser, winner),
                false => other < head,
            };
            self.tree[node] = select_unpredictable(is_beaten, winner, loser);
            winner = select_unpredictable(is_beaten, loser, winner);
            head = select_unpredictable(is_beaten, other, head);
            node /= 2;
        }
        self.tree[0] = winner;
    }

    /// Takes `run` rows of a source into the output.
    fn take(&mut self, source: usize, run: usize) -> Result<()> {
        let cursor = &mut self.cursors[source];
        let (batch, from) = (cursor.batch, cursor.at);
        let is_whole = run == cursor.prefixes.len() && self.tree.len() == 1;
        cursor.at += run;
        let is_used_up = cursor.at == cursor.prefixes.len();
        self.heads[source] = cursor.prefixes.get(cursor.at).copied().unwrap_or(u128::MAX);
        if run >= LONG_RUN || is_whole {
            let passing = self.batches[batch].slice(from, run);
            if is_used_up {
                self.load(source)?;
            }
            self.flush()?;
            self.ready.push_back(passing);
        } else {
            self.picked.extend((from..from + run).map(|row| (batch, row)));
            self.picked_bytes += run * cursor.row_bytes;
            if is_used_up {
                self.load(source)?;
            }
        }
        Ok(())
    }

    /// Takes a source's next batch and checks its order.
    fn load(&mut self, source: usize) -> Result<()> {
        let cursor = &mut self.cursors[source];
        let last = cursor.keys.take().filter(|keys| keys.rows() > 0);
        let Some(batch) = cursor.source.next()? else {
            return Ok(());
        };
        let keys = self.table.keys(batch.columns())?;
        keys.prefixes(self.shared_bytes, &mut cursor.prefixes);
        let follows = last.is_none_or(|last| last.compare(last.rows() - 1, &keys, 0, 0).is_le());
        let rises = cursor.prefixes.windows(2).enumerate().all(|(row, pair)| {
            pair[0] < pair[1] || (pair[0] == pair[1] && keys.compare(row, &keys, row + 1, 0).is_le())
        });
        if !follows || !rises {
            return Err(cursor.source.unsorted());
        }
        cursor.row_bytes = batch_bytes(&batch) / batch.num_rows().max(1) + 1;
        cursor.keys = Some(keys);
        cursor.at = 0;
        self.heads[source] = cursor.prefixes.first().copied().unwrap_or(u128::MAX);
        cursor.batch = self.batches.len();
        self.batches.push(batch);
        Ok(())
    }

    /// Makes the picked rows ready.
    fn flush(&mut self) -> Result<()> {
        interleave(&self.table, &self.batches, &self.picked, &mut self.ready)?;
        self.picked.clear();
        self.picked_bytes = 0;
        self.release();
        Ok(())
    }

    /// Lets go of batches that are used up.
    fn release(&mut self) {
        let mut kept = Vec::with_capacity(self.cursors.len());
        for cursor in &mut self.cursors {
            if cursor.keys.is_some() {
                kept.push(self.batches[cursor.batch].clone());
                cursor.batch = kept.len() - 1;
            }
        }
        self.batches = kept;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray, cast::AsArray};
    use dormouse_core::schema::{Column, DataType, Schema};
    use proptest::prelude::*;

    use super::*;

    struct Batches(std::vec::IntoIter<RecordBatch>);

    impl SortedSource for Batches {
        fn next(&mut self) -> Result<Option<RecordBatch>> {
            Ok(self.0.next())
        }

        fn unsorted(&self) -> Error {
            Error::corrupt("not sorted")
        }
    }

    fn table() -> TableSchema {
        TableSchema::new(Arc::new(
            Schema::new(
                vec![Column::required("k", DataType::Utf8)],
                vec![],
                vec![Column::required("v", DataType::Int64)],
            )
            .unwrap(),
        ))
    }

    fn batch(rows: &[(String, i64)]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        table().batch(vec![keys, values]).unwrap()
    }

    fn merged(sources: Vec<Vec<RecordBatch>>) -> Result<Vec<(String, i64)>> {
        let sources = sources
            .into_iter()
            .map(|batches| Batches(batches.into_iter()))
            .collect();
        let mut merge = Merge::new(table(), sources, 0)?;
        let mut rows = Vec::new();
        while let Some(batch) = merge.next()? {
            let keys = batch.column(0).as_string::<i32>();
            let values = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>();
            rows.extend((0..batch.num_rows()).map(|row| (keys.value(row).to_owned(), values.value(row))));
        }
        Ok(rows)
    }

    proptest! {
        #[test]
        fn a_merge_is_a_stable_sort_of_all_sources(
            sources in prop::collection::vec(
                (prop::collection::vec("[ab]{0,18}", 0..60), 1usize..20),
                0..9,
            ),
        ) {
            let mut expected = Vec::new();
            let mut batches = Vec::new();
            for (source, (keys, size)) in sources.iter().enumerate() {
                let mut keys = keys.clone();
                keys.sort();
                let rows: Vec<(String, i64)> = keys.into_iter().map(|key| (key, source as i64)).collect();
                batches.push(rows.chunks(*size).map(batch).collect());
                expected.extend(rows);
            }
            expected.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(merged(batches).unwrap(), expected);
        }
    }

    #[test]
    fn long_runs_keep_their_place_between_short_ones() {
        let run = |from: i64, rows: i64| -> Vec<(String, i64)> {
            (from..from + rows).map(|i| (format!("{i:08}"), i)).collect()
        };
        let sources = vec![
            vec![batch(&run(0, 10)), batch(&run(20_000, 9_000))],
            vec![batch(&run(10, 5_000)), batch(&run(40_000, 3))],
            vec![batch(&run(8_000, 6_000))],
        ];
        let rows = merged(sources).unwrap();
        assert_eq!(rows.len(), 20_013);
        assert!(rows.is_sorted());
    }

    #[test]
    fn rows_out_of_order_are_found_within_and_between_batches() {
        let row = |key: &str| (key.to_owned(), 0);
        let within = vec![vec![batch(&[row("b"), row("a")])]];
        assert_eq!(merged(within).unwrap_err().to_string(), "not sorted");
        let between = vec![vec![batch(&[row("b")]), batch(&[row("a")])]];
        assert_eq!(merged(between).unwrap_err().to_string(), "not sorted");
    }
}
