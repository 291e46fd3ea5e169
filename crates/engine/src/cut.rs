//! Finds the leaf of each row, and brings a batch's rows together by leaf.

use arrow::array::UInt32Array;
use dormouse_core::{Error, Result, key::Key, partition::Leaf, schema::Schema};

use crate::sort_key::{Keys, key_prefix};

/// The lower bounds of a table's leaves, but for the first leaf, which has none.
#[derive(Debug)]
pub(crate) struct Cutter {
    keys: Vec<Key>,
    prefixes: Vec<u128>,
    row_key_columns: usize,
}

/// Rows of one batch by leaf.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The rows of the batch, leaf by leaf, each leaf's in their order.
    pub(crate) rows: UInt32Array,
    /// Each leaf that has rows, and the end of its rows in `rows`.
    pub(crate) ends: Vec<(usize, u32)>,
}

impl Cutter {
    /// # Errors
    /// `Invalid` when the leaves do not cover the key space in order, or a bound does not fit the schema.
    pub(crate) fn new(leaves: &[Leaf], schema: &Schema) -> Result<Self> {
        let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else {
            return Err(Error::invalid("a table needs at least one leaf"));
        };
        let follow = leaves
            .windows(2)
            .all(|pair| pair[0].bounds.upper == pair[1].bounds.lower);
        if first.bounds.lower.is_some() || last.bounds.upper.is_some() || !follow {
            return Err(Error::invalid("the leaves do not cover the key space in order"));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(leaves.len() - 1);
        for leaf in &leaves[1..] {
            let Some(lower) = &leaf.bounds.lower else {
                return Err(Error::invalid(format!("leaf \"{}\" has no lower bound", leaf.id)));
            };
            schema.check_key(lower)?;
            if keys.last().is_some_and(|previous| previous >= lower) {
                return Err(Error::invalid(format!(
                    "leaf \"{}\" does not come after the one before",
                    leaf.id
                )));
            }
            keys.push(lower.clone());
        }
        Ok(Self {
            prefixes: keys.iter().map(key_prefix).collect(),
            keys,
            row_key_columns: schema.row_key().len(),
        })
    }

    pub(crate) fn leaves(&self) -> usize {
        self.keys.len() + 1
    }

    /// The leaf of a row: how many lower bounds are not beyond its key.
    fn leaf(&self, keys: &Keys, row: usize, prefix: u128) -> usize {
        let mut leaf = self.prefixes.partition_point(|lower| *lower < prefix);
        while self.prefixes.get(leaf).is_some_and(|lower| *lower == prefix)
            && keys
                .compare_key(row, &self.keys[leaf], self.row_key_columns)
                .is_ge()
        {
            leaf += 1;
        }
        leaf
    }

    /// Brings rows together by leaf; `prefixes` is memory to work in.
    pub(crate) fn cut(&self, keys: &Keys, prefixes: &mut Vec<u128>) -> Cut {
        let rows = keys.rows();
        keys.prefixes(0, prefixes);
        let leaves: Vec<u32> = prefixes
            .iter()
            .enumerate()
            .map(|(row, prefix)| self.leaf(keys, row, *prefix) as u32)
            .collect();
        let mut starts = vec![0_u32; self.leaves()];
        for leaf in &leaves {
            starts[*leaf as usize] += 1;
        }
        let mut ends = Vec::new();
        let mut next = 0;
        for (leaf, start) in starts.iter_mut().enumerate() {
            let count = *start;
            *start = next;
            next += count;
            if count > 0 {
                ends.push((leaf, next));
            }
        }
        let mut order = vec![0_u32; rows];
        for (row, leaf) in leaves.iter().enumerate() {
            let place = &mut starts[*leaf as usize];
            order[*place as usize] = row as u32;
            *place += 1;
        }
        Cut {
            rows: order.into(),
            ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, StringArray};
    use dormouse_core::{
        ids::PartitionId,
        key::{KeyBounds, KeyValue},
        schema::{Column, DataType},
    };

    use super::*;

    fn leaves(splits: &[Key]) -> Vec<Leaf> {
        (0..=splits.len())
            .map(|i| Leaf {
                id: PartitionId::new(format!("leaf{i}")).unwrap(),
                bounds: KeyBounds {
                    lower: i.checked_sub(1).map(|i| splits[i].clone()),
                    upper: splits.get(i).cloned(),
                },
            })
            .collect()
    }

    #[test]
    fn rows_fall_in_the_leaf_whose_bounds_hold_their_key() {
        let schema = Schema::new(
            vec![
                Column::required("a", DataType::Utf8),
                Column::required("b", DataType::Int32),
            ],
            vec![],
            vec![],
        )
        .unwrap();
        let text = |text: &str| KeyValue::Utf8(text.into());
        let long = "a text longer than any prefix";
        let splits = [
            Key::new([text("b")]),
            Key::new([text("b"), KeyValue::Int32(5)]),
            Key::new([text(long.replace('a', "c").as_str())]),
            Key::new([text("d")]),
        ];
        let leaves = leaves(&splits);
        let cutter = Cutter::new(&leaves, &schema).unwrap();
        let texts = [
            "zz",
            "a",
            "b",
            "b",
            "b",
            "c text longer thcn cny prefix",
            "c text longer thcn cny prefiw",
            "d",
        ];
        let numbers = [0, 9, i32::MIN, 4, 5, 1, 1, -1];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(texts.to_vec())),
            Arc::new(Int32Array::from(numbers.to_vec())),
        ];
        let keys = Keys::new(&columns, 2).unwrap();
        let cut = cutter.cut(&keys, &mut Vec::new());
        let mut from = 0;
        for (leaf, end) in cut.ends {
            for row in &cut.rows.values()[from as usize..end as usize] {
                let row = *row as usize;
                let key = Key::new([text(texts[row]), KeyValue::Int32(numbers[row])]);
                assert!(
                    leaves[leaf].bounds.contains(&key),
                    "{key} is not in {}",
                    leaves[leaf].bounds
                );
            }
            from = end;
        }
        assert_eq!(from, 8);
    }

    #[test]
    fn leaves_that_leave_a_gap_are_refused() {
        let schema = Schema::new(vec![Column::required("a", DataType::Int32)], vec![], vec![]).unwrap();
        let mut gap = leaves(&[Key::new([KeyValue::Int32(1)]), Key::new([KeyValue::Int32(2)])]);
        gap.remove(1);
        assert!(
            Cutter::new(&gap, &schema)
                .unwrap_err()
                .to_string()
                .contains("cover")
        );
        assert!(Cutter::new(&[], &schema).is_err());
    }
}
