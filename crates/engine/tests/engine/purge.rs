//! Which rows a compaction leaves out, and which files may have such rows.

use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, StringArray};
use dormouse_core::{
    Error, ErrorKind, Result,
    file::DataFile,
    ports::{CompactionSpec, MatchSpec, MergeInput, Progress, RowEngine},
    predicate::Predicate,
    row_rules::RowRules,
    schema::{Column, DataType, Schema},
    time::Timestamp,
};
use dormouse_engine::FileLayout;

use crate::fixture::{Fixture, batch, leaves, rows, text_batch, text_leaves};

fn predicate(text: &str) -> Predicate {
    Predicate::new(text).unwrap()
}

/// Row groups of four rows, pages of two.
const SMALL: FileLayout = FileLayout {
    row_group_rows: 4,
    page_rows: 2,
    piece_bytes: 1,
    copied_rows: 1,
};

fn small(mut fixture: Fixture) -> Fixture {
    fixture.options.layout = SMALL;
    fixture
}

fn inputs(fixture: &Fixture, files: &[DataFile]) -> Vec<MergeInput> {
    files
        .iter()
        .map(|file| fixture.export_input(file, true))
        .collect()
}

fn spec(fixture: &Fixture, files: &[DataFile], purge: &str) -> CompactionSpec {
    CompactionSpec {
        purge: Some(predicate(purge)),
        ..fixture.compaction_spec(0, inputs(fixture, files))
    }
}

async fn compact(fixture: &Fixture, spec: CompactionSpec) -> Result<Option<DataFile>> {
    fixture
        .engine()
        .compact(spec, Arc::new(Progress::default()))
        .await
}

/// The rows that are left, and the file they are in.
async fn left(fixture: &Fixture, files: &[DataFile], purge: &str) -> (Vec<String>, Option<DataFile>) {
    match compact(fixture, spec(fixture, files, purge)).await.unwrap() {
        Some(file) => (rows(&fixture.read(&file).await), Some(file)),
        None => (Vec::new(), None),
    }
}

fn match_spec(fixture: &Fixture, files: &[DataFile], text: &str) -> MatchSpec {
    MatchSpec {
        schema: fixture.schema.clone(),
        leaf: fixture.leaves[0].clone(),
        inputs: inputs(fixture, files),
        predicate: predicate(text),
        rules: None,
    }
}

async fn may_match(fixture: &Fixture, files: &[DataFile], text: &str) -> Vec<bool> {
    fixture
        .engine()
        .may_match(match_spec(fixture, files, text))
        .await
        .unwrap()
}

async fn refusal(fixture: &Fixture, text: &str) -> Error {
    let error = fixture
        .engine()
        .may_match(match_spec(fixture, &[], text))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{text}: {error}");
    assert!(error.report().contains(text), "{}", error.report());
    error
}

#[tokio::test]
async fn rows_that_it_is_true_for_go_and_those_that_it_is_unknown_for_stay() {
    let fixture = Fixture::text(&[]);
    let all = [
        ("a", 1, Some("x")),
        ("b", 2, None),
        ("c", 3, Some("y")),
        ("c", 4, Some("x")),
    ];
    let files = fixture.ingest_batches(&[text_batch(&all)]).await;
    for (purge, kept) in [
        ("v = 'x'", vec!["b|2|<null>", "c|3|y"]),
        ("v <> 'x'", vec!["a|1|x", "b|2|<null>", "c|4|x"]),
        ("v IS NULL", vec!["a|1|x", "c|3|y", "c|4|x"]),
        ("k = 'c' AND \"s\" >= 4", vec!["a|1|x", "b|2|<null>", "c|3|y"]),
        ("k IN ('a', 'b') OR upper(v) = 'Y'", vec!["c|4|x"]),
        ("s % 2 = 0", vec!["a|1|x", "c|3|y"]),
        ("v LIKE '%'", vec!["b|2|<null>"]),
        ("true", vec![]),
        ("false", vec!["a|1|x", "b|2|<null>", "c|3|y", "c|4|x"]),
        ("v = NULL", vec!["a|1|x", "b|2|<null>", "c|3|y", "c|4|x"]),
    ] {
        let (found, file) = left(&fixture, &files, purge).await;
        assert_eq!(found, kept, "{purge}");
        assert_eq!(file.map_or(0, |file| file.rows), kept.len() as u64, "{purge}");
    }
}

#[tokio::test]
async fn row_groups_without_such_rows_are_copied_and_the_file_proves_its_rows() {
    let mut fixture = small(Fixture::text(&[]));
    fixture.target_file_bytes = 1 << 30;
    let names: Vec<String> = (0..32).map(|row| format!("{row:02}")).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), 0, Some(name.as_str())))
        .collect();
    let files = fixture.ingest_batches(&[text_batch(&all)]).await;
    for purge in [
        "k = '13'",
        "v = '13'",
        "v >= '12' AND v < '17'",
        "k < '02' OR v > '29'",
        "s = 1",
    ] {
        let (found, file) = left(&fixture, &files, purge).await;
        let file = file.unwrap();
        let kept: Vec<String> = names
            .iter()
            .filter(|name| match purge {
                "v >= '12' AND v < '17'" => !("12".."17").contains(&name.as_str()),
                "k < '02' OR v > '29'" => ("02"..="29").contains(&name.as_str()),
                "s = 1" => true,
                _ => *name != "13",
            })
            .map(|name| format!("{name}|0|{name}"))
            .collect();
        assert_eq!(found, kept, "{purge}");
        // What the file says of itself is what reading it gives.
        let again = compact(&fixture, spec(&fixture, std::slice::from_ref(&file), "false"))
            .await
            .unwrap();
        assert_eq!(again.unwrap().parts, file.parts, "{purge}");
        let mut whole = spec(&fixture, std::slice::from_ref(&file), "false");
        whole.purge = None;
        whole.inputs[0].exact = None;
        assert_eq!(
            compact(&fixture, whole).await.unwrap().unwrap().parts,
            file.parts,
            "{purge}"
        );
    }
}

#[tokio::test]
async fn files_that_cannot_have_such_rows_are_told_by_their_statistics() {
    let mut fixture = small(Fixture::text(&[]));
    let first = [("a", 1, Some("x")), ("c", 5, None)];
    let second = [("d", 10, Some("y")), ("f", 20, Some("z"))];
    let mut files = fixture.ingest_batches(&[text_batch(&first)]).await;
    files.extend(fixture.ingest_batches(&[text_batch(&second)]).await);
    for (text, expected) in [
        ("k = 'b'", [true, false]),
        ("k = 'e'", [false, true]),
        ("k > 'f'", [false, false]),
        ("s BETWEEN 5 AND 10", [true, true]),
        ("s > 5", [false, true]),
        ("v IS NULL", [true, false]),
        ("v = 'y'", [false, true]),
        ("k LIKE 'd%'", [false, true]),
        ("length(k) = 7", [true, true]),
        ("CAST(s AS DOUBLE) > 9.5", [false, true]),
        ("CAST(k AS VARCHAR) = 'e'", [false, true]),
        // What does not keep the order of values tells nothing.
        ("CAST(s AS BOOLEAN) = false", [true, true]),
        ("-s < -15", [true, true]),
        ("CAST(s AS VARCHAR) > '9'", [true, true]),
    ] {
        assert_eq!(may_match(&fixture, &files, text).await, expected, "{text}");
    }
    fixture.leaves = text_leaves(&["b"]);
    assert_eq!(
        may_match(&fixture, &files, "true").await,
        [true, false],
        "beyond the leaf"
    );
}

#[tokio::test]
async fn not_a_number_is_not_overlooked() {
    let schema = Schema::new(
        vec![Column::required("k", DataType::Int64)],
        vec![],
        vec![Column::required("f", DataType::Float64)],
    );
    let fixture = small(Fixture::new(Arc::new(schema.unwrap()), leaves(&[])));
    let keys = Int64Array::from_iter_values(0..8);
    let values = Float64Array::from_iter_values((0..8).map(|row| if row == 5 { f64::NAN } else { 1.0 }));
    let files = fixture
        .ingest_batches(&[batch(&fixture.schema, vec![Arc::new(keys), Arc::new(values)])])
        .await;
    // Above every number, in the order of Arrow and of SQL.
    assert_eq!(may_match(&fixture, &files, "f > 5").await, [true]);
    let (found, _) = left(&fixture, &files, "f > 5").await;
    assert_eq!(found.len(), 7);
}

#[tokio::test]
async fn names_of_columns_are_written_as_the_table_has_them() {
    let schema = Schema::new(
        vec![Column::required("userId", DataType::Utf8)],
        vec![],
        vec![Column::required("select", DataType::Int64)],
    );
    let fixture = Fixture::new(Arc::new(schema.unwrap()), leaves(&[]));
    let keys = StringArray::from_iter_values(["a", "b"]);
    let values = Int64Array::from_iter_values([1, 2]);
    let files = fixture
        .ingest_batches(&[batch(&fixture.schema, vec![Arc::new(keys), Arc::new(values)])])
        .await;
    assert_eq!(left(&fixture, &files, "userId = 'a'").await.0, ["b|2"]);
    assert_eq!(left(&fixture, &files, "\"select\" = 2").await.0, ["a|1"]);
    let error = refusal(&fixture, "userid = 'a'").await;
    assert!(error.report().contains("userId"), "{}", error.report());
}

#[tokio::test]
async fn what_is_no_predicate_over_the_columns_is_refused_with_the_reason() {
    let fixture = Fixture::text(&[]);
    let deep = format!("{}k = 'a'{}", "(".repeat(3000), ")".repeat(3000));
    for (text, reason) in [
        ("colour = 'red'", "colour"),
        ("k", "Utf8"),
        ("s + 1", "Int64"),
        ("k =", "found: EOF"),
        ("k = 'a' k", "found: k at Line: 1, Column: 9"),
        ("k = 'a' AS x", "AS"),
        ("k = 'a'; DROP TABLE events", "found: ;"),
        ("s > now()", "now() is another at another time"),
        ("s > random()", "random"),
        ("repeat(k, 1000000000) = 'a'", "may not fit in memory"),
        ("s = count(*)", "count"),
        ("s = max(s) OVER ()", "max"),
        ("s = (SELECT 1)", "query"),
        ("EXISTS (SELECT 1)", "query"),
        ("k IN (SELECT k FROM t)", ""),
        ("s = $1", "$1"),
        ("k = 7 AND nothing(k)", "nothing"),
        (&deep, ""),
    ] {
        let error = refusal(&fixture, text).await;
        assert!(error.report().contains(reason), "{text}: {}", error.report());
    }
}

#[tokio::test]
async fn a_predicate_that_fails_for_a_row_leaves_no_file() {
    let fixture = Fixture::text(&[]);
    let files = fixture
        .ingest_batches(&[text_batch(&[("a", 1, Some("1")), ("b", 0, Some("x"))])])
        .await;
    for text in ["10 / s > 3", "CAST(v AS BIGINT) = 1"] {
        let error = compact(&fixture, spec(&fixture, &files, text)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        assert!(
            error.report().contains("cannot be evaluated for a row"),
            "{}",
            error.report()
        );
    }
}

#[tokio::test]
async fn aggregated_values_cannot_be_asked_about() {
    let schema = Schema::new(
        vec![Column::required("k", DataType::Utf8)],
        vec![Column::required("s", DataType::Int64)],
        vec![Column::required("count", DataType::Int64)],
    );
    let fixture = Fixture::new(Arc::new(schema.unwrap()), leaves(&[]));
    let rules = RowRules::parse("", "sum(count)")
        .unwrap()
        .at(Timestamp::from_millis(0));
    let ask = |text: &str| {
        let spec = MatchSpec {
            rules: rules.clone(),
            ..match_spec(&fixture, &[], text)
        };
        async { fixture.engine().may_match(spec).await }
    };
    assert_eq!(ask("k = 'a' AND s > 1").await.unwrap(), [false; 0]);
    let error = ask("count > 5").await.unwrap_err();
    assert!(
        error.report().contains("\"count\" is aggregated"),
        "{}",
        error.report()
    );
    assert!(error.report().contains("k, s"), "{}", error.report());
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(["a", "a", "b"])),
        Arc::new(Int64Array::from_iter_values([1, 1, 1])),
        Arc::new(Int64Array::from_iter_values([1, 2, 3])),
    ];
    let files = fixture.ingest_batches(&[batch(&fixture.schema, columns)]).await;
    let purged = CompactionSpec {
        rules,
        ..spec(&fixture, &files, "k = 'b'")
    };
    let file = compact(&fixture, purged).await.unwrap().unwrap();
    assert_eq!(rows(&fixture.read(&file).await), ["a|1|3"]);
}
