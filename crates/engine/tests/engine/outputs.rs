//! The rows of queries as objects, read back.

#![expect(
    clippy::disallowed_methods,
    reason = "queries run on threads of their own, in real time"
)]

use std::{collections::BTreeMap, io::Read, sync::Arc};

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType as ArrowType, Int64Type},
};
use bytes::Bytes;
use dormouse_core::{
    Error, ErrorKind, Result,
    ports::{
        Compression, CsvFormat, FileFormat, PageCompression, QueryEngine, QueryOutput, QueryProgress,
        WrittenQuery,
    },
    time::Timestamp,
};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    database::{Database, database},
    fixture::decode,
};

const VALUES: &str = "SELECT * FROM (VALUES
    (1, 'plain', true, DATE '2026-01-02', 1.5),
    (2, '', false, NULL, -0.1),
    (3, NULL, NULL, DATE '1969-12-31', NULL),
    (4, 'a,b;c', true, NULL, 1e300),
    (5, 'say \"no\"', true, NULL, 0.0),
    (6, E'two\\nlines', true, NULL, 100.0)) AS t(n, text, yes, day, number) ORDER BY n";

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

struct Target {
    database: Database,
    store: Arc<InMemory>,
}

impl Target {
    async fn new() -> Self {
        Self {
            database: database().await,
            store: Arc::new(InMemory::new()),
        }
    }

    fn output(&self, format: FileFormat) -> QueryOutput {
        QueryOutput {
            store: self.store.clone(),
            prefix: Path::from("some/prefix"),
            name: "rows".to_owned(),
            format,
            generated_at: Timestamp::from_millis(1_795_167_000_123),
            progress: Arc::new(QueryProgress::default()),
        }
    }

    async fn write(&self, sql: &str, format: FileFormat) -> Result<WrittenQuery> {
        let output = self.output(format);
        let progress = output.progress.clone();
        let written = self
            .database
            .engine
            .write(self.database.spec(sql), output)
            .await?;
        let bytes: u64 = written.files.iter().map(|file| file.bytes).sum();
        assert_eq!(progress.rows_written(), written.rows);
        assert_eq!(progress.bytes_written(), bytes);
        assert_eq!(progress.rows_read(), progress.rows_to_read());
        for file in &written.files {
            let stored = self.bytes(&file.path).await;
            assert_eq!(stored.len() as u64, file.bytes);
            assert_eq!(hex::encode(Sha256::digest(&stored)), file.sha256);
        }
        Ok(written)
    }

    async fn bytes(&self, path: &str) -> Bytes {
        let path = Path::parse(path).unwrap();
        self.store.get(&path).await.unwrap().bytes().await.unwrap()
    }

    /// The one object that a query writes, without its compression.
    async fn whole(&self, sql: &str, format: FileFormat) -> String {
        let written = self.write(sql, format.clone()).await.unwrap();
        let [file] = written.files.as_slice() else {
            panic!("{written:?}")
        };
        assert_eq!(file.path, format!("some/prefix/rows.{}", format.ending()));
        let stored = self.bytes(&file.path).await;
        let mut text = String::new();
        match file.path.rsplit('.').next() {
            Some("gz") => {
                let mut members = flate2::read::MultiGzDecoder::new(&stored[..]);
                members.read_to_string(&mut text).unwrap();
            }
            Some("zst") => {
                let frame = zstd::zstd_safe::find_frame_compressed_size(&stored).unwrap();
                assert_eq!(frame, stored.len());
                zstd::Decoder::new(&stored[..])
                    .unwrap()
                    .read_to_string(&mut text)
                    .unwrap();
            }
            _ => text = String::from_utf8(stored.to_vec()).unwrap(),
        }
        text
    }

    async fn objects(&self) -> Vec<String> {
        let listed = self.store.list(None).map_ok(|object| object.location.to_string());
        let mut objects: Vec<String> = listed.try_collect().await.unwrap();
        objects.sort();
        objects
    }

    async fn refusal(&self, sql: &str, format: FileFormat) -> Error {
        let error = self.write(sql, format).await.unwrap_err();
        assert_eq!(self.objects().await, Vec::<String>::new(), "{sql}");
        error
    }
}

fn csv(csv: CsvFormat) -> FileFormat {
    let compression = Compression::None;
    FileFormat::Csv { csv, compression }
}

fn parquet(partition_by: &[&str]) -> FileFormat {
    FileFormat::Parquet {
        compression: PageCompression::Zstd,
        partition_by: partition_by.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Fields with whether they were quoted, by lines.
fn fields(text: &str, delimiter: char, end: &str) -> Vec<Vec<(String, bool)>> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut line = Vec::new();
        loop {
            let (mut field, mut quoted) = (String::new(), false);
            if let Some(inside) = rest.strip_prefix('"') {
                quoted = true;
                rest = inside;
                loop {
                    let (before, after) = rest.split_once('"').unwrap();
                    field.push_str(before);
                    rest = after;
                    match rest.strip_prefix('"') {
                        Some(after) => rest = after,
                        None => break,
                    }
                    field.push('"');
                }
            } else {
                let length = rest.find([delimiter, '\r', '\n']).unwrap();
                field.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            line.push((field, quoted));
            if let Some(after) = rest.strip_prefix(delimiter) {
                rest = after;
            } else {
                rest = rest.strip_prefix(end).unwrap();
                break;
            }
        }
        lines.push(line);
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_tells_null_and_empty_text_apart_whatever_it_is_compressed_by() {
    let target = Target::new().await;
    for compression in COMPRESSIONS {
        let format = FileFormat::Csv {
            csv: CsvFormat::default(),
            compression,
        };
        let text = target.whole(VALUES, format).await;
        let expected = "n,text,yes,day,number\n\
            1,plain,true,2026-01-02,1.5\n\
            2,\"\",false,,-0.1\n\
            3,,,1969-12-31,\n\
            4,\"a,b;c\",true,,1e300\n\
            5,\"say \"\"no\"\"\",true,,0.0\n\
            6,\"two\nlines\",true,,100.0\n";
        assert_eq!(text, expected);
        assert_eq!(fields(&text, ',', "\n")[5][1], ("say \"no\"".to_owned(), true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_is_written_as_it_is_asked_for() {
    let target = Target::new().await;
    let format = csv(CsvFormat {
        delimiter: ';',
        crlf: true,
        header: false,
        null_marker: "NULL".to_owned(),
    });
    let sql = "SELECT * FROM (VALUES ('a;b', 1), ('NULL', NULL), (NULL, 3), ('', 4), ('a,b', 5)) AS t(a, b)";
    let text = target.whole(sql, format).await;
    assert_eq!(
        text,
        "\"a;b\";1\r\n\"NULL\";NULL\r\nNULL;3\r\n\"\";4\r\na,b;5\r\n"
    );
    let lines = fields(&text, ';', "\r\n");
    assert_eq!(lines[1], [("NULL".to_owned(), true), ("NULL".to_owned(), false)]);
    let format = csv(CsvFormat {
        delimiter: '-',
        ..CsvFormat::default()
    });
    let text = target
        .whole("SELECT -1 AS a, DATE '2026-01-02' AS b", format)
        .await;
    assert_eq!(text, "a-b\n\"-1\"-\"2026-01-02\"\n");
    for delimiter in ['"', '\n', '\r', 'é'] {
        let format = csv(CsvFormat {
            delimiter,
            ..CsvFormat::default()
        });
        let store = Target::new().await;
        let error = store.refusal("SELECT 1", format).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_each_type_are_written_so_that_people_and_programs_read_them() {
    let target = Target::new().await;
    let sql =
        "SELECT X'00ff' AS bytes, arrow_cast('2026-01-02T03:04:05.5', 'Timestamp(Millisecond, None)') AS at,
        arrow_cast('2026-01-02T03:04:05', 'Timestamp(Second, Some(\"UTC\"))') AS zoned, [1, NULL] AS list,
        named_struct('a', 1, 'b', 'x\"y') AS parts, CAST(1.10 AS DECIMAL(5,2)) AS price,
        arrow_cast('word', 'Dictionary(Int32, Utf8)') AS word, 0.1 + 0.2 AS sum";
    let text = target.whole(sql, csv(CsvFormat::default())).await;
    let values = &fields(&text, ',', "\n")[1];
    let values: Vec<&str> = values.iter().map(|(value, _)| value.as_str()).collect();
    let expected = [
        "00ff",
        "2026-01-02T03:04:05.500",
        "2026-01-02T03:04:05Z",
        "[1,null]",
        "{\"a\":1,\"b\":\"x\\\"y\"}",
        "1.10",
        "word",
        "0.30000000000000004",
    ];
    assert_eq!(values, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_have_all_columns() {
    let target = Target::new().await;
    for compression in COMPRESSIONS {
        let text = target.whole(VALUES, FileFormat::JsonLines { compression }).await;
        let rows: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), 6);
        assert_eq!(
            rows[1],
            json!({"n": 2, "text": "", "yes": false, "day": null, "number": -0.1})
        );
        assert_eq!(rows[2]["text"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_document_begins_with_its_metadata() {
    let target = Target::new().await;
    for compression in COMPRESSIONS {
        let text = target.whole(VALUES, FileFormat::Json { compression }).await;
        assert!(text.starts_with("{\"metadata\":{"), "{text}");
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            document["metadata"],
            json!({
                "columns": ["n", "text", "yes", "day", "number"],
                "row_count": 6,
                "generated_at": "2026-11-20T09:30:00Z",
            })
        );
        assert_eq!(document["data"].as_array().unwrap().len(), 6);
        assert_eq!(document["data"][5]["text"], "two\nlines");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_document_larger_than_memory_waits_on_disk() {
    let target = Target::new().await;
    let sql = "SELECT value AS n, concat('row number ', value) AS text FROM (SELECT unnest(range(0, 300000)) AS value)";
    for compression in COMPRESSIONS {
        let text = target.whole(sql, FileFormat::Json { compression }).await;
        assert!(text.len() > 10 << 20, "{}", text.len());
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["metadata"]["row_count"], 300_000);
        let rows = document["data"].as_array().unwrap();
        assert_eq!(rows.len(), 300_000);
        let mut numbers: Vec<u64> = rows.iter().map(|row| row["n"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..300_000));
    }
    let store = Target::new().await;
    let mut spec = store.database.spec(sql);
    spec.limits.disk_bytes = 1 << 10;
    let compression = Compression::None;
    let output = store.output(FileFormat::Json { compression });
    let error = store.database.engine.write(spec, output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
    assert_eq!(store.objects().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_in_several_parts_are_whole() {
    let target = Target::new().await;
    let sql = "SELECT value AS n, concat('row number ', value) AS text FROM (SELECT unnest(range(0, 500000)) AS value) ORDER BY n";
    for compression in COMPRESSIONS {
        let csv = CsvFormat::default();
        let text = target.whole(sql, FileFormat::Csv { csv, compression }).await;
        assert_eq!(text.lines().count(), 500_001);
        let rows = text.lines().skip(1).enumerate();
        for (number, line) in rows {
            assert_eq!(line, format!("{number},row number {number}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_has_the_types_and_rows_of_the_query() {
    let target = Target::new().await;
    for compression in [
        PageCompression::None,
        PageCompression::Snappy,
        PageCompression::Zstd,
    ] {
        let format = FileFormat::Parquet {
            compression,
            partition_by: Vec::new(),
        };
        let written = target.write(VALUES, format).await.unwrap();
        assert_eq!(written.rows, 6);
        assert_eq!(written.columns[1].type_name, "Utf8");
        let rows = decode(target.bytes("some/prefix/rows.parquet").await);
        assert_eq!(rows.num_rows(), 6);
        assert_eq!(rows.schema().field(1).data_type(), &ArrowType::Utf8);
        let text = rows.column(1).as_string::<i32>();
        assert!(text.value(1).is_empty() && text.is_valid(1) && text.is_null(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_directories() {
    let target = Target::new().await;
    let sql = "SELECT * FROM (VALUES (1, 'x', 'a/b'), (2, NULL, 'c'), (3, 'x', 'a/b'), (4, '', 'c'),
        (5, '__HIVE_DEFAULT_PARTITION__', 'é=1')) AS t(n, p, q) ORDER BY n DESC";
    let written = target.write(sql, parquet(&["p", "q"])).await.unwrap();
    let mut files: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for file in &written.files {
        let rows = decode(target.bytes(&file.path).await);
        assert_eq!(rows.schema().fields().len(), 1);
        assert_eq!(rows.num_rows() as u64, file.rows);
        let numbers = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        files.insert(file.path.clone(), numbers);
    }
    let expected = [
        ("p=/q=c", vec![4]),
        ("p=%5F_HIVE_DEFAULT_PARTITION__/q=é%3D1", vec![5]),
        ("p=__HIVE_DEFAULT_PARTITION__/q=c", vec![2]),
        ("p=x/q=a%2Fb", vec![3, 1]),
    ];
    let expected = expected.map(|(path, rows)| (format!("some/prefix/rows/{path}/0.parquet"), rows));
    assert_eq!(files, BTreeMap::from(expected));
    let written = target
        .write("SELECT k, v FROM letters", parquet(&["v"]))
        .await
        .unwrap();
    assert_eq!((written.files.len(), written.rows), (27, 2600));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_written_alike_share_a_directory() {
    let target = Target::new().await;
    // Two NaN, which are apart in the order of numbers.
    let sql = "SELECT n, CASE WHEN n = 1 THEN arrow_cast('NaN', 'Float64') WHEN n = 2 THEN -arrow_cast('NaN', 'Float64')
        ELSE 0.5 END AS f FROM (VALUES (1), (2), (3)) AS t(n)";
    let written = target.write(sql, parquet(&["f"])).await.unwrap();
    let mut numbers = Vec::new();
    for file in &written.files {
        let rows = decode(target.bytes(&file.path).await);
        assert_eq!(rows.num_rows() as u64, file.rows, "{}", file.path);
        numbers.extend_from_slice(rows.column(0).as_primitive::<Int64Type>().values());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
    let mut paths: Vec<_> = written.files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    let expected = ["f=0.5/0.parquet", "f=NaN/0.parquet", "f=NaN/1.parquet"];
    assert_eq!(paths, expected.map(|path| format!("some/prefix/rows/{path}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_partitioned_or_written_is_refused_by_name() {
    let target = Target::new().await;
    let two = "SELECT 1 AS a, 'x' AS b";
    let twice = "SELECT x.k, y.k FROM letters x JOIN letters y ON x.k = y.k";
    let json = FileFormat::JsonLines {
        compression: Compression::None,
    };
    for (sql, format, reason) in [
        (two, parquet(&["c"]), "\"c\""),
        (two, parquet(&["a", "a"]), "\"a\" twice"),
        (two, parquet(&["a", "b"]), "all their columns"),
        ("SELECT [1] AS a, 2 AS b", parquet(&["a"]), "\"a\""),
        (
            "SELECT value AS a, 1 AS b FROM (SELECT unnest(range(0, 10001)) AS value)",
            parquet(&["a"]),
            "over 10000 partitions",
        ),
        (
            "SELECT INTERVAL '1 month' AS span",
            parquet(&[]),
            "column \"span\"",
        ),
        (twice, parquet(&[]), "two columns are named \"k\""),
        (twice, json.clone(), "two columns are named \"k\""),
        ("SELECT 1 AS a, 2 AS a", json, "a"),
        ("DROP TABLE letters", parquet(&[]), "DROP is not allowed"),
        (
            "SELECT 1 AS n, repeat('a', 240) AS a, repeat('b', 240) AS b, repeat('c', 240) AS c, repeat('d', 240) AS d,
             repeat('e', 240) AS e",
            parquet(&["a", "b", "c", "d", "e"]),
            "over 1000 bytes",
        ),
    ] {
        let error = target.write(sql, format).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {}", error.report());
        assert!(error.report().contains(reason), "{sql}: {}", error.report());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_are_an_object_too() {
    let target = Target::new().await;
    let sql = "SELECT k, v FROM letters WHERE k = 'none'";
    assert_eq!(target.whole(sql, csv(CsvFormat::default())).await, "k,v\n");
    let headless = csv(CsvFormat {
        header: false,
        ..CsvFormat::default()
    });
    assert_eq!(target.whole(sql, headless).await, "");
    for compression in COMPRESSIONS {
        assert_eq!(target.whole(sql, FileFormat::JsonLines { compression }).await, "");
        let text = target.whole(sql, FileFormat::Json { compression }).await;
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["data"], json!([]));
        assert_eq!(document["metadata"]["row_count"], 0);
    }
    for (partition_by, path) in [(&[][..], "rows.parquet"), (&["v"][..], "rows/0.parquet")] {
        let written = target.write(sql, parquet(partition_by)).await.unwrap();
        assert_eq!(written.files[0].path, format!("some/prefix/{path}"));
        let rows = decode(target.bytes(&written.files[0].path).await);
        assert_eq!(
            (rows.num_rows(), rows.schema().field(0).name().as_str()),
            (0, "k")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_leaves_no_object() {
    let target = Target::new().await;
    let sql = "SELECT 1000 / (900000 - value) AS n FROM (SELECT unnest(range(0, 1000000)) AS value)";
    for format in [
        csv(CsvFormat::default()),
        FileFormat::Json {
            compression: Compression::Gzip,
        },
        parquet(&[]),
    ] {
        let error = target.refusal(sql, format).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_dropped_writes_nothing_more() {
    let target = Target::new().await;
    let sql = "SELECT a.k AS x, b.k AS y FROM letters a CROSS JOIN letters b";
    let output = target.output(csv(CsvFormat::default()));
    let progress = output.progress.clone();
    let mut writing = target.database.engine.write(target.database.spec(sql), output);
    while progress.bytes_written() < 1 << 20 {
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), &mut writing).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    drop(writing);
    let mut before = 0;
    for _ in 0..500 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if before == progress.bytes_written() {
            break;
        }
        before = progress.bytes_written();
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(before, progress.bytes_written());
    assert_eq!(target.objects().await, Vec::<String>::new());
}
