//! One instance in memory, and requests to it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header::HeaderName},
};
use bytes::Bytes;
use dormouse_api::{Api, gateway::Gateway, secret::InstanceSecret};
use dormouse_core::{
    config::InstanceSettings,
    ids::{BucketName, PartitionId, TableName},
    partition::tree_from_split_points,
    ports::{Bucket, Buckets, Clock, Ids, ItemStore, Message, Queue, QueueName, QueueSettings},
    tables::TableInfo,
    tenants::{Scope, TenantId},
    testing::{
        memory::{
            MemoryBuckets, MemoryItemStore, MemoryQueryEngine, MemoryQueue, MemoryRow, MemoryRowEngine,
        },
        seeded::{PausedClock, SeededIds},
    },
    time::Timestamp,
};
use dormouse_jobs::{Ports, Services, testing::process::handlers, worker};
use futures::FutureExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) struct World {
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) queries: Arc<MemoryQueryEngine>,
    pub(crate) services: Services,
    inputs: Arc<dyn ObjectStore>,
    pub(crate) router: Router,
}

/// An answer that has come whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {:?} {:?}", self.status, self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body, when the status is this one.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        match self.body.is_empty() {
            true => Value::Null,
            false => self.json(),
        }
    }

    /// The message of an error, when it has this status and code.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        let body = self.expect(status);
        assert_eq!(body["error"]["code"], code, "{body}");
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// A request, and who sends it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: &str, body: Value) -> Self {
        Self::new("POST", path).json(body)
    }

    pub(crate) fn patch(path: &str, state: &str) -> Self {
        Self::new("PATCH", path).json(json!({ "state": state }))
    }

    pub(crate) fn json(self, body: Value) -> Self {
        self.header("content-type", "application/json")
            .text(&body.to_string())
    }

    pub(crate) fn text(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }
}

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with("api.rate.limits=false").await
    }

    pub(crate) async fn with(properties: &str) -> Self {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_800_000_000_000)));
        let as_clock: Arc<dyn Clock> = clock.clone();
        let ids: Arc<dyn Ids> = Arc::new(SeededIds::new(7));
        let items: Arc<dyn ItemStore> = Arc::new(MemoryItemStore::new(as_clock.clone()));
        let buckets = Arc::new(MemoryBuckets::new());
        let queue_settings = QueueSettings {
            visibility: Duration::from_secs(30),
            max_attempts: 5,
        };
        let queue = |name| {
            let queue = MemoryQueue::new(name, queue_settings, as_clock.clone(), ids.clone());
            (name, Arc::new(queue) as Arc<dyn Queue>)
        };
        let queries = Arc::new(MemoryQueryEngine::default());
        let ports = Ports {
            items: items.clone(),
            queues: QueueName::ALL.into_iter().map(queue).collect(),
            buckets: buckets.clone(),
            uploads: buckets.clone(),
            copy: buckets.clone(),
            engine: Arc::new(MemoryRowEngine::new(ids.clone())),
            queries: queries.clone(),
            clock: as_clock.clone(),
            ids: ids.clone(),
            data_bucket: bucket("data"),
            export_bucket: bucket("exports"),
        };
        let settings = InstanceSettings::read(properties, []).unwrap();
        let services = Services::new(ports, settings).unwrap();
        let secret = InstanceSecret::open(&*items, &*ids).await.unwrap();
        let gateway = Gateway::new(
            secret.clone(),
            items,
            buckets.clone(),
            as_clock,
            ids,
            "http://api",
        );
        let gateway = Arc::new(gateway);
        let api = Api::new(services.clone(), secret, gateway.clone(), Some(gateway));
        Self {
            clock,
            queries,
            services,
            inputs: buckets.open(&Bucket::Named(bucket("source"))).unwrap(),
            router: api.router(),
        }
    }

    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        let mut request = Request::builder().method(ask.method).uri(ask.path);
        for (name, value) in ask.headers {
            let name: HeaderName = name.parse().unwrap();
            request = request.header(name, value);
        }
        let body = ask.body.map_or(Body::empty(), Body::from);
        let response = self.router.clone().oneshot(request.body(body).unwrap());
        let (parts, body) = response.await.unwrap().into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: axum::body::to_bytes(body, usize::MAX).await.unwrap(),
        }
    }

    /// From now on, each step of a query takes so many seconds.
    pub(crate) fn slow_queries(&self, seconds: u64) {
        let clock = self.clock.clone();
        self.queries.set_hook(move |_| {
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(seconds)).await;
                Ok(())
            }
        });
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Ask::get(path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Ask::post(path, body)).await
    }

    pub(crate) async fn patch(&self, path: &str, state: &str) -> Answer {
        self.send(Ask::patch(path, state)).await
    }

    /// A key of a tenant, which is made when it is not there.
    pub(crate) async fn key(&self, tenant: &str, scopes: &[Scope]) -> String {
        let tenant = TenantId::new(tenant).unwrap();
        let tenants = &self.services.tenants;
        if tenants.get(&tenant).await.is_err() {
            tenants.create(tenant.clone()).await.unwrap();
        }
        let scopes = scopes.iter().copied().collect();
        let new = tenants.create_key(&tenant, "", scopes, None).await.unwrap();
        // Nobody believes any longer that there are no tenants.
        self.sleep(6).await;
        new.text
    }

    /// A table with rows of these keys.
    pub(crate) async fn table(&self, name: &str, properties: &[(&str, &str)], rows: u32) -> TableInfo {
        let partitions = tree_from_split_points(&[], PartitionId::root).unwrap();
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let properties: BTreeMap<_, _> = properties.iter().map(pair).collect();
        let schema = MemoryRowEngine::schema().unwrap();
        let tables = &self.services.tables;
        let name = TableName::new(name).unwrap();
        let info = tables.create(name, schema, partitions, properties).await.unwrap();
        if rows > 0 {
            self.feed(&info, &format!("feed-{}", info.name), rows).await;
        }
        info
    }

    /// Adds rows to a table by an ingest job.
    pub(crate) async fn feed(&self, table: &TableInfo, job: &str, rows: u32) {
        let rows: Vec<_> = (0..i64::from(rows))
            .map(|key| MemoryRow(key, format!("row-{key}")))
            .collect();
        let path = Path::from(format!("{job}.parquet"));
        let body = MemoryRowEngine::encode(&rows);
        self.inputs.put(&path, body.into()).await.unwrap();
        let message = json!({"id": job, "tableId": table.id, "files": [format!("source/{job}.parquet")]});
        self.tell(QueueName::Ingest, message).await;
        self.settle().await;
    }

    pub(crate) async fn tell(&self, queue: QueueName, message: Value) {
        let queue = self.services.queue(queue).unwrap();
        queue.send(vec![Message::new(message.to_string())]).await.unwrap();
    }

    pub(crate) async fn sleep(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    /// Workers of every queue, for ever.
    pub(crate) async fn work(&self) {
        let stop = CancellationToken::new();
        let handlers = handlers(&self.services);
        let workers = handlers
            .iter()
            .map(|(_, handler)| worker::run(&self.services, &**handler, &stop).boxed());
        futures::future::join_all(workers).await;
    }

    /// Lets workers of every queue work until all queues are empty.
    pub(crate) async fn settle(&self) {
        let quiet = async {
            loop {
                let mut busy = 0;
                for queue in self.services.ports.queues.values() {
                    let depth = queue.depth().await.unwrap();
                    busy += depth.visible + depth.hidden;
                }
                if busy == 0 {
                    return;
                }
                self.clock.sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = self.work() => {}
            () = quiet => {}
        }
    }

    /// The path of a bulk job that was made with these fields over `SELECT * FROM <table>`.
    pub(crate) async fn job(&self, table: &str, more: Value) -> String {
        let mut body = json!({"operation": "query", "query": format!("SELECT * FROM {table}")});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let made = self.post("/v1/bulk/jobs", body).await;
        made.expect(201);
        made.header("location").unwrap().to_owned()
    }

    /// The path of a bulk job that has run to its end.
    pub(crate) async fn ended(&self, table: &str, more: Value) -> String {
        let path = self.job(table, more).await;
        self.patch(&path, "UploadComplete").await.expect(200);
        self.settle().await;
        path
    }
}
