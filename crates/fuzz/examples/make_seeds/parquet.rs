//! Parquet files: encodings, compressions and types, small; and files that claim more than they are.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
        FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, Int64Builder,
        LargeStringArray, ListArray, MapBuilder, RecordBatch, StringArray, StringBuilder, StringViewArray,
        StructArray, Time64NanosecondArray, TimestampMicrosecondArray, UInt64Array,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Fields, Int8Type, Int32Type, Schema},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding},
    file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion},
};

use super::put;

const ROWS: usize = 12;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| {
            Field::new(
                *name,
                array.data_type().clone(),
                array.null_count() > 0 || *name != "k",
            )
        })
        .collect();
    let columns = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn encode(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let mut bytes = Vec::new();
    let properties = properties
        .set_max_row_group_row_count(Some(8))
        .set_data_page_row_count_limit(4)
        .set_write_batch_size(4)
        .build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Without statistics and page index, so that most bytes are of the data.
fn plain() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
}

fn longs() -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(
        (0..ROWS as i64).map(|row| row * 7 % 5),
    ))
}

fn strings() -> ArrayRef {
    Arc::new(StringArray::from_iter_values(
        (0..ROWS).map(|row| format!("key{:02}", row * 7 % ROWS)),
    ))
}

fn nullable_strings() -> ArrayRef {
    Arc::new(StringArray::from_iter(
        (0..ROWS).map(|row| [Some("x"), None, Some("yy")][row % 3]),
    ))
}

fn text() -> RecordBatch {
    batch(vec![("k", strings()), ("s", longs()), ("v", nullable_strings())])
}

fn encodings() {
    let text = text();
    put("parquet", "plain", encode(&text, plain()));
    put(
        "parquet",
        "dictionary",
        encode(&text, plain().set_dictionary_enabled(true)),
    );
    let delta = plain()
        .set_column_encoding("k".into(), Encoding::DELTA_BYTE_ARRAY)
        .set_column_encoding("s".into(), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding("v".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
    put("parquet", "delta", encode(&text, delta.clone()));
    put(
        "parquet",
        "delta-v2",
        encode(&text, delta.set_writer_version(WriterVersion::PARQUET_2_0)),
    );
    for (name, compression) in [
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(Default::default())),
        ("zstd", Compression::ZSTD(Default::default())),
        ("lz4", Compression::LZ4_RAW),
        ("brotli", Compression::BROTLI(Default::default())),
    ] {
        put(
            "parquet",
            name,
            encode(&text, plain().set_compression(compression)),
        );
        let v2 = plain()
            .set_compression(compression)
            .set_writer_version(WriterVersion::PARQUET_2_0);
        put("parquet", &format!("{name}-v2"), encode(&text, v2));
    }
    let statistics = WriterProperties::builder()
        .set_bloom_filter_enabled(true)
        .set_bloom_filter_max_ndv(2);
    put("parquet", "statistics", encode(&text, statistics));
    put("parquet", "empty", encode(&text.slice(0, 0), plain()));
}

fn keys() {
    let numbers = || (0..ROWS as i32).map(|row| (row * 7 % 12) - 4);
    let bytes: Vec<Vec<u8>> = (0..ROWS as u8).map(|row| vec![row * 23, 0xff, 0]).collect();
    let columns: [(&str, ArrayRef); 6] = [
        ("int32", Arc::new(Int32Array::from_iter_values(numbers()))),
        ("int64", longs()),
        ("utf8", strings()),
        ("binary", Arc::new(BinaryArray::from_iter_values(bytes))),
        ("date32", Arc::new(Date32Array::from_iter_values(numbers()))),
        (
            "timestamp",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(numbers().map(i64::from)).with_timezone("UTC"),
            ),
        ),
    ];
    for (name, column) in columns {
        let rows = batch(vec![("k", column.clone()), ("s", column)]);
        put("parquet", &format!("key-{name}"), encode(&rows, plain()));
    }
    // In key order, as data files are.
    let sorted: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS as i32));
    let rows = batch(vec![("k", sorted), ("v", strings())]);
    let indexed = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default()));
    put("parquet", "sorted", encode(&rows, plain()));
    put("parquet", "sorted-indexed", encode(&rows, indexed));
}

fn values() {
    let forms: [(&str, ArrayRef); 3] = [
        (
            "large",
            Arc::new(LargeStringArray::from_iter(
                (0..ROWS).map(|row| [Some("a"), None][row % 2]),
            )),
        ),
        (
            "view",
            Arc::new(StringViewArray::from_iter(
                (0..ROWS).map(|row| [Some("a text beyond twelve"), None][row % 2]),
            )),
        ),
        (
            "category",
            Arc::new(
                (0..ROWS)
                    .map(|row| [Some("a"), None, Some("b")][row % 3])
                    .collect::<DictionaryArray<Int8Type>>(),
            ),
        ),
    ];
    for (name, column) in forms {
        put(
            "parquet",
            &format!("value-{name}"),
            encode(&batch(vec![("k", longs()), ("v", column)]), plain()),
        );
    }
    let fixed: Vec<[u8; 3]> = (0..ROWS as u8).map(|row| [row, 0, 255]).collect();
    let primitives = batch(vec![
        ("k", longs()),
        (
            "boolean",
            Arc::new(BooleanArray::from_iter(
                (0..ROWS).map(|row| [Some(true), None][row % 2]),
            )),
        ),
        (
            "int8",
            Arc::new(Int8Array::from_iter_values((0..ROWS as i8).map(|row| -row))),
        ),
        (
            "uint64",
            Arc::new(UInt64Array::from_iter_values(
                (0..ROWS as u64).map(|row| u64::MAX - row),
            )),
        ),
        (
            "float32",
            Arc::new(Float32Array::from_iter_values(
                (0..ROWS).map(|row| row as f32 - 0.5),
            )),
        ),
        (
            "float64",
            Arc::new(Float64Array::from_iter_values(
                (0..ROWS).map(|row| f64::NAN * row as f64),
            )),
        ),
        (
            "fixed",
            Arc::new(FixedSizeBinaryArray::try_from_iter(fixed.into_iter()).unwrap()),
        ),
        (
            "decimal",
            Arc::new(
                Decimal128Array::from_iter_values(0..ROWS as i128)
                    .with_precision_and_scale(20, 2)
                    .unwrap(),
            ),
        ),
        (
            "time",
            Arc::new(Time64NanosecondArray::from_iter_values(0..ROWS as i64)),
        ),
    ]);
    put("parquet", "primitives", encode(&primitives, plain()));
    let split = plain()
        .set_column_encoding("float32".into(), Encoding::BYTE_STREAM_SPLIT)
        .set_column_encoding("float64".into(), Encoding::BYTE_STREAM_SPLIT)
        .set_column_encoding("boolean".into(), Encoding::RLE)
        .set_writer_version(WriterVersion::PARQUET_2_0);
    put("parquet", "primitives-v2", encode(&primitives, split));
}

fn nested() {
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..ROWS as i32).map(|row| {
            (row % 4 > 0).then(|| {
                (0..row % 4)
                    .map(|item| (item > 0).then_some(row))
                    .collect::<Vec<_>>()
            })
        }),
    ));
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..ROWS {
        for entry in 0..row % 3 {
            map.keys().append_value(format!("e{entry}"));
            map.values().append_option((entry > 0).then_some(row as i64));
        }
        map.append(row % 5 > 0).unwrap();
    }
    let fields = Fields::from(vec![
        Field::new("a", DataType::Utf8, true),
        Field::new("b", list.data_type().clone(), true),
    ]);
    let entry: ArrayRef = Arc::new(StructArray::new(
        fields,
        vec![nullable_strings(), list.clone()],
        None,
    ));
    let outer: ArrayRef = Arc::new(ListArray::new(
        Arc::new(Field::new("item", entry.data_type().clone(), true)),
        OffsetBuffer::from_lengths((0..ROWS).map(|row| [0, 2, 1][row % 3])),
        entry.clone(),
        None,
    ));
    let all = [
        ("list", list),
        ("map", Arc::new(map.finish()) as ArrayRef),
        ("struct", entry),
        ("list-of-structs", outer),
    ];
    for (name, column) in all {
        let rows = batch(vec![("k", longs()), ("v", column)]);
        put("parquet", &format!("nested-{name}"), encode(&rows, plain()));
        let dictionary = plain()
            .set_dictionary_enabled(true)
            .set_writer_version(WriterVersion::PARQUET_2_0);
        put("parquet", &format!("nested-{name}-v2"), encode(&rows, dictionary));
    }
}

/// Thrift's compact protocol, as far as Parquet needs it.
#[derive(Default)]
struct Thrift {
    bytes: Vec<u8>,
    last: Vec<i16>,
}

impl Thrift {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push((number as u8) | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn field(&mut self, id: i16, kind: u8) {
        let last = self.last.last_mut().unwrap();
        self.bytes.push((((id - *last) as u8) << 4) | kind);
        *last = id;
    }

    fn number(&mut self, id: i16, kind: u8, number: i64) {
        self.field(id, kind);
        self.varint(((number << 1) ^ (number >> 63)).cast_unsigned());
    }

    fn i32(&mut self, id: i16, number: i32) {
        self.number(id, 5, number.into());
    }

    fn i64(&mut self, id: i16, number: i64) {
        self.number(id, 6, number);
    }

    fn text(&mut self, id: i16, text: &str) {
        self.field(id, 8);
        self.varint(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn list(&mut self, id: i16, kind: u8, count: usize) {
        self.field(id, 9);
        if count < 15 {
            self.bytes.push(((count as u8) << 4) | kind);
        } else {
            self.bytes.push(0xf0 | kind);
            self.varint(count as u64);
        }
    }

    fn structure(&mut self, write: impl FnOnce(&mut Self)) {
        self.last.push(0);
        write(self);
        self.bytes.push(0);
        self.last.pop();
    }
}

/// A file of one column `k` of one page.
struct OnePage {
    rows: i64,
    page_rows: i32,
    /// 0 is plain, 8 a dictionary.
    encoding: i32,
    codec: i32,
    uncompressed: i32,
    dictionary: Vec<u8>,
    page: Vec<u8>,
    /// Groups around the column.
    depth: usize,
}

impl OnePage {
    fn header(kind: i32, uncompressed: i32, compressed: usize, inner: impl FnOnce(&mut Thrift)) -> Vec<u8> {
        let mut header = Thrift::default();
        header.structure(|header| {
            header.i32(1, kind);
            header.i32(2, uncompressed);
            header.i32(3, compressed as i32);
            inner(header);
        });
        header.bytes
    }

    fn encode(&self) -> Vec<u8> {
        let mut file = b"PAR1".to_vec();
        if !self.dictionary.is_empty() {
            let length = self.dictionary.len();
            file.extend(Self::header(2, length as i32, length, |header| {
                header.field(7, 12);
                header.structure(|dictionary| {
                    dictionary.i32(1, 1);
                    dictionary.i32(2, 0);
                });
            }));
            file.extend(&self.dictionary);
        }
        let data_page = file.len() as i64;
        file.extend(Self::header(0, self.uncompressed, self.page.len(), |header| {
            header.field(5, 12);
            header.structure(|page| {
                page.i32(1, self.page_rows);
                page.i32(2, self.encoding);
                page.i32(3, 3);
                page.i32(4, 3);
            });
        }));
        file.extend(&self.page);
        let length = file.len() as i64 - 4;
        let mut footer = Thrift::default();
        footer.structure(|footer| self.footer(footer, data_page, length));
        file.extend(&footer.bytes);
        file.extend((footer.bytes.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        file
    }

    fn footer(&self, footer: &mut Thrift, data_page: i64, length: i64) {
        footer.i32(1, 1);
        footer.list(2, 12, self.depth + 2);
        for depth in 0..=self.depth {
            footer.structure(|group| {
                if depth > 0 {
                    group.i32(3, 0);
                }
                group.text(4, if depth == 1 { "k" } else { "g" });
                group.i32(5, 1);
            });
        }
        footer.structure(|leaf| {
            leaf.i32(1, 1);
            leaf.i32(3, 0);
            leaf.text(4, "k");
        });
        footer.i64(3, self.rows);
        footer.list(4, 12, 1);
        footer.structure(|group| {
            group.list(1, 12, 1);
            group.structure(|chunk| {
                chunk.i64(2, 4);
                chunk.field(3, 12);
                chunk.structure(|column| {
                    column.i32(1, 1);
                    column.list(2, 5, 1);
                    column.varint(0);
                    column.list(3, 8, self.depth + 1);
                    for depth in 0..=self.depth {
                        let name = if depth == 0 || depth == self.depth {
                            "k"
                        } else {
                            "g"
                        };
                        column.varint(1);
                        column.bytes.extend_from_slice(name.as_bytes());
                    }
                    column.i32(4, self.codec);
                    column.i64(5, self.rows);
                    column.i64(6, length.max(i64::from(self.uncompressed)));
                    column.i64(7, length);
                    column.i64(9, data_page);
                    if !self.dictionary.is_empty() {
                        column.i64(11, 4);
                    }
                });
            });
            group.i64(2, length);
            group.i64(3, self.rows);
        });
    }
}

fn varint(number: u64) -> Vec<u8> {
    let mut thrift = Thrift::default();
    thrift.varint(number);
    thrift.bytes
}

fn bombs() {
    let one = || OnePage {
        rows: 2,
        page_rows: 2,
        encoding: 0,
        codec: 0,
        uncompressed: 8,
        dictionary: Vec::new(),
        page: vec![1, 0, 0, 0, 2, 0, 0, 0],
        depth: 0,
    };
    put("parquet", "handmade", one().encode());
    // A page that claims 2 GiB and is short.
    let claims = OnePage {
        codec: 1,
        uncompressed: i32::MAX,
        page: [varint(u64::from(u32::MAX >> 1)), vec![0; 8]].concat(),
        ..one()
    };
    put("parquet", "bomb-page-snappy", claims.encode());
    for (name, codec) in [
        ("gzip", 2),
        ("brotli", 4),
        ("lz4", 5),
        ("zstd", 6),
        ("lz4-raw", 7),
    ] {
        let claims = OnePage {
            codec,
            uncompressed: i32::MAX,
            ..one()
        };
        put("parquet", &format!("bomb-page-{name}"), claims.encode());
    }
    // A page that is 1 GiB of zeros.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 19).unwrap();
    for _ in 0..1024 {
        std::io::Write::write_all(&mut encoder, &[0; 1 << 20]).unwrap();
    }
    let zeros = OnePage {
        rows: 1 << 28,
        page_rows: 1 << 28,
        codec: 6,
        uncompressed: 1 << 30,
        page: encoder.finish().unwrap(),
        ..one()
    };
    put("parquet", "bomb-zeros-zstd", zeros.encode());
    // Two billion rows in a run of a few bytes.
    let run = OnePage {
        rows: i64::from(i32::MAX),
        page_rows: i32::MAX,
        encoding: 8,
        uncompressed: 7,
        dictionary: vec![1, 0, 0, 0],
        page: [vec![1], varint(u64::from(u32::MAX >> 1) << 1), vec![0]].concat(),
        ..one()
    };
    let run = OnePage {
        uncompressed: run.page.len() as i32,
        ..run
    };
    put("parquet", "bomb-run", run.encode());
    let short_run = OnePage {
        rows: 100,
        page_rows: 100,
        encoding: 8,
        uncompressed: 4,
        dictionary: vec![1, 0, 0, 0],
        page: [vec![1], varint(100 << 1), vec![0]].concat(),
        ..one()
    };
    put("parquet", "handmade-run", short_run.encode());
    for depth in [5, 200, 20_000] {
        put(
            "parquet",
            &format!("deep-{depth}"),
            OnePage { depth, ..one() }.encode(),
        );
    }
}

pub(crate) fn write() {
    encodings();
    keys();
    values();
    nested();
    bombs();
}
