//! `/queries`: SQL that is answered at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use dormouse_core::{
    Error, ErrorKind,
    ports::{ParameterValue, QueryLimits, QueryRefusal, QuerySpec, QueryTables, RowFormat, Truncated},
    tenants::Scope,
    time::Timestamp,
};
use dormouse_jobs::{
    audit::Audit,
    query::{AllTables, SeenTables},
};
use serde_json::{Map, Value, json};

use super::again::Repeatable;
use crate::{
    access::Caller,
    app::App,
    body::{JsonBody, Parameters},
    error::{ApiError, ApiResult, Code},
    observe::CLIENT_WENT,
    wire::query::{
        ColumnView, QueryAnswer, QueryBody, QueryMetadata, QueryParameters, as_of, check_metadata, check_sql,
        parameters,
    },
};

/// Answers a query.
///
/// The answer has at most as many rows and bytes as the service gives at once. When there are more, `truncated` is
/// true, and `metadata.bulk_request` is a body for `POST /v1/bulk` that writes all of them.
#[utoipa::path(
    post,
    path = "/queries",
    operation_id = "runQuery",
    tag = "Queries",
    request_body = QueryBody,
    responses(
        (status = 200, description = "The rows.", body = QueryAnswer),
        (status = 400, description = "The request is not valid, or the query cannot be answered."),
        (status = 409, description = "A request with the same idempotency key is being answered."),
        (status = 422, description = "The idempotency key was used with another body."),
        (status = 504, description = "The query took too long."),
    ),
)]
pub async fn run(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> ApiResult {
    caller.require(Scope::QueryExecute)?;
    let (parts, body) = request.into_parts();
    Parameters::none(&parts.uri)?;
    let limit = app.services.settings.api_body_bytes();
    let body = JsonBody::read(&parts.headers, body, limit).await?;
    let repeatable = Repeatable {
        route: "POST /queries",
        path: parts.uri.path(),
        headers: &parts.headers,
    };
    let answer = async |body: JsonBody, _| Asked::new(&app, body.parse()?)?.answer(&app, &caller).await;
    repeatable.answer(&app, &caller, body, answer).await
}

/// A query that was read.
struct Asked {
    sql: String,
    parameters: BTreeMap<String, ParameterValue>,
    as_of: Option<String>,
    metadata: Option<Map<String, Value>>,
    params: Option<BTreeMap<String, Value>>,
    rows: u64,
    timeout: Duration,
    counts: bool,
}

/// A query that the audit is told of when it is dropped.
struct Audited<'a> {
    app: &'a App,
    caller: &'a Caller,
    sql: &'a str,
    job: String,
    started: Timestamp,
    /// The status of the answer, and its rows.
    end: (u16, Option<u64>),
}

impl Drop for Audited<'_> {
    fn drop(&mut self) {
        let (status, rows) = self.end;
        Audit {
            tenant: &self.caller.tenant,
            job: &self.job,
            sql: self.sql,
            status: &status.to_string(),
            took: self.app.now().since(self.started),
            rows,
        }
        .log(self.app.services.ports.queries.as_ref());
    }
}

/// Rows as they are spliced into an answer.
struct Spliced {
    data: Vec<u8>,
    rows: u64,
    columns: Vec<ColumnView>,
    truncated: Option<Truncated>,
}

impl Asked {
    fn new(app: &App, body: QueryBody) -> ApiResult<Self> {
        let settings = &app.services.settings;
        check_sql("sql", &body.sql)?;
        check_metadata(&body.metadata.clone().unwrap_or_default())?;
        let QueryParameters {
            limit,
            timeout_seconds,
            count_total,
        } = body.parameters.unwrap_or_default();
        let within = |field: &str, number: Option<u64>, most: u64| match number {
            Some(number) if !(1..=most).contains(&number) => {
                let message = format!("parameters.{field} must be from 1 to {most}");
                Err(ApiError::invalid(&format!("parameters.{field}"), message))
            }
            number => Ok(number),
        };
        let limit = within("limit", limit, settings.result_rows().max(1))?;
        let longest = settings.query_max_timeout();
        let timeout = within("timeout_seconds", timeout_seconds, longest.as_secs().max(1))?;
        as_of(body.as_of.as_deref())?;
        Ok(Self {
            parameters: parameters(body.params.as_ref().unwrap_or(&BTreeMap::new()))?,
            sql: body.sql,
            as_of: body.as_of,
            metadata: body.metadata,
            params: body.params,
            rows: limit.unwrap_or(u64::MAX).min(settings.result_rows()),
            timeout: timeout
                .map_or(settings.query_timeout(), Duration::from_secs)
                .min(longest),
            counts: count_total.unwrap_or(false),
        })
    }

    /// The answer, with a line in the audit however the query ends.
    async fn answer(&self, app: &App, caller: &Caller) -> ApiResult {
        let mut audited = Audited {
            app,
            caller,
            sql: &self.sql,
            job: format!("query-{}", app.services.ports.ids.uuid()),
            started: app.now(),
            end: (CLIENT_WENT, None),
        };
        let answered = self.answer_once(app, caller, &mut audited).await;
        audited.end.0 = match &answered {
            Ok(response) => response.status().as_u16(),
            Err(error) => error.code().status().as_u16(),
        };
        answered
    }

    async fn answer_once(&self, app: &App, caller: &Caller, audited: &mut Audited<'_>) -> ApiResult {
        let clock = &app.services.ports.clock;
        let started = app.now();
        let turn = tokio::select! {
            biased;
            turn = app.turns.take(&caller.tenant, caller.is_alone()) => Some(turn),
            () = clock.sleep(self.timeout) => None,
        };
        let Some(_turn) = turn else {
            let message = "As many queries run as may; try again in a moment";
            return Err(ApiError::later(Code::Unavailable, message, 1));
        };
        let running = app.metrics.query("sync");
        let left = self.timeout.saturating_sub(app.now().since(started));
        // Dropping the query, as happens when the client goes away, stops it.
        let (rows, total) = tokio::select! {
            biased;
            answered = self.rows(app, caller) => answered?,
            () = clock.sleep(left) => return Err(self.late()),
        };
        let took = app.now().since(started);
        running.ended(rows.rows, took);
        audited.end.1 = Some(rows.rows);
        self.response(app, &audited.job, rows, total, took)
    }

    fn late(&self) -> ApiError {
        let seconds = self.timeout.as_secs_f64();
        let message = format!(
            "The query took longer than {seconds} s. The Bulk API runs queries for hours: send details.bulk_request \
             to POST /v1/bulk"
        );
        ApiError::new(Code::QueryTimeout, message).detail("bulk_request", self.bulk_request())
    }

    async fn rows(&self, app: &App, caller: &Caller) -> ApiResult<(Spliced, Option<u64>)> {
        let as_of = as_of(self.as_of.as_deref())?;
        let reader = app.services.reader(&caller.tenant).await?;
        // They stay as they are first seen, however many queries the answer takes.
        let tables = AllTables::of_tenant(app.services.clone(), reader, as_of);
        let tables: Arc<dyn QueryTables> = Arc::new(SeenTables::new(tables));
        let limits = QueryLimits {
            rows: Some(self.rows),
            bytes: Some(app.services.settings.result_bytes()),
            ..app.services.settings.query_limits()
        };
        let rows = self.splice(app, &tables, self.sql.clone(), limits).await?;
        let total = match rows.truncated {
            None => Some(rows.rows),
            Some(_) if self.counts => self.count(app, &tables).await?,
            Some(_) => None,
        };
        Ok((rows, total))
    }

    /// How many rows there are; none when the query is not one whose rows can be counted.
    async fn count(&self, app: &App, tables: &Arc<dyn QueryTables>) -> ApiResult<Option<u64>> {
        let sql = self.sql.trim_end().trim_end_matches(';');
        let sql = format!("SELECT count(*) AS n FROM (\n{sql}\n) AS counted");
        let limits = app.services.settings.query_limits();
        let limits = QueryLimits {
            rows: Some(1),
            // The query itself is one more.
            subqueries: limits.subqueries + 1,
            ..limits
        };
        let counted = self.splice(app, tables, sql, limits).await;
        let counted = match counted {
            Err(error) if error.code().status().is_client_error() => return Ok(None),
            counted => counted?,
        };
        let row: Option<Value> = serde_json::from_slice(&counted.data).ok();
        Ok(row.and_then(|row| row.get("n")?.as_u64()))
    }

    /// Asks a query, and joins its rows by commas.
    async fn splice(
        &self,
        app: &App,
        tables: &Arc<dyn QueryTables>,
        sql: String,
        limits: QueryLimits,
    ) -> ApiResult<Spliced> {
        let spec = QuerySpec {
            sql,
            parameters: self.parameters.clone(),
            tables: tables.clone(),
            limits,
        };
        let queries = &app.services.ports.queries;
        let mut answer = queries.query(spec, RowFormat::JsonLines).await.map_err(refused)?;
        let mut data = Vec::new();
        let mut count = 0;
        while let Some(piece) = answer.next().await.map_err(failed)? {
            count += piece.rows;
            // Line ends in values are escaped: these are the ends of rows.
            data.extend(
                piece
                    .bytes
                    .iter()
                    .map(|byte| if *byte == b'\n' { b',' } else { *byte }),
            );
        }
        if data.last() == Some(&b',') {
            data.pop();
        }
        Ok(Spliced {
            data,
            rows: count,
            columns: answer.columns().iter().map(ColumnView::from).collect(),
            truncated: answer.truncated(),
        })
    }

    /// A body for `POST /v1/bulk` that writes all rows.
    fn bulk_request(&self) -> Value {
        let mut body = json!({
            "operation": "query",
            "query": self.sql,
            "content_type": "CSV",
            "compression": "GZIP",
        });
        let more = [
            ("params", self.params.as_ref().map(|params| json!(params))),
            ("as_of", self.as_of.as_ref().map(|as_of| json!(as_of))),
            ("metadata", self.metadata.as_ref().map(|metadata| json!(metadata))),
        ];
        for (name, value) in more {
            if let (Some(value), Some(body)) = (value, body.as_object_mut()) {
                body.insert(name.to_owned(), value);
            }
        }
        body
    }

    fn response(&self, app: &App, job: &str, rows: Spliced, total: Option<u64>, took: Duration) -> ApiResult {
        let message = rows.truncated.map(|truncated| {
            let more = match truncated {
                Truncated::Rows => format!("The result has more than {} rows", self.rows),
                Truncated::Bytes => format!(
                    "The result has more than {} bytes",
                    app.services.settings.result_bytes()
                ),
            };
            format!(
                "{more}; these are the first {}. For all of them use the Bulk API: send metadata.bulk_request to \
                 POST /v1/bulk",
                rows.rows
            )
        });
        let answer = QueryAnswer {
            job_id: job.to_owned(),
            status: "COMPLETED".to_owned(),
            data: Vec::new(),
            truncated: rows.truncated.is_some(),
            message: message.clone(),
            metadata: QueryMetadata {
                columns: rows.columns.iter().map(|column| column.name.clone()).collect(),
                column_types: rows
                    .columns
                    .iter()
                    .map(|column| column.type_name.clone())
                    .collect(),
                schema: rows.columns,
                row_count: rows.rows,
                total_rows: total,
                truncated: rows.truncated.is_some(),
                execution_time_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                message,
                bulk_request: rows.truncated.map(|_| self.bulk_request()),
            },
        };
        let unwritable = |_| ApiError::new(Code::InternalError, "The server has failed");
        let text = serde_json::to_string(&answer).map_err(unwritable)?;
        // The rows go where the answer has none.
        let (before, after) = text.split_once("[]").unwrap_or((&text, ""));
        let mut body = Vec::with_capacity(text.len() + rows.data.len());
        body.extend_from_slice(before.as_bytes());
        body.push(b'[');
        body.extend_from_slice(&rows.data);
        body.push(b']');
        body.extend_from_slice(after.as_bytes());
        let mut response = Response::new(body.into());
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Ok(response)
    }
}

/// Why a query cannot be begun.
fn refused(error: Error) -> ApiError {
    match (error.kind(), QueryRefusal::of(&error)) {
        (ErrorKind::Invalid, Some(QueryRefusal::NotAQuery(_))) => {
            ApiError::new(Code::SqlBlocked, error.to_string())
        }
        (ErrorKind::Invalid, None) => ApiError::new(Code::InvalidSql, error.to_string()),
        _ => failed(error),
    }
}

/// Why a query has no more rows.
fn failed(error: Error) -> ApiError {
    match error.kind() {
        // The state that was asked for, or a table, is not there.
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::AlreadyExists => {
            ApiError::new(Code::QueryFailed, error.to_string())
        }
        _ => error.into(),
    }
}
