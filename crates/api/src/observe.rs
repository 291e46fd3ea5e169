//! What a server tells of its requests: one line and some numbers each.
//!
//! A line has the path of a request but never its query, and no header but the request's id: links, keys and SQL stay
//! out of logs.

mod metrics;

use std::{any::Any, fmt, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method},
    middleware::Next,
    response::Response,
};
use dormouse_core::{
    ports::{Clock, Ids},
    tenants::TenantId,
    time::Timestamp,
};
use futures::FutureExt;

use crate::error::{ApiError, Code, wants_problem};

pub use metrics::{Metrics, QueryInProgress};

/// The header of a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_REQUEST_ID_BYTES: usize = 128;

/// The status that is told of a request whose client did not wait for the answer.
pub(crate) const CLIENT_WENT: u16 = 499;

/// The id of a request: the client's, or one that was made for it. An extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What [`observe`] needs.
#[derive(Clone, Debug)]
pub struct Observer {
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Times them.
    pub clock: Arc<dyn Clock>,
    /// Names those that have no name.
    pub ids: Arc<dyn Ids>,
}

/// Names a request, logs and counts it, and answers it when its handler panics.
///
/// A handler that knows the tenant puts its [`TenantId`] into the extensions of the response.
pub async fn observe(State(observer): State<Observer>, mut request: Request, next: Next) -> Response {
    let id =
        given_id(request.headers()).map_or_else(|| observer.ids.uuid().simple().to_string(), str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut seen = Seen {
        started: observer.clock.now(),
        observer,
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        as_problem: wants_problem(request.headers()),
        route: request.extensions().get::<MatchedPath>().cloned(),
        id,
        told: false,
    };
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => seen.panicked(panic.as_ref()),
    };
    if let Ok(id) = HeaderValue::try_from(&seen.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let tenant = response.extensions().get::<TenantId>().cloned();
    seen.tell(response.status().as_u16(), tenant.as_ref());
    response
}

/// The id that the client gave the request, when it is one.
fn given_id(headers: &HeaderMap) -> Option<&str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    ((1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(allowed)).then_some(id)
}

/// A request that is being answered. When it is dropped before, its client went.
struct Seen {
    observer: Observer,
    started: Timestamp,
    method: Method,
    path: String,
    as_problem: bool,
    route: Option<MatchedPath>,
    id: String,
    told: bool,
}

impl Seen {
    fn tell(&mut self, status: u16, tenant: Option<&TenantId>) {
        self.told = true;
        let took = self.observer.clock.now().since(self.started);
        let route = self.route.as_ref().map_or("other", MatchedPath::as_str);
        self.observer.metrics.answered(route, &self.method, status, took);
        tracing::info!(
            method = %self.method,
            path = self.path,
            status,
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            tenant = tenant.map(TenantId::as_str),
            request_id = self.id,
            "request"
        );
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Response {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        tracing::error!(request_id = self.id, panic = message, "handler panicked");
        let message = "The server failed to answer; tell its operator the request id";
        ApiError::new(Code::InternalError, message)
            .detail("request_id", self.id.as_str())
            .response(&self.path, self.as_problem)
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if !self.told {
            self.tell(CLIENT_WENT, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use axum::{
        Extension, Router,
        body::Body,
        http::{Request, StatusCode},
        middleware::from_fn_with_state,
        routing::get,
    };
    use dormouse_core::testing::seeded::{PausedClock, SeededIds};
    use http_body_util::BodyExt;
    use parking_lot::Mutex;
    use tower::ServiceExt;

    use super::*;

    struct World {
        observer: Observer,
        lines: Lines,
        _guard: tracing::subscriber::DefaultGuard,
    }

    /// What was logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn world() -> World {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone())
            .finish();
        World {
            observer: Observer {
                metrics: Metrics::new(),
                clock: Arc::new(PausedClock::new(Timestamp::default())),
                ids: Arc::new(SeededIds::new(1)),
            },
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    impl World {
        fn router(&self) -> Router {
            let slow = {
                let clock = self.observer.clock.clone();
                async move || {
                    clock.sleep(Duration::from_millis(70)).await;
                    let tenant = TenantId::new("acme").unwrap();
                    (StatusCode::CREATED, Extension(tenant), "made")
                }
            };
            let id = async |Extension(id): Extension<RequestId>| id.to_string();
            let panics = async || -> &'static str { panic!("the handler's bug") };
            Router::new()
                .route("/jobs/{id}", get(slow))
                .route("/id", get(id))
                .route("/panics", get(panics))
                .layer(from_fn_with_state(self.observer.clone(), observe))
        }

        async fn get(&self, target: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
            let mut request = Request::get(target);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).unwrap();
            let (parts, body) = self.router().oneshot(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (
                parts.status,
                parts.headers,
                String::from_utf8(body.into()).unwrap(),
            )
        }

        fn log(&self) -> String {
            String::from_utf8(self.lines.0.lock().clone()).unwrap()
        }

        /// The fields of the last line.
        fn line(&self) -> serde_json::Value {
            let log = self.log();
            let line: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
            line["fields"].clone()
        }

        fn counted(&self, line: &str) -> bool {
            self.observer.metrics.render().lines().any(|found| found == line)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_one_line_without_secrets() {
        let world = world();
        let headers = [
            ("x-request-id", "r.1-a_B"),
            ("authorization", "Bearer spk_acme_x"),
        ];
        let (status, ..) = world.get("/jobs/7?signature=abc&sql=select", &headers).await;
        assert_eq!(status, StatusCode::CREATED);
        let line = serde_json::json!({
            "message": "request",
            "method": "GET",
            "path": "/jobs/7",
            "status": 201,
            "ms": 70,
            "tenant": "acme",
            "request_id": "r.1-a_B",
        });
        assert_eq!(world.line(), line);
        let log = world.log();
        assert_eq!(log.lines().count(), 1);
        for secret in ["signature", "abc", "select", "spk_"] {
            assert!(!log.contains(secret), "{log}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_the_id_that_it_came_with_or_a_new_one() {
        let world = world();
        for given in ["a", "A.b_c-9", &"x".repeat(128)] {
            let (_, headers, body) = world.get("/id", &[("x-request-id", given)]).await;
            assert_eq!(
                (headers[REQUEST_ID].to_str().unwrap(), body.as_str()),
                (given, given)
            );
        }
        let mut made = Vec::new();
        for bad in ["", "a b", "a\"b", "a/b", &"x".repeat(129), "\u{e4}"] {
            let (_, headers, body) = world.get("/id", &[("x-request-id", bad)]).await;
            assert_eq!(headers[REQUEST_ID].to_str().unwrap(), body);
            assert_eq!(body.len(), 32, "{bad}");
            made.push(body);
        }
        made.sort_unstable();
        made.dedup();
        assert_eq!(made.len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_counted_by_route_and_not_by_path() {
        let world = world();
        for target in ["/jobs/7", "/jobs/8", "/absent/1", "/absent/2"] {
            world.get(target, &[]).await;
        }
        for line in [
            "dormouse_http_requests_total{route=\"/jobs/{id}\",method=\"GET\",status=\"201\"} 2",
            "dormouse_http_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 2",
            "dormouse_http_request_seconds_count{route=\"/jobs/{id}\",method=\"GET\"} 2",
        ] {
            assert!(
                world.counted(line),
                "{line} in {}",
                world.observer.metrics.render()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_panics_is_answered_for() {
        let world = world();
        let (status, headers, body) = world.get("/panics", &[("x-request-id", "r7")]).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(headers[REQUEST_ID], "r7");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"]["code"], "INTERNAL_ERROR");
        assert_eq!(body["error"]["details"]["request_id"], "r7");
        assert!(!body.to_string().contains("bug"));
        assert!(world.log().contains("the handler's bug"));
        assert_eq!(world.line()["status"], 500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_went_is_told_of() {
        let world = world();
        let request = Request::get("/jobs/7").body(Body::empty()).unwrap();
        let mut asked = Box::pin(world.router().oneshot(request));
        assert!(futures::poll!(&mut asked).is_pending());
        drop(asked);
        assert_eq!(world.line()["status"], 499);
        assert!(
            world.counted(
                "dormouse_http_requests_total{route=\"/jobs/{id}\",method=\"GET\",status=\"499\"} 1"
            )
        );
    }
}
