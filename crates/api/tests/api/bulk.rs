use std::time::Duration;

use dormouse_core::ports::Clock;
use serde_json::{Value, json};

use crate::harness::{Ask, World};

#[tokio::test(start_paused = true)]
async fn a_job_goes_from_open_to_complete() {
    let world = World::new().await;
    world.table("events", &[], 3).await;
    let body = json!({
        "operation": "query", "object": "events", "query": "SELECT * FROM events", "content_type": "csv",
        "compression": "none", "metadata": {"mine": [1, {"a": null}]},
    });
    let made = world.post("/bulk/jobs", body).await;
    let job = made.expect(201);
    let id = job["job_id"].as_str().unwrap();
    assert!(id.starts_with("bulk-job-"), "{id}");
    assert_eq!(
        made.header("location"),
        Some(format!("/v1/bulk/jobs/{id}").as_str())
    );
    for (name, value) in [
        ("state", json!("Open")),
        ("status", json!("PENDING")),
        ("operation", json!("query")),
        ("object", json!("events")),
        ("content_type", json!("CSV")),
        ("compression", json!("NONE")),
        ("metadata", json!({"mine": [1, {"a": null}]})),
        ("progress", json!(0)),
        ("download_url", json!(null)),
        ("number_records_processed", json!(0)),
        ("number_records_failed", json!(0)),
        ("query", json!("SELECT * FROM events")),
    ] {
        assert_eq!(job[name], value, "{name}");
    }
    let created = job["created_at"].as_str().unwrap();
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
    // The job waits, however long.
    world.settle().await;
    let path = format!("/bulk/jobs/{id}");
    let waiting = world.get(&path).await;
    assert_eq!(waiting.expect(200)["state"], "Open");
    assert_eq!(waiting.header("retry-after"), Some("5"));
    let closed = world.patch(&path, "UploadComplete").await.expect(200);
    assert_eq!(
        (&closed["state"], &closed["status"]),
        (&json!("UploadComplete"), &json!("PENDING"))
    );
    world.settle().await;
    for family in ["/bulk/jobs", "/v1/bulk/jobs", "/bulk", "/v1/bulk"] {
        let done = world.get(&format!("{family}/{id}")).await;
        assert_eq!(done.header("retry-after"), None);
        let job = done.expect(200);
        for (name, value) in [
            ("state", json!("JobComplete")),
            ("status", json!("COMPLETED")),
            ("progress", json!(100)),
            ("number_records_total", json!(3)),
            ("number_records_processed", json!(3)),
            ("result_row_count", json!(3)),
            ("error", json!(null)),
        ] {
            assert_eq!(job[name], value, "{name}");
        }
        assert_eq!(job["snapshot"]["events"], 2);
        let url = job["download_url"]
            .as_str()
            .unwrap()
            .strip_prefix("http://api")
            .unwrap();
        let file = world.get(url).await;
        assert_eq!(file.status, 200);
        assert_eq!(&file.body[..], b"key,payload\n0,row-0\n1,row-1\n2,row-2\n");
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_at_bulk_start_at_once() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    let create =
        |auto: Value| json!({"operation": "query", "query": "SELECT * FROM events", "auto_start": auto});
    for (path, auto, state) in [
        ("/bulk", json!(null), "UploadComplete"),
        ("/v1/bulk", json!(null), "UploadComplete"),
        ("/v1/bulk", json!(false), "Open"),
        ("/bulk/jobs", json!(null), "Open"),
        ("/bulk/jobs", json!(true), "UploadComplete"),
    ] {
        let made = world.post(path, create(auto)).await.expect(201);
        assert_eq!(made["state"], state, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_cannot_be_answered_fails_its_job() {
    let world = World::new().await;
    let path = world.ended("invalid_table", json!({})).await;
    let job = world.get(&path).await.expect(200);
    assert_eq!(
        (&job["state"], &job["status"]),
        (&json!("Failed"), &json!("FAILED"))
    );
    assert_eq!(
        job["error"],
        json!({"code": "QUERY_ERROR", "message": "Table 'invalid_table' does not exist"})
    );
    let made = world
        .post("/v1/bulk", json!({"operation": "query", "query": "nonsense"}))
        .await;
    made.expect(201);
}

/// What each change of each state is answered.
#[tokio::test(start_paused = true)]
async fn states_change_as_they_may() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    let clock = world.clock.clone();
    let open = world.job("events", json!({})).await;
    let waiting = world.job("events", json!({"auto_start": true})).await;
    for path in [&open, &waiting] {
        world
            .send(Ask::new("DELETE", path))
            .await
            .refused(409, "CONFLICT");
    }
    let state = async |path: &str| world.get(path).await.expect(200)["state"].clone();
    // Closing is repeatable, and so is aborting.
    world.patch(&waiting, "UploadComplete").await.expect(200);
    for path in [&open, &waiting, &open, &waiting] {
        let aborted = world.patch(path, "Aborted").await.expect(200);
        assert_eq!(
            (&aborted["state"], &aborted["status"]),
            (&json!("Aborted"), &json!("CANCELLED"))
        );
    }
    let refused = world.patch(&open, "UploadComplete").await;
    refused.refused(409, "CONFLICT");
    let details = &refused.json()["error"]["details"];
    assert_eq!(
        details,
        &json!({"reason": "illegal_transition", "state": "Aborted"})
    );
    // A job that runs.
    world.queries.set_hook(move |_| {
        let clock = clock.clone();
        async move {
            clock.sleep(Duration::from_secs(600)).await;
            Ok(())
        }
    });
    let running = world.job("events", json!({"auto_start": true})).await;
    tokio::select! {
        () = world.work() => {}
        () = world.sleep(5) => {}
    }
    let job = world.get(&running).await.expect(200);
    assert_eq!(
        (&job["state"], &job["status"], &job["stage"]),
        (&json!("InProgress"), &json!("RUNNING"), &json!("run"))
    );
    world.patch(&running, "UploadComplete").await.expect(200);
    world
        .send(Ask::new("DELETE", &running))
        .await
        .refused(409, "CONFLICT");
    world.patch(&running, "Aborted").await.expect(200);
    world.queries.clear_hook();
    let complete = world.ended("events", json!({})).await;
    let failed = world.ended("absent", json!({})).await;
    for path in [&complete, &failed] {
        for target in ["UploadComplete", "Aborted"] {
            world.patch(path, target).await.refused(409, "CONFLICT");
        }
    }
    assert_eq!(state(&complete).await, "JobComplete");
    // What its run still writes must not meet another job with its id.
    world
        .send(Ask::new("DELETE", &running))
        .await
        .refused(409, "CONFLICT");
    world.sleep(60).await;
    for path in [&open, &waiting, &running, &complete, &failed] {
        world.send(Ask::new("DELETE", path)).await.expect(204);
        world.get(path).await.refused(404, "NOT_FOUND");
        world
            .send(Ask::new("DELETE", path))
            .await
            .refused(404, "NOT_FOUND");
    }
}

#[tokio::test(start_paused = true)]
async fn no_other_state_can_be_asked_for() {
    let world = World::new().await;
    let path = world.job("events", json!({})).await;
    for state in ["Open", "InProgress", "JobComplete", "Failed", "x", ""] {
        let answer = world.patch(&path, state).await;
        answer.refused(400, "INVALID_REQUEST");
        assert_eq!(answer.json()["error"]["details"]["field"], "state");
    }
    world
        .send(Ask::new("PATCH", &path).json(json!({})))
        .await
        .refused(400, "INVALID_REQUEST");
    world
        .patch("/v1/bulk/jobs/absent", "Aborted")
        .await
        .refused(404, "NOT_FOUND");
}

#[tokio::test(start_paused = true)]
async fn bodies_of_jobs_are_checked() {
    let world = World::new().await;
    for (change, field) in [
        (json!({"operation": "insert"}), "operation"),
        (json!({"operation": "copy"}), "operation"),
        (json!({"operation": null}), "operation"),
        (json!({"query": null}), "query"),
        (json!({"query": ""}), "query"),
        (json!({"query": "x".repeat(100_001)}), "query"),
        (json!({"object": "x".repeat(201)}), "object"),
        (json!({"content_type": "XML"}), "content_type"),
        (json!({"compression": "LZ4"}), "compression"),
        (json!({"compression": "SNAPPY"}), "compression"),
        (
            json!({"content_type": "PARQUET", "compression": "GZIP"}),
            "compression",
        ),
        (json!({"content_type": "JSON", "csv": {}}), "csv"),
        (json!({"parquet": {}}), "parquet"),
        (json!({"csv": {"delimiter": "ab"}}), "csv.delimiter"),
        (json!({"csv": {"delimiter": "a"}}), "csv.delimiter"),
        (json!({"csv": {"delimiter": "\""}}), "csv.delimiter"),
        (json!({"csv": {"quote": "'"}}), "csv.quote"),
        (json!({"csv": {"line_ending": "CR"}}), "csv.line_ending"),
        (json!({"csv": {"null_marker": "a,b"}}), "csv.null_marker"),
        (json!({"csv": {"header": "yes"}}), "csv.header"),
        (
            json!({"content_type": "PARQUET", "parquet": {"partition_by": ["a", "a"]}}),
            "parquet.partition_by",
        ),
        (
            json!({"content_type": "PARQUET", "parquet": {"partition_by": [""]}}),
            "parquet.partition_by",
        ),
        (json!({"as_of": "soon"}), "as_of"),
        (json!({"job_id": ""}), "job_id"),
        (json!({"job_id": "a/b"}), "job_id"),
        (json!({"job_id": ".a"}), "job_id"),
        (json!({"job_id": "jobs"}), "job_id"),
        (json!({"job_id": "x".repeat(65)}), "job_id"),
        (json!({"metadata": {"a": "x".repeat(4096)}}), "metadata"),
        (json!({"timeout_seconds": 0}), "timeout_seconds"),
        (json!({"timeout_seconds": 86_401}), "timeout_seconds"),
        (json!({"auto_start": "yes"}), "auto_start"),
        (json!({"params": {"1": 1}}), "params.1"),
    ] {
        let mut body = json!({"operation": "query", "query": "SELECT * FROM t"});
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = world.post("/v1/bulk/jobs", body).await;
        answer.refused(400, "INVALID_REQUEST");
        assert_eq!(answer.json()["error"]["details"]["field"], field, "{change}");
    }
    let imports = json!({"operation": "upsert", "object": "t"});
    let message = world
        .post("/v1/bulk/jobs", imports)
        .await
        .refused(400, "INVALID_REQUEST");
    assert!(message.contains("upsert is not supported yet"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn formats_are_read_in_any_case() {
    let world = World::new().await;
    for (change, content_type, compression) in [
        (json!({}), "CSV", "NONE"),
        (
            json!({"content_type": "json", "compression": "gzip"}),
            "JSON",
            "GZIP",
        ),
        (
            json!({"content_type": "Ndjson", "compression": "Zstd"}),
            "NDJSON",
            "ZSTD",
        ),
        (json!({"content_type": "parquet"}), "PARQUET", "SNAPPY"),
        (
            json!({"content_type": "PARQUET", "compression": "NONE"}),
            "PARQUET",
            "NONE",
        ),
        (
            json!({"content_type": "PARQUET", "parquet": {"compression": "zstd", "partition_by": ["day"]}}),
            "PARQUET",
            "ZSTD",
        ),
        (
            json!({"csv": {
                "delimiter": "pipe", "quote": "\"", "line_ending": "\r\n", "header": false, "null_marker": "\\N",
            }}),
            "CSV",
            "NONE",
        ),
        (
            json!({"csv": {"delimiter": "\t", "line_ending": "lf"}}),
            "CSV",
            "NONE",
        ),
    ] {
        let path = world.job("t", change).await;
        let job = world.get(&path).await.expect(200);
        assert_eq!(
            (&job["content_type"], &job["compression"]),
            (&json!(content_type), &json!(compression))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_is_there_once() {
    let world = World::new().await;
    let path = world.job("t", json!({"job_id": "bulk-job-abc123"})).await;
    assert_eq!(path, "/v1/bulk/jobs/bulk-job-abc123");
    let body = json!({"operation": "query", "query": "x", "job_id": "bulk-job-abc123"});
    let refused = world.post("/v1/bulk/jobs", body).await;
    refused.refused(409, "CONFLICT");
    assert_eq!(refused.json()["error"]["details"]["reason"], "exists");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_so_many_jobs() {
    let world = World::with("api.rate.limits=false\nbulk.max.open.jobs=2").await;
    for _ in 0..2 {
        world.job("t", json!({})).await;
    }
    let body = json!({"operation": "query", "query": "SELECT * FROM t"});
    let refused = world.post("/v1/bulk/jobs", body).await;
    refused.refused(429, "RATE_LIMITED");
    assert_eq!(refused.header("retry-after"), Some("5"));
    let limits = world.get("/limits").await.expect(200);
    assert_eq!(
        limits["usage"],
        json!({"jobs_open": 2, "jobs_waiting": 0, "jobs_running": 0})
    );
    assert_eq!(limits["limits"]["bulk_max_open_jobs"], 2);
    assert_eq!(limits["limits"]["query_max_joins"], 10);
    assert_eq!(limits["limits"]["query_max_subqueries"], 5);
    assert_eq!(limits["limits"]["rates_per_minute"], json!(null));
}

#[tokio::test(start_paused = true)]
async fn where_jobs_do_not_wait_they_are_refused() {
    let world =
        World::with("api.rate.limits=false\nbulk.concurrency.policy=reject\nbulk.max.concurrent.jobs=1")
            .await;
    let first = world.job("t", json!({"auto_start": true})).await;
    let second = world.job("t", json!({})).await;
    world
        .patch(&second, "UploadComplete")
        .await
        .refused(429, "RATE_LIMITED");
    assert_eq!(world.get(&second).await.expect(200)["state"], "Open");
    let body = json!({"operation": "query", "query": "SELECT * FROM t"});
    world.post("/v1/bulk", body).await.refused(429, "RATE_LIMITED");
    let listed = world.get("/v1/bulk/jobs").await.expect(200);
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 2);
    world.patch(&first, "Aborted").await.expect(200);
    world.patch(&second, "UploadComplete").await.expect(200);
}
