//! The OpenAPI document, made from the code.
//!
//! What handlers and wire types say of themselves comes from their attributes. What is the same for all (who may ask,
//! how often, what errors look like) and what depends on the instance's properties is added here.

use dormouse_core::config::InstanceSettings;
use serde_json::{Map, Value, json};
use utoipa::{
    OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{error::Code, routes, wire::service::ErrorBody};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dormouse",
        description = "SQL over tables: answered at once, or written as files by bulk jobs.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ErrorBody)),
    security((), ("bearer" = [])),
    tags(
        (name = "Queries", description = "SQL that is answered at once."),
        (name = "Bulk jobs", description = "Queries whose rows are written as files."),
        (name = "Jobs", description = "Jobs of every kind, in one shape."),
        (name = "Service", description = "The service itself."),
    ),
)]
struct Base;

/// Schemas of requests, in which nothing else may be.
const REQUESTS: [&str; 6] = [
    "QueryBody",
    "QueryParameters",
    "CreateBody",
    "CsvBody",
    "ParquetBody",
    "PatchBody",
];

/// The document of an instance with these properties.
pub fn of(settings: &InstanceSettings) -> Value {
    let mut base = Base::openapi();
    if let Some(components) = &mut base.components {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key. An instance without tenants needs none."))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
    let document = routes::document(base);
    let mut document = serde_json::to_value(&document).unwrap_or_default();
    for name in REQUESTS {
        at(&mut document, &["components", "schemas", name])
            .insert("additionalProperties".to_owned(), json!(false));
    }
    bound(&mut document, settings);
    shape(&mut document);
    each_operation(&mut document);
    let codes: Vec<_> = Code::ALL
        .iter()
        .map(|code| json!({"code": code.as_str(), "status": code.status().as_u16(), "title": code.title()}))
        .collect();
    at(&mut document, &[]).insert("x-error-codes".to_owned(), json!(codes));
    at(
        &mut document,
        &["components", "schemas", "ErrorPart", "properties", "code"],
    )
    .insert("enum".to_owned(), json!(Code::ALL.map(Code::as_str)));
    document
}

/// The object at a place, which is made when it is not there.
fn at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let inner = path.iter().fold(value, |value, part| &mut value[*part]);
    if !inner.is_object() {
        *inner = json!({});
    }
    inner
        .as_object_mut()
        .unwrap_or_else(|| unreachable!("it was just made an object"))
}

/// The property of a schema.
fn property<'a>(document: &'a mut Value, schema: &str, name: &str) -> &'a mut Map<String, Value> {
    at(document, &["components", "schemas", schema, "properties", name])
}

/// Writes limits that are properties of the instance.
fn bound(document: &mut Value, settings: &InstanceSettings) {
    let most = [
        ("QueryParameters", "limit", settings.result_rows()),
        (
            "QueryParameters",
            "timeout_seconds",
            settings.query_max_timeout().as_secs(),
        ),
        (
            "CreateBody",
            "timeout_seconds",
            settings.bulk_job_timeout().as_secs(),
        ),
    ];
    for (schema, name, most) in most {
        let property = property(document, schema, name);
        property.insert("maximum".to_owned(), json!(most.max(1)));
        property.remove("format");
    }
}

/// Writes what attributes cannot say of bodies.
fn shape(document: &mut Value) {
    let params = json!({
        "type": ["object", "null"],
        "maxProperties": crate::wire::query::MAX_PARAMS,
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"},
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    });
    let as_of = json!({
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999_u64},
            {"type": "string", "format": "date-time"},
            {"type": "null"},
        ],
    });
    for schema in ["QueryBody", "CreateBody"] {
        for (name, shape) in [("params", &params), ("as_of", &as_of)] {
            let property = property(document, schema, name);
            let description = property.remove("description");
            *property = shape.as_object().cloned().unwrap_or_default();
            property.extend(description.map(|text| ("description".to_owned(), text)));
        }
        let metadata = property(document, schema, "metadata");
        metadata.insert("type".to_owned(), json!(["object", "null"]));
    }
    let columns = property(document, "ParquetBody", "partition_by");
    columns.insert("uniqueItems".to_owned(), json!(true));
    columns.insert("items".to_owned(), json!({"type": "string", "minLength": 1}));
    // Which options go with which format.
    let text = json!({"enum": ["NONE", "GZIP", "ZSTD", null]});
    let none = json!({"type": "null"});
    let formats = json!([
        {"properties": {
            "content_type": {"enum": ["CSV", null]}, "compression": text, "parquet": none,
        }},
        {"properties": {
            "content_type": {"enum": ["JSON", "NDJSON"]}, "compression": text, "csv": none, "parquet": none,
        }, "required": ["content_type"]},
        {"properties": {
            "content_type": {"enum": ["PARQUET"]}, "compression": {"enum": ["NONE", "SNAPPY", "ZSTD", null]},
            "csv": none,
        }, "required": ["content_type"]},
    ]);
    at(document, &["components", "schemas", "CreateBody"]).insert("anyOf".to_owned(), formats);
}

fn error(description: &str) -> Value {
    let schema = json!({"$ref": "#/components/schemas/ErrorBody"});
    json!({
        "description": description,
        "content": {
            "application/json": {"schema": schema},
            "application/problem+json": {"schema": schema},
        },
    })
}

fn header(description: &str) -> Value {
    json!({"description": description, "schema": {"type": "integer"}})
}

/// What an operation may be answered whoever asks for what.
fn common(has_body: bool, is_open: bool) -> Vec<(&'static str, Value)> {
    let mut common = vec![("500", error("The server has failed."))];
    if !is_open {
        let mut unauthorized = error("An API key is needed, or the one that was sent is not good.");
        unauthorized["headers"] = json!({"WWW-Authenticate": {"schema": {"type": "string"}}});
        let mut limited = error("There are too many requests or jobs.");
        limited["headers"] = json!({"Retry-After": header("When to try again, in seconds.")});
        let mut unavailable = error("The service cannot answer now.");
        unavailable["headers"] = json!({"Retry-After": header("When to try again, in seconds.")});
        common.extend([
            ("401", unauthorized),
            (
                "403",
                error("The API key may not be used for this, or is another tenant's."),
            ),
            ("429", limited),
            ("503", unavailable),
        ]);
    }
    if has_body {
        common.extend([
            ("413", error("The body is too large.")),
            ("415", error("The body is not JSON.")),
        ]);
    }
    common
}

/// Writes what is the same for all operations.
fn each_operation(document: &mut Value) {
    let parameters = json!({
        "TenantId": {
            "name": "X-Tenant-ID", "in": "header", "required": false,
            "description": "The tenant of the API key; nothing else may be here.",
            "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,39}$"},
        },
        "IdempotencyKey": {
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A request with the same key is answered as the first one was. May be X-Idempotency-Key or \
                            a field of the body too.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        },
    });
    at(document, &["components"]).insert("parameters".to_owned(), parameters);
    let Some(paths) = document["paths"].as_object_mut() else {
        return;
    };
    for (path, operations) in paths {
        let is_open = ["/health", "/ready"].contains(&path.as_str());
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            let has_body = operation.get("requestBody").is_some();
            if is_open {
                operation["security"] = json!([]);
            }
            refine_parameters(path, method, operation, is_open);
            let responses = at(operation, &["responses"]);
            for (status, response) in responses.iter_mut() {
                if status.as_str() >= "400" && response.get("content").is_none() {
                    let description = response["description"].as_str().unwrap_or_default();
                    *response = error(description);
                }
            }
            for (status, response) in common(has_body, is_open) {
                responses.entry(status).or_insert(response);
            }
            if path.ends_with("/content") {
                for status in ["200", "206"] {
                    at(&mut responses[status], &["content"]).extend(contents());
                }
            }
            link(method, path, responses);
        }
    }
}

/// What a file may be.
fn contents() -> Map<String, Value> {
    let types = [
        "text/csv",
        "application/json",
        "application/x-ndjson",
        "application/vnd.apache.parquet",
        "application/gzip",
        "application/zstd",
    ];
    types
        .into_iter()
        .map(|name| (name.to_owned(), json!({})))
        .collect()
}

fn refine_parameters(path: &str, method: &str, operation: &mut Value, is_open: bool) {
    if !operation["parameters"].is_array() {
        operation["parameters"] = json!([]);
    }
    let Some(parameters) = operation["parameters"].as_array_mut() else {
        return;
    };
    for parameter in parameters.iter_mut() {
        let schema = match parameter["name"].as_str().unwrap_or_default() {
            "job_id" => json!({
                "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
            }),
            "state" => {
                json!({"type": "string", "enum": dormouse_core::bulk::BulkState::ALL.map(|state| state.as_str())})
            }
            "status" => {
                json!({"type": "string", "enum": ["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]})
            }
            "operation" => json!({"type": "string", "enum": ["query"]}),
            "created_after" => json!({"type": "string", "format": "date-time"}),
            "limit" => json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 25}),
            "wait" => json!({"type": "string", "pattern": "^([0-9]|[1-5][0-9]|60)s?$"}),
            "expires_in" => json!({"type": "integer", "minimum": 1, "maximum": 604_800}),
            "single_use" => json!({"type": "boolean"}),
            _ => json!({"type": "string"}),
        };
        parameter["schema"] = schema;
    }
    if is_open {
        if parameters.is_empty() {
            at(operation, &[]).remove("parameters");
        }
        return;
    }
    parameters.push(json!({"$ref": "#/components/parameters/TenantId"}));
    if method == "post" && (path.ends_with("/queries") || path.ends_with("/bulk/jobs")) {
        parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKey"}));
    }
}

/// Tells what can be done with a job that was made.
fn link(method: &str, path: &str, responses: &mut Map<String, Value>) {
    if method != "post" || !path.ends_with("/bulk/jobs") {
        return;
    }
    let id = json!({"job_id": "$response.body#/job_id"});
    let operations = [
        "getBulkJob",
        "changeBulkJob",
        "deleteBulkJob",
        "getBulkResults",
        "getBulkResultsContent",
        "getJob",
        "getJobResults",
        "cancelJob",
    ];
    let links: Map<String, Value> = operations
        .into_iter()
        .map(|operation| {
            let link = json!({"operationId": operation, "parameters": id});
            (operation.to_owned(), link)
        })
        .collect();
    if let Some(created) = responses.get_mut("201") {
        created["links"] = Value::Object(links);
    }
}
