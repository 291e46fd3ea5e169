//! Dormouse over HTTP: queries that are answered at once, and bulk jobs whose rows are written as files.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`app`] | the API, what its handlers share, and its routes together |
//! | [`routes`] | the handlers |
//! | [`wire`] | bodies of requests and answers |
//! | [`access`] | who asks, and how often it may |
//! | [`body`] | reading requests strictly |
//! | [`error`] | one shape for every error |
//! | [`cursor`] | places in lists |
//! | [`document`] | the OpenAPI document |
//! | [`gateway`], [`links`] | links to objects, and following them |
//! | [`idempotency`] | requests that are sent again |
//! | [`rates`] | counting requests |
//! | [`observe`] | request ids, logs and metrics |
//! | [`server`] | connections |
//! | [`turns`] | how many queries are answered at a time |
//! | [`secret`] | what links and cursors are signed with |
//!
//! Everything that lasts is with the ports: a process that serves the API can be killed, and others go on. No task is
//! spawned for a request: a client that goes away stops what was done for it. Neither SQL nor its parameters, keys or
//! signed links are logged.

#![warn(missing_docs)]

pub mod access;
pub mod app;
pub mod body;
pub mod cursor;
pub mod document;
pub mod error;
pub mod gateway;
pub mod idempotency;
pub mod links;
pub mod observe;
pub mod rates;
pub mod routes;
pub mod secret;
pub mod server;
pub mod turns;
pub mod wire;

pub use app::Api;
