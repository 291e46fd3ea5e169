//! Files in groups that are each in key order: a scan reads the files of a group one after the other, so that each
//! group is sorted as a whole, and groups are merged only where somebody needs the order of all.

use dormouse_core::key::KeyRange;

/// Puts files in chains, in which each file begins after the one before has ended. There are as few chains as files
/// overlap at one key, or `wanted` where there are files enough: long chains are cut in two.
pub(super) fn chains<T>(mut files: Vec<(KeyRange, u64, T)>, wanted: usize) -> Vec<Vec<T>> {
    files.sort_by(|(first, ..), (second, ..)| first.min.cmp(&second.min));
    let mut chains: Vec<Vec<(KeyRange, u64, T)>> = Vec::new();
    for file in files {
        let after = |chain: &Vec<(KeyRange, u64, T)>| {
            let last = chain.last().map(|(range, ..)| range.max.clone());
            last.filter(|last| *last < file.0.min)
        };
        // The one that ended last leaves the others to those that begin soon.
        let best = chains
            .iter()
            .enumerate()
            .filter_map(|(number, chain)| Some((after(chain)?, number)))
            .max();
        match best {
            Some((_, number)) => chains[number].push(file),
            None => chains.push(vec![file]),
        }
    }
    let bytes = |chain: &Vec<(KeyRange, u64, T)>| chain.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
    while chains.len() < wanted {
        let longest = chains
            .iter_mut()
            .filter(|chain| chain.len() > 1)
            .max_by_key(|chain| bytes(chain));
        let Some(longest) = longest else { break };
        let half = bytes(longest) / 2;
        let mut before = 0;
        let middle = longest.iter().position(|(_, bytes, _)| {
            before += bytes;
            before >= half
        });
        let cut = (middle.unwrap_or(0) + 1).min(longest.len() - 1);
        let rest = longest.split_off(cut);
        chains.push(rest);
    }
    let alone = |chain: Vec<(KeyRange, u64, T)>| chain.into_iter().map(|(.., file)| file).collect();
    chains.into_iter().map(alone).collect()
}

#[cfg(test)]
mod tests {
    use dormouse_core::key::{Key, KeyValue};

    use super::*;

    fn file(min: i32, max: i32, bytes: u64) -> (KeyRange, u64, (i32, i32)) {
        let key = |value| Key::new([KeyValue::Int32(value)]);
        let range = KeyRange {
            min: key(min),
            max: key(max),
        };
        (range, bytes, (min, max))
    }

    #[test]
    fn files_that_do_not_overlap_are_one_chain() {
        let files = vec![file(5, 8, 1), file(0, 4, 1), file(9, 9, 1)];
        assert_eq!(chains(files, 1), [[(0, 4), (5, 8), (9, 9)]]);
    }

    #[test]
    fn files_that_share_a_key_are_in_different_chains() {
        let files = vec![file(0, 4, 1), file(4, 8, 1), file(5, 6, 1)];
        assert_eq!(chains(files, 1), [vec![(0, 4), (5, 6)], vec![(4, 8)]]);
    }

    #[test]
    fn long_chains_are_cut_until_there_is_one_for_each_thread() {
        let files: Vec<_> = (0..6)
            .map(|at| file(at, at, if at == 0 { 100 } else { 1 }))
            .collect();
        let cut = chains(files, 3);
        assert_eq!(
            cut,
            [vec![(0, 0)], vec![(1, 1), (2, 2)], vec![(3, 3), (4, 4), (5, 5)]]
        );
        assert_eq!(chains(vec![file(0, 1, 9)], 4), [[(0, 1)]]);
        assert_eq!(chains::<()>(vec![], 4), Vec::<Vec<()>>::new());
    }
}
