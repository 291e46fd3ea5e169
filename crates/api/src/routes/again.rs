//! Answering a request that is sent again as before.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, LOCATION},
    },
    response::{IntoResponse, Response},
};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    access::Caller,
    app::App,
    body::JsonBody,
    error::{ApiError, ApiResult, Code},
    idempotency::{Begun, IdempotencyKeys, StoredAnswer, Ticket},
};

const KEY_HEADERS: [&str; 2] = ["idempotency-key", "x-idempotency-key"];
const KEY_FIELD: &str = "idempotency_key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A request that may be sent again.
#[derive(Debug)]
pub struct Repeatable<'a> {
    /// What it is sent to.
    pub route: &'static str,
    /// The path in its address.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// What stays the same however often a request is sent: none when it has no key.
pub type Seed = Option<Uuid>;

impl Repeatable<'_> {
    /// Answers the request, or answers it as before when it has the key of one that was answered.
    ///
    /// # Errors
    /// `CONFLICT` while it is being answered, `IDEMPOTENCY_MISMATCH` when the key was used with another body.
    pub async fn answer<Answer>(
        &self,
        app: &App,
        caller: &Caller,
        body: JsonBody,
        answer: impl FnOnce(JsonBody, Seed) -> Answer,
    ) -> ApiResult
    where
        Answer: Future<Output = ApiResult>,
    {
        let Some(key) = key(self.headers, &body)? else {
            return answer(body, None).await;
        };
        let digest = body.sha256();
        let keys = &app.idempotency;
        let ticket = keys
            .ticket(&caller.tenant, self.route, &key, &digest)
            .map_err(|error| ApiError::invalid(KEY_FIELD, error.to_string()))?;
        let mut held = Held {
            keys: keys.clone(),
            ticket: Some(ticket.clone()),
        };
        let begun = keys.begin(&ticket).await?;
        if !matches!(begun, Begun::First) {
            held.ticket = None;
        }
        match begun {
            Begun::First => {}
            Begun::Answered(stored) => return replay(stored),
            Begun::InFlight => {
                let message = "The first request with this idempotency key is being answered";
                let error = ApiError::later(Code::Conflict, message, 1);
                return Err(error.detail("reason", "in_flight"));
            }
            Begun::OtherBody => {
                let message = "The idempotency key was used for a request with another body";
                return Err(ApiError::new(Code::IdempotencyMismatch, message));
            }
        }
        let text = format!("{}|{}|{key}|{digest}", caller.tenant, self.route);
        let seed = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes());
        let answered = answer(body, Some(seed)).await;
        let response = self.keep(app, &ticket, answered).await;
        held.ticket = None;
        response
    }

    /// Keeps an answer for the next time. Answers that tell to come again are not kept.
    async fn keep(&self, app: &App, ticket: &Ticket, answered: ApiResult) -> ApiResult {
        let (kept, response) = match answered {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let bytes = axum::body::to_bytes(body, usize::MAX).await;
                let bytes = bytes.map_err(|_| ApiError::new(Code::InternalError, "The server has failed"))?;
                let kept = stored(parts.status, &parts.headers, bytes.clone());
                (kept, Ok(Response::from_parts(parts, Body::from(bytes))))
            }
            Err(error) => {
                let (parts, body) = error.response(self.path, false).into_parts();
                let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
                (stored(parts.status, &parts.headers, bytes), Err(error))
            }
        };
        let comes_again = kept.status >= 500 || kept.status == StatusCode::TOO_MANY_REQUESTS.as_u16();
        let done = match comes_again {
            true => app.idempotency.abandon(ticket).await,
            false => app.idempotency.finish(ticket, kept).await,
        };
        if let Err(error) = done {
            tracing::warn!(
                error = error.report(),
                "an answer is not kept for its idempotency key"
            );
        }
        response
    }
}

/// A ticket that is given back when the client goes away before it is answered: what the request has done by then, it finds
/// by its seed when it comes again.
struct Held {
    keys: IdempotencyKeys,
    ticket: Option<Ticket>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let (Some(ticket), Ok(runtime)) = (self.ticket.take(), Handle::try_current()) else {
            return;
        };
        let keys = self.keys.clone();
        runtime.spawn(async move {
            if let Err(error) = keys.abandon(&ticket).await {
                tracing::warn!(
                    error = error.report(),
                    "an idempotency key is taken until its lease ends"
                );
            }
        });
    }
}

fn stored(status: StatusCode, headers: &HeaderMap, body: bytes::Bytes) -> StoredAnswer {
    let header = |name: HeaderName| {
        let value = headers.get(&name)?.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    StoredAnswer {
        status: status.as_u16(),
        headers: [CONTENT_TYPE, LOCATION].into_iter().filter_map(header).collect(),
        body,
    }
}

fn replay(stored: StoredAnswer) -> ApiResult {
    let damaged = || ApiError::new(Code::InternalError, "The server has failed");
    let mut response = Body::from(stored.body).into_response();
    *response.status_mut() = StatusCode::from_u16(stored.status).map_err(|_| damaged())?;
    for (name, value) in stored.headers {
        let name: HeaderName = name.parse().map_err(|_| damaged())?;
        let value = HeaderValue::from_str(&value).map_err(|_| damaged())?;
        response.headers_mut().insert(name, value);
    }
    response
        .headers_mut()
        .insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// The key of a request, which may be in two headers and the body.
fn key(headers: &HeaderMap, body: &JsonBody) -> ApiResult<Option<String>> {
    let mut keys: Vec<String> = Vec::new();
    for header in KEY_HEADERS {
        for value in headers.get_all(header) {
            let text = value.to_str().map_err(|_| {
                ApiError::invalid(header, "an idempotency key has 1 to 255 visible ASCII characters")
            })?;
            keys.push(text.to_owned());
        }
    }
    keys.extend(body.text(KEY_FIELD).map(str::to_owned));
    keys.dedup();
    match keys.as_slice() {
        [] => Ok(None),
        [key] => Ok(Some(key.clone())),
        _ => Err(ApiError::invalid(
            KEY_FIELD,
            "The request has several idempotency keys",
        )),
    }
}
