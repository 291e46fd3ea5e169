//! What export reads, merges and proves.

use dormouse_core::{
    ErrorKind,
    file::{Checksum, RowDigest},
    key::{Key, KeyBounds},
    ports::MergeInput,
};
use object_store::ObjectStoreExt;

use crate::fixture::{Fixture, rows, text, text_batch};

/// Two files over the whole key space, and a fixture whose leaves cut them.
async fn two_files() -> (Fixture, Vec<MergeInput>) {
    let mut fixture = Fixture::text(&[]);
    let first = fixture
        .ingest_batches(&[text_batch(&[
            ("a", 1, Some("1")),
            ("g", 1, Some("1")),
            ("m", 1, Some("1")),
            ("z", 1, None),
        ])])
        .await;
    let second = fixture
        .ingest_batches(&[text_batch(&[
            ("b", 1, Some("2")),
            ("g", 1, Some("2")),
            ("m", 0, None),
            ("x", 1, None),
        ])])
        .await;
    fixture.leaves = crate::fixture::text_leaves(&["g", "n"]);
    let inputs = vec![
        fixture.export_input(&first[0], false),
        fixture.export_input(&second[0], false),
    ];
    (fixture, inputs)
}

#[tokio::test]
async fn an_export_holds_the_rows_of_its_leaf_in_order_and_rows_of_equal_keys_in_the_order_of_files() {
    let (fixture, inputs) = two_files().await;
    let (exported, batch) = fixture.export(1, inputs.clone()).await.unwrap();
    assert_eq!(rows(&batch), ["g|1|1", "g|1|2", "m|0|<null>", "m|1|1"]);
    assert_eq!(exported.rows, 4);
    let range = exported.range.unwrap();
    assert_eq!(
        (range.min, range.max),
        (Key::new([text("g")]), Key::new([text("m")]))
    );
    let bytes = fixture.bytes(&"export/out.parquet".into()).await;
    assert_eq!(exported.bytes, bytes.len() as u64);
    assert_eq!(exported.checksum.0, crc_fast::crc64_nvme(&bytes));

    let reversed = vec![inputs[1].clone(), inputs[0].clone()];
    let (_, batch) = fixture.export(1, reversed).await.unwrap();
    assert_eq!(rows(&batch)[..2], ["g|1|2", "g|1|1"]);
}

#[tokio::test]
async fn the_digests_of_all_leaves_exports_add_up_to_the_files() {
    let (fixture, inputs) = two_files().await;
    let mut sum = RowDigest::default();
    for leaf in 0..3 {
        sum = sum + fixture.export(leaf, inputs.clone()).await.unwrap().0.digest;
    }
    let whole = Fixture::text(&[]);
    let all = MergeInput { ..inputs[0].clone() };
    let mut spec = fixture.export_spec(0, vec![all, inputs[1].clone()]);
    spec.leaf.bounds = KeyBounds::default();
    use dormouse_core::ports::RowEngine;
    let exported = whole.engine().export(spec, Default::default()).await.unwrap();
    assert_eq!((exported.rows, exported.digest), (8, sum));
}

#[tokio::test]
async fn the_same_inputs_give_the_same_bytes() {
    let (fixture, inputs) = two_files().await;
    let (first, _) = fixture.export(0, inputs.clone()).await.unwrap();
    let bytes = fixture.bytes(&"export/out.parquet".into()).await;
    let (second, _) = fixture.export(0, inputs).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(fixture.bytes(&"export/out.parquet".into()).await, bytes);
}

#[tokio::test]
async fn more_files_than_one_merge_opens_are_merged_in_rounds() {
    let fixture = Fixture::text(&[]);
    let mut inputs = Vec::new();
    for file in 0..150 {
        let value = format!("file {file:03}");
        let batch = text_batch(&[("a", 1, Some(&value)), ("b", file % 7, Some(&value))]);
        let files = fixture.ingest_batches(&[batch]).await;
        inputs.push(fixture.export_input(&files[0], true));
    }
    let (exported, batch) = fixture.export(0, inputs.clone()).await.unwrap();
    assert_eq!(exported.rows, 300);
    let found = rows(&batch);
    let equal: Vec<String> = (0..150).map(|file| format!("a|1|file {file:03}")).collect();
    assert_eq!(found[..150], equal, "rows of equal keys keep the order of files");
    assert!(found[150..].windows(2).all(|pair| pair[0][..4] <= pair[1][..4]));

    inputs[100].exact = Some((2, RowDigest(7)));
    let error = fixture.export(0, inputs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn a_leaf_without_rows_gives_a_file_without_rows() {
    let (mut fixture, inputs) = two_files().await;
    fixture.leaves = crate::fixture::text_leaves(&["n", "o"]);
    for inputs in [inputs, vec![]] {
        let (exported, batch) = fixture.export(1, inputs).await.unwrap();
        assert_eq!((exported.rows, exported.range, batch.num_rows()), (0, None, 0));
        assert_eq!(batch.schema().fields().len(), 3);
    }
}

#[tokio::test]
async fn an_input_proves_itself_by_count_and_digest_of_its_rows_in_the_leaf() {
    let fixture = Fixture::text(&["m"]);
    let files = fixture
        .ingest_batches(&[text_batch(&[("a", 1, None), ("b", 1, None), ("z", 1, None)])])
        .await;
    let input = fixture.export_input(&files[0], true);
    assert_eq!(fixture.export(0, vec![input.clone()]).await.unwrap().0.rows, 2);
    for exact in [(3, files[0].digest()), (2, RowDigest(7))] {
        let wrong = MergeInput {
            exact: Some(exact),
            ..input.clone()
        };
        let error = fixture.export(0, vec![wrong]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(input.path.as_ref()), "{error}");
    }
}

#[tokio::test]
async fn an_input_whose_rows_are_not_counted_proves_itself_by_its_checksum() {
    let fixture = Fixture::text(&[]);
    let files = fixture.ingest_batches(&[text_batch(&[("a", 1, None)])]).await;
    let wrong = MergeInput {
        checksum: Checksum(1),
        ..fixture.export_input(&files[0], false)
    };
    let error = fixture.export(0, vec![wrong]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("its checksum is"), "{error}");
}

#[tokio::test]
async fn an_input_of_another_size_or_order_is_corrupt() {
    let fixture = Fixture::text(&[]);
    let files = fixture.ingest_batches(&[text_batch(&[("a", 1, None)])]).await;
    let longer = MergeInput {
        bytes: files[0].bytes + 1,
        ..fixture.export_input(&files[0], true)
    };
    assert_eq!(
        fixture.export(0, vec![longer]).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );

    let unsorted = fixture
        .put_batches("data.parquet", &[text_batch(&[("b", 1, None), ("a", 1, None)])])
        .await;
    let bytes = fixture.bytes(&unsorted.path).await;
    let input = MergeInput {
        store: fixture.store.clone(),
        path: unsorted.path,
        bytes: unsorted.bytes,
        checksum: Checksum(crc_fast::crc64_nvme(&bytes)),
        exact: None,
    };
    let error = fixture.export(0, vec![input]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("not in key order"), "{error}");
}

#[tokio::test]
async fn an_input_that_is_gone_is_not_found() {
    let (fixture, inputs) = two_files().await;
    fixture.store.delete(&inputs[0].path).await.unwrap();
    let error = fixture.export(0, inputs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn only_the_pages_around_the_leaf_are_read() {
    let mut fixture = Fixture::text(&[]);
    let keys: Vec<String> = (0..300_000).map(|row| format!("{row:06}")).collect();
    let table: Vec<(&str, i64, Option<&str>)> = keys.iter().map(|key| (key.as_str(), 1, None)).collect();
    let files = fixture.ingest_batches(&[text_batch(&table)]).await;
    fixture.leaves = crate::fixture::text_leaves(&["150000", "150010"]);
    let spec = fixture.export_spec(
        1,
        vec![MergeInput {
            exact: None,
            ..fixture.export_input(&files[0], true)
        }],
    );
    let progress = std::sync::Arc::new(dormouse_core::ports::Progress::default());
    use dormouse_core::ports::RowEngine;
    let exported = fixture.engine().export(spec, progress.clone()).await.unwrap();
    assert_eq!(exported.rows, 10);
    assert_eq!(progress.written(), 10);
    assert!(progress.read() <= 33_000, "{} rows were read", progress.read());
}
