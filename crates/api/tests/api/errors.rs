use serde_json::json;

use crate::harness::{Ask, World};

#[tokio::test(start_paused = true)]
async fn errors_have_one_shape() {
    let world = World::new().await;
    let answer = world.get("/v1/bulk/jobs/absent").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.expect(404),
        json!({
            "error": {"code": "NOT_FOUND", "message": "There is no job absent", "details": {}},
            "type": "/docs#NOT_FOUND",
            "title": "There is no such thing",
            "status": 404,
            "detail": "There is no job absent",
            "instance": "/v1/bulk/jobs/absent",
        })
    );
    let ask = Ask::get("/v1/bulk/jobs/absent").header("accept", "text/html, application/problem+json;q=0.9");
    let problem = world.send(ask).await;
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem.body, answer.body);
    let ask = Ask::get("/v1/bulk/jobs/absent").header("x-request-id", "my-id");
    assert_eq!(world.send(ask).await.header("x-request-id"), Some("my-id"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found() {
    let world = World::new().await;
    for path in [
        "/x",
        "/v1",
        "/v1/",
        "/v2/queries",
        "/bulk/jobs/a/b",
        "/v1/bulk/jobs/",
        "/bulk/jobs/a/results/b",
    ] {
        world.get(path).await.refused(404, "NOT_FOUND");
    }
}

#[tokio::test(start_paused = true)]
async fn methods_that_are_not_allowed_are_told_which_are() {
    let world = World::new().await;
    for (method, path, allowed) in [
        ("GET", "/v1/queries", "POST"),
        ("PUT", "/queries", "POST"),
        ("PUT", "/v1/bulk/jobs", "GET,HEAD,POST"),
        ("TRACE", "/v1/bulk", "GET,HEAD,POST"),
        ("POST", "/v1/bulk/jobs/x", "DELETE,GET,HEAD,PATCH"),
        ("POST", "/bulk/x", "DELETE,GET,HEAD,PATCH"),
        ("DELETE", "/v1/bulk/jobs/x/results", "GET,HEAD"),
        ("POST", "/v1/bulk/jobs/x/results/content", "GET,HEAD"),
        ("PATCH", "/v1/jobs/x", "DELETE,GET,HEAD"),
        ("POST", "/limits", "GET,HEAD"),
        ("POST", "/health", "GET,HEAD"),
        ("OPTIONS", "/", "GET,HEAD"),
    ] {
        let answer = world.send(Ask::new(method, path)).await;
        answer.refused(405, "METHOD_NOT_ALLOWED");
        let mut allow: Vec<_> = answer
            .header("allow")
            .unwrap()
            .split(',')
            .map(str::trim)
            .collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{method} {path}");
    }
    let head = world.send(Ask::new("HEAD", "/health")).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test(start_paused = true)]
async fn unknown_fields_are_named_with_the_nearest_known_ones() {
    let world = World::new().await;
    let body =
        json!({"operation": "query", "queryy": "SELECT 1", "object": "o", "contenttype": {"query": 1}});
    let answer = world.post("/v1/bulk/jobs", body).await;
    let message = answer.refused(400, "INVALID_REQUEST");
    let names = &answer.json()["error"]["details"]["unknown_fields"];
    assert_eq!(names, &json!(["contenttype", "queryy"]));
    assert!(message.contains("\"queryy\" (nearest: \"query\")"), "{message}");
    assert!(
        message.contains("\"contenttype\" (nearest: \"content_type\")"),
        "{message}"
    );
    for (body, field) in [
        (
            json!({"sql": "x", "parameters": {"limits": 5}}),
            "parameters.limits",
        ),
        (
            json!({"sql": "x", "parameters": {"limit": 5, "a.b": {}}}),
            "parameters.a.b",
        ),
        (
            json!({"sql": "x", "parameters": {"parameters": {"limit": 1}}}),
            "parameters.parameters",
        ),
        (json!({"sql": "x", "sqls": {"sql": 1}}), "sqls"),
    ] {
        let answer = world.post("/v1/queries", body.clone()).await;
        answer.refused(400, "INVALID_REQUEST");
        let details = &answer.json()["error"]["details"];
        assert_eq!(details["field"], field, "{body} {details}");
        assert_eq!(details["unknown_fields"], json!([field]), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_must_be_json_and_not_too_large() {
    let world = World::with("api.rate.limits=false\napi.body.max.bytes=1000").await;
    let ask = |content_type: &str, body: &str| {
        let ask = Ask::new("POST", "/v1/queries").header("content-type", content_type);
        world.send(ask.text(body))
    };
    ask("text/plain", "{}")
        .await
        .refused(415, "UNSUPPORTED_MEDIA_TYPE");
    world
        .send(Ask::new("POST", "/v1/queries").text("{}"))
        .await
        .refused(415, "UNSUPPORTED_MEDIA_TYPE");
    for json in [
        "",
        "{",
        "[]",
        "null",
        "1",
        "\"a\"",
        "{\"sql\": \"\\ud800\"}",
        "{} {}",
    ] {
        let message = ask("application/json", json)
            .await
            .refused(400, "INVALID_REQUEST");
        assert!(!message.is_empty());
    }
    let message = ask("application/json; charset=utf-8", "{}")
        .await
        .refused(400, "INVALID_REQUEST");
    assert!(message.contains("missing field `sql`"), "{message}");
    let large = json!({"sql": "x".repeat(1000)}).to_string();
    let refused = ask("application/json", &large).await;
    refused.refused(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(refused.json()["error"]["details"]["max_bytes"], 1000);
    let deep = format!("{{\"sql\":{}1{}}}", "[".repeat(400), "]".repeat(400));
    ask("application/json", &deep)
        .await
        .refused(400, "INVALID_REQUEST");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_is_answered() {
    let world = World::new().await;
    world.queries.set_hook(|_| async { panic!("a bug") });
    let answer = world.post("/v1/queries", json!({"sql": "SELECT * FROM t"})).await;
    answer.refused(500, "INTERNAL_ERROR");
}

#[tokio::test(start_paused = true)]
async fn ids_in_paths_are_checked() {
    let world = World::new().await;
    for id in ["a%20b", "a%2Fb", ".a", "%ff", "%00", &"x".repeat(201)] {
        for path in [
            format!("/v1/bulk/jobs/{id}"),
            format!("/v1/bulk/jobs/{id}/results"),
            format!("/v1/jobs/{id}"),
        ] {
            let answer = world.get(&path).await;
            answer.refused(400, "INVALID_REQUEST");
            assert_eq!(answer.json()["error"]["details"]["field"], "job_id", "{path}");
        }
    }
}
