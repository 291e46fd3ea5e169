//! What goes over the wire: bodies of requests and answers.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`words`] | words, numbers and times, as they are read and written |
//! | [`query`] | queries, and what they are answered |
//! | [`create`] | bulk jobs to make or change |
//! | [`job`] | bulk jobs as they are shown |
//! | [`results`] | what jobs have written |
//! | [`any_job`] | jobs of every kind, in one shape |
//! | [`service`] | limits, health, errors |

pub mod any_job;
pub mod create;
pub mod job;
pub mod query;
pub mod results;
pub mod service;
pub mod words;
