//! Statements that mean harm, from `hostile.sql`: each ends as it says there, while others are answered.

#![expect(
    clippy::disallowed_methods,
    reason = "queries run on threads of their own, in real time"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dormouse_core::{ErrorKind, ports::RowFormat};

use crate::database::{Database, database};

/// How long a statement that nothing else ends may take before whoever asked drops it.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a statement may take that ends by itself: a few seconds, where nothing else runs.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a neighbour waits at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many statements run between a neighbour's.
const BETWEEN: usize = 20;

/// How a statement ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is refused.
    Refused,
    /// It is refused, or its deadline passes.
    Cut,
    /// It is answered.
    Harmless,
}

/// The statements with how they end: each after a comment that says it, with `;;` behind. `<<text|count>>` stands for
/// a text so many times.
fn statements() -> Vec<(End, String)> {
    let all = include_str!("hostile.sql").split(";;\n");
    let statements = all.filter(|part| !part.trim().is_empty()).map(|part| {
        let (comment, sql) = part.trim_start().split_once('\n').unwrap();
        let end = match comment {
            "-- refused" => End::Refused,
            "-- cut" => End::Cut,
            "-- harmless" => End::Harmless,
            other => panic!("{other}"),
        };
        (end, expanded(sql))
    });
    statements.collect()
}

fn expanded(sql: &str) -> String {
    let mut expanded = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("<<") {
        let (inside, after) = after.split_once(">>").unwrap();
        let (text, count) = inside.rsplit_once('|').unwrap();
        expanded.push_str(before);
        expanded.push_str(&text.repeat(count.parse().unwrap()));
        rest = after;
    }
    expanded + rest
}

async fn run(database: &Database, sql: &str, deadline: Duration) -> Result<(), String> {
    let asked = database.ask(database.spec(sql), RowFormat::JsonLines);
    match tokio::time::timeout(deadline, asked).await {
        Err(_) => Err("the deadline passed".to_owned()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::Invalid => Err(error.report()),
        Ok(Err(error)) => panic!("{:?}: {}: {sql:.300}", error.kind(), error.report()),
    }
}

async fn neighbour(database: &Database, after: &str) {
    let begun = Instant::now();
    let sql = "SELECT count(*) AS n FROM letters WHERE k < 'c'";
    let answer = tokio::time::timeout(PATIENCE, database.lines(sql)).await;
    let waited = begun.elapsed();
    assert_eq!(
        answer.as_deref(),
        Ok(&["200".to_owned()][..]),
        "after {waited:?} and {after:.300}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_statements_end_as_they_should_while_others_are_answered() {
    let database = Arc::new(database().await);
    let statements = statements();
    assert!(statements.len() >= 100, "{}", statements.len());
    let mut wrong = Vec::new();
    for (number, (end, sql)) in statements.iter().enumerate() {
        let begun = Instant::now();
        let deadline = if *end == End::Cut { DEADLINE } else { LONGEST };
        let ended = run(&database, sql, deadline).await;
        let waited = begun.elapsed();
        let is_right = match (end, &ended) {
            (End::Harmless, Ok(())) => true,
            (End::Refused, Err(reason)) => reason != "the deadline passed",
            (End::Cut, Err(_)) => true,
            _ => false,
        };
        if !is_right || waited > deadline + PATIENCE {
            wrong.push(format!("{end:?} after {waited:?}: {ended:?}: {sql:.300}"));
        }
        if number % BETWEEN == 0 {
            neighbour(&database, sql).await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_are_dropped_stop() {
    let database = Arc::new(database().await);
    // Each join keeps one table in memory, and goes on for ever.
    let pairs = "(SELECT c.s + d.s AS s FROM letters c, letters d) pairs";
    let triples = format!("(SELECT b.s + pairs.s AS s FROM letters b, {pairs}) triples");
    for condition in ["a.s + triples.s = -1", "a.s + triples.s >= 0"] {
        let sql = &format!("SELECT count(*) FROM letters a, {triples} WHERE {condition}");
        for _ in 0..8 {
            let asked = database.ask(database.spec(sql), RowFormat::Csv);
            let answered = tokio::time::timeout(Duration::from_millis(300), asked).await;
            assert!(answered.is_err(), "{sql}: {answered:?}");
        }
        neighbour(&database, sql).await;
    }
}
