//! The ports on AWS.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`clients`] | the services' clients, and where credentials, region and endpoints come from |
//! | [`names`] | what the parts of an instance are called |
//! | [`instance`] | finding an instance, and opening its adapters |
//! | [`permissions`] | what each kind of process may do |
//! | [`setup`] | making an instance's parts, and checking them |
//! | [`item_store`] | items in DynamoDB |
//! | [`queue`] | queues on SQS |
//! | [`objects`], [`copy`], [`signer`] | buckets, copies and links of S3 |
//! | [`tasks`] | worker processes on ECS |
//! | `error` | what the services' errors mean to a caller |

#![warn(missing_docs)]

pub mod clients;
pub mod copy;
mod error;
pub mod instance;
pub mod item_store;
pub mod names;
pub mod objects;
pub mod permissions;
pub mod queue;
pub mod setup;
pub mod signer;
pub mod tasks;

pub use clients::Clients;
pub use instance::{AwsInstance, Location};
pub use names::{BucketPart, Names};
