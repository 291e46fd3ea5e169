//! The API: what its handlers share, and its routes.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::Request,
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
};
use dormouse_core::{ports::UrlSigner, time::Timestamp};
use dormouse_jobs::Services;

use crate::{
    access::Tenancy,
    document,
    error::{self, ApiError, Code},
    gateway::Gateway,
    idempotency::IdempotencyKeys,
    observe::{self, Metrics, Observer},
    rates::RateLimiter,
    routes,
    secret::InstanceSecret,
    turns::Turns,
};

/// The API of an instance.
#[derive(Debug)]
pub struct Api {
    app: App,
}

/// What handlers share.
pub struct App {
    /// The instance.
    pub services: Services,
    /// Signs places in lists.
    pub secret: InstanceSecret,
    /// Signs links to results.
    pub signer: Arc<dyn UrlSigner>,
    /// Serves objects, where the object store does not.
    pub gateway: Option<Arc<Gateway>>,
    /// Answers that are given again.
    pub idempotency: IdempotencyKeys,
    /// How often tenants have asked.
    pub rates: RateLimiter,
    /// Whether there are tenants.
    pub tenancy: Tenancy,
    /// How many queries are answered at a time.
    pub turns: Turns,
    /// What is measured of requests.
    pub metrics: Metrics,
    /// The OpenAPI document.
    pub document: String,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

impl App {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.services.ports.clock.now()
    }
}

impl Api {
    /// The API of an instance with this secret, whose links are signed by `signer`. With a gateway, it serves objects
    /// too.
    pub fn new(
        services: Services,
        secret: InstanceSecret,
        signer: Arc<dyn UrlSigner>,
        gateway: Option<Arc<Gateway>>,
    ) -> Self {
        let (ports, settings) = (&services.ports, &services.settings);
        let (clock, ids) = (&ports.clock, &ports.ids);
        Self {
            app: App {
                idempotency: IdempotencyKeys::new(
                    ports.items.clone(),
                    clock.clone(),
                    ids.clone(),
                    settings.idempotency_ttl(),
                ),
                rates: RateLimiter::new(clock.clone()),
                tenancy: Tenancy::default(),
                turns: Turns::new(settings.query_concurrency()),
                metrics: Metrics::new(),
                document: document::of(settings).to_string(),
                services,
                secret,
                signer,
                gateway,
            },
        }
    }

    /// The OpenAPI document, as JSON.
    pub fn document(&self) -> &str {
        &self.app.document
    }

    /// Every route.
    pub fn router(self) -> Router {
        let app = Arc::new(self.app);
        let family = routes::family(&app);
        let gateway = app.gateway.clone().map(Gateway::router);
        let router = Router::new()
            .nest("/v1", family.clone())
            .merge(family)
            .merge(routes::pages())
            .merge(gateway.unwrap_or_default())
            .fallback(absent)
            .method_not_allowed_fallback(not_allowed)
            .layer(from_fn(error::render))
            .with_state(app.clone());
        let observer = Observer {
            metrics: app.metrics.clone(),
            clock: app.services.ports.clock.clone(),
            ids: app.services.ports.ids.clone(),
        };
        router.layer(from_fn_with_state(observer, observe::observe))
    }
}

async fn absent(request: Request) -> impl IntoResponse + use<> {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(
        Code::NotFound,
        format!("There is nothing at {}", path.escape_debug()),
    )
}

async fn not_allowed(request: Request) -> impl IntoResponse + use<> {
    let message = format!(
        "{} is not allowed here; the header Allow tells what is",
        request.method()
    );
    ApiError::new(Code::MethodNotAllowed, message)
}
