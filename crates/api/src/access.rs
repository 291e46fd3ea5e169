//! Who asks, and how often it may.
//!
//! An instance without tenants is open: everybody is [`TenantId::instance`] with every scope. With tenants, a key says
//! who asks and what for; the header `X-Tenant-ID` may only say the same.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse, Response},
};
use dormouse_core::{
    tenants::{ApiKey, Scope, TenantId},
    time::Timestamp,
};
use parking_lot::Mutex;

use crate::{
    app::App,
    error::{ApiError, ApiResult, Code},
    rates::{Rate, RateClass},
};

/// How long it is believed that there are tenants, or none.
const BELIEF: Duration = Duration::from_secs(5);

const TENANT_HEADER: &str = "x-tenant-id";
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant.
    pub tenant: TenantId,
    key: Option<Arc<ApiKey>>,
}

impl Caller {
    /// Whether there is nobody else: the instance has no tenants.
    pub fn is_alone(&self) -> bool {
        self.key.is_none()
    }

    /// That whoever asks may do this.
    ///
    /// # Errors
    /// `FORBIDDEN`, with the scope that is missing.
    pub fn require(&self, scope: Scope) -> ApiResult<()> {
        match &self.key {
            Some(key) if !key.allows(scope) => {
                let message = format!("The API key lacks the scope {scope}");
                Err(ApiError::new(Code::Forbidden, message).detail("scope", scope.as_str()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether there are tenants, as it was seen last.
#[derive(Debug, Default)]
pub struct Tenancy {
    seen: Mutex<Option<(Timestamp, bool)>>,
}

impl Tenancy {
    /// Whether there are tenants, or were a moment ago.
    async fn exists(&self, app: &App) -> ApiResult<bool> {
        let now = app.now();
        let seen = *self.seen.lock();
        if let Some((at, exist)) = seen
            && at <= now
            && now.since(at) < BELIEF
        {
            return Ok(exist);
        }
        let exist = app.services.tenants.is_closed().await?;
        *self.seen.lock() = Some((now, exist));
        Ok(exist)
    }
}

/// Finds out who asks, and takes the request from its rate. For routes about queries.
pub async fn for_queries(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    guarded(&app, RateClass::Queries, request, next).await
}

/// As [`for_queries`], for routes about bulk jobs.
pub async fn for_bulk(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let class = match *request.method() {
        Method::POST => RateClass::BulkCreate,
        _ => RateClass::Bulk,
    };
    guarded(&app, class, request, next).await
}

/// As [`for_queries`], for routes about jobs of all kinds.
pub async fn for_jobs(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    guarded(&app, RateClass::Jobs, request, next).await
}

async fn guarded(app: &App, class: RateClass, mut request: Request, next: Next) -> Response {
    let caller = match caller(app, request.headers(), address(&request)).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let rate = app.services.settings.rate_limits().then(|| {
        let limit = limit_of(app, class);
        app.rates.take(&caller.tenant, class, limit)
    });
    let tenant = caller.tenant.clone();
    let mut response = match &rate {
        Some(rate) if !rate.allowed => {
            let message = format!("There may be {} such requests a minute", rate.limit);
            ApiError::later(Code::RateLimited, message, seconds(rate.reset)).into_response()
        }
        _ => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
    };
    if let Some(rate) = rate {
        tell(&mut response, rate);
    }
    // For the log.
    response.extensions_mut().insert(tenant);
    response
}

/// How many requests of a class a tenant may make in a minute.
fn limit_of(app: &App, class: RateClass) -> u64 {
    let settings = &app.services.settings;
    match class {
        RateClass::Queries => settings.rate_queries(),
        RateClass::BulkCreate => settings.rate_bulk_create(),
        RateClass::Bulk => settings.rate_bulk(),
        RateClass::Jobs => settings.rate_jobs(),
    }
}

/// In seconds, and at least one.
fn seconds(time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    millis.div_ceil(1000).max(1)
}

fn tell(response: &mut Response, rate: Rate) {
    let numbers = [
        (LIMIT, rate.limit),
        (REMAINING, rate.remaining),
        (RESET, seconds(rate.reset)),
    ];
    for (name, number) in numbers {
        response.headers_mut().insert(name, HeaderValue::from(number));
    }
}

fn address(request: &Request) -> IpAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip())
}

async fn caller(app: &App, headers: &HeaderMap, address: IpAddr) -> ApiResult<Caller> {
    let named = headers.get(TENANT_HEADER).map(HeaderValue::as_bytes);
    if !app.tenancy.exists(app).await? {
        let tenant = TenantId::instance();
        return match named {
            Some(name) if name != tenant.as_str().as_bytes() => {
                let message = "The instance has no tenants: leave the header X-Tenant-ID out";
                Err(ApiError::new(Code::Forbidden, message))
            }
            _ => Ok(Caller { tenant, key: None }),
        };
    }
    let Some(credentials) = headers.get(AUTHORIZATION) else {
        let message = "An API key is needed, as the header Authorization: Bearer <key>";
        return Err(ApiError::unauthorized(message));
    };
    let key = match bearer(credentials) {
        Some(text) => app.services.tenants.authenticate(text).await?,
        None => None,
    };
    let Some(key) = key else {
        let limited = app.services.settings.rate_limits();
        let rate = limited.then(|| app.rates.take_unknown(address));
        return Err(match rate {
            Some(rate) if !rate.allowed => {
                let message = "There were too many requests with API keys that are not good";
                ApiError::later(Code::RateLimited, message, seconds(rate.reset))
            }
            _ => ApiError::unauthorized("The API key is not good"),
        });
    };
    if named.is_some_and(|name| name != key.tenant.as_str().as_bytes()) {
        let message = "The API key is not one of the tenant in the header X-Tenant-ID";
        return Err(ApiError::new(Code::Forbidden, message));
    }
    Ok(Caller {
        tenant: key.tenant.clone(),
        key: Some(Arc::new(key)),
    })
}

/// The text of a key in a header.
fn bearer(credentials: &HeaderValue) -> Option<&str> {
    let (scheme, key) = credentials.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
