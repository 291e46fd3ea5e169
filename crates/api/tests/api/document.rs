use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::World;

async fn document() -> Value {
    let world = World::new().await;
    world.get("/openapi.json").await.expect(200)
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(|(method, operation)| (path.clone(), method.clone(), operation.clone()))
    });
    operations.collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_documented_is_what_is_there_once() {
    let document = document().await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let found: BTreeSet<_> = operations(&document)
        .into_iter()
        .map(|(path, method, _)| format!("{method} {path}"))
        .collect();
    let expected = [
        "delete /v1/bulk/jobs/{job_id}",
        "delete /v1/jobs/{job_id}",
        "get /health",
        "get /limits",
        "get /ready",
        "get /v1/bulk/jobs",
        "get /v1/bulk/jobs/{job_id}",
        "get /v1/bulk/jobs/{job_id}/results",
        "get /v1/bulk/jobs/{job_id}/results/content",
        "get /v1/jobs/{job_id}",
        "get /v1/jobs/{job_id}/results",
        "patch /v1/bulk/jobs/{job_id}",
        "post /v1/bulk/jobs",
        "post /v1/queries",
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    let ids: BTreeSet<_> = operations(&document)
        .into_iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), expected.len());
}

#[tokio::test(start_paused = true)]
async fn every_operation_has_all_its_statuses() {
    let document = document().await;
    for (path, method, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        let has = |status: &str| responses.contains_key(status);
        let is_open = path == "/health" || path == "/ready";
        for status in ["401", "403", "429"] {
            assert_eq!(has(status), !is_open, "{method} {path} {status}");
        }
        assert!(has("500"), "{method} {path}");
        let has_body = operation.get("requestBody").is_some();
        assert_eq!(has_body, ["post", "patch"].contains(&method.as_str()));
        for status in ["413", "415"] {
            assert_eq!(has(status), has_body, "{method} {path} {status}");
        }
        assert_eq!(has("422"), method == "post", "{method} {path}");
        assert_eq!(has("404"), path.contains("{job_id}"), "{method} {path}");
        for (status, response) in responses {
            assert!(!response["description"].as_str().unwrap().is_empty());
            if status.as_str() < "400" {
                continue;
            }
            for content in ["application/json", "application/problem+json"] {
                let schema = &response["content"][content]["schema"]["$ref"];
                assert_eq!(
                    schema, "#/components/schemas/ErrorBody",
                    "{method} {path} {status}"
                );
            }
        }
        assert!(
            !operation["summary"].as_str().unwrap().is_empty(),
            "{method} {path}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_are_documented_to_the_letter() {
    let document = document().await;
    let schemas = &document["components"]["schemas"];
    for name in [
        "QueryBody",
        "QueryParameters",
        "CreateBody",
        "CsvBody",
        "ParquetBody",
        "PatchBody",
    ] {
        assert_eq!(schemas[name]["additionalProperties"], false, "{name}");
    }
    for name in ["QueryBody", "CreateBody", "PatchBody"] {
        assert!(schemas[name]["example"].is_object(), "{name}");
    }
    assert_eq!(schemas["QueryBody"]["required"], json!(["sql"]));
    assert_eq!(schemas["CreateBody"]["required"], json!(["operation", "query"]));
    let limit = &schemas["QueryParameters"]["properties"]["limit"];
    assert_eq!(
        (&limit["minimum"], &limit["maximum"]),
        (&json!(1), &json!(10_000))
    );
    let timeout = &schemas["QueryParameters"]["properties"]["timeout_seconds"];
    assert_eq!(
        (&timeout["minimum"], &timeout["maximum"]),
        (&json!(1), &json!(300))
    );
    assert_eq!(
        document["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
    assert_eq!(document["security"], json!([{}, {"bearer": []}]));
    let text = document.to_string();
    for reference in text.split("\"#/components/").skip(1) {
        let reference = reference.split('"').next().unwrap();
        let pointer = format!("/components/{reference}");
        assert!(document.pointer(&pointer).is_some(), "{pointer}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_examples_are_accepted() {
    let world = World::new().await;
    let document = document().await;
    let schemas = &document["components"]["schemas"];
    let made = world
        .post("/v1/bulk/jobs", schemas["CreateBody"]["example"].clone())
        .await;
    made.expect(201);
    let asked = world
        .post("/v1/queries", schemas["QueryBody"]["example"].clone())
        .await;
    asked.refused(400, "INVALID_SQL");
}

#[tokio::test(start_paused = true)]
async fn pages_load_nothing_from_elsewhere() {
    let world = World::new().await;
    let page = world.get("/docs").await;
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(
        !text.contains("http://") && !text.contains("https://") && !text.contains("src="),
        "{text}"
    );
    world.get("/v1/queries").await.refused(405, "METHOD_NOT_ALLOWED");
    let metrics = world.get("/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("/v1/queries"), "{text}");
}
