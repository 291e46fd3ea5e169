//! Damaged bytes end in an error, never in a panic, and never in wrong rows.

use bytes::Bytes;
use dormouse_core::{ErrorKind, ids::TableId};
use object_store::ObjectStoreExt;
use parquet::{
    basic::Encoding,
    file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::fixture::{Fixture, encode, text_batch};

fn sample() -> Bytes {
    sample_of(WriterProperties::builder())
}

/// Rows in small pages and row groups.
fn sample_of(properties: WriterPropertiesBuilder) -> Bytes {
    let keys: Vec<String> = (0..500).map(|row| format!("key{:03}", row * 7 % 500)).collect();
    let rows: Vec<(&str, i64, Option<&str>)> = keys
        .iter()
        .enumerate()
        .map(|(row, key)| (key.as_str(), row as i64, [Some("x"), None, Some("y")][row % 3]))
        .collect();
    let properties = properties
        .set_max_row_group_row_count(Some(200))
        .set_data_page_row_count_limit(50)
        .set_write_batch_size(50)
        .build();
    encode(&[text_batch(&rows)], properties)
}

#[tokio::test]
async fn what_is_not_parquet_is_refused_with_its_name() {
    let fixture = Fixture::text(&[]);
    for bytes in [
        &b""[..],
        b"PAR1",
        b"k,s,v\na,1,x\n and more of it",
        b"PAR1\xff\xff\xff\xffPAR1",
        b"PAR1\0\0\0\0PARE",
    ] {
        let error = fixture.refusal(Bytes::from_static(bytes)).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error
                .to_string()
                .contains("cannot read \"bucket/in/bad.parquet\" as Parquet"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn every_truncation_is_refused() {
    let fixture = Fixture::text(&[]);
    let whole = sample();
    for length in (0..whole.len()).step_by(97) {
        let error = fixture.refusal(whole.slice(..length)).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
    }
}

#[tokio::test]
async fn flipped_bits_of_inputs_never_panic_the_engine() {
    let fixture = Fixture::text(&["key2"]);
    // Without compression the flips reach the decoders of every encoding.
    let samples = [
        sample(),
        sample_of(
            WriterProperties::builder()
                .set_dictionary_enabled(false)
                .set_column_encoding("k".into(), Encoding::DELTA_BYTE_ARRAY)
                .set_column_encoding("s".into(), Encoding::DELTA_BINARY_PACKED)
                .set_column_encoding("v".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                .set_writer_version(WriterVersion::PARQUET_2_0),
        ),
    ];
    let mut random = StdRng::seed_from_u64(5);
    for round in 0..800 {
        let mut bytes = samples[round % samples.len()].to_vec();
        // The footer is the larger part of what can go wrong.
        let first = if random.random::<bool>() {
            0
        } else {
            bytes.len() * 2 / 3
        };
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(first..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        let input = fixture.put("in/flipped.parquet", bytes.into()).await;
        if let Err(error) = fixture.ingest(vec![input]).await {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
        }
    }
}

#[tokio::test]
async fn flipped_bits_of_data_files_are_corrupt_or_change_nothing() {
    let fixture = Fixture::text(&[]);
    let input = fixture.put("in/x.parquet", sample()).await;
    let files = fixture.ingest(vec![input]).await.unwrap();
    let path = files[0].name.object_path(&TableId::new("table").unwrap());
    let whole = fixture.bytes(&path).await;
    let mut random = StdRng::seed_from_u64(6);
    for round in 0..300 {
        let mut bytes = whole.to_vec();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        fixture.store.put(&path, bytes.into()).await.unwrap();
        let exact = round % 3 > 0;
        match fixture
            .export(0, vec![fixture.export_input(&files[0], exact)])
            .await
        {
            Ok((exported, _)) => {
                assert!(exact, "a checksum cannot miss a flipped bit");
                assert_eq!(
                    (exported.rows, exported.digest),
                    (files[0].rows, files[0].digest())
                );
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
                assert!(error.to_string().contains(path.as_ref()), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_data_file_that_was_cut_anywhere_is_corrupt() {
    let fixture = Fixture::text(&[]);
    let input = fixture.put("in/x.parquet", sample()).await;
    let files = fixture.ingest(vec![input]).await.unwrap();
    let path = files[0].name.object_path(&TableId::new("table").unwrap());
    let whole = fixture.bytes(&path).await;
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        fixture
            .store
            .put(&path, whole.slice(..length).into())
            .await
            .unwrap();
        for exact in [false, true] {
            let export = fixture.export(0, vec![fixture.export_input(&files[0], exact)]);
            let error = export.await.unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::Corrupt,
                "{length} bytes: {}",
                error.report()
            );
        }
    }
}
