//! The adapters against emulators: MiniStack for S3, SQS and ECS, dynoxide for DynamoDB. Each test has its own.

mod emulators;
mod item_store;
mod links;
mod objects;
mod ports;
mod proxy;
mod queue;
mod setup;
mod tasks;
