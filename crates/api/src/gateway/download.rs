//! The bytes of an object on their way to a client.

use std::{ops::Range, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use dormouse_core::{Error, Result, time::Timestamp};
use futures::{StreamExt, stream::BoxStream};

use super::object::Once;

/// How often a link for one use is told that it is still in use.
const TOUCH_PERIOD: Duration = Duration::from_secs(60);

/// What is to be noted of a download over a link for one use.
pub(super) struct Receipt {
    pub(super) once: Once,
    /// The bytes that are downloaded.
    pub(super) range: Range<u64>,
    /// The size of the whole object.
    pub(super) size: u64,
}

impl Receipt {
    /// Notes that all bytes are handed out.
    pub(super) async fn note(&self) -> Result<()> {
        let Once { link, expires, .. } = &self.once;
        let served = self
            .once
            .links
            .served(link, *expires, self.range.clone(), self.size);
        served.await
    }

    /// Notes that the link is in use, when that was not noted since `touched`. Tells when it was noted last.
    async fn touch(&self, touched: Timestamp) -> Result<Timestamp> {
        let now = self.now();
        if now.since(touched) < TOUCH_PERIOD {
            return Ok(touched);
        }
        self.once.links.touch(&self.once.link, self.once.expires).await?;
        Ok(now)
    }

    fn now(&self) -> Timestamp {
        self.once.clock.now()
    }
}

type Chunks = BoxStream<'static, object_store::Result<Bytes>>;

struct Download {
    chunks: Chunks,
    /// How many bytes are still to come.
    left: u64,
    /// Bytes that came and wait until the receipt is noted.
    held: Bytes,
    receipt: Option<Receipt>,
    touched: Timestamp,
}

/// A body of `bytes` bytes that are as the store sends them, and no more at a time.
///
/// The last byte goes when the receipt is noted: a client that has all bytes has used them, and one that was cut off
/// before may read them again.
pub(super) fn body(chunks: Chunks, bytes: u64, receipt: Option<Receipt>) -> Body {
    let touched = receipt.as_ref().map(Receipt::now).unwrap_or_default();
    let download = Download {
        chunks,
        left: bytes,
        held: Bytes::new(),
        receipt,
        touched,
    };
    let chunks = futures::stream::try_unfold(download, |mut download| async move {
        let chunk = download.next().await.inspect_err(|error| {
            tracing::warn!(error = error.report(), "download cut off");
        })?;
        Ok::<_, Error>(chunk.map(|chunk| (chunk, download)))
    });
    Body::from_stream(chunks)
}

impl Download {
    /// The next bytes, if there are more.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut chunk = std::mem::take(&mut self.held);
        while chunk.is_empty() {
            chunk = match self.chunks.next().await {
                Some(chunk) => chunk?,
                None => return Err(Error::corrupt("an object ended before its size")),
            };
        }
        if chunk.len() as u64 > self.left {
            return Err(Error::corrupt("an object is longer than its size"));
        }
        if let Some(receipt) = &self.receipt {
            let is_last = chunk.len() as u64 == self.left;
            match chunk.len() {
                1 if is_last => receipt.note().await?,
                length if is_last => self.held = chunk.split_off(length - 1),
                _ => self.touched = receipt.touch(self.touched).await?,
            }
        }
        self.left -= chunk.len() as u64;
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dormouse_core::{
        ErrorKind,
        ports::Clock,
        testing::{
            memory::MemoryItemStore,
            seeded::{PausedClock, SeededIds},
        },
    };
    use futures::TryStreamExt;
    use http_body_util::BodyExt;

    use super::*;
    use crate::links::{LinkState, Links};

    const EXPIRES: Timestamp = Timestamp::from_millis(100_000_000);

    fn world() -> (Arc<PausedClock>, Arc<Links>) {
        let clock = Arc::new(PausedClock::new(Timestamp::default()));
        let items = Arc::new(MemoryItemStore::new(clock.clone()));
        let links = Links::new(items, clock.clone(), Arc::new(SeededIds::new(1)));
        (clock, Arc::new(links))
    }

    fn receipt(clock: &Arc<PausedClock>, links: &Arc<Links>, size: u64) -> Receipt {
        Receipt {
            once: Once {
                links: links.clone(),
                clock: clock.clone(),
                link: "l".to_owned(),
                expires: EXPIRES,
            },
            range: 0..size,
            size,
        }
    }

    fn chunks(texts: &'static [&'static str]) -> Chunks {
        futures::stream::iter(texts.iter().map(|text| Ok(Bytes::from_static(text.as_bytes())))).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_in_use_as_long_as_its_download() {
        let (clock, links) = world();
        links.begin("l", EXPIRES).await.unwrap();
        let mut body = body(
            chunks(&["ab", "", "c", "d", "e", "f", "gh"]),
            8,
            Some(receipt(&clock, &links, 8)),
        )
        .into_data_stream();
        let mut read = Vec::new();
        while let Some(chunk) = body.try_next().await.unwrap() {
            read.extend(chunk);
            clock.sleep(Duration::from_secs(300)).await;
            let state = match read.len() {
                8 => LinkState::Gone,
                _ => LinkState::Good,
            };
            assert_eq!(
                links.look("l").await.unwrap(),
                state,
                "after {} bytes",
                read.len()
            );
        }
        assert_eq!(read, b"abcdefgh");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_of_another_size_is_cut_off() {
        let (clock, links) = world();
        for (texts, bytes) in [(&["abc", "d"], 5), (&["abc", "de"], 4)] {
            let receipt = receipt(&clock, &links, bytes);
            let failed = body(chunks(texts), bytes, Some(receipt)).collect().await;
            assert!(failed.is_err(), "{bytes}");
        }
        assert_eq!(links.look("l").await.unwrap(), LinkState::Good);
        let mut download = Download {
            chunks: chunks(&["abc"]),
            left: 4,
            held: Bytes::new(),
            receipt: None,
            touched: Timestamp::default(),
        };
        assert_eq!(download.next().await.unwrap().unwrap(), "abc");
        assert_eq!(download.next().await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
