//! Which leaves to split, and where.
//!
//! A leaf whose rows exceed the threshold is sampled. Each piece of it that exceeds the threshold is cut at the key
//! that comes nearest to halving its rows, and both halves may be cut again: a leaf far over the threshold comes
//! apart at once, by as many levels as it takes. A key is a whole row key, so that rows that agree in their first
//! column are still cut by the next. What cannot be cut, or turns out to fit, is remembered as
//! [kept](crate::state::Kept), so that nobody looks at it again before it has grown.

use crate::{
    error::Result,
    ids::PartitionId,
    key::Key,
    partition::Leaf,
    ports::KeySample,
    state::{KeptBecause, TableState, transaction::Split},
};

/// The leaves that are worth a look: they have more than `threshold` rows, as far as the state knows, and grew since
/// the last look that kept them whole.
pub fn over_threshold(state: &TableState, threshold: u64) -> impl Iterator<Item = Leaf> {
    state.leaves().filter(move |leaf| {
        let rows = state.rows_at(&leaf.id);
        rows > threshold
            && state.kept(&leaf.id).is_none_or(|kept| match &kept.because {
                KeptBecause::Fits { rows: found } => {
                    found.saturating_add(rows.saturating_sub(kept.rows)) > threshold
                }
                KeptBecause::OneKey { .. } => rows / 2 >= kept.rows,
            })
    })
}

/// What is to be done with a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Division {
    /// These splits, one after the other; each piece is within the threshold, or has one key in the sample.
    Splits(Vec<Split>),
    /// Nothing.
    Keep(KeptBecause),
}

/// How to cut a leaf into pieces of at most `threshold` rows.
///
/// `new_id` names the pieces.
///
/// # Errors
/// Those of `new_id`.
pub fn divide(
    leaf: &PartitionId,
    sample: Vec<KeySample>,
    threshold: u64,
    mut new_id: impl FnMut() -> Result<PartitionId>,
) -> Result<Division> {
    let keys = distinct(sample);
    let total = keys.last().map_or(0, |key| key.rows_before + key.rows);
    if total <= threshold {
        return Ok(Division::Keep(KeptBecause::Fits { rows: total }));
    }
    let mut splits = Vec::new();
    let mut pieces = vec![(leaf.clone(), &keys[..])];
    while let Some((partition, piece)) = pieces.pop() {
        let Some(cut) = middle(piece).filter(|_| rows_of(piece) > threshold) else {
            continue;
        };
        let (below, above) = piece.split_at(cut);
        let (left, right) = (new_id()?, new_id()?);
        splits.push(Split {
            partition,
            at: above[0].key.clone(),
            left: left.clone(),
            right: right.clone(),
        });
        pieces.push((right, above));
        pieces.push((left, below));
    }
    match keys.into_iter().next() {
        Some(only) if splits.is_empty() => Ok(Division::Keep(KeptBecause::OneKey { key: only.key })),
        _ => Ok(Division::Splits(splits)),
    }
}

/// A key with its share of the leaf's rows.
struct Weighed {
    key: Key,
    rows: u64,
    rows_before: u64,
}

/// The sample in key order, each key once.
fn distinct(mut sample: Vec<KeySample>) -> Vec<Weighed> {
    sample.sort_by(|a, b| a.key.cmp(&b.key));
    let mut keys: Vec<Weighed> = Vec::with_capacity(sample.len());
    let mut rows_before = 0_u64;
    for KeySample { key, rows } in sample {
        match keys.last_mut().filter(|last| last.key == key) {
            Some(last) => last.rows = last.rows.saturating_add(rows),
            None => keys.push(Weighed {
                key,
                rows,
                rows_before,
            }),
        }
        rows_before = rows_before.saturating_add(rows);
    }
    keys
}

fn rows_of(piece: &[Weighed]) -> u64 {
    match (piece.first(), piece.last()) {
        (Some(first), Some(last)) => (last.rows_before - first.rows_before).saturating_add(last.rows),
        _ => 0,
    }
}

/// Where to cut a piece so that its halves are most alike; none when it has one key.
fn middle(piece: &[Weighed]) -> Option<usize> {
    let half = piece.first()?.rows_before.saturating_add(rows_of(piece) / 2);
    (1..piece.len()).min_by_key(|cut| piece[*cut].rows_before.abs_diff(half))
}
