use std::time::Duration;

use dormouse_core::ports::Clock;
use serde_json::{Value, json};

use crate::harness::{Ask, World};

#[tokio::test(start_paused = true)]
async fn lists_are_stable_and_filtered() {
    let world = World::new().await;
    let ids = |page: &Value| -> Vec<String> {
        let jobs = page["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].as_str().unwrap().to_owned())
            .collect()
    };
    for number in 0..7 {
        let object = if number % 2 == 0 { "even" } else { "odd" };
        let job = json!({"job_id": format!("j{number}"), "object": object});
        let path = world.job("t", job).await;
        if number >= 5 {
            world.patch(&path, "Aborted").await.expect(200);
        }
        world.sleep(1).await;
    }
    let first = world.get("/v1/bulk/jobs?limit=3").await.expect(200);
    assert_eq!(ids(&first), ["j6", "j5", "j4"]);
    assert_eq!(first["has_more"], true);
    let next = first["next_offset"].as_str().unwrap();
    // A job that comes meanwhile moves nothing.
    world.job("t", json!({"job_id": "late"})).await;
    let second = world
        .get(&format!("/bulk?limit=3&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(ids(&second), ["j3", "j2", "j1"]);
    let next_after = second["next_offset"].as_str().unwrap();
    for name in ["offset", "cursor", "page_token"] {
        let last = world
            .get(&format!("/v1/bulk/jobs?limit=3&{name}={next_after}"))
            .await
            .expect(200);
        assert_eq!(ids(&last), ["j0"]);
        assert_eq!(
            (&last["has_more"], &last["next_offset"]),
            (&json!(false), &json!(null))
        );
    }
    for (query, expected) in [
        ("state=Aborted", &["j6", "j5"][..]),
        ("state=aborted", &["j6", "j5"]),
        ("status=cancelled", &["j6", "j5"]),
        ("state=Open&status=CANCELLED", &[]),
        ("object=odd&state=Open", &["j3", "j1"]),
        ("operation=query&limit=1", &["late"]),
        ("created_after=2030-01-01T00:00:00Z", &[]),
    ] {
        let page = world.get(&format!("/v1/bulk/jobs?{query}")).await.expect(200);
        assert_eq!(ids(&page), expected, "{query}");
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=+5", "limit"),
        ("limit=5&limit=6", "limit"),
        ("state=opened", "state"),
        ("status=x", "status"),
        ("operation=insert", "operation"),
        ("created_after=x", "created_after"),
        ("offset=x", "offset"),
        ("stat=Open", "stat"),
        (&format!("offset={next}&cursor={next}"), "cursor"),
        (&format!("object=odd&offset={next}"), "offset"),
    ] {
        let answer = world.get(&format!("/v1/bulk/jobs?{query}")).await;
        answer.refused(400, "INVALID_REQUEST");
        assert_eq!(answer.json()["error"]["details"]["field"], field, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_can_wait_for_a_change() {
    let world = World::new().await;
    let path = world.job("t", json!({})).await;
    let before = world.get(&path).await;
    let tag = before.header("etag").unwrap().to_owned();
    let started = world.clock.now();
    let same = world.send(Ask::get(&path).header("if-none-match", &tag)).await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    assert_eq!(same.header("etag"), Some(tag.as_str()));
    assert_eq!(world.clock.now(), started);
    let waited = Ask::get(&format!("{path}?wait=30s")).header("if-none-match", &tag);
    assert_eq!(world.send(waited).await.status, 304);
    assert_eq!(world.clock.now().since(started), Duration::from_secs(30));
    let started = world.clock.now();
    let wait = format!("{path}?wait=60");
    let (seen, _) = tokio::join!(world.get(&wait), async {
        world.sleep(10).await;
        world.patch(&path, "Aborted").await.expect(200)
    });
    assert_eq!(seen.expect(200)["state"], "Aborted");
    assert_ne!(seen.header("etag"), Some(tag.as_str()));
    assert!(world.clock.now().since(started) < Duration::from_secs(11));
    // A job that has ended is not waited for.
    let started = world.clock.now();
    world.get(&wait).await.expect(200);
    assert_eq!(world.clock.now(), started);
    for wrong in ["61s", "1m", "", "-1", "1.5s", "s"] {
        world
            .get(&format!("{path}?wait={wrong}"))
            .await
            .refused(400, "INVALID_REQUEST");
    }
}
