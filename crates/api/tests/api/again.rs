use serde_json::{Value, json};

use crate::harness::{Ask, World};

fn create() -> Value {
    json!({"operation": "query", "query": "SELECT * FROM events"})
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_again_is_answered_as_before() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    let headers = ["idempotency-key", "x-idempotency-key"];
    let mut first: Option<crate::harness::Answer> = None;
    for header in headers.into_iter().chain(headers) {
        let answer = world
            .send(Ask::post("/v1/bulk/jobs", create()).header(header, "k1"))
            .await;
        answer.expect(201);
        match &first {
            None => {
                assert_eq!(answer.header("idempotent-replayed"), None);
                first = Some(answer);
            }
            Some(first) => {
                assert_eq!(answer.header("idempotent-replayed"), Some("true"));
                assert_eq!(answer.body, first.body);
                for name in ["location", "content-type"] {
                    assert_eq!(answer.header(name), first.header(name));
                }
            }
        }
    }
    let jobs = world.get("/v1/bulk/jobs").await.expect(200);
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1);
    // Names in another order are the same body; another value is not.
    let same = r#"{ "query": "SELECT * FROM events", "operation": "query" }"#;
    let same = Ask::new("POST", "/v1/bulk/jobs")
        .header("content-type", "application/json")
        .header("idempotency-key", "k1")
        .text(same);
    assert_eq!(world.send(same).await.header("idempotent-replayed"), Some("true"));
    let mut other = create();
    other["object"] = json!("events");
    let ask = Ask::post("/v1/bulk/jobs", other).header("idempotency-key", "k1");
    world.send(ask).await.refused(422, "IDEMPOTENCY_MISMATCH");
}

#[tokio::test(start_paused = true)]
async fn the_key_may_be_in_the_body() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    let body = json!({"sql": "SELECT * FROM events", "idempotency_key": "k1"});
    let first = world.post("/v1/queries", body.clone()).await;
    let again = world.post("/v1/queries", body.clone()).await;
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let ask = Ask::post("/v1/queries", body).header("idempotency-key", "k2");
    world.send(ask).await.refused(400, "INVALID_REQUEST");
    let bad = Ask::post("/v1/queries", json!({"sql": "x"})).header("idempotency-key", "a b");
    world.send(bad).await.refused(400, "INVALID_REQUEST");
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_request_are_kept_and_others_are_not() {
    let world = World::new().await;
    let bad = Ask::post("/v1/bulk/jobs", json!({"operation": "query"})).header("idempotency-key", "k1");
    world.send(bad.clone()).await.refused(400, "INVALID_REQUEST");
    let again = world.send(bad).await;
    again.refused(400, "INVALID_REQUEST");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    // A table that is made meanwhile would be found by a request with another key.
    world
        .queries
        .set_hook(|_| async { Err(dormouse_core::Error::internal("secret words")) });
    let ask = Ask::post("/v1/queries", json!({"sql": "SELECT * FROM t"})).header("idempotency-key", "k2");
    let failed = world.send(ask.clone()).await;
    let message = failed.refused(500, "INTERNAL_ERROR");
    assert!(!message.contains("secret"), "{message}");
    assert!(
        message.contains(failed.header("x-request-id").unwrap()),
        "{message}"
    );
    world.queries.clear_hook();
    world.send(ask).await.refused(400, "QUERY_FAILED");
}

#[tokio::test(start_paused = true)]
async fn of_two_at_a_time_one_waits() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    world.slow_queries(1);
    let ask = Ask::post("/v1/queries", json!({"sql": "SELECT * FROM events"})).header("idempotency-key", "k");
    let (first, second) = tokio::join!(world.send(ask.clone()), world.send(ask.clone()));
    first.expect(200);
    second.refused(409, "CONFLICT");
    assert_eq!(second.json()["error"]["details"]["reason"], "in_flight");
    world.send(ask).await.expect(200);
}

/// A server that dies between the job and the answer leaves a job, which the next request finds.
#[tokio::test(start_paused = true)]
async fn a_key_makes_one_job_even_when_its_answer_was_lost() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    let mut chosen = create();
    chosen["job_id"] = json!("nightly");
    for (key, body) in [("k1", create()), ("k2", chosen)] {
        let ask = Ask::post("/v1/bulk", body.clone()).header("idempotency-key", key);
        let first = world.send(ask.clone()).await.expect(201);
        assert_eq!(first["state"], "UploadComplete");
        forget(&world, key).await;
        let again = world.send(ask).await;
        assert_eq!(again.header("idempotent-replayed"), None);
        assert_eq!(again.expect(201)["job_id"], first["job_id"]);
        // Another request for a job of that id is another matter.
        if body["job_id"].is_string() {
            let other = Ask::post("/v1/bulk", body).header("idempotency-key", "k3");
            world.send(other).await.refused(409, "CONFLICT");
        }
    }
    let jobs = world.get("/v1/bulk/jobs").await.expect(200);
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2);
}

/// Loses what is kept for a key.
async fn forget(world: &World, key: &str) {
    let item = dormouse_core::ports::ItemKey::new(
        dormouse_core::collections::Collection::IdempotencyKeys,
        "default|POST /bulk",
        key,
    );
    let items = &world.services.ports.items;
    items
        .delete(item, dormouse_core::ports::Condition::Exists)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_frees_its_key() {
    let world = World::new().await;
    world.table("events", &[], 1).await;
    world.slow_queries(10);
    let ask = Ask::post("/v1/queries", json!({"sql": "SELECT * FROM events"})).header("idempotency-key", "k");
    tokio::select! {
        _ = world.send(ask.clone()) => panic!("it takes longer"),
        () = world.sleep(1) => {}
    }
    world.queries.clear_hook();
    world.sleep(1).await;
    let again = world.send(ask).await;
    again.expect(200);
    assert_eq!(again.header("idempotent-replayed"), None);
}
