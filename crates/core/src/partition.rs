//! Partitions: half-open ranges of row keys that form a tree, whose leaves cover the key space without overlap.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    ids::PartitionId,
    key::{Key, KeyBounds},
};

/// One node of a table's partition tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The id, unique in the table for ever.
    pub id: PartitionId,
    /// The partition that this one is a part of; none for the root.
    pub parent: Option<PartitionId>,
    /// The two parts of this partition in key order; none for a leaf.
    pub children: Option<[PartitionId; 2]>,
    /// The keys inside.
    pub bounds: KeyBounds,
}

impl Partition {
    /// Whether this partition has no parts.
    pub fn is_leaf(&self) -> bool {
        self.children.is_none()
    }
}

/// A leaf as planners and the row engine see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The leaf's id.
    pub id: PartitionId,
    /// The keys inside.
    pub bounds: KeyBounds,
}

/// A partition tree whose leaves are cut at `split_points`: a balanced binary tree under `root`.
///
/// `new_id` names every partition but the root.
///
/// # Errors
/// `Invalid` when the split points do not rise strictly.
pub fn tree_from_split_points(
    split_points: &[Key],
    mut new_id: impl FnMut() -> PartitionId,
) -> Result<Vec<Partition>> {
    for pair in split_points.windows(2) {
        if pair[0] >= pair[1] {
            return Err(Error::invalid(format!(
                "split points must rise strictly, but {} comes before {}",
                pair[0], pair[1]
            )));
        }
    }
    let mut partitions = Vec::with_capacity(split_points.len() * 2 + 1);
    let mut pending = vec![(PartitionId::root(), None, KeyBounds::default(), split_points)];
    while let Some((id, parent, bounds, inside)) = pending.pop() {
        let children = if inside.is_empty() {
            None
        } else {
            let middle = inside.len() / 2;
            let at = inside[middle].clone();
            let [left, right] = [new_id(), new_id()];
            let left_bounds = KeyBounds {
                lower: bounds.lower.clone(),
                upper: Some(at.clone()),
            };
            let right_bounds = KeyBounds {
                lower: Some(at),
                upper: bounds.upper.clone(),
            };
            pending.push((
                right.clone(),
                Some(id.clone()),
                right_bounds,
                &inside[middle + 1..],
            ));
            pending.push((left.clone(), Some(id.clone()), left_bounds, &inside[..middle]));
            Some([left, right])
        };
        partitions.push(Partition {
            id,
            parent,
            children,
            bounds,
        });
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyValue;

    #[test]
    fn leaves_of_split_points_cover_the_key_space_in_order() {
        let points: Vec<Key> = (1..8).map(|i| Key::new([KeyValue::Int32(i * 10)])).collect();
        let mut next = 0;
        let tree = tree_from_split_points(&points, || {
            next += 1;
            PartitionId::new(format!("p{next}")).unwrap()
        })
        .unwrap();
        let mut leaves: Vec<_> = tree.iter().filter(|p| p.is_leaf()).collect();
        leaves.sort_by(|a, b| a.bounds.lower.cmp(&b.bounds.lower));
        assert_eq!(leaves.len(), 8);
        assert_eq!(leaves[0].bounds.lower, None);
        assert_eq!(leaves[7].bounds.upper, None);
        for pair in leaves.windows(2) {
            assert_eq!(pair[0].bounds.upper, pair[1].bounds.lower);
        }
    }

    #[test]
    fn split_points_that_do_not_rise_are_refused() {
        let point = Key::new([KeyValue::Int32(1)]);
        assert!(tree_from_split_points(&[point.clone(), point], PartitionId::root).is_err());
    }
}
