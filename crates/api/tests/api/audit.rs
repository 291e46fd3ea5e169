//! The line that each query leaves in the log.

use std::{
    io,
    sync::{Arc, Mutex},
};

use dormouse_core::tenants::Scope;
use dormouse_jobs::schedule::Schedule;
use serde_json::{Value, json};

use crate::harness::{Ask, World};

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn kept() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone())
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    /// The fields of each line of the audit so far, which is forgotten.
    fn take(&self) -> Vec<Value> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["target"] == "audit")
            .map(|line| line["fields"].clone())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_query_is_one_line_however_it_ends() {
    let (lines, _guard) = Lines::kept();
    let world = World::new().await;
    world.table("t1", &[("table.tenant", "acme")], 3).await;
    let key = world.key("acme", &[Scope::QueryExecute]).await;
    let ask = |sql: &str| Ask::post("/v1/queries", json!({ "sql": sql })).key(&key);

    let answer = world.send(ask("SELECT * FROM t1")).await.expect(200);
    let [line] = &lines.take()[..] else { panic!() };
    let ms = line["ms"].as_u64().unwrap();
    let expected = json!({
        "message": "query", "tenant": "acme", "job": answer["job_id"], "sql": "SELECT * FROM t?",
        "status": "200", "ms": ms, "rows": 3,
    });
    assert_eq!(*line, expected);

    world.send(ask("SELECT * FROM absent")).await.expect(400);
    let [line] = &lines.take()[..] else { panic!() };
    assert_eq!((&line["status"], line.get("rows")), (&json!("400"), None));

    world.slow_queries(600);
    tokio::select! {
        answer = world.send(ask("SELECT * FROM t1")) => panic!("{answer:?}"),
        () = world.sleep(5) => {}
    }
    let [line] = &lines.take()[..] else { panic!() };
    assert_eq!((&line["status"], line.get("rows")), (&json!("499"), None));
}

#[tokio::test(start_paused = true)]
async fn each_bulk_job_is_one_line_when_it_ends() {
    let (lines, _guard) = Lines::kept();
    let world = World::new().await;
    world.table("t", &[], 3).await;
    let path = world.ended("t", json!({})).await;
    let [line] = &lines.take()[..] else { panic!() };
    assert_eq!(line["job"], path.rsplit('/').next().unwrap());
    assert_eq!(
        (&line["tenant"], &line["sql"], &line["status"], &line["rows"]),
        (
            &json!("default"),
            &json!("SELECT * FROM t"),
            &json!("JobComplete"),
            &json!(3)
        )
    );
    world.ended("absent", json!({})).await;
    let [line] = &lines.take()[..] else { panic!() };
    assert_eq!((&line["status"], line.get("rows")), (&json!("Failed"), None));
    let path = world.job("t", json!({})).await;
    world.patch(&path, "Aborted").await.expect(200);
    let [line] = &lines.take()[..] else { panic!() };
    assert_eq!((&line["status"], line.get("rows")), (&json!("Aborted"), None));
    // One that nobody starts in time is the sweep's.
    world.job("t", json!({})).await;
    world.sleep(25 * 3600).await;
    Schedule::Bulk.run_once(&world.services).await.unwrap();
    let [line] = &lines.take()[..] else { panic!() };
    assert_eq!((&line["status"], line.get("rows")), (&json!("Aborted"), None));
}
