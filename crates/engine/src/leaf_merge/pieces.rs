//! How a merge is cut into pieces that are made side by side.
//!
//! A row group that no other input overlaps is copied as it is, when that is worth its place in the output: too small
//! ones would stay small for ever. Everything between two copies is a merge, and a large merge is cut at keys that
//! the page indexes tell, into pieces of about the same size. The cut depends on the inputs alone, so the same
//! inputs give the same bytes on any machine.
//!
//! Only the first key column is looked at. Its statistics may be cut short outwards, which makes row groups look as if
//! they overlap, never as if they did not.

use std::ops::Range;

use dormouse_core::key::{Key, KeyBounds, KeyValue};

use crate::options::FileLayout;

/// Row groups of so many bytes are worth a copy, however few rows they have.
const COPIED_BYTES: u64 = 8 << 20;

/// A row group of an input, as its footer describes it.
#[derive(Clone, Debug)]
pub(crate) struct RowGroup {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// The smallest and the largest value of the first key column, as far as is known.
    pub(crate) span: Option<(KeyValue, KeyValue)>,
    /// Whether its encoded bytes could stand in the output, were it not for other rows.
    pub(crate) may_copy: bool,
}

/// Where pages begin: a value of the first key column that no row before the page is above.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) key: KeyValue,
    /// Of the page.
    pub(crate) bytes: u64,
}

/// Rows that follow the piece before in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A row group of an input as it is.
    Copy { input: usize, row_group: usize },
    /// The rows within bounds of some row groups of each input.
    Merge {
        bounds: KeyBounds,
        row_groups: Vec<Range<usize>>,
    },
}

/// Cuts the merge of `inputs` within `bounds`. `marks` answers the marks of some row groups of an input.
///
/// Row groups of an input are in the order of its rows.
pub(crate) fn plan<E>(
    bounds: &KeyBounds,
    inputs: &[Vec<RowGroup>],
    layout: FileLayout,
    mut marks: impl FnMut(usize, Range<usize>) -> Result<Vec<Mark>, E>,
) -> Result<Vec<Piece>, E> {
    let mut pieces = Vec::new();
    for stretch in stretches(inputs, layout) {
        if stretch.row_groups.iter().any(|groups| !groups.is_empty()) {
            cut(
                bounds,
                inputs,
                stretch.row_groups,
                layout,
                &mut marks,
                &mut pieces,
            )?;
        }
        if let Some(Copied { input, row_group }) = stretch.then {
            pieces.push(Piece::Copy { input, row_group });
        }
    }
    Ok(pieces)
}

#[derive(Clone, Copy, Debug)]
struct Copied {
    input: usize,
    row_group: usize,
}

/// Row groups to merge, and the copy that comes after them.
#[derive(Debug)]
struct Stretch {
    row_groups: Vec<Range<usize>>,
    then: Option<Copied>,
}

/// The row groups that no other input overlaps and that are worth a copy, in order.
fn copies(inputs: &[Vec<RowGroup>], layout: FileLayout) -> Vec<Copied> {
    if inputs.iter().flatten().any(|group| group.span.is_none()) {
        return Vec::new();
    }
    let mut found: Vec<(&KeyValue, Copied)> = Vec::new();
    for (input, groups) in inputs.iter().enumerate() {
        for (row_group, group) in groups.iter().enumerate() {
            let Some((min, max)) = &group.span else { continue };
            let is_worth_it = group.rows >= layout.copied_rows || group.bytes >= COPIED_BYTES;
            let is_alone = || {
                let mut others = inputs.iter().enumerate().filter(|(other, _)| *other != input);
                others.all(|(_, other)| !overlaps(other, min, max))
            };
            if group.may_copy && is_worth_it && is_alone() {
                found.push((min, Copied { input, row_group }));
            }
        }
    }
    found.sort_by(|(a, one), (b, other)| a.cmp(b).then(one.row_group.cmp(&other.row_group)));
    found.into_iter().map(|(_, copied)| copied).collect()
}

fn overlaps(groups: &[RowGroup], min: &KeyValue, max: &KeyValue) -> bool {
    let first = groups.partition_point(|group| group.span.as_ref().is_some_and(|(_, end)| end < min));
    groups
        .get(first)
        .and_then(|group| group.span.as_ref())
        .is_some_and(|(start, _)| start <= max)
}

/// The merges between copies. A copy beside a merge of few rows joins it, lest the output get a row group of few rows.
fn stretches(inputs: &[Vec<RowGroup>], layout: FileLayout) -> Vec<Stretch> {
    let mut copies = copies(inputs, layout);
    loop {
        let stretches = between(inputs, &copies);
        let lonely = stretches.iter().position(|stretch| {
            let groups = stretch.row_groups.iter().zip(inputs);
            let rows: u64 = groups
                .flat_map(|(range, groups)| &groups[range.clone()])
                .map(|group| group.rows)
                .sum();
            rows > 0 && rows < layout.copied_rows
        });
        match lonely {
            Some(at) if !copies.is_empty() => {
                copies.remove(at.saturating_sub(1));
            }
            _ => return stretches,
        }
    }
}

fn between(inputs: &[Vec<RowGroup>], copies: &[Copied]) -> Vec<Stretch> {
    let mut starts = vec![0; inputs.len()];
    let mut stretches = Vec::with_capacity(copies.len() + 1);
    for copied in copies {
        let key = inputs[copied.input][copied.row_group].span.as_ref();
        let ends = inputs.iter().enumerate().map(|(input, groups)| {
            if input == copied.input {
                copied.row_group
            } else {
                groups.partition_point(|group| group.span.as_ref() < key)
            }
        });
        let row_groups: Vec<Range<usize>> = starts
            .iter()
            .zip(ends)
            .map(|(start, end)| *start..end.max(*start))
            .collect();
        starts = row_groups.iter().map(|groups| groups.end).collect();
        starts[copied.input] = copied.row_group + 1;
        stretches.push(Stretch {
            row_groups,
            then: Some(*copied),
        });
    }
    let ends = inputs.iter().map(Vec::len);
    stretches.push(Stretch {
        row_groups: starts
            .into_iter()
            .zip(ends)
            .map(|(start, end)| start..end)
            .collect(),
        then: None,
    });
    stretches
}

/// Cuts one merge into pieces.
fn cut<E>(
    bounds: &KeyBounds,
    inputs: &[Vec<RowGroup>],
    row_groups: Vec<Range<usize>>,
    layout: FileLayout,
    marks: &mut impl FnMut(usize, Range<usize>) -> Result<Vec<Mark>, E>,
    pieces: &mut Vec<Piece>,
) -> Result<(), E> {
    let all = row_groups.iter().zip(inputs);
    let bytes: u64 = all
        .flat_map(|(range, groups)| &groups[range.clone()])
        .map(|group| group.bytes)
        .sum();
    let mut lower = bounds.lower.clone();
    let pieces_wanted = bytes / layout.piece_bytes.max(1);
    if pieces_wanted > 1 {
        let mut found = Vec::new();
        for (input, range) in row_groups.iter().enumerate() {
            found.extend(marks(input, range.clone())?);
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        let piece_bytes = bytes.div_ceil(pieces_wanted);
        let mut done = 0;
        for mark in found {
            if done >= piece_bytes {
                let at = Key::new([mark.key]);
                let is_inside = lower.as_ref().is_none_or(|lower| *lower < at)
                    && bounds.upper.as_ref().is_none_or(|upper| at < *upper);
                if is_inside {
                    pieces.push(Piece::Merge {
                        bounds: KeyBounds {
                            lower: lower.replace(at.clone()),
                            upper: Some(at),
                        },
                        row_groups: row_groups.clone(),
                    });
                    done = 0;
                }
            }
            done += mark.bytes;
        }
    }
    pieces.push(Piece::Merge {
        bounds: KeyBounds {
            lower,
            upper: bounds.upper.clone(),
        },
        row_groups,
    });
    Ok(())
}
