use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{Ask, World};

const CSV: &[u8] = b"key,payload\n0,row-0\n1,row-1\n2,row-2\n";

#[tokio::test(start_paused = true)]
async fn a_result_is_described_and_read() {
    let world = World::new().await;
    world.table("events", &[], 3).await;
    let path = world.ended("events", json!({})).await;
    let results = world.get(&format!("{path}/results")).await.expect(200);
    for (name, value) in [
        ("format", json!("csv")),
        ("compression", json!("none")),
        ("size_bytes", json!(CSV.len())),
        ("row_count", json!(3)),
        ("file_count", json!(1)),
        ("sha256", json!(hex::encode(Sha256::digest(CSV)))),
        (
            "columns",
            json!([
                {"name": "key", "type": "Int64", "nullable": false},
                {"name": "payload", "type": "Utf8", "nullable": false},
            ]),
        ),
    ] {
        assert_eq!(results[name], value, "{name}");
    }
    let file = &results["files"][0];
    assert_eq!(
        (&file["name"], &file["row_count"]),
        (&json!("data.csv"), &json!(3))
    );
    assert_eq!(file["url"], results["download_url"]);
    let created = world.get(&path).await.expect(200)["completed_at"].clone();
    assert!(results["expires_at"].as_str() > created.as_str());
    let follow = async |url: &serde_json::Value| {
        world
            .get(url.as_str().unwrap().strip_prefix("http://api").unwrap())
            .await
    };
    let downloaded = follow(&results["download_url"]).await;
    assert_eq!(&downloaded.body[..], CSV);
    assert_eq!(downloaded.header("content-encoding"), None);
    let manifest = follow(&results["manifest_url"]).await.json();
    assert_eq!(manifest["files"].as_array().unwrap().len(), 1);
    let content = format!("{path}/results/content");
    assert_eq!(&world.get(&content).await.body[..], CSV);
    let part = world.send(Ask::get(&content).header("range", "bytes=-6")).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"row-2\n"[..]));
    let none = world
        .send(Ask::get(&content).header("range", "bytes=1000-"))
        .await;
    none.refused(416, "RANGE_NOT_SATISFIABLE");
    assert_eq!(
        none.header("content-range"),
        Some(format!("bytes */{}", CSV.len()).as_str())
    );
    let head = world.send(Ask::new("HEAD", &content)).await;
    assert_eq!(
        head.header("content-length"),
        Some(CSV.len().to_string().as_str())
    );
    assert_eq!(
        (head.status.as_u16(), head.header("content-type")),
        (200, Some("text/csv"))
    );
    let other = world
        .send(Ask::get(&content).header("if-match", "\"other\""))
        .await;
    other.refused(412, "PRECONDITION_FAILED");
    let tag = head.header("etag").unwrap();
    let same = world.send(Ask::get(&content).header("if-none-match", tag)).await;
    assert_eq!(same.status, 304);
    for family in ["/bulk", "/v1/bulk", "/bulk/jobs"] {
        let other = path.replace("/v1/bulk/jobs", family);
        world.get(&format!("{other}/results")).await.expect(200);
        assert_eq!(
            &world.get(&format!("{other}/results/content")).await.body[..],
            CSV
        );
    }
    world.get(&path.replace("bulk/jobs", "jobs")).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn links_end_when_they_are_to() {
    let world = World::new().await;
    world.table("events", &[], 3).await;
    let path = world.ended("events", json!({})).await;
    let link = async |query: &str| {
        let results = world.get(&format!("{path}/results?{query}")).await.expect(200);
        let url = results["download_url"].as_str().unwrap();
        url.strip_prefix("http://api").unwrap().to_owned()
    };
    let short = link("expires_in=10").await;
    let once = link("single_use=true&expires_in=600").await;
    let usual = link("").await;
    assert_eq!(world.get(&once).await.status, 200);
    world.sleep(11).await;
    assert_eq!(world.get(&short).await.status, 403);
    assert_eq!(world.get(&once).await.status, 410);
    assert_eq!(world.get(&usual).await.status, 200);
    for wrong in ["expires_in=0", "expires_in=604801", "single_use=1", "expires=1"] {
        world
            .get(&format!("{path}/results?{wrong}"))
            .await
            .refused(400, "INVALID_REQUEST");
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_no_result_before_the_end_and_none_for_ever() {
    let world = World::with("api.rate.limits=false\nbulk.result.retention.days=1").await;
    world.table("events", &[], 3).await;
    let path = world.job("events", json!({})).await;
    for part in ["results", "results/content"] {
        let refused = world.get(&format!("{path}/{part}")).await;
        refused.refused(409, "CONFLICT");
        let details = &refused.json()["error"]["details"];
        assert_eq!(details, &json!({"reason": "not_complete", "state": "Open"}));
    }
    world.patch(&path, "UploadComplete").await.expect(200);
    world.settle().await;
    world.sleep(24 * 3600 - 100).await;
    // Links end with the result.
    let results = world.get(&format!("{path}/results")).await.expect(200);
    assert_eq!(
        results["expires_at"],
        world.get(&path).await.expect(200)["expires_at"]
    );
    world.sleep(101).await;
    for part in ["results", "results/content"] {
        world.get(&format!("{path}/{part}")).await.refused(410, "GONE");
    }
    assert_eq!(world.get(&path).await.expect(200)["download_url"], json!(null));
    let failed = world.ended("absent", json!({})).await;
    let refused = world.get(&format!("{failed}/results")).await;
    refused.refused(409, "CONFLICT");
    assert_eq!(
        refused.json()["error"]["details"]["job_error"],
        "Table 'absent' does not exist"
    );
}

#[tokio::test(start_paused = true)]
async fn query_jobs_have_no_uploads() {
    let world = World::new().await;
    let path = world.job("t", json!({})).await;
    for part in [
        "upload-url",
        "failed-results",
        "successful-results",
        "unprocessed-results",
    ] {
        for path in [&path, &path.replace("/v1/bulk/jobs", "/bulk")] {
            let message = world
                .get(&format!("{path}/{part}"))
                .await
                .refused(400, "INVALID_REQUEST");
            assert!(message.contains("is a query job"), "{message}");
        }
        world
            .get(&format!("/v1/bulk/jobs/absent/{part}"))
            .await
            .refused(404, "NOT_FOUND");
    }
}
