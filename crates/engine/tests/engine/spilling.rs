//! Rows beyond the memory budget.

use arrow::array::RecordBatch;
use dormouse_core::file::RowDigest;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::fixture::{Fixture, rows, text_batch};

fn batches(seed: u64, count: usize, size: usize) -> Vec<RecordBatch> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let keys: Vec<String> = (0..size)
                .map(|_| format!("{:x}", random.random::<u32>() >> 8))
                .collect();
            let rows: Vec<(&str, i64, Option<&str>)> = keys
                .iter()
                .map(|key| (key.as_str(), random.random_range(-5..5), Some("value")))
                .collect();
            text_batch(&rows)
        })
        .collect()
}

async fn all_rows(fixture: &Fixture, batches: &[RecordBatch]) -> (Vec<String>, RowDigest) {
    let files = fixture.ingest_batches(batches).await;
    let mut all = Vec::new();
    for file in &files {
        all.extend(rows(&fixture.read(file).await));
    }
    (all, files.iter().map(|file| file.digest()).sum())
}

#[tokio::test]
async fn a_small_budget_gives_the_same_files_as_a_large_one() {
    let batches = batches(1, 12, 700);
    for splits in [&["4", "8", "c"][..], &[]] {
        let mut fixture = Fixture::text(splits);
        let expected = all_rows(&fixture, &batches).await;
        let directory = tempfile::tempdir().unwrap();
        fixture.options.spill_directory = directory.path().to_owned();
        for memory_bytes in [200_000, 1] {
            fixture.options.memory_bytes = memory_bytes;
            assert_eq!(all_rows(&fixture, &batches).await, expected);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}

#[tokio::test]
async fn more_runs_than_one_merge_takes_are_merged_in_rounds() {
    let batches = batches(2, 150, 20);
    let mut fixture = Fixture::text(&[]);
    let expected = all_rows(&fixture, &batches).await;
    fixture.options.memory_bytes = 1;
    assert_eq!(all_rows(&fixture, &batches).await, expected);
}

#[tokio::test]
async fn nothing_stays_on_disk_after_an_error() {
    let mut fixture = Fixture::text(&[]);
    let directory = tempfile::tempdir().unwrap();
    fixture.options.spill_directory = directory.path().to_owned();
    fixture.options.memory_bytes = 1;
    fixture.options.threads = std::num::NonZeroUsize::MIN;
    let mut inputs = Vec::new();
    for (number, batch) in batches(3, 3, 50).iter().enumerate() {
        inputs.push(
            fixture
                .put_batches(&format!("in/{number}.parquet"), std::slice::from_ref(batch))
                .await,
        );
    }
    // A page of the last input is damaged, which only reading it shows.
    let mut bytes = fixture.bytes(&inputs[2].path).await.to_vec();
    bytes[4..40].fill(0xff);
    inputs[2] = fixture.put("in/2.parquet", bytes.into()).await;
    assert!(fixture.ingest(inputs).await.is_err());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_spill_directory_that_cannot_be_written_is_named() {
    let mut fixture = Fixture::text(&[]);
    fixture.options.spill_directory = "/nowhere/at/all".into();
    fixture.options.memory_bytes = 1;
    let input = fixture.put_batches("in/x.parquet", &batches(4, 1, 10)).await;
    let error = fixture.ingest(vec![input]).await.unwrap_err();
    assert!(error.report().contains("/nowhere/at/all"), "{}", error.report());
}
