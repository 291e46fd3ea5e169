use dormouse_core::ports::QueueName;
use serde_json::json;

use crate::harness::{Ask, World};

#[tokio::test(start_paused = true)]
async fn bulk_jobs_are_seen_as_jobs() {
    let world = World::new().await;
    world.table("events", &[], 2).await;
    world.job("events", json!({"job_id": "j1"})).await;
    let seen = world.get("/v1/jobs/j1").await;
    assert_eq!(seen.header("retry-after"), Some("5"));
    let job = seen.expect(200);
    assert_eq!(
        (&job["kind"], &job["status"], &job["state"]),
        (&json!("query"), &json!("PENDING"), &json!("Open"))
    );
    world.get("/v1/jobs/j1/results").await.refused(409, "CONFLICT");
    let cancelled = world.send(Ask::new("DELETE", "/v1/jobs/j1")).await.expect(200);
    assert_eq!(cancelled["status"], "CANCELLED");
    world.ended("events", json!({"job_id": "j2"})).await;
    let job = world.get("/jobs/j2").await.expect(200);
    assert_eq!(
        (&job["status"], &job["rows_written"]),
        (&json!("COMPLETED"), &json!(2))
    );
    let results = job["results"].as_str().unwrap();
    assert_eq!(world.get(results).await.expect(200)["row_count"], 2);
    assert_eq!(world.get("/v1/jobs/j2/results").await.expect(200)["row_count"], 2);
    world
        .send(Ask::new("DELETE", "/v1/jobs/j2"))
        .await
        .refused(409, "CONFLICT");
}

#[tokio::test(start_paused = true)]
async fn ingests_and_exports_are_seen_as_jobs() {
    let world = World::new().await;
    let table = world.table("events", &[], 5).await;
    let job = world.get("/v1/jobs/feed-events").await.expect(200);
    for (name, value) in [
        ("kind", json!("ingest")),
        ("status", json!("COMPLETED")),
        ("state", json!("FINISHED")),
        ("table", json!("events")),
        ("rows_written", json!(5)),
        ("error", json!(null)),
    ] {
        assert_eq!(job[name], value, "{name}");
    }
    world
        .get("/v1/jobs/feed-events/results")
        .await
        .refused(400, "INVALID_REQUEST");
    world
        .send(Ask::new("DELETE", "/v1/jobs/feed-events"))
        .await
        .refused(409, "CONFLICT");
    world
        .tell(QueueName::Export, json!({"tableId": table.id, "exportId": "e1"}))
        .await;
    world.settle().await;
    let job = world.get("/v1/jobs/e1").await.expect(200);
    assert_eq!(
        (&job["kind"], &job["status"]),
        (&json!("export"), &json!("COMPLETED"))
    );
    let results = world.get(job["results"].as_str().unwrap()).await.expect(200);
    assert_eq!(
        (&results["format"], &results["row_count"]),
        (&json!("parquet"), &json!(5))
    );
    let url = results["files"][0]["url"].as_str().unwrap();
    let file = world.get(url.strip_prefix("http://api").unwrap()).await;
    assert_eq!(file.body.len() as u64, results["size_bytes"].as_u64().unwrap());
    assert_eq!(file.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_is_seen_with_its_reason() {
    let world = World::new().await;
    let message = json!({"id": "bad", "tableName": "absent", "files": ["source/x.parquet"]});
    world.tell(QueueName::Ingest, message).await;
    world.settle().await;
    let job = world.get("/v1/jobs/bad").await.expect(200);
    assert_eq!(
        (&job["status"], &job["error"]["code"]),
        (&json!("FAILED"), &json!("REJECTED"))
    );
    for id in ["absent", "..", "a%20b", "%ff"] {
        let status = world.get(&format!("/v1/jobs/{id}")).await.status.as_u16();
        assert!([400, 404].contains(&status), "{id}: {status}");
    }
}
