//! Samples of a leaf's keys.

use dormouse_core::{
    key::Key,
    ports::{KeySample, RowEngine, SampleSpec},
};

use crate::fixture::{Fixture, text, text_batch, text_leaves};

/// Rows `0000`, `0001` and so on, of which each file has every `files`-th.
async fn fixture(rows: usize, files: usize) -> (Fixture, Vec<dormouse_core::file::DataFile>) {
    let fixture = Fixture::text(&[]);
    let mut made = Vec::new();
    for file in 0..files {
        let keys: Vec<String> = (file..rows).step_by(files).map(|i| format!("{i:04}")).collect();
        let rows: Vec<_> = keys.iter().map(|key| (key.as_str(), 1, None)).collect();
        made.extend(fixture.ingest_batches(&[text_batch(&rows)]).await);
    }
    (fixture, made)
}

async fn sample(
    fixture: &Fixture,
    leaf: usize,
    files: &[dormouse_core::file::DataFile],
    keys: usize,
) -> Vec<KeySample> {
    let spec = SampleSpec {
        schema: fixture.schema.clone(),
        leaf: fixture.leaves[leaf].clone(),
        inputs: files
            .iter()
            .map(|file| fixture.export_input(file, false))
            .collect(),
        keys,
    };
    fixture.engine().sample(spec).await.unwrap()
}

fn total(samples: &[KeySample]) -> u64 {
    samples.iter().map(|sample| sample.rows).sum()
}

/// The key below which half of the sampled rows are.
fn median(mut samples: Vec<KeySample>) -> Key {
    samples.sort_by(|a, b| a.key.cmp(&b.key));
    let half = total(&samples) / 2;
    let mut before = 0;
    for sample in samples {
        before += sample.rows;
        if before > half {
            return sample.key;
        }
    }
    panic!("no rows");
}

#[tokio::test]
async fn a_sample_is_spread_evenly_over_all_files() {
    let (fixture, files) = fixture(6000, 3).await;
    let all = sample(&fixture, 0, &files, 10_000).await;
    assert_eq!(all.len(), 6000);
    assert!(all.iter().all(|sample| sample.rows == 1));
    let some = sample(&fixture, 0, &files, 60).await;
    assert!((60..=63).contains(&some.len()), "{}", some.len());
    assert_eq!(total(&some), 6000);
    let median = median(some);
    assert!(
        median > Key::new([text("2800")]) && median < Key::new([text("3200")]),
        "{median}"
    );
    let one = sample(&fixture, 0, &files, 1).await;
    assert_eq!((one.len(), total(&one)), (3, 6000));
}

#[tokio::test]
async fn rows_beyond_the_leaf_do_not_count() {
    let (mut fixture, files) = fixture(6000, 3).await;
    fixture.leaves = text_leaves(&["1000", "3000", "9"]);
    for (leaf, rows) in [(0, 1000), (1, 2000), (2, 3000), (3, 0)] {
        let exact = sample(&fixture, leaf, &files, 10_000).await;
        assert_eq!(total(&exact), rows, "leaf {leaf}");
        assert!(
            exact
                .iter()
                .all(|sample| fixture.leaves[leaf].bounds.contains(&sample.key))
        );
        let rough = total(&sample(&fixture, leaf, &files, 300).await);
        assert!(rough.abs_diff(rows) <= 3 * 6000 / 300, "{rough} of {rows}");
    }
}
