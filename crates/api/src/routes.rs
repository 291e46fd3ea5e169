//! The routes, and what answers them.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`mod@queries`] | `/queries` |
//! | [`mod@bulk`], [`list`] | `/bulk/jobs` |
//! | [`job`] | `/bulk/jobs/{job_id}` |
//! | [`results`] | `/bulk/jobs/{job_id}/results` |
//! | [`mod@jobs`] | `/jobs/{job_id}`: jobs of every kind |
//! | [`service`] | limits, health, metrics, the OpenAPI document and pages for people |
//! | [`again`] | answering a request that is sent again as before |

pub mod again;
pub mod bulk;
pub mod job;
pub mod jobs;
pub mod list;
pub mod queries;
pub mod results;
pub mod service;

use std::sync::Arc;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{access, app::App};

type Documented = OpenApiRouter<Arc<App>>;

fn queries() -> Documented {
    OpenApiRouter::new().routes(routes!(queries::run))
}

fn bulk() -> Documented {
    OpenApiRouter::new()
        .routes(routes!(bulk::create, list::list))
        .routes(routes!(job::read, job::change, job::delete))
        .routes(routes!(results::read))
        .routes(routes!(results::content))
}

fn jobs() -> Documented {
    OpenApiRouter::new()
        .routes(routes!(jobs::read, jobs::cancel))
        .routes(routes!(jobs::results))
}

fn limits() -> Documented {
    OpenApiRouter::new().routes(routes!(service::limits))
}

fn health() -> Documented {
    OpenApiRouter::new()
        .routes(routes!(service::health))
        .routes(routes!(service::ready))
}

/// What is documented: queries and jobs below `/v1`, and what is about the service itself.
pub fn document(base: OpenApi) -> OpenApi {
    let versioned = queries().merge(bulk()).merge(jobs());
    OpenApiRouter::with_openapi(base)
        .nest("/v1", versioned)
        .merge(limits())
        .merge(health())
        .into_openapi()
}

/// Everything that is there at `/` and at `/v1`.
pub fn family(app: &Arc<App>) -> Router<Arc<App>> {
    let for_queries = from_fn_with_state(app.clone(), access::for_queries);
    let for_bulk = from_fn_with_state(app.clone(), access::for_bulk);
    let for_jobs = from_fn_with_state(app.clone(), access::for_jobs);
    let bulk = Router::from(bulk())
        .merge(started_at_once())
        .merge(imports_only());
    let jobs = Router::from(jobs()).merge(Router::from(limits()));
    Router::from(queries())
        .route_layer(for_queries)
        .merge(bulk.route_layer(for_bulk))
        .merge(jobs.route_layer(for_jobs))
        .merge(Router::from(health()))
}

/// The same bulk jobs at `/bulk`, where a job that is made starts at once.
fn started_at_once() -> Router<Arc<App>> {
    Router::new()
        .route("/bulk", post(bulk::create_started).get(list::list))
        .route(
            "/bulk/{job_id}",
            get(job::read).patch(job::change).delete(job::delete),
        )
        .route("/bulk/{job_id}/results", get(results::read))
        .route("/bulk/{job_id}/results/content", get(results::content))
}

/// What jobs have that bring rows: there are none yet.
fn imports_only() -> Router<Arc<App>> {
    let mut router = Router::new();
    for family in ["/bulk/jobs", "/bulk"] {
        for part in [
            "upload-url",
            "failed-results",
            "successful-results",
            "unprocessed-results",
        ] {
            router = router.route(&format!("{family}/{{job_id}}/{part}"), get(results::of_imports));
        }
    }
    router
}

/// What is there for people and machines that look around.
pub fn pages() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(service::root))
        .route("/metrics", get(service::metrics))
        .route("/openapi.json", get(service::openapi))
        .route("/docs", get(service::docs))
}
