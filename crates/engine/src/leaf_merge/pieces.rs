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

/// A piece has about so many pages of each input at least: those where one piece ends and the next begins are decoded
/// for both.
const PAGES_OF_INPUT: u64 = 4;
/// But it has at most so many times the bytes that pieces usually have,
const MOST_GROWTH: u64 = 8;
/// and there are so many pieces, for threads to work on.
const LEAST_PIECES: u64 = 8;

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

/// How many bytes a piece of a merge has, where a page of each input has so many in all.
fn piece_bytes(layout: FileLayout, bytes: u64, pages: u64) -> u64 {
    let usual = layout.piece_bytes.max(1);
    let wanted = pages.saturating_mul(PAGES_OF_INPUT);
    let most = usual.saturating_mul(MOST_GROWTH).min(bytes / LEAST_PIECES);
    let about = wanted.min(most).max(usual);
    bytes.div_ceil((bytes / about).max(1))
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
    if bytes / layout.piece_bytes.max(1) > 1 {
        let mut found = Vec::new();
        for (input, range) in row_groups.iter().enumerate() {
            found.extend(marks(input, range.clone())?);
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        let merged = row_groups.iter().filter(|range| !range.is_empty()).count();
        let pages: u64 = found.iter().map(|mark| mark.bytes).sum();
        let page = pages / (found.len() as u64).max(1);
        let piece_bytes = piece_bytes(layout, bytes, merged as u64 * page);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(piece_bytes: u64) -> FileLayout {
        FileLayout {
            piece_bytes,
            ..FileLayout::default()
        }
    }

    #[test]
    fn pieces_are_larger_where_pages_are() {
        let of = |bytes, pages| piece_bytes(layout(1000), bytes, pages);
        assert_eq!(of(100_000, 100), 1000, "ten pages of each input");
        assert_eq!(of(100_000, 1000), 4000);
        assert_eq!(of(100_000, 10_000), 8334, "no more than eight times as large");
        assert_eq!(of(20_000, 1000), 2500, "no fewer than eight pieces");
        assert_eq!(of(5000, 1000), 1000, "which are as large as usual");
    }

    #[test]
    fn a_merge_of_large_pages_is_cut_into_fewer_pieces() {
        let groups = |input: i64| {
            vec![RowGroup {
                rows: 1000,
                bytes: 100_000,
                span: Some((KeyValue::Int64(input), KeyValue::Int64(1000 - input))),
                may_copy: false,
            }]
        };
        let inputs = [groups(0), groups(1)];
        let pieces = |page: u64| {
            let marks = |input: usize, _: Range<usize>| {
                let starts = (0..100_000 / page).map(|start| Mark {
                    key: KeyValue::Int64((start * page / 100) as i64 + input as i64),
                    bytes: page,
                });
                Ok::<_, ()>(starts.collect())
            };
            plan(&KeyBounds::default(), &inputs, layout(1000), marks)
                .unwrap()
                .len()
        };
        assert!((180..=200).contains(&pieces(100)), "{}", pieces(100));
        assert!((22..=25).contains(&pieces(1000)), "{}", pieces(1000));
    }
}
