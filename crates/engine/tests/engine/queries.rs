//! SQL over tables: the statements of `slt/`, and what plans and limits show.

use std::sync::Arc;

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    ports::{QueryEngine, RowFormat, Truncated},
    predicate::Predicate,
};
use object_store::ObjectStoreExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

use crate::{
    database::{Database, database, drain, watched},
    fixture::text_schema,
    watched_objects::Read,
};

struct Session(Arc<Database>);

#[async_trait]
impl AsyncDB for Session {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>> {
        let mut answer = self
            .0
            .engine
            .query(self.0.spec(sql), RowFormat::TextLines)
            .await?;
        let text = drain(&mut *answer).await?;
        let types = answer.columns().iter().map(|_| DefaultColumnType::Any);
        let rows = serde_json::Deserializer::from_str(&text).into_iter::<Vec<Option<String>>>();
        Ok(DBOutput::Rows {
            types: types.collect(),
            rows: rows
                .map(|row| {
                    row.unwrap()
                        .into_iter()
                        .map(|value| value.unwrap_or("NULL".into()))
                        .collect()
                })
                .collect(),
        })
    }

    async fn shutdown(&mut self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_slt_files_is_answered_as_it_says() {
    let database = Arc::new(database().await);
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/slt"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Session(database.clone())) });
        runner
            .run_file_async(&file)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_its_answer_tells_of_a_table_with_a_row_policy() {
    let database = database().await;
    for explain in ["EXPLAIN", "EXPLAIN VERBOSE", "EXPLAIN ANALYZE"] {
        let sql = format!("{explain} SELECT 1 FROM letters JOIN shared ON shared.k = letters.k");
        let error = database.refusal(&sql).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
    }
    let error = database.refusal("SELECT count(v) FROM \"shared-casts\"").await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    assert!(!error.report().contains("Cannot cast"), "{}", error.report());
    let error = database.refusal("SELECT 1 FROM \"shared-amiss\"").await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    assert!(error.report().contains("nothing"), "{}", error.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_policies_are_checked() {
    let database = database().await;
    let check = |predicate: &str| {
        let predicate = Predicate::new(predicate).unwrap();
        database.engine.check_row_policy(&text_schema(), &predicate)
    };
    for right in [
        "v = $tenant",
        "$tenant LIKE k",
        "s IN (1, 2) AND v IS NOT NULL",
        "true",
    ] {
        check(right).unwrap();
    }
    for (wrong, reason) in [
        ("nothing = 1", "nothing"),
        ("v = $other", "$other"),
        ("s", "true or false"),
        ("random() < 0.5", "random()"),
        ("s = (SELECT 1)", "query inside"),
        ("v = ", "found: EOF"),
    ] {
        let error = check(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong}");
        assert!(error.report().contains(reason), "{wrong}: {}", error.report());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_read_only_the_leaves_and_files_whose_keys_fit() {
    let database = database().await;
    let plan = async |sql: &str| database.lines(&format!("EXPLAIN {sql}")).await.join("\n");
    let one = plan("SELECT * FROM letters WHERE k = 'p050'").await;
    assert!(one.contains("leaves=1/5, files=3/14"), "{one}");
    let some = plan("SELECT v FROM letters WHERE k IN ('a001', 'z001')").await;
    assert!(some.contains("leaves=2/5"), "{some}");
    let none = plan("SELECT * FROM letters WHERE k < 'a'").await;
    assert!(none.contains("EmptyExec"), "{none}");
    let ordered = plan("SELECT k, s FROM letters ORDER BY k, s").await;
    assert!(
        ordered.contains("SortPreservingMergeExec") && !ordered.contains("SortExec"),
        "{ordered}"
    );
    let other = plan("SELECT k, s FROM letters ORDER BY s").await;
    assert!(other.contains("SortExec"), "{other}");
    for words in ["", "VERBOSE", "ANALYZE"] {
        let shown = plan(&format!("{words} SELECT * FROM letters WHERE k = 'p050'")).await;
        let named = [".parquet", "partition_", "file_groups"].map(|name| shown.contains(name));
        assert_eq!(named, [false; 3], "{shown}");
        assert!(shown.contains("files=3/14"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_reads_a_few_pages_of_one_file_and_no_footer_twice() {
    let (database, store) = watched().await;
    let lookup = async |key: &str| {
        store.reads();
        let rows = database
            .lines(&format!("SELECT * FROM letters WHERE k = '{key}'"))
            .await;
        assert_eq!(rows.len(), 1, "{key}: {rows:?}");
        let mut reads = Vec::new();
        for read in store.reads() {
            let Read::Bytes(path, range) = read else {
                panic!("{key}: {read:?}")
            };
            reads.push((path, range));
        }
        reads
    };
    let first = lookup("p5000").await;
    let (path, _) = first[0].clone();
    assert!(first.iter().all(|(other, _)| *other == path), "{first:?}");
    let size = store.head(&path).await.unwrap().size;
    let end = store.get_range(&path, size - 8..size - 4).await.unwrap();
    let footer = size - 8 - u64::from(u32::from_le_bytes(end[..].try_into().unwrap()));
    for key in ["p5001", "s9999", "n000"] {
        let again = lookup(key).await;
        assert!(again.iter().all(|(other, _)| *other == path), "{key}: {again:?}");
        assert!(
            again.iter().all(|(_, range)| range.end <= footer),
            "{key}: {again:?}"
        );
        let bytes: u64 = again.iter().map(|(_, range)| range.end - range.start).sum();
        assert!(bytes * 3 < size, "{key}: {bytes} bytes of {size}: {again:?}");
        assert!(again.len() <= 6, "{key}: {again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decimal_literals_have_the_scale_of_what_they_are_added_to() {
    let database = database().await;
    let sum =
        |literal: &str| format!("SELECT {literal} - CAST(s AS DECIMAL(15, 2)) FROM letters WHERE k = 'p050'");
    let plan = database.lines(&format!("EXPLAIN {}", sum("1"))).await.join("\n");
    assert!(plan.contains("Decimal128(1.00,22,2)"), "{plan}");
    let filtered = "EXPLAIN SELECT k FROM fractions WHERE 1 - CAST(k AS DECIMAL(15, 2)) > 0";
    let plan = database.lines(filtered).await.join("\n");
    assert!(
        plan.contains("Decimal128(1.00,22,2)") && !plan.contains("Decimal128(1,20,0)"),
        "{plan}"
    );
    let spec = database.spec(&sum("1"));
    let (text, _) = database.ask(spec, RowFormat::Csv).await.unwrap();
    assert_eq!(text, "Int64(1) - letters.s\n-49.00\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_beyond_a_limit_are_cut_off_and_it_is_told() {
    let database = database().await;
    let spec = |rows, bytes| {
        let mut spec = database.spec("SELECT k FROM letters ORDER BY k");
        (spec.limits.rows, spec.limits.bytes) = (rows, bytes);
        spec
    };
    let row = "{\"k\":\"a000\"}\n".len();
    let (text, truncated) = database
        .ask(spec(Some(10), None), RowFormat::JsonLines)
        .await
        .unwrap();
    assert_eq!((text.lines().count(), truncated), (10, Some(Truncated::Rows)));
    let (text, truncated) = database
        .ask(spec(Some(2600), None), RowFormat::JsonLines)
        .await
        .unwrap();
    assert_eq!((text.lines().count(), truncated), (2600, None));
    let (text, truncated) = database
        .ask(spec(Some(50), Some(row as u64 * 7 + 3)), RowFormat::JsonLines)
        .await
        .unwrap();
    assert_eq!((text.lines().count(), truncated), (7, Some(Truncated::Bytes)));
    let (text, truncated) = database.ask(spec(None, Some(12)), RowFormat::Csv).await.unwrap();
    assert_eq!(
        (text.as_str(), truncated),
        ("k\na000\na001\n", Some(Truncated::Bytes))
    );
    let (text, truncated) = database
        .ask(spec(None, Some(3)), RowFormat::JsonLines)
        .await
        .unwrap();
    assert_eq!((text.as_str(), truncated), ("", Some(Truncated::Bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_query_is_refused_and_says_what_would_be_right() {
    let database = database().await;
    for (sql, reason) in [
        ("DROP TABLE letters", "DROP is not allowed; a query is one SELECT"),
        ("COPY letters TO '/tmp/x.csv'", "COPY is not allowed"),
        (
            "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE EXTERNAL TABLE is not allowed",
        ),
        (
            "INSERT INTO letters VALUES ('a', 1, 'x')",
            "INSERT is not allowed",
        ),
        ("SET datafusion.execution.batch_size = 1", "SET is not allowed"),
        ("SELECT 1; SELECT 2", "single SQL statement"),
        ("EXPLAIN DROP TABLE letters", "DROP is not allowed"),
        (
            "SELECT * FROM '/etc/passwd'",
            "Table '/etc/passwd' does not exist",
        ),
        ("SELECT * FROM nothing", "Table 'nothing' does not exist"),
        ("SELECT * FROM information_schema.tables", "names of one part"),
        ("SELECT x FROM letters", "x"),
        ("SELECT k FROM letters WHERE k = $missing", "missing"),
        ("CHOOSE 1", "CHOOSE"),
        ("", "No SQL statements"),
        ("SELECT 1 / 0", "ivide by zero"),
        ("SELECT CAST(k AS BIGINT) FROM letters", "cannot"),
    ] {
        let error = database.refusal(sql).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error}");
        let report = error.report();
        assert!(
            report.to_lowercase().contains(&reason.to_lowercase()),
            "{sql}: {report}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_enough_memory_says_so() {
    let database = database().await;
    let sql = "SELECT a.k, array_agg(b.k) FROM letters a CROSS JOIN letters b GROUP BY a.k";
    let mut spec = database.spec(sql);
    (spec.limits.memory_bytes, spec.limits.disk_bytes) = (1 << 20, 1 << 20);
    let error = database.ask(spec, RowFormat::Csv).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.report().contains("more memory or disk than it may use"),
        "{}",
        error.report()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_has_no_more_joins_and_queries_inside_it_than_it_may() {
    let database = database().await;
    let one_join = "SELECT count(*) FROM letters a JOIN letters b ON a.k = b.k";
    let one_inside = "WITH a AS (SELECT k FROM letters), b AS (SELECT k FROM a) \
                      SELECT count(*) FROM b WHERE k IN (SELECT k FROM letters)";
    let report = async |sql: &str, joins, subqueries| {
        let mut spec = database.spec(sql);
        (spec.limits.joins, spec.limits.subqueries) = (joins, subqueries);
        let answer = database.ask(spec, RowFormat::Csv).await;
        answer.err().map(|error| error.report())
    };
    assert_eq!(report(one_join, 1, 0).await, None);
    let refused = report(one_join, 0, 0).await.unwrap();
    assert!(refused.contains("over 0 joins"), "{refused}");
    let commas = report("SELECT 1 FROM letters a, letters b, letters c", 1, 0).await;
    assert!(commas.unwrap().contains("over 1 joins"));
    assert_eq!(report(one_inside, 0, 1).await, None);
    let refused = report(one_inside, 0, 0).await.unwrap();
    assert!(refused.contains("over 0 queries inside it"), "{refused}");
    let explained = report(&format!("EXPLAIN {one_join}"), 0, 0).await;
    assert!(explained.unwrap().contains("over 0 joins"));
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_of_an_answer_tells_null_and_empty_text_apart() {
    let database = database().await;
    let sql = "SELECT * FROM (VALUES (1, ''), (2, NULL), (3, 'a,b')) AS t(n, text)";
    let text = database.text(sql, RowFormat::Csv).await;
    assert_eq!(text, "n,text\n1,\"\"\n2,\n3,\"a,b\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_one_name_are_refused_where_rows_are_objects() {
    let database = database().await;
    let sql = "SELECT x.k, y.k FROM letters x JOIN letters y ON x.k = y.k LIMIT 1";
    assert!(database.text(sql, RowFormat::Csv).await.starts_with("k,k\n"));
    let refused = database.ask(database.spec(sql), RowFormat::JsonLines).await;
    let report = refused.unwrap_err().report();
    assert!(report.contains("two columns are named \"k\""), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_now_are_known() {
    let database = database().await;
    let lines = database
        .lines("SELECT now() > TIMESTAMP '2026-01-01', current_date() > DATE '2026-01-01'")
        .await;
    assert_eq!(lines, ["true,true"]);
}
