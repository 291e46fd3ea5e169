//! What a compaction writes.

use std::sync::Arc;

use dormouse_core::{
    ErrorKind, Result,
    file::DataFile,
    key::Key,
    ports::{MergeInput, Progress, RowEngine},
};
use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::fixture::{Fixture, rows, text, text_batch, text_leaves};

/// Two files over the whole key space, in a table whose leaves cut them.
async fn two_files() -> (Fixture, Vec<MergeInput>) {
    let mut fixture = Fixture::text(&[]);
    let mut inputs = Vec::new();
    for value in ["1", "2"] {
        let rows = [("a", 1, Some(value)), ("g", 1, Some(value)), ("m", 1, None)];
        let files = fixture.ingest_batches(&[text_batch(&rows)]).await;
        inputs.push(fixture.export_input(&files[0], false));
    }
    fixture.leaves = text_leaves(&["g", "n"]);
    (fixture, inputs)
}

async fn compact(fixture: &Fixture, leaf: usize, inputs: &[MergeInput]) -> Result<Option<DataFile>> {
    let spec = fixture.compaction_spec(leaf, inputs.to_vec());
    let progress = Arc::new(Progress::default());
    let made = fixture.engine().compact(spec, progress.clone()).await?;
    if let Some(file) = &made {
        assert_eq!(progress.written(), file.rows);
    }
    Ok(made)
}

async fn objects(fixture: &Fixture) -> usize {
    fixture
        .store
        .list(None)
        .try_collect::<Vec<_>>()
        .await
        .unwrap()
        .len()
}

#[tokio::test]
async fn the_rows_of_a_leaf_become_one_file_that_proves_itself() {
    let (fixture, inputs) = two_files().await;
    let file = compact(&fixture, 1, &inputs).await.unwrap().unwrap();
    assert!(
        file.name.to_string().starts_with("partition_leaf1/"),
        "{}",
        file.name
    );
    assert_eq!(
        rows(&fixture.read(&file).await),
        ["g|1|1", "g|1|2", "m|1|<null>", "m|1|<null>"]
    );
    let [part] = &file.parts[..] else {
        panic!("{:?}", file.parts)
    };
    assert_eq!((file.rows, part.rows), (4, 4));
    assert_eq!(
        (&part.range.min, &part.range.max),
        (&Key::new([text("g")]), &Key::new([text("m")]))
    );
    let (exported, _) = fixture.export(1, inputs).await.unwrap();
    assert_eq!(part.digest, exported.digest);
    // The file knows its rows, so it is read without its checksum.
    let again = compact(&fixture, 1, &[fixture.export_input(&file, true)]).await;
    assert_eq!(again.unwrap().unwrap().parts, file.parts);
}

#[tokio::test]
async fn without_rows_nothing_is_written() {
    let (fixture, inputs) = two_files().await;
    let before = objects(&fixture).await;
    assert_eq!(compact(&fixture, 2, &inputs).await.unwrap(), None);
    assert_eq!(objects(&fixture).await, before);
}

#[tokio::test]
async fn damage_leaves_no_file() {
    let (fixture, mut inputs) = two_files().await;
    let before = objects(&fixture).await;
    inputs[1].checksum.0 ^= 1;
    let error = compact(&fixture, 1, &inputs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(objects(&fixture).await, before);
}
