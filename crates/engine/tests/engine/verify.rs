//! A file is verified against what the caller says of it: nothing is found in a sound one, and each fault in
//! others.

use bytes::Bytes;
use dormouse_core::{
    ErrorKind, Result,
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::TableId,
    key::{Key, KeyRange},
    ports::{FaultKind, FileFault, RowEngine, VerifySpec},
};
use object_store::{ObjectStoreExt, path::Path};
use parquet::file::properties::WriterProperties;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::fixture::{Fixture, encode, text, text_batch};

type Row = (&'static str, i64, Option<&'static str>);

const ROWS: &[Row] = &[
    ("b", 2, Some("x")),
    ("a", 1, None),
    ("m", 1, Some("y")),
    ("b", 1, Some("z")),
    ("z", 9, None),
];

fn spec_of(fixture: &Fixture, file: &DataFile) -> VerifySpec {
    VerifySpec {
        schema: fixture.schema.clone(),
        store: fixture.store.clone(),
        path: file.name.object_path(&TableId::new("table").unwrap()),
        bytes: file.bytes,
        checksum: file.checksum,
        parts: file.parts.clone(),
    }
}

async fn kinds(fixture: &Fixture, spec: VerifySpec) -> Vec<FaultKind> {
    let faults = fixture.engine().verify(spec).await.unwrap();
    faults.iter().map(|fault| fault.kind).collect()
}

/// One file of two parts, cut at `k`, and a fixture that holds it.
async fn one_file() -> (Fixture, DataFile) {
    let mut fixture = Fixture::text(&["k"]);
    fixture.target_file_bytes = 1 << 30;
    let mut files = fixture.ingest_batches(&[text_batch(ROWS)]).await;
    let file = files.remove(0);
    assert_eq!((files.len(), file.parts.len()), (0, 2));
    (fixture, file)
}

#[tokio::test]
async fn files_as_they_were_written_are_sound() {
    let (fixture, file) = one_file().await;
    assert_eq!(kinds(&fixture, spec_of(&fixture, &file)).await, []);
    let rows: Vec<(String, i64, Option<&str>)> = (0..70_000_i64)
        .map(|row| (format!("{:08}", row * 7919 % 70_000), row, None))
        .collect();
    let rows: Vec<_> = rows
        .iter()
        .map(|(key, n, text)| (key.as_str(), *n, *text))
        .collect();
    let mut fixture = Fixture::text(&["00010000", "00020000", "00069999"]);
    for target in [1, 1 << 30] {
        fixture.target_file_bytes = target;
        for file in fixture.ingest_batches(&[text_batch(&rows)]).await {
            assert_eq!(kinds(&fixture, spec_of(&fixture, &file)).await, []);
        }
    }
}

#[tokio::test]
async fn what_the_state_says_wrongly_is_found() {
    let (fixture, file) = one_file().await;
    let with = |change: &dyn Fn(&mut VerifySpec)| {
        let mut spec = spec_of(&fixture, &file);
        change(&mut spec);
        kinds(&fixture, spec)
    };
    use FaultKind::{Bytes, Order, Rows};
    assert_eq!(with(&|spec| spec.checksum = Checksum(1)).await, [Bytes]);
    assert_eq!(with(&|spec| spec.bytes += 1).await, [Bytes]);
    assert_eq!(
        with(&|spec| spec.parts[1].digest = RowDigest(1)).await,
        [Rows, Rows]
    );
    assert_eq!(with(&|spec| spec.parts[0].rows += 1).await, [Rows, Rows]);
    assert_eq!(
        with(&|spec| spec.parts[0].range.min = Key::new([text("0")])).await,
        [Order]
    );
    assert_eq!(
        with(&|spec| spec.parts[1].range.max = Key::new([text("zz")])).await,
        [Order]
    );
    assert_eq!(
        with(&|spec| {
            spec.parts.pop();
        })
        .await,
        [Rows, Order]
    );
    let moved = |spec: &mut VerifySpec| {
        spec.parts[0].rows -= 1;
        spec.parts[1].rows += 1;
    };
    assert_eq!(with(&moved).await, [Rows, Rows]);
}

/// What is said of a file of these rows as they are, in one part.
async fn as_written(fixture: &Fixture, rows: &[Row], row_group: usize) -> Result<Vec<FileFault>> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(row_group))
        .build();
    let bytes = encode(&[text_batch(rows)], properties);
    let input = fixture.put("table/data/by-hand.parquet", bytes.clone()).await;
    let checksum = crc(&bytes);
    // The digest of the rows does not depend on their order.
    let digest = Fixture::text(&[]).ingest_batches(&[text_batch(rows)]).await[0].digest();
    let keys = || rows.iter().map(|row| Key::new([text(row.0)]));
    let spec = VerifySpec {
        schema: fixture.schema.clone(),
        store: fixture.store.clone(),
        path: input.path,
        bytes: input.bytes,
        checksum,
        parts: vec![FilePart {
            range: KeyRange {
                min: keys().min().unwrap(),
                max: keys().max().unwrap(),
            },
            rows: rows.len() as u64,
            digest,
        }],
    };
    fixture.engine().verify(spec).await
}

fn crc(bytes: &[u8]) -> Checksum {
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    crc.update(bytes);
    Checksum(crc.finalize())
}

#[tokio::test]
async fn rows_out_of_order_are_found_with_their_number_within_and_between_row_groups() {
    let fixture = Fixture::text(&[]);
    let mut rows = ROWS.to_vec();
    rows.sort_unstable();
    for row_group in [1, 2, 100] {
        assert_eq!(as_written(&fixture, &rows, row_group).await.unwrap(), []);
    }
    rows.swap(1, 2);
    for row_group in [1, 2, 100] {
        let faults = as_written(&fixture, &rows, row_group).await.unwrap();
        let [fault] = faults.as_slice() else {
            panic!("{faults:?}")
        };
        assert_eq!(fault.kind, FaultKind::Order);
        assert!(fault.found.starts_with("row 2 "), "{fault:?}");
    }
}

#[tokio::test]
async fn every_flipped_byte_is_found_and_nothing_panics() {
    let (fixture, file) = one_file().await;
    let spec = spec_of(&fixture, &file);
    let whole = fixture.bytes(&spec.path).await;
    let mut random = StdRng::seed_from_u64(5);
    for place in (0..whole.len()).step_by(3) {
        let mut damaged = whole.to_vec();
        damaged[place] ^= 1 << random.random_range(0..8);
        fixture.store.put(&spec.path, damaged.into()).await.unwrap();
        let found = kinds(&fixture, spec.clone()).await;
        assert_eq!(found.first(), Some(&FaultKind::Bytes), "byte {place}");
    }
    for bytes in [
        whole.slice(..whole.len() - 1),
        Bytes::from_static(b"x"),
        Bytes::new(),
    ] {
        fixture.store.put(&spec.path, bytes.into()).await.unwrap();
        assert_eq!(kinds(&fixture, spec.clone()).await, [FaultKind::Bytes]);
    }
}

#[tokio::test]
async fn an_object_that_is_gone_is_an_error() {
    let (fixture, file) = one_file().await;
    let mut spec = spec_of(&fixture, &file);
    spec.path = Path::from("nowhere");
    let error = fixture.engine().verify(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
