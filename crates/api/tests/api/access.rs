use dormouse_core::tenants::Scope;
use serde_json::json;

use crate::harness::{Ask, World};

#[tokio::test(start_paused = true)]
async fn an_instance_without_tenants_is_open() {
    let world = World::new().await;
    world.get("/v1/bulk/jobs").await.expect(200);
    let named = |name: &str| world.send(Ask::get("/v1/bulk/jobs").header("x-tenant-id", name));
    named("default").await.expect(200);
    let message = named("acme").await.refused(403, "FORBIDDEN");
    assert!(message.contains("leave the header X-Tenant-ID out"), "{message}");
    // Keys say nothing here.
    world.send(Ask::get("/v1/bulk/jobs").key("any")).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn with_tenants_a_good_key_is_needed() {
    let world = World::new().await;
    let key = world.key("acme", &[Scope::Admin]).await;
    for path in ["/v1/bulk/jobs", "/bulk", "/v1/jobs/x", "/limits", "/v1/limits"] {
        let answer = world.get(path).await;
        answer.refused(401, "UNAUTHORIZED");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"dormouse\"")
        );
    }
    for wrong in ["", "spk_acme_0", &key[..key.len() - 1], &key.to_uppercase()] {
        world
            .send(Ask::get("/limits").key(wrong))
            .await
            .refused(401, "UNAUTHORIZED");
    }
    let basic = Ask::get("/limits").header("authorization", &format!("Basic {key}"));
    world.send(basic).await.refused(401, "UNAUTHORIZED");
    let answer = world.send(Ask::get("/limits").key(&key)).await.expect(200);
    assert_eq!(answer["tenant_id"], "acme");
    let ask = |tenant: &str| world.send(Ask::get("/limits").key(&key).header("x-tenant-id", tenant));
    ask("acme").await.expect(200);
    ask("rival").await.refused(403, "FORBIDDEN");
    for open in [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/v1/health",
    ] {
        assert_eq!(world.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_good_for_its_scopes_alone() {
    let world = World::new().await;
    world.table("events", &[("table.tenant", "acme")], 1).await;
    let admin = world.key("acme", &[Scope::Admin]).await;
    let job = json!({"operation": "query", "query": "SELECT * FROM events"});
    let made = world
        .send(Ask::post("/v1/bulk/jobs", job.clone()).key(&admin))
        .await
        .expect(201);
    let path = format!("/v1/bulk/jobs/{}", made["job_id"].as_str().unwrap());
    let asks = [
        (
            Scope::QueryExecute,
            Ask::post("/v1/queries", json!({"sql": "SELECT * FROM events"})),
        ),
        (Scope::BulkCreate, Ask::post("/v1/bulk/jobs", job)),
        (Scope::BulkCreate, Ask::patch(&path, "UploadComplete")),
        (Scope::BulkCancel, Ask::patch(&path, "Aborted")),
        (Scope::BulkCancel, Ask::new("DELETE", &path)),
        (Scope::BulkRead, Ask::get(&path)),
        (Scope::BulkRead, Ask::get("/v1/bulk/jobs")),
        (Scope::BulkRead, Ask::get(&format!("{path}/results"))),
        (Scope::BulkRead, Ask::get(&format!("{path}/results/content"))),
        (Scope::BulkRead, Ask::get("/v1/jobs/other")),
    ];
    for scope in [
        Scope::QueryExecute,
        Scope::BulkCreate,
        Scope::BulkRead,
        Scope::BulkCancel,
    ] {
        let key = world.key("acme", &[scope]).await;
        for (needed, ask) in &asks {
            let answer = world.send(ask.clone().key(&key)).await;
            assert_eq!(
                answer.status == 403,
                *needed != scope,
                "{ask:?} with {scope}: {answer:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_foreign_is_as_absent() {
    let world = World::new().await;
    world.table("events", &[("table.tenant", "acme")], 3).await;
    let shared = [("table.tenant", "acme"), ("table.shared", "true")];
    world.table("common", &shared, 2).await;
    let (acme, rival) = (
        world.key("acme", &[Scope::Admin]).await,
        world.key("rival", &[Scope::Admin]).await,
    );
    let create = json!({"operation": "query", "query": "SELECT * FROM events", "job_id": "j1"});
    world
        .send(Ask::post("/v1/bulk/jobs", create.clone()).key(&acme))
        .await
        .expect(201);
    for (method, path) in [
        ("GET", "/v1/bulk/jobs/j1"),
        ("GET", "/v1/bulk/j1"),
        ("DELETE", "/v1/bulk/jobs/j1"),
        ("GET", "/v1/bulk/jobs/j1/results"),
        ("GET", "/v1/bulk/jobs/j1/results/content"),
        ("GET", "/v1/bulk/jobs/j1/upload-url"),
        ("GET", "/v1/bulk/jobs/j1/failed-results"),
        ("GET", "/v1/jobs/j1"),
        ("GET", "/v1/jobs/j1/results"),
        ("DELETE", "/v1/jobs/j1"),
        ("GET", "/v1/jobs/feed-events"),
        ("GET", "/v1/jobs/feed-events/results"),
    ] {
        let absent = world
            .send(Ask::new(method, &path.replace("j1", "j2").replace("feed", "food")).key(&rival))
            .await;
        let foreign = world.send(Ask::new(method, path).key(&rival)).await;
        foreign.refused(404, "NOT_FOUND");
        let told = String::from_utf8(foreign.body.to_vec()).unwrap();
        let told = told.replace("j1", "j2").replace("feed", "food");
        assert_eq!(told.as_bytes(), &absent.body[..], "{path}");
    }
    world
        .send(Ask::patch("/v1/bulk/jobs/j1", "Aborted").key(&rival))
        .await
        .refused(404, "NOT_FOUND");
    let listed = world
        .send(Ask::get("/v1/bulk/jobs").key(&rival))
        .await
        .expect(200);
    assert_eq!(listed["jobs"], json!([]));
    // Ids of tenants are apart.
    world
        .send(Ask::post("/v1/bulk/jobs", create).key(&rival))
        .await
        .expect(201);
    world
        .send(Ask::get("/v1/jobs/feed-events").key(&acme))
        .await
        .expect(200);
    world
        .send(Ask::get("/v1/jobs/feed-common").key(&rival))
        .await
        .refused(404, "NOT_FOUND");
    let ask = |table: &str| {
        let ask = json!({"sql": format!("SELECT * FROM {table}")});
        world.send(Ask::post("/v1/queries", ask).key(&rival))
    };
    let message = ask("events").await.refused(400, "QUERY_FAILED");
    assert_eq!(message, "Table 'events' does not exist");
    assert_eq!(ask("common").await.expect(200)["metadata"]["row_count"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_may_ask_so_often() {
    let world = World::with("api.rate.bulk.create=2\napi.rate.bulk=3\napi.rate.jobs=1").await;
    let create = json!({"operation": "query", "query": "SELECT * FROM t"});
    for remaining in ["1", "0"] {
        let made = world.post("/v1/bulk/jobs", create.clone()).await;
        made.expect(201);
        assert_eq!(made.header("x-ratelimit-limit"), Some("2"));
        assert_eq!(made.header("x-ratelimit-remaining"), Some(remaining));
    }
    let refused = world.post("/bulk", create).await;
    refused.refused(429, "RATE_LIMITED");
    let wait = refused.header("retry-after").unwrap().to_owned();
    assert_eq!(
        refused.json()["error"]["details"]["retry_after"].to_string(),
        wait
    );
    assert_eq!(refused.header("x-ratelimit-reset"), Some(wait.as_str()));
    for _ in 0..3 {
        world.get("/v1/bulk/jobs").await.expect(200);
    }
    world.get("/bulk/jobs").await.refused(429, "RATE_LIMITED");
    world.get("/v1/limits").await.expect(200);
    world.get("/v1/jobs/x").await.refused(429, "RATE_LIMITED");
    world.sleep(wait.parse().unwrap()).await;
    world.get("/bulk/jobs").await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn guesses_at_keys_are_limited() {
    let world = World::with("").await;
    world.key("acme", &[Scope::Admin]).await;
    let mut statuses = Vec::new();
    for _ in 0..100 {
        statuses.push(
            world
                .send(Ask::get("/limits").key("spk_acme_0"))
                .await
                .status
                .as_u16(),
        );
    }
    assert_eq!(statuses.first(), Some(&401));
    assert_eq!(statuses.last(), Some(&429));
}
