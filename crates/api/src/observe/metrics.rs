//! Numbers about requests and queries, in the text format of OpenMetrics.

use std::{fmt, sync::Arc, time::Duration};

use axum::http::Method;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Upper ends of buckets of seconds, from a look-up to the longest query.
const SECONDS: [f64; 13] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

type Times<L> = Family<L, Histogram, fn() -> Histogram>;

/// The numbers of a process. Clones are of the same numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Times<RouteLabels>,
    queries: Family<KindLabels, Gauge>,
    query_seconds: Times<KindLabels>,
    rows: Family<KindLabels, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Numbers that are all 0.
    pub fn new() -> Self {
        let seconds = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            request_seconds: Times::new_with_constructor(seconds),
            queries: Family::default(),
            query_seconds: Times::new_with_constructor(seconds),
            rows: Family::default(),
        };
        let mut registry = Registry::default();
        registry.register(
            "dormouse_http_requests",
            "Requests that were answered",
            metrics.requests.clone(),
        );
        registry.register(
            "dormouse_http_request_seconds",
            "How long requests took until their answers began",
            metrics.request_seconds.clone(),
        );
        registry.register(
            "dormouse_queries_in_progress",
            "Queries that run",
            metrics.queries.clone(),
        );
        registry.register(
            "dormouse_query_seconds",
            "How long queries took that ended",
            metrics.query_seconds.clone(),
        );
        registry.register(
            "dormouse_rows_answered",
            "Rows that queries were answered with",
            metrics.rows.clone(),
        );
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// All numbers as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a request of this route: a template, so that there are few.
    pub(super) fn answered(&self, route: &str, method: &Method, status: u16, took: Duration) {
        let (route, method) = (route.to_owned(), word(method));
        self.request_seconds
            .get_or_create(&RouteLabels {
                route: route.clone(),
                method,
            })
            .observe(took.as_secs_f64());
        self.requests
            .get_or_create(&RequestLabels {
                route,
                method,
                status,
            })
            .inc();
    }

    /// A query of this kind began.
    pub fn query_started(&self, kind: &'static str) {
        self.queries.get_or_create(&KindLabels { kind }).inc();
    }

    /// A query of this kind ended, with so many rows and after so long.
    pub fn query_ended(&self, kind: &'static str, rows: u64, took: Duration) {
        let labels = KindLabels { kind };
        self.queries.get_or_create(&labels).dec();
        self.query_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        self.rows.get_or_create(&labels).inc_by(rows);
    }

    /// [`Metrics::query_started`], for a query that may be dropped: it is in progress until what this returns is.
    pub fn query(&self, kind: &'static str) -> QueryInProgress {
        self.query_started(kind);
        QueryInProgress {
            metrics: self.clone(),
            kind,
            ended: false,
        }
    }
}

/// A query that runs, until this is dropped.
#[derive(Debug)]
#[must_use = "the query is in progress until this is dropped"]
pub struct QueryInProgress {
    metrics: Metrics,
    kind: &'static str,
    ended: bool,
}

impl QueryInProgress {
    /// The query ended, as [`Metrics::query_ended`] has it.
    pub fn ended(mut self, rows: u64, took: Duration) {
        self.ended = true;
        self.metrics.query_ended(self.kind, rows, took);
    }
}

impl Drop for QueryInProgress {
    fn drop(&mut self) {
        if !self.ended {
            let labels = KindLabels { kind: self.kind };
            self.metrics.queries.get_or_create(&labels).dec();
        }
    }
}

/// Clients may make methods up.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(metrics: &Metrics, line: &str) -> bool {
        let text = metrics.render();
        assert!(text.ends_with("# EOF\n"), "{text}");
        text.lines().any(|found| found == line)
    }

    #[test]
    fn queries_are_counted_and_timed() {
        let metrics = Metrics::new();
        metrics.query_started("query");
        metrics.query_started("query");
        metrics.query_ended("query", 40, Duration::from_millis(70));
        for line in [
            "dormouse_queries_in_progress{kind=\"query\"} 1",
            "dormouse_query_seconds_count{kind=\"query\"} 1",
            "dormouse_query_seconds_bucket{le=\"0.05\",kind=\"query\"} 0",
            "dormouse_query_seconds_bucket{le=\"0.1\",kind=\"query\"} 1",
            "dormouse_rows_answered_total{kind=\"query\"} 40",
        ] {
            assert!(has(&metrics, line), "{line} in {}", metrics.render());
        }
    }

    #[test]
    fn a_query_that_is_dropped_is_not_in_progress() {
        let metrics = Metrics::new();
        drop(metrics.query("bulk"));
        metrics.query("bulk").ended(1, Duration::ZERO);
        let running = metrics.query("bulk");
        assert!(has(&metrics, "dormouse_queries_in_progress{kind=\"bulk\"} 1"));
        assert!(has(&metrics, "dormouse_rows_answered_total{kind=\"bulk\"} 1"));
        drop(running);
        assert!(has(&metrics, "dormouse_queries_in_progress{kind=\"bulk\"} 0"));
    }

    #[test]
    fn methods_that_clients_make_up_are_one() {
        let metrics = Metrics::new();
        for method in ["BREW", "WHEN"] {
            metrics.answered(
                "other",
                &Method::from_bytes(method.as_bytes()).unwrap(),
                405,
                Duration::ZERO,
            );
        }
        let text = metrics.render();
        assert!(
            text.contains("method=\"other\"") && !text.contains("BREW"),
            "{text}"
        );
        assert!(text.contains("dormouse_http_requests_total{"), "{text}");
    }
}
