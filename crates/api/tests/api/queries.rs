use serde_json::json;

use crate::harness::{Ask, World};

fn sql(table: &str) -> serde_json::Value {
    json!({"sql": format!("SELECT * FROM {table}")})
}

#[tokio::test(start_paused = true)]
async fn a_query_is_answered_with_its_rows() {
    let world = World::new().await;
    world.table("events", &[], 3).await;
    for path in ["/queries", "/v1/queries"] {
        let answer = world.post(path, sql("events")).await.expect(200);
        assert!(answer["job_id"].as_str().unwrap().starts_with("query-"));
        assert_eq!(answer["status"], "COMPLETED");
        let rows = [0, 1, 2].map(|key| json!({"key": key, "payload": format!("row-{key}")}));
        assert_eq!(answer["data"], json!(rows));
        assert_eq!(
            (&answer["truncated"], &answer["message"]),
            (&json!(false), &json!(null))
        );
        let metadata = &answer["metadata"];
        assert_eq!(metadata["columns"], json!(["key", "payload"]));
        assert_eq!(metadata["column_types"], json!(["Int64", "Utf8"]));
        assert_eq!(
            metadata["schema"][0],
            json!({"name": "key", "type": "Int64", "nullable": false})
        );
        assert_eq!(
            (&metadata["row_count"], &metadata["total_rows"]),
            (&json!(3), &json!(3))
        );
        assert_eq!(metadata["bulk_request"], json!(null));
        // It is not kept.
        let path = format!("/v1/jobs/{}", answer["job_id"].as_str().unwrap());
        world.get(&path).await.refused(404, "NOT_FOUND");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_says_so_and_how_to_have_all_of_it() {
    let world = World::with("api.rate.limits=false\nresult.size.threshold=5").await;
    world.table("five", &[], 5).await;
    world.table("six", &[], 6).await;
    let exact = world.post("/v1/queries", sql("five")).await.expect(200);
    assert_eq!(exact["truncated"], false);
    let mut ask = sql("six");
    ask["metadata"] = json!({"mine": 1});
    let cut = world.post("/v1/queries", ask).await.expect(200);
    assert_eq!(cut["data"].as_array().unwrap().len(), 5);
    assert_eq!(
        (&cut["truncated"], &cut["metadata"]["truncated"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(cut["metadata"]["total_rows"], json!(null));
    let message = cut["message"].as_str().unwrap();
    assert!(
        message.contains("more than 5 rows") && message.contains("/v1/bulk"),
        "{message}"
    );
    assert_eq!(cut["message"], cut["metadata"]["message"]);
    // What is proposed makes a job that has all rows.
    let mut bulk = cut["metadata"]["bulk_request"].clone();
    assert_eq!(
        (&bulk["query"], &bulk["metadata"]),
        (&json!("SELECT * FROM six"), &json!({"mine": 1}))
    );
    bulk["compression"] = json!("NONE");
    let job = world.post("/v1/bulk", bulk).await.expect(201);
    world.settle().await;
    let path = format!("/v1/bulk/{}", job["job_id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.expect(200)["result_row_count"], 6);
}

#[tokio::test(start_paused = true)]
async fn rows_and_bytes_are_bounded() {
    let world = World::with("api.rate.limits=false\nresult.size.bytes=70").await;
    world.table("events", &[], 9).await;
    let mut ask = sql("events");
    let cut = world.post("/v1/queries", ask.clone()).await.expect(200);
    assert_eq!(
        (&cut["truncated"], &cut["metadata"]["row_count"]),
        (&json!(true), &json!(2))
    );
    assert!(
        cut["message"].as_str().unwrap().contains("more than 70 bytes"),
        "{cut}"
    );
    ask["parameters"] = json!({"limit": 1});
    let cut = world.post("/v1/queries", ask.clone()).await.expect(200);
    assert_eq!(cut["data"].as_array().unwrap().len(), 1);
    // The engine in memory cannot count: the answer comes without the number.
    ask["parameters"] = json!({"limit": 1, "count_total": true});
    let cut = world.post("/v1/queries", ask.clone()).await.expect(200);
    assert_eq!(cut["metadata"]["total_rows"], json!(null));
    ask["parameters"] = json!({"limit": 10.0});
    world.post("/v1/queries", ask).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn parameters_are_checked() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    let long = "x".repeat(100_001);
    let many: serde_json::Map<_, _> = (0..101).map(|n| (format!("p{n}"), json!(n))).collect();
    for (change, field) in [
        (json!({"parameters": {"limit": 0}}), "parameters.limit"),
        (json!({"parameters": {"limit": 10_001}}), "parameters.limit"),
        (json!({"parameters": {"limit": 1.5}}), "parameters.limit"),
        (json!({"parameters": {"limit": "1"}}), "parameters.limit"),
        (
            json!({"parameters": {"timeout_seconds": 301}}),
            "parameters.timeout_seconds",
        ),
        (
            json!({"parameters": {"count_total": 1}}),
            "parameters.count_total",
        ),
        (json!({"params": {"a b": 1}}), "params.a b"),
        (json!({"params": {"a": []}}), "params.a"),
        (json!({ "params": many }), "params"),
        (json!({"as_of": "yesterday"}), "as_of"),
        (json!({"as_of": -1}), "as_of"),
        (json!({"as_of": true}), "as_of"),
        (json!({"metadata": {"a": "x".repeat(4096)}}), "metadata"),
        (json!({"metadata": []}), "metadata"),
        (json!({"sql": ""}), "sql"),
        (json!({ "sql": long }), "sql"),
        (json!({"sql": null}), "sql"),
        (json!({"idempotency_key": ""}), "idempotency_key"),
    ] {
        let mut ask = sql("events");
        for (name, value) in change.as_object().unwrap() {
            ask[name] = value.clone();
        }
        let answer = world.post("/v1/queries", ask).await;
        answer.refused(400, "INVALID_REQUEST");
        assert_eq!(answer.json()["error"]["details"]["field"], field, "{change}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_cannot_be_answered_says_why() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    let ask = |sql: &str| world.send(Ask::post("/v1/queries", json!({ "sql": sql })));
    let message = ask("SELECT * FROM invalid_table")
        .await
        .refused(400, "QUERY_FAILED");
    assert_eq!(message, "Table 'invalid_table' does not exist");
    ask("nonsense").await.refused(400, "INVALID_SQL");
    let mut past = sql("events");
    past["as_of"] = json!("2020-01-01T00:00:00Z");
    world.post("/v1/queries", past).await.refused(400, "QUERY_FAILED");
}

#[tokio::test(start_paused = true)]
async fn a_statement_that_is_no_query_is_blocked() {
    let world = World::new().await;
    world.queries.set_hook(|_| async {
        let refusal = dormouse_core::ports::QueryRefusal::NotAQuery("DROP".to_owned());
        Err(refusal.into())
    });
    let answer = world.post("/v1/queries", json!({"sql": "DROP TABLE t"})).await;
    answer.refused(400, "SQL_BLOCKED");
}

#[tokio::test(start_paused = true)]
async fn a_query_that_takes_too_long_is_sent_to_the_bulk_api() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    world.slow_queries(10);
    let mut ask = sql("events");
    ask["parameters"] = json!({"timeout_seconds": 5});
    let answer = world.post("/v1/queries", ask.clone()).await;
    let message = answer.refused(504, "QUERY_TIMEOUT");
    assert!(
        message.contains("longer than 5 s") && message.contains("/v1/bulk"),
        "{message}"
    );
    assert_eq!(
        answer.json()["error"]["details"]["bulk_request"]["query"],
        ask["sql"]
    );
    ask["parameters"] = json!({"timeout_seconds": 60});
    let answer = world.post("/v1/queries", ask).await.expect(200);
    assert!(answer["metadata"]["execution_time_ms"].as_u64().unwrap() >= 30_000);
}

#[tokio::test(start_paused = true)]
async fn queries_wait_for_their_turn_and_not_for_ever() {
    let world = World::with("api.rate.limits=false\nquery.concurrency=1").await;
    world.table("events", &[], 1).await;
    world.slow_queries(10);
    let mut hasty = sql("events");
    hasty["parameters"] = json!({"timeout_seconds": 5});
    let (first, second) = tokio::join!(
        world.post("/v1/queries", sql("events")),
        world.post("/v1/queries", hasty.clone()),
    );
    first.expect(200);
    second.refused(503, "UNAVAILABLE");
    assert_eq!(second.header("retry-after"), Some("1"));
    // A client that goes away gives its turn back.
    tokio::select! {
        _ = world.post("/v1/queries", sql("events")) => panic!("it is slow"),
        () = world.sleep(1) => {}
    }
    world.queries.clear_hook();
    world.post("/v1/queries", hasty).await.expect(200);
}
