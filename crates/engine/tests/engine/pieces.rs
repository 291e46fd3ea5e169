//! Merges that are cut into pieces: row groups copied as they are, key ranges merged side by side.

use std::{num::NonZeroUsize, ops::Range};

use bytes::Bytes;
use dormouse_core::{
    ErrorKind,
    file::{DataFile, RowDigest},
    key::Key,
    ports::{ExportedFile, MergeInput},
};
use dormouse_engine::FileLayout;
use object_store::{ObjectStoreExt, path::Path};
use parquet::file::{
    metadata::ParquetMetaData,
    reader::FileReader,
    serialized_reader::{ReadOptionsBuilder, SerializedFileReader},
};
use proptest::prelude::*;

use crate::fixture::{Fixture, rows, text, text_batch};

const SMALL: FileLayout = FileLayout {
    row_group_rows: 4,
    page_rows: 2,
    piece_bytes: 1,
    copied_rows: 1,
};

fn name(key: u32) -> String {
    format!("{key:04}")
}

/// A file of rows: keys with sort key 0 and the file's name as value.
async fn file(fixture: &Fixture, value: &str, keys: impl IntoIterator<Item = u32>) -> DataFile {
    let keys: Vec<String> = keys.into_iter().map(name).collect();
    let table: Vec<_> = keys.iter().map(|key| (key.as_str(), 0, Some(value))).collect();
    fixture.ingest_batches(&[text_batch(&table)]).await.remove(0)
}

fn small() -> Fixture {
    let mut fixture = Fixture::text(&[]);
    fixture.options.layout = SMALL;
    fixture
}

async fn bytes(fixture: &Fixture, input: &MergeInput) -> Bytes {
    fixture.bytes(&input.path).await
}

async fn merge(fixture: &Fixture, files: &[DataFile]) -> (ExportedFile, Vec<String>, Bytes) {
    let inputs = files
        .iter()
        .map(|file| fixture.export_input(file, true))
        .collect();
    let (exported, batch) = fixture.export(0, inputs).await.unwrap();
    let bytes = fixture.bytes(&"export/out.parquet".into()).await;
    (exported, rows(&batch), bytes)
}

fn metadata(bytes: Bytes) -> ParquetMetaData {
    let options = ReadOptionsBuilder::new().with_page_index().build();
    let reader = SerializedFileReader::new_with_options(bytes, options).unwrap();
    reader.metadata().clone()
}

/// The encoded bytes of a row group.
fn row_group(bytes: &Bytes, metadata: &ParquetMetaData, number: usize) -> Bytes {
    let ranges = metadata
        .row_group(number)
        .columns()
        .iter()
        .map(|chunk| chunk.byte_range());
    let ends: Vec<Range<u64>> = ranges.map(|(start, length)| start..start + length).collect();
    bytes.slice(ends[0].start as usize..ends[ends.len() - 1].end as usize)
}

#[tokio::test]
async fn files_that_do_not_overlap_are_copied_row_group_by_row_group() {
    let fixture = small();
    let late = file(&fixture, "late", 100..110).await;
    let early = file(&fixture, "early", 0..7).await;
    let (exported, found, merged) = merge(&fixture, &[late.clone(), early.clone()]).await;

    let expected: Vec<String> = (0..7)
        .map(|key| format!("{}|0|early", name(key)))
        .chain((100..110).map(|key| format!("{}|0|late", name(key))))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(exported.digest, early.digest() + late.digest());
    assert_eq!(exported.checksum.0, crc_fast::crc64_nvme(&merged));
    let range = exported.range.unwrap();
    assert_eq!(
        (range.min, range.max),
        (Key::new([text("0000")]), Key::new([text("0109")]))
    );

    let output = metadata(merged.clone());
    let inputs = [
        bytes(&fixture, &fixture.export_input(&early, true)).await,
        bytes(&fixture, &fixture.export_input(&late, true)).await,
    ];
    let mut number = 0;
    for input in &inputs {
        let footer = metadata(input.clone());
        for group in 0..footer.num_row_groups() {
            assert_eq!(
                row_group(&merged, &output, number),
                row_group(input, &footer, group)
            );
            let rows = |of: &ParquetMetaData, group: usize| {
                let pages = of.offset_index().unwrap()[group][0].page_locations();
                pages.iter().map(|page| page.first_row_index).collect::<Vec<_>>()
            };
            assert_eq!(rows(&output, number), rows(&footer, group));
            let encodings = |of: &ParquetMetaData, group: usize| {
                let columns = of.row_group(group).columns().iter();
                columns
                    .map(|chunk| chunk.page_encoding_stats_mask().copied().unwrap())
                    .collect::<Vec<_>>()
            };
            assert_eq!(encodings(&output, number), encodings(&footer, group));
            number += 1;
        }
    }
    assert_eq!(output.num_row_groups(), number);
}

#[tokio::test]
async fn only_what_nothing_overlaps_is_copied() {
    let mut fixture = small();
    let wide = file(&fixture, "wide", (0..20).map(|key| key * 10)).await;
    let narrow = file(&fixture, "narrow", [85, 95]).await;
    fixture.options.layout.piece_bytes = 1 << 20;
    let (_, found, merged) = merge(&fixture, &[wide.clone(), narrow.clone()]).await;
    let mut expected: Vec<String> = (0..20)
        .map(|key| format!("{}|0|wide", name(key * 10)))
        .chain([85, 95].map(|key| format!("{}|0|narrow", name(key))))
        .collect();
    expected.sort();
    assert_eq!(found, expected);
    // Rows 80 to 110 meet the other file; the row groups on both sides do not.
    let output = metadata(merged.clone());
    let row_counts: Vec<i64> = output.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(row_counts, [4, 4, 4, 2, 4, 4]);
    let input = bytes(&fixture, &fixture.export_input(&wide, true)).await;
    let footer = metadata(input.clone());
    for (copied, original) in [(0, 0), (1, 1), (4, 3), (5, 4)] {
        assert_eq!(
            row_group(&merged, &output, copied),
            row_group(&input, &footer, original)
        );
    }
}

#[tokio::test]
async fn row_groups_of_few_rows_do_not_stay_small() {
    let mut fixture = small();
    let files = [
        file(&fixture, "a", 0..3).await,
        file(&fixture, "b", 10..13).await,
        file(&fixture, "c", [5]).await,
    ];
    fixture.options.layout.piece_bytes = 1 << 20;
    fixture.options.layout.copied_rows = 3;
    let (_, found, merged) = merge(&fixture, &files).await;
    assert_eq!(found.len(), 7);
    assert!(found.is_sorted());
    // The one row between two copies takes the one before it along.
    let groups: Vec<i64> = metadata(merged)
        .row_groups()
        .iter()
        .map(|group| group.num_rows())
        .collect();
    assert_eq!(groups, [4, 3]);
}

#[tokio::test]
async fn damage_of_copied_bytes_is_found() {
    let fixture = small();
    let files = [file(&fixture, "a", 0..7).await, file(&fixture, "b", 10..13).await];
    let input = fixture.export_input(&files[0], true);
    let sound = bytes(&fixture, &input).await;
    let footer = metadata(sound.clone());
    let (start, length) = footer.row_group(1).column(2).byte_range();
    // Within a page that is copied, and in the page index, which is not.
    for at in [start + length - 1, start + length + 10] {
        let mut bytes = sound.to_vec();
        bytes[at as usize] ^= 1;
        fixture.store.put(&input.path, bytes.into()).await.unwrap();
        let inputs = files
            .iter()
            .map(|file| fixture.export_input(file, true))
            .collect();
        let error = fixture.export(0, inputs).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(input.path.as_ref()), "{error}");
    }
    fixture.store.put(&input.path, sound.into()).await.unwrap();
    // A file is copied only if the state knows its rows, and all of them are in the leaf.
    let mut inputs: Vec<MergeInput> = files
        .iter()
        .map(|file| fixture.export_input(file, true))
        .collect();
    inputs[0].exact = Some((6, files[0].digest()));
    let error = fixture.export(0, inputs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("it has 7 rows"), "{error}");
}

#[tokio::test]
async fn the_number_of_threads_does_not_show_in_the_bytes() {
    let mut fixture = small();
    let mut files = Vec::new();
    for part in 0..5u32 {
        let keys = (0..60)
            .map(|key| key * 5 + part)
            .chain(part * 1000 + 1000..part * 1000 + 1020);
        files.push(file(&fixture, &format!("file {part}"), keys).await);
    }
    let mut outputs = Vec::new();
    for threads in [1, 2, 5] {
        fixture.options.threads = NonZeroUsize::new(threads).unwrap();
        let (exported, found, bytes) = merge(&fixture, &files).await;
        assert_eq!((exported.rows, found.len()), (400, 400));
        assert!(found.is_sorted());
        outputs.push(bytes);
    }
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
    let groups = metadata(outputs.remove(0)).num_row_groups();
    assert!(
        groups > 100,
        "{groups} row groups for 400 rows cut into many pieces"
    );
}

#[tokio::test]
async fn a_piece_that_fails_fails_the_merge() {
    let mut fixture = small();
    fixture.options.threads = NonZeroUsize::new(3).unwrap();
    let mut files = Vec::new();
    for part in 0..3u32 {
        files.push(
            file(
                &fixture,
                &format!("file {part}"),
                (0..200).map(|key| key * 3 + part),
            )
            .await,
        );
    }
    let input = fixture.export_input(&files[1], true);
    let mut damaged = bytes(&fixture, &input).await.to_vec();
    let (start, _) = metadata(damaged.clone().into())
        .row_group(25)
        .column(0)
        .byte_range();
    damaged[start as usize + 30] ^= 0xff;
    fixture.store.put(&input.path, damaged.into()).await.unwrap();
    let inputs = files
        .iter()
        .map(|file| fixture.export_input(file, true))
        .collect();
    let error = fixture.export(0, inputs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let output = fixture.store.head(&Path::from("export/out.parquet")).await;
    assert!(output.is_err(), "nothing is left of a merge that failed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_merge_in_pieces_is_a_stable_merge(
        inputs in prop::collection::vec((0u32..60, prop::collection::vec(0u32..25, 1..40)), 1..6),
        row_group_rows in 1usize..9,
        page_rows in 1usize..4,
        piece_bytes in prop_oneof![Just(1u64), 50u64..2000, Just(1 << 30)],
        copied_rows in 1u64..9,
        threads in 1usize..4,
    ) {
        let mut fixture = Fixture::text(&[]);
        fixture.options.threads = NonZeroUsize::new(threads).unwrap();
        fixture.options.layout = FileLayout { row_group_rows, page_rows, piece_bytes, copied_rows };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut files = Vec::new();
            let mut model = Vec::new();
            for (number, (first, keys)) in inputs.iter().enumerate() {
                let made = file(&fixture, &format!("file {number}"), keys.iter().map(|key| first + key)).await;
                model.extend(rows(&fixture.read(&made).await));
                files.push(made);
            }
            model.sort_by(|a, b| a[..4].cmp(&b[..4]));
            let (exported, found, bytes) = merge(&fixture, &files).await;
            assert_eq!(found, model);
            assert_eq!(exported.rows as usize, model.len());
            assert_eq!(exported.digest, files.iter().map(DataFile::digest).sum::<RowDigest>());
            let range = exported.range.unwrap();
            let ends = (Key::new([text(&model[0][..4])]), Key::new([text(&model[model.len() - 1][..4])]));
            assert_eq!((range.min, range.max), ends);
            assert_eq!(exported.checksum.0, crc_fast::crc64_nvme(&bytes));
        });
    }
}
