//! Writing many items by few calls. A call may do some of them, and the others are asked for again.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use dormouse_core::{Error, Result, ports::Item};

use super::{DynamoItemStore, Failed, attributes::to_attributes};
use crate::error::Effect;

/// The most items that one call writes.
const MAX_ITEMS: usize = 25;

impl DynamoItemStore {
    /// Writes whole items, whatever is there.
    pub(super) async fn write_batches(&self, items: &[Item]) -> Result<()> {
        for some in items.chunks(MAX_ITEMS) {
            self.write_batch(some).await?;
        }
        Ok(())
    }

    async fn write_batch(&self, items: &[Item]) -> Result<()> {
        let mut asked: HashMap<String, Vec<WriteRequest>> = HashMap::new();
        for item in items {
            let put = PutRequest::builder().set_item(Some(to_attributes(item)?)).build();
            let put = put.map_err(|error| Error::internal("a write cannot be built").with_source(error))?;
            let writes = asked.entry(self.table(item.key.collection)).or_default();
            writes.push(WriteRequest::builder().put_request(put).build());
        }
        let mut attempts = self.attempts();
        while !asked.is_empty() {
            let call = self
                .client
                .batch_write_item()
                .set_request_items(Some(asked.clone()));
            match call.send().await {
                Ok(answer) => {
                    asked = answer.unprocessed_items.unwrap_or_default();
                    if !asked.is_empty() {
                        let error = Error::unavailable("some of several items were not written");
                        attempts.next(Failed::Again(error, Effect::None)).await?;
                    }
                }
                Err(error) => attempts.next(Failed::of("writing several items", error)).await?,
            }
        }
        Ok(())
    }
}
